"""structured@1.0: typed messages to TABMs and back (ao-core 1.6, 2.1, 2.2).

A TABM is a map of text keys to bytes or TABMs. The types of its values are one text under
``ao-types``; a nested message is inline (``bundle``) or replaced by ``K+link``, its ID.

Messages come in few shapes. A shape is the keys and the types of their values; what can be
computed from it alone (order, ``ao-types``, how each value is written or read) is a plan, made
once and remembered. With a plan, a message of twenty integers takes a few microseconds.

Encoding refuses with CodecError what could not be read back: ``K`` beside ``K+link``,
infinities, NaN. Decoding refuses whatever it does not understand, never guesses, and drops
keys that begin with ``priv``: nothing private comes from outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, Union

from hyperpy.codecs import sfv
from hyperpy.encoding import bytewise, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import UNDEFINED, Atom, Link, Message, Value, list_to_map

Tabm: TypeAlias = dict[str, Union[bytes, "Tabm"]]
LinkTo: TypeAlias = Callable[[Message | tuple[Value, ...]], str]
Loader: TypeAlias = Callable[[str], Value]

MAX_DEPTH: Final = 64
"""Maps inside maps, at most."""
MAX_KEYS: Final = sfv.MAX_MEMBERS
"""Keys of one map, at most, when decoding."""

REGENERATED: Final = frozenset({"commitments", "unsigned_id", "content-digest"})
"""Keys that are never encoded as values of a message (1.4)."""
_PLANS: Final = 2048
_PLAN_BYTES: Final = 4096


# -- encoding ------------------------------------------------------------------------------


class _EncodePlan(NamedTuple):
    scalars: tuple[tuple[str, Callable[[Any], bytes] | None], ...]
    nested: tuple[str, ...]
    links: tuple[str, ...]
    types: bytes | None


_TEXTS: Mapping[type, tuple[str, Callable[[Any], bytes]]] = {
    int: ("integer", sfv.integer_text),
    float: ("float", sfv.float_bytes),
    bool: ("atom", lambda found: b"true" if found else b"false"),
    Atom: ("atom", sfv.atom_text),
}
_encode_plans: dict[Any, _EncodePlan] = {}


def encode(item: Message | tuple[Value, ...], *, link: LinkTo | None = None) -> Tabm:
    """Return the TABM of a message or list.

    Args:
        link: names a child by its ID, giving ``K+link``. Without it children are inline
            (``bundle``), and so is what a Link with a loader names.

    The keys ``unsigned_id``, ``content-digest`` and private ones are left out (1.4), as are
    :class:`~hyperpy.message.As` and :class:`~hyperpy.message.Resolve` values (2.1).

    Raises:
        CodecError: a value has no text, or ``K`` stands beside ``K+link``.
        SizeError: nested deeper than MAX_DEPTH.
        MessageNotFound: a link that is to be inline cannot be loaded.
    """
    return _encode(item, link, 0)


def _encode(item: Message | tuple[Value, ...], link: LinkTo | None, depth: int) -> Tabm:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    is_list = type(item) is tuple
    items: Mapping[str, Value] = list_to_map(item) if isinstance(item, tuple) else item.raw_items()
    if link is None and Link in map(type, items.values()):
        items = {key: _loaded(found) for key, found in items.items()}
    shape = (is_list, *items, *map(type, items.values()))
    plan = _encode_plans.get(shape) or _plan_encoding(shape, items, is_list)
    out: Tabm = {}
    for key, write in plan.scalars:
        out[key] = items[key] if write is None else write(items[key])  # type: ignore[assignment]
    for key in plan.nested:
        child: Any = items[key]
        if link is None:
            out[key] = _encode(child, None, depth + 1)
        else:
            out[key + "+link"] = link(child).encode("ascii")
    for key in plan.links:
        found: Any = items[key]
        out[key + "+link"] = key_bytes(found.id)
    if plan.types is not None:
        out["ao-types"] = plan.types
    if isinstance(item, Message) and item.commitments:
        out["commitments"] = {name: _encode(one, None, depth + 2) for name, one in item.commitments.items()}
    return out


def _loaded(found: Value) -> Value:
    return found.load() if type(found) is Link and found.loader is not None else found


def _plan_encoding(shape: Any, items: Mapping[str, Value], is_list: bool) -> _EncodePlan:
    scalars: list[tuple[str, Callable[[Any], bytes] | None]] = []
    nested, links, types = [], [], {"."} if is_list else set()
    names = {".": "list"}
    for key in bytewise(items):
        if key in REGENERATED or key.startswith("priv"):
            continue
        if key + "+link" in items:
            raise CodecError(f"{_shown(key)} stands beside its link")
        kind = type(items[key])
        if kind is bytes:
            scalars.append((key, None))
        elif kind in _TEXTS:
            name, write = _TEXTS[kind]
            scalars.append((key, write))
            types.add(key)
            names[key] = name
        elif kind is Message or kind is tuple:
            nested.append(key)
        elif kind is Link:
            links.append(key)
        elif is_list:
            raise CodecError("a list holds a control object, which has no text")
    entries = [f'{sfv.escape_key(key)}="{names[key]}"' for key in bytewise(types)]
    text = ", ".join(entries).encode("ascii") if entries else None
    if text is not None:  # the types of the values win over a user's key of that name
        scalars = [scalar for scalar in scalars if scalar[0] != "ao-types"]
    plan = _EncodePlan(tuple(scalars), tuple(nested), tuple(links), text)
    if sum(map(len, items)) <= _PLAN_BYTES:
        if len(_encode_plans) >= _PLANS:
            _encode_plans.clear()
        _encode_plans[shape] = plan
    return plan


def _shown(key: str) -> str:
    """Return a key as printable ASCII for an error's text."""
    return ascii(key[:40])


# -- decoding ------------------------------------------------------------------------------


class _DecodePlan(NamedTuple):
    values: tuple[tuple[str, Callable[[bytes], Value] | None], ...]
    links: tuple[tuple[str, str], ...]
    is_list: bool


_TYPES_TEXT = re.compile(rb'(?:[a-z0-9._%/?&-]*="[a-z-]+"(?:, (?!$)|$))+')
_TYPES_ENTRY = re.compile(r'([^=]*)="([^"]+)"(?:, )?')
_decode_plans: dict[Any, _DecodePlan] = {}
_read_list: Final = sfv.DECODERS["list"]


def parse_types(text: bytes) -> dict[str, str]:
    """Return the entries of an ``ao-types`` text: key to type name in lower case (2.2).

    Raises:
        CodecError: not a dictionary whose values are strings or tokens.
        SizeError: more than MAX_KEYS entries.
    """
    if text.count(b",") >= MAX_KEYS:
        raise SizeError(f"ao-types has more than {MAX_KEYS} entries")
    if _TYPES_TEXT.fullmatch(text):
        return {sfv.unescape_key(key): name for key, name in _TYPES_ENTRY.findall(text.decode("ascii"))}
    found: dict[str, str] = {}
    for key, member in sfv.parse_dictionary(text).items():
        name = member.value if isinstance(member, sfv.Item) else None
        if not isinstance(name, str):
            raise CodecError("ao-types gives each key a type's name")
        found[sfv.unescape_key(key)] = name.lower()
    return found


def decode(tabm: Tabm, *, loader: Loader | None = None) -> Message | tuple[Value, ...]:
    """Return the message or list of a TABM.

    Args:
        loader: goes into each Link made from ``K+link``.

    Raises:
        CodecError: a type is unknown, a text does not fit its type, a list has a hole or
            another key, ``K`` stands beside ``K+link``, a commitment is no map.
        SizeError: nested deeper than MAX_DEPTH or more than MAX_KEYS keys in one map.
    """
    return _decode(tabm, loader, 0)


def _decode(tabm: Tabm, loader: Loader | None, depth: int) -> Message | tuple[Value, ...]:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    types = tabm.get("ao-types", b"")
    if type(types) is not bytes:
        raise CodecError("ao-types must be text")
    shape = (types, *tabm)
    plan = _decode_plans.get(shape) or _plan_decoding(shape, tabm, types)
    items: dict[str, Value] = {}
    key = ""
    try:
        for key, read in plan.values:
            found = tabm[key]
            if type(found) is bytes:
                items[key] = found if read is None else read(found)
            else:
                child = _decode(found, loader, depth + 1)  # type: ignore[arg-type]
                items[key] = _numbered(child) if read is _read_list else child
    except CodecError as error:
        raise CodecError(f"{_shown(key)}: {error.message}") from None
    for key, name in plan.links:
        found = tabm[key]
        if type(found) is not bytes:
            raise CodecError(f"{_shown(key)} must be an ID")
        items[name] = Link(key_text(found), loader)
    if plan.is_list:
        return as_list(items)
    commitments = tabm.get("commitments")
    return Message.make(items) if commitments is None else Message.make(items, _commitments(commitments, loader, depth))


def _numbered(found: Message | tuple[Value, ...]) -> Message | tuple[Value, ...]:
    """Return the list that a map with the keys ``1..n`` is, if its parent types it so (hbsig does)."""
    if isinstance(found, tuple) or found.commitments:
        return found
    is_list = found.raw_items().keys() == {str(n) for n in range(1, len(found) + 1)}
    return as_list(found.raw_items()) if is_list else found


def _plan_decoding(shape: Any, tabm: Tabm, text: bytes) -> _DecodePlan:
    if len(tabm) > MAX_KEYS:
        raise SizeError(f"a message has more than {MAX_KEYS} keys")
    types = parse_types(text) if text else {}
    values: list[tuple[str, Callable[[bytes], Value] | None]] = []
    links = []
    for key in tabm:
        if key == "ao-types" or key == "commitments" or key.startswith("priv"):
            continue
        if key.endswith("+link"):
            name = key[:-5]
            if name in tabm or name == "commitments":
                raise CodecError(f"{_shown(name)} and its link stand side by side")
            if not name.startswith("priv"):
                links.append((key, name))
        else:
            values.append((key, _reader(types[key]) if key in types else None))
    plan = _DecodePlan(tuple(values), tuple(links), types.get(".") == "list" and "." not in tabm)
    if len(text) + sum(map(len, tabm)) <= _PLAN_BYTES:
        if len(_decode_plans) >= _PLANS:
            _decode_plans.clear()
        _decode_plans[shape] = plan
    return plan


def _reader(name: str) -> Callable[[bytes], Value]:
    if name == "integer":
        return _integer
    known = sfv.DECODERS.get(name)
    if known is None:
        raise CodecError(f"{_shown(name)} is no type of ao-types")
    return known


def _integer(text: bytes) -> int:
    return int(text) if len(text) < 20 and text.isdigit() else sfv.integer(text)


def as_list(items: Mapping[str, Value]) -> tuple[Value, ...]:
    """Return the list of a map with the keys ``1..n``.

    Raises:
        CodecError: a hole, another key, or the atom ``undefined``, which reads as a hole.
    """
    try:
        found = tuple(items[str(n)] for n in range(1, len(items) + 1))
    except KeyError as error:
        raise CodecError(f"a list has no member {error.args[0]}, or has a key that is no number") from None
    if any(type(member) is Atom and member == UNDEFINED for member in found):
        raise CodecError("a list holds the atom undefined, which counts as a hole")
    return found


def _commitments(found: bytes | Tabm, loader: Loader | None, depth: int) -> dict[str, Message]:
    if type(found) is bytes:
        raise CodecError("commitments must be a map")
    if len(found) > MAX_KEYS:
        raise SizeError(f"a message has more than {MAX_KEYS} commitments")
    return {
        name: as_commitment(name, _decode(one, loader, depth + 2) if type(one) is dict else b"")
        for name, one in found.items()  # type: ignore[union-attr]
    }


def as_commitment(name: str, found: Value) -> Message:
    """Return a commitment with ``committed`` as a list, also where it came as a map ``1..n``.

    Raises:
        CodecError: the commitment is no map, or ``committed`` has a hole.
    """
    if type(found) is not Message:
        raise CodecError(f"commitment {_shown(name)} must be a map")
    committed = found.raw("committed")
    if type(committed) is Message:
        return Message.make({**found.raw_items(), "committed": as_list(committed.raw_items())})
    return found
