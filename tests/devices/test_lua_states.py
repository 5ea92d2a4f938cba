"""lua@5.3a: states that are kept, lost, made again and written down; the children (devices/07-wasm-lua)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.errors import Busy, DeviceError, DeviceTimeout, HyperpyError
from hyperpy.lua import states
from hyperpy.testing import node
from tests.devices.lua_code import AOS
from tests.devices.lua_parts import BASE, SLOW, Bench, Ticket, code, plain


@pytest.fixture(scope="module")
def lua() -> Iterator[Bench]:
    with node(Ticket) as at:
        yield Bench(at)


# -- states: kept, lost, restored ----------------------------------------------------------------------


def test_globals_live_on_from_call_to_call(lua: Bench) -> None:
    base = BASE
    for n in range(1, 4):
        base = lua.get(base, "tick")
        assert base["hidden"] == n


def test_a_failed_call_leaves_no_trace(lua: Bench) -> None:
    base = lua.get(lua.get(BASE, "tick"), "tick")
    assert lua.step(base, "fail_after").status == "error"
    assert lua.get(base, "tick")["hidden"] == 3


def test_a_state_is_a_value_two_futures_do_not_meet(lua: Bench) -> None:
    base = lua.get(BASE, "tick")
    first, second = lua.get(base, "tick"), lua.get(base, "tick")
    assert (first["hidden"], second["hidden"]) == (2, 2)
    assert lua.get(lua.get(first, "tick"), "tick")["hidden"] == 4
    assert lua.get(second, "tick")["hidden"] == 3


def test_a_killed_child_is_replaced_and_its_states_made_again(lua: Bench) -> None:
    base = BASE
    for n in range(1, 8):
        base = lua.get(base, "tick")
        assert base["hidden"] == n
        if n % 3 == 0:
            for pid in lua.pids():
                os.kill(pid, signal.SIGKILL)


def test_what_was_asked_outside_is_not_asked_again(lua: Bench) -> None:
    text = b"""
    function f(base) local s, v = ao.resolve("/~ticket@1.0/take") sum = (sum or 0) + v base.sum = sum return base end"""
    base, Ticket.taken = code(text), 0
    for total in (1, 3, 6, 10):
        base = lua.get(base, "f")
        assert base["sum"] == total
        for pid in lua.pids():
            os.kill(pid, signal.SIGKILL)
    assert Ticket.taken == 4


def test_snapshot_and_normalize(lua: Bench) -> None:
    base = lua.get(lua.get(BASE, "tick"), "tick")
    taken = lua.get(base, "snapshot")
    assert taken["content-type"] == b"application/x-hyperpy-lua-snapshot"
    stored = Message.make(dict(base.raw_items())) | {"snapshot": taken}
    back = lua.get(stored, "normalize")
    assert "snapshot" not in back
    assert lua.get(back, "tick")["hidden"] == 3
    inside = stored | {"device-key": "2", "snapshot": {"1": {"body": "x"}, "2": taken}}
    assert lua.get(lua.get(inside, "normalize"), "tick")["hidden"] == 3


def test_a_lost_state_without_snapshot_says_so(lua: Bench) -> None:
    with pytest.raises(DeviceError, match="no_lua_state_snapshot_found"):
        lua.step(BASE, "normalize")
    with pytest.raises(DeviceError, match="no Lua state"):
        lua.step(BASE, "snapshot")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"function f(b) co = coroutine.create(function() end) return b end", "a coroutine"),
        (b"function f(b) it = ('a'):gmatch('a') return b end", "no text made"),
        (b"function f(b) local c = coroutine.wrap(f) function g() return c end return b end", "no text made"),
        (b"function f(b) t = {[{}] = 1, [{}] = 2} return b end", "no order"),
    ],
)
def test_what_cannot_be_written_down_is_refused_but_not_lost(lua: Bench, text: bytes, why: str) -> None:
    base = lua.get(code(text + b" function more(b) b.n = (b.n or 0) + 1 return b end"), "f")
    with pytest.raises(DeviceError, match=why):
        lua.step(base, "snapshot")
    for pid in lua.pids():
        os.kill(pid, signal.SIGKILL)
    assert lua.get(lua.get(base, "more"), "more")["n"] == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"nonsense",
        b"\x97\x01\x91\x92\xa1F\x01\x90\x90\x90\x00\x00",
        b"\x97" + b"\x01" * 7,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_a_snapshot_that_is_none_is_refused(lua: Bench, body: bytes) -> None:
    with pytest.raises(DeviceError):
        lua.step(BASE | {"snapshot": {"body": body}}, "normalize")
    assert lua.get(BASE, "number") == 42


def run_story(lua: Bench, disturb: Any) -> list[Any]:
    """Compute an aos-like process, message by message; return what came out at each."""
    messages = [
        {"action": "Eval", "data": "1+1"},
        {"action": "Eval", "data": "function twice(x) return 2 * x end"},
        {
            "action": "Eval",
            "data": "local n = 0 Handlers.add('count', {action = 'Count'}, function(m) n = n + 1 return n end)",
        },
        {"action": "Count"},
        {"action": "Eval", "data": "twice(21)"},
        {"action": "Eval", "data": "tostring(Handlers) .. tostring({})"},
        {"action": "Count"},
        {"action": "Eval", "data": "error('no')"},
        {"action": "Eval", "data": "while true do end"},
        {"action": "Eval", "data": "tostring({}) .. #Inbox .. math.random(1000)"},
        {"action": "Count"},
        {"action": "Eval", "data": "setmetatable(_G, {__index = function(_, k) return 'no ' .. k end}) return nothing"},
        {"action": "Eval", "data": "absent"},
        {"action": "Eval", "data": "function string.shout(s) return s:upper() end return ('x'):shout()"},
        {"action": "Eval", "data": "table.concat(require('.utils').keys(Handlers.list[1]), ' ') .. ('y'):shout()"},
    ]
    base, seen = code(AOS), []
    for slot, body in enumerate(messages):
        result = lua.step(base, {"path": "compute", "slot": slot, "body": body})
        if result.status == "ok":
            base = disturb(slot, result.value)
            seen.append(plain(result.value["results"]["output"]))
        else:
            seen.append(plain(result.value))
    return seen


def test_results_do_not_depend_on_where_the_state_came_from(lua: Bench) -> None:
    def keep(slot: int, base: Message) -> Message:
        return base

    def kill(slot: int, base: Message) -> Message:
        if slot % 2:
            for pid in lua.pids():
                os.kill(pid, signal.SIGKILL)
        return base

    def restore(slot: int, base: Message) -> Message:
        taken = lua.get(base, "snapshot")
        return lua.get(Message.make(dict(base.raw_items())) | {"snapshot": taken}, "normalize")

    kept = run_story(lua, keep)
    assert [line.get("data", line.get("body")) for line in kept] == [
        *(b"2", b"nil", b"nil", b"1", b"42", b"table: 0x00000001table: 0x00000002", b"2", b"aos:1: no"),
        *(
            b"instruction limit exceeded",
            kept[9]["data"],
            b"3",
            b"no nothing",
            b"no absent",
            b"X",
            b"handle name patternY",
        ),
    ]
    assert run_story(lua, kill) == kept
    assert run_story(lua, restore) == kept
    with node() as other:
        assert run_story(Bench(other), keep) == kept


def test_snapshots_are_the_same_bytes_everywhere(lua: Bench) -> None:
    taken = set()
    for _ in range(3):
        with node() as at:
            here = Bench(at)
            base = code(AOS)
            for data in ("x = {a = 1, b = {2, 3}}", "y = {x, x}", "function g() return y end"):
                base = here.get(base, {"path": "compute", "body": {"action": "Eval", "data": data}})
            taken.add(here.get(base, "snapshot")["body"])
    assert len(taken) == 1


def test_long_stories_keep_a_short_memory(lua: Bench) -> None:
    base = BASE
    for _ in range(200):
        base = lua.get(base, "tick")
    state = base.private["lua"]
    assert base["hidden"] == 200
    assert len(state.entries()) < 70
    assert state.snapshot is not None


def test_a_state_that_cannot_be_written_down_is_let_go_at_last(lua: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls are not kept for ever; when its child ends it is gone, which is no result."""
    monkeypatch.setattr(states, "LOG_BYTES", 1000)
    base = code(b"""co = coroutine.wrap(function() while true do coroutine.yield() end end)
    function f(base) base.n = (base.n or 0) + 1 return base end
    function release(base) co = nil return base end""")
    for n in range(1, 71):
        base = lua.get(base, "f")
        assert base["n"] == n
    assert base.private["lua"].frail
    freed = lua.get(base, "release")
    assert lua.get(freed, "snapshot")["body"]
    with pytest.raises(Busy, match="could not be written down"):
        lua.get(base, "f")
    assert lua.get(freed, "f")["n"] == 71


def test_a_state_does_not_wait_for_its_busy_child(lua: Bench) -> None:
    slow, quick = lua.get(code(SLOW), "init"), lua.get(BASE, "tick")
    while slow.private["lua"].place.child is not quick.private["lua"].place.child:
        quick = lua.get(BASE, "tick")
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(DeviceTimeout):
            lua.step(slow, "run", deadline_s=8.0)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not slow.private["lua"].place.child.busy:
        time.sleep(0.01)
    assert lua.get(quick, "tick")["hidden"] == 2
    assert not ended.is_set()
    thread.join()


# -- the children -----------------------------------------------------------------------------------


def test_children_end_with_the_node() -> None:
    with node() as at:
        here = Bench(at)
        assert here.get(BASE, "number") == 42
        pids = here.pids()
        assert pids
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    with pytest.raises(Busy):
        here.device._pool._acquire(None, time.monotonic() + 1)


def test_a_stopping_node_does_not_wait_for_a_call() -> None:
    failed: list[BaseException] = []
    with node() as at:
        here = Bench(at)
        here.get(BASE, "number")

        def run() -> None:
            try:
                here.step(code(SLOW), "run")
            except HyperpyError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not any(child.busy for child in here.device._pool._children):
            time.sleep(0.01)
        here.device.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert isinstance(failed[0], (Busy, DeviceTimeout))
