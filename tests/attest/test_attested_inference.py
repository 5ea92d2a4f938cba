"""Attested answers of a language model: ``?attest=true`` around them, ``tee: true`` inside them (devices/08)."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.attest import bundle, verifier
from hyperpy.attest.verifier import Expected
from hyperpy.client import Client
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u_decode
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.message import Message
from tests.attest.fake_amd import NOW, FakeAmd
from tests.attest.test_attested_http import (
    OTHER,
    POLICY,
    SOFTWARE,
    Serve,
    _clocks,
    amd,
    amd_address,
    serve,
    through_configfs,
)

__all__ = ["_clocks", "amd", "serve"]  # fixtures
CHAT = "/~inference@1.0/v1/chat/completions"
HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0,
    "max_tokens": 9,
    "seed": 5,
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a node that serves the toy."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    return {"inference.models": str(folder / "kept"), "inference.engine": "reference"}


def at_now(server: Any) -> Any:
    """Let the node's devices think that it is when the fake chip's certificates hold."""
    resolver = server.node.resolver
    resolver.services = replace(resolver.services, now=NOW.timestamp)
    return server


def ask(server: Any, document: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    request = urllib.request.Request(
        server.url + path, json.dumps(document).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


# -- around the answer --------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [False, True], ids=["identity", "result"])
def test_an_answer_is_attested_by_hardware(amd: FakeAmd, serve: Serve, flags: dict[str, Any], hardware: bool) -> None:
    """The evidence is bound to this very answer: its result's ID, hashpath and device."""
    server = serve(through_configfs(amd), **flags)
    with Client(server.url) as client:
        asked = {"model": "toy", **HELLO}
        reply, found = client.attested(CHAT, asked, method="POST", policy=POLICY, hardware=hardware)
        assert (reply["status"], reply["attestation-status"]) == (200, b"hardware")
        assert (found.status, found.codes, found.asked) == ("hardware", (), True)
        assert found.level == ("result" if hardware else "identity")
        assert found.said is not None
        fields = found.said.fields
        assert fields["address"] == amd_address()
        assert fields["device"].startswith(b"inference@1.0 ")
        plain = client.post(CHAT, asked)
        assert reply["body"] == plain["body"], "the answer itself is the same"
        assert fields["hashpath"].decode() == plain.hashpath
        record = server.node.trail.by_hashpath(plain.hashpath or "")
        assert fields["result"] == b64u_decode(record.result)
        _, refused = client.attested(CHAT, asked, method="POST", policy=OTHER, hardware=hardware)
        assert refused.status == "failed"


def test_an_answer_of_a_software_attester(serve: Serve, flags: dict[str, Any]) -> None:
    server = serve(**{**flags, "tee.software": True})
    with Client(server.url) as client:
        asked = {"model": "toy", **HELLO}
        reply, found = client.attested(CHAT, asked, method="POST", policy=SOFTWARE, insecure_software=True)
        assert (reply["attestation-status"], found.status) == (b"software", "software")
        _, refused = client.attested(CHAT, asked, method="POST", policy=POLICY)
        assert (refused.status, refused.codes[0]) == ("failed", "policy/software-not-allowed")


# -- inside the answer ---------------------------------------------------------------------------------


def checked(found: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """Check what a client can check of ``attestation`` without evidence (devices/08); return it."""
    told: dict[str, Any] = found["attestation"]
    raw = json.loads(told["raw"])
    assert hashlib.sha256(told["raw"].encode()).hexdigest() == told["nonce"]
    assert raw["request"] == sent
    assert raw["response"] == {
        name: one for name, one in found.items() if name not in ("attestation", "resolved_model")
    }
    assert len(bytes.fromhex(raw["nonce"])) == 32
    assert found["resolved_model"] == found["hyperpy"]["reference"]
    return told


def test_evidence_inside_an_answer(amd: FakeAmd, serve: Serve, flags: dict[str, Any]) -> None:
    """The keys of devices/08; the evidence verifies against the nonce, which is the digest of ``raw``."""
    server = at_now(serve(through_configfs(amd), **flags))
    sent = {"model": "toy", **HELLO, "user": "me", "tee": True}
    found = ask(server, sent)
    told = checked(found, sent)
    assert (told["status"], told["verified"]) == ("hardware", True)
    assert {"evidences", "claims", "eat", "token", "raw", "nonce"} <= set(told)
    assert told["claims"]["eat_nonce"] == told["nonce"]
    raw = json.loads(told["raw"])
    assert raw["timestamp"] == int(NOW.timestamp() * 1000)
    [one] = told["evidences"]
    evidence = bundle.read(canonical.decode(b64u_decode(one["evidence"])))  # type: ignore[arg-type]
    for nonce, status in ((bytes.fromhex(told["nonce"]), "hardware"), (bytes(32), "failed")):
        assert verifier.verify(evidence, POLICY, now=NOW, expected=Expected(nonce=nonce)).hardware == status
    plain = ask(server, {name: one for name, one in sent.items() if name != "tee"})
    assert raw["response"] == plain, "the evidence is about the plain answer"
    again = checked(ask(server, sent), sent)
    assert again["nonce"] != told["nonce"]


def test_what_ao_core_says_of_it(amd: FakeAmd, serve: Serve, flags: dict[str, Any]) -> None:
    server = at_now(serve(through_configfs(amd), **flags))
    with Client(server.url) as client:
        reply = client.post(CHAT + "?tee=true", {"model": "toy", **HELLO})
        document = json.loads(reply["body"])  # type: ignore[arg-type]
        told = json.loads(document["attestation"]["raw"])["ao-core"]
        assert (told["status"], told["hashpath"]) == ("captured", reply.hashpath)
        del document["attestation"], document["resolved_model"]
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        made = {
            "status": 200,
            "content-type": "application/json",
            "body": text,
            "state": document["hyperpy"]["state"][0],
        }
        assert told["response-id"] == commitments.unsigned_id(Message(made))
        assert told["request-id"] == reply.hashpath.split("/")[1]  # type: ignore[union-attr]


def test_it_is_made_again_given_what_was_attested(amd: FakeAmd, serve: Serve, flags: dict[str, Any]) -> None:
    """Time, chance and evidence are recorded answers; request, tokens and text are made again."""
    server = at_now(serve(through_configfs(amd), **flags))
    with Client(server.url) as client:
        reference = json.loads(client.get("/~inference@1.0/v1/models")["body"])["data"][0]["reference"]  # type: ignore[arg-type]
        reply = client.post(CHAT, {"model": reference, **HELLO, "tee": True})
        assert json.loads(reply["body"])["attestation"]["status"] == "hardware"  # type: ignore[arg-type]
        report = json.loads(client.get(f"/~audit@1.0/replay?ref={reply.hashpath}")["body"])  # type: ignore[arg-type]
    assert (report["verdict"], report["given"]) == ("reproduced", 3)
    assert sorted(step["key"] for step in report["steps"] if step["verdict"] == "attested") == [
        "attest",
        "stamp",
        "verify",
    ]


def test_the_status_is_never_left_out(serve: Serve, flags: dict[str, Any]) -> None:
    """No attester: failed, with a code. A software attester: software-only, and not verified. Both are made again."""
    sent = {"model": "toy", **HELLO, "tee": True}
    for more, status, code in (({}, "failed", "attester/unavailable"), ({"tee.software": True}, "software-only", None)):
        server = serve(**{**flags, **more})
        told = checked(ask(server, sent), sent)
        assert (told["status"], told.get("code"), told["verified"]) == (status, code, False)
        with Client(server.url) as client:
            reply = client.post(CHAT, sent)
            report = json.loads(client.get(f"/~audit@1.0/replay?ref={reply.hashpath}")["body"])  # type: ignore[arg-type]
            assert report["verdict"] == "reproduced", (
                status,
                [s for s in report["steps"] if s["verdict"] == "diverged"],
            )


def test_streams_and_processes_hold_no_evidence(serve: Serve, flags: dict[str, Any], tmp_path: Path) -> None:
    server = serve(**flags)
    with Client(server.url) as client:
        for path in (CHAT, CHAT + "?tee=true"):
            refused = client.post(path, {"model": "toy", **HELLO, "stream": True, "tee": True})
            assert (refused.text("status"), json.loads(refused["body"])["error"]["param"]) == ("400", "tee")  # type: ignore[arg-type]
    from hyperpy.testing import wallet
    from tests.devices.parts import Place

    here = Place(server.node, wallet("author"))
    row = json.loads(here.web.http("GET", "/~inference@1.0/v1/models").body)["data"][0]
    process = here.spawn("inference@1.0", model=row["reference"])
    here.send(process, data="hello", **{"x-options": '{"tee": true}'})
    outbox = here.get(process, "now/results/outbox/1")
    assert outbox["action"] == b"Inference-Error"
    assert b"no evidence" in outbox["data"]  # type: ignore[operator]
