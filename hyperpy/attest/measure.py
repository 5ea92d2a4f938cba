"""The SEV-SNP launch digest, recomputed from what was launched (tee-attestation 2.8).

The digest is a chain over pages: firmware, what its metadata asks for, one state page per processor.
Given the digest after the firmware's pages (``ovmf_hash``), the rest needs no firmware file: only its
layout, a :class:`Layout`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from hyperpy.attest.vmsa import VMMS, page
from hyperpy.encoding import sha256
from hyperpy.errors import ParameterError

PAGE: Final = 4096
MAX_FIRMWARE: Final = 64 << 20
MAX_VCPUS: Final = 4096

_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS, _CPUID = 1, 2, 3, 4, 5, 6
_TOP: Final = 1 << 32
_VMSA_GPA: Final = 0xFFFFFFFFF000
_RESET_EIP: Final = 0xFFFFFFF0
_EMPTY: Final = bytes(48)
_PAGE_INFO: Final = struct.Struct("<48s48sHBBBBBBQ")


def _guid(text: str) -> bytes:
    return UUID(text).bytes_le


_FOOTER: Final = _guid("96b582de-1fb2-45f7-baea-a366c55a082d")
_TABLE: Final = _guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
_RESET: Final = _guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_METADATA: Final = _guid("dc886566-984a-4798-a75e-5585a7bf67cc")
_HASHES: Final = _guid("9438d606-4f22-4cc9-b479-a793d411fd21")
_HASHED: Final = tuple(
    _guid(text)
    for text in (
        "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",  # command line
        "44baf731-3a2f-4bd7-9af1-41e29169781d",  # initrd
        "4de79437-abd2-427f-b835-d5b172d2045b",  # kernel
    )
)
_KINDS: Final = {1: "zero", 2: "secrets", 3: "cpuid", 4: "calling-area", 0x10: "kernel-hashes"}


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a firmware image the digest needs beside the image's own pages.

    Attributes:
        sections: kind (``zero``, ``secrets``, ``cpuid``, ``calling-area``, ``kernel-hashes``), address, bytes; in
            file order.
        table: address of the hash table of a directly booted kernel; None if the firmware has none.
        reset: where processors but the first begin.
    """

    sections: tuple[tuple[str, int, int], ...]
    table: int | None
    reset: int


PROFILES: Final = {
    "hyperbeam-ovmf-1.55": Layout(
        (
            ("zero", 0x800000, 0x9000),
            ("zero", 0x80A000, 0x3000),
            ("secrets", 0x80D000, 0x1000),
            ("cpuid", 0x80E000, 0x1000),
            ("kernel-hashes", 0x80F000, 0x1000),
            ("zero", 0x810000, 0x10000),
        ),
        table=0x80FC00,
        reset=0x80B004,
    )
}
"""Layouts of known firmware images, whose files are then not needed."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel that is booted directly: SHA-256 of kernel, initrd and command line (with its zero byte)."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of_files(cls, kernel: bytes, initrd: bytes = b"", cmdline: str = "") -> Boot:
        """Return the hashes of files and a command line."""
        return cls(sha256(kernel), sha256(initrd), sha256(cmdline.encode() + b"\0"))

    def table(self) -> bytes:
        """Return the hash table as the firmware finds it (176 bytes)."""
        rows = b"".join(
            guid + struct.pack("<H", 50) + digest
            for guid, digest in zip(_HASHED, (self.cmdline, self.initrd, self.kernel), strict=True)
        )
        return (_HASHES + struct.pack("<H", 168) + rows).ljust(176, b"\0")


@dataclass(frozen=True, slots=True)
class Machine:
    """How the guest was started.

    Attributes:
        vcpus: number of processors.
        cpu_signature: CPUID signature, such as ``vmsa.CPU_SIGNATURES["EPYC-v4"]``.
        features: guest features (SEV_FEATURES), 1 for plain SEV-SNP.
        vmm: ``qemu``, ``ec2`` or ``gce``.
    """

    vcpus: int
    cpu_signature: int
    features: int = 1
    vmm: str = "qemu"


def launch_digest(machine: Machine, layout: Layout, boot: Boot | None = None, *, ovmf_hash: bytes) -> bytes:
    """Return the launch digest (48 bytes), MEASUREMENT of a report.

    Args:
        ovmf_hash: the digest after the firmware's pages; :func:`firmware_digest` gives it.

    Raises:
        ParameterError: the machine or a digest has an impossible value.
    """
    if not 1 <= machine.vcpus <= MAX_VCPUS:
        raise ParameterError(f"'vcpus' must be 1 to {MAX_VCPUS}", name="vcpus")
    if machine.vmm not in VMMS:
        raise ParameterError(f"'vmm' must be one of {', '.join(VMMS)}", name="vmm")
    if len(ovmf_hash) != 48:
        raise ParameterError("the firmware's digest has 48 bytes", name="firmware")
    if boot is not None and layout.table is None:
        raise ParameterError("this firmware has no place for a kernel's hashes", name="kernel")
    digest = ovmf_hash
    for kind, address, contents in _metadata(layout, boot, machine.vmm):
        digest = _extend(digest, kind, address, contents)
    for number in range(machine.vcpus):
        eip = layout.reset if number else _RESET_EIP
        state = page(eip, machine.cpu_signature, machine.features, machine.vmm)
        digest = _extend(digest, _VMSA, _VMSA_GPA, hashlib.sha384(state).digest())
    return digest


def firmware_digest(image: bytes) -> bytes:
    """Return the digest after a firmware image's pages (HyperBEAM's ``firmware`` hash).

    Raises:
        ParameterError: the image is no multiple of 4096 bytes, empty or too long.
    """
    if not image or len(image) % PAGE or len(image) > MAX_FIRMWARE:
        raise ParameterError("a firmware image is a multiple of 4096 bytes, up to 64 MiB", name="firmware")
    digest = _EMPTY
    start = _TOP - len(image)
    for at in range(0, len(image), PAGE):
        digest = _extend(digest, _NORMAL, start + at, hashlib.sha384(image[at : at + PAGE]).digest())
    return digest


def layout_of(image: bytes) -> Layout:
    """Return the layout that a firmware image describes in its footer.

    Raises:
        ParameterError: it has no footer, or a damaged one, or no SEV metadata.
    """
    entries = _footer(image)
    table = struct.unpack("<I", entries[_TABLE][:4])[0] if len(entries.get(_TABLE, b"")) >= 4 else None
    if len(entries.get(_RESET, b"")) < 4 or len(entries.get(_METADATA, b"")) < 4:
        raise ParameterError("the firmware image is not made for SEV-SNP", name="firmware")
    reset, offset = (struct.unpack("<I", entries[name][:4])[0] for name in (_RESET, _METADATA))
    at = len(image) - offset
    if not 0 <= at <= len(image) - 16 or image[at : at + 4] != b"ASEV":
        raise ParameterError("the firmware image's SEV metadata is damaged", name="firmware")
    _, _, version, count = struct.unpack_from("<4sIII", image, at)
    if version != 1 or at + 16 + 12 * count > len(image):
        raise ParameterError("the firmware image's SEV metadata is damaged", name="firmware")
    sections = []
    for number in range(count):
        address, size, kind = struct.unpack_from("<III", image, at + 16 + 12 * number)
        if kind not in _KINDS or size % PAGE or size > MAX_FIRMWARE:
            raise ParameterError("the firmware image asks for pages of an unknown kind", name="firmware")
        sections.append((_KINDS[kind], address, size))
    if sum(size for _, _, size in sections) > MAX_FIRMWARE:
        raise ParameterError("the firmware image asks for more than 64 MiB", name="firmware")
    return Layout(tuple(sections), table, reset)


def _footer(image: bytes) -> dict[bytes, bytes]:
    """Return the entries of an image's footer by GUID; they are read from its end backwards."""
    end = len(image) - 32
    if end < 18 or image[end - 16 : end] != _FOOTER:
        raise ParameterError("the firmware image has no footer", name="firmware")
    size = int.from_bytes(image[end - 18 : end - 16], "little")
    start, at = end - size, end - 18
    if size < 18 or start < 0:
        raise ParameterError("the firmware image's footer is damaged", name="firmware")
    found: dict[bytes, bytes] = {}
    while at > start:
        length = int.from_bytes(image[at - 18 : at - 16], "little")
        if length < 18 or at - length < start:
            raise ParameterError("the firmware image's footer is damaged", name="firmware")
        found[image[at - 16 : at]] = image[at - length : at - 18]
        at -= length
    return found


def _metadata(layout: Layout, boot: Boot | None, vmm: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield the pages that a firmware asks for: kind, address, digest of the contents."""
    late: list[tuple[int, int, bytes]] = []
    for kind, address, size in layout.sections:
        for at in range(address, address + size, PAGE):
            if kind == "cpuid":
                entry = (_CPUID, at, _EMPTY)
                if vmm == "ec2":
                    late.append(entry)
                else:
                    yield entry
            elif kind == "secrets":
                yield _SECRETS, at, _EMPTY
            elif kind == "kernel-hashes" and boot is not None:
                assert layout.table is not None
                contents = bytearray(PAGE)
                begin = layout.table & 0xFFF
                contents[begin : begin + 176] = boot.table()
                yield _NORMAL, at, hashlib.sha384(bytes(contents[:PAGE])).digest()
            else:
                yield _UNMEASURED if vmm == "gce" and kind == "zero" else _ZERO, at, _EMPTY
    yield from late


def _extend(digest: bytes, kind: int, address: int, contents: bytes) -> bytes:
    return hashlib.sha384(_PAGE_INFO.pack(digest, contents, 0x70, kind, 0, 0, 0, 0, 0, address)).digest()
