"""AMD SEV-SNP attestation reports: layout and meaning (tee-attestation 2.1-2.4).

:func:`parse` checks form alone. Whether a report is genuine says :mod:`hyperpy.attest.snp_chain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from hyperpy.attest.codes import refusal, require

SIZE: Final = 1184
"""Bytes of a report."""
SIGNED: Final = 0x2A0
"""Bytes of it that are signed."""
VERSIONS: Final = (2, 3, 4, 5)
SIGNING_KEYS: Final = {0: "vcek", 1: "vlek"}

BIT_MIGRATION, BIT_DEBUG = 18, 19
_BIT_ONE, _POLICY_BITS = 17, 26
_RESERVED: Final = ((0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0))
_RESERVED_V2: Final = (0x188, 0x18B)
_RESERVED_BEFORE_V5: Final = (0x1F8, 0x208)
_SIGNATURE_RESERVED: Final = ((0x2D0, 0x2E8), (0x318, 0x330), (0x330, SIZE))
_PLAIN_PARTS: Final = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_PARTS: Final = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


def product_of(family: int, model: int) -> str | None:
    """Return the product line of a CPUID family and model; None if no root key of it is known (2.2)."""
    if family == 0x19:
        if model <= 0x0F:
            return "Milan"
        if 0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF:
            return "Genoa"
    return "Turin" if family == 0x1A and model <= 0x11 else None


def tcb_parts(raw: bytes, product: str) -> dict[str, int]:
    """Return the components of a TCB version (8 bytes) by name."""
    return {name: raw[at] for name, at in (_TURIN_PARTS if product == "Turin" else _PLAIN_PARTS).items()}


def tcb_reserved(raw: bytes, product: str) -> bool:
    """Say whether a byte of a TCB version is set that has no meaning."""
    known = (_TURIN_PARTS if product == "Turin" else _PLAIN_PARTS).values()
    return any(byte for at, byte in enumerate(raw) if at not in known)


@dataclass(frozen=True)
class Report:
    """A report, well-formed but not yet verified.

    Attributes:
        raw: all 1184 bytes.
        product: ``Milan``, ``Genoa`` or ``Turin`` by CPUID; None before version 3, where it is not said.
        r, s: the signature.
    """

    raw: bytes
    product: str | None
    r: int
    s: int

    def number(self, at: int, size: int) -> int:
        """Return a little-endian field."""
        return int.from_bytes(self.raw[at : at + size], "little")

    @property
    def version(self) -> int:
        """Version of the layout."""
        return self.number(0, 4)

    @property
    def guest_svn(self) -> int:
        """Security version of the guest."""
        return self.number(4, 4)

    @property
    def policy(self) -> int:
        """Guest policy bits (2.3)."""
        return self.number(8, 8)

    @property
    def vmpl(self) -> int:
        """Privilege level that asked; 0 is the highest."""
        return self.number(0x30, 4)

    @property
    def platform_info(self) -> int:
        """Platform bits (2.4)."""
        return self.number(0x40, 8)

    @property
    def key_info(self) -> int:
        """Which key signed, whether it is masked, whether there is an author key."""
        return self.number(0x48, 4)

    @property
    def signing_key(self) -> str:
        """``vcek`` or ``vlek``."""
        return SIGNING_KEYS[self.key_info >> 2]

    @property
    def debug(self) -> bool:
        """Whether the host may read the guest's memory."""
        return bool(self.policy >> BIT_DEBUG & 1)

    @property
    def migration(self) -> bool:
        """Whether a migration agent may take the guest elsewhere."""
        return bool(self.policy >> BIT_MIGRATION & 1)

    def field(self, at: int, size: int) -> bytes:
        """Return raw bytes of a field."""
        return self.raw[at : at + size]

    @property
    def report_data(self) -> bytes:
        """The caller's 64 bytes."""
        return self.field(0x50, 64)

    @property
    def measurement(self) -> bytes:
        """Launch digest, 48 bytes."""
        return self.field(0x90, 48)

    @property
    def host_data(self) -> bytes:
        """32 bytes that the hypervisor set at launch."""
        return self.field(0xC0, 32)

    @property
    def id_key_digest(self) -> bytes:
        """SHA-384 of the ID key; zero without an ID block."""
        return self.field(0xE0, 48)

    @property
    def author_key_digest(self) -> bytes:
        """SHA-384 of the author key; zero without one."""
        return self.field(0x110, 48)

    @property
    def chip_id(self) -> bytes:
        """64 bytes; zero when masked or under a VLEK."""
        return self.field(0x1A0, 64)

    @property
    def reported_tcb(self) -> bytes:
        """The TCB version that selects the chip's key."""
        return self.field(0x180, 8)

    @property
    def current_tcb(self) -> bytes:
        """The TCB version that runs."""
        return self.field(0x38, 8)

    @property
    def committed_tcb(self) -> bytes:
        """The TCB version below which the platform cannot go."""
        return self.field(0x1E0, 8)

    @property
    def launch_tcb(self) -> bytes:
        """The TCB version when the guest was launched."""
        return self.field(0x1F0, 8)

    @property
    def current_firmware(self) -> tuple[int, int, int]:
        """Major, minor, build of the firmware that runs."""
        return self.raw[0x1EA], self.raw[0x1E9], self.raw[0x1E8]

    @property
    def committed_firmware(self) -> tuple[int, int, int]:
        """Major, minor, build of the firmware below which the platform cannot go."""
        return self.raw[0x1EE], self.raw[0x1ED], self.raw[0x1EC]

    @cached_property
    def cpuid(self) -> tuple[int, int, int] | None:
        """Family, model, stepping; None before version 3."""
        return None if self.version < 3 else (self.raw[0x188], self.raw[0x189], self.raw[0x18A])

    def mitigation(self, which: str) -> int | None:
        """Return the ``launch`` or ``current`` mitigation vector; None before version 5."""
        return None if self.version < 5 else self.number({"launch": 0x1F8, "current": 0x200}[which], 8)

    def claims(self, product: str | None) -> Mapping[str, Any]:
        """Return everything the report says, by name; bytes as lower-case hex.

        Args:
            product: as the chip's certificate says it, where the report does not.
        """
        shown = self.product or product
        made: dict[str, Any] = {
            "version": self.version,
            "product": shown,
            "guest_svn": self.guest_svn,
            "policy": hex(self.policy),
            "vmpl": self.vmpl,
            "key_info": self.key_info,
            "signing_key": self.signing_key,
            "platform_info": hex(self.platform_info),
            "debug": self.debug,
            "migrate_ma": self.migration,
            "cpuid_fms": None if self.cpuid is None else list(self.cpuid),
            "current_fw": ".".join(map(str, self.current_firmware)),
            "committed_fw": ".".join(map(str, self.committed_firmware)),
        }
        for name, at, size in _SHOWN:
            made[name] = self.field(at, size).hex()
        for which in ("launch", "current"):
            made[f"{which}_mit_vector"] = self.mitigation(which)
        if shown is not None:
            made["reported_tcb_parts"] = tcb_parts(self.reported_tcb, shown)
        return made


_SHOWN: Final = (
    ("family_id", 0x10, 16), ("image_id", 0x20, 16), ("report_data", 0x50, 64), ("measurement", 0x90, 48),
    ("host_data", 0xC0, 32), ("id_key_digest", 0xE0, 48), ("author_key_digest", 0x110, 48),
    ("report_id", 0x140, 32), ("report_id_ma", 0x160, 32), ("chip_id", 0x1A0, 64), ("reported_tcb", 0x180, 8),
    ("current_tcb", 0x38, 8), ("committed_tcb", 0x1E0, 8), ("launch_tcb", 0x1F0, 8),
)  # fmt: skip


def _zeros(version: int) -> tuple[tuple[int, int, bytes], ...]:
    """Return which bytes must be zero in a version: from, to, and that many zero bytes."""
    found = [*_RESERVED, *_SIGNATURE_RESERVED]
    if version < 3:
        found.append(_RESERVED_V2)
    if version < 5:
        found.append(_RESERVED_BEFORE_V5)
    return tuple((start, end, bytes(end - start)) for start, end in found)


_ZEROS: Final = {version: _zeros(version) for version in VERSIONS}


def parse(raw: bytes) -> Report:
    """Return a report's fields (steps 1 and 2 of 2.6).

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/unsupported-version``,
            ``evidence/reserved-nonzero``, ``signature/algorithm``, ``signature/masked``,
            ``evidence/unsupported-type`` (a product no root key is known of).
    """
    require(len(raw) == SIZE, "evidence/malformed", f"a report has {SIZE} bytes, not {len(raw)}")
    made = Report(raw, None, int.from_bytes(raw[0x2A0:0x2D0], "little"), int.from_bytes(raw[0x2E8:0x318], "little"))
    require(made.version in VERSIONS, "evidence/unsupported-version", f"version {made.version}")
    require(bool(made.policy >> _BIT_ONE & 1), "evidence/malformed", "bit 17 of the guest policy must be one")
    require(made.policy >> _POLICY_BITS == 0, "evidence/reserved-nonzero", "unknown bits of the guest policy are set")
    for start, end, zeros in _ZEROS[made.version]:
        if raw[start:end] != zeros:
            raise refusal("evidence/reserved-nonzero", f"reserved bytes from {start:#x} are not zero")
    require(made.vmpl <= 3, "evidence/malformed", f"there is no VMPL {made.vmpl}")
    require(made.number(0x34, 4) == 1, "signature/algorithm", "not ECDSA on P-384 with SHA-384")
    require(made.key_info >> 5 == 0, "evidence/reserved-nonzero", "unknown bits of KEY_INFO are set")
    kind = made.key_info >> 2
    if kind == 7:
        raise refusal("signature/masked", "the report says that no key signed it")
    require(kind in SIGNING_KEYS, "evidence/malformed", f"there is no signing key {kind}")
    require(not made.key_info >> 1 & 1, "signature/masked", "the chip's key is masked: the report is not signed")
    if made.cpuid is None:
        return made
    product = product_of(made.cpuid[0], made.cpuid[1])
    if product is None:
        raise refusal("evidence/unsupported-type", f"no root key is known for CPUID {made.cpuid}")
    return Report(raw, product, made.r, made.s)
