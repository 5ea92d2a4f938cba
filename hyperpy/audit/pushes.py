"""What a push says it sent, compared with what was sent.

A push cannot be made again: it signs, and other nodes answer. But its result names each message and the slot that it
got, the recorded sub-steps hold what was scheduled, and the target's schedule what came in. Rule ``pushed``: a
message that is named was scheduled by a sub-step of the push or is in its slot of the schedule, and what the
sub-steps scheduled is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from hyperpy import commitments
from hyperpy.audit.source import Evidence
from hyperpy.encoding import key_text, native
from hyperpy.errors import HyperpyError
from hyperpy.message import Link, Message, Value
from hyperpy.store.schedule import read_assignment
from hyperpy.trail import Record
from hyperpy.verdicts import Finding

_DEVICE: Final = "push@1.0"
_DEEPEST: Final = 64
_MOST: Final = 10_000


class _Sent(NamedTuple):
    ident: str
    slot: int


def pushed(evidence: Evidence, record: Record, parts: Sequence[Record]) -> list[Finding]:
    """Return what is wrong with what a push says it sent; nothing of other steps, or of what is not at hand."""
    if (record.device, record.key, record.status) != (_DEVICE, "push", "ok"):
        return []
    try:
        tree = evidence.cache.read(record.result, exact=True)
    except HyperpyError:
        return []
    if not isinstance(tree, Message):
        return []
    entries = list(_entries(tree, 0))
    named = {sent: target for sent, target in entries if sent is not None}
    made = {sent for part in parts if (sent := _scheduled(evidence, part)) is not None}
    found = [one for sent, target in named.items() if sent not in made for one in _came(evidence, sent, target)]
    whole = len(entries) < _MOST and all(sent is not None for sent, _ in entries)
    for one in sorted(made - set(named)) if whole else ():
        found.append(Finding("pushed", f"the push sent {one.ident} as slot {one.slot}, and does not say so"))
    return found


def _entries(tree: Message, depth: int) -> Iterator[tuple[_Sent | None, str]]:
    """Yield what a push says of each message, with its target; None for one that it says less of."""
    if depth > _DEEPEST or "not-shown" in tree:
        yield None, ""
        return
    told, failed = set(), False
    for name in tree.raw_items():
        entry = tree[name] if name != "outbox" else None
        if not isinstance(entry, Message):
            continue
        ident, slot, target = entry.get("id"), entry.get("slot"), entry.get("target")
        if not isinstance(ident, bytes) or type(slot) is not int or not isinstance(target, bytes):
            failed = True
            continue
        told.add(name)
        yield _Sent(key_text(ident), slot), key_text(target)
        inner = entry.get("resulted-in")
        if isinstance(inner, Message):
            yield from _entries(inner, depth + 1)
    outbox = tree.get("outbox")
    if not told >= set(outbox.raw_items()) if isinstance(outbox, Message) else failed:
        yield None, ""  # it failed to send some, or something else stands in their place


def _scheduled(evidence: Evidence, part: Record) -> _Sent | None:
    """Return what a sub-step scheduled; None if it did something else."""
    if part.key != "schedule" or part.status != "ok":
        return None
    try:
        asked, made = (evidence.cache.read(one, exact=True) for one in (part.request, part.result))
    except HyperpyError:
        return None
    if not isinstance(asked, Message) or not isinstance(made, Message) or asked.get("method") != b"POST":
        return None
    ident, slot = _ident(asked.raw("body")), made.get("slot")
    return _Sent(ident, slot) if ident and type(slot) is int else None


def _ident(body: Value | None) -> str:
    if isinstance(body, Link):
        return body.id
    try:
        return commitments.signed_id(body) if isinstance(body, Message) else ""
    except HyperpyError:
        return ""


def _came(evidence: Evidence, sent: _Sent, target: str) -> list[Finding]:
    """Look for a message in the target's schedule, where that is at hand."""
    try:
        process = native(target.partition("~")[0].strip("/"))
        data = evidence.store.get("assignments", process + sent.slot.to_bytes(8, "big"))
        if data is None:
            if next(iter(evidence.store.scan("assignments", process)), None) is None:
                return []
            text = f"no sub-step sent {sent.ident}, and its slot {sent.slot} of {target} is not at hand"
            return [Finding("pushed", text, where=(evidence.where,))]
        got = _ident(read_assignment(data)[1].raw("body"))
    except (HyperpyError, ValueError, OverflowError):
        return []
    if got == sent.ident:
        return []
    return [Finding("pushed", f"slot {sent.slot} of {target} is another message", sent.ident, got)]
