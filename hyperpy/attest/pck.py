"""What Intel's certificate of a platform (PCK) says of it (tee-attestation 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from hyperpy.attest import der
from hyperpy.attest.codes import refusal, require
from hyperpy.errors import AttestationError

_ARC: Final = "1.2.840.113741.1.13.1"
_ENUMERATED: Final = 0x0A


@dataclass(frozen=True, slots=True)
class Pck:
    """A platform: kind (FMSPC), provisioning enclave, security versions."""

    fmspc: bytes
    pceid: bytes
    pcesvn: int
    components: tuple[int, ...]
    sgx_type: int

    def claims(self) -> Mapping[str, Any]:
        """Return it by name; bytes as lower-case hex."""
        return {
            "fmspc": self.fmspc.hex(),
            "pceid": self.pceid.hex(),
            "pcesvn": self.pcesvn,
            "comp": list(self.components),
            "sgxtype": self.sgx_type,
        }


@lru_cache(64)
def read(leaf: x509.Certificate) -> Pck:
    """Return what the platform's certificate says.

    Raises:
        EndorsementError: ``endorsement/chain-invalid``: it is no such certificate.
    """
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(_ARC)).value
    except x509.ExtensionNotFound:
        raise refusal("endorsement/chain-invalid", "the leaf is no certificate of a platform") from None
    assert isinstance(value, x509.UnrecognizedExtension)
    fields = _pairs(value.value)
    tcb = _pairs(fields.get(f"{_ARC}.2", (0, b"", b""))[2])
    components = tuple(_number(tcb.get(f"{_ARC}.2.{number}")) for number in range(1, 17))
    fmspc, pceid = (_octets(fields.get(f"{_ARC}.{number}"), size) for number, size in ((4, 6), (3, 2)))
    kind = fields.get(f"{_ARC}.5")
    require(kind is not None and kind[0] == _ENUMERATED, "endorsement/chain-invalid", "the platform's type is missing")
    assert kind is not None
    return Pck(fmspc, pceid, _number(tcb.get(f"{_ARC}.2.17")), components, int.from_bytes(kind[1], "big"))


_Element = tuple[int, bytes, bytes]


def _pairs(data: bytes) -> dict[str, _Element]:
    """Return a SEQUENCE of (OID, value) as tag, content and whole bytes by OID."""
    outer = der.Reader(data)
    rows = der.Reader(outer.take(der.SEQUENCE))
    outer.finish()
    found: dict[str, _Element] = {}
    while not rows.done:
        row = der.Reader(rows.take(der.SEQUENCE))
        name, tag = der.oid(row.take(der.OID)), row.peek()
        whole = row.whole()
        row.finish()
        require(name not in found, "endorsement/chain-invalid", "an entry of the platform is there twice")
        found[name] = (tag, der.Reader(whole).take(), whole)
    return found


def _number(found: _Element | None) -> int:
    if found is None or found[0] != der.INTEGER:
        raise _bad()
    value = der.integer(found[1])
    require(0 <= value < 1 << 16, "endorsement/chain-invalid", "a security version is out of range")
    return value


def _octets(found: _Element | None, size: int) -> bytes:
    if found is None or found[0] != der.OCTET_STRING or len(found[1]) != size:
        raise _bad()
    return found[1]


def _bad() -> AttestationError:
    return refusal("endorsement/chain-invalid", "the platform's certificate lacks a security version")
