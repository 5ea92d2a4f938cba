"""The rows of a process's schedule: its assignments, and where it ends."""

from __future__ import annotations

from typing import Final

from hyperpy import commitments
from hyperpy.codecs import canonical, whole
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import CodecError, Corrupt, SizeError
from hyperpy.message import Message

_NEWEST: Final = (1 << 64) - 1


def write_assignment(assignment: Message, chain: bytes) -> bytes:
    """Return the entry of the table ``assignments``: the 32 chain bytes, the whole message, and two of its IDs."""
    names = (commitments.signed_id(assignment).encode(), commitments.hashpath_id(assignment).encode())
    return canonical.encode((chain, whole.plain(assignment), names))


def read_assignment(data: bytes) -> tuple[bytes, Message]:
    """Return the chain bytes and the assignment of an entry; raise Corrupt if it is damaged."""
    try:
        chain, rest, (name, path) = canonical.decode_own(data)
        found = whole.restored(rest)
    except (CodecError, SizeError, TypeError, ValueError) as error:
        raise Corrupt(f"a stored assignment was damaged: {error}") from None
    if type(found) is not Message or type(chain) is not bytes:
        raise Corrupt("a stored assignment was damaged")
    found.memo.update({"id all": key_text(name), "hashpath-id": key_text(path), "reference": key_text(name)})
    return chain, found


def misnamed(assignment: Message) -> tuple[str, str] | None:
    """Return the ID that an assignment has, and another that its row names; None if the row's two are right.

    Whoever kept the schedule wrote the row: its names are taken on trust, and an audit asks here.
    """
    bare = Message.make(dict(assignment.raw_items()), assignment.commitments)
    memo = assignment.memo
    bare.memo.update({name: memo[name] for name in ("genuine", "whole-base", "content-key") if name in memo})
    for made in (commitments.signed_id, commitments.hashpath_id):
        if made(bare) != made(assignment):
            return made(bare), made(assignment)
    return None


def slot_bytes(slot: int) -> bytes:
    """Return a slot as the end of a key of assignments: by number."""
    return slot.to_bytes(8, "big")


def backwards(slot: int) -> bytes:
    """Return a slot as the end of a key of states: the newest comes first."""
    return (_NEWEST - slot).to_bytes(8, "big")


def state_row(state: str, hashpath: str, mark: str, changed: str = "") -> bytes:
    """Return the entry that names a state: its ID, its hashpath, its place in the schedule, what differs from it."""
    return key_bytes("\n".join([state, hashpath, mark, *([changed] if changed else [])]).rstrip())
