"""attest verify, attest report: verdicts and exit codes, with genuine and with made evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperpy import attested
from hyperpy.attest import policy as policies
from hyperpy.attest import statement
from hyperpy.attest.advice import ADVICE
from hyperpy.attest.bundle import Evidence
from hyperpy.attester import base, configfs
from hyperpy.cli.app import app, register_all
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u
from tests.attest import fake_amd, fake_kernel, tee
from tests.attest.fake_amd import NOW, FakeAmd

AT = str(int(NOW.timestamp()))
NONCE = b64u(b"n" * 32)
SAID = statement.make(
    {
        "purpose": b"node-identity",
        "address": bytes(32),
        "key": b"\x01" + bytes(256),
        "nonce": b"n" * 32,
        "node-message": bytes(32),
    }
)


def run(*words: str, data: bytes | None = None) -> Any:
    register_all()
    return CliRunner().invoke(app, ["attest", *words], input=data)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def evidence(amd: FakeAmd) -> Evidence:
    return Evidence("snp", amd.report(SAID.report_data()), amd.vek, amd.chain, statement=SAID.encode())


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.toml"
    file.write_text(f'id = "mine"\n[snp]\nmeasurements = ["{fake_amd.MEASUREMENT.hex()}"]\nvmpls = [0]\n', "utf-8")
    return str(file)


def test_evidence_in_each_form(evidence: Evidence, policy: str, tmp_path: Path) -> None:
    whole = canonical.encode(evidence.message())
    forms = [whole, b64u(whole).encode() + b"\n", attested.Attestation(evidence).text()]
    for number, data in enumerate(forms):
        (tmp_path / str(number)).write_bytes(data)
        found = run("verify", str(tmp_path / str(number)), "--policy", policy, "--now", AT, "--nonce", NONCE)
        assert (found.exit_code, found.output.split()[:3]) == (0, ["affirming", "policy", found.output.split()[2]])
    piped = run("verify", "-", "--now", AT, "--json", data=whole)
    said = json.loads(piped.output)
    assert (said["status"], said["eat_profile"]) == ("hardware", "tag:hyperpy,2026:ear")
    assert piped.exit_code == 2, "without a policy nothing says which software may run"


def test_a_bare_report_with_its_certificates(amd: FakeAmd, policy: str, tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(amd.report(b"d" * 64))
    words = ["verify", str(tmp_path / "report"), "--policy", policy, "--now", AT, "--report-data", (b"d" * 64).hex()]
    assert run(*words).exit_code == 1
    for name, data in zip("abc", (amd.vek, *amd.chain), strict=True):
        (tmp_path / name).write_bytes(data)
        words += ["--certificate", str(tmp_path / name)]
    assert run(*words).exit_code == 0
    other = [(b"e" * 64).hex() if word == (b"d" * 64).hex() else word for word in words]
    found = run(*other, "--json")
    assert (found.exit_code, json.loads(found.output)["errors"]) == (1, ["binding/report-data-mismatch"])


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--nonce", b64u(b"m" * 32)], "freshness/nonce-mismatch"),
        (["--now", "1"], "endorsement/not-yet-valid"),
    ],
)
def test_what_is_refused(evidence: Evidence, tmp_path: Path, more: list[str], code: str) -> None:
    (tmp_path / "e").write_bytes(canonical.encode(evidence.message()))
    found = run("verify", str(tmp_path / "e"), "--json", *(["--now", AT] if "--now" not in more else []), *more)
    assert (found.exit_code, json.loads(found.output)["errors"]) == (1, [code])


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x80", bytes(1184), b"\xff" * 50])
def test_what_is_no_evidence(data: bytes) -> None:
    assert run("verify", "-", data=data).exit_code == 3


def test_what_this_machine_has(amd: FakeAmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "detect", lambda: None)
    assert run("report", "--nonce", NONCE).exit_code == 1
    assert [row["provider"] for row in json.loads(run("report", "--json").output)] == ["configfs-tsm", "/dev/sev-guest"]
    monkeypatch.setattr(base, "detect", lambda: configfs.Configfs(fake_kernel.snp(amd), "sev_guest"))
    made = run("report", "--nonce", NONCE)
    assert made.exit_code == 0
    assert run("verify", "-", "--now", AT, data=made.output.encode()).exit_code == 2
    assert run("report", "--nonce", "short").exit_code == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert run("verify", str(tmp_path / "nothing")).exit_code == 3


@pytest.mark.filterwarnings("ignore:Parsed a serial number", "ignore:Attribute's length")
@pytest.mark.parametrize("kind", ["tdx", "sgx", "nitro"])
def test_bare_quotes_and_documents(kind: str, tmp_path: Path) -> None:
    """Genuine evidence of each kind, in the form in which its maker gives it."""
    accepted = [one for one in tee.of_kind(kind) if one["expect"].get("verdict") != "reject"]
    wanted = [one for one in accepted if kind == "nitro" or "collateral" in one["files"]]
    if not wanted:
        pytest.skip("no fixtures")
    words = {}
    for one in wanted:
        words["file"] = tmp_path / "file"
        words["file"].write_bytes(tee.file(one, "doc" if kind == "nitro" else "quote"))
        more = []
        if kind != "nitro":
            (tmp_path / "collateral").write_bytes(tee.file(one, "collateral"))
            more = ["--collateral", str(tmp_path / "collateral")]
        at = str(int(tee.now(one).timestamp()))
        found = run("verify", str(words["file"]), "--now", at, "--json", *more)
        said = json.loads(found.stdout)
        assert said["submods"]["cpu0"]["hyperpy.kind"] == kind
        assert said["submods"]["cpu0"]["hyperpy.checks"][0] == {"check": "genuine", "outcome": "pass"}, one["id"]
        assert found.exit_code == (1 if said["errors"] and said["verdict"] == "contraindicated" else 2)


def test_people_are_told_what_is_wrong_and_what_to_do(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(canonical.encode(evidence.message()))
    found = run("verify", str(tmp_path / "e"), "--now", AT, "--nonce", b64u(b"m" * 32))
    meaning, then = ADVICE["freshness/nonce-mismatch"]
    assert f"freshness/nonce-mismatch: {meaning}; {then}" in found.output
    assert "genuine pass" in found.output
    bare = run("verify", str(tmp_path / "e"), "--now", AT)
    assert (bare.exit_code, "hyperpy attest policy" in bare.output) == (2, True)


def test_the_worked_policy_is_one(evidence: Evidence, tmp_path: Path) -> None:
    made = run("policy")
    assert policies.parse(made.output.encode()).id == "my-nodes"
    (tmp_path / "p.toml").write_text(made.output, "utf-8")
    (tmp_path / "e").write_bytes(canonical.encode(evidence.message()))
    found = run("verify", str(tmp_path / "e"), "--now", AT, "--policy", str(tmp_path / "p.toml"), "--json")
    assert found.exit_code == 1
    assert "policy/measurement-not-allowed" in json.loads(found.stdout)["errors"]
