"""The message of a report, and what it must show to be believed (tee-attestation 6).

    1  the report's own 64 bytes are the message's ``nonce``, and that is address and node message ID
    2  who signed the message includes the address
    3  the guest is not in debug mode
    4  the enforced keys of ``local-hashes`` are all there, and are those of one trusted configuration
    5  the launch digest recomputed from ``local-hashes`` is the report's measurement
    6  certificates up to a pinned root vouch for the report, and the policy accepts it (VMPL 1 if it names none)

Nothing that stands inside the report's JSON is taken for a key of the message. A *challenge* makes a report
fresh: then the 64 bytes are the hash of a statement with the challenge in it (tee-attestation 7.1).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from hyperpy import commitments
from hyperpy.attest import hyperbeam, snp, statement, verifier
from hyperpy.attest import policy as policies
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.result import AFFIRMING
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import CodecError, ConfigError, HyperpyError, ParameterError
from hyperpy.message import Message, Value, as_text, texts

VMPLS: Final = frozenset({1})
"""The privilege level that the reference asks for."""
MAX_TRUSTED: Final = 1000
_CHALLENGE: Final = range(16, 65)
_MAX_CERTIFICATE: Final = 8192
_MAX_CRL: Final = 1 << 20

Hashes = Mapping[str, Any]
"""``local-hashes``: numbers, and digests as lower-case hex."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a report's message says: of its signed keys, none of the report's own.

    Attributes:
        address, node: the node's address and the ID of its node message, 32 bytes each.
        nonce: what the report is said to be bound to.
        report: the 1184 bytes; in the message JSON, or base64url of them.
        challenge: of whoever asked for the report; empty if nobody did.
    """

    address: bytes
    node: bytes
    nonce: bytes
    report: bytes
    hashes: Hashes
    challenge: bytes = b""

    def bound(self, modulus: bytes) -> bytes:
        """Return the 64 bytes that the report must carry.

        Args:
            modulus: the node's public key; only looked at if there is a challenge.
        """
        return binding(self.address, self.node, self.challenge, modulus)


@dataclass(frozen=True, slots=True)
class Trust:
    """What this node believes: configurations, which keys of them are enforced, and a policy."""

    configurations: Sequence[Hashes] = ()
    enforced: Collection[str] = hyperbeam.HASHES
    policy: policies.Policy = field(default_factory=policies.Policy)

    def check(self, hashes: Hashes) -> None:
        """Raise AppraisalError unless a configuration is trusted."""
        missing = sorted(set(self.enforced) - hashes.keys())
        code = "policy/measurement-not-allowed"
        require(not missing, code, f"local-hashes lacks {', '.join(missing)}, which this node enforces")
        known = any(all(one.get(name) == hashes[name] for name in self.enforced) for one in self.configurations)
        require(known and bool(self.enforced), code, "the software is none that this node trusts")


def binding(address: bytes, node: bytes, challenge: bytes, modulus: bytes) -> bytes:
    """Return the 64 bytes of a report: address and node message ID, or the hash of a statement with a challenge."""
    if not challenge:
        return address + node
    fields = {"purpose": b"node-identity", "address": address, "key": b"\x01" + modulus}
    return statement.make({**fields, "nonce": challenge, "node-message": node}).report_data()


def read(item: Message) -> Claim:
    """Return what a message says; ``item`` holds its committed keys only.

    Raises:
        AttestationError: ``evidence/malformed``, ``evidence/too-large``.
    """
    try:
        own = item.get("node-message")
        named = item.get("node-message-id")
        ids = [_id(named, "node-message-id")] if named is not None else []
        if isinstance(own, Message):
            ids.append(b64u_decode(commitments.content_id(own)))
        require(bool(ids), "evidence/malformed", "the node message, or its ID, is missing")
        require(len(set(ids)) == 1, "evidence/malformed", "node-message-id is not that of the node message")
        challenge = item.get("challenge")
        return Claim(
            address=_id(item.get("address"), "address"),
            node=ids[0],
            nonce=_bytes(item.get("nonce"), "nonce", (64,)),
            report=_report(item.get("report")),
            hashes=hashes_of(item.get("local-hashes")),
            challenge=b"" if challenge is None else challenge_of(challenge),
        )
    except CodecError as error:
        raise refusal("evidence/malformed", error.message) from None


def appraise(
    claim: Claim, signers: Mapping[str, bytes], trust: Trust, given: Evidence | None, now: datetime
) -> snp.Report:
    """Return the report if it shows all of the module's table.

    Args:
        signers: addresses whose signatures under the message were verified, and their public keys.
        given: the certificates; its report is not looked at.
        now: UTC; the clock of the verification.

    Raises:
        AttestationError: the first check that fails.
    """
    report = snp.parse(claim.report)
    code = "binding/report-data-mismatch"
    same = hmac.compare_digest(report.report_data, claim.nonce)
    require(same, code, "the report is bound to something else than the message's nonce")
    name = b64u(claim.address)
    if claim.challenge:
        require(name in signers, "binding/key-mismatch", "the address is not among those who signed the message")
    same = hmac.compare_digest(claim.bound(signers.get(name, b"")), claim.nonce)
    require(same, code, "the nonce is not made of this address and node message")
    require(name in signers, "binding/key-mismatch", "the address is not among those who signed the message")
    require(not report.debug or trust.policy.snp.allow_debug, "policy/debug-enabled", "the guest can be debugged")
    trust.check(claim.hashes)
    measured = digest_of(claim.hashes)
    same = measured == report.measurement
    require(same, "policy/measurement-not-allowed", "local-hashes are not what was launched")
    evidence = Evidence("snp", claim.report)
    if given is not None:
        evidence = replace(given, report=claim.report)
    asked = replace(trust.policy, snp=_narrowed(trust, measured))
    found = verifier.verify(evidence, asked, now=now, expected=verifier.Expected(report_data=claim.nonce))
    if found.codes:
        raise refusal(found.codes[0], "the report is refused")
    require(found.status == AFFIRMING, "verifier/internal", f"the report is {found.word}")
    return report


def _narrowed(trust: Trust, measured: bytes) -> Any:
    own = trust.policy.snp
    allowed = frozenset({measured})
    return replace(
        own,
        measurements=allowed if own.measurements is None else allowed & own.measurements,
    )


def digest_of(hashes: Hashes) -> bytes:
    """Return the launch digest of a configuration; raise AttestationError if it names none."""
    try:
        return hyperbeam.measurement(hashes)
    except ParameterError as error:
        raise refusal("evidence/malformed", error.message) from None


def endorsement(item: Message) -> Evidence | None:
    """Return the certificates that a message gives, ``vek`` and ``chain`` (and ``crl``); None if it gives none.

    Each is DER, or base64 of it.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``.
    """
    vek, chain = item.get("vek"), item.get("chain")
    if vek is None:
        return None
    if isinstance(chain, Message):
        chain = tuple(chain[str(number)] for number in range(1, len(chain) + 1) if str(number) in chain)
    require(isinstance(chain, tuple) and len(chain) <= 8, "evidence/malformed", "'chain' must be a list of DER")
    crl = item.get("crl")
    return Evidence(
        "snp",
        b"",
        vek=_der(vek, _MAX_CERTIFICATE),
        chain=tuple(_der(one, _MAX_CERTIFICATE) for one in (chain if isinstance(chain, tuple) else ())),
        crl=b"" if crl is None else _der(crl, _MAX_CRL),
    )


def hashes_of(item: Value | None) -> Hashes:
    """Return ``local-hashes`` with numbers as such and digests in lower case; keys it does not know are left out."""
    require(isinstance(item, Message), "evidence/malformed", "'local-hashes' is missing")
    found: dict[str, Any] = {}
    for name in hyperbeam.HASHES:
        one = item.get(name) if isinstance(item, Message) else None
        if one is None:
            continue
        if type(one) is int or not isinstance(one, bytes):
            require(type(one) is int, "evidence/malformed", f"'{name}' of local-hashes is neither number nor text")
            found[name] = one
        else:
            text = one.decode("ascii", "replace").lower()
            number = name in hyperbeam.HASHES[:4] and text.isascii() and text.isdigit() and len(text) < 20
            found[name] = int(text) if number else text
    return found


def trust_of(trusted: Any, enforced: Any, table: Any) -> Trust:
    """Return what the settings ``snp-trusted``, ``snp-enforced-keys`` and ``snp-policy`` say.

    Raises:
        ConfigError: one of them cannot be used.
    """
    listed = trusted if isinstance(trusted, (tuple, list)) else ()
    if len(listed) > MAX_TRUSTED:
        raise ConfigError(f"snp-trusted may hold {MAX_TRUSTED} configurations")
    names = texts(enforced) if enforced is not None else list(hyperbeam.HASHES)
    unknown = sorted(set(names) - set(hyperbeam.HASHES))
    if unknown or not names:
        raise ConfigError(
            f"snp-enforced-keys: there is no '{unknown[0]}'" if unknown else "snp-enforced-keys is empty",
            hint=f"Known: {', '.join(hyperbeam.HASHES)}.",
        )
    try:
        known = tuple(hashes_of(one) for one in listed)
    except HyperpyError as error:
        raise ConfigError(f"snp-trusted: {error.message}") from None
    return Trust(known, frozenset(names), policies.of({"id": "snp", "snp": plain(table) or {}}, vmpls=VMPLS))


def plain(item: Any) -> Any:
    """Return a setting as Python's own values, as a policy's file has them."""
    if isinstance(item, Mapping):
        return {name: plain(item[name]) for name in item}
    if isinstance(item, (tuple, list)):
        return [plain(one) for one in item]
    return as_text(item) if isinstance(item, bytes) else item


def challenge_of(item: Value) -> bytes:
    """Return a challenge: 16 to 64 bytes as base64url."""
    return _bytes(item, "challenge", _CHALLENGE)


def _report(item: Value | None) -> bytes:
    if not isinstance(item, bytes):
        raise refusal("evidence/malformed", "'report' is missing")
    if item[:1] == b"{" or len(item) > 2 * snp.SIZE:
        return hyperbeam.to_bytes(item)
    found = b64u_decode(item)
    require(len(found) == snp.SIZE and b64u(found).encode() == item, "evidence/malformed", "'report' is no report")
    return found


def _id(item: Value | None, name: str) -> bytes:
    return _bytes(item, name, (32,))


def _bytes(item: Value | None, name: str, sizes: Collection[int]) -> bytes:
    """Return what base64url stands for, which has one form only."""
    short = isinstance(item, bytes) and len(item) <= 128
    found = b64u_decode(item) if isinstance(item, bytes) and short else b""
    fits = len(found) in sizes and isinstance(item, bytes) and b64u(found).encode() == item
    require(fits, "evidence/malformed", f"'{name}' is missing, or no base64url of the right length")
    return found


def _der(item: Value, most: int) -> bytes:
    if not isinstance(item, bytes):
        raise refusal("evidence/malformed", "a certificate is no bytes")
    require(len(item) <= 2 * most, "evidence/too-large", "a certificate is too long")
    if item[:1] != b"\x30":
        try:
            item = b64u_decode(item)
        except CodecError:
            raise refusal("evidence/malformed", "a certificate is neither DER nor base64") from None
    require(len(item) <= most, "evidence/too-large", "a certificate is too long")
    return item
