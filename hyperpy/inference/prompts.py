"""Prompts as processes and guests send them: a text, or a JSON object with OpenAI's parameters."""

from __future__ import annotations

from collections.abc import Iterable

from hyperpy.codecs import json
from hyperpy.errors import MessageError, ParameterError
from hyperpy.message import Link, Message, Value


def parameters(data: bytes, options: Iterable[Value | None] = ()) -> dict[str, Value]:
    """Return OpenAI's parameters of a prompt; it is a conversation's if there are ``messages`` among them.

    Args:
        data: a user's turn; or a JSON object that holds ``messages`` or ``prompt``.
        options: JSON objects with more parameters; later ones, then ``data``, go first. What is none counts as empty.

    Raises:
        ParameterError: one names messages that stand elsewhere (``K+link``): not every node could answer it.
    """
    items: dict[str, Value] = {}
    for one in options:
        items |= _object(one).raw_items()
    given = dict(_object(data).raw_items())
    if "messages" in given or "prompt" in given:
        return items | given
    items["messages"] = (Message({"role": b"user", "content": data}),)
    return items


def _object(found: Value | None) -> Message:
    """Return a JSON object, or an empty message where there is none."""
    if not isinstance(found, bytes) or not found.lstrip().startswith(b"{"):
        return Message()
    try:
        made = json.decode(found)
    except MessageError:
        return Message()
    if not isinstance(made, Message):
        return Message()
    if _points_elsewhere(made):
        raise ParameterError("a prompt holds all that it asks for; it has a link", hint="Write the text itself.")
    return made


def _points_elsewhere(one: Value) -> bool:
    """Say whether a value read from JSON holds a link, however deep; the depth is bounded where it was read."""
    if isinstance(one, Message):
        return any(map(_points_elsewhere, one.raw_items().values()))
    return isinstance(one, Link) or (isinstance(one, tuple) and any(map(_points_elsewhere, one)))
