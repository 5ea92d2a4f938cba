"""Messages as canonical bytes with everything that is part of them: nested messages, all commitments.

A message without commitments is a map; one with them is the pair (items, commitments); a list is
``"list"`` and its members. What a link names is loaded and put in its place: the bytes stand alone.
"""

from __future__ import annotations

from typing import Any

from hyperpy.codecs import canonical
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import Link, Message, Value

MAX_DEPTH = 64
"""Nesting of what is written (design 5)."""

_LIST = b"list"
_NESTING = frozenset({Message, tuple, Link})


def encode(item: Value) -> bytes:
    """Return the canonical bytes of a value with all that belongs to it.

    Raises:
        MessageNotFound: a link is not at hand.
        CodecError, SizeError: the value has no canonical form, or is nested too deeply.
    """
    return canonical.encode(plain(item))


def decode(data: bytes) -> Value:
    """Return the value whose bytes are ``data``.

    Raises:
        CodecError, SizeError: they are not what :func:`encode` gives.
    """
    return restored(canonical.decode(data))


def plain(item: Value, depth: int = 0) -> Value:
    """Return a value in which commitments are ordinary parts; see :func:`restored`."""
    if depth > MAX_DEPTH:
        raise SizeError(f"a message nested more than {MAX_DEPTH} deep cannot be kept")
    if type(item) is Link:
        item = item.load()
    if type(item) is Message:
        items = item
        if not _NESTING.isdisjoint(map(type, item.raw_items().values())):
            items = Message.make(
                {
                    key: plain(child, depth + 1) if type(child) in _NESTING else child
                    for key, child in item.raw_items().items()
                }
            )
        if not item.commitments:
            return items
        return (items, Message.make({name: plain(fields, depth + 1) for name, fields in item.commitments.items()}))
    if type(item) is tuple:
        if _NESTING.isdisjoint(map(type, item)):
            return (_LIST, *item)
        return (_LIST, *[plain(child, depth + 1) for child in item])
    return item


def restored(item: Any) -> Value:
    """Return the value that :func:`plain` was given.

    Raises:
        CodecError: it gives nothing such.
    """
    if type(item) is Message:
        if _NESTING.isdisjoint(map(type, item.raw_items().values())):
            return item
        return Message.make(_restored(item))
    if type(item) is not tuple:
        return item  # type: ignore[no-any-return]
    if item and item[0] == _LIST and type(item[0]) is bytes:
        rest = item[1:]
        return rest if _NESTING.isdisjoint(map(type, rest)) else tuple([restored(child) for child in rest])
    if len(item) != 2 or type(item[0]) is not Message or type(item[1]) is not Message:
        raise CodecError("canonical: neither a list nor a message with its commitments")
    signed = {name: restored(fields) for name, fields in item[1].raw_items().items()}
    if not signed or not all(type(fields) is Message for fields in signed.values()):
        raise CodecError("canonical: commitments are messages")
    return Message.make(_restored(item[0]), signed)  # type: ignore[arg-type]


def _restored(item: Message) -> dict[str, Value]:
    return {key: restored(child) if type(child) in _NESTING else child for key, child in item.raw_items().items()}
