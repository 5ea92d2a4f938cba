"""audit-peer: honest nodes are reproduced, a planted lie is found, and what HyperBEAM cannot supply is named."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, config
from hyperpy.audit.fault import Peer
from hyperpy.audit.peer import Wanted, audit_peer
from hyperpy.cache import Batch
from hyperpy.client import Client
from hyperpy.commitments import commit
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Report, Verdict
from tests.audit.liars import Served, Tally, corrupt, process, served

VECTORS = Path(
    os.environ.get("HYPERPY_VECTORS")
    or Path(os.environ.get("HYPERPY_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "vectors"
)


@pytest.fixture
def here() -> Iterator[Node]:
    """The auditor's own node, in memory."""
    with Node(
        config.load(environ={}), key=wallet("auditor"), store=MemoryStore(), operator="", devices=(Tally,)
    ) as node:
        yield node


def audited(at: Served, node: Node, *paths: str, processes: tuple[str, ...] = ()) -> Report:
    with Peer(at.url) as peer:
        return audit_peer(peer, node, Wanted(paths, processes, (Tally,)))


def spawned(at: Served, *amounts: int) -> str:
    """Start a process that adds up, and send it numbers; return its ID."""
    with Client(at.url, wallet("owner")) as client:
        made = client.send("/~scheduler@1.0/schedule", process(at)).text("process")
        for amount in amounts:
            client.send(f"/{made}/schedule", {"target": made, "type": "Message", "by": str(amount)})
        assert client.get(f"/{made}/now/total")["body"] == sum(amounts)
        return made


def test_an_honest_node(here: Node) -> None:
    with served("honest") as at:
        report = audited(at, here)
        assert [step.verdict for step in report.steps] == [Verdict.REPRODUCED] * 5
        assert report.findings == []
        assert report.attested_by == (at.address,)
        own = audited(at, here, "/~tally@1.0&n=21/double", "/~tally@1.0&n=4/pair", "/~tally@1.0&n=1/missing")
        assert [step.verdict for step in own.steps] == [Verdict.REPRODUCED] * 3
        assert audited(at, here, "/~tally@1.0/clock").verdict is Verdict.ATTESTED
        made = spawned(at, 1, 2, 3, 4, 5, 6, 7)
        report = audited(at, here, processes=(made,))
        assert (report.verdict, report.exit_code()) == (Verdict.REPRODUCED, 0)
        assert "after slot 7, 1 compared" in report.steps[1].device


def test_a_planted_lie_is_found(here: Node) -> None:
    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "double", lambda honest, given: honest + 1)
        report = audited(at, here, "/~tally@1.0&n=21/double", "/~tally@1.0&n=4/pair")
        assert [step.verdict for step in report.steps] == [Verdict.DIVERGED, Verdict.REPRODUCED]
        assert report.steps[0].findings[0].rule == "result"
        assert report.exit_code() == 1


def test_the_slot_that_lies_is_found(here: Node) -> None:
    def lie(honest: Message, given: Any) -> Message:
        return honest | {"total": 1000} if honest["total"] == 15 else honest

    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "compute", lie)
        with Client(at.url, wallet("owner")) as client:
            made = client.send("/~scheduler@1.0/schedule", process(at)).text("process")
            for amount in range(1, 9):
                client.send(f"/{made}/schedule", {"target": made, "type": "Message", "by": str(amount)})
            assert client.get(f"/{made}/now/total")["body"] == 1000 + 6 + 7 + 8
        report = audited(at, here, processes=(made,))
        assert [step.verdict for step in report.steps] == [Verdict.REPRODUCED, Verdict.DIVERGED]
        assert report.steps[1].slot == (made, 5)
        assert report.steps[1].findings[0].rule == "result"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/ID", Verdict.REPRODUCED),
        ("/SIGNED", Verdict.REPRODUCED),
        ("/ID/pair", Verdict.REPRODUCED),
        ("/SIGNED/pair/first", Verdict.REPRODUCED),
        ("/ID~message@1.0/set&y=3", Verdict.REPRODUCED),
        ("/~message@1.0&m=(/SIGNED)/m/committers", Verdict.REPRODUCED),
        ("/~tally@1.0&at=ID/looked-up", Verdict.MISSING),
        ("/PROCESS/now/total", Verdict.REPRODUCED),
        ("/PROCESS/compute=2", Verdict.REPRODUCED),
        ("/PROCESS/schedule", Verdict.ATTESTED),
        ("/PROCESS/now/~message@1.0&z=1/set&y=2", Verdict.REPRODUCED),
        ("/~tally@1.0/careful", Verdict.REPRODUCED),
        ("/~tally@1.0/in-slot", Verdict.REPRODUCED),
        ("/~tally@1.0/broken", Verdict.REPRODUCED),
        ("/~tally@1.0&n=3/listed/3", Verdict.REPRODUCED),
        ("/~tally@1.0&n=3/pair?cache-control=only-if-cached", Verdict.ATTESTED),
        ("/~tally@1.0&n=3/pair?attest=true", Verdict.REPRODUCED),
        ("/~message@1.0&a=1/set&b=2/~message@1.0&c=5", Verdict.REPRODUCED),
        ("/set?x+resolve=/~tally@1.0%26n=4/double", Verdict.REPRODUCED),
    ],
)
@pytest.mark.parametrize("port", [False, True])
def test_honest_answers_raise_no_alarm(here: Node, path: str, wanted: Verdict, port: bool) -> None:
    """Neither what only that node has, nor how it reads requests, is a lie."""
    with served("honest", flags={"http.host-with-port": port}) as at:
        batch = Batch()
        item = Message({"device": "tally@1.0", "n": 4, "word": "known"})
        names = {"ID": at.node.cache.put(item, batch)}
        names["SIGNED"] = at.node.cache.reference(commit(item | {"n": 5}, wallet("author")), batch)
        batch.commit(at.node.store)
        if "PROCESS" in path:
            names["PROCESS"] = spawned(at, 1, 2)
        for name, ident in names.items():
            path = path.replace(name, ident)
        report = audited(at, here, path)
        assert (report.verdict, report.steps[0].findings[1:]) == (wanted, ()), report.as_json()


@pytest.mark.parametrize("path", ["/ID/double", "/~message@1.0&m=(/ID)/m/double", "/PROCESS/now/total"])
def test_a_lie_about_what_only_that_node_has(here: Node, path: str) -> None:
    """This machine has not the message that the path names; the node's own receipt convicts it."""
    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "double", lambda honest, given: honest + 1)
        corrupt(at.node, "tally@1.0", "compute", lambda honest, given: honest | {"total": 1000})
        batch = Batch()
        name = at.node.cache.put(Message({"device": "tally@1.0", "n": 4}), batch)
        batch.commit(at.node.store)
        with Client(at.url, wallet("owner")) as client:
            made = client.send("/~scheduler@1.0/schedule", process(at)).text("process")
        report = audited(at, here, path.replace("ID", name).replace("PROCESS", made))
        assert (report.verdict, report.exit_code()) == (Verdict.DIVERGED, 1)


def test_another_answer_than_its_steps_gave(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trail is true; the answer is not what it says, and this machine cannot know it alone."""
    with served("liar") as at:
        batch = Batch()
        name = at.node.cache.put(Message({"device": "tally@1.0", "n": 4}), batch)
        batch.commit(at.node.store)
        honest = at.node._resolved

        def lying(members: Any, chain: Any) -> Message:
            made = honest(members, chain)
            return made | {"body": 9} if made.get("body") == 8 else made

        monkeypatch.setattr(at.node, "_resolved", lying)
        report = audited(at, here, f"/{name}/double")
        assert report.verdict is Verdict.DIVERGED
        assert "result" in {one.rule for one in report.steps[0].findings}


def test_other_code_is_no_lie(here: Node, tmp_path: Path) -> None:
    file = tmp_path / "tally.py"
    file.write_text(
        "from hyperpy import device, key\n\n\n@device('tally@1.0')\nclass Tally:\n"
        "    @key\n    def double(self, n: int) -> int:\n        return 3 * n\n",
        "utf-8",
    )
    with served("other", file) as at:
        report = audited(at, here, "/~tally@1.0&n=21/double")
        assert report.verdict is Verdict.DIFFERS
        assert [one.rule for one in report.steps[0].findings] == ["result", "implementation"]
        assert audited(at, here, "/~unheard@1.0/of").verdict is Verdict.MISSING, "a device nobody has"


@pytest.mark.parametrize("way", ["missing", "swapped", "resigned"])
def test_a_lying_schedule(here: Node, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy import commitments
    from hyperpy.audit import peer as module

    def lying(given: dict[int, Message]) -> dict[int, Message]:
        if way == "missing":
            return {slot: one for slot, one in given.items() if slot != 2}
        if way == "swapped":
            return given | {1: given[2], 2: given[1]}
        bare = given[2].with_commitments({})
        return given | {2: commitments.commit(bare, wallet("stranger"))}

    with served("honest") as at:
        made = spawned(at, 1, 2, 3)
        honest = module._page
        monkeypatch.setattr(module, "_page", lambda *given: lying(honest(*given)))
        report = audited(at, here, processes=(made,))
    rules = {"missing": "schedule", "swapped": "schedule-slot", "resigned": "schedule-signature"}
    assert report.steps[0].findings[0].rule == rules[way]
    assert report.exit_code() == 1


# -- recorded HyperBEAM replies -------------------------------------------------------------------


class Recorded(BaseHTTPRequestHandler):
    """Answers GETs as the reference node did when it was recorded."""

    replies: dict[str, tuple[int, list[list[str]], bytes]] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, headers, body = self.replies.get(self.path, (404, [], b"not recorded"))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def recorded() -> dict[str, tuple[int, list[list[str]], bytes]]:
    """Return the signed replies to GETs of one value: their answers do not show which headers were sent then."""
    found = {}
    for case in json.loads((VECTORS / "http.json").read_text("utf-8"))["cases"]:
        asked, answer = case["request"], case["response"]
        signed = any(name == "signature-input" for name, _ in answer.get("headers", ()))
        one_value = asked["method"] == "GET" and re.search(r"/(alpha|beta|c|3)$", asked["path"].partition("?")[0])
        if one_value and signed and "malformed" not in answer and len(asked["headers"]) == 2:
            status = int(answer["status_line"].split()[1])
            found[asked["path"]] = (status, answer["headers"], answer.get("body", "").encode("latin-1", "replace"))
    return found


def test_what_recorded_hyperbeam_replies_cannot_supply(here: Node) -> None:
    if not (VECTORS / "http.json").is_file():
        pytest.skip(f"no vectors in {VECTORS}: set HYPERPY_SHARED")
    Recorded.replies = recorded()
    assert len(Recorded.replies) > 5
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with Peer(f"http://127.0.0.1:{server.server_port}") as peer:
            report = audit_peer(peer, here, Wanted(tuple(Recorded.replies)))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    named = [one.text for one in report.findings if one.rule == "not-supplied"]
    for word in ("trail", "receipts", "raw request", "cannot be made again", "which code"):
        assert any(word in text for text in named), word
    told = {step.device: step for step in report.steps}
    assert not [path for path, step in told.items() if step.verdict is Verdict.DIVERGED], "no false alarm"
    compared = [step for step in told.values() if step.verdict in (Verdict.REPRODUCED, Verdict.ATTESTED)]
    assert len(compared) > 3
    assert all(len(step.attested_by) == 1 for step in compared)
