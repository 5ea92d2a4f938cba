"""json-iface@1.0: what a guest gets to read, and what becomes of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import commit, signed_id, unsigned_id
from hyperpy.errors import DeviceError, ParameterError
from hyperpy.keys import RsaKey
from tests.devices.wasm_images import answering, wasm

STACK = ["wasi@1.0", "json-iface@1.0", "wasm-64@1.0", "multipass@1.0"]
PROCESS_KEYS = {"data-protocol": "ao", "type": "Process", "name": "mine"}


def stack(image: bytes, **more: Any) -> Message:
    return Message(
        {
            "device": "stack@1.0",
            "device-stack": STACK,
            "passes": 2,
            "input-prefix": "process",
            "output-prefix": "wasm",
            "stack-keys": ["init", "compute", "snapshot", "normalize"],
            "process": {**PROCESS_KEYS, "image": image},
            **more,
        }
    )


def answer(**response: Any) -> str:
    return json.dumps({"ok": True, "response": response})


def computed(bench: Any, text: str, **more: Any) -> Message:
    state = bench.get(stack(answering(text), **more), "init")
    made: Message = bench.get(state, {"path": "compute", "body": {"action": "Eval", "data": "1+1"}})
    return made


def given(bench: Any, request: Message, process: Message | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two texts that a guest would be given; without a guest they are the parameters."""
    base = Message({"device": "json-iface@1.0", **({} if process is None else {"process": process})})
    made = bench.get(base, request | {"path": "compute"})
    assert made["function"] == b"handle"
    message, environment = made["parameters"]
    return parsed(message), parsed(environment)["Process"]


def parsed(text: bytes) -> Any:
    return json.loads(text.decode("utf-8", "surrogateescape"))


# -- what goes in --------------------------------------------------------------------------------


def test_a_message_as_aos_reads_it(bench: Any, alice: RsaKey) -> None:
    message = commit(
        Message({"action": "Eval", "data": "1+1", "anchor": "x", "from-process": "P", "x-count": 3, "target": "T"}),
        alice,
    )
    module = "m" * 43
    process = commit(Message({**PROCESS_KEYS, "image": module}), alice)
    struct, environment = given(bench, Message({"body": message, "block-height": 7, "timestamp": 1000}), process)
    tags = {tag["name"]: tag["value"] for tag in struct.pop("Tags")}
    assert (tags["Action"], tags["From-Process"], tags["X-Count"]) == ("Eval", "P", "3")
    assert not {"Data", "Anchor", "Target", "Owner", "Id", "Signature", "Commitments"} & set(tags)
    assert (struct["Id"], struct["Owner"], struct["From"]) == (signed_id(message), alice.address, "P")
    assert (struct["Data"], struct["Anchor"], struct["Target"]) == ("1+1", "x", "T")
    assert (struct["Module"], struct["Block-Height"], struct["Timestamp"]) == (module, 7, 1000)
    assert struct["Signature"]
    assert (environment["Id"], environment["Owner"]) == (signed_id(process), alice.address)
    assert {"name": "Name", "value": "mine"} in environment["Tags"]


def test_an_unsigned_message_and_a_dry_run(bench: Any, alice: RsaKey) -> None:
    message = Message({"action": "Info", "data": b"\xff\x00bytes"})
    struct, environment = given(bench, Message({"body": message}), Message(PROCESS_KEYS))
    assert (struct["Id"], struct["Owner"], struct["From"], struct["Signature"]) == (unsigned_id(message), "", "", "")
    assert environment["Id"] == unsigned_id(Message(PROCESS_KEYS))
    dry, _ = given(bench, Message({"action": "Info", "data": "x"}))
    assert dry["Tags"] == [{"name": "Action", "value": "Info"}]
    own, _ = given(bench, commit(Message({"action": "Info", "data": "x", "method": "POST"}), alice))
    assert (own["Owner"], own["From"]) == (alice.address, alice.address)
    assert "Method" not in [tag["name"] for tag in own["Tags"]]
    assert struct["Data"].encode("utf-8", "surrogateescape") == b"\xff\x00bytes"


def test_original_tags_are_kept_as_they_were(bench: Any) -> None:
    tags = {"1": {"name": "ACTION", "value": "Eval"}, "2": {"name": "x-A", "value": "b"}}
    one = {"commitment-device": "ans104@1.0", "committer": "c" * 43, "original-tags": tags, "committed": ["action"]}
    struct, _ = given(bench, Message({"body": Message({"action": "Eval"}, commitments={"i" * 43: one})}))
    assert struct["Tags"] == [{"name": "ACTION", "value": "Eval"}, {"name": "x-A", "value": "b"}]


# -- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["i32", "i64"])
def test_a_whole_turn(bench: Any, index: str) -> None:
    image = answering(answer(Output={"data": "2"}, Messages=[], Spawns=[], Assignments=[]), index)
    state = bench.get(stack(image), "init")
    assert state["function"] == b"handle"
    made = bench.get(state, {"path": "compute", "body": {"action": "Eval", "data": "return 1+1"}})
    assert made["results"]["data"] == b"2"
    assert made["results"]["wasm"] == {"type": "ok", "output": [1024]}
    assert "outbox" not in made["results"]
    written = made["parameters"]
    assert written[0] == 65536
    memory = bench.get(made | {"device": "wasm-64@1.0"}, "snapshot")["body"]
    message = memory[65536 : memory.index(b"\0", 65536)]
    assert parsed(message)["Data"] == "return 1+1"
    assert parsed(memory[written[1] :].split(b"\0")[0])["Process"]["Tags"]


@pytest.mark.parametrize(
    ("response", "data"),
    [
        ({"Output": {"data": "a"}, "Data": "b"}, b"a"),
        ({"Data": "b"}, b"b"),
        ({}, b""),
        ({"Output": {"data": {"n": 1.0, "deep": {"t": True}}}}, Message({"n": 1, "deep": {"t": True}})),
    ],
)
def test_data(bench: Any, response: dict[str, Any], data: Any) -> None:
    assert computed(bench, answer(**response))["results"]["data"] == data  # type: ignore[index,call-overload]


MESSAGES = [
    {
        "Target": "T" * 43,
        "Anchor": "0001",
        "Data": "hi",
        "Tags": [{"name": "Action", "value": "Ping"}, {"name": "From-Process", "value": "somebody else"}],
        "From-Image": "mine",
        "commitments": "no",
        "Private": 1,
    },
    {"Target": "U", "Tags": [{"name": "data", "value": "tags win"}], "Data": "loses"},
]


def test_messages_become_the_outbox(bench: Any) -> None:
    made = computed(bench, answer(Messages=MESSAGES, patches=[{"Tags": [{"name": "x", "value": 1}]}]))
    results: Any = made["results"]
    process: Any = made["process"]
    own = {"from-process": unsigned_id(process), "from-image": ""}
    assert results["outbox"]["1"] == {"target": "T" * 43, "data": "hi", "Action": "Ping", **own}
    assert results["outbox"]["2"] == {"target": "U", "data": "tags win", **own}
    assert results["patches"] == {"1": {"x": 1}}


def test_the_references_form_of_the_outbox(bench: Any) -> None:
    made: Any = computed(bench, answer(Messages=MESSAGES), **{"outbox-form": "reference"})
    first = made["results"]["outbox"]["1"]
    assert first["Anchor"] == b"0001"
    assert first["Tags"][0] == {"name": "Action", "value": "Ping"}
    assert first["from-process"] == unsigned_id(made["process"]).encode()


def test_an_error_of_the_guest_sends_nothing(bench: Any) -> None:
    results: Any = computed(bench, answer(Error="oh no", Messages=MESSAGES))["results"]
    assert results["data"] == b"oh no"
    assert "outbox" not in results


def test_results_are_merged_into_what_is_there(bench: Any) -> None:
    before = {"data": "old", "other": 1, "outbox": {"1": {"target": "old"}, "9": {"target": "kept"}}}
    results: Any = computed(bench, answer(Data="new", Messages=MESSAGES), results=before)["results"]
    assert (results["data"], results["other"]) == (b"new", 1)
    assert sorted(results["outbox"]) == ["1", "2", "9"]
    assert results["outbox"]["1"]["target"] == b"T" * 43


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"ok": false, "error": "no"}',
        '{"ok": true}',
        "[1]",
        "[" * 5000,
        '{"ok":true,"response":{"Data":' + "[" * 50,
    ],
    ids=["text", "not ok", "nothing", "list", "deep", "cut"],
)
def test_an_answer_that_is_none(bench: Any, text: str) -> None:
    with pytest.raises(DeviceError, match="JSON error parsing result output"):
        computed(bench, text)


@pytest.mark.parametrize(
    "response",
    [{"Messages": [1]}, {"Messages": "x"}, {"Messages": [{"Tags": 1}]}, {"Data": [[[[1]]]] * 3, "patches": 7}],
)
def test_messages_that_are_none(bench: Any, response: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="JSON error parsing result output"):
        computed(bench, answer(**response))


def test_a_guest_that_fails(bench: Any) -> None:
    image = wasm(
        '(module (memory (export "memory") i64 1) (func (export "malloc") (param i64) (result i64) (i64.const 64))'
        ' (func (export "handle") (param i64 i64) (result i64) (unreachable)))'
    )
    state = bench.get(stack(image), "init")
    with pytest.raises(DeviceError, match=r"WASM execution error\."):
        bench.get(state, {"path": "compute", "body": {"data": "x"}})


def test_a_guest_without_malloc(bench: Any) -> None:
    state = bench.get(stack(wasm('(module (memory (export "memory") i64 1))')), "init")
    with pytest.raises((ParameterError, DeviceError), match="malloc"):
        bench.get(state, {"path": "compute", "body": {"data": "x"}})
