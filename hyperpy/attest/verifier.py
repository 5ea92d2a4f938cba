"""The verifier: evidence, policy, clock and expectation in, an attestation result out (RFC 9334).

Pure: no network, no hidden clock, the same result for the same arguments. Verification (is it genuine?) comes
before appraisal (do we accept it?); the first check that fails ends the first, all that fails is listed of
the second. Whatever goes wrong is a code of :data:`hyperpy.attest.codes.CODES`; an error of this code itself is
``verifier/internal``, never a pass.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hyperpy.attest import nitro, nvidia, quote_chain, quote_policy, rim, snp_chain, snp_policy, software, statement
from hyperpy.attest.bundle import Evidence, Gpu
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.policy import BASELINE, Policy
from hyperpy.attest.result import LIFE, Appraisal, Claims, Result
from hyperpy.attest.statement import SKEW_S, Statement
from hyperpy.errors import AttestationError, ConfigError

_CONFIGURATION: Final = frozenset({"policy/debug-enabled", "policy/migration-agent", "policy/service-td"})
_SOFT_CONFIGURATION: Final = frozenset({"policy/guest-policy", "policy/platform-info", "policy/vmpl"})
_SOFT_HARDWARE: Final = frozenset(
    {
        "tcb/below-minimum", "tcb/out-of-date", "tcb/configuration-needed", "policy/provisional-firmware",
        "policy/mitigation-vector", "collateral/missing",
    }
)  # fmt: skip
_EXECUTABLES: Final = frozenset({"policy/measurement-not-allowed", "policy/pcr", "policy/host-data"})
_BOUND_FIELDS: Final = {"address": "key", "key": "key", "kem": "key"}
_HELD: Final = ("key-release", "zone-join")
_UNBOUND: Final = 32
"""Of instance-identity, where the verifier was not told what the evidence must be bound to: a warning."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the relying party expects the evidence to be bound to.

    Attributes:
        nonce: the relying party's own, 16 to 64 bytes.
        epochs: values that count as fresh where the statement has an epoch instead of a nonce.
        fields: fields of the statement that must have these values: ``purpose``, ``address``, ``result``, ...
        report_data: the very 64 bytes, with a statement or without (HyperBEAM's form).

    All that is given must hold; where nothing is, the result is that of no expectation, a warning at best. Nonce,
    epochs and fields can only hold of evidence with a statement.
    """

    nonce: bytes | None = None
    epochs: frozenset[bytes] = frozenset()
    fields: Mapping[str, bytes] | None = None
    report_data: bytes | None = None

    @property
    def needs_statement(self) -> bool:
        """Whether anything is expected that only a statement says."""
        return self.nonce is not None or bool(self.epochs) or bool(self.fields)


@dataclass(frozen=True, slots=True)
class _Found:
    """Evidence that is genuine, whatever its type."""

    claims: Mapping[str, Any]
    bound: bytes | None
    nonce: bytes | None
    made: datetime | None
    not_after: datetime | None
    revocation: str
    codes: list[str]
    measured: bool


def verify(
    evidence: Evidence,
    policy: Policy = BASELINE,
    *,
    now: datetime,
    expected: Expected | None = None,
    insecure_software: bool = False,
) -> Result:
    """Return the result for a machine's evidence; never raises for bad evidence.

    Args:
        now: UTC; the clock of the verification.
        expected: what the evidence must be bound to; None leaves that open, and the result says so.
        insecure_software: this process was started to accept software evidence, which a policy must allow too.
    """
    cpu = Appraisal(evidence.kind)
    parts = {"cpu0": cpu}
    end, nonce, said = now + LIFE, None, None
    try:
        _check_kind(evidence.kind, policy, insecure_software)
        found = _genuine(evidence, policy, now)
    except AttestationError as error:
        cpu.failed(error.code, "genuine")
    except Exception:
        cpu.failed("verifier/internal", "genuine")
    else:
        cpu.checks.append(("genuine", "pass"))
        cpu.claims, cpu.revocation = found.claims, found.revocation
        end = min(end, found.not_after or end)
        _appraised(cpu, found)
        said = _bound(cpu, evidence, found, policy, expected, now)
        nonce = said.fields.get("nonce") if said is not None else None
    devices: set[tuple[str, ...]] = set()
    for number, one in enumerate(evidence.gpus):
        parts[f"gpu{number}"], until = _gpu(one, policy, said, now, devices)
        end = min(end, until or end)
    if len(devices) < policy.nvidia.min_count:
        cpu.codes.append("endorsement/missing")
        cpu.worsen("hardware", 97)
    limit = said.number("not-after") if said is not None else None
    if limit is not None:
        end = min(end, datetime.fromtimestamp(min(limit, int(end.timestamp())), UTC))
    if policy.max_age and said is not None and said.number("issued-at") is not None:
        end = min(end, datetime.fromtimestamp(said.number("issued-at") or 0, UTC) + timedelta(seconds=policy.max_age))
    return Result(parts, policy.name, nonce, now, max(end, now))


def _check_kind(kind: str, policy: Policy, insecure_software: bool) -> None:
    if kind == "software":
        allowed = policy.allow_software and insecure_software
        require(allowed, "policy/software-not-allowed", "software evidence proves nothing about a machine")
    require(kind in policy.kinds or kind == "software", "evidence/unsupported-type", f"the policy takes no {kind}")


# -- is it genuine? ---------------------------------------------------------------------------


def _genuine(evidence: Evidence, policy: Policy, now: datetime) -> _Found:
    return _KINDS[evidence.kind](evidence, policy, now)


def _snp(evidence: Evidence, policy: Policy, now: datetime) -> _Found:
    given = snp_chain.Endorsement(evidence.vek, evidence.chain, evidence.crl or None) if evidence.vek else None
    found = snp_chain.verify(evidence.report, given, now)
    codes = snp_policy.appraise(found, policy.snp)
    measured = policy.snp.measurements is not None
    data = found.report.report_data
    return _Found(Claims(found.claims), data, None, None, found.not_after, found.revocation, codes, measured)


def _quote(evidence: Evidence, policy: Policy, now: datetime) -> _Found:
    found = quote_chain.verify(evidence.report, evidence.collateral or None, now)
    require(found.quote.tee == evidence.kind, "evidence/unsupported-type", "a quote of another environment")
    own: quote_policy.TdxPolicy | quote_policy.SgxPolicy = policy.tdx if evidence.kind == "tdx" else policy.sgx
    codes = quote_policy.appraise(found, own)
    if isinstance(own, quote_policy.SgxPolicy):
        measured = own.mrenclaves is not None or own.mrsigners is not None
    else:
        measured = own.mrtds is not None
    data = found.quote.report_data
    return _Found(Claims(found.claims), data, None, None, found.not_after, found.revocation, codes, measured)


def _nitro(evidence: Evidence, policy: Policy, now: datetime) -> _Found:
    found = nitro.verify(evidence.report, now)
    made = datetime.fromtimestamp(found.timestamp_ms / 1000, UTC)
    codes = nitro.appraise(found, policy.nitro)
    measured = policy.nitro.pcr0 is not None
    data = found.user_data if found.user_data is not None and len(found.user_data) == 64 else None
    return _Found(found.claims(), data, found.nonce, made, found.not_after, "unknown", codes, measured)


def _software(evidence: Evidence, policy: Policy, now: datetime) -> _Found:
    found = software.verify(evidence.report)
    return _Found(found.claims(), found.report_data, None, None, None, "unknown", [], False)


_KINDS: Final[Mapping[str, Callable[[Evidence, Policy, datetime], _Found]]] = {
    "snp": _snp, "tdx": _quote, "sgx": _quote, "nitro": _nitro, "software": _software,
}  # fmt: skip


# -- do we accept it? -------------------------------------------------------------------------


def _appraised(part: Appraisal, found: _Found) -> None:
    """Turn a policy's refusals into codes and trustworthiness."""
    software_made = part.kind == "software"
    part.vector |= {"hardware": 97 if software_made else 2, "runtime-opaque": 96 if software_made else 2}
    part.vector |= {"configuration": 2, "executables": 3 if found.measured else 33}
    for code in found.codes:
        part.codes.append(code)
        if code in _CONFIGURATION:
            part.worsen("configuration", 96)
        elif code in _SOFT_CONFIGURATION:
            part.worsen("configuration", 32)
        elif code in _EXECUTABLES:
            part.worsen("executables", 96)
        elif code in _SOFT_HARDWARE:
            part.worsen("hardware", 32)
        else:
            part.worsen("hardware", 96)
    part.checks.append(("policy", "fail" if found.codes else "pass"))


def _bound(
    part: Appraisal, evidence: Evidence, found: _Found, policy: Policy, expected: Expected | None, now: datetime
) -> Statement | None:
    """Check what the evidence is bound to; return the statement once it holds."""
    said = None
    try:
        if evidence.statement:
            said = statement.decode(evidence.statement)
            _check_statement(said, evidence, found)
        elif expected is not None and (expected.report_data is None or expected.needs_statement):
            raise refusal("binding/statement-malformed", "the statement that the evidence is bound to is missing")
        if expected is not None and expected.report_data is not None:
            same = found.bound is not None and hmac.compare_digest(found.bound, expected.report_data)
            require(same, "binding/report-data-mismatch", "the evidence is bound to something else")
        if said is not None and expected is not None:
            _check_expected(said, expected)
        _check_age(said, found, policy, now)
    except AttestationError as error:
        part.codes.append(error.code)
        part.checks.append(("binding", "fail"))
        part.vector["instance-identity"] = 97
        return None
    held = expected is not None and (expected.needs_statement or expected.report_data is not None)
    if policy.runtimes is not None and (said is None or said.fields.get("runtime") not in policy.runtimes):
        part.codes.append("policy/measurement-not-allowed")
        part.checks.append(("runtime", "fail"))
        part.worsen("executables", 96)
    part.vector["instance-identity"] = 2 if held else _UNBOUND
    part.checks.append(("binding", "pass" if held else "skipped"))
    return said


def _check_statement(said: Statement, evidence: Evidence, found: _Found) -> None:
    require(found.bound is not None, "binding/report-data-mismatch", "the evidence carries no binding")
    said.check(found.bound or b"")
    same = said.is_software == (evidence.kind == "software")
    require(same, "binding/purpose-mismatch", "a software attester's purpose, or the lack of it")
    held = said.is_software and said.purpose in _HELD
    require(not held, "policy/software-not-allowed", f"software evidence never serves {said.purpose}")
    if evidence.kind == "nitro" and "nonce" in said.fields:
        require(found.nonce == said.fields["nonce"], "freshness/nonce-mismatch", "document and statement differ")
    digests = statement.gpu_digest([nvidia.parse(one.report).signed for one in evidence.gpus])
    require(said.fields.get("gpu", b"") == digests, "binding/report-data-mismatch", "other GPUs than those attested")


def _check_expected(said: Statement, expected: Expected) -> None:
    if expected.nonce is not None:
        same = hmac.compare_digest(said.fields.get("nonce", b""), expected.nonce)
        require(same, "freshness/nonce-mismatch", "the evidence answers another nonce")
    elif expected.epochs:
        known = said.fields.get("epoch") in expected.epochs
        require(known, "freshness/epoch-unknown", "the evidence is from another epoch")
    for name, wanted in (expected.fields or {}).items():
        if name == "purpose":
            same = said.purpose.encode() == wanted
            require(same, "binding/purpose-mismatch", f"the evidence is for {said.purpose}")
            continue
        kind = _BOUND_FIELDS.get(name, "result")
        require(said.fields.get(name) == wanted, f"binding/{kind}-mismatch", f"'{name}' of the statement is another")


def _check_age(said: Statement | None, found: _Found, policy: Policy, now: datetime) -> None:
    """Check that nothing was made later than now, and, where the policy limits its age, that it is young enough."""
    at = now.timestamp()
    made = found.made.timestamp() if found.made is not None else None
    require(made is None or made - SKEW_S <= at, "freshness/stale", "the evidence's time lies in the future")
    if said is not None:
        said.check_time(at)
        made = said.number("issued-at") if made is None else made
    if policy.max_age:
        fresh = made is not None and at <= made + policy.max_age
        require(fresh, "freshness/stale", "the evidence is older than the policy allows, or does not say")


def _gpu(
    one: Gpu, policy: Policy, said: Statement | None, now: datetime, devices: set[tuple[str, ...]]
) -> tuple[Appraisal, datetime | None]:
    """Appraise a device; it counts only under the processor's statement (5.4), and once.

    Args:
        devices: those that were seen already, by name and serial numbers; this one is added.

    Returns:
        The appraisal, and until when certificates and golden values hold.
    """
    part = Appraisal("nvidia")
    try:
        require("nvidia" in policy.kinds, "evidence/unsupported-type", "the policy takes no nvidia")
        if said is None:
            raise refusal("binding/report-data-mismatch", "no processor's environment vouches for the device")
        golden = [rim.read(text, now) for text in one.manifests]
        found = nvidia.verify(one.report, one.chain, said.gpu_nonce(), now, golden)
        name = (found.name, *found.serials)
        require(name not in devices, "evidence/malformed", "a device is shown twice")
        devices.add(name)
    except AttestationError as error:
        part.failed(error.code, "genuine")
        return part, None
    except ConfigError:
        part.failed("endorsement/missing", "golden")
        return part, None
    except Exception:
        part.failed("verifier/internal", "genuine")
        return part, None
    part.claims = found.claims()
    part.vector |= {"instance-identity": 2, "hardware": 2, "configuration": 2, "runtime-opaque": 2}
    whole = {found.report.driver, found.report.vbios} <= {each.version for each in golden}
    part.vector["executables"] = 3 if whole else 33
    part.checks += [("genuine", "pass"), ("golden", "pass" if whole else "skipped")]
    own = policy.nvidia
    if own.require_golden and not whole:
        part.codes.append("endorsement/missing")
        part.worsen("executables", 96)
    lists = ((own.products, found.product), (own.drivers, found.report.driver), (own.vbioses, found.report.vbios))
    if any(allowed is not None and value not in allowed for allowed, value in lists):
        part.codes.append("policy/measurement-not-allowed")
        part.worsen("executables", 96)
    return part, min([found.not_after, *(each.not_after for each in golden)])
