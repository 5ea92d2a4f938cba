"""Model files: read as the format's own library reads them, refused when they lie, converted as section 4 says."""

from __future__ import annotations

import hashlib
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.errors import CodecError, MessageError
from hyperpy.inference import blocks, gguf, toy, trees, weights
from hyperpy.inference.gguf import Tensor
from hyperpy.inference.model import check_shapes, config_of
from hyperpy.inference.weights import Matrix, Norm

TOY = toy.gguf_bytes()


def parse(data: bytes) -> gguf.Gguf:
    return gguf.parse(memoryview(data))


def test_reads_what_the_formats_own_library_reads(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(TOY)
    theirs, ours = GGUFReader(tmp_path / "toy.gguf"), gguf.read(tmp_path / "toy.gguf")
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind, list(mine.shape)) == (tensor.tensor_type.name, tensor.shape.tolist()[::-1])
        assert bytes(mine.data) == tensor.data.tobytes()
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == value


@given(st.integers(0, len(TOY) - 1))
def test_a_file_cut_short_is_refused(at: int) -> None:
    with pytest.raises(MessageError):
        parse(TOY[:at])


@given(st.integers(0, 11_000), st.binary(min_size=1, max_size=12))
def test_a_damaged_head_is_read_or_refused(at: int, noise: bytes) -> None:
    """No damage to the tables leads to anything but a refusal or a model of the promised shapes."""
    damaged = TOY[:at] + noise + TOY[at + len(noise) :]
    try:
        parsed = parse(damaged)
        check_shapes(config_of(parsed.metadata), {t.name: t.shape for t in parsed.tensors.values()})
    except MessageError:
        return
    assert all(len(t.data) <= len(damaged) for t in parsed.tensors.values())


def with_pairs(**changed: Any) -> bytes:
    return toy.write({**toy.metadata(), **{f"llama.{k}": v for k, v in changed.items()}}, toy.tensors())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GGML" + TOY[4:], "not a GGUF"),
        (b"GGUF" + struct.pack("<I", 2) + TOY[8:], "version 2"),
        (TOY[:8] + struct.pack("<Q", 2**63) + TOY[16:], "number of tensors"),
        (TOY[:16] + struct.pack("<Q", 2**40) + TOY[24:], "number of pairs"),
        (TOY[:24] + struct.pack("<Q", 2**62) + TOY[32:], "length of the key"),
        (toy.write({"general.alignment": 48}, {}), "alignment"),
        (toy.write({}, {"w": (2, (33, 2), bytes(40))}), "whole blocks"),
        (toy.write({}, {"w": (0, (2**31, 2**31, 2**31, 2**31), b"")}), "outside the file"),
        (toy.write({}, {"w": (77, (32,), bytes(40))}), "block type 77"),
        (toy.write({}, {"w": (0, (32, 0), bytes(40))}), "whole blocks"),
        (toy.write({"a": "b"}, {"w" * 65: (0, (1,), bytes(4))}), "length of a tensor's name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lies_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        parse(data)


def test_overlapping_tensors_are_refused() -> None:
    data = bytearray(toy.write({}, {"a": (0, (32,), bytes(128)), "b": (0, (32,), bytes(128))}))
    at = data.index(struct.pack("<Q", 128))
    data[at : at + 8] = struct.pack("<Q", 96)
    with pytest.raises(CodecError, match="overlaps"):
        parse(bytes(data))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"attention.head_count": 3}, "contradicts"),
        ({"block_count": 10**6}, "block_count"),
        ({"block_count": 3}, "blk.2"),
        ({"block_count": 1}, "no use for"),
        ({"embedding_length": 128}, "shape"),
        ({"rope.freq_base": 0.5}, "freq_base"),
        ({"rope.freq_base": float("nan")}, "freq_base"),
        ({"rope.scaling.type": "yarn"}, "scaling"),
        ({"attention.sliding_window": 512}, "sliding"),
        ({"rope.dimension_count": 16}, "whole heads"),
        ({"context_length": "many"}, "context_length"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_run_is_refused(changed: dict[str, Any], reason: str) -> None:
    parsed = parse(with_pairs(**changed))
    with pytest.raises(CodecError, match=reason):
        check_shapes(config_of(parsed.metadata), {t.name: t.shape for t in parsed.tensors.values()})


def test_tokens_that_are_a_number_are_refused() -> None:
    parsed = parse(toy.write({**toy.metadata(), "tokenizer.ggml.tokens": 5}, toy.tensors()))
    with pytest.raises(CodecError):
        config_of(parsed.metadata)


def test_numbers_beyond_hpi_1_and_rows_of_zeros(recwarn: pytest.WarningsRecorder) -> None:
    huge = np.full((2, 32), 3e38, "<f4")
    with pytest.raises(CodecError):
        weights.convert(Tensor("w", "F32", (2, 32), memoryview(huge.tobytes())))
    made = weights.convert(Tensor("w", "F32", (2, 32), memoryview(np.zeros((2, 32), "<f4").tobytes())))
    assert isinstance(made, weights.Matrix)
    assert (not made.d.any(), made.rm.tolist(), made.re.tolist()) == (True, [32768] * 2, [40] * 2)
    assert not recwarn.list


def test_another_architecture_is_refused() -> None:
    with pytest.raises(CodecError, match="mamba"):
        config_of({**toy.metadata(), "general.architecture": "mamba"})


KINDS = {name: GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")}


def random_blocks(kind: str, rows: int, columns: int) -> Tensor:
    """Return a matrix of random blocks whose scales are bearable numbers."""
    _, values, size = next(entry for entry in gguf.BLOCKS.values() if entry[0] == kind)
    random = np.random.default_rng(len(kind) + rows)
    raw = random.integers(0, 256, (rows * columns // values, size)).astype(np.uint8)
    places = {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(kind, (0,))
    for place in places:
        scale = random.uniform(-0.01, 0.01, len(raw)).astype("<f2")
        raw[:, place : place + 2] = scale.view(np.uint8).reshape(-1, 2)
    return Tensor("w", kind, (rows, columns), memoryview(raw.tobytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_what_the_formats_own_library_decodes(kind: str) -> None:
    tensor = random_blocks(kind, 6, 512)
    theirs = dequantize(np.frombuffer(tensor.data, np.uint8).reshape(6, -1), KINDS[kind])
    q, d24, m24 = blocks.decode(tensor, 0, 6)
    group = 512 // d24.shape[1]
    ours = (np.repeat(d24, group, 1) * q + np.repeat(m24, group, 1)) * 2.0**-24
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert np.abs(theirs).max() > 0.01
    part = blocks.decode(tensor, 2, 5)
    assert all(np.array_equal(whole[2:5], some) for whole, some in zip((q, d24, m24), part, strict=True))


def by_the_book(d24: list[Fraction], m24: list[Fraction]) -> tuple[int, int, list[int], list[int]]:
    """Section 4.2 in fractions, for one row."""
    a, b = max(map(abs, d24)), max(map(abs, m24))
    if not a and not b:
        return 32768, 40, [0] * len(d24), [0] * len(m24)
    ratio = a / 4095 if a * 32767 >= b * 4095 else b / 32767
    e = 24
    while ratio * 2 ** (e - 24) < 2**15:
        e += 1
    rm = -(-ratio * 2 ** (e - 24) // 1)
    if rm == 65536:
        rm, e = 32768, e - 1
    scaled = [[(2 * v * Fraction(2) ** (e - 24) + rm) // (2 * rm) for v in part] for part in (d24, m24)]
    return int(rm), e, *scaled


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_fitted_by_the_book(kind: str) -> None:
    tensor = random_blocks(kind, 12, 512)
    _, d24, m24 = blocks.decode(tensor, 0, 12)
    made = weights.convert(tensor)
    assert isinstance(made, Matrix)
    for row in range(12):
        expected = by_the_book([Fraction(int(v)) for v in d24[row]], [Fraction(int(v)) for v in m24[row]])
        assert (int(made.rm[row]), int(made.re[row]), made.d[row].tolist(), made.m[row].tolist()) == expected


@given(st.integers(0, 2**32), st.sampled_from(["F32", "F16", "BF16"]))
def test_float_matrices_by_the_book(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.05, (3, 96)) * 2.0 ** random.integers(-12, 3, (3, 1))
    values[:, 32:64] *= 2.0 ** random.integers(-24, 1)
    values[1, 64:] = 0
    single = values.astype("<f4")
    raw = {"F32": single, "F16": single.astype("<f2"), "BF16": (single.view("<u4") >> 16).astype("<u2")}[kind]
    tensor = Tensor("w", kind, (3, 96), memoryview(raw.tobytes()))
    exact, made = blocks.floats(tensor), weights.convert(tensor)
    assert isinstance(made, Matrix)
    for row in range(3):
        scales = []
        for g in range(3):
            group = [Fraction(float(v)) for v in exact[row, 32 * g : 32 * g + 32]]
            e = int(np.frexp(np.abs(exact[row, 32 * g : 32 * g + 32]).max())[1])
            w = [(v * Fraction(2) ** (30 - e) + Fraction(1, 2)) // 1 for v in group]
            peak = max(map(abs, w))
            q = [0 if not peak else (1 if v > 0 else -1) * int((254 * abs(v) + peak) // (2 * peak)) for v in w]
            assert made.q[row, 32 * g : 32 * g + 32].tolist() == q
            scales.append(Fraction(peak) * Fraction(2) ** (e - 30) / 127 * 2**24)
        rm, re, d, m = by_the_book(scales, [Fraction(0)] * 3)
        assert (int(made.rm[row]), int(made.re[row]), made.d[row].tolist(), made.m[row].tolist()) == (rm, re, d, m)


def test_a_real_quantiser_and_the_integers_agree() -> None:
    values = np.random.default_rng(5).normal(0, 0.05, (8, 256)).astype(np.float32)
    tensor = Tensor("w", "Q8_0", (8, 256), memoryview(quantize(values, KINDS["Q8_0"]).tobytes()))
    made = weights.convert(tensor)
    assert isinstance(made, Matrix)
    real = made.integers(slice(None)) * made.rm[:, None].astype(float) * 2.0 ** -made.re.astype(int)[:, None]
    assert np.abs(real - values).max() < 0.002


def test_weights_out_of_bounds_are_refused() -> None:
    bad = np.zeros((1, 34), np.uint8)
    for scale in (np.inf, np.nan, 65504.0):
        bad[0, :2] = np.array([scale], "<f2").view(np.uint8)
        with pytest.raises(CodecError):
            weights.convert(Tensor("w", "Q8_0", (1, 32), memoryview(bad.tobytes())))
    with pytest.raises(CodecError, match="not a multiple of 32"):
        weights.convert(Tensor("w", "F32", (2, 16), memoryview(bytes(128))))
    with pytest.raises(CodecError, match="not a number"):
        weights.convert(Tensor("w", "F32", (1,), memoryview(np.array([np.nan], "<f4").tobytes())))


def test_norms() -> None:
    made = weights.norm(np.array([0.5, -3.0, 2.0**-30]), "n")
    assert (made.g.tolist(), made.eg) == ([2**21, -3 * 2**22, 0], 22)
    assert weights.norm(np.zeros(3), "n").eg == 24


def test_identifiers_by_hand() -> None:
    q = np.arange(128, dtype=np.uint8).reshape(2, 64) & 15
    small = np.arange(4, dtype=np.int16).reshape(2, 2)
    matrix = Matrix(q, small, -small, np.array([32768, 40000], np.uint16), np.array([30, 31], np.uint8))
    norm = Norm(np.array([1, -2], np.int32), -3)
    payload = q.tobytes() + small.tobytes() + (-small).tobytes() + struct.pack("<HHBB", 32768, 40000, 30, 31)
    parts = [b"a\0" + payload, b"b\0" + struct.pack("<iii", 1, -2, -3)]
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert weights.model_id({"b": norm, "a": matrix}) == hashlib.sha256(digests).digest()
    leaves = []
    for row in range(2):
        flat = q[row].tobytes() + small[row].tobytes() + (-small[row]).tobytes()
        flat += struct.pack("<HB", matrix.rm[row], matrix.re[row])
        leaves.append(hashlib.sha256(b"\0" + flat).digest())
    one = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()
    other = hashlib.sha256(b"\0" + struct.pack("<iii", 1, -2, -3)).digest()
    both = [hashlib.sha256(b"\0" + root).digest() for root in (one, other)]
    assert weights.weight_root({"b": norm, "a": matrix}) == hashlib.sha256(b"\1" + both[0] + both[1]).digest()


def test_an_odd_node_is_promoted_unchanged() -> None:
    a, b, c = (bytes([n]) * 32 for n in range(3))
    ab = hashlib.sha256(b"\1" + a + b).digest()
    assert trees.root([a, b, c]) == hashlib.sha256(b"\1" + ab + c).digest()
    assert trees.root([a]) == a
