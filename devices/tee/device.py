"""The keys of tee@1.0."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from hyperpy import Context, Message, Result, device, key
from hyperpy.attest import policy as policies
from hyperpy.attest import result as results
from hyperpy.attest import verifier
from hyperpy.capabilities import Attester, NodeControl
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import AttestationError, ParameterError

from . import asked, sealing
from .nonces import LIFE_S, Nonces

_PURPOSES: Final = ("node-identity", "channel")
"""What anybody may have evidence for: results are attested with their replies, secrets and zones by their own keys."""
_NONCE_BYTES: Final = 32


@device("tee@1.0", needs=("attester", "node"), excludes=("set", "keys", "id", "commit"))
class Tee:
    """Makes evidence of the machine that this node runs on, and verifies anybody's (docs/attestation.md)."""

    def start(self, attester: Attester, node: NodeControl) -> None:
        """Take what makes evidence, and the settings."""
        self._attester, self._node = attester, node
        self._nonces = Nonces()

    @key(deterministic=False, reads=True)
    def info(self) -> Message:
        """Return which attesters there are: ``hardware``, ``attester``, ``evidence-types``, ``providers``, ``kem``."""
        return self._attester.info()

    @key(deterministic=False)
    def attest(self, request: Message) -> Message:
        """Return evidence bound to a statement about this node.

        ``nonce`` (16 to 64 bytes, base64url) is the verifier's own; without one the statement names this run of
        the node alone. ``purpose`` is ``node-identity`` or ``channel``. The reply holds ``evidence`` (base64url of
        the canonical bytes of its message, what ``verify`` takes), ``evidence-type``, ``hardware``, ``statement``.
        """
        purpose = request.text("purpose", _PURPOSES[0])
        if purpose not in _PURPOSES:
            raise ParameterError(f"there is no evidence for {purpose[:40]!a} here", name="purpose")
        nonce = asked.nonce(request.get("nonce")) or b""
        peer = None if self._node.is_operator(request) else str(request.private.get("peer", ""))
        return asked.written(self._attester.evidence(purpose, nonce=nonce, gpus=True, peer=peer))

    @key(deterministic=False)
    def challenge(self, ctx: Context) -> Message:
        """Return a ``nonce`` of 32 random bytes (base64url): ``verify`` takes it once, for 300 seconds."""
        nonce = ctx.random(_NONCE_BYTES)
        self._nonces.give(nonce, ctx.now())
        return Message({"nonce": b64u(nonce), "expires-in": int(LIFE_S)})

    @key(deterministic=False)
    def verify(self, request: Message, ctx: Context) -> Result:
        """Return the attestation result (EAR) of ``evidence``, by the clock of this node or by ``now``.

        ``policy`` is TOML or JSON text or a message; without one genuine, current hardware is enough. The evidence
        must be bound to ``nonce``, to ``report-data`` or to the fields of ``expected``, whichever are given; with
        ``challenge`` it must answer a challenge of this node, which is used up. ``status`` is 200 whatever the
        verdict, 400 where the request is malformed; act on ``verdict`` and ``policy`` alone.
        """
        now = asked.when(request.get("now")) or datetime.fromtimestamp(ctx.now(), UTC)
        challenge = asked.nonce(request.get("challenge"))
        refused = ""
        if challenge is not None:
            request = request | {"nonce": b64u(challenge)}
            try:
                self._nonces.take(challenge, ctx.now())
            except AttestationError as error:
                refused = error.code
        return self._appraised(request, now, self._attester.accepts_software(), refused)

    @key
    def appraise(self, request: Message) -> Result:
        """Return what ``verify`` does, of the request alone: the same on every node, and for ever.

        ``now`` (seconds since 1970) must be given, and is the only clock. No software evidence is accepted.
        """
        now = asked.when(request.get("now"))
        if now is None:
            raise ParameterError("appraise: 'now' is missing", name="now", hint="Seconds since 1970.")
        return self._appraised(request, now, False, "")

    @key
    def measure(self, request: Message) -> Message:
        """Return the launch ``measurement`` (hex) of an SEV-SNP guest.

        From files: ``firmware-file``, ``kernel-file``, ``initrd-file``, ``cmdline``. From hashes (hex): ``firmware``
        with a ``profile``, ``kernel``, ``initrd``, ``append``. Also ``vcpus``, ``vcpu-type``, ``vmm`` and
        ``guest-features``.
        """
        return Message({"measurement": asked.launch_digest(request).hex()})

    @key(name="open", deterministic=False)
    def open_sealed(self, request: Message, ctx: Context) -> Message:
        """Resolve a request that only this node can read; the answer is ``sealed`` to the caller's key.

        ``sealed`` (base64url) holds the canonical bytes of a message: ``path``, whatever else the request has, and
        ``reply-key``. ``attestation``, ``policy`` and ``request-id`` are what it was sealed for. The path is resolved
        as a stranger's, by deterministic keys alone, and nothing of it is recorded, stored or logged. With
        ``stream`` beside it and ``stream-secret`` (32 bytes, base64url) inside, pieces of the answer come first.
        """
        return sealing.opened(request, self._attester, b64u_decode(self._node.address), ctx)

    @key(deterministic=False)
    def seal(self, request: Message, ctx: Context) -> Message:
        """Seal ``plain``, of the private part of the request, to the machine of ``evidence``, if ``policy`` accepts it.

        ``request-id`` (32 bytes, base64url) names it, once. A ``plain`` inside the message would be recorded with
        it, and is refused.
        """
        plain = request.private.get("plain")
        if not isinstance(plain, bytes) or "plain" in request:
            raise ParameterError("seal: what to seal must come in the private part of the request", name="plain")
        now = asked.when(request.get("now")) or datetime.fromtimestamp(ctx.now(), UTC)
        return sealing.sealed_for(request, plain, now, self._attester.accepts_software())

    @key(deterministic=False)
    def release(self, request: Message, ctx: Context) -> Result:
        """Give the secret ``name`` to a measured machine: sealed to the key that its evidence is bound to.

        ``evidence`` has the purpose ``key-release`` and answers ``challenge``, one of this node's, which is used up.
        The request is signed by the key in its statement. The policy beside the secret decides; ``decision`` is
        ``released`` or ``refused`` (403), with ``policy`` and ``errors``, and is recorded without the secret.
        """
        return sealing.released(request, self._attester.secrets, self._nonces, ctx)

    def _appraised(self, request: Message, now: datetime, software: bool, refused: str) -> Result:
        policy, expected = asked.policy_of(request), asked.expected(request)
        try:
            evidence = asked.evidence(request)
        except AttestationError as error:
            return _verdict(_unread(policy, now, error.code), refused)
        found = verifier.verify(evidence, policy, now=now, expected=expected, insecure_software=software)
        return _verdict(found, refused)


def _unread(policy: policies.Policy, now: datetime, code: str) -> results.Result:
    """Return the result of evidence that cannot be read."""
    part = results.Appraisal("unknown")
    part.failed(code, "genuine")
    return results.Result({"cpu0": part}, policy.name, None, now, now)


def _verdict(found: results.Result, refused: str) -> Result:
    """Return a result as a reply: never one that could be taken for a bare yes."""
    if refused:
        part = found.parts["cpu0"]
        part.codes.insert(0, refused)
        part.checks.append(("challenge", "fail"))
        part.worsen("instance-identity", 97)
    made: dict[str, Any] = {
        "verdict": found.word,
        "ear-status": found.status,
        "attestation-result": found.hardware,
        "hardware": found.hardware == "hardware",
        "policy": found.policy,
        "errors": list(found.codes),
        "ear": _texts(found.ear("hyperpy")),
        "status": 200,
    }
    return Result("ok", Message(made))


def _texts(item: Any) -> Any:
    """Return claims as a message can hold them: what is not known is left out."""
    if isinstance(item, dict):
        return {str(name).lower(): _texts(one) for name, one in item.items() if one is not None}
    if isinstance(item, (list, tuple, set, frozenset)):
        return [_texts(one) for one in item if one is not None]
    return item if isinstance(item, (bool, int, float, str)) else str(item)
