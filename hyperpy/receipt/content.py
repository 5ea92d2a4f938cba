"""What a receipt holds, how its messages are named, and its bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from hyperpy import commitments
from hyperpy.codecs import canonical, whole
from hyperpy.commitments.combined import MAX_SUMMED, combined_id, derivable, raw_id
from hyperpy.commitments.signing import with_commitments
from hyperpy.encoding import b64u, b64u_decode, key_bytes, sha256
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, MessageNotFound, SizeError
from hyperpy.message import Link, Message, Value, committed_list
from hyperpy.trail import Record

VERSION: Final = 1
_EACH, _ALL = 100_000, 4_000_000
"""Links that checking one message may follow, and all of them; 256 bytes that a link leads to count as one, too."""
MAX_BYTES: Final = 512 << 20
"""Bytes; the longest file that is read."""

REASONS: Final = ("large", "private", "gone", "unverifiable", "not asked")
"""Why something is absent: too long for the receipt, not for the asker to read, no longer stored, with a signature
that does not verify (so no ID binds it), or outside the part that was asked for."""

KEYS: Final = (
    *("absent", "evidence", "messages", "origins", "part", "records", "roots", "schedules", "signature", "slots"),
    *("snapshots", "v"),
)
_LIST: Final = b"list"
_RUNS: Final = re.compile(rb"[A-Za-z0-9+/_-]{86,1400}")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_SIZES: Final = (64, 65, 512)
"""Bytes of a data item's signature."""


class ReceiptError(CodecError):
    """The bytes are no receipt.

    Attributes:
        rule: the rule they break: ``digest``, ``canonical``, ``version``, ``form`` or ``order``.
    """

    advice = "Ask for the receipt again: this one was damaged or cut, or is another kind of file."

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Schedule(NamedTuple):
    """Assignments of one process, slot after slot; each whole, as canonical bytes (:mod:`hyperpy.codecs.whole`)."""

    process: bytes
    assignments: tuple[bytes, ...]


class Slot(NamedTuple):
    """Which record computed a slot."""

    process: bytes
    slot: int
    record: bytes


class Snapshot(NamedTuple):
    """A state from which computing went on.

    Attributes:
        state: ID of the state (32 bytes).
        hashpath: the state's; empty if it has none.
        mark: where it stands in the schedule.
    """

    process: bytes
    slot: int
    state: bytes
    hashpath: str
    mark: str


class Absent(NamedTuple):
    """Something named but not held: its ID (32 bytes), why, and its size in bytes if known."""

    id: bytes
    reason: str
    size: int | None = None


@dataclass(frozen=True)
class Receipt:
    """A receipt's content; see the module. Everything is in the file's order.

    Attributes:
        records: their canonical bytes.
        messages: one layer each, nested ones as links.
        signature: the signed message over :attr:`digest`, or None.
    """

    roots: tuple[bytes, ...]
    records: tuple[bytes, ...] = ()
    messages: tuple[Value, ...] = ()
    origins: tuple[bytes, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    slots: tuple[Slot, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    part: str = ""
    evidence: tuple[bytes, ...] = ()
    absent: tuple[Absent, ...] = ()
    signature: Message | None = None

    @cached_property
    def steps(self) -> dict[bytes, Record]:
        """The records by ID, in the file's order."""
        return {sha256(data): Record.decode(data) for data in self.records}

    @cached_property
    def names(self) -> dict[int, bytes]:
        """The messages' IDs (:func:`name_of`), by the entries' identities: they are computed once."""
        return {id(item): name_of(item) for item in self.messages}

    @cached_property
    def assignments(self) -> dict[bytes, tuple[Message, ...]]:
        """The schedules' assignments by process."""
        return {one.process: tuple(map(_assignment, one.assignments)) for one in self.schedules}

    @cached_property
    def sent(self) -> frozenset[bytes]:
        """What may be signatures in the kept requests."""
        found: set[bytes] = set()
        for origin in self.origins:
            with suppress(CodecError, SizeError):
                found |= signatures_in(origin)
        return frozenset(found)

    @cached_property
    def items(self) -> tuple[tuple[bytes, Value], ...]:
        """Every message held, each with its ID; links load from here. Those of schedules come last."""
        found = [(self.names[id(item)], self._linked(item)) for item in self.messages]
        return (*found, *self.scheduled)

    @cached_property
    def scheduled(self) -> tuple[tuple[bytes, Value], ...]:
        """The messages that schedules hold: the assignments and what is nested in them."""
        every = [one for each in self.assignments.values() for one in each]
        return tuple([(name_of(part), part) for one in every for part in walk(one)])

    @cached_property
    def index(self) -> dict[bytes, Value]:
        """Every message that can be read here, by each ID it is found under; its links load from here."""
        found: dict[bytes, Value] = {}
        for name, item in self.items:
            found.setdefault(name, item)
        for _, item in self.items:
            if type(item) is Message and item.commitments:
                found.setdefault(commitments.content_key(item), with_commitments(item, {}))
        return found

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the content without signature (32 bytes): what is signed, and the same however often it is."""
        return sha256(b"".join(joined(fields_of(self) | {"signature": None})))

    def read(self, ref: str | bytes) -> Value:
        """Return the message of an ID, its links loading from here.

        Raises:
            MessageNotFound: the receipt does not hold it.
        """
        raw = ref if isinstance(ref, bytes) else raw_id(ref)
        found = self.index.get(raw) if raw is not None else None
        if found is None:
            raise MessageNotFound(f"the receipt does not hold {ref if isinstance(ref, str) else b64u(ref)}")
        return found

    @cached_property
    def signers(self) -> tuple[str, ...]:
        """Whose signature stands under the receipt, each one verified; nobody's if one does not hold."""
        signature, wanted = self.signature, self.statement()
        if signature is None or dict(signature.raw_items()) != dict(wanted.raw_items()):
            return ()
        if any(set(committed_list(fields)) != {"type", "digest"} for fields in signature.commitments.values()):
            return ()  # a node signs many things on request, but with a status, and never just these two
        try:
            genuine(signature)
        except HyperpyError:
            return ()
        return commitments.committers(signature)

    def allow(self) -> None:
        """Let links be followed anew, so far: messages that share parts can mean far more than they hold."""
        left, given, total = self._room
        total -= given - left
        given = max(0, min(_EACH, total))
        self._room[:] = [given, given, total]

    @cached_property
    def _room(self) -> list[int]:
        return [_EACH, _EACH, _ALL]

    def _load(self, ref: str) -> Value:
        found = self.read(ref)
        self._room[0] -= 1 + _size(found) // 256
        if self._room[0] < 0:
            raise SizeError("a message of the receipt holds too many parts")
        return found

    def signed(self, sign: Any) -> Receipt:
        """Return the receipt with a signature; ``sign`` turns a message into the signed one."""
        return replace(self, signature=sign(self.statement()))

    def statement(self) -> Message:
        """Return the message that signers of this receipt sign."""
        return Message.make({"type": b"receipt", "digest": b64u(self.digest).encode()})

    def _linked(self, item: Value) -> Value:
        """Return a shallow value whose links load from this receipt."""
        if type(item) is tuple:
            return tuple([Link(one.id, self._load) if type(one) is Link else one for one in item])
        if type(item) is not Message or Link not in set(map(type, item.raw_items().values())):
            return item
        items: dict[str, Value] = {
            key: Link(one.id, self._load) if type(one) is Link else one for key, one in item.raw_items().items()
        }
        made = Message.make(items, item.commitments)
        made.memo.update(item.memo)
        return made


# -- names -----------------------------------------------------------------------------------


def name_of(item: Value) -> bytes:
    """Return the ID (32 bytes) that a message has in a receipt.

    The unsigned ID if nobody signed it, the signed ID if its signatures cover every key, else the combined ID.

    Raises:
        CodecError: it has none of 32 bytes.
    """
    if type(item) is not Message or not item.commitments:
        return commitments.content_key(item)
    covered: set[str] = set()
    for fields in item.commitments.values():
        covered.update(committed_list(fields))
    whole_id = commitments.signed_id(item) if covered.issuperset(item.raw_items()) else combined_id(item) or ""
    raw = raw_id(whole_id)
    if raw is None:
        raise CodecError("a signed message has no ID: a commitment is not named by its signature")
    return raw


def shallow(item: Value) -> Value:
    """Return a value with links for what is nested."""
    if type(item) is tuple:
        return tuple([_link(one) for one in item])
    if type(item) is Message:
        return Message.make({key: _link(one) for key, one in item.raw_items().items()}, lasting(item))
    return item


def _link(child: Value) -> Value:
    kind = type(child)
    if kind is Message or kind is tuple:
        return Link(commitments.signed_id(child))
    return Link(child.id) if kind is Link else child  # type: ignore[union-attr]


def lasting(item: Message) -> dict[str, Message]:
    """Return a message's commitments; none if all of them can be computed by everybody."""
    found = dict(item.commitments)
    return {} if all(map(derivable, found.values())) else found


def _size(item: Value) -> int:
    """Return about how many bytes a value of one layer holds."""
    if type(item) is bytes:
        return len(item)
    if type(item) is not Message:
        return 32 * len(item) if type(item) is tuple else 0
    known = item.memo.get("receipt-size")
    if known is None:
        held = item.raw_items()
        known = sum(map(len, held)) + sum(len(one) if type(one) is bytes else 32 for one in held.values())
        item.memo["receipt-size"] = known
    return int(known)


def walk(item: Value) -> Iterator[Value]:
    """Yield a value and what is held in it, without loading links."""
    todo = [item]
    while todo:
        one = todo.pop()
        yield one
        held = one.raw_items().values() if type(one) is Message else one if type(one) is tuple else ()
        todo += [part for part in held if type(part) is Message or type(part) is tuple]


# -- signatures ----------------------------------------------------------------------------


def genuine(item: Message) -> None:
    """Refuse a message unless each of its commitments is genuine, and says by which device it was made.

    Raises:
        CommitmentError, HyperpyError: one is not.
    """
    formed(item)
    commitments.check(item, committers=(), ids="all")


def formed(item: Message) -> None:
    """Refuse a message with a commitment that is not written in the one way.

    Raises:
        InvalidSignature: there is one.
    """
    if len(item.commitments) > MAX_SUMMED:
        raise InvalidSignature(f"more than {MAX_SUMMED} commitments on one message")
    for name, fields in item.commitments.items():
        if "commitment-device" not in fields:
            raise InvalidSignature(f"commitment {name!a} does not say by which device it was made")
        told = fields.raw("signature")
        if isinstance(told, bytes) and b64u(b64u_decode(told)).encode() != told:
            raise InvalidSignature(f"commitment {name!a} does not write its signature in the one way")


def came_with(item: Message, sent: Collection[bytes]) -> bool:
    """Say whether all signatures that a message bears, by their bytes, are those of kept requests.

    Each part of a signed path bears the signatures of the whole (ao-core 11, row 16). They do not verify there: what
    they cover is in the request as it came. Only :func:`hyperpy.audit.verified.replayed` reads that.

    Args:
        sent: of :func:`signatures_in` all kept requests.
    """
    told = [fields.raw("signature") for fields in item.commitments.values() if not derivable(fields)]
    return bool(told) and all(isinstance(one, bytes) and b64u_decode(one) in sent for one in told)


def signatures_in(origin: bytes) -> set[bytes]:
    """Return what may be signatures in a kept request: in a header or in JSON as base64, in a data item as they are."""
    found = set()
    for run in _RUNS.findall(origin):
        with suppress(CodecError):
            found.add(b64u_decode(run.translate(_TO_URL)))
    fields = canonical.decode(origin) if b"ans104" in origin else None
    body = fields.raw("body") if isinstance(fields, Message) else None
    if isinstance(body, bytes):
        found.update(body[2 : 2 + size] for size in _SIZES)
    return found


# -- bytes -----------------------------------------------------------------------------------


def encode(receipt: Receipt) -> bytes:
    """Return the file.

    Raises:
        CodecError, SizeError: a value has no canonical form.
    """
    data = b"".join(joined(fields_of(receipt)))
    return data + sha256(data)


def ordered(receipt: Receipt) -> Receipt:
    """Return the receipt in the file's order, duplicates removed."""
    return replace(
        receipt,
        roots=tuple(sorted(set(receipt.roots))),
        records=_by(sha256, receipt.records),
        messages=_by(name_of, receipt.messages),
        origins=_by(sha256, receipt.origins),
        schedules=tuple(sorted(receipt.schedules)),
        slots=tuple(sorted(set(receipt.slots))),
        snapshots=tuple(sorted(set(receipt.snapshots))),
        evidence=_by(sha256, receipt.evidence),
        absent=_by(lambda one: one.id, receipt.absent),
    )


def _by(name: Any, items: Iterable[Any]) -> tuple[Any, ...]:
    found = {name(item): item for item in items}
    return tuple([found[key] for key in sorted(found)])


def fields_of(receipt: Receipt) -> dict[str, Any]:
    return {
        "v": VERSION,
        "roots": receipt.roots,
        "records": receipt.records,
        "messages": tuple([written(item) for item in receipt.messages]),
        "origins": receipt.origins,
        "schedules": receipt.schedules,
        "slots": receipt.slots,
        "snapshots": tuple((*one[:3], key_bytes(one.hashpath), key_bytes(one.mark)) for one in receipt.snapshots),
        "part": key_bytes(receipt.part) if receipt.part else None,
        "evidence": receipt.evidence,
        "absent": tuple((one.id, one.reason.encode(), one.size) for one in receipt.absent),
        "signature": None if receipt.signature is None else whole.plain(receipt.signature),
    }


def joined(fields: dict[str, Any]) -> list[bytes]:
    """Return the map's canonical bytes in pieces: its head, then each key and value."""
    pieces = [bytes([0x80 + len(KEYS)])]
    for name in KEYS:
        pieces += [canonical.encode(name), canonical.encode(_tuples(fields[name]))]
    return pieces


def _tuples(item: Any) -> Any:
    """Return named tuples inside one another as plain ones."""
    return tuple(map(_tuples, item)) if isinstance(item, tuple) else item


def written(item: Value) -> Value:
    """Return a shallow value as it stands in the file."""
    if type(item) is tuple:
        return (_LIST, *item)
    if type(item) is Message and item.commitments:
        signed = {name: whole.plain(fields) for name, fields in item.commitments.items()}
        return (Message.make(dict(item.raw_items())), Message.make(signed))
    return item


def _assignment(data: bytes) -> Message:
    found = whole.decode(data)
    if type(found) is not Message:
        raise CodecError("an assignment is no message")
    return found
