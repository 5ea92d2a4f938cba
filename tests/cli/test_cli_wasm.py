"""hyperpy wasm convert, as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpy.cache import Batch, Cache
from hyperpy.codecs import wasm_convert
from hyperpy.message import Message
from hyperpy.store.lmdb import LmdbStore
from tests.devices.wasm_images import LEGACY

needs = pytest.mark.skipif(not wasm_convert.available(), reason="npm package binaryen is missing")


def run(*words: str, cwd: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hyperpy", "wasm", "convert", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wasm").write_bytes(LEGACY)
    code, text = run("a.wasm", cwd=tmp_path, PATH="", HYPERPY_NODE_MODULES=str(tmp_path))
    assert code == 1
    assert "Node.js" in text
    assert f"npm install binaryen@{wasm_convert.BINARYEN}" in text


def test_neither_file_nor_id(tmp_path: Path) -> None:
    code, text = run("nothing.wasm", cwd=tmp_path)
    assert (code, "neither a file nor an ID" in text) == (1, True)


@needs
def test_a_file(tmp_path: Path) -> None:
    import wasmtime

    (tmp_path / "a.wasm").write_bytes(LEGACY)
    code, text = run("a.wasm", cwd=tmp_path)
    assert code == 0, text
    config = wasmtime.Config()
    config.wasm_exceptions = True
    made = wasmtime.Module(wasmtime.Engine(config), (tmp_path / "a.converted.wasm").read_bytes())
    assert "f" in [item.name for item in made.exports]
    (tmp_path / "b.wasm").write_bytes(b"nonsense")
    code, text = run("b.wasm", cwd=tmp_path)
    assert (code, "wasm-opt does not take this image" in text) == (1, True)


@needs
def test_an_id_in_the_store(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "hyperpy-store")
    batch = Batch()
    ident = Cache(store).put(Message({"data": LEGACY}), batch)
    batch.commit(store)
    store.close()
    code, text = run(ident, cwd=tmp_path)
    assert code == 0, text
    assert ident in text
    store = LmdbStore(tmp_path / "hyperpy-store")
    try:
        kept = store.get("names", wasm_convert.kept_as(ident).encode())
        assert kept is not None
        found = Cache(store).read(kept.decode())
        assert isinstance(found, Message)
        assert found["converted-from"] == ident.encode()
    finally:
        store.close()
