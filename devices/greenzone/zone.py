"""What this node holds of a zone: the entries durably, keys in memory alone.

A key that is let go of (the zone is left, its epoch is long over, the node stops) is overwritten where it was held.
What the language and its libraries copied meanwhile they free without overwriting it, in the node's own memory.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyperpy import commitments
from hyperpy.capabilities import Storage
from hyperpy.errors import ConfigError, HyperpyError, MessageError, MessageNotFound, SizeError
from hyperpy.message import Message

from . import epochs, keys
from .epochs import Entry, Member

KEPT: Final = 4
"""Keys of how many epochs are kept, so that what is under way can still be read."""
BATCH: Final = 100
"""Entries that are handed out at once."""
_ZONE: Final = "greenzone/zone"
_ENTRY: Final = "greenzone/entry/"
_OUT: Final = "greenzone/removed/"


@dataclass(slots=True)
class Held:
    """A zone that this node belongs to.

    Attributes:
        keeper: who signs its epochs. peer: the keeper's URL; empty on the keeper itself.
        entry: the newest epoch known. keys: by epoch; empty after a restart.
        kem: what new keys are sealed to; None after a restart.
    """

    keeper: str
    peer: str
    entry: Entry
    keys: dict[int, bytearray] = field(default_factory=dict, repr=False)
    kem: X25519PrivateKey | None = field(default=None, repr=False)


class Zone:
    """The zone of one node, its keeper or a member of it. Thread-safe.

    Args:
        sign: signs with the node's key.
    """

    def __init__(self, address: str, sign: Callable[[Message], Message], store: Storage) -> None:
        self._address, self._sign, self._store = address, sign, store
        self._lock = threading.RLock()
        self._held = self._load()

    @property
    def held(self) -> Held | None:
        """The zone, if this node belongs to one."""
        return self._held

    @property
    def keeps(self) -> bool:
        """Whether this node is the zone's keeper."""
        return self._held is not None and not self._held.peer

    @property
    def members(self) -> Mapping[str, Member]:
        """The members of the newest epoch known."""
        return self._held.entry.members if self._held is not None else {}

    def key(self, purpose: str, epoch: int | None = None) -> bytes:
        """Return the key (32 bytes) of an epoch, default the newest, for one purpose. It must never leave the node.

        Raises:
            ConfigError: this node has no key of that epoch.
        """
        with self._lock:
            held = self._held
            found = None if held is None else held.keys.get(held.entry.epoch if epoch is None else epoch)
            if held is None or found is None:
                raise ConfigError("this node has no key of that epoch", hint="Join the zone, again after a restart.")
            entry = held.entry if epoch in (None, held.entry.epoch) else self._entry(held, epoch or 0)
            return keys.derived(found, entry, purpose)

    # -- the keeper's side ---------------------------------------------------------------------

    def begin(self, own: Member, kem: X25519PrivateKey, *, at: float, policy: str) -> Entry:
        """Make a zone with this node as its keeper and only member.

        Raises:
            ConfigError: it belongs to one already.
        """
        with self._lock:
            if self._held is not None:
                raise ConfigError("Green zone already initialized.")
            entry, key = self._signed(None, {self._address: own}, "init", at, policy)
            self._take(Held(self._address, "", entry, {0: key}, kem))
            return entry

    def change(
        self,
        reason: str,
        at: float,
        policy: str,
        edit: Callable[[dict[str, Member]], None] = lambda members: None,
        most: int = 10_000,
    ) -> Entry:
        """Begin a new epoch, with a new key, once ``edit`` changed its members; return it.

        Raises:
            ConfigError: this node keeps no zone. SizeError: there would be more than ``most`` members.
        """
        with self._lock:
            held = self._held
            if held is None or held.peer:
                raise ConfigError("this node keeps no green zone", hint="Ask the zone's keeper.")
            members = dict(held.entry.members)
            edit(members)
            if len(members) > most:
                raise SizeError(f"the zone may have {most} members")
            entry, key = self._signed(held.entry, members, reason, at, policy)
            kept = {number: one for number, one in held.keys.items() if number > entry.epoch - KEPT}
            self._take(Held(held.keeper, "", entry, {**kept, entry.epoch: key}, held.kem))
            return entry

    def remove(self, address: str, at: float, policy: str) -> Entry:
        """Begin an epoch without a member, who stays out until :meth:`readmit`; durably, the keeper's restart included.

        Raises:
            ConfigError: this node keeps no zone.
        """
        with self._lock:
            entry = self.change("remove", at, policy, lambda members: _without(members, address))
            self._store.link(_OUT + address, commitments.signed_id(entry.message))
            return entry

    def readmit(self, address: str) -> bool:
        """Let a removed node join again; return whether it had been removed."""
        known = self.removed(address)
        if known:
            self._store.link(_OUT + address, "")
        return known

    def removed(self, address: str) -> bool:
        """Say whether a node was removed and not readmitted."""
        return bool(self._store.named(_OUT + address))

    def current(self, at: float, life: float, policy: str) -> Entry:
        """Return the keeper's epoch; a new one if its time is over, or if its key was lost with the process."""
        with self._lock:
            held = self._held
            if held is not None and not held.peer:
                if held.entry.epoch not in held.keys:
                    return self.change("restart", at, policy)
                if at < held.entry.at + life:
                    return held.entry
            return self.change("time", at, policy)

    def grant(self, recipient: str, echo: bytes) -> tuple[Entry, bytes]:
        """Return the newest entry, and its key with ``echo`` sealed to a member of it."""
        with self._lock:
            held = self._held
            if held is None or recipient not in held.entry.members:
                raise ConfigError(f"{recipient} is no member of the green zone")
            entry, plain = held.entry, bytes(held.keys[held.entry.epoch]) + echo
        sealed = keys.seal(plain, entry.members[recipient].kem, keys.grant_info(entry, recipient))
        return entry, sealed

    def news(self, recipient: str, after: int, echo: bytes) -> tuple[Entry, Sequence[Message], bytes | None]:
        """Return the newest entry, those after an epoch, and its key as :meth:`grant` does; None: there are more."""
        with self._lock:
            entries = self.entries(after + 1)
            entry, sealed = self.grant(recipient, echo)
            return entry, entries, sealed if len(entries) < BATCH else None

    def entries(self, first: int) -> Sequence[Message]:
        """Return the signed entries from an epoch on, at most :data:`BATCH`."""
        held = self._held
        if held is None:
            return ()
        last = min(held.entry.epoch, first + BATCH - 1)
        return [self._entry(held, number).message for number in range(max(first, 0), last + 1)]

    # -- a member's side -----------------------------------------------------------------------

    def joined(self, keeper: str, peer: str, item: object, sealed: bytes, kem: X25519PrivateKey, echo: bytes) -> Entry:
        """Take the entry that names this node a member, and its key.

        Raises:
            MessageError, InvalidSignature, AttestationError: it is not the keeper's, not for this node or key.
        """
        entry = epochs.read(item, keeper)
        known = self._held
        if known is not None and known.entry.zone == entry.zone and entry.epoch <= known.entry.epoch:
            raise MessageError("the keeper answered with an epoch that is over")
        self._take(Held(keeper, peer, entry, {entry.epoch: self._opened(entry, sealed, kem, echo)}, kem))
        return entry

    def advanced(self, items: Sequence[object], sealed: bytes | None, echo: bytes) -> Entry:
        """Take the entries after the one known, and the key of the last; None: there are more to come.

        Raises:
            MessageError, InvalidSignature, AttestationError: see :meth:`joined`.
        """
        with self._lock:
            held = self._held
            if held is None or held.kem is None or not held.peer:
                raise ConfigError("this node must join the green zone", hint="Its keys are not kept over a restart.")
            if len(items) > BATCH:
                raise SizeError(f"the keeper handed out more than {BATCH} epochs at once")
            entry = held.entry
            passed = []
            for item in items:
                entry = epochs.read(item, held.keeper, entry)
                passed.append(entry)
            kept = {number: one for number, one in held.keys.items() if number > entry.epoch - KEPT}
            if sealed is not None:
                kept[entry.epoch] = self._opened(entry, sealed, held.kem, echo)
            elif len(passed) < BATCH:
                raise MessageError("the keeper handed out no key")
            for one in passed:
                self._write(one)
            self._take(Held(held.keeper, held.peer, entry, kept, held.kem))
            return entry

    def _opened(self, entry: Entry, sealed: bytes, kem: X25519PrivateKey, echo: bytes) -> bytearray:
        own = entry.members.get(self._address)
        if own is None or own.kem != kem.public_key().public_bytes_raw():
            raise MessageError("the keeper's epoch does not have this node, with its key, as a member")
        plain = keys.unseal(sealed, kem, keys.grant_info(entry, self._address))
        key = bytearray(plain[:32])
        if len(plain) != 64 or not secrets.compare_digest(plain[32:], echo) or keys.named(key) != entry.key_id:
            raise MessageError("the keeper's answer is not to this request, or its key is not the epoch's")
        return key

    # -- keeping -------------------------------------------------------------------------------

    def leave(self) -> None:
        """Forget the zone and its keys."""
        with self._lock:
            self.drop()
            self._held = None
            self._store.link(_ZONE, "")

    def drop(self) -> None:
        """Let go of all keys; the zone itself is remembered, as after a restart."""
        with self._lock:
            if self._held is not None:
                _wiped(self._held, ())
                self._held.keys, self._held.kem = {}, None

    def _signed(
        self, previous: Entry | None, members: Mapping[str, Member], reason: str, at: float, policy: str
    ) -> tuple[Entry, bytearray]:
        key = bytearray(secrets.token_bytes(32))
        at = max(int(at), previous.at if previous is not None else 0)
        made = epochs.draft(previous, members, reason=reason, at=int(at), key_id=keys.named(key), policy=policy)
        return epochs.read(self._sign(made), self._address), key

    def _take(self, held: Held) -> None:
        with self._lock:
            self._write(held.entry)
            about = Message({"keeper": held.keeper, "peer": held.peer, "zone": held.entry.zone})
            ref = self._store.write(about | {"epoch": held.entry.epoch})
            self._store.link(_ZONE, ref)
            if self._held is not None:
                _wiped(self._held, held.keys.values())
            self._held = held

    def _write(self, entry: Entry) -> None:
        self._store.write(entry.message)
        self._store.link(_name(entry.zone, entry.epoch), commitments.signed_id(entry.message))

    def _entry(self, held: Held, epoch: int) -> Entry:
        if epoch == held.entry.epoch:
            return held.entry
        ref = self._store.named(_name(held.entry.zone, epoch))
        if ref is None:
            raise MessageNotFound(f"this node has no entry of epoch {epoch}")
        return epochs.read(self._store.read(ref), held.keeper)

    def _load(self) -> Held | None:
        ref = self._store.named(_ZONE)
        try:
            about = self._store.read(ref) if ref else None
            if not isinstance(about, Message):
                return None
            found = self._store.named(_name(about.text("zone"), int(about.text("epoch"))))
            entry = epochs.read(self._store.read(found or ""), about.text("keeper"))
        except HyperpyError:
            return None
        return Held(about.text("keeper"), about.text("peer"), entry)


def _name(zone: str, epoch: int) -> str:
    return f"{_ENTRY}{zone}/{epoch}"


def _wiped(held: Held, kept: Iterable[bytearray]) -> None:
    """Overwrite the keys of a zone but those that are kept."""
    staying = {id(one) for one in kept}
    for one in held.keys.values():
        if id(one) not in staying:
            one[:] = bytes(len(one))


def _without(members: dict[str, Member], address: str) -> None:
    members.pop(address, None)
