"""A little model from a seeded integer generator: for tests, and for the self-test of engines.

It is written as a GGUF file, so that everything a real model passes through is passed through here.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.inference.weights import Matrix

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 96, 2, 2, 1, 2048
WIDE_HEAD = 64
"""Head width of the toy ``qwen3``: its heads together are wider than the model."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "h e", "i n", "l l")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def _numbers(seed: str, name: str, count: int, least: int, most: int) -> npt.NDArray[np.int64]:
    """Return integers from ``least`` to ``most`` - 1, from SHAKE-256 of the seed and a name."""
    raw = hashlib.shake_256(f"{seed}/{name}".encode()).digest(4 * count)
    return np.frombuffer(raw, "<u4").astype(np.int64) % (most - least) + least


def _f16(values: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.uint8]:
    """Return integers times 2**-shift as f16 bytes; they are below 2,048, so nothing is rounded."""
    return np.ldexp(values.astype(np.float64), -shift).astype("<f2").view(np.uint8).reshape(-1, 2)


def _q4_1(seed: str, name: str, rows: int, columns: int) -> bytes:
    count = rows * columns // 32
    scale = _f16(_numbers(seed, name + "/d", count, 1024, 2048), 16)
    offset = _f16(-_numbers(seed, name + "/m", count, 1024, 2048), 13)
    nibbles = _numbers(seed, name + "/q", count * 16, 0, 256).astype(np.uint8).reshape(count, 16)
    return np.concatenate([scale, offset, nibbles], axis=1).tobytes()


def _q8_0(seed: str, name: str, rows: int, columns: int) -> bytes:
    count = rows * columns // 32
    scale = _f16(_numbers(seed, name + "/d", count, 1024, 2048), 17)
    values = _numbers(seed, name + "/q", count * 32, 0, 256).astype(np.uint8).reshape(count, 32)
    return np.concatenate([scale, values], axis=1).tobytes()


def _f32(seed: str, name: str, count: int, least: int = 1024) -> bytes:
    return (_numbers(seed, name, count, least, 2048).astype("<f4") / np.float32(1024)).tobytes()


def tokens() -> list[str]:
    """Return the vocabulary: special tokens, the 256 bytes, and a few merges."""
    from hyperpy.inference.tokenizer import byte_table

    return [*SPECIAL, *byte_table(), *("".join(pair.split()) for pair in MERGES)]


def metadata(architecture: str = "llama") -> dict[str, Any]:
    """Return the file's metadata."""
    vocabulary = tokens()
    section = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 2.0**-17,
        "rope.freq_base": 10000.0,
    }
    if architecture == "qwen3":
        section |= {"attention.key_length": WIDE_HEAD, "attention.value_length": WIDE_HEAD}
    return {
        "general.architecture": architecture,
        "general.name": "toy",
        **{f"{architecture}.{key}": value for key, value in section.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(vocabulary) - len(SPECIAL)),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


def tensors(seed: str = "toy", architecture: str = "llama") -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Return the tensors by name: block type, dimensions fastest first, bytes."""
    d, words, head = WIDTH, len(tokens()), WIDE_HEAD if architecture == "qwen3" else WIDTH // HEADS
    q, kv = HEADS * head, KV_HEADS * head
    made = {
        "token_embd.weight": (8, (d, words), _q8_0(seed, "token_embd", words, d)),
        "output_norm.weight": (0, (d,), _f32(seed, "output_norm", d)),
    }
    sizes = {"attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q)}
    sizes |= {"ffn_gate": (HIDDEN, d), "ffn_up": (HIDDEN, d), "ffn_down": (d, HIDDEN)}
    vectors = {"attn_norm.weight": (d, 1024), "ffn_norm.weight": (d, 1024)}
    if architecture == "qwen2":
        vectors |= {f"{name}.bias": (sizes[name][0], -2048) for name in ("attn_q", "attn_k", "attn_v")}
    if architecture == "qwen3":
        vectors |= {"attn_q_norm.weight": (head, 1024), "attn_k_norm.weight": (head, 1024)}
    for layer in range(LAYERS):
        for name, (rows, columns) in sizes.items():
            full = f"blk.{layer}.{name}"
            made[f"{full}.weight"] = (3, (columns, rows), _q4_1(seed, full, rows, columns))
        for name, (count, least) in vectors.items():
            plain = name.removesuffix(".weight")
            made[f"blk.{layer}.{name}"] = (0, (count,), _f32(seed, f"{layer}.{plain}", count, least))
    return made


def gguf_bytes(seed: str = "toy", architecture: str = "llama") -> bytes:
    """Return the whole file."""
    return write(metadata(architecture), tensors(seed, architecture))


def halved(matrix: Matrix) -> Matrix:
    """Return a matrix with groups of 16 columns, as Q6_K has them: signed bytes, no offsets.

    The toy is too narrow for blocks of that type, which have 256 columns.
    """
    q = (matrix.q.astype(np.int16) % 64 - 32).astype(np.int8)
    d = np.repeat(matrix.d, 2, axis=1)
    d[:, 1::2] = d[:, 1::2] * 2 // 3
    return replace(matrix, q=q, d=d, m=np.zeros_like(d))


def write(pairs: dict[str, Any], made: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """Return a GGUF v3 file with these pairs and tensors."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(made), len(pairs))
    out += b"".join(_text(key) + _typed(value) for key, value in pairs.items())
    body, records = b"", b""
    for name, (kind, sizes, data) in made.items():
        body += bytes(-len(body) % 32)
        records += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(body))
        body += data
    out += records
    return out + bytes(-len(out) % 32) + body


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: Any) -> bytes:
    """Return a value behind its type number: texts, u32, f32, and lists of texts or of i32."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
