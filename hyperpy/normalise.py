"""Stage 1 of a step: what a base and a request may be (ao-core 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy.encoding import is_id, key_text
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import As, Link, Message, Resolve, Value, as_text, list_to_map

if TYPE_CHECKING:
    from hyperpy.context import Frame
    from hyperpy.resolver import Resolver


def base(resolver: Resolver, item: Value, frame: Frame) -> Value:
    """Return a base as a message where it can be one: links loaded, lists numbered."""
    if isinstance(item, As):
        return as_base(resolver, item, frame)
    return _listed(plain(resolver, item, frame))


def as_base(resolver: Resolver, item: As, frame: Frame) -> Message:
    """Return the message of an ``as`` form with its device set, or what the path in it gives (ao-core 7.3)."""
    device = plain(resolver, item.device, frame) if isinstance(item.device, Resolve) else item.device
    inner: Value = item.message
    if isinstance(inner, Message):
        at = inner.get("path")
        rest = without_control(resolver, inner.without("path") if at is not None else inner, frame)
        if isinstance(at, bytes) and is_id(at):
            loaded = _listed(resolver.read(key_text(at), frame))
            inner = loaded.replace(rest.raw_items()) if isinstance(loaded, Message) else rest
        elif at is not None:
            own = rest | {"device": device} if device else rest
            made = _listed(resolver.step(own, own | {"path": at}, frame).value)
            if isinstance(made, Message):
                return made  # the result has the device it came with, such as a process that was found by name
            inner = made
        else:
            return rest if "device" in rest or not device else rest | {"device": device}
    elif isinstance(inner, bytes):
        inner = _listed(resolver.read(key_text(inner), frame))
    else:
        inner = _listed(plain(resolver, inner, frame))
    if not isinstance(inner, Message):
        raise KeyNotFound("a literal value has no device", hint="Remove the ~device part.")
    return inner | {"device": device} if device else inner


def request(resolver: Resolver, own: Value, item: Value, frame: Frame) -> tuple[Value, Message | None]:
    """Return (base, request) as messages; a request of None means that the base is the result."""
    item = plain(resolver, item, frame)
    if isinstance(item, As):
        return _as_request(resolver, own, item, Message(), frame)
    item = _listed(item)
    if not isinstance(item, Message):
        item = Message.make({"path": item if isinstance(item, bytes) else as_text(item).encode()})
    at = item.raw("path")
    if isinstance(at, As):
        return _as_request(resolver, own, at, item.without("path"), frame)
    return own, without_control(resolver, item, frame)


def _as_request(resolver: Resolver, own: Value, item: As, outer: Message, frame: Frame) -> tuple[Value, Message | None]:
    device = plain(resolver, item.device, frame) if isinstance(item.device, Resolve) else item.device
    inner = item.message if isinstance(item.message, bytes) else plain(resolver, item.message, frame)
    if isinstance(inner, bytes):
        inner = Message.make({"path": inner})
    if not isinstance(inner, Message):
        raise ParameterError("a request must be a message or a path")
    made = without_control(resolver, outer.replace(inner.raw_items()) if len(outer) else inner, frame)
    target = _listed(own)
    if not isinstance(target, Message):
        target = Message.make({"ao-result": b"body", "body": target})
    if device:
        target = target | {"device": device}
    if "path" not in made:
        return target.replace(made.raw_items()), None
    return target, made


def plain(resolver: Resolver, item: Value, frame: Frame) -> Value:
    """Return a value with a link loaded and a sub-path evaluated."""
    if isinstance(item, Resolve):
        result = resolver.many(item.messages, frame.nested())
        if result.status != "ok":
            raise KeyNotFound(f"a sub-path ended with status '{result.status}'")
        return as_base(resolver, result.value, frame) if isinstance(result.value, As) else result.value
    return item.load() if isinstance(item, Link) else item


def has_control(message: Message) -> bool:
    """Say whether a request holds a sub-path or ``as`` form among its values."""
    for item in message.raw_items().values():
        kind = type(item)
        if kind is Resolve or kind is As:
            return True
    return False


def without_control(resolver: Resolver, message: Message, frame: Frame) -> Message:
    """Return a message whose sub-path values are replaced by their results."""
    found = {k: v for k, v in message.raw_items().items() if type(v) is Resolve}
    if not found:
        return message
    return message.replace({k: plain(resolver, v, frame) for k, v in found.items()})


def key_of(message: Message) -> str:
    """Return the key a request asks for: the text of its path.

    Raises:
        ParameterError: there is no path, or it is no text.
    """
    at = message.raw("path")
    if type(at) is bytes:
        return at.decode("utf-8", "surrogateescape")
    if at is None:
        raise ParameterError("the request has no 'path'", name="path", hint="Name the key to resolve.")
    return as_text(at, "path")


def part(item: Value) -> str | None:
    """Return the path part a request was made from, if it is a simple one."""
    at = item.raw("path") if isinstance(item, Message) else item
    return key_text(at) if isinstance(at, bytes) else None


def says(control: Value | None, word: str) -> bool:
    """Say whether a ``cache-control`` value holds a word (ao-core 9.4; commas do split here)."""
    if control is None:
        return False
    texts = control if isinstance(control, tuple) else (control,)
    return any(word == token.strip() for text in texts for token in as_text(text).split(","))


def _listed(item: Value) -> Value:
    return Message.make(list_to_map(item)) if isinstance(item, tuple) else item
