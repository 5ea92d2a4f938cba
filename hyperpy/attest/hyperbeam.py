"""HyperBEAM's form of an SEV-SNP report: JSON with every field by name (tee-attestation 6).

The 1184 bytes are what counts; the JSON is read into them, its field set exactly, and written from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hyperpy.attest import snp
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.measure import PROFILES, Boot, Machine, launch_digest
from hyperpy.attest.vmsa import CPU_SIGNATURES, HYPERBEAM_TYPES
from hyperpy.errors import AttestationError

MAX_BYTES: Final = 1 << 16
PROFILE: Final = "hyperbeam-ovmf-1.55"
HASHES: Final = ("vcpus", "vcpu_type", "vmm_type", "guest_features", "firmware", "kernel", "initrd", "append")
"""What ``local-hashes`` holds: how the guest was started."""

_VMMS: Final = {1: "qemu", 2: "ec2"}
_TCB: Final = (("bootloader", 1), ("tee", 1), ("_reserved", [4]), ("snp", 1), ("microcode", 1))
_Layout = Sequence[tuple[str, Any]]
_FIELDS: Final[_Layout] = (
    ("version", 4), ("guest_svn", 4), ("policy", 8), ("family_id", [16]), ("image_id", [16]), ("vmpl", 4),
    ("sig_algo", 4), ("current_tcb", _TCB), ("plat_info", 8), ("_author_key_en", 4), ("_reserved_0", 4),
    ("report_data", [64]), ("measurement", [48]), ("host_data", [32]), ("id_key_digest", [48]),
    ("author_key_digest", [48]), ("report_id", [32]), ("report_id_ma", [32]), ("reported_tcb", _TCB),
    ("_reserved_1", [24]), ("chip_id", [64]), ("committed_tcb", _TCB), ("current_build", 1), ("current_minor", 1),
    ("current_major", 1), ("_reserved_2", 1), ("committed_build", 1), ("committed_minor", 1),
    ("committed_major", 1), ("_reserved_3", 1), ("launch_tcb", _TCB), ("_reserved_4", [168]),
    ("signature", (("r", [72]), ("s", [72]), ("_reserved", [368]))),
)  # fmt: skip


def to_bytes(text: str | bytes) -> bytes:
    """Return the 1184 bytes of a report in JSON.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/too-large``: a field is missing, unknown or out of range.
    """
    require(len(text) <= MAX_BYTES, "evidence/too-large", "the report is too long")
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _malformed("it is no JSON") from None
    return _packed(found, _FIELDS)


def to_json(raw: bytes) -> str:
    """Return a report as HyperBEAM writes it.

    Raises:
        EvidenceError: it is not a report of version 2: that form knows no other.
    """
    report = snp.parse(raw)
    require(report.version == 2, "evidence/unsupported-version", "HyperBEAM's form knows version 2 alone")
    return json.dumps(_unpacked(raw, _FIELDS)[0], separators=(",", ":"))


def measurement(hashes: Mapping[str, Any]) -> bytes:
    """Return the launch digest of what ``local-hashes`` says was started.

    Raises:
        EvidenceError: ``evidence/malformed``: a hash is missing or malformed.
        ParameterError: a number is out of range.
    """
    missing = sorted(set(HASHES) - hashes.keys())
    require(not missing, "evidence/malformed", f"local-hashes lacks {', '.join(missing)}")
    kind, vmm = hashes["vcpu_type"], hashes["vmm_type"]
    numbers = [hashes[name] for name in HASHES[:4]]
    fits = all(type(one) is int and one >= 0 for one in numbers) and kind < len(HYPERBEAM_TYPES) and vmm in _VMMS
    require(fits, "evidence/malformed", "a number in local-hashes is unknown")
    boot = Boot(*(_hex(hashes[name], 32) for name in ("kernel", "initrd", "append")))
    machine = Machine(hashes["vcpus"], CPU_SIGNATURES[HYPERBEAM_TYPES[kind]], hashes["guest_features"], _VMMS[vmm])
    return launch_digest(machine, PROFILES[PROFILE], boot, ovmf_hash=_hex(hashes["firmware"], 48))


def _hex(text: Any, size: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except (TypeError, ValueError):
        found = b""
    require(len(found) == size, "evidence/malformed", "a hash in local-hashes is malformed")
    return found


def _packed(found: Any, layout: _Layout) -> bytes:
    if not isinstance(found, dict) or found.keys() != {name for name, _ in layout}:
        raise _malformed("fields are missing or unknown")
    made = b""
    for name, kind in layout:
        item = found[name]
        if isinstance(kind, tuple):
            made += _packed(item, kind)
        elif isinstance(kind, list):
            made += _octets(name, item, kind[0])
        else:
            if type(item) is not int or not 0 <= item < 1 << 8 * kind:
                raise _malformed(f"'{name}' is no number of {kind} bytes")
            made += item.to_bytes(kind, "little")
    return made


def _octets(name: str, item: Any, size: int) -> bytes:
    if not isinstance(item, list) or len(item) != size:
        raise _malformed(f"'{name}' must hold {size} bytes")
    if any(type(one) is not int or not 0 <= one < 256 for one in item):
        raise _malformed(f"'{name}' holds something else than bytes")
    return bytes(item)


def _unpacked(raw: bytes, layout: _Layout, at: int = 0) -> tuple[dict[str, Any], int]:
    made: dict[str, Any] = {}
    for name, kind in layout:
        if isinstance(kind, tuple):
            made[name], at = _unpacked(raw, kind, at)
            continue
        size = kind[0] if isinstance(kind, list) else kind
        piece = raw[at : at + size]
        made[name] = list(piece) if isinstance(kind, list) else int.from_bytes(piece, "little")
        at += size
    return made, at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _malformed(text: str) -> AttestationError:
    return refusal("evidence/malformed", f"the report: {text}")
