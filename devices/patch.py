"""patch@1.0: moves data from one place of a message to another.

As the last entry of a process's stack it turns messages that the process sent to its outbox, marked
``method: PATCH`` or ``device: patch@1.0``, into state that everybody can read by path.
"""

from __future__ import annotations

from typing import NamedTuple

from hyperpy import device, key
from hyperpy.encoding import key_bytes
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import UNSET, Message, Value, as_text, list_to_map
from hyperpy.sdk import Context

_STRIPPED = ("method", "Tags")


class Place(NamedTuple):
    """A message, and the parts of a path into it."""

    message: Message
    parts: list[str]


@device("patch@1.0")
class Patch:
    """Moves patches (``patches``, ``compute``) or everything (``all``) from ``patch-from`` to ``patch-to``.

    Both are paths, looked up in the request, then in the base; ``from`` and ``to`` are their short
    names. ``patch-from`` may begin with ``req:`` to move data out of the request.
    """

    @key
    def init(self, base: Message) -> Message:
        """Return the base; a process's device must answer this."""
        return base

    @key
    def normalize(self, base: Message) -> Message:
        """Return the base; a process's device must answer this."""
        return base

    @key
    def snapshot(self, base: Message) -> Message:
        """Return the base; a process's device must answer this."""
        return base

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Value:
        """Do what ``patches`` does."""
        return self.patches(base, request, ctx)

    @key
    def patches(self, base: Message, request: Message, ctx: Context) -> Value:
        """Take the patches out of ``patch-from`` and merge them, one after another, at ``patch-to``."""
        place = _source(base, request)
        source = _read(place, ctx)
        if not isinstance(source, Message):
            raise ParameterError(f"patch: '/{'/'.join(place.parts)}' must hold a map of messages", name="patch-from")
        merged = Message()
        rest: dict[str, Value] = {}
        for name in sorted(source, key=key_bytes):
            item = source[name]
            if isinstance(item, Message) and _is_patch(item):
                merged = _merge(merged, item.with_commitments({}).without(*_STRIPPED))
            else:
                rest[name] = item
        left = _put(place.message, place.parts, Message.make(rest))
        return _set(left, _target(base, request), merged, ctx)

    @key(name="all")
    def move_all(self, base: Message, request: Message, ctx: Context) -> Value:
        """Move everything at ``patch-from`` to ``patch-to``."""
        place = _source(base, request)
        source = _read(place, ctx)
        left = _put(place.message, place.parts, UNSET)
        return _set(left, _target(base, request), source, ctx)


def _is_patch(item: Message) -> bool:
    return item.get("method") == b"PATCH" or item.get("device") == b"patch@1.0"


def _parameter(base: Message, request: Message, name: str) -> str:
    for key_name in (f"patch-{name}", name):
        for where in (request, base):
            found = where.get(key_name)
            if found is not None:
                return as_text(found, key_name)
    return "/"


def _source(base: Message, request: Message) -> Place:
    parts = _parts(_parameter(base, request, "from"))
    message = base
    for prefix, named in (("base:", base), ("req:", request)):
        if parts and parts[0].startswith(prefix):
            message = named
            parts = [part for part in (parts[0][len(prefix) :], *parts[1:]) if part]
            break
    if not parts:
        raise ParameterError(
            "patch: name the part of the message to move in 'patch-from'",
            name="patch-from",
            hint="For example patch-from=/results/outbox.",
        )
    return Place(message, parts)


def _target(base: Message, request: Message) -> list[str]:
    return _parts(_parameter(base, request, "to"))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _read(place: Place, ctx: Context) -> Value:
    """Return what stands at a place, as message@1.0 reads it; maps inside are read by their own device."""
    found: Value = place.message
    for part in place.parts:
        if isinstance(found, tuple):
            found = Message.make(list_to_map(found))
        if not isinstance(found, Message):
            raise KeyNotFound(f"patch: there is nothing at '/{'/'.join(place.parts)}'")
        inner: Value | None
        if found is place.message or found.get("device", b"message@1.0") == b"message@1.0":
            inner = found.get(part)
        else:
            inner = ctx.resolve(found, part)
        if inner is None:
            raise KeyNotFound(f"patch: there is nothing at '/{'/'.join(place.parts)}'")
        found = inner
    return Message.make(list_to_map(found)) if isinstance(found, tuple) else found


def _put(message: Message, parts: list[str], item: Value) -> Message:
    """Return the message with the value at a place replaced, or removed if it is ``unset``."""
    first, rest = parts[0], parts[1:]
    if not rest:
        return message | {first: item}
    inner = message.get(first)
    if isinstance(inner, tuple):
        inner = Message.make(list_to_map(inner))
    return message | {first: _put(inner if isinstance(inner, Message) else Message(), rest, item)}


def _merge(old: Message, new: Message) -> Message:
    """Return both messages as one: maps under the same key are merged, other values replaced."""
    changes: dict[str, Value] = {}
    for name in new.ordered():
        item = new.raw(name)
        assert item is not None
        inner = old.get(name) if isinstance(item, Message) else None
        changes[name] = _merge(inner, item) if isinstance(item, Message) and isinstance(inner, Message) else item
    return old | changes


def _set(message: Message, parts: list[str], item: Value, ctx: Context) -> Value:
    """Return the message with a value set at a path, merged the way the devices it meets merge."""
    if parts:
        return ctx.resolve(message, Message.make({"/".join(parts): item, "path": b"set"}))
    if not isinstance(item, Message):
        raise ParameterError("patch: only a map can be moved to '/'", name="patch-to", hint="Name a key in 'patch-to'.")
    return ctx.resolve(message, Message.make({**item.raw_items(), "path": b"set"}))
