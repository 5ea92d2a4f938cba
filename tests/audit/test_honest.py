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
from hyperpy.errors import HyperpyError
from hyperpy.testing import TestNode, node
from hyperpy.verdicts import Report, Verdict
from hyperpy.verify import verify
from tests.audit.lies import DEVICES, everything
from tests.audit.mixed import AUDITED, Mailer, compute
from tests.devices.parts import place

ROOT = Path(__file__).resolve().parents[2]
VECTORS = (
    Path(os.environ["HYPERPY_VECTORS"])
    if os.environ.get("HYPERPY_VECTORS")
    else Path(os.environ.get("HYPERPY_SHARED", ROOT.parent / "shared")) / "vectors"
)
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
    """A computation under another seed is audited without an alarm."""
    other = json.loads(run(tmp_path / "store", "2"))
    known = json.loads((folder / "hashpaths").read_text("utf-8"))
    assert len(other) == len(known)
    with Source(folder=str(tmp_path / "store")).open() as found:
        evidence = Evidence.of_store(found.store, found.where, roots=everything(found.store))
        assert_no_alarm(replay(evidence, collect(evidence), OPTIONS))


SUB_PATHS = [
    "/~message@1.0&x+integer=5/set&y=(/~calculator@1.0&a=1/add&b=2)",
    "/~message@1.0&x=1/set&z=(/~message@1.0&q=(/~calculator@1.0&a=2/add&b=2)/q)",
    "/~message@1.0&x=(/~message@1.0&a=1/set&b=2)/x/set&c=(~calculator@1.0&a=1&b=2/add)",
    "/~message@1.0&a=1/set&x=(/~message@1.0&k=v)/x/k",
    "/~message@1.0&l=(/~message@1.0&1=a&2=b)/l/2",
    "/~message@1.0&a=(/~dice@1.0/roll)/set&b=(/~dice@1.0/roll)",
    "/~message@1.0&a=1/set&b=(/~meta@1.0/info/address)/set&c=(/~meta@1.0/info)",
    "/~message@1.0&a=1/set?y=(/~calculator@1.0&a=1%26b=2/add)",
]


def test_what_the_vectors_ask_for() -> None:
    """Whatever the recorded HTTP cases ask a node for, answered or refused, is audited without an alarm."""
    if not (VECTORS / "http.json").is_file():
        pytest.skip(f"no vectors in {VECTORS}: set HYPERPY_SHARED")
    cases = json.loads((VECTORS / "http.json").read_text("utf-8"))["cases"]
    with node(*DEVICES) as here:
        for asked in (case["request"] for case in cases):
            sent = {
                name: text for name, text in asked["headers"] if name.lower() not in ("content-length", "connection")
            }
            body = asked.get("body")
            data = body.encode("latin-1", "replace") if isinstance(body, str) else b""
            try:
                here.request(asked["method"], asked["path"], sent, data)
            except HyperpyError:
                continue  # no request at all
        for path in SUB_PATHS:
            assert here.get(path)["status"] == 200, path
        here.get("/~message@1.0&a=1/set", {"x+resolve": "/~calculator@1.0&a=1/add&b=2"})
        store = here.node.store
        evidence = Evidence.of_store(store, "the test", roots=everything(store))
        plan = collect(evidence)
        assert len(plan.steps) > 200
        assert_no_alarm(replay(evidence, plan, OPTIONS))
        assert_no_alarm(replayed(build(evidence, plan), OPTIONS))
