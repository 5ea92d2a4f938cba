"""X.509 chains of the vendors whose certificates a library reads: Intel, AWS, NVIDIA.

Whole DER is compared at the root, so nothing of it goes unauthenticated; PEM text is taken only in its
one plain form, so no byte of it is free to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hyperpy.attest import der
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.roots import Anchor
from hyperpy.encoding import b64, b64u_decode, sha256
from hyperpy.errors import AttestationError, CodecError

_VERSION: Final = 0xA0
MAX_CERTIFICATE: Final = 8192
MAX_CHAIN: Final = 8
MAX_CRL: Final = 1 << 20

_LINE: Final = re.compile(rb"[A-Za-z0-9+/]{1,76}={0,2}")
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


def from_pem(text: bytes, *, padded: bool = False) -> list[bytes]:
    """Return the DER of each certificate of a PEM text.

    Args:
        padded: one zero byte may follow, as Intel's quotes have it.

    Raises:
        EndorsementError: ``endorsement/chain-invalid``: anything but plain blocks, or too many.
    """
    if padded and text.endswith(b"\0"):
        text = text[:-1]
    found: list[bytes] = []
    rows = iter(text.replace(b"\r\n", b"\n").removesuffix(b"\n").removesuffix(b"\n").split(b"\n"))
    for row in rows:
        if row != _BEGIN or len(found) == MAX_CHAIN:
            raise _chain("a PEM text holds something else, or too many certificates")
        body = []
        for line in rows:
            if line == _END:
                break
            if not _LINE.fullmatch(line):
                raise _chain("a line of a PEM text is malformed")
            body.append(line)
        else:
            raise _chain("a PEM text is cut off")
        found.append(_plain_base64(body))
    return found


def _plain_base64(lines: Sequence[bytes]) -> bytes:
    if len({len(line) for line in lines[:-1]}) > 1 or (len(lines) > 1 and len(lines[-1]) > len(lines[0])):
        raise _chain("lines of a PEM text differ in length")
    text = b"".join(lines).decode("ascii")
    try:
        found = b64u_decode(text)
    except CodecError:
        raise _chain("a PEM text is no base64") from None
    if b64(found) != text:
        raise _chain("a PEM text is not in the one form of its bytes")
    return found


@lru_cache(256)
def certificate(data: bytes) -> x509.Certificate:
    """Return a certificate; raise EndorsementError ``endorsement/chain-invalid`` if the bytes are none."""
    require(len(data) <= MAX_CERTIFICATE, "evidence/too-large", "a certificate is too long")
    try:
        found = x509.load_der_x509_certificate(data)
        if found.public_bytes(Encoding.DER) != data or not data.endswith(b"\0" + found.signature):
            raise ValueError  # the bit string of the signature has no unused bits, which no signature covers
        if not _one_algorithm(data):
            raise ValueError
        _ = found.extensions, found.subject, found.issuer, found.public_key()
    except _ERRORS:
        raise _chain("a certificate is malformed") from None
    return found


def _one_algorithm(data: bytes) -> bool:
    """Say whether a certificate names the same signature algorithm inside what is signed and outside."""
    whole = der.Reader(der.Reader(data).take(der.SEQUENCE))
    signed = der.Reader(whole.take(der.SEQUENCE))
    if signed.peek() == _VERSION:
        signed.take()
    signed.take(der.INTEGER)
    return signed.whole(der.SEQUENCE) == whole.whole(der.SEQUENCE)


def chain(
    certificates: Iterable[bytes], anchor: Anchor, leaf: x509.Certificate | None = None
) -> list[x509.Certificate]:
    """Return the one path from the leaf to the pinned root, in any order given; every signature holds.

    Args:
        certificates: DER, the root among them.
        anchor: the root; an older certificate of its very key will do, since that key signed it whole.
        leaf: where to begin; default the one certificate that issued no other.

    Raises:
        EndorsementError: ``endorsement/untrusted-root`` or ``endorsement/chain-invalid``.
    """
    given = list(dict.fromkeys(certificates))
    require(len(given) <= MAX_CHAIN, "endorsement/chain-invalid", "the chain is too long")
    others = [certificate(one) for one in given]
    root = next((one for one, raw in zip(others, given, strict=True) if _is_root(one, raw, anchor)), None)
    if root is None:
        selfmade = any(one.issuer == one.subject for one in others)
        raise refusal(
            "endorsement/untrusted-root" if selfmade else "endorsement/chain-invalid",
            "the chain does not end in the vendor's root",
        )
    others.remove(root)
    if leaf is None:
        leaves = [one for one in others if not any(one.subject == other.issuer for other in others)]
        require(len(leaves) == 1, "endorsement/chain-invalid", "the chain has no single beginning")
        leaf = leaves[0]
    path = [leaf]
    rest = [one for one in others if one != leaf]
    while path[-1].issuer != root.subject:
        issuers = [one for one in rest if one.subject == path[-1].issuer]
        require(len(issuers) == 1, "endorsement/chain-invalid", "an issuer is missing, or there are two")
        rest.remove(issuers[0])
        path.append(issuers[0])
    require(not rest, "endorsement/chain-invalid", "a certificate belongs to no path")
    path.append(root)
    for below, (one, issuer) in enumerate(pairwise(path)):
        _check_issued(one, issuer)
        _check_length(issuer, below)
    if sha256(root.public_bytes(Encoding.DER)) != anchor.pin:  # every byte of the pinned one is known to be right
        _check_issued(root, root)
    return path


def _is_root(one: x509.Certificate, data: bytes, anchor: Anchor) -> bool:
    if sha256(data) == anchor.pin:
        return True
    if not anchor.point or one.issuer != one.subject:
        return False
    point = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return point.endswith(anchor.point)  # its signature on itself is checked as every other


@lru_cache(256)
def _check_issued(one: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise unless a certificate is signed by its issuer. What holds once holds always: validity is not looked at."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        if not constraints.ca or not usage.key_cert_sign:
            raise ValueError
        key, how = issuer.public_key(), one.signature_algorithm_parameters
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            if one.issuer != issuer.subject:
                raise ValueError
            key.verify(one.signature, one.tbs_certificate_bytes, how)  # with the key as it was read once
        else:
            one.verify_directly_issued_by(issuer)
    except (InvalidSignature, x509.ExtensionNotFound, *_ERRORS):
        raise _chain("a certificate is not signed by its issuer, or that one may not sign") from None


def _check_length(issuer: x509.Certificate, below: int) -> None:
    """Raise unless an authority may have so many authorities below it."""
    most = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    require(most is None or below <= most, "endorsement/chain-invalid", "a chain is longer than an issuer allows")


def check_validity(path: Iterable[x509.Certificate], now: datetime) -> None:
    """Raise unless every certificate is valid at a time: ``endorsement/expired``, ``endorsement/not-yet-valid``."""
    for one in path:
        require(one.not_valid_before_utc <= now, "endorsement/not-yet-valid", "a certificate is not valid yet")
        require(now <= one.not_valid_after_utc, "endorsement/expired", "a certificate has expired")


def ec_key(one: x509.Certificate, curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePublicKey:
    """Return a certificate's public key; raise ``endorsement/chain-invalid`` if it is not on that curve."""
    key = one.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise _chain("a certificate's key is of another kind")
    return key


def revocations(data: bytes) -> x509.CertificateRevocationList:
    """Return a revocation list; raise ``collateral/signature`` if the bytes are none."""
    require(len(data) <= MAX_CRL, "evidence/too-large", "a revocation list is too long")
    try:
        found = x509.load_der_x509_crl(data)
        _ = found.extensions, found.issuer, found.signature_algorithm_oid
    except _ERRORS:
        raise refusal("collateral/signature", "a revocation list is malformed") from None
    return found


def _chain(text: str) -> AttestationError:
    return refusal("endorsement/chain-invalid", text)
