"""NVIDIA GPUs and NVSwitches in confidential-computing mode (tee-attestation 5).

A GPU signs a nonce that its host chose; it signs no data. Its evidence counts only beside that of the
processor's environment which set it up (5.4). Checks, in this order (numbers are repeated beside the code):

    1  form: an SPDM 1.1 request for measurements and its answer
    2  chain of the attestation key to the pinned root, in whatever order it comes
    3  validity at ``now``
    4  signature over request and answer
    5  firmware ID in certificate and report agree, where both are there
    6  the request's nonce is the expected one
    7  golden values (:mod:`hyperpy.attest.rim`), where they are given

Whether a certificate was revoked, only NVIDIA's servers know: the result says ``unknown``.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest import certs, rim, roots
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.encoding import sha256
from hyperpy.errors import AttestationError

MAX_BYTES: Final = 1 << 15
_REQUEST, _SIGNATURE, _DIGEST = 37, 96, 48
_DICE: Final = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")
_SHA384: Final = bytes.fromhex("06096086480165030402020430")
"""DER of the algorithm's name and of the beginning of a digest of 48 bytes."""
_DRIVER, _VBIOS, _FIRMWARE, _FORMAT, _FLAG = 3, 6, 20, 34, 36
_BLOCK: Final = struct.Struct("<BBHBH")
"""Index, kind and size of a measurement; type and size of its value, which follows."""
_SWITCH: Final = "LS_10"
_SERIAL: Final = x509.NameOID.SERIAL_NUMBER


@dataclass(frozen=True, slots=True)
class Report:
    """A measurement report, well-formed but not yet verified.

    Attributes:
        nonce: of the request, 32 bytes; ``answer_nonce``: the device's own.
        blocks: measurements by index, from 1; 48 bytes each.
        opaque: other fields by number.
        signed, signature: what is signed, and how.
    """

    nonce: bytes
    answer_nonce: bytes
    blocks: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    @property
    def driver(self) -> str | None:
        """Version of the driver; None where there is none."""
        found = self.opaque.get(_DRIVER)
        return None if found is None else _text(found)

    @property
    def vbios(self) -> str | None:
        """Version of the VBIOS as NVIDIA writes it."""
        found = self.opaque.get(_VBIOS)
        if found is None:
            return None
        if len(found) != 8:
            return _text(found)
        return ".".join(f"{found[at]:02X}" for at in (3, 2, 1, 0, 4))


@dataclass(frozen=True, slots=True)
class Genuine:
    """A report that is genuine.

    Attributes:
        name: the attestation key's common name; ``serials``: the device's serial numbers.
        firmware: last 48 bytes of the certificate's DICE extension (the firmware ID in its older form), or None.
        golden: what the golden values said; None if none were given.
        not_after: when the first of the certificates ends.
    """

    report: Report
    name: str
    serials: tuple[str, ...]
    firmware: bytes | None
    golden: rim.Matched | None
    not_after: datetime

    @property
    def is_switch(self) -> bool:
        """Whether the device is an NVSwitch."""
        return self.name.startswith(_SWITCH)

    @property
    def product(self) -> str:
        """The product line, as golden values name it."""
        return self.name.partition(" ")[0].replace("_", "")

    def claims(self) -> Mapping[str, Any]:
        """Return everything the report says, by name; bytes as lower-case hex. Mismatch counters are not read."""
        report, own = self.report, self.report.opaque.get(_FIRMWARE)
        values = [report.blocks[number] for number in sorted(report.blocks)]
        return {
            "device": "nvswitch" if self.is_switch else "gpu",
            "leaf_cn": self.name,
            "leaf_serial_attr": list(self.serials),
            "request_nonce": report.nonce.hex(),
            "response_nonce": report.answer_nonce.hex(),
            "blocks": len(values),
            "driver": report.driver,
            "vbios": report.vbios,
            "fwid_in_cert": _hex(self.firmware),
            "fwid_in_report": _hex(own),
            "fwid_match": None if own is None or self.firmware is None else own == self.firmware,
            "feature_flag": _hex(report.opaque.get(_FLAG)),
            "opaque_version": _hex(report.opaque.get(_FORMAT)),
            "msr_mismatch_count": None,
            "measurements_sha256": sha256(b"".join(values)).hex(),
            "measurement_1": values[0].hex(),
            "measurement_last": values[-1].hex(),
        }


def verify(raw: bytes, chain: bytes, nonce: bytes, now: datetime, golden: Sequence[rim.Golden] = ()) -> Genuine:
    """Return a report that is genuine.

    Args:
        raw: request and answer.
        chain: PEM text of the device's certificates.
        nonce: the expected nonce, 32 bytes.
        now: UTC; the clock of the verification.
        golden: golden values whose signatures were verified.

    Raises:
        AttestationError: the first check that fails, by its code.
    """
    report = parse(raw)  # 1
    path = certs.chain(certs.from_pem(chain), roots.NVIDIA_DEVICE)  # 2
    certs.check_validity(path, now)  # 3
    key = certs.ec_key(path[0], ec.SECP384R1)
    genuine = ecdsa_raw(key, report.signature, report.signed, hashes.SHA384())  # 4
    require(genuine, "signature/invalid", "the report's signature does not verify")
    dice = _dice(path[0])
    own = report.opaque.get(_FIRMWARE)
    if own is not None and dice is not None:  # 5
        require(own in _firmware_ids(dice), "endorsement/hwid-mismatch", "the certificate is for other firmware")
    require(hmac.compare_digest(report.nonce, nonce), "freshness/nonce-mismatch", "the report answers another nonce")
    name, serials = _names(path[0])
    firmware = None if dice is None else dice[-_DIGEST:]
    end = min(one.not_valid_after_utc for one in path)
    made = Genuine(report, name, serials, firmware, None, end)
    if not golden:
        return made
    matched = rim.match(golden, made.product, report.driver, report.vbios, report.blocks)  # 7
    return Genuine(report, name, serials, firmware, matched, end)


def parse(raw: bytes) -> Report:
    """Return a report's parts.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``, ``evidence/unsupported-version``.
    """
    require(len(raw) <= MAX_BYTES, "evidence/too-large", f"a report of {len(raw)} bytes")
    cut = _Cut(raw)
    request = cut.take(_REQUEST)
    require(request[:1] == b"\x11" and raw[_REQUEST : _REQUEST + 1] == b"\x11", "evidence/unsupported-version", "SPDM")
    require(request[1] == 0xE0, "evidence/malformed", "not a request for measurements")
    head = cut.take(5)
    require(head[1] == 0x60, "evidence/malformed", "not an answer with measurements")
    count, record = head[4], cut.take(cut.number(3))
    answer_nonce = cut.take(32)
    opaque = _opaque(cut.take(cut.number(2)))
    signed = raw[: cut.at]
    signature = cut.take(_SIGNATURE)
    require(cut.at == len(raw), "evidence/malformed", "something follows the report")
    blocks = _blocks(record)
    require(len(blocks) == count, "evidence/malformed", "the number of measurements is not what is said")
    return Report(request[4:36], answer_nonce, blocks, opaque, signed, signature)


class _Cut:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        require(len(piece) == size, "evidence/malformed", "the report is cut off")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    @property
    def done(self) -> bool:
        return self.at == len(self.data)


def _blocks(record: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at, end = 0, len(record)
    while at < end:
        require(end - at >= _BLOCK.size + _DIGEST, "evidence/malformed", "the report is cut off")
        index, kind, size, _, inner = _BLOCK.unpack_from(record, at)
        fits = kind == 1 and size == _DIGEST + 3 and inner == _DIGEST and index not in found and index > 0
        require(fits, "evidence/malformed", "a measurement is malformed")
        at += _BLOCK.size + _DIGEST
        found[index] = record[at - _DIGEST : at]
    require(bool(found), "evidence/malformed", "the report holds no measurements")
    return found


def _opaque(data: bytes) -> dict[int, bytes]:
    cut, found = _Cut(data), {}
    while not cut.done:
        number = cut.number(2)
        require(number not in found, "evidence/malformed", "a field of the report is there twice")
        found[number] = cut.take(cut.number(2))
    return found


def _dice(leaf: x509.Certificate) -> bytes | None:
    """Return what TCG's DICE extension of a certificate holds, or None."""
    for one in leaf.extensions:
        if one.oid.dotted_string in _DICE and isinstance(one.value, x509.UnrecognizedExtension):
            return one.value.value
    return None


def _firmware_ids(dice: bytes) -> frozenset[bytes]:
    """Return the SHA-384 firmware IDs in a DICE extension: one in the older form, a list in the newer."""
    return frozenset(part[:_DIGEST] for part in dice.split(_SHA384)[1:])


def _names(leaf: x509.Certificate) -> tuple[str, tuple[str, ...]]:
    names = [str(one.value) for one in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    require(len(names) == 1, "endorsement/chain-invalid", "the attestation key has no single name")
    return names[0], tuple(str(one.value) for one in leaf.subject.get_attributes_for_oid(_SERIAL))


def _text(data: bytes) -> str:
    text = data.rstrip(b"\0")
    if not text.isascii():
        raise _malformed()
    return text.decode("ascii")


def _malformed() -> AttestationError:
    return refusal("evidence/malformed", "a version in the report is no text")


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()
