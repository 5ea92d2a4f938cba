"""wasi@1.0: files, clock and random bytes of guests with 32- and 64-bit memory."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import unsigned_id
from tests.devices.wasm_images import wasm

GUEST = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 {index} {index} {index}) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 {index} {index} {index}) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 {index}) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 {index}) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param {index} {index}) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") {index} 1)
  (data ({index}.const 100) "hello, world")
  (data ({index}.const 200) "notes//./a.txt\\00")
  (func $vector (param $at {index}) (param $from {index}) (param $size {index})
    ({index}.store (local.get $at) (local.get $from))
    ({index}.store ({index}.add (local.get $at) ({index}.const {half})) (local.get $size)))
  (func $print (export "print") (param $fd i32) (param $from {index}) (param $size {index}) (result i32)
    (call $vector ({index}.const 16) (local.get $from) (local.get $size))
    (call $vector ({index}.const {second}) ({index}.const 110) ({index}.const 2))
    (call $write (local.get $fd) ({index}.const 16) ({index}.const 2) ({index}.const 64)))
  (func (export "written") (result {index}) ({index}.load ({index}.const 64)))
  (func (export "copy") (param $fd i32) (result i32)
    (call $vector ({index}.const 16) ({index}.const 300) ({index}.const 5))
    (call $read (local.get $fd) ({index}.const 16) ({index}.const 1) ({index}.const 64)))
  (func (export "byte") (param {index}) (result i32) (i32.load8_u (local.get 0)))
  (func (export "open") (result i32) (drop (call $open (i32.const 0) (i32.const 0) ({index}.const 200))) (i32.const 0))
  (func (export "clock") (result i32 i64)
    (call $clock (i32.const 0) (i64.const 0) ({index}.const 64)) (i64.load ({index}.const 64)))
  (func (export "random") (result i64)
    (drop (call $random ({index}.const 400) ({index}.const 8))) (i64.load ({index}.const 400)))
  (func (export "wild") (result i32) (call $random ({index}.const 65530) ({index}.const 100)))
  (func (export "close") (result i32) (call $close (i32.const 1))))"""


@pytest.fixture(params=["i32", "i64"])
def guest(request: Any, bench: Any) -> Message:
    index = request.param
    image = wasm(GUEST.format(index=index, half=4 if index == "i32" else 8, second=24 if index == "i32" else 32))
    return started(bench, image)


def started(bench: Any, image: bytes) -> Message:
    base = {"process": {"image": image}, "input-prefix": "process", "output-prefix": "wasm"}
    state = bench.get(Message({**base, "device": "wasi@1.0"}), "init")
    made: Message = bench.get(state | {"device": "wasm-64@1.0"}, "init")
    return made


def run(bench: Any, state: Message, name: str, *parameters: int) -> Message:
    made: Message = bench.get(state, {"path": "compute", "function": name, "parameters": list(parameters)})
    return made


def output(state: Message) -> Any:
    results: Any = state["results"]
    return results["wasm"]["type"], results["wasm"]["output"]


def test_init(bench: Any) -> None:
    state = bench.get(Message({"device": "wasi@1.0", "output-prefix": "wasm"}), "init")
    assert state["wasm"] == {"stdlib": {"wasi_snapshot_preview1": {"device": "wasi@1.0"}}}
    assert state["vfs"] == {"dev": {"stdin": "", "stdout": "", "stderr": ""}}
    assert state["file-descriptors"]["1"] == {"filename": "/dev/stdout", "offset": 0}
    assert bench.get(state, "compute") == state


def test_writing_appends_at_the_offset(bench: Any, guest: Message) -> None:
    once = run(bench, guest, "print", 1, 100, 5)
    assert output(once) == (b"ok", (0,))
    assert once["vfs"]["dev"]["stdout"] == b"hellold"  # type: ignore[index,call-overload]
    twice = run(bench, once, "print", 1, 105, 2)
    assert bench.get(twice | {"device": "wasi@1.0"}, "stdout") == b"hellold, ld"
    assert twice["file-descriptors"]["1"]["offset"] == 11  # type: ignore[index,call-overload]
    assert output(run(bench, twice, "written"))[1] == (4,)


def test_writing_at_an_earlier_offset_overwrites(bench: Any, guest: Message) -> None:
    once = run(bench, guest, "print", 1, 100, 5)
    files = {"1": {"filename": "/dev/stdout", "offset": 2}}
    again = run(bench, once | {"file-descriptors": files}, "print", 1, 107, 1)
    assert again["vfs"]["dev"]["stdout"] == b"hewldld"  # type: ignore[index,call-overload]


def test_reading(bench: Any, guest: Message) -> None:
    state = guest | {"vfs": {"dev": {"stdin": b"abcdefg"}}}
    first = run(bench, state, "copy", 0)
    assert output(run(bench, first, "written"))[1] == (5,)
    assert output(run(bench, first, "byte", 304))[1] == (ord("e"),)
    second = run(bench, first, "copy", 0)
    assert output(run(bench, second, "written"))[1] == (2,)
    assert [output(run(bench, second, "byte", at))[1][0] for at in (300, 301, 302)] == [ord(c) for c in "fgc"]
    assert second["file-descriptors"]["0"]["offset"] == 7  # type: ignore[index,call-overload]


def test_opening_a_file(bench: Any, guest: Message) -> None:
    state = run(bench, guest, "open")
    assert state["file-descriptors"]["4"] == {"filename": "/notes/a.txt", "offset": 0}  # type: ignore[index,call-overload]
    again = run(bench, state, "open")
    assert len(again["file-descriptors"]) == 4  # type: ignore[arg-type]
    written = run(bench, again, "print", 4, 100, 5)
    assert written["vfs"]["notes"] == {"a.txt": "hellold"}  # type: ignore[index,call-overload]


def test_time_stands_still(bench: Any, guest: Message) -> None:
    assert output(run(bench, guest, "clock")) == (b"ok", (1, 0))


def test_random_bytes_follow_from_the_state(bench: Any, guest: Message) -> None:
    first = run(bench, guest, "random")
    assert first["random-calls"] == 1
    assert unsigned_id(run(bench, guest, "random")) == unsigned_id(first)
    second = run(bench, first, "random")
    assert output(second)[1] != output(first)[1] != (0,)
    snapshot = bench.get(first, "snapshot")
    resumed = run(bench, Message(dict(first.raw_items())) | {"snapshot": snapshot}, "random")
    assert unsigned_id(resumed) == unsigned_id(second)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("wild", [], b"outside the guest's memory"),
        ("print", [9, 100, 5], b"no file is open under number 9"),
        ("print", [1, 65530, 100], b"outside the guest's memory"),
        ("print", [1, 0, 17 << 20], b"a call may move"),
    ],
)
def test_what_cannot_be_done_is_the_calls_result(
    bench: Any, guest: Message, name: str, parameters: list[int], text: bytes
) -> None:
    made = run(bench, guest, name, *parameters)
    kind, reason = output(made)
    assert kind == b"error"
    assert text in reason
    assert made["vfs"] == guest["vfs"]


def test_other_calls_answer_zero(bench: Any, guest: Message) -> None:
    made = run(bench, guest, "close")
    assert output(made) == (b"ok", (0,))
    calls: Any = made["results"]["wasm"]["undefined-calls"]  # type: ignore[index,call-overload]
    assert [item["func"] for item in calls] == [b"fd_close"]
