"""store stats, store verify, store gc, store migrate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from hyperpy.cli.app import ConfigFile, Json, StoreDir, err, out, show
from hyperpy.cli.node import settings
from hyperpy.config import Config


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Look after the store.")
    group.command("stats")(stats)
    group.command("verify")(verify)
    group.command("gc")(gc)
    group.command("migrate")(migrate)
    app.add_typer(group, name="store")


def stats(store: StoreDir = None, config_file: ConfigFile = None, json: Json = False) -> None:
    """Print sizes in bytes and the number of entries per table.

    Example: hyperpy store stats --store hyperpy-store
    """
    from hyperpy import maintenance
    from hyperpy.store.lmdb import LmdbStore

    opened = LmdbStore(_folder(store, config_file), readonly=True)
    try:
        show(maintenance.stats(opened), json)
    finally:
        opened.close()


def verify(store: StoreDir = None, config_file: ConfigFile = None, json: Json = False) -> None:
    """Read everything and compute every ID and signature again. Exit code 1 if something is wrong.

    Example: hyperpy store verify --store hyperpy-store
    """
    from hyperpy import maintenance
    from hyperpy.store.lmdb import LmdbStore

    opened = LmdbStore(_folder(store, config_file), readonly=True)
    try:
        with _progress() as tell:
            findings = list(maintenance.verify(opened, tell))
    finally:
        opened.close()
    if json:
        show([asdict(finding) for finding in findings], True)
    for finding in findings if not json else ():
        out.print(f"{finding.table} {finding.key}: {finding.problem}", markup=False, highlight=False, soft_wrap=True)
    if findings:
        raise typer.Exit(1)
    if not json:
        out.print("everything is as it should be")


def gc(
    target: Annotated[int | None, typer.Option(help="Bytes to come down to; default 90 % of the quota.")] = None,
    store: StoreDir = None,
    config_file: ConfigFile = None,
    json: Json = False,
) -> None:
    """Remove steps that are too old ([trail] days), then the oldest that nothing needs. The node must not be running.

    What receipts, schedules and snapshots need stays.

    Example: hyperpy store gc --target 1000000000
    """
    from hyperpy import maintenance, retention
    from hyperpy.store.lmdb import LmdbStore

    made = _settings(store, config_file)
    opened = LmdbStore(Path(made.store.dir), durable=made.store.durable, quota=made.store.quota)
    try:
        aged = retention.apply(opened, made)
        with _progress() as tell:
            done = maintenance.collect(opened, target, tell)
        retention.note(opened, done)
    finally:
        opened.close()
    total = {name: getattr(aged, name) + getattr(done, name) for name in ("records", "messages", "others")}
    show({**asdict(done), **total, "before": aged.before}, json)


def migrate(store: StoreDir = None, config_file: ConfigFile = None, json: Json = False) -> None:
    """Bring a store of an older format to this version's, after making a backup.

    Example: hyperpy store migrate --store hyperpy-store
    """
    from hyperpy import maintenance

    with _progress() as tell:
        backup = maintenance.migrate(_folder(store, config_file), tell)
    if json:
        show({"backup": str(backup) if backup else None}, True)
    else:
        out.print(f"done; the backup is {backup}" if backup else "nothing to do", markup=False, highlight=False)


def _settings(store: Path | None, config_file: Path | None) -> Config:
    return settings(config_file, store, None, [])


def _folder(store: Path | None, config_file: Path | None) -> Path:
    return Path(_settings(store, config_file).store.dir)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """Show what is being done and how far it is, on the terminal's error stream."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"))
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda what, count: progress.update(task, description=what, completed=count)
