"""WGSL gives the reference's integers: helpers, kernels on extremes, whole models; and a GPU's process may die.

Needs a Vulkan adapter; software is enough (Debian: mesa-vulkan-drivers).
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hyperpy.errors import Busy, Corrupt, HyperpyError, NotFound
from hyperpy.inference import arith, engines, reference, tables, webgpu
from hyperpy.inference.batching import Batcher
from hyperpy.inference.generation import generate
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


@pytest.fixture(scope="module")
def engine() -> Iterator[webgpu.Engine]:
    if not adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    made = webgpu.Engine(engines.toy_model())
    yield made
    made.close()


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
    for each in {1, device.TOKENS}:
        out = gpu.storage(tokens * rows * 4)
        uniform = gpu.uniform(rows, tiles.groups, FN - FQ, rows, 0, 0, tokens, 0)
        buffers = [
            part.weights,
            part.scales,
            part.factors,
            gpu.storage(x.astype(np.float32)),
            gpu.storage(sums.astype(np.int32)),
            out,
            uniform,
        ]
        got = run(
            gpu,
            gpu.pipeline(part.form.rows, part.form._replace(tokens=each)),
            buffers,
            out,
            "<i4",
            -(-rows // device.ROWS),
            -(-tokens // each),
        )
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
    wanted = reference._norm(x.astype(np.int64), gain, eps, cn, kn, FN)
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


# -- whole models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(300,), (1, 63, 64, 65, 107), (256, 1, 43)])
def test_a_prompt_in_any_pieces(engine: webgpu.Engine, pieces: tuple[int, ...]) -> None:
    judge = reference.Engine(engine.model)
    ids = [(7 * n * n + 3 * n) % engine.config.vocabulary for n in range(300)]
    wanted = judge.forward(ids, judge.cache(), every=True)
    cache, at, got = engine.cache(), 0, []
    for piece in pieces:
        got.append(engine.forward(ids[at : at + piece], cache, every=True))
        at += piece
    assert np.array_equal(np.concatenate(got), wanted)
    cache.truncate(100)
    assert np.array_equal(engine.forward(ids[100:105], cache, every=True), wanted[100:105])


def test_sessions_side_by_side(engine: webgpu.Engine) -> None:
    batcher = Batcher(engine)
    judge = reference.Engine(engine.model)
    cases = [([n + 3] * (5 * n + 1), Sampling(t16=30 * 65536, seed=bytes([n] * 32)), 12) for n in range(6)]
    sessions = [batcher.submit(*case) for case in cases]
    for case, session in zip(cases, sessions, strict=True):
        wanted = [(one.ident, one.state) for one in generate(judge, *case)]
        assert [(one.ident, one.state) for one in session] == wanted
    batcher.close()


def test_embedding_and_head_in_parts(gpu: adapter.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices beyond one binding are split by rows."""
    monkeypatch.setattr(adapter, "LARGEST", 64 * 64)
    forward = device.Forward(engines.toy_model(), gpu)
    assert len(forward._embedding.parts) > 3
    judge = reference.Engine(forward.model)
    ids = list(range(0, 264, 5))
    assert np.array_equal(forward.forward(ids, forward.cache()), judge.forward(ids, judge.cache()))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("halves", [False, True])
def test_every_kind_of_model(gpu: adapter.Gpu, architecture: str, halves: bool) -> None:
    """Biases (qwen2), head norms (qwen3), groups of 16 beside nibbles in one layer (Q4_K_M's Q6_K)."""
    kind = engines.Kind(architecture, halves)
    forward = device.Forward(engines.toy_model(kind), gpu)
    assert engines.kind(forward.model) == kind
    engines.self_test(forward)
    judge = reference.Engine(forward.model)
    ids = [(5 * n * n + n) % judge.config.vocabulary for n in range(150)]
    wanted = judge.forward(ids, judge.cache(), every=True)
    assert np.array_equal(forward.forward(ids, forward.cache(), every=True), wanted)


@pytest.mark.parametrize("changed", ["out[at.y * matrix.out_stride + at.x] = sums[at.x];", "gain[weights + i]"])
def test_the_self_test_sees_a_models_kind(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that is wrong about biases or head norms alone is refused for the models that have them."""
    name = "linear.wgsl" if "sums" in changed else "norm.wgsl"
    honest = adapter.source(name)
    assert honest.count(changed) == 1
    wrong = honest.replace(changed, changed.replace("sums[at.x]", "sums[at.x] + 1").replace("+ i]", "+ i] + 64"))
    monkeypatch.setattr(adapter, "source", lambda asked: wrong if asked == name else _text(asked))
    gpu = adapter.Gpu(adapter.pick())
    engines.self_test(device.Forward(engines.toy_model(), gpu))
    kind = engines.Kind("qwen2" if "sums" in changed else "qwen3")
    with pytest.raises(Corrupt):
        engines.self_test(device.Forward(engines.toy_model(kind), gpu))


def test_many_sessions_at_once(engine: webgpu.Engine) -> None:
    """forward_many on caches of many lengths, more than a pass takes; prefixes of caches."""
    judge = reference.Engine(engine.model)
    rng = random.Random(2)
    caches, wanted, lengths = [], [], [0, 1, 63, 64, 65, 255, 256, 257, 500]
    ids = [rng.randrange(250) for _ in range(500)]
    longest, whole = engine.cache(), judge.cache()
    engine.forward(ids, longest)
    judge.forward(ids, whole)
    for length in (*lengths, *(rng.randrange(500) for _ in range(61))):
        caches.append(longest.prefix(length))
        wanted.append(judge.forward([length % 250], whole.prefix(length)))
    got = engine.forward_many([cache.length % 250 for cache in caches], caches)
    assert np.array_equal(got, np.array(wanted))
    assert np.array_equal(engine.forward([7], longest), judge.forward([7], whole))


def test_a_pass_that_failed_leaves_nothing(engine: webgpu.Engine) -> None:
    """What the GPU's process read and its answer did not reach us is not taken for read."""
    judge = reference.Engine(engine.model)
    cache = engine.cache()
    engine.forward([5, 6, 7], cache)
    cache.length -= 1  # as if the last token's answer had been lost
    assert np.array_equal(engine.forward([9], cache), judge.forward([5, 6, 9], judge.cache()))
    cache.length += 1
    with pytest.raises(HyperpyError, match="shorter"):
        engine.forward([9], cache)


def test_an_adapter_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no WebGPU adapter 'Voodoo'") as found:
        webgpu.Engine(engines.toy_model(), "Voodoo")
    assert found.value.hint


def test_adapters_are_listed() -> None:
    found = webgpu.adapters()
    assert found
    assert all(name and kind for name, kind in found)


def test_an_adapter_with_one_wrong_bit_is_refused(gpu: adapter.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shader changed by one unit in one rounding does not pass the self-test."""
    honest = adapter.source("integers.wgsl")
    changed = honest.replace("s - 1u)), s);", "s - 1u)), s + select(0u, 1u, s > 20u));")
    assert changed != honest
    monkeypatch.setattr(adapter, "source", lambda name: changed if name == "integers.wgsl" else (_text(name)))
    liar = device.Forward(engines.toy_model(), adapter.Gpu(adapter.pick()))
    with pytest.raises(Corrupt):
        engines.self_test(liar)


def _text(name: str) -> str:
    from pathlib import Path

    return (Path(__file__).parents[2] / "shaders" / name).read_text("utf-8")


# -- the process -----------------------------------------------------------------------------------------


def test_a_killed_process_costs_its_sessions_alone() -> None:
    engine = webgpu.Engine(engines.toy_model())
    batcher = Batcher(engine)
    session = batcher.submit([5, 6], Sampling(), 1000)
    next(session)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(Busy, match="process of the GPU") as found:
        list(session)
    assert found.value.status == 503
    wanted = [one.ident for one in generate(reference.Engine(engine.model), [5, 6], Sampling(), 20)]
    assert [one.ident for one in batcher.submit([5, 6], Sampling(), 20)] == wanted
    batcher.close()
    engine.close()


def test_sessions_that_are_left_are_freed(engine: webgpu.Engine) -> None:
    before = len(engine.dropped)
    for _ in range(3):
        engine.forward([1], engine.cache())
    assert len(engine.dropped) - before <= 3
    engine.cache()
    assert len(engine.dropped) <= 1
