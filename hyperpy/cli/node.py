"""serve, get, demo."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperpy import config
from hyperpy.cli.app import ConfigFile, DeviceFiles, Json, StoreDir, Url, Wallet, err, out, show
from hyperpy.errors import ConfigError, HyperpyError


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(serve)
    app.command()(get)
    app.command()(demo)


def settings(
    file: Path | None, store: Path | None, wallet: Path | None, devices: list[Path], **flags: Any
) -> config.Config:
    """Return the settings that a verb's options make."""
    named: dict[str, Any] = {"store.dir": str(store) if store else None, "meta.wallet": str(wallet) if wallet else None}
    if devices:
        named["devices.files"] = [str(path) for path in devices]
    return config.load(file, flags={**named, **flags})


def serve(
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    store: StoreDir = None,
    wallet: Wallet = None,
    config_file: ConfigFile = None,
    device: DeviceFiles = [],  # noqa: B006
    reload: Annotated[bool, typer.Option("--reload", help="Load device files again when they change.")] = False,
    insecure_software_tee: Annotated[
        bool,
        typer.Option(
            "--insecure-software-tee", help="Make and believe evidence that no hardware stands behind. For development."
        ),
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug (steps), info (requests), warning or error.")] = "warning",
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON, one object a line.")] = False,
) -> None:
    """Run a node.

    Example: hyperpy serve --port 8734 --device shout.py --reload
    """
    from hyperpy.cli import logs
    from hyperpy.http.server import Server
    from hyperpy.node import open_node

    if log_level not in logs.LEVELS:
        raise ConfigError(f"there is no log level '{log_level}'", hint=f"Use one of {', '.join(logs.LEVELS)}.")
    logs.configure(log_level, as_json=log_json)
    software = True if insecure_software_tee else None
    named = {"http.port": port, "http.host": host, "tee.software": software}
    made = settings(config_file, store, wallet, device, **named)
    if not Path(made.meta.wallet).exists():
        err.print("making two RSA-4096 keys (first run) ...")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with open_node(made) as node:
        logs.log_steps(node)
        server = Server(node, made.http.host, made.http.port)
        server.start()
        node.timers.resume()
        node.models.warm()
        print(f"hyperpy is ready at {server.url} (address {node.address})", flush=True)
        try:
            _wait(stop, node, [Path(name) for name in made.devices.files] if reload else [])
        finally:
            server.stop()
    sys.stdout.flush()
    os._exit(0)  # everything is closed; a device stuck in C code must not keep the process


def _wait(stop: threading.Event, node: Any, files: list[Path]) -> None:
    """Wait for a signal; meanwhile load device files again when they change."""
    seen = {path: path.stat().st_mtime_ns for path in files}
    while not stop.wait(0.3 if files else None):
        for path in files:
            try:
                now = path.stat().st_mtime_ns
            except OSError:
                continue
            if now != seen[path]:
                seen[path] = now
                try:
                    names = node.reload(path)
                    err.print(f"loaded {path}: {', '.join(names)}")
                except ConfigError as error:
                    err.print(f"not loaded, the old device stays: {error.diagnostics()}", markup=False)


def get(
    path: Annotated[str, typer.Argument(help="Path, such as '/~calculator@1.0&a=1/add&b=2'.")],
    url: Url = None,
    store: StoreDir = None,
    device: DeviceFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Resolve a path and print the result.

    Runs in this process, in memory, unless --url names a node or --store a folder.

    Example: hyperpy get '/~calculator@1.0&a=1/add&b=2'
    """
    if url is not None:
        from hyperpy.client import Client

        with Client(url) as client:
            reply = client.get(path)
        show(reply["body"] if reply.get("ao-result") == b"body" else reply, json)
        return
    with _local(store, device) as node:
        show(node.resolve(path), json)


def _local(store: Path | None, devices: list[Path]) -> Any:
    from hyperpy.node import open_node

    if store is not None:
        return open_node(settings(None, store, None, devices))
    from hyperpy.keys import RsaKey
    from hyperpy.node import Node
    from hyperpy.store.memory import MemoryStore

    made = settings(None, None, None, devices)
    return Node(
        made, key=RsaKey.generate(2048), store=MemoryStore(), operator="", devices=[str(path) for path in devices]
    )


def demo(json: Json = False) -> None:
    """Show the main job: serve, resolve, run a custom device and a process, make all of it again from the store.

    Example: hyperpy demo
    """
    from hyperpy.demo import run

    try:
        lines = run(progress=None if json else _tell)
    except HyperpyError as error:
        raise typer.Exit(1) from error
    if json:
        show(lines, True)


def _tell(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
