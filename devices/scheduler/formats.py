"""Schedules as they are answered: a message, or the JSON of aos (devices/02-scheduler, 5)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from hyperpy import Message, commitments
from hyperpy.codecs import aos2
from hyperpy.errors import ParameterError
from hyperpy.message import Value, as_text

from .assignment import BLOCK

MOST: Final = 1000
"""Slots beyond the first one that one answer may hold."""

MAX_BYTES: Final = 32 << 20
"""Bytes of assignments after which an answer ends; it holds one at least."""


def window(request: Message, newest: int) -> tuple[int, int, bool]:
    """Return first and last slot asked for, and whether the schedule goes on after what is answered.

    Raises:
        ParameterError: ``from`` or ``to`` is no number.
    """
    first = max(0, number(request, "from", 0))
    last = number(request, "to", newest)
    if last - first > MOST:
        return first, first + MOST, True
    return first, last, False


def number(request: Message, name: str, default: int) -> int:
    """Return a slot number given as integer or text; an empty or absent one is the default.

    Raises:
        ParameterError: it is no number.
    """
    found = request.get(name)
    if isinstance(found, tuple) and found:
        found = found[-1]
    if found is None or found == b"":
        return default
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    text = as_text(found, name) if isinstance(found, bytes) else ""
    text = text.rpartition(",")[2].strip()
    if not text.removeprefix("-").isdigit() or not text.isascii() or len(text) > 20:
        raise ParameterError(f"'{name}' must be a slot number", name=name)
    return int(text)


def fitting(assignments: Iterable[Message]) -> tuple[list[Message], bool]:
    """Return as many assignments as one answer may hold, and whether others were left out."""
    found: list[Message] = []
    left = MAX_BYTES
    for one in assignments:
        left -= _size(one)
        if left < 0 and found:
            return found, True
        found.append(one)
    return found, False


def _size(item: Value) -> int:
    if isinstance(item, Message):
        return sum(len(key) + _size(one) for key, one in item.raw_items().items()) + 2048 * len(item.commitments)
    if isinstance(item, tuple):
        return sum(map(_size, item))
    return len(item) if isinstance(item, bytes) else 16


def is_aos2(request: Message) -> bool:
    """Say whether the caller wants the JSON of aos."""
    found = request.get("accept")
    return isinstance(found, bytes) and unquote(as_text(found)).strip() == aos2.CONTENT_TYPE


def answer(process: str, assignments: Sequence[Message], more: bool, *, json_form: bool) -> Message:
    """Return a schedule in the wanted form."""
    return _aos2(process, assignments, more) if json_form else _message(process, assignments, more)


def _message(process: str, assignments: Sequence[Message], more: bool) -> Message:
    return Message(
        {
            "type": "schedule",
            "process": process,
            "continues": more,
            "timestamp": 0,
            **BLOCK,
            "assignments": Message({str(one["slot"]): one for one in assignments}),
        }
    )


def _aos2(process: str, assignments: Sequence[Message], more: bool) -> Message:
    edges = [aos2.edge(one, name=_name, link=commitments.signed_id) for one in assignments]
    page = {
        "process": process,
        "has_next_page": more,
        "timestamp": "0",
        "block-height": "0",
        "block-hash": aos2.ZERO_HASH,
    }
    made: dict[str, Any] = {"page_info": page, "edges": edges}
    body = json.dumps(made, sort_keys=True, separators=(",", ":"))
    return Message({"content-type": "application/json", "body": body})


def _name(message: Message) -> tuple[str, str]:
    return commitments.signed_id(message), next(iter(commitments.committers(message)), "")
