"""The state page of a virtual processor as it is measured at launch (AMD APM, table B-4; tee-attestation 2.8)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

VMMS: Final = ("qemu", "ec2", "gce")
"""Hypervisors whose initial state is known."""

CPU_SIGNATURES: Final = {
    **dict.fromkeys(("EPYC", "EPYC-v1", "EPYC-v2", "EPYC-IBPB", "EPYC-v3", "EPYC-v4"), 0x800F12),
    **dict.fromkeys(("EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2", "EPYC-Rome-v3"), 0x830F10),
    **dict.fromkeys(("EPYC-Milan", "EPYC-Milan-v1", "EPYC-Milan-v2"), 0xA00F11),
    **dict.fromkeys(("EPYC-Genoa", "EPYC-Genoa-v1"), 0xA10F10),
    "EPYC-Turin": 0xB00F00,
}
"""CPUID signature by the name that a hypervisor gives a processor."""

HYPERBEAM_TYPES: Final = tuple(name for name in CPU_SIGNATURES if name != "EPYC-Turin")
"""Processor names by the number that HyperBEAM's ``vcpu_type`` gives them."""

_EIP_RESET: Final = 0xFFFFFFF0
_FLAT: Final = 0xFFFF


@lru_cache(16)
def page(eip: int, cpu_signature: int, features: int, vmm: str) -> bytes:
    """Return the 4096 bytes of a processor's state that begins at ``eip``."""
    made = bytearray(4096)
    code, stack, task, rdx, mxcsr, fcw, pat = 0x9B, 0x93, 0x8B, cpu_signature, 0x1F80, 0x37F, 0x0007040600070406
    if vmm == "ec2":
        code, stack, task = (0x9A if eip == _EIP_RESET else 0x9B), 0x92, 0x83
    if vmm == "gce":
        pat = 0x00070106
    if vmm != "qemu":
        rdx, mxcsr, fcw = 0x600, 0, 0
    for at in (0x00, 0x30, 0x40, 0x50):
        _segment(made, at, 0, 0x93)
    _segment(made, 0x10, 0xF000, code, base=eip & 0xFFFF0000)
    _segment(made, 0x20, 0, stack)
    _segment(made, 0x60, 0, 0)
    _segment(made, 0x70, 0, 0x82)
    _segment(made, 0x80, 0, 0)
    _segment(made, 0x90, 0, task)
    words = {
        0xD0: 0x1000, 0x148: 0x40, 0x158: 0x10, 0x160: 0x400, 0x168: 0xFFFF0FF0, 0x170: 2, 0x178: eip & 0xFFFF,
        0x268: pat, 0x310: rdx, 0x3B0: features, 0x3E8: 1,
    }  # fmt: skip
    for at, value in words.items():
        struct.pack_into("<Q", made, at, value)
    struct.pack_into("<I", made, 0x408, mxcsr)
    struct.pack_into("<H", made, 0x410, fcw)
    return bytes(made)


def _segment(made: bytearray, at: int, selector: int, attributes: int, *, base: int = 0) -> None:
    struct.pack_into("<HHIQ", made, at, selector, attributes, _FLAT, base)
