"""The form of a fault proof: what somebody signed, and what shows that it is false (docs/fault-proofs.md).

A proof is an AO message that the challenger signs: ``type: fault-proof``, ``v``, ``kind``, ``accused`` and a
``body``, the evidence as canonical bytes (:mod:`hyperpy.codecs.whole`), in which messages keep all their
commitments. A file of it is the canonical bytes of the whole message and a SHA-256 over them.

What counts as the accused's word, and nothing else does (design 5):

* a reply signature whose ``tag`` is the hashpath of the base and request that are given with it; it counts for
  the keys that it covers;
* an assignment with exactly an assignment's fields, all of them covered.

An *account* is a reply of the accused's own ``fault@1.0/account``: the trail record of the claimed step. It says
which code made the result, without which an old version's honest result could not be told from a lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperpy import attested, commitments, hashpath
from hyperpy.codecs import whole
from hyperpy.commitments.assignments import FIELDS, LINKS
from hyperpy.commitments.fields import RSA_TYPE, fields_of
from hyperpy.encoding import is_id, key_text, sha256
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, SizeError
from hyperpy.message import Link, Message, Value, committed_list
from hyperpy.trail import Record

TYPE: Final = b"fault-proof"
VERSION: Final = 1
KINDS: Final = (
    *("wrong-result", "equivocation", "wrong-state", "double-assignment"),
    *("wrong-value", "wrong-answer"),
)
MAX_BYTES: Final = 4 << 20
"""A longer proof is not read."""
MAX_CLAIMS: Final = 2
MAX_SIGNATURES: Final = 8
"""Of one message in a proof."""
DEVICE: Final = "fault@1.0"
INFERENCE: Final = "inference@1.0"
_FIELDS: Final = frozenset({"claims", "accounts", "assignments", "definition", "process", "slot"})
_VALUE: Final = frozenset({"value"})
_EDGE: Final = frozenset({"status", "raw", "content-type"}) | attested.KEYS
"""Keys of a reply that may be the node's own, or that a result has and its reply has not."""
_PROOF: Final = frozenset({"type", "v", "kind", "accused", "body"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A signed reply, and the step that its tag names.

    Attributes:
        reply: with the commitments it came with.
        base, request: of the step; None where the account holds them.
    """

    reply: Message
    base: Message | None = None
    request: Message | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What the accused says of a step, read from its reply.

    Attributes:
        record: the trail's record of the step; of a slot, that of the execution device's step.
        base, request: the step's, where it is no slot's.
        process, slot: where it is one.
        before, after: content IDs of the states before and after the slot; ``before`` empty for the first.
        snapshot: what the execution device kept beside the state before the slot, if it keeps anything.
    """

    record: Record
    base: Message | None = None
    request: Message | None = None
    process: str = ""
    slot: int = -1
    before: str = ""
    after: str = ""
    snapshot: Message | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a fault proof says.

    Attributes:
        kind: one of :data:`KINDS`.
        accused: address; of an ``equivocation`` either of the two signers.
        claims: ``wrong-result`` one, ``equivocation`` two, ``wrong-state`` the state before the slot, unless that
            is the first, and the state after it; ``wrong-value`` the statement of a language model's computation,
            and the partials of a long attention; ``wrong-answer`` a model's answer and a statement.
        accounts: of ``equivocation`` two, in the claims' order; of ``double-assignment`` and ``wrong-value`` none;
            else one.
        assignments: ``wrong-state`` one, ``double-assignment`` two.
        value: of ``wrong-value`` the evidence, as canonical bytes (:mod:`hyperpy.inference.evidence`); of
            ``wrong-answer`` the opened token, where the answer told of levels 2 or 3.
    """

    kind: str
    accused: str
    claims: tuple[Claim, ...] = ()
    accounts: tuple[Claim, ...] = ()
    assignments: tuple[Message, ...] = ()
    process: str = ""
    slot: int = -1
    value: bytes = b""


# -- message and file -------------------------------------------------------------------------


def as_message(proof: Proof) -> Message:
    """Return a proof as the message that the challenger signs."""
    definition = next((one.reply.raw("process") for one in proof.claims if "process" in one.reply), None)
    once = definition if type(definition) is Message else None
    found: dict[str, Value] = {
        "claims": tuple(_claim(one, once) for one in proof.claims),
        "accounts": tuple(_claim(one, None) for one in proof.accounts),
        "definition": once if once is not None else b"",
        "assignments": tuple(proof.assignments),
        "process": proof.process.encode(),
        "slot": proof.slot,
        **({"value": proof.value} if proof.value else {}),
    }
    items: dict[str, Value] = {"type": TYPE, "v": VERSION, "kind": proof.kind.encode()}
    return Message.make({**items, "accused": proof.accused.encode(), "body": whole.encode(Message.make(found))})


def read(message: Message) -> Proof:
    """Return what a proof message says; signatures of others in it are not looked at yet.

    Raises:
        CodecError: it is no proof.
        CommitmentError: the challenger did not sign all of it.
    """
    if len(message.commitments) > MAX_SIGNATURES:
        raise SizeError(f"a fault proof may have {MAX_SIGNATURES} signatures")
    if not message.committed_keys() >= _PROOF or not commitments.committers(message):
        raise InvalidSignature("a fault proof must be signed by who makes it")
    commitments.check(message)
    if not set(commitments.committed(message, committers="all")) >= _PROOF:
        raise InvalidSignature("a fault proof must be signed as a whole")
    kind, accused, body = (message.get(name) for name in ("kind", "accused", "body"))
    if message.get("type") != TYPE or message.get("v") != VERSION or not isinstance(kind, bytes):
        raise CodecError(f"not a fault proof of version {VERSION}")
    if not isinstance(accused, bytes) or not is_id(accused) or not isinstance(body, bytes):
        raise CodecError("a fault proof names the accused's address, and holds evidence")
    if len(body) > MAX_BYTES:
        raise SizeError(f"a fault proof may have at most {MAX_BYTES} bytes")
    return _evidence(key_text(kind), key_text(accused), whole.decode(body))


def _evidence(kind: str, accused: str, found: Value) -> Proof:
    if not isinstance(found, Message) or found.raw_items().keys() - _VALUE != _FIELDS or kind not in KINDS:
        raise CodecError("not the evidence of a fault proof")
    lists = [found.raw(name) for name in ("claims", "accounts", "assignments")]
    process, slot, value = found.raw("process"), found.raw("slot"), found.raw("value")
    if value is not None and type(value) is not bytes:
        raise CodecError("the evidence of a value is bytes")
    if not all(type(one) is tuple and len(one) <= MAX_CLAIMS for one in lists):
        raise CodecError("the lists of a fault proof are short")
    if type(process) is not bytes or type(slot) is not int or not -1 <= slot < 1 << 62:
        raise CodecError("a fault proof's process and slot are an ID and a number")
    claims, accounts, assignments = (one if type(one) is tuple else () for one in lists)
    if not all(type(one) is Message for one in assignments):
        raise CodecError("an assignment is a message")
    given = tuple(one for one in assignments if type(one) is Message)
    definition = found.raw("definition")
    words = tuple([_read_claim(one, definition) for one in claims])
    told = tuple([_read_claim(one, None) for one in accounts])
    return Proof(kind, accused, words, told, given, key_text(process), slot, value or b"")


def _claim(claim: Claim, definition: Message | None) -> Message:
    reply = claim.reply
    if definition is not None and _same(reply.raw("process"), definition):
        reply = Message.make({**reply.raw_items(), "process": True}, reply.commitments)
    items: dict[str, Value] = {"reply": reply}
    if claim.base is not None:
        items["base"] = claim.base
    if claim.request is not None:
        items["request"] = claim.request
    return Message.make(items)


def _same(item: Value | None, other: Message) -> bool:
    """Say whether two messages are the same with all their commitments."""
    return type(item) is Message and (item is other or whole.encode(item) == whole.encode(other))


def _read_claim(found: Value, definition: Value | None) -> Claim:
    if not isinstance(found, Message) or not found.raw_items().keys() <= {"reply", "base", "request"}:
        raise CodecError("not a claim")
    reply, base, request = (found.raw(name) for name in ("reply", "base", "request"))
    if type(reply) is not Message or not isinstance(base, Message | None) or not isinstance(request, Message | None):
        raise CodecError("a claim holds messages")
    if isinstance(definition, Message) and reply.raw("process") is True:
        reply = Message.make({**reply.raw_items(), "process": definition}, reply.commitments)
    return Claim(reply, base, request)


def to_bytes(message: Message) -> bytes:
    """Return the file of a signed proof message."""
    data = whole.encode(message)
    return data + sha256(data)


def from_bytes(data: bytes) -> Message:
    """Return the proof message of a file; see :func:`read`.

    Raises:
        CodecError, SizeError: the file is damaged, or none of these.
    """
    if len(data) > MAX_BYTES + 65536:
        raise SizeError(f"a fault proof may have at most {MAX_BYTES} bytes")
    if len(data) < 33 or sha256(data[:-32]) != data[-32:]:
        raise CodecError("the file's digest does not fit: it is damaged, or no fault proof")
    found = whole.decode(data[:-32])
    if not isinstance(found, Message) or found.get("type") != TYPE:
        raise CodecError("not a fault proof")
    return found


# -- what counts as somebody's word -----------------------------------------------------------


def said(claim: Claim, signer: str, before: str = "") -> Message:
    """Return what a reply says by its signer's word: the covered keys, nothing else.

    Args:
        before: the hashpath that the base had already; empty: it begins with the base.

    Raises:
        InvalidSignature: the signer's signature is not there, does not verify, or its tag is not the hashpath
            of the claim's base and request.
    """
    if claim.base is None or claim.request is None:
        raise InvalidSignature("the claim comes without its base and request")
    expected = path_of(claim.base, claim.request, before)
    for name, one in claim.reply.commitments.items():
        fields = fields_of(one)
        if commitments.committer_of(one) != signer or fields.get("type") != RSA_TYPE.encode():
            continue
        if "status" not in committed_list(one) or key_text(fields.get("tag", b"")) != expected:
            continue
        commitments.check(claim.reply, ids=(name,), committers="none")
        covered = {key.removesuffix("+link") for key in committed_list(one)} - {"ao-types"}
        for item in claim.reply.raw_items().values():
            check_inner(item)
        return Message.make({key: item for key, item in claim.reply.raw_items().items() if key in covered})
    raise InvalidSignature(f"no reply signature of {signer} has the hashpath of this step")


def path_of(base: Message, request: Message, before: str) -> str:
    known = before or commitments.hashpath_id(base)
    try:
        return hashpath.combine(known, hashpath.reference(request), hashpath.algorithm_of(base))
    except HyperpyError as error:
        raise InvalidSignature(f"the claimed step has no hashpath: {error.message}") from None


def check_inner(item: Value, depth: int = 0) -> None:
    """Refuse a value in which a signed message is not what was signed.

    The ID of a signed message is made from its signatures alone. Who signs what holds it vouches for those; what
    the message says must follow from them.

    Raises:
        InvalidSignature: a signature in it does not verify, or leaves keys out.
        SizeError: it is nested too deeply.
    """
    if depth > whole.MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {whole.MAX_DEPTH}")
    if type(item) is tuple:
        for one in item:
            check_inner(one, depth + 1)
    if type(item) is not Message:
        return
    if item.commitments:
        _check_whole(item)
    for one in item.raw_items().values():
        if type(one) in (Message, tuple):
            check_inner(one, depth + 1)


def _check_whole(item: Message) -> None:
    if len(item.commitments) > MAX_SIGNATURES:
        raise SizeError(f"a message in a fault proof may have {MAX_SIGNATURES} signatures")
    commitments.check(item, ids="all")
    signed = [one for one in item.commitments.values() if commitments.committer_of(one) is not None]
    covered = {key.removesuffix("+link") for one in signed or item.commitments.values() for key in committed_list(one)}
    if not covered >= set(item):
        raise InvalidSignature("a message in the proof has keys that its signatures leave out")


def account_of(claim: Claim, signer: str) -> Account:
    """Return what a reply of the signer's own ``fault@1.0/account`` says.

    Raises:
        InvalidSignature: it is no such reply of the signer.
        CodecError: it holds no account.
    """
    return read_account(told(claim, signer, DEVICE, "account"))


def told(claim: Claim, signer: str, name: str, path: str) -> Value | None:
    """Return the body of a reply of the signer's own device ``name`` to a plain question for the key ``path``.

    Base and request must be flat and unsigned, and the base without a history: of such nobody can make two with
    one hashpath.

    Raises:
        InvalidSignature: it is no such reply of the signer.
    """
    base, request = claim.base, claim.request
    if base is None or request is None or base.commitments or base.get("device") != name.encode():
        raise InvalidSignature(f"an {path} is an answer of {name}")
    if path in base or request.get("path") != path.encode():
        raise InvalidSignature(f"an {path} is what the key '{path}' answers, and the base does not hold it")
    if request.commitments or not (_flat(base) and _flat(request)):
        raise InvalidSignature(f"an {path} is what the key '{path}' answers to a plain question")
    return said(claim, signer).get("body")


def _flat(message: Message) -> bool:
    return not any(type(one) in (Message, tuple, Link) for one in message.raw_items().values())


def account_body(account: Account) -> bytes:
    """Return an account as the canonical bytes that the key ``account`` answers."""
    items: dict[str, Value] = {"record": account.record.encode()}
    if account.base is not None and account.request is not None:
        items |= {"base": account.base, "request": account.request}
    if account.process:
        items |= {"process": account.process.encode(), "slot": account.slot}
        items |= {"before": account.before.encode(), "after": account.after.encode()}
    if account.snapshot is not None:
        items["snapshot"] = account.snapshot
    return whole.encode(Message.make(items))


def read_account(body: Value | None) -> Account:
    """Return the account of such bytes; raise CodecError if they are none."""
    found = whole.decode(body) if isinstance(body, bytes) and len(body) <= MAX_BYTES else None
    record = found.raw("record") if isinstance(found, Message) else None
    if not isinstance(found, Message) or not isinstance(record, bytes):
        raise CodecError("not an account")
    base, request, slot, held = (found.raw(name) for name in ("base", "request", "slot", "snapshot"))
    texts = [found.raw(name) for name in ("process", "before", "after")]
    if any(not isinstance(one, bytes | None) for one in texts) or not isinstance(slot, int | None):
        raise CodecError("not an account")
    process, before, after = (key_text(one) if isinstance(one, bytes) else "" for one in texts)
    return Account(
        Record.decode(record),
        base if isinstance(base, Message) else None,
        request if isinstance(request, Message) else None,
        process,
        slot if isinstance(slot, int) else -1,
        before,
        after,
        held if isinstance(held, Message) else None,
    )


def contents(reply: Message) -> dict[str, Message]:
    """Return the results of which a reply may be the answer, by their content IDs.

    A reply adds a ``status`` to the result, and the words of an attestation if one was asked for; one in JSON also
    adds ``raw``, the same results for older clients.
    """
    found = [reply, reply.without("status")]
    if not attested.KEYS.isdisjoint(reply):
        found += [_without(one, attested.KEYS) for one in found]
    bare = found[-1]
    if "raw" in bare:
        found.append(bare.without("raw"))
        results = bare.get("results")
        if isinstance(results, Message) and "raw" in results:
            found.append(bare.without("raw") | {"results": results.without("raw")})
    return {commitments.content_id(one): one for one in found}


def alike(reply: Message, result: Message) -> bool:
    """Say whether a reply differs from a result at most in keys that a node itself adds, replaces or leaves out."""
    return _core(reply) == _core(result)


def _core(item: Message) -> str:
    results = item.get("results")
    if isinstance(results, Message) and "raw" in results:
        item = item | {"results": results.without("raw")}
    return commitments.content_id(_without(item, _EDGE))


def _without(item: Message, names: frozenset[str]) -> Message:
    return item.without(*(name for name in names if name in item))


def check_assignment(process: str, slot: int, assignment: Message, signer: str = "") -> tuple[str, ...]:
    """Return who signed an assignment of a slot with exactly its fields, all covered (design 5).

    Args:
        signer: who must have.

    Raises:
        InvalidSignature: nobody did, or it is another message.
    """
    check_inner(assignment.raw("body") or b"")
    fields = set(assignment)
    whole_set = FIELDS <= fields <= FIELDS | LINKS and not fields.isdisjoint(LINKS)
    if not whole_set or assignment.get("process") != process.encode() or assignment.get("slot") != slot:
        raise InvalidSignature("not an assignment of this process and slot with exactly an assignment's fields")
    kind = assignment.get("type")
    if not isinstance(kind, bytes) or kind.lower() != b"assignment" or type(assignment.raw("body")) is Link:
        raise InvalidSignature("not an assignment")
    found = []
    for name, one in assignment.commitments.items():
        who = commitments.committer_of(one)
        covered = {key.removesuffix("+link") for key in committed_list(one)} - {"ao-types"}
        if (
            who is not None
            and who == (signer or who)
            and covered == fields
            and type(assignment.raw("body")) is not Link
        ):
            commitments.check(assignment, ids=(name,), committers="none")
            found.append(who)
    if not found:
        raise InvalidSignature("nobody who counts signed all of the assignment")
    return tuple(found)
