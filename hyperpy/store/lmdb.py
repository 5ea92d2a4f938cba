"""The embedded store: LMDB environments and a journal in one folder.

ledger/     synced tables; each write is on the disk, and concurrent ones share the wait
cache/      the other tables
journal/    what was written to them in the last moments; see hyperpy.store.tables
lock        held by the process that writes
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyperpy.errors import ConfigError, StoreError
from hyperpy.store.base import (
    HEADER_KEY,
    MAX_VALUE,
    TABLES,
    Delete,
    Put,
    Table,
    by_table,
    check_header,
    check_value,
    new_header,
)
from hyperpy.store.environment import MAX_KEY, Environment, fold
from hyperpy.store.group import Group
from hyperpy.store.haste import may_wait
from hyperpy.store.journal import Journal
from hyperpy.store.lock import FolderLock
from hyperpy.store.overlay import Change
from hyperpy.store.tables import Tables

QUOTA = 10_000_000_000
"""Bytes for cache and trail, by default."""

PAUSE = 0.05
"""Seconds a write waits at most, each time, while old entries are being removed."""

PATIENCE = 10.0
"""Seconds a write waits for room before it is refused."""

_CHUNK = 256
_HEADER = TABLES["header"].prefix + HEADER_KEY
_LOOSE = {name: place.prefix for name, place in TABLES.items() if not place.synced}
_LOOSE_BYTES = frozenset(prefix[0] for prefix in _LOOSE.values())
_SHORT = MAX_KEY - 1
_MAPS = {"ledger": 1 << 28, "cache": 1 << 32}
_ROOM = {"ledger": 1 << 18}


class LmdbStore:
    """Implements :class:`hyperpy.store.base.Store` in a folder.

    Args:
        folder: made if it does not exist, for its owner alone.
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
        self.crowded = False
        """Whether the last collection had to leave more than its aim: what is needed fills the store."""
        self.durable = durable
        self.collections = 0
        self.collecting = False
        """Whether old entries are being removed just now."""
        self._max_map = max_map
        self._lock: FolderLock | None = None
        self._opened: list[Environment] = []
        self._closed = False
        try:
            self._open()
        except BaseException:
            self._release()
            raise

    # -- opening and closing -----------------------------------------------------------------

    def _open(self) -> None:
        found = (self.folder / "ledger" / "data.mdb").is_file()
        if self.readonly and not found:
            raise ConfigError(f"there is no store at {self.folder}", hint="Start the node once, or set [store] dir.")
        if not self.readonly:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = FolderLock(self.folder)
            except OSError as error:
                raise ConfigError(f"the store's folder {self.folder} cannot be used: {error.strerror}") from None
        self._ledger = self._environment("ledger", sync=True)
        if not found:
            self._ledger.write(lambda txn: txn.put(_HEADER, new_header()))
        self.header = check_header(self._ledger.get(_HEADER), str(self.folder))
        self._ledgers: Group[Sequence[Change]] = Group(self._to_ledger)
        cache = self._environment("cache", sync=True)
        journal = Journal(self.folder / "journal", durable=self.durable, limit=self._max_map)
        self._cache = cache
        self.tables = Tables(journal, cache, readonly=self.readonly, declared=self._count)
        """The tables that are not synced with every write."""

    def _environment(self, name: str, *, sync: bool) -> Environment:
        size = _MAPS[name] if self._max_map is None else min(_MAPS[name], self._max_map)
        made = Environment(
            self.folder / name,
            map_size=size,
            max_map=self._max_map,
            sync=sync,
            readonly=self.readonly,
            room=_ROOM.get(name, 0),
        )
        self._opened.append(made)
        return made

    def close(self) -> None:
        """Bring the journal in, and release the folder. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self.tables.close()
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
            found = self._get(place.synced, fold(name))
            return None if found is None else _unfolded(found, name)
        return self._ledger.get(name) if place.synced else self.tables.get(name)

    def _get(self, synced: bool, name: bytes) -> bytes | None:
        return self._ledger.get(name) if synced else self.tables.get(name)

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
            if place.synced:
                rows = self._ledger.chunk(start[: MAX_KEY - 32], bound, _CHUNK)
                bound = rows[-1][0] if len(rows) == _CHUNK else None
            else:
                rows, bound = self.tables.rows(start[: MAX_KEY - 32], bound)
            for name, value in rows:
                if len(name) == MAX_KEY:
                    name, value = _split(value)
                if name.startswith(start):
                    yield name[1:], value
            if bound is None:
                return

    def _unusable(self, name: str) -> StoreError:
        if self._closed:
            return StoreError("the store is closed", hint="Start the node again.")
        return StoreError(f"the store has no table '{name}'")

    # -- writing -----------------------------------------------------------------------------

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, durable: bool = False) -> None:
        """Write the synced tables' part, then the rest; see the protocol."""
        ledger: list[Change] = []
        others: list[Change] = []
        for table, key, value in puts:
            prefix = _LOOSE.get(table)
            if prefix is not None and len(key) < _SHORT and len(value) <= MAX_VALUE:
                others.append((prefix + key, value))
                continue
            check_value(value)
            name = self._place(table).prefix + key
            if len(name) >= MAX_KEY:
                value = len(name).to_bytes(4, "big") + name + value
                name = fold(name)
            (others if prefix is not None else ledger).append((name, value))
        for table, key in deletes:
            place = self._place(table)
            (ledger if place.synced else others).append((fold(place.prefix + key), None))
        self._commit(ledger, others, durable, more=bool(puts))

    def write_rows(self, rows: Sequence[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        """Write what a batch holds; see the protocol."""
        for name, value in rows:
            if name[0] not in _LOOSE_BYTES or len(name) >= MAX_KEY or len(value) > MAX_VALUE:
                self.write(by_table(rows), durable=durable)
                return
        self._commit((), rows, durable, more=True)

    def _commit(self, ledger: Sequence[Change], others: Sequence[Change], durable: bool, *, more: bool) -> None:
        """Commit to the ledger, then to the tables; ``more``: something is added, so there must be room."""
        if self._closed or self.readonly:
            raise StoreError("the store is closed" if self._closed else "the store is open for reading only")
        if others and more and self.tables.used > self.quota:
            may_wait()
            self._give_way()
        if ledger or durable:
            may_wait()
        if ledger:
            self._ledgers.submit(ledger)
        if others:
            self.tables.write(others)
            if durable:
                self.tables.sync()

    def _give_way(self) -> None:
        """Let a collection under way keep up: the more the quota is passed the longer, at the end until it is done.

        Raises:
            StoreError: there is no room.
        """
        slack = self.quota // 10
        over = self.tables.used - self.quota
        if self.collecting and over <= slack:
            time.sleep(PAUSE * over / slack)
        patience = time.monotonic() + PATIENCE
        while self.collecting and self.tables.used > self.quota + slack and time.monotonic() < patience:
            time.sleep(PAUSE)
        if self.tables.used > self.quota + slack:
            raise StoreError(
                f"the store holds {self.tables.used} bytes, more than its quota of {self.quota}",
                hint="Try again in a moment; if that does not help, the operator has to raise [store] quota.",
            )

    def _place(self, table: str) -> Table:
        place = TABLES.get(table)
        if place is None:
            raise self._unusable(table)
        return place

    def _to_ledger(self, batches: Sequence[Sequence[Change]]) -> None:
        def work(txn: Any) -> None:
            for batch in batches:
                for key, value in batch:
                    if value is None:
                        txn.delete(key)
                    else:
                        txn.put(key, value)

        self._ledger.write(work)

    def flush(self) -> None:
        """Return when everything committed before is in the tables and on the disk."""
        self.tables.flush()

    # -- the rest ------------------------------------------------------------------------------

    def _count(self) -> None:
        self.collections += 1

    @property
    def prompt(self) -> bool:
        """Whether a small write to the tables that are not synced would wait for nothing now."""
        return not self.durable and self.tables.used <= self.quota and self.tables.prompt

    @property
    def used(self) -> int:
        """Bytes that cache and trail take."""
        return self.tables.used

    def stats(self) -> dict[str, Any]:
        """Return sizes in bytes and counts."""
        return {
            "kind": "lmdb",
            "folder": str(self.folder),
            **{f"header-{key}": value for key, value in self.header.items()},
            "durable": self.durable,
            "quota": self.quota,
            "used": self.used,
            "ledger-bytes": self._ledger.used(),
            "cache-entries": self._cache.entries(),
            "ledger-entries": self._ledger.entries(),
            "journal-batches": self.tables.waiting(),
        }


def _split(value: bytes) -> tuple[bytes, bytes]:
    """Return key and value of an entry whose key was too long."""
    size = int.from_bytes(value[:4], "big")
    return value[4 : 4 + size], value[4 + size :]


def _unfolded(value: bytes, name: bytes) -> bytes | None:
    found, rest = _split(value)
    return rest if found == name else None
