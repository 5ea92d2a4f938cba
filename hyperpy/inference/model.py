"""What a model is to an engine: its shape, its integer weights, and names for both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hyperpy.errors import CodecError
from hyperpy.inference.tables import FR
from hyperpy.inference.weights import Matrix, Norm, Weight

LAYER_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
LAYER_NORMS = ("attn_norm", "ffn_norm")
LAYER_BIASES = ("attn_q", "attn_k", "attn_v")
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What HPI-1 runs: ``qwen2`` adds biases to q, k and v, ``qwen3`` a norm of each head of q and k; both turn
pairs half a head apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The shape of a model.

    ``head_width`` is 0 where it is ``width // heads``; ``neox``: RoPE turns the pairs (j, j + head/2) instead of
    (2j, 2j + 1) (5.5); ``biases``: q, k and v have one (5.4); ``head_norms``: each head of q and k is normed before
    it is turned; ``rope_factors``: what each pair's angle is divided by, none being 1 (3); ``fr``: the residual's
    fraction bits (5.1).
    """

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
    head_width: int = 0
    neox: bool = False
    biases: bool = False
    head_norms: bool = False
    rope_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rope_factors", tuple(self.rope_factors))  # JSON has lists

    @property
    def head(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def plain(self) -> bool:
        """Return whether this is the architecture ``llama`` of a GGUF file, with nothing added."""
        return not (self.neox or self.biases or self.head_norms or self.heads * self.head != self.width)

    @property
    def digest(self) -> bytes:
        """Return the config-digest: SHA-256 of the fields as sorted JSON without blanks; model-id binds no shape."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def text(self) -> str:
        """Return the fields as sorted JSON without blanks."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors a model of this shape has; ``output.weight`` is optional and not among them."""
        d, qo, kv = self.width, self.heads * self.head, self.kv_heads * self.head
        matrices = ((qo, d), (kv, d), (kv, d), (d, qo), (self.hidden, d), (self.hidden, d), (d, self.hidden))
        made: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocabulary, d), "output_norm.weight": (d,)}
        for layer in range(self.layers):
            for name, shape in zip(LAYER_MATRICES, matrices, strict=True):
                made[f"blk.{layer}.{name}.weight"] = shape
            for name in LAYER_NORMS:
                made[f"blk.{layer}.{name}.weight"] = (d,)
            if self.biases:
                made |= {
                    f"blk.{layer}.{name}.bias": shape[:1] for name, shape in zip(LAYER_BIASES, matrices, strict=False)
                }
            if self.head_norms:
                made |= {f"blk.{layer}.{name}.weight": (self.head,) for name in HEAD_NORMS}
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

    def bias(self, name: str) -> Norm | None:
        """Return the bias of a matrix, in Q.16; None where it has none."""
        return cast("Norm | None", self.weights.get(f"{name}.bias"))

    @property
    def head(self) -> Matrix:
        """Return the matrix that makes logits: the embedding, where the file has no other."""
        return self.matrix("output" if "output.weight" in self.weights else "token_embd")


def config_of(metadata: Mapping[str, Any], factors: Sequence[float] = (), halves: bool = False) -> Config:
    """Return the shape that a GGUF file's metadata describes.

    Args:
        factors: the file's table ``rope_freqs``, if it has one.
        halves: RoPE turns pairs half a head apart, whatever the architecture.

    Raises:
        CodecError: the architecture is not one of HPI-1, or a number is missing, absurd or contradicts another.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CodecError(
            f"the architecture '{str(architecture)[:40]}' is not supported",
            hint=f"HPI-1 runs models of the architectures {', '.join(ARCHITECTURES)}.",
        )
    number = Numbers(metadata, architecture)
    heads = number.whole("attention.head_count", 1, 256)
    width = number.whole("embedding_length", 32, 1 << 15)
    head = number.whole("attention.key_length", 1, 1 << 12, default=width // heads)
    made = Config(
        layers=number.whole("block_count", 1, 512),
        width=width,
        hidden=number.whole("feed_forward_length", 32, 1 << 17),
        heads=heads,
        kv_heads=number.whole("attention.head_count_kv", 1, 256, default=heads),
        vocabulary=len(words) if isinstance(words := metadata.get("tokenizer.ggml.tokens"), list) else 0,
        context=number.whole("context_length", 1, 1 << 17),
        eps=number.real("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope_base=number.real("rope.freq_base", 1.0, 1e12, 10000.0),
        head_width=0 if head * heads == width else head,
        neox=halves or architecture != "llama",
        biases=architecture == "qwen2",
        head_norms=architecture == "qwen3",
        rope_factors=tuple(factors) or _linear(metadata, number, head // 2),
    )
    check(made)
    for key in ("rope.dimension_count", "attention.value_length"):
        if metadata.get(f"{architecture}.{key}", made.head) != made.head:
            raise CodecError(f"{architecture}.{key} is not the width of a head, {made.head}; HPI-1 turns whole heads")
    for key in ("rope.scaling.type", "attention.sliding_window", "expert_count"):
        known = ("none", "linear") if key == "rope.scaling.type" else (0,)
        if metadata.get(f"{architecture}.{key}") not in (None, *known):
            raise CodecError(f"the model wants {architecture}.{key}, which HPI-1 does not have")
    return made


def check(config: Config) -> None:
    """Compare the numbers of a configuration with each other.

    Raises:
        CodecError: they contradict each other, or are beyond HPI-1.
    """
    c = config
    whole = not c.head_width and c.width % c.heads
    if whole or c.heads % c.kv_heads or c.head % 32 or c.head > 1024 or not 2 <= c.vocabulary <= 1 << 20:
        raise CodecError(f"the model's shape contradicts itself: {config}")
    f = c.rope_factors
    if f and (len(f) != c.head // 2 or not all(1.0 <= factor <= 1e6 for factor in f)):
        raise CodecError("the factors of the model's RoPE scaling are not one for each pair, from 1 to 1,000,000")


def _linear(metadata: Mapping[str, Any], number: Numbers, pairs: int) -> tuple[float, ...]:
    """Return the factors of linear RoPE scaling, if the file asks for it."""
    if metadata.get(f"{number.section}.rope.scaling.type") != "linear":
        return ()
    return (number.real("rope.scaling.factor", 1.0, 1e6),) * pairs


class Numbers:
    """Reads bounded numbers of an architecture's section."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self.section = metadata, architecture

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self._metadata.get(f"{self.section}.{key}", default)
        if type(value) is not int or not least <= value <= most:
            raise CodecError(f"{self.section}.{key} is {str(value)[:40]}, not a whole number from {least} to {most}")
        return value

    def real(self, key: str, least: float, most: float, otherwise: float | None = None) -> float:
        value = self._metadata.get(f"{self.section}.{key}", otherwise)
        if not isinstance(value, float) or not least <= value <= most:
            raise CodecError(f"{self.section}.{key} is {str(value)[:40]}, not a number from {least} to {most}")
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
