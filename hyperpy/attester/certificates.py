"""The certificates that a host hands to an SEV-SNP guest (tee-attestation 2.9)."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from hyperpy.attest.bundle import Evidence

_VCEK: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le
_VLEK: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes_le
_ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes_le
_ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes_le
_ENTRY: Final = 24
_ENTRIES: Final = 16


def table(data: bytes) -> dict[bytes, bytes]:
    """Return the certificates of a table by GUID; what points outside the table is left out."""
    found: dict[bytes, bytes] = {}
    for number in range(_ENTRIES):
        entry = data[number * _ENTRY : (number + 1) * _ENTRY]
        if len(entry) < _ENTRY or not any(entry):
            break
        offset, size = (int.from_bytes(entry[at : at + 4], "little") for at in (16, 20))
        piece = data[offset : offset + size]
        if len(piece) == size and size:
            found.setdefault(entry[:16], piece)
    return found


def snp_evidence(report: bytes, certificates: bytes) -> Evidence:
    """Return a report with what the host gave along; a host that gave nothing leaves it without."""
    found = table(certificates)
    vek = found.get(_VCEK) or found.get(_VLEK) or b""
    chain = tuple(found[name] for name in (_ASK, _ARK) if name in found)
    return Evidence("snp", report, vek=vek, chain=chain)


def build(vek: bytes, chain: tuple[bytes, ...], *, vlek: bool = False) -> bytes:
    """Return a table of these certificates, as a host writes it (for guests under test)."""
    rows = list(zip((_VLEK if vlek else _VCEK, _ASK, _ARK), (vek, *chain), strict=True))
    at = _ENTRY * (len(rows) + 1)
    head = body = b""
    for guid, one in rows:
        head += guid + (at + len(body)).to_bytes(4, "little") + len(one).to_bytes(4, "little")
        body += one
    return head + bytes(_ENTRY) + body
