"""Base64url IDs, SHA-256, the two hashpath functions and the order of keys.

Spec: ao-core 1.7 (what counts as an ID), 1.8 (order of maps with more than 32 keys), 5.1.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64encode
from collections.abc import Iterable

from hyperpy.errors import CodecError

ID_LENGTHS = frozenset({32, 42, 43})
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_MASK = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def sha256(data: bytes) -> bytes:
    """Return the 32-byte SHA-256 digest of ``data``."""
    return hashlib.sha256(data).digest()


def b64u(data: bytes) -> str:
    """Return base64url text without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64u_decode(text: str | bytes) -> bytes:
    """Decode base64 of either alphabet, padded or not.

    Raises:
        CodecError: the text holds other characters or has an impossible length.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    try:
        if len(raw) == 43 and not raw.endswith(b"="):
            return binascii.a2b_base64(raw.translate(_FROM_URL) + b"=", strict_mode=True)
        raw = raw.rstrip(b"=").translate(_FROM_URL)
        return binascii.a2b_base64(raw + b"==="[: -len(raw) % 4], strict_mode=True)
    except binascii.Error as error:
        raise CodecError(f"not base64: {error}") from None


def b64(data: bytes) -> str:
    """Return standard base64 text with padding."""
    return b64encode(data).decode("ascii")


def key_bytes(key: str) -> bytes:
    """Return the bytes of a message key (UTF-8, other bytes through surrogateescape)."""
    return key.encode("utf-8", "surrogateescape")


def key_text(data: bytes) -> str:
    """Return the key whose bytes are ``data``; the inverse of :func:`key_bytes`."""
    return data.decode("utf-8", "surrogateescape")


def is_id(key: str | bytes) -> bool:
    """Say whether a key or path part counts as an ID: by its length in bytes alone (1.7)."""
    if isinstance(key, str) and not key.isascii():
        key = key_bytes(key)
    return len(key) in ID_LENGTHS


def human(ref: str | bytes) -> str:
    """Return the text form of an ID: 32 raw bytes become base64url, text stays."""
    raw = key_bytes(ref) if isinstance(ref, str) else ref
    return b64u(raw) if len(raw) == 32 else key_text(raw)


def native(ref: str | bytes) -> bytes:
    """Return the raw form of an ID: 43 characters become 32 bytes, others stay bytes."""
    raw = ref if type(ref) is bytes else ref.encode("utf-8", "surrogateescape")  # type: ignore[union-attr]
    if len(raw) != 43:
        return raw
    try:
        return binascii.a2b_base64(raw.translate(_FROM_URL) + b"=", strict_mode=True)
    except binascii.Error:
        return b64u_decode(raw)  # with padding, or an error in our words


def chain_sha256(previous: bytes, reference: bytes) -> bytes:
    """Return the ``sha-256-chain`` step: SHA-256 of the two values joined (5.1)."""
    return sha256(previous + reference)


def accumulate_256(previous: bytes, reference: bytes) -> bytes:
    """Return the ``accumulate-256`` step: the sum mod 2^256 of two 32-byte values (5.1).

    Raises:
        CodecError: a value is not 32 bytes long.
    """
    if len(previous) != 32 or len(reference) != 32:
        raise CodecError("accumulate-256 takes two 32-byte values")
    total = int.from_bytes(previous, "big") + int.from_bytes(reference, "big")
    return (total % (1 << 256)).to_bytes(32, "big")


def _rot(x: int, n: int) -> int:
    return ((x << n) | (x >> (64 - n))) & _MASK


def _mix(h: int) -> int:
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & _MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & _MASK
    return h ^ (h >> 33)


def _trie_hash(key: bytes) -> int:
    """Return the 64-bit hash that orders a key in a large map (1.8, steps 1 to 6)."""
    a = b = t = 0

    def block_a(x: int) -> None:
        nonlocal a, t
        a ^= _rot(x * _C1 & _MASK, 31) * _C2 & _MASK
        a = (((_rot(a, 27) + b) & _MASK) * 5 + 0x52DCE729) & _MASK
        t += 1

    def block_b(x: int) -> None:
        nonlocal b, t
        b ^= _rot(x * _C2 & _MASK, 33) * _C1 & _MASK
        b = (((_rot(b, 31) + a) & _MASK) * 5 + 0x38495AB5) & _MASK
        t += 1

    block_a(11)
    block_b(8 * len(key))
    whole = len(key) // 16 * 16
    for at in range(0, whole, 16):
        block_a(int.from_bytes(key[at : at + 8], "little"))
        block_b(int.from_bytes(key[at + 8 : at + 16], "little"))
    tail = key[whole:]
    if len(tail) > 8:
        b ^= _rot(int.from_bytes(tail[8:], "little") * _C2 & _MASK, 33) * _C1 & _MASK
    if tail:
        a ^= _rot(int.from_bytes(tail[:8], "little") * _C1 & _MASK, 31) * _C2 & _MASK
    a ^= t
    b ^= t
    a = (a + b) & _MASK
    b = (b + a) & _MASK
    a, b = _mix(a), _mix(b)
    a = (a + b) & _MASK
    b = (b + a) & _MASK
    return a ^ b


def _trie_rank(key: str) -> tuple[int, ...]:
    value = _trie_hash(key_bytes(key))
    return tuple(-(value >> (4 * i) & 15) for i in range(16))


def bytewise(keys: Iterable[str]) -> list[str]:
    """Return keys sorted as unsigned bytes."""
    found = list(keys)
    if all(map(str.isascii, found)):
        found.sort()
    else:
        found.sort(key=key_bytes)
    return found


def ordered(keys: Iterable[str]) -> list[str]:
    """Return keys in the canonical order: bytewise up to 32 keys, trie order above (1.8)."""
    found = list(keys)
    if len(found) <= 32:
        return bytewise(found)
    return sorted(found, key=_trie_rank)


def float_text(value: float) -> str:
    """Return the wire text of a float, C's ``%.20e`` (1.2)."""
    return f"{value:.20e}"


def number_keys(names: Iterable[str]) -> list[str]:
    """Return the names that are decimal numbers of at most nine ASCII digits, by value."""
    return sorted((name for name in names if len(name) < 10 and name.isascii() and name.isdigit()), key=int)
