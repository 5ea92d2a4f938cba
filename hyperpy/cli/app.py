"""The ``hyperpy`` command and what its verbs share."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hyperpy.errors import ConfigError, HyperpyError
from hyperpy.message import Atom, Link, Message, Value

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An AO-Core device host whose every result can be replayed.",
)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Folder of the store.")]
Wallet = Annotated[Path | None, typer.Option("--wallet", help="Wallet file (JWK); made if absent.")]
DeviceFiles = Annotated[list[Path], typer.Option("--device", help="Python file with a device; may be repeated.")]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.001, help="What one step may take; loading a model is apart.")
]
LOADING_S = 600.0
"""Seconds that an audit waits for a language model to be loaded."""
Url = Annotated[str | None, typer.Option("--url", help="Ask the node at this URL.")]


def register_all() -> None:
    """Add every verb, once."""
    from hyperpy.cli import (
        attest,
        audit_peer,
        bench,
        challenge,
        devices,
        infer,
        info,
        models,
        node,
        process,
        receipt,
        replay,
        store,
        wallet,
        wasm,
    )

    if not app.registered_commands:
        parts = (
            node,
            devices,
            wallet,
            info,
            store,
            process,
            replay,
            receipt,
            challenge,
            audit_peer,
            attest,
            models,
            infer,
            wasm,
            bench,
        )
        for part in parts:
            part.register(app)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the operation failed, 2 wrong usage."""
    register_all()
    try:
        app()
    except HyperpyError as error:
        complain(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("stopped")
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


def complain(error: HyperpyError) -> None:
    """Print an error of ours on standard error."""
    err.print(f"error: {error.diagnostics()}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def verdicts() -> Iterator[None]:
    """End a verb that gives verdicts with 2 where it could give none: there, 1 means that something is false."""
    try:
        yield
    except HyperpyError as error:
        complain(error)
        raise typer.Exit(2) from None


def write_whole(file: Path, data: bytes) -> None:
    """Write a file, whole or not at all; what is no plain file, such as a device or a pipe, is written to as it is.

    Raises:
        ConfigError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(data)
            return
        beside.write_bytes(data)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint="Name another file.") from None


def plain(item: Value) -> Any:
    """Return a value as JSON can hold it; bytes that are no text become ``{"$b64": ...}``."""
    import base64

    if isinstance(item, bytes):
        try:
            return item.decode("utf-8")
        except UnicodeDecodeError:
            return {"$b64": base64.b64encode(item).decode()}
    if isinstance(item, Message):
        return {key: plain(member) for key in item for member in (item.raw_items()[key],)}
    if isinstance(item, tuple):
        return [plain(member) for member in item]
    if isinstance(item, Link):
        return {"$link": item.id}
    if isinstance(item, Atom):
        return str(item)
    return item


def show(item: Any, as_json: bool) -> None:
    """Print a value: JSON for programs, or text and indented JSON for people."""
    data = plain(item) if isinstance(item, (bytes, Message, tuple, Atom)) else item
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
    elif isinstance(data, str):
        print(data)
    else:
        print(json.dumps(data, ensure_ascii=False, indent=2))
