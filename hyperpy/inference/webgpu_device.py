"""The shaders on one WebGPU adapter: weights in their memory, and the steps of a forward pass (HPI-1, section 8).

Runs in a process of its own; see :mod:`hyperpy.inference.webgpu`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import wgpu

from hyperpy.errors import ConfigError, NotFound, ParameterError
from hyperpy.inference import tables
from hyperpy.inference.model import LAYER_NORMS, Model
from hyperpy.inference.shaders import source
from hyperpy.inference.tables import FA, FG, FH, FL, FN, FQ
from hyperpy.inference.weights import Matrix

TOKENS: Final = 4
"""Tokens that a workgroup of ``linear.wgsl`` does together, where there are more than one."""
CHUNK: Final = 64
"""Tokens of one pass; longer prompts take several."""
LANES: Final = 64
ROWS: Final = 4 * LANES
"""Rows of a matrix that a workgroup does: each lane has one in each of four tiles."""
LARGEST: Final = 128 << 20
"""Bytes of one binding by WebGPU's default limits; larger matrices are split by rows."""
HEAD: Final = 256
"""Widest head whose sums stay in i32."""
POSITIONS: Final = 256
"""Positions that a new session has room for; it doubles."""
_STORAGE: Final = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
_UNIFORM: Final = wgpu.BufferUsage.UNIFORM | wgpu.BufferUsage.COPY_DST

_BINDINGS: Final = {
    "rms_norm": ("norm.wgsl", (0, 1, 2, 3, 4, 5)),
    "only_quantise": ("norm.wgsl", (0, 2, 3, 4, 5)),
    "swiglu": ("norm.wgsl", (0, 1, 2, 3, 4, 5)),
    "nibble_rows": ("linear.wgsl", (0, 1, 2, 3, 4, 5, 6)),
    "byte_rows": ("linear.wgsl", (0, 1, 2, 3, 4, 5, 6)),
    "embed_nibbles": ("linear.wgsl", (0, 1, 2, 5, 6, 7)),
    "embed_bytes": ("linear.wgsl", (0, 1, 2, 5, 6, 7)),
    "turn": ("attention.wgsl", (0, 1, 2, 3, 6)),
    "look": ("attention.wgsl", (0, 1, 2, 3, 4, 5, 6)),
}
"""Which file an entry point stands in, and which bindings it uses."""


def adapters() -> list[Any]:
    """Return the machine's adapters, hardware first."""
    found = wgpu.gpu.enumerate_adapters_sync()
    return sorted(found, key=lambda one: one.info["adapter_type"] == "CPU")


def named(adapter: Any) -> str:
    """Return an adapter's name: device, driver, and API."""
    info = adapter.info
    return f"{info['device']}, {info['description']}, {info['backend_type']}"


def pick(name: str = "") -> Any:
    """Return the first adapter whose name holds a text, hardware before software.

    Raises:
        NotFound: there is none.
    """
    found = adapters()
    for one in found:
        if name.lower() in named(one).lower():
            return one
    known = "; ".join(map(named, found)) or "none"
    raise NotFound(f"there is no WebGPU adapter {name!r}", hint=f"This machine has: {known}.")


class Gpu:
    """One adapter with the shaders compiled, within WebGPU's default limits."""

    def __init__(self, adapter: Any) -> None:
        self.name = named(adapter)
        self.device = adapter.request_device_sync(required_limits={})
        self._pipelines: dict[tuple[str, int], Any] = {}

    def pipeline(self, entry: str, tokens: int = 1) -> Any:
        """Return a compiled entry point; ``tokens`` is what a workgroup of ``linear.wgsl`` does together."""
        found = self._pipelines.get((entry, tokens))
        if found is None:
            text = source("integers.wgsl") + source(_BINDINGS[entry][0])
            text = text.replace("const TOKENS = 1u;", f"const TOKENS = {tokens}u;")
            module = self.device.create_shader_module(code=text)
            found = self.device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": entry})
            self._pipelines[entry, tokens] = found
        return found

    def bind(self, entry: str, buffers: Sequence[Any], tokens: int = 1) -> Any:
        """Return a bind group; the buffers are those of the entry point's bindings, in order."""
        layout = self.pipeline(entry, tokens).get_bind_group_layout(0)
        entries = [
            {"binding": binding, "resource": {"buffer": buffer, "offset": 0, "size": buffer.size}}
            for binding, buffer in zip(_BINDINGS[entry][1], buffers, strict=True)
        ]
        return self.device.create_bind_group(layout=layout, entries=entries)

    def storage(self, data: Any) -> Any:
        """Return a buffer of an array, or of a number of bytes."""
        if isinstance(data, int):
            return self.device.create_buffer(size=max(data, 4), usage=_STORAGE)
        return self.device.create_buffer_with_data(data=np.ascontiguousarray(data), usage=_STORAGE)

    def uniform(self, *values: int) -> Any:
        """Return a uniform buffer of 32-bit integers."""
        made = self.device.create_buffer(size=32, usage=_UNIFORM)
        self.write(made, values)
        return made

    def write(self, buffer: Any, values: Sequence[int], offset: int = 0) -> None:
        """Write 32-bit integers, signed or not."""
        data = struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values))
        self.device.queue.write_buffer(buffer, offset, data)


class Tiles:
    """A matrix as ``linear.wgsl`` reads it, in parts of at most :data:`LARGEST` bytes."""

    def __init__(self, gpu: Gpu, matrices: Sequence[Matrix], scale: int) -> None:
        whole = _stacked(matrices)
        self.rows, self.columns = whole.shape
        self.groups = self.columns // 32
        self.nibbles = whole.q.dtype == np.uint8 and int(whole.q.max(initial=0)) < 16
        width = self.columns // 2 if self.nibbles else self.columns
        step = max(LARGEST // width // LANES, 1) * LANES
        self.parts = [
            (first, *_tiles(gpu, whole, first, min(first + step, self.rows), self.nibbles))
            for first in range(0, self.rows, step)
        ]
        self.scale = scale

    @property
    def entry(self) -> str:
        return "nibble_rows" if self.nibbles else "byte_rows"


def _stacked(matrices: Sequence[Matrix]) -> Matrix:
    """Return matrices of the same input as one; where they differ in kind, all as bytes."""
    if len(matrices) == 1:
        return matrices[0]
    kinds = {matrix.q.dtype for matrix in matrices}
    qs = [matrix.q if len(kinds) == 1 else matrix.q.astype(np.int8) for matrix in matrices]
    rest = (np.concatenate([getattr(matrix, part) for matrix in matrices]) for part in ("d", "m", "rm", "re"))
    return Matrix(np.concatenate(qs), *rest)


def _tiles(gpu: Gpu, matrix: Matrix, first: int, last: int, nibbles: bool) -> tuple[Any, Any, Any, int]:
    """Return weights, scales and row factors of some rows in tiles of 64 (buffers), and how many rows there are."""
    rows, groups = last - first, matrix.shape[1] // 32
    tiles = -(-rows // LANES)
    pad = tiles * LANES - rows

    def tiled(part: Any, width: int) -> Any:
        filled = np.concatenate([part, np.zeros((pad, *part.shape[1:]), part.dtype)]) if pad else part
        return filled.reshape(tiles, LANES, groups, width).transpose(0, 2, 1, 3)

    q: Any = matrix.q[first:last].view(np.uint8)
    if nibbles:
        q = q[:, ::2] | (q[:, 1::2] << 4)
    weights = np.ascontiguousarray(tiled(q, 16 if nibbles else 32))
    both = (matrix.d[first:last].astype(np.int64) & 0xFFFF) | ((matrix.m[first:last].astype(np.int64) & 0xFFFF) << 16)
    scales = np.ascontiguousarray(tiled(both.astype(np.uint32), 1))
    factors = matrix.rm[first:last].astype(np.uint32) | (matrix.re[first:last].astype(np.uint32) << 16)
    return gpu.storage(weights), gpu.storage(scales), gpu.storage(factors), rows


class Cache:
    """Keys and values of one session, by layer, in the adapter's memory."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.length, self.room = 0, 0
        self.layers: list[Any] = []
        self.groups: dict[Any, Any] = {}
        self.made = -1

    def reserve(self, positions: int) -> None:
        """Make room for that many positions in all."""
        if positions <= self.room:
            return
        room = max(positions, 2 * self.room, POSITIONS)
        gpu, size = self._forward.gpu, self._forward.position
        made = [gpu.storage(room * size) for _ in range(self._forward.config.layers)]
        if self.length:
            encoder = gpu.device.create_command_encoder()
            for old, new in zip(self.layers, made, strict=True):
                encoder.copy_buffer_to_buffer(old, 0, new, 0, self.length * size)
            gpu.device.queue.submit([encoder.finish()])
        self.layers, self.room, self.groups = made, room, {}

    def truncate(self, positions: int) -> None:
        """Forget everything after the first ``positions``."""
        self.length = min(self.length, positions)


class Forward:
    """One model on one adapter.

    Raises:
        ConfigError: the model's shape is one that the shaders do not have.
    """

    def __init__(self, model: Model, gpu: Gpu) -> None:
        tables.check()
        c = self.config = model.config
        if c.biases or c.head_norms or c.head > HEAD:
            raise ConfigError("the WebGPU engine runs no biases, head norms, or heads wider than 256 yet")
        if any(isinstance(w, Matrix) and w.group != 32 for w in model.weights.values()):
            raise ConfigError("the WebGPU engine runs no matrices with groups of 16 (Q6_K) yet")
        self.gpu, self.model, self.name = gpu, model, "webgpu"
        self.position = c.kv_heads * (c.head + 1) * 4
        self._rope = tables.Rope(c.rope_base, c.head // 2, c.rope_factors)
        self._turns, self._turned = gpu.storage(4), 0
        self._exp2 = gpu.storage(tables.exp2().astype(np.int32))
        self._load(model)
        self._work()

    def cache(self) -> Cache:
        """Return the empty cache of a new session."""
        return Cache(self)

    def _load(self, model: Model) -> None:
        gpu, c = self.gpu, self.config
        self._embedding = Tiles(gpu, [model.matrix("token_embd")], -c.fr)
        self._head = self._embedding
        if "output.weight" in model.weights:
            self._head = Tiles(gpu, [model.head], FN - FL)
        self._layers = []
        for layer in range(c.layers):
            named = {name: model.matrix(f"blk.{layer}.{name}") for name in _MATRICES}
            self._layers.append(
                (
                    Tiles(gpu, [named["attn_q"], named["attn_k"], named["attn_v"]], FN - FQ),
                    Tiles(gpu, [named["attn_output"]], FA - c.fr),
                    Tiles(gpu, [named["ffn_gate"], named["ffn_up"]], FN - FG),
                    Tiles(gpu, [named["ffn_down"]], FH - c.fr),
                    *(gpu.storage(model.norm(f"blk.{layer}.{name}").g.astype(np.int32)) for name in LAYER_NORMS),
                )
            )
        self._last = gpu.storage(model.norm("output_norm").g.astype(np.int32))

    def _work(self) -> None:
        """Make what passes between the steps, and the bind groups that no session changes."""
        gpu, c = self.gpu, self.config
        qo, kv, wide = c.heads * c.head, c.kv_heads * c.head, max(c.width, c.hidden, c.heads * c.head)
        self._ids, self._x = gpu.storage(CHUNK * 4), gpu.storage(CHUNK * c.width * 4)
        self._digits, self._sums = gpu.storage(CHUNK * wide * 4), gpu.storage(CHUNK * (wide // 32 + 1) * 4)
        self._between = gpu.storage(CHUNK * wide * 4)
        self._qkv, self._shifts = gpu.storage(CHUNK * (qo + 2 * kv) * 4), gpu.storage(CHUNK * c.heads * 4)
        self._seen, self._gates = gpu.storage(CHUNK * qo * 4), gpu.storage(CHUNK * 2 * c.hidden * 4)
        self._scores, self._score_room = gpu.storage(4), 0
        self._logits, self._logit_rows = gpu.storage(c.vocabulary * 4), 1
        self._heads = gpu.uniform(c.heads, c.kv_heads, c.head, 0, tables.c2(c.head), int(c.neox), 0, 0)
        self._static: dict[Any, Any] = {}
        self._made = 0

    # -- a pass ----------------------------------------------------------------------------

    def forward(self, ids: Sequence[int], cache: Cache, every: bool = False) -> Any:
        """Read tokens after those in the cache; return the logits of the last one, or of every one."""
        if not len(ids) or min(ids) < 0 or max(ids) >= self.config.vocabulary:
            raise ParameterError("an id is not in the vocabulary", name="ids")
        cache.reserve(cache.length + len(ids))
        made = []
        for at in range(0, len(ids), CHUNK):
            piece = ids[at : at + CHUNK]
            final = at + CHUNK >= len(ids)
            made.append(self._pass(piece, cache, len(piece) if every else int(final)))
        whole = np.concatenate(made) if every else made[-1][0]
        return whole.astype(np.int64)

    def _pass(self, ids: Sequence[int], cache: Cache, rows: int) -> Any:
        """Run one chunk; return the logits of its last ``rows`` tokens."""
        c, gpu, count = self.config, self.gpu, len(ids)
        self._prepare(cache.length + count, count, rows)
        gpu.device.queue.write_buffer(self._ids, 0, np.array(ids, np.uint32).tobytes())
        gpu.write(self._heads, (cache.length,), 12)
        gpu.write(self._heads, (self._score_room, count), 24)
        encoder = gpu.device.create_command_encoder()
        run = encoder.begin_compute_pass()
        self._embed(run, count)
        for layer in range(c.layers):
            self._layer(run, layer, count, cache)
        if rows:
            self._norm(run, "last", self._last, self.model.norm("output_norm").eg, rows, count - rows)
            self._linear(run, "head", self._head, FN - FL, self._logits, rows, c.vocabulary)
        run.end()
        gpu.device.queue.submit([encoder.finish()])
        cache.length += count
        if not rows:
            return np.empty((0, c.vocabulary), np.int32)
        data = gpu.device.queue.read_buffer(self._logits, 0, rows * c.vocabulary * 4)
        return np.frombuffer(data, np.int32).reshape(rows, c.vocabulary)

    def _prepare(self, positions: int, count: int, rows: int) -> None:
        """Make room for a pass: rotations, scores, logits."""
        c, gpu = self.config, self.gpu
        if positions > self._turned:
            turns = self._rope.upto(positions)
            self._turns, self._turned = gpu.storage(turns.astype(np.int32)), len(turns)
            self._renew()
        if positions > self._score_room:
            self._score_room = max(positions, 2 * self._score_room, POSITIONS)
            self._scores = gpu.storage(CHUNK * c.heads * self._score_room * 4)
            self._renew()
        if rows > self._logit_rows:
            self._logits, self._logit_rows = gpu.storage(CHUNK * c.vocabulary * 4), CHUNK
            self._renew()

    def _renew(self) -> None:
        self._static.clear()
        self._made += 1

    def _layer(self, run: Any, layer: int, count: int, cache: Cache) -> None:
        c, model = self.config, self.model
        qkv, output, gates, down, first, second = self._layers[layer]
        egs = [model.norm(f"blk.{layer}.{name}").eg for name in LAYER_NORMS]
        heads = c.heads + 2 * c.kv_heads
        self._norm(run, (layer, 0), first, egs[0], count)
        self._linear(run, (layer, "qkv"), qkv, FN - FQ, self._qkv, count, qkv.rows)
        kept, groups = cache.layers[layer], self._groups(cache)
        turned = self._qkv, self._shifts, kept, self._turns, self._heads
        self._step(run, "turn", layer, turned, heads, count, groups=groups)
        looked = self._qkv, self._shifts, kept, self._exp2, self._scores, self._seen, self._heads
        self._step(run, "look", layer, looked, c.heads, count, groups=groups)
        self._quantise(run, "seen", "only_quantise", self._seen, c.heads * c.head, count)
        self._linear(run, (layer, "output"), output, FA - c.fr, self._x, count, c.width, add=True)
        self._norm(run, (layer, 1), second, egs[1], count)
        self._linear(run, (layer, "gates"), gates, FN - FG, self._gates, count, gates.rows)
        self._quantise(run, "gates", "swiglu", self._gates, c.hidden, count)
        self._linear(run, (layer, "down"), down, FH - c.fr, self._x, count, c.width, add=True)

    def _embed(self, run: Any, count: int) -> None:
        table = self._embedding
        entry = "embed_nibbles" if table.nibbles else "embed_bytes"
        for first, weights, scales, rows, height in table.parts:
            key = ("embed", first)
            if key not in self._static:
                values = (height, table.groups, -self.config.fr, 0, 0, 0, 0, first)
                self._static[key] = (self.gpu.uniform(*values),)
            buffers = (weights, scales, rows, self._x, self._static[key][0], self._ids)
            self._step(run, entry, key, buffers, count, 1)

    def _norm(self, run: Any, name: Any, gain: Any, eg: int, count: int, first: int = 0) -> None:
        c = self.config
        eps, (cn, kn) = tables.epsilon(c.width, c.eps, c.fr), tables.norm_constants(c.width)
        key = ("norm", name)
        if key not in self._static:
            self._static[key] = (self.gpu.uniform(c.width, 0, cn, kn, eg, eps & 0xFFFFFFFF, eps >> 32, FN),)
        uniform = self._static[key][0]
        if name == "last":
            self.gpu.write(uniform, (first,), 4)
        buffers = (self._x, gain, self._digits, self._sums, uniform, self._between)
        self._step(run, "rms_norm", key, buffers, count, 1)

    def _quantise(self, run: Any, name: str, entry: str, source: Any, width: int, count: int) -> None:
        key = ("quantise", name)
        if key not in self._static:
            self._static[key] = (self.gpu.uniform(width, 0, 0, 0, 0, 0, 0, 0),)
        table = (self._exp2,) if entry == "swiglu" else ()
        buffers = (source, *table, self._digits, self._sums, self._static[key][0], self._between)
        self._step(run, entry, key, buffers, count, 1)

    def _linear(
        self, run: Any, name: Any, tiles: Tiles, scale: int, out: Any, count: int, stride: int, add: bool = False
    ) -> None:
        tokens = TOKENS if count > 1 else 1
        for first, weights, scales, rows, height in tiles.parts:
            key = ("linear", name, first, tokens)
            if key not in self._static:
                values = (height, tiles.groups, scale, stride, first, int(add), count, 0)
                self._static[key] = [self.gpu.uniform(*values), count]
            uniform = self._static[key][0]
            if self._static[key][1] != count:
                self.gpu.write(uniform, (count,), 24)
                self._static[key][1] = count
            buffers = (weights, scales, rows, self._digits, self._sums, out, uniform)
            self._step(run, tiles.entry, key, buffers, -(-height // ROWS), -(-count // tokens), tokens)

    def _groups(self, cache: Cache) -> dict[Any, Any]:
        """Return a session's bind groups; they are made anew when a buffer they name was."""
        if cache.made != self._made:
            cache.groups, cache.made = {}, self._made
        return cache.groups

    def _step(
        self,
        run: Any,
        entry: str,
        key: Any,
        buffers: Sequence[Any],
        x: int,
        y: int,
        tokens: int = 1,
        groups: dict[Any, Any] | None = None,
    ) -> None:
        """Encode one dispatch; its bind group is made once, and kept in ``groups``."""
        kept = self._static if groups is None else groups
        known = ("group", entry, key)
        group = kept.get(known)
        if group is None:
            group = kept[known] = self.gpu.bind(entry, buffers, tokens)
        run.set_pipeline(self.gpu.pipeline(entry, tokens))
        run.set_bind_group(0, group)
        run.dispatch_workgroups(x, y)


_MATRICES: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
