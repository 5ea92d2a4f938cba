"""bench attest: it measures what it says, and says what it leaves out. No figure is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperpy.bench import attesting
from hyperpy.cli.app import app, register_all
from tests.attest import tee


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation runs once."""

    def measured(operation: object, **_: object) -> tuple[float, float, float]:
        operation()  # type: ignore[operator]
        return 1.0, 1.0, 1.0

    monkeypatch.setattr(attesting, "cpu", measured)


def test_without_genuine_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.name for one in attesting.rows(tmp_path)] == ["software evidence"]
    monkeypatch.setenv(attesting.FOLDER, str(tmp_path))
    register_all()
    found = CliRunner().invoke(app, ["bench", "attest"])
    assert found.exit_code == 0
    assert "left out" in found.output


@pytest.mark.filterwarnings("ignore:Parsed a serial number", "ignore:Attribute's length")
def test_with_genuine_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    tee.case("snp/turin-v5-openanolis")
    monkeypatch.setenv(attesting.FOLDER, str(tee.FOLDER))
    register_all()
    rows = json.loads(CliRunner().invoke(app, ["bench", "attest", "--json"]).stdout)["rows"]
    aims = {one["name"].split(",")[0]: one["aim"] for one in rows if one["aim"]}
    assert aims == {
        "SNP report": 0.5,
        "SNP reports under one known certificate": 2000.0,
        "TDX quote with collateral": 2.5,
        "SGX quote with collateral": 2.5,
        "Nitro document": 3.0,
        "GPU report": 3.0,
        "composite: SNP and one GPU": 8.0,
    }
