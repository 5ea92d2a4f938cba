"""audit-peer: what another node claims, computed here and compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from hyperpy.cli.app import DeviceFiles, Json, err, out, show, verdicts, write_whole
from hyperpy.cli.logs import only_ours


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command("audit-peer")(audit_peer)


@verdicts()
def audit_peer(
    url: Annotated[str, typer.Argument(help="The node to look at.")],
    path: Annotated[
        list[str] | None, typer.Argument(help="Paths to ask it for; some that any node has by default.")
    ] = None,
    process: Annotated[list[str] | None, typer.Option("--process", help="ID of a process to check as a whole.")] = None,
    device: DeviceFiles = [],  # noqa: B006
    details: Annotated[bool, typer.Option("--details", help="Show every claim with all its words.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as an HTML page into this file.")] = None,
    json: Json = False,
) -> None:
    """Ask a node (hyperpy or HyperBEAM) for signed results, compute them here, and say where they differ.

    Exit codes: 0 all reproduced, 1 something diverged or is invalid, 2 missing, another implementation or only
    attested.

    Example: hyperpy audit-peer http://localhost:8734 '/~calculator@1.0&a=1/add&b=2' --process ID
    """
    from hyperpy.audit.fault import Peer
    from hyperpy.audit.peer import Wanted, audit_peer
    from hyperpy.cli.node import _local

    with only_ours(), Peer(url) as peer, _local(None, device) as node, _told(json) as heard:
        report = audit_peer(peer, node, Wanted(tuple(path or ()), tuple(process or ()), tuple(device)), heard)
    if html is not None:
        from hyperpy.audit.html import render as page

        write_whole(html, page(report).encode())
    if json:
        show(report.as_json(), True)
    else:
        from hyperpy.audit.text import render

        out.print(render(report, details=details), end="", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(report.exit_code())


@contextlib.contextmanager
def _told(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being looked at."""
    if quiet or not err.is_terminal:
        yield lambda what: None
        return
    with err.status("asking") as status:
        yield lambda what: status.update(what[:100])
