"""Who belongs to a zone, epoch by epoch: a chain of messages that its keeper signs (tee-attestation 8.3).

Each entry is one epoch, with one key that its members alone can have:

    ``type``           ``Green-Zone-Epoch``
    ``zone``           ID of the zone, which is that of entry 0; not in entry 0
    ``epoch``          0, 1, 2, ...
    ``reason``         ``init``, ``join``, ``remove``, ``time``, ``order`` or ``restart``
    ``at``             seconds since 1970
    ``policy``         name of the policy by which members are admitted
    ``key-id``         what the epoch's key is known by; says nothing about it
    ``base-hashpath``  the hashpath after the entry before; not in entry 0
    ``body``           a line for each member: address, KEM key, ID of its attestation; sorted

The hashpath after an entry is that of the entry before, with the entry's ID added. Whoever knows one hashpath
can check everything that came after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hyperpy import commitments, hashpath
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import CodecError, InvalidSignature, MessageError
from hyperpy.message import Message, committed_list

TYPE: Final = b"Green-Zone-Epoch"
REASONS: Final = frozenset({"init", "join", "remove", "time", "order", "restart"})
_LINE: Final = re.compile(r"([A-Za-z0-9_-]{43}) ([A-Za-z0-9_-]{43}) ([A-Za-z0-9_-]{43})")
_MOST: Final = 10_000
_NAMES: Final = frozenset({"type", "epoch", "reason", "at", "policy", "key-id", "body"})
_LATER: Final = _NAMES | {"zone", "base-hashpath"}


@dataclass(frozen=True, slots=True)
class Member:
    """A member: public KEM key (X25519) and ID of the attestation that it was admitted by, 32 bytes each."""

    kem: bytes
    attestation: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One epoch, read and checked.

    Attributes:
        zone: the zone's ID. before, after: hashpaths; ``before`` is empty in entry 0.
        at: when it began, seconds. message: as signed.
    """

    zone: str
    epoch: int
    reason: str
    at: int
    key_id: bytes
    members: Mapping[str, Member]
    before: str
    after: str
    message: Message


def draft(
    previous: Entry | None, members: Mapping[str, Member], *, reason: str, at: int, key_id: bytes, policy: str
) -> Message:
    """Return the next entry, to be signed by the keeper."""
    lines = (f"{name} {b64u(one.kem)} {b64u(one.attestation)}" for name, one in sorted(members.items()))
    made: dict[str, Any] = {
        "type": TYPE,
        "epoch": 0 if previous is None else previous.epoch + 1,
        "reason": reason,
        "at": at,
        "policy": policy,
        "key-id": b64u(key_id),
        "body": "\n".join(lines),
    }
    if previous is not None:
        made |= {"zone": previous.zone, "base-hashpath": previous.after}
    return Message(made)


def read(item: Any, keeper: str, after: Entry | None = None) -> Entry:
    """Return an entry that the keeper signed, and that follows ``after`` if that is given.

    Raises:
        MessageError: it is malformed, or does not follow.
        InvalidSignature: the keeper did not sign all of it.
    """
    if not isinstance(item, Message):
        raise MessageError("an epoch of a green zone must be a message")
    check_signed(item, keeper)
    try:
        found = _read(item)
    except (CodecError, MessageError, ValueError) as error:
        raise MessageError(f"an epoch of the green zone is malformed: {error}") from None
    if after is not None:
        follows = (found.zone, found.epoch, found.before) == (after.zone, after.epoch + 1, after.after)
        if not follows or found.at < after.at:
            raise MessageError("an epoch of the green zone does not follow the one before")
    return found


def check_signed(item: Message, signer: str) -> None:
    """Raise InvalidSignature unless the address signed every key, of its own will (not as a reply)."""
    commitments.check(item)
    names = frozenset(item)
    for one in item.commitments.values():
        own = commitments.committer_of(one) == signer and commitments.is_own_word(one)
        if own and names <= frozenset(committed_list(one)):
            return
    raise InvalidSignature(f"{signer} did not sign this", hint="Is the peer's address the right one?")


def _read(item: Message) -> Entry:
    first = item.get("epoch") == 0
    if set(item) != (_NAMES if first else _LATER):
        raise MessageError("a key is missing or unknown")
    epoch, at, reason = item["epoch"], item["at"], item.text("reason")
    good = type(epoch) is int and 0 <= epoch < 1 << 53 and type(at) is int and 0 <= at < 1 << 53
    if not good or item["type"] != TYPE or reason not in REASONS:
        raise MessageError("a key is wrong")
    own = commitments.content_id(item)
    zone = own if first else item.text("zone")
    before = "" if first else item.text("base-hashpath")
    if len(zone) != 43 or len(b64u_decode(item.text("key-id"))) != 32:
        raise MessageError("an ID has the wrong length")
    after = own if first else hashpath.combine(before, own)
    key_id = b64u_decode(item.text("key-id"))
    return Entry(zone, _whole(epoch), reason, _whole(at), key_id, _members(item.text("body")), before, after, item)


def _whole(item: Any) -> int:
    return int(item)


def _members(text: str) -> Mapping[str, Member]:
    lines = text.split("\n")
    found: dict[str, Member] = {}
    for line in lines[: _MOST + 1]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise MessageError("a line about a member is malformed")
        found[match[1]] = Member(b64u_decode(match[2]), b64u_decode(match[3]))
    if list(found) != sorted(found) or len(found) != len(lines):
        raise MessageError("members must be sorted, each once, and not too many")
    return found
