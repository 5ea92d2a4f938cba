"""Attested replies: their form, and what whoever holds one finds of it (tee-attestation 7).

A reply that was asked for with ``attest`` carries more keys under the node's signature:

    ``attestation-status``  what the node says of its own evidence: ``hardware``, ``software``, ``failed`` or ``none``
    ``attestation``         base64url of the canonical bytes of an :class:`Attestation`
    ``attestation-body-type``  the ``content-type`` of a result that has one: as a header it is the whole reply's

Nobody need believe the first: :func:`check` finds the status again from the second. At level ``identity`` the
evidence is that of the node's key, made once since it started, and a *statement* about this result stands under the
reply's signature by that key. At level ``result`` the evidence itself is bound to the result. At level ``batch`` it is
bound to the root of a Merkle tree (:mod:`hyperpy.attest.merkle`) of such statements, of which each reply has its own,
and what proves that it is a leaf: one report for all that waited for the hardware at once.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from hyperpy import commitments
from hyperpy.attest import bundle, merkle, verifier
from hyperpy.attest import statement as statements
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.policy import BASELINE, Policy
from hyperpy.attest.result import Result
from hyperpy.attest.statement import Statement
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, key_text, sha256
from hyperpy.errors import AttestationError, CodecError, HyperpyError
from hyperpy.message import Message, committed_list

KEY: Final = "attestation"
STATUS: Final = "attestation-status"
CODE: Final = "attestation-code"
BODY_TYPE: Final = "attestation-body-type"
KEYS: Final = frozenset({KEY, STATUS, CODE, BODY_TYPE})
"""What an attested reply has beside its result."""

STATUSES: Final = ("hardware", "software", "failed", "none")
IDENTITY: Final = "identity"
RESULT: Final = "result"
BATCH: Final = "batch"
MAX_BYTES: Final = 4 << 20
_NAMES: Final = frozenset({"v", "level", "evidence", "statement", "index", "count", "proof"})
_RSA: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class Place:
    """A leaf's place in a batch: its number from 0, how many there are, and the digests that lead to the root."""

    index: int
    count: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Attestation:
    """Evidence, and a statement about a result, unless the evidence is bound to that itself.

    Attributes:
        statement: at level ``identity`` under the key that the evidence is bound to, at level ``batch`` a leaf.
        place: where the leaf is; None at other levels.
    """

    evidence: Evidence
    statement: bytes = b""
    place: Place | None = None

    @property
    def level(self) -> str:
        """Return ``identity``, ``result`` or ``batch``."""
        if self.place is not None:
            return BATCH
        return IDENTITY if self.statement else RESULT

    def said(self) -> Statement:
        """Return what is said of the result; raise AppraisalError ``binding/statement-malformed``."""
        return statements.decode(self.statement or self.evidence.statement)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        made: dict[str, Any] = {"v": 1, "level": self.level, "evidence": self.evidence.message()}
        if self.statement:
            made["statement"] = self.statement
        if self.place is not None:
            made |= {"index": self.place.index, "count": self.place.count, "proof": b"".join(self.place.proof)}
        return canonical.encode(Message(made))

    def text(self) -> bytes:
        """Return what stands in a reply."""
        return b64u(self.encode()).encode("ascii")


def decode(data: bytes) -> Attestation:
    """Return the attestation of canonical bytes.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``, ``evidence/unsupported-version``, ``-type``.
    """
    require(len(data) <= MAX_BYTES, "evidence/too-large", "the attestation is too long")
    try:
        found = canonical.decode(data)
    except (HyperpyError, ValueError, RecursionError):
        raise refusal("evidence/malformed", "an attestation is canonical bytes") from None
    if not isinstance(found, Message) or not set(found) <= _NAMES:
        raise refusal("evidence/malformed", "an attestation holds v, level, evidence, statement and its place")
    require(found.raw("v") == 1, "evidence/unsupported-version", "an attestation of another version")
    evidence, said = found.raw("evidence"), found.raw("statement") or b""
    if not isinstance(evidence, Message) or not isinstance(said, bytes):
        raise refusal("evidence/malformed", "an attestation holds evidence")
    made = Attestation(bundle.read(evidence), said, _place(found) if "proof" in found else None)
    require(bool(said) or made.place is None, "evidence/malformed", "a leaf is a statement")
    require(found.raw("level") == made.level.encode(), "evidence/malformed", "the attestation's level is wrong")
    require(made.encode() == data, "evidence/malformed", "the attestation is not in its one form")
    return made


def _place(found: Message) -> Place:
    index, count, proof = (found.raw(name) for name in ("index", "count", "proof"))
    if type(index) is not int or type(count) is not int or not isinstance(proof, bytes) or len(proof) % 32:
        raise refusal("evidence/malformed", "a leaf's place is a number, a count and digests")
    return Place(index, count, tuple(proof[at : at + 32] for at in range(0, len(proof), 32)))


def of_text(text: bytes) -> Attestation:
    """Return the attestation that stands in a reply; raises as :func:`decode`."""
    require(len(text) <= 2 * MAX_BYTES, "evidence/too-large", "the attestation is too long")
    try:
        data = b64u_decode(text)
    except (CodecError, ValueError):
        raise refusal("evidence/malformed", "an attestation is base64url") from None
    require(b64u(data).encode() == bytes(text), "evidence/malformed", "an attestation is base64url in its one form")
    return decode(data)


# -- what is found ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """What whoever holds a reply finds of its attestation.

    Attributes:
        status: ``hardware``, ``software``, ``failed`` or ``none``: found from the evidence, not believed.
        codes: why it failed, the first failure first.
        result: the verifier's result; None where there was nothing to verify.
        level: ``identity``, ``result`` or ``batch``; empty where there is no evidence.
        said: the statement about the result, once everything holds.
        asked: whether the statement's hashpath is that of the path that was asked for; None where it was not
            compared, or the path alone does not tell (see :func:`hyperpy.http.asked.fits`).
    """

    status: str
    codes: tuple[str, ...] = ()
    result: Result | None = None
    level: str = ""
    said: Statement | None = None
    asked: bool | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an attestation must be about.

    Attributes:
        signers: addresses whose signature covers the attestation.
        results: IDs (32 bytes) of which the statement must name one; None leaves it open.
        hashpath: what the statement's must be; None leaves it open.
        nonce: the caller's own; None leaves open how fresh it is.
        fields: more fields of the statement that must have these values.
    """

    signers: Collection[str] = ()
    results: Collection[bytes] | None = None
    hashpath: str | None = None
    nonce: bytes | None = None
    fields: dict[str, bytes] = field(default_factory=dict)


def appraise(
    found: Attestation, wanted: Wanted, policy: Policy = BASELINE, *, now: datetime, insecure_software: bool = False
) -> Found:
    """Return what is found of an attestation; never raises for what it holds.

    Args:
        now, insecure_software: as in :func:`hyperpy.attest.verifier.verify`.
    """
    level = found.level
    fields = {"purpose": b"node-identity" if level == IDENTITY else b"result", **_root(found)}
    expected = verifier.Expected(nonce=wanted.nonce if level == RESULT else None, fields=fields)
    result = verifier.verify(found.evidence, policy, now=now, expected=expected, insecure_software=insecure_software)
    codes = list(result.codes)
    said = None
    try:
        said = found.said()
        if level != RESULT:
            _check_bound(said, statements.decode(found.evidence.statement), level)
        said.check_time(now.timestamp())
        _check_said(said, wanted)
    except AttestationError as error:
        codes.append(error.code)
    except HyperpyError:
        codes.append("evidence/malformed")
    status = "failed" if codes else result.hardware
    return Found(status, tuple(dict.fromkeys(codes)), result, found.level, said if not codes else None)


def _root(found: Attestation) -> dict[str, bytes]:
    """Return what the evidence of a batch must say: the root that the leaf leads to, and of how many; else nothing."""
    if found.place is None:
        return {}
    digest = merkle.leaf(found.statement)
    root = merkle.climbed(digest, found.place.index, found.place.count, found.place.proof)
    return {"result": root or b"", **batch_fields(found.place.count)}


def batch_fields(count: int) -> dict[str, bytes]:
    """Return what a batch's statement says beside its ``result``, the root: it is about no request of its own."""
    return {"request": bytes(32), "hashpath": b"", "device": b"merkle-batch %d" % count}


def _check_bound(said: Statement, identity: Statement, level: str) -> None:
    """Check that a statement is one of the key that the evidence is bound to."""
    same = said.is_software == identity.is_software and said.purpose == "result"
    require(same, "binding/purpose-mismatch", "the statement is for something else")
    for name in ("address", "key"):
        require(said.fields[name] == identity.fields[name], "binding/key-mismatch", f"another {name} than attested")
    if level == BATCH:
        return
    named = said.fields.get("previous", b"")
    own = hmac.compare_digest(named, attestation_id(identity))
    require(own, "binding/key-mismatch", "the statement names another attestation")


def _check_said(said: Statement, wanted: Wanted) -> None:
    address, key = said.fields["address"], said.fields["key"]
    own = key[:1] == _RSA and sha256(key[1:]) == address
    require(own, "binding/key-mismatch", "the address is not that of the key")
    require(b64u(address) in wanted.signers, "binding/key-mismatch", "the attested key did not sign this")
    if wanted.nonce is not None:
        same = hmac.compare_digest(said.fields.get("nonce", b""), wanted.nonce)
        require(same, "freshness/nonce-mismatch", "the attestation answers another nonce")
    if wanted.results is not None:
        require(said.fields["result"] in wanted.results, "binding/result-mismatch", "it is about another result")
    if wanted.hashpath is not None:
        same = said.fields["hashpath"] == wanted.hashpath.encode("utf-8", "surrogatepass")
        require(same, "binding/result-mismatch", "it is about another hashpath")
    for name, item in wanted.fields.items():
        require(said.fields.get(name) == item, "binding/result-mismatch", f"'{name}' of the statement is another")


def attestation_id(identity: Statement) -> bytes:
    """Return the ID (32 bytes) by which statements name the evidence of their key."""
    return sha256(identity.report_data())


def check(
    reply: Message,
    policy: Policy = BASELINE,
    *,
    now: datetime,
    nonce: bytes | None = None,
    insecure_software: bool = False,
) -> Found:
    """Return what is found of a reply whose signatures were verified, as :class:`hyperpy.client.Client` does.

    One signature of the attested key must cover all that is in the reply: what two replies of one node say, put
    together, is no reply of it.

    Args:
        nonce: what the caller sent as ``attest-nonce``; None leaves open how fresh the attestation is.
    """
    text = reply.raw(KEY)
    if not isinstance(text, bytes):
        return Found("none")
    try:
        found = of_text(text)
        address = b64u(found.said().fields["address"])
    except AttestationError as error:
        return Found("failed", (error.code,))
    except HyperpyError:
        return Found("failed", ("evidence/malformed",))
    hashpath = _signed_by(reply, address)
    if hashpath is None:
        return replace(Found("failed", ("binding/key-mismatch",)), level=found.level)
    wanted = Wanted({address}, result_ids(reply), hashpath or None, nonce)
    return appraise(found, wanted, policy, now=now, insecure_software=insecure_software)


def _signed_by(reply: Message, address: str) -> str | None:
    """Return the hashpath along which an address signed a whole reply, empty if it has none; None if it did not."""
    keys = set(reply.raw_items())
    for one in reply.commitments.values():
        if commitments.committer_of(one) == address and keys <= set(committed_list(one)):
            tag = one.raw("tag")
            return key_text(tag) if isinstance(tag, bytes) else ""
    return None


def bare(reply: Message) -> Message:
    """Return a reply without its attestation and without commitments: what is attested."""
    made = {key: item for key, item in reply.raw_items().items() if key not in KEYS}
    kind = reply.raw(BODY_TYPE)
    if kind is not None:
        made["content-type"] = kind
    return Message.make(made)


def result_ids(reply: Message) -> list[bytes]:
    """Return the IDs that a reply's result may have: with the ``status`` of the reply, and without."""
    whole = bare(reply)
    return [commitments.content_key(whole), commitments.content_key(whole.without("status"))]
