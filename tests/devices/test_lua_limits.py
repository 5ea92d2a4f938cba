"""lua@5.3a: the sandbox and the limits; nobody gets around them, and nobody else pays (devices/07-wasm-lua)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.errors import DeviceTimeout
from hyperpy.testing import node
from tests.devices.lua_code import BOMBS, DEEP, ESCAPES, GREEDY, MODULE, RECURSION
from tests.devices.lua_parts import BASE, SLOW, Bench, Ticket, code, plain


@pytest.fixture(scope="module")
def lua() -> Iterator[Bench]:
    with node(Ticket) as at:
        yield Bench(at)


# -- sandbox -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", [None, True, False])
def test_the_outside_is_out_of_reach(lua: Bench, sandbox: bool | None) -> None:
    base = code(MODULE) if sandbox is None else code(MODULE, sandbox=sandbox)
    result = lua.step(base, "getenv")
    assert result.status == "error"
    assert result.value["status"] == 400


@pytest.mark.parametrize("text", ESCAPES)
def test_no_way_out(lua: Bench, text: str) -> None:
    found = lua.get(code(f"function f() {text} end\nfunction g() return {{found = f()}} end", sandbox=False), "g")
    assert plain(found) in ({}, {"found": False}), found


def test_the_list_replaces_by_text_before_any_code_runs(lua: Bench) -> None:
    text = b"""top = tostring(load) .. tostring(os.execute) .. tostring(require)
    function f() return {load, os.execute, os.exit, io, package, require, loadfile, dofile, loadstring, file} end
    function g() return top end"""
    assert lua.get(code(text, sandbox=True), "f") == (b"sandboxed",) * 10
    assert lua.get(code(text, sandbox=True), "g") == b"sandboxed" * 3


def test_what_is_replaced_can_be_chosen(lua: Bench) -> None:
    text = b"function f() return {os.time, string.rep, math} end"
    assert lua.get(code(text, sandbox=("os.time", "string.rep", "math")), "f") == (b"sandboxed",) * 3
    made = lua.get(code(text, sandbox={"os.time": 5, "string.rep": {"a": 1}, "math": "m"}), "f")
    assert made == (5, Message({"a": 1}), b"m")


def test_the_table_ao_can_be_replaced_too(lua: Bench) -> None:
    text = b"""ao = {mine = 1} ipairs = nil
    function f() return {tostring(ao), type(ao) == "table" and tostring(ao.resolve)} end"""
    assert lua.get(code(text, sandbox=("ao",)), "f") == (b"sandboxed", False)
    assert lua.get(code(text, sandbox=("ao.resolve",)), "f")[1] == b"sandboxed"


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_at_the_instruction_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(BOMBS[name]), "run")
    assert result.status == "error"
    assert plain(result.value) == {"status": 400, "body": b"instruction limit exceeded", "limit": b"instructions"}


@pytest.mark.parametrize("bad", [b"", b" r.f = print"])
def test_what_is_returned_is_paid_for_by_the_item(lua: Bench, bad: bytes) -> None:
    """700,000 keys cost more than there is, whether or not something else is wrong with them too."""
    text = b"function run() local r = {} for i = 1, %d do r['k' .. i] = i end" + bad + b" return r end"
    assert lua.step(code(text % 700_000), "run").value["limit"] == b"instructions"
    few = lua.step(code(text % 7_000), "run")
    assert (few.value["body"] == b"a message holds no function: f") if bad else (few.value["k7000"] == 7000)


@pytest.mark.parametrize("name", GREEDY)
def test_greed_ends_at_the_memory_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(GREEDY[name]), "run")
    assert plain(result.value) == {"status": 400, "body": b"memory limit exceeded", "limit": b"memory"}


@pytest.mark.parametrize("name", DEEP)
def test_depth_ends_at_the_stack_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(DEEP[name]), "run")
    assert plain(result.value) == {"status": 400, "body": b"stack limit exceeded", "limit": b"stack"}


def test_a_trace_looks_at_few_levels(lua: Bench) -> None:
    """Finding a level takes as many steps as it is deep: all of 60,000 would take longer than the net allows."""
    text = b"""local depth, t = 0, nil
    t = setmetatable({}, {__tostring = function(t)
      depth = depth + 1
      if depth == 60000 then error("the bottom", 0) end
      return tostring(t) .. "" end})
    function run() return tostring(t) end"""
    result = lua.step(code(text), "run")
    assert result.value["body"] == b"the bottom"
    assert 0 < len(result.value["trace"]) <= 32


@pytest.mark.parametrize("name", RECURSION)
def test_recursion_ends(lua: Bench, name: str) -> None:
    assert lua.step(code(RECURSION[name]), "run").value["limit"] in (b"stack", b"memory")


def test_a_state_that_grows_without_end(lua: Bench) -> None:
    base = code(b"all = {} function grow(base) all[#all + 1] = ('x'):rep(60 << 20) base.n = #all return base end")
    for n in range(1, 5):
        base = lua.get(base, "grow")
        assert base["n"] == n
    assert lua.step(base, "grow").value["limit"] == b"memory"


def test_a_module_that_never_ends(lua: Bench) -> None:
    assert lua.step(code(b"while true do end"), "f").value["limit"] == b"instructions"


def test_a_bomb_costs_nobody_else_anything(lua: Bench) -> None:
    results: list[Any] = []

    def bomb() -> None:
        results.append(lua.step(code(BOMBS["loop in pcall"]), "run").value["limit"])

    threads = [threading.Thread(target=bomb) for _ in range(2)]
    for thread in threads:
        thread.start()
    base = BASE
    for n in range(1, 11):
        base = lua.get(base, "bump")
        assert base["count"] == n
    for thread in threads:
        thread.join()
    assert results == [b"instructions"] * 2


def test_many_callers_share_the_children(lua: Bench) -> None:
    """Twelve states, called from twelve threads, while children die."""
    ended: dict[int, int] = {}

    def run(number: int) -> None:
        base = BASE
        for turn in range(12):
            base = lua.get(base, "tick")
            if (number + turn) % 29 == 0 and lua.pids():
                os.kill(lua.pids()[0], signal.SIGKILL)
        ended[number] = base["hidden"]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == dict.fromkeys(range(12), 12)


def test_processor_time_is_no_result(lua: Bench) -> None:
    """Work that no instruction shows runs into the deadline: the caller may try again."""
    with pytest.raises(DeviceTimeout):
        lua.step(code(SLOW), "run", deadline_s=1.0)
    assert lua.get(BASE, "number") == 42


def test_lua_that_calls_itself_through_the_node_ends(lua: Bench) -> None:
    """The fourth call inside one another is an error that the third sees: the same everywhere."""
    text = b"""function down(base, req)
        local status, found = ao.resolve(base, {path = "down"})
        if status == "ok" then return {depth = found.depth + 1, why = found.why} end
        return {depth = 1, why = found.body}
    end"""
    found = lua.get(code(text), "down")
    assert plain(found) == {"depth": 3, "why": b"Lua calls itself too deeply through ao.resolve"}
    assert lua.get(BASE, "number") == 42


SLOWLY = {
    "sorting long texts": b"""
        local a, b, t = ('x'):rep(8 << 20) .. 'a', ('x'):rep(8 << 20) .. 'b', {}
        for i = 1, 100 do t[i] = i % 2 == 0 and a or b end
        function run() while true do table.sort(t) end end""",
    "pairs over long keys": b"""
        local t = {}
        for i = 1, 20 do t[('x'):rep(1 << 20) .. i] = i end
        function run() while true do for k in pairs(t) do end end end""",
}


@pytest.mark.parametrize("name", SLOWLY)
def test_the_length_of_texts_counts_where_the_library_compares(lua: Bench, name: str) -> None:
    result = lua.step(code(SLOWLY[name]), "run")
    assert plain(result.value) == {"status": 400, "body": b"instruction limit exceeded", "limit": b"instructions"}


def test_a_caller_is_served_while_all_children_are_held_up() -> None:
    """Bombs that no instruction shows hold every usual child until their deadline; one more is started."""
    with node() as at:
        bench = Bench(at)
        assert bench.get(BASE, "number") == 42
        usual = bench.device._pool._size
        ended: list[BaseException] = []

        def bomb() -> None:
            try:
                bench.step(code(SLOW), "run", deadline_s=25.0)
            except DeviceTimeout as error:
                ended.append(error)

        threads = [threading.Thread(target=bomb) for _ in range(usual)]
        for thread in threads:
            thread.start()
        while sum(child.busy for child in bench.device._pool._children) < usual:
            threads[0].join(0.01)
        assert bench.get(BASE, "number") == 42
        assert not ended
        for thread in threads:
            thread.join()
        assert len(ended) == usual
        assert len(bench.pids()) <= usual
