"""Messages for Lua and back: msgpack, which the library in ``engine/`` reads and writes.

Links are loaded, atoms other than booleans become text, lists and maps tables, a cast the list ``as``,
device, message; private values stay here. On the way back an empty table is an empty message, 1..n a
list, and every other table a message whose number keys are text.

A commitment comes back only where it is still true: over the same values as in a message that was
handed in, or else if it verifies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from hyperpy import commitments
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import HyperpyError, ParameterError, SizeError
from hyperpy.message import As, Atom, Link, Message, Resolve, Value, committed_list, value

MAX_DEPTH: Final = 90
MAX_ITEMS: Final = 1_000_000
MAX_LINKS: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_LIKE: Final = 100_000_000
"""Comparisons that Lua may make to tell texts apart that its hash does not; a few nanoseconds each."""
MAX_CHECKS: Final = 16
"""Commitments of one value that are verified because Lua changed or made their message."""

Plain = Any
"""What msgpack knows. Keys of maps are text on the way in and bytes on the way out."""
_FEW: Final = 256
_MISSING: Final = object()


class Exchange:
    """The messages of one call: packs what goes in, and knows it again when it comes out."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[dict[str, Plain], Message]] = {}
        self._items = 0
        self._links = 0
        self._checks = 0
        self._like = 0
        self._short: list[bytes] = []
        self._casts = False

    def pack(self, *items: Value | None) -> bytes:
        """Return values as one msgpack list; None is nil.

        Raises:
            ParameterError: a value has no form in Lua (an integer beyond 64 bits, a sub-path).
            SizeError: they are too many, too large, too much alike or nested too deeply.
            MessageNotFound: a link leads nowhere.
        """
        self._like, self._short = 0, []
        plain = [None if item is None else self._plain(item, 0) for item in items]
        self._differ(set(self._short))
        data: bytes = msgpack.packb(plain, use_bin_type=True, unicode_errors="surrogateescape")
        if len(data) > MAX_BYTES:
            raise SizeError("the parameters are too large for Lua")
        return data

    def _plain(self, item: Value, depth: int) -> Plain:
        kind = type(item)
        if kind is bytes:
            if 31 < len(item) < 41:  # type: ignore[arg-type]
                self._short.append(item)  # type: ignore[arg-type]
            return item
        if kind is bool or kind is float:
            return item
        if kind is int:
            if not -(1 << 63) <= item < 1 << 63:  # type: ignore[operator]
                raise ParameterError("an integer of more than 64 bits has no form in Lua", hint="Send it as text.")
            return item
        if kind is Atom:
            return key_bytes(item)  # type: ignore[arg-type]
        if isinstance(item, Link):
            self._links += 1
            if self._links > MAX_LINKS:
                raise SizeError("the parameters hold too many links")
            return self._plain(item.load(), depth)
        if isinstance(item, (Message, tuple)):
            self._items += len(item)
            if depth > MAX_DEPTH or self._items > MAX_ITEMS:
                raise SizeError("the parameters are nested too deeply, or hold too many items")
            if isinstance(item, tuple):
                return [self._plain(member, depth + 1) for member in item]
            return self._map(item, depth + 1)
        if isinstance(item, As):
            self._casts = True
            return [b"as", self._plain(value(item.device), depth + 1), self._plain(item.message, depth + 1)]
        if isinstance(item, Resolve):
            self._casts = True
            return [b"resolve", *[self._plain(member, depth + 1) for member in item.messages]]
        raise ParameterError(f"a {kind.__name__} has no form in Lua")

    def _map(self, item: Message, depth: int) -> dict[str, Plain]:
        made: dict[str, Plain] = {}
        for key, member in item.raw_items().items():
            made[key] = self._plain(member, depth)
        keys = [key for key in made if len(key) > 31 or not key.isascii()]
        if len(keys) > _FEW and not _unlike(keys):
            self._differ([key_bytes(key) for key in keys])
        self._short.extend([key_bytes(key) for key in keys if len(key) < 41])
        if item.commitments:
            claims = made["commitments"] = {k: self._map(one, depth + 1) for k, one in item.commitments.items()}
            for name in claims:
                self._known[name] = (made, item)
        return made

    def _differ(self, texts: Collection[bytes]) -> None:
        """Refuse texts of which too many are one for the hash of Lua: it would compare each with all the others."""
        if len(texts) > _FEW:
            self._like += sum(n * n // 2 for n in Counter(map(_hashed, texts)).values())
            if self._like > MAX_LIKE:
                raise SizeError("the parameters hold too many texts that are alike for Lua")

    def unpack(self, data: bytes) -> list[Value | None]:
        """Return the values that Lua packed, at most a few at the top."""
        found = msgpack.unpackb(
            data, raw=True, strict_map_key=False, max_bin_len=len(data), max_array_len=len(data), max_map_len=len(data)
        )
        return [None if item is None else self._value(item) for item in found]

    def _value(self, item: Plain) -> Value:
        kind = type(item)
        if kind is dict:
            return self._message(item)
        if kind is list:
            made = tuple([self._value(member) for member in item])
            return _uncast(made) if self._casts else made
        return item  # type: ignore[no-any-return]

    def _message(self, item: dict[bytes, Plain]) -> Message:
        claims = item.get(b"commitments")
        if type(claims) is dict:
            for name in claims:
                known = self._known.get(key_text(name))
                if known is not None and _same(item, known[0]):
                    return known[1].with_private(**dict.fromkeys(known[1].private))
        inner: dict[str, Value] = {}
        for key, member in item.items():
            if key[:4] != b"priv" and key != b"commitments":
                text = key.decode("utf-8", "surrogateescape")
                inner[text] = member if type(member) is bytes else self._value(member)
        made = Message.make(inner)
        if type(claims) is not dict:
            return made
        return made.with_commitments(self._true(item, made, claims))

    def _true(self, item: dict[bytes, Plain], made: Message, claims: dict[bytes, Plain]) -> Mapping[str, Message]:
        """Return the claimed commitments that fit the message."""
        kept = {}
        for name, claim in claims.items():
            if type(claim) is not dict:
                continue
            one = self._message({k: v for k, v in claim.items() if k != b"commitments"})
            text = key_text(name)
            if self._unchanged(text, item, claim, one) or self._verifies(made, text, one):
                kept[text] = one
        return kept

    def _unchanged(self, name: str, item: dict[bytes, Plain], claim: Plain, one: Message) -> bool:
        known = self._known.get(name)
        if known is None or not _same(claim, known[0]["commitments"].get(name)):
            return False
        try:
            keys = committed_list(one)
        except HyperpyError:
            return False
        return all(_same(item.get(key_bytes(key)), known[0].get(key)) for key in keys)

    def _verifies(self, made: Message, name: str, one: Message) -> bool:
        self._checks += 1
        if self._checks > MAX_CHECKS:
            return False
        try:
            commitments.check(made.with_commitments({name: one}), ids=[name])
        except HyperpyError:
            return False
        return True


def _hashed(text: bytes) -> tuple[int, bytes]:
    """Return what Lua's hash of a text depends on: its length, and one byte in so many, from the end."""
    size = len(text)
    step = (size >> 5) + 1
    return size, text[: step - 2 : -step] if step > 1 else text


def _unlike(keys: list[str]) -> bool:
    """Say whether no two keys are one for Lua's hash; False may also say that this is not the quick case."""
    return len({key[:0:-2] for key in keys}) == len(keys) and max(map(len, keys)) < 64 and all(map(str.isascii, keys))


def _uncast(item: tuple[Value, ...]) -> Value:
    """Return the cast or sub-path that a list stands for, where such were handed in."""
    if len(item) == 3 and item[0] == b"as" and isinstance(item[1], bytes) and isinstance(item[2], (bytes, Message)):
        return As(key_text(item[1]), item[2])
    if len(item) > 1 and item[0] == b"resolve":
        return Resolve(item[1:])
    return item


def _same(left: Plain, right: Plain) -> bool:
    """Say whether what Lua gave is what was packed; an empty list and an empty map are one in Lua."""
    kind = type(left)
    if kind is not type(right):
        return left == {} and right == [] and kind is dict
    if kind is dict:
        if len(left) != len(right):
            return False
        for key, member in left.items():
            other = right.get(key.decode("utf-8", "surrogateescape"), _MISSING)
            if not (member == other if type(member) is bytes else _same(member, other)):
                return False
        return True
    if kind is list:
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
