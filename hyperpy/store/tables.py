"""The tables that are not synced with every write: ``journal/`` and ``cache/`` of a store's folder.

Why a journal: IDs are random, so each new entry of a large B-tree dirties pages of its own,
and the cost of a write would grow with the store (measured: 25 us with 10^3 messages, 66 us with
10^5). A batch is therefore appended to the journal, which is on the disk at most :data:`DELAY` seconds
later; a thread moves thousands of batches at a time into ``cache/``. There the values of a batch lie
together under its number (the table ``age``), in the order of arrival, and only short rows that point
to them are spread by ID: so many at a time that a page gets several. What is in the journal is held
in memory too, where it is read. When the store is opened, what the journal holds is moved in.

Keys here carry their table's prefix.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgpack  # type: ignore[import-untyped]

from hyperpy.errors import Corrupt, StoreError
from hyperpy.store.base import TABLES
from hyperpy.store.environment import Environment
from hyperpy.store.group import Group
from hyperpy.store.haste import may_wait
from hyperpy.store.journal import Journal
from hyperpy.store.overlay import Change, Overlay
from hyperpy.store.pour import ELSEWHERE, HERE, pour

DELAY = 0.1
"""Seconds until a batch is on the disk, while the disk keeps up."""

REST = 5.0
"""Seconds a batch stays in the journal at most, while the disk keeps up."""

_BATCHES = 8000
_BYTES = 8 << 20
_HARD = 4
_CHUNK = 256
_AGE = TABLES["age"].prefix


class Tables:
    """Reads and writes the tables of the two environments.

    Args:
        journal: where batches go first.
        cache: the open environment of the tables.
        readonly: another process writes; look at its journal before each read.
        declared: called whenever entries were declared absent, in the moment in which nobody writes.
    """

    def __init__(self, journal: Journal, cache: Environment, *, readonly: bool, declared: Callable[[], None]) -> None:
        self._declared = declared
        self._journal = journal
        self._cache = cache
        self._readonly = readonly
        self._young, self._frozen = Overlay(), Overlay()
        self._frozen_to = 0
        self._seen: dict[int, int] | None = None
        self._places: dict[int, tuple[int, int]] = {}
        self._closed = False
        self.stale_s = 0.0
        """Read-only: seconds for which what another process writes may go unnoticed."""
        self._due = 0.0
        self.condemned: set[bytes] = set()
        """Keys that are being removed: absent already."""
        self._group: Group[Sequence[Change]] = Group(self._append)
        self.sequence = 0
        """The number of the last batch."""
        self._state = threading.Condition()
        self._used = cache.used()
        self._packer = msgpack.Packer(use_bin_type=True)
        self._wanted = 0  # batches up to this number are to be moved at once
        self._moved = 0
        self._failure: StoreError | None = None
        self._wake = threading.Event()
        self._mover = threading.Thread(target=self._run, name="hyperpy-store", daemon=True)
        if readonly:
            self._refresh()
            return
        found = cache.last_key(_AGE + b"\xff" * 9)
        self.sequence = int.from_bytes(found[1:], "big") if found is not None and found[:1] == _AGE else 0
        self._load_journal()
        self.sequence = max(self.sequence, self._frozen_to)
        self._journal.roll(self.sequence + 1)
        self._move()
        self._journal.drop(self.sequence + 2)  # all that is left: at most a batch that was cut off
        self._mover.start()

    @property
    def used(self) -> int:
        """Bytes of the pages of the cache environment in use as of the last move, and of what waits to be moved."""
        return self._used + self._young.size + self._frozen.size

    def close(self) -> None:
        """Move the journal in."""
        self._closed = True
        if self._readonly:
            return
        self._wake.set()
        self._mover.join()
        try:
            self._move()  # what has been frozen, and then what came after it
            self._move()
        except StoreError:
            pass  # still in the journal, and moved in at the next start
        finally:
            self._journal.close()

    # -- reading -----------------------------------------------------------------------------

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        if self._readonly:
            self._refresh()
        elif name in self.condemned:
            return None
        # Young before frozen before cache: an entry moves in that direction, so none is missed.
        changes = self._young.changes
        if name in changes:
            return changes[name]
        changes = self._frozen.changes
        if name in changes:
            return changes[name]
        return self._settled(name)

    def _settled(self, name: bytes) -> bytes | None:
        """Return the value of a key from the cache environment, or None."""
        for _ in range(3):
            row = self._cache.get(name)
            if row is None or row[:1] == HERE:
                return None if row is None else row[1:]
            packed = self._cache.get(_AGE + row[1:])
            if packed is not None:
                try:
                    value = msgpack.unpackb(packed, raw=True)[0].get(name)
                except (ValueError, TypeError, AttributeError, IndexError):
                    break
                if value is not None:
                    return bytes(value)
        raise Corrupt("a row of the store points to nothing")  # even when read again: not just moved meanwhile

    def _full(self, name: bytes, row: bytes) -> bytes | None:
        return row[1:] if row[:1] == HERE else self._settled(name)

    def rows(self, prefix: bytes, after: bytes | None) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return the next pairs by key, and the key to go on after (None: that was all)."""
        if self._readonly:
            self._refresh()
        fresh = self._young.within(prefix, after)
        fresh = {**self._frozen.within(prefix, after), **fresh}
        rows = self._cache.chunk(prefix, after, _CHUNK)
        more = rows[-1][0] if len(rows) == _CHUNK else None
        if prefix[:1] != _AGE:
            rows = [(key, value) for key, row in rows if (value := self._full(key, row)) is not None]
        if fresh:
            merged: dict[bytes, bytes | None] = {**dict(rows), **fresh}
            names = sorted(name for name in merged if more is None or name <= more)
            rows = [(name, value) for name in names if (value := merged[name]) is not None]
        if self.condemned:
            rows = [row for row in rows if row[0] not in self.condemned]
        return rows, more

    # -- writing -----------------------------------------------------------------------------

    def write(self, batch: Sequence[Change]) -> None:
        """Commit a batch to the journal.

        Raises:
            StoreError: the disk is full, or the journal is far behind and cannot be moved in.
        """
        young = self._young
        if young.size >= _HARD * _BYTES or len(young.batches) >= _HARD * _BATCHES:
            may_wait()
            if self._failure is None:
                self.flush(wait_s=30.0)
            if self._failure is not None:
                raise StoreError(self._failure.message)
        self._group.submit(batch)

    @property
    def prompt(self) -> bool:
        """Whether a small batch would be committed at once: nobody else writes, and the tables keep up."""
        return self._journal.prompt and not self._group.lock.locked() and not self._many(self._young)

    def _append(self, batches: Sequence[Sequence[Change]]) -> None:
        """Append batches to the journal in one transaction, and make them visible."""
        if self._closed:
            raise StoreError("the store is closed", hint="Start the node again.")
        rows = [self._packer.pack(batch) for batch in batches]
        try:
            self._journal.append(rows)
        except StoreError:
            self._wanted = self.sequence  # perhaps there is room again once the journal is moved in
            self._wake.set()
            raise
        self.sequence += len(rows)
        young = self._young
        first = not young.batches
        for batch, packed in zip(batches, rows, strict=True):
            young.add(batch, len(packed))
            if self.condemned:
                self.condemned.difference_update([key for key, _ in batch])
        if first or self._many(young):
            self._wake.set()

    @staticmethod
    def _many(young: Overlay) -> bool:
        return len(young.batches) > _BATCHES or young.size > _BYTES

    def sync(self) -> None:
        """Return when everything committed before is on the disk, in the journal or in the tables.

        Raises:
            StoreError: the disk failed.
        """
        self._journal.sync()

    # -- from the journal into the tables ------------------------------------------------------

    def flush(self, *, wait_s: float | None = None) -> None:
        """Return when everything committed before is in the tables and on the disk.

        Raises:
            StoreError: it cannot be moved now, or ``wait_s`` seconds passed.
        """
        with self._state:
            target = self.sequence
            self._wanted = max(self._wanted, target)
            self._failure = None
            self._wake.set()
            if not self._state.wait_for(lambda: self._moved >= target or self._failure is not None, wait_s):
                raise StoreError("the disk does not keep up")
            if self._moved < target and self._failure is not None:
                raise StoreError(self._failure.message)

    def _run(self) -> None:
        """Bring what is in the journal to the disk, and move it in when it is much or has lain for a while."""
        while not self._closed:
            if self._wanted <= self._moved:
                self._wake.wait(1.0 if self._failure is not None else None)
                self._wake.clear()
            rest = time.monotonic() + REST
            try:
                while not self._closed and self._wanted <= self._moved and not self._many(self._young):
                    left = rest - time.monotonic()
                    if left <= 0:
                        break
                    self._wake.wait(min(left, DELAY))
                    self._wake.clear()
                    self._journal.sync()
                self._move()
            except StoreError as error:
                with self._state:
                    self._failure = error
                    self._wanted = self._moved
                    self._state.notify_all()

    def _move(self) -> None:
        """Move what the journal holds into the cache environment, and out of the journal."""
        if not self._frozen.batches:
            self._journal.sync()  # most of it, before writers have to wait
            with self._group.lock:
                self._journal.roll(self.sequence + 1)
                self._frozen_to = self.sequence
                self._frozen = self._young
                self._young = Overlay()
            self._journal.sync()
        frozen = self._frozen
        if frozen.batches:
            first = self._frozen_to - len(frozen.batches) + 1
            pour(self._cache, frozen, first)
            self._used = self._cache.used()
            self._journal.drop(self._frozen_to + 1)
            self._frozen = Overlay()
        with self._state:
            self._moved = max(self._moved, self._frozen_to)
            self._failure = None
            self._state.notify_all()

    def _load_journal(self) -> None:
        """Read a journal that an earlier process left, into the frozen overlay."""
        overlay = Overlay()
        last = self.sequence
        for number, packed in self._journal.read(mend=True):
            for _ in range(last + 1, number) if overlay.batches else ():
                overlay.add((), 0)  # a damaged batch
            overlay.add(msgpack.unpackb(packed, raw=True, use_list=False), len(packed))
            last = number
        self._frozen, self._frozen_to = overlay, last

    def _refresh(self) -> None:
        """Read-only: see what the writing process has in its journal now."""
        if self.stale_s:
            now = time.monotonic()
            if now < self._due:
                return
            self._due = now + self.stale_s
        state = self._journal.state()
        if state == self._seen:
            return
        overlay = self._frozen
        if not self._places.keys() <= state.keys():  # a file was moved in
            overlay, self._places = Overlay(), {}
        for _, packed in self._journal.read(self._places):
            overlay.add(msgpack.unpackb(packed, raw=True, use_list=False), len(packed))
        self._frozen, self._seen = overlay, state

    def waiting(self) -> int:
        """Return how many batches are in the journal."""
        return len(self._young.batches) + len(self._frozen.batches)

    # -- making room; see hyperpy.store.collect --------------------------------------------------

    def since(self, number: int) -> tuple[list[Sequence[Change]], int]:
        """Return the batches newer than that number, perhaps some older ones, and the number of the last."""
        with self._group.lock:
            last = self.sequence
        return self._since(number), last

    def _since(self, number: int) -> list[Sequence[Change]]:
        # Young before frozen before cache, as in get().
        waiting = [*self._young.batches]
        waiting = [*self._frozen.batches, *waiting]
        batches: list[Sequence[Change]] = []
        after: bytes | None = _AGE + number.to_bytes(8, "big")
        while after is not None:
            rows, after = self.rows(_AGE, after)
            for _, packed in rows:
                kept, others = msgpack.unpackb(packed, raw=True)
                batches.append([*kept.items(), *((key, self.get(key)) for key in others)])
        return [*batches, *waiting]

    def condemn(self, doomed: set[bytes], spare: Callable[[list[Sequence[Change]]], None], since: int) -> None:
        """Declare entries absent, in a moment in which nobody writes.

        Args:
            doomed: their keys.
            spare: called first with every batch newer than ``since``; takes out of ``doomed`` what these need.
        """
        with self._group.lock:
            spare(self._since(since))
            self.condemned = doomed.copy()
            self._declared()

    def condemn_rows(self, rows: Sequence[tuple[bytes, bytes, tuple[bytes, ...]]]) -> None:
        """Declare absent those of the entries that still have the given value, if one of their owners is absent still.

        Args:
            rows: keys, values and the keys of the owners.
        """
        with self._group.lock:
            condemned = self.condemned
            self.condemned = condemned | {
                key for key, value, owners in rows if not condemned.isdisjoint(owners) and self.get(key) == value
            }
            self._declared()

    def lies_in(self, name: bytes, number: bytes) -> bool:
        """Say whether the value of a key is the one that the batch of that number put."""
        return self._cache.get(name) == ELSEWHERE + number

    def purge(self, keys: Sequence[bytes]) -> None:
        """Delete those of the entries that are condemned: nobody put them again meanwhile.

        Raises:
            StoreError: the store cannot take it; everything condemned is back.
        """
        try:
            with self._group.lock:
                self._append([[(key, None) for key in keys if key in self.condemned]])
        except StoreError:
            self.condemned = set()
            raise
