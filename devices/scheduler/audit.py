"""Checking a schedule: slots, chains, signers, times (devices/02-scheduler, "For hyperpy")."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from hyperpy import Message, commitments, hashpath
from hyperpy.capabilities import Slots
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, Corrupt, HyperpyError, MessageError, MessageNotFound
from hyperpy.message import Link, committed_list

from . import content
from .assignment import algorithm_of, misfits
from .targets import references

MOST: Final = 9_999
"""Slots beyond the first that one answer checks."""

MAX_FINDINGS: Final = 1_000

NO_SLOT: Final = -1
"""The ``slot`` of a finding that belongs to none."""

RAW: Final = "raw"
"""``hash-chain`` made from the 32 bytes of the one before."""
TEXT: Final = "text"
"""``hash-chain`` made from the 43 characters of the one before, as the reference does after a restart."""

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")


class Audit:
    """One check of one schedule.

    Args:
        slots: this node's own schedules, to compare with.
        process: the process's ID.
        definition: its definition.
        deadline: monotonic seconds; what was not checked until then is said to be.
    """

    def __init__(self, slots: Slots, process: str, definition: Message, *, deadline: float) -> None:
        self._slots = slots
        self._process = process
        self._schedulers = [one.address for one in references(definition, Message())]
        self._algorithm = algorithm_of(definition)
        self._deadline = deadline
        self._findings: list[dict[str, Any]] = []
        self._forms: Counter[str] = Counter()
        self._signers: Counter[str] = Counter()
        self._before: Message | None = None
        self._path: str | None = None
        """What the next ``base-hashpath`` must be; None if that is not known."""
        self._checked = 0
        self._unlinked = 0

    def own(self, first: int, last: int) -> Message:
        """Return the verdict on this node's own schedule, from slot ``first`` to ``last``."""
        head = self._head()
        self._begin(first)
        if first > 0 and self._before is None and first <= head:
            self._found(first - 1, "missing", "there is no such slot")
        due = first
        while due <= last and not self._late():
            try:
                for one in self._slots.range(self._process, due, last):
                    if self._late():
                        break
                    self._check(due, one)
                    due += 1
                break
            except Corrupt as error:
                self._found(due, "damaged", error.message)
                self._forget()
                due += 1
        if due <= min(last, head) and not self._late():
            self._found(due, "missing", f"there is no such slot, though the schedule goes on to {head}")
        if not self._checked and not self._late():
            held = f"the last slot held is {head}" if head >= 0 else "this node holds no slot of the process"
            self._found(first, "unchecked", f"nothing was checked: {held}")
        return self._verdict(first, due - 1, due <= head)

    def given(self, schedule: Message) -> Message:
        """Return the verdict on a schedule that somebody sent, compared with this node's own where it has one.

        Raises:
            MessageError: it is no schedule.
        """
        numbered = sorted(self._numbered(schedule), key=lambda pair: pair[0])
        due = first = numbered[0][0] if numbered else 0
        self._begin(first)
        for number, one in numbered:
            if self._late():
                break
            if number != due:
                self._found(due, "missing", f"slots {due} to {number - 1} are not there")
                self._forget()
            self._compare(number, one, self._check(number, one))
            due = number + 1
        if not numbered:
            self._found(first, "unchecked", "nothing was checked: the schedule holds no assignment")
        more = schedule.get("continues") is True or (bool(numbered) and due <= numbered[-1][0])
        return self._verdict(first, due - 1, more)

    def _head(self) -> int:
        """Return the last slot of this node's own schedule; -1 if there is none, or that cannot be told."""
        try:
            return self._slots.head(self._process).slot
        except Corrupt as error:
            self._found(NO_SLOT, "damaged", error.message)
            return -1

    def _read(self, slot: int) -> Message | None:
        """Return what this node holds for a slot, if it is there and whole."""
        try:
            return self._slots.read(self._process, slot)
        except Corrupt:
            return None

    def _begin(self, first: int) -> None:
        """Take up what this node holds for the slot before the first one."""
        before = self._read(first - 1) if first > 0 else None
        if before is None:
            self._forget()
        else:
            self._remember(before)
        if first == 0:
            self._path = self._process

    def _forget(self) -> None:
        self._before = self._path = None

    def _remember(self, one: Message) -> None:
        """Take an assignment as that of the slot before the next one."""
        told = one.raw("base-hashpath")
        self._before, path = one, told.decode("utf-8", "replace") if isinstance(told, bytes) else self._path
        try:
            self._path = path and hashpath.combine(path, commitments.signed_id(one), self._algorithm)
        except HyperpyError:
            self._path = None

    def _numbered(self, schedule: Message) -> Iterable[tuple[int, Message]]:
        found = schedule.get("assignments")
        if isinstance(found, tuple):
            found = Message.make({str(number): one for number, one in enumerate(found)})
        if not isinstance(found, Message):
            raise MessageError("a schedule holds its assignments under 'assignments'")
        if len(found) > MOST + 1:
            raise MessageError(f"more than {MOST + 1} assignments at once", hint="Send the schedule in parts.")
        for name in found:
            if not _NUMBER.fullmatch(name):
                self._found(NO_SLOT, "key", f"the key {name[:60]!a} among the assignments is no slot number")
                continue
            raw = found.raw(name)
            try:
                one = found.get(name)
            except MessageNotFound:
                one = raw
            if isinstance(one, Message):
                yield int(name), one
            else:
                where = f" ({raw.id})" if isinstance(raw, Link) else ""
                self._found(int(name), "missing", f"the assignment is not at hand{where}")

    # -- one assignment --------------------------------------------------------------------

    def _check(self, due: int, one: Message) -> set[str]:
        """Check one assignment; return the schedulers whose word it is."""
        one = Message.make(dict(one.raw_items()), one.commitments)  # nothing remembered counts here
        self._checked += 1
        for kind, problem in content.wrong(due, one, self._process):
            self._found(due, kind, problem)
        assigners = self._check_signers(due, one)
        self._check_links(due, one)
        self._check_time(due, one)
        self._remember(one)
        return assigners

    def _check_signers(self, due: int, one: Message) -> set[str]:
        sound = True
        try:
            commitments.check(one)
        except HyperpyError as error:
            self._found(due, "signature", error.message)
            sound = False
        signers = commitments.committers(one)
        assigners = self._assigners(due, one) if sound else set()
        for signer in signers:
            if sound and (signer in assigners or signer not in self._schedulers):
                self._signers[signer] += 1
            if signer not in self._schedulers:
                self._found(due, "signer", f"signed by {signer}, which is no scheduler of the process")
        if not set(signers) & set(self._schedulers):
            self._found(due, "signer", "signed by no scheduler of the process")
        covered = set(commitments.committed(one)) if signers else set()
        for name in ("slot", "process", "body", "hash-chain", "base-hashpath"):
            if name in one and signers and name not in covered:
                self._found(due, "signature", f"no signature covers '{name}'")
        return assigners

    def _assigners(self, due: int, one: Message) -> set[str]:
        """Return the schedulers that signed an assignment, not a reply or another message that looks like one.

        What nobody signed is passed over: an answer adds its ``status`` to what was signed before.
        """
        found, others = set(), set()
        for fields in one.commitments.values():
            signer = commitments.committer_of(fields)
            if signer not in self._schedulers:
                continue
            wrong = misfits(committed_list(fields))
            if wrong:
                others.add(signer)
                self._found(due, "fields", f"what {signer} signed is no assignment: {', '.join(wrong[:20])}")
            else:
                found.add(signer)
        return found - others

    def _check_links(self, due: int, one: Message) -> None:
        """Compute both links again, and see that one of them leads to the slot before where that is at hand."""
        linked = (self._check_chain(due, one), self._check_path(due, one))
        if linked != (None, None) or due == 0:
            return
        if "hash-chain" not in one and "base-hashpath" not in one:
            self._found(due, "chain", "is linked to nothing: neither hash-chain nor base-hashpath")
        elif self._before is None:
            self._unlinked += 1
        else:
            self._found(due, "chain", "is linked to the slot before it in no way that can be computed again")

    def _check_chain(self, due: int, one: Message) -> bool | None:
        """Say whether the hash-chain follows from the slot before; None if it has none, or that cannot be told."""
        told = one.raw("hash-chain")
        if told is None:
            self._forms["none"] += 1
            return None
        body = content.body_id(one)
        if body is None:
            return None
        forms = self._forms_before(due)
        if forms is None:
            return None
        for form, before in forms.items():
            if told == b64u(sha256(before + body)).encode():
                self._forms[form] += 1
                return True
        self._found(due, "hash-chain", "does not follow from the slot before it and the scheduled message")
        return False

    def _forms_before(self, due: int) -> dict[str, bytes] | None:
        """Return what may stand before the message's ID in the hash-chain; None if it is not known."""
        if due == 0:
            return {RAW: b""}
        told = self._before.raw("hash-chain") if self._before is not None else None
        if not isinstance(told, bytes):
            return None
        try:
            return {RAW: b64u_decode(told), TEXT: told}
        except CodecError:
            return {TEXT: told}

    def _check_path(self, due: int, one: Message) -> bool | None:
        """Say whether the base-hashpath follows from the slot before; None as :meth:`_check_chain`."""
        told = one.raw("base-hashpath")
        if told is None or self._path is None:
            return None
        if told == self._path.encode():
            return True
        self._found(due, "base-hashpath", "does not follow from the assignment before it")
        return False

    def _check_time(self, due: int, one: Message) -> None:
        """Find a time before that of the slot before; what is no time was found already."""
        now = content.whole(one.raw("timestamp"))
        before = content.whole(self._before.raw("timestamp")) if self._before is not None else None
        if now is not None and before is not None and now < before:
            self._found(due, "timestamp", f"{now} is before {before}, that of the slot before")

    def _compare(self, number: int, one: Message, assigners: set[str]) -> None:
        """Find a fork: another assignment of the same slot, which this node holds.

        Only ``assigners``, whose word it is, can have forked: a forgery says nothing about them.
        """
        known = self._read(number)
        if known is None or not assigners:
            return
        both = set(commitments.committers(known)) & assigners
        for name, fields in known.commitments.items():
            if name in one.commitments and commitments.committer_of(fields) in both:
                return  # the same one, whoever signed it too
        here, there = commitments.signed_id(known), commitments.signed_id(one)
        who = f"{', '.join(sorted(both))} signed both" if both else "signed by others"
        self._found(number, "fork", f"{there} is not {here}, which this node holds for the slot; {who}")

    # -- the answer ------------------------------------------------------------------------

    def _late(self) -> bool:
        return time.monotonic() > self._deadline - 1.0

    def _found(self, slot: int, kind: str, problem: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append({"slot": slot, "kind": kind, "problem": problem})

    def _verdict(self, first: int, last: int, more: bool) -> Message:
        return Message(
            {
                "process": self._process,
                "valid": not self._findings and self._checked > 0,
                "checked": self._checked,
                "from": first,
                "to": last,
                "continues": more,
                "unlinked": self._unlinked,
                "schedulers": self._schedulers,
                "signers": dict(self._signers),
                "hash-chain-forms": dict(self._forms),
                "findings": self._findings,
            }
        )
