"""wasm-64@1.0: the worked examples of its specification, imports, and state."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.cache import Batch
from hyperpy.commitments import unsigned_id
from hyperpy.errors import (
    CodecError,
    DeviceError,
    DeviceNotFound,
    DeviceReentered,
    HyperpyError,
    MessageNotFound,
    ParameterError,
    SizeError,
)
from hyperpy.testing import node
from tests.devices.wasm_images import (
    BOMBS,
    EXAMPLE,
    FAC,
    POW,
    STATE,
    MyLib,
    base,
    call,
    output,
    wasm,
)

# -- the worked examples (devices/07, and 01 example 2) --------------------------------------------


@pytest.mark.parametrize("index", ["i32", "i64"])
def test_factorial(bench: Any, index: str) -> None:
    image = wasm(FAC.format(index=index))
    ident = bench.store.write(Message({"body": image}))
    state = bench.get(base(ident), "init")
    assert output(bench.get(state, call("fac", 5.0))) == (b"ok", (120.0,))
    assert output(bench.get(state, call("fac", "6"))) == (b"ok", (720.0,))


def test_power_through_an_import(bench: Any) -> None:
    state = bench.get(base(wasm(POW), stdlib={"my_lib": {"device": "test-device@1.0"}}), "init")
    assert output(bench.get(state, call("pow", 2, 5))) == (b"ok", (32,))


def test_power_after_a_snapshot_without_the_instance(bench: Any) -> None:
    start = base(wasm(POW), stdlib={"my_lib": {"device": "test-device@1.0"}})
    snapshot = bench.get(bench.get(start, "init"), "snapshot")
    assert set(snapshot) == {"body"}
    assert len(snapshot["body"]) == 65536
    made = bench.get(start | {"snapshot": snapshot}, call("pow", 2, 2))
    assert output(made) == (b"ok", (4,))
    assert "snapshot" not in made


def test_prefixes(bench: Any) -> None:
    start = Message({"device": "wasm-64@1.0", "output-prefix": "wasm", "input-prefix": "process"})
    state = bench.get(start | {"process": {"image": wasm(FAC.format(index="i64"))}}, "init")
    assert "wasm/instance" in state.private
    assert output(bench.get(state, call("fac", 4.0)), "wasm") == (b"ok", (24.0,))
    assert "wasm/instance" not in bench.get(state, "terminate").private


def test_where_function_and_parameters_come_from(bench: Any) -> None:
    state = bench.get(base(wasm(FAC.format(index="i64"))), "init")
    assert bench.get(state, "compute").get("results") is None
    held = state | {"function": "fac", "parameters": [3.0]}
    assert output(bench.get(held, "compute"))[1] == (6.0,)
    asked = call("fac", 4.0) | {"body": {"function": "fac", "parameters": [5.0]}}
    assert output(bench.get(held, asked))[1] == (120.0,)
    assert bench.get(held | {"pass": 2}, "compute").get("results") is None


def test_an_image_must_be_there(bench: Any) -> None:
    with pytest.raises(ParameterError, match="No viable image found in image"):
        bench.get(Message({"device": "wasm-64@1.0"}), "init")
    with pytest.raises(MessageNotFound, match="A" * 43):
        bench.get(base("A" * 43), "init")
    with pytest.raises(DeviceError, match="no_wasm_instance_or_snapshot"):
        bench.get(base(wasm(FAC.format(index="i64"))), call("fac", 1.0))
    with pytest.raises(ParameterError, match="AOT"):
        bench.get(base(wasm(FAC.format(index="i64")), mode="AOT"), "init")


def test_over_http_the_caller_is_told(bench: Any) -> None:
    with node(flags={"http.sign": False}) as n:
        assert n.get("/~wasm-64@1.0/init")["status"] == 400
        missing = n.get(f"/~wasm-64@1.0&image={'B' * 43}/init")
        assert missing["status"] == 404
        assert "B" * 43 in str(missing)


@pytest.mark.parametrize("form", ["message", "binary"])
def test_an_image_by_id_in_a_path(form: str) -> None:
    image = EXAMPLE.read_bytes()
    with node(flags={"http.sign": False}) as n:
        batch = Batch()
        ident = n.node.cache.put(image if form == "binary" else Message({"body": image}), batch)
        batch.commit(n.node.store)
        path = f"/~wasm-64@1.0&image={ident}/init/compute&function=add&parameters+list=20,22/results/output/1"
        assert n.get(path)["body"] == 42
        assert n.get(path.replace("=add", "=nix").removesuffix("/1"))["body"] == b"the image exports no function 'nix'"


def test_the_same_path_twice_and_at_once() -> None:
    """What a step leaves in the private part is in no cache, so no cache answers for that step."""
    with node(flags={"http.sign": False}) as n:
        batch = Batch()
        ident = n.node.cache.put(base(EXAMPLE.read_bytes()), batch)
        batch.commit(n.node.store)
        path = f"/{ident}/init/compute&function=count/results/output/1"
        assert [n.get(path)["body"] for _ in range(3)] == [1, 1, 1]
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(n.get(path)["body"])) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [1] * 6


# -- imports -------------------------------------------------------------------------------------


def test_imports_get_and_return_the_state() -> None:
    with node(MyLib) as n:
        state = n.node.resolve(base(wasm(POW), stdlib={"my_lib": {"device": "my-lib@1.0"}}), "init")
        made = n.node.resolve(state, call("pow", 3, 4))
        assert isinstance(made, Message)
        assert output(made) == (b"ok", (81,))
        assert made["count"] == 4
        assert made["sig"] == b"(ii)"  # the last letter is cut off, as in the reference


def test_an_import_nobody_provides_answers_zero_and_is_noted(bench: Any) -> None:
    state = bench.get(bench.get(base(wasm(POW), **{"output-prefix": "w"}), "init"), call("pow", 5, 2))
    assert output(state, "w") == (b"ok", (0,))
    calls = state["results"]["w"]["undefined-calls"]
    assert [(item["module"], item["func"], item["args"]) for item in calls] == [
        (b"my_lib", b"mul", (0, 5)),
        (b"my_lib", b"mul", (1, 5)),
    ]


def test_an_import_that_fails_is_the_calls_result() -> None:
    with node(MyLib) as n:
        state = n.node.resolve(base(wasm(BOMBS), stdlib={"my_lib": {"device": "my-lib@1.0"}}), "init")
        made = n.node.resolve(state, call("import-fails"))
        assert isinstance(made, Message)
        assert output(made) == (b"error", b"import my_lib.fail: no luck")
        assert output(n.node.resolve(made, call("first")))[1] == (0,)  # type: ignore[arg-type]


def test_a_device_that_this_node_does_not_have_is_no_result() -> None:
    """Another node may have it: what is kept as a result must be the same everywhere."""
    with node(MyLib) as n:
        start = base(wasm(POW), stdlib={"my_lib": {"device": "my-lib@9.9"}})
        with pytest.raises(DeviceNotFound, match=r"my-lib@9\.9"):
            n.node.resolve(n.node.resolve(start, "init"), call("pow", 3, 4))  # type: ignore[arg-type]


def test_there_is_no_snapshot_while_a_call_is_in_progress() -> None:
    image = wasm('(module (import "my_lib" "peep" (func $peep)) (func (export "go") (call $peep)))')
    with node(MyLib) as n:
        state = n.node.resolve(base(image, stdlib={"my_lib": {"device": "my-lib@1.0"}}), "init")
        made = n.node.resolve(state, call("go"))
        assert isinstance(made, Message)
        assert output(made) == (b"error", b"import my_lib.peep: a call of this image is in progress")


def test_only_functions_can_be_imported(bench: Any) -> None:
    with pytest.raises(CodecError, match=r"memory 'env'\.'memory'"):
        bench.get(base(wasm('(module (import "env" "memory" (memory 1)))')), "init")


# -- state ---------------------------------------------------------------------------------------


def test_state_in_memory_and_globals_survives_a_snapshot(bench: Any) -> None:
    start = base(wasm(STATE))
    live = resumed = bench.get(start, "init")
    seen = []
    for _ in range(4):
        live = bench.get(live, call("step"))
        resumed = bench.get(resumed, call("step"))
        assert unsigned_id(live) == unsigned_id(resumed)
        seen.append(output(live)[1])
        snapshot = bench.get(resumed, "snapshot")
        assert snapshot == bench.get(live, "snapshot")
        bare = Message(dict(resumed.raw_items()))
        resumed = bench.get(bare | {"snapshot": snapshot}, "normalize")
        assert "snapshot" not in resumed
    assert seen == [(11, 1, 1.5, -1.5), (12, 2, 4.5, 1.5), (13, 3, 13.5, -1.5), (14, 4, 40.5, 1.5)]


def test_one_state_can_be_used_twice(bench: Any) -> None:
    first = bench.get(bench.get(base(wasm(STATE)), "init"), call("step"))
    twice = [bench.get(first, call("step")) for _ in range(2)]
    assert twice[0] == twice[1]
    assert bench.get(twice[0], "snapshot") == bench.get(twice[1], "snapshot")
    assert output(bench.get(first, call("step")))[1][:2] == (12, 2)


SEEDED = """
from tests.devices.wasm_images import STATE, wasm
from hyperpy import Message
from hyperpy.commitments import unsigned_id
from hyperpy.testing import node
with node() as n:
    state = n.node.resolve(Message({"device": "wasm-64@1.0", "image": wasm(STATE), "b": 1, "a": {"z": 1}}), "init")
    for name in ("step", "grow", "spoil", "step", "nothing"):
        state = n.node.resolve(state, Message({"path": "compute", "function": name, "parameters": []}))
        print(unsigned_id(state), state.hashpath, unsigned_id(n.node.resolve(state, "snapshot")))
"""


def test_equal_in_processes_with_different_hash_seeds() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", SEEDED],
            cwd=EXAMPLE.parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(found) == 1
    assert next(iter(found)).count(b"\n") == 5


def test_grown_memory_is_part_of_the_state(bench: Any) -> None:
    state = bench.get(bench.get(base(wasm(STATE)), "init"), call("grow"))
    assert output(state)[1] == (1,)
    assert len(bench.get(state, "snapshot")["body"]) == 2 * 65536
    assert output(bench.get(state, call("size")))[1] == (2,)


def test_a_call_that_fails_changes_nothing(bench: Any) -> None:
    before = bench.get(bench.get(base(wasm(STATE)), "init"), call("step"))
    spoiled = bench.get(before, call("spoil"))
    assert output(spoiled) == (b"error", b"the guest trapped: unreachable")
    assert bench.get(spoiled, "snapshot") == bench.get(before, "snapshot")
    assert output(bench.get(spoiled, call("step")))[1][:2] == (12, 2)


def test_a_snapshot_must_fit(bench: Any) -> None:
    small = base(wasm(STATE), **{"wasm-memory": 1 << 20})
    with pytest.raises(HyperpyError, match="does not fit"):
        bench.get(small | {"snapshot": {"body": bytes(2 << 20)}}, "normalize")


def test_a_sparse_snapshot_is_the_same_memory(bench: Any) -> None:
    state = bench.get(bench.get(bench.get(base(wasm(STATE)), "init"), call("step")), call("grow"))
    whole = bench.get(state, "snapshot")
    sparse = bench.get(state | {"snapshot-form": "sparse"}, "snapshot")
    assert (sparse["size"], list(sparse["pages"])) == (2 * 65536, ["0"])
    assert sparse["pages"]["0"] == whole["body"][:65536]
    bare = Message(dict(state.raw_items()))
    again = bench.get(bare | {"snapshot": sparse}, "normalize")
    assert bench.get(again, "snapshot") == whole
    assert "body" in bench.get(state, {"path": "snapshot", "mode": "Map"})


def test_a_process_gets_large_memories_as_pages(bench: Any) -> None:
    state = bench.get(base(wasm('(module (memory (export "memory") i64 17))')), "init")
    asked = Message({"path": "snapshot", "mode": "Map"})
    assert len(bench.get(state, "snapshot")["body"]) == 17 << 16
    assert bench.get(state, asked) == Message({"size": 17 << 16, "pages": {}})
    assert len(bench.get(state | {"snapshot-form": "whole"}, asked)["body"]) == 17 << 16


@pytest.mark.parametrize(
    "snapshot",
    [
        {"size": 65536, "pages": {"1": bytes(65536)}},
        {"size": 65536, "pages": {"0": b"short"}},
        {"size": 65536, "pages": {"x": bytes(65536)}},
        {"size": 1 << 60, "pages": {}},
    ],
)
def test_snapshots_that_are_none(bench: Any, snapshot: dict[str, Any]) -> None:
    with pytest.raises((ParameterError, SizeError)):
        bench.get(base(wasm(STATE), snapshot=snapshot), "normalize")


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("nothing", [], b"the image exports no function 'nothing'"),
        ("fac", [], b"'fac' takes 1 parameters, not 0"),
        ("fac", ["five"], b"a parameter must be a number, not 'five'"),
        ("fac", [True], b"a parameter must be a number"),
    ],
)
def test_wrong_calls_are_results(bench: Any, name: str, parameters: list[Any], reason: bytes) -> None:
    state = bench.get(base(wasm(FAC.format(index="i64"))), "init")
    assert output(bench.get(state, call(name, *parameters))) == (b"error", reason)


# -- the example -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(0, 0), (20, 22), (-7, 6), (2**31, -(2**31)), (123456789, -987654321)])
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_the_c_calculator_equals_the_python_one(bench: Any, name: str, a: int, b: int) -> None:
    state = bench.get(base(EXAMPLE.read_bytes()), "init")
    python = bench.get(Message({"device": "calculator@1.0", "a": a}), {"path": name, "b": b})
    assert output(bench.get(state, call(name, a, b))) == (b"ok", (python,))


def test_too_many_guests_inside_one_another_are_refused(bench: Any) -> None:
    """A guest whose import is a guest whose import is a guest ... has no stack without end."""
    image = wasm(
        '(module (import "m" "compute" (func $next (result i32))) (memory (export "memory") 1)'
        ' (func (export "down") (result i32) (call $next)))'
    )
    inner: dict[str, Any] = {}
    for _ in range(6):
        start = base(image, function="down", stdlib={"m": inner})
        inner = dict(bench.get(start, "init").raw_items()) | {"snapshot": {"body": bytes(65536)}}
    with pytest.raises(DeviceReentered, match="too deeply"):
        bench.get(bench.get(base(image, stdlib={"m": inner}), "init"), call("down"))


@pytest.mark.skipif(not (shutil.which("clang") and shutil.which("wasm-ld")), reason="Debian: apt-get install clang lld")
def test_the_example_is_built_from_its_source(bench: Any, tmp_path: Path) -> None:
    made = tmp_path / "made.wasm"
    subprocess.run(["sh", str(EXAMPLE.with_name("build.sh")), str(made)], check=True, capture_output=True)
    states = [bench.get(base(image.read_bytes()), "init") for image in (made, EXAMPLE)]
    for name in ("count", "count"):
        states = [bench.get(state, call(name)) for state in states]
        assert output(states[0]) == output(states[1])
    found = [bench.get(state, call("multiply", 2**62 + 3, 5)) for state in states]
    assert output(found[0]) == output(found[1]) == (b"ok", ((2**62 + 3) * 5 - 2**64,))
