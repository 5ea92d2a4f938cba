"""bench."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from hyperpy.cli.app import Json, err, out, show


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(bench)


def bench(
    part: Annotated[str, typer.Argument(help="all, or processes: scheduling and computing alone.")] = "all",
    json: Json = False,
    serving: Annotated[bool, typer.Option(help="Also measure a serving node.")] = True,
    curves: Annotated[Path | None, typer.Option(help="Write the cost curves as PNG into this folder.")] = None,
) -> None:
    """Measure what operations cost, in CPU microseconds. Asserts nothing.

    Example: hyperpy bench processes
    """
    if part not in ("all", "processes"):
        raise typer.BadParameter("say all or processes", param_hint="part")
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
