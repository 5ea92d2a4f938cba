"""Processes whose execution device is WebAssembly: slots, bombs, snapshots, a second node, a missing module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperpy import Message
from tests.devices.parts import Place, place
from tests.devices.wasm_images import BOMBS, FAC, POW, STATE, MyLib, answering, wasm


def image_of(here: Place, image: bytes) -> str:
    ident: str = here.node._lend["store"].write(Message({"data": image}))
    return ident


def test_factorials_slot_by_slot(here: Place) -> None:
    """devices/01, examples 2 and 3: slot 0 names no function and does nothing."""
    process = here.spawn("wasm-64@1.0", image=image_of(here, wasm(FAC.format(index="i64"))))
    here.send(process, function="fac", parameters=[5.0])
    here.send(process, function="fac", parameters=[6.0])
    assert "results" not in here.get(process, "compute=0")
    assert here.value(process, "compute=1/results/output/1") == 120.0
    assert here.value(process, "compute=2/results/output/1") == 720.0
    results: Any = here.get(process, "now")["results"]
    assert dict(results) == {"type": b"ok", "output": (720.0,)}


def test_a_bomb_is_its_slots_result_and_blocks_nothing(here: Place) -> None:
    process = here.spawn("wasm-64@1.0", image=image_of(here, wasm(BOMBS)), **{"wasm-fuel": 1_000_000})
    for name, parameters in (("forever", []), ("deep", [0]), ("eat", []), ("first", [])):
        here.send(process, function=name, parameters=parameters)
    assert here.value(process, "compute=1/results/output") == b"the call needs more than 1000000 steps"
    assert here.value(process, "compute=2/results/output") == b"the guest trapped: stack overflow"
    assert here.get(process, "compute=3/results/output")["status"] == 200
    assert here.value(process, "compute=4/results/type") == b"ok"


def test_equal_states_on_a_second_node_and_after_resuming(tmp_path: Path) -> None:
    ids: list[Any] = []
    with place(store=tmp_path / "one") as first:
        process = first.spawn("wasm-64@1.0", image=image_of(first, wasm(STATE)))
        for name in ("step", "step", "spoil", "grow", "step"):
            first.send(process, function=name, parameters=[])
        assert first.value(process, "compute=3/results/type") == b"error"
    for last in (4, 5):  # resumed from the snapshot of slot 3, then from that of slot 4
        with place(store=tmp_path / "one") as again:
            assert again.get(process, f"compute={last}")["status"] == 200
            found = again.states(process, last)
            assignments = [again.slots.read(process, slot) for slot in range(6)]
            definition = again.node._lend["store"].read(process)
            ids = found
    assert again.slots is not None
    with place() as other:
        image_of(other, wasm(STATE))
        other.node._lend["store"].write(definition)
        for slot, assignment in enumerate(assignments):
            assert assignment is not None, slot
            other.slots.append(process, lambda head, one=assignment: (one, _after(head, one)), deadline=_late())
        assert other.get(process, "compute=5")["status"] == 200
        assert other.states(process, 5) == ids


def _after(head: Any, assignment: Message) -> Any:
    from hyperpy import commitments, hashpath
    from hyperpy.capabilities import Head
    from hyperpy.encoding import b64u_decode

    chain = b64u_decode(assignment.text("hash-chain"))
    return Head(head.slot + 1, chain, hashpath.combine(head.hashpath, commitments.signed_id(assignment)), head.slot + 2)


def _late() -> float:
    import time

    return time.monotonic() + 30


def test_what_stops_a_bomb_by_time_can_be_tried_again() -> None:
    with place(flags={"limits.deadline": 0.5}) as here:
        process = here.spawn("wasm-64@1.0", image=image_of(here, wasm(BOMBS)), **{"wasm-fuel": 10**17})
        here.send(process, function="forever", parameters=[])
        assert here.get(process, "compute=1")["status"] == 504
        assert here.slots.state(process, 1) is None
        assert here.value(process, "compute=0/at-slot") == 0


def test_aos_like_processes(here: Place) -> None:
    """genesis-wasm@1.0 is the default execution device: data, raw and patches by path."""
    response = {"Output": {"data": "4"}, "Messages": [{"Tags": {"method": "PATCH", "balance": 9}}], "Spawns": []}
    module = image_of(here, answering(json.dumps({"ok": True, "response": response})))
    process = here.spawn("genesis-wasm@1.0", module=module)
    here.send(process, action="Eval", data="return 2+2")
    assert here.value(process, "compute=1/results/data") == b"4"
    assert here.value(process, "compute=1/results/raw/Output/data") == b"4"
    assert here.value(process, "now/balance") == 9
    assert here.value(process, "as=execution/compute&action=Info/results/data") == b"4"
    assert here.value(process, "now/at-slot") == 1


def test_an_unknown_module_is_a_404_that_names_it(here: Place) -> None:
    missing = "x" * 43
    for execution, name in (("genesis-wasm@1.0", "module"), ("wasm-64@1.0", "image")):
        process = here.spawn(execution, **{name: missing})
        reply = here.get(process, "compute=0")
        assert reply["status"] == 404
        assert missing in str(reply)
        assert here.slots.state(process, 0) is None


def test_a_slot_that_needs_a_device_from_elsewhere_has_no_result_here(tmp_path: Path) -> None:
    with place(store=tmp_path / "s") as here:
        stdlib = {"my_lib": {"device": "my-lib@1.0"}}
        process = here.spawn("wasm-64@1.0", image=image_of(here, wasm(POW)), stdlib=stdlib)
        here.send(process, function="pow", parameters=[3, 4])
        reply = here.get(process, "compute=1")
        assert reply["status"] == 404
        assert "my-lib@1.0" in str(reply)
        assert here.slots.state(process, 1) is None
    with place(MyLib, store=tmp_path / "s") as there:
        assert there.value(process, "compute=1/results/output/1") == 81, "the same slot, where the device is"


def test_a_stack_that_the_process_names_itself(tmp_path: Path) -> None:
    """devices/01, example 4: the stack of aos; it goes on from a snapshot of the stack in Map mode."""
    stack = {
        "device-stack": ["wasi@1.0", "json-iface@1.0", "wasm-64@1.0", "multipass@1.0"],
        "passes": 2,
        "output-prefix": "wasm",
        "stack-keys": ["init", "compute", "snapshot", "normalize"],
    }
    answer = json.dumps({"ok": True, "response": {"Output": {"data": "2"}}})
    with place(store=tmp_path / "s") as first:
        process = first.spawn("stack@1.0", image=image_of(first, answering(answer)), **stack)
        first.send(process, action="Eval", data="return 1+1")
        first.send(process, action="Eval", data="return 1+1")
        assert first.value(process, "compute=1/results/data") == b"2"
        before = first.value(process, "compute=1/parameters/1")
    with place(store=tmp_path / "s") as again:
        assert again.value(process, "compute=2/results/data") == b"2"
        assert again.value(process, "compute=2/parameters/1") > before, "the guest went on where it was"
