"""What of a journal can be read behind a damage; see :mod:`hyperpy.store.journal`.

Only the lengths that stand before the batches say where one begins. What lies inside a batch was written by
clients, who could have put there what looks like one, so it is never searched for batches.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from pathlib import Path
from struct import Struct

import msgpack  # type: ignore[import-untyped]

log = logging.getLogger("hyperpy.store")

HEAD = Struct(">II")
"""Length and CRC-32 of a batch, which it stands before."""

_SEARCHED = 32 << 20


def whole(data: bytes, at: int) -> bytes | None:
    """Return the batch that begins there, or None if it is cut off or damaged."""
    if at + HEAD.size > len(data):
        return None
    size, check = HEAD.unpack_from(data, at)
    batch = data[at + HEAD.size : at + HEAD.size + size]
    return batch if size and len(batch) == size and zlib.crc32(batch) == check else None


def beyond(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the next whole batch begins, and how many before it are damaged; None: nothing follows.

    Args:
        at: where a batch begins that is not whole.
    """
    lost = 0
    while at + HEAD.size <= len(data):
        size, _ = HEAD.unpack_from(data, at)
        at += HEAD.size + size
        lost += 1
        if not size:
            break
        if whole(data, at) is not None:
            return at, lost
    return None


def measured(data: bytes, at: int) -> bytes | None:
    """Return a batch of which only the length is damaged, or None: its CRC-32 tells where it ends.

    Takes some 0.2 s for each MiB.
    """
    if at + HEAD.size > len(data):
        return None
    _, check = HEAD.unpack_from(data, at)
    start, crc, view = at + HEAD.size, 0, memoryview(data)
    for end in range(start + 1, min(len(data), start + _SEARCHED) + 1):
        crc = zlib.crc32(view[end - 1 : end], crc)
        if crc == check and (end == len(data) or whole(data, end) is not None):
            batch = data[start:end]
            try:
                msgpack.unpackb(batch, raw=True)
            except (ValueError, msgpack.UnpackException):
                continue
            return batch
    return None


def keep(file: Path, lost: int) -> None:
    """Keep a file of the journal that was damaged, and say so."""
    kept = file.with_name(file.name + ".damaged")
    if not kept.exists():
        try:
            os.link(file, kept)
        except OSError:
            shutil.copyfile(file, kept)
    log.error("the store's journal was damaged on the disk: %s batches are lost; the file is kept as %s", lost, kept)
