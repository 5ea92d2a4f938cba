"""wasm-64@1.0: guests that misbehave cost their caller a result or an error, and nobody else anything."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import unsigned_id
from hyperpy.context import Chain, Frame
from hyperpy.errors import (
    Busy,
    CodecError,
    DeviceTimeout,
    HyperpyError,
)
from hyperpy.testing import node
from tests.devices.wasm_images import (
    BOMBS,
    FAC,
    JUMPS,
    POW,
    STATE,
    MyLib,
    base,
    call,
    output,
    wasm,
)

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


def test_guests_that_never_end_keep_no_place_of_those_that_begin() -> None:
    from hyperpy.devices.wasm_64.places import Places

    places = Places(short=1, long=1, long_s=0.05)
    late = time.monotonic() + 60
    first = places.take(late)
    second = places.take(late)  # the first is slow by now
    with pytest.raises(Busy, match="too many"):
        places.take(time.monotonic() + 0.3)  # and so is the second, but only one may be
    places.give(first)
    third = places.take(late)
    for one in (second, third):
        places.give(one)
    assert not places._begun
    assert not places._slow


def test_sixteen_guests_that_never_end_do_not_keep_another_from_running() -> None:
    with node(flags={"limits.deadline": 6.0}) as n:
        bomb = n.node.resolve(base(wasm(BOMBS), **{"wasm-fuel": 10**17}), "init")
        good = n.node.resolve(base(wasm(FAC.format(index="i64"))), "init")
        ended: list[BaseException] = []

        def run() -> None:
            try:
                n.node.resolve(bomb, call("forever"), record=False)
            except DeviceTimeout as error:
                ended.append(error)

        threads = [threading.Thread(target=run) for _ in range(16)]
        for thread in threads:
            thread.start()
        while len(_places()._begun) + len(_places()._slow) < 16 and not ended:
            time.sleep(0.02)
        assert output(n.node.resolve(good, call("fac", 5.0), record=False))[1] == (120.0,)
        assert not ended, "it waited until the others had ended"
        for thread in threads:
            thread.join(60)
        assert len(ended) == 16


def _places() -> Any:
    from hyperpy.devices.wasm_64 import instance

    return instance._PLACES


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


def test_the_cache_of_compiled_images_is_bounded(bench: Any) -> None:
    from hyperpy.devices.wasm_64 import engine

    first = bench.get(base(wasm('(module (func (export "n") (result i32) (i32.const 1000)))')), "init")
    for number in range(24):
        image = wasm(f'(module (func (export "n") (result i32) (i32.const {number})))')
        assert output(bench.get(bench.get(base(image), "init"), call("n")))[1] == (number,)
    assert len(engine._modules) <= 16
    assert first.private["instance"].compiled not in engine._modules.values()
    assert output(bench.get(first, call("n")))[1] == (1000,)


@pytest.mark.parametrize("frames", [0, 200, 400, 600, 800])
def test_how_deep_python_is_makes_no_difference(bench: Any, frames: int) -> None:
    state = bench.get(base(wasm(JUMPS)), "init")
    power = bench.get(base(wasm(POW), stdlib={"my_lib": {"device": "test-device@1.0"}}), "init")

    def below(left: int) -> tuple[Any, Any]:
        if left:
            return below(left - 1)
        return output(bench.get(state, call("again", 0))), output(bench.get(power, call("pow", 2, 5)))

    assert below(frames) == (
        (b"error", b"the guest has more than 60 longjmp targets inside one another"),
        (b"ok", (32,)),
    )
