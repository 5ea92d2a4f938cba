"""NVIDIA's golden values: reference integrity manifests (tee-attestation 5.2).

A manifest is an XML file that NVIDIA signed. :func:`read` verifies one and takes its values out of the very
bytes that the signature covers; the values can then be kept as :class:`Golden`, without lxml, which only
:func:`read` needs (``pip install hyperpy[nvidia-rim]``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest import certs, roots
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.encoding import b64u_decode
from hyperpy.errors import AttestationError, CodecError, ConfigError

MAX_BYTES: Final = 1 << 20
_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ALTERNATIVES: Final = 64
_MAX_NAMESPACES: Final = 32


@dataclass(frozen=True, slots=True)
class Golden:
    """The values of one manifest, verified.

    Attributes:
        product: such as ``GH100``.
        version: of the driver or VBIOS that they are for.
        values: allowed measurements by block number (from 1), of those that must be compared.
        not_after: when the first of the signer's certificates ends.
    """

    product: str
    version: str
    values: Mapping[int, frozenset[bytes]]
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Matched:
    """How many measurements were compared; all were equal."""

    active: int
    versions: tuple[str, ...]


def match(
    golden: Sequence[Golden], product: str, driver: str | None, vbios: str | None, blocks: Mapping[int, bytes]
) -> Matched:
    """Compare measurements with golden values.

    Raises:
        AttestationError: ``endorsement/rim-version-mismatch`` (for another product or version, or two claim one
            measurement), ``policy/measurement-not-allowed``.
    """
    taken: set[int] = set()
    for one in golden:
        fits = one.product == product and one.version in (driver, vbios)
        require(fits, "endorsement/rim-version-mismatch", f"golden values for {one.product} {one.version}")
        require(taken.isdisjoint(one.values), "endorsement/rim-version-mismatch", "two manifests for one measurement")
        taken |= one.values.keys()
    require(len({one.version for one in golden}) == len(golden), "endorsement/rim-version-mismatch", "one twice")
    for one in golden:
        for number, allowed in one.values.items():
            found = blocks.get(number)
            require(found in allowed, "policy/measurement-not-allowed", f"measurement {number} is not a golden one")
    return Matched(len(taken), tuple(one.version for one in golden))


def read(data: bytes, now: datetime) -> Golden:
    """Return the values of a manifest whose signature verifies.

    Args:
        now: UTC; the signer's certificates must be valid then.

    Raises:
        EndorsementError: ``endorsement/rim-signature``, ``endorsement/expired``, ...
        EvidenceError: ``evidence/too-large``.
        ConfigError: lxml is not installed.
    """
    require(len(data) <= MAX_BYTES, "evidence/too-large", "the manifest is too long")
    etree = _lxml()
    root = _parsed(etree, data)
    signatures = root.findall(f"{_DS}Signature")
    if len(signatures) != 1 or len(list(root.iter(f"{_DS}Signature"))) != 1:
        raise _bad("it must have one signature")
    signature = signatures[0]
    info = signature.find(f"{_DS}SignedInfo")
    digest = _digest_of(info)
    signed_info = _canonical(etree, info)
    certificates = [_base64(one.text) for one in signature.iter(f"{_DS}X509Certificate")]
    value = _base64(signature.findtext(f"{_DS}SignatureValue"))
    path = certs.chain(certificates, roots.NVIDIA_RIM)
    certs.check_validity(path, now)
    key = certs.ec_key(path[0], ec.SECP384R1)
    if not ecdsa_raw(key, value, signed_info, hashes.SHA384()):
        raise _bad("its signature does not verify")
    _detach(root, signature)
    content = _canonical(etree, root)
    if hashlib.sha384(content).digest() != digest:
        raise _bad("it is not what was signed")
    return _values(_parsed(etree, content), min(one.not_valid_after_utc for one in path))


def _lxml() -> Any:
    try:
        from lxml import etree  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            "NVIDIA's manifests need lxml to be read", hint="Run pip install 'hyperpy[nvidia-rim]'."
        ) from None
    return etree


def _parsed(etree: Any, data: bytes) -> Any:
    """Return the root element; nothing is fetched, no entity is expanded, no DTD is taken.

    It is read as UTF-8 whatever it declares, so that what is searched for here cannot hide in another encoding.
    Canonical form takes time with the square of the namespaces declared; NVIDIA's manifests declare six.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise _bad("it has a DTD")
    if data.count(b"xmlns") > _MAX_NAMESPACES:
        raise _bad("it declares too many namespaces")
    options = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
    try:
        return etree.fromstring(data, etree.XMLParser(encoding="utf-8", **options))
    except (etree.LxmlError, ValueError):
        raise _bad("it is no XML") from None


def _canonical(etree: Any, element: Any) -> bytes:
    """Return the canonical form; there is none where a namespace is a relative URI."""
    try:
        return bytes(etree.tostring(element, method="c14n", with_comments=False))
    except (etree.LxmlError, ValueError):
        raise _bad("it has no canonical form") from None


def _digest_of(info: Any) -> bytes:
    """Return the digest that a SignedInfo names, which must be exactly of NVIDIA's form."""
    if info is None:
        raise _bad("it is not signed")
    found = [(one.tag.removeprefix(_DS), dict(one.attrib)) for one in info.iter() if isinstance(one.tag, str)]
    expected = [
        ("SignedInfo", {}),
        ("CanonicalizationMethod", {"Algorithm": _C14N}),
        ("SignatureMethod", {"Algorithm": _ECDSA}),
        ("Reference", {"URI": ""}),
        ("Transforms", {}),
        ("Transform", {"Algorithm": _ENVELOPED}),
        ("Transform", {"Algorithm": _C14N}),
        ("DigestMethod", {"Algorithm": _SHA384}),
        ("DigestValue", {}),
    ]
    if found != expected:
        raise _bad("it is signed in another way than NVIDIA's")
    return _base64(info.findtext(f"{_DS}Reference/{_DS}DigestValue"))


def _detach(root: Any, signature: Any) -> None:
    """Take the signature out; the text behind it stays where it is."""
    tail, before = signature.tail, signature.getprevious()
    if tail:
        if before is not None:
            before.tail = (before.tail or "") + tail
        else:
            root.text = (root.text or "") + tail
    root.remove(signature)


def _values(root: Any, end: datetime) -> Golden:
    metas, payloads = root.findall(f"{_SWID}Meta"), root.findall(f"{_SWID}Payload")
    if len(metas) != 1 or len(payloads) != 1:
        raise _bad("it has not the form of NVIDIA's manifests")
    found: dict[int, frozenset[bytes]] = {}
    for row in payloads[0].findall(f"{_SWID}Resource"):
        if row.get("active") != "True":
            continue
        try:
            number = int(row.get("index", "")) + 1
            count = min(int(row.get("alternatives", "1")), _ALTERNATIVES)
            allowed = frozenset(bytes.fromhex(row.attrib[f"{_HASH}{at}"]) for at in range(count))
        except (ValueError, KeyError):
            raise _bad("a measurement in it is malformed") from None
        if number in found:
            raise _bad("a measurement is in it twice")
        found[number] = allowed
    return Golden(metas[0].get("product", ""), metas[0].get("colloquialVersion", ""), found, end)


def _base64(text: str | None) -> bytes:
    try:
        return b64u_decode("".join((text or "").split()))
    except CodecError:
        raise _bad("a part of it is no base64") from None


def _bad(text: str) -> AttestationError:
    return refusal("endorsement/rim-signature", f"the manifest: {text}")
