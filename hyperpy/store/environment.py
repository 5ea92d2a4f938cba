"""One LMDB environment: reads from any thread, one writer, a map that grows, errors in our words.

LMDB rules kept here (spec/dependencies.md): never ``writemap`` (a full disk would kill the process);
the map is enlarged only while no transaction of this process is open; no read transaction
stays open between calls, so old pages are freed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from hyperpy.encoding import sha256
from hyperpy.errors import ConfigError, StoreError
from hyperpy.store.haste import may_wait

_T = TypeVar("_T")

MAX_KEY = 511
"""Bytes; LMDB's limit. A key of exactly this length stands for a longer one, see :func:`fold`."""

_READERS = 1024


class Environment:
    """An open LMDB environment.

    Args:
        path: its folder; made if absent, unless read-only.
        map_size: bytes of address space at first; doubles when full.
        max_map: bytes it never grows beyond; None: as far as the disk goes.
        sync: whether each commit waits for the disk.
        room: bytes of zeros that the file gets ahead of what LMDB writes, 0 for none. A commit into a file that
            does not grow waits less for the disk: nothing of the file system changes.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_size: int,
        max_map: int | None = None,
        sync: bool,
        readonly: bool = False,
        room: int = 0,
    ) -> None:
        self._path = path
        self._room = room
        self._ready = 0
        """Bytes that the file is known to have."""
        self._size = map_size
        self._max = max_map
        self._sync = sync
        self._readonly = readonly
        self._active: deque[None] = deque()  # one entry per open read transaction; append and pop are atomic
        self._blocked = False
        self._open = threading.Event()
        self._open.set()
        self._env: Any = None
        self._connect()

    def _connect(self) -> None:
        try:
            self._env = lmdb.open(
                str(self._path),
                mode=0o700,  # of the folder; its files get 0600
                map_size=self._size,
                sync=self._sync,
                metasync=True,
                writemap=False,
                readonly=self._readonly,
                create=not self._readonly,
                readahead=True,
                max_readers=_READERS,
                max_spare_txns=16,
            )
        except lmdb.ReadonlyError as error:
            raise ConfigError(f"the store at {self._path} cannot be opened: {error}") from None
        except lmdb.Error as error:
            if "already open" in str(error):
                raise ConfigError(
                    f"the store at {self._path} is already open in this process", hint="Use the open one."
                ) from None
            raise StoreError(f"the store at {self._path} cannot be opened: {error}") from None
        self._size = int(self._env.info()["map_size"])
        self._page = int(self._env.stat()["psize"])

    # -- reading ---------------------------------------------------------------------------

    def read(self, work: Callable[[Any], _T]) -> _T:
        """Run ``work`` in a read transaction.

        Raises:
            StoreError: the environment is closed, or LMDB failed.
        """
        for _ in range(3):
            self._active.append(None)
            try:
                if not self._blocked:
                    with self._env.begin() as txn:
                        return work(txn)
            except lmdb.MapResizedError:
                resized = True
            except lmdb.Error as error:
                raise self._failed(error) from None
            else:
                resized = False
            finally:
                self._active.pop()
            may_wait()
            if resized:
                self._resize(0)
            elif not self._open.wait(60):
                break
        raise StoreError("the store is busy growing")

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        self._active.append(None)
        try:
            if not self._blocked:
                with self._env.begin() as txn:
                    return txn.get(key)  # type: ignore[no-any-return]
        except lmdb.MapResizedError:
            pass
        except lmdb.Error as error:
            raise self._failed(error) from None
        finally:
            self._active.pop()
        found: bytes | None = self.read(lambda txn: txn.get(key))
        return found

    def chunk(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to ``limit`` pairs whose key begins with ``prefix`` and is greater than ``after``."""

        def work(txn: Any) -> list[tuple[bytes, bytes]]:
            found: list[tuple[bytes, bytes]] = []
            with txn.cursor() as cursor:
                start = prefix if after is None or after < prefix else after
                if not cursor.set_range(start):
                    return found
                for key, value in cursor:
                    if key == after:
                        continue
                    if len(found) == limit or not key.startswith(prefix):
                        break
                    found.append((key, value))
            return found

        return self.read(work)

    def last_key(self, below: bytes) -> bytes | None:
        """Return the greatest key smaller than ``below``, or None."""

        def work(txn: Any) -> bytes | None:
            with txn.cursor() as cursor:
                found = cursor.prev() if cursor.set_range(below) else cursor.last()
                return bytes(cursor.key()) if found else None

        return self.read(work)

    # -- writing ---------------------------------------------------------------------------

    def write(self, work: Callable[[Any], _T]) -> _T:
        """Run ``work`` in a write transaction and commit it; callers serialise themselves.

        Raises:
            StoreError: disk or map is full, or LMDB failed; nothing was written.
        """
        while True:
            try:
                if self._room:
                    self._make_room()
                with self._env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapFullError:
                self._grow()
            except lmdb.PanicError as error:
                self._reopen()
                raise self._failed(error) from None
            except (lmdb.Error, OSError) as error:
                raise self._failed(error) from None

    def _make_room(self) -> None:
        """Have the file end well behind the pages in use; without room on the disk it stays as it is."""
        info = self._env.info()
        end = (info["last_pgno"] + 1) * self._page
        if end + self._room // 2 <= self._ready or end + self._room > self._size:
            return
        with suppress(OSError), open(self._path / "data.mdb", "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < end + self._room:
                try:
                    os.pwrite(file.fileno(), bytes(end + self._room - size), size)
                except OSError:
                    os.ftruncate(file.fileno(), size)
        self._ready = end + self._room

    def sync(self) -> None:
        """Return when everything committed is on the disk."""
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise self._failed(error) from None

    def _grow(self) -> None:
        size = self._size * 2
        if self._max is not None:
            size = min(size, self._max)
        if size <= self._size:
            raise StoreError(f"the store is full: {self._size} bytes")
        self._resize(size)

    def _resize(self, size: int) -> None:
        """Set the map's size (0: as another process set it) while no read transaction is open."""
        self._quiet(lambda: self._env.set_mapsize(size))
        self._size = int(self._env.info()["map_size"])

    def _reopen(self) -> None:
        """Open again after a failed write of LMDB's own header."""

        def again() -> None:
            self._env.close()
            self._connect()

        self._quiet(again)

    def _quiet(self, work: Callable[[], None]) -> None:
        self._open.clear()
        self._blocked = True
        try:
            while self._active:
                time.sleep(0.0002)
            work()
        except lmdb.Error as error:
            raise self._failed(error) from None
        finally:
            self._blocked = False
            self._open.set()

    # -- the rest --------------------------------------------------------------------------

    def used(self) -> int:
        """Return the bytes of all pages in use."""
        stat = self._env.stat()
        return int(stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]))

    def entries(self) -> int:
        """Return the number of keys."""
        return int(self._env.stat()["entries"])

    def close(self) -> None:
        """Close; reads running now end first."""
        self._quiet(self._env.close)

    def _failed(self, error: Exception) -> StoreError:
        text = str(error)
        if "closed" in text.lower():
            return StoreError("the store is closed", hint="Start the node again.")
        return StoreError(f"the store cannot take this now: {text}")


def fold(key: bytes) -> bytes:
    """Return a key as LMDB takes it: one that is too long keeps its beginning and gets a digest."""
    if len(key) < MAX_KEY:
        return key
    return key[: MAX_KEY - 32] + sha256(key)
