"""wasm-64@1.0: the worked examples of its specification, state, limits, and images that misbehave."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Context, Message, device, key
from hyperpy.cache import Batch
from hyperpy.codecs import wasm as binary
from hyperpy.codecs import wasm_convert
from hyperpy.commitments import unsigned_id
from hyperpy.context import Chain, Frame
from hyperpy.errors import (
    CodecError,
    ConfigError,
    DeviceError,
    DeviceReentered,
    DeviceTimeout,
    HyperpyError,
    MessageNotFound,
    ParameterError,
    SizeError,
)
from hyperpy.testing import node
from tests.devices.wasm_images import BOMBS, FAC, JUMPS, POW, STATE, wasm

LEGACY = bytes.fromhex(
    "0061736d01000000010a0260017f0060017f017f0302010105030100010d03010000070e02066d656d6f72790200016600000a10010e0006"
    "7f20000800070041016a0b0b"
)
"""``f`` throws its parameter, catches it and adds one, in the older exception operators (made by wasm-as)."""
EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/wasm-calculator/calculator.wasm"


@device("my-lib@1.0")
class MyLib:
    """Imports that fail, or that keep count in the state."""

    @key
    def fail(self, base: Message) -> Message:
        raise ParameterError("no luck", name="args")

    @key
    def peep(self, base: Message, ctx: Context) -> Message:
        return Message({"state": ctx.resolve(base["state"], "snapshot"), "results": []})

    @key
    def mul(self, base: Message, request: Message) -> Message:
        state, args = base["state"], request["args"]
        assert isinstance(state, Message)
        assert isinstance(args, tuple)
        count = state.get("count", 0)
        assert isinstance(count, int)
        return Message(
            {"state": state | {"count": count + 1, "sig": request["func-sig"]}, "results": [args[0] * args[1]]}
        )


def base(image: bytes | str, **more: Any) -> Message:
    return Message({"device": "wasm-64@1.0", "image": image, **more})


def call(name: str, *parameters: Any) -> Message:
    return Message({"path": "compute", "function": name, "parameters": list(parameters)})


def output(state: Message, *where: str) -> Any:
    found: Any = state["results"]
    for part in where:
        found = found[part]
    return found["type"], found["output"]


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


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bomb", "parameters", "kind", "found"),
    [
        ("forever", [], b"error", b"the call needs more than 1000000 steps"),
        ("deep", [0], b"error", b"the guest trapped: stack overflow"),
        ("eat", [], b"ok", (113,)),
        ("outside", [], b"error", b"the guest trapped: memory out of bounds"),
        ("nan", [], b"ok", (0x7FF8000000000000,)),
    ],
)
def test_bombs_cost_their_caller_a_result(
    bench: Any, bomb: str, parameters: list[int], kind: bytes, found: Any
) -> None:
    limits = {"wasm-fuel": 1_000_000, "wasm-memory": 128 * 65536 - 1}
    state = bench.get(base(wasm(BOMBS), **limits), "init")
    first, second = (bench.get(state, call(bomb, *parameters)) for _ in range(2))
    assert output(first) == output(second) == (kind, found)
    assert unsigned_id(first) == unsigned_id(second)
    assert output(bench.get(first, call("first")))[0] == b"ok"


def test_the_number_of_steps_is_exact(bench: Any) -> None:
    def state(fuel: int) -> Message:
        return bench.get(base(wasm(FAC.format(index="i64")), **{"wasm-fuel": fuel}), "init")

    least = next(fuel for fuel in range(1, 1000) if output(bench.get(state(fuel), call("fac", 5.0)))[0] == b"ok")
    assert 30 < least < 300
    for _ in range(3):
        assert output(bench.get(state(least), call("fac", 5.0)))[0] == b"ok"
        assert output(bench.get(state(least - 1), call("fac", 5.0)))[0] == b"error"


def test_imports_are_counted() -> None:
    with node(flags={"limits.steps": 100_000}) as n:
        state = n.node.resolve(base(wasm(BOMBS)), "init")
        made = n.node.resolve(state, call("many-imports"), record=False)
        assert isinstance(made, Message)
        assert output(made) == (b"error", b"the call uses more than 2000 imports")


def _until(bench: Any, seconds: float, state: Message, request: Message) -> Any:
    chain = Chain(deadline=time.monotonic() + seconds)
    return bench.resolver.resolve(state, request, Frame(bench.resolver, chain, 0, None))


def test_a_call_stopped_by_time_is_no_result(bench: Any) -> None:
    state = bench.get(base(wasm(BOMBS), **{"wasm-fuel": 10**17}), "init")
    with pytest.raises(DeviceTimeout, match="stopped at its deadline"):
        _until(bench, 0.3, state, call("forever"))
    assert output(bench.get(state, call("first"))) == (b"ok", (0,))


def test_neighbours_run_beside_a_bomb(bench: Any) -> None:
    bomb = bench.get(base(wasm(BOMBS), **{"wasm-fuel": 10**17}), "init")
    good = bench.get(base(wasm(FAC.format(index="i64"))), "init")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            _until(bench, 4, bomb, call("forever"))
        except DeviceTimeout as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(20):
        assert output(bench.get(good, call("fac", 5.0)))[1] == (120.0,)
    assert thread.is_alive(), "the bomb held the interpreter"
    thread.join(30)
    assert len(ended) == 1


def test_eight_callers_at_once_get_their_own_results() -> None:
    with node(MyLib) as n:
        state = n.node.resolve(base(wasm(POW), stdlib={"my_lib": {"device": "my-lib@1.0"}}), "init")
        found: dict[int, Any] = {}

        def run(number: int) -> None:
            for _ in range(5):
                made = n.node.resolve(state, call("pow", number, 5), record=False)
                assert isinstance(made, Message)
                found[number] = (output(made)[1], made["count"])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {number: ((number**5,), 5) for number in range(1, 9)}


@pytest.mark.parametrize(
    "text",
    [
        '(module (memory (export "memory") 1 1 shared))',
        "(module (memory 1) (memory 1))",
    ],
    ids=["threads", "two memories"],
)
def test_what_is_switched_off(bench: Any, text: str) -> None:
    with pytest.raises(CodecError):
        bench.get(base(wasm(text)), "init")


@pytest.mark.parametrize("image", [FAC.format(index="i64"), STATE, JUMPS], ids=["fac", "state", "jumps"])
def test_damaged_images_are_refused(bench: Any, image: str) -> None:
    whole = wasm(image)
    cut = [whole[:end] for end in range(1, len(whole), 3)]
    changed = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(8, len(whole), 5)]
    statuses = set()
    for damaged in (*cut, *changed):
        try:
            bench.get(base(damaged), "init")
        except HyperpyError as error:
            statuses.add(error.status)
    assert statuses == {400}


# -- emscripten's runtime --------------------------------------------------------------------------


@pytest.fixture
def jumps(bench: Any) -> Any:
    state = bench.get(base(wasm(JUMPS), **{"wasm-memory": 8 * 65536}), "init")
    return lambda name, *parameters: output(bench.get(state, call(name, *parameters)))


def test_a_longjmp_is_caught_where_it_should_be(jumps: Any) -> None:
    assert jumps("try", 2) == (b"ok", (0, 1000, 77))
    assert jumps("try", 1) == (b"ok", (1, 1000, 77))
    assert jumps("try", 0)[0] == b"error"
    assert jumps("uncaught") == (b"error", b"the guest threw a longjmp that nothing caught")


def test_other_runtime_functions(jumps: Any) -> None:
    assert jumps("resize", 5 * 65536) == (b"ok", (1, 5))
    assert jumps("resize", 9 * 65536) == (b"ok", (0, 1))
    assert jumps("copy", 16, 64, 8) == (b"ok", (4711,))
    assert jumps("copy", 16, 64, 1 << 20)[0] == b"error"
    assert jumps("abort") == (b"error", b"the guest ended itself")


# -- images with older exception operators -----------------------------------------------------------


def test_a_missing_converter_is_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasm_convert.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"Node\.js") as caught:
        bench.get(base(LEGACY), "init")
    assert "hyperpy wasm convert" in caught.value.diagnostics()


def test_a_converted_image_keeps_its_own_id(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def convert(image: bytes) -> bytes:
        asked.append(image)
        return wasm(
            '(module (memory (export "memory") 1) (func (export "f") (param i32) (result i32)'
            " (i32.add (local.get 0) (i32.const 1))))"
        )

    monkeypatch.setattr(wasm_convert, "convert", convert)
    changed = LEGACY + b"\0\4\1x12"  # a custom section, so that no other test has loaded it
    ident = bench.store.write(Message({"body": changed}))
    state = bench.get(base(ident), "init")
    assert state["image"] == ident.encode()
    assert output(bench.get(state, call("f", 41))) == (b"ok", (42,))
    assert asked == [changed]
    kept = bench.store.read(bench.store.named(wasm_convert.kept_as(ident)))
    assert kept["converted-from"] == ident.encode()
    bench.get(base(ident), "init")
    assert len(asked) == 1


@pytest.mark.skipif(not wasm_convert.available(), reason="npm package binaryen is missing")
def test_the_real_converter(bench: Any) -> None:
    state = bench.get(base(LEGACY), "init")
    assert output(bench.get(state, call("f", 41))) == (b"ok", (42,))


def test_compiling_goes_on_when_its_caller_has_gone(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.devices.wasm_64 import engine

    go, compile_it = threading.Event(), engine.Compiled
    made = []

    def slow(*args: Any) -> Any:
        go.wait(30)
        made.append(args[0])
        return compile_it(*args)

    monkeypatch.setattr(engine, "Compiled", slow)
    image = wasm('(module (memory (export "memory") 1) (func (export "slow")))')
    for _ in range(2):
        with pytest.raises(DeviceTimeout, match="still being compiled"):
            _until(bench, 0.05, base(image), Message({"path": "init"}))
    go.set()
    assert "instance" in bench.get(base(image), "init").private
    assert len(made) == 1


# -- the binary format -------------------------------------------------------------------------------


def test_instrumented_images_export_their_state() -> None:
    import wasmtime

    made = binary.instrument(wasm(STATE))
    assert made.globals == {0: "i64", 1: "f64", 3: "f32"}
    assert made.memory
    names = [item.name for item in wasmtime.Module(wasmtime.Engine(), made.image).exports]
    assert names[-4:] == [binary.MEMORY, *[f"{binary.GLOBAL}{index}" for index in (0, 1, 3)]]


def test_an_image_without_exports_gets_a_section() -> None:
    import wasmtime

    config = wasmtime.Config()
    made = binary.instrument(wasm('(module (memory 1) (func $f) (start $f) (data (i32.const 0) "x"))'))
    names = [item.name for item in wasmtime.Module(wasmtime.Engine(config), made.image).exports]
    assert names == [binary.MEMORY]


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
