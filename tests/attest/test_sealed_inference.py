"""Inference asked for under seal: neither prompt nor answer is anywhere but inside the attested node.

A language model (the toy) answers a sealed chat over HTTP, whole and in pieces. Prompt and answer are looked for in the
store's files, the log, the trail, and in every byte that went over the socket.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyperpy import Message, attested, config
from hyperpy.attest import sealing, statement
from hyperpy.attester import configfs
from hyperpy.client import Client
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import CodecError
from hyperpy.http.replies import decode_reply
from hyperpy.http.server import Server
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import wallet
from tests.attest import fake_amd, fake_kernel

MARK = "marker of the sealed prompt 31c7"
CHAT = "/~inference@1.0/v1/chat/completions"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    return folder / "kept"


@dataclass
class Place:
    """A node over HTTP with a model, and a client that seals to it."""

    node: Node
    url: str
    folder: Path
    wire: bytes = b""

    def __post_init__(self) -> None:
        with Client(self.url) as client:
            told = client.get(f"/~tee@1.0/attest?nonce={b64u(b'v' * 32)}")
            which = client.get("/~inference@1.0/which&model=toy")
        self.said = statement.decode(b64u_decode(told.text("statement")))
        self.reference = which.text("reference")
        self.key = X25519PrivateKey.generate()

    def seal(self, document: dict[str, Any], stream: bool = True, **more: Any) -> tuple[dict[str, str], bytes]:
        """Return a sealed request's keys, and the secret of its pieces."""
        secret = os.urandom(32)
        own = sealing.KEM_X25519 + self.key.public_key().public_bytes_raw()
        items: dict[str, Any] = {"path": CHAT, "method": "POST", "reply-key": b64u(own), **more}
        items["body"] = json.dumps({"model": self.reference, **document})
        if stream:
            items["stream-secret"] = b64u(secret)
        identity, request = attested.attestation_id(self.said), os.urandom(32)
        info = sealing.context(identity, "mine", self.said.fields["address"], request)
        made = sealing.seal(canonical.encode(Message(items)), self.said.fields["kem"], info)
        keys = {"sealed": b64u(made), "attestation": b64u(identity), "policy": "mine", "request-id": b64u(request)}
        return keys, secret

    def post(self, keys: dict[str, str], *, stream: bool) -> list[tuple[str, str]]:
        """Return the events of a reply: name and data; of one that is no stream, its headers as ``result``."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        connection.request("POST", "/~tee@1.0/open", headers={**keys, **({"stream": "true"} if stream else {})})
        answer = connection.getresponse()
        head, body = dict(answer.getheaders()), answer.read()
        connection.close()
        self.wire += json.dumps(keys).encode() + json.dumps(head).encode() + body
        if head.get("content-type", "").startswith("text/event-stream"):
            return [_event(text) for text in body.decode().split("\n\n") if text]
        return [("result", json.dumps({"status": answer.status, "headers": head, "body": body.decode()}))]

    def opened(self, event: tuple[str, str], keys: dict[str, str]) -> Any:
        """Return the whole answer of the last event."""
        info = sealing.reply_context(b64u_decode(keys["sealed"]))
        return canonical.decode(sealing.unseal(b64u_decode(reply(event).text("sealed")), self.key, info))


def reply(event: tuple[str, str]) -> Message:
    """Return the whole reply of the last event, its signatures verified."""
    assert event[0] == "result"
    told = json.loads(event[1])
    headers = [(name.lower().encode(), text.encode("latin-1")) for name, text in told["headers"].items()]
    return decode_reply(told["status"], headers, told["body"].encode())


def _event(text: str) -> tuple[str, str]:
    name, data = "", ""
    for line in text.splitlines():
        kind, _, rest = line.partition(": ")
        name, data = (rest, data) if kind == "event" else (name, data + rest)
    return name, data


def pieces(events: list[tuple[str, str]], keys: dict[str, str], secret: bytes) -> list[bytes]:
    """Return the pieces that a stream's events hold: salt first, an empty last one at the end."""
    parts = [b64u_decode(data) for name, data in events if name == ""]
    stream = sealing.Stream(secret, sealing.stream_context(b64u_decode(keys["sealed"]), parts[0]))
    made = [stream.open(one) for one in parts[1:-1]]
    assert stream.open(parts[-1], last=True) == b""
    return made


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, models: Path, tmp_path: Path) -> Iterator[Place]:
    amd = fake_amd.trusted(monkeypatch)
    flags = {"inference.models": str(models), "inference.engine": "reference", "rate-limit.requests": 0}
    with Node(
        config.load(environ={}, flags=flags),
        key=wallet(),
        store=LmdbStore(tmp_path / "store"),
        operator=wallet("operator").address,
        attester=configfs.Configfs(fake_kernel.snp(amd), "sev_guest"),
    ) as node:
        server = Server(node, "127.0.0.1", 0)
        server.start()
        try:
            yield Place(node, server.url, tmp_path / "store")
        finally:
            server.stop()


def document(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": MARK}], "temperature": 0, "max_tokens": 24, **more}


def plain(at: Place, asked: dict[str, Any]) -> Any:
    """Return what the node answers to the same, asked openly."""
    connection = http.client.HTTPConnection(urlsplit(at.url).netloc, timeout=60)
    connection.request("POST", CHAT, json.dumps(asked), {"content-type": "application/json"})
    return json.loads(connection.getresponse().read())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "in pieces"])
def test_a_sealed_chat_is_nowhere_to_be_found(at: Place, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    caplog.set_level(logging.DEBUG)
    keys, secret = at.seal(document(stream=stream), stream)
    events = at.post(keys, stream=stream)
    found = at.opened(events[-1], keys)
    assert found["outcome"] == b"ok", found
    answer = json.loads(found["result"]["body"])
    text = answer["choices"][0]["message"]["content"]
    assert len(text) > 8
    if stream:
        told = [
            json.loads(one[6:]) for one in b"".join(pieces(events, keys, secret)).split(b"\n\n") if one[6:7] == b"{"
        ]
        assert "".join(one["choices"][0]["delta"].get("content", "") for one in told) == text
        assert len(events) > 4, "it came in pieces"
    files = b"\0".join(one.read_bytes() for one in at.folder.rglob("*") if one.is_file())
    assert keys["sealed"][:64].encode() in files or b64u_decode(keys["sealed"])[:48] in files, "what came is recorded"
    digests = [hashlib.sha256(one.encode()).digest() for one in (MARK, text)]
    told_forms = [form for one in (MARK, text) for form in (one.encode(), b64u(one.encode())[:-2].encode())]
    for form in (*told_forms, *digests, answer["receipt"]["receipt-id"].encode()):
        assert form not in files
        assert form not in at.wire
        assert form not in caplog.text.encode()
    openly = plain(at, {"model": at.reference, **document()})
    assert openly["choices"][0]["message"]["content"] == text, "the seal changes nothing of the answer"
    files = b"\0".join(one.read_bytes() for one in at.folder.rglob("*") if one.is_file())
    assert MARK.encode() in files, "the search finds what is not sealed"


def test_the_same_request_again_has_other_keys(at: Place) -> None:
    """Whoever saw it may send it again: the pieces are the same, and nothing of the two streams is."""
    keys, secret = at.seal(document(stream=True))
    first, second = at.post(keys, stream=True), at.post(keys, stream=True)
    assert pieces(first, keys, secret) == pieces(second, keys, secret)
    assert set(first).isdisjoint(second)
    swapped = [first[0], second[1], *first[2:]]
    with pytest.raises(CodecError):
        pieces(swapped, keys, secret)


@pytest.mark.parametrize("harm", ["cut", "order", "repeat", "byte"])
def test_a_stream_that_was_touched_does_not_open(at: Place, harm: str) -> None:
    keys, secret = at.seal(document(stream=True))
    events = at.post(keys, stream=True)
    assert len(pieces(events, keys, secret)) > 2
    if harm == "cut":
        events = [*events[:-3], events[-1]]
    elif harm == "order":
        events = [events[0], events[2], events[1], *events[3:]]
    elif harm == "repeat":
        events = [*events[:2], *events[1:]]
    else:
        raw = bytearray(b64u_decode(events[1][1]))
        raw[0] ^= 1
        events = [events[0], ("", b64u(bytes(raw))), *events[2:]]
    with pytest.raises(CodecError):
        pieces(events, keys, secret)


@pytest.mark.parametrize(
    ("change", "status"),
    [({"model": "toy"}, 500), ({"messages": []}, 400), ({"temperature": -1}, 400), ({"model": "0" * 64}, 404)],
    ids=str,
)
def test_what_is_refused_is_told_the_sender_alone(
    at: Place, caplog: pytest.LogCaptureFixture, change: dict[str, Any], status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    keys, secret = at.seal(document(stream=True, **change))
    events = at.post(keys, stream=True)
    found = at.opened(events[-1], keys)
    assert (found["outcome"], found["status"]) == (b"error", status)
    assert pieces(events, keys, secret) == []
    files = b"\0".join(one.read_bytes() for one in at.folder.rglob("*") if one.is_file())
    assert MARK.encode() not in files + at.wire + caplog.text.encode()


def test_without_a_secret_no_piece_leaves(at: Place) -> None:
    keys, _ = at.seal(document(stream=True), False)
    (event,) = at.post(keys, stream=True)
    assert at.opened(event, keys)["outcome"] == b"ok"
    keys, _ = at.seal(document(stream=True), False, **{"stream-secret": b64u(b"short")})
    (event,) = at.post(keys, stream=True)
    assert "sealed" not in reply(event)
    assert json.loads(event[1])["status"] == 400
