"""The journal: batches in order of arrival, appended to files until they lie in the tables.

A file is called after the number of its first batch; what follows is one batch after the other, each
behind its length and its CRC-32. An append is one ``write`` of the operating system: it survives the
end of the process at any instant, and a power cut once :meth:`Journal.sync` has returned. Reading
ends at a batch that is cut off, or damaged with nothing whole behind it; all before it are whole. A
damage within, which no power cut leaves, costs the batches it lies in: the file is kept and the log says so.

Why not LMDB, which keeps everything else: a commit of one entry there costs 9 us, an append 2 us
(measured), and of an LMDB environment that is not synced nothing can be trusted after a power cut.
"""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperpy.errors import StoreError
from hyperpy.store import salvage

_HEAD = salvage.HEAD
_NAME = re.compile(r"([0-9]{20})\.log")


class Journal:
    """The journal of one folder. Callers serialise :meth:`append`, :meth:`roll` and :meth:`close`.

    Args:
        folder: made if absent.
        durable: every append waits for the disk.
        limit: bytes that one file never grows beyond; None: as far as the disk goes.
    """

    def __init__(self, folder: Path, *, durable: bool = False, limit: int | None = None) -> None:
        self._folder = folder
        self._durable = durable
        self._limit = limit
        self._fd = -1
        self._size = 0
        self._whole = True
        self._dirty: set[int] = set()  # files that were appended to since they were synced
        self._rolled: list[int] = []  # files to be closed once they are synced
        self._born = False  # whether a file was begun that the folder may not name on the disk
        self._next = 1
        self._syncing = threading.Lock()

    @property
    def prompt(self) -> bool:
        """Whether an append now neither waits for the disk nor has to begin a file."""
        return self._fd >= 0 and not self._durable

    # -- writing ---------------------------------------------------------------------------------

    def roll(self, number: int) -> None:
        """Begin a new file, whose first batch will have this number, with the next append. Waits for nothing."""
        if self._fd >= 0:
            self._rolled.append(self._fd)
        self._fd, self._size, self._whole = -1, 0, True
        self._next = number

    def append(self, batches: Sequence[bytes]) -> None:
        """Append batches: all, or none.

        Raises:
            StoreError: the disk is full, or the file would be too long.
        """
        parts: list[bytes] = []
        for data in batches:
            parts += (_HEAD.pack(len(data), zlib.crc32(data)), data)
        joined = b"".join(parts)
        if self._limit is not None and self._size + len(joined) > self._limit:
            raise StoreError(f"the store is full: its journal may take {self._limit} bytes")
        try:
            if self._fd < 0:
                self._open()
            if not self._whole:
                self._cut()
            self._whole = False
            done = os.write(self._fd, joined)
            while done < len(joined):
                done += os.write(self._fd, joined[done:])
            self._dirty.add(self._fd)
            if self._durable:
                self.sync()
        except OSError as error:
            self._cut_if_possible()
            raise _failed(error) from None
        self._whole = True
        self._size += len(joined)

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        with self._syncing:
            rolled = self._rolled.copy()
            try:
                if self._born:
                    self._sync_folder()
                for fd in list(self._dirty):
                    self._dirty.discard(fd)  # an append meanwhile adds it again
                    try:
                        os.fdatasync(fd)
                    except OSError:
                        self._dirty.add(fd)
                        raise
                for fd in rolled:
                    os.close(fd)
                    self._rolled.remove(fd)
            except OSError as error:
                raise _failed(error) from None

    def drop(self, below: int) -> None:
        """Delete the files begun before the batch of this number: all in them lies in the tables, on the disk."""
        try:
            for number, path in self._files():
                if number < below:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(error) from None

    def close(self) -> None:
        """Close the files; what is in them stays."""
        self.roll(self._next)
        with self._syncing:
            while self._rolled:
                os.close(self._rolled.pop())
            self._dirty.clear()

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{self._next:020}.log"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._born = True

    def _sync_folder(self) -> None:
        self._born = False
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:
            self._born = True
            raise
        finally:
            os.close(folder)

    def _cut(self) -> None:
        """Remove what an append that failed left behind."""
        os.ftruncate(self._fd, self._size)
        self._whole = True

    def _cut_if_possible(self) -> None:
        try:
            if self._fd >= 0:
                self._cut()
        except OSError:
            pass  # the next append tries again before it writes

    # -- reading ---------------------------------------------------------------------------------

    def read(
        self, places: dict[int, tuple[int, int]] | None = None, *, mend: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (number, batch), in order. A number is missing for each batch that is damaged.

        Args:
            places: where an earlier read of each file ended, which is where this one begins; brought up to date.
            mend: nobody writes to it now: search for the end of a batch whose length is damaged, and keep
                the files in which there is damage.
        """
        places = {} if places is None else places
        for first, path in self._files():
            start, number = places.get(first, (0, first))
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read()
            except FileNotFoundError:
                continue  # moved into the tables meanwhile
            at = lost = mended = 0
            while at < len(data):
                batch = salvage.whole(data, at)
                if batch is None:
                    further = salvage.beyond(data, at)
                    if further is not None:
                        at, number, lost = further[0], number + further[1], lost + further[1]
                        continue
                    batch = salvage.measured(data, at) if mend else None
                    if batch is None:
                        break
                    mended += 1
                yield number, batch
                number += 1
                at += _HEAD.size + len(batch)
            if mend and (lost or mended):
                salvage.keep(path, lost)
            places[first] = (start + at, number)

    def state(self) -> dict[int, int]:
        """Return the size of each file: something else whenever the journal changes."""
        found = {}
        for number, path in self._files():
            try:
                found[number] = path.stat().st_size
            except FileNotFoundError:
                continue
        return found

    def _files(self) -> list[tuple[int, Path]]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        found = [(int(match[1]), self._folder / match[0]) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(found)


def _failed(error: OSError) -> StoreError:
    return StoreError(f"the store cannot take this now: {error.strerror}")
