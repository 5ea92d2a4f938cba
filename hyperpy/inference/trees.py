"""Merkle trees of HPI-1 (section 12): roots, the paths that open them, and mountain ranges over positions.

A leaf is SHA-256(0x00 || bytes), a node SHA-256(0x01 || left || right), an odd node is promoted unchanged. A path
lists siblings from the bottom; where each stands follows from the leaf's number and how many leaves there are, never
from the path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from hyperpy.errors import CodecError

LEAF: Final = 1024
"""Bytes of a tensor's leaf: 256 values as i32 LE."""
VALUES: Final = LEAF // 4


def leaf(data: bytes) -> bytes:
    """Return the digest of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the digest of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root(nodes: Sequence[bytes]) -> bytes:
    """Return the root over leaf digests, of which there is at least one."""
    row = list(nodes)
    while len(row) > 1:
        paired = [node(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
        row = paired + row[len(row) & ~1 :]
    return row[0]


def over(roots: Sequence[bytes]) -> bytes:
    """Return the root over roots: each is a leaf of 32 bytes."""
    return root([leaf(one) for one in roots])


def leaves(data: bytes) -> list[bytes]:
    """Return the leaf digests of a tensor's bytes; the last leaf may be shorter."""
    return [leaf(data[at : at + LEAF]) for at in range(0, len(data), LEAF)]


def as_bytes(values: Any) -> bytes:
    """Return a tensor row as i32 LE."""
    return np.ascontiguousarray(values).astype("<i4").tobytes()


def tensor(values: Any) -> bytes:
    """Return the root of one tensor row."""
    return root(leaves(as_bytes(values)))


def path(nodes: Sequence[bytes], number: int) -> list[bytes]:
    """Return the siblings that lead from leaf ``number`` to the root."""
    row, found = list(nodes), []
    while len(row) > 1:
        beside = number ^ 1
        if beside < len(row):
            found.append(row[beside])
        paired = [node(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
        row, number = paired + row[len(row) & ~1 :], number >> 1
    return found


def climb(digest: bytes, number: int, count: int, siblings: Sequence[bytes]) -> bytes:
    """Return the root that a path leads to.

    Raises:
        CodecError: the path is not as long as one from that leaf of so many.
    """
    left = iter(siblings)
    try:
        while count > 1:
            if number ^ 1 < count:
                beside = next(left)
                digest = node(beside, digest) if number & 1 else node(digest, beside)
            number, count = number >> 1, (count + 1) >> 1
    except StopIteration:
        raise CodecError("a path of a tree is too short") from None
    if next(left, None) is not None:
        raise CodecError("a path of a tree is too long")
    return digest


# -- mountain ranges ------------------------------------------------------------------------------


def sizes(count: int) -> list[int]:
    """Return how many entries each peak of a range has, from the left: the powers of two of ``count``."""
    return [1 << bit for bit in range(count.bit_length() - 1, -1, -1) if count >> bit & 1]


def bag(peaks: Sequence[bytes]) -> bytes:
    """Return peaks folded from the right."""
    made = peaks[-1]
    for peak in reversed(peaks[:-1]):
        made = node(peak, made)
    return made


def peaks_of(entries: Sequence[bytes]) -> list[bytes]:
    """Return the peaks over entry digests, from the left."""
    found, at = [], 0
    for size in sizes(len(entries)):
        found.append(root(entries[at : at + size]))
        at += size
    return found


class Range:
    """An append-only Merkle mountain range over entry digests."""

    def __init__(self) -> None:
        self.count = 0
        self._peaks: list[bytes] = []

    def add(self, digest: bytes) -> None:
        """Append one entry."""
        at = self.count
        while at & 1:
            digest = node(self._peaks.pop(), digest)
            at >>= 1
        self._peaks.append(digest)
        self.count += 1

    @property
    def bag(self) -> bytes:
        """The peaks, folded; there must be an entry."""
        return bag(self._peaks)
