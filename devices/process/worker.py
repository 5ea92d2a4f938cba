"""The one actor per process: it owns the live state and answers who wants a later one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from hyperpy import Message
from hyperpy.capabilities import Jobs, Slots
from hyperpy.errors import Corrupt, KeyNotFound, ParameterError
from hyperpy.message import Value
from hyperpy.schedule_rules import Mark, slot_of

from .definition import proven
from .line import Forked, Line, Rules

log = logging.getLogger("hyperpy.device")


class Worker:
    """Computes one process. Used by one caller at a time, on whichever thread.

    Args:
        base: an ensured message of the process.
        read: returns a stored message by its ID.
    """

    def __init__(
        self,
        process: str,
        base: Message,
        read: Callable[[str], Value],
        jobs: Jobs,
        slots: Slots,
        rules: Callable[[], Rules],
    ) -> None:
        self._process = process
        self._given = proven(process, base, read)
        self._jobs, self._slots, self._rules = jobs, slots, rules
        self._line: Line | None = None
        self._below: int | None = None
        self._retreats = 0

    def stop(self) -> None:
        """Keep a snapshot before the actor ends."""
        line, self._line = self._line, None
        if line is not None and not line.broken:
            line.keep_snapshot()

    def position(self) -> int:
        """Return the last slot that the live state holds; -1 before the first."""
        return self._live().at

    def seen(self) -> Message:
        """Return the live state."""
        return self._live().state

    def advance(
        self, wanted: int, until: float, deadline: float, given: Sequence[Message] | None = None, *, first: bool = True
    ) -> Message | None:
        """Return the state after slot ``wanted``, or None if time ran out after some progress.

        Args:
            until: monotonic seconds, after which others may have their turn; at least one slot is computed.
            deadline: monotonic seconds, when the caller's time ends.
            given: the next assignments, where the schedule is kept elsewhere; None reads this node's own, which
                counts alone where there is one.
            first: it is the first turn of one request.

        Raises:
            KeyNotFound: the slot is not in the schedule.
            HyperpyError: a slot could not be computed now.
        """
        line = self._live()
        if given is not None and self._slots.head(self._process).slot >= 0:
            given = None  # the schedule is kept here: nobody else's word counts
        if given is not None:
            given = [one for one in given if slot_of(one) > line.at]
        if line.at > wanted:
            return self._before(wanted, deadline)
        try:
            if self._run(line, wanted, until, given, first):
                return line.state
        except Corrupt as error:
            if not line.damaged:
                raise
            self._below = self._retreat(line, error)
            return None
        except Forked:
            self._rebase(line, given is None)
            if given is not None:
                return None
            if self._run(line, wanted, until, None, first):
                return line.state
        if given is None and line.at >= self._slots.head(self._process).slot:
            raise KeyNotFound("Requested slot not yet available in schedule.")
        return None

    def _run(self, line: Line, wanted: int, until: float, given: Sequence[Message] | None, first: bool) -> bool:
        source = self._slots.range(self._process, line.at + 1, wanted) if given is None else given
        try:
            reached = line.advance(source, wanted, until, first=first)
            self._retreats = 0
            if reached and not self._fits(line.at, line.mark):
                raise Forked("this node's schedule does not lead to the state that it computed")
            return reached
        except BaseException:
            if line.broken:
                self._line = None  # the live device may have done half a slot: begin again from the store
            raise

    def _live(self) -> Line:
        if self._line is None or self._line.broken:
            line = self._new()
            line.resume(self._below, self._fits)
            self._line, self._below = line, None
        return self._line

    def _new(self) -> Line:
        return Line(self._process, self._given, self._jobs, self._slots, self._rules())

    def _before(self, wanted: int, deadline: float) -> Message | None:
        """Return an earlier state: kept, or computed again from a snapshot below it (forced rewind)."""
        kept = self._slots.state(self._process, wanted)
        if kept is not None and self._fits(wanted, Mark.read(kept.private.get("schedule"))):
            return kept
        limit = wanted
        while True:
            side = self._new()
            side.resume(limit, self._fits)
            try:
                return side.state if self._run(side, wanted, deadline, None, True) else None
            except Corrupt as error:
                if not side.damaged:
                    raise
                limit = self._retreat(side, error)

    def _retreat(self, line: Line, error: Corrupt) -> int:
        """Return the newest slot whose kept state is tried next, further back each time: states share their parts.

        Computing again from there writes again what is damaged.
        """
        log.warning("the kept state of %s at slot %d is damaged: %s", self._process, line.at, error.message)
        limit = line.at - (1 << self._retreats)
        self._retreats += 1
        return max(-1, limit)

    def _rebase(self, line: Line, local: bool) -> None:
        """Begin again at the newest state that the schedule as it is now leads to."""
        line.resume(line.at - 1 if local else -1, self._fits)

    def _fits(self, slot: int, mark: Mark | None) -> bool:
        """Say whether this node's schedule, where it has one, leads to a state."""
        return mark is not None and fits(self._slots, self._process, slot, mark)


def fits(slots: Slots, process: str, slot: int, mark: Mark) -> bool:
    """Say whether a state belongs to the schedule this node keeps; True where it keeps none."""
    head = slots.head(process)
    if head.slot < 0:
        return True
    if slot >= head.slot:
        return slot == head.slot and mark.path == head.hashpath
    following = slots.read(process, slot + 1)
    return following is not None and mark.follows(following)


def slot_number(item: object, name: str) -> int:
    """Return a slot given as a number or decimal text.

    Raises:
        ParameterError: it is neither, or negative.
    """
    if isinstance(item, bytes) and item.isdigit() and len(item) < 19:
        item = int(item)
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < 1 << 62:
        raise ParameterError(f"'{name}' must be a slot: a whole number, 0 or more", name=name)
    return item
