"""The steps of a forward pass on one WebGPU adapter (HPI-1, section 8).

Runs in a process of its own; see :mod:`hyperpy.inference.webgpu`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from hyperpy.errors import ConfigError, ParameterError
from hyperpy.inference import tables
from hyperpy.inference.model import LAYER_NORMS, Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tables import FA, FG, FH, FL, FN, FQ
from hyperpy.inference.webgpu_adapter import LANES, PLAIN, Form, Gpu, Tiles

TOKENS: Final = 4
"""Tokens that a workgroup of ``linear.wgsl`` does together, where there are more than one."""
CHUNK: Final = 64
"""Tokens of one pass; longer prompts take several."""
HEAD: Final = 256
"""Widest head whose sums stay in i32."""
POSITIONS: Final = 256
"""Positions that a new session has room for; it doubles."""
AHEAD: Final = 8
"""Most tokens of one submission that the adapter chooses itself."""
_STEP: Final = 12
"""Bytes that change from one of them to the next: position, random number."""
_MATRICES: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class Cache:
    """Keys and values of one session, by layer, in the adapter's memory."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.length, self.room = 0, 0
        self.layers: list[Any] = []
        self.heads = forward.gpu.uniform(*forward.heads)
        self.groups: dict[Any, Any] = {}
        self.made = -1

    def reserve(self, positions: int) -> None:
        """Make room for that many positions in all."""
        if positions > self.room:
            self._take(self, max(positions, 2 * self.room, POSITIONS))

    def prefix(self, positions: int) -> Cache:
        """Return a cache of another session that begins with the same ``positions``."""
        made = Cache(self._forward)
        made.length = positions
        made._take(self, max(positions, POSITIONS))
        return made

    def _take(self, source: Cache, room: int) -> None:
        """Get buffers of so many positions, with what another cache, or this one until now, begins with."""
        gpu, size = self._forward.gpu, self._forward.position
        made = [gpu.storage(room * size) for _ in range(self._forward.config.layers)]
        if self.length:
            encoder = gpu.device.create_command_encoder()
            for old, new in zip(source.layers, made, strict=True):
                encoder.copy_buffer_to_buffer(old, 0, new, 0, self.length * size)
            gpu.device.queue.submit([encoder.finish()])
        self.layers, self.room, self.groups = made, room, {}

    def truncate(self, positions: int) -> None:
        """Forget everything after the first ``positions``."""
        self.length = min(self.length, positions)


Spans = Sequence[tuple[Cache, int]]
"""Sessions whose tokens are computed side by side, and how many each has."""


class Forward:
    """One model on one adapter.

    Args:
        tuning: whether four lanes share a row, for one token and for many; by default what is faster here.

    Raises:
        ConfigError: the model's shape is one that the shaders do not have.
    """

    def __init__(self, model: Model, gpu: Gpu, tuning: tuple[bool, bool] | None = None) -> None:
        tables.check()
        c = self.config = model.config
        if c.head > HEAD:
            raise ConfigError(f"the WebGPU engine runs no heads wider than {HEAD}")
        self.gpu, self.model, self.name = gpu, model, "webgpu"
        self.position = c.kv_heads * (c.head + 1) * 4
        self.heads = (c.heads, c.kv_heads, c.head, 0, tables.c2(c.head), int(c.neox), 0, 0)
        self._rope = tables.Rope(c.rope_base, c.head // 2, c.rope_factors)
        self._turns, self._turned = gpu.storage(4), 0
        self._exp2 = gpu.storage(tables.exp2().astype(np.int32))
        self._load(model)
        self._work()
        self.tuning = tuning or (False, False)
        if tuning is None:
            self._tune()

    def cache(self) -> Cache:
        """Return the empty cache of a new session."""
        return Cache(self)

    def _load(self, model: Model) -> None:
        gpu, c = self.gpu, self.config
        self._embedding = Tiles(gpu, [model.matrix("token_embd")])
        self._head = self._embedding
        if "output.weight" in model.weights:
            self._head = Tiles(gpu, [model.head])
        self._layers = []
        for layer in range(c.layers):
            named = {name: model.matrix(f"blk.{layer}.{name}") for name in _MATRICES}
            self._layers.append(
                (
                    Tiles(gpu, [named["attn_q"], named["attn_k"], named["attn_v"]]),
                    Tiles(gpu, [named["attn_output"]]),
                    Tiles(gpu, [named["ffn_gate"], named["ffn_up"]]),
                    Tiles(gpu, [named["ffn_down"]]),
                    *(gpu.storage(model.norm(f"blk.{layer}.{name}").g.astype(np.int32)) for name in LAYER_NORMS),
                )
            )
        self._last = gpu.storage(model.norm("output_norm").g.astype(np.int32))
        every = range(c.layers)
        self._biases = [gpu.storage(self._bias(layer)) for layer in every] if c.biases else []
        self._head_gains = [gpu.storage(self._head_gain(layer)) for layer in every] if c.head_norms else []

    def _bias(self, layer: int) -> Any:
        """Return the biases of q, k and v in one row; 0 where there is none."""
        rows = []
        for name in _MATRICES[:3]:
            bias = self.model.bias(f"blk.{layer}.{name}")
            height = self.model.matrix(f"blk.{layer}.{name}").shape[0]
            rows.append(np.zeros(height, np.int32) if bias is None else bias.g.astype(np.int32))
        return np.concatenate(rows)

    def _head_gain(self, layer: int) -> Any:
        """Return the norm weights of each head of q and k with their fraction bits, [head][width + 1]."""
        found = (self.model.norm(f"blk.{layer}.attn_{name}_norm") for name in "qk")
        q, k = (np.append(weight.g, weight.eg).astype(np.int32) for weight in found)
        return np.concatenate([np.tile(q, self.config.heads), np.tile(k, self.config.kv_heads)])

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
        self._choice, self._steps = gpu.uniform(*[0] * 8), gpu.storage(AHEAD * _STEP)
        self._chosen, self._ahead = gpu.storage(AHEAD * 4), gpu.storage(AHEAD * c.vocabulary * 4)
        self._static: dict[Any, Any] = {}
        self._made = 0

    def _tune(self) -> None:
        """Time a layer in both ways, for one token and for many, and take what is faster."""
        cache = self.cache()
        cache.reserve(CHUNK)
        self._prepare(CHUNK, 1)
        chosen = []
        for count, layers in ((1, 8), (CHUNK, 1)):
            times = []
            for split in (False, True):
                self.tuning = split, split
                times.append(min([self._timed(cache, count, layers) for _ in range(3)][1:]))  # the first compiles
            chosen.append(times[1] < times[0])
        self.tuning = chosen[0], chosen[1]

    def _timed(self, cache: Cache, count: int, layers: int) -> float:
        """Return how many seconds the first layer takes, several times over."""
        gpu, began = self.gpu, time.perf_counter()
        encoder = gpu.device.create_command_encoder()
        run = encoder.begin_compute_pass()
        for _ in range(layers):
            self._layer(run, 0, count, [(cache, count)])
        run.end()
        gpu.device.queue.submit([encoder.finish()])
        gpu.device.queue.read_buffer(self._x, 0, 4)
        return time.perf_counter() - began

    # -- a pass ----------------------------------------------------------------------------

    def forward(self, ids: Sequence[int], cache: Cache, every: bool = False) -> Any:
        """Read tokens after those in the cache; return the logits of the last one, or of every one."""
        self._known(ids)
        cache.reserve(cache.length + len(ids))
        made = []
        for at in range(0, len(ids), CHUNK):
            piece = ids[at : at + CHUNK]
            final = at + CHUNK >= len(ids)
            made.append(self._pass(piece, [(cache, len(piece))], len(piece) if every else int(final)))
        whole = np.concatenate(made) if every else made[-1][0]
        return whole.astype(np.int64)

    def forward_many(self, ids: Sequence[int], caches: Sequence[Cache]) -> Any:
        """Read one token of each of several sessions together; return the logits, [session][vocabulary]."""
        self._known(ids)
        for cache in caches:
            cache.reserve(cache.length + 1)
        made = []
        for at in range(0, len(ids), CHUNK):
            piece, spans = ids[at : at + CHUNK], [(cache, 1) for cache in caches[at : at + CHUNK]]
            made.append(self._pass(piece, spans, len(piece)))
        return np.concatenate(made).astype(np.int64)

    def _known(self, ids: Sequence[int]) -> None:
        if not len(ids) or min(ids) < 0 or max(ids) >= self.config.vocabulary:
            raise ParameterError("an id is not in the vocabulary", name="ids")

    def _pass(self, ids: Sequence[int], spans: Spans, rows: int) -> Any:
        """Run one chunk; return the logits of its last ``rows`` tokens."""
        c, gpu, count = self.config, self.gpu, len(ids)
        self._prepare(max(cache.length + tokens for cache, tokens in spans), rows)
        gpu.device.queue.write_buffer(self._ids, 0, np.array(ids, np.uint32).tobytes())
        row = 0
        for cache, tokens in spans:
            gpu.write(cache.heads, (cache.length,), 12)
            gpu.write(cache.heads, (self._score_room, row), 24)
            row += tokens
        encoder = gpu.device.create_command_encoder()
        self._encode(encoder, spans, count, rows)
        gpu.device.queue.submit([encoder.finish()])
        for cache, tokens in spans:
            cache.length += tokens
        if not rows:
            return np.empty((0, c.vocabulary), np.int32)
        data = gpu.device.queue.read_buffer(self._logits, 0, rows * c.vocabulary * 4)
        return np.frombuffer(data, np.int32).reshape(rows, c.vocabulary)

    def _encode(self, encoder: Any, spans: Spans, count: int, rows: int) -> None:
        run = encoder.begin_compute_pass()
        self._embed(run, count)
        for layer in range(self.config.layers):
            self._layer(run, layer, count, spans)
        if rows:
            self._norm(run, "last", self._last, self.model.norm("output_norm").eg, rows, count - rows)
            self._linear(run, "head", self._head, FN - FL, self._logits, rows, self.config.vocabulary)
        run.end()

    def forward_ahead(
        self, ident: int, cache: Cache, sampling: Sampling, position: int, count: int
    ) -> tuple[Any, list[int]]:
        """Read a token and at most ``count`` - 1 more, chosen here; see :class:`hyperpy.inference.generation.Ahead`."""
        self._known([ident])
        c, gpu, count = self.config, self.gpu, min(count, AHEAD)
        cache.reserve(cache.length + count)
        self._prepare(cache.length + count, 1)
        gpu.write(self._ids, (ident,))
        gpu.write(cache.heads, (self._score_room, 0), 24)
        gpu.write(self._choice, (c.vocabulary, 40 * sampling.t16, sampling.inverse, sampling.inverse >> 32))
        draws = [sampling.drawn(position + number) for number in range(count)]
        steps = [part for n, drawn in enumerate(draws) for part in (cache.length + n, drawn, drawn >> 32)]
        gpu.write(self._steps, steps)
        encoder = gpu.device.create_command_encoder()
        for number in range(count):
            encoder.copy_buffer_to_buffer(self._steps, number * _STEP, cache.heads, 12, 4)
            self._encode(encoder, [(cache, 1)], 1, 1)
            row = c.vocabulary * 4
            encoder.copy_buffer_to_buffer(self._logits, 0, self._ahead, number * row, row)
            if number + 1 < count:
                encoder.copy_buffer_to_buffer(self._steps, number * _STEP + 4, self._choice, 16, 8)
                run = encoder.begin_compute_pass()
                self._step(run, "choose", "choose", (self._logits, self._ids, self._exp2, self._choice), 1, 1)
                run.end()
                encoder.copy_buffer_to_buffer(self._ids, 0, self._chosen, number * 4, 4)
        gpu.device.queue.submit([encoder.finish()])
        cache.length += count
        rows = np.frombuffer(gpu.device.queue.read_buffer(self._ahead, 0, count * row), np.int32)
        chosen = np.frombuffer(gpu.device.queue.read_buffer(self._chosen), np.uint32)[: count - 1]
        return rows.reshape(count, -1).astype(np.int64), chosen.tolist()

    def _prepare(self, positions: int, rows: int) -> None:
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

    def _layer(self, run: Any, layer: int, count: int, spans: Spans) -> None:
        c, model = self.config, self.model
        qkv, output, gates, down, first, second = self._layers[layer]
        egs = [model.norm(f"blk.{layer}.{name}").eg for name in LAYER_NORMS]
        self._norm(run, (layer, 0), first, egs[0], count)
        if c.biases:
            self._spread(run, layer, qkv.rows, count)
        self._linear(run, (layer, "qkv"), qkv, FN - FQ, self._qkv, count, qkv.rows, add=c.biases)
        if c.head_norms:
            self._norm_heads(run, layer, count)
        for cache, tokens in spans:
            self._attention(run, layer, cache, tokens)
        self._quantise(run, "seen", "only_quantise", self._seen, c.heads * c.head, count)
        self._linear(run, (layer, "output"), output, FA - c.fr, self._x, count, c.width, add=True)
        self._norm(run, (layer, 1), second, egs[1], count)
        self._linear(run, (layer, "gates"), gates, FN - FG, self._gates, count, gates.rows)
        self._quantise(run, "gates", "swiglu", self._gates, c.hidden, count)
        self._linear(run, (layer, "down"), down, FH - c.fr, self._x, count, c.width, add=True)

    def _attention(self, run: Any, layer: int, cache: Cache, tokens: int) -> None:
        """Keep keys and values of a session's tokens, and make what these see."""
        c, groups, kept = self.config, self._groups(cache), cache.layers[layer]
        turned = self._qkv, self._shifts, kept, self._turns, cache.heads
        self._step(run, "turn", layer, turned, c.heads + 2 * c.kv_heads, tokens, groups=groups)
        looked = self._qkv, self._shifts, kept, self._exp2, self._scores, self._seen, cache.heads
        self._step(run, "look", layer, looked, c.heads, tokens, groups=groups)

    def _spread(self, run: Any, layer: int, rows: int, count: int) -> None:
        key = ("spread", layer)
        if key not in self._static:
            self._static[key] = (self.gpu.uniform(rows, 0, 0, rows, 0, 0, 0, 0),)
        buffers = (self._biases[layer], self._qkv, self._static[key][0])
        self._step(run, "spread", key, buffers, -(-rows // LANES), count)

    def _norm_heads(self, run: Any, layer: int, count: int) -> None:
        c, key = self.config, ("head_norm", layer)
        if key not in self._static:
            eps, (cn, kn) = tables.epsilon(c.head, c.eps, FQ), tables.norm_constants(c.head)
            values = (c.head, c.heads + 2 * c.kv_heads, cn, kn, 0, eps & 0xFFFFFFFF, eps >> 32, FQ)
            self._static[key] = (self.gpu.uniform(*values),)
        buffers = (self._qkv, self._head_gains[layer], self._static[key][0])
        self._step(run, "head_norm", key, buffers, c.heads + c.kv_heads, count)

    def _embed(self, run: Any, count: int) -> None:
        table = self._embedding
        for part in table.parts:
            key = ("embed", part.first)
            if key not in self._static:
                values = (part.height, table.groups, -self.config.fr, 0, 0, 0, 0, part.first)
                self._static[key] = (self.gpu.uniform(*values),)
            buffers = (part.weights, part.scales, part.factors, self._x, self._static[key][0], self._ids)
            self._step(run, part.form.embed, key, buffers, count, 1, part.form)

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
        for part in tiles.parts:
            split = self.tuning[tokens > 1]
            key = ("linear", name, part.first, tokens, split)
            if key not in self._static:
                values = (part.height, tiles.groups, scale, stride, part.first, int(add), count, 0)
                self._static[key] = [self.gpu.uniform(*values), count]
            uniform = self._static[key][0]
            if self._static[key][1] != count:
                self.gpu.write(uniform, (count,), 24)
                self._static[key][1] = count
            buffers = (part.weights, part.scales, part.factors, self._digits, self._sums, out, uniform)
            form = part.form._replace(tokens=tokens, split=split)
            self._step(run, form.multiply, key, buffers, -(-part.height // form.rows), -(-count // tokens), form)

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
        form: Form = PLAIN,
        groups: dict[Any, Any] | None = None,
    ) -> None:
        """Encode one dispatch; its bind group is made once, and kept in ``groups``."""
        kept = self._static if groups is None else groups
        known = ("group", entry, key)
        group = kept.get(known)
        if group is None:
            group = kept[known] = self.gpu.bind(entry, buffers, form)
        run.set_pipeline(self.gpu.pipeline(entry, form))
        run.set_bind_group(0, group)
        run.dispatch_workgroups(x, y)
