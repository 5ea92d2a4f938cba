"""lua@5.3a: calling, the table ao, and the same results everywhere (devices/07-wasm-lua)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, Result
from hyperpy.commitments import commit, verify
from hyperpy.errors import HyperpyError, MessageNotFound, ParameterError
from hyperpy.keys import RsaKey
from hyperpy.message import Atom, Link
from hyperpy.testing import node
from tests.devices.lua_parts import BASE, Bench, Ticket, code, plain


@pytest.fixture(scope="module")
def lua() -> Iterator[Bench]:
    with node(Ticket) as at:
        yield Bench(at)


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
    text = b"ao = ao or {mine = 5} function f() return ao.mine .. type(ao.get) .. type(ao.resolve) end"
    assert lua.get(code(text), "f") == b"5functionfunction"


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


def test_which_error_a_value_has_does_not_depend_on_chance(lua: Bench) -> None:
    """Several values that no message can hold: the first in the order of keys is named, in every interpreter."""
    text = b"""function f() local t = {} for i = 1, 200 do t["k" .. i] = {deep = {f, fine = 1}} end return t end
    function g() local ok, why = pcall(ao.resolve, f(), "x") return {why = why} end"""
    for _ in range(3):
        assert lua.step(code(text), "f").value["body"] == b"a message holds no function: k1/deep/1"
        assert lua.get(code(text), "g")["why"] == b"a message holds no function: k1/deep/1"


def test_two_numbers_of_one_text(lua: Bench) -> None:
    """The larger one counts, and a text more than either."""
    text = b"""function f() local t = {x = 1} local a = 0.1 + 0.2 t[0.3] = "less" t[a] = "more" return t end
    function g() local t = {x = 1} t[0.1 + 0.2] = "more" t[0.3] = "less" t["0.3"] = "text" return t end"""
    for _ in range(3):
        assert plain(lua.get(code(text), "f")) == {"x": 1, "0.3": b"more"}
        assert plain(lua.get(code(text), "g")) == {"x": 1, "0.3": b"text"}


def test_a_state_of_many_small_tables(lua: Bench) -> None:
    base = code(b"function inc(base) base.n = (base.n or 0) + 1 return base end") | {
        "users": {f"user-{n}": {"balance": n, "name": f"n{n}"} for n in range(150_000)}
    }
    for n in (1, 2):
        base = lua.get(base, "inc")
        assert base["n"] == n
    assert base["users"]["user-149999"]["balance"] == 149_999
