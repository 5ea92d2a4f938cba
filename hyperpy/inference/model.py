"""What a model is to an engine: its shape, its integer weights, and names for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from hyperpy.errors import CodecError
from hyperpy.inference.tables import FR
from hyperpy.inference.weights import Matrix, Norm, Weight

LAYER_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
LAYER_NORMS = ("attn_norm", "ffn_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The shape of a model of the ``llama`` architecture; ``fr`` is the residual's fraction bits (5.1)."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    eps: float
    rope_base: float
    fr: int = FR

    @property
    def head(self) -> int:
        return self.width // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors a model of this shape has; ``output.weight`` is optional and not among them."""
        d, kv = self.width, self.kv_heads * self.head
        matrices = ((d, d), (kv, d), (kv, d), (d, d), (self.hidden, d), (self.hidden, d), (d, self.hidden))
        made: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocabulary, d), "output_norm.weight": (d,)}
        for layer in range(self.layers):
            for name, shape in zip(LAYER_MATRICES, matrices, strict=True):
                made[f"blk.{layer}.{name}.weight"] = shape
            for name in LAYER_NORMS:
                made[f"blk.{layer}.{name}.weight"] = (d,)
        return made


@dataclass(frozen=True, slots=True)
class Model:
    """Configuration, weights by tensor name, and the model-id (32 bytes)."""

    config: Config
    weights: Mapping[str, Weight]
    ident: bytes

    def matrix(self, name: str) -> Matrix:
        return cast(Matrix, self.weights[f"{name}.weight"])

    def norm(self, name: str) -> Norm:
        return cast(Norm, self.weights[f"{name}.weight"])

    @property
    def head(self) -> Matrix:
        """Return the matrix that makes logits: the embedding, where the file has no other."""
        return self.matrix("output" if "output.weight" in self.weights else "token_embd")


def config_of(metadata: Mapping[str, Any]) -> Config:
    """Return the shape that a GGUF file's metadata describes.

    Raises:
        CodecError: the architecture is not one of HPI-1, or a number is missing, absurd or contradicts another.
    """
    if metadata.get("general.architecture") != "llama":
        raise CodecError(
            f"the architecture '{str(metadata.get('general.architecture'))[:40]}' is not supported",
            hint="HPI-1 runs models of the architecture 'llama'.",
        )
    number = _Numbers(metadata)
    made = Config(
        layers=number.whole("block_count", 1, 512),
        width=number.whole("embedding_length", 32, 1 << 15),
        hidden=number.whole("feed_forward_length", 32, 1 << 17),
        heads=number.whole("attention.head_count", 1, 256),
        kv_heads=number.whole("attention.head_count_kv", 1, 256, "attention.head_count"),
        vocabulary=len(metadata.get("tokenizer.ggml.tokens", ())),
        context=number.whole("context_length", 1, 1 << 17),
        eps=number.real("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope_base=number.real("rope.freq_base", 1.0, 1e12, 10000.0),
    )
    if made.width % made.heads or made.heads % made.kv_heads or made.head % 32 or not 2 <= made.vocabulary <= 1 << 20:
        raise CodecError(f"the model's shape contradicts itself: {made}")
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if metadata.get(f"llama.{key}", made.head) != made.head:
            raise CodecError(f"llama.{key} is not the width of a head, {made.head}; HPI-1 turns whole heads")
    for key in ("rope.scaling.type", "attention.sliding_window", "expert_count"):
        if metadata.get(f"llama.{key}") not in (None, "none", 0):
            raise CodecError(f"the model wants llama.{key}, which HPI-1 does not have")
    return made


class _Numbers:
    """Reads bounded numbers of the ``llama.`` section."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def whole(self, key: str, least: int, most: int, otherwise: str = "") -> int:
        value = self._metadata.get(f"llama.{key}", self._metadata.get(f"llama.{otherwise}"))
        if type(value) is not int or not least <= value <= most:
            raise CodecError(f"llama.{key} is {str(value)[:40]}, not a whole number from {least} to {most}")
        return value

    def real(self, key: str, least: float, most: float, otherwise: float | None = None) -> float:
        value = self._metadata.get(f"llama.{key}", otherwise)
        if not isinstance(value, float) or not least <= value <= most:
            raise CodecError(f"llama.{key} is {str(value)[:40]}, not a number from {least} to {most}")
        return value


def check_shapes(config: Config, found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a file's tensors with what the configuration needs.

    Raises:
        CodecError: a tensor is missing, has another shape, or is one that HPI-1 has no use for.
    """
    wanted = config.shapes()
    if "output.weight" in found:
        wanted["output.weight"] = wanted["token_embd.weight"]
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise CodecError(f"'{name}' should have the shape {shape}, the file has {found.get(name)}")
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise CodecError(f"the file has '{extra[0]}' and {len(extra) - 1} more tensors that HPI-1 has no use for")
