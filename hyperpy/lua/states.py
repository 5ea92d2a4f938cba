"""States of Lua interpreters that are safe to lose.

A :class:`State` is what an interpreter is after some calls. It never changes in meaning: a call makes a
new state and leaves the old one as it was, also when it fails. Kept is how to make it again, from the
modules or a snapshot and the calls since then, with the answers that they got from outside; and, as
long as nothing came between, the interpreter itself, so that the next call costs only itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from hyperpy.errors import Busy, Corrupt, DeviceError, DeviceStopped, DeviceTimeout
from hyperpy.lua.pool import Asked, Child, ChildEnded, Logged, Pool

SNAPSHOT_CALLS: Final = 64
SNAPSHOT_BYTES: Final = 1 << 20
SNAPSHOT_INSTRUCTIONS: Final = 10_000_000
"""A state writes itself down after so many calls, bytes of calls or instructions, so that making it
again stays cheap."""
LOG_BYTES: Final = 64 << 20
"""Calls that a state keeps where it cannot be written down; beyond it, it lives as long as its interpreter."""
_ATTEMPTS: Final = 5
_SUDDEN_S: Final = 4.0
"""A child that ends sooner was ended by somebody else: the call is begun again."""


class Boot(NamedTuple):
    """How an interpreter begins: packed modules (name and text) and what the sandbox replaces."""

    modules: bytes
    sandbox: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a global function, its packed parameters, and what time it is.

    ``own`` allows none of the library's functions; ``instructions`` is the limit of a call inside another.
    """

    name: bytes
    arguments: bytes | None
    seconds: int = 0
    seed: int | None = None
    own: bool = False
    instructions: int | None = None


class Answer(NamedTuple):
    """What a call came to: ``ok``, ``error`` or ``limit``, packed; the instructions; the state after an ``ok``."""

    word: str
    packed: bytes
    used: int
    state: State | None


class _Entry(NamedTuple):
    before: _Entry | None
    call: Call
    replies: tuple[tuple[bytes, int], ...]
    calls: int
    size: int
    used: int


@dataclass(slots=True)
class _Place:
    """Where an interpreter lives, and of which state it is; ``running`` while a call is inside."""

    child: Child
    number: int
    version: object = None
    running: bool = False


@dataclass(slots=True, eq=False)
class State:
    """An interpreter's state. ``snapshot`` None begins at the modules; ``log`` are the calls since."""

    boot: Boot
    snapshot: bytes | None = None
    log: _Entry | None = None
    place: _Place | None = None
    version: object = field(default_factory=object)
    next_try: int = SNAPSHOT_CALLS
    frail: bool = False

    def __del__(self) -> None:
        place = self.place
        if place is not None and place.version is self.version and place.child.alive:
            place.child.garbage.append(place.number)

    def entries(self) -> list[_Entry]:
        """Return the calls since the snapshot, oldest first."""
        found = []
        at = self.log
        while at is not None:
            found.append(at)
            at = at.before
        return found[::-1]


class Interpreters:
    """Runs calls on states, in the children of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def call(self, state: State, call: Call, *, deadline: float, asked: Asked, logged: Logged) -> Answer:
        """Run a call on a state.

        Raises:
            DeviceTimeout: the deadline ran out; this is never a result.
            DeviceStopped: the processor time or the memory of the process ran out; nor is this.
            Busy: no process is to be had.
            DeviceReentered: too many calls of Lua are inside one another.
            DeviceError: the snapshot that the state begins with is no snapshot.
            HyperpyError: what ``asked`` raised, of the kinds that are no result.
        """
        with self._pool.entered():
            return self._call(state, call, deadline, asked, logged)

    def _call(self, state: State, call: Call, deadline: float, asked: Asked, logged: Logged) -> Answer:
        for attempt in range(1, _ATTEMPTS + 1):
            place = state.place
            asks: list[tuple[bytes, int]] = []
            began = time.monotonic()
            try:
                with self._pool.lend(place.child if place else None, deadline) as child:
                    return self._on(child, state, call, deadline, _recording(asked, asks), asks, logged)
            except ChildEnded:
                state.place = None
                if attempt == _ATTEMPTS or time.monotonic() - began > _SUDDEN_S:
                    break
                if asks:
                    raise DeviceTimeout("the process that ran Lua was stopped") from None
        raise DeviceStopped("the process that ran Lua was stopped: too much processor time or memory")

    def snapshot(self, state: State, *, deadline: float) -> bytes:
        """Return the state as bytes.

        Raises:
            DeviceError: it cannot be written down; the text says why.
            DeviceTimeout, Busy: see :meth:`call`.
        """
        if state.snapshot is not None and state.log is None and not state.frail:
            return state.snapshot
        try:
            with self._pool.lend(state.place.child if state.place else None, deadline) as child:
                place = self._ready(child, state, deadline)
                word, data, _ = child.request(["snapshot", place.number], deadline, _refuse, _ignore)
        except ChildEnded:
            raise DeviceTimeout("the process that ran Lua was stopped") from None
        if word != "ok":
            text = (data or b"it is lost").decode("utf-8", "replace")
            raise DeviceError(
                f"this Lua state has no snapshot: {text}", hint="The process is computed again from an older slot."
            )
        state.snapshot, state.log, state.frail = data, None, False
        return bytes(data)

    def functions(self, state: State, *, deadline: float) -> bytes:
        """Return the packed names of the global functions."""
        try:
            with self._pool.lend(state.place.child if state.place else None, deadline) as child:
                place = self._ready(child, state, deadline)
                return bytes(child.request(["functions", place.number], deadline, _refuse, _ignore)[1])
        except ChildEnded:
            raise DeviceTimeout("the process that ran Lua was stopped") from None

    # -- one call ---------------------------------------------------------------------------

    def _on(
        self,
        child: Child,
        state: State,
        call: Call,
        deadline: float,
        asked: Asked,
        asks: list[tuple[bytes, int]],
        logged: Logged,
    ) -> Answer:
        fresh = state.place is None and state.log is None and not state.frail
        place = _Place(child, child.number()) if fresh else self._ready(child, state, deadline)
        setup = [*state.boot, state.snapshot] if fresh else None
        frame = _frame(place, setup, call)
        place.version, place.running = None, True
        try:
            word, packed, used = child.request(frame, deadline, asked, logged)
        except BaseException:
            child.garbage.append(place.number)
            raise
        finally:
            place.running = False
        if word == "lost":
            raise ChildEnded
        if word == "refused":
            child.garbage.append(place.number)
            raise DeviceError(f"the Lua snapshot cannot be used: {packed.decode('utf-8', 'replace')}")
        if word != "ok":
            child.garbage.append(place.number)
            return Answer(word, packed, used, None)
        after = _after(state, call, tuple(asks), used, place)
        self._write_down(child, after, deadline)
        return Answer(word, packed, used, after)

    def _write_down(self, child: Child, state: State, deadline: float) -> None:
        """Shorten the log by a snapshot where it has grown; where there is none, try again much later."""
        log = state.log
        assert log is not None
        assert state.place is not None
        heavy = log.size > SNAPSHOT_BYTES or log.used > SNAPSHOT_INSTRUCTIONS
        if log.calls < state.next_try and not (heavy and log.calls * 8 >= state.next_try):
            return
        word, data, _ = child.request(["snapshot", state.place.number], deadline, _refuse, _ignore)
        if word == "ok":
            state.snapshot, state.log, state.frail = data, None, False
            state.next_try = SNAPSHOT_CALLS * (1 + len(data) // 100_000)
            return
        state.next_try = 2 * max(log.calls, state.next_try)
        if log.size > LOG_BYTES:
            state.snapshot, state.log, state.frail = None, None, True

    def _ready(self, child: Child, state: State, deadline: float) -> _Place:
        """Return an interpreter in this state: the kept one, or one made again."""
        place = state.place
        if place is not None and place.child is child and place.version is state.version and not place.running:
            return place
        if state.frail:
            raise Busy(
                "a Lua state is gone that could not be written down",
                hint="Try again later; the process is then computed again from an older slot.",
            )
        if place is not None and place.version is state.version and place.child.alive and not place.running:
            place.child.garbage.append(place.number)
        made = _Place(child, child.number())
        setup: list[Any] | None = [*state.boot, state.snapshot]
        entries = state.entries()
        if not entries:
            entries = [_Entry(None, Call(b"", None), (), 0, 0, 0)]
        for entry in entries:
            replies = iter(entry.replies)
            word, detail, _ = child.request(_frame(made, setup, entry.call), deadline, _repeating(replies), _ignore)
            setup = None
            if word != "ok":
                child.garbage.append(made.number)
                text = detail.decode("utf-8", "replace") if word == "refused" else word
                raise Corrupt(f"the Lua state cannot be made again: {text}")
        made.version = state.version
        state.place = made
        return made


def _after(state: State, call: Call, replies: tuple[tuple[bytes, int], ...], used: int, place: _Place) -> State:
    before = state.log
    size = len(call.arguments or b"") + sum(len(reply) for reply, _ in replies) + 200
    log = _Entry(
        before,
        call,
        replies,
        (before.calls if before else 0) + 1,
        (before.size if before else 0) + size,
        (before.used if before else 0) + used,
    )
    made = State(state.boot, state.snapshot, log, place, next_try=state.next_try, frail=state.frail)
    place.version = made.version
    return made


def _frame(place: _Place, setup: list[Any] | None, call: Call) -> list[Any]:
    return ["run", place.number, setup, call.name, call.arguments, call.seconds, call.seed, call.own, call.instructions]


def _recording(asked: Asked, replies: list[tuple[bytes, int]]) -> Asked:
    def ask(kind: bytes, request: bytes, left: int) -> tuple[bytes, int]:
        reply = asked(kind, request, left)
        replies.append(reply)
        return reply

    return ask


def _repeating(replies: Iterator[tuple[bytes, int]]) -> Asked:
    def ask(kind: bytes, request: bytes, left: int) -> tuple[bytes, int]:
        found = next(replies, None)
        if found is None:
            raise Corrupt("the Lua state cannot be made again: it asks for more than it did")
        return found

    return ask


def _refuse(kind: bytes, request: bytes, left: int) -> tuple[bytes, int]:
    raise DeviceError("Lua asks at the wrong time")


def _ignore(text: bytes) -> None:
    """Logged already."""
