"""lua@5.3a: what works on long texts in one instruction is charged, and means what it means in any Lua."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgpack
import pytest
from lupa import lua53

from hyperpy.lua.guards import TooLarge, guarded
from hyperpy.testing import node
from tests.devices.lua_parts import Bench, code, module, plain
from tests.devices.parts import Place, copy, place
from tests.properties.test_lua import engine

LONG = {
    "less": "local _ = a < b",
    "not more": "local _ = a <= b",
    "more": "local _ = a > b",
    "equal": "local _ = a == b",
    "unequal in a condition": "if a ~= b then return 1 end",
    "with a constant": "local _ = n + 1",
    "a constant first": "local _ = 1 + n",
    "a sum of one": "local _ = n + n",
    "a product": "local _ = n * 2",
    "a quotient": "local _ = n // 3",
    "a remainder": "local _ = n % 3",
    "a power": "local _ = n ^ 2",
    "bits": "local _ = n & 1",
    "shifted": "local _ = 1 << n",
    "inverted": "local _ = ~n",
    "negative": "local _ = -n",
    "no number in a pcall": "pcall(function() return 1 + a end)",
    "a loop's limit": "for i = 1, n do break end",
    "a loop's step": "for i = 1, 1, n do break end",
    "a loop's beginning": "for i = n, 1 do break end",
    "a key": "local _ = t[b]",
    "a key that is set": "t[b] = 1",
    "a global's key": "_ENV[b] = 1 local _ = _ENV[a]",
    "rawget": "rawget(t, b)",
    "rawset": "rawset(t, b, 1)",
    "rawequal": "rawequal(a, b)",
    "math.floor": "math.floor(n)",
    "math.max": "math.max(n, n)",
    "math.fmod": "math.fmod(1, n)",
    "math.ult": "math.ult(1, n)",
    "math.random": "math.random(1, n)",
    "sub": "('x'):sub(n)",
    "sub's end": "('x'):sub(1, n)",
    "byte": "('x'):byte(n)",
    "rep": "(''):rep(n)",
    "char": "string.char(n)",
    "format": "('%d'):format(n)",
    "find": "('x'):find('y', n)",
    "pack": "string.pack('i8', n)",
    "unpack": "string.unpack('b', 'xxxxxxx', n)",
    "tonumber": "tonumber(n)",
    "tonumber's base": "pcall(tonumber, '1', n)",
    "select": "select(n, 1)",
    "concat": "table.concat({}, '', n, 1)",
    "table.unpack": "table.unpack({}, n, 1)",
    "table.move": "table.move({}, n, 1, 1)",
    "utf8.char": "utf8.char(n)",
    "utf8.codepoint": "utf8.codepoint('xxxxxxx', n)",
    "os.date": "os.date('%Y', n)",
    "os.time": "os.time({year = n, month = 1, day = 1})",
    "os.difftime": "os.difftime(n, 1)",
}
"""Work on long texts, once more and more: three texts of megabytes, one of them a number."""

FRAME = """
local size = 2 << 20
local a, b = ("x"):rep(size), ("x"):rep(size - 1) .. "x"
local n = ("0"):rep(size) .. "7"
local t = {{[a] = 1}}
function run(base) while true do {} end end
function inc(base) base.count = (base.count or 0) + 1 return base end
"""
OVER = {"status": 400, "body": b"instruction limit exceeded", "limit": b"instructions"}


@pytest.fixture(scope="module")
def lua() -> Iterator[Bench]:
    with node() as at:
        yield Bench(at)


@pytest.mark.parametrize("name", LONG)
def test_work_on_long_texts_ends_at_the_instruction_limit(lua: Bench, name: str) -> None:
    assert plain(lua.step(code(FRAME.format(LONG[name])), "run").value) == OVER


def test_order_of_texts_full_of_nuls(lua: Bench) -> None:
    """The C library compares them piece by piece, the slowest it can be."""
    text = r"local a, b = ('\0'):rep(1 << 20) .. 'a', ('\0'):rep(1 << 20) .. 'b' function run() while a < b do end end"
    assert plain(lua.step(code(text), "run").value) == OVER
    text = r"""local a, b, t = ('\0'):rep(1 << 20) .. 'a', ('\0'):rep(1 << 20) .. 'b', {}
        for i = 1, 50 do t[i] = i % 2 == 0 and a or b end function run() while true do table.sort(t) end end"""
    assert plain(lua.step(code(text), "run").value) == OVER


SAME = r"""
local function said(f, ...) local ok, v = pcall(f, ...) return tostring(ok) .. ":" .. tostring(v) end
local log = {}
local function logged(name) return function(a, b) log[#log + 1] = name .. type(a) .. type(b) return a end end
local mt = {}
for _, e in ipairs({"add", "sub", "mul", "div", "mod", "pow", "idiv", "band", "bor", "bxor", "shl", "shr", "unm",
  "bnot", "lt", "le", "eq", "index", "newindex", "concat", "len"}) do mt["__" .. e] = logged(e) end
local lt_only = setmetatable({}, {__lt = logged("only")})
local named = setmetatable({}, {__name = "Named"})
local values = {1, 2.5, -3, "4", "x", "0x10", true, false, {}, setmetatable({}, mt), setmetatable({}, mt), lt_only,
  named, print, math.huge, 1 << 62, "", coroutine.create(print), ("y"):rep(100)}
local OPS = {"<", "<=", ">", ">=", "==", "~=", "+", "-", "*", "/", "%", "^", "//", "&", "|", "~", "<<", ">>"}
local function name(v) local s = type(v) return (s == "string" or s == "number") and tostring(v) or s end
function run()
  local out = {}
  for _, op in ipairs(OPS) do
    local f = load("local a, b = ... return a " .. op .. " b", "=op")
    local k = load("local a = ... return a " .. op .. " 7", "=const")
    local l = load("local a = ... return 7.5 " .. op .. " a", "=left")
    for i = 1, #values + 1 do
      for j = 1, #values + 1 do
        out[#out + 1] = said(function() return name(f(values[i], values[j])) end)
      end
      out[#out + 1] = said(function() return name(k(values[i])) end)
      out[#out + 1] = said(function() return name(l(values[i])) end)
    end
  end
  for i = 1, #values + 1 do
    local v = values[i]
    out[#out + 1] = said(function() return name(-v) end)
    out[#out + 1] = said(function() return name(~v) end)
    out[#out + 1] = said(function() local s = 0 for q = v, 5 do s = s + 1 if s > 9 then break end end return s end)
    out[#out + 1] = said(function() local s = 0 for q = 1, v do s = s + 1 if s > 9 then break end end return s end)
    out[#out + 1] = said(function() local t = {} t[v] = 5 return t[v] end)
    out[#out + 1] = said(function() return name(v.x) end)
    out[#out + 1] = said(function() return v.x.y end)
    out[#out + 1] = said(function() local field = {} return field.name + v end)
    out[#out + 1] = said(function() return undefined < v end)
    out[#out + 1] = said(function() return v:nothing() end)
    out[#out + 1] = name(getmetatable(v))
  end
  local co = coroutine.wrap(function()
    local m = {__lt = function(a, b) coroutine.yield("in lt") return true end,
      __le = function(a, b) coroutine.yield("in le") return true end}
    local t = setmetatable({}, m)
    return tostring(5 < t) .. tostring(t < 5) .. tostring(t <= 5) .. tostring(5 <= t) .. tostring(t < t)
  end)
  for i = 1, 6 do out[#out + 1] = co() end
  local x = 0
  goto middle
  ::top:: x = x + 1
  ::middle::
  while x < 50 do x = x + 7 if x % 2 == 0 then goto top end repeat local y = x x = y + 1 until y > x - 2 end
  out[#out + 1] = x
  for i = 10, 1, -3 do for k, v in ipairs({1, 2, 3}) do x = x + i * v // k if x > 1000 then break end end end
  out[#out + 1] = x .. "|" .. #log .. "|" .. table.concat(log, ",")
  return out
end
"""


def test_guards_change_no_meaning() -> None:
    """Every operator on every kind of value, in this device and in a plain interpreter."""
    usual = lua53.LuaRuntime(encoding=None, register_eval=False)
    usual.execute(b"assert(load(..., '=test'))()", SAME.encode())
    made = usual.globals()[b"run"]()
    expected = [made[at] for at in range(1, len(made) + 1)]
    at = engine()
    word, packed, _ = at.call("boot", msgpack.packb([[b"test", SAME.encode()]], use_bin_type=True), 0, None)
    assert word == b"ok", packed
    word, packed, _ = at.call("call", b"run", msgpack.packb([]), 0, None)
    assert word == b"ok", packed
    found = msgpack.unpackb(packed, raw=True)[0]
    assert len(found) == len(expected) > 8000
    for mine, theirs in zip(found, expected, strict=True):
        assert _nameless(mine) == _nameless(theirs)


def _nameless(item: object) -> object:
    """Return a text without what differs on purpose: names of functions in error messages."""
    return item.split(b" 0x")[0] if isinstance(item, bytes) else item


def test_a_function_with_many_constants_and_registers(lua: Bench) -> None:
    names = ", ".join(f"v{n}" for n in range(190))
    lines = "\n".join(f"s = s + ('{n + 0.5}') * (v{n % 190} or 1)" for n in range(600))
    text = f"local function f(s, {names}) {lines} return s end function run() return {{sum = f(0, 1, 2, 3)}} end"
    usual = lua53.LuaRuntime(encoding=None, register_eval=False)
    usual.execute(text.encode())
    expected = usual.globals()[b"run"]()[b"sum"]
    # 190 parameters and 600 constants: the mark needs a register of its own.
    assert lua.get(code(text), "run")["sum"] == expected


def test_code_that_is_too_long_for_its_jumps(lua: Bench) -> None:
    text = "while x do\n" + "y = x[k] + x[l]\n" * 12_000 + "end"
    compiled = lua53.LuaRuntime(encoding=None).execute(b"return function(t) return string.dump(assert(load(t))) end")(
        text.encode()
    )
    with pytest.raises(TooLarge, match="control structure too long"):
        guarded(compiled)
    assert b"control structure too long" in lua.step(code(text), "run").value["body"]


def test_guarded_code_is_what_lua_would_compile() -> None:
    """Lines and names of locals are kept: both show in errors."""
    text = "local t = {}\n\nfunction run()\n  local deep = t.a\n  return deep.b + 1\nend"
    at = engine()
    at.call("boot", msgpack.packb([[b"test", text.encode()]], use_bin_type=True), 0, None)
    word, packed, _ = at.call("call", b"run", msgpack.packb([]), 0, None)
    assert word == b"error"
    assert msgpack.unpackb(packed, raw=True)[0] == b"test:5: attempt to index a nil value (local 'deep')"


COUNTED = """
import msgpack, sys
from tests.properties.test_lua import engine, fresh
at = engine()
made = at.call("boot", msgpack.packb([[b"m", sys.stdin.buffer.read()]], use_bin_type=True), 0, None)
def run(at, seed): return at.call("call", b"run", msgpack.packb([]), 0, seed)[2]
print(made[2], *[run(at, n) for n in range(3)])
fine, kept = at.call("snapshot")
again = fresh()
assert fine and again.call("restore", kept) is True
print(run(at, 7), run(again, 7))
"""


def test_the_count_is_the_same_in_every_process() -> None:
    text = """local t, keys = {}, {}
    for i = 1, 3000 do keys[i] = ("k"):rep(i % 50) .. i t[keys[i]] = tostring(i) end
    function run() local n, big = 0, ("z"):rep(100000)
      for k, v in pairs(t) do n = n + v if k < big or k == big then n = n + math.random(5) end t[big .. k] = nil end
      table.sort(keys) return n end"""
    found = {
        subprocess.run(
            [sys.executable, "-c", COUNTED],
            input=text.encode(),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(found) == 1
    first, resumed = found.pop().splitlines()
    assert all(int(one) > 10_000 for one in first.split())
    assert len(set(resumed.split())) == 1


def test_a_bomb_is_one_slot_and_the_next_one_computes(here: Place) -> None:
    """The same on a node that resumes between the slots, and on another with the same schedule."""
    process = here.spawn("lua@5.3a", **module(FRAME.format(LONG["less"])))
    for path in ("inc", "run", "inc", "run", "inc"):
        here.send(process, path=path)
    assert here.value(process, "now/count") == 3
    error = here.get(process, "compute=2/results")["error"]
    assert (error["body"], error["limit"]) == (b"instruction limit exceeded", b"instructions")
    with place(name="other") as other:
        for slot in range(6):
            assignment = here.slots.read(process, slot)
            assert assignment is not None
            copy(other, process, assignment)
            assert other.get(process, f"compute={slot}")["status"] == 200
            other.node._lend["workers"].retire("process", process)
        assert other.states(process, 5) == here.states(process, 5)
