"""Call chains, and who waits for whom.

A *chain* is the actors that the running code is inside of. It travels in a context variable, so a
queued call sees the chain of its caller. Coming back to an actor of one's own chain would wait for
oneself; two chains may wait for each other. The first is seen by walking the chain, the second by
:class:`WaitGraph`, whose edge X -> Y means "a chain that holds X waits for Y".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

Name: TypeAlias = tuple[str, str]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Named(Protocol):
    """Anything with an actor's name."""

    @property
    def name(self) -> Name:
        """Device, and the value it is one per."""


class Frame:
    """One call being run inside an actor; ``actor`` becomes None when the call has ended."""

    __slots__ = ("actor", "deadline", "parent")

    def __init__(self, actor: Any, parent: Frame | None, deadline: float) -> None:
        self.actor = actor
        self.parent = parent
        self.deadline = deadline


FRAME: ContextVar[Frame | None] = ContextVar("hyperpy-actor-frame", default=None)


def held(frame: Frame | None) -> list[Any]:
    """Return the actors that ``frame`` is inside of, innermost first."""
    actors = []
    while frame is not None:
        if frame.actor is not None:
            actors.append(frame.actor)
        frame = frame.parent
    return actors


def chain() -> tuple[Name, ...]:
    """Return the names of the actors that the running code is inside of, outermost first."""
    return tuple(actor.name for actor in reversed(held(FRAME.get())))


def current_deadline() -> float | None:
    """Return the deadline of the running call (monotonic seconds), or None outside any actor."""
    frame = FRAME.get()
    return None if frame is None else frame.deadline


def inherit(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return ``function`` bound to the chain, deadline and context variables of this moment.

    For threads that a handler starts: without it their calls look like calls from outside, and one
    that comes back to the handler's own actor waits until its deadline instead of failing at once.
    """
    context = copy_context()

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return context.copy().run(function, *args, **kwargs)

    return run


def label(name: Name) -> str:
    """Return a name as short printable text."""
    device, key = (part.encode("unicode_escape", "backslashreplace").decode("ascii") for part in name)
    return f"{device}[{key if len(key) <= 60 else key[:57] + '...'}]"


def describe(actors: Sequence[Named]) -> str:
    """Return the names of ``actors`` joined by arrows."""
    return " -> ".join(label(actor.name) for actor in actors)


class Ticket(Protocol):
    """One wait: ``holders`` are the actors of the waiting chain; emptied when the wait is over."""

    holders: Sequence[Named]
    target: Named


class WaitGraph:
    """Which held actors wait for which other actors; one lock, no cycle is ever let in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edges: dict[Named, dict[Named, int]] = {}

    def add(self, ticket: Ticket) -> tuple[Named, ...]:
        """Note that whoever holds ``ticket.holders`` waits for ``ticket.target``.

        Returns:
            The empty tuple; or, when this wait would close a cycle, the way from the target to one of
            the holders, and nothing is noted.
        """
        with self._lock:
            target = ticket.target
            way = self._way(target, frozenset(ticket.holders))
            if way:
                ticket.holders = ()
            for holder in ticket.holders:
                waits = self._edges.setdefault(holder, {})
                waits[target] = waits.get(target, 0) + 1
            return way

    def remove(self, ticket: Ticket) -> None:
        """Take back one :meth:`add`; whoever comes second does nothing."""
        with self._lock:
            holders, ticket.holders = ticket.holders, ()
            for holder in holders:
                waits = self._edges[holder]
                waits[ticket.target] -= 1
                if not waits[ticket.target]:
                    del waits[ticket.target]
                    if not waits:
                        del self._edges[holder]

    def __len__(self) -> int:
        return len(self._edges)

    def _way(self, start: Named, goals: frozenset[Named]) -> tuple[Named, ...]:
        came: dict[Named, Named | None] = {start: None}
        todo = [start]
        while todo:
            here = todo.pop()
            if here in goals:
                way = [here]
                while (before := came[way[-1]]) is not None:
                    way.append(before)
                return tuple(reversed(way))
            for there in self._edges.get(here, ()):
                if there not in came:
                    came[there] = here
                    todo.append(there)
        return ()
