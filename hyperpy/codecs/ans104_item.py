"""ANS-104 data items as bytes: layout, tags, deep hash, IDs, bundles (ao-core 13.4, v0.9-final 4.1).

    01 00 | signature | owner | flag [target 32] | flag [anchor 32] | tag count u64 LE
          | tag bytes u64 LE | Avro tags | data

Parsing is strict: one value has one encoding. Tags must be in the shortest Avro form, a flag is
0 or 1, sizes must fit exactly. Everything else is CodecError, or SizeError past a limit, and
takes time linear in the bytes.

An item without owner and signature (all zero) is unsigned: both fields are ``b""`` in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, TypeAlias, Union

from hyperpy import keys_ans104
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import CodecError, SizeError
from hyperpy.keys_ans104 import RSA, TYPES, Signer

MAX_TAGS: Final = 128
MAX_NAME: Final = 3072
"""Longest tag name that parses, in bytes; one that verifies has at most MAX_SIGNED_NAME."""
MAX_SIGNED_NAME: Final = 1024
MAX_VALUE: Final = 3072
MAX_MEMBERS: Final = 10_000
"""Items in one bundle, at most."""
MAX_DEPTH: Final = 32
"""Lists inside lists of a deep hash, and bundles inside bundles, at most."""

Tag: TypeAlias = tuple[bytes, bytes]
Chunk: TypeAlias = Union[bytes, Sequence["Chunk"]]
Order: TypeAlias = Literal["little", "big"]

_ZERO_OWNER = bytes(512)


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
    """Return the Avro form of tags; no tags are no bytes.

    Raises:
        SizeError: more than MAX_TAGS, or a name or value past its limit.
    """
    if not tags:
        return b""
    if len(tags) > MAX_TAGS:
        raise SizeError(f"an item has {len(tags)} tags; {MAX_TAGS} is the limit")
    parts = [_zigzag(len(tags))]
    for name, value in tags:
        if len(name) > MAX_NAME or len(value) > MAX_VALUE:
            raise SizeError("a tag's name or value is too long")
        parts += (_zigzag(len(name)), name, _zigzag(len(value)), value)
    parts.append(b"\0")
    return b"".join(parts)


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
    if encode_tags(tags) != raw:  # also: cut off, trailing bytes, several blocks, long varints
        raise CodecError("the tags are cut off, or not in the shortest Avro form")
    return tags


# -- items -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One data item. ``target`` and ``anchor`` have 32 bytes or none."""

    signature_type: int = RSA
    signature: bytes = b""
    owner: bytes = b""
    target: bytes = b""
    anchor: bytes = b""
    tags: tuple[Tag, ...] = ()
    data: bytes = b""

    @property
    def signed(self) -> bool:
        """Whether the item carries a signature, good or bad."""
        return bool(self.signature)

    @cached_property
    def digest(self) -> bytes:
        """The 48 bytes that are signed."""
        return self._deep_hash(b"%d" % self.signature_type, self.owner or _ZERO_OWNER)

    @cached_property
    def unsigned_id(self) -> str:
        """The ID of the content alone."""
        return b64u(sha256(self._deep_hash(b"1", _ZERO_OWNER) if self.signed else self.digest))

    @cached_property
    def id(self) -> str:
        """The item's ID: that of its signature, or the unsigned one."""
        return b64u(sha256(self.signature)) if self.signed else self.unsigned_id

    @property
    def address(self) -> str:
        """The signer's address."""
        return keys_ans104.address_of(self.signature_type, self.owner)

    def _deep_hash(self, kind: bytes, owner: bytes) -> bytes:
        return deep_hash((b"dataitem", b"1", kind, owner, self.target, self.anchor, encode_tags(self.tags), self.data))

    def verify(self) -> bool:
        """Say whether the signature fits and no tag name is longer than MAX_SIGNED_NAME."""
        if not self.signed or any(len(name) > MAX_SIGNED_NAME for name, _ in self.tags):
            return False
        return keys_ans104.verify(self.signature_type, self.owner, self.signature, self.digest)

    def sign(self, signer: Signer) -> Item:
        """Return the item signed.

        Raises:
            SizeError: a tag name is too long to verify.
        """
        if any(len(name) > MAX_SIGNED_NAME for name, _ in self.tags):
            raise SizeError(f"a signed item's tag names have at most {MAX_SIGNED_NAME} bytes")
        bare = replace(self, signature_type=signer.signature_type, owner=signer.owner, signature=b"")
        return replace(bare, signature=signer.sign(bare.digest))

    def encode(self) -> bytes:
        """Return the item's bytes; SizeError past a limit of the tags."""
        kind = TYPES[self.signature_type]
        tags = encode_tags(self.tags)
        return b"".join(
            (
                kind.number.to_bytes(2, "little"),
                self.signature or bytes(kind.signature_size),
                self.owner or bytes(kind.owner_size),
                b"\1" + self.target if self.target else b"\0",
                b"\1" + self.anchor if self.anchor else b"\0",
                len(self.tags).to_bytes(8, "little"),
                len(tags).to_bytes(8, "little"),
                tags,
                self.data,
            )
        )


def parse(raw: bytes) -> Item:
    """Return the item that ``raw`` is. Its signature is not checked.

    Raises:
        CodecError: cut off, malformed, or of an unknown signature type.
        SizeError: a limit of the tags is passed.
    """
    kind = TYPES.get(int.from_bytes(raw[:2], "little"))
    if kind is None or len(raw) < 2:
        raise CodecError("no data item: its signature type is unknown")
    owner_at = 2 + kind.signature_size
    at = owner_at + kind.owner_size
    signature, owner = raw[2:owner_at], raw[owner_at:at]
    target, at = _optional(raw, at, "target")
    anchor, at = _optional(raw, at, "anchor")
    counts, at = raw[at : at + 16], at + 16
    if len(counts) != 16:
        raise CodecError("a data item is cut off")
    count, size = int.from_bytes(counts[:8], "little"), int.from_bytes(counts[8:], "little")
    if count > MAX_TAGS:
        raise SizeError(f"an item has {count} tags; {MAX_TAGS} is the limit")
    if size > len(raw) - at:
        raise CodecError("a data item is cut off in its tags")
    tags = decode_tags(raw[at : at + size])
    if len(tags) != count:
        raise CodecError("a data item's tag count is not that of its tags")
    if kind.number == RSA and not any(signature) and not any(owner):
        signature = owner = b""
    return Item(kind.number, signature, owner, target, anchor, tags, raw[at + size :])


def _optional(raw: bytes, at: int, name: str) -> tuple[bytes, int]:
    flag = raw[at : at + 1]
    if flag == b"\0":
        return b"", at + 1
    found = raw[at + 1 : at + 33]
    if flag != b"\1" or len(found) != 32:
        raise CodecError(f"a data item is cut off or malformed at its {name}")
    return found, at + 33


# -- bundles ---------------------------------------------------------------------------------


def encode_bundle(members: Sequence[tuple[bytes, bytes]], order: Order = "little") -> bytes:
    """Return bundle data from (32-byte ID, item bytes) pairs."""
    head = [len(members).to_bytes(32, order)]
    for digest, raw in members:
        head += (len(raw).to_bytes(32, order), digest)
    return b"".join((*head, *(raw for _, raw in members)))


def parse_bundle(data: bytes) -> tuple[Order, list[tuple[bytes, bytes]]]:
    """Return the byte order of a bundle's header and its (32-byte ID, item bytes) pairs.

    Little-endian is the rule. Big-endian, as the September 2025 reference wrote, is read if the
    first 8 bytes are zero, the last of the count is not, and the sizes fit (v0.9-final 6).

    Raises:
        CodecError: the sizes do not fit the data exactly.
        SizeError: more than MAX_MEMBERS items.
    """
    found = _parse_bundle(data, "little")
    if found is not None:
        return "little", found
    if not any(data[:8]) and len(data) >= 32 and data[31]:
        found = _parse_bundle(data, "big")
        if found is not None:
            return "big", found
    raise CodecError("a bundle's sizes do not fit its data")


def _parse_bundle(data: bytes, order: Order) -> list[tuple[bytes, bytes]] | None:
    count = int.from_bytes(data[:32], order)
    at = 32 + 64 * count
    if len(data) < 32 or at > len(data):
        return None
    if count > MAX_MEMBERS:
        raise SizeError(f"a bundle has {count} items; {MAX_MEMBERS} is the limit")
    members = []
    for head in range(32, at, 64):
        size = int.from_bytes(data[head : head + 32], order)
        if size > len(data) - at:
            return None
        members.append((data[head + 32 : head + 64], data[at : at + size]))
        at += size
    return members if at == len(data) else None
