"""The benchmark of inference runs on the toy, and its two kinds of arithmetic agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperpy.bench import disputing, inferring
from hyperpy.inference import toy
from hyperpy.inference.library import Library

pytestmark = pytest.mark.timeout(300)


def test_it_runs(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes())
    library = Library(tmp_path / "models")
    library.add(tmp_path / "toy.gguf", "toy")
    found = {one.name: one.value for one in inferring.speed(library, "toy", None, answer=16)}
    assert all(value > 0 for name, value in found.items() if "memory" not in name)
    found = {(n, one.name): one for n, one in enumerate(disputing.proofs(library, "toy"))}
    assert all(one.value > 0 for one in found.values())
    assert all(one.value <= one.aim for one in found.values() if one.unit == "kB" and one.aim)
    (tmp_path / "text").write_text("the thin hill in the inn " * 200)
    found = {
        one.name: one.value for one in inferring.quality(library, "toy", tmp_path / "toy.gguf", tmp_path / "text", 2)
    }
    assert abs(found["integers beside floats"]) < 3
    assert found["the same best token as floats"] > 97
