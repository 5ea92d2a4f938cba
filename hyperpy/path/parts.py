"""Parts of a path: ``KEY``, ``~device``, ``ID``, ``(path)``, with inline keys (ao-core 6.2, 6.3).

A text of ID length is an ID only if it holds none of ``& ~ + =`` and space (v0.9-final 1, row 14).
A space that is no ``key type=value`` is refused, where the references answer 500 or drop it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from hyperpy.encoding import ID_LENGTHS
from hyperpy.errors import PathError, SizeError
from hyperpy.message import As, Message, Resolve, Value
from hyperpy.path import grammar
from hyperpy.path.scope import check_names, query_keys, spread

MAX_PART: Final = 512
"""Longest part of a path in bytes, quotes and sub-paths included."""

_EMPTY: Final = Message()
_SPECIAL = re.compile(r"[&~+ =]").search


class Limits(NamedTuple):
    """What one path may hold: ``size`` in bytes, ``parts`` and ``depth`` with sub-paths counted in.

    ``keys`` bounds what scoping writes: keys of the request times members of the sequence.
    """

    size: int = 64 * 1024
    parts: int = 256
    depth: int = 64
    keys: int = 100_000


class Reader:
    """Reads one path with all its sub-paths, and counts their parts together."""

    __slots__ = ("limits", "used")

    def __init__(self, limits: Limits, used: int = 0) -> None:
        self.limits = limits
        self.used = used

    def sequence(self, text: str, depth: int) -> tuple[Value, ...]:
        """Return the members that a (sub-)path stands for; the text may hold escapes and a query."""
        if len(text) > self.limits.size:
            raise SizeError(f"a sub-path is {len(text)} characters long, more than {self.limits.size}")
        parts, path, query = grammar.split_path(grammar.decode(text))
        found = self.members(parts, depth)
        if query or "ao-types" in path:
            keys = query_keys(query, lambda inner: self.resolve(inner, depth))
            return tuple(spread(found, keys, limit=self.limits.keys))
        return found

    def members(self, parts: Sequence[str], depth: int) -> tuple[Value, ...]:
        """Return the members of split parts: a base in front if none is given (6.1, stages 6 and 7)."""
        found: list[Value] = []
        for index, text in enumerate(parts):
            if not text:
                continue
            self.used += 1
            try:
                found.append(self.part(text, depth))
            except PathError as error:
                error.offset += index + sum(map(len, parts[:index]))
                raise
        if self.used > self.limits.parts:
            raise SizeError(f"the path has more than {self.limits.parts} parts, sub-paths counted in")
        if found and type(found[0]) is Message:
            found.insert(0, _EMPTY)
        return tuple(found)

    def part(self, text: str, depth: int) -> Value:
        """Return what one non-empty part stands for (6.2)."""
        raw = text.encode("utf-8")
        if len(raw) > MAX_PART:
            raise PathError(
                f"a part of the path is {len(raw)} bytes long, more than {MAX_PART}",
                hint="Send long values as headers or in the body.",
            )
        special = _SPECIAL(text)
        if special is None and len(raw) in ID_LENGTHS:
            return raw
        if text[0] == "(" and text[-1] == ")" and len(raw) > 1:
            return self.resolve(text[1:-1], depth, 1)
        if special is None:
            return Message.make({"path": raw})
        at: int | None = special.start()
        if grammar.is_nested(text):
            at = next(grammar.cuts(text, "&~+ ="), None)
            if at is None:
                return Message.make({"path": raw})
        return self._modified(text, at or 0, depth)

    def _modified(self, text: str, at: int, depth: int) -> Value:
        mark = text[at]
        items: dict[str, Value] = {"path": text[:at].encode("utf-8")}
        if mark == "~":
            return self._as(text, at, items, depth)
        start = at + 1 if mark == "&" else 0
        if mark == " " and not grammar.partition(grammar.split(text, "&")[0], "=")[1]:
            raise PathError(
                f"there is a space in the part '{grammar.shown(text)}'",
                offset=at,
                hint='A value with spaces is written key="a b"; an extra key is written part&key=value.',
            )
        self._inline(items, text, start, depth)
        return Message.make(items)

    def _as(self, text: str, at: int, items: dict[str, Value], depth: int) -> As:
        if grammar.is_nested(text):
            device, _, rest = grammar.partition(text[at + 1 :], "&")
        else:
            device, _, rest = text[at + 1 :].partition("&")
        if not at:
            del items["path"]
        if rest:
            self._inline(items, text, at + 2 + len(device), depth)
        if device[:1] == "(" and device[-1:] == ")" and len(device) > 1:
            return As(self.resolve(device[1:-1], depth, at + 2), Message.make(items))
        if not at and device[:1] in ("", "@", "~"):
            raise PathError(
                f"a device's name is missing in the part '{grammar.shown(text)}'",
                offset=at,
                hint="Name it and its version: /~message@1.0&a=1/a",
            )
        return As(device, Message.make(items))

    def _inline(self, items: dict[str, Value], text: str, start: int, depth: int) -> None:
        """Add the ``k=v`` pairs of ``text[start:]`` to ``items``; a later one replaces an earlier one."""
        at = start
        inline = text[start:] if start else text
        nested = grammar.is_nested(inline)
        for pair in grammar.split(inline, "&") if nested else inline.split("&"):
            if not pair:
                at += 1
                continue
            key, equals, value = grammar.partition(pair, "=") if nested else pair.partition("=")
            if not equals:
                items[key] = True
            elif nested or "+" in key or " " in key:
                try:
                    self._value(items, key, value, depth)
                except PathError as error:
                    error.offset += at
                    raise
            else:
                items[key] = value.encode("utf-8")
            at += len(pair) + 1
        if "priv" in inline or "commitments" in inline:
            check_names(items)
        if type(items.get("path", b"")) is not bytes:
            raise PathError("the key 'path' of a part must be text", offset=start)

    def _value(self, items: dict[str, Value], key: str, text: str, depth: int) -> None:
        name, kind = grammar.partition_type(key)
        value = grammar.unquote(text)
        if value[:1] == "(" and value[-1:] == ")" and len(value) > 1:
            if kind:
                raise PathError(
                    f"'{grammar.shown(key)}' has both a type and a (path)",
                    hint=f"Write {grammar.shown(name)}=(path); a type is for text only.",
                )
            items[name] = self.resolve(value[1:-1], depth, len(key) + 2)
        elif not kind:
            items[name] = value.encode("utf-8")
        elif kind.lower() == "resolve":
            items[name] = self.resolve(value, depth, len(key) + 1)
        else:
            found = grammar.typed(kind, value)
            if found is not None:
                items[name] = found

    def resolve(self, text: str, depth: int, offset: int = 0) -> Resolve:
        """Return the :class:`Resolve` of a sub-path that starts at ``offset`` of the part."""
        if depth >= self.limits.depth:
            raise SizeError(f"sub-paths are nested deeper than {self.limits.depth}")
        try:
            return Resolve(self.sequence(text, depth + 1))
        except PathError as error:
            error.offset += offset
            raise
