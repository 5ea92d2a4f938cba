"""The verifier as a whole: what a result says, and what it never says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyperpy.attest import bundle, nitro, nvidia, policy, result, rim, software, statement, verifier
from hyperpy.attest.snp_policy import SnpPolicy
from tests.attest import fake_amd, tee
from tests.attest.fake_amd import NOW, FakeAmd

FIELDS = {
    "purpose": b"result",
    "address": bytes(range(32)),
    "key": b"\x01" + bytes(512),
    "nonce": b"n" * 32,
    "request": b"q" * 32,
    "hashpath": b"base/reference",
    "result": b"r" * 32,
    "device": b"calculator@1.0 digest",
}
EXPECTED = verifier.Expected(nonce=b"n" * 32, fields={"purpose": b"result", "result": b"r" * 32})
POLICY = policy.Policy("mine", snp=SnpPolicy(measurements=frozenset({fake_amd.MEASUREMENT}), vmpls=frozenset({0})))


def evidence(amd: FakeAmd, **changed: bytes) -> bundle.Evidence:
    said = statement.make({**FIELDS, **changed})
    return bundle.Evidence("snp", amd.report(said.report_data()), amd.vek, amd.chain, statement=said.encode())


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


def test_bound_genuine_and_allowed_is_affirming(amd: FakeAmd) -> None:
    found = verifier.verify(evidence(amd), POLICY, now=NOW, expected=EXPECTED)
    assert (found.word, found.hardware, found.codes) == ("affirming", "hardware", ())
    ear = found.ear("test")
    assert ear["eat_profile"] == "tag:hyperpy,2026:ear"
    assert ear["eat_nonce"] == (b"n" * 32).hex()
    assert ear["exp"] - ear["iat"] == 3600
    vector = ear["submods"]["cpu0"]["ear.trustworthiness-vector"]
    assert vector == {
        "instance-identity": 2, "configuration": 2, "executables": 3, "hardware": 2, "runtime-opaque": 2,
    }  # fmt: skip
    assert [row["outcome"] for row in ear["submods"]["cpu0"]["hyperpy.checks"]] == ["pass", "pass", "pass"]
    assert found.ear("test") == verifier.verify(evidence_again(found, amd), POLICY, now=NOW, expected=EXPECTED).ear(
        "test"
    )


@pytest.mark.parametrize("fields", [None, {}])
def test_an_expectation_of_nothing_is_none(amd: FakeAmd, fields: dict[str, bytes] | None) -> None:
    found = verifier.verify(evidence(amd), POLICY, now=NOW, expected=verifier.Expected(fields=fields))
    assert (found.word, found.codes) == ("warning", ())
    assert found.parts["cpu0"].vector["instance-identity"] == 32
    assert ("binding", "skipped") in found.parts["cpu0"].checks


def test_a_policy_says_which_runtimes_count(amd: FakeAmd) -> None:
    own = policy.parse(b'runtimes = ["%s", "%s"]' % (b"ab" * 32, b"cd" * 32))
    strict = replace(POLICY, runtimes=own.runtimes)
    for allowed in (b"\xab" * 32, b"\xcd" * 32):
        found = verifier.verify(evidence(amd, runtime=allowed), strict, now=NOW, expected=EXPECTED)
        assert (found.word, found.codes) == ("affirming", ())
    for other in ({"runtime": b"\xef" * 32}, {"runtime": b""}, {}):
        found = verifier.verify(evidence(amd, **other), strict, now=NOW, expected=EXPECTED)
        assert (found.word, found.codes) == ("contraindicated", ("policy/measurement-not-allowed",))
    bare = replace(evidence(amd, runtime=b"\xab" * 32), statement=b"")
    data = verifier.Expected(report_data=bare.report[0x50:0x90])
    assert verifier.verify(bare, strict, now=NOW, expected=data).word == "contraindicated"
    none = replace(POLICY, runtimes=policy.parse(b"runtimes = []").runtimes)
    assert verifier.verify(evidence(amd, runtime=b""), none, now=NOW, expected=EXPECTED).word == "contraindicated"


def evidence_again(found: result.Result, amd: FakeAmd) -> bundle.Evidence:
    """Return other evidence of the same: its signature differs, its claims do not."""
    assert found.status == result.AFFIRMING
    return evidence(amd)


def test_the_fake_s_root_is_refused_where_it_is_not_pinned() -> None:
    found = verifier.verify(evidence(fake_amd.fake_amd()), POLICY, now=NOW, expected=EXPECTED)
    assert found.codes == ("endorsement/untrusted-root",)
    assert found.hardware == "failed"
    assert set(found.parts["cpu0"].vector.values()) == {99}


@pytest.mark.parametrize(
    ("changed", "expected", "code"),
    [
        ({}, verifier.Expected(nonce=b"m" * 32), "freshness/nonce-mismatch"),
        ({}, verifier.Expected(fields={"purpose": b"node-identity"}), "binding/purpose-mismatch"),
        ({}, verifier.Expected(fields={"result": b"x" * 32}), "binding/result-mismatch"),
        ({}, verifier.Expected(fields={"hashpath": b"another"}), "binding/result-mismatch"),
        ({}, verifier.Expected(fields={"address": bytes(32)}), "binding/key-mismatch"),
        ({"epoch": b"e"}, verifier.Expected(epochs=frozenset({b"f"})), "freshness/epoch-unknown"),
        ({"not-after": (1).to_bytes(8, "big")}, EXPECTED, "freshness/stale"),
        ({"purpose": b"software/result"}, EXPECTED, "binding/purpose-mismatch"),
    ],
)
def test_what_it_is_not_bound_to(
    amd: FakeAmd, changed: dict[str, bytes], expected: verifier.Expected, code: str
) -> None:
    found = verifier.verify(evidence(amd, **changed), POLICY, now=NOW, expected=expected)
    assert found.codes == (code,)
    assert found.hardware == "failed"
    assert found.parts["cpu0"].vector["instance-identity"] == 97


def test_swapping_evidence_between_two_answers(amd: FakeAmd) -> None:
    one, other = evidence(amd), evidence(amd, result=b"s" * 32)
    mixed = bundle.Evidence("snp", one.report, one.vek, one.chain, statement=other.statement)
    found = verifier.verify(mixed, POLICY, now=NOW, expected=verifier.Expected(nonce=b"n" * 32))
    assert found.codes == ("binding/report-data-mismatch",)


def test_evidence_without_any_binding_is_at_most_a_warning_s_worth(amd: FakeAmd) -> None:
    bare = bundle.Evidence("snp", amd.report(bytes(64)), amd.vek, amd.chain)
    open_ = verifier.verify(bare, POLICY, now=NOW)
    assert open_.parts["cpu0"].vector["instance-identity"] == 32
    assert open_.word == "warning"
    assert verifier.verify(evidence(amd), POLICY, now=NOW).word == "warning", "nobody said what it must be bound to"
    assert ("binding", "skipped") in open_.parts["cpu0"].checks
    assert verifier.verify(bare, POLICY, now=NOW, expected=EXPECTED).codes == ("binding/statement-malformed",)
    exact = verifier.Expected(report_data=bytes(64))
    assert verifier.verify(bare, POLICY, now=NOW, expected=exact).word == "affirming"
    wrong = verifier.Expected(report_data=b"\x01" * 64)
    assert verifier.verify(bare, POLICY, now=NOW, expected=wrong).codes == ("binding/report-data-mismatch",)


def test_all_that_is_expected_must_hold_at_once(amd: FakeAmd) -> None:
    whole = evidence(amd)
    wrong_data = verifier.Expected(nonce=EXPECTED.nonce, report_data=bytes(64))
    found = verifier.verify(whole, POLICY, now=NOW, expected=wrong_data)
    assert found.codes == ("binding/report-data-mismatch",)
    bare = bundle.Evidence("snp", amd.report(bytes(64)), amd.vek, amd.chain)
    for more in ({"nonce": b"n" * 32}, {"fields": {"result": b"r" * 32}}, {"epochs": frozenset({b"e"})}):
        both = verifier.Expected(report_data=bytes(64), **more)
        assert verifier.verify(bare, POLICY, now=NOW, expected=both).codes == ("binding/statement-malformed",)


def test_age(amd: FakeAmd) -> None:
    strict = policy.of({"max-age": 300, "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
    at = int(NOW.timestamp()).to_bytes(8, "big")
    for seconds, codes in ((0, ()), (300, ()), (301, ("freshness/stale",)), (-120, ("freshness/stale",))):
        found = verifier.verify(
            evidence(amd, **{"issued-at": at}), strict, now=NOW + timedelta(seconds=seconds), expected=EXPECTED
        )
        assert found.codes == codes
    assert verifier.verify(evidence(amd), strict, now=NOW, expected=EXPECTED).codes == ("freshness/stale",)


@pytest.mark.parametrize("own", [POLICY, replace(POLICY, max_age=300)], ids=["without max-age", "with"])
def test_a_time_in_the_future_is_refused_beyond_the_clocks_difference(amd: FakeAmd, own: policy.Policy) -> None:
    def codes(seconds: int) -> tuple[str, ...]:
        at = (int(NOW.timestamp()) + seconds).to_bytes(8, "big")
        found = verifier.verify(evidence(amd, **{"issued-at": at}), own, now=NOW, expected=EXPECTED)
        assert (found.hardware == "hardware") is not bool(found.codes)
        return found.codes

    assert [codes(ahead) for ahead in (0, 60, 61, 1 << 20)] == [(), (), ("freshness/stale",), ("freshness/stale",)]
    last = (1 << 64) - int(NOW.timestamp()) - 1
    assert codes(last) == ("freshness/stale",), "no time is too far to be compared"


@pytest.mark.parametrize(("early", "codes"), [(60, ()), (61, ("freshness/stale",))])
def test_a_document_of_the_future_is_refused(
    monkeypatch: pytest.MonkeyPatch, early: int, codes: tuple[str, ...]
) -> None:
    """A genuine Nitro document seen before it was made, its certificates taken for valid already."""
    one = tee.case("nitro/evervault-valid")
    found = nitro.verify(tee.file(one, "doc"), tee.now(one))
    monkeypatch.setattr(nitro, "verify", lambda raw, now: found)
    before = datetime.fromtimestamp(found.timestamp_ms / 1000, UTC) - timedelta(seconds=early)
    given = bundle.Evidence("nitro", tee.file(one, "doc"))
    assert verifier.verify(given, policy.BASELINE, now=before).codes == codes


@pytest.mark.parametrize(
    ("own", "code", "claim", "value"),
    [
        ({"measurements": []}, "policy/measurement-not-allowed", "executables", 96),
        ({"vmpls": [1]}, "policy/vmpl", "configuration", 32),
        ({"min-tcb": {"snp": 23}}, "tcb/below-minimum", "hardware", 32),
        ({"denied-chips": [fake_amd.CHIP.hex()]}, "policy/chip-denied", "hardware", 96),
        ({"policy-required": [20]}, "policy/guest-policy", "configuration", 32),
        ({"id-keys": ["00"]}, "policy/id-key", "hardware", 96),
    ],
)
def test_what_a_policy_refuses(amd: FakeAmd, own: dict[str, object], code: str, claim: str, value: int) -> None:
    made = policy.of({"snp": {"measurements": [fake_amd.MEASUREMENT.hex()], **own}})
    found = verifier.verify(evidence(amd), made, now=NOW, expected=EXPECTED)
    assert found.codes == (code,)
    assert found.parts["cpu0"].vector[claim] == value
    assert found.hardware == "failed"


def test_debug_is_contraindicated(amd: FakeAmd) -> None:
    said = statement.make(FIELDS)
    raw = amd.report(said.report_data(), policy=0x30000 | 1 << 19)
    debug = bundle.Evidence("snp", raw, amd.vek, amd.chain, statement=said.encode())
    found = verifier.verify(debug, POLICY, now=NOW, expected=EXPECTED)
    assert found.codes == ("policy/debug-enabled",)
    assert found.word == "contraindicated"


# -- software evidence --------------------------------------------------------------------------

SOFT = policy.Policy("dev", kinds=frozenset({"software"}), allow_software=True)


def soft(**changed: bytes) -> bundle.Evidence:
    said = statement.make({**FIELDS, "purpose": b"software/result", **changed})
    raw = software.make(Ed25519PrivateKey.generate(), bytes(32), said.report_data())
    return bundle.Evidence("software", raw, statement=said.encode())


def test_software_evidence_takes_policy_and_process() -> None:
    for own, flag in ((POLICY, True), (SOFT, False), (POLICY, False)):
        found = verifier.verify(soft(), own, now=NOW, expected=EXPECTED, insecure_software=flag)
        assert found.codes == ("policy/software-not-allowed",)
        assert found.hardware == "failed"
    found = verifier.verify(soft(), SOFT, now=NOW, expected=EXPECTED, insecure_software=True)
    assert found.codes == ()
    assert found.hardware == "software"
    assert found.word == "contraindicated"
    assert found.parts["cpu0"].vector["hardware"] == 97
    assert found.parts["cpu0"].vector["runtime-opaque"] == 96
    assert "measurement" not in found.parts["cpu0"].claims


@pytest.mark.parametrize("purpose", [b"software/key-release", b"software/zone-join"])
def test_software_evidence_never_releases_a_key(purpose: bytes) -> None:
    made = soft(purpose=purpose, kem=b"\x00\x20" + bytes(32), **{"node-message": bytes(32)})
    found = verifier.verify(made, SOFT, now=NOW, insecure_software=True)
    assert found.codes == ("policy/software-not-allowed",)


def test_software_evidence_under_another_name() -> None:
    made = soft()
    for kind in ("snp", "tdx", "sgx", "nitro"):
        relabelled = bundle.Evidence(kind, made.report, statement=made.statement)
        found = verifier.verify(relabelled, SOFT, now=NOW, insecure_software=True)
        assert found.hardware == "failed"
        assert found.codes
    plain = bundle.Evidence("software", made.report, statement=statement.make(FIELDS).encode())
    assert verifier.verify(plain, SOFT, now=NOW, insecure_software=True).hardware == "failed"


# -- GPUs ---------------------------------------------------------------------------------------


def gpu() -> bundle.Gpu:
    one = tee.case("nvidia/h100-545-full-rim")
    return bundle.Gpu(tee.file(one, "report"), tee.file(one, "chain"), tuple(map(tee.data, one["files"]["rims"])))


def test_a_gpu_counts_only_under_the_processor_s_statement(amd: FakeAmd) -> None:
    one = gpu()
    bare = bundle.Evidence(
        "snp", evidence(amd).report, amd.vek, amd.chain, statement=evidence(amd).statement, gpus=(one,)
    )
    found = verifier.verify(bare, POLICY, now=NOW, expected=EXPECTED)
    assert "binding/report-data-mismatch" in found.codes
    assert found.hardware == "failed"


def test_a_gpu_that_answers_another_binding(amd: FakeAmd) -> None:
    one = gpu()
    said = statement.make({**FIELDS, "gpu": statement.gpu_digest([nvidia.parse(one.report).signed])})
    made = bundle.Evidence(
        "snp", amd.report(said.report_data()), amd.vek, amd.chain, statement=said.encode(), gpus=(one,)
    )
    found = verifier.verify(made, POLICY, now=NOW, expected=EXPECTED)
    assert found.parts["cpu0"].codes == []
    assert found.parts["gpu0"].codes[0] in ("freshness/nonce-mismatch", "endorsement/expired")


@pytest.fixture
def gpus_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a recorded GPU report answer whatever statement it is shown with, its certificates seen in its own time."""
    report, then = nvidia.parse(gpu().report), tee.now(tee.case("nvidia/h100-545-full-rim"))
    read, verify = rim.read, nvidia.verify
    monkeypatch.setattr(statement.Statement, "gpu_nonce", lambda self: report.nonce)
    monkeypatch.setattr(rim, "read", lambda text, now: read(text, then))
    monkeypatch.setattr(
        nvidia, "verify", lambda raw, chain, nonce, now, golden: verify(raw, chain, nonce, then, golden)
    )


def with_gpus(amd: FakeAmd, *gpus: bundle.Gpu) -> bundle.Evidence:
    digest = statement.gpu_digest([nvidia.parse(one.report).signed for one in gpus])
    said = statement.make({**FIELDS, "gpu": digest})
    return bundle.Evidence(
        "snp", amd.report(said.report_data()), amd.vek, amd.chain, statement=said.encode(), gpus=gpus
    )


@pytest.mark.parametrize("kept", [(0, 1), (0,), (1,), ()])
@pytest.mark.usefixtures("gpus_then")
def test_driver_and_vbios_both_need_golden_values(amd: FakeAmd, kept: tuple[int, ...]) -> None:
    one = gpu()
    some = replace(one, manifests=tuple(one.manifests[at] for at in kept))
    part = verifier.verify(with_gpus(amd, some), POLICY, now=NOW, expected=EXPECTED).parts["gpu0"]
    whole = len(kept) == 2
    assert part.codes == ([] if whole else ["endorsement/missing"])
    assert (part.vector["executables"], dict(part.checks)["golden"]) == ((3, "pass") if whole else (96, "skipped"))


@pytest.mark.usefixtures("gpus_then")
def test_a_gpu_that_is_shown_twice_counts_once(amd: FakeAmd) -> None:
    two = policy.of({"nvidia": {"min-count": 2}, "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
    found = verifier.verify(with_gpus(amd, gpu(), gpu()), two, now=NOW, expected=EXPECTED)
    assert found.parts["gpu0"].codes == []
    assert found.parts["gpu1"].codes == ["evidence/malformed"]
    assert "endorsement/missing" in found.parts["cpu0"].codes
    assert found.hardware == "failed"


@pytest.mark.usefixtures("gpus_then")
def test_a_result_holds_no_longer_than_what_it_rests_on(amd: FakeAmd) -> None:
    made = {"issued-at": int(NOW.timestamp()).to_bytes(8, "big")}
    limited = evidence(amd, **made, **{"not-after": int(NOW.timestamp() + 5).to_bytes(8, "big")})
    assert verifier.verify(limited, POLICY, now=NOW, expected=EXPECTED).expires == NOW + timedelta(seconds=5)
    aged = verifier.verify(evidence(amd, **made), replace(POLICY, max_age=60), now=NOW, expected=EXPECTED)
    assert aged.expires == NOW + timedelta(seconds=60)
    ends = [rim.read(one, NOW).not_after for one in gpu().manifests]
    part, until = verifier._gpu(gpu(), POLICY, statement.make(FIELDS), NOW, set())
    assert part.codes == []
    assert until is not None
    assert until <= min(ends)


def test_the_privileged_layer_is_the_default_of_a_policy_file(amd: FakeAmd) -> None:
    said = statement.make(FIELDS)
    for level, codes in ((0, ()), (1, ("policy/vmpl",)), (3, ("policy/vmpl",))):
        report = amd.report(said.report_data(), vmpl=level)
        made = bundle.Evidence("snp", report, amd.vek, amd.chain, statement=said.encode())
        usual = policy.of({"snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
        assert verifier.verify(made, usual, now=NOW, expected=EXPECTED).codes == codes
        wide = policy.of({"snp": {"measurements": [fake_amd.MEASUREMENT.hex()], "vmpls": [0, 1, 2, 3]}})
        assert verifier.verify(made, wide, now=NOW, expected=EXPECTED).codes == ()
    assert policy.DEFAULT.snp.vmpls == frozenset({0})


def test_a_policy_that_needs_the_revocation_list(amd: FakeAmd) -> None:
    strict = policy.of({"snp": {"measurements": [fake_amd.MEASUREMENT.hex()], "require-crl": True}})
    assert verifier.verify(evidence(amd), strict, now=NOW, expected=EXPECTED).codes == ("endorsement/crl-missing",)


def test_a_policy_that_needs_a_gpu(amd: FakeAmd) -> None:
    wanted = policy.of({"nvidia": {"min-count": 1}, "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
    assert verifier.verify(evidence(amd), wanted, now=NOW, expected=EXPECTED).codes == ("endorsement/missing",)
