"""The lock on a store's folder: one process writes, and a second one is told which."""

from __future__ import annotations

import os
from pathlib import Path

from hyperpy.errors import ConfigError

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system; LMDB's own lock remains
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """An exclusive lock on ``folder/lock``, held until :meth:`release` or the end of the process.

    Raises:
        ConfigError: another process, or this one, holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ConfigError(
                f"the store at {folder} is in use by process {owner}",
                hint="Stop that process, ask the running node over HTTP, or set [store] dir.",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock up; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def boot() -> str:
    """Return what identifies this run of the operating system; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
