"""The text layer of paths: percent-escapes, quotes, parentheses, types (ao-core 6.1, 6.3).

Inside ``"..."`` nothing splits and ``\\`` protects the next character; parentheses nest; an
unclosed quote or parenthesis runs to the end. Everything here takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from hyperpy.codecs import sfv
from hyperpy.errors import CodecError, PathError
from hyperpy.message import Value

TYPES: Final = ("integer", "float", "atom", "list", "map", "resolve")
ATOMS: Final = frozenset(
    b"true false null undefined unset not_found ok error pass skip failure unauthorized forbidden created unavailable "
    b"infinity none all any always never default ignore update reset integer float atom list map binary message link "
    b"lazy local remote".split()
)
"""The atoms a path may name; the reference takes those its virtual machine happens to know."""

_ATOM_NAMES: Final = " ".join(sorted(name.decode() for name in ATOMS))
_MEANT: Final = {
    "int": "integer",
    "number": "integer",
    "num": "integer",
    "long": "integer",
    "double": "float",
    "decimal": "float",
    "real": "float",
    "bool": "atom",
    "boolean": "atom",
    "array": "list",
    "tuple": "list",
    "dict": "map",
    "object": "map",
    "path": "resolve",
}
_TEXT_TYPES: Final = frozenset({"binary", "string", "str", "text", "bytes"})

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})(?=..)", re.DOTALL)
_REST_OF_QUOTE = re.compile(r'(?:[^"\\]++|\\.)*+\\?"?', re.DOTALL)
_TYPED_KEY = re.compile(r"[+ ]")


def shown(text: str) -> str:
    """Return text for an error: printable ASCII, cut to 40 characters."""
    return ascii(text[:40])[1:-1] + ("..." if len(text) > 40 else "")


def utf8(raw: bytes) -> str:
    """Return the text of a path; raise PathError if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PathError(
            "the path is not UTF-8 text", offset=error.start, hint="Send other bytes as a header or in the body."
        ) from None


def unescape(raw: bytes) -> bytes:
    """Undo percent-escapes; a ``%`` with fewer than two characters after it stays (6.1, stage 1).

    Raises:
        PathError: a ``%`` is followed by two characters that are not both hex digits.
    """
    bad = _BAD_ESCAPE.search(raw)
    if bad:
        raise PathError(
            "a % in the path is not followed by two hex digits", offset=bad.start(), hint="Write a plain % as %25."
        )
    return unquote_to_bytes(raw)


def decode(text: str) -> str:
    """Return the percent-decoded text of a path, or raise PathError."""
    return utf8(unescape(text.encode("utf-8"))) if "%" in text else text


def is_nested(text: str) -> bool:
    """Say whether splitting must look at quotes and parentheses."""
    return '"' in text or "(" in text


_STOPS: Final[dict[str, re.Pattern[str]]] = {
    separators: re.compile("[" + re.escape(separators) + r'"()]') for separators in ("/?", "&", "=", "&~+ =", "+ ")
}


def cuts(text: str, separators: str) -> Iterator[int]:
    """Yield where any of ``separators`` (a key of the table above) stands outside quotes and parentheses."""
    search = _STOPS[separators].search
    depth = at = 0
    while stop := search(text, at):
        at = stop.end()
        mark = stop[0]
        if mark == '"':
            rest = _REST_OF_QUOTE.match(text, at)
            at = rest.end() if rest else at
        elif mark == "(":
            depth += 1
        elif mark == ")":
            depth -= depth > 0
        elif not depth:
            yield at - 1


def split_path(text: str) -> tuple[list[str], str, str]:
    """Return a decoded path's parts (empty ones included), its text before the query, and the query."""
    if not is_nested(text):
        path, _, query = text.partition("?")
        return path.split("/"), path, query
    parts = []
    start = 0
    for at in cuts(text, "/?"):
        parts.append(text[start:at])
        start = at + 1
        if text[at] == "?":
            return parts, text[:at], text[start:]
    parts.append(text[start:])
    return parts, text, ""


def split(text: str, separator: str) -> list[str]:
    """Split at one separator outside quotes and parentheses."""
    if not is_nested(text):
        return text.split(separator)
    parts = []
    start = 0
    for at in cuts(text, separator):
        parts.append(text[start:at])
        start = at + 1
    parts.append(text[start:])
    return parts


def partition(text: str, separators: str) -> tuple[str, str, str]:
    """Split at the first of ``separators`` outside quotes and parentheses, as ``str.partition``."""
    at = next(cuts(text, separators), None)
    return (text, "", "") if at is None else (text[:at], text[at], text[at + 1 :])


def partition_type(key: str) -> tuple[str, str]:
    """Return (key, type) of ``key+type`` or ``key type``; the type is empty if there is none."""
    if is_nested(key):
        name, _, kind = partition(key, "+ ")
        return name, kind
    found = _TYPED_KEY.search(key)
    return (key[: found.start()], key[found.end() :]) if found else (key, "")


def unquote(text: str) -> str:
    """Remove the opening quote and, if it is there, the closing one; escapes inside stay (6.3)."""
    if not text.startswith('"'):
        return text
    return text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]


def typed(kind: str, text: str) -> Value | None:
    """Return the value of ``k+kind=text``, or None where the key vanishes (6.3).

    Raises:
        PathError: the type is unknown, or the text does not fit it.
    """
    kind = kind.lower()
    if kind not in TYPES:
        _unknown_type(kind)
    if '"' in text:
        text = '"'.join(piece.replace('"', "") for piece in text.split('\\"'))
    if kind == "integer" and text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    raw = text.encode("utf-8", "surrogateescape")
    if kind == "atom" and raw not in ATOMS:
        raise PathError(
            f"'{shown(text)}' is no atom that a path may name",
            hint="Did you mean plain text? Leave +atom out. The atoms are: " + _ATOM_NAMES,
        )
    try:
        return sfv.decode_value(kind, raw)
    except CodecError as error:
        if kind == "integer":
            return None
        raise PathError(f"'{shown(text)}' does not read as +{kind}: {error.message}", hint=_EXAMPLES[kind]) from None


_EXAMPLES: Final = {
    "float": "A float is written with a dot: k+float=1.0",
    "list": 'A list is written k+list=1,2,3; text members need escaped quotes: k+list="\\"a\\",\\"b\\""',
    "map": "A map is written k+map=a=1,b=2",
}


def _unknown_type(kind: str) -> NoReturn:
    close = get_close_matches(kind[:40], TYPES, n=1)
    meant = _MEANT.get(kind) or (close[0] if close else None)
    if kind in _TEXT_TYPES:
        hint = "Text needs no type: write k=v."
    elif meant:
        hint = f"Did you mean +{meant}?"
    else:
        hint = f"The types are {', '.join('+' + name for name in TYPES)}; text needs none."
    raise PathError(f"'+{shown(kind)}' is no type of a path's value", hint=hint)
