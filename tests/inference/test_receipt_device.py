"""inference_receipt@1.0: the answer of inference@1.0, with a receipt that says when and along which hashpath."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.testing import TestNode, node

CHAT = "/~inference_receipt@1.0/v1/chat/completions"
JSON = {"content-type": "application/json"}
HELLO = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 6, "seed": 5}


@pytest.fixture(scope="module")
def n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node that serves the toy."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    with node(flags={"inference.models": str(folder / "kept"), "inference.engine": "reference"}) as made:
        yield made


def ask(n: TestNode, path: str, **more: Any) -> tuple[str | None, dict[str, Any]]:
    reply = n.post(path, json.dumps({**HELLO, **more}).encode(), JSON)
    return reply.hashpath, json.loads(reply["body"])  # type: ignore[arg-type]


def test_the_answer_is_the_same_and_its_receipt_says_more(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    hashpath, found = ask(n, CHAT, model="toy")
    _, plain = ask(n, CHAT.replace("inference_receipt", "inference"), model="toy")
    receipt, short = found.pop("receipt"), plain.pop("receipt")
    assert found == plain
    ident, known = receipt.pop("receipt-id"), short.pop("receipt-id")
    assert ident != known
    assert {name: receipt[name] for name in short} == short
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert ident == base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
    assert receipt["issued-at-unix"] == receipt["sequence"] // 1000
    assert len(bytes.fromhex(receipt["request-id"])) == 16
    assert receipt["ao-core"]["hashpath"] == hashpath
    assert receipt["device-chain"] == ["inference_receipt@1.0", "inference@1.0"]


def test_it_is_made_again(n: TestNode) -> None:
    reference = json.loads(n.get("/~inference_receipt@1.0/v1/models")["body"])["data"][0]["reference"]  # type: ignore[arg-type]
    hashpath, _ = ask(n, CHAT, model=reference)
    report = json.loads(n.get(f"/~audit@1.0/replay?ref={hashpath}")["body"])  # type: ignore[arg-type]
    assert (report["verdict"], report["given"]) == ("reproduced", 1), "time and chance are the node's word"


def test_streams_have_no_receipt(n: TestNode) -> None:
    reply = n.post(CHAT, json.dumps({**HELLO, "stream": True}).encode(), JSON)
    assert (reply["status"], json.loads(reply["body"])) == (400, {"error": "receipt-streaming-unsupported"})  # type: ignore[arg-type]
    refused = n.http("POST", CHAT, JSON, json.dumps({**HELLO, "n": 99}).encode())
    assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "n")
    assert json.loads(n.http("GET", "/~inference_receipt@1.0/health").body)["status"] == "healthy"


def test_hashpaths_are_computed_again(n: TestNode) -> None:
    """What a receipt's ``ao-core`` says; a changed one is seen; what is none is 422."""
    _, found = ask(n, CHAT, model="toy")
    told = found["receipt"]["ao-core"]

    def verified(**more: Any) -> Any:
        body = json.dumps({**told["verification-input"], "response": told["hashpath"], **more}).encode()
        return n.post("/~inference_receipt@1.0/verify-hashpath", body, JSON)

    good = verified()
    assert (good["verified"], good["recomputed-hashpath"]) == (True, told["hashpath"].encode())
    assert verified(response=told)["verified"] is True
    other = told["verification-input"]["request"][:-1] + "_"
    assert verified(request=other)["verified"] is False
    behind = verified(rest=["answer"], response="x" * 43 + "/answer")
    assert behind["verified"] is False
    first, _, part = told["hashpath"].partition("/")
    raw = [base64.urlsafe_b64decode(one + "=") for one in (first, part)]
    after = base64.urlsafe_b64encode(hashlib.sha256(raw[0] + raw[1]).digest()).decode().rstrip("=")
    assert behind["recomputed-hashpath"] == f"{after}/answer".encode(), "ao-core 5.1"
    for wrong in ({"base": ""}, {"base": 5}, {"request": "a/b"}, {"request": ""}, {"rest": 7}, {"response": 7},
                  {"base": "a/b/c"}, {"rest": ["x"] * 300}):  # fmt: skip
        assert verified(**wrong)["status"] == 422, wrong
    assert n.get("/~inference_receipt@1.0/verify-hashpath")["status"] == 422
