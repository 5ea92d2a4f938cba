"""wasi-nn@1.0: a guest written in C asks a toy model; its answers, what it pays, its errors, replays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hyperpy import Message, commitments
from hyperpy.client import Client
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.testing import TestNode, node, wallet
from tests.compat.serving import served
from tests.devices.parts import Place, place
from tests.devices.wasm_images import wasm

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/wasm-inference/answerer.wasm"
BUILD = EXAMPLE.with_name("build.sh")
CHAT = "/~inference@1.0/v1/chat/completions"
OPTIONS = {"temperature": 0, "max_tokens": 12}
STACK = {
    "device-stack": ["wasi-nn@1.0", "json-iface@1.0", "wasm-64@1.0", "multipass@1.0"],
    "passes": 2,
    "output-prefix": "wasm",
    "stack-keys": ["init", "compute", "snapshot", "normalize"],
}
clang = pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")), reason="Debian: apt-get install clang lld"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the toy in it."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    return folder / "kept"


@pytest.fixture(scope="module")
def flags(models: Path) -> dict[str, Any]:
    return {"inference.models": str(models), "inference.engine": "reference"}


@pytest.fixture(scope="module")
def n(flags: dict[str, Any]) -> Iterator[TestNode]:
    with node(flags=flags) as made:
        yield made


def reference(n: TestNode) -> str:
    return str(json.loads(n.http("GET", "/~inference@1.0/v1/models").body)["data"][0]["reference"])


def answer(n: TestNode, prompt: str, **more: Any) -> dict[str, Any]:
    """Return what inference@1.0 answers over OpenAI's interface."""
    turns = [{"role": "user", "content": prompt}]
    document = {"model": reference(n), "messages": turns, **OPTIONS, **more}
    reply = n.http("POST", CHAT, {"content-type": "application/json"}, json.dumps(document).encode())
    assert reply.status == 200
    found: dict[str, Any] = json.loads(reply.body)
    return found


def text(n: TestNode, prompt: str, **more: Any) -> str:
    return str(answer(n, prompt, **more)["choices"][0]["message"]["content"])


# -- a process ---------------------------------------------------------------------------------------


def image_of(here: Place, image: bytes) -> str:
    ident: str = here.node._lend["store"].write(Message({"data": image}))
    return ident


def replayed(here: Place, process: str) -> str:
    report = json.loads(here.web.get(f"/~audit@1.0/replay?ref={process}")["body"])  # type: ignore[arg-type]
    return str(report["verdict"])


PROMPTS = ("hello", 'say "x" \\ and\ttab\nline \x01', "grüße, 日本 😀", "the hill in")


def test_a_guest_answers_as_inference_does(n: TestNode, flags: dict[str, Any], tmp_path: Path) -> None:
    """Each prompt's answer is that of OpenAI's interface; it is made again, and by a node that goes on from a state."""
    with place(flags=flags, store=tmp_path / "s") as here:
        image = image_of(here, EXAMPLE.read_bytes())
        process = here.spawn("stack@1.0", image=image, model=reference(n), **STACK)
        for prompt in PROMPTS[:3]:
            here.send(process, data=prompt)
        for slot, prompt in enumerate(PROMPTS[:3], 1):
            assert here.value(process, f"compute={slot}/results/data") == text(n, prompt).encode()
            made = json.loads(here.value(process, f"compute={slot}/wasi-nn/contexts/{slot - 1}/output"))
            wanted = answer(n, prompt)
            receipts = [one.pop("receipt") for one in (made, wanted)]
            assert receipts[0]["request-digest"] == receipts[1]["request-digest"]
            for one in (made, wanted):
                one["hyperpy"]["sampling"].pop("seed")  # the request's own ID, which nothing depends on
            assert made == wanted, "the prompt's ids, the state after it, all of the document"
        assert replayed(here, process) == "reproduced"
    with place(flags=flags, store=tmp_path / "s") as again:
        again.send(process, data=PROMPTS[3])
        assert again.value(process, "compute=4/results/data") == text(n, PROMPTS[3]).encode()
        assert replayed(again, process) == "reproduced"


@pytest.mark.timeout(180)
def test_a_served_node_and_replay_from_its_store(n: TestNode, models: Path, tmp_path: Path) -> None:
    """The whole as people have it: ``hyperpy serve``, a client, and ``hyperpy replay`` of what is on the disk."""
    settings = tmp_path / "hyperpy.toml"
    settings.write_text(f'[inference]\nmodels = "{models}"\nengine = "reference"\n')
    with served(tmp_path, "--config", str(settings)) as url, Client(url, wallet("user")) as client:
        address = client.get("/~meta@1.0/info/address")["body"]
        stored = client.send("/~message@1.0/set", {"body": EXAMPLE.read_bytes()})
        assert stored["status"] == 200, stored
        definition = {
            "device": "process@1.0",
            "type": "Process",
            "scheduler-device": "scheduler@1.0",
            "execution-device": "stack@1.0",
            "scheduler": address,
            "authority": address,
            "random-seed": "1",
            "image": commitments.unsigned_id(stored),
            "models": {"small": reference(n)},
            "model": reference(n),
            **STACK,
        }
        process = client.send("/~scheduler@1.0/schedule", definition).text("process")
        sent = client.send(f"/{process}~process@1.0/schedule", {"type": "Message", "target": process, "data": "hello"})
        assert sent["slot"] == 1
        reply = client.get(f"/{process}~process@1.0/compute=1/results/data")
        assert reply["body"] == text(n, "hello").encode()
    command = [sys.executable, "-m", "hyperpy", "replay", process, "--config", str(settings), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "reproduced"


def test_a_lie_about_what_a_guest_was_answered_is_found(
    n: TestNode, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with place(flags=flags) as here:
        instance = here.node.registry.lookup("inference@1.0").instance
        forms = type(instance)._answered.__globals__["Forms"]
        honest, lie = forms.whole, (b'"content":"', b'"content":"x')
        monkeypatch.setattr(forms, "whole", lambda self, made: honest(self, made).replace(*lie))
        process = here.spawn("stack@1.0", image=image_of(here, EXAMPLE.read_bytes()), model=reference(n), **STACK)
        here.send(process, data="hello")
        assert here.value(process, "compute=1/results/data") == b"x" + text(n, "hello").encode().removeprefix(b"x")
        monkeypatch.undo()
        report = json.loads(here.web.get(f"/~audit@1.0/replay?ref={process}")["body"])  # type: ignore[arg-type]
    assert [step["verdict"] for step in report["steps"]] == ["reproduced", "invalid"]
    assert [one["rule"] for one in report["steps"][1]["findings"]] == ["result", "snapshot"]


@pytest.mark.parametrize(
    ("more", "prompt", "told"),
    [
        ({}, "hello", "WASI-NN error 103"),
        ({"model": "toy"}, "hello", "WASI-NN error 103"),
        ({"model": None}, "x" * 5000, "WASI-NN error 102"),
        ({"model": None}, '{"messages": 5}', "WASI-NN error 1'"),
        ({"model": None, "wasm-fuel": 5_000_000}, "hello", "WASM execution error."),
    ],
)
def test_errors_are_results(n: TestNode, flags: dict[str, Any], more: dict[str, Any], prompt: str, told: str) -> None:
    if "model" in more:
        more = more | {"model": more["model"] or reference(n)}
    with place(flags=flags) as here:
        process = here.spawn("stack@1.0", image=image_of(here, EXAMPLE.read_bytes()), **more, **STACK)
        here.send(process, data=prompt)
        state = here.get(process, "compute=1")
        results = state["results"]
        assert told in str(results), results
        assert replayed(here, process) == "reproduced"


def test_a_model_that_is_elsewhere_leaves_the_slot_open(flags: dict[str, Any]) -> None:
    with place(flags=flags) as here:
        process = here.spawn("stack@1.0", image=image_of(here, EXAMPLE.read_bytes()), model="ab" * 32, **STACK)
        here.send(process, data="hello")
        reply = here.get(process, "compute=1")
        assert reply["status"] == 404
        assert "ab" * 32 in str(reply)
        assert here.slots.state(process, 1) is None


@clang
def test_the_example_is_built_from_its_source(n: TestNode, flags: dict[str, Any], tmp_path: Path) -> None:
    """What the source gives today answers alike, with 64- and with 32-bit memory."""
    for target in ("wasm64", "wasm32"):
        made = tmp_path / f"{target}.wasm"
        with_target = {**os.environ, "TARGET": target}
        subprocess.run(["sh", str(BUILD), str(made)], check=True, capture_output=True, env=with_target)
        with place(flags=flags) as here:
            process = here.spawn("stack@1.0", image=image_of(here, made.read_bytes()), model=reference(n), **STACK)
            here.send(process, data=PROMPTS[1])
            assert here.value(process, "compute=1/results/data") == text(n, PROMPTS[1]).encode()


# -- single calls --------------------------------------------------------------------------------------

GUEST = """(module
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name_with_config" (func $config (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $context (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $output (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "run_inference" (func $run (param i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 1024) "%s")
  (global $next (mut i32) (i32.const 65536))
  (func (export "malloc") (param i32) (result i32)
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get 0))))
  (func (export "load") (result i32) (call $load (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
  (func (export "name") (param i32 i32) (result i32 i32)
    (call $name (local.get 0) (local.get 1) (i32.const 16)) (i32.load (i32.const 16)))
  (func (export "config") (param i32 i32 i32 i32) (result i32 i32)
    (call $config (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 16)) (i32.load (i32.const 16)))
  (func (export "context") (param i32) (result i32 i32)
    (call $context (local.get 0) (i32.const 20)) (i32.load (i32.const 20)))
  (func (export "input") (param $context i32) (param $index i32) (param $type i32) (param $at i32) (param $size i32)
    (result i32)
    (i32.store8 (i32.const 40) (local.get $type))
    (i32.store (i32.const 44) (local.get $at)) (i32.store (i32.const 48) (local.get $size))
    (call $input (local.get $context) (local.get $index) (i32.const 32)))
  (func (export "compute") (param i32) (result i32) (call $compute (local.get 0)))
  (func (export "output") (param i32 i32 i32) (result i32 i32)
    (call $output (local.get 0) (local.get 1) (i32.const 131072) (local.get 2) (i32.const 24))
    (i32.load (i32.const 24)))
  (func (export "run") (param i32 i32) (result i32) (call $run (local.get 0) (local.get 1))))"""
"""Each import as an export; 32-bit memory, with texts from address 1024."""

TEXTS = ("toy", "hello", '{"temperature":0,"max_tokens":12}', '{"max_tokens":3}', '{"max_tokens":', "nope")


class Guest:
    """A guest whose state the tests carry from call to call."""

    def __init__(self, n: TestNode, **more: Any) -> None:
        self._n = n
        joined = "\0".join(TEXTS).encode()
        image = wasm(GUEST % "".join(f"\\{byte:02x}" for byte in joined))
        base = Message({"device": "stack@1.0", "device-stack": ["wasi-nn@1.0", "wasm-64@1.0"], "image": image, **more})
        self.state = n.node.resolve(base, "init")

    @staticmethod
    def at(text: str) -> tuple[int, int]:
        """Return address and size of a text."""
        joined = "\0".join(TEXTS)
        return 1024 + f"\0{joined}\0".index(f"\0{text}\0"), len(text)

    def call(self, name: str, *parameters: int) -> Any:
        state = self._n.node.resolve(self.state, {"path": "compute", "function": name, "parameters": list(parameters)})
        assert isinstance(state, Message)
        self.state = state
        results: Any = state["results"]
        if results["type"] == b"error":
            return results["output"]
        return results["output"][0] if len(results["output"]) == 1 else results["output"]

    def memory(self, at: int, size: int) -> bytes:
        found: Any = self._n.node.resolve(self.state | {"device": "wasm-64@1.0"}, "snapshot")
        return bytes(found["body"])[at : at + size]


@pytest.fixture
def guest(n: TestNode) -> Guest:
    return Guest(n)


def ready(guest: Guest) -> int:
    """Return a context whose prompt and options are set."""
    assert guest.call("name", *guest.at("toy")) == (0, 0)
    status, context = guest.call("context", 0)
    assert status == 0
    assert guest.call("input", context, 0, 3, *guest.at("hello")) == 0
    assert guest.call("input", context, 1, 3, *guest.at(TEXTS[2])) == 0
    return int(context)


def test_the_calls_of_wasi_nn_one_by_one(n: TestNode, guest: Guest) -> None:
    """Outside of a process a model's name is what the node calls it; a buffer too small is told its size."""
    context = ready(guest)
    assert guest.call("output", context, 0, 999) == (1, 0), "nothing was computed"
    assert guest.call("compute", context) == 0
    wanted = text(n, "hello").encode()
    assert guest.call("output", context, 0, 1) == (7, len(wanted))
    assert guest.call("output", context, 0, 4096) == (0, len(wanted))
    assert guest.memory(131072, len(wanted)) == wanted
    status, size = guest.call("output", context, 1, 65536)
    assert status == 0
    assert json.loads(guest.memory(131072, size))["choices"] == answer(n, "hello")["choices"]


def test_the_form_of_apus(n: TestNode, guest: Guest) -> None:
    """``load_by_name_with_config`` and ``run_inference``: a text with a NUL, in memory of the guest's own."""
    assert guest.call("config", *guest.at("toy"), *guest.at(TEXTS[2])) == (0, 0)
    assert guest.call("context", 0) == (0, 0)
    at = guest.call("run", *guest.at("hello"))
    wanted = text(n, "hello").encode() + b"\0"
    assert at == 65536
    assert guest.memory(at, len(wanted)) == wanted
    assert guest.call("config", *guest.at("toy"), *guest.at(TEXTS[3])) == (0, 1), "another configuration"
    assert guest.call("context", 1) == (0, 1)
    guest.call("run", *guest.at("hello"))
    short = answer(n, "hello", max_tokens=3)["choices"][0]["token_ids"]
    made = json.loads(guest.state["wasi-nn"]["contexts"]["1"]["output"])  # type: ignore[index,call-overload,arg-type]
    assert len(made["choices"][0]["token_ids"]) == len(short) == 3


def test_a_prompt_in_a_path(n: TestNode) -> None:
    """``run_inference_http``: the text, the same as of the model's own device; it is made again."""
    path = "/~wasi-nn@1.0/run_inference_http?prompt=hello&config=" + quote(json.dumps(OPTIONS))
    reply = n.http("GET", path)
    assert (reply.status, reply.body) == (200, text(n, "hello").encode())
    made = n.get(f"{path}&model={reference(n)}")
    assert json.loads(n.get(f"/~audit@1.0/replay?ref={made.hashpath}")["body"])["verdict"] == "reproduced"  # type: ignore[arg-type]
    assert n.http("POST", path).status == 400
    assert n.http("GET", "/~wasi-nn@1.0/run_inference_http").status == 400
    assert n.http("GET", path + "&model=nope").status == 404


def test_wrong_calls_have_error_numbers(guest: Guest) -> None:
    assert guest.call("load") == 6, "weights come from the node"
    assert guest.call("name", *guest.at("nope"))[0] == 103
    assert guest.call("name", 1024, 257)[0] == 7
    assert guest.call("name", 4 * 65536 - 1, 5)[0] == 3
    assert guest.call("config", *guest.at("toy"), *guest.at(TEXTS[4]))[0] == 2
    assert guest.call("config", *guest.at("toy"), *guest.at("hello"))[0] == 2
    assert guest.call("context", 0)[0] == 1
    assert guest.call("compute", 0) == 1
    assert guest.call("run", *guest.at("hello")) == 0
    context = ready(guest)
    assert guest.call("input", context, 2, 3, *guest.at("hello")) == 1
    assert guest.call("input", context, 0, 1, *guest.at("hello")) == 2, "a tensor of f32"
    assert guest.call("input", context, 0, 3, 0, 65_537) == 7
    assert guest.call("input", context, 0, 3, -8, 100) == 3
    assert guest.call("input", context, 1, 3, *guest.at("hello")) == 2
    assert guest.call("input", -1, 0, 3, *guest.at("hello")) == 1
    assert guest.call("output", context, 2, 100)[0] == 1


def test_graphs_and_contexts_are_bounded(guest: Guest) -> None:
    assert [guest.call("name", *guest.at("toy")) for _ in range(3)] == [(0, 0)] * 3
    assert [guest.call("context", 0) for _ in range(40)] == [(0, number) for number in range(40)]
    held: Any = guest.state["wasi-nn"]["contexts"]  # type: ignore[index,call-overload]
    assert sorted(map(int, held)) == list(range(24, 40)), "the oldest went"
    assert guest.call("input", 23, 0, 3, *guest.at("hello")) == 1
    assert guest.call("input", 24, 0, 3, *guest.at("hello")) == 0


def test_each_token_is_paid_for(n: TestNode) -> None:
    """A call whose steps are too few for its tokens fails, with the state as it was."""
    tokens = answer(n, "hello")["usage"]["total_tokens"]
    poor, rich = (Guest(n, **{"wasm-fuel": fuel}) for fuel in (tokens * 1_000_000, (tokens + 1) * 1_000_000))
    for guest in (poor, rich):
        ready(guest)
    before = poor.state["wasi-nn"]
    reason = f"import wasi_ephemeral_nn.compute: the call needs more than {tokens}000000 steps"
    assert poor.call("compute", 0) == reason.encode()
    assert poor.state["wasi-nn"] == before
    assert rich.call("compute", 0) == 0


@pytest.mark.parametrize(
    "planted",
    [
        {"graphs": {"0": {}}, "contexts": {"0": {"graph": 0, "prompt": "hello"}}},
        {"graphs": {"0": {"model": "toy"}}, "contexts": {"0": {"graph": "x"}}, "made": -7},
        {"contexts": {"0": {"graph": 0, "output": "no JSON"}, "-1": {}, "²": {}, "9" * 30: {}}, "made": 1 << 40},
        {"contexts": {"0": {"output": '{"choices": []}'}}, "graphs": 5},
        "text",
    ],
)
def test_a_planted_state_is_no_way_in(n: TestNode, planted: Any) -> None:
    """Whoever writes a process's definition writes its first state, too."""
    guest = Guest(n, **{"wasi-nn": planted})
    assert guest.call("compute", 0) == 1
    assert guest.call("output", 0, 0, 100)[0] == 1
    assert guest.call("name", *guest.at("toy"))[0] == 0
    assert guest.call("context", 0)[0] == 0
