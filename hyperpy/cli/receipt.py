"""receipt, verify."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpy.cli import challenge
from hyperpy.cli.app import (
    LOADING_S,
    ConfigFile,
    DeviceFiles,
    Json,
    Seconds,
    StoreDir,
    Url,
    Wallet,
    err,
    out,
    show,
    verdicts,
    write_whole,
)
from hyperpy.cli.node import settings
from hyperpy.cli.remote import is_url, named_by, receipt_of
from hyperpy.errors import ConfigError, ParameterError

if TYPE_CHECKING:
    from hyperpy.audit.source import Plan
    from hyperpy.verdicts import Report

_LONG = 200
"""Steps from which on progress is shown."""

_Ref = Annotated[str, typer.Argument(help="Hashpath, ID of a result, of a record or of a process; or a URL.")]
_Range = Annotated[str, typer.Option("--slots", help="Slots of a process, as FIRST-LAST.")]
_Part = Annotated[str, typer.Option("--part", help="Prove only this part of the result: keys joined by /.")]
_Sign = Annotated[bool, typer.Option("--sign/--no-sign", help="Sign it with the wallet.")]
_Most = Annotated[int | None, typer.Option("--max-bytes", help="Bytes of messages; what is longer is left out, named.")]
_Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; else standard output.")]
_File = Annotated[Path, typer.Argument(help="Receipt file; - is standard input.")]
_Again = Annotated[bool, typer.Option("--replay", help="Make the steps again, too.")]
_Policy = Annotated[
    Path | None, typer.Option("--policy", help='JSON file: {"signers": [ADDRESS, ...]}; see docs/receipts.md.')
]
_Strict = Annotated[bool, typer.Option("--strict", help="Exit code 2 if recorded answers had to be taken on trust.")]
_Html = Annotated[Path | None, typer.Option("--html", help="Write the report as a page, too.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(context_settings={"ignore_unknown_options": True})(receipt)  # an ID may begin with "-"
    app.command()(verify)


def receipt(
    ref: _Ref,
    slots: _Range = "",
    part: _Part = "",
    sign: _Sign = True,
    max_bytes: _Most = None,
    output: _Output = None,
    store: StoreDir = None,
    url: Url = None,
    wallet: Wallet = None,
    config_file: ConfigFile = None,
) -> None:
    """Write a receipt: the steps that led to a result, with all that is needed to check them.

    Example: hyperpy receipt 'http://localhost:8734/~calculator@1.0&a=20/add&b=22' -o sum.receipt
    """
    if output is None and sys.stdout.isatty():
        raise ParameterError(
            "a receipt is binary and would garble the terminal", name="output", hint="Give -o FILE, or use > FILE."
        )
    options: dict[str, Any] = {"part": part} | ({} if max_bytes is None else {"max_bytes": max_bytes})
    _range(slots)
    if is_url(ref):
        url, asked = named_by(ref)
        ref = asked.reply.hashpath or ""
    if url:
        data, until = receipt_of(url, ref, slots=slots, part=part, sign=sign, most=max_bytes)
        kept = _kept(until, "that node")
    else:
        data, kept = _built(ref, slots, sign, options, settings(config_file, store, wallet, []))
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(output, data)
        err.print(f"{len(data)} bytes in {output}", markup=False, highlight=False)
    err.print(kept, markup=False, highlight=False, soft_wrap=True)


@verdicts()
def verify(
    file: _File,
    replay: _Again = False,
    policy: _Policy = None,
    strict: _Strict = False,
    html: _Html = None,
    seconds: Seconds = 30.0,
    device: DeviceFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Check a receipt without asking anybody; with --replay, make its steps again. A fault proof is judged.

    Exit codes: 0 reproduced, 1 diverged or invalid, 2 attested only or something is missing, 3 no receipt.

    Example: hyperpy verify r.receipt --replay
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        err.print(f"error: {file} cannot be read: {error.strerror}", style="red", markup=False, highlight=False)
        raise typer.Exit(3) from None
    if challenge.is_proof(data):
        raise typer.Exit(challenge.verify_proof(data, device, json=json))
    report = _checked(data, replay, _rules(policy), device, seconds)
    if html is not None:
        from hyperpy.audit import html as pages

        write_whole(html, pages.render(report, _reader(data)).encode())
    if json:
        show(report.as_json(), True)
    else:
        from hyperpy.audit import text

        out.print(text.render(report, strict=strict), end="", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(report.exit_code(strict=strict))


def _built(ref: str, slots: str, sign: bool, options: dict[str, Any], made: Any) -> tuple[bytes, str]:
    """Return the receipt made from a store on this machine, and how long what it is about is kept."""
    from hyperpy import commitments
    from hyperpy.audit.collect import collect
    from hyperpy.audit.receipts import build
    from hyperpy.audit.source import Evidence
    from hyperpy.keys import RsaKey
    from hyperpy.message import Message
    from hyperpy.store.lmdb import LmdbStore

    file = Path(made.meta.wallet)
    if sign and not file.exists():
        raise ConfigError(f"there is no wallet {file} to sign with", hint="Give --wallet FILE, or --no-sign.")
    key = RsaKey.load(file) if sign else None

    def signed(message: Message) -> Message:
        return commitments.commit(message, key)

    folder = Path(made.store.dir)
    opened = LmdbStore(folder, readonly=True)
    try:
        evidence = Evidence.of_store(opened, str(folder))
        plan = collect(evidence, ref, slots=_range(slots))
        data = build(evidence, plan, sign=signed if key is not None else None, **options)
    finally:
        opened.close()
    return data, _pinned(folder, plan, data, made.trail)


def _pinned(folder: Path, plan: Plan, data: bytes, trail: Any) -> str:
    """Have what a receipt is about kept in the store, unless a node holds it; return what to say of that."""
    from hyperpy.audit.receipts import keep
    from hyperpy.store.lmdb import LmdbStore

    try:
        opened = LmdbStore(folder)
    except (ConfigError, OSError):
        return "nothing is noted in the store, which a running node holds: ask that with --url, and it keeps the steps"
    try:
        return _kept(keep(opened, plan, data, trail, time.time()), "this store")
    finally:
        opened.close()


def _kept(until: int, who: str) -> str:
    if not until:
        return f"{who} does not promise to keep what the receipt is about; the file itself stays good"
    return f"{who} keeps what it is about until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"


def _range(text: str) -> tuple[int, int] | None:
    """Return a range of slots; raise ParameterError if it is none."""
    if not text:
        return None
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdigit() and last.isdigit() and len(first) < 16 and len(last) < 16 and int(first) <= int(last)):
        raise ParameterError(f"{text[:60]!a} is no range of slots", name="slots", hint="Write FIRST-LAST, such as 3-9.")
    return int(first), int(last)


def _rules(file: Path | None) -> dict[str, Any] | None:
    """Return a policy file's content."""
    if file is None:
        return None
    try:
        found = json_module.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the policy {file} cannot be read: {error}", hint="Give a JSON file.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"the policy {file} is no JSON object", hint='Write {"signers": ["ADDRESS"]}.')
    return found


def _checked(data: bytes, again: bool, policy: dict[str, Any] | None, devices: list[Path], seconds: float) -> Report:
    with _progress("making steps again" if again else "checking") as tell:
        if not again:
            from hyperpy import verify as light

            return light.verify(data, policy, progress=tell)
        from hyperpy.audit.replay import Options
        from hyperpy.audit.verified import replayed

        options = Options(devices=tuple(devices), seconds=seconds, loading=LOADING_S)
        return replayed(data, options, policy, progress=tell)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far long work is, on standard error if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task: list[Any] = []

        def tell(done: int, total: int) -> None:
            if total < _LONG:
                return
            if not task:
                task.append(bar.add_task(what, total=total))
            bar.update(task[0], completed=done)

        yield tell


def _reader(data: bytes) -> Callable[[str], Any]:
    """Return what shows the messages of a receipt on a page."""
    from hyperpy.cli.app import plain
    from hyperpy.errors import HyperpyError
    from hyperpy.receipt import decode

    try:
        found = decode(data)
    except HyperpyError:
        return lambda _: None
    return lambda ref: plain(found.read(ref))
