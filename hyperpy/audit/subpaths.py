"""What a request as it came put into a step: its sub-paths made again, and what ``~device&key=value`` put on a base.

A recorded request holds the results of its sub-paths in their place, and the deterministic ones leave no record of
their own. The kept raw request says what they were, so they are made again from it. Rule ``sub-path``: a value in the
request or base is not what its sub-path gives. A sub-path that cannot be made again here counts as an attested input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from hyperpy import commitments, normalise, path
from hyperpy.audit.scratch import Scratch
from hyperpy.codecs import canonical
from hyperpy.context import Chain, Frame, Given
from hyperpy.encoding import key_text
from hyperpy.errors import HyperpyError
from hyperpy.http.wire import RawRequest, Rules, read
from hyperpy.message import As, Link, Message, Resolve, Value
from hyperpy.trail import Oracle, Record
from hyperpy.verdicts import Finding

_MOST: Final = 64


class Member(NamedTuple):
    """One part of a request: its items, the key it asks for (None: none), and the device it is taken as, if any."""

    items: dict[str, Value]
    key: Value | None
    device: str | Resolve | None


def members_of(origin: bytes) -> list[Member]:
    """Return the parts of a request as it came; the first is the root.

    Raises:
        HyperpyError, ValueError, TypeError, KeyError: it is no such request.
    """
    raw: Any = canonical.decode(origin)
    pairs = tuple((one[0], one[1]) for one in raw["headers"])
    asked = RawRequest(key_text(raw["method"]), raw["target"], pairs, raw["body"], "127.0.0.1")
    return members_of_parts(path.parse(read(asked, Rules()).message))


def members_of_parts(parts: Sequence[Value]) -> list[Member]:
    """Return the parts of a parsed request; the first is the root."""
    return [_member(one) for one in parts]


def _member(item: Value) -> Member:
    inner: Value | None = item
    device: str | Resolve | None = None
    outer: dict[str, Value] = {}
    if isinstance(item, Message) and isinstance(item.raw("path"), As):
        outer = {name: one for name, one in item.raw_items().items() if name != "path"}
        inner = item.raw("path")
    if isinstance(inner, As):
        device, inner = inner.device, inner.message
    items = {**outer, **inner.raw_items()} if isinstance(inner, Message) else outer
    return Member(items, items.get("path", inner if isinstance(inner, bytes) else None), device)


def not_put_on(members: Sequence[Member], base: Message, changed: frozenset[str]) -> frozenset[str]:
    """Return which of the keys that were changed on a base no ``~device&key=value`` part put there."""
    put: dict[str, list[Value]] = {}
    for member in members[1:]:
        if member.device is None:
            continue
        items = member.items if member.key is None else {}
        device = member.device if isinstance(member.device, Resolve) else member.device.encode()
        for name, one in {**items, "device": device}.items():
            put.setdefault(name, []).append(one)
    return frozenset(name for name in changed if not any(_may_be(one, base.raw(name)) for one in put.get(name, ())))


def _may_be(one: Value, other: Value | None) -> bool:
    return isinstance(one, (Resolve, As)) or (other is not None and _same(one, other))


def checked(
    members: Sequence[Member], record: Record, base: Message, request: Message, parts: Sequence[Record], at: Scratch
) -> tuple[list[Finding], int]:
    """Make the sub-paths of a request again; return what differs, and how many could not be made."""
    found: list[Finding] = []
    trusted = 0
    for role, item, alike in _pairs(members, record, base, request):
        for name in {name for member in alike for name, one in member.items.items() if isinstance(one, Resolve)}:
            wanted = [member.items[name] for member in alike if name in member.items]
            if name not in item or not all(isinstance(one, Resolve) for one in wanted) or len(wanted) > _MOST:
                continue
            values = [_made(one, parts, at) for one in wanted if isinstance(one, Resolve)]
            if any(_same(one, item.raw(name)) for one in values if one is not None):
                continue
            if None in values:
                trusted += 1
                continue
            text = f"'{name}' of the {role} is not what its sub-path gives"
            found.append(Finding("sub-path", text, _shown(values[0]), _shown(item.raw(name))))
    return found, trusted


def _pairs(
    members: Sequence[Member], record: Record, base: Message, request: Message
) -> Iterator[tuple[str, Message, list[Member]]]:
    """Yield a message of the step with the parts of the request that may have made it."""
    if "/" not in record.hashpath_before and members:
        yield "base", base, [members[0]]
    yield "request", request, [one for one in members[1:] if one.key == request.raw("path")]


def _made(item: Resolve, parts: Sequence[Record], at: Scratch) -> Value | None:
    """Return what a sub-path gives, with recorded answers where it cannot be made again; None if it cannot be told."""
    answers = [Oracle(one.device, one.key, one.request, one.result, one.status) for one in parts if not one.cached_from]
    if len({(one.device, one.key, one.request) for one in answers}) < len(set(answers)):
        return None  # two answers to one question: which came first cannot be told
    chain = Chain(deadline=at.deadline(), lookup=False, given=_Any(answers), linked=True, may_sign=False)
    chain.strict = not answers
    try:
        return normalise.plain(at.resolver, item, Frame(at.resolver, chain, 0, None).nested())
    except HyperpyError:
        return None


class _Any(Given):
    """Recorded answers, in whatever order they are asked for."""

    def next(self, device: str, key: str, request: Any) -> Oracle:
        wanted = request()
        for one in self._left:
            if (one.device, one.key, one.request) == (device, key, wanted):
                return one
        self._refuse(f"the trail holds no recorded answer for {device}/{key}", "", f"{device}/{key}")
        raise AssertionError


def _same(one: Value, other: Value | None) -> bool:
    if isinstance(other, Link):
        try:
            other = other.load()
        except HyperpyError:
            return True
    if other is None:
        return True
    return _name(one) == _name(other)


def _name(item: Value) -> str:
    if isinstance(item, Message):
        return commitments.unsigned_id(Message.make(dict(item.raw_items())))
    return commitments.unsigned_id(Message.make({"a": item}))


def _shown(item: Value | None) -> str:
    if isinstance(item, Link):
        return item.id
    return commitments.unsigned_id(item) if isinstance(item, Message) else repr(item)[:100]
