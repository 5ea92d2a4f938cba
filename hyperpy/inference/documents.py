"""JSON documents whose reading decides something that everybody must decide alike.

``json.loads`` gives up where the caller's stack ends, and on integers of more digits than a process happens to allow.
Here what is read depends on the text alone, on every Python. What no answer of inference@1.0 holds is not refused,
since else it would free a liar who adds it: it is read as something that stands for nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hyperpy.errors import CodecError

MAX_NESTING: Final = 64
"""Arrays and objects inside each other; an answer of inference@1.0 has 8. What is deeper is read as ``null``."""
MAX_DIGITS: Final = 19
"""Digits of an integer, with its sign. A longer one is read as a text."""
_MARKS: Final = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


def document(data: bytes) -> Any:
    """Return the value of a JSON document; ``NaN`` and infinities are read as texts too.

    Raises:
        CodecError: it is none.
    """
    try:
        return _DECODER.decode(_shallow(data.decode("utf-8")))
    except ValueError:
        raise CodecError("not a JSON document") from None


def _shallow(text: str) -> str:
    """Return a document in which ``null`` stands for what is nested too deeply."""
    depth, inside, done, made = 0, False, 0, []
    for found in _MARKS.finditer(text):
        mark = found.group()
        if mark == '"':
            inside = not inside
        elif inside or mark[0] == "\\":
            continue
        elif mark in "[{":
            depth += 1
            if depth == MAX_NESTING + 1:
                made.append(text[done : found.start()] + "null")
                done = len(text)  # unless it ends
        else:
            if depth == MAX_NESTING + 1:
                done = found.end()
            depth -= 1
    return "".join(made) + text[done:]


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= MAX_DIGITS else f"an integer of {len(text)} digits"


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_constant=str)
