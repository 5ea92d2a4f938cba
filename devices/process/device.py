"""The keys of process@1.0."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.capabilities import Jobs, NodeControl, Slots, Storage, Workers
from hyperpy.errors import DeviceError, DeviceReentered, DeviceStopped, DeviceTimeout, HyperpyError, KeyNotFound
from hyperpy.message import Value, as_text
from hyperpy.schedule_rules import Mark, check_assignment, check_signed, schedulers_of
from hyperpy.slot_rules import as_before, as_role, definition

from .definition import ensured, process_id, proven, trusted
from .line import Line, Rules
from .schedule import slot_with
from .stuck import Stuck
from .worker import Worker, fits, slot_number

_TURN_S: Final = 0.05
"""How long one caller keeps a process's actor before others have their turn."""
_AHEAD: Final = 64
"""Assignments fetched at a time from a schedule kept elsewhere."""
_KIND: Final = "process"
_LOCAL: Final = b"scheduler@1.0"
_NOT_YET: Final = "Requested slot not yet available in schedule."

_inside: ContextVar[frozenset[str]] = ContextVar("hyperpy-processes", default=frozenset())
"""The processes whose slots the current call chain is computing."""


@device("process@1.0", needs=("node", "store", "slots", "jobs", "workers"))
class Process:
    """A process: ordered messages (scheduler), a state computed from them (execution), messages out (push).

    The definition names its three devices as ``scheduler-device``, ``execution-device`` and
    ``push-device``. States are computed once, kept by slot, and read by anybody at any time.
    """

    def start(self, node: NodeControl, store: Storage, slots: Slots, jobs: Jobs, workers: Workers) -> None:
        """Take settings, messages, schedules, and what computes beside a request."""
        self._node, self._store, self._slots, self._jobs, self._workers = node, store, slots, jobs, workers
        self._stuck = Stuck()

    # -- schedule --------------------------------------------------------------------------

    @key(deterministic=False)
    def schedule(self, base: Message, request: Message, ctx: Context) -> Result:
        """Do what the scheduler's ``schedule`` does: add a message (POST), or list assignments (GET)."""
        return self._as(base, request, ctx, "scheduler")

    @key(deterministic=False, reads=True)
    def slot(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return where the schedule ends: ``current``, and who keeps it."""
        return self._as(base, request, ctx, "scheduler")

    @key(deterministic=False)
    def push(self, base: Message, request: Message, ctx: Context) -> Result:
        """Compute a slot (``slot``, or that of the message to schedule) and deliver what it sends, and so on."""
        return self._as(base, request, ctx, "push")

    def _as(self, base: Message, request: Message, ctx: Context, role: str) -> Result:
        ready = ensured(base, self._store.read)
        swapped = as_role(ready, role)
        result = ctx.step(swapped, request)
        if result.status != "ok":
            return result
        return Result("ok", as_before(result.value, swapped, ready))

    # -- state -----------------------------------------------------------------------------

    @key(deterministic=False)
    def compute(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return the state after a slot (``compute=N``, ``slot=N``, N perhaps a message's ID); else the newest kept."""
        ready = ensured(base, self._store.read)
        process = process_id(ready, request)
        asked = request.get("compute", request.get("slot"))
        if asked is None:
            return self._newest(process) or self._latest(ready, process, request, ctx)
        if isinstance(asked, bytes) and len(asked) == 43:
            return self._at(ready, process, slot_with(self._slots, process, as_text(asked)), ctx)
        name = "compute" if "compute" in request else "slot"
        return self._at(ready, process, slot_number(asked, name), ctx)

    @key(deterministic=False)
    def now(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return the state after everything scheduled so far."""
        ready = ensured(base, self._store.read)
        process = process_id(ready, request)
        kept = as_text(self._node.setting("process-now-from-cache", b"false"))
        if kept != "false":
            found = self._newest(process)
            if found is not None:
                return found
            if kept == "always":
                return Result("failure", b"No cached state available.")
        return self._latest(ready, process, request, ctx)

    @key(name="as", deterministic=False)
    def as_device(self, base: Message, request: Message) -> Message:
        """Return the newest resumable state as the process's ``execution`` (or other) device; nothing runs."""
        role = as_text(request.get("as", request.get("as-device", b"execution")), "as")
        ready = ensured(base, self._store.read)
        as_role(ready, role)
        return as_role(self._loaded(ready, request), role)

    @key(deterministic=False)
    def snapshot(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return what the execution device needs to go on from here (``mode: Map``)."""
        state = self._loaded(ensured(base, self._store.read), request, ctx)
        found = ctx.step(as_role(state, "execution"), Message({"path": "snapshot", "mode": "Map"})).value
        if not isinstance(found, Message):
            raise DeviceError("the execution device's snapshot is no message")
        return found.with_commitments({}) | {"cache-control": ("store",)}

    # -- reading and computing -------------------------------------------------------------

    def _newest(self, process: str) -> Result | None:
        """Return the newest kept state, if there is one that the schedule leads to."""
        found = self._slots.latest(process)
        return None if found is None or not self._holds(process, *found) else Result("ok", _shown(found[1]))

    def _holds(self, process: str, slot: int, state: Message) -> bool:
        mark = Mark.read(state.private.get("schedule"))
        return mark is not None and fits(self._slots, process, slot, mark)

    def _latest(self, ready: Message, process: str, request: Message, ctx: Context) -> Result:
        """Compute up to the end of the schedule."""
        head = self._slots.head(process).slot
        if head < 0:
            ready = trusted(process, ready, self._store.read)
            answer = ctx.resolve(as_role(ready, "scheduler"), {"path": "slot"})
            current = answer.get("current") if isinstance(answer, Message) else None
            if isinstance(current, int) and current < 0:
                raise KeyNotFound("nothing is scheduled to this process yet")
            head = slot_number(current, "current")
        return self._at(ready, process, head, ctx)

    def _at(self, ready: Message, process: str, slot: int, ctx: Context) -> Result:
        kept = self._slots.state(process, slot)
        if kept is not None and self._holds(process, slot, kept):
            return Result("ok", _shown(kept))
        try:
            return Result("ok", _shown(self._computed(ready, process, slot, ctx)))
        except _Missing as missing:
            return missing.result

    def _computed(self, ready: Message, process: str, slot: int, ctx: Context) -> Message:
        """Have the process's actor compute up to a slot.

        Raises:
            DeviceTimeout: the caller's time ended; what was computed is kept.
            DeviceReentered: this call chain is computing the process already.
        """
        if process in _inside.get():
            raise DeviceReentered(f"the call chain comes back to the process {process}, which it is computing")
        ready = trusted(process, ready, self._store.read)
        token = _inside.set(_inside.get() | {process})
        try:
            first = True
            while True:
                local = self._slots.head(process).slot >= 0
                given = None if local else self._fetched(ready, process, slot, ctx, first)
                found = self._turn(ready, process, slot, ctx.deadline, given, first)
                first = False
                if found is not None:
                    return found
                if time.monotonic() >= ctx.deadline:
                    at = self._slots.latest(process)
                    known = f"; slot {at[0]} is done" if at is not None else ""
                    raise DeviceTimeout(f"slot {slot} is not computed yet{known}")
        finally:
            _inside.reset(token)

    def _turn(
        self, ready: Message, process: str, slot: int, deadline: float, given: Sequence[Message] | None, first: bool
    ) -> Message | None:
        def position() -> int:
            kept = self._slots.latest(process)
            return -1 if kept is None else kept[0]

        def work(worker: Worker) -> Message | None:
            self._stuck.check(process, slot, position)
            try:
                return worker.advance(slot, min(deadline, time.monotonic() + _TURN_S), deadline, given, first=first)
            except DeviceStopped:
                self._stuck.note(process, position())  # here: the caller may have gone before
                raise

        self._stuck.check(process, slot, position)
        try:
            return self._workers.call(_KIND, process, lambda: self._worker(ready, process), work, deadline=deadline)
        except KeyNotFound as error:
            if error.message == _NOT_YET:
                raise _Missing(Result("error", _not_yet(error, self._slots.head(process).slot + 1))) from None
            raise

    def _worker(self, ready: Message, process: str) -> Worker:
        return Worker(process, ready, self._store.read, self._jobs, self._slots, self._rules)

    def _rules(self) -> Rules:
        slots, time_s = (self._node.setting(f"process-snapshot-{name}", 0) for name in ("slots", "time"))
        return Rules(int(as_text(slots)), float(as_text(time_s)))

    def _is_local(self, ready: Message) -> bool:
        return ready.get("scheduler-device", _LOCAL) == _LOCAL

    def _fetched(self, ready: Message, process: str, wanted: int, ctx: Context, first: bool) -> list[Message]:
        """Return the next assignments, from a schedule kept elsewhere; ``ready`` is a trusted message."""
        if first and self._slots.latest(process) is None:
            position = -1  # no actor yet, for what perhaps is no process
        else:
            position = self._workers.call(
                _KIND, process, lambda: self._worker(ready, process), Worker.position, deadline=ctx.deadline
            )
        return self._listed(ready, process, position, min(wanted, position + _AHEAD), ctx)

    def _listed(self, ready: Message, process: str, position: int, last: int, ctx: Context) -> list[Message]:
        """Return the assignments behind a slot that a scheduler elsewhere lists, each proven to be one."""
        try:
            if self._is_local(ready):
                found = _page(as_role(ready, "scheduler"), position, last, ctx)
            else:
                found = _one_by_one(as_role(ready, "scheduler"), position, last, ctx)
        except _Missing:
            raise
        except HyperpyError as error:
            missing = Result("error", Message({"status": error.status, "reason": error.message}))
            raise _Missing(Result("error", _unscheduled(missing, position + 1))) from None
        schedulers = schedulers_of(definition(ready))
        for one in found:
            if self._is_local(ready):
                check_assignment(process, one, schedulers)
            else:
                check_signed(one, schedulers)
        return found

    def _loaded(self, ready: Message, request: Message, ctx: Context | None = None) -> Message:
        """Return the newest resumable state, with the execution device's own part made again.

        A base that is a state already stays that state.

        Args:
            ctx: where a kept state that cannot be resumed is computed again from an earlier one.
        """
        process = process_id(ready, request)
        at = ready.get("at-slot") if "initialized" in ready else None
        limit = at if isinstance(at, int) else None
        line = Line(process, proven(process, ready, self._store.read), self._jobs, self._slots, Rules())
        if limit is not None:
            kept = self._slots.latest(process, limit, snapshot=True)
            resumable = kept is not None and kept[0] == limit and _shown(kept[1]) == _shown(ready)
            if not resumable and (ctx is None or not self._is_kept(process, limit, ready)):
                return ready
        line.resume(limit, lambda slot, mark: fits(self._slots, process, slot, mark))
        if limit is None or line.at == limit or ctx is None:
            return line.state
        local = self._slots.head(process).slot >= 0
        source = (
            self._slots.range(process, line.at + 1, limit)
            if local
            else self._listed(trusted(process, ready, self._store.read), process, line.at, limit, ctx)
        )
        reached = line.advance(source, limit, ctx.deadline, first=False)
        return line.state if reached and _same(line.state, ready) else ready

    def _is_kept(self, process: str, slot: int, state: Message) -> bool:
        found = self._slots.state(process, slot)
        return found is not None and _same(found, state)


def _page(state: Message, at: int, last: int, ctx: Context) -> list[Message]:
    """Return the assignments behind ``at`` that a scheduler@1.0 elsewhere lists, up to the first gap."""
    result = ctx.step(state, Message({"path": "schedule", "method": "GET", "from": at + 1, "to": last}))
    listed = result.value.get("assignments") if isinstance(result.value, Message) else None
    found: list[Message] = []
    if isinstance(listed, Message):
        for slot in range(at + 1, last + 1):
            one = listed.get(str(slot))
            if not isinstance(one, Message):
                break
            found.append(one)
    if not found:
        raise _Missing(Result("error", _unscheduled(_told(result), at + 1)))
    return found


def _told(result: Result) -> Result:
    """Return a scheduler's error, or that it does not list the slot."""
    status = result.value.get("status") if isinstance(result.value, Message) else None
    if result.status != "ok" or (isinstance(status, int) and status != 200):
        return result
    return Result("error", Message({"status": 404, "reason": _NOT_YET}))


def _one_by_one(state: Message, at: int, last: int, ctx: Context) -> list[Message]:
    """Return the assignments behind ``at`` that a scheduler device of its own kind gives, by its ``next``."""
    found: list[Message] = []
    for slot in range(at, last):
        result = ctx.step(state | {"at-slot": slot}, Message({"path": "next"}))
        body = result.value.get("body") if isinstance(result.value, Message) else None
        if result.status != "ok" or not isinstance(body, Message):
            if found:
                break
            raise _Missing(Result("error", _unscheduled(result, slot + 1)))
        found.append(body)
        after = result.value.get("state") if isinstance(result.value, Message) else None
        state = after if isinstance(after, Message) else state
    return found


class _Missing(HyperpyError):
    """The schedule does not hold the slot; ``result`` says so to the caller."""

    def __init__(self, result: Result) -> None:
        super().__init__("the slot is not scheduled")
        self.result = result


def _not_yet(error: HyperpyError, slot: int) -> Message:
    return Message({"status": 404, "reason": error.message, "phase": "get-schedule", "attempted-slot": slot})


def _unscheduled(result: Result, slot: int) -> Message:
    """Return the scheduler's own error, and how far computing had come (devices/01-process, compute 4)."""
    found: Value = result.value
    if not isinstance(found, Message):
        found = Message({"error": found}) if isinstance(found, (bytes, tuple)) else Message({"error": as_text(found)})
    return found.with_commitments({}) | {"phase": "get-schedule", "attempted-slot": slot}


def _shown(state: Message) -> Message:
    """Return a state as callers get it: no snapshot, nothing private."""
    return Message.make({name: item for name, item in state.raw_items().items() if name != "snapshot"})


def _same(one: Message, other: Message) -> bool:
    """Say whether two states are shown as the same content."""
    return commitments.content_id(_shown(one)) == commitments.content_id(_shown(other))
