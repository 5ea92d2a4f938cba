"""json@1.0: messages as JSON text and back (ao-core 13.3).

Integers, floats and lists are JSON's own; an atom is a string with an entry in ``ao-types``;
binaries must be UTF-8. Reading is strict where JSON leaves a choice: a key twice in one
object, NaN and the infinities, floats beyond 64 bits and lone surrogates are refused, and
integers have at most :data:`~hyperpy.codecs.sfv.MAX_DIGITS` digits.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, cast

from hyperpy.codecs import sfv, structured
from hyperpy.codecs.structured import MAX_DEPTH, MAX_KEYS, LinkTo, Loader
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import NULL, UNDEFINED, As, Atom, Link, Message, Resolve, Value, list_to_map

MAX_VALUES: Final = 10 * MAX_KEYS
"""Values in one text, in all its objects and arrays, at most."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_MAX_BITS: Final = 14_283  # an integer of 4,300 digits has at most this many bits


# -- encoding ------------------------------------------------------------------------------


def encode(item: Message | tuple[Value, ...], *, link: LinkTo | None = None) -> bytes:
    """Return the JSON text of a message or list; keys in canonical order.

    Args:
        link: names a child by its ID, giving ``K+link``. Without it children are inline, and
            so is what a Link with a loader names. Commitments are always inline.

    Raises:
        CodecError: a key or binary is not UTF-8, or a value has no JSON form.
        SizeError: nested deeper than the limit, or an integer is too long.
    """
    try:
        text = json.dumps(_plain(item, link, 0), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise CodecError("JSON: a key is not UTF-8", hint="Use another codec, such as httpsig@1.0.") from None


def _plain(item: Message | tuple[Value, ...], link: LinkTo | None, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    if isinstance(item, tuple):
        if any(type(x) is As or type(x) is Resolve for x in item):
            raise CodecError("a list holds a control object, which has no text")
        if any(type(x) is Atom and x == UNDEFINED for x in item):
            raise CodecError("a list holds the atom undefined, which counts as a hole")
        if not any(_needs_key(x, link) for x in item):
            return [_json(x, link, depth) for x in item]
        return _object(Message.make(list_to_map(item)), link, depth, {".": '.="list"'})
    if "ao-types" in item:
        return _plain(structured.decode(structured.encode(item, link=link)), link, depth)
    return _object(item, link, depth, {})


def _needs_key(member: Value, link: LinkTo | None) -> bool:
    """Say whether a list with this member must be written as a map, to carry a type or a link."""
    if isinstance(member, (bool, Atom)):
        return True
    if isinstance(member, Link):
        return link is not None or member.loader is None
    return link is not None and isinstance(member, (Message, tuple))


def _object(item: Message, link: LinkTo | None, depth: int, types: dict[str, str]) -> dict[str, Any]:
    items = item.raw_items()
    out: dict[str, Any] = {}
    for key in item.ordered():
        found = items[key]
        if key in structured.REGENERATED or key.startswith("priv"):
            continue
        if type(found) is Link and (link is not None or found.loader is None):
            out[key + "+link"] = found.id
        elif link is not None and isinstance(found, (Message, tuple)):
            out[key + "+link"] = link(found)
        else:
            if isinstance(found, (bool, Atom)):
                types[key] = f'{sfv.escape_key(key)}="atom"'
            text = _json(found, link, depth)
            if text is not _DROPPED:
                out[key] = text
    if types:
        out["ao-types"] = ", ".join(types[key] for key in sorted(types))
    if item.commitments:
        out["commitments"] = {name: _plain(one, None, depth + 2) for name, one in item.commitments.items()}
    return out


_DROPPED: Final = object()


def _json(found: Value, link: LinkTo | None, depth: int) -> Any:
    """Return the JSON form of one value; _DROPPED for the control objects of paths."""
    if isinstance(found, Link):
        found = found.load()
    if isinstance(found, bytes):
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            hint = "Use another codec, such as httpsig@1.0, or base64."
            raise CodecError("JSON: a binary is not UTF-8", hint=hint) from None
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, Atom):
        return sfv.atom_text(found).decode("ascii")
    if isinstance(found, int):
        if found.bit_length() > _MAX_BITS:
            raise SizeError(f"an integer has more than {sfv.MAX_DIGITS} digits")
        return found
    if isinstance(found, float):
        if not math.isfinite(found):
            raise CodecError("JSON: infinities and NaN have no text")
        return found
    if isinstance(found, (Message, tuple)):
        return _plain(found, link, depth + 1)
    return _DROPPED


# -- decoding ------------------------------------------------------------------------------


def decode(data: bytes, *, loader: Loader | None = None) -> Message | tuple[Value, ...]:
    """Return the message of a JSON object, or the list of a JSON array.

    Raises:
        CodecError: not JSON, not UTF-8, or refused for a reason in the module's text.
        SizeError: nested deeper, more keys, list members or values, or longer integers than the limits.
    """
    found = decode_any(data, loader=loader)
    if isinstance(found, bytes):
        raise CodecError("JSON: a message is an object or an array")
    return found


def decode_any(data: bytes, *, loader: Loader | None = None) -> Message | tuple[Value, ...] | bytes:
    """Like :func:`decode`, and a top-level string gives its bytes."""
    _refuse_many(data)
    try:
        parsed = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise CodecError("JSON: the text is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CodecError(f"JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}") from None
    found = _value(parsed, loader, 0)
    if isinstance(found, (Message, tuple, bytes)):
        return found
    raise CodecError("JSON: a message is an object, an array or a string")


def _refuse_many(data: bytes) -> None:
    """Refuse a text of too many values before any of them takes memory: each but the first follows a comma."""
    if data.count(b",") >= MAX_VALUES and _STRING.sub(b"", data).count(b",") >= MAX_VALUES:
        raise SizeError(f"the JSON text holds more than {MAX_VALUES} values")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise SizeError(f"a message has more than {MAX_KEYS} keys")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CodecError("JSON: an object holds a key twice")
    return found


def _integer(text: str) -> int:
    return sfv.integer(text.encode("ascii"))


def _float(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise CodecError("JSON: a float is outside the range of 64 bits")
    return found


def _refuse(name: str) -> Any:
    raise CodecError(f"JSON: {name} is not part of JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_refuse, strict=True
)


def _value(parsed: Any, loader: Loader | None, depth: int) -> Value:
    if type(parsed) is str:
        return _bytes(parsed)
    if parsed is None:
        return NULL
    if type(parsed) is list:
        if depth > MAX_DEPTH:
            raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
        if len(parsed) > MAX_KEYS:
            raise SizeError(f"a list has more than {MAX_KEYS} members")
        return tuple(_value(member, loader, depth + 1) for member in parsed)
    if type(parsed) is dict:
        return _message(parsed, loader, depth)
    return cast(Value, parsed)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise CodecError("JSON: a string holds half of a surrogate pair") from None


def _message(parsed: dict[str, Any], loader: Loader | None, depth: int) -> Message | tuple[Value, ...]:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    types: dict[str, str] = {}
    if "ao-types" in parsed:
        text = parsed["ao-types"]
        types = structured.parse_types(_bytes(text)) if type(text) is str else _refuse("ao-types other than text")
    items: dict[str, Value] = {}
    for key, found in parsed.items():
        _bytes(key)
        if key in ("ao-types", "commitments") or key.startswith("priv"):
            continue
        if key.endswith("+link") and type(found) is str:
            name = key[:-5]
            if name in parsed or name == "commitments":
                raise CodecError(f"{name[:40]!a} and its link stand side by side")
            items[name] = Link(found, loader)
        elif key in types and type(found) is str:
            items[key] = sfv.decode_value(types[key], _bytes(found))
        else:
            items[key] = _value(found, loader, depth + 1)
    if types.get(".") == "list" and "." not in parsed:
        return structured.as_list(items)
    return Message.make(items, _commitments(parsed.get("commitments"), loader, depth))


def _commitments(found: Any, loader: Loader | None, depth: int) -> dict[str, Message]:
    if found is None:
        return {}
    if type(found) is not dict:
        raise CodecError("commitments must be a map")
    return {name: structured.as_commitment(name, _value(one, loader, depth + 2)) for name, one in found.items()}
