"""Do we accept a genuine SEV-SNP report? (tee-attestation 2.3, 2.4, 2.7)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from hyperpy.attest import snp
from hyperpy.attest.snp_chain import Genuine

_NONE: Final[frozenset[bytes]] = frozenset()
_ZERO48: Final = bytes(48)


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """What an SEV-SNP report must be. An allow list left out allows everything; an empty one nothing.

    Attributes:
        measurements: allowed launch digests.
        host_data, family_ids, image_ids, report_ids, migration_report_ids: allowed values of those fields.
        chips, denied_chips: chip IDs that are allowed, or refused.
        vmpls: privilege levels that are allowed; any if left out here. Of a policy file the default is 0, the most
            privileged layer; HyperBEAM asks at 1.
        signing_keys: ``vcek``, ``vlek``.
        csp_ids: who may run the platform, where a VLEK signed.
        id_keys, author_keys: digests of keys, one of which must have signed the guest's ID block.
        min_guest_svn, min_build: least security version of the guest; least build of the firmware.
        min_firmware: least firmware, as ``{major, minor}``.
        min_tcb, min_launch_tcb: least components of the reported and the launch TCB.
        policy_required, policy_forbidden: bits of the guest policy, by number, beside debug and migration.
        platform_required, platform_forbidden: bits of PLATFORM_INFO, by number.
        min_launch_mitigations, min_current_mitigations: bits that must be set (version 5).
        require_crl: AMD's revocation list must have come along.
        allow_debug, allow_migration, allow_provisional: accept what is refused by default.
    """

    measurements: frozenset[bytes] | None = None
    host_data: frozenset[bytes] | None = None
    family_ids: frozenset[bytes] | None = None
    image_ids: frozenset[bytes] | None = None
    report_ids: frozenset[bytes] | None = None
    migration_report_ids: frozenset[bytes] | None = None
    chips: frozenset[bytes] | None = None
    denied_chips: frozenset[bytes] = _NONE
    vmpls: frozenset[int] | None = None
    signing_keys: frozenset[str] = frozenset({"vcek", "vlek"})
    csp_ids: frozenset[str] | None = None
    id_keys: frozenset[bytes] | None = None
    author_keys: frozenset[bytes] | None = None
    min_guest_svn: int = 0
    min_build: int = 0
    min_firmware: Mapping[str, int] = field(default_factory=dict)
    min_tcb: Mapping[str, int] = field(default_factory=dict)
    min_launch_tcb: Mapping[str, int] = field(default_factory=dict)
    policy_required: frozenset[int] = frozenset()
    policy_forbidden: frozenset[int] = frozenset()
    platform_required: frozenset[int] = frozenset()
    platform_forbidden: frozenset[int] = frozenset()
    min_launch_mitigations: int = 0
    min_current_mitigations: int = 0
    require_crl: bool = False
    allow_debug: bool = False
    allow_migration: bool = False
    allow_provisional: bool = False


def appraise(found: Genuine, policy: SnpPolicy) -> list[str]:
    """Return the codes of everything in a genuine report that the policy refuses; empty if it is accepted."""
    return list(dict.fromkeys((*_guest(found.report, policy), *_platform(found, policy))))


def _guest(report: snp.Report, policy: SnpPolicy) -> Iterator[str]:
    """Yield what is wrong with the guest: what runs, and how it was launched."""
    if report.debug and not policy.allow_debug:
        yield "policy/debug-enabled"
    if report.migration and not policy.allow_migration:
        yield "policy/migration-agent"
    if policy.measurements is not None and report.measurement not in policy.measurements:
        yield "policy/measurement-not-allowed"
    if policy.host_data is not None and report.host_data not in policy.host_data:
        yield "policy/host-data"
    if policy.vmpls is not None and report.vmpl not in policy.vmpls:
        yield "policy/vmpl"
    if policy.id_keys is not None and not _key(report.id_key_digest, policy.id_keys):
        yield "policy/id-key"
    if policy.author_keys is not None and not _key(report.author_key_digest, policy.author_keys):
        yield "policy/author-key"
    ids = (
        (0x10, 16, policy.family_ids),
        (0x20, 16, policy.image_ids),
        (0x140, 32, policy.report_ids),
        (0x160, 32, policy.migration_report_ids),
    )
    known = all(allowed is None or report.field(at, size) in allowed for at, size, allowed in ids)
    others = known and report.guest_svn >= policy.min_guest_svn
    if not others or not _bits(report.policy, policy.policy_required, policy.policy_forbidden):
        yield "policy/guest-policy"


def _platform(found: Genuine, policy: SnpPolicy) -> Iterator[str]:
    """Yield what is wrong with the machine: chip, firmware, TCB."""
    report = found.report
    if report.signing_key not in policy.signing_keys:
        yield "endorsement/key-type-mismatch"
    chip = report.chip_id
    if chip in policy.denied_chips or (policy.chips is not None and chip not in policy.chips):
        yield "policy/chip-denied"
    if found.csp is not None and policy.csp_ids is not None and found.csp not in policy.csp_ids:
        yield "policy/chip-denied"
    if policy.require_crl and found.revocation == "unknown":
        yield "endorsement/crl-missing"
    provisional = report.current_tcb != report.committed_tcb or report.current_firmware != report.committed_firmware
    if provisional and not policy.allow_provisional:
        yield "policy/provisional-firmware"
    if not _bits(report.platform_info, policy.platform_required, policy.platform_forbidden):
        yield "policy/platform-info"
    floors = ((report.reported_tcb, policy.min_tcb), (report.launch_tcb, policy.min_launch_tcb))
    enough = all(_at_least(snp.tcb_parts(raw, found.product), least) for raw, least in floors if least)
    major, minor, build = report.current_firmware
    least = (policy.min_firmware.get("major", 0), policy.min_firmware.get("minor", 0))
    if not enough or (major, minor) < least or build < policy.min_build:
        yield "tcb/below-minimum"
    wanted = (("launch", policy.min_launch_mitigations), ("current", policy.min_current_mitigations))
    if any((report.mitigation(which) or 0) & bits != bits for which, bits in wanted):
        yield "policy/mitigation-vector"


def _key(digest: bytes, allowed: frozenset[bytes]) -> bool:
    return digest != _ZERO48 and digest in allowed


def _bits(value: int, required: frozenset[int], forbidden: frozenset[int]) -> bool:
    return all(value >> bit & 1 for bit in required) and not any(value >> bit & 1 for bit in forbidden)


def _at_least(parts: Mapping[str, int], least: Mapping[str, int]) -> bool:
    """Say whether every component that a floor names is there and high enough."""
    return all(parts.get(name, -1) >= level for name, level in least.items())
