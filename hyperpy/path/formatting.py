"""The inverse of parsing a path: a sequence of members becomes one request (ao-core 6.6).

A key that every member has alike becomes a key of the request; another becomes ``N.key``;
what neither can say is written inline, ``part&key=value``. A sub-path is text throughout: its
keys are written inline, or in a query of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from hyperpy.codecs import sfv
from hyperpy.encoding import bytewise, human, key_bytes
from hyperpy.errors import HyperpyError, PathError, SizeError
from hyperpy.message import As, Atom, Link, Message, Resolve, Value, same
from hyperpy.path.grammar import ATOMS, shown, split_path
from hyperpy.path.scope import names_id

MAX_DEPTH: Final = 64
_HINT: Final = "Send the messages as single requests, or the value as a header."
_MODIFIES = re.compile(r"[&~+ =]")
_NO_KEY = re.compile(r'[&=/?"()]')
_NEEDS_QUOTES = re.compile(r'[/?&"() ]')
_QUOTABLE = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_ESCAPED_QUOTE = str.maketrans({'"': '\\"'})


@dataclass
class _Slot:
    """One member on its way to text.

    ``keys`` still need a place; ``receives``: keys of the request reach it; ``has_text``:
    it is a part of the path (a base is none).
    """

    number: int
    text: str = ""
    keys: Mapping[str, Value] = field(default_factory=dict)
    receives: bool = False
    has_text: bool = True


def write(members: Sequence[Value]) -> Message:
    """Return the request for a non-empty sequence; the caller reads it back to check it.

    Raises:
        PathError: a member or a value has no form in a path or request.
        SizeError: nested deeper than MAX_DEPTH.
    """
    path, keys = _write(members, 0)
    items: dict[str, Any] = {"path": path.replace("%", "%25").encode("utf-8")}
    for key, value in keys.items():
        if f"{key}+integer" in keys or f"{key}+resolve" in keys:
            items[key] = value
        elif type(value) is int:
            items[f"{key}+integer"] = sfv.integer_text(value)
        elif type(value) is Resolve:
            items[f"{key}+resolve"] = f"/{_sub_path(value, 1)}".encode()
        else:
            items[key] = value
    inner = (member.message if isinstance(member, As) else member for member in members)
    first = next((member for member in inner if isinstance(member, Message)), Message())
    return Message(items, commitments=first.commitments)


def understood(members: Sequence[Value]) -> list[Value]:
    """Return ``members`` as parsing writes them.

    IDs are text, a first request has the empty base in front, and that base is left out in
    front of an ID, ``~device`` or sub-path.
    """
    found: list[Value] = []
    for member in members:
        if isinstance(member, (bytes, Link)):
            member = key_bytes(human(member.id)) if isinstance(member, Link) else _id_text(member)
        elif isinstance(member, As) and isinstance(member.message, (bytes, Link)):
            member = As(member.device, Message({"path": understood([member.message])[0]}))
        found.append(member)
    if isinstance(found[0], Message):
        if "path" in found[0]:
            found.insert(0, Message())
        elif not len(found[0]) and len(found) > 1 and not isinstance(found[1], Message):
            del found[0]
    return found


def _id_text(ident: bytes) -> bytes:
    """Return an ID as a part of a path: text, also of 32 bytes, stays where it reads as one part."""
    try:
        text = ident.decode("utf-8")
    except UnicodeDecodeError:
        return key_bytes(human(ident))
    is_part = text.isprintable() and split_path(text)[0] == [text] and _MODIFIES.search(text) is None
    return ident if is_part else key_bytes(human(ident))


def _write(members: Sequence[Value], depth: int) -> tuple[str, dict[str, Value]]:
    """Return the decoded text of a path without its query, and the keys beside it."""
    if depth > MAX_DEPTH:
        raise SizeError(f"sub-paths are nested deeper than {MAX_DEPTH}")
    slots = [_slot(member, number, depth) for number, member in enumerate(understood(members))]
    receivers = [slot for slot in slots if slot.receives]
    keys = _alike(receivers)
    if depth and slots[0].has_text:  # no base needs them: inline reads better
        keys = {key: value for key, value in keys.items() if not _fits_inline(key, value)}
    shared = frozenset(keys)
    for slot in slots:
        for key in bytewise(slot.keys):
            if not slot.receives or key not in shared:
                _place(slot, key, slot.keys[key], keys, depth)
    return "/" + "/".join(slot.text for slot in slots if slot.has_text), keys


def _slot(member: Value, number: int, depth: int) -> _Slot:
    if isinstance(member, bytes):
        return _Slot(number, _text(member))
    if isinstance(member, Resolve):
        return _Slot(number, f"({_sub_path(member, depth + 1)})")
    message = member.message if isinstance(member, As) else member
    if not isinstance(message, Message):
        raise PathError(f"a {type(message).__name__} is no member of a path", hint=_HINT)
    keys = dict(message.raw_items())
    path = keys.pop("path", b"")
    if not isinstance(path, bytes):
        raise PathError("a member's path must be text", hint=_HINT)
    if isinstance(member, As):
        device = f"({_sub_path(member.device, depth + 1)})" if isinstance(member.device, Resolve) else member.device
        return _Slot(number, f"{_text(path)}~{device}", keys, receives=not names_id(member))
    return _Slot(number, _text(path), keys, receives=True, has_text="path" in message)


def _alike(receivers: Sequence[_Slot]) -> dict[str, Value]:
    """Return the keys that every receiver has with the same value, where such a key can be written."""
    if not receivers:
        return {}
    first, *others = receivers
    return {
        key: first.keys[key]
        for key in bytewise(first.keys)
        if key.count(".") != 1
        and _is_plain(key, first.keys[key])
        and all(key in slot.keys and same(slot.keys[key], first.keys[key]) for slot in others)
    }


def _is_plain(key: str, value: Value) -> bool:
    """Say whether ``key`` would be read as itself, not as ``name+type``."""
    return type(value) is not bytes or not ("+" in key or " " in key)


def _place(slot: _Slot, key: str, value: Value, keys: dict[str, Value], depth: int) -> None:
    """Write one key of one member: beside the path as ``N.key``, or inline; at depth inline first."""
    scoped = slot.receives and "." not in key and (key != "method" or depth > 0) and _is_plain(key, value)
    if scoped and not (depth and slot.has_text):
        keys[f"{slot.number}.{key}"] = value
        return
    if not slot.has_text:
        raise PathError(f"the base's key '{shown(key)}' has no place in a path", hint=_HINT)
    try:
        slot.text += f"&{_inline(key, value, depth)}"
    except PathError:
        if not scoped:
            raise
        keys[f"{slot.number}.{key}"] = value


def _fits_inline(key: str, value: Value) -> bool:
    try:
        _inline(key, True if isinstance(value, Resolve) else value, 0)
    except PathError:
        return False
    return True


def _inline(key: str, value: Value, depth: int) -> str:
    """Return ``key=value`` as it stands inside a part."""
    if _NO_KEY.search(key) or (value is not True and ("+" in key or " " in key)):
        raise PathError(f"the key '{shown(key)}' cannot be written inside a path", hint=_HINT)
    if value is True:
        return key
    if isinstance(value, Resolve):
        return f"{key}=({_sub_path(value, depth + 1)})"
    kind, text = (None, _text(value)) if isinstance(value, bytes) else _typed(value)
    if _NEEDS_QUOTES.search(text):
        if not _QUOTABLE.fullmatch(text) or (text[0] == "(" and text[-1] == ")" and len(text) > 1):
            raise PathError(f"the value of '{shown(key)}' cannot be quoted inside a path", hint=_HINT)
        text = f'"{text}"'
    return f"{key}+{kind}={text}" if kind else f"{key}={text}"


def _query(keys: Mapping[str, Value], depth: int) -> str:
    """Return the keys of a sub-path as its query."""
    pairs = []
    for key, value in keys.items():
        name = quote(key_bytes(key), safe="")
        if value is True:
            pairs.append(name)
        elif isinstance(value, bytes):
            whole = b'"%b"' % value if value[:1] == b'"' else value  # one pair of quotes is removed on reading
            pairs.append(f"{name}={quote(whole, safe='')}")
        elif isinstance(value, Resolve):
            pairs.append(f"{name}+resolve={quote('/' + _sub_path(value, depth + 1), safe='')}")
        else:
            kind, text = _typed(value)
            pairs.append(f"{name}+{kind}={quote(text, safe='')}")
    return "&".join(pairs)


def _sub_path(resolve: Resolve, depth: int) -> str:
    """Return the text of a sub-path, escaped for the decoding that is its own."""
    if not resolve.messages:
        return ""
    path, keys = _write(resolve.messages, depth)
    text = f"{path[1:]}?{_query(keys, depth)}" if keys else path[1:]
    return text.replace("%", "%25")


def _typed(value: Value) -> tuple[str, str]:
    """Return the type and the text of a value, its quotes escaped."""
    try:
        kind, raw = sfv.encode_value(value)
    except HyperpyError as error:
        raise PathError(f"a value has no text in a path: {error.message}", hint=_HINT) from None
    if kind is None or (isinstance(value, Atom) and raw not in ATOMS):
        raise PathError(f"the atom '{shown(str(value))}' cannot be named in a path", hint=_HINT)
    return kind, _text(raw).translate(_ESCAPED_QUOTE)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PathError("bytes that are not UTF-8 cannot be written in a path", hint=_HINT) from None
