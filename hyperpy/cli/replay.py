"""replay: recorded steps made again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hyperpy.cli.app import (
    LOADING_S,
    ConfigFile,
    DeviceFiles,
    Json,
    Seconds,
    StoreDir,
    Url,
    err,
    out,
    show,
    verdicts,
    write_whole,
)
from hyperpy.cli.logs import only_ours
from hyperpy.cli.node import settings
from hyperpy.cli.remote import is_url, named_by, receipt_of
from hyperpy.errors import CodecError, HyperpyError, ParameterError, UpstreamError
from hyperpy.verdicts import Finding, Report, Verdict, worst

if TYPE_CHECKING:
    from hyperpy.audit.fault import Asked
    from hyperpy.audit.pool import Source
    from hyperpy.audit.replay import Options
    from hyperpy.audit.source import Evidence, Plan

_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(context_settings={"ignore_unknown_options": True})(replay)  # an ID may begin with "-"


@verdicts()
def replay(
    ref: Annotated[str, typer.Argument(help="A result's ID, a hashpath, a process's ID, a receipt file, or a URL.")],
    store: StoreDir = None,
    config_file: ConfigFile = None,
    url: Url = None,
    device: DeviceFiles = [],  # noqa: B006
    slots: Annotated[str, typer.Option(help="Slots of a process, such as 0-99.")] = "",
    sample: Annotated[int, typer.Option(min=0, help="Draw so many steps; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(help="Which sample is drawn.")] = 0,
    first: Annotated[bool, typer.Option("--first/--all", help="Stop at the first fault, or go on.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Let attested inputs not pass: exit code 2.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one a processor.")] = None,
    seconds: Seconds = 30.0,
    details: Annotated[bool, typer.Option("--details", help="Show every step with all its words.")] = False,
    against: Annotated[str | None, typer.Option(help="Compare with what the node at this URL recorded.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as an HTML page into this file.")] = None,
    json: Json = False,
) -> None:
    """Make recorded steps again, compare, and say who lies where.

    Exit codes: 0 reproduced, 1 diverged or invalid, 2 missing, another implementation or only attested,
    3 a file that is no receipt.

    Example: hyperpy replay 'BASE-ID/KEY' --store DIR
    """
    from hyperpy.audit.replay import Options

    made = settings(config_file, store, None, device)
    options = Options(
        first=first,
        sample=sample,
        seed=seed,
        slots=slot_range(slots),
        seconds=seconds,
        loading=LOADING_S,
        devices=tuple(made.devices.files),
        config=made,
    )
    try:
        source, named, answer = _source(ref, Path(made.store.dir), url)
        with only_ours():
            report = _audited(source, named, answer, options, jobs, html, quiet=json)
        report.ref = ref
        if against is not None:
            compared(report, against, named)
    except CodecError as error:
        finding = Finding("file", error.message)
        report = Report(ref, findings=[finding], base_verdict=Verdict.BAD_FILE)
    except HyperpyError as error:
        if isinstance(error, ParameterError) or error.status != 404:
            raise
        report = Report(ref, findings=[Finding("record", error.message)], base_verdict=Verdict.MISSING)
    _print(report, json, details, strict)
    raise typer.Exit(report.exit_code(strict=strict))


def slot_range(text: str) -> tuple[int, int] | None:
    """Return the first and last slot of ``A-B`` or ``A``; None of nothing.

    Raises:
        ParameterError: it is neither.
    """
    if not text:
        return None
    found = _RANGE.fullmatch(text)
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise ParameterError(f"{text[:40]!r} is no range of slots", name="slots", hint="Use --slots 0-99.")
    return int(found[1]), int(found[2] or found[1])


class Answer(NamedTuple):
    """What a node answered to a URL, and where the node is."""

    asked: Asked
    node: str


def _source(ref: str, folder: Path, url: str | None) -> tuple[Source, str, Answer | None]:
    """Return where a reference is to be looked for, the reference there, and what was asked, if it is a URL.

    The reference of a file or URL is empty: all that is in the receipt is meant.
    """
    from hyperpy.audit.pool import Source

    if url is not None or is_url(ref):
        data, answer = fetched(ref, url)
        return Source(data=data, where=f"the receipt of {url or ref}"), "", answer
    file = Path(ref)
    if file.is_file():
        return Source(data=file.read_bytes() or b"\0", where=str(file)), "", None
    return Source(folder=str(folder)), ref, None


def fetched(ref: str, url: str | None = None) -> tuple[bytes, Answer | None]:
    """Return a node's receipt for a reference, or for what it answers to a GET of a URL, and that answer.

    Raises:
        UpstreamError: there is no such node, or it gives no receipt.
    """
    from hyperpy.audit.verified import is_about

    answer = None
    if url is None:
        url, asked = named_by(ref)
        answer = Answer(asked, url)
        ref = asked.reply.hashpath or ""
    data, _ = receipt_of(url, ref)
    if not is_about(data, ref):
        raise UpstreamError(f"{url} gave a receipt of something else than {ref[:200]}", hint="Do not rely on it.")
    return data, answer


def compared(report: Report, url: str, ref: str) -> None:
    """Add to a report where the node at a URL recorded other results for the same hashpaths, or none.

    Raises:
        UpstreamError: there is no such node, or it shows no trail.
    """
    from hyperpy.client import Client
    from hyperpy.message import Message

    with Client(url) as client:
        answer = client.get(f"/~audit@1.0/trail?ref={ref or report.steps[-1].after}")
    steps = answer.get("steps")
    if answer.get("status") != 200 or not isinstance(steps, tuple):
        raise UpstreamError(f"{url} shows no trail of {report.ref[:200]}")
    theirs: dict[str, set[str]] = {}
    for one in steps:
        if isinstance(one, Message):
            theirs.setdefault(one.text("hashpath-after", ""), set()).add(one.text("result", ""))
    for step in report.steps:
        known = theirs.get(step.after)
        if known is None:
            report.findings.append(Finding("peer", f"{url} has no step that led to {step.after}", where=(url,)))
        elif step.result not in known:
            text = f"{url} has another result for {step.after}"
            report.findings.append(Finding("peer", text, step.result, ", ".join(sorted(known))[:1000]))
    found = [one for one in report.findings if one.rule == "peer"]
    if found:
        worse = Verdict.MISSING if all(one.where for one in found) else Verdict.DIVERGED
        report.base_verdict = worst([worse, *([report.base_verdict] if report.base_verdict else [])])


def _audited(
    source: Source,
    ref: str,
    answer: Answer | None,
    options: Options,
    jobs: int | None,
    html: Path | None,
    *,
    quiet: bool,
) -> Report:
    from hyperpy.audit.collect import collect
    from hyperpy.audit.pool import replay_in_processes
    from hyperpy.audit.verified import REFUSED, hold_claims, join
    from hyperpy.receipt import decode
    from hyperpy.verify import verify

    checked = verify(source.data) if source.data else None
    if checked is not None and source.data and checked.verdict is not Verdict.BAD_FILE:
        hold_claims(decode(source.data), checked)
    if checked is not None and checked.verdict in REFUSED:
        return checked
    with source.open() as evidence, _bar(quiet) as progress:
        plan = collect(evidence, ref, slots=options.slots)
        report = replay_in_processes(source, evidence, plan, options, jobs=jobs, progress=progress)
        if checked is not None:
            report.attested_by = checked.attested_by
            join(report, checked, whole=not (report.sample or options.first or options.slots))
        if answer is not None:
            _answers(report, answer, plan, evidence, options)
        if html is not None:
            from hyperpy.audit.html import render

            page = render(report, lambda one: evidence.cache.read(one, exact=True))
            write_whole(html, page.encode())
        return report


def _answers(report: Report, answer: Answer, plan: Plan, evidence: Evidence, options: Options) -> None:
    """Add to a report where the answer is not that of the path that was asked for."""
    from hyperpy.audit.asked import add, answered
    from hyperpy.audit.fault import Peer

    with Peer(answer.node) as peer:
        add(report, answered(answer.asked, plan, evidence, options, peer))


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Any]:
    """Yield what shows how far an audit is, on a terminal."""
    if quiet or not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("making steps again")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(report: Report, json: bool, details: bool, strict: bool) -> None:
    if json:
        show(report.as_json(), True)
        return
    from hyperpy.audit.text import render

    out.print(render(report, details=details, strict=strict), end="", markup=False, highlight=False, soft_wrap=True)
