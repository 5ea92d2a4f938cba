"""Audits in worker processes, over HTTP and on the command line say what one in this process says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperpy import Message, config
from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source, replay_in_processes, shares
from hyperpy.audit.replay import Options, Unit, replay
from hyperpy.cli.app import app, register_all
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, node, wallet
from hyperpy.trail import Trail
from tests.audit.lies import everything, forge, keep

TALLY = """
from hyperpy import Message, device, key


@device("tally@1.0")
class Tally:
    @key
    def add(self, base: Message, n: int = 1) -> Message:
        return base | {"sum": base.get("sum", 0) + n}
"""
CHAIN = "/~tally@1.0/add&n=1/add&n=2/add&n=3"
OTHER = "/~tally@1.0&x=1/add&n=7/add&n=8"


class Served:
    """A node's store on the disk, when the node has stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.file = folder / "tally.py"
        self.file.write_text(TALLY)
        with self.opened() as made:
            self.hashpaths = [TestNode(made).get(path).hashpath or "" for path in (CHAIN, OTHER)]

    def opened(self) -> Node:
        settings = config.load(environ={}, flags={"http.sign": False})
        store = LmdbStore(self.folder)
        return Node(settings, key=wallet(), store=store, operator=wallet("operator").address, devices=[self.file])

    @property
    def options(self) -> Options:
        return Options(devices=(str(self.file),))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def lie(served: Served) -> str:
    """Have the last step of the first chain lie; return its hashpath."""
    store = LmdbStore(served.folder)
    try:
        record = Trail(store).by_hashpath(served.hashpaths[0])
        assert record is not None
        forge(store, record, result=keep(store, Message({"sum": 0})))
    finally:
        store.close()
    return served.hashpaths[0]


def test_worker_processes_say_the_same(served: Served) -> None:
    lie(served)
    source = Source(folder=str(served.folder))
    with source.open() as evidence:
        found = everything(evidence.store)
        evidence = type(evidence).of_store(evidence.store, evidence.where, roots=found)
        plan = collect(evidence)
        alone = replay(evidence, plan, served.options)
        seen: list[tuple[int, int]] = []
        both = replay_in_processes(source, evidence, plan, served.options, jobs=2, progress=lambda *at: seen.append(at))
    assert both.as_json() == alone.as_json()
    assert alone.exit_code() == 1
    assert seen[-1] == (len(alone.steps), len(alone.steps))


def test_branches_are_shared_evenly() -> None:
    branches: list[Any] = [Unit([None] * size) for size in (5, 1, 1, 1, 1, 1)]  # type: ignore[list-item]
    found = shares(branches, 2)
    assert sorted(at for share in found for at in share) == list(range(6))
    assert [sum(len(branches[at]) for at in share) for share in found] == [5, 5]


def run(*words: str) -> tuple[int, str]:
    register_all()
    result = CliRunner().invoke(app, ["replay", *words], env={**os.environ, "COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_command(served: Served, tmp_path: Path) -> None:
    words = ("--store", str(served.folder), "--device", str(served.file))
    code, text = run(served.hashpaths[0], *words)
    assert (code, text.splitlines()[0]) == (0, "reproduced")
    page = tmp_path / "report.html"
    code, text = run(served.hashpaths[1], *words, "--json", "--html", str(page))
    assert json.loads(text)["verdict"] == "reproduced"
    assert "reproduced" in page.read_text("utf-8")
    code, text = run(served.hashpaths[0], "--store", str(served.folder))
    assert (code, "implementation differs" in text) == (2, True)
    code, text = run("A" * 43, *words)
    assert (code, text.startswith("missing")) == (2, True)
    code, text = run(lie(served), *words, "--json")
    report = json.loads(text)
    assert (code, report["verdict"]) == (1, "diverged")
    assert [one["rule"] for one in report["steps"][-1]["findings"]] == ["result"]


def test_the_command_reads_beside_a_node_that_serves(served: Served) -> None:
    with served.opened() as other:
        hashpath = TestNode(other).get("/~tally@1.0&y=1/add&n=4").hashpath or ""
        words = ["--store", str(served.folder), "--device", str(served.file), "--json"]
        command = [sys.executable, "-m", "hyperpy", "replay", hashpath, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "reproduced"), done.stderr


def test_a_receipt_file_and_a_bad_file(served: Served, tmp_path: Path) -> None:
    from hyperpy.audit.receipts import build

    with Source(folder=str(served.folder)).open() as evidence:
        data = build(evidence, collect(evidence, served.hashpaths[0]))
    file = tmp_path / "r.receipt"
    file.write_bytes(data)
    assert run(str(file), "--device", str(served.file))[0] == 0
    file.write_bytes(data[:-1])
    code, text = run(str(file))
    assert (code, text.startswith("bad file")) == (3, True)


def test_against_another_node(served: Served) -> None:
    from hyperpy.http.server import Server

    with node(served.file) as other:
        server = Server(other.node, "127.0.0.1", 0)
        server.start()
        try:
            assert other.get(CHAIN).hashpath == served.hashpaths[0]
            words = ("--store", str(served.folder), "--device", str(served.file), "--against", server.url)
            assert run(served.hashpaths[0], *words)[0] == 0
            record = Trail(other.node.store).by_hashpath(served.hashpaths[0])
            assert record is not None
            forge(other.node.store, record, result=keep(other.node.store, Message({"sum": 0})))
            code, text = run(served.hashpaths[0], *words, "--json")
            found = json.loads(text)["findings"]
            assert (code, [one["rule"] for one in found]) == (1, ["peer"])
        finally:
            server.stop()


def test_a_url_is_replayed_from_the_node_s_own_receipt(served: Served) -> None:
    from hyperpy.http.server import Server

    with node(served.file) as other:
        server = Server(other.node, "127.0.0.1", 0)
        server.start()
        try:
            code, text = run(f"{server.url}{CHAIN}", "--device", str(served.file), "--json")
            report = json.loads(text)
            assert (code, report["verdict"], len(report["steps"])) == (0, "reproduced", 3)
            assert report["attested-by"] == [other.node.address]
            ref = report["steps"][-1]["hashpath-after"]
            code, text = run(ref, "--url", server.url, "--device", str(served.file), "--json")
            assert (code, json.loads(text)["verdict"]) == (0, "reproduced")
        finally:
            server.stop()


def test_over_http() -> None:
    with node() as made:
        hashpath = made.get("/~message@1.0&a=1/set&b=2/set&c=3").hashpath
        reply = made.get(f"/~audit@1.0/replay?ref={hashpath}")
        body = reply["body"]
        assert isinstance(body, bytes)
        report = json.loads(body)
        assert (reply["verdict"], reply["exit-code"], report["checked"]) == (b"reproduced", 0, 2)
        steps = made.get(f"/~audit@1.0/trail?ref={hashpath}")["steps"]
        assert isinstance(steps, tuple)
        assert [one["key"] for one in steps] == [b"set", b"set"]
        assert made.get(f"/~audit@1.0/replay&ref={'A' * 43}")["status"] == 404
        assert made.get("/~audit@1.0/replay&ref=x")["status"] == 400
        assert made.get(f"/~audit@1.0/replay&ref={'A' * 43}&slots=x")["status"] == 400


def test_a_closed_trail_is_not_shown_to_strangers() -> None:
    with node(flags={"trail.public": False}) as made:
        record = made.node.resolve("/~message@1.0&a=1/set&b=2")
        hashpath = record.hashpath
        for name in ("replay", "trail"):
            assert made.get(f"/~audit@1.0/{name}?ref={hashpath}")["status"] == 403


def test_an_audit_that_takes_long_goes_on_where_it_stopped() -> None:
    import time

    with node() as made:
        hashpath = made.get("/~message@1.0&a=1" + "".join(f"/set&k{n}={n}" for n in range(30))).hashpath
        path = f"/~audit@1.0/replay?ref={hashpath}"
        ingress = made._ingress("GET", path, None, b"")
        late = made.node.handle(ingress, deadline=time.monotonic() + 1.0)
        assert late["status"] == 504
        for _ in range(40):
            reply = made.node.handle(ingress, deadline=time.monotonic() + 1.0)
            if reply["status"] == 200:
                break
        assert reply["verdict"] == b"reproduced"
