"""A node for making steps again: fresh devices over what was recorded; it writes to memory alone.

It has no network, no timers, no keys and no operator; nothing is looked up that a step once gave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hyperpy import commitments, hashpath, path
from hyperpy.accounts import Accounts
from hyperpy.actors import ActorSystem
from hyperpy.audit.layered import Layered
from hyperpy.audit.source import Evidence
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Attester
from hyperpy.config import Config
from hyperpy.context import Chain, Frame, Services, Step, device_error
from hyperpy.errors import Busy, DeviceTimeout, Forbidden, HyperpyError, MessageNotFound
from hyperpy.inference.serving import Models
from hyperpy.jobs import Workers
from hyperpy.message import Message, Value
from hyperpy.recorder import Recorder
from hyperpy.registry import Registry
from hyperpy.resolver import Resolver
from hyperpy.sdk import DeviceSpec, Result, hook_of
from hyperpy.slots import Slots
from hyperpy.storage import Storage
from hyperpy.store.base import Store
from hyperpy.trail import Record, Trail
from hyperpy.watchdog import Watchdog

_T = TypeVar("_T")

DEADLINE_S = 30.0
"""Seconds that one step may take."""
_NOTED = 100


class Scratch:
    """Runs recorded steps again.

    Args:
        devices: files or classes beside the bundled and installed ones, as the node had them.
        config: settings that devices may read; by default those of a new node.
        seconds: what one step may take.
        loading: seconds to wait for a language model to be loaded, which counts against no step.
        attester: the node's own, which opens what was sealed to it; without it that counts as attested.
    """

    def __init__(
        self,
        evidence: Evidence,
        *,
        devices: Sequence[str | Path | type] = (),
        config: Config | None = None,
        seconds: float = DEADLINE_S,
        loading: float = 0.0,
        attester: Attester | None = None,
    ) -> None:
        config = config or Config()
        self.seconds = seconds
        self._loading = loading
        self.store: Store = Layered(evidence.store)
        self.cache = Noting(self.store)
        self.actors = ActorSystem()
        self.watchdog = Watchdog()
        settings = dict(config.as_message().raw_items())
        trail = Trail(self.store)
        self.seen = Seen(self.cache, trail)
        self.registry = Registry(devices, override=config.devices.override, start=self._start)
        self.resolver = Resolver(
            self.registry,
            self.cache,
            self.seen,
            self.actors,
            services=Services(fetch=_refuse, sign=_refuse, config=settings),
            watchdog=self.watchdog,
            trail=trail,
        )
        self.jobs = ScratchJobs(self)
        slots = Slots(self.store, self.cache, self.actors)
        self.claimed: Callable[[], Message | None] = lambda: None
        """Returns the result that is claimed of the step being made: what may be tried first, and is never believed."""
        self._models = Models(config.inference, self._claimed_body)
        self._lend: dict[str, Any] = {
            "node": Absent(setting=lambda name, default=None: settings.get(name, default)),
            "store": Storage(self.cache, self.store),
            "slots": slots,
            "accounts": Accounts(self.registry, self.cache, trail, slots, public=False),
            "workers": Workers(self.actors),
            "jobs": self.jobs,
            "http": Absent(allowed=lambda peer: False),
            "models": self._models,
            "attester": Absent(kind="", kem=b"") if attester is None else self._lent(attester),
        }
        self.watchdog.start()

    def deadline(self) -> float:
        """Return when a step that begins now must be done (monotonic seconds)."""
        return time.monotonic() + self.seconds

    def patiently(self, work: Callable[[float], _T]) -> _T:
        """Return what work makes until a deadline; once more, if its time went by while a model was loaded."""
        loaded = self._models.settled(0.0)
        while True:
            try:
                return work(self.deadline())
            except (Busy, DeviceTimeout):
                now = self._models.settled(self._loading) if self._loading else loaded
                if now == loaded:
                    raise
                loaded = now

    def _lent(self, own: Attester) -> Absent:
        """Return what of a node's attester an audit may use: to open what was sealed to it, and go on privately."""

        def privately(request: Message, deadline: float, base: Message | None = None) -> Result:
            chain = Chain(deadline=deadline, lookup=False, may_sign=False, strict=True, sealed=True)
            members = (base, request) if base is not None else path.parse(request)
            return self.resolver.top(members, chain)

        return Absent(kind=own.kind, kem=own.kem, unseal=own.unseal, derived=own.derived, privately=privately)

    def _claimed_body(self) -> str | None:
        """Return the text that a claimed result has as its body."""
        found = self.claimed()
        body = found.get("body") if found is not None else None
        return body.decode("utf-8", "replace") if isinstance(body, bytes) else None

    def close(self) -> None:
        """Let go of devices, threads and what was written."""
        self.actors.stop()
        for instance in self.registry.instances():
            stop = hook_of(instance, "stop")
            if stop is not None:
                try:
                    stop()
                except NotLent:
                    pass  # there is nothing of what was not lent to let go of
                except Exception as error:
                    device_error(error, type(instance).__name__, "stop")
        self.watchdog.stop()
        self.store.close()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, spec: DeviceSpec, instance: Any, bundled: bool) -> None:
        start = hook_of(instance, "start")
        if start is not None:
            start(**{need: self._lend.get(need) or Absent() for need in spec.needs})


class Noting(Cache):
    """A cache that notes what is looked up, and may be told to hide it.

    Attributes:
        met, missed: IDs that were found and not found, in the order in which they were asked for; to be cleared.
        hidden: IDs that are not to be found.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.met: list[str] = []
        self.missed: list[str] = []
        self.hidden: frozenset[str] = frozenset()

    def read(self, ref: str, batch: Batch | None = None, *, exact: bool = False) -> Value:
        """See :meth:`hyperpy.cache.Cache.read`."""
        try:
            if ref in self.hidden:
                raise MessageNotFound(f"this node holds no message {ref}")
            found = super().read(ref, batch, exact=exact)
        except MessageNotFound:
            if len(self.missed) < _NOTED:
                self.missed.append(ref[:100])
            raise
        if len(self.met) < _NOTED:
            self.met.append(ref)
        return found


class Seen(Recorder):
    """Makes records without writing anything; keeps the last one that computed a slot."""

    last: Record | None = None
    outcome: Message | None = None

    def write(self, step: Step, batch: Batch) -> bytes:
        """Note a top-level step."""
        chain, device = step.frame.chain, step.found.device
        if chain.slot is not None:
            self.outcome = step.result
            self.last = Record(
                base=self._named(step.base),
                request=self._named(step.request),
                result=commitments.content_id(step.result),
                status=step.status,
                device=device.spec.name,
                key=step.found.name,
                implementation=device.implementation,
                hashpath_before=hashpath.start(step.base),
                hashpath_after=step.after,
            )
        return bytes(32)

    def _named(self, item: Message) -> str:
        if not item.commitments:
            return commitments.content_id(item)
        known: str | None = item.memo.get("reference")
        return known if known is not None else self._cache.reference(item, Batch())


class ScratchJobs:
    """The ``jobs`` capability of a scratch node: the same steps, of which nothing is kept."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

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
        batch = Batch()

        def once(deadline: float) -> Result:
            batch.clear()
            chain = Chain(deadline=deadline, batch=batch, lookup=False, may_sign=False, strict=True)
            chain.slot = slot
            if slot is None:
                chain.batch, chain.linked = None, True
            return self._scratch.resolver.step(base, request, Frame(self._scratch.resolver, chain, 0, None))

        try:
            result = self._scratch.patiently(once)
        except HyperpyError as error:
            if rescue is None:
                raise
            result = rescue(error)
        also(result, batch)
        return result

    def resolve(self, asked: Message) -> Result:
        """Refuse: a request of the node's own is not part of any step."""
        raise Forbidden("an audit sends no requests of its own")

    def commit(self, batch: Batch) -> None:
        """Forget what was to be kept."""
        batch.clear()


class Absent:
    """Stands for a capability that an audit does not lend: whatever is called on it is refused."""

    address = ""
    addresses: Sequence[str] = ()

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _refuse


class NotLent(Forbidden):
    """A step asked for what an audit has not."""


def _refuse(*_: Any, **__: Any) -> Any:
    raise NotLent("an audit has no keys, network, timers or operator")
