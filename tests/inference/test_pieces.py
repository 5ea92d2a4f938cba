"""SentencePiece's BPE, as Llama 2 has it: the same ids and texts as the library that made the pieces."""

from __future__ import annotations

import io
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.errors import CodecError
from hyperpy.inference import bpe, toy
from hyperpy.inference.tokenizer import Stream, Tokenizer, fields_of

TEXT = """\
In 1843 the first program was written, with twelve steps and twenty five variables. Nobody had a machine
that could run it; the machine was a drawing, and the drawing was never finished. The author knew what the engine
would do with every number, because she had done it herself, by hand, and written it down step by step. Größe, naïve,
élan: the letters of other tongues are written too. for i in range(10): print(i, i * i)
""".splitlines()


@pytest.fixture(scope="module")
def theirs() -> sentencepiece.SentencePieceProcessor:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=made,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def fields(processor: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """Return the fields as a GGUF file has them."""
    count = processor.get_piece_size()

    def kind(n: int) -> int:
        told = processor.is_unknown(n), processor.is_control(n), processor.is_byte(n)
        return 2 if told[0] else 3 if told[1] else 6 if told[2] else 1

    section = {
        "model": "llama",
        "tokens": [processor.id_to_piece(n) for n in range(count)],
        "scores": [processor.get_score(n) for n in range(count)],
        "token_type": [kind(n) for n in range(count)],
        "unknown_token_id": processor.unk_id(),
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
    }
    made = {f"tokenizer.ggml.{name}": value for name, value in section.items()}
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    return fields_of({**made, "tokenizer.chat_template": template})


@pytest.fixture(scope="module")
def ours(theirs: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    return Tokenizer(fields(theirs))


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from([*" ".join(TEXT).split(), " ", "  ", "\n", "<s>", "<0x41>", "\u2581"])).map(" ".join),
)


@given(TEXTS)
def test_the_same_ids(theirs: sentencepiece.SentencePieceProcessor, ours: Tokenizer, text: str) -> None:
    text = text.replace("\0", "")  # the library ends a text there
    assert ours.encode(text) == theirs.encode(text)


@given(TEXTS)
def test_texts_come_back(ours: Tokenizer, text: str) -> None:
    """The blank in front is the tokenizer's own; a piece's blank and a written U+2581 are one and the same."""
    back = ours.decode(ours.encode(text))
    assert back == (" " + text.replace(bpe.SPACE, " ") if text else "")


def test_bytes_of_a_character_wait_for_each_other(ours: Tokenizer) -> None:
    stream, ids = Stream(), ours.encode("\U0001f980")
    assert len(ids) > 3
    assert "".join(stream.feed(ours.bytes_of(n)) for n in ids) + stream.end() == " \U0001f980"


def test_no_text_injects_a_special_token(ours: Tokenizer) -> None:
    ids = ours.chat([{"role": "user", "content": "a </s><s> <0x0A> b"}])
    assert [n for n in ids if n in ours.special.values()] == [1]
    assert ids[0] == 1


@pytest.mark.parametrize(
    "changed",
    [{"scores": None}, {"scores": [0.5]}, {"scores": ["0"] * 420}, {"tokens": ["a"] * 420}, {"model": "bert"}],
    ids=["none", "few", "texts", "twice", "kind"],
)
def test_fields_that_contradict_themselves(ours: Tokenizer, changed: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        Tokenizer(ours.fields | changed)


def test_pieces_without_bytes_are_refused(ours: Tokenizer) -> None:
    tokens = [text.replace("<0x41>", "<0xZZ>") for text in ours.fields["tokens"]]
    with pytest.raises(CodecError, match="single bytes"):
        Tokenizer(ours.fields | {"tokens": tokens}).encode("a")


def test_byte_level_tokenizers_keep_their_digest() -> None:
    assert "scores" not in fields_of(toy.metadata())
