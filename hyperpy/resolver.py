"""Resolves messages: one step at a time, the same way when serving and when replaying.

``Resolver.step(base, request)`` is the only way a state transition happens. Its stages
(ao-core 7.2, repaired where the reference is defective; numbers are repeated beside the code):

    1  normalise   links loaded, ``as`` and sub-paths evaluated, lists numbered (normalise.py)
    2  look up     a base given by ID: cached result, or the message, or the trail
    3  validity    base and request are messages
    4  in flight   an equal computation already running is waited for, not repeated
    5  find        device of the base, key of the request, fall back to message@1.0
    6  execute     on the caller's thread, or in the device's actor
    7  step hook   the operator's hook may replace the result
    8  sub-resolve a result that is a sequence is resolved
    9  hashpath    extended by (base, request)
    10 record      messages, result and trail record go into the request's batch
    11 notify      whoever waited at stage 4 gets the same answer

A chain is a left fold over steps; the first status other than ``ok`` ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from hyperpy import hashpath, normalise, path
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch, Cache
from hyperpy.commitments import unsigned_id
from hyperpy.context import SIGNING, Chain, Frame, Given, Services, Step, device_error
from hyperpy.dispatch import find
from hyperpy.encoding import is_id, key_text
from hyperpy.errors import (
    Busy,
    DeviceNotFound,
    DeviceReentered,
    DeviceTimeout,
    HyperpyError,
    KeyNotFound,
    MessageNotFound,
    NotCached,
    NotDeterministic,
    PathError,
    SealedElsewhere,
)
from hyperpy.flights import Flights
from hyperpy.message import As, Link, Message, Resolve, Value, list_to_map, value
from hyperpy.privacy import Gate
from hyperpy.recorder import Recorder, failure, recorded_error, status_word, unwrap, wrap
from hyperpy.registry import Registry
from hyperpy.sdk import Result
from hyperpy.trail import Record, Trail
from hyperpy.watchdog import Interrupted, Watchdog

UNREPEATABLE = "an answer that cannot be made again"
"""What a chain may have met; see :class:`hyperpy.context.Chain`."""
_PASSING = (Busy, DeviceTimeout, SealedElsewhere)
_ALIKE = "Send the value to the process in a message instead."
_PLAIN = (str, bytes, int, float, tuple, list, dict, Message)


class Observer(Protocol):
    """Hears of every step after it ended: metrics, logs, the console."""

    def __call__(self, device: str, key: str, status: str, base: Message) -> None: ...


class StepHook(Protocol):
    """The operator's hook after each top-level step; returns the result to go on with."""

    def __call__(self, base: Message, request: Message, result: Result) -> Result: ...


class Resolver:
    """Resolves paths and messages with the devices of one node. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        recorder: Recorder,
        actors: ActorSystem,
        *,
        services: Services,
        watchdog: Watchdog,
        trail: Trail,
    ) -> None:
        self.registry = registry
        self.cache = cache
        self.recorder = recorder
        self.actors = actors
        self.services = services
        self.step_hook: StepHook | None = None
        self.observers: list[Observer] = []
        self._trail = trail
        self._running = watchdog.running
        self._gate = Gate(cache, trail)
        self._flights: Flights[tuple[Result, Frame]] = Flights()

    # -- entry points (ao-core 7.1) --------------------------------------------------------

    def top(self, members: Sequence[Value], chain: Chain) -> Result:
        """Resolve a parsed request at top level: every step is recorded in the chain's batch.

        A list between two steps is a message there, with the hashpath of the step that made it
        (ao-core 10.3, ``force_message``).
        """
        return self.many(members, Frame(self, chain, 0, None), forced=True)

    def resolve(self, base: Any, request: Any, frame: Frame) -> Result:
        """Resolve a path (``request`` None), or a request on a base."""
        if request is None:
            return self.many(path.parse(base), frame)
        return self.many((value(base), *_split(value(request))), frame)

    def many(self, members: Sequence[Value], frame: Frame, *, forced: bool = False) -> Result:
        """Fold a sequence of base and requests over :meth:`step`."""
        if not members:
            raise PathError("the path is empty", hint="Name a device and a key: /~message@1.0&a=1/a")
        if len(members) == 1:
            return self._alone(members[0], frame)
        root = members[0]
        if type(root) is Message and normalise.has_control(root):
            root = normalise.without_control(self, root, frame)
        result = Result("ok", root)
        order = frame.chain.order if frame.depth == 0 else None
        for member in members[1:]:
            base = result.value
            if forced and type(base) is tuple and result.hashpath is not None:
                base = Message.make(list_to_map(base), private={"hashpath": result.hashpath})
            result = self.step(base, member, frame, ordered=order is not None and order.names(member))
            if result.status != "ok":
                break
        return result

    def _alone(self, member: Value, frame: Frame) -> Result:
        if isinstance(member, Resolve):
            return self.many(member.messages, frame)
        if isinstance(member, bytes):
            return Result("ok", self.read(key_text(member), frame))
        if isinstance(member, As) and not (isinstance(member.message, Message) and "path" not in member.message):
            return Result("ok", normalise.as_base(self, member, frame))
        return Result("ok", member.load() if isinstance(member, Link) else member)

    # -- one step (ao-core 7.2) ------------------------------------------------------------

    def step(self, base: Value, request: Value, frame: Frame, *, ordered: bool = False) -> Result:
        """Resolve one request on one base.

        Args:
            ordered: the request asks for a signature, and the chain's order names it.

        Raises:
            HyperpyError: the key, device or message is missing, or the device failed. The error
                carries device, key and hashpath.
        """
        chain = frame.chain
        chain.spend(frame.depth)
        ident = threading.get_ident()
        outer = self._running.get(ident)
        self._running[ident] = None
        try:
            address = None
            if type(base) is not Message:  # 1
                if isinstance(base, bytes) and is_id(base):  # 2
                    address = key_text(base)
                    named = self._addressed(address, request, frame)
                    if isinstance(named, Result):
                        return named
                    base = named
                base = normalise.base(self, base, frame)
            if type(request) is not Message or normalise.has_control(request):
                base, made = normalise.request(self, base, request, frame)
                if made is None:
                    return Result("ok", base)
            else:
                made = request
            if not isinstance(base, Message):  # 3
                raise KeyNotFound("a literal value has no keys", hint="Remove the last part of the path.")
            try:
                found = find(self.registry, base, normalise.key_of(made))
            except DeviceNotFound:
                chain.met = chain.met or "a device that is not here"
                raise
            control = None if chain.strict else made.raw("cache-control")
            now = Step(base, made, found, frame, address=address)
            if frame.substeps and frame.depth == 0:  # of sub-paths in the request; their results are in it now
                now.before, frame.substeps, frame.oracles = frame.substeps, [], []
            now.inner.ordered = ordered and found.name in SIGNING
            if address is None and control is None:
                return self._compute(now)
            return self._cached(now, control)
        finally:
            self._running[ident] = outer

    def _addressed(self, address: str, request: Value, frame: Frame) -> Value | Result:
        """Stage 2: return the message of that ID, or the recorded result of hashpath address/part."""
        try:
            return self._opened(address, frame)
        except MessageNotFound:
            if frame.chain.strict:
                raise  # what the trail holds differs from node to node
            part = normalise.part(request)
            record = self._gate.by_hashpath(f"{address}/{part}", frame.chain.readers) if part else None
            if record is None:
                where = f", nor a step with hashpath {address}/{part}" if part else ""
                raise MessageNotFound(f"this node holds no message {address}{where}") from None
            return self.recompute(record, frame.chain.deadline)

    def _cached(self, now: Step, control: Value | None) -> Result:
        """Stages 2, 4 and 11: answer from the cache, or compute once for all who ask."""
        chain, found = now.frame.chain, now.found
        only = normalise.says(control, "only-if-cached")
        if only and not found.spec.deterministic:
            raise _not_cached()
        cached = chain.lookup and not chain.strict and chain.given is None
        wanted = now.address and cached and not normalise.says(control, "no-cache")
        if not only and (not wanted or not found.spec.deterministic):
            return self._compute(now)
        key = self.cache.result_key(now.base, now.request, found.device.implementation)
        hit = self.cache.result(key, chain.batch)
        if hit is not None:
            kept = self.cache.read(hit.result, chain.batch, exact=True)
            now.cached_from = hit.record
            return self._finish(now, Result(hit.status, unwrap(kept) if hit.literal else kept))
        if only:
            raise _not_cached()
        if chain.batch is None:
            return self._compute(now)
        if key in chain.in_flight:
            raise DeviceReentered(f"computing '{found.name}' needs its own result", hint="Break the cycle.")
        chain.in_flight.add(key)
        try:
            (result, inner), here = self._flights.run(key, lambda: (self._compute(now), now.inner), chain.deadline)
        finally:
            chain.in_flight.discard(key)
        if here:
            return result
        if _live(result.value):
            return self._compute(now)
        now.inner.substeps, now.inner.oracles = inner.substeps, inner.oracles
        return self._finish(now, Result(result.status, _public(result.value)))

    def _compute(self, now: Step) -> Result:
        """Stages 6 to 10: run the key, or, for a base given by hashpath, follow the trail."""
        chain = now.frame.chain
        if not now.found.spec.deterministic:
            if chain.strict and (chain.given is None or now.frame.depth > 0):
                name = f"{now.found.device.spec.name}/{now.found.name}"
                if chain.given is not None:  # no slot: there the refusal is an outcome, here it is this chain's alone
                    chain.met = chain.met or UNREPEATABLE
                refused = NotDeterministic(f"{name} is not deterministic, and a process's state must be", hint=_ALIKE)
                if now.frame.depth == 0:  # the slot itself; parts that failed leave their word in it
                    self._fail(now, refused)
                raise refused
            if chain.given is not None:
                return self._inject(now)
            if not (now.inner.ordered and now.found.name == "commit" and now.found.device.spec.name == "message@1.0"):
                chain.begun = True
        try:
            result = self._execute(now)
        except KeyNotFound as error:
            at = f"{now.address}/{now.found.name}"
            record = self._gate.by_hashpath(at, chain.readers) if now.address and not chain.strict else None
            if record is not None:
                return self.recompute(record, chain.deadline)
            self._fail(now, error)
            raise
        except HyperpyError as error:
            if not isinstance(error, _PASSING):
                self._fail(now, error)
            raise
        if not now.found.spec.deterministic and not now.found.spec.reads:
            chain.note(result)
        if self.step_hook is not None and now.frame.depth == 0 and not chain.sealed:  # 7
            result = self.step_hook(now.base, now.request, result)
        if isinstance(result.value, Resolve):  # 8
            result = self.many(result.value.messages, now.inner)
        return self._finish(now, result)

    def _execute(self, now: Step) -> Result:
        """Stage 6. Whatever a device raises becomes a HyperpyError."""
        loaded, status = now.found.device, "ok"
        try:
            out = self._run(now, loaded.instance) if loaded.spec.one_per is None else self._in_actor(now)
            if type(out) is Result:
                status = out.status
                return out
            return Result("ok", value(out))
        except HyperpyError as error:
            status = str(error.status)
            if error.device is None:
                error.device, error.key, error.hashpath = loaded.spec.name, now.found.name, now.base.hashpath
            raise
        except BaseException as error:
            status = "500"
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            trace = not now.frame.chain.sealed
            raise device_error(error, loaded.spec.name, now.found.name if trace else "-", trace=trace) from None
        finally:
            for observer in () if now.frame.chain.sealed else self.observers:
                observer(loaded.spec.name, now.found.name, status, now.base)

    def _run(self, now: Step, instance: Any) -> Any:
        """Call the key on this thread, marked for the watchdog as inside device code."""
        here = threading.get_ident()
        before = self._running.get(here)
        self._running[here] = now.inner.chain.deadline
        try:
            return now.found.spec.call(instance, now.found.name, now.base, now.request, now.inner)
        except Interrupted:
            raise DeviceTimeout("the device ran past its deadline and was stopped") from None
        finally:
            self._running[here] = before

    def _in_actor(self, now: Step) -> Any:
        now.inner.chain.met = now.inner.chain.met or "a device that keeps a state of its own"
        device = now.found.device.spec
        group = now.base.get(device.one_per or "", now.request.get(device.one_per or "", b""))
        label = key_text(group) if isinstance(group, bytes) else unsigned_id(group)
        return self.actors.call(
            (device.name, label),
            lambda: self.registry.make(now.found.device),
            lambda instance: self._run(now, instance),
            deadline=now.inner.chain.deadline,
            reentrant=now.found.spec.reentrant,
        )

    def _finish(self, now: Step, result: Result) -> Result:
        """Stages 9 and 10."""
        chain = now.frame.chain
        if not chain.hashpaths:
            return result
        out = result.value
        after = None
        if type(out) is Message:
            if result.status == "ok":
                after = hashpath.extend(now.base, now.request)
                out = out.with_private(hashpath=after)
            elif out.hashpath is not None:
                out = out.with_private(hashpath=None)
        if after is None and (chain.batch is not None or chain.linked):
            after = hashpath.extend(now.base, now.request)
        made = Result(result.status, out, after)
        if chain.batch is not None and after is not None:
            self._record(now, made, after)
        return made

    def _record(self, now: Step, result: Result, after: str) -> None:
        """Stage 10: leave the step to the one it belongs to, or write it and its sub-steps into the batch."""
        frame, inner, batch = now.frame, now.inner, now.frame.chain.batch
        assert batch is not None
        deterministic = now.found.spec.deterministic
        if frame.depth > 0 and deterministic and not now.cached_from:
            frame.substeps.extend(inner.substeps)
            frame.oracles.extend(inner.oracles)
            return
        now.done(wrap(result.value), result.status, after)
        if frame.depth > 0:
            frame.substeps.append(now)
            if not deterministic:
                frame.oracles.append(self.recorder.oracle(now, batch))
            return
        record = self.recorder.write(now, batch)
        if frame.chain.slot is not None:
            return  # kept by slot
        if deterministic and not inner.oracles and not now.cached_from and result.status == "ok":
            if _live(now.base) or _live(result.value):
                return
            key = self.cache.result_key(now.base, now.request, now.found.device.implementation)
            literal = type(result.value) is not Message
            self.cache.put_result(key, now.result, result.status, record, batch, literal=literal)

    def _fail(self, now: Step, error: HyperpyError) -> None:
        """Record a step that ended in an error; the error is its result."""
        if now.frame.chain.batch is None:
            return
        after = hashpath.extend(now.base, now.request)
        self._record(now, Result(status_word(error), failure(error)), after)

    # -- reading, trail and replay ----------------------------------------------------------

    def read(self, ref: str, frame: Frame) -> Value:
        """Return the message with that ID, from the store or made again from the trail."""
        try:
            return self._opened(ref, frame)
        except MessageNotFound:
            record = self._trail.by_result(ref)
            if record is None:
                raise
            made = self.recompute(record, frame.chain.deadline).value
            return self._gate.opened(ref, made, frame.chain.readers, lambda child: self._opened(child, frame))

    def _opened(self, ref: str, frame: Frame) -> Value:
        """Return the message with that ID from the store, if the chain's readers may see it."""
        frame.chain.met = frame.chain.met or "a stored message"
        item = self.cache.read(ref, frame.chain.batch)
        return self._gate.opened(ref, item, frame.chain.readers, lambda child: self._opened(child, frame))

    def recompute(self, record: Record, deadline: float) -> Result:
        """Return the result of a recorded step: from the store, else by running it again.

        Raises:
            MessageNotFound: the result is gone and the step cannot be made again.
        """
        try:
            kept = self.cache.read(record.result, exact=True)
        except MessageNotFound:
            kept = None
        if kept is not None:
            item = kept.with_private(hashpath=record.hashpath_after) if isinstance(kept, Message) else kept
            return Result("ok" if record.status == "ok" else record.status, item, record.hashpath_after)
        return self.rerun(record, deadline)

    def rerun(
        self,
        record: Record,
        deadline: float,
        *,
        base: Value | None = None,
        given: Given | None = None,
        strict: bool | None = None,
    ) -> Result:
        """Run a recorded step again: same base, same request, recorded answers where it asked others.

        Caches are off, nothing is recorded and nothing is signed.

        Args:
            base: the base as the step before left it, live parts included; None reads it.
            given: the recorded answers, where the caller wants to see what became of them.
            strict: whether keys that are not deterministic are refused, and the trail is not looked at;
                None: where no answer was recorded.

        Raises:
            MessageNotFound: the base, the request or a recorded answer is gone, another one was asked for, or
                the step's own key is not deterministic.
        """
        given = Given(record.oracles) if given is None else given
        chain = Chain(deadline=deadline, lookup=False, given=given, linked=True, may_sign=False)
        chain.strict = not record.oracles if strict is None else strict
        base = self.cache.read(record.base, exact=True) if base is None else base
        request = self.cache.read(record.request, exact=True)
        if isinstance(base, Message):
            base = base.with_private(hashpath=record.hashpath_before)
        result = self.step(base, request, Frame(self, chain, 0, None))
        if given.left and given.fault is None:
            given.fault = ("oracle", f"{given.left} recorded answers were not asked for", str(given.left), "0")
        return result

    def _inject(self, now: Step) -> Result:
        """Answer a key that is not deterministic with its recorded result."""
        given, name = now.frame.chain.given, now.found.device.spec.name
        assert given is not None
        if now.frame.depth == 0:
            now.frame.chain.met = now.frame.chain.met or UNREPEATABLE
            raise MessageNotFound(f"{name}/{now.found.name} cannot be made again: it is not deterministic")
        answer = given.next(name, now.found.name, lambda: self.cache.reference(now.request, Batch()))
        kept = self.cache.read(answer.result, exact=True)
        if given.raising and isinstance(kept, Message) and (error := recorded_error(answer.status, kept)) is not None:
            raise error
        return Result(answer.status, unwrap(kept))


def _split(request: Value) -> list[Value]:
    """Return one request per part of the request's path (ao-core 7.1)."""
    if isinstance(request, (As, Resolve, Link)):
        return [request]
    if isinstance(request, tuple):
        request = Message.make(list_to_map(request))
    text = request.raw("path") if isinstance(request, Message) else request
    if isinstance(text, tuple):
        parts: list[Value] = list(text)
    elif isinstance(text, bytes) and b"/" in text:
        parts = [part for part in text.split(b"/") if part]
    else:
        return [request]
    if isinstance(request, Message):
        return [request | {"path": part} for part in parts]
    return parts


def _public(item: Value) -> Value:
    """Return a value without private part: it was another caller's."""
    return item.with_private(**dict.fromkeys(item.private)) if isinstance(item, Message) else item


def _live(item: Value) -> bool:
    """Say whether a value holds an object of a device's own, such as a virtual machine, that no store keeps."""
    return type(item) is Message and any(not isinstance(one, _PLAIN) for one in item.private.values())


def _not_cached() -> NotCached:
    return NotCached("Computed result not available in cache.")
