"""A served model under faults: very many clients, a killed GPU process, damaged files, prompts that are too long.

Every reply is the right answer or says what is wrong; the node goes on.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperpy.inference import reference, toy
from hyperpy.inference.engines import toy_model
from hyperpy.inference.generation import generate
from hyperpy.inference.library import Library
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tokenizer import Tokenizer, fields_of

CHAT = "/~inference@1.0/v1/chat/completions"
JSON = {"content-type": "application/json"}
WORDS = ("hello", "the hill", "grüße", "in the thin", "ll")
LIMIT = 8


def expected(word: str, limit: int = LIMIT) -> list[int]:
    """Return what the reference engine gives a prompt."""
    tokenizer = Tokenizer(fields_of(toy.metadata()))
    ids = tokenizer.chat([{"role": "user", "content": word}])
    return [one.ident for one in generate(reference.Engine(toy_model()), ids, Sampling(), limit, tokenizer.stops)]


def document(word: str, limit: int = LIMIT, **more: Any) -> bytes:
    turns = [{"role": "user", "content": word}]
    return json.dumps({"model": "toy", "messages": turns, "temperature": 0, "max_tokens": limit, **more}).encode()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A library with the toy in it."""
    file = tmp_path / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(tmp_path / "kept").add(file, "toy")
    return tmp_path / "kept"


class Served:
    """A ``hyperpy serve`` on loopback."""

    def __init__(self, process: subprocess.Popen[str], where: str) -> None:
        self.pid = process.pid
        self.host, _, port = where.removeprefix("http://").partition(":")
        self.port = int(port)

    def post(self, body: bytes, path: str = CHAT) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Return status, headers and document of an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            connection.request("POST", path, body, JSON)
            reply = connection.getresponse()
            headers = {name.lower(): text for name, text in reply.getheaders()}
            return reply.status, headers, json.loads(reply.read())
        finally:
            connection.close()

    def healthy(self) -> dict[str, Any]:
        """Return what the node says of its health."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            connection.request("GET", "/~inference@1.0/health")
            reply = connection.getresponse()
            assert reply.status == 200
            found: dict[str, Any] = json.loads(reply.read())
            return found
        finally:
            connection.close()

    def answers(self, word: str = "hello") -> bool:
        """Say whether a prompt gets its right answer."""
        status, _, found = self.post(document(word))
        return status == 200 and found["choices"][0]["token_ids"] == expected(word)


@contextmanager
def serve(folder: Path, models: Path, engine: str = "reference", **settings: Any) -> Iterator[Served]:
    """Run ``hyperpy serve`` with the models of a folder; ``limits_deadline`` and the like are more settings."""
    rows = [f'[inference]\nmodels = "{models}"\nengine = "{engine}"']
    for name, value in settings.items():
        section, _, key = name.partition("_")
        rows.append(f"[{section}]\n{key} = {value}" if section != "inference" else f"{key} = {value}")
    (folder / "hyperpy.toml").write_text("\n".join(rows) + "\n")
    command = [
        sys.executable,
        "-m",
        "hyperpy",
        "serve",
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        "--config",
        "hyperpy.toml",
    ]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Served(process, process.stdout.readline().split()[4])
        assert process.poll() is None, "the node lives"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- very many clients ---------------------------------------------------------------------------------


async def _one(node: Served, word: str) -> tuple[str, bytes]:
    body = document(word)
    reader, writer = await asyncio.open_connection(node.host, node.port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    reply = await reader.read()
    writer.close()
    return word, reply


async def _all(node: Served, count: int) -> list[tuple[str, bytes]]:
    return await asyncio.gather(*(_one(node, WORDS[n % len(WORDS)]) for n in range(count)))


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_clients_at_once(tmp_path: Path, models: Path, count: int) -> None:
    """Each reply is the right answer, or 503 with Retry-After; afterwards nothing runs, waits or is lost."""
    right = {word: expected(word) for word in WORDS}
    with serve(tmp_path, models, "cpu", limits_deadline=1000) as node:
        assert node.answers()
        statuses = []
        for word, reply in asyncio.run(_all(node, count)):
            head, _, body = reply.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            status, found = lines[0].split()[1], json.loads(body)
            statuses.append(status)
            if status == "200":
                assert found["choices"][0]["token_ids"] == right[word]
            else:
                assert status == "503"
                assert found["error"]["type"] == "server_error"
                assert any(line.startswith("retry-after: ") for line in lines)
        assert len(statuses) == count
        assert statuses.count("200") >= 32, "as many as run and wait are served"
        health = node.healthy()
        assert (health["status"], health["running"], health["waiting"]) == ("healthy", 0, 0)
        assert all(node.answers(word) for word in WORDS)


# -- a GPU's process -------------------------------------------------------------------------------------


def _gpu_processes(pid: int) -> list[int]:
    """Return the children of a node that hold a GPU."""
    children = {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }
    return [child for child in children if b"webgpu_child" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def gpu() -> None:
    pytest.importorskip("wgpu")
    from hyperpy.inference import webgpu_adapter

    if not webgpu_adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the GPU's process in /proc")
def test_a_gpus_process_is_killed_while_it_answers(tmp_path: Path, models: Path, gpu: None) -> None:
    """The stream ends with an error, its beginning is right, the next answer comes from a new process."""
    with serve(tmp_path, models, "webgpu") as node:
        assert node.answers()
        connection = http.client.HTTPConnection(node.host, node.port, timeout=120)
        connection.request("POST", CHAT, document("hello", 1500, stream=True, logprobs=True), JSON)
        reply = connection.getresponse()
        assert reply.status == 200
        lines = [reply.readline() for _ in range(9)]
        [before] = _gpu_processes(node.pid)
        os.kill(before, signal.SIGKILL)
        lines += reply.read().splitlines()
        connection.close()
        events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
        told, error, whole = events[:-2], events[-2], events[-1]
        assert "process of the GPU" in error["error"]["message"]
        assert error["error"]["type"] == "server_error"
        assert (whole["status"], whole["headers"]["retry-after"]) == (503, "1")
        pieces = [one["choices"][0]["delta"].get("content", "") for one in told]
        tokenizer = Tokenizer(fields_of(toy.metadata()))
        right = tokenizer.decode(iter(expected("hello", 60)))
        assert any(pieces)
        assert right.startswith("".join(pieces)[: len(right)]), "no wrong token was told"
        assert node.answers()
        assert _gpu_processes(node.pid) != [before]


# -- damaged files -----------------------------------------------------------------------------------------


def _flip(file: Path, at: int = 1000) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("damage", ["one bit", "cut short", "gone", "tokenizer", "manifest"])
def test_a_damaged_model_is_told_and_can_be_repaired(tmp_path: Path, models: Path, damage: str) -> None:
    """No token of damaged weights is made; the node answers other requests, and this one once the file is whole."""
    [folder] = [one for one in models.iterdir() if one.is_dir()]
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    weights, manifest = folder / "weights", folder / "manifest.json"
    if damage == "one bit":
        _flip(weights)
    elif damage == "cut short":
        weights.write_bytes(kept[weights][:-100])
    elif damage == "gone":
        weights.unlink()
    elif damage == "tokenizer":
        _flip(next(file for file in folder.iterdir() if "tokenizer" in file.name))
    else:
        manifest.write_text("{")
    with serve(tmp_path, models, inference_preload="true" if damage == "one bit" else "false") as node:
        for _ in range(2):
            status, _, found = node.post(document("hello"))
            assert status == 500, found
            assert re.search("are damaged|is damaged|changed on disk", found["error"]["message"])
        assert node.healthy()["models"] == ([] if damage == "manifest" else ["toy"])
        for file, data in kept.items():
            file.write_bytes(data)
        assert node.answers()


@pytest.mark.timeout(300)
def test_weights_that_are_written_to_under_a_running_node(tmp_path: Path, models: Path) -> None:
    """Weights stay mapped: what another program writes there reaches no answer, not even one that has begun."""
    [folder] = [one for one in models.iterdir() if one.is_dir()]
    weights = folder / "weights"
    kept = weights.read_bytes()
    with serve(tmp_path, models) as node:
        assert node.answers()
        connection = http.client.HTTPConnection(node.host, node.port, timeout=120)
        connection.request("POST", CHAT, document("hello", 400, stream=True, logprobs=True), JSON)
        reply = connection.getresponse()
        begun = [reply.readline() for _ in range(5)]
        with weights.open("r+b") as file:
            file.seek(len(kept) // 2)
            file.write(bytes(64))
        rest = reply.read().splitlines()
        connection.close()
        assert begun[0].startswith(b"data: {")
        whole = json.loads(rest[-2].removeprefix(b"data: "))
        assert whole["status"] == 503
        assert "changed on the disk" in whole["body"]
        status, _, found = node.post(document("hello"))
        assert status == 500
        assert re.search("changed on disk", found["error"]["message"])
        weights.write_bytes(kept)
        assert node.answers()


# -- prompts that are too long -----------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_prompt_longer_than_the_context(tmp_path: Path, models: Path) -> None:
    """At once, as a stream and as ids: 413 in OpenAI's form, with how much was too much."""
    with serve(tmp_path, models) as node:
        ids = json.dumps({"model": "toy", "prompt": [5] * 3000}).encode()
        for path, body in ((CHAT, document("x" * 5000)), ("/~inference@1.0/v1/completions", ids)):
            status, _, found = node.post(body, path)
            assert (status, found["error"]["type"]) == (413, "invalid_request_error")
            assert "pass the context of 2048" in found["error"]["message"]
        status, _, found = node.post(document("x" * 5000, stream=True))
        assert status == 413
        assert "pass the context of 2048" in found["error"]["message"]
        assert node.answers()
