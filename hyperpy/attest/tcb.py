"""How up to date an Intel platform is: its levels against Intel's lists (tee-attestation 3.2, 8-11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hyperpy.attest import quote
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.pck import Pck
from hyperpy.attest.quote import Quote

ORDER: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
"""Statuses from best to worst."""


@dataclass(frozen=True, slots=True)
class Tcb:
    """What Intel's lists say.

    Attributes:
        status: the worst of the parts; None if no level fits (``tcb/unsupported``).
        parts: status by ``platform``, ``qe`` and, for TDX, ``module``.
        advisories: security advisories that apply, sorted.
        evaluation: number of the list.
    """

    status: str | None
    parts: Mapping[str, str]
    advisories: tuple[str, ...]
    evaluation: int


def evaluate(found: Quote, pck: Pck, info: Mapping[str, Any], identity: Mapping[str, Any]) -> Tcb:
    """Return the status of a platform.

    Raises:
        EndorsementError: ``collateral/fmspc-mismatch``, ``qe/identity``, ``collateral/signature`` (not the form
            that Intel's lists have).
    """
    try:
        return _evaluate(found, pck, info, identity)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise refusal("collateral/signature", "the collateral has not the form of Intel's lists") from None


def _evaluate(found: Quote, pck: Pck, info: Mapping[str, Any], identity: Mapping[str, Any]) -> Tcb:
    same = bytes.fromhex(info["fmspc"]) == pck.fmspc and bytes.fromhex(info["pceId"]) == pck.pceid
    require(same, "collateral/fmspc-mismatch", "the collateral is for another kind of platform")
    qe = _enclave_level(found.qe_report, identity)
    platform = _platform_level(found, pck, info["tcbLevels"])
    levels: dict[str, Mapping[str, Any] | None] = {"platform": platform, "qe": qe}
    if found.tee == quote.TDX:
        levels["module"] = _module_level(found, info)
    advisories = sorted({name for level in levels.values() for name in (level or {}).get("advisoryIDs", ())})
    number = int(info["tcbEvaluationDataNumber"])
    if any(level is None for level in levels.values()):
        return Tcb(None, {}, tuple(advisories), number)
    parts = {name: str(level["tcbStatus"]) for name, level in levels.items() if level is not None}
    return Tcb(max(parts.values(), key=ORDER.index), parts, tuple(advisories), number)


def _platform_level(found: Quote, pck: Pck, levels: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    for level in levels:
        tcb = level["tcb"]
        if not _reaches(pck.components, tcb["sgxtcbcomponents"]) or pck.pcesvn < tcb["pcesvn"]:
            continue
        if found.tee == quote.TDX:
            skipped = 2 if found.tee_tcb_svn[1] else 0
            if not _reaches(found.tee_tcb_svn[skipped:], tcb["tdxtcbcomponents"][skipped:]):
                continue
        return level
    return None


def _reaches(has: Sequence[int], wanted: Sequence[Mapping[str, int]]) -> bool:
    return all(one >= least["svn"] for one, least in zip(has, wanted, strict=True))


def _module_level(found: Quote, info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the level of the TDX module: its own identity's, or, for the first generation, the platform's."""
    minor, major = found.tee_tcb_svn[0], found.tee_tcb_svn[1]
    if not major:
        identity = info["tdxModule"]
        levels: Sequence[Mapping[str, Any]] = [{"tcbStatus": "UpToDate"}]
    else:
        known = [one for one in info["tdxModuleIdentities"] if one["id"] == f"TDX_{major:02X}"]
        if not known:
            return None
        identity = known[0]
        levels = [one for one in identity["tcbLevels"] if one["tcb"]["isvsvn"] <= minor]
    signer = found.part("mrsignerseam") == bytes.fromhex(identity["mrsigner"])
    mask = bytes.fromhex(identity["attributesMask"])
    wanted = bytes.fromhex(identity["attributes"])
    fits = _masked(found.part("seamattr"), mask) == wanted and signer
    return levels[0] if levels and fits else None


def _enclave_level(report: bytes, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the level of the quoting enclave, which must be Intel's own."""
    for place, wanted in _identity(report, identity):
        require(place == wanted, "qe/identity", "the quoting enclave is not Intel's")
    svn = int.from_bytes(quote.enclave_field(report, "svn"), "little")
    return next((one for one in identity["tcbLevels"] if one["tcb"]["isvsvn"] <= svn), None)


def _identity(report: bytes, identity: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    yield quote.enclave_field(report, "mrsigner"), bytes.fromhex(identity["mrsigner"])
    yield quote.enclave_field(report, "prodid"), int(identity["isvprodid"]).to_bytes(2, "little")
    mask = bytes.fromhex(identity["attributesMask"])
    yield _masked(quote.enclave_field(report, "attributes"), mask), bytes.fromhex(identity["attributes"])
    bits = bytes.fromhex(identity["miscselectMask"])[::-1]
    yield _masked(quote.enclave_field(report, "miscselect"), bits), bytes.fromhex(identity["miscselect"])[::-1]


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(one & bits for one, bits in zip(value, mask, strict=True))
