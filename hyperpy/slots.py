"""Schedules and states: one total order of assignments per process, and what was computed from it.

An assignment lies whole in the synced table ``assignments``: its body, everything nested and all
commitments. It and the new end of its schedule (``heads``) are one transaction, and on the disk
before anybody is told. One actor per process adds slots; those that are waited for together are
written together, and writers of different processes share the wait for the disk too. Assignments and
their bodies are put into the cache as well, so that they are found by ID; a power cut may take the last
ones there, and they are put again when the schedule is used next.

States are kept in the cache, by slot. One with a snapshot has a durable row in ``heads``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from hyperpy import commitments
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Head
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, key_text, native
from hyperpy.errors import (
    CodecError,
    Corrupt,
    DeviceError,
    DeviceTimeout,
    HyperpyError,
    MessageNotFound,
    ParameterError,
    StoreError,
)
from hyperpy.message import Message
from hyperpy.store.base import Store
from hyperpy.store.schedule import backwards, read_assignment, slot_bytes, state_row, write_assignment

log = logging.getLogger("hyperpy.store")

_NEWEST: Final = (1 << 64) - 1
_FEW: Final = 4
_PLAIN: Final = frozenset({bytes, int, bool})
_ACTOR: Final = "slots"
_GROUP: Final = 16
"""Slots of one process that share a transaction at most."""


class Slots:
    """The ``slots`` capability. Thread-safe.

    Args:
        store: where everything lies.
        cache: the same store's messages.
        actors: runs one actor per process.
    """

    def __init__(self, store: Store, cache: Cache, actors: ActorSystem) -> None:
        self._store = store
        self._cache = cache
        self._actors = actors
        self._lines: WeakValueDictionary[bytes, _Line] = WeakValueDictionary()
        self._lock = threading.Lock()

    # -- schedules -------------------------------------------------------------------------

    def append(self, process: str, build: Callable[[Head], tuple[Message, Head]], *, deadline: float) -> Message:
        """See :meth:`hyperpy.capabilities.Slots.append`."""
        if self._store.crowded:  # a schedule is kept for good, so it must not take the last room
            raise StoreError(
                "what must be kept fills this node's store: nothing more is scheduled here",
                hint="The operator has to raise [store] quota.",
            )
        name = _raw(process)
        process = b64u(name)

        def make() -> _Schedule:
            return _Schedule(self._store, self._cache, process, name)

        with self._lock:
            line = self._lines.setdefault(name, _Line())
        ask = _Ask(build, deadline)
        line.asks.append(ask)

        def work(schedule: _Schedule) -> Message:
            return schedule.serve(line.asks, ask)

        try:
            return self._actors.call((_ACTOR, process), make, work, deadline=deadline)
        finally:
            ask.over = True

    def head(self, process: str) -> Head:
        """See :meth:`hyperpy.capabilities.Slots.head`."""
        name = _raw(process)
        return read_head(self._store.get("heads", name), b64u(name))

    def read(self, process: str, slot: int) -> Message | None:
        """See :meth:`hyperpy.capabilities.Slots.read`."""
        if not 0 <= slot <= _NEWEST:
            return None
        data = self._store.get("assignments", _raw(process) + slot_bytes(slot))
        return None if data is None else read_assignment(data)[1]

    def range(self, process: str, first: int, last: int) -> Iterator[Message]:
        """See :meth:`hyperpy.capabilities.Slots.range`."""
        name = _raw(process)
        due = max(0, first)
        if last < due:
            return
        after = name + slot_bytes(due - 1) if due else None
        for key, data in self._store.scan("assignments", name, after):
            if due > last or int.from_bytes(key[32:], "big") != due:
                return
            yield read_assignment(data)[1]
            due += 1

    def chain(self, process: str, slot: int) -> bytes | None:
        """Return the 32 chain bytes kept beside an assignment, or None."""
        data = self._store.get("assignments", _raw(process) + slot_bytes(slot)) if slot >= 0 else None
        return None if data is None else read_assignment(data)[0]

    def processes(self, limit: int = 1_000_000) -> Sequence[str]:
        """See :meth:`hyperpy.capabilities.Slots.processes`."""
        found: list[str] = []
        after: bytes | None = None
        while True:
            for key, _ in self._store.scan("heads", b"", after):
                if len(key) > 32:
                    after = key[:32] + b"\xff" * 9  # its snapshots are many
                    break
                found.append(b64u(key))
                if len(found) == limit:
                    return found
            else:
                return found

    # -- states ----------------------------------------------------------------------------

    def state(self, process: str, slot: int) -> Message | None:
        """See :meth:`hyperpy.capabilities.Slots.state`."""
        if not 0 <= slot <= _NEWEST:
            return None
        key = _raw(process) + backwards(slot)
        for table in ("states", "heads"):
            ref = self._store.get(table, key)
            if ref is not None and (found := self._load(ref)) is not None:
                return found
        return None

    def put_state(
        self,
        process: str,
        slot: int,
        state: Message,
        batch: Batch,
        *,
        snapshot: bool,
        made: Message | None = None,
        replaces: int | None = None,
    ) -> None:
        """See :meth:`hyperpy.capabilities.Slots.put_state`."""
        key = _raw(process) + backwards(slot)
        old = [] if replaces is None else [("heads", _raw(process) + backwards(replaces))]
        changed = None if made is None or snapshot else _changed(made, state)
        if changed is None or made is None:
            name = self._cache.reference(state, batch)
        else:
            name = commitments.content_id(made)
        more = "" if changed is None else b64u(canonical.encode(changed))
        ref = state_row(name, state.hashpath or "", state.private.get("schedule", ""), more)
        batch.put("states", key, ref)
        if snapshot:  # only once what it names is on the disk: whatever stops the node, no head points to nothing
            batch.durable = True
            batch.after(lambda: self._store.write([("heads", key, ref)], old))

    def latest(self, process: str, limit: int | None = None, *, snapshot: bool = False) -> tuple[int, Message] | None:
        """See :meth:`hyperpy.capabilities.Slots.latest`."""
        name = _raw(process)
        newest = _NEWEST if limit is None else min(limit, _NEWEST)
        if newest < 0:
            return None
        found = [self._latest(table, name, newest) for table in (("heads",) if snapshot else ("states", "heads"))]
        return max((one for one in found if one is not None), key=lambda one: one[0], default=None)

    def _latest(self, table: str, name: bytes, newest: int) -> tuple[int, Message] | None:
        """Return the newest readable state of one table."""
        after = name + backwards(newest + 1) if newest < _NEWEST else name
        for key, ref in self._store.scan(table, name, after):
            if len(key) == 40 and (state := self._load(ref)) is not None:
                return _NEWEST - int.from_bytes(key[32:], "big"), state
        return None

    def _load(self, ref: bytes) -> Message | None:
        """Return a state; None if it was removed, a power cut took it, or it is damaged: it can be computed again."""
        name, path, mark, changed = (*key_text(ref).split("\n"), "", "", "")[:4]
        try:
            found = self._cache.read(name, exact=True)
            more = canonical.decode(b64u_decode(changed)) if changed else None
        except MessageNotFound:
            return None
        except (Corrupt, CodecError) as error:
            log.warning("a kept state is damaged, and passed over: %s", error.message)
            return None
        if not isinstance(found, Message):
            return None
        if isinstance(more, Message):
            found = found.replace(more)
        return found.with_private(hashpath=path or None, schedule=mark or None)


class _Ask:
    """One assignment that somebody waits for: how to build it, and what became of it."""

    __slots__ = ("build", "deadline", "error", "made", "over")

    def __init__(self, build: Callable[[Head], tuple[Message, Head]], deadline: float) -> None:
        self.build = build
        self.deadline = deadline
        self.made: Message | None = None
        self.error: Exception | None = None
        self.over = False

    @property
    def done(self) -> bool:
        return self.made is not None or self.error is not None

    def outcome(self) -> Message:
        """Return the assignment, or raise why there is none."""
        if self.error is not None:
            raise self.error
        assert self.made is not None
        return self.made


class _Line:
    """The asks of one process, in the order they came."""

    __slots__ = ("__weakref__", "asks")

    def __init__(self) -> None:
        self.asks: deque[_Ask] = deque()


class _Schedule:
    """What the actor of one process owns: where its schedule ends."""

    def __init__(self, store: Store, cache: Cache, process: str, name: bytes) -> None:
        self._store = store
        self._cache = cache
        self._process = process
        self._name = name
        self._turn = _turn(store, name)
        self._reload()
        self._behind = True
        """Whether the cache may lack assignments."""

    def _reload(self) -> None:
        self._mark = self._store.get("heads", self._name)
        self._head = read_head(self._mark, self._process)

    def _restore(self) -> None:
        """Put into the cache what it lost of the newest assignments: they got there one after another."""
        lost: list[Message] = []
        for slot in range(self._head.slot, -1, -1):
            data = self._store.get("assignments", self._name + slot_bytes(slot))
            if data is None:
                raise Corrupt(f"slot {slot} of the process {self._process} is gone")
            assignment = read_assignment(data)[1]
            if self._cache.has(commitments.signed_id(assignment)):
                break
            lost.append(assignment)
        for assignment in reversed(lost):
            batch = Batch()
            self._cache.put(assignment, batch)
            batch.commit(self._store)
        self._behind = False

    def serve(self, asks: deque[_Ask], mine: _Ask) -> Message:
        """Write what is asked for, with what others ask for meanwhile; return the assignment of ``mine``."""
        if self._behind:
            self._restore()
        while not mine.done:
            group = _taken(asks)
            try:
                self._write(group or [mine])
            except BaseException:  # interrupted: the others' turn comes again
                asks.extendleft(one for one in reversed(group) if one is not mine and not one.done)
                raise
        return mine.outcome()

    def _write(self, group: Sequence[_Ask]) -> None:
        """Build, sign and write the next slots, in one transaction."""
        try:
            if self._once(group):
                return
            with self._turn:  # another node over this store was faster
                self._reload()
                if self._once(group):
                    return
            raise StoreError("another program writes to this schedule", hint="Run one node per store.")
        except HyperpyError as error:
            left = [ask for ask in group if not ask.done]
            if len(left) == 1:
                left[0].error = error
                return
        for ask in left:  # one that cannot be stored fails nobody else's
            self._write([ask])

    def _once(self, group: Sequence[_Ask]) -> bool:
        """Add slots after the head as this actor knows it; say whether that is where the schedule ends."""
        batch = Batch()
        head, built = self._head, []
        for ask in group:
            try:
                assignment, after = ask.build(head)
                _refuse_unfit(head, assignment, after)
                data = write_assignment(assignment, after.chain)
                self._cache.put(assignment, batch)
            except Exception as error:
                ask.error = error
                continue
            batch.put("assignments", self._name + slot_bytes(after.slot), data)
            built.append((ask, assignment))
            head = after
        if not built:
            return True
        mark = canonical.encode(tuple(head))
        batch.put("heads", self._name, mark)
        with self._turn:
            if self._store.get("heads", self._name) != self._mark:
                return False
            self._commit(batch, mark)
        self._mark, self._head = mark, head
        for ask, assignment in built:
            ask.made = assignment
        return True

    def _commit(self, batch: Batch, mark: bytes) -> None:
        try:
            batch.commit(self._store)
        except StoreError:
            if self._store.get("heads", self._name) != mark:
                raise
            self._behind = True  # the slot is on the disk; only the cache could not take it


def _taken(asks: deque[_Ask]) -> list[_Ask]:
    """Take the next asks that somebody still waits for; those that came too late are told so."""
    found: list[_Ask] = []
    while asks and len(found) < _GROUP:
        try:
            ask = asks.popleft()
        except IndexError:
            break
        if ask.over or ask.done:
            continue
        if time.monotonic() >= ask.deadline:
            ask.error = DeviceTimeout("the deadline passed before the slot's turn came")
        else:
            found.append(ask)
    return found


_turns: WeakKeyDictionary[Any, WeakValueDictionary[bytes, Any]] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def _turn(store: Store, name: bytes) -> Any:
    """Return the lock of one schedule: whatever nodes share a store object look and write by turns."""
    with _turns_lock:
        return _turns.setdefault(store, WeakValueDictionary()).setdefault(name, threading.RLock())


# -- bytes -----------------------------------------------------------------------------------


def read_head(data: bytes | None, process: str) -> Head:
    """Return the head that the table ``heads`` keeps for a process; raise Corrupt if it is damaged."""
    if data is None:
        return Head(-1, b"", process, 0)
    try:
        slot, chain, path, timestamp = canonical.decode(data)
        return Head(slot, chain, key_text(path), timestamp)
    except (CodecError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"the end of the schedule of {process} was damaged: {error}") from None


def _refuse_unfit(head: Head, assignment: Message, after: Head) -> None:
    """Raise DeviceError unless an assignment and the head after it are those of the next slot."""
    slot = assignment.get("slot")
    if slot != after.slot or type(slot) is not int or slot != head.slot + 1 or len(after.chain) != 32:
        raise DeviceError(f"the assignment is not that of slot {head.slot + 1}")


def _changed(made: Message, state: Message) -> Message | None:
    """Return the few plain keys in which a state differs from another message; None if that is not all."""
    before, after = made.raw_items(), state.raw_items()
    if made.commitments or state.commitments or not before.keys() <= after.keys():
        return None
    found = {key: item for key, item in after.items() if before.get(key) is not item}
    if len(found) > _FEW or not _PLAIN.issuperset(map(type, found.values())):
        return None
    return Message.make(found)


def _raw(process: str) -> bytes:
    """Return a process ID as 32 bytes; raise ParameterError if it is none."""
    try:
        found = native(process)
    except CodecError:
        found = b""
    if len(found) != 32:
        raise ParameterError(f"{process[:60]!a} is no process ID", name="process")
    return found
