"""What would change an answer and is not part of HPI-1 is refused, and not ignored; numbers and old forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hyperpy.inference import toy
from hyperpy.inference.generation import Token
from hyperpy.inference.library import Library
from hyperpy.inference.tokenizer import Tokenizer, fields_of
from hyperpy.testing import TestNode, node

CHAT = "/~inference@1.0/v1/chat/completions"
TEXT = "/~inference@1.0/v1/completions"
HELLO = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 4}
PROMPT = {"model": "toy", "prompt": "abc", "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    with node(flags={"inference.models": str(folder / "kept"), "inference.engine": "reference"}) as made:
        yield made


def ask(n: TestNode, path: str, document: dict[str, Any], kind: str = "application/json") -> tuple[int, dict[str, Any]]:
    sent = {"content-type": kind, "accept": "application/json", "x-stainless-lang": "python", "priority": "u=1"}
    reply = n.http("POST", path, sent, json.dumps(document).encode())
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize(
    "more",
    [
        {"min_p": 0.1},
        {"min_tokens": 2},
        {"ignore_eos": True},
        {"tool_choice": "required"},
        {"function_call": {"name": "a"}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"reasoning_effort": "high"},
        {"response_format": "json_object"},
        {"response_format": ["json_object"]},
        {"store": True},
        {"stop_token_ids": [5]},
        {"grammar": "root ::= x"},
        {"what_nobody_knows": 1},
        {"whatnobodyknows": 1},
        {"whatnobodyknows": {"a": "b"}},
        {"top_logprobs": 2},
        {"top_logprobs": 2, "logprobs": False},
    ],
)
def test_what_is_not_understood_is_refused_by_name(n: TestNode, more: dict[str, Any]) -> None:
    status, found = ask(n, CHAT, HELLO | more)
    assert status == 400
    assert found["error"]["param"] == next(iter(more))
    assert found["error"]["type"] == "invalid_request_error"


def test_in_the_query_and_in_a_text_body_too(n: TestNode) -> None:
    for query in ("min_p=0.1", "min-p=0.1", "ignore_eos=true", "what_nobody_knows=1"):
        assert ask(n, f"{CHAT}?{query}", HELLO)[0] == 400, query
    for query in ("min_p=0", "ignore_eos=false", "user=me"):
        assert ask(n, f"{CHAT}?{query}", HELLO)[0] == 200, query
    assert ask(n, CHAT, HELLO | {"whatnobodyknows": "text"}, "text/plain")[0] == 400
    assert ask(n, CHAT, HELLO, "text/plain")[0] == 200


def test_what_changes_nothing_is_let_through(n: TestNode) -> None:
    neutral = {
        "min_p": 0, "ignore_eos": False, "tool_choice": "none", "function_call": "auto", "modalities": ["text"],
        "prediction": None, "response_format": "text", "store": False, "metadata": {"a": "b"}, "user": "me",
        "parallel_tool_calls": True, "service_tier": "auto", "best_of": 1, "logprobs": False, "top_logprobs": 0,
        "stream_options": {"include_usage": True}, "what_nobody_knows": None,
    }  # fmt: skip
    status, found = ask(n, CHAT, HELLO | neutral)
    assert (status, found["choices"]) == (200, ask(n, CHAT, HELLO)[1]["choices"])


@pytest.mark.parametrize("more", [{"logprobs": True}, {"top_logprobs": 3}, {"logprobs": 2, "top_logprobs": 3}])
def test_the_old_form_counts_its_logprobs(n: TestNode, more: dict[str, Any]) -> None:
    assert ask(n, TEXT, PROMPT | more)[0] == 400
    assert ask(n, TEXT, PROMPT | {"logprobs": False})[1]["choices"][0]["logprobs"] is None


def test_whole_floats_are_integers(n: TestNode) -> None:
    """JSON has numbers, and some clients write all of them with a point."""
    floats = {"max_tokens": 4.0, "n": 2.0, "top_k": 5.0, "level": 1.0}
    status, found = ask(n, CHAT, HELLO | floats)
    assert status == 200
    whole = ask(n, CHAT, HELLO | {name: int(one) for name, one in floats.items()})[1]
    assert found["choices"] == whole["choices"]
    for odd in (4.5, 1e300, -1.0, "4.0"):
        assert ask(n, CHAT, HELLO | {"max_tokens": odd})[0] == 400, odd


def test_parts_that_are_none(n: TestNode) -> None:
    for part in (10**6, 10**18, 2**63, 10**40):
        reply = n.http("GET", f"/~inference@1.0/weights?model=toy&part+integer={part}")
        assert (reply.status, json.loads(reply.body)["error"]["param"]) == (400, "part"), part
    assert n.http("GET", "/~inference@1.0/weights?model=toy&part+integer=0").status == 200


def test_of_tokens_with_the_same_text_the_old_form_tells_the_best() -> None:
    """Tokens 0 to 255 behind the special ones are single bytes: those that are no UTF-8 all read U+FFFD."""
    from hyperpy.devices.inference.choices import Choice, logprob

    tokenizer = Tokenizer(fields_of(toy.metadata()))
    broken = [one for one in range(len(tokenizer.tokens)) if tokenizer.bytes_of(one) in (b"\xc3", b"\xe2", b"\xff")]
    word = tokenizer.encode("a")[0]
    logits = np.full(len(tokenizer.tokens), -(1 << 20), np.int64)
    for rank, ident in enumerate([broken[1], word, broken[0], broken[2]]):
        logits[ident] = (9 - rank) << 16
    choice = Choice(0, tokenizer, (), 3, 4)
    for position, ident in enumerate((word, broken[1], word)):
        choice.take(Token(ident, position, logits, b""))
    told = _forms()._logprobs(choice.logprobs, choice.offsets)
    assert list(told["top_logprobs"][0].items()) == [
        ("\ufffd", logprob(logits, broken[1])),
        ("a", logprob(logits, word)),
    ]
    assert told["token_logprobs"][1] == told["top_logprobs"][1]["\ufffd"]
    assert told["text_offset"] == [0, 1, 1], "a byte that waits for its others is no character yet"


def _forms() -> Any:
    from types import SimpleNamespace

    from hyperpy.devices.inference.forms import Forms

    made = Forms.__new__(Forms)
    made._asked = SimpleNamespace(chat=False, usage=False, seed=b"s")  # type: ignore[assignment]
    made._head, made._kind = {}, "text_completion"
    return made


def test_pieces_of_a_stream_tell_the_same_offsets() -> None:
    from hyperpy.devices.inference.choices import Choice

    tokenizer = Tokenizer(fields_of(toy.metadata()))
    logits = np.arange(len(tokenizer.tokens), dtype=np.int64)
    choice, forms, told = Choice(0, tokenizer, (), 6, 2), _forms(), []
    for position, ident in enumerate(tokenizer.encode("a\u00fcb.")):
        choice.take(Token(ident, position, logits, b""))
        if piece := forms.news(choice):
            told += json.loads(piece.removeprefix(b"data: "))["choices"][0]["logprobs"]["text_offset"]
    assert told == choice.offsets == [0, 1, 1, 2, 3]


def test_offsets_say_where_tokens_stand(n: TestNode) -> None:
    document = PROMPT | {"logprobs": 2, "temperature": 1, "seed": 4, "max_tokens": 12}
    found = ask(n, TEXT, document)[1]["choices"][0]
    told = found["logprobs"]
    assert told["text_offset"][0] == 0
    for token, at in zip(told["tokens"], told["text_offset"], strict=True):
        assert "\ufffd" in token or found["text"][at:].startswith(token)
