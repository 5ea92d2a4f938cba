"""lua@5.3a: limits at their edges: huge functions, garbage of earlier calls, numbers that are none."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from lupa import lua53

from hyperpy import Message
from hyperpy.errors import SizeError
from hyperpy.lua.guards import Guards
from hyperpy.lua.values import Exchange
from tests.devices.lua_parts import module
from tests.devices.parts import Place
from tests.properties.test_lua import fresh


def compiled(text: str) -> bytes:
    make = lua53.LuaRuntime(encoding=None).execute(b"return function(t) return string.dump(assert(load(t))) end")
    return bytes(make(text.encode()))


def booted(text: str) -> Any:
    at = fresh()
    word, packed, _ = at.call("boot", msgpack.packb([[b"test", text.encode()]], use_bin_type=True), 0, None)
    assert word == b"ok", packed
    return at


def call(at: Any, name: bytes) -> tuple[bytes, Any]:
    word, packed, _ = at.call("call", name, msgpack.packb([]), 0, None)
    return word, msgpack.unpackb(packed, raw=True)


# -- huge functions ------------------------------------------------------------------------------------


def test_a_function_with_more_constants_than_one_instruction_can_name() -> None:
    """The mark stands behind 262,200 constants; the count of the comparison and its result are Lua's own."""
    numbers = "".join(f"x={n}.5\n" for n in range(262_200))
    text = f"local x, t = 0, {{a = 7}} {numbers} local k = 'a' return x + t[k]"
    made = Guards().guarded(compiled(text))
    assert isinstance(made, bytes)
    usual = lua53.LuaRuntime(encoding=None)
    load = usual.execute(
        b"debug.setmetatable(0, {__lt = function() return false end}) return function(c) return load(c, '', 'b')() end"
    )
    assert load(made) == 262_199.5 + 7


def test_what_is_refused_says_why() -> None:
    names = ", ".join(f"v{n}" for n in range(199))
    lines = " ".join(f"v1 = '{n}x'" for n in range(300))
    full = ", ".join(f"v{n % 199}" for n in range(51))
    text = f"local function f({names}) {lines} return v0[v1], {full} end"
    why = Guards().guarded(compiled(text))
    assert why == (
        None,
        b"function or expression needs too many registers: beside 255 constants or more it may have 249",
    )
    far = "while x do\n" + "y = x[k] + x[l]\n" * 12_000 + "end"
    assert Guards().guarded(compiled(far)) == (
        None,
        b"control structure too long: a jump over more than 131071 instructions",
    )


# -- numbers ------------------------------------------------------------------------------------------------

MATH = """
local values = {1, -2.5, "3", "x", "0x10", "1e1", {}, true, false, print, 2^53, "2.0", math.huge}
local n = #values + 1 -- the last one is nil
local function said(ok, v)
  return tostring(ok) .. ":" .. ((type(v) == "table" or type(v) == "function") and type(v) or tostring(v))
end
function run()
  local out, names = {}, {}
  for name, f in pairs(math) do
    if type(f) == "function" and not name:find("random") then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local f = math[name]
    out[#out + 1] = name .. said(pcall(f))
    for i = 1, n do
      out[#out + 1] = name .. said(pcall(f, values[i]))
      for j = 1, n do out[#out + 1] = name .. said(pcall(f, values[i], values[j])) end
    end
  end
  return out
end
"""


def test_math_is_what_it_is_in_any_lua() -> None:
    """Every function of ``math`` with no, one and two arguments of every kind, errors included."""
    usual = lua53.LuaRuntime(encoding=None, register_eval=False)
    usual.execute(MATH.encode())
    made = usual.globals()[b"run"]()
    expected = [made[at] for at in range(1, len(made) + 1)]
    word, found = call(booted(MATH), b"run")
    assert word == b"ok"
    assert len(expected) > 3000
    pairs = [(_nameless(mine), _nameless(theirs)) for mine, theirs in zip(found[0], expected, strict=True)]
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


def _nameless(text: bytes) -> bytes:
    """Return an error without what follows from the call and the C compiler: a name, which argument comes first."""
    return re.sub(rb"#[12] to '[^']*'.*", b"to it", text)


# -- memory ---------------------------------------------------------------------------------------------------

KEEPS = """
kept = {{}}
function old() kept[#kept + 1] = ("x"):rep({old} << 19) end
function garbage() return #("y"):rep(7 << 20) end
function keep()
  local t, n = {{}}, 0
  for i = 1, {new} do t[i] = ("x"):rep(1 << 19) n = #("z"):rep(9 << 16) for j = 1, 1000 do end end
  kept[3] = t
end
"""


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (30, 140, b"ok"),
        (30, 240, b"limit"),
        (50, 140, b"ok"),
        (50, 200, b"limit"),
        (90, 100, b"ok"),
        (90, 140, b"limit"),
    ],
)
def test_garbage_of_earlier_calls_decides_nothing(old: int, new: int, word: bytes) -> None:
    """A call after one that left 7 MB of garbage, and the same call on the same state without it."""
    text = KEEPS.format(old=old, new=new)
    at, again = booted(text), booted(text)
    for one in (at, again):
        assert [call(one, b"old")[0] for _ in range(2)] == [b"ok"] * 2
        assert call(one, b"garbage") == (b"ok", [7 << 20])
    again.state.collect()
    assert at.used() - again.used() > 6 << 20
    found = call(at, b"keep")[0], call(again, b"keep")[0]
    assert found == (word, word)


def test_garbage_decides_nothing_on_a_state_that_is_taken_up() -> None:
    text = KEEPS.format(old=30, new=140)
    at, other, again = booted(text), booted(text), fresh()
    for one in (at, other):
        assert [call(one, b"old")[0] for _ in range(2)] == [b"ok"] * 2
        assert call(one, b"garbage")[0] == b"ok"
    fine, kept = other.call("snapshot")
    assert fine
    assert again.call("restore", kept) is True
    assert (call(at, b"keep")[0], call(again, b"keep")[0]) == (b"ok", b"ok")


# -- texts that Lua's hash does not tell apart -----------------------------------------------------------------


def alike(count: int, size: int) -> list[str]:
    """Texts of one length that differ only where Lua's hash does not look: every second byte from the end."""
    made = []
    for number in range(count):
        text = ["s"] * size
        for place in range(4):
            text[2 * place + size % 2] = chr(97 + (number >> 4 * place & 15))
        made.append("".join(text))
    return made


SHAPES: dict[str, Callable[[int], Any]] = {
    "keys like addresses": lambda n: Message(dict.fromkeys(alike(n, 43), 1)),
    "keys of an even length": lambda n: Message(dict.fromkeys(alike(n, 62), 1)),
    "short keys": lambda n: Message(dict.fromkeys(alike(n, 39), 1)),
    "short texts in a list": lambda n: tuple(key.encode() for key in alike(n, 40)),
    "short keys in many messages": lambda n: tuple(Message({key: 1}) for key in alike(n, 40)),
    "keys that are no ASCII": lambda n: Message({"\u00e9" + key: 1 for key in alike(n, 41)}),
}
"""Values with ``n`` texts each; Lua would compare each with all the others."""


@pytest.mark.parametrize("name", SHAPES)
def test_texts_that_are_one_for_the_hash_of_lua_are_refused(name: str) -> None:
    """They take seconds where no instruction is counted, and anybody may send them."""
    with pytest.raises(SizeError, match="too many texts that are alike for Lua"):
        Exchange().pack(SHAPES[name](15_000))
    assert Exchange().pack(SHAPES[name](8_000))


def test_as_many_usual_texts_are_not() -> None:
    texts = [base64.urlsafe_b64encode(hashlib.sha256(b"%d" % n).digest())[:43].decode() for n in range(50_000)]
    short = tuple(text[:40].encode() for text in texts)
    assert Exchange().pack(Message(dict.fromkeys(texts, 1)), short, (b"s" * 40,) * 50_000)


def test_a_stranger_cannot_stop_a_process_with_such_a_message(here: Place) -> None:
    text = "function inc(base) base.count = (base.count or 0) + 1 return base end"
    process = here.spawn("lua@5.3a", **module(text))
    here.send(process, path="inc")
    here.send(process, path="inc", body=tuple(key.encode() for key in alike(15_000, 40)))
    here.send(process, path="inc")
    assert here.value(process, "now/count") == 2
    assert (
        here.get(process, "compute=2/results")["error"] == b"the parameters hold too many texts that are alike for Lua"
    )
