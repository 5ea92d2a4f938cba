"""Intel SGX and TDX quotes: layout and meaning (tee-attestation 3.1).

:func:`parse` checks form alone. Whether a quote is genuine says :mod:`hyperpy.attest.quote_chain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hyperpy.attest.codes import refusal, require

MAX_BYTES: Final = 1 << 16
SGX, TDX = "sgx", "tdx"
_HEADER: Final = 48
_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_TEE: Final = {0: SGX, 0x81: TDX}
_BODIES: Final = {1: (SGX, 384), 2: (TDX, 584), 3: (TDX, 648)}
_PEM_CHAIN, _QE_REPORT = 5, 6


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote, well-formed but not yet verified.

    Attributes:
        version: 3 (SGX), 4 or 5.
        tee: ``sgx`` or ``tdx``.
        body_type: of version 5; None before.
        body: the enclave's or trust domain's report.
        signed: what the attestation key signed.
        signature, key: of the attestation key, 64 bytes each.
        qe_report, qe_signature, qe_data: the quoting enclave's report, its signature and authentication data.
        pck_chain: PEM text of the platform's certificates; None if the quote holds none.
        size: bytes of the quote.
        trailing: zero bytes that follow it; they belong to no signature.
    """

    version: int
    tee: str
    body_type: int | None
    body: bytes
    header: bytes
    signed: bytes
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_data: bytes
    certification: int
    pck_chain: bytes | None
    size: int
    trailing: int

    @property
    def report_data(self) -> bytes:
        """The caller's 64 bytes."""
        return self.body[320:384] if self.tee == SGX else self.body[520:584]

    @property
    def debug(self) -> bool:
        """Whether memory can be read from outside."""
        return bool(self.body[48] & 2) if self.tee == SGX else bool(self.body[120] & 1)

    @property
    def tee_tcb_svn(self) -> bytes:
        """Security versions of the TDX module, 16 bytes."""
        return self.body[:16]

    def part(self, name: str) -> bytes:
        """Return a raw field of the body by name."""
        at, size = (_SGX if self.tee == SGX else _TD)[name]
        return self.body[at : at + size]

    @property
    def service_td(self) -> bytes:
        """MRSERVICETD; zero where there is none."""
        return self.body[600:648] if len(self.body) == 648 else bytes(48)

    def claims(self) -> Mapping[str, Any]:
        """Return everything the quote says, by name; bytes as lower-case hex."""
        made: dict[str, Any] = {"debug": self.debug, "report_data": self.report_data.hex()}
        if self.tee == SGX:
            made |= {name: self.part(name).hex() for name in ("cpusvn", "attributes", "mrenclave", "mrsigner")}
            made |= {name: _little(self.part(name)) for name in ("miscselect", "prodid", "svn")}
        else:
            made |= {name: self.part(name).hex() for name in _TD}
            made["rtmr"] = [self.body[at : at + 48].hex() for at in (328, 376, 424, 472)]
            if len(self.body) == 648:
                made |= {"tee_tcb_svn2": self.body[584:600].hex(), "mrservicetd": self.service_td.hex()}
        made |= {
            "quote_version": self.version,
            "body_type": self.body_type,
            "qe_vendor_id": self.header[12:28].hex(),
            "user_data": self.header[28:48].hex(),
            "total_len": self.size,
            "trailing": self.trailing,
            "qe": enclave(self.qe_report),
            "cert_data_type": self.certification,
        }
        return made


_SGX: Final = {
    "cpusvn": (0, 16), "miscselect": (16, 4), "attributes": (48, 16), "mrenclave": (64, 32), "mrsigner": (128, 32),
    "configid": (192, 64), "prodid": (256, 2), "svn": (258, 2), "familyid": (304, 16),
}  # fmt: skip
_TD: Final = {
    "tee_tcb_svn": (0, 16), "mrseam": (16, 48), "mrsignerseam": (64, 48), "seamattr": (112, 8), "tdattr": (120, 8),
    "xfam": (128, 8), "mrtd": (136, 48), "mrconfigid": (184, 48), "mrowner": (232, 48), "mrownerconfig": (280, 48),
}  # fmt: skip


def enclave(body: bytes) -> dict[str, Any]:
    """Return what names an enclave in its report (384 bytes)."""
    found = {name: body[at : at + size] for name, (at, size) in _SGX.items()}
    return {
        "mrenclave": found["mrenclave"].hex(),
        "mrsigner": found["mrsigner"].hex(),
        "prodid": _little(found["prodid"]),
        "svn": _little(found["svn"]),
    }


def enclave_field(body: bytes, name: str) -> bytes:
    """Return a raw field of an enclave's report."""
    at, size = _SGX[name]
    return body[at : at + size]


class _Cut:
    """Takes pieces off a quote's bytes; every piece must be there."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        require(len(piece) == size, "evidence/malformed", "the quote is cut off")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return _little(self.take(size))


def parse(raw: bytes) -> Quote:
    """Return a quote's parts.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``, ``evidence/unsupported-version``,
            ``evidence/unsupported-type``, ``evidence/reserved-nonzero``, ``signature/algorithm``.
    """
    require(len(raw) <= MAX_BYTES, "evidence/too-large", f"a quote of {len(raw)} bytes")
    cut = _Cut(raw)
    header = cut.take(_HEADER)
    version, algorithm, tee_type = _little(header[:2]), _little(header[2:4]), _little(header[4:8])
    require(version in (3, 4, 5), "evidence/unsupported-version", f"version {version}")
    require(algorithm == 2, "signature/algorithm", "not ECDSA on P-256")
    require(header[12:28] == _VENDOR, "evidence/unsupported-type", "not Intel's quoting enclave")
    tee, body_type, size = _body(cut, version, tee_type)
    body = cut.take(size)
    signed = raw[: cut.at]
    _check_reserved(tee, body)
    length = cut.number(4)
    end = cut.at + length
    require(end <= len(raw), "evidence/malformed", "the quote is cut off")
    require(not any(raw[end:]), "evidence/malformed", "something follows the quote")
    inner = _Cut(raw[:end], cut.at)
    signature, key = inner.take(64), inner.take(64)
    if version >= 4:
        require(inner.number(2) == _QE_REPORT, "evidence/unsupported-type", "certification data of another kind")
        require(inner.number(4) == end - inner.at, "evidence/malformed", "sizes in the quote do not fit")
    qe_report, qe_signature = inner.take(384), inner.take(64)
    qe_data = inner.take(inner.number(2))
    kind = inner.number(2)
    require(inner.number(4) == end - inner.at, "evidence/malformed", "sizes in the quote do not fit")
    return Quote(
        version, tee, body_type, body, header, signed, signature, key, qe_report, qe_signature, qe_data,
        kind, raw[inner.at : end] if kind == _PEM_CHAIN else None, end, len(raw) - end,
    )  # fmt: skip


def _body(cut: _Cut, version: int, tee_type: int) -> tuple[str, int | None, int]:
    """Return which environment it is, the body's type, and its size."""
    if version == 3:
        require(tee_type == 0, "evidence/reserved-nonzero", "reserved bytes of the header are not zero")
        return SGX, None, 384
    if tee_type not in _TEE:
        raise refusal("evidence/unsupported-type", f"TEE type {tee_type:#x}")
    tee = _TEE[tee_type]
    if version == 4:
        return tee, None, 384 if tee == SGX else 584
    kind, size = cut.number(2), cut.number(4)
    require(_BODIES.get(kind) == (tee, size), "evidence/malformed", f"no body of type {kind} and {size} bytes")
    return tee, kind, size


def _check_reserved(tee: str, body: bytes) -> None:
    ranges = ((20, 32), (96, 128), (160, 192), (262, 304)) if tee == SGX else ()
    for start, end in ranges:
        require(not any(body[start:end]), "evidence/reserved-nonzero", "reserved bytes of the body are not zero")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
