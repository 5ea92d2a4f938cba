"""What was delivered, and how many messages one message may lead to, however often slots are pushed.

Three kinds of names are kept. A mark says what became of one entry of an outbox. A slot that a delivery
made has the slot that everything began with, its root. A root has the number of messages it led to.
Marks of what is delivered wait for the next write: a node that stops before finds the message by its
place in the target's schedule.
"""

from __future__ import annotations

import threading
import weakref
from typing import Final

from hyperpy.capabilities import Storage
from hyperpy.encoding import b64u, sha256

from .posted import Posted

_MARK: Final = "pushed/"
_ROOT: Final = "push-root/"
_SPENT: Final = "push-spent/"


def mark_of(sender: str, slot: int, index: str) -> str:
    """Return the name of the mark of one entry of an outbox."""
    return f"{_MARK}{sender}/{slot}/{b64u(sha256(index.encode('utf-8', 'surrogateescape')))}"


class Purse:
    """How many messages one root led to; shared by all who push it at the same time."""

    def __init__(self, root: str, spent: int) -> None:
        self.root = root
        self.lock = threading.Lock()
        self._spent = spent

    @property
    def spent(self) -> int:
        """How many messages were delivered."""
        return self._spent

    def take(self, most: int) -> bool:
        """Count one more message; say no if there are ``most``."""
        with self.lock:
            if self._spent >= most:
                return False
            self._spent += 1
            return True

    def give_back(self) -> None:
        """Count one less: it was not delivered."""
        with self.lock:
            self._spent -= 1


class Marks:
    """Reads marks, and keeps those of one push until they are written."""

    def __init__(self, store: Storage, desk: Desk, purse: Purse) -> None:
        self._store, self._desk = store, desk
        self.purse = purse
        self._later: dict[str, str] = {}

    def known(self, mark: str) -> Posted | None:
        """Return what became of a delivery, if anything did."""
        found = self._later.get(mark) or self._store.named(mark)
        return Posted.read(found) if found is not None else None

    def sending(self, mark: str, posted: Posted) -> None:
        """Note durably that a message is about to be sent, and everything that waits."""
        self._write({mark: str(posted)})

    def delivered(self, mark: str, posted: Posted, process: str) -> None:
        """Note that a message got its slot; :meth:`save` makes it durable."""
        root = f"{process}/{posted.slot}"
        self._desk.fresh[root] = self.purse.root
        self._later[mark] = str(posted)
        self._later[_ROOT + root] = self.purse.root

    def save(self) -> None:
        """Write what waits."""
        if self._later:
            self._write({})

    def _write(self, now: dict[str, str]) -> None:
        with self.purse.lock:
            self._store.link_all({**self._later, **now, _SPENT + self.purse.root: str(self.purse.spent)})
        for name in self._later:
            self._desk.fresh.pop(name.removeprefix(_ROOT), None)
        self._later = {}


class Desk:
    """Finds the purse of a slot."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._purses: weakref.WeakValueDictionary[str, Purse] = weakref.WeakValueDictionary()
        self.fresh: dict[str, str] = {}

    def marks(self, process: str, slot: int) -> Marks:
        """Return what keeps the marks of one push of a slot."""
        own = f"{process}/{slot}"
        root = self.fresh.get(own) or self._store.named(_ROOT + own) or own
        with self._lock:
            purse = self._purses.get(root)
            if purse is None:
                purse = Purse(root, int(self._store.named(_SPENT + root) or 0))
                self._purses[root] = purse
        return Marks(self._store, self, purse)
