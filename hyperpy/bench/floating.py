"""A decoder-only transformer in floats, written from its definition: what integer inference is compared with.

It knows nothing of the integer engines; what it shares with them is a model file's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(slots=True, kw_only=True)
class Floats:
    """RMSNorm, rotary embedding, grouped attention, SwiGLU.

    Attributes:
        weights: float arrays under GGUF's names, all of one dtype, which the computation then has.
        heads, groups: query heads, and heads of keys and values.
        eps, base: of the norms, of the rotary embedding.
        halves: pairs of the rotary embedding are half a head apart, not neighbours.
        factors: what the pairs' angles are divided by.
    """

    weights: Mapping[str, Any]
    layers: int
    heads: int
    groups: int
    eps: float
    base: float
    halves: bool = False
    factors: Any = 1.0

    def logits(self, ids: Sequence[int]) -> Any:
        """Return the logits after each id, [token][vocabulary]."""
        w = self.weights
        x = w["token_embd.weight"][list(ids)]
        for layer in range(self.layers):
            at = f"blk.{layer}."
            x = x + self._attend(self._norm(x, at + "attn_norm.weight"), at)
            h = self._norm(x, at + "ffn_norm.weight")
            gate = self._project(h, at + "ffn_gate")
            x = x + self._project(gate / (1 + np.exp(-gate)) * self._project(h, at + "ffn_up"), at + "ffn_down")
        head = w.get("output.weight", w["token_embd.weight"])
        return self._norm(x, "output_norm.weight") @ head.T

    def _norm(self, x: Any, name: str) -> Any:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(self.eps))
        return x / scale * self.weights[name]

    def _project(self, x: Any, name: str) -> Any:
        made, bias = x @ self.weights[f"{name}.weight"].T, self.weights.get(f"{name}.bias")
        return made if bias is None else made + bias

    def _rotate(self, x: Any) -> Any:
        tokens, _, head = x.shape
        pairs = head // 2
        angle = np.outer(np.arange(tokens), self.base ** (-2.0 * np.arange(pairs) / head) / self.factors)
        turn = np.exp(1j * angle)[:, None].astype(np.result_type(x.dtype, np.complex64))
        if self.halves:
            z = (x[..., :pairs] + 1j * x[..., pairs:]) * turn
            return np.concatenate([z.real, z.imag], axis=-1)
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    def _attend(self, h: Any, at: str) -> Any:
        q, k, v = (self._project(h, f"{at}attn_{name}") for name in "qkv")
        q, k, v = q.reshape(len(h), self.heads, -1), *(x.reshape(len(h), self.groups, -1) for x in (k, v))
        if f"{at}attn_q_norm.weight" in self.weights:
            q, k = self._norm(q, f"{at}attn_q_norm.weight"), self._norm(k, f"{at}attn_k_norm.weight")
        q, k = self._rotate(q), self._rotate(k)
        later, seen = np.triu_indices(len(h), 1), []
        for head in range(self.heads):
            group = head * self.groups // self.heads
            scores = q[:, head] @ k[:, group].T / h.dtype.type(q.shape[-1] ** 0.5)
            scores[later] = -np.inf
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            seen.append(e / e.sum(axis=1, keepdims=True) @ v[:, group])
        return self._project(np.concatenate(seen, axis=1), at + "attn_output")
