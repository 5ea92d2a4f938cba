"""The signature base of an unsigned ID, straight from a message's shape (ao-core 4.7, 4.9).

Messages come in few shapes, and within one shape only the values of the base differ. A plan is
the base as a format text with the values left open, in canonical order; it is made once by the
general encoder and remembered. A message of twenty integers then costs one formatting and one
MAC. Whatever a plan cannot say (long or bundled values, keys in the form of an ID, a user's own
``ao-body-key``) has none, and takes the general way; so do messages with more than 4096 bytes of keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from hyperpy.codecs import httpsig, sfv, signature
from hyperpy.codecs.structured import encode
from hyperpy.encoding import ID_LENGTHS, key_bytes
from hyperpy.message import Atom, Link, Message, Value

UNSIGNED_KEY: Final = b"constant:ao"
UNSIGNED_PARAMS: Final = signature.base_params({"type": b"hmac-sha256", "keyid": UNSIGNED_KEY})

_PLANS: Final = 4096
_PLAN_BYTES: Final = 4096
_SPECIAL = frozenset({"ao-body-key", "ao-types", "content-type", "content-digest", "signature", "signature-input"})
_TEXTS: Mapping[type, Callable[[Any], bytes]] = {
    int: sfv.integer_text,
    float: sfv.float_bytes,
    bool: lambda found: b"true" if found else b"false",
    Atom: sfv.atom_text,
}
_MARK = b"\x00%d\x00"


class _Plan(NamedTuple):
    text: bytes
    """The base, with ``%b`` or ``%d`` for each value."""
    pick: Callable[[Any], Any]
    one: bool
    """Whether ``pick`` gives a single value rather than a tuple."""
    turn: tuple[tuple[int, Callable[[Any], bytes] | None], ...]
    """Positions whose value is written by a function; None for the body's digest."""
    texts: tuple[int, ...]
    """Positions of header values that are bytes and must not be long."""
    nested: tuple[int, ...]
    covers: frozenset[str]
    """The key names that the base covers, ``ao-types`` among them where a value has a type."""


_plans: dict[Any, _Plan | None] = {}


_KEY_BLOCK = UNSIGNED_KEY.ljust(64, b"\x00")
_INNER, _OUTER = (hashlib.sha256(bytes([byte ^ pad for byte in _KEY_BLOCK])) for pad in (0x36, 0x5C))


def unsigned_mac(base: bytes) -> bytes:
    """Return the HMAC-SHA256 of a base under the constant key: 32 bytes, and an unsigned ID.

    The two hashes begin with a block that never changes (RFC 2104, section 4), so they are copied: this takes
    half as long as ``hmac.digest``.
    """
    inner, outer = _INNER.copy(), _OUTER.copy()
    inner.update(base)
    outer.update(inner.digest())
    return outer.digest()


def unsigned_base(msg: Message, link: Callable[[Any], str]) -> bytes | None:
    """Return the base whose MAC is the message's unsigned ID; None if it takes the general way.

    Args:
        link: gives a child's ID.
    """
    items = msg.raw_items()
    plan = _plan_of(items)
    return None if plan is None else _with_values(plan, items, link)


def whole_base(msg: Message, link: Callable[[Any], str]) -> tuple[bytes, frozenset[str]] | None:
    """Return the base over all of a message up to its parameters, and the names it covers; None as above.

    A signature over just these names, nested messages by ID, has this base too, with parameters of its own.
    """
    items = msg.raw_items()
    plan = _plan_of(items)
    base = None if plan is None else _with_values(plan, items, link)
    if plan is None or base is None:
        return None
    return base.removesuffix(UNSIGNED_PARAMS), plan.covers


def _plan_of(items: Mapping[str, Value]) -> _Plan | None:
    shape = (*items, *map(type, items.values()))
    try:
        return _plans[shape]
    except KeyError:
        return _make(shape, items)


def _with_values(plan: _Plan, items: Mapping[str, Value], link: Callable[[Any], str]) -> bytes | None:
    text, pick, one, turn, texts, nested, _ = plan
    found = (pick(items),) if one else pick(items)
    for at in texts:
        if len(found[at]) > httpsig.MAX_HEADER:
            return None
    if turn or nested:
        values = list(found)
        for at, write in turn:
            values[at] = signature.digest_header(values[at]) if write is None else write(values[at])
        for at in nested:
            child = values[at]
            values[at] = key_bytes(child.id) if type(child) is Link else link(child).encode("ascii")
        return text % tuple(values)
    return text % found


def _make(shape: Any, items: Mapping[str, Value]) -> _Plan | None:
    """Remember the plan of a shape; one with many keys has none, as making it takes quadratic time."""
    if sum(map(len, items)) > _PLAN_BYTES:
        return None
    if len(_plans) >= _PLANS:
        _plans.clear()
    plan = _plans[shape] = _plan(items)
    return plan


def _plan(items: Mapping[str, Value]) -> _Plan | None:
    """Encode a message of this shape whose values are marks, and read the order off the base."""
    for key, value in items.items():
        known = type(value) in (bytes, Message, tuple, Link) or type(value) in _TEXTS
        if not known or key in _SPECIAL or not key.isascii() or "%" in key or "\x00" in key:
            return None
        if len(key) in ID_LENGTHS or len(key) + 5 in ID_LENGTHS or key.endswith("+link") or key.startswith("priv"):
            return None
    body = "body" if "body" in items else "data"
    if type(items.get(body)) in (Message, tuple, Link):
        if body == "body" and "data" in items:
            return None
        body = ""  # it travels by its ID, as a header
    keys = [key for key in items if key != "unsigned_id"]
    if not keys:
        return None
    types = encode(Message.make({key: items[key] for key in keys if type(items[key]) in _TEXTS})).get("ao-types")
    tabm: Any = {} if types is None else {"ao-types": types}
    marks: dict[str, bytes] = {}
    for number, key in enumerate(keys):
        name = key + "+link" if type(items[key]) in (Message, tuple, Link) else key
        tabm[name] = marks[key] = _MARK % number
    form = httpsig.signed(tabm)
    if body in items:
        form.headers["content-digest"] = marks[body]
    base = form.base(UNSIGNED_PARAMS).replace(b"%", b"%%")
    return _filled(base, items, keys, marks, body)._replace(covers=frozenset(form.committed))


def _filled(base: bytes, items: Mapping[str, Value], keys: list[str], marks: Mapping[str, bytes], body: str) -> _Plan:
    order = sorted(keys, key=lambda key: base.index(marks[key]))
    turn: list[tuple[int, Callable[[Any], bytes] | None]] = []
    texts, nested = [], []
    for at, key in enumerate(order):
        kind = type(items[key])
        hole = b"%b"
        if key == body:
            turn.append((at, _TEXTS.get(kind)))
            if kind in _TEXTS:
                write = _TEXTS[kind]
                turn[-1] = (at, lambda found, write=write: signature.digest_header(write(found)))  # type: ignore[misc]
        elif kind is int:
            hole = b"%d"
        elif kind is bytes:
            texts.append(at)
        elif kind in _TEXTS:
            turn.append((at, _TEXTS[kind]))
        else:
            nested.append(at)
        base = base.replace(marks[key], hole, 1)
    return _Plan(base, itemgetter(*order), len(order) == 1, tuple(turn), tuple(texts), tuple(nested), frozenset())
