"""The tags and the deep hash of ANS-104 items (ao-core 13.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias, Union

from hyperpy.errors import CodecError, SizeError

MAX_TAGS: Final = 128
MAX_NAME: Final = 3072
"""Longest tag name that parses, in bytes; one that verifies has at most MAX_SIGNED_NAME."""
MAX_SIGNED_NAME: Final = 1024
MAX_VALUE: Final = 3072
MAX_DEPTH: Final = 32
"""Lists inside lists of a deep hash, and bundles inside bundles, at most."""

Tag: TypeAlias = tuple[bytes, bytes]
Chunk: TypeAlias = Union[bytes, Sequence["Chunk"]]


# -- deep hash -------------------------------------------------------------------------------


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def _blob(data: bytes) -> bytes:
    return _sha384(_sha384(b"blob%d" % len(data)) + _sha384(data))


def deep_hash(chunk: Chunk, _depth: int = 0) -> bytes:
    """Return the 48-byte deep hash of nested lists of bytes.

    Raises:
        SizeError: nested deeper than MAX_DEPTH.
    """
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return _blob(bytes(chunk))
    if _depth > MAX_DEPTH:
        raise SizeError(f"a deep hash nests deeper than {MAX_DEPTH}")
    found = _sha384(b"list%d" % len(chunk))
    for member in chunk:
        found = _sha384(found + deep_hash(member, _depth + 1))
    return found


# -- tags ------------------------------------------------------------------------------------


def _zigzag(number: int) -> bytes:
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_tags(tags: Sequence[Tag]) -> bytes:
    """Return the Avro form of tags, whatever their number and sizes; no tags are no bytes."""
    if not tags:
        return b""
    parts = [_zigzag(len(tags))]
    for name, value in tags:
        parts += (_zigzag(len(name)), name, _zigzag(len(value)), value)
    parts.append(b"\0")
    return b"".join(parts)


def check_tags(tags: Sequence[Tag], longest_name: int = MAX_NAME) -> None:
    """Raise SizeError if there are more than MAX_TAGS tags, or a name or value is too long."""
    if len(tags) > MAX_TAGS:
        raise SizeError(f"an item has {len(tags)} tags; {MAX_TAGS} is the limit")
    if any(len(name) > longest_name or len(value) > MAX_VALUE for name, value in tags):
        raise SizeError(f"a tag's name has at most {longest_name} bytes and its value {MAX_VALUE}")


def _read_length(raw: bytes, at: int) -> tuple[int, int]:
    """Return (non-negative number, next offset) of a zigzag integer of at most 3 bytes."""
    number = shift = 0
    for byte in raw[at : at + 3]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if number & 1:
                raise CodecError("a tag has a negative length")
            return number >> 1, at + shift // 7
    raise CodecError("the tags end too early, or a length is too large")


def decode_tags(raw: bytes) -> tuple[Tag, ...]:
    """Return the tags of an Avro text, as bytes, in order.

    Raises:
        CodecError: malformed, not in the shortest form, or bytes are left over.
        SizeError: more than MAX_TAGS, or a name or value past its limit.
    """
    if not raw:
        return ()
    count, at = _read_length(raw, 0)
    if count > MAX_TAGS:
        raise SizeError(f"an item has {count} tags; {MAX_TAGS} is the limit")
    texts: list[bytes] = []
    for _ in range(2 * count):
        size, at = _read_length(raw, at)
        texts.append(raw[at : at + size])
        at += size
    tags = tuple(zip(texts[::2], texts[1::2], strict=True))
    check_tags(tags)
    if encode_tags(tags) != raw:  # also: cut off, trailing bytes, several blocks, long varints
        raise CodecError("the tags are cut off, or not in the shortest Avro form")
    return tags
