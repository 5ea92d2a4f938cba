"""Rules about a receipt as a whole; the numbers are those of :mod:`hyperpy.verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hyperpy import commitments
from hyperpy.commitments.combined import combined_id, raw_id
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import HyperpyError
from hyperpy.message import Link, Message, Value
from hyperpy.receipt.content import Receipt, came_with, formed, genuine
from hyperpy.verdicts import Finding

CLAIMED: Final = "claimed"
"""Rule of what a message is signed with and only the request that it is a part of can show."""
_MOST: Final = 1_000
"""Findings of one rule that are listed."""


def roots(receipt: Receipt) -> list[Finding]:  # 2
    """Refuse a receipt whose roots are not in it."""
    if not receipt.roots:
        return [Finding("roots", "the receipt names no step that it is about")]
    return [
        Finding("roots", f"the receipt is about a step that is not in it: {b64u(one)}")
        for one in receipt.roots
        if one not in receipt.steps
    ][:_MOST]


def commitments_hold(receipt: Receipt) -> list[Finding]:  # 3
    """Refuse messages with a commitment that is not genuine."""
    found: list[Finding] = []
    asked = [one for one in receipt.steps.values() if one.origin]
    parts = {raw_id(ref) for one in asked for ref in (one.base, one.request)}
    for name, item in receipt.items:
        if not isinstance(item, Message) or not item.commitments:
            continue
        receipt.allow()
        try:
            genuine(item)
        except (HyperpyError, ValueError, TypeError, RecursionError) as error:
            if name in parts and _came_with(name, item, receipt):
                text = f"the message {b64u(name)} bears the signatures of the request that it is a part of"
                found.append(Finding(CLAIMED, text, b64u(name), where=("the request as it came",)))
                continue
            found.append(Finding("commitment", f"the message {b64u(name)}: {error!s:.300}"))
            if len(found) == _MOST:
                break
    return found


def _came_with(name: bytes, item: Message, receipt: Receipt) -> bool:
    """Say whether a message is named by all of it, and bears signatures that a kept request came with."""
    try:
        formed(item)
        return raw_id(combined_id(item) or "") == name and came_with(item, receipt.sent)
    except (HyperpyError, ValueError, TypeError):
        return False


def closed_and_minimal(receipt: Receipt, order: Iterable[bytes]) -> list[Finding]:
    """Refuse a receipt that names what is not there, or holds what nothing names."""
    wanted: dict[str, set[bytes]] = {"record": set(receipt.roots), "message": set(), "origin": set()}
    for kind, name in _named(receipt):
        wanted[kind].add(name)
    held = {"record": set(receipt.steps), "message": set(receipt.index), "origin": set(map(sha256, receipt.origins))}
    absent = {one.id for one in receipt.absent}
    named = set().union(*wanted.values())
    found: list[Finding] = []
    for kind, names in wanted.items():  # 4
        for name in sorted(names - held[kind] - absent)[:_MOST]:
            found.append(
                Finding("closed", f"the {kind} {b64u(name)} is named, but is neither there nor listed as absent")
            )
    there = set().union(*(wanted[kind] & held[kind] for kind in wanted))
    for name in sorted(absent):
        if name not in named:
            found.append(Finding("closed", f"{b64u(name)} is listed as absent, but nothing names it"))
        elif name in there:
            found.append(Finding("closed", f"{b64u(name)} is listed as absent, but it is there"))
    return found + _minimal(receipt, wanted, order)


def _minimal(receipt: Receipt, wanted: Mapping[str, set[bytes]], order: Iterable[bytes]) -> list[Finding]:  # 5
    """Refuse what nothing names."""
    names, others = wanted["message"], set()
    for _, item in receipt.items:
        if isinstance(item, Message) and item.commitments:
            others.add(commitments.content_key(item))
    others.update(name for name, _ in receipt.scheduled)
    spare = [("record", name) for name in sorted(receipt.steps.keys() - set(order))]
    spare += [("origin", name) for name in map(sha256, receipt.origins) if name not in wanted["origin"]]
    spare += [("message", name) for name in receipt.names.values() if name not in names or name in others]
    scheduled = {one.process for one in receipt.slots} | {one.process for one in receipt.snapshots}
    spare += [("schedule of the process", one.process) for one in receipt.schedules if one.process not in scheduled]
    return [Finding("minimal", f"nothing needs the {kind} {b64u(name)}") for kind, name in spare[:_MOST]]


def _named(receipt: Receipt) -> Iterator[tuple[str, bytes]]:
    """Yield whatever the receipt's content names: kind and ID (32 bytes)."""
    for record in receipt.steps.values():
        texts = [record.base, record.request, record.result]
        texts += [text for one in record.oracles for text in (one.request, one.result)]
        for text in texts:
            name = raw_id(text) if text else None
            if name is not None:
                yield "message", name
        for kind, digest in (("record", record.parent), ("record", record.cached_from), ("origin", record.origin)):
            if digest:
                yield kind, digest
    for one in receipt.slots:
        yield "record", one.record
        yield "message", one.process
    for kept in receipt.snapshots:
        yield "message", kept.state
        yield "message", kept.process
    for schedule in receipt.schedules:
        yield "message", schedule.process
    for item in receipt.messages:
        for text in links(item):
            name = raw_id(text)
            if name is not None:
                yield "message", name


def links(item: Value) -> list[str]:
    """Return the IDs that a shallow value's links name."""
    held = item.raw_items().values() if isinstance(item, Message) else item if isinstance(item, tuple) else ()
    return [one.id for one in held if type(one) is Link]


def part(receipt: Receipt) -> list[Finding]:  # 14
    """Follow the keys of a part from the root's result."""
    if not receipt.part:
        return []
    try:
        for root in receipt.roots:
            found: Value = receipt.read(receipt.steps[root].result)
            for key in receipt.part.split("/"):
                receipt.allow()
                found = _member(found, key)
    except (HyperpyError, KeyError) as error:
        return [Finding("part", f"the part {receipt.part[:200]!a} is not reached: {error!s:.200}")]
    return []


def _member(item: Value, key: str) -> Value:
    if isinstance(item, tuple):
        if not (key.isdigit() and len(key) < 10 and 0 < int(key) <= len(item)):
            raise KeyError(key)
        found = item[int(key) - 1]
        return found.load() if isinstance(found, Link) else found
    if not isinstance(item, Message):
        raise KeyError(key)
    return item[key]


def signature(receipt: Receipt, wanted: tuple[str, ...] | None) -> list[Finding]:  # 15
    """Check who signed the receipt."""
    if receipt.signature is None:
        found = [Finding("unsigned", "nobody signed the receipt, so nobody vouches for its steps")]
    elif not receipt.signers:
        found = [_unsound(receipt)]
    else:
        found = []
    if wanted is not None and set(wanted).isdisjoint(receipt.signers):
        signers = ", ".join(receipt.signers) or "nobody"
        found.append(Finding("policy", "none of those that the policy names signed", ", ".join(wanted), signers))
    return found


def _unsound(receipt: Receipt) -> Finding:
    """Return what is wrong with a receipt's signature."""
    assert receipt.signature is not None
    told, digest = receipt.signature.raw("digest"), b64u(receipt.digest)
    if told != digest.encode():
        shown = told.decode("ascii", "replace")[:60] if isinstance(told, bytes) else "none"
        return Finding("signature", "the receipt's signature is over another content", digest, shown)
    return Finding("signature", "the receipt's signature does not verify, or covers more or less than a digest")
