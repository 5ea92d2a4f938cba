"""Work that outlives one request: a process's slots, one after another, and the actors that own them.

A job's step is a top-level step with limits of its own: it is recorded, and committed before it is
answered, so what was done stays done when the caller's time ends (design 5). Nobody's request gives it
rights: it signs nothing, and reads what a stranger may read. A step refuses keys that are not
deterministic; what a path resolves is an ordinary request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hyperpy import path
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch
from hyperpy.context import Chain, Frame
from hyperpy.errors import DeviceStopped, DeviceTimeout, HyperpyError
from hyperpy.message import Message
from hyperpy.resolver import Resolver
from hyperpy.sdk import Result
from hyperpy.store.base import Store

_T = TypeVar("_T")
_R = TypeVar("_R")


class Jobs:
    """The ``jobs`` capability.

    Args:
        chain: makes the chain of one job's step, which writes into the given batch.
    """

    def __init__(self, resolver: Resolver, store: Store, chain: Callable[[Batch], Chain]) -> None:
        self._resolver = resolver
        self._store = store
        self._chain = chain

    def step(
        self,
        base: Message,
        request: Message,
        *,
        slot: tuple[str, int] | None = None,
        also: Callable[[Result, Batch], None] = lambda result, batch: None,
        rescue: Callable[[HyperpyError], Result] | None = None,
        into: Batch | None = None,
    ) -> Result:
        """See :meth:`hyperpy.capabilities.Jobs.step`."""
        batch = Batch() if into is None else into
        chain = self._chain(batch)
        chain.slot = slot
        chain.strict = True
        try:
            try:
                result = self._resolver.step(base, request, Frame(self._resolver, chain, 0, None))
            except HyperpyError as error:
                if rescue is None:
                    raise
                result = rescue(error)
            also(result, batch)
            return result
        except DeviceStopped:
            raise
        except DeviceTimeout as error:
            if time.monotonic() < chain.deadline:
                raise
            # It had all the time that a job gets: whoever asks again is to know that.
            raise DeviceStopped(f"the work was ended at its deadline: {error.message}") from error
        finally:
            if into is None:
                batch.commit(self._store)

    def resolve(self, asked: Message) -> Result:
        """See :meth:`hyperpy.capabilities.Jobs.resolve`."""
        batch = Batch()
        try:
            return self._resolver.top(path.parse(asked), self._chain(batch))
        finally:
            batch.commit(self._store)

    def commit(self, batch: Batch) -> None:
        """See :meth:`hyperpy.capabilities.Jobs.commit`."""
        batch.commit(self._store)


class Workers:
    """The ``workers`` capability: objects of a device's own, each used by one caller at a time."""

    def __init__(self, actors: ActorSystem) -> None:
        self._actors = actors

    def call(self, kind: str, name: str, make: Callable[[], _T], work: Callable[[_T], _R], *, deadline: float) -> _R:
        """See :meth:`hyperpy.capabilities.Workers.call`."""
        return self._actors.call((kind, name), make, work, deadline=deadline)

    def retire(self, kind: str, name: str) -> None:
        """See :meth:`hyperpy.capabilities.Workers.retire`."""
        self._actors.retire(lambda actor: actor == (kind, name))
