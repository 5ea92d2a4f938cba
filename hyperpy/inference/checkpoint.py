"""Read a checkpoint folder: ``config.json``, ``tokenizer.json`` and ``*.safetensors``, trusting nothing in them.

What comes out is what a GGUF file would give, under GGUF's names, so that everything behind it is the same. The one
difference is the order of weights inside a head: RoPE turns the pairs (j, j + head/2) here (5.5).

A safetensors file: a u64 length, that many bytes of JSON (name to dtype, shape and place), then the tensors without
gaps. Tensor bytes stay in the memory map.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyperpy.errors import CodecError, SizeError
from hyperpy.inference.bpe import NORMAL, SPECIAL, UNUSED, USER_DEFINED, WORDS
from hyperpy.inference.gguf import MAX_ITEMS, MAX_TENSORS, Gguf, Tensor
from hyperpy.inference.model import ARCHITECTURES, Numbers
from hyperpy.inference.tables import llama3_factors

MAX_HEADER, MAX_JSON, MAX_CONFIG = 1 << 26, 1 << 26, 1 << 20
"""Most bytes of a safetensors header, of ``tokenizer.json`` or an index, and of any other file about the model."""

_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,3})\.(.+)\.(weight|bias)")
_WHOLE = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_REAL = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}


def files_of(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that make the model, by name.

    Raises:
        CodecError: one is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapped = _json(index).get("weight_map")
        names = sorted({str(name) for name in mapped.values()}) if isinstance(mapped, dict) else []
    else:
        names = ["model.safetensors"]
    for name in (*names, "config.json", "tokenizer.json"):
        possible = len(name.encode("utf-8", "replace")) <= 255 and "\0" not in name and Path(name).name == name
        if not possible or not (folder / name).is_file():
            raise CodecError(f"the folder has no file '{name[:80]}'", hint="Fetch the whole checkpoint folder.")
    extra = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    return [folder / name for name in (*names, *extra) if (folder / name).is_file()]


def read(folder: Path) -> Gguf:
    """Map the tensors of a checkpoint folder and read its configuration.

    Raises:
        CodecError: a file is missing, damaged, or asks for what HPI-1 does not have; the text says which.
        SizeError: a count or length is beyond what a model has.
    """
    config = _json(folder / "config.json")
    found: dict[str, Tensor] = {}
    for path in files_of(folder):
        if path.suffix == ".safetensors":
            for tensor in tensors_of(_map(path), path.name):
                if tensor.name in found:
                    raise CodecError(f"'{tensor.name}' comes twice")
                found[tensor.name] = tensor
    if config.get("tie_word_embeddings", False):
        found.pop("output.weight", None)
    metadata = _shape(config)
    factors = _factors(config, metadata)
    if factors:
        raw = memoryview(np.array(factors, "<f4").tobytes())
        found["rope_freqs.weight"] = Tensor("rope_freqs.weight", "F32", (len(factors),), raw)
    rows = found["token_embd.weight"].shape[0] if "token_embd.weight" in found else 0
    return Gguf({**metadata, **_tokenizer(folder, rows)}, found, halves=True)


def tensors_of(view: memoryview, file: str) -> Iterable[Tensor]:
    """Yield the tensors of a safetensors file under GGUF's names."""
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(MAX_HEADER, len(view) - 8):
        raise CodecError(f"'{file}' is no safetensors file: its header does not fit in it")
    header, body = _parsed(view[8 : 8 + length], file), view[8 + length :]
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise SizeError(f"'{file}' has {len(header)} tensors, more than {MAX_TENSORS}")
    end = 0
    for name, record in sorted(header.items(), key=_place):
        kind, shape, (first, last) = record["dtype"], record["shape"], record["data_offsets"]
        if not isinstance(kind, str) or kind not in _SIZES:
            raise CodecError(f"'{name[:80]}' is of the type {str(kind)[:20]}", hint="F32, F16 and BF16 are read.")
        size = _SIZES[kind]
        for number in shape:
            size *= number
        if first != end or last - first != size or last > len(body) or not 1 <= len(shape) <= 2 or not size:
            raise CodecError(f"'{file}': the place of '{name[:80]}' contradicts its shape or another tensor's")
        end = last
        yield Tensor(_renamed(name), kind, tuple(shape), body[first:last])
    if end != len(body):
        raise CodecError(f"'{file}' has {len(body) - end} bytes that belong to no tensor")


def _place(item: tuple[str, Any]) -> int:
    """Return where a tensor begins, after checking that its record has the right types."""
    name, record = item
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        raise CodecError(f"the record of '{name[:80]}' has other fields than dtype, shape and data_offsets")
    shape, place = record["shape"], record["data_offsets"]
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2 or len(shape) > 8:
        raise CodecError(f"the record of '{name[:80]}' is damaged")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (*shape, *place)):
        raise CodecError(f"the record of '{name[:80]}' holds a number beyond any model's")
    return int(place[0])


def _renamed(name: str) -> str:
    """Return GGUF's name of a tensor."""
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _INNER:
        return f"blk.{layer[1]}.{_INNER[layer[2]]}.{layer[3]}"
    outer = name.removesuffix(".weight")
    return f"{_OUTER[outer]}.weight" if outer in _OUTER else name


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` says, as GGUF metadata."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CodecError(
            f"the architecture '{str(kind)[:40]}' is not supported", hint=f"HPI-1 runs {', '.join(ARCHITECTURES)}."
        )
    biased = config.get("attention_bias", kind == "qwen2")
    layers = config.get("layer_types") or []
    sliding = not isinstance(layers, list) or any(one != "full_attention" for one in layers)
    window = config.get("sliding_window") if kind == "llama" else None  # the others ask with use_sliding_window
    experts = [name for name in _EXPERTS if config.get(name)]
    unlike = {
        "layer_types": sliding,
        "sliding_window": window is not None,
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1),
        (experts or ["experts"])[0]: bool(experts),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": config.get("use_sliding_window", False),
        "attention_bias": biased is not (kind == "qwen2"),
        "mlp_bias": config.get("mlp_bias", False),
    }
    for key, other in unlike.items():
        if other:
            raise CodecError(f"config.json asks for {key} = {str(config.get(key))[:60]}, which HPI-1 does not have")
    made: dict[str, Any] = {"general.architecture": kind}
    made |= {f"{kind}.{ours}": config[theirs] for ours, theirs in _WHOLE.items() if config.get(theirs) is not None}
    rope = config.get("rope_parameters")
    told = {**(rope if isinstance(rope, dict) else {}), **config}
    for ours, theirs in _REAL.items():
        value = told.get(theirs)
        if isinstance(value, int | float) and abs(value) < 1e30:
            value = float(np.float32(value))
        if value is not None:
            made[f"{kind}.{ours}"] = value
    return made


def _factors(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[float]:
    """Return what the angle of each of RoPE's pairs is divided by; empty: nothing."""
    scaling = config.get("rope_scaling")
    rope = config.get("rope_parameters")  # of Transformers 5: rope_theta and rope_scaling in one
    if rope is not None:
        alike = isinstance(rope, dict) and not any(isinstance(one, dict) for one in rope.values())
        if not alike or rope.get("partial_rotary_factor") not in (None, 1):
            raise CodecError(f"config.json asks for rope_parameters = {str(rope)[:60]}, which HPI-1 does not have")
        if scaling is None and rope.get("rope_type", "default") != "default":
            scaling = rope
    if scaling is None or (isinstance(scaling, dict) and scaling.get("rope_type") == "default"):
        return []
    told = scaling if isinstance(scaling, dict) else {}
    kind = told.get("rope_type", told.get("type"))
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    values = [told.get(name) for name in (names if kind == "llama3" else names[:1])]
    if kind not in ("llama3", "linear") or not all(isinstance(v, int | float) and 0 < v < 1e9 for v in values):
        raise CodecError(f"config.json asks for rope_scaling = {str(scaling)[:60]}, which HPI-1 does not have")
    section = metadata["general.architecture"]
    numbers = Numbers(metadata, section)
    heads = numbers.whole("attention.head_count", 1, 256)
    head = numbers.whole(
        "attention.key_length", 2, 1 << 12, default=numbers.whole("embedding_length", 32, 1 << 15) // heads
    )
    exact = [float(v) for v in values if v is not None]
    if kind == "linear":
        return [float(np.float32(exact[0]))] * (head // 2)
    factor, low, high, old = exact
    if not low < high:
        raise CodecError("config.json: rope_scaling has a low_freq_factor that is not below its high_freq_factor")
    base = numbers.real("rope.freq_base", 1.0, 1e12, 10000.0)
    return llama3_factors(base, head // 2, (factor, low, high, old))


def _tokenizer(folder: Path, rows: int) -> dict[str, Any]:
    """Return what ``tokenizer.json`` and its companions say, as GGUF metadata; ``rows``: of the embedding."""
    file = _json(folder / "tokenizer.json")
    model: Any = file.get("model")
    added: Any = file.get("added_tokens", [])
    try:
        ids = {**model["vocab"], **{one["content"]: one["id"] for one in added}}
        kinds = {one["content"]: SPECIAL if one.get("special") else USER_DEFINED for one in added}
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        right = model["type"] == "BPE" and all(type(n) is int and 0 <= n < rows for n in ids.values())
    except (TypeError, KeyError, AttributeError, ValueError):
        right = False
    if not right or len(set(ids.values())) != len(ids) or rows > MAX_ITEMS:
        raise CodecError("tokenizer.json is no byte-level BPE whose ids are rows of the embedding")
    tokens = [f"[PAD{n}]" for n in range(rows)]
    types = [UNUSED] * rows
    for text, number in ids.items():
        tokens[number], types[number] = text, kinds.get(text, NORMAL)
    section = {"model": "gpt2", "pre": _pre(file), "tokens": tokens, "token_type": types, "merges": merges}
    made = {f"tokenizer.ggml.{key}": value for key, value in section.items()}
    return made | _companions(folder, ids)


def _companions(folder: Path, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the special ids and the chat template."""
    config, generation = (
        _json(folder / name, optional=True) for name in ("tokenizer_config.json", "generation_config.json")
    )
    made: dict[str, Any] = {}
    for name in ("bos_token", "eos_token"):
        told = config.get(name)
        text = told.get("content") if isinstance(told, dict) else told
        if isinstance(text, str) and text in ids:
            made[f"tokenizer.ggml.{name}_id"] = ids[text]
    ends = generation.get("eos_token_id")
    for number in ends if isinstance(ends, list) else [ends]:
        if type(number) is int and number != made.get("tokenizer.ggml.eos_token_id"):
            made.setdefault("tokenizer.ggml.eot_token_id", number)
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        template = _text(alone, MAX_CONFIG)
    if isinstance(template, str):
        if any("\ud800" <= letter <= "\udfff" for letter in template):
            raise CodecError("the chat template is no Unicode text")
        made["tokenizer.chat_template"] = template
    return made


def _pre(file: Mapping[str, Any]) -> str:
    """Return the name of a pre-tokenizer that ``tokenizer.json`` spells out."""
    outer, normal = file.get("pre_tokenizer"), file.get("normalizer")
    parts = outer.get("pretokenizers", [outer]) if isinstance(outer, dict) else []
    parts = parts if isinstance(parts, list) else []
    known = [part for part in parts if isinstance(part, dict)]
    kinds = [part.get("type") for part in known]
    level = known[-1] if known else {}
    named = None
    if kinds == ["ByteLevel"] and level.get("use_regex", True):
        named = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and known[0].get("individual_digits") and level.get("use_regex", True):
        named = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not level.get("use_regex", True) and _isolates(known[0]):
        told = known[0].get("pattern")
        pattern = told.get("Regex") if isinstance(told, dict) else None
        named = next((name for name, words in WORDS.items() if words == pattern), None)
    form = normal.get("type") if isinstance(normal, dict) else normal
    if named is None or level.get("add_prefix_space") or form != ("NFC" if named == "qwen2" else None):
        raise CodecError("tokenizer.json describes a way to split texts that is not known here")
    return named


def _isolates(split: Mapping[str, Any]) -> bool:
    return split.get("behavior") == "Isolated" and not split.get("invert")


def _json(path: Path, optional: bool = False) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    if optional and not path.is_file():
        return {}
    most = MAX_JSON if path.name in ("tokenizer.json", "model.safetensors.index.json") else MAX_CONFIG
    return _parsed(memoryview(_text(path, most).encode()), path.name)


def _text(path: Path, most: int) -> str:
    try:
        if path.stat().st_size > most:
            raise SizeError(f"'{path.name}' has more than {most >> 20} MiB")
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise CodecError(f"'{path.name}' is not UTF-8") from None
    except OSError as error:
        raise CodecError(f"'{path.name}' cannot be read: {error.strerror}") from None


def _parsed(raw: memoryview, file: str) -> dict[str, Any]:
    """Return a JSON object whose names are unique."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise CodecError(f"'{file}' names something twice")
        return made

    try:
        made = json.loads(str(raw, "utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise CodecError(f"'{file}' is not JSON") from None
    if not isinstance(made, dict):
        raise CodecError(f"'{file}' holds no JSON object")
    return made


def _map(path: Path) -> memoryview:
    if path.stat().st_size < 8:
        raise CodecError(f"'{path.name}' is too short for a safetensors file")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
