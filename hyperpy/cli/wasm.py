"""wasm convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperpy.cli.app import ConfigFile, Json, StoreDir, out, show
from hyperpy.errors import ConfigError, MessageNotFound


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Prepare WebAssembly images.")
    group.callback()(_group)
    group.command("convert")(convert)
    app.add_typer(group, name="wasm")


def _group() -> None:
    """Prepare WebAssembly images."""


def convert(
    image: Annotated[str, typer.Argument(help="File with an image, or ID of an image in the store.")],
    output: Annotated[Path | None, typer.Option(help="Where to write; default FILE with '.converted.wasm'.")] = None,
    store: StoreDir = None,
    config_file: ConfigFile = None,
    json: Json = False,
) -> None:
    """Rewrite an image that uses WebAssembly's older exception operators. Needs Node.js and npm's binaryen.

    The converted form of an ID is kept in the store; messages go on naming the original. A running node
    converts by itself when it first loads such an image.

    Example: hyperpy wasm convert aos.wasm
    """
    from hyperpy.codecs import wasm_convert

    file = Path(image)
    target = output
    if file.is_file():
        made = wasm_convert.convert(file.read_bytes())
        target = output or file.with_name(file.stem + ".converted.wasm")
    elif len(image) == 43:
        made = _in_store(image, store, config_file)
    else:
        raise ConfigError(
            f"'{image}' is neither a file nor an ID", hint="Give the path of a .wasm file, or 43 characters."
        )
    if target is not None:
        target.write_bytes(made)
    if json:
        show({"converter": wasm_convert.CONVERTER, "bytes": len(made), "file": str(target) if target else None}, True)
        return
    place = f"written to {target}" if target is not None else f"kept in the store for {image}"
    out.print(f"{wasm_convert.CONVERTER}: {len(made)} bytes, {place}", markup=False, highlight=False, soft_wrap=True)


def _in_store(ident: str, store: Path | None, config_file: Path | None) -> bytes:
    """Convert an image of the store, and keep the converted form there."""
    from hyperpy.cache import Cache
    from hyperpy.cli.node import settings
    from hyperpy.codecs import wasm_convert
    from hyperpy.message import Message
    from hyperpy.storage import Storage
    from hyperpy.store.lmdb import LmdbStore

    made = settings(config_file, store, None, [])
    opened = LmdbStore(Path(made.store.dir), durable=made.store.durable, quota=made.store.quota)
    try:
        storage = Storage(Cache(opened), opened)
        found = storage.read(ident)
        body = (found.get("body") or found.get("data")) if isinstance(found, Message) else found
        if not isinstance(body, bytes):
            raise MessageNotFound(f"the message {ident} holds no image in 'body' or 'data'")
        converted = wasm_convert.convert(body)
        kept = storage.write(Message({"body": converted, "converted-from": ident}))
        storage.link(wasm_convert.kept_as(ident), kept)
        return converted
    finally:
        opened.close()
