"""WGSL gives the reference's integers: helpers, and kernels on extremes.

Needs a Vulkan adapter; software is enough (Debian: mesa-vulkan-drivers).
"""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import numpy as np
import pytest

from hyperpy.inference import arith, engines, reference, tables
from hyperpy.inference.model import Config, Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tables import FN, FQ
from hyperpy.inference.weights import Matrix, Norm

wgpu = pytest.importorskip("wgpu")
from hyperpy.inference import webgpu_adapter as adapter  # noqa: E402
from hyperpy.inference import webgpu_device as device  # noqa: E402

LOW, HIGH = -(2**31), 2**31 - 1


@pytest.fixture(scope="module")
def gpu() -> adapter.Gpu:
    if not adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    return adapter.Gpu(adapter.pick())


def run(gpu: adapter.Gpu, pipeline: Any, buffers: list[Any], out: Any, kind: str, x: int, y: int = 1) -> Any:
    """Dispatch once; return the buffer ``out`` as an array."""
    entries = [
        {"binding": n, "resource": {"buffer": b, "offset": 0, "size": b.size}}
        for n, b in enumerate(buffers)
        if b is not None
    ]
    group = gpu.device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
    encoder = gpu.device.create_command_encoder()
    work = encoder.begin_compute_pass()
    work.set_pipeline(pipeline)
    work.set_bind_group(0, group)
    work.dispatch_workgroups(x, y)
    work.end()
    gpu.device.queue.submit([encoder.finish()])
    return np.frombuffer(gpu.device.queue.read_buffer(out), kind)


# -- helpers ---------------------------------------------------------------------------------------

ENTRY = """
@group(0) @binding(0) var<storage, read> a: array<i32>;
@group(0) @binding(1) var<storage, read> b: array<i32>;
@group(0) @binding(2) var<storage, read> s: array<i32>;
@group(0) @binding(3) var<storage, read_write> out: array<i32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  let i = at.x;
  if (i >= arrayLength(&a)) { return; }
  BODY
}
"""


def rsr(v: int, s: int) -> int:
    """Section 1, on Python's integers."""
    return (v + (1 << (s - 1))) >> s if s > 0 else v << -s


def sat(v: int) -> int:
    return max(LOW, min(HIGH, v))


def edges(rng: random.Random, count: int) -> list[int]:
    some = [0, 1, -1, 2, -2, 255, -256, 32767, -32768, 65535, 65536, 2**30, -(2**30), HIGH, LOW, HIGH - 1, LOW + 1]
    return [
        rng.choice(some) if rng.random() < 0.4 else rng.randint(LOW, HIGH) >> rng.randrange(32) for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("out[i] = rescale(imul64(a[i], b[i]), s[i]);", lambda a, b, s: sat(rsr(a * b, s)) if s <= 62 else 0),
        ("out[i] = sat_add(a[i], b[i]);", lambda a, b, s: sat(a + b)),
        ("out[i] = rsr32(a[i], u32(abs(s[i])) & 31u);", lambda a, b, s: rsr(a, abs(s) & 31) if abs(s) & 31 else a),
        (
            "out[i] = bit_length64(imul64(abs(a[i] >> 1u), abs(b[i] >> 1u)));",
            lambda a, b, s: (abs(a >> 1) * abs(b >> 1)).bit_length(),
        ),
        ("out[i] = i32(isqrt(bitcast<u32>(a[i])));", lambda a, b, s: int(np.floor(np.sqrt(np.float64(a % 2**32))))),
        (
            "out[i] = i32(umul64(bitcast<u32>(a[i]), bitcast<u32>(b[i])).y);",
            lambda a, b, s: ((a % 2**32) * (b % 2**32)) >> 32,
        ),
        (
            "out[i] = rescale(mul64(imul64(a[i], b[i] >> 16u), 65535u), s[i]);",
            lambda a, b, s: sat(rsr(a * (b >> 16) * 65535, s)) if s <= 62 else 0,
        ),
        ("out[i] = i32(size_of(a[i]));", lambda a, b, s: abs(a)),
    ],
)
def test_integers_are_pythons(gpu: adapter.Gpu, body: str, wanted: Any) -> None:
    rng = random.Random(body)
    count = 4096
    a, b = edges(rng, count), edges(rng, count)
    s = [rng.randrange(-40, 66) for _ in range(count)]
    code = adapter.source("integers.wgsl") + ENTRY.replace("BODY", body)
    module = gpu.device.create_shader_module(code=code)
    pipeline = gpu.device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "main"})
    used = [("a[" in body, a), ("b[" in body, b), ("s[" in body, s)]
    buffers = [gpu.storage(np.array(part, np.int32)) if use or part is a else None for use, part in used]
    out = gpu.storage(count * 4)
    got = run(gpu, pipeline, [*buffers, out], out, "<i4", count // 64).tolist()
    for x, y, z, found in zip(a, b, s, got, strict=True):
        assert found == (wanted(x, y, z) + 2**31) % 2**32 - 2**31, (x, y, z)


# -- kernels ----------------------------------------------------------------------------------------


def matrix(rng: np.random.Generator, rows: int, columns: int, kind: str, extreme: bool) -> Matrix:
    nibbles, groups = kind == "nibbles", columns // (16 if kind == "halves" else 32)
    if nibbles:
        q = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
        m = rng.integers(-32767, 32768, (rows, groups)).astype(np.int16)
    else:
        q = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
        m = np.zeros((rows, groups), np.int16)
    d = rng.integers(-4095, 4096, (rows, groups)).astype(np.int16)
    if extreme:
        q[:] = 15 if nibbles else -128
        d[:] = 4095
        m[:] = 32767 if nibbles else 0
        q[rows // 2], d[rows // 2], m[rows // 2] = 0, 0, 0
    return Matrix(
        q, d, m, rng.integers(32768, 65536, rows).astype(np.uint16), rng.integers(24, 50, rows).astype(np.uint8)
    )


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("kind", ["nibbles", "bytes", "halves"])
@pytest.mark.parametrize(
    ("rows", "columns", "tokens"), [(64, 32, 1), (70, 96, 1), (1, 1536, 3), (130, 1056, 11), (64, 64, 8)]
)
def test_linear(gpu: adapter.Gpu, rows: int, columns: int, tokens: int, kind: str, extreme: bool) -> None:
    """Random and extreme: x15 = +-16384, D = 4095, M = 32767, q = -128, a row of zeros, T beside the tile."""
    rng = np.random.default_rng(rows * columns + tokens)
    weight = matrix(rng, rows, columns, kind, extreme)
    x = rng.integers(-16384, 16385, (tokens, columns))
    if extreme:
        x[:] = 16384
        x[:, ::7] *= -1 if kind == "nibbles" else 1
    shift = rng.integers(-14, 19, tokens)
    wanted = reference.Engine(engines.toy_model()).linear(x, shift, weight, FN, FQ)
    sums = np.concatenate([x.reshape(tokens, -1, 32).sum(axis=2), shift[:, None]], axis=1)
    tiles = adapter.Tiles(gpu, [weight])
    (part,) = tiles.parts
    for each, split in product((1, device.TOKENS), (False, True)):
        form = part.form._replace(tokens=each, split=split)
        out = gpu.storage(tokens * rows * 4)
        uniform = gpu.uniform(rows, tiles.groups, FN - FQ, rows, 0, 0, tokens, 0)
        inputs = gpu.storage(x.astype(np.float32)), gpu.storage(sums.astype(np.int32))
        buffers = [part.weights, part.scales, part.factors, *inputs, out, uniform]
        pipeline = gpu.pipeline(form.multiply, form)
        got = run(gpu, pipeline, buffers, out, "<i4", -(-rows // form.rows), -(-tokens // each))
        assert np.array_equal(got.reshape(tokens, rows), wanted)


@pytest.mark.parametrize("kind", ["random", "large", "small", "zero", "one"])
@pytest.mark.parametrize("width", [64, 576, 96])
def test_rms_norm_and_digits(gpu: adapter.Gpu, kind: str, width: int) -> None:
    rng = np.random.default_rng(width)
    rows = 3
    x = rng.integers(-(2**20), 2**20, (rows, width))
    if kind == "large":
        x = rng.choice(np.array([LOW, HIGH, HIGH - 1, 0]), (rows, width))
    if kind == "small":
        x = rng.integers(-1, 2, (rows, width))
    if kind == "zero":
        x[:] = 0
    if kind == "one":
        x[:] = 0
        x[:, 5] = LOW
    gain = Norm(rng.integers(-(2**24), 2**24 + 1, width).astype(np.int32), 22)
    cn, kn = tables.norm_constants(width)
    eps = tables.epsilon(width, 1e-5)
    wanted = reference.normed(x.astype(np.int64), gain, eps, cn, kn, FN)
    digits, shift = arith.quantise(wanted)
    buffers = [gpu.storage(x.astype(np.int32)), gpu.storage(gain.g), gpu.storage(rows * width * 4)]
    buffers += [gpu.storage(rows * (width // 32 + 1) * 4)]
    buffers += [gpu.uniform(width, 0, cn, kn, gain.eg, eps & 0xFFFFFFFF, eps >> 32, FN), gpu.storage(rows * width * 4)]
    between = run(gpu, gpu.pipeline("rms_norm"), buffers, buffers[5], "<i4", rows).reshape(rows, width)
    assert np.array_equal(between, wanted)
    found = np.frombuffer(gpu.device.queue.read_buffer(buffers[2]), "<f4").reshape(rows, width)
    assert np.array_equal(found, digits)
    sums = np.frombuffer(gpu.device.queue.read_buffer(buffers[3]), "<i4").reshape(rows, -1)
    assert np.array_equal(sums[:, -1], shift)
    assert np.array_equal(sums[:, :-1], digits.reshape(rows, -1, 32).sum(axis=2))


def test_swiglu(gpu: adapter.Gpu) -> None:
    rng = np.random.default_rng(5)
    width, rows = 1536, 3
    gates = rng.integers(-(2**20), 2**20, (rows, 2, width))
    gates[0, :, :17] = np.array([0, 1, -1, 24 << 16, -(24 << 16), (24 << 16) + 1, HIGH, LOW, 65536, -65536] + [7] * 7)
    gates[1] = rng.choice(np.array([LOW, HIGH, 0, 1, -1]), (2, width))
    g, u = gates[:, 0], gates[:, 1]
    wanted = arith.sat(arith.rsr(arith.sat(arith.rsr(g * arith.sigmoid(g), 30)) * u, 18))
    buffers = [gpu.storage(gates.astype(np.int32)), gpu.storage(tables.exp2().astype(np.int32))]
    buffers += [gpu.storage(rows * width * 4), gpu.storage(rows * (width // 32 + 1) * 4)]
    buffers += [gpu.uniform(width, 0, 0, 0, 0, 0, 0, 0), gpu.storage(rows * width * 4)]
    got = run(gpu, gpu.pipeline("swiglu"), buffers, buffers[5], "<i4", rows).reshape(rows, width)
    assert np.array_equal(got, wanted)


class Heads(reference.Engine):
    """The reference's attention for any number of heads, over a cache of one layer."""

    def __init__(self, heads: int, kv_heads: int, head: int, neox: bool) -> None:
        shape = Config(
            layers=1, width=heads * head, hidden=32, heads=heads, kv_heads=kv_heads, vocabulary=2, context=4096,
            eps=1e-5, rope_base=10000.0, neox=neox,
        )  # fmt: skip
        super().__init__(Model(shape, {}, bytes(32)))


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head", "neox"), [(9, 3, 64, False), (2, 1, 32, True), (3, 3, 96, False), (2, 2, 256, True)]
)
@pytest.mark.parametrize("context", [1, 255, 256, 257, 1024])
def test_attention(
    gpu: adapter.Gpu, heads: int, kv_heads: int, head: int, neox: bool, context: int, extreme: bool
) -> None:
    """RoPE, cache and attention for the last tokens of contexts beside every boundary."""
    judge = Heads(heads, kv_heads, head, neox)
    rng = np.random.default_rng(context + heads)
    count = min(context, 3)
    first = context - count
    cache = reference.Cache(judge.model, context)
    cache.length = first
    if extreme:
        cache.k[:] = rng.choice(np.array([-16384, 16384]), cache.k.shape)
        cache.v[:] = rng.choice(np.array([-32639, 32639]), cache.v.shape)
    else:
        cache.k[:] = rng.integers(-16384, 16385, cache.k.shape)
        cache.v[:] = rng.integers(-32639, 32640, cache.v.shape)
    cache.ks[:] = rng.integers(-14, 19, cache.ks.shape) if extreme else 3
    packed = np.zeros((context, kv_heads, head + 1), np.uint32)
    words = lambda part: part[0].transpose(1, 0, 2).astype("<i2").copy().view("<u4")  # noqa: E731
    packed[:, :, : head // 2], packed[:, :, head // 2 + 1 :] = words(cache.k), words(cache.v)
    packed[:, :, head // 2] = cache.ks[0].T.astype(np.int32).view(np.uint32)
    q, k, v = (rng.integers(-(2**22), 2**22, (count, n * head)) for n in (heads, kv_heads, kv_heads))
    if extreme:
        q[0], k[0], v[0] = HIGH, LOW, HIGH
    wanted = judge.attention(0, q.astype(np.int64), k.astype(np.int64), v.astype(np.int64), cache, lambda *_: None)
    qkv = gpu.storage(np.concatenate([q, k, v], axis=1).astype(np.int32))
    shifts, kept = gpu.storage(count * heads * 4), gpu.storage(packed)
    turns = gpu.storage(judge._rope.upto(context)[:context].astype(np.int32))
    uniform = gpu.uniform(heads, kv_heads, head, first, tables.c2(head), int(neox), context, 0)
    run(
        gpu,
        gpu.pipeline("turn"),
        [qkv, shifts, kept, turns, None, None, uniform],
        shifts,
        "<i4",
        heads + 2 * kv_heads,
        count,
    )
    scores, seen = gpu.storage(count * heads * context * 4), gpu.storage(count * heads * head * 4)
    exp2 = gpu.storage(tables.exp2().astype(np.int32))
    got = run(gpu, gpu.pipeline("look"), [qkv, shifts, kept, exp2, scores, seen, uniform], seen, "<i4", heads, count)
    assert np.array_equal(got.reshape(count, -1), wanted)
    now = np.frombuffer(gpu.device.queue.read_buffer(kept), "<u4").reshape(packed.shape)
    assert np.array_equal(now[:, :, : head // 2], words(cache.k))
    assert np.array_equal(now[:, :, head // 2 + 1 :], words(cache.v))


@pytest.mark.parametrize("t16", [0, 656, 65536, 30 * 65536, 100 * 65536])
@pytest.mark.parametrize("vocabulary", [1, 2, 255, 264, 5001, 49152])
def test_the_choice_of_a_token(gpu: adapter.Gpu, vocabulary: int, t16: int) -> None:
    """Random logits, ties everywhere, one that stands out, extremes: what the sampler chooses."""
    rng = np.random.default_rng(vocabulary + t16)
    kinds = [
        rng.integers(-(2**20), 2**20, vocabulary),
        rng.integers(-2, 2, vocabulary),
        np.zeros(vocabulary, np.int64),
        np.where(np.arange(vocabulary) == vocabulary - 1, 2**21, 0),
        rng.choice(np.array([LOW, HIGH]), vocabulary),
        np.full(vocabulary, LOW),
    ]
    for kind in kinds:
        logits, ids = gpu.storage(kind.astype(np.int32)), gpu.storage(4)
        for position in range(6):
            sampling = Sampling(t16=t16, seed=bytes([position] * 32))
            drawn, inverse = sampling.drawn(position), sampling.inverse
            values = (vocabulary, 40 * t16, inverse, inverse >> 32, drawn, drawn >> 32, 0, 0)
            buffers = [logits, ids, gpu.storage(tables.exp2().astype(np.int32)), gpu.uniform(*values)]
            if t16 == 0:
                assert int(run(gpu, gpu.pipeline("choose"), buffers, ids, "<u4", 1)[0]) == int(np.argmax(kind))
            got = int(run(gpu, gpu.pipeline("choose"), buffers, ids, "<u4", 1)[0])
            assert got == sampling.choose(kind.astype(np.int64), position), position
