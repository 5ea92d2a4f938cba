"""One actor: a pykka actor with its own mailbox, its own way to fail, and an object it hosts.

The hosted object is touched by one call at a time: by the actor's thread, or by a caller that has
borrowed the actor (:mod:`hyperpy.actors.system`). Whoever runs a call holds ``gate``.
"""

from __future__ import annotations

import copy
import logging
import secrets
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Protocol, cast

import pykka

from hyperpy.actors.chain import FRAME, Frame, Name, WaitGraph, label
from hyperpy.actors.mailbox import Call, Mailbox, Order
from hyperpy.errors import Busy, DeviceError, DeviceTimeout, HyperpyError

log = logging.getLogger("hyperpy.actors")

UNMADE = object()


class Owner(Protocol):
    """What an actor needs of the system it belongs to; called from the actor's thread."""

    start_s: float
    idle_s: float
    slow_s: float
    waits: WaitGraph

    def count(self, event: str) -> None:
        """Count an event for ``stats()``."""

    def begin(self, instance: Any) -> None:
        """Run the start hook of a new hosted object."""

    def publish(self, actor: DeviceActor) -> bool:
        """Make the actor known under its name; False when it is no longer wanted."""

    def crashed(self, name: Name) -> DeviceError | None:
        """Count a crash; an error when there were too many and the name is shut for a while."""

    def forget(self, actor: DeviceActor) -> None:
        """The actor takes no more calls."""

    def buried(self, actor: DeviceActor) -> None:
        """The actor's thread ends."""


def failure(error: BaseException, name: Name) -> HyperpyError:
    """Return ``error`` if it is one of ours, else a DeviceError with an incident number.

    The trace goes to the log, never into the error.
    """
    if isinstance(error, HyperpyError):
        return error
    incident = secrets.token_hex(4)
    log.error("incident %s: actor %s failed", incident, label(name), exc_info=error)
    made = DeviceError(f"device '{name[0]}' failed ({type(error).__name__}); incident {incident}")
    made.incident = incident
    return made


def late(name: Name) -> DeviceTimeout:
    """Return the error for a call to ``name`` whose deadline has passed."""
    return DeviceTimeout(f"the deadline passed before {label(name)} answered")


def stopping(name: Name) -> Busy:
    """Return the error for a call to an actor that is being stopped."""
    return Busy(f"{label(name)} is being stopped")


class DeviceActor(pykka.ThreadingActor):
    """Hosts what ``make`` returns, and runs calls on it one at a time.

    It is in no pykka registry: that one is linear, and its ``stop_all`` reaches strangers.
    """

    use_daemon_thread = True

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Mailbox()

    def __init__(self, name: Name, make: Callable[[], Any], owner: Owner, *, born: int, mailbox: int) -> None:
        super().__init__()
        self.name = name
        self.mailbox = cast(Mailbox, self.actor_inbox)
        self.mailbox.limit = mailbox
        self.gate = self.mailbox.gate
        self.instance: Any = UNMADE
        self.starting = True
        self.slow = False
        self.borrowed = 0
        self.queued = 0
        self.last_used = monotonic()
        self.start_deadline = self.last_used + owner.start_s
        self._make = make
        self.owner = owner
        self.born = born
        self.previous: DeviceActor | None = None
        self.restart_on: tuple[type[BaseException], ...] = ()
        self._running: Call | None = None
        self._reason: HyperpyError | None = None
        self._thread: threading.Thread | None = None

    # -- caller's side -------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the thread; making and starting the object is the first thing in the mailbox.

        Raises:
            Busy: the machine gives no more threads.
        """
        self._start_context = copy_context()
        self.mailbox.order(Order.START)
        try:
            self._start_actor_loop()
        except RuntimeError:
            raise Busy("the node has no thread left for another actor") from None

    def _start_actor_loop(self) -> None:
        thread = threading.Thread(target=self._actor_loop, name=f"actor {label(self.name)}", daemon=True)
        self._thread = thread
        thread.start()

    def give_up(self, reason: HyperpyError) -> None:
        """Take no more calls, tell ``reason`` to those that wait, and end when the start returns."""
        self._reason = reason
        for call in self.mailbox.close():
            self.owner.waits.remove(call)
            call.fail(copy.copy(reason))

    def lives(self) -> bool:
        """Return whether the thread that answers still runs."""
        return self._thread is not None and self._thread.is_alive()

    def failed(self, error: BaseException) -> HyperpyError:
        """Return what the caller is told; the one who calls holds the gate.

        When the hosted object declares the error as one that may have broken its state, a restart is
        put in front of every waiting call.
        """
        self.owner.count("failures")
        if isinstance(error, self.restart_on):
            self.mailbox.order(Order.RESTART)
        return failure(error, self.name)

    # -- actor's thread ------------------------------------------------------------------------

    def _actor_loop(self) -> None:
        try:
            while self._next():
                pass
        except BaseException as error:  # raised into this thread from outside, between two calls
            self._reason = failure(error, self.name)
        finally:
            self._die()

    def _next(self) -> bool:
        job = self.mailbox.get(self.owner.idle_s)
        if job is None:
            return not self._too_old()
        if job is Order.STOP:
            return False
        if isinstance(job, Call):
            self._serve(job)
            return True
        try:
            if job is Order.START:
                self._start_context.run(self._start)
            else:
                Context().run(self._restart)
        finally:
            self.mailbox.finish()
        return self._reason is None

    def _too_old(self) -> bool:
        if monotonic() - self.last_used < self.owner.idle_s or not self.mailbox.close_if_idle():
            return False
        self.owner.count("evicted")
        return True

    def _serve(self, call: Call) -> None:
        self._running = call
        self.queued += 1
        if monotonic() >= call.deadline:
            call.error = late(self.name)
        else:
            call.context.run(self._perform, call)
        if call.holders:  # before the gate opens: the next holder must not see this wait
            self.owner.waits.remove(call)
        self.mailbox.finish()
        self._running = None
        call.answered.release()

    def _perform(self, call: Call) -> None:
        frame = Frame(self, FRAME.get(), call.deadline)
        FRAME.set(frame)
        started = monotonic()
        try:
            call.value = call.work(self.instance)
        except BaseException as error:
            call.error = self.failed(error)
        finally:
            frame.actor = None
            self.last_used = monotonic()
            self.slow = self.last_used - started > self.owner.slow_s

    def _start(self) -> None:
        """Make and start the object, then publish the name; runs in the context of the first caller."""
        previous = self.previous
        if previous is not None:
            if not previous.actor_stopped.wait(max(0.0, self.start_deadline - monotonic())):
                self._reason = DeviceTimeout(f"the previous {label(self.name)} has not stopped yet")
                return
            self.previous = None
        if self._made(FRAME.get()) and not self.owner.publish(self):
            self._reason = stopping(self.name)

    def _restart(self) -> None:
        self.owner.count("restarts")
        shut = self.owner.crashed(self.name)
        self._halt()
        if shut is not None:
            self._reason = shut
        else:
            self.start_deadline = monotonic() + self.owner.start_s
            self.starting = True
            if self._made(None):
                self.starting = False

    def _made(self, parent: Frame | None) -> bool:
        frame = Frame(self, parent, self.start_deadline)
        FRAME.set(frame)
        try:
            self.instance = self._make()
            self.restart_on = tuple(getattr(self.instance, "restart_on", ()))
            self.owner.begin(self.instance)
            return True
        except BaseException as error:
            self._reason = failure(error, self.name)
            if not isinstance(error, HyperpyError):
                self._reason = self.owner.crashed(self.name) or self._reason
            return False
        finally:
            frame.actor = None
            self.last_used = monotonic()

    def _halt(self) -> None:
        """Run the object's stop hook; what it raises is logged only."""
        instance, self.instance = self.instance, UNMADE
        stop = getattr(instance, "stop", None)
        if callable(stop) and not hasattr(stop, "__hyperpy_key__"):  # a key may be called stop
            try:
                stop()
            except BaseException as error:
                failure(error, self.name)

    def _die(self) -> None:
        """Answer whoever waits, then stop the object. Nothing is accepted any more when this begins."""
        reason = self._reason or stopping(self.name)
        waiting = self.mailbox.close()
        self.owner.forget(self)
        for call in waiting if self._running is None else [self._running, *waiting]:
            self.owner.waits.remove(call)
            call.fail(copy.copy(reason))
        try:
            self._halt()
        finally:
            self.actor_stopped.set()
            self.owner.buried(self)
