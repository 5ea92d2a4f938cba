"""Merkle trees of RFC 9162 (2.1): many statements under one report, each provable by itself (tee-attestation 7.2).

Leaves and nodes are hashed apart (``00`` and ``01`` before them), so that no node passes for a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hyperpy.encoding import sha256

MAX_LEAVES: Final = 1 << 16
"""Leaves of one tree at most; a proof then has 16 digests."""


def leaf(data: bytes) -> bytes:
    """Return the digest (32 bytes) of a leaf."""
    return sha256(b"\x00" + data)


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree, from the digests of its leaves; at least one."""
    if len(leaves) == 1:
        return leaves[0]
    at = _split(len(leaves))
    return _node(root(leaves[:at]), root(leaves[at:]))


def proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return what proves a leaf: the digests beside its way to the root, from below."""
    if len(leaves) == 1:
        return ()
    at = _split(len(leaves))
    if index < at:
        return (*proof(leaves[:at], index), root(leaves[at:]))
    return (*proof(leaves[at:], index - at), root(leaves[:at]))


def climbed(digest: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf's digest and its proof lead to; None if no tree of ``count`` leaves has that form."""
    if not 0 <= index < count <= MAX_LEAVES:
        return None
    at, last = index, count - 1
    for beside in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            digest = _node(beside, digest)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            digest = _node(digest, beside)
        at, last = at >> 1, last >> 1
    return digest if last == 0 else None


def _split(count: int) -> int:
    """Return the largest power of two below a number above 1."""
    return 1 << (count - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)
