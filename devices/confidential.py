"""confidential@1.0: executes a process whose messages, state and answers only its own machine reads.

See :mod:`hyperpy.confidential` for what senders and machine agree on. Inside, another device executes the process;
that runs beside the request that asks for a slot: nothing of it is recorded, stored or logged. What the slot
leaves outside is the state's mark, the keys that the definition makes public, and the answer, encrypted for the
sender.

Everything that decides what is opened, and for whom, is read from the definition, whose signature is verified, from
an assignment that the process's scheduler signed, and from the state inside; nothing from the base beside it, which
anybody can put together.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hyperpy import Context, Message, Result, commitments, confidential, default, device, key, slot_rules
from hyperpy.capabilities import Attester
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, key_bytes, native, sha256
from hyperpy.errors import (
    Busy,
    CommitmentError,
    DeviceError,
    HyperpyError,
    KeyNotFound,
    MessageError,
    ParameterError,
    SealedElsewhere,
)
from hyperpy.message import Value, as_text, committed_list
from hyperpy.schedule_rules import check_assignment, schedulers_of, slot_of

_HELD: Final = "confidential"
_MARK: Final = "confidential-state"
_OWN: Final = frozenset({"device", "process", "at-slot", "snapshot", "initialized", "results", _MARK})
"""Keys of the state outside that are never taken from inside; ``results`` are where they are public."""
_MAX_PUBLIC: Final = 64
_MAX_SHOWN: Final = 48
"""Lists and maps inside one another in a public key: below what a message may have, for the state is around it."""
_UNREADABLE: Final = (
    f"what was sealed does not open, or is no message with a '{confidential.REPLY}' of 32 bytes, without links and at "
    f"most {confidential.MAX_DEPTH} deep"
)
_NOT_NOW: Final = "what is inside this process cannot be computed now"
_NOT_KEPT: Final = b"what the process made of this cannot be written: nested too deeply, or no value of a message"


@dataclass(frozen=True, slots=True)
class _Held:
    """The state inside. It stands in the private part of the state outside, which no store, trail or log sees.

    Attributes:
        slot: the slot it is the state after.
        numbers: the last number of each sender's sealed messages, for at most ``confidential.MAX_SENDERS``.
        said: digest of all senders and numbers so far, in their order: what stands for ``numbers`` in the mark.
    """

    state: Message
    slot: int
    numbers: Mapping[str, int]
    said: bytes = bytes(32)

    def after(self, state: Message, slot: int, opened: _Opened | None) -> _Held:
        """Return what is held after a slot, whose message is none unless it came sealed."""
        if opened is None:
            return _Held(state, slot, self.numbers, self.said)
        said = sha256(self.said + native(opened.sender) + opened.number.to_bytes(8, "big"))
        return _Held(state, slot, {**self.numbers, opened.sender: opened.number}, said)


@dataclass(frozen=True, slots=True)
class _Process:
    """What a verified definition says."""

    ident: str
    definition: Message

    @property
    def public(self) -> list[str]:
        """Keys of the state inside that everybody may see."""
        text = self.definition.text(confidential.PUBLIC, "")
        named = [name.strip() for name in text.split(",")] if text else []
        if len(named) > _MAX_PUBLIC:
            raise ParameterError(f"'{confidential.PUBLIC}' names at most {_MAX_PUBLIC} keys", name=confidential.PUBLIC)
        return [name for name in named if name]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A sealed message, opened."""

    sender: str
    number: int
    sealed: bytes
    secret: bytes
    items: Mapping[str, Value]


@device(
    "confidential@1.0",
    needs=("attester",),
    excludes=("keys", "set", "encode", "decode", "id", "commitments", "committers", "path", "remove", "verify"),
    uses=("hyperpy.confidential",),
)
class Confidential:
    """Executes a process for one attested machine: messages may come sealed to it, and answers go sealed to senders.

    The definition names ``confidential-device``, ``confidential-key``, ``confidential-node`` and perhaps
    ``confidential-public``; see docs/attestation.md. Every other machine answers 409: it lacks the key.
    """

    def start(self, attester: Attester) -> None:
        """Take what opens sealed texts."""
        self._attester = attester

    @key
    def init(self, base: Message, ctx: Context) -> Message:
        """Begin the state inside."""
        process = self._mine(base)
        inner = _begun(process)
        made = self._life(inner, {"path": "init"}, ctx)
        state = inner if made is None else made
        return base.with_private(**{_HELD: _Held(state | {"initialized": "true"}, -1, {})})

    @key
    def snapshot(self, base: Message, ctx: Context) -> Message:
        """Return the state inside, encrypted for this machine alone."""
        process, held = self._mine(base), _held(base)
        found = self._life(held.state, {"path": "snapshot", "mode": "Map"}, ctx)
        made: dict[str, Any] = {
            "state": _bare(held.state.without("process")),
            "snapshot": Message() if found is None else _bare(found),
            "slot": held.slot,
            "numbers": Message(dict(held.numbers)),
            "said": held.said,
        }
        try:
            plain = canonical.encode(Message(made))
        except (MessageError, RecursionError):
            raise DeviceError("the state inside this process cannot be written") from None
        return Message({"sealed": confidential.encrypted(self._key(process, b"state"), plain)})

    @key
    def normalize(self, base: Message, ctx: Context) -> Message:
        """Take the state inside up again from a snapshot of this machine's."""
        process = self._mine(base)
        kept = base.get("snapshot")
        sealed = kept.get("sealed") if isinstance(kept, Message) else None
        if not isinstance(sealed, bytes):
            raise KeyNotFound("there is no snapshot to go on from")
        found = canonical.decode(confidential.decrypted(self._key(process, b"state"), sealed))
        assert isinstance(found, Message)
        inner, snapshot, numbers, said = (found.get(name) for name in ("state", "snapshot", "numbers", "said"))
        if not isinstance(inner, Message) or not isinstance(numbers, Message) or not isinstance(said, bytes):
            raise ParameterError("the snapshot is of another form", name="snapshot")
        state = Message.make({**inner.raw_items(), "process": process.definition})
        if isinstance(snapshot, Message) and len(snapshot):
            made = self._life(state | {"snapshot": snapshot}, {"path": "normalize"}, ctx)
            if made is None:
                raise DeviceError("the device inside this process makes snapshots and takes none up")
            state = state.with_private(**{n: one for n, one in made.private.items() if n != "hashpath"})
        slot = found.get("slot")
        counts = {name: one for name in numbers if isinstance(one := numbers[name], int)}
        held = _Held(state, slot if isinstance(slot, int) else -1, counts, said)
        return base.without("snapshot").with_private(**{_HELD: held})

    @default
    def slot(self, key: str, base: Message, request: Message, ctx: Context) -> Result:
        """Compute the slot of an assignment; anything else reads the state outside."""
        if isinstance(whole := request.get("assignment"), Message):  # one whose path may not be called
            request = whole
        if "slot" not in request or "body" not in request:
            if key in base:
                return Result("ok", base[key])
            raise KeyNotFound(f"the state shows no '{key[:60]}'")
        process, held = self._mine(base), _held(base)
        check_assignment(process.ident, request, schedulers_of(process.definition))
        number = slot_of(request)
        if number != held.slot + 1:
            raise ParameterError(f"slot {number} does not follow slot {held.slot}", name="slot")
        body = request.get("body")
        opened = None
        try:
            if not isinstance(body, Message):
                raise ParameterError("an assignment's body is a message", name="body")
            if "sealed" in body:
                opened = self._opened(process, body, held)
                body = Message.make({**opened.items, "from": opened.sender.encode()})
            else:
                body = _from_signer(body)
        except (MessageError, CommitmentError) as error:
            refused = Message({"error": error.message})
            return Result("ok", self._outside(process, base, replace(held, slot=number), refused))
        asked = request | {"body": body}
        state, answer = self._executed(held.state, asked, ctx)
        after = held.after(state | {"at-slot": number}, number, opened)
        try:
            made = self._outside(process, base, after, self._results(process, answer, opened, number))
        except (MessageError, RecursionError):
            after = replace(after, state=held.state.without("results") | {"at-slot": number})
            lost = Message({"error": _NOT_KEPT})
            made = self._outside(process, base, after, self._results(process, lost, opened, number))
        return Result("ok", made)

    # -- what is sealed --------------------------------------------------------------------------

    def _mine(self, base: Message) -> _Process:
        """Return the process, which this machine computes.

        Raises:
            InvalidSignature: the definition does not verify.
            SealedElsewhere: another machine computes it, or this one did before it was started again.
        """
        known = commitments.only_committed(found) if (found := slot_rules.definition(base)).commitments else found
        commitments.check(known)
        if not self._attester.kind or known.get(confidential.KEY) != b64u(self._attester.kem).encode():
            raise SealedElsewhere("this process is confidential to a machine, or a run of it, that this one is not")
        return _Process(commitments.signed_id(known), known)

    def _key(self, process: _Process, use: bytes) -> bytes:
        """Return a key (64 bytes) of this machine's for one process and use."""
        return self._attester.derived(use + b"\0" + native(process.ident))

    def _opened(self, process: _Process, body: Message, held: _Held) -> _Opened:
        """Return a sealed message opened; what every machine with the key refuses alike is refused.

        Raises:
            MessageError, CommitmentError: it is not signed by one sender, was sealed to another key or for another
                sender, process or number, or its number was there before.
        """
        names = set(confidential.SEALED)
        made = [one for one in body.commitments.values() if names <= set(committed_list(one))]
        signers = {who for one in made if (who := commitments.committer_of(one)) is not None}
        if len(signers) != 1:
            raise ParameterError(f"one sender signs a sealed message's {', '.join(confidential.SEALED)}")
        commitments.check(body)
        (sender,) = signers
        number = body.get("number")
        if isinstance(number, bytes) and number.isdigit() and len(number) < 20:
            number = int(number)
        if type(number) is not int or number <= held.numbers.get(sender, -1):
            raise ParameterError("a sealed message's number is above those of its sender before", name="number")
        if sender not in held.numbers and len(held.numbers) >= confidential.MAX_SENDERS:
            most = confidential.MAX_SENDERS
            raise ParameterError(f"this process takes sealed messages of {most} senders, and no others")
        sealed, attestation = (b64u_decode(as_text(body.get(name, b""))) for name in ("sealed", "attestation"))
        address = b64u_decode(process.definition.text(confidential.NODE, ""))
        info = confidential.info(attestation, body.text("policy", ""), address, process.ident, sender, number)
        try:
            found = canonical.decode(self._attester.unseal(sealed, info))
            confidential.check_form(found, confidential.MAX_DEPTH, links=False)
        except (HyperpyError, ValueError, RecursionError):
            found = None  # what is wrong with it may say what was sealed
        secret = found.raw(confidential.REPLY) if isinstance(found, Message) else None
        if not isinstance(found, Message) or not isinstance(secret, bytes) or len(secret) != 32:
            raise ParameterError(_UNREADABLE)
        items = {name: item for name, item in found.raw_items().items() if name != confidential.REPLY}
        return _Opened(sender, number, sealed, secret, items)

    # -- inside ----------------------------------------------------------------------------------

    def _inside(self, base: Message, request: Mapping[str, Any] | Message, ctx: Context) -> Result:
        asked = request if isinstance(request, Message) else Message(request)
        return self._attester.privately(asked, ctx.deadline, base=base)

    def _life(self, base: Message, request: Mapping[str, Any], ctx: Context) -> Message | None:
        """Return what a key of the life of the device inside makes; None where it has no such key.

        Raises:
            Busy, DeviceError: it failed. No error comes out as it is: its text may say what was sealed.
        """
        try:
            made = self._inside(base, request, ctx)
        except KeyNotFound:
            return None
        except slot_rules.PASSING:
            raise Busy(_NOT_NOW) from None
        except HyperpyError:
            made = Result("error", b"")
        if made.status != "ok" or not isinstance(made.value, Message):
            raise DeviceError(f"'{request['path']}' of the device inside this process failed")
        return made.value

    def _executed(self, state: Message, request: Message, ctx: Context) -> tuple[Message, Message]:
        """Return the state inside after a slot, and what it answers: ``results``, or ``error``.

        No error of what is inside comes out as it is: its text may say what was sealed.
        """
        base = state.without("results")
        try:
            try:
                result = self._inside(base, request | {"path": slot_rules.COMPUTE}, ctx)
            except HyperpyError as error:
                result = slot_rules.lasting(error)
        except HyperpyError:
            raise Busy(_NOT_NOW) from None
        if result.status != "ok" or not isinstance(result.value, Message):
            return base, Message({"error": slot_rules.error_text(result)})
        found = result.value.get("results")
        return result.value, Message({"results": _bare(found)} if isinstance(found, Message) else {})

    # -- outside ---------------------------------------------------------------------------------

    def _results(self, process: _Process, answer: Message, opened: _Opened | None, slot: int) -> Message:
        """Return ``results`` as everybody sees them."""
        made: dict[str, Any] = {}
        shown = answer.get("results")
        if "results" in process.public and isinstance(shown, Message):
            made |= dict(shown.raw_items())
        if opened is not None:
            answer_key = confidential.answer_key(opened.secret, process.ident, opened.sealed, slot)
            made["sealed"] = b64u(confidential.encrypted(answer_key, canonical.encode(answer)))
            made["request-digest"] = b64u(sha256(opened.sealed))
        return Message.make({name: as_bytes(item) for name, item in made.items()})

    def _outside(self, process: _Process, base: Message, held: _Held, results: Message) -> Message:
        """Return the state as everybody sees it."""
        items = {name: item for name, item in base.raw_items().items() if name not in process.public or name in _OWN}
        inner = held.state.raw_items()
        items |= {name: inner[name] for name in process.public if name in inner and name not in _OWN}
        for name in process.public:
            confidential.check_form(results if name == "results" else items.get(name, b""), _MAX_SHOWN)
        told = commitments.content_id(_bare(held.state.without("process")))
        text = key_bytes(told) + held.slot.to_bytes(8, "big", signed=True) + held.said
        mark = hmac.digest(self._key(process, b"mark"), text, "sha256")
        items["results"], items[_MARK] = results, b64u(mark).encode()
        return Message.make(items, {}, {**base.private, _HELD: held})


def as_bytes(item: Any) -> Any:
    """Return text as a message holds it."""
    return item.encode() if isinstance(item, str) else item


def _from_signer(body: Message) -> Message:
    """Return an unsealed message as it is read inside: what is signed of it, and ``from``, its one signer.

    Signed by nobody, or by several, it has no ``from``.

    Raises:
        CommitmentError: a signature does not verify.
    """
    commitments.check(body)
    signers = commitments.committers(body)
    known = commitments.only_committed(body)
    return known | {"from": signers[0].encode()} if len(signers) == 1 else known.without("from")


def _begun(process: _Process) -> Message:
    """Return the state inside before anything ran: the definition, and nothing of the base beside it."""
    named = process.definition.get(confidential.DEVICE)
    if not isinstance(named, bytes) or named == b"confidential@1.0":
        raise ParameterError(f"the definition names no '{confidential.DEVICE}'", name=confidential.DEVICE)
    known = process.definition
    return Message.make({**known.raw_items(), "process": known, "device": named, "input-prefix": b"process"})


def _held(base: Message) -> _Held:
    found = base.private.get(_HELD)
    if not isinstance(found, _Held):
        raise KeyNotFound("this is not the live state of a confidential process")
    return found


def _bare(item: Message) -> Message:
    return Message.make(dict(item.raw_items()))
