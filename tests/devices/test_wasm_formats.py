"""wasm-64@1.0: images of other tools, and the binary format."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message
from hyperpy.codecs import wasm as binary
from hyperpy.codecs import wasm_convert
from hyperpy.errors import (
    ConfigError,
)
from tests.devices.wasm_images import (
    JUMPS,
    LEGACY,
    STATE,
    base,
    call,
    output,
    wasm,
)

# -- emscripten's runtime --------------------------------------------------------------------------


@pytest.fixture
def jumps(bench: Any) -> Any:
    state = bench.get(base(wasm(JUMPS), **{"wasm-memory": 8 * 65536}), "init")
    return lambda name, *parameters: output(bench.get(state, call(name, *parameters)))


def test_a_longjmp_is_caught_where_it_should_be(jumps: Any) -> None:
    assert jumps("try", 2) == (b"ok", (0, 1000, 77))
    assert jumps("try", 1) == (b"ok", (1, 1000, 77))
    assert jumps("try", 0)[0] == b"error"
    assert jumps("again", 0) == (b"error", b"the guest has more than 60 longjmp targets inside one another")
    assert jumps("uncaught") == (b"error", b"the guest threw a longjmp that nothing caught")


def test_other_runtime_functions(jumps: Any) -> None:
    assert jumps("resize", 5 * 65536) == (b"ok", (1, 5))
    assert jumps("resize", 9 * 65536) == (b"ok", (0, 1))
    assert jumps("copy", 16, 64, 8) == (b"ok", (4711,))
    assert jumps("copy", 16, 64, 1 << 20)[0] == b"error"
    assert jumps("abort") == (b"error", b"the guest ended itself")


# -- images with older exception operators -----------------------------------------------------------


def test_a_missing_converter_is_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasm_convert.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"Node\.js") as caught:
        bench.get(base(LEGACY), "init")
    assert "hyperpy wasm convert" in caught.value.diagnostics()


def test_a_converted_image_keeps_its_own_id(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def convert(image: bytes) -> bytes:
        asked.append(image)
        return wasm(
            '(module (memory (export "memory") 1) (func (export "f") (param i32) (result i32)'
            " (i32.add (local.get 0) (i32.const 1))))"
        )

    monkeypatch.setattr(wasm_convert, "convert", convert)
    changed = LEGACY + b"\0\4\1x12"  # a custom section, so that no other test has loaded it
    ident = bench.store.write(Message({"body": changed}))
    state = bench.get(base(ident), "init")
    assert state["image"] == ident.encode()
    assert output(bench.get(state, call("f", 41))) == (b"ok", (42,))
    assert asked == [changed]
    kept = bench.store.read(bench.store.named(wasm_convert.kept_as(ident)))
    assert kept["converted-from"] == ident.encode()
    bench.get(base(ident), "init")
    assert len(asked) == 1


@pytest.mark.skipif(not wasm_convert.available(), reason="npm package binaryen is missing")
def test_the_real_converter(bench: Any) -> None:
    state = bench.get(base(LEGACY), "init")
    assert output(bench.get(state, call("f", 41))) == (b"ok", (42,))


# -- the binary format -------------------------------------------------------------------------------


def test_instrumented_images_export_their_state() -> None:
    import wasmtime

    made = binary.instrument(wasm(STATE))
    assert made.globals == {0: "i64", 1: "f64", 3: "f32"}
    assert made.memory
    names = [item.name for item in wasmtime.Module(wasmtime.Engine(), made.image).exports]
    assert names[-4:] == [binary.MEMORY, *[f"{binary.GLOBAL}{index}" for index in (0, 1, 3)]]


def test_an_image_without_exports_gets_a_section() -> None:
    import wasmtime

    config = wasmtime.Config()
    made = binary.instrument(wasm('(module (memory 1) (func $f) (start $f) (data (i32.const 0) "x"))'))
    names = [item.name for item in wasmtime.Module(wasmtime.Engine(config), made.image).exports]
    assert names == [binary.MEMORY]
