"""``hyperpy infer``: an answer, its speed, its receipt's ID; and receipts of answers, made again offline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpy.cli.infer import _Clock
from hyperpy.inference import reference, toy
from hyperpy.inference.engines import toy_model
from hyperpy.inference.generation import generate
from hyperpy.inference.library import Library
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tokenizer import Tokenizer, fields_of
from hyperpy.testing import node
from tests.devices.parts import place

pytestmark = pytest.mark.timeout(180)
CHAT = "/~inference@1.0/v1/chat/completions"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the toy in it."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    return folder / "kept"


def run(models: Path, folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyperpy", *words]
    environment = {**os.environ, "HYPERPY_MODELS": str(models)}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def wanted(prompt: str, limit: int) -> tuple[list[int], str]:
    """Return what the reference engine makes of a prompt, and the text of it."""
    tokenizer = Tokenizer(fields_of(toy.metadata()))
    ids = tokenizer.chat([{"role": "user", "content": prompt}])
    made = [one.ident for one in generate(reference.Engine(toy_model()), ids, Sampling(), limit, tokenizer.stops)]
    return made, tokenizer.decode(one for one in made if one not in tokenizer.stops)


def test_an_answer_its_speed_and_its_receipt(models: Path, tmp_path: Path) -> None:
    """What is printed is the model's answer; the receipt's ID is that of a node's message; the file proves it."""
    words = ("infer", "hello", "--model", "toy", "--max-tokens", "9")
    done = run(models, tmp_path, *words, "--receipt", "a.receipt")
    ids, text = wanted("hello", 9)
    assert done.stdout == text + "\n"
    assert re.search(rf" \+ {len(ids)} tokens, first after [0-9.]+ s, too few to tell a speed", done.stderr)
    ident = re.search(r"receipt ([A-Za-z0-9_-]{43})", done.stderr)
    assert ident is not None
    with node(flags={"inference.models": str(models), "inference.engine": "reference"}) as n:
        named = json.loads(n.http("GET", "/~inference@1.0/v1/models").body)["data"][0]["reference"]
        turns = [{"role": "user", "content": "hello"}]
        sampling = {"temperature": "0", "top_p": "1", "top_k": 0, "seed": ""}
        document = {"model": named, "messages": turns, "max_tokens": 9, **sampling}
        reply = n.post(CHAT, json.dumps(document).encode(), {"content-type": "application/json"})
        record = n.node.trail.by_hashpath(reply.hashpath or "")
        assert record is not None
        assert record.result == ident[1]
    again_options = ("--replay", "--seconds", "60", "--strict", "--json")
    report = json.loads(run(models, tmp_path, "verify", "a.receipt", *again_options).stdout)
    assert report["verdict"] == "reproduced"
    again = json.loads(run(models, tmp_path, *words, "--json").stdout)
    assert (again["ids"], again["text"], again["receipt-id"]) == (ids, text, ident[1])


def test_errors_are_the_devices(models: Path, tmp_path: Path) -> None:
    assert "Known: toy" in run(models, tmp_path, "infer", "x", "--model", "nope", code=1).stderr
    cold = run(models, tmp_path, "infer", "x", "--model", "toy", "--temperature", "0.001", code=1)
    assert "below 0.01" in cold.stderr
    long = run(models, tmp_path, "infer", "x" * 5000, "--model", "toy", code=1)
    assert "pass the context of 2048" in long.stderr
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_nodes_receipt_is_made_again_offline(models: Path, tmp_path: Path) -> None:
    """``hyperpy receipt`` from a node's store, ``hyperpy verify --replay`` elsewhere; without the model, 2."""
    flags: dict[str, Any] = {"inference.models": str(models), "inference.engine": "reference"}
    with place(store=tmp_path / "s", flags=flags) as here:
        document = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "seed": 3}
        reply = here.web.post(CHAT, json.dumps(document).encode(), {"content-type": "application/json"})
        assert reply["status"] == 200
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(models, tmp_path, "receipt", reply.hashpath or "", "--store", "s", "--no-sign", "-o", "elsewhere/r.receipt")
    report = json.loads(run(models, elsewhere, "verify", "r.receipt", "--replay", "--json").stdout)
    assert (report["verdict"], report["given"]) == ("reproduced", 1), "what a name meant is the node's word"
    bare = json.loads(run(elsewhere, elsewhere, "verify", "r.receipt", "--replay", "--json", code=2).stdout)
    assert bare["verdict"] == "missing"
    assert any("is not at hand" in one["text"] for step in bare["steps"] for one in step["findings"])


@pytest.mark.parametrize(("tokens", "rate"), [(1, None), (2, None), (15, None), (16, 7.5), (31, 15.0)])
def test_a_speed_is_told_of_answers_long_enough(tokens: int, rate: float | None) -> None:
    clock = _Clock(quiet=True)
    clock._first, clock._last = 1.0, 3.0
    assert clock.rate(tokens) == rate
