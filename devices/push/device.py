"""The key of push@1.0."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.capabilities import Jobs, Keys, NodeControl, Slots, Storage, Timers
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import DeviceError, HyperpyError, MessageNotFound, ParameterError
from hyperpy.message import Value, as_text

from .marks import Desk, Marks, mark_of
from .outgoing import augmented, entries, evaluated, lowered, signed, target_of
from .posted import Posted, placed
from .shown import carried, entry_of, name_of

_PROCESS: Final = {"device": b"process@1.0"}
_TOO_FAR: Final = "the push goes too far: this message was not delivered"
_LOCKS: Final = 64
_LEVELS: Final = 24
"""Deliveries inside one another that an answer shows: a reply may not be nested more than 64 deep."""


@dataclass(slots=True)
class _Run:
    """One push while it goes on: what it may still do."""

    ctx: Context
    depth: int
    fan_out: int
    messages: int
    most: int
    always: bool
    marks: Marks
    level: int = 0


@dataclass(frozen=True, slots=True)
class _Letter:
    """One entry of an outbox on its way, and what became of it before."""

    sender: str
    slot: int
    index: str
    definition: Message
    before: Posted | None

    @property
    def mark(self) -> str:
        return mark_of(self.sender, self.slot, self.index)


@device("push@1.0", needs=("node", "keys", "store", "slots", "jobs", "timers"), excludes=("set", "keys"))
class Push:
    """Computes a slot, schedules every message of its outbox on the target, and pushes those in turn.

    An entry is delivered once, wherever the node stopped in between: pushing a slot again answers with what
    was delivered then, and delivers only what failed. One message leads to at most ``push-messages`` others,
    however often it, or what came of it, is pushed.
    """

    def start(self, node: NodeControl, keys: Keys, store: Storage, slots: Slots, jobs: Jobs, timers: Timers) -> None:
        """Take settings, the node's key, messages, schedules, and what runs beside a request."""
        self._node, self._keys, self._store, self._slots = node, keys, store, slots
        self._jobs, self._timers = jobs, timers
        self._desk = Desk(store)
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    @key(deterministic=False)
    def push(self, base: Message, request: Message, ctx: Context) -> Result:
        """Push ``slot``, or schedule the request and push its slot; ``async`` answers at once.

        The ``slot`` of a request with a ``target`` is a key of the message to schedule, as that of a process is.
        ``result-depth`` (1) says how deep results are shown, ``max-depth`` how far messages are followed. Behind
        24 deliveries inside one another the answer only says how many entries are ``not-shown``; ``left-out`` says
        how many keys of the results HTTP cannot carry.
        """
        process = base | _PROCESS
        ident = None
        later = _is_async(base, request)
        group = self._admitted(process, request) if later else ""
        if _names_slot(request):
            slot = _whole(request, "slot", 0)
        else:
            made = _scheduled(process, request, ctx)
            body = made.value.get("body") if isinstance(made.value, Message) else None
            if made.status != "ok" or not isinstance(body, Message) or _is_process(body):
                return made
            assert isinstance(made.value, Message)
            slot = _whole(made.value, "slot", 0)
            ident = commitments.signed_id(body)
        if later:
            return self._detached(process, slot, group)
        run = self._run(process, slot, request, ctx)
        try:
            answer = self._slot(process, slot, _whole(request, "result-depth", 1), run)
        finally:
            run.marks.save()
        if answer.status == "ok" and ident is not None and isinstance(answer.value, Message):
            return Result("ok", answer.value.with_private(**{"pushed-id": ident}))
        return answer

    def _run(self, process: Message, slot: int, request: Message, ctx: Context) -> _Run:
        depth, fan_out, messages = (
            int(as_text(self._node.setting(f"push-{name}", 1))) for name in ("depth", "fan-out", "messages")
        )
        always = self._node.setting("push-always-sign", True) in (True, b"true")
        marks = self._desk.marks(commitments.signed_id(self._proven(process)), slot)
        return _Run(ctx, min(depth, _whole(request, "max-depth", depth)), fan_out, messages, messages, always, marks)

    def _admitted(self, process: Message, request: Message) -> str:
        """Return whom a task counts for, before anything is scheduled; raise TooManyRequests if they have enough.

        A slot that waits to be pushed already is no new task.
        """
        if self._node.is_operator(request):
            return ""
        if _names_slot(request) and self._timers.owner(_task(process, _whole(request, "slot", 0))) is not None:
            return ""
        own, most = (int(as_text(self._node.setting(f"cron-{name}", 16))) for name in ("per-caller", "tasks"))
        return self._timers.admit(str(request.private.get("peer", "")), own=own, most=most)

    def _detached(self, process: Message, slot: int, group: str) -> Result:
        name = commitments.signed_id(self._proven(process))
        path, task = f"/{name}~process@1.0/push&slot={slot}", _task(process, slot)
        self._timers.once(path, task=task, owner=self._keys.address, group=group)
        return Result("ok", Message({"status": 202, "slot": slot, "process": name}))

    def _proven(self, process: Message) -> Message:
        """Return a process's own definition: the one that was signed, whatever the caller says it is."""
        given = _definition(process)
        return commitments.proven(commitments.signed_id(given), given, self._store.read)

    # -- one slot --------------------------------------------------------------------------

    def _slot(self, process: Message, slot: int, shown: int, run: _Run) -> Result:
        """Compute a slot and deliver its outbox; the answer is the tree of what came of it."""
        definition = self._proven(process)
        computed = run.ctx.step(process, Message({"path": "compute", "slot": slot}))
        if computed.status != "ok" or not isinstance(computed.value, Message):
            return Result("error", computed.value)
        results = computed.value.get("results")
        sender = commitments.signed_id(definition)
        made: dict[str, Value] = {}
        if isinstance(results, Message):
            listed = entries(results.get("outbox"))
            own = {index for index, _ in listed}
            for number, (index, item) in enumerate(listed):
                name = name_of(index, number, own)
                if number >= run.fan_out:
                    made[name] = _failed(None, f"only the first {run.fan_out} messages of a slot are delivered")
                    break
                before = run.marks.known(mark_of(sender, slot, index))
                child = self._entry(_Letter(sender, slot, index, definition, before), item, shown, run)
                made[name] = entry_of(child, index, name)
            if run.level >= _LEVELS:
                made = {"not-shown": len(made)} if made else {}
            if shown > 0:
                fitting, left = carried(results)
                made.update(fitting.raw_items())
                if left:
                    made["left-out"] = left
        return Result("ok", Message({**made, "slot": slot, "process": sender}))

    def _entry(self, letter: _Letter, item: Value, shown: int, run: _Run) -> Message:
        """Deliver one entry of the outbox; return what came of it."""
        try:
            entry = lowered(item)
            if not isinstance(entry, Message) or target_of(entry) is None:
                return _without_target(letter.index, entry)
            before = letter.before
            if run.depth <= 0 or (before is None and (run.messages <= 0 or run.marks.purse.spent >= run.most)):
                return _failed(target_of(entry), _TOO_FAR, 508)
            if before is not None and before.target and (before.slot is not None or self._kept(before) is not None):
                return self._delivered(letter, entry, before.target, shown, run)
            entry = evaluated(entry, letter.index, letter.sender, self._jobs)
            name = target_of(entry)
            if name is None:
                return _without_target(letter.index, entry)
            return self._delivered(letter, entry, name, shown, run)
        except HyperpyError as error:
            return _failed(None, error.message, error.status)

    def _delivered(self, letter: _Letter, entry: Message, name: str, shown: int, run: _Run) -> Message:
        try:
            target = self._store.read(name)
        except MessageNotFound:
            target = b""
        if not isinstance(target, Message):
            return _failed(name, "Could not access target process!", 404)
        target = _as_process(target)
        lock = self._locks[hash(letter.mark) % _LOCKS]
        if not lock.acquire(timeout=max(0.0, run.ctx.deadline - time.monotonic())):
            return _failed(name, "another push is delivering this message", 503)
        try:
            posted = self._posted(letter, entry, target, name, run)
        except HyperpyError as error:
            return _failed(name, error.message, error.status)
        finally:
            lock.release()
        if posted is None:
            return _failed(name, _TOO_FAR, 508)
        ident, slot = posted
        run.depth, run.level = run.depth - 1, run.level + 1
        try:
            answer = self._next(target, slot, shown - 1, run)
        except HyperpyError as error:
            return _failed(name, error.message, error.status) | {"id": ident, "slot": slot}
        finally:
            run.depth, run.level = run.depth + 1, run.level - 1
        return Message({"id": ident, "target": name, "slot": slot, "resulted-in": answer.value})

    def _next(self, target: Message, slot: int, shown: int, run: _Run) -> Result:
        """Push the slot that a message got on its target."""
        if target.get("push-device", b"push@1.0") == b"push@1.0":
            return self._slot(target, slot, shown, run)
        run.marks.save()
        return run.ctx.step(target, Message({"path": "push", "slot": slot, "result-depth": shown}))

    def _posted(self, letter: _Letter, entry: Message, target: Message, name: str, run: _Run) -> tuple[str, int] | None:
        """Deliver a message, or see that it was delivered before; return its ID and slot, None if it is one too many.

        The signed message is kept before it is sent, so that a node that stops in between can look for it.
        """
        before = run.marks.known(letter.mark)
        if before is not None and before.slot is not None:
            return before.ident, before.slot
        slot = placed(before, target, self._slots, run.ctx) if before is not None else None
        if before is not None and slot is not None:
            made = Posted(before.ident, slot, target=name)
        else:
            run.messages -= 1
            if run.messages < 0 or not run.marks.purse.take(run.most):
                return None
            try:
                made = self._sent(before, letter, entry, target, name, run)
            except HyperpyError:
                run.marks.purse.give_back()
                raise
        assert made.slot is not None
        run.marks.delivered(letter.mark, made, commitments.signed_id(_definition(target)))
        return made.ident, made.slot

    def _sent(
        self, before: Posted | None, letter: _Letter, entry: Message, target: Message, name: str, run: _Run
    ) -> Posted:
        """Sign and schedule one message; ``before`` is one that was signed and came to nothing."""
        kept = self._kept(before) if before is not None else None
        plain = Message.make(dict(kept.raw_items())) if kept else augmented(entry, letter.definition, letter.sender)
        reason: Value = b""
        for codec in ("httpsig@1.0", "ans104@1.0"):
            if before is not None and before.codec == "ans104@1.0" != codec:
                continue
            message = kept if before is not None and before.codec == codec else None
            if message is None:
                message = signed(plain, target, self._keys, always=run.always, codec=codec)
                self._store.write(message)
                head = self._slots.head(commitments.signed_id(_definition(target))).slot
                run.marks.sending(letter.mark, Posted(commitments.signed_id(message), None, codec, head, name))
            request = Message({"path": "schedule", "method": "POST", "body": message}).with_private(pushed=True)
            made = run.ctx.step(target, request)
            answer = made.value
            if made.status == "ok" and isinstance(answer, Message) and isinstance(answer.get("slot"), int):
                return Posted(commitments.signed_id(message), _whole(answer, "slot", 0), target=name)
            reason = answer
            if not isinstance(answer, Message) or answer.get("status") != 422:
                break
        raise DeviceError(f"the target's scheduler did not take the message{_why(reason)}")

    def _kept(self, before: Posted) -> Message | None:
        """Return the message as it was signed before, if the store still holds it."""
        try:
            kept = self._store.read(before.ident)
        except MessageNotFound:
            return None
        return kept if isinstance(kept, Message) and commitments.signed_id(kept) == before.ident else None


def _scheduled(process: Message, request: Message, ctx: Context) -> Result:
    """Schedule the request itself on the process, signatures and all."""
    items = {**request.raw_items(), "path": b"schedule", "method": b"POST"}
    return ctx.step(process, Message.make(items, request.commitments, request.private))


def _as_process(target: Message) -> Message:
    """Return a stored definition as process@1.0, whatever its own device."""
    return target.with_commitments({}) | {**_PROCESS, "process": _definition(target)}


def _definition(process: Message) -> Message:
    found = process.get("process")
    if isinstance(found, Message):
        return found
    plain = commitments.only_committed(process) if process.commitments else process
    return Message.make(dict(plain.raw_items()), plain.commitments)


def _task(process: Message, slot: int) -> str:
    """Return the ID of the task that pushes a slot: one for all who ask for it while it waits."""
    return b64u(sha256(f"push {commitments.signed_id(_definition(process))} {slot}".encode()))


def _is_process(body: Message) -> bool:
    inner = body.get("body")
    for one in (body, inner):
        found = one.get("type") if isinstance(one, Message) else None
        if isinstance(found, bytes) and found.lower() == b"process":
            return True
    return False


def _names_slot(request: Message) -> bool:
    """Say whether a request asks for a slot to be pushed, and is no message with a key of that name."""
    return "slot" in request and "target" not in request and not _is_process(request)


def _is_async(base: Message, request: Message) -> bool:
    given = request.get("async")
    if given is not None:
        return given is True or given == b"true"
    definition = base.get("process")
    mode = request.get("push-mode", base.get("push-mode"))
    if mode is None and isinstance(definition, Message):
        mode = definition.get("push-mode")
    return mode == b"async"


def _whole(message: Message, name: str, default: int) -> int:
    found = message.get(name, default)
    if isinstance(found, bytes) and found.isdigit() and len(found) < 19:
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ParameterError(f"'{name}' must be a whole number, 0 or more", name=name)
    return found


def _without_target(index: str, entry: Value) -> Message:
    if isinstance(entry, Message):
        entry, _ = carried(entry)
    made = {"response": "error", "status": 404, "outbox-index": index, "message": entry}
    return Message({**made, "reason": "Target process not available."})


def _failed(target: str | None, reason: str, status: int = 400) -> Message:
    made = {"response": "error", "status": status, "reason": reason}
    return Message(made if target is None else {**made, "target": target})


def _why(found: Value) -> str:
    if isinstance(found, Message):
        found = found.get("reason", found.get("body", b""))
    return f": {as_text(found)[:300]}" if isinstance(found, bytes) and found else ""
