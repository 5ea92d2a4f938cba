"""What the tests of the WebAssembly devices share: images of our own, as text, and how to call them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hyperpy import Context, Message, device, key
from hyperpy.errors import ParameterError

FAC = """(module (memory (export "memory") {index} 1)
  (func $fac (export "fac") (param f64) (result f64)
    (if (result f64) (f64.lt (local.get 0) (f64.const 1)) (then (f64.const 1))
      (else (f64.mul (local.get 0) (call $fac (f64.sub (local.get 0) (f64.const 1))))))))"""
"""Factorials; ``{index}`` is ``i32`` or ``i64``."""

POW = """(module
  (import "my_lib" "mul" (func $mul (param i32 i32) (result i32)))
  (memory (export "memory") i64 1)
  (func (export "pow") (param $base i32) (param $times i32) (result i32) (local $found i32)
    (local.set $found (i32.const 1))
    (block (loop
      (br_if 1 (i32.eqz (local.get $times)))
      (local.set $found (call $mul (local.get $found) (local.get $base)))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br 0)))
    (local.get $found)))"""
"""Powers, by calling the import ``my_lib.mul`` once per factor."""

STATE = """(module
  (memory (export "memory") i64 1)
  (global $hidden (mut i64) (i64.const 10))
  (global $real (mut f64) (f64.const 0.5))
  (global $fixed i32 (i32.const 3))
  (global $single (mut f32) (f32.const 1.5))
  (func (export "step") (result i64 i64 f64 f32)
    (global.set $hidden (i64.add (global.get $hidden) (i64.const 1)))
    (global.set $real (f64.mul (global.get $real) (f64.const 3)))
    (global.set $single (f32.neg (global.get $single)))
    (i64.store (i64.const 64) (i64.add (i64.load (i64.const 64)) (i64.const 1)))
    (global.get $hidden) (i64.load (i64.const 64)) (global.get $real) (global.get $single))
  (func (export "grow") (result i64) (memory.grow (i64.const 1)))
  (func (export "size") (result i64) (memory.size))
  (func (export "spoil")
    (global.set $hidden (i64.const 999)) (i64.store (i64.const 64) (i64.const 999)) (unreachable)))"""
"""State in memory and in globals that nothing exports."""

BOMBS = """(module
  (import "my_lib" "fail" (func $fail (result i32)))
  (memory (export "memory") i64 1)
  (func (export "forever") (loop (br 0)))
  (func $deep (export "deep") (param i64) (result i64)
    (i64.add (i64.const 1) (call $deep (i64.add (local.get 0) (i64.const 1)))))
  (func (export "memory") (result i64) (local $at i64)
    (loop
      (if (i64.ne (memory.grow (i64.const 16)) (i64.const -1))
        (then (i64.store (i64.sub (i64.mul (memory.size) (i64.const 65536)) (i64.const 8)) (i64.const 1)) (br 1))))
    (memory.size))
  (func (export "outside") (result i64) (i64.load (i64.const 0x7fffffffff)))
  (func (export "import-fails") (result i32) (i64.store (i64.const 0) (i64.const 7)) (call $fail))
  (func (export "many-imports") (result i32) (local $n i32)
    (loop (drop (call $fail)) (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if 0 (i32.lt_u (local.get $n) (i32.const 100000)))) (local.get $n))
  (func (export "nan") (result i64) (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0))))
  (func (export "first") (result i64) (i64.load (i64.const 0))))""".replace(
    '(func (export "memory")', '(func (export "eat")'
)

JUMPS = """(module
  (import "env" "invoke_vi" (func $invoke (param i32 i32)))
  (import "env" "_emscripten_throw_longjmp" (func $throw))
  (import "env" "emscripten_resize_heap" (func $resize (param i32) (result i32)))
  (import "env" "_emscripten_memcpy_js" (func $copy (param i32 i32 i32)))
  (import "env" "_abort_js" (func $abort))
  (memory (export "memory") 1 64)
  (table (export "__indirect_function_table") 4 funcref)
  (elem (i32.const 1) $jump $calm $again)
  (global $stack (mut i32) (i32.const 1000))
  (global $threw (mut i32) (i32.const 0))
  (func (export "setThrew") (param i32 i32) (global.set $threw (local.get 0)))
  (func (export "emscripten_stack_get_current") (result i32) (global.get $stack))
  (func (export "_emscripten_stack_restore") (param i32) (global.set $stack (local.get 0)))
  (func $jump (param i32) (global.set $stack (i32.const 5)) (i32.store (i32.const 0) (local.get 0))
    (call $throw) (unreachable))
  (func $calm (param i32) (i32.store (i32.const 0) (local.get 0)))
  (func (export "try") (param $which i32) (result i32 i32 i32)
    (global.set $threw (i32.const 0))
    (call $invoke (local.get $which) (i32.const 77))
    (global.get $threw) (global.get $stack) (i32.load (i32.const 0)))
  (func $again (export "again") (param i32) (call $invoke (i32.const 3) (local.get 0)))
  (func (export "uncaught") (call $throw) (unreachable))
  (func (export "abort") (call $abort))
  (func (export "resize") (param i32) (result i32 i32) (call $resize (local.get 0)) (memory.size))
  (func (export "copy") (param i32 i32 i32) (result i32)
    (i32.store (local.get 1) (i32.const 4711)) (call $copy (local.get 0) (local.get 1) (local.get 2))
    (i32.load (local.get 0))))"""
"""What emscripten's own runtime asks of its host."""

ECHO = """(module
  (memory (export "memory") {index} 4)
  (global $next (mut {index}) ({index}.const 65536))
  {data}
  (func (export "malloc") (param {index}) (result {index})
    (global.get $next)
    (global.set $next ({index}.add (global.get $next)
      ({index}.and ({index}.add (local.get 0) ({index}.const 15)) ({index}.const -16)))))
  (func (export "handle") (param {index} {index}) (result {index}) ({index}.const 1024)))"""
"""Answers every message with the fixed text at address 1024; see :func:`answering`."""


@cache
def wasm(text: str) -> bytes:
    """Return the image of a text."""
    from wasmtime import wat2wasm

    return bytes(wat2wasm(text))


def answering(answer: str, index: str = "i64") -> bytes:
    """Return an image whose ``handle`` answers every message with one text."""
    escaped = "".join(f"\\{byte:02x}" for byte in answer.encode() + b"\0")
    return wasm(ECHO.format(index=index, data=f'(data ({index}.const 1024) "{escaped}")'))


LEGACY = bytes.fromhex(
    "0061736d01000000010a0260017f0060017f017f0302010105030100010d03010000070e02066d656d6f72790200016600000a10010e0006"
    "7f20000800070041016a0b0b"
)
"""``f`` throws its parameter, catches it and adds one, in the older exception operators (made by wasm-as)."""
EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/wasm-calculator/calculator.wasm"


@device("my-lib@1.0")
class MyLib:
    """Imports that fail, or that keep count in the state."""

    @key
    def fail(self, base: Message) -> Message:
        raise ParameterError("no luck", name="args")

    @key
    def peep(self, base: Message, ctx: Context) -> Message:
        return Message({"state": ctx.resolve(base["state"], "snapshot"), "results": []})

    @key
    def mul(self, base: Message, request: Message) -> Message:
        state, args = base["state"], request["args"]
        assert isinstance(state, Message)
        assert isinstance(args, tuple)
        count = state.get("count", 0)
        assert isinstance(count, int)
        return Message(
            {"state": state | {"count": count + 1, "sig": request["func-sig"]}, "results": [args[0] * args[1]]}
        )


def base(image: bytes | str, **more: Any) -> Message:
    return Message({"device": "wasm-64@1.0", "image": image, **more})


def call(name: str, *parameters: Any) -> Message:
    return Message({"path": "compute", "function": name, "parameters": list(parameters)})


def output(state: Message, *where: str) -> Any:
    found: Any = state["results"]
    for part in where:
        found = found[part]
    return found["type"], found["output"]
