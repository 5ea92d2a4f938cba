"""The embedded store: LMDB environments in one folder.

    ledger/     synced tables; each write is on the disk, concurrent ones share the wait
    cache/      the other tables
    journal/    what was written to them in the last moments
    lock        held by the process that writes

Why a journal: IDs are random, so each new entry of a large B-tree dirties pages of its own,
and the cost of a write would grow with the store (measured: 25 us with 10^3 messages, 66 us with
10^5). A batch is therefore appended to the journal, which stays small, in one transaction; a thread
moves the batches into ``cache/`` in bulk, at most :data:`DELAY` seconds later.  There the values of a
batch lie together under its number (the table ``age``), in the order of arrival, and only
short rows that point to them are spread by ID. ``cache/`` is synced then, so
a power cut costs what the journal held and damages nothing. After a crash of the process
the journal is moved in when the store is opened.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgpack

from hyperpy.errors import ConfigError, Corrupt, StoreError
from hyperpy.store.base import HEADER_KEY, TABLES, Delete, Put, check_header, check_value, new_header, table
from hyperpy.store.environment import MAX_KEY, Environment, fold
from hyperpy.store.group import Group
from hyperpy.store.lock import FolderLock, boot
from hyperpy.store.overlay import Change, Overlay

DELAY = 0.1
"""Seconds a batch stays in the journal at most, while the disk keeps up."""

QUOTA = 10_000_000_000
"""Bytes for cache and trail, by default."""

_BATCHES = 4000
_BYTES = 16 << 20
_HARD = 4
_CHUNK = 256
_HERE, _ELSEWHERE = b"\x00", b"\x01"
_SMALL, _LARGE = 40, 1900
_AGE = TABLES["age"].prefix
_HEADER = TABLES["header"].prefix + HEADER_KEY
_Changes: TypeAlias = list[Change]


class LmdbStore:
    """Implements :class:`hyperpy.store.base.Store` in a folder.

    Args:
        folder: made if it does not exist.
        readonly: for commands beside a running node; no lock, no writing.
        durable: sync everything, not only the ledger (``[store] durable``).
        quota: bytes for cache and trail; beyond a tenth more, writing is refused.
        max_map: bytes no environment grows beyond; None: as far as the disk goes.

    Raises:
        ConfigError: another process writes to it, or it has another format.
        StoreError: it cannot be opened now.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        readonly: bool = False,
        durable: bool = False,
        quota: int = QUOTA,
        max_map: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.readonly = readonly
        self.quota = quota
        self._durable = durable
        self._max_map = max_map
        self._lock: FolderLock | None = None
        self._opened: list[Environment] = []
        self._closed = False
        self._young, self._frozen = Overlay(), Overlay()
        self._seen = -1
        self.condemned: set[bytes] = set()
        """Keys, with their table's prefix, that are being removed: absent already."""
        self.collections = 0
        """How often old entries were removed; see :mod:`hyperpy.store.collect`."""
        self.set_aside: Path | None = None
        """Where a journal went that a power cut may have damaged."""
        try:
            self._open_folder()
        except BaseException:
            self._release()
            raise

    # -- opening and closing -----------------------------------------------------------------

    def _open_folder(self) -> None:
        ledger = self.folder / "ledger" / "data.mdb"
        if self.readonly:
            if not ledger.is_file():
                raise ConfigError(
                    f"there is no store at {self.folder}", hint="Start the node once, or set [store] path."
                )
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the store's folder {self.folder} cannot be made: {error.strerror}") from None
            self._lock = FolderLock(self.folder)
        fresh = not ledger.is_file()
        self._ledger = self._environment("ledger", 1 << 28, sync=True)
        if fresh:
            self._ledger.write(lambda txn: txn.put(_HEADER, new_header()))
        self.header = check_header(self._ledger.get(_HEADER), str(self.folder))
        if not self.readonly:
            self._check_journal()
        self._cache = self._environment("cache", 1 << 32, sync=True)
        self._journal = self._environment("journal", 1 << 28, sync=self._durable)
        if self.readonly:
            self._refresh()
            return
        self._ledgers: Group[_Changes] = Group(self._to_ledger)
        self._journals: Group[_Changes] = Group(self._to_journal)
        self._sequence = max(self._last(self._journal), self._last(self._cache))
        self._moving = threading.Condition()
        self._wanted = 0  # batches up to this number are to be moved at once
        self._moved = 0
        self._failure: StoreError | None = None
        self._used = self._cache.used()
        self._load_journal()
        self._move()
        self._wake = threading.Event()
        self._mover = threading.Thread(target=self._run, name="hyperpy-store", daemon=True)
        self._mover.start()

    def _environment(self, name: str, size: int, *, sync: bool) -> Environment:
        if self._max_map is not None:
            size = min(size, self._max_map)
        made = Environment(self.folder / name, map_size=size, max_map=self._max_map, sync=sync, readonly=self.readonly)
        self._opened.append(made)
        return made

    def _check_journal(self) -> None:
        """Set a journal aside that was open, unsynced, when the machine went down; mark ours."""
        mark = self.folder / "journal-boot"
        if mark.is_file() and mark.read_text() != boot():
            self.set_aside = self.folder / "journal-set-aside"
            shutil.rmtree(self.set_aside, ignore_errors=True)
            (self.folder / "journal").rename(self.set_aside)
        if not self._durable:
            mark.write_text(boot())

    @staticmethod
    def _last(environment: Environment) -> int:
        """Return the highest sequence number in an environment."""
        found = environment.last_key(_AGE + b"\xff" * 9)
        return int.from_bytes(found[1:], "big") if found is not None and found[:1] == _AGE else 0

    def close(self) -> None:
        """Move the journal in, and release the folder. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if not self.readonly:
            self._wake.set()
            self._mover.join()
            try:
                self._move()
                self._journal.sync()
                (self.folder / "journal-boot").unlink(missing_ok=True)
            except (StoreError, OSError):
                pass  # what was not moved is still in the journal, and is moved in at the next start
        self._release()

    def _release(self) -> None:
        for environment in self._opened:
            environment.close()
        if self._lock is not None:
            self._lock.release()

    # -- reading -----------------------------------------------------------------------------

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None."""
        place = TABLES.get(table)
        if place is None or self._closed:
            raise self._unusable(table)
        name = place.prefix + key
        if len(name) >= MAX_KEY:
            name = fold(name)
        if place.synced:
            found = self._ledger.get(name)
        else:
            if self.readonly:
                self._refresh()
            elif name in self.condemned:
                return None
            # Young before frozen before cache: an entry moves in that direction, so none is missed.
            for overlay in (self._young, self._frozen):
                changes = overlay.changes
                if name in changes:
                    found = changes[name]
                    break
            else:
                found = self._settled(name)
        if found is not None and len(name) == MAX_KEY:
            return _unfold(found, place.prefix + key)
        return found

    def _settled(self, name: bytes) -> bytes | None:
        """Return the value of a key from the cache environment, or None."""
        for _ in range(3):
            row = self._cache.get(name)
            if row is None or row[:1] == _HERE:
                return None if row is None else row[1:]
            packed = self._cache.get(_AGE + row[1:])
            if packed is not None:
                value = msgpack.unpackb(packed, raw=True)[0].get(name)
                if value is not None:
                    return value  # type: ignore[no-any-return]
        raise Corrupt("a row of the store points to nothing")  # even when read again: not just moved meanwhile

    def _full(self, key: bytes, row: bytes) -> bytes | None:
        return row[1:] if row[:1] == _HERE else self._settled(key)

    def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs by key; see the protocol."""
        place = TABLES.get(table)
        if place is None:
            raise self._unusable(table)
        start = place.prefix + prefix
        bound = None if after is None else fold(place.prefix + after)
        while True:
            if self._closed:
                raise self._unusable(table)
            rows, more = self._rows(place.synced, start[: MAX_KEY - 32], bound)
            for name, value in rows:
                if len(name) == MAX_KEY:
                    key, value = _split(value)
                else:
                    key = name
                if key.startswith(start):
                    yield key[1:], value
            if not more:
                return
            bound = more

    def _rows(self, synced: bool, prefix: bytes, after: bytes | None) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return the next pairs in order, and the key to go on after (None: that was all)."""
        if synced:
            rows = self._ledger.chunk(prefix, after, _CHUNK)
            return rows, rows[-1][0] if len(rows) == _CHUNK else None
        if self.readonly:
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

    def _unusable(self, name: str) -> StoreError:
        if self._closed:
            return StoreError("the store is closed", hint="Start the node again.")
        return StoreError(f"the store has no table '{name}'")

    # -- writing -----------------------------------------------------------------------------

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, durable: bool = False) -> None:
        """Write the synced tables' part, then the rest; see the protocol."""
        if self._closed or self.readonly:
            raise StoreError("the store is closed" if self._closed else "the store is open for reading only")
        ledger: _Changes = []
        others: _Changes = []
        for name, key, value in puts:
            place = TABLES.get(name) or table(name)
            check_value(value)
            full = place.prefix + key
            if len(full) >= MAX_KEY:
                value = len(full).to_bytes(4, "big") + full + value
                full = fold(full)
            (ledger if place.synced else others).append((full, value))
        for name, key in deletes:
            place = table(name)
            (ledger if place.synced else others).append((fold(place.prefix + key), None))
        if others:
            self._admit(bool(puts))
        if ledger:
            self._ledgers.submit(ledger)
        if others:
            self._journals.submit(others)
            if durable:
                self.flush()

    def _admit(self, grows: bool) -> None:
        """Wait while the journal is far behind; refuse what passes the quota.

        Raises:
            StoreError: no room.
        """
        if grows and self._used > self.quota + self.quota // 10:
            raise StoreError(f"the store holds {self._used} bytes, more than its quota of {self.quota}")
        young = self._young
        if young.size < _HARD * _BYTES and len(young.batches) < _HARD * _BATCHES:
            return
        if self._failure is None:
            self.flush(wait_s=30.0)
        if self._failure is not None:
            raise StoreError(self._failure.message)

    def _to_ledger(self, batches: list[_Changes]) -> None:
        def work(txn: Any) -> None:
            for batch in batches:
                for key, value in batch:
                    if value is None:
                        txn.delete(key)
                    else:
                        txn.put(key, value)

        self._ledger.write(work)

    def _to_journal(self, batches: list[_Changes]) -> None:
        """Append batches to the journal in one transaction, and make them visible."""
        if self._closed:
            raise self._unusable("")
        number = self._sequence
        rows = []
        for batch in batches:
            number += 1
            rows.append((_AGE + number.to_bytes(8, "big"), msgpack.packb(batch, use_bin_type=True)))

        def work(txn: Any) -> None:
            for key, value in rows:
                txn.put(key, value, append=True)

        self._journal.write(work)
        self._sequence = number
        young = self._young
        first = not young.batches
        for batch in batches:
            young.add(batch)
            if self.condemned:
                self.condemned.difference_update(key for key, _ in batch)
        if first or len(young.batches) > _BATCHES or young.size > _BYTES:
            self._wake.set()

    # -- from the journal into the tables ------------------------------------------------------

    def flush(self, *, wait_s: float | None = None) -> None:
        """Return when everything committed before is in the tables and on the disk.

        Raises:
            StoreError: it cannot be moved now, or ``wait_s`` seconds passed.
        """
        with self._moving:
            target = self._sequence
            self._wanted = max(self._wanted, target)
            self._failure = None
            self._wake.set()
            if not self._moving.wait_for(lambda: self._moved >= target or self._failure is not None, wait_s):
                raise StoreError("the disk does not keep up")
            if self._moved < target and self._failure is not None:
                raise StoreError(self._failure.message)

    def _run(self) -> None:
        """Move batches in, :data:`DELAY` after the first one or when there are many."""
        while not self._closed:
            self._wake.wait(1.0 if self._failure is not None else None)
            self._wake.clear()
            young = self._young
            deadline = time.monotonic() + DELAY
            while not self._closed and self._wanted <= self._moved:
                left = deadline - time.monotonic()
                if left <= 0 or len(young.batches) > _BATCHES or young.size > _BYTES:
                    break
                self._wake.wait(left)
                self._wake.clear()
            try:
                self._move()
            except StoreError as error:
                with self._moving:
                    self._failure = error
                    self._wanted = self._moved
                    self._moving.notify_all()

    def _move(self) -> None:
        """Move everything the journal holds into the cache environment, then empty the journal."""
        if not self._frozen.batches:
            with self._journals.lock:
                self._frozen, self._young, last = self._young, Overlay(), self._sequence
            self._frozen_to = last
        frozen = self._frozen
        if frozen.batches:
            first = self._frozen_to - len(frozen.batches) + 1
            self._cache.write(lambda txn: _pour(txn, frozen, first))
            self._used = self._cache.used()
            with self._journals.lock:
                self._journal.write(lambda txn: _trim(txn, self._frozen_to))
            self._frozen = Overlay()
        with self._moving:
            self._moved = max(self._moved, self._frozen_to)
            self._failure = None
            self._moving.notify_all()

    def _load_journal(self) -> None:
        """Read a journal that an earlier process left, into the frozen overlay."""
        overlay = Overlay()
        after = None
        last = self._sequence
        while rows := self._journal.chunk(_AGE, after, _CHUNK):
            for key, packed in rows:
                overlay.add(msgpack.unpackb(packed, raw=True, use_list=False))
                last = int.from_bytes(key[1:], "big")
            after = rows[-1][0]
        self._frozen, self._frozen_to = overlay, last

    def _refresh(self) -> None:
        """Read-only: see what the writing process has in its journal now."""
        number = self._journal.last_transaction()
        if number != self._seen:
            self._sequence = 0
            self._load_journal()
            self._seen = number

    # -- the rest ------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes of the pages of cache and trail in use."""
        return self._cache.used() if self.readonly else self._used

    def backup(self, target: Path) -> None:
        """Write consistent copies of the environments into a new folder."""
        for name, environment in (("ledger", self._ledger), ("cache", self._cache), ("journal", self._journal)):
            (target / name).mkdir(parents=True)
            environment.copy(target / name)

    def stats(self) -> dict[str, Any]:
        """Return sizes in bytes and counts."""
        return {
            "kind": "lmdb",
            "folder": str(self.folder),
            **{f"header-{key}": value for key, value in self.header.items()},
            "durable": self._durable,
            "quota": self.quota,
            "used": self.used,
            "ledger-bytes": self._ledger.used(),
            "cache-entries": self._cache.entries(),
            "ledger-entries": self._ledger.entries(),
            "journal-entries": len(self._young.batches) + len(self._frozen.batches),
            "journal-set-aside": str(self.set_aside) if self.set_aside else "",
        }


def _pour(txn: Any, overlay: Overlay, first: int) -> None:
    """Apply an overlay: what each batch put goes under its number, and what finds it goes in key order."""
    index: dict[bytes, bytes | None] = {}
    rows: list[tuple[bytes, bytes]] = []
    for number, batch in enumerate(overlay.batches, first):
        name = number.to_bytes(8, "big")
        kept = {}
        others = []
        for key, value in batch:
            if value is None:
                index[key] = None
            elif _SMALL < len(value) <= _LARGE:
                kept[key] = value
                index[key] = _ELSEWHERE + name
            else:
                others.append(key)
                index[key] = _HERE + value
        if kept or others:
            rows.append((_AGE + name, msgpack.packb([kept, others], use_bin_type=True)))
    for key, found in index.items():
        if found is None:
            txn.delete(key)
        else:
            rows.append((key, found))
    rows.sort()
    with txn.cursor() as cursor:
        cursor.putmulti(rows)


def _trim(txn: Any, last: int) -> None:
    """Delete journal entries up to a number."""
    with txn.cursor() as cursor:
        found = cursor.first()
        while found and int.from_bytes(cursor.key()[1:], "big") <= last:
            found = cursor.delete() and bool(cursor.key())


def _split(value: bytes) -> tuple[bytes, bytes]:
    """Return key and value of an entry whose key was too long."""
    size = int.from_bytes(value[:4], "big")
    return value[4 : 4 + size], value[4 + size :]


def _unfold(value: bytes, key: bytes) -> bytes | None:
    found, rest = _split(value)
    return rest if found == key else None
