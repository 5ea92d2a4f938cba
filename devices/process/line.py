"""One process's state on its way from slot to slot.

A slot is one recorded, committed step: the execution device, with the assignment as the request. What
fails by itself, on every machine alike, is the slot's result; what fails for lack of time, room or a
message is none, and the slot is tried again when somebody asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from hyperpy import Message, hashpath, slot_rules
from hyperpy.cache import Batch
from hyperpy.capabilities import Jobs, Slots
from hyperpy.errors import Corrupt, DeviceError, HyperpyError, KeyNotFound
from hyperpy.message import Link, Value
from hyperpy.schedule_rules import Mark, slot_of
from hyperpy.sdk import Result
from hyperpy.slot_rules import LASTING, PASSING, as_role, bare

log = logging.getLogger("hyperpy.device")

_SNAPSHOT: Final = Message({"path": "snapshot", "mode": "Map"})
_TOGETHER: Final = 8
"""Slots that are committed at once. Nobody is told of a slot before its commit."""


class Forked(HyperpyError):
    """The schedule no longer continues the one this state was computed from."""

    status = 409
    advice = "Ask again: the process is computed anew from the schedule that holds now."


class Rules:
    """When snapshots are taken (devices/01-process, snapshot policy).

    Args:
        slots: at every slot that this divides; 0 never.
        time_s: when the last one is older; 0 never.
    """

    def __init__(self, slots: int = 0, time_s: float = 60.0) -> None:
        self.slots, self.time_s = slots, time_s


class Line:
    """A process's live state. Used by one thread at a time.

    Args:
        process: the process's ID.
        given: its definition, proven to have that ID.
    """

    def __init__(self, process: str, given: Message, jobs: Jobs, slots: Slots, rules: Rules) -> None:
        self.process = process
        self.given = given
        self._jobs, self._slots, self._rules = jobs, slots, rules
        self._link = Link(process, lambda _: given)
        self._snapped: float | None = None
        self._snapped_at = -1
        self._passing: int | None = None
        self._light = False
        self._state: Message | None = None
        self.mark = Mark(process)
        self.at = -1
        self.resumed = -1
        """The slot whose kept state this line began with; -1 if it began before the first."""
        self.broken = False

    @property
    def damaged(self) -> bool:
        """Whether the first slot after a kept state failed: that state may hold what the store can no longer read."""
        return self.broken and self.at == self.resumed >= 0

    @property
    def state(self) -> Message:
        """The state after slot ``at``, with the live device's private part."""
        assert self._state is not None
        return self._state

    # -- where to begin ----------------------------------------------------------------------

    def resume(self, limit: int | None, fits: object = None) -> None:
        """Begin at the newest kept state at or below a slot, else before the first slot.

        Args:
            fits: called with slot and mark; False passes a state over, as one of another schedule.
        """
        self._snapped = None
        while limit is None or limit >= 0:
            found = self._resumable(limit)
            if found is None:
                break
            at, kept = found
            mark = Mark.read(kept.private.get("schedule"))
            if mark is not None and (not callable(fits) or fits(at, mark)):
                try:
                    self._state = self._normal(kept)
                except (*LASTING, Corrupt) as error:
                    if isinstance(error, PASSING):
                        raise
                    log.warning("the snapshot of %s at slot %d is of no use: %s", self.process, at, error.message)
                else:
                    self.at, self.mark, self.resumed = at, mark, at
                    self._snapped_at = at if "snapshot" in kept else -1
                    return
            limit = at - 1
        self._state, self.at, self.mark = self._first(), -1, Mark(self.process)
        self._snapped_at = self.resumed = -1

    def _resumable(self, limit: int | None) -> tuple[int, Message] | None:
        """Return the newest state that computing can go on from."""
        found = self._slots.latest(self.process, limit, snapshot=True)
        if found is not None and "snapshot" not in found[1]:
            self._light = True  # this execution device keeps nothing outside the state
            found = self._slots.latest(self.process, limit)
        return found

    def _normal(self, kept: Message) -> Message:
        """Return a kept state with whatever the execution device holds beside it made again."""
        state = kept.without("snapshot") | {"process": self._link}
        try:
            result = self._jobs.step(as_role(kept, "execution"), Message({"path": "normalize"}))
        except KeyNotFound:
            held = kept.get("snapshot")
            if isinstance(held, Message) and len(held):
                raise  # the device did not find in it what it needs
            return state
        if result.status == "ok" and isinstance(result.value, Message):
            live = {name: item for name, item in result.value.private.items() if name not in ("hashpath", "schedule")}
            return state.with_private(**live)
        raise DeviceError("the execution device could not take up the stored state")

    def _first(self) -> Message:
        """Return the state before the first slot."""

        def init(base: Message) -> Value:
            try:
                result = self._jobs.step(base, Message({"path": "init"}))
            except KeyNotFound:
                return base
            if result.status != "ok":
                raise DeviceError("the execution device could not begin the process")
            return result.value

        return slot_rules.begun(self.given, self._link, init)

    # -- one slot after another --------------------------------------------------------------

    def advance(self, assignments: Iterable[Message], wanted: int, until: float, *, first: bool) -> bool:
        """Compute slots up to ``wanted``; stop at ``until`` (monotonic seconds), but not before one is done.

        Args:
            first: it is the first call for one request: its first slot takes a snapshot.

        Returns:
            Whether ``wanted`` was reached.

        Raises:
            Forked: an assignment does not follow those that led here.
            HyperpyError: a slot could not be computed now.
        """
        batch, started = Batch(), self.at
        try:
            for assignment in assignments:
                if self.at >= wanted:
                    break
                self._one(assignment, first or self.at + 1 == wanted, batch)
                first = False
                if (self.at - started) % _TOGETHER == 0:
                    self._commit(batch)
                if time.monotonic() >= until:
                    break
        finally:
            self._commit(batch)
        return self.at >= wanted

    def _commit(self, batch: Batch) -> None:
        ahead, self.broken = self.broken, True
        self._jobs.commit(batch)
        self.broken = ahead

    def _one(self, assignment: Message, forced: bool, batch: Batch) -> None:
        slot = slot_of(assignment)
        if slot != self.at + 1:
            raise DeviceError("Received assignment slot does not match expected slot.")
        if not self.mark.follows(assignment):
            raise Forked(f"slot {slot} of the schedule does not follow what this node computed before")
        mark = self.mark.after(assignment, hashpath.algorithm_of(self.given))
        base, request = slot_rules.asked(assignment, self.state)
        made: list[Message] = []

        def keep(result: Result, batch: Batch) -> None:
            made.append(slot_rules.after(result, self.state, base, request, self._link, slot, schedule=str(mark)))
            known = result.value if isinstance(result.value, Message) else None
            self._slots.put_state(self.process, slot, made[0], batch, snapshot=False, made=known)

        self.broken = True  # until the new state is in place: the live device may be ahead of the old one
        self._jobs.step(base, request, slot=(self.process, slot), also=keep, rescue=slot_rules.lasting, into=batch)
        self._state, self.at, self.mark = made[0], slot, mark
        self.broken = False
        lasting = self._lasts(slot)
        if lasting or (forced and not self._light):
            self._commit(batch)
            self.keep_snapshot(lasting=lasting)

    # -- snapshots -----------------------------------------------------------------------------

    def _lasts(self, slot: int) -> bool:
        """Say whether the snapshot at this slot is to stay; one that a request alone asks for gives way to the next."""
        rules = self._rules
        if self._snapped is None:
            return True
        if rules.slots and slot % rules.slots == 0:
            return True
        return bool(rules.time_s) and time.monotonic() - self._snapped > rules.time_s

    def keep_snapshot(self, *, lasting: bool = False) -> None:
        """Keep what resuming at this slot needs. A failure costs computing again, no more."""
        state = self.state
        if self.at < 0 or self.at == self._snapped_at:
            return
        old, self._passing = self._passing, None if lasting else self.at

        def keep(kept: Message, batch: Batch) -> None:
            self._slots.put_state(self.process, self.at, kept, batch, snapshot=True, replaces=old)
            self._slots.put_state(self.process, self.at, state, batch, snapshot=False)

        def rescue(error: HyperpyError) -> Result:
            if not isinstance(error, KeyNotFound):
                raise error
            self._light = True
            return Result("ok", Message())

        def also(result: Result, batch: Batch) -> None:
            if result.status == "ok" and isinstance(result.value, Message):
                keep(state if self._light else state | {"snapshot": bare(result.value)}, batch)

        try:
            self._jobs.step(as_role(state, "execution"), _SNAPSHOT, also=also, rescue=rescue)
        except HyperpyError as error:
            log.warning("no snapshot of process %s at slot %d: %s", self.process, self.at, error.message)
            self._passing = old
        self._snapped_at = self.at
        if lasting:
            self._snapped = time.monotonic()
