"""``hyperpy replay URL``: the node's steps are made again, and must be those of the path that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperpy import Message
from hyperpy.cache import Batch
from hyperpy.cli.app import app, register_all
from hyperpy.http.server import Server
from hyperpy.store.memory import MemoryStore
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
    ],
)
def test_honest_answers(here: tuple[Place, Server], path: str) -> None:
    if "ID" in path:
        batch = Batch()
        name = here[0].node.cache.put(Message({"x": 1}), batch)
        batch.commit(here[0].node.store)
        path = path.replace("ID", name)
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
