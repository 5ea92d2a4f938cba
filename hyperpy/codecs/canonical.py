"""Canonical bytes: one and only one text for a value (design.md 3, "Canonical bytes").

Used for trail records, receipts and snapshots, never on AO's wire. It is msgpack, narrowed:

    ====================  ==========================================================
    bytes                 bin, shortest header
    int                   shortest integer; outside 64 bits ext 1, two's complement
    bool                  true, false
    None                  nil (only where a record field is empty; no message value)
    Atom                  ext 2, its name
    Link                  ext 3, its ID
    float                 ext 4, the text of ``hyperpy.encoding.float_text``
    tuple                 array
    Message               map of its items: keys as bin, sorted bytewise, each once
    ====================  ==========================================================

Commitments and private values of a message are not part of it: whoever needs them writes
them beside it. ``str``, ``list`` and ``dict`` are accepted when encoding, as when building a
message. Decoding accepts exactly what encoding gives, so equal values have equal bytes.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from hyperpy.encoding import float_text, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import Atom, Link, Message, atom

BIG_INTEGER: Final = 1
ATOM: Final = 2
LINK: Final = 3
FLOAT: Final = 4

MAX_DEPTH: Final = 128
"""Lists and maps inside one another: the 64 of a message, and room for the records around it."""

_CONTAINERS: Final = frozenset({Message, tuple, list, dict})
_AS_THEY_ARE: Final = frozenset({bytes, int, bool, type(None), Message, tuple, Atom, Link, msgpack.ExtType})
_FLOAT_TEXT: Final = re.compile(rb"-?[0-9]\.[0-9]{20}e[+-][0-9]{2,3}")


def encode(item: Any) -> bytes:
    """Return the canonical bytes of a message value, or of None.

    Raises:
        CodecError: the value, or one inside it, has no canonical form (infinities, ``As``,
            ``Resolve``, objects; a key of a ``dict`` that no message can have).
        SizeError: nested deeper than MAX_DEPTH, or a value of 4 GiB or more.
    """
    try:
        if type(item) is Message:
            flat = _flat(item.raw_items())
            if flat is not None:
                data: bytes = _packer().pack(flat)
                return data
        if type(item) in _CONTAINERS:
            _check_depth(item)
        data = _packer().pack(_plain(item))
        return data
    except UnicodeEncodeError:
        raise CodecError("canonical: text holds a lone surrogate") from None
    except (OverflowError, ValueError):
        raise SizeError("canonical: a value is too long") from None


def decode(data: bytes) -> Any:
    """Return the value whose canonical bytes are ``data``: a message value, or None.

    Raises:
        CodecError: ``data`` is not what :func:`encode` gives for any value.
        SizeError: nested deeper than MAX_DEPTH.
    """
    found = unpacked(data)
    if encode(found) != data:
        raise CodecError("canonical: the bytes are not in canonical form")
    return found


def unpacked(data: bytes) -> Any:
    """Return the value of bytes for a caller who encodes it again and compares: whether they are canonical is open.

    Raises:
        CodecError, SizeError: they are no msgpack, or hold what no value has.
    """
    return _unpack(data, _checked_message if b"commitments" in data or b"priv" in data else _message)


def decode_own(data: bytes) -> Any:
    """Return the value of bytes that this node wrote and nobody else could: whether they are canonical is not asked.

    Raises:
        CodecError, SizeError: they are damaged.
    """
    return _unpack(data, _message)


def _unpack(data: bytes, hook: Callable[[list[tuple[Any, Any]]], Message]) -> Any:
    try:
        return msgpack.unpackb(
            data, raw=True, use_list=False, strict_map_key=False, object_pairs_hook=hook, ext_hook=_extended
        )
    except msgpack.StackError:
        raise SizeError("canonical: nested too deeply") from None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise CodecError("canonical: the bytes are not msgpack, are cut off, or go on after the value") from None


_local = threading.local()


def _packer() -> msgpack.Packer:
    """Return this thread's packer: making one costs more than packing a small message."""
    found = getattr(_local, "packer", None)
    if found is None:
        found = _local.packer = msgpack.Packer(default=_expand, strict_types=True, use_bin_type=True)
    return found


# -- to msgpack ------------------------------------------------------------------------------


_orders: dict[tuple[str, ...], tuple[tuple[bytes, str], ...]] = {}
_SIMPLE: Final = frozenset({bytes, int, bool})
_ORDERS, _ORDER_KEYS, _ORDER_BYTES = 1024, 32, 512


def _flat(items: Mapping[str, Any]) -> dict[bytes, Any] | None:
    """Return the map of a message that holds nothing nested, by a remembered order of its keys; else None."""
    if not _SIMPLE.issuperset(map(type, items.values())):
        return None
    shape = tuple(items)
    order = _orders.get(shape)
    if order is None:
        if len(shape) > _ORDER_KEYS or sum(map(len, shape)) > _ORDER_BYTES:
            return None
        names = sorted((key_bytes(key), key) for key in shape)
        if len({name for name, _ in names}) != len(shape):
            return None
        if len(_orders) >= _ORDERS:
            _orders.clear()
        order = _orders[shape] = tuple(names)
    return {name: items[key] for name, key in order}


def _check_depth(item: Any) -> None:
    level = [item]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for found in level:
            if type(found) is Message:
                inner += found.raw_items().values()
            else:
                inner += found.values() if type(found) is dict else found
        level = [found for found in inner if type(found) in _CONTAINERS]
        if not level:
            return
    raise SizeError(f"canonical: nested deeper than {MAX_DEPTH}")


def _expand(item: Any) -> Any:
    """Turn what msgpack does not know into what it knows; called by the packer."""
    kind = type(item)
    if kind is Message:
        return _sorted_map(item.raw_items())
    if kind is tuple:
        return list(_all_plain(item))
    if kind is Atom:
        return msgpack.ExtType(ATOM, key_bytes(item))
    if kind is Link:
        return msgpack.ExtType(LINK, key_bytes(item.id))
    if kind is int:
        size = (item if item >= 0 else ~item).bit_length() // 8 + 1
        return msgpack.ExtType(BIG_INTEGER, item.to_bytes(size, "big", signed=True))
    raise CodecError(f"canonical: a {kind.__name__} has no canonical form")


def _sorted_map(items: Mapping[str, Any]) -> dict[bytes, Any]:
    by_key = {key.encode("utf-8", "surrogateescape"): item for key, item in items.items()}
    if len(by_key) != len(items):
        raise CodecError("canonical: two keys have the same bytes")
    if _AS_THEY_ARE.issuperset(map(type, by_key.values())):
        return {key: by_key[key] for key in sorted(by_key)}
    return {key: _plain(by_key[key]) for key in sorted(by_key)}


def _all_plain(items: tuple[Any, ...]) -> Iterable[Any]:
    return items if _AS_THEY_ARE.issuperset(map(type, items)) else map(_plain, items)


def _plain(item: Any) -> Any:
    """Replace the types that msgpack would write in its own way; containers one layer only."""
    kind = type(item)
    if kind in _AS_THEY_ARE:
        return item
    if kind is float:
        if not math.isfinite(item):
            raise CodecError("canonical: infinities and NaN have no canonical form")
        return msgpack.ExtType(FLOAT, float_text(item).encode("ascii"))
    if kind is str:
        return key_bytes(item)
    if kind is list:
        return tuple(item)
    if kind is dict:
        return Message.make(_checked_keys(item))
    raise CodecError(f"canonical: a {kind.__name__} has no canonical form")


def _checked_keys(items: dict[Any, Any]) -> dict[str, Any]:
    for key in items:
        if type(key) is not str:
            raise CodecError(f"canonical: a key must be text, not {type(key).__name__}")
        if key == "commitments" or key.startswith("priv"):
            raise CodecError(f"canonical: '{key[:40]}' is no key of a message's items")
    return items


# -- from msgpack ----------------------------------------------------------------------------


def _message(pairs: list[tuple[Any, Any]]) -> Message:
    try:
        return Message.make({key.decode("utf-8", "surrogateescape"): item for key, item in pairs})
    except AttributeError:
        raise CodecError("canonical: a key is not binary") from None


def _checked_message(pairs: list[tuple[Any, Any]]) -> Message:
    made = _message(pairs)
    _checked_keys(dict(made.raw_items()))
    return made


def _extended(code: int, data: bytes) -> Any:
    if code == ATOM:
        return atom(key_text(data))
    if code == LINK:
        return Link(key_text(data))
    if code == BIG_INTEGER:
        return int.from_bytes(data, "big", signed=True)
    if code == FLOAT and _FLOAT_TEXT.fullmatch(data):
        return float(data)
    raise CodecError(f"canonical: extension type {code} is unknown, or its content is wrong")
