"""JSON documents whose reading decides something that everybody must decide alike.

``json.loads`` gives up where the caller's stack ends, and on integers of more digits than a process happens to allow:
what is refused here depends on the text alone, on every Python.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from hyperpy.errors import CodecError

MAX_NESTING: Final = 64
"""Arrays and objects inside each other; an answer of inference@1.0 has 8."""
MAX_DIGITS: Final = 19
"""Digits of an integer, with its sign."""
_MARKS: Final = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


def document(data: bytes) -> Any:
    """Return the value of a JSON document.

    Raises:
        CodecError: it is none, is nested deeper than :data:`MAX_NESTING`, or has a number that is too long, beyond
            64 bits or none at all (``NaN``).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise CodecError("not a JSON document: not UTF-8") from None
    _check_nesting(text)
    try:
        return _DECODER.decode(text)
    except ValueError:
        raise CodecError("not a JSON document, or one with a number beyond its bounds") from None


def _check_nesting(text: str) -> None:
    depth, inside = 0, False
    for found in _MARKS.finditer(text):
        mark = found.group()
        if mark == '"':
            inside = not inside
        elif inside or mark[0] == "\\":
            continue
        elif mark in "[{":
            depth += 1
            if depth > MAX_NESTING:
                raise CodecError(f"a JSON document is nested deeper than {MAX_NESTING}")
        else:
            depth -= 1


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _real(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError("beyond 64 bits")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=_refuse)
