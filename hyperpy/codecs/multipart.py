"""Nested messages as a multipart body, and back (ao-core 4.2, 4.3, 4.4).

A nested message is flattened: each map that holds small values is one part, its values are the
part's header lines; each value over 4096 bytes, or with a line break in it, is a part of its own;
parts are named by their path (``n/c``). The boundary is the hash of the parts, so equal messages have equal bodies.

Parsing is linear in the body, takes what the dialects of http-clients.md 3 write, and keeps what
the reference loses: a nested ``content-type``, and the types of a part that is only a body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from hyperpy.codecs.sfv import unescape_key
from hyperpy.codecs.structured import MAX_DEPTH, MAX_KEYS, Tabm
from hyperpy.encoding import b64u, key_bytes, key_text, ordered, sha256
from hyperpy.errors import CodecError, SizeError

MAX_HEADER: Final = 4096
"""The longest value, in bytes, that stays a header (4.1.5)."""

_DROPPED = frozenset({"content-disposition", "ao-body-key", "content-digest"})
_NAME = re.compile(rb';[ \t]*name="((?:[^"\\]|\\.)*)"')
_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"\\\r\n]+)"|([^ \t;",\r\n]+))', re.IGNORECASE)


class Body(NamedTuple):
    """A multipart body."""

    content_type: bytes
    body: bytes
    names: tuple[str, ...]
    """Top-level keys the parts hold, in the parts' order, each once."""


def encode(entries: Mapping[str, bytes | Tabm], inline: str) -> Body:
    """Return the body of a map's entries; ``inline`` is the key whose part is ``inline``.

    Raises:
        SizeError: nested deeper than MAX_DEPTH.
    """
    parts: dict[str, bytes | Tabm] = {}
    for key in ordered(entries):
        found = entries[key]
        if type(found) is bytes:
            parts[key] = found
        else:
            _flatten(key, found, parts, 1)  # type: ignore[arg-type]
    texts: list[bytes] = []
    names: dict[str, None] = {}
    for name in ordered(parts):
        texts.append(_part(name, parts[name], inline))
        names[name.partition("/")[0]] = None
    boundary = b64u(sha256(b"\r\n".join(texts))).encode("ascii")
    opened = b"--" + boundary + b"\r\n"
    body = b"\r\n".join([opened + text for text in texts]) + b"\r\n--" + boundary + b"--"
    return Body(b'multipart/form-data; boundary="' + boundary + b'"', body, tuple(names))


def _flatten(path: str, tabm: Tabm, parts: dict[str, bytes | Tabm], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    if not tabm:
        parts[path] = {"ao-types": b"empty-message"}
        return
    own: Tabm = {}
    for key in ordered(tabm):
        found = tabm[key]
        if type(found) is not bytes:
            _flatten(f"{path}/{key}", found, parts, depth + 1)  # type: ignore[arg-type]
        elif len(found) > MAX_HEADER or (b"\r\n" in found and key != "body"):
            parts[f"{path}/{key}"] = found
        else:
            own[key] = found
    if own:
        parts[path] = own


def _part(name: str, part: bytes | Tabm, inline: str) -> bytes:
    body = part if type(part) is bytes else b""
    lines: dict[str, bytes] = {}
    if type(part) is dict:
        if part.keys() == {"body"}:
            name += "/body"
        lines = {key: value for key, value in part.items() if key != "body" and type(value) is bytes}
        found = part.get("body", b"")
        body = found if type(found) is bytes else b""
    shown = b"inline" if name == inline else b'form-data;name="' + key_bytes(name) + b'"'
    lines["content-disposition"] = shown
    head = b"\r\n".join([key_bytes(key) + b": " + lines[key] for key in ordered(lines)])
    return head + b"\r\n\r\n" + body if body or type(part) is bytes else head


# -- reading -------------------------------------------------------------------------------


def boundary(content_type: bytes) -> bytes | None:
    """Return the ``boundary`` parameter of a content type, or None."""
    match = _BOUNDARY.search(content_type)
    return None if match is None else match[1] or match[2]


def decode(body: bytes, mark: bytes, inline: str) -> tuple[Tabm, tuple[str, ...]]:
    """Return the nested map of a body's parts, and its top-level keys in the parts' order.

    Args:
        mark: the boundary.
        inline: the key that an ``inline`` part holds.

    Raises:
        CodecError: no boundary, a part without a name, two parts of one name.
        SizeError: more than MAX_KEYS parts, or names nested deeper than MAX_DEPTH.
    """
    out: Tabm = {}
    for count, block in enumerate(_blocks(body, mark)):
        if count >= MAX_KEYS:
            raise SizeError(f"a body has more than {MAX_KEYS} parts")
        name, value = _parse_part(block, inline)
        _place(out, name, value)
    return out, tuple(out)


def _blocks(body: bytes, mark: bytes) -> list[bytes]:
    opened = b"--" + mark + b"\r\n"
    start = 0 if body.startswith(opened) else body.find(b"\r\n" + opened) + 2
    if not body.startswith(opened, start):
        raise CodecError("multipart: the body does not hold its boundary")
    end = body.find(b"\r\n--" + mark + b"--", start)
    if end < 0:
        raise CodecError("multipart: the body has no closing boundary")
    inner = body[start + len(opened) : end]
    return inner.split(b"\r\n" + opened) if inner else []


def _parse_part(block: bytes, inline: str) -> tuple[str, bytes | Tabm]:
    head, gap, body = block.partition(b"\r\n\r\n")
    headers: Tabm = {}
    lines = head.split(b"\r\n")
    if len(lines) > MAX_KEYS:
        raise SizeError(f"a part has more than {MAX_KEYS} header lines")
    for line in lines:
        name, colon, value = line.partition(b": ")
        if colon:
            headers[unescape_key(key_text(name))] = value
    shown = headers.get("content-disposition")
    if type(shown) is not bytes:
        raise CodecError("multipart: a part has no content-disposition")
    match = _NAME.search(shown)
    if match is None and not shown.startswith(b"inline"):
        raise CodecError("multipart: a part has no name")
    path = inline if match is None else unescape_key(key_text(match[1]))
    body_key = headers.get("ao-body-key", b"body")
    kept: Tabm = {key: value for key, value in headers.items() if key not in _DROPPED}
    return path, _part_value(kept, body, bool(gap), key_text(body_key) if type(body_key) is bytes else "body")


def _part_value(kept: Tabm, body: bytes, has_body: bool, body_key: str) -> bytes | Tabm:
    if not kept:
        return body if has_body else {}
    if kept == {"ao-types": b"empty-message"} and not body:
        return {}
    if body:
        kept[body_key] = body
    return kept


def _place(out: Tabm, name: str, value: bytes | Tabm) -> None:
    """Put a part where its path says; maps at one place merge."""
    names = name.split("/")
    if len(names) > MAX_DEPTH:
        raise SizeError(f"a part's name is nested deeper than {MAX_DEPTH}")
    at = out
    for step in names[:-1]:
        inner = at.setdefault(step, {})
        if type(inner) is not dict:
            raise CodecError(f"multipart: {step[:40]!a} is both a value and a map")
        at = inner
    last = names[-1]
    old = at.get(last)
    if old is None:
        at[last] = value
    elif type(old) is dict and type(value) is dict and old.keys().isdisjoint(value):
        old.update(value)
    else:
        raise CodecError(f"multipart: two parts are named {name[:80]!a}")
