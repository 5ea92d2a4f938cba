"""``hyperpy replay URL``: the node's steps are made again, and must be those of the path that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperpy import Message, normalise
from hyperpy.cache import Batch
from hyperpy.cli.app import app, register_all
from hyperpy.codecs import canonical
from hyperpy.commitments import commit
from hyperpy.http.server import Server
from hyperpy.message import Resolve
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from tests.audit.samples import Sample
from tests.between import between
from tests.cli.test_receipt import DEVICE
from tests.devices.parts import Place, place

WANTED = "/~sample@1.0&a=1/add&b=2/add&b=3"


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[Place, Server]]:
    with place(Sample, store=MemoryStore(), flags={"http.sign": True}) as made:
        server = Server(made.node, "127.0.0.1", 0)
        server.start()
        try:
            yield made, server
        finally:
            server.stop()


@pytest.fixture
def liar(here: tuple[Place, Server]) -> Iterator[tuple[str, dict[str, str]]]:
    """A node that answers some paths with what another path gives; its signatures and its trail are genuine."""
    instead: dict[str, str] = {}

    with between(here[1].port, lambda asked: instead.get(asked, asked)) as url:
        yield url, instead


def replayed(url: str) -> tuple[int, dict[str, Any]]:
    register_all()
    done = CliRunner().invoke(app, ["replay", url, "--json", "--device", str(DEVICE)])
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def rules(found: dict[str, Any]) -> set[str]:
    return {one["rule"] for one in found["findings"]} | {
        one["rule"] for step in found["steps"] for one in step["findings"]
    }


@pytest.mark.parametrize(
    "path",
    [
        WANTED,
        "/~calculator@1.0&a=20/add&b=22",
        "/~message@1.0&a=1/set&x=2/~calculator@1.0&b=5/add",
        "/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)/set&y=3",
        "/~message@1.0&a=1/set&x+integer=2?zz=4",
        "/ID/set&y=3/set&z=4",
        "/ID~message@1.0/set&y=3",
        "/SIGNED/set&y=3/y",
        "/SIGNED~message@1.0/set&y=3",
        "/~message@1.0&a=1/set&b=2/~message@1.0&a=5&x=(~calculator@1.0&a=1/add&b=2)/set&c=3",
        "/~message@1.0&a=1/set&b=2/~message@1.0&c=5",
        "/~message@1.0&a=1/total~sample@1.0",
        "/(~message@1.0&a=1)/set&c=3",
        "/(~message@1.0&a=1/set&b=2)/set&c=3/set&c=4",
        "/(~sample@1.0&a=4/nest)/list/set&c=4",
        "/(~sample@1.0&a=4/told)/set&c=4/set&x=(~sample@1.0/dice)",
        "/~message@1.0&a=1/set&b=2/(~message@1.0&k=b/k)",
        "/~message@1.0/set&x=(~sample@1.0/dice)/set&x=(~sample@1.0/dice)/~message@1.0&y=(~sample@1.0/dice)/set&z=1",
        "/set?x+resolve=/~message@1.0%26a=4/a",
        "/~message@1.0&a=1/set/set?1.b=2&2.c=3&2.x%2Bresolve=~message@1.0%26a=4/a",
        "/~message@1.0&a=1/set&b=2?attest=true",
        "/~json@1.0/deserialize/a",
    ],
)
def test_honest_answers(here: tuple[Place, Server], path: str) -> None:
    if "ID" in path:
        batch = Batch()
        name = here[0].node.cache.put(Message({"x": 1}), batch)
        batch.commit(here[0].node.store)
        path = path.replace("ID", name)
    if "SIGNED" in path:
        batch = Batch()
        made = commit(Message({"device": "sample@1.0", "a": 5, "in": {"b": [1, 2]}}), wallet("author"))
        name = here[0].node.cache.reference(made, batch)
        batch.commit(here[0].node.store)
        path = path.replace("SIGNED", name)
    code, found = replayed(here[1].url + path)
    assert (code, found["verdict"], rules(found)) == (0, "reproduced", set())


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ("/~sample@1.0&a=1/add&b=2/add&b=4", "diverged"),
        ("/~sample@1.0&a=1/add&b=7/add&b=3", "diverged"),
        ("/~sample@1.0&a=9/add&b=2/add&b=3", "diverged"),
        ("/~sample@1.0&a=1&c=1/add&b=2/add&b=3", "diverged"),
        ("/~sample@1.0&a=1/add&b=2/total&b=3", "diverged"),
        ("/~sample@1.0&a=1/add&b=2", "missing"),
        ("/~sample@1.0&a=1/add&b=2/add&b=3/add&b=0", "missing"),
    ],
)
def test_true_steps_that_answer_another_question(liar: tuple[str, dict[str, str]], other: str, verdict: str) -> None:
    url, instead = liar
    assert replayed(url + WANTED)[0] == 0
    instead[WANTED] = other
    code, found = replayed(url + WANTED)
    assert (found["verdict"], code) == (verdict, 1 if verdict == "diverged" else 2)
    assert "asked" in rules(found)


def test_the_base_that_the_path_names(here: tuple[Place, Server], liar: tuple[str, dict[str, str]]) -> None:
    batch = Batch()
    cache = here[0].node.cache
    one, two = (cache.put(Message({"x": n}), batch) for n in (1, 2))
    batch.commit(here[0].node.store)
    url, instead = liar
    instead[f"/{one}/set&y=3"] = f"/{two}/set&y=3"
    code, found = replayed(f"{url}/{one}/set&y=3")
    assert (code, found["verdict"]) == (1, "diverged")
    assert [(f["rule"], f["expected"], f["got"]) for f in found["findings"]] == [("asked", one, two)]


SUB_PATH = "/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)/set&y=3"


@pytest.fixture
def false_sub_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the node put another value in the place of a sub-path; the audit runs in the same process, so only there."""
    honest = normalise.without_control

    def lying(resolver: Any, message: Message, frame: Any) -> Message:
        made = honest(resolver, message, frame)
        told = isinstance(message.raw("x"), Resolve) and frame.chain.batch is not None
        return made | {"x": 10} if told else made

    monkeypatch.setattr(normalise, "without_control", lying)


@pytest.mark.parametrize("kept", ["as it came", "none", "no request", "another path"])
def test_what_a_node_keeps_as_the_request_hides_nothing(
    here: tuple[Place, Server], false_sub_path: None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = here[0].node.trail
    honest = trail.put_origin

    def lying(data: bytes, batch: Batch) -> bytes:
        if kept == "none":
            return b""
        if kept == "no request":
            return honest(canonical.encode(Message({"a": b"b"})), batch)
        found = canonical.decode(data)
        assert isinstance(found, Message)
        if kept == "another path" and b"x=(" in bytes(found["target"]):  # type: ignore[arg-type]
            return honest(canonical.encode(found | {"target": b"/~message@1.0&a=1/set&y=3"}), batch)
        return honest(data, batch)

    monkeypatch.setattr(trail, "put_origin", lying)
    code, found = replayed(here[1].url + SUB_PATH)
    assert (code, "sub-path" in rules(found)) == (1, True), found


def test_a_kept_request_that_is_none_is_said(here: tuple[Place, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    trail = here[0].node.trail
    honest = trail.put_origin
    junk = canonical.encode(Message({"a": b"~b~"}))
    monkeypatch.setattr(trail, "put_origin", lambda data, batch: honest(junk, batch))
    code, found = replayed(here[1].url + SUB_PATH)
    assert (code, found["verdict"]) == (1, "invalid")
    assert "origin" in rules(found)


def test_an_answer_that_its_steps_did_not_give(here: tuple[Place, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trail is true, every step of it; what was answered is not what it says."""
    node = here[0].node
    honest = node._resolved

    def lying(members: Any, chain: Any) -> Message:
        made = honest(members, chain)
        return made | {"sum": 1000} if "sum" in made else made

    monkeypatch.setattr(node, "_resolved", lying)
    code, found = replayed(here[1].url + WANTED)
    assert (code, found["verdict"]) == (1, "diverged")
    assert rules(found) == {"result"}


def test_a_node_that_keeps_the_port_of_its_host() -> None:
    flags = {"http.sign": True, "http.host-with-port": True}
    with place(Sample, store=MemoryStore(), flags=flags) as made:
        server = Server(made.node, "127.0.0.1", 0)
        server.start()
        try:
            for path in (WANTED, "/~message@1.0&a=1/set&b=2/~message@1.0&a=5/set&c=3"):
                code, found = replayed(server.url + path)
                assert (code, rules(found)) == (0, set())
        finally:
            server.stop()
