"""Calling actors.

A call takes one of two ways. If the actor is idle, the caller *borrows* it: the work runs on the
caller's own thread under the actor's gate (a queue hop costs thirty times as much). Otherwise the
call waits in the actor's mailbox and runs on the actor's thread. Either way it ends with an answer,
with the failure of the work, or with an error saying why not: the deadline, a full mailbox, an
actor that died, a chain that came back to itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from time import monotonic
from typing import Any, TypeVar, cast

from hyperpy.actors.actor import UNMADE, DeviceActor, late
from hyperpy.actors.chain import FRAME, Frame, Name, describe, held, label
from hyperpy.actors.mailbox import Call, Offer
from hyperpy.actors.roster import Roster
from hyperpy.errors import Busy, DeviceError, DeviceReentered

_T = TypeVar("_T")
_R = TypeVar("_R")

_LOOK_S = 1.0  # how often a waiting caller checks that the answering thread still lives


class ActorSystem(Roster):
    """One actor per name, made at first use.

    Args:
        mailbox: calls that may wait for one actor; one more is answered Busy at once.
        max_actors: actors kept; beyond it the one idle longest makes room.
        idle_s: an actor not used for so long is stopped.
        start_s: time to make and start an object.
        slow_s: an actor whose last call took longer is not borrowed, so that the deadline can be kept.
        restarts: crashes of one name allowed within ``period_s``; one more shuts the name for ``period_s``.
        period_s: see ``restarts``.
        start: called with each new object, in the actor's thread; None when ``make`` has started it.
    """

    def call(
        self,
        name: Name,
        make: Callable[[], _T],
        work: Callable[[_T], _R],
        *,
        deadline: float,
        reentrant: bool = False,
    ) -> _R:
        """Run ``work`` on the object called ``name``, which ``make`` makes if it is not there.

        Args:
            name: device, and the value it is one per.
            make: runs in the actor's thread, also after a crash.
            work: gets the object; runs alone on it.
            deadline: monotonic seconds; a caller that is itself in an actor cannot extend its own.
            reentrant: run at once, inside the waiting call, when the chain is already in this actor.

        Returns:
            What ``work`` returned.

        Raises:
            DeviceTimeout: the deadline passed; work that had not begun will not run.
            Busy: the mailbox is full, there are too many actors, or the system stops.
            DeviceReentered: the chain is already in this actor, or waiting would close a circle.
            DeviceError: the work or the start failed with an error that is not hyperpy's; or the name
                crashed too often.
            HyperpyError: what the work raised.
        """
        parent = FRAME.get()
        if parent is not None:
            if parent.deadline < deadline:
                deadline = parent.deadline
            for holder in held(parent):
                if holder.name == name and holder.owner is self:
                    return cast(_R, self._again(holder, work, parent, deadline, reentrant))
        actor = self._actors.get(name)
        started = monotonic()
        if started >= deadline or actor is None or actor.slow or not actor.gate.acquire(False):
            return cast(_R, self._queue(name, make, work, parent, deadline))
        if not actor.mailbox.idle:
            actor.gate.release()
            return cast(_R, self._queue(name, make, work, parent, deadline))
        try:
            actor.borrowed += 1
            result = _inside(actor, work, parent, deadline)
        finally:
            actor.last_used = ended = monotonic()
            actor.slow = ended - started > self.slow_s
            actor.gate.release()
        if ended > deadline:
            self.count("timeouts")
            raise late(name)
        return result

    def _again(
        self, actor: DeviceActor, work: Callable[[Any], Any], parent: Frame | None, deadline: float, reentrant: bool
    ) -> Any:
        """Answer a call whose chain is inside ``actor`` already."""
        if not reentrant or actor.instance is UNMADE:
            self.count("reentered")
            way = describe([*reversed(held(parent)), actor])
            raise DeviceReentered(f"the call chain comes back to an actor it is inside of: {way}")
        if monotonic() >= deadline:
            self.count("timeouts")
            raise late(actor.name)
        return _inside(actor, work, parent, deadline)

    def _queue(
        self, name: Name, make: Callable[[], Any], work: Callable[[Any], Any], parent: Frame | None, deadline: float
    ) -> Any:
        """Send the call to the actor's thread, and wait for the answer."""
        while True:
            if monotonic() >= deadline:
                self.count("timeouts")
                raise late(name)
            actor = self.find(name, make)
            call = Call(work, copy_context(), deadline, held(parent), actor)
            if call.holders:
                self._may_wait(call)
            offered = actor.mailbox.offer(call)
            if offered is Offer.ACCEPTED:
                break
            self.waits.remove(call)
            if offered is Offer.FULL:
                self.count("busy")
                raise Busy(f"{label(name)} has {self._mailbox} calls waiting")
            self.forget(actor)
        self._wait(actor, call)
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # else: error -> traceback -> call -> error
        return call.value

    def _may_wait(self, call: Call) -> None:
        holders = list(reversed(call.holders))
        way = self.waits.add(call)
        if way:
            self.count("reentered")
            raise DeviceReentered(
                f"waiting would never end: {describe(holders)} -> {describe(way)}",
                hint="Two call chains wait for each other's actors; let them call in one order.",
            )

    def _wait(self, actor: DeviceActor, call: Call) -> None:
        """Wait for answer, death or deadline; on return the call has a value or an error."""
        answered = False
        try:
            while not answered:
                until = min(call.deadline, actor.start_deadline if actor.starting else inf)
                answered = call.answered.acquire(timeout=max(0.0, min(_LOOK_S, until - monotonic())))
                if answered:
                    return
                if monotonic() < until:
                    if not actor.lives():
                        answered = call.answered.acquire(timeout=_LOOK_S)
                        if not answered:
                            self.buried(actor)
                            raise DeviceError(f"the thread of {label(actor.name)} is gone")
                elif until == call.deadline:
                    self.count("timeouts")
                    raise late(actor.name)
                elif actor.starting:
                    self.give_up(actor)
        finally:
            if not answered:
                self.waits.remove(call)
                actor.mailbox.withdraw(call)


def _inside(actor: DeviceActor, work: Callable[[Any], _R], parent: Frame | None, deadline: float) -> _R:
    """Do the work on this thread, as inside the actor."""
    frame = Frame(actor, parent, deadline)
    token = FRAME.set(frame)
    try:
        return work(actor.instance)
    except BaseException as error:
        told = _told(actor, error)
        if told is error:
            raise
        raise told from None
    finally:
        FRAME.reset(token)
        frame.actor = None


def _told(actor: DeviceActor, error: BaseException) -> BaseException:
    """Return what a borrowing caller gets: on the main thread a KeyboardInterrupt is the user's own."""
    told = actor.failed(error)
    users = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
    return error if users else told
