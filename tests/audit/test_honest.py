"""More than a thousand honest steps of every kind: no false alarm, whichever way they are audited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source, replay_in_processes
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import replayed
from hyperpy.testing import TestNode
from hyperpy.verdicts import Report, Verdict
from hyperpy.verify import verify
from tests.audit.lies import DEVICES, everything
from tests.audit.mixed import AUDITED, Mailer, compute
from tests.devices.parts import place

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(devices=AUDITED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that a node computed in under one hash seed; this process has another one."""
    made = tmp_path_factory.mktemp("honest")
    done = run(made / "store", "1")
    (made / "hashpaths").write_text(done, "utf-8")
    return made


def run(store: Path, seed: str) -> str:
    """Compute everything in a process with a hash seed; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.audit.mixed", str(store)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def source(folder: Path) -> Source:
    return Source(folder=str(folder / "store"))


@pytest.fixture
def evidence(source: Source) -> Iterator[Evidence]:
    """All that is recorded."""
    with source.open() as found:
        yield Evidence.of_store(found.store, found.where, roots=everything(found.store))


def assert_no_alarm(report: Report) -> None:
    """Assert that nothing is found, and that what cannot be made again is attested."""
    assert {(step.device, step.key, step.findings) for step in report.steps if step.findings} == set()
    assert report.findings == []
    assert {step.verdict for step in report.steps} <= {Verdict.REPRODUCED, Verdict.ATTESTED}


def test_from_the_store(evidence: Evidence) -> None:
    report = replay(evidence, collect(evidence), OPTIONS)
    assert_no_alarm(report)
    assert report.total == len(report.steps) >= 1000
    kinds = Counter(step.verdict for step in report.steps)
    assert set(kinds) == {Verdict.REPRODUCED, Verdict.ATTESTED}
    assert kinds[Verdict.REPRODUCED] > 900
    devices = {step.device for step in report.steps}
    assert {"message@1.0", "calculator@1.0", "stack@1.0", "count@1.0", "lua@5.3a", "wasm-64@1.0"} <= devices
    assert {"mailer@1.0", "push@1.0", "dice@1.0", "box@1.0", "json@1.0", "patch@1.0"} <= devices


def test_in_worker_processes(source: Source, evidence: Evidence) -> None:
    plan = collect(evidence)
    alone = replay(evidence, plan, OPTIONS)
    both = replay_in_processes(source, evidence, plan, OPTIONS, jobs=2)
    assert both.as_json() == alone.as_json()


def test_from_one_receipt_of_everything(evidence: Evidence) -> None:
    plan = collect(evidence)
    data = build(evidence, plan)
    light = verify(data)
    assert [one.rule for one in light.findings] == ["unsigned"]
    assert {(step.device, step.key, step.findings) for step in light.steps if step.findings} == set()
    report = replayed(data, OPTIONS)
    assert_no_alarm(report)
    assert len(report.steps) == len(plan.steps) >= 1000


def test_from_a_receipt_of_each_kind(folder: Path, evidence: Evidence) -> None:
    for hashpath in json.loads((folder / "hashpaths").read_text("utf-8")):
        report = replayed(build(evidence, collect(evidence, hashpath)), OPTIONS)
        assert_no_alarm(report)


def test_over_http() -> None:
    """The node that computed it is asked for its own account, and for receipts."""
    with place(Mailer, *DEVICES) as here:
        asked = TestNode(here.node)
        for hashpath in compute(here):
            reply: Any = asked.get("/~audit@1.0/replay", {"ref": hashpath})
            assert reply["status"] == 200, reply
            assert reply["verdict"] in (b"reproduced", b"attested"), reply["body"]
            given: Any = asked.get("/~audit@1.0/receipt", {"ref": hashpath})
            assert given["status"] == 200, given
            assert_no_alarm(replayed(given["body"], OPTIONS))


def test_with_another_hash_seed(folder: Path, tmp_path: Path) -> None:
    """What is computed under another seed is the same: what is asked and comes out, but for dice, mail and clocks."""
    other = json.loads(run(tmp_path / "store", "2"))
    known = json.loads((folder / "hashpaths").read_text("utf-8"))
    assert len(other) == len(known)
    with Source(folder=str(tmp_path / "store")).open() as found:
        evidence = Evidence.of_store(found.store, found.where, roots=everything(found.store))
        assert_no_alarm(replay(evidence, collect(evidence), OPTIONS))
