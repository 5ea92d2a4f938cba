"""Mutual attestation: what a node shows to enter a zone, and what it must show (tee-attestation 7, 8.3)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyperpy import commitments
from hyperpy.attest import bundle, hyperbeam, statement, verifier
from hyperpy.attest import policy as policies
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.result import AFFIRMING
from hyperpy.capabilities import Attester
from hyperpy.codecs import envelope
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, ConfigError, Forbidden, HyperpyError
from hyperpy.message import Message, Value, as_text, same

from . import keys
from .epochs import Member

LIFE_S: Final = 300
"""How long a nonce waits for its answer."""
MOST: Final = 1024
"""Nonces that wait, or are remembered as used; beyond it the oldest goes."""
PURPOSE: Final = b"zone-join"
VMPLS: Final = frozenset({0})
"""Privilege levels where the policy names none."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A node that showed what it must.

    Attributes:
        member: its KEM key and the ID of its attestation.
        policy: name of the policy that accepted it.
    """

    address: str
    member: Member
    policy: str


@dataclass(slots=True)
class _Waiting:
    """A nonce that was given out: until when, and the KEM key that the answer is sealed to; None once used."""

    until: float
    key: X25519PrivateKey | None


class Nonces:
    """The nonces that this node gave out: each is good once, for :data:`LIFE_S` seconds. Thread-safe."""

    def __init__(self) -> None:
        self._given: dict[bytes, _Waiting] = {}
        self._lock = threading.Lock()

    def give(self, nonce: bytes, key: X25519PrivateKey, now: float) -> None:
        """Note that a nonce was given out."""
        with self._lock:
            while len(self._given) >= MOST:
                del self._given[next(iter(self._given))]
            self._given[nonce] = _Waiting(now + LIFE_S, key)

    def take(self, nonce: bytes, now: float) -> X25519PrivateKey:
        """Use a nonce up and return the key that goes with it.

        Raises:
            AppraisalError: ``freshness/nonce-mismatch`` (not given out here), ``-reused``, ``freshness/stale``.
        """
        with self._lock:
            found = self._given.get(nonce)
            if found is None:
                raise refusal("freshness/nonce-mismatch", "this node gave no such nonce out")
            key, found.key = found.key, None
        if key is None:
            raise refusal("freshness/nonce-reused", "the nonce was used before", hint="Ask for another challenge.")
        require(now <= found.until, "freshness/stale", "the nonce's time has passed")
        return key


def show(attester: Attester, kem: X25519PrivateKey, nonce: bytes, about: Message, *, gpus: bool = False) -> Evidence:
    """Return this node's evidence for a zone; raise AttestationError ``attester/...`` where there is none.

    Args:
        kem: the key that secrets will be sealed to. nonce: the other side's. about: the node message.
        gpus: with the devices, where the zone's policy wants any.
    """
    fields = {
        "kem": keys.KEM + kem.public_key().public_bytes_raw(),
        "node-message": b64u_decode(commitments.content_id(about)),
    }
    return attester.evidence(PURPOSE.decode(), nonce=nonce, fields=fields, gpus=gpus)


def check(
    evidence: Value | None,
    about: Value | None,
    *,
    nonce: bytes,
    address: str,
    policy: policies.Policy,
    now: float,
) -> Shown:
    """Return a node whose evidence is hardware's, fresh, for this purpose and address, and accepted.

    Args:
        evidence: its message. about: the node's message, whose ID must be in the binding.
        nonce: this node's own. address: whose evidence it must be.

    Raises:
        AttestationError: the first check that fails.
    """
    require(isinstance(evidence, Message), "evidence/malformed", "the evidence is missing")
    require(isinstance(about, Message), "evidence/malformed", "the node message is missing")
    try:
        found = bundle.read(evidence if isinstance(evidence, Message) else Message())
        own = b64u_decode(commitments.content_id(about if isinstance(about, Message) else Message()))
        wanted = {"purpose": PURPOSE, "address": b64u_decode(address), "node-message": own}
    except (CodecError, HyperpyError) as error:
        raise error if hasattr(error, "code") else refusal("evidence/malformed", error.message) from None
    expected = verifier.Expected(nonce=nonce, fields=wanted)
    result = verifier.verify(found, policy, now=datetime.fromtimestamp(now, UTC), expected=expected)
    if result.codes:
        raise refusal(result.codes[0], f"the evidence of {address} is refused")
    measured = result.status == AFFIRMING
    require(measured, "policy/measurement-not-allowed", "the policy does not say which software may join")
    said = statement.decode(found.statement)
    modulus, kem = said.fields["key"], said.fields["kem"]
    same_key = modulus[:1] == b"\x01" and b64u(sha256(modulus[1:])) == address
    require(same_key, "binding/key-mismatch", "the bound key is not that of the address")
    fits = kem[:2] == keys.KEM and len(kem) == 34
    require(fits, "binding/key-mismatch", "the KEM key is no X25519 key")
    keys.seal(b"", kem[2:], b"")  # some points are no keys
    return Shown(address, Member(kem[2:], sha256(said.report_data())), result.policy)


def public_key(signed: Message) -> tuple[str, bytes]:
    """Return address and modulus of the RSA key that signed a message."""
    for one in signed.commitments.values():
        address = commitments.committer_of(one)
        modulus = envelope.public_key(one.text("keyid", "")) if address is not None else None
        if address is not None and modulus:
            return address, modulus
    raise ConfigError("this node signs with no RSA key")


def policy_of(table: Any, trusted: Collection[Mapping[str, Any]]) -> policies.Policy:
    """Return the policy of the setting ``green-zone-policy``.

    Where it names no measurements of SEV-SNP, those of ``snp-trusted`` count; what no list names is refused.

    Raises:
        ConfigError: it says something unknown.
    """
    found = policies.of({"id": "green-zone", **_plain(table or {})}, vmpls=VMPLS)
    found = replace(found, allow_software=False)
    if found.snp.measurements is not None or not trusted:
        return found
    try:
        known = frozenset(hyperbeam.measurement(_plain(one)) for one in trusted)
    except HyperpyError as error:
        raise ConfigError(f"snp-trusted: {error.message}") from None
    return replace(found, snp=replace(found.snp, measurements=known))


def check_settings(required: Value | None, theirs: Message, own: Message) -> None:
    """Raise Forbidden unless a node message has the settings that the zone requires."""
    if not isinstance(required, Message):
        return
    for name in required:
        wanted = required[name]
        if wanted == b"self":
            wanted = own.get(name, b"")
        found = theirs.get(name)
        if found is None or not (same(found, wanted) or _text(found) == _text(wanted) is not None):
            raise Forbidden(f"the node's '{name}' is not what this zone requires")


def _text(item: Value) -> str | None:
    return None if isinstance(item, (Message, tuple)) else as_text(item)


def _plain(item: Any) -> Any:
    """Return a setting as Python's own values, as a policy's file has them."""
    if isinstance(item, Mapping):
        return {name: _plain(item[name]) for name in item}
    if isinstance(item, (tuple, list)):
        return [_plain(one) for one in item]
    return as_text(item) if isinstance(item, bytes) else item


def check_may_join(address: str, removed: Callable[[str], bool]) -> None:
    """Raise Forbidden for a node that was removed and not readmitted."""
    if removed(address):
        raise Forbidden(
            "this node was removed from the green zone",
            hint="Its keeper's operator can order `readmit` with its address.",
        )
