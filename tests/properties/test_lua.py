"""Lua: messages come back as they went, patterns match as the C library's, sorting is stable."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa import lua53

from hyperpy.lua import child
from hyperpy.lua.guards import Guards
from hyperpy.lua.values import Exchange
from hyperpy.message import Message, Value, same, value

CODE = b"""
function echo(...) return ... end
function find(...) return {pcall(string.find, ...)} end
function match(...) return {pcall(string.match, ...)} end
function gsub(...) return {pcall(string.gsub, ...)} end
function gmatch(s, p)
  local r = {}
  local ok = pcall(function() for a, b in string.gmatch(s, p) do r[#r + 1] = tostring(a) .. "|" .. tostring(b) end end)
  return {ok, table.concat(r, ",")}
end
function sort(t) table.sort(t) return t end
function sort_pairs(t) table.sort(t, function(a, b) return a[1] < b[1] end) return t end
function build(keys) local t = {} for i, k in ipairs(keys) do t[k] = i end
  local r = {}
  for k, v in pairs(t) do r[#r + 1] = math.type(k) == "float" and string.format("%.17g", k) or tostring(k) end
  return r end
function load_it(text) local f = load(text) return f and f() end
"""


class Silent:
    """A host that is never asked."""

    def ask(self, kind: bytes, request: bytes, left: int) -> tuple[bytes, int]:
        """Fail."""
        raise AssertionError(kind)

    def guard(self, code: bytes) -> Any:
        """Return compiled code with guards."""
        return GUARDS.guarded(code)

    def log(self, text: bytes) -> None:
        """Forget."""


GUARDS = Guards()
PARTS = child.compiled(lua53)


def fresh() -> child.Engine:
    """Return an interpreter of this process without modules."""
    made = child.Engine(lua53, PARTS, Silent())  # type: ignore[arg-type]
    made.sealed(msgpack.packb([]))
    return made


def engine(*, steps: int | None = None) -> child.Engine:
    """Return an interpreter of this process; ``steps`` is what the C matcher may do."""
    made = fresh()
    if steps is not None:
        made.state.cheap = steps
    word = made.call("boot", msgpack.packb([[b"test", CODE]], use_bin_type=True), 0, None)[0]
    assert word == b"ok"
    return made


ECHO, SLOW, FAST = engine(), engine(steps=-1), engine()
PLAIN = lua53.LuaRuntime(encoding=None, register_eval=False)
PLAIN.execute(CODE)


def call(at: child.Engine, name: str, *given: Any) -> Any:
    exchange = Exchange()
    word, packed, _ = at.call("call", name.encode(), exchange.pack(*map(value, given)), 0, None)
    assert word == b"ok", packed
    return exchange.unpack(packed)


scalars = st.one_of(
    st.binary(max_size=20),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
names = st.text(max_size=8).filter(lambda k: not k.startswith("priv") and k != "commitments" and not k.isdigit())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


@given(st.lists(values, max_size=3))
def test_messages_come_back_as_they_went(given_values: list[Any]) -> None:
    wanted: list[Value] = [value(item) for item in given_values]
    found = call(ECHO, "echo", *given_values)
    assert len(found) == len(wanted)
    assert all(same(left, right) for left, right in zip(found, wanted, strict=True)), (found, wanted)


def test_an_empty_list_comes_back_as_an_empty_message() -> None:
    assert call(ECHO, "echo", (), {"a": ()}) == [Message(), Message({"a": Message()})]


ITEMS = rb"a b . %a %d [ab] [^a] [%d-] ( ) () %1 ^ $ %f[%w] %b() [a-c % %S []] [%a_] - x %z [^%s]".split()
items = st.sampled_from([*ITEMS, b"\x00"])
patterns = st.lists(st.tuples(items, st.sampled_from([b"", b"", b"*", b"+", b"-", b"?"])), max_size=6).map(
    lambda parts: b"".join(item + mark for item, mark in parts)
)
texts = st.lists(st.sampled_from([b"a", b"b", b"1", b"(", b")", b" ", b"x", b"\x00"]), max_size=10).map(b"".join)


@settings(max_examples=300)
@given(texts, patterns, st.sampled_from([b"<%0>", b"%1", b"", b"%%"]))
def test_patterns_match_as_the_c_library_does(text: bytes, pattern: bytes, replacement: bytes) -> None:
    for name, more in (("find", ()), ("match", ()), ("gsub", (replacement,)), ("gmatch", ())):
        made = PLAIN.globals()[name.encode()](text, pattern, *more)
        wanted = [made[i] for i in range(1, len(made) + 1)]
        for at in (SLOW, FAST):
            found = list(call(at, name, text, pattern, *more)[0])
            assert found[0] == wanted[0], (name, pattern, text)
            if wanted[0]:
                assert found == wanted, (name, pattern, text)


@given(st.lists(st.one_of(st.integers(-100, 100), st.floats(-100, 100)), min_size=1))
def test_sort_sorts(numbers: list[float]) -> None:
    assert list(call(ECHO, "sort", numbers)[0]) == sorted(numbers)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers()), min_size=1))
def test_sort_is_stable(rows: list[tuple[int, int]]) -> None:
    small = [(key, number % 1000) for key, number in rows]
    found = [tuple(row) for row in call(ECHO, "sort_pairs", [list(row) for row in small])[0]]
    assert found == sorted(small, key=lambda row: row[0])


def rank(item: Any) -> tuple[int, Any]:
    return (0, item) if type(item) is int else (1, item) if type(item) is float else (2, item)


keys = st.one_of(
    st.integers(-20, 20), st.floats(-20, 20).filter(lambda f: not f.is_integer()), st.binary(min_size=1, max_size=3)
)


@given(st.lists(keys, unique=True, min_size=1, max_size=30))
def test_pairs_go_in_order(some: list[Any]) -> None:
    listed = 0
    while listed + 1 in some:
        listed += 1
    rest = sorted((k for k in some if not (type(k) is int and 1 <= k <= listed)), key=rank)
    wanted = [str(n).encode() for n in range(1, listed + 1)]
    wanted += [k if isinstance(k, bytes) else b"%.17g" % k if isinstance(k, float) else str(k).encode() for k in rest]
    assert list(call(ECHO, "build", some)[0]) == wanted


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_no_text_breaks_the_loader_or_the_snapshot(text: bytes) -> None:
    at = engine()
    exchange = Exchange()
    word, _, _ = at.call("call", b"load_it", exchange.pack(text), 0, None)
    assert word in (b"ok", b"error")
    fine, data = at.call("snapshot")
    assert fine is True
    back = engine()
    assert back.call("restore", data) is True
    assert back.call("snapshot")[1] == data


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_snapshot_is_refused_or_harmless(data: st.DataObject) -> None:
    at = engine()
    good = at.call("snapshot")[1]
    spot = data.draw(st.integers(0, len(good) - 1))
    bad = good[:spot] + bytes([data.draw(st.integers(0, 255))]) + good[spot + 1 :]
    back = engine()
    found = back.call("restore", bad)
    if found is True:
        assert back.call("call", b"echo", Exchange().pack(1), 0, None)[0] in (b"ok", b"error", b"limit")
    else:
        assert found[0] is False


def test_numbers_of_instructions_are_the_same_every_time() -> None:
    work = b"""local t = {} for i = 1, 3000 do t['k' .. i] = i end
    local n = 0 for k in pairs(t) do n = n + #k end return n"""
    used = set()
    for _ in range(4):
        exchange = Exchange()
        word, _, count = engine().call("call", b"load_it", exchange.pack(work), 0, None)
        assert word == b"ok"
        used.add(count)
    assert len(used) == 1
    assert used.pop() > 10_000


@pytest.mark.parametrize("depth", [10, 60])
def test_depth_is_limited_but_reasonable(depth: int) -> None:
    nested: Any = {"x": 1}
    for _ in range(depth):
        nested = {"x": nested}
    assert same(call(ECHO, "echo", nested)[0], value(nested))
