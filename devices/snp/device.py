"""The keys of snp@1.0."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.attest import hyperbeam, snp
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.capabilities import Attester, Keys, NodeControl, Storage
from hyperpy.codecs import envelope
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import AttestationError, CodecError, CommitmentError, HyperpyError, MessageError
from hyperpy.message import Value

from . import report
from .report import Claim, Trust

_STATUS: Final = {"attester": 503, "verifier": 500}
"""By group of codes; all others are 400, as the reference's errors."""
_CACHE: Final = "snp/endorsement/"


@device("snp@1.0", needs=("node", "keys", "store", "attester"), excludes=("set", "keys", "id"))
class Snp:
    """Makes and verifies reports of AMD SEV-SNP in the reference's form (docs/attestation.md).

    Certificates come with the message or the request (``vek``, ``chain``: DER or base64), or are known from an
    earlier report of the same chip; nothing is fetched. An answer other than the text ``true`` has a code.
    """

    def start(self, node: NodeControl, keys: Keys, store: Storage, attester: Attester) -> None:
        """Take the settings, the node's address, the store for certificates, and what makes reports."""
        self._node, self._keys, self._store, self._attester = node, keys, store, attester

    @key(deterministic=False)
    def generate(self, request: Message) -> Result:
        """Return this node's report: ``local-hashes``, ``nonce``, ``address``, ``node-message``, ``report``.

        The report is bound to the address and the ID of the node message; with ``challenge`` (16 to 64 bytes,
        base64url) to these and the challenge. ``vek`` and ``chain`` are the certificates that the host gave.
        A report of a version that the reference's JSON does not know is base64url of its bytes.
        """
        try:
            return Result("ok", self._generated(request))
        except AttestationError as error:
            return refused(error)

    @key(deterministic=False)
    def verify(self, request: Message, ctx: Context) -> Result:
        """Return the text ``true`` if a report's message (``body``, else the request) shows all it must.

        With ``challenge`` beside a ``body``, the report must be bound to that.
        """
        body = request.get("body")
        subject = body if isinstance(body, Message) else request.private.get("order", request)
        asked = request.get("challenge") if subject is body else None
        try:
            self._verified(subject, request, asked, datetime.fromtimestamp(ctx.now(), UTC))
        except AttestationError as error:
            return refused(error)
        except HyperpyError as error:
            return refused(refusal("evidence/malformed", error.message))
        return Result("ok", b"true")

    # -- making ------------------------------------------------------------------------------

    def _generated(self, request: Message) -> Message:
        challenge = request.get("challenge")
        asked = b"" if challenge is None else report.challenge_of(challenge)
        listed = self._trust().configurations
        if not listed:
            raise refusal(
                "policy/measurement-not-allowed",
                "no_trusted_configs",
                hint="Describe this guest, and the others you trust, under [snp] trusted.",
            )
        address = self._keys.address
        about = self._node.info()
        node = b64u_decode(commitments.content_id(about))
        modulus = _signers(self._keys.sign(Message({"type": "Public-Key"})))[address] if asked else b""
        bound = report.binding(b64u_decode(address), node, asked, modulus)
        peer = None if self._node.is_operator(request) else str(request.private.get("peer", ""))
        found = self._attester.report(bound, level=1, peer=peer)
        require(found.kind == "snp", "attester/unavailable", "no_tee: this machine has no SEV-SNP")
        own = snp.parse(found.report)
        same = own.report_data == bound
        require(same, "attester/race", "the report is bound to something else")
        hashes = next((one for one in listed if _digest(one) == own.measurement), None)
        if hashes is None:
            raise refusal("policy/measurement-not-allowed", "no entry of snp-trusted describes this guest")
        made: dict[str, Any] = {
            "local-hashes": dict(hashes),
            "nonce": b64u(bound),
            "address": address,
            "node-message": about,
            "report": hyperbeam.to_json(found.report) if own.version == 2 else b64u(found.report),
        }
        if asked:
            made["challenge"] = b64u(asked)
        if found.vek:
            made |= {"vek": b64u(found.vek), "chain": [b64u(one) for one in found.chain]}
        return Message(made)

    # -- verifying ---------------------------------------------------------------------------

    def _verified(self, subject: Any, request: Message, challenge: Value | None, now: datetime) -> Claim:
        require(isinstance(subject, Message), "evidence/malformed", "there is no message to verify")
        try:
            commitments.check(subject)
        except CommitmentError as error:
            raise refusal("signature/invalid", f"the message: {error.message}") from None
        signers = _signers(subject)
        require(bool(signers), "binding/key-mismatch", "nobody signed the message")
        claim = report.read(commitments.only_committed(subject))
        if challenge is not None:
            same = claim.challenge == report.challenge_of(challenge)
            require(same, "freshness/nonce-mismatch", "the report answers another challenge, or none")
        raw = claim.report
        given = report.endorsement(request) or report.endorsement(subject)
        known = given or self._known(raw)
        report.appraise(claim, signers, self._trust(), known, now)
        if given is not None:
            self._remember(raw, given)
        return claim

    def _trust(self) -> Trust:
        names = ("snp-trusted", "snp-enforced-keys", "snp-policy")
        return report.trust_of(*(self._node.setting(name) for name in names))

    def _known(self, raw: bytes) -> Evidence | None:
        """Return the certificates of an earlier report of the same chip and TCB."""
        ref = self._store.named(_name(raw))
        try:
            found = self._store.read(ref) if ref is not None else None
            return report.endorsement(found) if isinstance(found, Message) else None
        except HyperpyError:
            return None

    def _remember(self, raw: bytes, given: Evidence) -> None:
        """Keep certificates that were found genuine: at most one set for each chip and TCB."""
        name, kept = _name(raw), Message({"vek": given.vek, "chain": given.chain})
        ref = self._store.write(kept)
        if self._store.named(name) != ref:
            self._store.link(name, ref)


def refused(error: AttestationError) -> Result:
    """Return the answer to what is refused: never one that could be taken for ``true``."""
    made = Message(
        {"status": _STATUS.get(error.code.partition("/")[0], 400), "code": error.code, "body": error.message}
    )
    return Result("error", made)


def _signers(item: Message) -> Mapping[str, bytes]:
    """Return the addresses that signed, with their RSA public keys; the signatures must have been checked."""
    found: dict[str, bytes] = {}
    for one in item.commitments.values():
        address = commitments.committer_of(one)
        try:
            modulus = envelope.public_key(one.text("keyid", ""))
        except (CodecError, MessageError):
            modulus = None
        if address is not None:
            found[address] = modulus or found.get(address, b"")
    return found


def _digest(hashes: report.Hashes) -> bytes:
    try:
        return report.digest_of(hashes)
    except AttestationError:
        return b""


def _name(raw: bytes) -> str:
    found = snp.parse(raw)
    return f"{_CACHE}{b64u(found.chip_id)}/{found.reported_tcb.hex()}/{found.signing_key}"
