"""OpenAI's own clients, Python's and Node's, unmodified, and curl against a node on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from hyperpy import commitments, config
from hyperpy.http.replies import decode_reply
from hyperpy.http.server import Server
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet

HELLO: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 12,
    "seed": 5,
}
CURL = ("curl", "-sN", "-H", "content-type: application/json")
WILD: dict[str, Any] = {**HELLO, "temperature": 1.7}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node that serves the toy."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    flags = {"inference.models": str(folder / "kept"), "inference.engine": "reference"}
    node = Node(
        config.load(environ={}, flags=flags), key=wallet(), store=MemoryStore(), operator=wallet("operator").address
    )
    server = Server(node, "127.0.0.1", 0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
        node.close()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/~inference@1.0/v1", api_key="any", max_retries=0) as made:
        yield made


def test_python_chat_and_models(client: openai.OpenAI) -> None:
    (row,) = client.models.list()
    assert row.id == "toy"
    assert client.models.retrieve("toy") == row
    assert client.models.retrieve(row.model_extra["reference"]) == row  # type: ignore[index]
    with pytest.raises(openai.NotFoundError) as lost:
        client.models.retrieve("gpt-4")
    assert lost.value.body == {
        "message": "the model 'gpt-4' is not on this node. Known: toy.", "type": "not_found_error", "param": None,
        "code": None,
    }  # fmt: skip
    found = client.chat.completions.create(**HELLO)
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    again = client.chat.completions.create(**HELLO)
    assert again.choices[0].message.content == found.choices[0].message.content


def test_python_stream_is_the_whole_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**WILD, logprobs=True, top_logprobs=2)
    pieces = list(
        client.chat.completions.create(
            **WILD, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(one.choices[0].delta.content or "" for one in pieces[:-1]) == whole.choices[0].message.content
    assert [one.choices[0].finish_reason for one in pieces[:-1]][-1] == whole.choices[0].finish_reason
    assert not pieces[-1].choices
    assert pieces[-1].usage == whole.usage
    told = [
        entry.logprob for one in pieces[:-1] if one.choices[0].logprobs for entry in one.choices[0].logprobs.content
    ]  # type: ignore[union-attr]
    assert whole.choices[0].logprobs is not None
    assert told == [entry.logprob for entry in whole.choices[0].logprobs.content or ()]
    assert len(pieces) > 5, "pieces came, not one"


def test_python_completions_stop_and_seed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": "abc", "max_tokens": 12, "temperature": 1.9}
    one, two = (client.completions.create(**asked, seed=seed).choices[0].text for seed in (1, 1))
    assert one == two
    cut = client.completions.create(**asked, seed=1, stop=one[4:6]).choices[0]
    assert (cut.text, cut.finish_reason) == (one[: one.index(one[4:6])], "stop")
    streamed = client.completions.create(**asked, seed=1, stop=one[4:6], stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == cut.text


def test_python_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**HELLO, "model": "nope"})
    assert "Known: toy" in str(missing.value)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**HELLO, frequency_penalty=1.0)
    assert bad.value.param == "frequency_penalty"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**HELLO, "max_tokens": -1}, stream=True)


def test_a_stream_ends_with_the_signed_whole(url: str) -> None:
    """curl, as anybody would; the last event verifies with the node's key."""
    assert shutil.which("curl")
    done = subprocess.run(
        [*CURL, f"{url}/~inference@1.0/v1/chat/completions", "-d", json.dumps({**WILD, "stream": True})],
        capture_output=True,
        timeout=60,
        check=True,
    )
    events = done.stdout.decode().split("\n\n")
    assert events[-3] == "data: [DONE]"
    assert events[-2].startswith("event: result\ndata: ")
    told = json.loads(events[-2].removeprefix("event: result\ndata: "))
    lines = tuple((name.encode(), text.encode("latin-1")) for name, text in told["headers"].items())
    reply = decode_reply(told["status"], lines, told["body"].encode())
    assert commitments.committers(reply) == (wallet().address,)
    commitments.check(reply)
    pieces = [json.loads(one.removeprefix("data: ")) for one in events[:-3]]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in pieces)
    assert text == json.loads(told["body"])["choices"][0]["message"]["content"]


def test_node_openai(url: str, node_script: Callable[[str, str], Any], client: openai.OpenAI) -> None:
    script = node_script("openai.cjs", "openai")
    assert script.ask(op="models", url=url) == ["toy"]
    whole = script.ask(op="chat", url=url, request=WILD)
    assert (
        whole["choices"][0]["message"]["content"] == client.chat.completions.create(**WILD).choices[0].message.content
    )
    pieces = script.ask(op="stream", url=url, request=WILD)
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    failed = script.ask(op="failure", url=url, request={**HELLO, "model": "nope"})
    assert (failed["name"], failed["status"]) == ("NotFoundError", 404)


def test_a_caller_that_leaves_ends_the_answer(url: str, tmp_path: Path) -> None:
    """The node is not kept busy by answers that nobody reads."""
    long = {**HELLO, "max_tokens": 1500, "temperature": 0, "stream": True}
    command = [*CURL, f"{url}/~inference@1.0/v1/chat/completions", "-d", json.dumps(long)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"data:")
    process.kill()
    process.wait()
    with openai.OpenAI(base_url=f"{url}/~inference@1.0/v1", api_key="any", max_retries=0, timeout=20) as made:
        assert made.chat.completions.create(**HELLO).choices[0].message.content
