"""Who has which name: making actors, letting them go, counting their crashes.

One lock guards the three dicts (running, starting, stopping). Nothing waits while holding it, except
for the start of a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from hyperpy.actors.actor import DeviceActor, late, stopping
from hyperpy.actors.chain import FRAME, Name, WaitGraph, held, label
from hyperpy.actors.mailbox import Order
from hyperpy.errors import Busy, DeviceError

_EVENTS = ("busy", "crashes", "evicted", "failures", "reentered", "restarts", "timeouts")


class Roster:
    """The actors of one system by name, and how they begin and end (see :class:`ActorSystem`)."""

    def __init__(
        self,
        *,
        mailbox: int = 256,
        max_actors: int = 10_000,
        idle_s: float = 600.0,
        start_s: float = 30.0,
        slow_s: float = 0.02,
        restarts: int = 5,
        period_s: float = 30.0,
        start: Callable[[Any], object] | None = None,
    ) -> None:
        self.idle_s, self.start_s, self.slow_s = idle_s, start_s, slow_s
        self.waits = WaitGraph()
        self._mailbox, self._max_actors = mailbox, max_actors
        self._restarts, self._period_s = restarts, period_s
        self._start_hook = start
        self._lock = threading.Lock()
        self._actors: dict[Name, DeviceActor] = {}
        self._starting: dict[Name, DeviceActor] = {}
        self._dying: dict[Name, DeviceActor] = {}
        self._crashes: dict[Name, deque[float]] = {}
        self._shut: dict[Name, float] = {}
        self._stopped = False
        self._born = 0
        self._borrowed = 0
        self._queued = 0
        self._events = dict.fromkeys(_EVENTS, 0)

    def find(self, name: Name, make: Callable[[], Any]) -> DeviceActor:
        """Return the actor called ``name``, started or starting; make it if there is none."""
        with self._lock:
            actor = self._actors.get(name) or self._starting.get(name)
            if actor is not None:
                return actor
            if self._stopped:
                raise Busy("the node is stopping")
            self._open(name)
            if len(self._actors) + len(self._starting) >= self._max_actors:
                self._make_room()
            self._born += 1
            actor = DeviceActor(name, make, self, born=self._born, mailbox=self._mailbox)
            actor.previous = self._dying.get(name)
            actor.launch()
            self._starting[name] = actor
            return actor

    def _open(self, name: Name) -> None:
        until = self._shut.get(name)
        if until is None:
            return
        left = until - monotonic()
        if left > 0:
            raise _shut_error(name, self._restarts, self._period_s, left)
        del self._shut[name]
        self._crashes.pop(name, None)

    def _make_room(self) -> None:
        """Stop the sixteenth of all actors that is idle longest; at least one."""
        wanted = max(1, self._max_actors // 16)
        for actor in sorted(self._actors.values(), key=lambda actor: actor.last_used):
            if actor.mailbox.close_if_idle():
                actor.mailbox.order(Order.STOP)
                self._dying[actor.name] = self._actors.pop(actor.name)
                self._events["evicted"] += 1
                wanted -= 1
                if not wanted:
                    return
        if len(self._actors) + len(self._starting) >= self._max_actors:
            self._events["busy"] += 1
            raise Busy(f"all {self._max_actors} actors are at work")

    def retire(self, match: Callable[[Name], bool]) -> int:
        """Stop the actors whose name matches, each after the calls that wait for it; return how many.

        The next call to such a name makes a new object, once the old one has stopped. Calls that wait
        for an actor which is only starting are answered Busy.
        """
        with self._lock:
            chosen = [actor for actor in (*self._starting.values(), *self._actors.values()) if match(actor.name)]
        for actor in chosen:
            actor.mailbox.refuse()
            actor.mailbox.order(Order.STOP, last=True)
            self.forget(actor)
        return len(chosen)

    def stop(self, timeout_s: float = 10.0) -> tuple[Name, ...]:
        """Stop every actor of this system, the youngest first; idempotent.

        Calls that wait are answered Busy; the one that runs may end. An actor that does not end takes at
        most half of what is left of ``timeout_s``, and its thread is left behind as a daemon.

        Returns:
            The names of actors that have not stopped in time.
        """
        until = monotonic() + timeout_s
        with self._lock:
            self._stopped = True
            actors = {*self._starting.values(), *self._actors.values(), *self._dying.values()}
        own = held(FRAME.get())
        left = []
        for actor in sorted(actors, key=lambda actor: actor.born, reverse=True):
            actor.give_up(stopping(actor.name))
            actor.mailbox.order(Order.STOP)
            patience = 0.0 if actor in own else max(0.0, (until - monotonic()) / 2)
            if actor.lives() and not actor.actor_stopped.wait(patience):
                left.append(actor.name)
        return tuple(left)

    def stats(self) -> dict[str, int]:
        """Return counts: actors by state, calls by way and outcome since the start."""
        with self._lock:
            actors = [*self._actors.values(), *self._starting.values(), *self._dying.values()]
            return {
                "actors": len(self._actors),
                "starting": len(self._starting),
                "stopping": len(self._dying),
                "waiting": sum(len(actor.mailbox) for actor in actors),
                "borrowed": self._borrowed + sum(actor.borrowed for actor in actors),
                "queued": self._queued + sum(actor.queued for actor in actors),
                "made": self._born,
                **self._events,
            }

    # -- what actors tell (actor.Owner) --------------------------------------------------------

    def count(self, event: str) -> None:
        """Count an event for :meth:`stats`."""
        with self._lock:
            self._events[event] += 1

    def begin(self, instance: Any) -> None:
        """Run the start hook of a new object."""
        if self._start_hook is not None:
            self._start_hook(instance)

    def publish(self, actor: DeviceActor) -> bool:
        """Make a started actor known under its name; False when it is no longer wanted."""
        with self._lock:
            if self._starting.get(actor.name) is not actor:
                return False
            actor.starting = False
            self._actors[actor.name] = self._starting.pop(actor.name)
            return True

    def crashed(self, name: Name) -> DeviceError | None:
        """Count a crash; return an error when there were too many and the name is shut for a while."""
        now = monotonic()
        with self._lock:
            self._events["crashes"] += 1
            if len(self._crashes) > 1024:
                self._crashes = {one: at for one, at in self._crashes.items() if at[-1] > now - self._period_s}
                self._shut = {one: until for one, until in self._shut.items() if until > now}
            times = self._crashes.setdefault(name, deque(maxlen=self._restarts + 1))
            times.append(now)
            if len(times) <= self._restarts or times[0] < now - self._period_s:
                return None
            self._shut[name] = now + self._period_s
        return _shut_error(name, self._restarts, self._period_s, self._period_s)

    def forget(self, actor: DeviceActor) -> None:
        """Take the name away from an actor that takes no more calls."""
        with self._lock:
            for names in (self._actors, self._starting):
                if names.get(actor.name) is actor:
                    self._dying[actor.name] = names.pop(actor.name)

    def buried(self, actor: DeviceActor) -> None:
        """Let go of an actor whose thread ends."""
        self.forget(actor)
        with self._lock:
            if self._dying.get(actor.name) is actor:
                del self._dying[actor.name]
                if actor.previous is not None and actor.previous.lives():
                    self._dying[actor.name] = actor.previous
                self._borrowed += actor.borrowed
                self._queued += actor.queued

    def give_up(self, actor: DeviceActor) -> None:
        """The start takes too long: free the name, tell those who wait, count one crash.

        Every caller that waits for the start may come here; the first does it.
        """
        with self._lock:
            if not actor.starting:
                return
            actor.starting = False
        self.forget(actor)
        self.crashed(actor.name)
        actor.give_up(late(actor.name))


def _shut_error(name: Name, restarts: int, period_s: float, left_s: float) -> DeviceError:
    made = DeviceError(f"{label(name)} crashed more than {restarts} times within {period_s:g} s and is shut for now")
    made.retry_after = left_s
    return made
