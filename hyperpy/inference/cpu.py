"""The engine for processors: the reference's bits, from compiled loops on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hyperpy.errors import CodecError, ParameterError
from hyperpy.inference import cpu_kernels as kernels
from hyperpy.inference import reference, tables
from hyperpy.inference.arith import Ints
from hyperpy.inference.model import Model
from hyperpy.inference.pace import Pace
from hyperpy.inference.reference import Cache, Trace
from hyperpy.inference.tables import FA, FG, FH, FL, FN, FQ
from hyperpy.inference.weights import Matrix

_LOOPS = ThreadPoolExecutor(1, thread_name_prefix="hyperpy-loops")
"""The one thread of a process that enters compiled loops, which use all cores.

Each thread that enters them gets helpers of its own, and those wait for work by spinning: with a second such thread
alive, a token took four times as long. It is also one pass at a time, as numba's plainest thread pool demands.
"""

TILE = 64
"""Tokens computed together: their digits stay in the processor's cache while weights stream by."""


class Engine(reference.Engine):
    """The CPU engine. Its caches are the reference's."""

    name = "cpu"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._pace = Pace()
        self._table = np.array(tables.exp2())
        self._none = np.empty((0, 0), np.int64)
        self._parts = {name: _parts(w) for name, w in model.weights.items() if isinstance(w, Matrix)}
        self._known = {id(w): self._parts[name] for name, w in model.weights.items() if isinstance(w, Matrix)}

    def forward(self, ids: Sequence[int], cache: Cache, every: bool = False, trace: Trace | None = None) -> Ints:
        """Do what the reference does (which see). Where a trace is asked for, matrices alone run in compiled loops."""
        if trace is not None:
            return super().forward(ids, cache, every, trace)
        if not len(ids) or min(ids) < 0 or max(ids) >= self.config.vocabulary:
            raise ParameterError("an id is not in the vocabulary", name="ids")
        return _LOOPS.submit(self._paced if len(ids) == 1 else self._forward, ids, cache, every).result()

    def _paced(self, ids: Sequence[int], cache: Cache, every: bool) -> Ints:
        """Read one token, with one thread while others need the processor."""
        kernels.use_threads(1 if self._pace.alone else 0)
        began = time.perf_counter()
        try:
            return self._forward(ids, cache, every)
        finally:
            self._pace.took(time.perf_counter() - began)
            kernels.use_threads(0)

    def _forward(self, ids: Sequence[int], cache: Cache, every: bool) -> Ints:
        cache.reserve(cache.length + len(ids))
        made = [self._tile(ids[at : at + TILE], cache, every) for at in range(0, len(ids), TILE)]
        if every:
            whole: Ints = np.concatenate([self._logits(x) for x in made])
            return whole
        last: Ints = self._logits(made[-1][-1:])[0]
        return last

    def linear(self, digits: Ints, shift: Ints, matrix: Matrix, fin: int, fout: int) -> Ints:
        """Do what the reference does (which see)."""
        small, (q, d, m, rm, re) = np.ascontiguousarray(digits, np.int16), self._known[id(matrix)]
        words = small, shift, q, d, m, rm, re, fin - fout, self._none, False
        made: Ints = _LOOPS.submit(kernels.linear, *words).result()
        return made

    def forward_many(self, ids: Sequence[int], caches: Sequence[Cache]) -> Ints:
        """Read one token of each of several sessions together; return the logits, [session][vocabulary].

        A row is what :meth:`forward` gives that session; weights are read once for all.
        """
        return _LOOPS.submit(self._forward_many, ids, caches).result()

    def _forward_many(self, ids: Sequence[int], caches: Sequence[Cache]) -> Ints:
        for cache in caches:
            cache.reserve(cache.length + 1)
        rope = self._rope.upto(max(cache.length for cache in caches) + 1)
        made = [
            self._logits(self._side_by_side(ids[at : at + TILE], caches[at : at + TILE], rope))
            for at in range(0, len(ids), TILE)
        ]
        whole: Ints = np.concatenate(made)
        return whole

    def _side_by_side(self, ids: Sequence[int], caches: Sequence[Cache], rope: Any) -> Any:
        """Return the last residual stream of one token of each session."""
        q, d, m, rm, re = self._parts["token_embd.weight"]
        x = kernels.embed(np.array(ids, np.int64), q, d, m, rm, re, self.config.fr)

        def look(layer: int, q: Any, k: Any, v: Any) -> Any:
            return np.concatenate(
                [
                    self._attend(layer, q[n : n + 1], k[n : n + 1], v[n : n + 1], cache, rope)
                    for n, cache in enumerate(caches)
                ]
            )

        for layer in range(self.config.layers):
            x = self._layer(layer, x, look)
        for cache in caches:
            cache.length += 1
        return x

    def _tile(self, ids: Sequence[int], cache: Cache, every: bool) -> Any:
        """Return the last residual stream of a few tokens."""
        rope = self._rope.upto(cache.length + len(ids))
        q, d, m, rm, re = self._parts["token_embd.weight"]
        x = kernels.embed(np.array(ids, np.int64), q, d, m, rm, re, self.config.fr)
        look = lambda layer, q, k, v: self._attend(layer, q, k, v, cache, rope)  # noqa: E731
        for layer in range(self.config.layers):
            x = self._layer(layer, x, look)
        cache.length += len(ids)
        return x

    def _logits(self, x: Any) -> Ints:
        head = "output.weight" if "output.weight" in self._parts else "token_embd.weight"
        made: Ints = self._linear(self._norm(x, "output_norm"), head, FN - FL)
        return made

    def _attend(self, layer: int, q: Any, k: Any, v: Any, cache: Cache, rope: Any) -> Any:
        """Keep k and v of a session's next tokens, and return what these see."""
        kept = cache.k[layer], cache.ks[layer], cache.v[layer]
        kernels.store(k, v, rope, self.config.neox, cache.length, *kept)
        return kernels.attention(q, rope, self.config.neox, cache.length, *kept, self._c2, self._table)

    def _layer(self, layer: int, x: Any, look: Callable[[int, Any, Any, Any], Any]) -> Any:
        at, fr = f"blk.{layer}.", self.config.fr
        h = self._norm(x, at + "attn_norm")
        q, k, v = (self._project(h, at + name) for name in ("attn_q", "attn_k", "attn_v"))
        if self.config.head_norms:
            for part, name in ((q, "q"), (k, "k")):
                weight = self.model.norm(f"{at}attn_{name}_norm")
                kernels.head_norm(part, weight.g, weight.eg, *self._head)
        x = self._linear(kernels.quantise(look(layer, q, k, v)), at + "attn_output.weight", FA - fr, x)
        h = self._norm(x, at + "ffn_norm")
        gate, up = (self._linear(h, f"{at}{name}.weight", FN - FG) for name in ("ffn_gate", "ffn_up"))
        return self._linear(kernels.swiglu(gate, up, self._table), at + "ffn_down.weight", FH - fr, x)

    def _norm(self, x: Any, name: str) -> Any:
        weight = self.model.norm(name)
        return kernels.rms_norm(x, weight.g, weight.eg, self._eps, self._cn, self._kn)

    def _project(self, h: Any, name: str) -> Any:
        bias = self.model.bias(name)
        base = None if bias is None else np.tile(bias.g.astype(np.int64), (len(h[0]), 1))
        return self._linear(h, name + ".weight", FN - FQ, base)

    def _linear(self, h: Any, name: str, scale: int, base: Any = None) -> Any:
        add, (digits, shift), (q, d, m, rm, re) = base is not None, h, self._parts[name]
        return kernels.linear(digits, shift, q, d, m, rm, re, scale, base if add else self._none, add)


def _parts(matrix: Matrix) -> tuple[Any, ...]:
    """Return a matrix as the kernels take it; they read memory unchecked, so its form is checked here."""
    if matrix.group not in (16, 32) or matrix.shape[1] % 32 or not matrix.q.flags.c_contiguous:
        raise CodecError("the CPU engine takes contiguous matrices with groups of 16 or 32 weights")
    return matrix.q, matrix.d, matrix.m, matrix.rm, matrix.re
