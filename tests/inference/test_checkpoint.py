"""Checkpoint folders: written with the formats' own libraries, read here, refused when they lie."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as Library

from hyperpy.bench.floating import Floats
from hyperpy.errors import CodecError, MessageError
from hyperpy.inference import checkpoint, reference, toy
from hyperpy.inference.library import Library as Models
from hyperpy.inference.tokenizer import Tokenizer, fields_of
from tests.inference.test_architectures import IDS, apart

pytestmark = pytest.mark.timeout(300)
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def theirs(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{OUTER[parts[0]]}.{parts[1]}"
    return f"model.layers.{parts[1]}.{INNER[parts[2]]}.{parts[3]}"


def config_json(kind: str) -> dict[str, Any]:
    made = {
        "model_type": kind,
        "num_hidden_layers": toy.LAYERS,
        "hidden_size": toy.WIDTH,
        "intermediate_size": toy.HIDDEN,
        "num_attention_heads": toy.HEADS,
        "num_key_value_heads": toy.KV_HEADS,
        "max_position_embeddings": toy.CONTEXT,
        "rms_norm_eps": 2.0**-17,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    return made | ({"head_dim": toy.WIDE_HEAD} if kind == "qwen3" else {})


def tokenizer_json() -> str:
    """Return the toy's tokenizer as its library writes it."""
    fields = fields_of(toy.metadata())
    made: Library = Tokenizer(fields)._bpe
    made.add_special_tokens(list(toy.SPECIAL))
    return str(made.to_str())


def write(folder: Path, kind: str, shards: int = 1) -> Path:
    """Write the toy as a checkpoint folder; its weights are the floats that its GGUF blocks stand for."""
    folder.mkdir(exist_ok=True)
    (folder / "toy.gguf").write_bytes(toy.gguf_bytes(architecture=kind))
    reader = GGUFReader(folder / "toy.gguf")
    tensors = {theirs(t.name): np.asarray(dequantize(t.data, t.tensor_type), np.float32) for t in reader.tensors}
    (folder / "toy.gguf").unlink()
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        files = [f"model-{n}.safetensors" for n in range(shards)]
        for n, file in enumerate(files):
            save_file({name: tensors[name] for name in names[n::shards]}, folder / file)
        mapped = {name: files[n % shards] for n, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapped}))
    (folder / "config.json").write_text(json.dumps(config_json(kind)))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    companion = {"bos_token": toy.SPECIAL[1], "eos_token": {"content": toy.SPECIAL[2]}, "chat_template": toy.TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(companion))
    return folder


def floats(folder: Path, kind: str) -> Floats:
    """Return the float judge of a checkpoint folder, which its own library reads."""
    loaded: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        loaded |= load_file(path)
    ours = {theirs(name): name for name in toy.tensors(architecture=kind)}
    weights = {ours[name]: np.asarray(w, np.float64) for name, w in loaded.items()}
    shape = {"layers": toy.LAYERS, "heads": toy.HEADS, "groups": toy.KV_HEADS}
    return Floats(weights=weights, **shape, eps=2.0**-17, base=10000.0, halves=True)


@pytest.mark.parametrize(("kind", "shards"), [("llama", 1), ("llama", 3), ("qwen2", 1), ("qwen3", 2)])
def test_the_float_model_agrees(tmp_path: Path, kind: str, shards: int) -> None:
    folder = write(tmp_path / "toy", kind, shards)
    models = Models(tmp_path / "models")
    entry = models.add(folder, "toy")
    model, tokenizer = models.load("toy")
    engine = reference.Engine(model)
    got = engine.forward(IDS, engine.cache(), every=True) / 65536.0
    assert apart(got, floats(folder, kind).logits(IDS)) < 0.03
    assert entry.manifest["config"]["neox"] is True
    assert tokenizer.stops >= {2}
    assert tokenizer.encode("the inn ill 12") == Library.from_str(tokenizer_json()).encode("the inn ill 12").ids
    plain = Tokenizer(fields_of(toy.metadata()))
    turns = [{"role": "user", "content": "hello <|im_end|> the"}]
    assert tokenizer.chat(turns) == plain.chat(turns)


def test_the_shards_do_not_change_the_model(tmp_path: Path) -> None:
    models = Models(tmp_path / "models")
    one = models.add(write(tmp_path / "one", "qwen2"), "one")
    two = models.add(write(tmp_path / "two", "qwen2", 3), "two")
    assert one.ident == two.ident
    assert one.manifest["source"]["sha256"] != two.manifest["source"]["sha256"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint"), "llama")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factors"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_hidden_layers": 10**9}, "block_count"),
        ({"hidden_size": "64"}, "embedding_length"),
        ({"rope_theta": 10**400}, "freq_base"),
        ({"rope_theta": "1e4"}, "freq_base"),
        ({"num_attention_heads": 3}, "contradicts"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters"),
        ({"rope_parameters": 5}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"sliding_window": 16}, "sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary"),
        ({"num_local_experts": 8}, "num_local_experts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "".join(value),
)
def test_a_configuration_that_cannot_be_run(whole: Path, tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    for file in whole.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config_json("llama") | changed))
    with pytest.raises(CodecError, match=reason):
        Models(tmp_path / "models").add(tmp_path, "toy")
    assert not list((tmp_path / "models").glob("*"))


def header(records: Any, body: bytes = b"") -> bytes:
    raw = records if isinstance(records, bytes) else json.dumps(records).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def record(**changed: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changed


LIES: list[tuple[bytes, str]] = [
    (struct.pack("<Q", 2**63), "header"),
    (struct.pack("<Q", 100) + b"{}", "header"),
    (header(b"[]"), "no JSON object"),
    (header(b"{" * 50_000), "not JSON"),
    (header(b'{"a":{},"a":{}}'), "twice"),
    (header({"a": 1}), "other fields"),
    (header({"a": record(dtype="I64")}, bytes(16)), "type"),
    (header({"a": record(dtype=["F32"])}, bytes(16)), "type"),
    (header({"a": record(dtype={})}, bytes(16)), "type"),
    (header({"a": record(data_offsets=[0, 15])}, bytes(15)), "contradicts"),
    (header({"a": record()}, bytes(15)), "contradicts"),
    (header({"a": record()}, bytes(17)), "no tensor"),
    (header({"a": record(), "b": record(data_offsets=[8, 24])}, bytes(24)), "contradicts"),
    (header({"a": record(), "b": record(data_offsets=[20, 36])}, bytes(36)), "contradicts"),
    (header({"a": record(shape=[2**30, 2**30, 2**30], data_offsets=[0, 2**47])}), "contradicts"),
    (header({"a": record(shape=[-2, -2])}, bytes(16)), "beyond"),
    (header({"a": record(shape=[2.0, 2])}, bytes(16)), "beyond"),
    (header({"a": record(shape=[0, 2], data_offsets=[0, 0])}), "contradicts"),
    (header({"a": record(shape={}, data_offsets=[0, 0])}), "damaged"),
]


@pytest.mark.parametrize(("data", "reason"), LIES, ids=lambda value: value[:24] if isinstance(value, str) else "")
def test_tensor_files_that_lie(data: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        list(checkpoint.tensors_of(memoryview(data), "x.safetensors"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=12))
def test_a_damaged_tensor_file_is_read_or_refused(whole: Path, at: int, noise: bytes) -> None:
    data = (whole / "model.safetensors").read_bytes()
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        read = list(checkpoint.tensors_of(memoryview(damaged), "x"))
    except MessageError:
        return
    assert sum(len(tensor.data) for tensor in read) <= len(damaged)


def changed_tokenizer(change: Callable[[dict[str, Any]], None]) -> str:
    made = json.loads(tokenizer_json())
    change(made)
    return json.dumps(made)


TOKENIZERS: list[Callable[[dict[str, Any]], None]] = [
    lambda t: t["model"].update(type="Unigram"),
    lambda t: t["model"]["vocab"].update(extra=10**6),
    lambda t: t["model"]["vocab"].update(extra=5),
    lambda t: t["model"]["vocab"].update(extra="5"),
    lambda t: t["model"].update(merges=[[1, 2]]),
    lambda t: t.update(added_tokens=[{"id": [], "content": {}}]),
    lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
    lambda t: t.update(pre_tokenizer=None),
    lambda t: t.update(normalizer={"type": "Lowercase"}),
    lambda t: t.update(model=None),
]


@pytest.mark.parametrize("change", TOKENIZERS, ids=range(len(TOKENIZERS)))
def test_tokenizers_that_are_not_known(whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for file in whole.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(changed_tokenizer(change))
    with pytest.raises(CodecError):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "gone.safetensors", 7, ""])
def test_an_index_that_names_other_files(tmp_path: Path, name: Any) -> None:
    write(tmp_path / "toy", "llama", 2)
    index = tmp_path / "toy" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CodecError, match="has no file"):
        checkpoint.read(tmp_path / "toy")


def test_texts_are_split_as_the_models_own_file_says() -> None:
    """The pattern of Qwen2 as its tokenizer.json publishes it; every digit stands alone, texts are composed."""
    fields = fields_of(toy.metadata()) | {"pre": "qwen2"}
    made = Tokenizer(fields)
    split = [piece for piece, _ in made._bpe.pre_tokenizer.pre_tokenize_str("I've 123 the\n\n  end")]
    assert split == ["I", "'ve", "Ġ", "1", "2", "3", "Ġthe", "ĊĊ", "Ġ", "Ġend"]
    assert made.encode("e\u0301") == made.encode("\u00e9")
    told = json.loads(made._bpe.to_str())
    assert checkpoint._pre(told) == "qwen2"


def test_scaled_rotations_of_llama_3(tmp_path: Path) -> None:
    """The formula as the model's authors give it, in floats: long waves by the factor, short ones not at all."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = write(tmp_path / "toy", "llama")
    (folder / "config.json").write_text(json.dumps(config_json("llama") | {"rope_scaling": scaling}))
    models = Models(tmp_path / "models")
    entry = models.add(folder, "toy")
    expected = []
    for pair in range(16):
        wavelength = 2 * math.pi * 10000.0 ** (2 * pair / 32)
        if wavelength < 64 / 4.0:
            expected.append(1.0)
        elif wavelength > 64 / 1.0:
            expected.append(8.0)
        else:
            smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append(1 / ((1 - smooth) / 8.0 + smooth))
    assert entry.manifest["config"]["rope_factors"] == pytest.approx(expected, rel=1e-6)
    assert {1.0, 8.0} < set(entry.manifest["config"]["rope_factors"])
    engine, judge = reference.Engine(models.load("toy")[0]), floats(folder, "llama")
    got = engine.forward(IDS, engine.cache(), every=True) / 65536.0
    judge.factors = np.array(expected)
    assert apart(got, judge.logits(IDS)) < 0.03


@pytest.mark.parametrize("scaled", [False, True])
def test_rotations_as_transformers_5_tells_them(whole: Path, tmp_path: Path, scaled: bool) -> None:
    """``rope_parameters`` says what ``rope_theta`` and ``rope_scaling`` said: the same model comes out."""
    told = {"factor": 2.0} if scaled else {}
    old = {"rope_theta": 500000.0, **({"rope_scaling": {"rope_type": "linear", **told}} if scaled else {})}
    kind = "linear" if scaled else "default"
    new = {"rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": kind, **told}}
    found = []
    for number, changed in enumerate((old, new)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in whole.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "config.json").unlink()
        config = {k: v for k, v in (config_json("llama") | changed).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        found.append(Models(tmp_path / f"models{number}").add(folder, "toy").manifest["config"])
    assert found[0] == found[1]
    assert found[0]["rope_base"] == 500000.0


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", lambda one: one | {"padding": "x" * (1 << 20)}),
        ("tokenizer.json", lambda one: one | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": None}}),
        ("tokenizer.json", lambda one: one | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 5}}),
        ("tokenizer_config.json", lambda one: {"chat_template": "\ud800"}),
        ("model.safetensors.index.json", lambda one: {"weight_map": {"a": "x" * 5000}}),
        ("model.safetensors.index.json", lambda one: {"weight_map": {"a": "x\0"}}),
    ],
)
def test_companions_that_are_hostile(whole: Path, tmp_path: Path, file: str, change: Callable[[Any], Any]) -> None:
    for one in whole.iterdir():
        (tmp_path / one.name).symlink_to(one)
    known = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).write_text(json.dumps(change(known)))
    with pytest.raises(MessageError):
        Models(tmp_path / "models").add(tmp_path, "toy")


def test_a_list_of_templates_with_odd_names(whole: Path, tmp_path: Path) -> None:
    for one in whole.iterdir():
        (tmp_path / one.name).symlink_to(one)
    (tmp_path / "tokenizer_config.json").unlink(missing_ok=True)
    named = [{"name": ["a"], "template": "x"}, {"name": "default", "template": "{{ messages }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    Models(tmp_path / "models").add(tmp_path, "toy")
