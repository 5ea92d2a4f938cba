"""Processes on lua@5.3a: equal states wherever they are computed, and slots that pass a limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments
from hyperpy.trail import Trail
from tests.devices.lua_code import AOS
from tests.devices.lua_parts import module
from tests.devices.parts import Place, copy, place

COUNTER = b"""
function compute(base) base.count = base.count or 0 return base end
function inc(base) base.count = (base.count or 0) + 1 return base end
function alpha(base) return "hello " .. base.count end
"""

EVALS = (
    "x = (x or 0) + 1 return x",
    "function more(n) x = x + n return x end",
    "more(10)",
    "local n = 0 Handlers.add('count', {action = 'Count'}, function(m) n = n + 1 return n end)",
    "error('on purpose')",
    "more(math.random(100)) .. tostring({}) .. os.time()",
    "while true do pcall(load, 'x') end",
    "more(1) .. tostring(Handlers)",
)


def story(at: Place) -> str:
    """Spawn a process and send it everything; return its ID."""
    process = at.spawn("lua@5.3a", **module(AOS))
    for text in EVALS:
        at.send(process, action="Eval", data=text)
    at.send(process, action="Count")
    at.send(process, action="Count")
    return process


LAST = len(EVALS) + 2


def copy_all(at: Place, other: Place, process: str) -> None:
    """Give another node the same schedule."""
    for slot in range(LAST + 1):
        assignment = at.slots.read(process, slot)
        assert assignment is not None
        copy(other, process, assignment)


def pids(at: Place) -> list[int]:
    pool = at.node.registry.lookup("lua@5.3a").instance._pool
    return pool.pids() if pool is not None else []


def test_a_counter(here: Place) -> None:
    process = here.spawn("lua@5.3a", **module(COUNTER))
    for wanted in (1, 2):
        here.send(process, path="inc")
        assert here.value(process, "now/count") == wanted
    assert here.value(process, "as=execution/alpha") == b"hello 2"


ASKING = b"""
function compute(base, req)
  local ok, status, value = pcall(ao.resolve, req.body.ask)
  base.ok, base.said = tostring(ok), tostring(status)
  base.value = type(value) == "table" and (value.body or value.x) or tostring(value)
  return base
end
"""


@pytest.mark.parametrize(
    "ask",
    [
        "/~meta@1.0/info/address",
        "/~cron@1.0/once?cron-path=/~meta@1.0/info",
        "/~query@1.0/all?type=Process&return=count",
        "/{process}/slot/current",
        "/{process}~process@1.0/compute=0/said",
        "/~secret@1.0/generate",
        "/{process}~process@1.0/schedule&from=0",
    ],
)
def test_a_slot_learns_nothing_of_the_node(here: Place, ask: str) -> None:
    process = here.spawn("lua@5.3a", **module(ASKING))
    here.value(process, "now/at-slot")
    here.send(process, ask=ask.format(process=process))
    state = here.get(process, "now")
    assert (state["ok"], state["said"]) == (b"true", b"error")
    assert b"is not deterministic" in state.text("value").encode()
    assert here.node.timers.count() == 0
    record = Trail(here.node.store).by_slot(process, 1)
    assert record is not None
    again = here.node.resolver.rerun(record, time.monotonic() + 30)
    assert again.hashpath == record.hashpath_after
    assert again.value["value"] == state["value"]  # type: ignore[index,call-overload]
    with place(name="other") as other:
        for slot in (0, 1):
            assignment = here.slots.read(process, slot)
            assert assignment is not None
            copy(other, process, assignment)
        assert other.value(process, "now/at-slot") == 1
        assert other.states(process, 1) == here.states(process, 1)


def test_a_message_that_is_not_here_is_no_result_of_a_slot(here: Place) -> None:
    """Another node may hold it: the slot waits, and is computed once the message is there."""
    process = here.spawn("lua@5.3a", **module(ASKING))
    wanted = Message({"x": "found"})
    here.send(process, ask=f"/{commitments.unsigned_id(wanted)}")
    assert here.get(process, "now")["status"] == 404
    assert here.slots.state(process, 1) is None
    here.node._lend["store"].write(wanted)
    assert here.value(process, "now/value") == b"found"


def test_the_cache_is_no_part_of_a_state(here: Place) -> None:
    process = here.spawn("lua@5.3a", **module(ASKING))
    here.send(process, ask="/~calculator@1.0/add?a=1&b=2&cache-control=only-if-cached")
    assert here.value(process, "now/said") == b"ok"


def test_outside_a_process_lua_may_ask_the_node(here: Place) -> None:
    base = Message({"device": "lua@5.3a", **module(ASKING)})
    for ask, said in (("/~meta@1.0/info/address", b"ok"), ("/" + "B" * 43, b"error")):
        made = here.node.resolve(base, {"path": "compute", "body": {"ask": ask}})
        assert made["said"] == said  # type: ignore[index,call-overload]


def test_the_story(here: Place) -> None:
    process = story(here)
    results = [here.get(process, f"compute={slot}/results") for slot in range(LAST + 1)]
    data = [found["output"]["data"] if "output" in found else found["error"]["body"] for found in results]
    assert data[1:8] == [
        *(b"1", b"nil", b"11", b"nil", b"aos:1: on purpose", data[6], b"instruction limit exceeded"),
    ]
    assert data[6].endswith(b"table: 0x000000017")
    assert data[-2:] == [b"1", b"2"]
    assert here.get(process, "now")["at-slot"] == LAST


def _killed(at: Place, process: str) -> None:
    for pid in pids(at):
        os.kill(pid, signal.SIGKILL)


def _retired(at: Place, process: str) -> None:
    at.node._lend["workers"].retire("process", process)


@pytest.mark.parametrize("disturb", [_killed, _retired], ids=["children killed", "worker gone"])
def test_states_are_equal_whatever_happens_between(here: Place, disturb: Callable[[Place, str], None]) -> None:
    process = story(here)
    here.get(process, "now")
    with place() as other:
        copy_all(here, other, process)
        for slot in range(LAST + 1):
            assert other.get(process, f"compute={slot}")["status"] == 200
            disturb(other, process)
        assert other.states(process, LAST) == here.states(process, LAST)


def test_a_second_node_goes_on_from_the_store(tmp_path: Path) -> None:
    with place(store=tmp_path / "store") as first:
        process = story(first)
        first.get(process, f"compute={LAST - 1}")
    with place(store=tmp_path / "store") as second:
        second.get(process, "now")
        found = second.states(process, LAST)
        with place() as alone:
            copy_all(second, alone, process)
            alone.get(process, "now")
            assert found == alone.states(process, LAST)


def test_many_processes_at_once(here: Place) -> None:
    processes = [here.spawn("lua@5.3a", **module(COUNTER), number=str(n)) for n in range(8)]
    for process in processes:
        for _ in range(5):
            here.send(process, path="inc")
    found: dict[str, Any] = {}

    def run(process: str) -> None:
        found[process] = here.value(process, "now/count")

    threads = [threading.Thread(target=run, args=(process,)) for process in processes for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(processes, 5)


NESTED = b"""
function work(base, req) local x = 0 for i = 1, 4000000 do x = i end return {x = x} end
function deeper(base, req) return select(2, ao.resolve(base, {path = "work"})) end
function run(base, req)
  local said = {}
  for i = 1, req.body.times do said[i] = select(2, ao.resolve(base, {path = req.body.what})).x or "no" end
  base.said = #said
  return base
end
"""


@pytest.mark.parametrize("what", ["work", "deeper"])
def test_a_slot_pays_for_the_lua_it_calls_through_the_node(here: Place, what: str) -> None:
    """Four million rounds are within the limit five times, not nine times; also from a call inside a call."""
    process = here.spawn("lua@5.3a", **module(NESTED))
    for times in (5, 9, 1):
        here.send(process, path="run", times=times, what=what)
    assert here.value(process, "now/said") == 1
    assert here.value(process, "compute=1/said") == 5
    error = here.get(process, "compute=2/results")["error"]
    assert (error["body"], error["limit"]) == (b"instruction limit exceeded", b"instructions")
    with place(name="other") as other:
        for slot in range(4):
            assignment = here.slots.read(process, slot)
            assert assignment is not None
            copy(other, process, assignment)
            assert other.get(process, f"compute={slot}")["status"] == 200
            _killed(other, process)
        assert other.states(process, 3) == here.states(process, 3)
    record = Trail(here.node.store).by_slot(process, 2)
    assert record is not None
    assert here.node.resolver.rerun(record, time.monotonic() + 30).hashpath == record.hashpath_after


def test_calls_inside_calls_do_not_multiply(here: Place) -> None:
    process = here.spawn(
        "lua@5.3a",
        **module(b"""
        function spin(base) while true do end end
        function run(base) while true do ao.resolve(base, {path = "spin"}) end end
        function inc(base) base.count = (base.count or 0) + 1 return base end"""),
    )
    here.send(process, path="run")
    here.send(process, path="inc")
    assert here.value(process, "now/count") == 1
    assert here.get(process, "compute=1/results")["error"]["limit"] == b"instructions"
