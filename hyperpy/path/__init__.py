"""Paths: one request that describes a chain, and the chain (ao-core 6).

A *singleton* is a path, or a message whose key ``path`` is one. :func:`parse` turns it into
the sequence ``[base, request, request ...]`` that is folded by resolving; :func:`format` is
the inverse. The grammar is in docs/paths.md. Members are

    ======================  ===================================================
    bytes                   an ID: the message of that name
    Message                 a request (``path`` is its key), or the base
    As(device, message)     ``KEY~device``: a message under another device
    Resolve(members)        ``(path)``: stands for its result
    ======================  ===================================================

Files: ``grammar`` (escapes, quotes, types), ``parts`` (one part), ``scope`` (keys
of the request), ``formatting`` (the inverse).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from hyperpy.encoding import key_bytes
from hyperpy.errors import PathError, SizeError
from hyperpy.message import Message, Value
from hyperpy.path import formatting, grammar
from hyperpy.path.parts import Limits, Reader
from hyperpy.path.scope import message_keys, query_keys, spread

__all__ = ["LIMITS", "Limits", "format", "parse"]

LIMITS: Final = Limits()
_CACHED_TEXT: Final = 1024


def parse(singleton: Message | str | bytes, *, limits: Limits = LIMITS) -> list[Value]:
    """Return the sequence that a path, or a message with a path, describes; [] if the path is empty.

    Keys of the message and of the path's query go to the members (6.4); so do the message's
    commitments and private values (not its hashpath, which belongs to the message alone).

    Raises:
        PathError: the path does not parse; ``offset`` counts characters of the decoded path.
        CodecError: ``ao-types`` of the request does not fit its values.
        SizeError: a limit was passed.
    """
    message = singleton if isinstance(singleton, Message) else None
    decoded = _decoded(singleton if message is None else message.raw("path"), limits)
    nested = grammar.is_nested(decoded)
    if nested:
        parts, path, query = grammar.split_path(decoded)
        reader = Reader(limits)
        members = reader.members(parts, 0)
    else:
        path, _, query = decoded.partition("?")
        members, used = (_cached if len(path) <= _CACHED_TEXT else _plain)(path, limits)
        reader = Reader(limits, used)
    if not members:
        return []
    keys: dict[str, Value] = {}
    if message is not None:
        keys = message_keys(message, lambda text: reader.resolve(text, 0))
    if query:
        keys.update(query_keys(query, lambda text: reader.resolve(text, 0)))
    if message is not None and (message.commitments or message.private):
        private = {name: value for name, value in message.private.items() if name != "hashpath"}
        return spread(members, keys, message.commitments, private, limit=limits.keys)
    if keys or "ao-types" in path:
        return spread(members, keys, limit=limits.keys)
    return list(members)


def format(members: Sequence[Value]) -> Message:
    """Return the request whose path describes ``members``: ``parse(format(x))`` is ``x``.

    Two things are understood rather than written: the empty base in front of a first request,
    and none in front of an ID, ``~device`` or sub-path. Private values are left out.

    Raises:
        PathError: the sequence has no form as one request. It is read back before it is
            returned, so it is never written wrongly.
        SizeError: a limit of paths was passed.
    """
    if not members:
        return Message()
    made = formatting.write(members)
    if parse(made) != formatting.understood(members):
        raise PathError("these messages have no form as one path", hint="Send them as single requests.")
    return made


def _decoded(text: Value | str | None, limits: Limits) -> str:
    if text is None:
        return ""
    if isinstance(text, str):
        try:
            raw = key_bytes(text)
        except UnicodeEncodeError as error:
            raise PathError("the path is not UTF-8 text", offset=error.start) from None
    elif type(text) is bytes:
        raw = text
    else:
        raise PathError(f"a path must be text, not a {type(text).__name__}")
    if len(raw) > limits.size:
        raise SizeError(f"the path is {len(raw)} bytes long, more than {limits.size}")
    return grammar.utf8(grammar.unescape(raw) if b"%" in raw else raw)


def _plain(path: str, limits: Limits) -> tuple[tuple[Value, ...], int]:
    """Return the members of a path without quotes and parentheses, and how many parts it has."""
    reader = Reader(limits)
    return reader.members(path.split("/"), 0), reader.used


_cached = lru_cache(maxsize=1024)(_plain)
