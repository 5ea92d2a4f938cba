"""Structured fields as AO-Core reads them, the key escape, and the text of typed values.

http-sf parses the values. What AO-Core allows beyond RFC 9651 is handled here and nowhere
else (ao-core 13.1, v0.9-final 1): dictionary keys may hold capitals, digits, ``% . / ? & _``
anywhere; an integer that is a whole item may have more than 15 digits. What RFC 9651 allows
and AO-Core does not is refused: dates, display strings, space before or after the text, and
an empty item (a rule we keep although the newer reference reads it as an empty binary).

Item values are ``int``, ``Decimal``, ``str`` (a string), :class:`Token`, ``bytes``, ``bool``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, Union

from hyperpy.encoding import b64, float_text, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import Atom, Message, Value, atom

MAX_DIGITS: Final = 4300
"""Longest integer text that is read or written, in digits (conversion takes quadratic time)."""

MAX_MEMBERS: Final = 10_000
"""Members of one list or dictionary, at most."""


class Token(str):
    """A structured-field token, as opposed to a quoted string."""

    __slots__ = ()


Bare: TypeAlias = Union[int, Decimal, str, bytes, bool]
Params: TypeAlias = Mapping[str, Bare]


class Item(NamedTuple):
    """One value with its parameters."""

    value: Bare
    params: Params = {}


class InnerList(NamedTuple):
    """A parenthesised list of items with its parameters."""

    items: tuple[Item, ...]
    params: Params = {}


Member: TypeAlias = Union[Item, InnerList]

# -- the key escape (ao-core 2.1) ----------------------------------------------------------

_SAFE = re.compile(r"[a-z0-9._/?&-]*")
_UNSAFE_BYTE = re.compile(rb"[^a-z0-9._/?&-]")
_PERCENT = re.compile(rb"%(..?)?", re.DOTALL)
_CACHED_KEY = 256


def escape_key(key: str) -> str:
    """Return ``key`` with every byte outside ``a-z 0-9 . - _ / ? &`` as ``%xx``."""
    if _SAFE.fullmatch(key):
        return key
    return _escape_cached(key) if len(key) <= _CACHED_KEY else _escape(key)


def _escape(key: str) -> str:
    return _UNSAFE_BYTE.sub(lambda m: b"%%%02x" % m[0][0], key_bytes(key)).decode("ascii")


_escape_cached = lru_cache(maxsize=4096)(_escape)


def unescape_key(key: str) -> str:
    """Undo :func:`escape_key`; hex digits of either case.

    Raises:
        CodecError: a ``%`` is not followed by two hex digits.
    """
    return key_text(_PERCENT.sub(_unescape_byte, key_bytes(key))) if "%" in key else key


def _unescape_byte(match: re.Match[bytes]) -> bytes:
    digits = match[1] or b""
    if len(digits) != 2 or not digits.isalnum():
        raise CodecError("a % in a key must be followed by two hex digits")
    try:
        return bytes([int(digits, 16)])
    except ValueError:
        raise CodecError("a % in a key must be followed by two hex digits") from None


# -- parsing -------------------------------------------------------------------------------

_MEMBER = re.compile(rb'(?:[^",]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_KEY = re.compile(rb"[A-Za-z0-9*._%/?&-]+")
_LONG_INTEGER = re.compile(rb"-?[0-9]{16,}")
_SPACE = b" \t"


def parse_item(text: str | bytes) -> Item:
    """Parse one item; raise CodecError if it is anything else."""
    raw = _outer(text)
    found = _member(raw)
    if not isinstance(found, Item):
        raise CodecError("structured field: an item is wanted, not an inner list")
    return found


def parse_list(text: str | bytes) -> tuple[Member, ...]:
    """Parse a list; the empty text is the empty list. Raises CodecError, or SizeError past MAX_MEMBERS."""
    return tuple(_member(part) for part in _split(_outer(text)))


def parse_dictionary(text: str | bytes) -> dict[str, Member]:
    """Parse a dictionary, keys as written; a later entry replaces an earlier one.

    Raises:
        CodecError: the text does not parse.
        SizeError: more than MAX_MEMBERS entries.
    """
    found: dict[str, Member] = {}
    for part in _split(_outer(text)):
        key = _KEY.match(part)
        if key is None:
            raise CodecError("structured field: a dictionary key is missing or holds a forbidden character")
        rest = part[key.end() :]
        found[key[0].decode("ascii")] = _member(rest[1:]) if rest[:1] == b"=" else _member(b"?1" + rest)
    return found


def _outer(text: str | bytes) -> bytes:
    raw = key_bytes(text) if isinstance(text, str) else text
    if raw[:1] in (b" ", b"\t") or raw[-1:] in (b" ", b"\t"):
        raise CodecError("structured field: space before or after the text")
    return raw


def _split(raw: bytes) -> Iterable[bytes]:
    """Yield the members between top-level commas, without the space around the commas."""
    at = 0
    for count in itertools.count() if raw else ():
        if count >= MAX_MEMBERS:
            raise _too_many()
        match = _MEMBER.match(raw, at)
        end = match.end() if match else at
        if end < len(raw) and raw[end] != 0x2C:
            raise CodecError("structured field: a string is not closed")
        yield raw[at:end].strip(_SPACE)
        if end == len(raw):
            return
        at = end + 1


def _too_many() -> SizeError:
    return SizeError(f"a list has more than {MAX_MEMBERS} members")


def _member(raw: bytes) -> Member:
    if not raw or raw[0] in _SPACE:
        raise CodecError("structured field: an empty item")
    if _LONG_INTEGER.fullmatch(raw):
        return Item(integer(raw))
    import http_sf  # a light verifier does without it

    is_list = raw[0] == 0x28
    parsed: Any
    try:
        parsed = http_sf.parse(raw, tltype="list" if is_list else "item")
    except ValueError:
        raise CodecError("structured field: the text does not parse") from None
    if not is_list:
        value, params = parsed
        return Item(_bare(value), _params(params))
    if len(parsed) != 1:
        raise CodecError("structured field: an inner list goes on after its end")
    items, params = parsed[0]
    return InnerList(tuple(Item(_bare(value), _params(own)) for value, own in items), _params(params))


def _params(found: Mapping[str, Any]) -> Params:
    return {name: _bare(value) for name, value in found.items()} if found else {}


def _bare(value: Any) -> Bare:
    if isinstance(value, (bool, int, Decimal, str, bytes)):
        return value
    import http_sf

    if isinstance(value, http_sf.Token):
        return Token(value.data)
    raise CodecError("structured field: dates and display strings are not part of AO-Core")


# -- serialising -----------------------------------------------------------------------------


def serialize_item(item: Item) -> bytes:
    """Return the text of an item. Strings are escaped but not checked (ao-core 13.1)."""
    return _bare_text(item.value) + _params_text(item.params)


def serialize_list(members: Iterable[Member]) -> bytes:
    """Return the text of a list, members joined with ``, ``."""
    return b", ".join(map(_member_text, members))


def serialize_dictionary(members: Mapping[str, Member]) -> bytes:
    """Return the text of a dictionary in the mapping's order; keys are written as they are."""
    parts = []
    for key, member in members.items():
        name = key_bytes(key)
        if isinstance(member, Item) and member.value is True:
            parts.append(name + _params_text(member.params))
        else:
            parts.append(name + b"=" + _member_text(member))
    return b", ".join(parts)


def _member_text(member: Member) -> bytes:
    if isinstance(member, Item):
        return serialize_item(member)
    return b"(" + b" ".join(map(serialize_item, member.items)) + b")" + _params_text(member.params)


def _params_text(params: Params) -> bytes:
    out = b""
    for name, value in params.items():
        out += b";" + key_bytes(name) + (b"" if value is True else b"=" + _bare_text(value))
    return out


def _bare_text(value: Bare) -> bytes:
    if isinstance(value, bool):
        return b"?1" if value else b"?0"
    if isinstance(value, int):
        return integer_text(value)
    if isinstance(value, Token):
        return key_bytes(value)
    if isinstance(value, str):
        return b'"' + key_bytes(value.replace("\\", "\\\\").replace('"', '\\"')) + b'"'
    if isinstance(value, bytes):
        return b":" + b64(value).encode("ascii") + b":"
    text = format(value, "f")
    return (text if "." in text else text + ".0").encode("ascii")


# -- typed values (ao-core 2.2) --------------------------------------------------------------

_FLOAT = re.compile(rb"[+-]?[0-9]{1,400}\.[0-9]{1,400}(?:[eE][+-]?[0-9]{1,5})?")
_TOKEN = re.compile(rb"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
_TYPED_MEMBER = "(ao-type-"


def integer(text: bytes) -> int:
    """Read ``-?digits``, of any length up to MAX_DIGITS; raise CodecError or SizeError."""
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit():
        raise CodecError("an integer is written as digits, with '-' in front when negative")
    if len(digits) > MAX_DIGITS:
        raise SizeError(f"an integer has more than {MAX_DIGITS} digits")
    return int(text)


def integer_text(value: int) -> bytes:
    """Return an integer in decimal; raise SizeError past MAX_DIGITS digits."""
    try:
        return b"%d" % value
    except ValueError:
        raise SizeError(f"an integer has more than {MAX_DIGITS} digits") from None


def float_value(text: bytes) -> float:
    """Read Erlang float text: digits, a dot, digits, perhaps an exponent; else CodecError."""
    if not _FLOAT.fullmatch(text):
        raise CodecError("a float needs a digit on each side of its dot")
    found = float(text)
    if math.isinf(found):
        raise CodecError("a float is outside the range of 64 bits")
    return found


def float_bytes(value: float) -> bytes:
    """Return the wire text of a float; raise CodecError for infinities and NaN."""
    if not math.isfinite(value):
        raise CodecError("infinities and NaN have no text")
    return float_text(value).encode("ascii")


def atom_value(text: bytes) -> bool | Atom:
    """Read an atom's name: a token, or a quoted string; else CodecError."""
    if _TOKEN.fullmatch(text):
        return atom(text.decode("ascii"))
    found = parse_item(text).value
    if not isinstance(found, str):
        raise CodecError("an atom is a token or a quoted string")
    return atom(str(found))


def atom_text(value: str) -> bytes:
    """Return an atom's name: bare if it is a token, else quoted; CodecError if not ASCII."""
    raw = key_bytes(value)
    if _TOKEN.fullmatch(raw):
        return raw
    if not (value.isascii() and value.isprintable()):
        raise CodecError("an atom's name must be printable ASCII")
    return _bare_text(value)


def _list_value(text: bytes) -> tuple[Value, ...]:
    try:
        return tuple(_from_member(member) for member in parse_list(text))
    except CodecError:
        if not text.lstrip(b" ").startswith(b"(ao-type-"):
            raise
        if text.count(b",") >= MAX_MEMBERS:
            raise _too_many() from None
        return tuple(_unquoted_member(member.strip(b" \t")) for member in text.split(b","))


def _unquoted_member(text: bytes) -> Value:
    """Return a member of a list as ao-core-libs and aoconnect write it: without quotes (http-clients.md 3)."""
    if not text.startswith(b"(ao-type-"):
        return text
    name, separator, rest = text[9:].partition(b") ")
    if not separator or name in (b"list", b"map"):
        raise CodecError("an unquoted list member reads '(ao-type-TYPE) text', and TYPE is no list or map")
    return rest if name == b"binary" else decode_value(key_text(name), rest)


def _map_value(text: bytes) -> Message:
    items = {unescape_key(key): _from_bare(member) for key, member in parse_dictionary(text).items()}
    if "commitments" in items:
        raise CodecError("commitments must be a map")
    return Message({key: item for key, item in items.items() if not key.startswith("priv")})


def _from_member(member: Member) -> Value:
    value = member.value if isinstance(member, Item) else None
    if isinstance(value, str) and not isinstance(value, Token) and value.startswith(_TYPED_MEMBER):
        name, separator, text = value[len(_TYPED_MEMBER) :].partition(") ")
        if not separator:
            raise CodecError("a typed list member reads '(ao-type-TYPE) text'")
        return decode_value(name, key_bytes(text))
    return _from_bare(member)


def _from_bare(member: Member) -> Value:
    if not isinstance(member, Item):
        raise CodecError("an inner list is no value")
    value = member.value
    if isinstance(value, Token):
        return atom(value)
    if isinstance(value, Decimal):
        return float(value)
    return key_bytes(value) if isinstance(value, str) else value


DECODERS: Final[Mapping[str, Callable[[bytes], Value]]] = {
    "integer": integer,
    "float": float_value,
    "atom": atom_value,
    "list": _list_value,
    "map": _map_value,
    "empty-list": lambda _: (),
    "empty-message": lambda _: Message(),
    "empty-binary": lambda _: b"",
}
"""How the text of each type is read; the type's name in lower case."""


def decode_value(type: str, text: bytes) -> Value:
    """Read ``text`` as the type named by an ``ao-types`` entry (any case).

    Raises:
        CodecError: the type is unknown or the text does not fit it.
    """
    decoder = DECODERS.get(type.lower())
    if decoder is None:
        raise CodecError(f"'{type[:40]}' is no type of ao-types")
    return decoder(text)


def encode_value(value: Value) -> tuple[str | None, bytes]:
    """Return the type name (None for a binary) and the text of a value.

    A list becomes the legacy one-line form; structured@1.0 writes lists as maps instead.

    Raises:
        CodecError: the value is a map, a link or a control object.
    """
    if isinstance(value, bytes):
        return None, value
    if isinstance(value, bool):
        return "atom", b"true" if value else b"false"
    if isinstance(value, int):
        return "integer", integer_text(value)
    if isinstance(value, float):
        return "float", float_bytes(value)
    if isinstance(value, Atom):
        return "atom", atom_text(value)
    if isinstance(value, tuple):
        return "list", b", ".join(_list_member(member) for member in value)
    raise CodecError(f"a {type(value).__name__} has no one-line text")


def _list_member(value: Value) -> bytes:
    name, text = encode_value(value)
    plain = key_text(text)
    return _bare_text(plain if name is None else f"{_TYPED_MEMBER}{name}) {plain}")
