"""Tokens of NVIDIA's remote attestation service (tee-attestation 5.3).

A token counts only under a key that the relying party pinned beforehand (a JWKS): nothing is fetched,
and the algorithm is ES384, whatever the token says of itself.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import AttestationError, CodecError

MAX_BYTES: Final = 1 << 18
_ISSUER: Final = "https://nras.attestation.nvidia.com"
_SUBJECT: Final = "NVIDIA-PLATFORM-ATTESTATION"


@dataclass(frozen=True, slots=True)
class Token:
    """A token: the claims about the whole and about each device. Genuine once :func:`verify` returned it."""

    overall: Mapping[str, Any]
    devices: Mapping[str, Mapping[str, Any]]

    def claims(self) -> Mapping[str, Any]:
        """Return what the token says of the whole, by name."""
        names = ("iss", "eat_nonce", "iat", "exp")
        return {**{name: self.overall.get(name) for name in names}, "overall": self.overall.get(_RESULT)}


_RESULT: Final = "x-nvidia-overall-att-result"


def verify(raw: bytes, keys: Mapping[str, Any] | None, nonce: bytes | None, now: datetime) -> Token:
    """Return a token that is genuine.

    Args:
        keys: pinned JWKS, or None.
        nonce: the expected nonce; None: the caller compares it.
        now: UTC; the clock of the verification.

    Raises:
        AttestationError: the first check that fails, by its code; without the key ``endorsement/missing``.
    """
    found, texts = read(raw)
    head = texts[""][0]
    key = _pinned(keys, head.get("kid"))
    for name, (header, signed, signature) in texts.items():
        require(header.get("kid") == head.get("kid"), "endorsement/missing", f"the key of '{name[:40]}' is another")
        require(ecdsa_raw(key, signature, signed, hashes.SHA384()), "signature/invalid", "the token does not verify")
    begin, end = (_moment(found.overall.get(name)) for name in ("nbf", "exp"))
    require(begin <= now, "endorsement/not-yet-valid", "the token is not valid yet")
    require(now <= end, "endorsement/expired", "the token has expired")
    said = str(found.overall.get("eat_nonce", ""))
    if nonce is not None:
        require(hmac.compare_digest(said, nonce.hex()), "freshness/nonce-mismatch", "the token answers another nonce")
    require(found.overall.get(_RESULT) is True, "policy/measurement-not-allowed", "NVIDIA's verdict is negative")
    return found


_Signed = tuple[Mapping[str, Any], bytes, bytes]


def read(raw: bytes) -> tuple[Token, Mapping[str, _Signed]]:
    """Return a token whose form is right and whose parts belong together; no signature is looked at.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``, ``signature/algorithm``.
    """
    require(len(raw) <= MAX_BYTES, "evidence/too-large", "the token is too long")
    try:
        (kind, outer), parts = json.loads(raw)
        listed = dict(parts)
    except (ValueError, TypeError, RecursionError):
        raise _malformed("it is no JSON of that form") from None
    if kind != "JWT" or not all(isinstance(one, str) for one in (outer, *listed.values())):
        raise _malformed("it is no JSON of that form")
    overall, signed = _jwt(outer)
    texts, devices = {"": signed}, {}
    known = overall.get("submods")
    if overall.get("iss") != _ISSUER or overall.get("sub") != _SUBJECT or not isinstance(known, dict):
        raise _malformed("it is not of NVIDIA's service")
    require(known.keys() == listed.keys(), "evidence/malformed", "devices are missing or too many")
    for name, text in listed.items():
        same = known[name] == ["DIGEST", ["SHA-256", sha256(text.encode()).hex()]]
        require(same, "evidence/malformed", f"the part of '{name[:40]}' is another")
        devices[name], texts[name] = _jwt(text)
    return Token(overall, devices), texts


def _jwt(text: str) -> tuple[Mapping[str, Any], _Signed]:
    parts = text.split(".")
    if len(parts) != 3 or not text.isascii():
        raise _malformed("a part of it is no JWT")
    try:
        head, body, signature = (b64u_decode(part) for part in parts)
        header, claims = json.loads(head), json.loads(body)
    except (CodecError, ValueError, RecursionError):
        raise _malformed("a part of it is no JWT") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or b64u(signature) != parts[2]:
        raise _malformed("a part of it is no JWT")
    require(header.get("alg") == "ES384", "signature/algorithm", "not ES384")
    return claims, (header, f"{parts[0]}.{parts[1]}".encode(), signature)


def _pinned(keys: Mapping[str, Any] | None, name: object) -> ec.EllipticCurvePublicKey:
    for one in (keys or {}).get("keys", ()):
        if one.get("kid") != name or one.get("kty") != "EC" or one.get("crv") != "P-384":
            continue
        try:
            point = b"\x04" + b64u_decode(one["x"]) + b64u_decode(one["y"])
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
        except (CodecError, ValueError, KeyError):
            break
    raise refusal("endorsement/missing", "the key that signed the token is not pinned")


def _moment(item: object) -> datetime:
    if type(item) is not int or not 0 <= item < 1 << 40:
        raise _malformed("it has no dates")
    try:
        return datetime.fromtimestamp(item, UTC)
    except (ValueError, OverflowError, OSError):
        raise _malformed("it has no dates") from None


def _malformed(text: str) -> AttestationError:
    return refusal("evidence/malformed", f"the token: {text}")
