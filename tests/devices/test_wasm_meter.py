"""wasm-64@1.0: what images may hold, what costly operators cost, and compiling within limits."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from hyperpy.codecs.wasm import MAGIC, instrument
from hyperpy.codecs.wasm_meter import HEAVY, LIGHT, leb, number
from hyperpy.errors import CodecError
from hyperpy.testing import node
from tests.devices.wasm_images import base, call, output, wasm

TIMES = 1000
COSTLY = {
    "memory.grow": ("(memory 1)", "(drop (memory.grow (i32.const 70000)))", LIGHT),
    "memory.grow of nothing": ("(memory i64 1)", "(drop (memory.grow (i64.const 0)))", LIGHT),
    "table.grow": ("(table 1 funcref)", "(drop (table.grow (ref.null func) (i32.const 2000000)))", LIGHT),
    "memory.fill": ("(memory 1)", "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0))", LIGHT),
    "memory.copy": ("(memory 1)", "(memory.copy (i32.const 0) (i32.const 1) (i32.const 0))", LIGHT),
    "ref.func": ("(func $g) (elem declare func $g)", "(drop (ref.func $g))", LIGHT),
    "struct.new": ("(rec (type (struct)) (type $s (struct (field i64))))", "(drop (struct.new_default $s))", LIGHT),
    "throw": ("(tag $e)", "(block $b (try_table (catch_all $b) (throw $e)))", HEAVY),
    "throw_ref": (
        "(tag $e)",
        """(throw_ref (block $b (result exnref) (try_table (catch_all_ref $b) (throw $e)) unreachable))""",
        2 * HEAVY,
    ),
}
"""What a module needs, an operator that takes long for one step, and what it costs beyond the one."""


@pytest.mark.parametrize("name", COSTLY)
def test_costly_operators_are_paid_for(bench: Any, name: str) -> None:
    """A thousand of them need a thousand times their cost, and not much more."""
    needs, operator, cost = COSTLY[name]
    if name == "throw_ref":
        operator = f"(block $c (try_table (catch_all $c) {operator}))"
    image = wasm(f"""(module {needs} (func (export "f") (result i32) (local $n i32)
      (loop $l {operator} (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const {TIMES})))) (local.get $n)))""")

    def within(fuel: int) -> Any:
        return output(bench.get(bench.get(base(image, **{"wasm-fuel": fuel}), "init"), call("f")))

    assert within(TIMES * cost) == (b"error", f"the call needs more than {TIMES * cost} steps".encode())
    assert within(TIMES * (cost + 40)) == (b"ok", (TIMES,))


@pytest.mark.parametrize("name", COSTLY)
def test_a_loop_of_them_ends_at_the_limit(bench: Any, name: str) -> None:
    """With the usual steps; not paid for, most of these ran for a minute."""
    needs, operator, _ = COSTLY[name]
    if name == "throw_ref":
        operator = f"(block $c (try_table (catch_all $c) {operator}))"
    image = wasm(f'(module {needs} (func (export "f") (loop $l {operator} (br $l))))')
    found = output(bench.get(bench.get(base(image), "init"), call("f")))
    assert found == (b"error", b"the call needs more than 2000000000 steps")


OPERATORS = {
    "br_table": "(block (block (br_table 0 1 0 1 0 (i32.const 1))))",
    "long br_table": "(block (br_table " + "0 " * 300 + "(i32.const 1)))",
    "select": "(drop (select (result funcref) (ref.null func) (ref.null func) (i32.const 1)))",
    "blocks": "(drop (block (result i64) (if (result i64) (i32.const 1) (then (i64.const -1)) (else (i64.const 7)))))",
    "block of a reference": "(drop (block (result (ref null $t)) (ref.null $t)))",
    "block of a type": "(i32.const 1) (block (param i32) (result i32)) (drop)",
    "floats": "(drop (f64.add (f64.const 1e300) (f64.promote_f32 (f32.const 64.0625))))",
    "memory": "(i64.store offset=70000 (i32.const 5) (i64.load16_s offset=300 align=1 (i32.const 9)))",
    "size": "(drop (memory.size))",
    "tables": "(table.set $x (i32.const 0) (table.get $x (i32.const 1))) (drop (table.size $x))",
    "bulk": "(data.drop $d) (elem.drop $e) (drop (i32.trunc_sat_f64_s (f64.const 1)))",
    "calls": "(call_indirect $x (type $v) (i32.const 0)) (call $v)",
    "vectors": """(drop (i8x16.shuffle 0 3 1 11 5 6 7 16 8 9 10 31 31 31 4 6
      (v128.const i64x2 64 64) (v128.const i32x4 1 64 2 3)))""",
    "lanes": """(drop (i32x4.extract_lane 3
      (v128.load32_lane offset=64 2 (i32.const 0) (v128.load offset=64 (i32.const 0)))))""",
    "wide vectors": """(drop (i32x4.dot_i16x8_s (i64x2.splat (i64.const 1))
      (f64x2.sqrt (v128.load32_zero (i32.const 0)))))""",
    "relaxed vectors": "(drop (i8x16.relaxed_swizzle (v128.const i64x2 1 2) (v128.const i64x2 1 2)))",
    "catches": "(block $a (block $b (result i32) (try_table (catch $g $b) (catch_all $a)) (i32.const 1)) (drop))",
    "references": "(drop (ref.is_null (ref.null $t))) (drop (ref.eq (ref.null eq) (ref.i31 (i32.const 1))))",
    "objects": """(drop (array.len (array.new_fixed $r 2 (i32.const 1) (i32.const 2))))
      (drop (struct.get $s 0 (struct.new_default $s)))""",
    "casts": """(drop (ref.test (ref null $s) (ref.null any)))
      (drop (block $l (result anyref) (br_on_cast $l anyref (ref $s) (ref.null any))))""",
    "tail": "(if (i32.const 0) (then (return_call $v)))",
    "typed calls": "(call_ref $v (ref.func $v)) (block $n (br_on_null $n (ref.null $v)) (drop))",
}
"""Operators of every shape, each of which must be stepped over exactly."""


@pytest.mark.parametrize("name", OPERATORS)
def test_what_stands_behind_an_operator_is_not_taken_for_one(bench: Any, name: str) -> None:
    """The last operator of the function is a costly one: it is found, and nothing else is changed."""
    image = wasm(f"""(module
      (type $t (func)) (type $v (func)) (type $r (array (mut i32))) (type $s (struct (field i32)))
      (tag $g (param i32)) (memory 2) (table $first 1 funcref) (table $x 2 funcref)
      (data $d "abc") (elem $e func $v) (elem (table $x) (i32.const 0) func $v) (elem declare func $v)
      (func $v (type $v))
      (func (export "f") {OPERATORS[name]} (drop (memory.grow (i32.const 64)))))""")
    body = _last_body(image)
    changed = _last_body(instrument(image).image, of=1)
    assert changed.endswith(b"\x41\xc0\x00" + b"\x10\x02\x40\x00\x1a\x0b")
    plain = [b"\x10\x02" + part for part in (b"\x40\x00", b"\xd2", b"\xfb\x00", b"\xfb\x01", b"\xfb\x08")]
    for one in plain:
        changed = changed.replace(one, one[2:])
    assert changed == body
    assert output(bench.get(bench.get(base(image), "init"), call("f")))[0] == b"ok"


def _last_body(image: bytes, of: int | None = None) -> bytes:
    """Return the body of function ``of``, or of the last one."""
    at = 8
    while image[at] != 10:
        size, start = leb(image, at + 1)
        at = start + size
    _, at = leb(image, at + 1)
    count, at = leb(image, at)
    found = []
    for _ in range(count):
        size, start = leb(image, at)
        at = start + size
        found.append(image[start:at])
    return found[-1 if of is None else of]


def test_operators_that_are_not_known_are_refused() -> None:
    image = wasm('(module (func (export "f") (drop (i32.const 5))))')
    assert image.count(b"\x41\x05\x1a") == 1
    for operator in (b"\xfe\x03\x00", b"\xfc\x15\x1a", b"\xe0\x00\x1a"):
        with pytest.raises(CodecError, match="not known"):
            instrument(image.replace(b"\x41\x05\x1a", operator))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(func)" * 50_001, "50001 functions"),
        ("(global (mut i64) (i64.const 1))" * 10_001, "10001 globals"),
        ("(table 1 funcref)" * 11, "11 tables"),
        ("(func " + "(local i64)" * 10_001 + ")", "10001 local variables"),
        ("(func (local i32)" + "(local.set 0 (i32.const 1000000))" * 180_000 + ")", "a function of the module has"),
        (
            ("(func " + "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))" * 90_000 + ")") * 12 + "(memory 1)",
            "more than 1000000 looks",
        ),
        ("(func " + "(local i32)" * 9_000 + "(local.set 0 (i32.const 1))" * 40_000 + ")", "9000 local variables"),
    ],
    ids=["functions", "globals", "tables", "locals", "body", "operators", "locals in a long body"],
)
def test_images_that_take_too_long_to_compile_are_refused(bench: Any, text: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        bench.get(base(wasm(f"(module {text})")), "init")


def test_numbers_are_written_as_they_are_read() -> None:
    for item in (0, 1, 127, 128, 300, 1 << 31):
        assert leb(number(item), 0) == (item, len(number(item)))


def test_compiling_that_takes_too_much_is_ended_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.devices.wasm_64 import compiler, engine

    from hyperpy.errors import DeviceStopped

    image = wasm("(module " + '(func (export "f") (param i32) (result i32) ' + _STRAIGHT + "(local.get 0)))")
    begun = []
    asked = compiler._asked

    def counted(*args: Any) -> Any:
        begun.append(args)
        return asked(*args)

    monkeypatch.setattr(compiler, "_asked", counted)
    monkeypatch.setattr(compiler, "seconds", lambda size: 0)
    with node() as n:
        for _ in range(2):
            with pytest.raises(DeviceStopped, match="compiling the image takes more than"):
                n.node.resolve(base(image), "init")
        assert len(begun) == 1
        monkeypatch.setattr(compiler, "seconds", lambda size: 120)
        small = n.node.resolve(base(wasm('(module (func (export "f")))')), "init")
        assert output(n.node.resolve(small, call("f"))) == (b"ok", ())
        engine._stopped.clear()
        assert output(n.node.resolve(n.node.resolve(base(image), "init"), call("f", 1)))[0] == b"ok"


def test_what_compiles_ends_with_its_node() -> None:
    """The node's end of the pipe closes while an image is being compiled that would take minutes."""
    from hyperpy.devices.wasm_64 import compiler

    body = b"\0" + b"\x20\x00\x20\x00\x41\x03\x6c\x6a\x21\x00" * 90_000 + b"\x20\x00\x0b"  # $0 = $0 + $0 * 3
    functions, code = number(20) + b"\0" * 20, number(20) + (number(len(body)) + body) * 20
    parts = ((1, b"\x01\x60\x01\x7f\x01\x7f"), (3, functions), (10, code))
    large = MAGIC + b"".join(bytes([kind]) + number(len(part)) + part for kind, part in parts)
    child = compiler.Compiler()._child(0)
    assert child.stdin is not None
    child.stdin.write(len(large).to_bytes(4, "big") + (600).to_bytes(4, "big") + large)
    child.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    child.stdin.close()
    assert child.wait(60) == 0


_STRAIGHT = "(local.set 0 (i32.add (local.get 0) (i32.mul (local.get 0) (i32.const 3))))" * 80_000


def test_smaller_images_are_compiled_first() -> None:
    from hyperpy.devices.wasm_64.compiler import SMALL, Compiler

    compiler = Compiler()
    waiting = [(SMALL + 5, 0), (SMALL + 1, 1), (10, 2), (5, 3)]
    compiler._queue = sorted(waiting)
    assert [compiler._free(one) for one in waiting] == [None, 1, None, 0]
    compiler._busy = [True, False]
    assert [compiler._free(one) for one in waiting] == [None, None, None, 1]
    compiler._busy = [True, True]
    assert [compiler._free(one) for one in waiting] == [None] * 4
    compiler._busy = [False, True]
    assert [compiler._free(one) for one in waiting] == [None, None, None, 0]
