"""Schedules and states: one total order of assignments per process, and what was computed from it.

An assignment lies whole in the synced table ``assignments``: its body, everything nested and all
commitments. It and the new end of its schedule (``heads``) are one transaction, and on the disk
before anybody is told. One actor per process adds slots; writers of different processes share the
wait for the disk. Assignments and their bodies are put into the cache too, so that they are found
by ID; a power cut may take the last ones there, and they are put again when the schedule is used
next.

States are kept in the cache, by slot. One with a snapshot has a durable row in ``heads``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from hyperpy import commitments
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Head
from hyperpy.codecs import canonical, whole
from hyperpy.encoding import b64u, key_bytes, key_text, native
from hyperpy.errors import CodecError, Corrupt, DeviceError, MessageNotFound, ParameterError, SizeError, StoreError
from hyperpy.message import Message
from hyperpy.store.base import Store

_NEWEST: Final = (1 << 64) - 1
_ACTOR: Final = "slots"


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

    # -- schedules -------------------------------------------------------------------------

    def append(self, process: str, build: Callable[[Head], tuple[Message, Head]], *, deadline: float) -> Message:
        """See :meth:`hyperpy.capabilities.Slots.append`."""
        name = _raw(process)
        process = b64u(name)

        def make() -> _Schedule:
            return _Schedule(self._store, self._cache, process, name)

        def work(schedule: _Schedule) -> Message:
            return schedule.append(build)

        return self._actors.call((_ACTOR, process), make, work, deadline=deadline)

    def head(self, process: str) -> Head:
        """See :meth:`hyperpy.capabilities.Slots.head`."""
        name = _raw(process)
        return read_head(self._store.get("heads", name), b64u(name))

    def read(self, process: str, slot: int) -> Message | None:
        """See :meth:`hyperpy.capabilities.Slots.read`."""
        if not 0 <= slot <= _NEWEST:
            return None
        data = self._store.get("assignments", _raw(process) + _slot(slot))
        return None if data is None else read_assignment(data)[1]

    def range(self, process: str, first: int, last: int) -> Iterator[Message]:
        """See :meth:`hyperpy.capabilities.Slots.range`."""
        name = _raw(process)
        due = max(0, first)
        if last < due:
            return
        after = name + _slot(due - 1) if due else None
        for key, data in self._store.scan("assignments", name, after):
            if due > last or int.from_bytes(key[32:], "big") != due:
                return
            yield read_assignment(data)[1]
            due += 1

    def chain(self, process: str, slot: int) -> bytes | None:
        """Return the 32 chain bytes kept beside an assignment, or None."""
        data = self._store.get("assignments", _raw(process) + _slot(slot)) if slot >= 0 else None
        return None if data is None else read_assignment(data)[0]

    def processes(self) -> Sequence[str]:
        """See :meth:`hyperpy.capabilities.Slots.processes`."""
        found: list[str] = []
        after: bytes | None = None
        while True:
            for key, _ in self._store.scan("heads", b"", after):
                if len(key) > 32:
                    after = key[:32] + b"\xff" * 9  # its snapshots are many
                    break
                found.append(b64u(key))
            else:
                return found

    # -- states ----------------------------------------------------------------------------

    def state(self, process: str, slot: int) -> Message | None:
        """See :meth:`hyperpy.capabilities.Slots.state`."""
        if not 0 <= slot <= _NEWEST:
            return None
        key = _raw(process) + _backwards(slot)
        for table in ("states", "heads"):
            ref = self._store.get(table, key)
            if ref is not None and (found := self._load(ref)) is not None:
                return found
        return None

    def put_state(self, process: str, slot: int, state: Message, batch: Batch, *, snapshot: bool) -> None:
        """See :meth:`hyperpy.capabilities.Slots.put_state`."""
        key = _raw(process) + _backwards(slot)
        place = (self._cache.reference(state, batch), state.hashpath or "", state.private.get("schedule", ""))
        ref = key_bytes("\n".join(place).rstrip())
        batch.put("states", key, ref)
        if snapshot:
            batch.put("heads", key, ref)
            batch.durable = True

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
        after = name + _backwards(newest + 1) if newest < _NEWEST else name
        for key, ref in self._store.scan(table, name, after):
            if len(key) == 40 and (state := self._load(ref)) is not None:
                return _NEWEST - int.from_bytes(key[32:], "big"), state
        return None

    def _load(self, ref: bytes) -> Message | None:
        """Return a state; None if it was removed, or a power cut took it."""
        name, path, mark = (*key_text(ref).split("\n"), "", "")[:3]
        try:
            found = self._cache.read(name, exact=True)
        except MessageNotFound:
            return None
        return found.with_private(hashpath=path or None, schedule=mark or None) if isinstance(found, Message) else None


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
            data = self._store.get("assignments", self._name + _slot(slot))
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

    def append(self, build: Callable[[Head], tuple[Message, Head]]) -> Message:
        """Build, sign and write the next slot."""
        if self._behind:
            self._restore()
        made = self._once(build)
        if made is None:  # another node over this store was faster
            with self._turn:
                self._reload()
                made = self._once(build)
        if made is None:
            raise StoreError("another program writes to this schedule", hint="Run one node per store.")
        return made

    def _once(self, build: Callable[[Head], tuple[Message, Head]]) -> Message | None:
        """Add a slot after the head as this actor knows it; None if that is not where the schedule ends."""
        assignment, after = build(self._head)
        _refuse_unfit(self._head, assignment, after)
        mark = canonical.encode(tuple(after))
        batch = Batch()
        batch.put("assignments", self._name + _slot(after.slot), write_assignment(assignment, after.chain))
        batch.put("heads", self._name, mark)
        self._cache.put(assignment, batch)
        with self._turn:
            if self._store.get("heads", self._name) != self._mark:
                return None
            self._commit(batch, mark)
        self._mark, self._head = mark, after
        return assignment

    def _commit(self, batch: Batch, mark: bytes) -> None:
        try:
            batch.commit(self._store)
        except StoreError:
            if self._store.get("heads", self._name) != mark:
                raise
            self._behind = True  # the slot is on the disk; only the cache could not take it


_turns: WeakKeyDictionary[Any, WeakValueDictionary[bytes, Any]] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def _turn(store: Store, name: bytes) -> Any:
    """Return the lock of one schedule: whatever nodes share a store object look and write by turns."""
    with _turns_lock:
        return _turns.setdefault(store, WeakValueDictionary()).setdefault(name, threading.RLock())


# -- bytes -----------------------------------------------------------------------------------


def write_assignment(assignment: Message, chain: bytes) -> bytes:
    """Return the entry of the table ``assignments``: the 32 chain bytes, the whole message, and two of its IDs."""
    names = (commitments.signed_id(assignment).encode(), commitments.hashpath_id(assignment).encode())
    return canonical.encode((chain, whole.plain(assignment), names))


def read_assignment(data: bytes) -> tuple[bytes, Message]:
    """Return the chain bytes and the assignment of an entry; raise Corrupt if it is damaged."""
    try:
        chain, rest, (name, path) = canonical.decode_own(data)
        found = whole.restored(rest)
    except (CodecError, SizeError, TypeError, ValueError) as error:
        raise Corrupt(f"a stored assignment was damaged: {error}") from None
    if type(found) is not Message or type(chain) is not bytes:
        raise Corrupt("a stored assignment was damaged")
    found.memo.update({"id all": key_text(name), "hashpath-id": key_text(path), "reference": key_text(name)})
    return chain, found


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


def _raw(process: str) -> bytes:
    """Return a process ID as 32 bytes; raise ParameterError if it is none."""
    try:
        found = native(process)
    except CodecError:
        found = b""
    if len(found) != 32:
        raise ParameterError(f"{process[:60]!a} is no process ID", name="process")
    return found


def _slot(slot: int) -> bytes:
    return slot.to_bytes(8, "big")


def _backwards(slot: int) -> bytes:
    """Return a slot as the end of a key of states: the newest comes first."""
    return (_NEWEST - slot).to_bytes(8, "big")
