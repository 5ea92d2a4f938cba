"""config, doctor, trail."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hyperpy import config
from hyperpy.cli.app import ConfigFile, Json, StoreDir, Wallet, out, show
from hyperpy.cli.node import settings
from hyperpy.errors import HyperpyError


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("config")(show_config)
    app.command()(doctor)
    app.command(context_settings={"ignore_unknown_options": True})(trail)  # an ID may begin with "-"


def show_config(config_file: ConfigFile = None, json: Json = False) -> None:
    """Print every setting, its value, where it came from and what it means.

    Example: hyperpy config --config node.toml
    """
    rows = config.load(config_file).rows()
    if json:
        show({name: {"value": item, "from": origin, "meaning": doc} for name, item, origin, doc in rows}, True)
        return
    table = Table("setting", "value", "from", "meaning", box=None)
    for name, item, origin, doc in rows:
        table.add_row(name, str(item), origin, doc)
    out.print(table)


def doctor(config_file: ConfigFile = None, store: StoreDir = None, wallet: Wallet = None, json: Json = False) -> None:
    """Check this machine: versions, wallet, store, port and disk space. Exit code 1 if something is wrong.

    Example: hyperpy doctor
    """
    made = settings(config_file, store, wallet, [])
    checks = [
        *_versions(),
        _wallet(Path(made.meta.wallet)),
        _disk(Path(made.store.dir)),
        _port(made),
        _tee(),
        *_adapters(),
    ]
    if json:
        show([{"check": name, "ok": ok, "detail": detail} for name, ok, detail in checks], True)
    else:
        for name, ok, detail in checks:
            out.print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", markup=False, highlight=False, soft_wrap=True)
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)


def _versions() -> list[tuple[str, bool, str]]:
    found = [("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    for name in ("pykka", "lmdb", "cryptography", "granian", "httpx2", "coincurve", "msgpack"):
        try:
            found.append((name, True, version(name)))
        except PackageNotFoundError:
            found.append((name, False, f"missing; run: pip install {name}"))
    return found


def _wallet(file: Path) -> tuple[str, bool, str]:
    if not file.exists():
        return "wallet", True, f"{file} does not exist yet; serve makes it"
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        return "wallet", False, f"{file} is readable by others (mode {mode:o}); run: chmod 600 {file}"
    return "wallet", True, str(file)


def _disk(folder: Path) -> tuple[str, bool, str]:
    there = folder if folder.exists() else folder.absolute().parent
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    detail = f"{folder}: {free / 1e9:.1f} GB free" + ("" if writable else ", but not writable")
    return "store", writable and free > 100_000_000, detail


def _port(made: config.Config) -> tuple[str, bool, str]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((made.http.host, made.http.port))
        except OSError as error:
            return "port", False, f"{made.http.host}:{made.http.port} cannot be used ({error.strerror}); use --port"
    return "port", True, f"{made.http.host}:{made.http.port} is free"


def _adapters() -> list[tuple[str, bool, str]]:
    """Run a toy model on each WebGPU adapter; to have none is nothing wrong, a wrong bit is."""
    from hyperpy.inference import engines, webgpu

    try:
        found = webgpu.adapters()
    except HyperpyError as error:
        return [("webgpu", True, error.diagnostics())]
    rows = []
    for name, kind in found:
        try:
            webgpu.Engine(engines.toy_model(), name).close()
            rows.append(("webgpu", True, f"{name} ({kind}): equal to the reference"))
        except HyperpyError as error:
            rows.append(("webgpu", False, f"{name} ({kind}): {error.message}"))
    return rows or [("webgpu", True, "no adapter; language models run on the processor")]


def _tee() -> tuple[str, bool, str]:
    """Say which evidence this machine makes; to have none is nothing wrong."""
    from hyperpy.attester import base

    rows = base.providers()
    found = next((one for one in rows if one.present), None)
    return "tee", True, found.detail if found is not None else "; ".join(f"{one.detail}" for one in rows)


def trail(
    ref: Annotated[str, typer.Argument(help="Hashpath, or ID of a result.")],
    store: StoreDir = None,
    json: Json = False,
) -> None:
    """Print the recorded steps that led to a result.

    Example: hyperpy trail 'BASE-ID/KEY'
    """
    from hyperpy.encoding import b64u
    from hyperpy.errors import MessageNotFound
    from hyperpy.store.lmdb import LmdbStore
    from hyperpy.trail import Record, Trail

    made = settings(None, store, None, [])
    opened = LmdbStore(Path(made.store.dir), readonly=True)
    try:
        kept = Trail(opened)
        record = kept.by_hashpath(ref) if "/" in ref else (kept.by_result(ref) or kept.by_hashpath(ref))
        if record is None:
            raise MessageNotFound(f"the trail knows no step that led to {ref}")
        found: list[Record] = [record]
        while (before := kept.by_hashpath(found[-1].hashpath_before)) is not None and before not in found:
            found.append(before)
        found.reverse()
        rows: list[dict[str, Any]] = [
            {
                "record": b64u(item.id),
                "step": f"{item.device}/{item.key}",
                "status": item.status,
                "base": item.base,
                "request": item.request,
                "result": item.result,
                "hashpath": item.hashpath_after,
                "attested-inputs": len(item.oracles),
            }
            for item in found
        ]
    finally:
        opened.close()
    if json:
        show(rows, True)
        return
    for number, row in enumerate(rows, 1):
        out.print(f"{number}. {row['step']}  {row['status']}", markup=False, highlight=False)
        for name in ("base", "request", "result", "hashpath"):
            out.print(f"     {name:9}{row[name]}", markup=False, highlight=False, soft_wrap=True)
