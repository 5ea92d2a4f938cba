"""Other architectures than llama, against a float forward pass written from their definitions.

The judge (:mod:`hyperpy.bench.floating`) gets its weights and shape from the format's own library and knows nothing
of integers; what it shares with the engines is the model file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from hyperpy.bench.floating import Floats
from hyperpy.errors import CodecError
from hyperpy.inference import cpu, gguf, reference, toy, weights
from hyperpy.inference.library import Library
from hyperpy.inference.model import Model, check_shapes, config_of

pytestmark = pytest.mark.timeout(300)
KINDS = ("llama", "qwen2", "qwen3")
IDS = [(5 * n * n + 11 * n + 3) % 264 for n in range(40)]


def model_of(data: bytes) -> Model:
    parsed = gguf.parse(memoryview(data))
    config = config_of(parsed.metadata)
    check_shapes(config, {tensor.name: tensor.shape for tensor in parsed.tensors.values()})
    found = {name: weights.convert(tensor) for name, tensor in parsed.tensors.items()}
    return Model(config, found, weights.model_id(found))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Model:
    return model_of(toy.gguf_bytes(architecture=kind))


def apart(got: Any, expected: Any) -> float:
    """Return the mean difference, in parts of the mean size."""
    return float(np.abs(got - expected).mean() / np.abs(expected).mean())


def floats(file: Path, kind: str) -> Floats:
    """Return the judge for a model file, which its own library reads."""
    reader = GGUFReader(file)
    weights = {t.name: np.asarray(dequantize(t.data, t.tensor_type), np.float64) for t in reader.tensors}
    field = {key: value.contents() for key, value in reader.fields.items()}
    return Floats(
        factors=weights.pop("rope_freqs.weight", 1.0),
        weights=weights,
        layers=field[f"{kind}.block_count"],
        heads=field[f"{kind}.attention.head_count"],
        groups=field[f"{kind}.attention.head_count_kv"],
        eps=field[f"{kind}.attention.layer_norm_rms_epsilon"],
        base=field[f"{kind}.rope.freq_base"],
        halves=kind != "llama",
    )


def test_the_float_model_agrees(kind: str, model: Model, tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes(architecture=kind))
    expected = floats(tmp_path / "toy.gguf", kind).logits(IDS)
    engine = reference.Engine(model)
    got = engine.forward(IDS, engine.cache(), every=True) / 65536.0
    assert apart(got, expected) < 0.01


def test_what_an_architecture_adds_matters(kind: str, model: Model, tmp_path: Path) -> None:
    """The judge above could not pass by accident: read as another architecture, the logits are far away."""
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes(architecture=kind))
    judge = floats(tmp_path / "toy.gguf", kind)
    engine = reference.Engine(model)
    got = engine.forward(IDS, engine.cache(), every=True) / 65536.0
    judge.halves = not judge.halves
    assert apart(got, judge.logits(IDS)) > 0.05
    judge.halves = not judge.halves
    judge.weights = {
        name: w * (0 if name.endswith(".bias") else 3 if "_q_norm" in name else 1) for name, w in judge.weights.items()
    }
    if kind != "llama":
        assert apart(got, judge.logits(IDS)) > 0.05


def test_the_compiled_engine_gives_the_same_bits(model: Model) -> None:
    fast, judge = cpu.Engine(model), reference.Engine(model)
    ours, theirs = fast.cache(), judge.cache()
    for first, last in ((0, 33), (33, 34), (34, 40)):
        piece = IDS[first:last]
        assert np.array_equal(fast.forward(piece, ours, every=True), judge.forward(piece, theirs, every=True))


@pytest.mark.parametrize(("kind", "without"), [("qwen2", "blk.1.attn_k.bias"), ("qwen3", "blk.0.attn_q_norm.weight")])
def test_a_file_that_lacks_what_its_architecture_needs_is_refused(kind: str, without: str) -> None:
    tensors = toy.tensors(architecture=kind)
    del tensors[without]
    with pytest.raises(CodecError, match=without):
        model_of(toy.write(toy.metadata(kind), tensors))


def test_a_bias_beyond_the_format_is_refused() -> None:
    tensors = toy.tensors(architecture="qwen2")
    kind, sizes, _ = tensors["blk.0.attn_q.bias"]
    tensors["blk.0.attn_q.bias"] = kind, sizes, np.full(sizes[0], 40000, "<f4").tobytes()
    with pytest.raises(CodecError, match="biases"):
        model_of(toy.write(toy.metadata("qwen2"), tensors))


def test_scaled_rotations(tmp_path: Path) -> None:
    """A table of factors in the file (Llama 3.1), and one factor for all pairs."""
    table = np.linspace(1, 32, 16, dtype="<f4")
    made = {"rope_freqs.weight": (0, (16,), table.tobytes()), **toy.tensors()}
    linear = {**toy.metadata(), "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    files = {"table": toy.write(toy.metadata(), made), "linear": toy.write(linear, toy.tensors())}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        models = Library(tmp_path / f"{name}-models")
        models.add(tmp_path / name, name)
        engine = cpu.Engine(models.load(name)[0])
        got = engine.forward(IDS, engine.cache(), every=True) / 65536.0
        judge = floats(tmp_path / name, "llama")
        for factors, close in ((table if name == "table" else 4.0, True), (1.0, False)):
            judge.factors = factors
            difference = apart(got, judge.logits(IDS))
            assert difference < 0.01 if close else difference > 0.05


@pytest.mark.parametrize("table", [[0.5] * 16, [1.0] * 15, [2e6] * 16], ids=["low", "few", "high"])
def test_factors_that_cannot_be(tmp_path: Path, table: list[float]) -> None:
    raw = np.array(table, "<f4")
    (tmp_path / "x").write_bytes(
        toy.write(toy.metadata(), {"rope_freqs.weight": (0, (len(raw),), raw.tobytes()), **toy.tensors()})
    )
    with pytest.raises(CodecError, match="factors"):
        Library(tmp_path / "models").add(tmp_path / "x", "x")
