"""A path taken apart: where it begins, and turn by turn what is put on the base and what is asked of it.

``/~a@1.0&x=1/set&y=2/~b@1.0&z=3/add`` begins with ``{device: a@1.0, x: 1}`` and has two turns: ``set`` with ``y=2``,
and, after ``device`` and ``z`` were put on its result, ``add``. A turn is what leaves one record at top level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from hyperpy import path, results
from hyperpy.codecs import canonical, whole
from hyperpy.encoding import is_id, key_text
from hyperpy.errors import CodecError, HyperpyError
from hyperpy.http.wire import RawRequest, Rules, read
from hyperpy.message import As, Message, Resolve, Value
from hyperpy.receipt.content import genuine
from hyperpy.trail import Record

ASKING: Final = frozenset({"attest", "attest-nonce"})
"""Keys of a path that a node answers itself and takes out before the first step."""
_RULES: Final = (Rules(), Rules(host_with_port=True))
_LIMITS: Final = path.Limits(size=1 << 20, parts=4096, depth=64, keys=1_000_000)
"""What a node may have been set to take."""
_REMEMBERED: Final = 64 << 10
"""Bytes of a request that is not taken apart again for each of its steps."""


class Turn(NamedTuple):
    """What led to one step.

    Attributes:
        puts: what ``~device&key=value`` parts put on the base before it; values may be sub-paths.
        request: what is asked, its key under ``path``; or the sub-path that gives all of it.
    """

    puts: Mapping[str, Value]
    request: Mapping[str, Value] | Resolve

    @property
    def key(self) -> Value | None:
        """The key that is asked for; None where a sub-path tells it."""
        return None if isinstance(self.request, Resolve) else self.request.get("path")


class Way(NamedTuple):
    """A path taken apart.

    Attributes:
        root: the ID (text) or sub-path that it begins with; None: with a message of its own.
        puts: the items of that message, or what ``ID~device&key=value`` puts on the one that is named.
        turns: one for each step.
        rest: what is put on the last result: no step follows.
    """

    root: bytes | Resolve | None
    puts: Mapping[str, Value]
    turns: tuple[Turn, ...]
    rest: Mapping[str, Value]

    def places(self, record: Record, request: Message, place: int, first: Record | None) -> list[int]:
        """Return the turns that a record may be of; one where that is sure.

        Args:
            request: the record's.
            place: how many steps of the same request led to it.
            first: the first of these.
        """
        key = request.raw("path")
        alike = [number for number, one in enumerate(self.turns) if one.key is None or one.key == key]
        before = (first or record).hashpath_before
        if "/" not in before:
            sure = place
        elif isinstance(self.root, bytes) and self.turns and before == _joined(self.root, self.turns[0].key):
            sure = place + 1  # the first answer was read from the trail
        elif isinstance(self.root, bytes):
            sure = place
        else:
            return alike
        return [number for number in alike if number == sure]


def way_of(parts: Sequence[Value]) -> Way:
    """Take the parts of a path apart; the first is the root.

    Raises:
        ValueError: there is no part, or one that no path has.
    """
    if not parts:
        raise ValueError("the path is empty")
    root, puts, turns = _root(parts[0])
    waiting: dict[str, Value] = {}
    for part in parts[1:]:
        put, asked = _split(part)
        waiting.update(put)
        if asked is not None:
            turns.append(Turn(waiting, asked))
            waiting = {}
    return Way(root, puts, tuple(turns), waiting)


def ways_of(origin: bytes) -> tuple[Way, ...]:
    """Return how a request as it came may have been read; nodes differ in one rule.

    Raises:
        CodecError: the bytes are no request.
        HyperpyError, ValueError: it asks for no path.
    """
    return (_remembered if len(origin) <= _REMEMBERED else _ways_of)(origin)


def _ways_of(origin: bytes) -> tuple[Way, ...]:
    raw = raw_request(origin)
    found: list[Way] = []
    for rules in _RULES:
        parts = results.with_slots(path.parse(read(raw, rules).message, limits=_LIMITS))
        one = way_of(parts)
        if one not in found:
            found.append(one)
    return tuple(found)


_remembered = lru_cache(maxsize=256)(_ways_of)


def raw_request(origin: bytes) -> RawRequest:
    """Return a kept request.

    Raises:
        CodecError: the bytes are none.
    """
    fields: Any = canonical.decode(origin)
    if not isinstance(fields, Message) or set(fields) != {"body", "headers", "method", "target"}:
        raise CodecError("it is no request over HTTP")
    method, target, headers, body = (fields.raw(name) for name in ("method", "target", "headers", "body"))
    if not (isinstance(method, bytes) and isinstance(target, bytes) and isinstance(body, bytes)):
        raise CodecError("it is no request over HTTP")
    pairs: list[tuple[bytes, bytes]] = []
    for one in headers if isinstance(headers, tuple) else (None,):
        name, text = one if isinstance(one, tuple) and len(one) == 2 else (None, None)
        if not (isinstance(name, bytes) and isinstance(text, bytes)):
            raise CodecError("it is no request over HTTP")
        pairs.append((name, text))
    return RawRequest(key_text(method), target, tuple(pairs), body, "127.0.0.1")


def _root(part: Value) -> tuple[bytes | Resolve | None, dict[str, Value], list[Turn]]:
    if isinstance(part, (bytes, Resolve)):
        return part, {}, []
    if isinstance(part, Message):
        return None, dict(part.raw_items()), []
    if not isinstance(part, As):
        raise ValueError("a path begins otherwise")
    inner = part.message
    if isinstance(inner, bytes):
        return inner, _device(part), []
    if not isinstance(inner, Message):
        raise ValueError("a path begins otherwise")
    items = dict(inner.raw_items())
    at = items.pop("path", None)
    if isinstance(at, bytes) and is_id(at):
        return at, items | _device(part), []
    if at is None:
        return None, _device(part) | items, []
    own = items | _device(part)
    return None, own, [Turn({}, own | {"path": at})]


def _split(part: Value) -> tuple[dict[str, Value], dict[str, Value] | Resolve | None]:
    """Return what a part puts on the base, and what it asks of it, if it asks."""
    if isinstance(part, Resolve):
        return {}, part
    outer: dict[str, Value] = {}
    if isinstance(part, Message) and isinstance(part.raw("path"), As):
        outer = {name: one for name, one in part.raw_items().items() if name != "path"}
        part = part["path"]
    puts = _device(part) if isinstance(part, As) else {}
    inner = part.message if isinstance(part, As) else part
    if isinstance(inner, Resolve):
        return puts, inner
    if isinstance(inner, Message):
        items = {**outer, **inner.raw_items()}
    elif isinstance(inner, bytes):
        items = {**outer, "path": inner}
    else:
        raise ValueError("a path has no such part")
    return (puts, items) if "path" in items else (puts | items, None)


def _device(part: As) -> dict[str, Value]:
    if isinstance(part.device, Resolve):
        return {"device": part.device}
    return {"device": part.device.encode()} if part.device else {}


def _joined(root: bytes, key: Value | None) -> str:
    return f"{key_text(root)}/{key_text(key)}" if isinstance(key, bytes) else ""


def signed_with(origin: bytes) -> frozenset[tuple[str, bytes]]:
    """Return the signatures of a request as it came, each one verified there, as :func:`written` has them.

    Raises:
        HyperpyError, ValueError: it is no request, or one does not hold.
    """
    return (_remembered_signed if len(origin) <= _REMEMBERED else _signed_with)(origin)


def _signed_with(origin: bytes) -> frozenset[tuple[str, bytes]]:
    request = read(raw_request(origin)).message
    if request.commitments:
        genuine(request)
    return written(request)


_remembered_signed = lru_cache(maxsize=256)(_signed_with)


def written(item: Message) -> frozenset[tuple[str, bytes]]:
    """Return a message's commitments: names, and the canonical bytes of their fields."""
    return frozenset((name, canonical.encode(whole.plain(one))) for name, one in item.commitments.items())


def unread(origin: bytes) -> bool:
    """Say whether bytes are no request over HTTP at all: no honest trail holds such."""
    try:
        raw_request(origin)
    except (HyperpyError, ValueError, TypeError):
        return True
    return False
