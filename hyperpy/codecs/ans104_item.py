"""ANS-104 data items as bytes: layout, IDs, signatures, bundles (ao-core 13.4, v0.9-final 4.1).

    01 00 | signature | owner | flag [target 32] | flag [anchor 32] | tag count u64 LE
          | tag bytes u64 LE | Avro tags | data

Parsing is strict: one value has one encoding. Tags must be in the shortest Avro form, a flag is
0 or 1, sizes must fit exactly. Everything else is CodecError, or SizeError past a limit, and
takes time linear in the bytes.

An item without owner and signature (all zero) is unsigned: both fields are ``b""`` in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, TypeAlias

from hyperpy import keys_ans104
from hyperpy.codecs.ans104_tags import MAX_SIGNED_NAME, MAX_TAGS, Tag, check_tags, decode_tags, deep_hash, encode_tags
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import CodecError, SizeError
from hyperpy.keys_ans104 import RSA, TYPES, Signer

MAX_MEMBERS: Final = 10_000
"""Items in one bundle, at most."""
Order: TypeAlias = Literal["little", "big"]

_ZERO_OWNER = bytes(512)


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
            SizeError: a limit of the tags is passed; names of signed items have at most MAX_SIGNED_NAME bytes.
        """
        check_tags(self.tags, MAX_SIGNED_NAME)
        bare = replace(self, signature_type=signer.signature_type, owner=signer.owner, signature=b"")
        return replace(bare, signature=signer.sign(bare.digest))

    def encode(self) -> bytes:
        """Return the item's bytes; SizeError past a limit of the tags."""
        check_tags(self.tags)
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
