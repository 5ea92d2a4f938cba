"""bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from hyperpy.cli.app import Json, err, out, show
from hyperpy.cli.models import DEFAULT, Folder

if TYPE_CHECKING:
    from hyperpy.bench.auditing import Figure


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(bench)


def bench(
    part: Annotated[
        str,
        typer.Argument(help="all, processes (scheduling and computing alone), audit, attest, inference, or replay."),
    ] = "all",
    json: Json = False,
    serving: Annotated[bool, typer.Option(help="Also measure a serving node.")] = True,
    curves: Annotated[Path | None, typer.Option(help="Write the cost curves as PNG into this folder.")] = None,
    slots: Annotated[int, typer.Option(help="Slots of the long schedule that replay computes.", min=10)] = 100_000,
    model: Annotated[str, typer.Option(help="Model that inference measures.")] = "smollm2-135m",
    models: Folder = DEFAULT,
    file: Annotated[Path | None, typer.Option(help="The model's GGUF file: for llama.cpp and floats.")] = None,
    text: Annotated[Path | None, typer.Option(help="With --file: also compare perplexities on this text.")] = None,
) -> None:
    """Measure what operations cost, in CPU microseconds. Asserts nothing.

    Example: hyperpy bench processes
    """
    if part == "replay":
        _replay(slots, json)
        return
    if part == "audit":
        _audit(json)
        return
    if part == "attest":
        _attest(json)
        return
    if part == "inference":
        _inference(model, models, file, text, json)
        return
    if part not in ("all", "processes"):
        raise typer.BadParameter("say all, processes, audit, attest, inference or replay", param_hint="part")
    from hyperpy.bench import computing, operations, scheduling
    from hyperpy.bench import serving as served
    from hyperpy.bench.measure import machine

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("measuring", total=5)
        rows = operations.rows() if part == "all" else []
        progress.advance(task)
        rows += scheduling.rows()
        progress.advance(task)
        rows += computing.rows()
        progress.advance(task)
        rows += served.rows() if serving and part == "all" else []
        progress.advance(task)
        if curves is not None:
            from hyperpy.bench.curves import draw

            draw(curves)
        progress.advance(task)
    if json:
        show({"machine": machine(), "rows": [asdict(row) for row in rows]}, True)
        return
    table = Table("operation", "median", "least", "most", "budget", "reference", "hashing", box=None, title=machine())
    for row in rows:
        share = "" if row.hashing is None else f"{row.hashing:.0%}"
        numbers = (f"{row.us:,.1f}", f"{row.low:,.1f}", f"{row.high:,.1f}")
        table.add_row(
            row.name,
            *numbers,
            f"{row.budget:,.0f}" if row.budget else "",
            f"{row.peer:,.0f}" if row.peer else "",
            share,
        )
    out.print(table)


def _attest(json: bool) -> None:
    """Show what verifying evidence costs."""
    from hyperpy.bench import attesting

    with err.status("verifying"):
        figures = attesting.rows()
    if len(figures) == 1:
        err.print(f"{attesting.FOLDER} names no folder of genuine evidence: hardware's is left out", markup=False)
    _figures(figures, json)


def _inference(model: str, models: Path, file: Path | None, text: Path | None, json: bool) -> None:
    """Show what integer inference costs, beside llama.cpp, and what it loses, beside floats."""
    from hyperpy.bench import disputing, inferring
    from hyperpy.inference.library import Library

    library = Library(models)
    with err.status("computing tokens"):
        figures = inferring.speed(library, model, file)
    with err.status("proving single values"):
        figures += disputing.proofs(library, model)
    if file is None:
        err.print("llama.cpp and floats are left out: --file names the GGUF file that the model was imported from")
    elif text is not None:
        with err.status("reading the text, with integers and with floats"):
            figures += inferring.quality(library, model, file, text)
    _figures(figures, json)


def _audit(json: bool) -> None:
    """Show what auditing costs beside computing."""
    from hyperpy.bench import auditing

    with err.status("computing, and making it again"):
        figures = auditing.rows()
    _figures(figures, json)


def _figures(figures: Sequence[Figure], json: bool) -> None:
    from hyperpy.bench.measure import machine

    if json:
        show({"machine": machine(), "rows": [one._asdict() for one in figures]}, True)
        return
    table = Table("figure", "value", "unit", "aim", box=None, title=machine())
    for one in figures:
        aim = f"{'>=' if one.least else '<='} {one.aim:g}" if one.aim else ""
        table.add_row(one.name, f"{one.value:,.2f}", one.unit, aim)
    out.print(table)


def _replay(slots: int, json: bool) -> None:
    """Show what a slot of a long schedule costs on the way, and how large the process is."""
    from hyperpy.bench import computing
    from hyperpy.bench.measure import machine

    with err.status(f"writing and computing {slots:,} slots"):
        points = computing.replay(slots)
    if json:
        show({"machine": machine(), "points": [one._asdict() for one in points]}, True)
        return
    table = Table("slots", "CPU us a slot", "own memory, MB", box=None, title=machine())
    for one in points:
        table.add_row(f"{one.slots:,}", f"{one.us:,.0f}", f"{one.rss_kb / 1024:,.1f}")
    out.print(table)
