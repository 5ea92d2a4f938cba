"""process spawn, process send, process state, process log, process watch."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from hyperpy.cli.app import Json, err, out, plain, show
from hyperpy.errors import KeyNotFound, ParameterError, UpstreamError
from hyperpy.message import Message, Value, as_text

if TYPE_CHECKING:
    from hyperpy.client import Client

_Node = Annotated[str, typer.Option("--url", help="The node to talk to.")]
_Wallet = Annotated[Path, typer.Option("--wallet", help="Your wallet file (JWK); made if absent.")]
_Process = Annotated[str, typer.Argument(help="ID of the process.")]
_Tags = Annotated[list[str], typer.Option("--tag", help="A key of the message as NAME=VALUE; may be repeated.")]
_Data = Annotated[str, typer.Option("--data", help="The message's data; @FILE reads a file.")]
_URL = "http://127.0.0.1:8734"
_OWN = Path("hyperpy-user.json")
_IN_PATHS = "".join(map(chr, range(0x21, 0x7F)))
"""What is left as it is; the rest is percent-encoded."""
_PAGE = 100
"""Assignments asked for at a time."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Run processes on a node: spawn, send, read, follow.")
    for name, verb in (("spawn", spawn), ("send", send), ("state", state), ("log", log), ("watch", watch)):
        group.command(name, context_settings={"ignore_unknown_options": True})(verb)  # an ID may begin with "-"
    app.add_typer(group, name="process")


# -- verbs -------------------------------------------------------------------------------------


def spawn(
    device: Annotated[str, typer.Option("--device", help="Execution device.")] = "lua@5.3a",
    module: Annotated[str, typer.Option("--module", help="ID of a stored module, or a file to store.")] = "",
    tag: _Tags = [],  # noqa: B006 (typer reads it, nothing changes it)
    data: _Data = "",
    url: _Node = _URL,
    wallet: _Wallet = _OWN,
    json: Json = False,
) -> None:
    """Start a process and print its ID.

    Example: hyperpy process spawn --module counter.lua
    """
    with _client(url, wallet) as client:
        items: dict[str, Value] = {
            "device": b"process@1.0",
            "type": b"Process",
            "scheduler-device": b"scheduler@1.0",
            "push-device": b"push@1.0",
            "execution-device": device.encode(),
            "random-seed": _seed(),
        }
        address = _good(client.get("/~meta@1.0/info/address"))["body"]
        items["scheduler"] = items["authority"] = address
        if module:
            items["module"] = _module(client, module)
        items.update(_tagged(tag, data))
        reply = _good(client.send("/~scheduler@1.0/schedule", items))
    found = reply.text("process")
    show({"process": found, "slot": reply["slot"]} if json else found, json)


def send(
    process: _Process,
    action: Annotated[str, typer.Option("--action", help="The key `action` of the message.")] = "",
    tag: _Tags = [],  # noqa: B006
    data: _Data = "",
    push: Annotated[bool, typer.Option("--push/--no-push", help="Compute it and deliver what it sends.")] = True,
    url: _Node = _URL,
    wallet: _Wallet = _OWN,
    json: Json = False,
) -> None:
    """Send a process a message; print its slot and what it gave.

    Example: hyperpy process send PROCESS --action Inc --data 5
    """
    items: dict[str, Value] = {"target": process.encode(), "type": b"Message"}
    if action:
        items["action"] = action.encode()
    items.update(_tagged(tag, data))
    if "slot" in items:
        raise ParameterError(
            "a message cannot have the key 'slot': other nodes would push that slot instead of scheduling it",
            name="--tag",
            hint="Use another name. To push a slot again: curl NODE/PROCESS/push&slot=N.",
        )
    verb = "push" if push else "schedule"
    with _client(url, wallet) as client:
        reply = _good(client.send(f"/{process}~process@1.0/{verb}", items))
    if not push:
        reply = Message.make({"process": process.encode(), "slot": reply["slot"]})
    _print(reply, json)


def state(
    process: _Process,
    path: Annotated[str, typer.Argument(help="Key or path inside the state.")] = "",
    slot: Annotated[int | None, typer.Option("--slot", help="The state after this slot, not the newest.")] = None,
    url: _Node = _URL,
    json: Json = False,
) -> None:
    """Print a process's state, or one value of it.

    Example: hyperpy process state PROCESS results/output --slot 3
    """
    at = "now" if slot is None else f"compute&slot+integer={slot}"
    inner = f"/{quote(path.strip('/'), safe=_IN_PATHS)}" if path.strip("/") else ""
    with _client(url) as client:
        reply = _good(client.get(f"/{process}~process@1.0/{at}{inner}"))
    _print(reply, json)


def log(
    process: _Process,
    first: Annotated[int, typer.Option("--from", help="First slot.")] = 0,
    last: Annotated[int | None, typer.Option("--to", help="Last slot.")] = None,
    url: _Node = _URL,
    json: Json = False,
) -> None:
    """List what was scheduled to a process: slot, time, sender, action, message.

    Example: hyperpy process log PROCESS --from 10
    """
    with _client(url) as client:
        rows = [_row(one) for one in _assignments(client, process, first, last)]
    if json:
        show(rows, True)
    else:
        _table(rows)


def watch(
    process: _Process,
    first: Annotated[int | None, typer.Option("--from", help="First slot; else the next one.")] = None,
    count: Annotated[int, typer.Option("--count", help="Stop after that many slots; 0: go on until Ctrl-C.")] = 0,
    interval: Annotated[float, typer.Option("--interval", min=0.05, max=3600, help="Seconds between questions.")] = 1.0,
    url: _Node = _URL,
    json: Json = False,
) -> None:
    """Follow a process: print each slot and its output as it comes. Ends with Ctrl-C; waits for a node that is away.

    Example: hyperpy process watch PROCESS --from 0
    """
    shown = 0
    with _client(url) as client:
        following = _current(client, process) + 1 if first is None else first
        if not json:
            err.print(f"following {process} from slot {following}; Ctrl-C ends", style="dim", highlight=False)
        reached = False
        while not count or shown < count:
            try:
                for one in _assignments(client, process, following, None):
                    _follow(client, process, one, json)
                    following, shown = int(as_text(one["slot"])) + 1, shown + 1
                    if count and shown >= count:
                        return
                reached = True
            except UpstreamError as error:
                if error.answered or not reached:
                    raise
                err.print(f"{error.message}; asking again", style="dim", highlight=False, markup=False)
            time.sleep(interval)


# -- talking to the node -----------------------------------------------------------------------


def _client(url: str, wallet: Path | None = None) -> Client:
    """Return a client of a node, which signs where a wallet is named."""
    from hyperpy.client import Client
    from hyperpy.keys import RsaKey

    if wallet is None:
        return Client(url)
    return Client(url, RsaKey.load(wallet) if wallet.exists() else RsaKey.create(wallet))


def _good(reply: Message) -> Message:
    """Return a reply that is no error.

    Raises:
        KeyNotFound: there is no such process, slot or key.
        UpstreamError: the node refused for another reason.
    """
    status = reply.get("status")
    if "ao-result" not in reply and not reply.commitments and reply.text("content-type", "").startswith("text/html"):
        raise UpstreamError("what answers there is no AO-Core node", hint="Look at --url.")
    if not isinstance(status, int) or status < 400:
        return reply
    said = _said(reply)
    if status == 404:
        raise KeyNotFound(said, hint="Look at `hyperpy process log PROCESS`; is it the right node (--url)?")
    raise UpstreamError(f"the node answered {status}: {said}", hint="The text above is the node's own.")


def _said(reply: Message) -> str:
    for name in ("reason", "body", "error"):
        found = reply.get(name)
        if isinstance(found, bytes) and found:
            return found.decode("utf-8", "replace").strip()
    return "there is no such process, slot or key" if reply.get("status") == 404 else "no text came with it"


def _module(client: Client, module: str) -> bytes:
    """Return the ID of a module; a file is stored on the node first."""
    from hyperpy import commitments

    file = Path(module)
    if not file.is_file():
        if len(module) != 43:
            raise ParameterError(
                f"{module[:80]!a} is no file and no ID", name="--module", hint="An ID has 43 characters."
            )
        _good(client.get(f"/{module}/id"))
        return module.encode()
    kind = b"application/wasm" if file.suffix == ".wasm" else b"application/lua"
    reply = _good(client.send("/~message@1.0/set", {"content-type": kind, "body": file.read_bytes()}))
    signed = [name for name, one in reply.commitments.items() if "committer" in one]
    return (signed[0] if len(signed) == 1 else commitments.signed_id(reply)).encode()


def _tagged(tags: list[str], data: str) -> dict[str, Value]:
    items: dict[str, Value] = {}
    for one in tags:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise ParameterError(f"{one[:80]!a} is no NAME=VALUE", name="--tag", hint="Such as --tag action=Inc.")
        items[name.lower()] = text.encode("utf-8", "surrogateescape")
    if data:
        items["data"] = _file(data[1:]) if data.startswith("@") else data.encode("utf-8", "surrogateescape")
    return items


def _file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ParameterError(f"{name[:200]!a} cannot be read: {error.strerror}", name="--data") from None


def _seed() -> bytes:
    import secrets

    return secrets.token_urlsafe(16).encode()


def _current(client: Client, process: str) -> int:
    return int(as_text(_good(client.get(f"/{process}~process@1.0/slot"))["current"]))


def _assignments(client: Client, process: str, first: int, last: int | None) -> Iterator[Message]:
    """Give the assignments of a range of slots, page by page."""
    end = _current(client, process) if last is None else last
    while first <= end:
        until = min(end, first + _PAGE - 1)
        path = f"/{process}~process@1.0/schedule?from={first}&to={until}"
        listed = _good(client.get(path)).get("assignments")
        found = [listed.get(str(slot)) for slot in range(first, until + 1)] if isinstance(listed, Message) else []
        page = [one for one in found if isinstance(one, Message)]
        yield from page
        if len(page) < until + 1 - first:
            return
        first = until + 1


# -- showing -----------------------------------------------------------------------------------


def _row(assignment: Message) -> dict[str, Any]:
    """Return what a line of the log shows."""
    from hyperpy import commitments

    body = assignment.get("body")
    message = body if isinstance(body, Message) else Message({})
    signers = commitments.committers(message)
    action = message.get("action", message.get("type", b""))
    return {
        "slot": int(as_text(assignment["slot"])),
        "time": _time(assignment.get("timestamp")),
        "from": signers[0] if signers else "",
        **({"from-process": message.text("from-process")} if "from-process" in message else {}),
        "action": action.decode("utf-8", "replace") if isinstance(action, bytes) else str(action),
        "message": commitments.signed_id(message),
    }


def _time(stamp: Any) -> str:
    """Return milliseconds since 1970 as UTC text."""
    from datetime import UTC, datetime

    seconds = int(as_text(stamp)) / 1000 if stamp is not None else 0.0
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(rows: list[dict[str, Any]]) -> None:
    """Print one line a slot; IDs stay whole, so that they can be copied."""
    width = max([len(row["action"]) for row in rows] + [6])
    out.print(f"{'slot':>6}  {'time':<20}  {'action':<{width}}  {'message':<43}  from", style="bold", soft_wrap=True)
    for row in rows:
        line = f"{row['slot']:>6}  {row['time']:<20}  {row['action']:<{width}}  {row['message']:<43}  {row['from']}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _follow(client: Client, process: str, assignment: Message, json: bool) -> None:
    """Print one slot and what it gave."""
    row = _row(assignment)
    reply = client.get(f"/{process}~process@1.0/compute&slot+integer={row['slot']}/results")
    status = reply.get("status")
    failed = isinstance(status, int) and status >= 400
    given = {"error": _said(reply)} if failed else _bare(reply)
    if json:
        print(json_module.dumps({**row, "results": given}, ensure_ascii=False), flush=True)
        return
    line = f"{row['slot']:>6}  {row['time']}  {row['action']}  {row['message']}"
    out.print(line, markup=False, highlight=False, soft_wrap=True)
    text = json_module.dumps(given, ensure_ascii=False)
    out.print(f"        {text}", style="red" if failed else "dim", markup=False, highlight=False, soft_wrap=True)


def _bare(reply: Message) -> Any:
    """Return a reply's value: its body if that is the result, else its keys, without those of the transport."""
    if reply.get("ao-result") == b"body":
        return plain(reply["body"])
    found = plain(reply)
    return {key: one for key, one in found.items() if key not in ("status", "ao-types", "ao-result")}


def _print(reply: Message, json: bool) -> None:
    show(_bare(reply), json)
