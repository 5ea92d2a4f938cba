"""apply@1.0: runs a path that is held in a key: how data becomes a computation.

Where a name is asked for, ``base:x`` and ``request:x`` (or ``req:x``) say which message to look in,
``base:`` and ``request:`` alone mean that whole message, and a plain name is looked up in the
request, then in the base.
"""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import Message, Value, as_text, list_to_map
from hyperpy.sdk import Context, default


@device(
    "apply@1.0",
    excludes=("keys", "set", "remove", "id", "commit", "verify", "committers", "committed", "commitments"),
)
class Apply:
    """Answers every key with the result of the path that stands under it."""

    @default
    def run(self, key: str, base: Message, request: Message, ctx: Context) -> Value:
        """Resolve the path found under the key, on the base or on what ``source`` names.

        With both ``base`` and ``request`` in the request, it is ``pair`` with this key as path.
        """
        if "base" in request and "request" in request:
            return _pair(base, request, key, ctx)
        path = _find(key, base, request)
        if path is None:
            raise KeyNotFound(f"Path `{key}` to execute not found.")
        if not isinstance(path, bytes):
            raise ParameterError(f"Path `{key}` is invalid.", name=key, hint="It must be the text of a path.")
        source: Value | None = base.without("device")
        if "source" in request or "source" in base:
            name = as_text(request.get("source", base.get("source", b"")), "source")
            source = _find(name, base, request)
            if source is None:
                raise KeyNotFound(f"Source path `{name}` to apply not found.")
        if isinstance(source, tuple):
            source = Message.make(list_to_map(source))
        if not isinstance(source, Message):
            raise ParameterError("apply: 'source' must name a message", name="source")
        return ctx.resolve(source | {"path": path})

    @key
    def pair(self, base: Message, request: Message, ctx: Context) -> Value:
        """Resolve what the name in ``request`` points to on what the name in ``base`` points to."""
        return _pair(base, request, None, ctx)


def _pair(base: Message, request: Message, path: str | None, ctx: Context) -> Value:
    left = _named("base", base, request)
    right = _named("request", base, request)
    if isinstance(right, tuple):
        right = Message.make(list_to_map(right))
    if path is not None:
        right = (right if isinstance(right, Message) else Message()) | {"path": path}
    return ctx.resolve(left, right)


def _named(parameter: str, base: Message, request: Message) -> Value:
    """Return what the name in a parameter points to."""
    name = request.get(parameter, base.get(parameter))
    if name is None:
        raise ParameterError(f"pair: parameter '{parameter}' (the name of a key) is missing", name=parameter)
    text = as_text(name, parameter)
    found = _find(text, base, request)
    if found is None:
        raise KeyNotFound(f"Path `{text}` to apply not found.")
    return found


def _find(name: str, base: Message, request: Message) -> Value | None:
    """Return what a name points to, or None."""
    where, colon, rest = name.partition(":")
    if colon and where in ("base", "request", "req"):
        message = base if where == "base" else request
        return message.get(rest) if rest else message
    found = request.get(name)
    return base.get(name) if found is None else found
