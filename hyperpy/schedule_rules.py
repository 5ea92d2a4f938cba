"""What makes a process's assignments one schedule: who signed them, and how each follows those before it."""

from __future__ import annotations

from typing import Final, NamedTuple

from hyperpy import commitments, hashpath
from hyperpy.commitments.assignments import FIELDS, LINKS
from hyperpy.encoding import b64u, key_bytes, native, sha256
from hyperpy.errors import CodecError, DeviceError
from hyperpy.message import Message, as_text

_NEEDED: Final = frozenset({"process", "slot", "type", "body"})
"""What computing reads of an assignment."""
_ALLOWED: Final = FIELDS | LINKS


class Mark(NamedTuple):
    """Where a state stands in a schedule.

    Attributes:
        path: digest of all assignments so far: what the next one's ``base-hashpath`` must be (v0.9-final 3.1).
        chain: the last assignment's ``hash-chain``, or empty (devices/02-scheduler, 4).
    """

    path: str
    chain: str = ""

    @classmethod
    def read(cls, text: object) -> Mark | None:
        """Return the mark kept with a state; None if there is none."""
        if not isinstance(text, str) or not text:
            return None
        path, _, chain = text.partition(" ")
        return cls(path, chain)

    def __str__(self) -> str:
        return f"{self.path} {self.chain}" if self.chain else self.path

    def follows(self, assignment: Message) -> bool:
        """Say whether an assignment continues the schedule that led here."""
        known = assignment.get("base-hashpath")
        if isinstance(known, bytes):
            return known == self.path.encode()
        chain = assignment.get("hash-chain")
        if not isinstance(chain, bytes):
            return not self.chain
        body = assignment.get("body")
        added = key_bytes(commitments.signed_id(body)) if isinstance(body, Message) else b""
        if not self.chain and "/" in self.path:
            return False  # linked to an assignment that had no link
        previous = (native(self.chain), key_bytes(self.chain))  # bytes, or as the reference resumes: text
        return chain in [b64u(sha256(before + added)).encode() for before in previous]

    def after(self, assignment: Message, algorithm: str) -> Mark:
        """Return the mark behind an assignment; ``algorithm`` is the process's ``hashpath-alg``."""
        path = hashpath.combine(self.path, commitments.signed_id(assignment), algorithm)
        chain = assignment.get("hash-chain")
        return Mark(path, as_text(chain, "hash-chain") if isinstance(chain, bytes) else "")


def slot_of(assignment: Message) -> int:
    """Return an assignment's slot.

    Raises:
        DeviceError: it has none; the schedule is damaged.
    """
    slot = assignment.get("slot")
    if isinstance(slot, bytes) and slot.isdigit() and len(slot) < 19:
        slot = int(slot)
    if not isinstance(slot, int) or isinstance(slot, bool):
        raise DeviceError("Unprocessable slot value received in assignment.")
    return slot


def check_signed(assignment: Message, schedulers: tuple[str, ...]) -> None:
    """Raise unless one of a process's schedulers signed an assignment that came from elsewhere.

    Raises:
        CommitmentError: a signature does not verify.
        CodecError: none of the schedulers signed.
    """
    _signers(assignment, schedulers)


def _signers(assignment: Message, schedulers: tuple[str, ...]) -> tuple[str, ...]:
    """Return who signed, each signature verified and a scheduler among them."""
    commitments.check(assignment)
    found = commitments.committers(assignment)
    if schedulers and set(schedulers).isdisjoint(found):
        raise CodecError("an assignment is not signed by a scheduler of the process")
    return found


def check_assignment(process: str, assignment: Message, schedulers: tuple[str, ...]) -> None:
    """Raise unless a message from elsewhere is an assignment of the process, field by field (design 5).

    A node signs every reply, so its signature alone is no assignment.

    Raises:
        CommitmentError: a signature does not verify.
        CodecError: it is another message, or no scheduler signed all of it.
    """
    signers = _signers(assignment, schedulers)
    fields = assignment.raw_items().keys()
    if not fields <= _ALLOWED or not fields >= _NEEDED or fields.isdisjoint(LINKS):
        raise CodecError("a message in the schedule has not the fields of an assignment")
    if assignment.get("process") != process.encode() or as_text(assignment["type"]).lower() != "assignment":
        raise CodecError("a message in the schedule is no assignment of this process")
    for signer in schedulers:
        if signer in signers:
            covered = frozenset(commitments.committed(assignment, committers=(signer,)))
            if covered >= fields and "status" not in covered:
                return
    raise CodecError("no scheduler of the process signed all of an assignment")


def schedulers_of(definition: Message) -> tuple[str, ...]:
    """Return the addresses a process names as its schedulers (devices/02-scheduler, 2)."""
    found = definition.get("scheduler", definition.get("scheduler-location"))
    if isinstance(found, Message):
        found = tuple(found.values())
    if isinstance(found, tuple):
        texts = [as_text(one, "scheduler") for one in found if isinstance(one, bytes)]
    elif isinstance(found, bytes):
        texts = as_text(found).replace('"', "").split(",")
    else:
        texts = []
    return tuple(text.strip().partition("?")[0] for text in texts if text.strip())
