"""lua@5.3a: calling, sandbox, limits, snapshots (devices/07-wasm-lua)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, Result, device, key
from hyperpy.cache import Batch
from hyperpy.commitments import commit, verify
from hyperpy.context import Frame
from hyperpy.errors import Busy, DeviceError, DeviceTimeout, HyperpyError, MessageNotFound, ParameterError
from hyperpy.keys import RsaKey
from hyperpy.message import Atom, Link
from hyperpy.testing import TestNode, node
from tests.devices.lua_code import AOS, BOMBS, DEEP, ESCAPES, GREEDY, MODULE, RECURSION


@device("ticket@1.0")
class Ticket:
    """Gives another number each time."""

    taken = 0

    @key(deterministic=False)
    def take(self) -> int:
        """Return the next number."""
        Ticket.taken += 1
        return Ticket.taken


class Bench:
    """A node, and shortcuts to its Lua."""

    def __init__(self, at: TestNode) -> None:
        self.at = at

    @property
    def device(self) -> Any:
        """The running device."""
        return self.at.node.registry.lookup("lua@5.3a").instance

    def pids(self) -> list[int]:
        """The children's process numbers."""
        return self.device._pool.pids() if self.device._pool is not None else []

    def step(self, base: Message, request: Any, deadline_s: float = 30.0) -> Result:
        """Resolve with status and all."""
        resolver = self.at.node.resolver
        chain = self.at.node.chain(None, time.monotonic() + deadline_s)
        asked = request.encode() if isinstance(request, str) else Message(request)
        return resolver.resolve(base, asked, Frame(resolver, chain, 0, None))

    def get(self, base: Message, request: Any) -> Any:
        """Return the value of an ``ok`` result."""
        result = self.step(base, request)
        assert result.status == "ok", result
        return result.value

    def store(self, item: Message | bytes) -> str:
        """Store a message; return its ID."""
        batch = Batch()
        ref = self.at.node.cache.put(item, batch)
        batch.commit(self.at.node.store)
        return ref


@pytest.fixture(scope="module")
def lua() -> Iterator[Bench]:
    with node(Ticket) as at:
        yield Bench(at)


def code(text: bytes | str, **more: Any) -> Message:
    """Return a base whose module is the text."""
    module = {"content-type": "application/lua", "body": text, "name": "test"}
    return Message({"device": "lua@5.3a", "module": module, **more})


BASE = code(MODULE)


SLOW = b"""
function run() local a, b = ('x'):rep(8 << 20), ('x'):rep((8 << 20) - 1) .. 'x' while a == b do end end"""


def plain(message: Message) -> dict[str, Any]:
    return {key: message[key] for key in message}


# -- calling -----------------------------------------------------------------------------------


def test_a_key_is_a_function(lua: Bench) -> None:
    assert lua.get(BASE, "assoctable/b") == 2


def test_every_module_of_a_list_is_run_in_order(lua: Bench) -> None:
    second = {
        "content-type": "application/lua",
        "body": b"function second() return 4 end function number() return 1 end",
    }
    base = BASE | {"module": (BASE["module"], second)}
    assert lua.get(base, "second") == 4
    assert lua.get(base, "number") == 1
    assert lua.get(base, "assoctable/b") == 2


def test_modules_are_found_by_id_as_message_and_as_binary(lua: Bench) -> None:
    text = b"function f() return 'found' end"
    message, binary = lua.store(Message({"content-type": "application/lua", "body": text})), lua.store(text)
    assert lua.get(BASE | {"module": message}, "f") == b"found"
    assert lua.get(BASE | {"module": binary}, "f") == b"found"
    assert lua.get(BASE | {"module": {"1": message, "2": BASE["module"]}}, "f") == b"found"


def test_the_base_is_a_module_when_it_is_lua(lua: Bench) -> None:
    base = Message({"device": "lua@5.3a", "content-type": "text/x-lua", "body": b"function f() return 5 end"})
    assert lua.get(base, "f") == 5


@pytest.mark.parametrize(
    ("module", "error", "text"),
    [
        (None, ParameterError, "no-modules-found"),
        ("qBML126B3u6hXB4wRuyIsJ4m7qwzcTWG4mNFsV9YsEk", MessageNotFound, "Lua module 'qBML126B3u6hXB4wRuyI"),
        (Message({"content-type": "application/lua"}), MessageNotFound, "no code"),
        (Message({"a": 1}), MessageNotFound, "no code"),
        ("short", ParameterError, "'module' must be"),
    ],
)
def test_modules_that_are_none(lua: Bench, module: Any, error: type[HyperpyError], text: str) -> None:
    base = Message({"device": "lua@5.3a"}) if module is None else Message({"device": "lua@5.3a", "module": module})
    with pytest.raises(error, match=text):
        lua.step(base, "f")


def test_values_keep_their_types(lua: Bench) -> None:
    assert plain(lua.get(BASE, {"path": "mixed", "arg": "hello"})) == {
        "a": 1,
        "b": Message({"x": True, "y": "hello"}),
        "c": (1, 2, 3),
        "d": 1.5,
        "e": Message(),
        "got": b"hello",
    }
    assert type(lua.get(BASE, "number")) is int
    assert type(lua.get(BASE, "float")) is float


def test_function_and_parameters_may_be_named(lua: Bench) -> None:
    assert lua.get(BASE, {"path": "x", "function": "number"}) == 42
    assert lua.get(BASE, {"path": "x", "body": {"function": "number"}, "function": "float"}) == 42
    assert lua.get(BASE | {"function": "number"}, "x") == 42
    assert plain(lua.get(BASE, {"path": "args", "parameters": [5.0]})) == {"n": 1, "first": 5.0, "kind": b"float"}
    assert lua.get(BASE, {"path": "args", "parameters": {"1": "a", "2": "b"}})["n"] == 2
    assert lua.get(BASE, "args")["n"] == 3


def test_keys_of_the_base_are_no_calls(lua: Bench) -> None:
    base = BASE | {"number": "mine"}
    assert lua.get(base, "number") == b"mine"
    assert b"number" in lua.get(base, "keys")
    assert lua.get(base, {"path": "set", "number": 5})["number"] == 5


def test_hello(lua: Bench) -> None:
    made = lua.get(BASE | {"kept": 1}, "hello")
    assert (made["hello"], made["kept"], made["device"]) == (b"world", 1, b"lua@5.3a")
    assert lua.get(BASE, {"path": "hello", "name": "Alice"})["hello"] == b"Alice"


def test_two_values_are_status_and_result(lua: Bench) -> None:
    assert lua.step(BASE, "pair") == Result("error", b"Very bad, but Lua caught it.")


@pytest.mark.parametrize("text", ["return 1, 2", "return", "return nil", "return 'a', 'b', 'c'"])
def test_other_returns_are_errors(lua: Bench, text: str) -> None:
    result = lua.step(code(f"function f() {text} end"), "f")
    assert result.status == "error"
    assert result.value["status"] == 400


def test_errors_carry_a_trace(lua: Bench) -> None:
    result = lua.step(
        code(b"function inner(a, b)\n error('oops') end\nfunction outer()\n inner('x', 7)\n return 1 end"), "outer"
    )
    assert result.status == "error"
    assert result.value["status"] == 400
    assert result.value["body"] == b"test:2: oops"
    assert [plain(line) for line in result.value["trace"]] == [
        {"function": b"inner", "line": b"test:2", "parameters": (b"x", b"7")},
        {"function": b"outer", "line": b"test:4", "parameters": Message()},
    ]


def test_an_error_may_be_a_table(lua: Bench) -> None:
    assert lua.step(code(b"function f() error({code = 7}) end"), "f").value["body"] == Message({"code": 7})


def test_a_missing_function_and_a_module_with_a_fault(lua: Bench) -> None:
    assert lua.step(BASE, "nofn").value["body"] == b"there is no function 'nofn'"
    broken = lua.step(code(b"this is no Lua"), "f")
    assert broken.value["body"].startswith(b"test:1: syntax error")
    assert lua.step(code(b"error('at load')"), "f").value["body"] == b"test:1: at load"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("return {f = function() end}", b"holds no function: f"),
        ("return {a = {b = coroutine.create(print)}}", b"holds no thread: a/b"),
        ("local t = {} t.t = t return t", b"holds itself"),
        ("return {[{}] = 1}", b"is a table, not text"),
        ("return 1 / 0", b"no infinities"),
        ("return {x = 0 / 0}", b"no infinities"),
    ],
)
def test_what_no_message_holds_is_an_error(lua: Bench, text: str, why: bytes) -> None:
    result = lua.step(code(f"function f() {text} end"), "f")
    assert result.status == "error"
    assert why in result.value["body"]


def test_lua_cannot_write_private_values(lua: Bench) -> None:
    made = lua.get(code(b"function f() return {priv = {lua = 1}, private = 2, a = {priv_x = 1, b = 1}} end"), "f")
    assert set(made) == {"a"}
    assert set(made["a"]) == {"b"}
    assert set(made.private) == {"lua", "hashpath"}


def test_links_are_loaded_first(lua: Bench) -> None:
    loads = []

    def loader(ref: str) -> Message:
        loads.append(ref)
        return Message({"x": 7})

    base = code(b"function f(base) return base.far.x end", far=Link("A" * 43, loader))
    assert lua.get(base, "f") == 7
    assert loads == ["A" * 43]


def test_atoms_are_text_and_integers_have_64_bits(lua: Bench) -> None:
    base = code(b"function f(base) return {a = base.a, t = base.t == true, n = base.n} end", a=Atom("word"), t=True)
    made = lua.get(base | {"n": (1 << 63) - 1}, "f")
    assert (made["a"], made["t"], made["n"]) == (b"word", True, (1 << 63) - 1)
    with pytest.raises(ParameterError, match="64 bits"):
        lua.step(base | {"n": 1 << 63}, "f")


def test_functions_lists_what_can_be_called(lua: Bench) -> None:
    assert lua.step(BASE, "functions") == Result("error", Atom("not_found"))
    names = lua.get(lua.get(BASE, "init"), "functions")
    assert {b"assoctable", b"number", b"pairs"} <= set(names)
    assert list(names) == sorted(names)


def test_commitments_survive_only_where_they_are_true(lua: Bench) -> None:
    wallet = RsaKey.generate(2048)
    signed = commit(Message({"a": 1, "b": "x", "empty": []}), wallet)
    base = code(
        b"function same(b, r) return {m = r.m} end\n"
        b"function more(b, r) r.m.other = 2 return {m = r.m} end\n"
        b"function lie(b, r) r.m.a = 2 return {m = r.m} end\n"
        b"function forge(b, r) return {m = {a = 9, commitments = r.m.commitments}} end"
    )
    kept = lua.get(base, {"path": "same", "m": signed})["m"]
    assert kept == signed
    assert verify(kept, committers=[wallet.address])
    assert set(lua.get(base, {"path": "more", "m": signed})["m"].commitments) == set(signed.commitments)
    assert not lua.get(base, {"path": "lie", "m": signed})["m"].commitments
    assert not lua.get(base, {"path": "forge", "m": signed})["m"].commitments


# -- the table ao --------------------------------------------------------------------------------


def test_resolve_get_and_set(lua: Bench) -> None:
    assert lua.get(BASE, "greeting") == b"Hello, AO world!"
    assert lua.get(BASE, "getone") == 7
    assert plain(lua.get(BASE, "setone")) == {"a": 1, "b": 2}
    assert plain(lua.get(BASE, "settable")) == {"a": 1, "b": 2}
    assert lua.get(BASE, "cast")["status"] == b"ok"


def test_errors_of_a_resolution_are_values(lua: Bench) -> None:
    missing = lua.get(BASE, {"path": "ask", "ask": {"path": "/~message@1.0/nope"}})
    assert plain(missing) == {"status": b"error", "value": b"not_found"}
    unknown = lua.get(BASE, {"path": "ask", "ask": {"path": "/~nope@1.0/x"}})
    assert unknown["status"] == b"error"
    assert unknown["value"]["status"] == 404


def test_a_lua_call_inside_a_lua_call(lua: Bench) -> None:
    inner = lua.store(Message({"content-type": "application/lua", "body": b"function f() return 11 end"}))
    text = f"function g() local s, v = ao.resolve('/~lua@5.3a&module={inner}/f') return v + 1 end"
    outer = lua.store(Message({"content-type": "application/lua", "body": text}))
    base = code(f"function h() local s, v = ao.resolve('/~lua@5.3a&module={outer}/g') return v + 1 end")
    before = len(lua.pids())
    assert lua.get(base, "h") == 13
    assert len(lua.pids()) == before


def test_device_sandbox(lua: Bench) -> None:
    base = BASE | {"device-sandbox": ("message@1.0",)}
    assert lua.get(base, "greeting") == b"Hello, AO world!"
    for path in ("/~meta@1.0/info", "/~message@1.0&a=1/set&device=meta@1.0/info", "/~message@1.0/(~meta@1.0/info)"):
        answer = lua.get(base, {"path": "ask", "ask": {"path": path}})
        assert answer["status"] == b"error", path
        assert answer["value"]["status"] == 403


def test_ao_of_a_module_is_kept(lua: Bench) -> None:
    assert lua.get(code(b"ao.mine = 5 function f() return ao.mine end"), "f") == 5


def test_a_hook_may_be_lua() -> None:
    module = {
        "content-type": "application/lua",
        "body": b'function request() return {body = {{body = "i like turtles"}}} end',
    }
    with node(flags={"hooks.on": {"request": {"device": "lua@5.3a", "module": module}}}) as at:
        assert at.get("/~meta@1.0/info")["body"] == b"i like turtles"
    same = Message({"content-type": "application/lua", "body": "function request(b, r) return r end"})
    with node(flags={"hooks.on": {"request": {"device": "lua@5.3a", "module": same}}}) as at:
        assert at.get("/~message@1.0&a=1/(~message@1.0&b=a/b)")["body"] == b"1"


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


# -- the same everywhere ---------------------------------------------------------------------------


def test_pairs_and_next_have_an_order(lua: Bench) -> None:
    text = b"""
    function make() return {z = 1, a = 2, [3] = 1, [1] = 1, [2] = 2, [-1] = 0, [10] = 5, [1.5] = 1, [true] = 1} end
    function by_pairs() local s = {} for k in pairs(make()) do s[#s + 1] = tostring(k) end
      return table.concat(s, " ") end
    function by_next() local s, t, k = {}, make(), nil
      repeat k = next(t, k) s[#s + 1] = tostring(k) until k == nil return table.concat(s, " ") end
    function while_removing() local t, n = make(), 0 for k in pairs(t) do t[k] = nil n = n + 1 end return n end
    function emptied() local t, s = make(), ""
      while next(t) ~= nil do local k = next(t) s = s .. tostring(k) t[k] = nil end
      return s end"""
    base = code(text)
    assert lua.get(base, "by_pairs") == b"1 2 3 -1 10 1.5 a z true"
    assert lua.get(base, "by_next") == b"1 2 3 -1 10 1.5 a z true nil"
    assert lua.get(base, "while_removing") == 9
    assert lua.get(base, "emptied") == b"1-123101.5aztrue"


def test_names_numbers_and_time(lua: Bench) -> None:
    text = b"""
    function names() local a, b = {}, {} return tostring(a) .. tostring(b) .. tostring(a) .. string.format(" %s", b) end
    function numbers() return {tostring(1), tostring(1.0), tostring(1e15), tostring(2^53), tostring(-0.0),
      7 // 2, 7 / 2,
      string.format("%5.2f|%d|%x", 3.14159, 42, 255), tostring(1e100)} end
    function time() return {os.time(), os.date("!%Y-%m-%d %H:%M:%S"), os.clock(),
      os.time({year = 2024, month = 2, day = 29})} end
    function random() return {math.random(), math.random(6), math.random(1000)} end"""
    base = code(text)
    assert lua.get(base, "names") == b"table: 0x00000001table: 0x00000002table: 0x00000001 table: 0x00000002"
    assert lua.get(base, "numbers") == (
        *(b"1", b"1.0", b"1e+15", b"9.007199254741e+15", b"-0.0", 3, 3.5, b" 3.14|42|ff", b"1e+100"),
    )
    assert lua.get(base, {"path": "time", "timestamp": 1_700_000_000_123}) == (
        *(1_700_000_000, b"2023-11-14 22:13:20", 0.0, 1_709_208_000),
    )
    assert lua.get(base, "time")[0] == 0
    first = lua.get(base, {"path": "random", "hash-chain": "abc"})
    assert lua.get(base, {"path": "random", "hash-chain": "abc"}) == first
    assert lua.get(base, {"path": "random", "hash-chain": "abd"}) != first


def test_weak_tables_and_finalizers_are_not_seen(lua: Bench) -> None:
    text = b"""
    weak, ran = setmetatable({}, {__mode = "kv"}), 0
    weak[{}] = 1 weak.x = {}
    mt = {} late = setmetatable({}, mt) mt.__mode = "v" late[1] = {}
    setmetatable({}, {__gc = function() ran = ran + 1 end})
    function f(base) local junk = ("x"):rep(12 << 20)
      local n = 0 for _ in pairs(weak) do n = n + 1 end
      base.seen = {n, late[1] ~= nil, ran} return base end"""
    base = code(text)
    for _ in range(4):
        base = lua.get(base, "f")
        assert base["seen"] == (2, True, 0)


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_at_the_instruction_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(BOMBS[name]), "run")
    assert result.status == "error"
    assert plain(result.value) == {"status": 400, "body": b"instruction limit exceeded", "limit": b"instructions"}


@pytest.mark.parametrize("name", GREEDY)
def test_greed_ends_at_the_memory_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(GREEDY[name]), "run")
    assert plain(result.value) == {"status": 400, "body": b"memory limit exceeded", "limit": b"memory"}


@pytest.mark.parametrize("name", DEEP)
def test_depth_ends_at_the_stack_limit(lua: Bench, name: str) -> None:
    result = lua.step(code(DEEP[name]), "run")
    assert plain(result.value) == {"status": 400, "body": b"stack limit exceeded", "limit": b"stack"}


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
    slow = code(
        b"function run() local a, b = ('x'):rep(8 << 20), ('x'):rep((8 << 20) - 1) .. 'x' while a == b do end end"
    )
    with pytest.raises(DeviceTimeout):
        lua.step(slow, "run", deadline_s=1.0)
    assert lua.get(BASE, "number") == 42


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
