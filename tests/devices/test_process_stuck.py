"""process@1.0: a slot whose work a safety net ends is no result, and costs the node little."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hyperpy.devices.process.stuck import LONGEST_S, WAIT_S, Stuck

from hyperpy import Context, Message, device, key
from hyperpy.errors import Busy, DeviceStopped, DeviceTimeout
from hyperpy.lua import pool
from tests.devices.lua_parts import SLOW, module
from tests.devices.parts import Place, place
from tests.devices.wasm_images import BOMBS, wasm


@device("net-test@1.0")
class Net:
    """Counts; what says ``too-much`` is ended by a safety net."""

    begun = 0
    ended = True

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Count one more."""
        body = request["body"]
        assert isinstance(body, Message)
        if body.get("action") == b"too-much":
            Net.begun += 1
            if Net.ended:
                raise DeviceStopped("the net was torn")
        count = base.get("count", 0)
        assert isinstance(count, int)
        return base | {"count": count + 1}


@pytest.fixture
def at() -> Iterator[Place]:
    Net.begun, Net.ended = 0, True
    with place(Net) as made:
        yield made


def test_a_stuck_slot_is_tried_twice_and_then_said_to_be_stuck(at: Place) -> None:
    process = at.spawn("net-test@1.0")
    at.send(process, action="count")
    at.send(process, action="too-much")
    at.send(process, action="count")
    assert at.value(process, "compute=1/count") == 2
    assert [at.get(process, "now")["status"] for _ in range(2)] == [504, 504]
    for path in ("now", "compute=2", "compute=3", "now/count"):
        reply = at.get(process, path)
        assert reply["status"] == 503
        assert b"slot 2 is stuck" in reply["body"]
    assert Net.begun == 2
    assert at.value(process, "compute=1/count") == 2
    assert at.value(process, "compute/count") == 2
    at.send(process, action="count")
    assert at.slots.head(process).slot == 4
    assert at.slots.state(process, 2) is None


def test_another_process_goes_on_beside_a_stuck_one(at: Place) -> None:
    stuck, other = (at.spawn("net-test@1.0", number=str(n)) for n in range(2))
    at.send(stuck, action="too-much")
    at.send(other, action="count")
    assert [at.get(stuck, "now")["status"] for _ in range(3)] == [504, 504, 503]
    assert at.value(other, "now/count") == 2


def test_a_slot_that_can_be_computed_after_all_is_computed(at: Place) -> None:
    process = at.spawn("net-test@1.0")
    at.send(process, action="too-much")
    assert [at.get(process, "now")["status"] for _ in range(3)] == [504, 504, 503]
    Net.ended = False
    stuck = at.node.registry.lookup("process@1.0").instance._stuck
    now = stuck._clock()
    stuck._clock = lambda: now + WAIT_S + 1
    assert at.value(process, "now/count") == 2
    at.send(process, action="count")
    assert at.value(process, "now/count") == 3
    assert not stuck._entries


@device("slow-test@1.0")
class Slow:
    """Takes all the time there is, or says at once that it has none."""

    begun = 0

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Wait until the deadline."""
        body = request["body"]
        assert isinstance(body, Message)
        if body.get("action") in (b"slow", b"hasty"):
            Slow.begun += 1
            if body.get("action") == b"slow":
                threading.Event().wait(max(0.0, ctx.deadline - time.monotonic()) + 0.01)
            raise DeviceTimeout("not yet")
        return base


def test_a_slot_that_takes_all_the_time_there_is_is_stuck_too() -> None:
    Slow.begun = 0
    with place(Slow, flags={"limits.deadline": 0.4}) as at:
        process = at.spawn("slow-test@1.0")
        at.send(process, action="slow")
        found = []
        for _ in range(40):
            found.append(at.get(process, "now"))
            if found[-1]["status"] == 503:
                break
        assert {reply["status"] for reply in found[:-1]} == {504}
        assert b"slot 1 is stuck" in found[-1]["body"]
        assert Slow.begun == 2
        assert at.get(process, "compute=0")["status"] == 200


def test_a_slot_that_gave_up_early_is_not_stuck() -> None:
    with place(Slow) as at:
        process = at.spawn("slow-test@1.0")
        at.send(process, action="hasty")
        assert [at.get(process, "now")["status"] for _ in range(4)] == [504] * 4


def test_a_guest_that_runs_until_its_deadline_is_stuck() -> None:
    with place(flags={"limits.deadline": 0.4}) as at:
        process = at.spawn("wasm-64@1.0", image=wasm(BOMBS), **{"wasm-fuel": 10**17})
        at.send(process, function="forever", parameters=[])
        assert at.get(process, "compute=0")["status"] == 200
        found = [at.get(process, "now") for _ in range(2)]
        while found[-1]["status"] == 504 and len(found) < 40:
            found.append(at.get(process, "now"))
        assert found[-1]["status"] == 503
        assert b"slot 1 is stuck" in found[-1]["body"]


def test_each_time_the_node_waits_longer() -> None:
    now = [0.0]
    stuck = Stuck(lambda: now[0])
    waits = []
    for _ in range(12):
        stuck.note("p", 4)
        began = now[0]
        while True:
            try:
                stuck.check("p", 5, lambda: 4)
                break
            except Busy as error:
                now[0] += error.retry_after or 1e9
        waits.append(now[0] - began)
    assert waits[:5] == [0, WAIT_S, 2 * WAIT_S, 4 * WAIT_S, 8 * WAIT_S]
    assert waits[-1] == LONGEST_S
    stuck.note("p", 4)
    stuck.check("p", 4, lambda: 4)
    stuck.check("q", 5, lambda: 4)
    stuck.check("p", 6, lambda: 5)
    stuck.check("p", 5, lambda: 4)


def test_work_in_lua_that_no_instruction_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """The child's own net, made small: the slot is no result, and the third to ask is told at once."""
    assert isinstance(tmp_path, type(pool.SCRIPT))
    folder = tmp_path / "lua"
    (folder / "engine").mkdir(parents=True)
    for one in (*pool.SCRIPT.parent.glob("*.py"), *pool.SCRIPT.parent.glob("engine/*.lua")):
        text = one.read_text("utf-8")
        if one.name == "child.py":
            assert "\nCPU_S = 5\n" in text
            text = text.replace("\nCPU_S = 5\n", "\nCPU_S = 1\n")
        (folder / one.relative_to(pool.SCRIPT.parent)).write_text(text, "utf-8")
    monkeypatch.setattr(pool, "SCRIPT", folder / "child.py")
    monkeypatch.setattr("hyperpy.lua.states._SUDDEN_S", 0.5)
    with place() as at:
        process = at.spawn("lua@5.3a", **module(SLOW + b"\nfunction inc(base) base.count = 1 return base end"))
        at.send(process, path="inc")
        at.send(process, path="run")
        replies = [at.get(process, "now") for _ in range(3)]
        assert [reply["status"] for reply in replies] == [504, 504, 503]
        assert b"slot 2 is stuck" in replies[2]["body"]
        assert at.value(process, "compute=1/count") == 1
