"""Sealed requests, and secrets for measured machines alone (tee-attestation 8).

A sealed request goes through whatever stands before the node as ciphertext: what is stored and recorded is that, and
a sealed reply. It is resolved as a stranger's, by deterministic keys alone, and nothing of it is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hyperpy import Context, Message, Result, attested, commitments
from hyperpy.attest import policy, sealing, statement, verifier
from hyperpy.attest.codes import require
from hyperpy.attest.policy import Policy
from hyperpy.capabilities import Attester
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import AttestationError, CodecError, HyperpyError, KeyNotFound, ParameterError, Unauthorized
from hyperpy.message import Value, committed_list

from . import asked
from .nonces import Nonces

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_SIGNED: Final = ("name", "challenge", "evidence")
_MAX_SECRET: Final = 1 << 16
_RSA: Final = b"\x01"


def opened(request: Message, attester: Attester, address: bytes, ctx: Context) -> Message:
    """Return the sealed answer to a sealed request; see ``tee@1.0``'s key ``open``."""
    if not attester.kind:
        raise ParameterError("this node makes no evidence: nothing should be sealed to it")
    sealed = asked.raw(request.get("sealed", b""), "sealed")
    named = request.text("policy", "")
    parts = [asked.raw(request.get(name, b""), name) for name in ("attestation", "request-id")]
    info = sealing.context(parts[0], named, address, parts[1])
    inner = _inner(attester.unseal(sealed, info))
    reply_key = asked.raw(inner.get("reply-key", b""), "reply-key")
    sealing.seal(b"", reply_key, b"")  # an answer that nobody could be given is not worked out
    pieces = _Pieces(inner, sealed, ctx)
    answer = _answered(attester, inner.without("reply-key", "stream-secret"), ctx, pieces)
    pieces.end()
    made = sealing.seal(answer, reply_key, sealing.reply_context(sealed))
    return Message(
        {
            "sealed": b64u(made),
            "sealed-digest": b64u(sha256(made)),
            "request-digest": b64u(sha256(sealed)),
            "hardware": attester.kind != "software",
        }
    )


def _inner(plain: bytes) -> Message:
    try:
        found = canonical.decode(plain)
    except (HyperpyError, ValueError, RecursionError):
        found = None
    if not isinstance(found, Message) or not isinstance(found.raw("path"), bytes):
        raise CodecError("what was sealed is no request: canonical bytes of a message with a path")
    return Message.make(dict(found.raw_items()))


class _Pieces:
    """Seals pieces of an answer that come ahead of the whole, for whoever knows the request's ``stream-secret``.

    The first event has a salt of this answer alone: the same request, sent again by somebody, has other keys.
    """

    def __init__(self, inner: Message, sealed: bytes, ctx: Context) -> None:
        self._stream: sealing.Stream | None = None
        self._ctx = ctx
        if "stream-secret" not in inner:
            return
        secret, salt = asked.raw(inner.get("stream-secret", b""), "stream-secret"), ctx.random(32)
        self._stream = sealing.Stream(secret, sealing.stream_context(sealed, salt))
        self._send(salt)

    @property
    def sink(self) -> Callable[[bytes], None] | None:
        """What takes pieces; None where nobody asked for them."""
        return self.take if self._stream is not None else None

    def take(self, piece: bytes) -> None:
        """Send a piece, sealed."""
        if self._stream is not None:
            self._send(self._stream.seal(piece))

    def end(self) -> None:
        """Send the last piece, which is empty and says that nothing was cut off."""
        if self._stream is not None:
            self._send(self._stream.seal(b"", last=True))

    def _send(self, data: bytes) -> None:
        self._ctx.emit(b"data: " + b64u(data).encode() + b"\n\n")


def _answered(attester: Attester, inner: Message, ctx: Context, pieces: _Pieces) -> bytes:
    """Return the canonical bytes of the answer, that of its error included: nobody else may read either."""
    try:
        result = attester.privately(inner, ctx.deadline, sink=pieces.sink)
        made = {"outcome": result.status, "result": _bare(result.value)}
        return canonical.encode(Message(made))
    except HyperpyError as error:
        said = {"outcome": "error", "status": error.status, "error": type(error).__name__, "body": error.message}
        return canonical.encode(Message(said))
    except (ValueError, TypeError, RecursionError):
        return canonical.encode(Message({"outcome": "error", "status": 500, "error": "CodecError"}))


def _bare(item: Value) -> Value:
    return Message.make(dict(item.raw_items())) if isinstance(item, Message) else item


def sealed_for(request: Message, plain: bytes, now: datetime, software: bool) -> Message:
    """Return bytes sealed to the machine of ``evidence``, once a policy accepts it; see the key ``seal``."""
    evidence, rules = asked.evidence(request), asked.policy_of(request)
    wanted = asked.expected(request)
    found = verifier.verify(evidence, rules, now=now, expected=wanted, insecure_software=software)
    accepted = not found.codes and (found.word == "affirming" or (software and found.hardware == "software"))
    if not accepted:
        code = found.codes[0] if found.codes else "policy/measurement-not-allowed"
        require(False, code, "nothing is sealed to a machine that the policy does not accept")
    said = statement.decode(evidence.statement)
    attestation = attested.attestation_id(said)
    request_id = asked.raw(request.get("request-id", b""), "request-id")
    info = sealing.context(attestation, rules.name, said.fields["address"], request_id)
    return Message(
        {
            "sealed": b64u(sealing.seal(plain, said.fields.get("kem", b""), info)),
            "attestation": b64u(attestation),
            "policy": rules.name,
            "request-id": b64u(request_id),
        }
    )


# -- release ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """What whoever asks for a secret has signed."""

    name: str
    challenge: bytes
    evidence: Any
    signers: frozenset[str]


def released(request: Message, folder: str, nonces: Nonces, ctx: Context) -> Result:
    """Return a secret sealed to the machine that asks, or why not; see the key ``release``.

    The answer is the decision: it is recorded with the name of the policy, and holds the secret only sealed.
    """
    wanted = _signed(request)
    secret, rules = _secret(folder, wanted.name)
    now = datetime.fromtimestamp(ctx.now(), UTC)
    decision: dict[str, Any] = {"type": "Release-Decision", "name": wanted.name, "policy": rules.name}
    try:
        nonces.take(wanted.challenge, ctx.now())
        said = _checked(wanted, rules, now)
    except AttestationError as error:
        ctx.log("release", name=wanted.name, policy=rules.name, decision="refused", code=error.code)
        said_no = {"decision": "refused", "errors": [error.code], "status": 403}
        return Result("ok", Message({**decision, **said_no}))
    attestation = attested.attestation_id(said)
    info = sealing.context(attestation, rules.name, said.fields["address"], sha256(wanted.challenge))
    made = sealing.seal(secret, said.fields["kem"], info)
    ctx.log("release", name=wanted.name, policy=rules.name, decision="released", attestation=b64u(attestation))
    yes = {"decision": "released", "errors": [], "attestation": b64u(attestation), "sealed": b64u(made), "status": 200}
    return Result("ok", Message({**decision, "address": b64u(said.fields["address"]), **yes}))


def _checked(wanted: _Asked, rules: Policy, now: datetime) -> statement.Statement:
    """Return the statement of evidence that a secret may be given for; raise AttestationError."""
    bound = verifier.Expected(nonce=wanted.challenge, fields={"purpose": b"key-release"})
    found = verifier.verify(wanted.evidence, rules, now=now, expected=bound)
    if found.codes:
        require(False, found.codes[0], "the evidence is refused")
    require(wanted.evidence.hardware and found.hardware == "hardware", "policy/software-not-allowed", "no hardware")
    require(found.word == "affirming", "policy/measurement-not-allowed", "the policy names no software")
    said = statement.decode(wanted.evidence.statement)
    key, address = said.fields["key"], said.fields["address"]
    own = key[:1] == _RSA and sha256(key[1:]) == address and b64u(address) in wanted.signers
    require(own, "binding/key-mismatch", "the request is not signed by the key that the evidence is bound to")
    usable = said.fields["kem"][:2] == sealing.KEM_X25519 and len(said.fields["kem"]) == 34
    require(usable, "binding/key-mismatch", "the evidence is bound to no key that secrets can be sealed to")
    return said


def _signed(request: Message) -> _Asked:
    """Return what a request's signers vouch for: name, challenge and evidence, all under one signature."""
    order = request.private.get("order")
    made = order.commitments.values() if isinstance(order, Message) else ()
    signers = {
        commitments.committer_of(one)
        for one in made
        if commitments.is_own_word(one) and set(_SIGNED) <= set(committed_list(one))
    }
    if not isinstance(order, Message) or not signers - {None}:
        raise Unauthorized(
            "release: the request must be signed by the attested node's key, with its name, challenge and evidence"
        )
    name = order.text("name", "")
    challenge = asked.raw(order.get("challenge", b""), "challenge")
    evidence = asked.evidence(Message.make({"evidence": order.raw("evidence") or b""}))
    return _Asked(name, challenge, evidence, frozenset(one for one in signers if one is not None))


def _secret(folder: str, name: str) -> tuple[bytes, Policy]:
    """Return a secret and the policy that says who may have it: files NAME.secret and NAME.toml of the folder."""
    if not folder or not _NAME.match(name):
        raise KeyNotFound(f"there is no secret {name[:64]!a} here")
    at = Path(folder)
    try:
        with (at / f"{name}.secret").open("rb") as file:
            found = file.read(_MAX_SECRET + 1)
    except OSError:
        raise KeyNotFound(f"there is no secret {name[:64]!a} here") from None
    if len(found) > _MAX_SECRET:
        raise ParameterError("the secret is too long")
    return found, policy.load(at / f"{name}.toml")
