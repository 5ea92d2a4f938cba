"""What one assignment must say by itself: its fields, and the message it schedules (devices/02-scheduler, 3, 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hyperpy import Message, commitments
from hyperpy.errors import HyperpyError, MessageNotFound, ParameterError
from hyperpy.message import Link, Value, as_text

from .assignment import VARIANT
from .targets import is_process, split_target

LATEST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_HIGHEST: Final = 10**15 - 1
"""The largest number that a field on the wire holds."""

_FIXED: Final[dict[str, bytes]] = {"data-protocol": b"ao", "variant": VARIANT, "epoch": b"0"}
"""What both generations of the reference write into every assignment."""
_HASH: Final = re.compile(rb"[A-Za-z0-9_-]{43}|[A-Za-z0-9_-]{64}")
"""A block's hash: of 32 bytes, as where there is none, or of 48, as Arweave's are."""

_COMPUTE: Final = b"compute"


def wrong(due: int, one: Message, process: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of everything wrong with an assignment as such, its signatures and links aside.

    Args:
        due: the slot whose place it has.
        process: ID of the process in whose schedule it stands.
    """
    if whole(one.raw("slot")) != due:
        yield "slot", f"says that it is slot {_shown(one, 'slot')}"
    if one.raw("process") != process.encode():
        yield "process", f"belongs to the process {_shown(one, 'process')}"
    if _shown(one, "type").lower() != "assignment":
        yield "type", "is no assignment"
    for name, value in _FIXED.items():
        if name in one and one.raw(name) != value:
            yield "field", f"{name} is {_shown(one, name)}, not {value.decode()}"
    yield from _wrong_numbers(one)
    yield from _wrong_body(due, one, process)


def _wrong_numbers(one: Message) -> Iterator[tuple[str, str]]:
    stamp = whole(one.raw("timestamp"))
    if stamp is None:
        yield "timestamp", "is no whole number"
    elif not 0 <= stamp <= LATEST_MS:
        yield "timestamp", f"{str(stamp)[:40]} is no time in milliseconds"
    for name in ("block-height", "block-timestamp"):
        if name in one and not 0 <= (number if (number := whole(one.raw(name))) is not None else -1) <= _HIGHEST:
            yield "field", f"{name} is {_shown(one, name)}, not a whole number of 0 or more"
    block = one.raw("block-hash")
    if "block-hash" in one and not (isinstance(block, bytes) and _HASH.fullmatch(block)):
        yield "field", f"block-hash is {_shown(one, 'block-hash')}, not the hash of a block"


def _wrong_body(due: int, one: Message, process: str) -> Iterator[tuple[str, str]]:
    try:
        body = one.get("body")
    except MessageNotFound as error:
        yield "body", error.message
        return
    if not isinstance(body, Message):
        yield "body", "holds no message"
        return
    body = Message.make(dict(body.raw_items()), body.commitments)  # nothing remembered counts here
    try:
        commitments.check(body)
        ident = commitments.signed_id(body)
    except HyperpyError as error:
        yield "body", f"the scheduled message does not verify: {error.message}"
        return
    if not commitments.committers(body):
        yield "body", "nobody signed the scheduled message"
    else:
        covered = set(commitments.committed(body))
        for name in [name for name in body if name not in covered][:20]:
            yield "body", f"not every signature of the scheduled message covers {name[:60]!a}"
    yield from _misplaced(due, body, ident, process)
    if one.raw("path") not in paths_of(body):
        yield "path", f"is {_shown(one, 'path')}, which the scheduled message does not say"


def _misplaced(due: int, body: Message, ident: str, process: str) -> Iterator[tuple[str, str]]:
    """Yield why a message does not belong into this slot of this process."""
    if due == 0 and ident != process:
        yield "body", "slot 0 does not hold the process"
    elif is_process(body):
        if ident != process:
            yield "body", f"schedules another process, {ident}"
    elif isinstance(target := body.raw("target"), bytes):
        try:
            named, _ = split_target(as_text(target, "target"))
        except ParameterError:
            named = ""
        if named != process:
            yield "body", f"schedules a message for {_shown(body, 'target')}, not for this process"


def paths_of(body: Message) -> tuple[Value, ...]:
    """Return what an assignment's ``path`` may be: the message's own, ``compute`` where it has none or no plain one.

    The reference writes the message's own whatever it is; this node writes only one that is a single key.
    """
    path = body.raw("path")
    if not isinstance(path, bytes):
        return (_COMPUTE,)
    return (path,) if path and b"/" not in path else (path, _COMPUTE)


def body_id(one: Message) -> bytes | None:
    """Return the characters of the scheduled message's ID; None if there is no message."""
    try:
        body = one.get("body")
        return commitments.signed_id(body).encode() if isinstance(body, Message) else None
    except HyperpyError:
        return None


def whole(item: object) -> int | None:
    """Return a whole number, None for anything else: a fraction, a text, a truth value."""
    return item if type(item) is int else None


def _shown(one: Message, name: str) -> str:
    found = one.raw(name)
    if isinstance(found, bytes):
        return found[:240].decode("utf-8", "replace")[:60]
    return "nothing" if found is None or isinstance(found, (Message, tuple, Link)) else as_text(found, name)[:60]
