"""Sealing: what only one attested machine reads, and secrets that only a measured one gets.

A sealed request is looked for in everything that its reader does not own: store, trail, log, and the memory of
another process that stored and forwarded it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from hyperpy import Message, attested, commitments, config
from hyperpy.attest import sealing, statement
from hyperpy.attester import configfs
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, HyperpyError, ParameterError
from hyperpy.http.client import request_form
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.sdk import device, key
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet
from tests.attest import fake_amd, fake_kernel
from tests.attest.fake_amd import NOW, FakeAmd

MARK = "marker-of-the-sealed-prompt-5e1f"
MEASURED = f'id = "mine"\n[snp]\nmeasurements = ["{fake_amd.MEASUREMENT.hex()}"]\n'
OTHER = f'id = "other"\n[snp]\nmeasurements = ["{"11" * 48}"]\n'
PLACE = "/~tee@1.0/"


@device("faulty@1.0")
class Faulty:
    """Fails with what it was given in the text of its error, and logs it."""

    @key
    def fail(self, request: Message) -> Message:
        """Fail."""
        raise ValueError(f"cannot take {request.text('prompt')}")

    @key
    def tell(self, request: Message, ctx: Any) -> Message:
        """Log it."""
        ctx.log("told", prompt=request.text("prompt"))
        return Message({"length": len(request.text("prompt"))})


class Sealer:
    """A client: seals requests to a node and opens its answers."""

    def __init__(self, n: TestNode) -> None:
        self.n = n
        said = n.get(f"{PLACE}attest?nonce={b64u(b'v' * 32)}")
        self.said = statement.decode(b64u_decode(said.text("statement")))
        self.attestation = attested.attestation_id(self.said)
        self.secret = X25519PrivateKey.generate()

    def seal(self, request_id: bytes, **items: Any) -> dict[str, str]:
        """Return a sealed request's keys."""
        own = sealing.KEM_X25519 + self.secret.public_key().public_bytes_raw()
        plain = canonical.encode(Message({"reply-key": b64u(own), **items}))
        info = sealing.context(self.attestation, "mine", self.said.fields["address"], request_id)
        made = sealing.seal(plain, self.said.fields["kem"], info)
        names = {"attestation": b64u(self.attestation), "policy": "mine", "request-id": b64u(request_id)}
        return {"sealed": b64u(made), **names}

    def opened(self, reply: Message, sent: dict[str, str]) -> Any:
        """Return the answer in a reply."""
        info = sealing.reply_context(b64u_decode(sent["sealed"]))
        return canonical.decode(sealing.unseal(b64u_decode(reply.text("sealed")), self.secret, info))

    def ask(self, **items: Any) -> Any:
        """Return the answer to a sealed request."""
        sent = self.seal(os.urandom(32), **items)
        reply = self.n.request("POST", f"{PLACE}open", sent)
        assert reply["hardware"] is True
        return self.opened(reply, sent)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


@contextlib.contextmanager
def serving(amd: FakeAmd, store: Any = None, **flags: Any) -> Iterator[TestNode]:
    settings = config.load(environ={}, flags=flags)
    own = configfs.Configfs(fake_kernel.snp(amd), "sev_guest")
    operator = wallet("operator").address
    with Node(
        settings, key=wallet(), store=store or MemoryStore(), operator=operator, attester=own, devices=[Faulty]
    ) as inner:
        yield TestNode(inner)


@pytest.fixture
def n(amd: FakeAmd) -> Iterator[TestNode]:
    with serving(amd) as made:
        yield made


# -- the primitive -----------------------------------------------------------------------------


def test_the_suite_is_the_one_of_the_specification() -> None:
    """What is sealed here opens with the library alone, and the other way round, under the info of 8.1."""
    secret = X25519PrivateKey.generate()
    kem = b"\x00\x20" + secret.public_key().public_bytes_raw()
    info = sealing.context(b"a" * 32, "mine", b"b" * 32, b"c" * 32)
    assert info == b"hyperpy/tee/seal/v1\0" + b"a" * 32 + sha256(b"mine") + b"b" * 32 + b"c" * 32
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert suite.decrypt(sealing.seal(b"text", kem, info), secret, info) == b"text"
    other = suite.encrypt(b"text", X25519PublicKey.from_public_bytes(kem[2:]), info)
    assert sealing.unseal(other, secret, info) == b"text"


def test_every_changed_byte_and_every_other_context_is_refused() -> None:
    secret = X25519PrivateKey.generate()
    kem = sealing.KEM_X25519 + secret.public_key().public_bytes_raw()
    parts: list[Any] = [b"a" * 32, "mine", b"b" * 32, b"c" * 32]
    sealed = sealing.seal(b"text", kem, sealing.context(*parts))
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(CodecError):
            sealing.unseal(changed, secret, sealing.context(*parts))
    for at, other in enumerate((b"x" * 32, "x", b"x" * 32, b"x" * 32)):
        with pytest.raises(CodecError):
            sealing.unseal(sealed, secret, sealing.context(*[*parts[:at], other, *parts[at + 1 :]]))


@pytest.mark.parametrize("kem", [b"", b"\x00\x20", b"\x00\x10" + bytes(32), b"\x00\x20" + bytes(32), bytes(35)])
def test_keys_that_nothing_is_sealed_to(kem: bytes) -> None:
    with pytest.raises(ParameterError):
        sealing.seal(b"text", kem, b"")


def test_a_stream_opens_in_order_and_to_its_end() -> None:
    def pair() -> tuple[sealing.Stream, sealing.Stream]:
        return sealing.Stream(b"s" * 32, b"i"), sealing.Stream(b"s" * 32, b"i")

    ours, theirs = pair()
    chunks = [ours.seal(b"one"), ours.seal(b"two"), ours.seal(b"", last=True)]
    opened = [theirs.open(chunks[0]), theirs.open(chunks[1]), theirs.open(chunks[2], last=True)]
    assert opened == [b"one", b"two", b""]
    for stream in (ours, theirs):
        with pytest.raises(CodecError):
            stream.seal(b"more")
    for order in ([1], [0, 0], [0, 2]):
        _, theirs = pair()
        with pytest.raises(CodecError):
            [theirs.open(chunks[at]) for at in order]
    _, theirs = pair()
    with pytest.raises(CodecError):
        theirs.open(chunks[0], last=True)


# -- sealed requests ---------------------------------------------------------------------------


def test_a_sealed_request_is_resolved_and_its_answer_sealed(n: TestNode) -> None:
    client = Sealer(n)
    assert client.ask(path="/~calculator@1.0&a=1/add&b=2")["result"] == 3
    missing = client.ask(path="/~message@1.0&a=1/b")
    assert (missing["outcome"], missing["status"]) == (b"error", 404)


@pytest.mark.parametrize(
    "path",
    ["/~cache@1.0/write", "/~tee@1.0/challenge", "/~scheduler@1.0/schedule", "/~meta@1.0/info", "/~cron@1.0/once"],
)
def test_what_writes_or_looks_at_the_node_is_not_reached(n: TestNode, path: str) -> None:
    found = Sealer(n).ask(path=path, method="POST", body="x")
    assert (found["outcome"], found["error"]) == (b"error", b"NotDeterministic")


def test_sealed_for_another_thing_or_without_a_key_to_answer_to(n: TestNode) -> None:
    client = Sealer(n)
    sent = client.seal(b"r" * 32, path="/~message@1.0&a=1/a")
    for name, text in (("request-id", b64u(b"q" * 32)), ("policy", "other"), ("attestation", b64u(bytes(32)))):
        reply = n.request("POST", f"{PLACE}open", {**sent, name: text})
        assert reply["status"] == 400
        assert "sealed" not in reply
    assert n.request("POST", f"{PLACE}open", {**sent, "request-id": "AA"})["status"] == 400
    bare = client.seal(b"s" * 32, **{"path": "/~message@1.0&a=1/a", "reply-key": ""})
    assert n.request("POST", f"{PLACE}open", bare)["status"] == 400
    assert n.request("POST", f"{PLACE}open", {})["status"] == 400


def test_a_key_of_another_start_opens_nothing(amd: FakeAmd) -> None:
    with serving(amd) as first:
        sent = Sealer(first).seal(b"r" * 32, path="/~message@1.0&a=1/a")
    with serving(amd) as again:
        assert again.request("POST", f"{PLACE}open", sent)["status"] == 400


def _everything(store: MemoryStore) -> bytes:
    """Return all bytes of a store, whatever its tables are called."""
    seen: set[int] = set()
    out: list[bytes] = []

    def walk(item: Any) -> None:
        if id(item) in seen:
            return
        seen.add(id(item))
        if isinstance(item, (bytes, bytearray)):
            out.append(bytes(item))
        elif isinstance(item, str):
            out.append(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, dict):
            for name, one in item.items():
                walk(name)
                walk(one)
        elif isinstance(item, (list, tuple, set, frozenset)) or hasattr(item, "values"):
            for one in list(item.values() if hasattr(item, "values") else item):
                walk(one)
        elif hasattr(item, "__dict__"):
            walk(vars(item))

    walk(vars(store))
    return b"\0".join(out)


def test_nothing_of_a_sealed_prompt_is_stored_recorded_or_logged(
    amd: FakeAmd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = MemoryStore()
    with serving(amd, store) as n:
        client = Sealer(n)
        for name in ("tell", "fail"):
            found = client.ask(path=f"/~faulty@1.0/{name}", prompt=MARK)
            assert found["outcome"] == (b"ok" if name == "tell" else b"error")
        assert client.ask(path=f"/~message@1.0&prompt={MARK}/prompt")["result"] == MARK.encode()
        assert client.ask(path=f"/~message@1.0&a=1/{MARK}")["outcome"] == b"error"
        metrics = n.get("/~hyperbuddy@1.0/metrics")
        assert MARK not in repr(metrics)
        held = _everything(store)
        assert b"request-digest" in held, "the sealed request itself was recorded"
        for form in (MARK.encode(), b64u(MARK.encode())[:-2].encode()):
            assert form not in held
        assert MARK not in caplog.text
        assert "incident" in caplog.text
        n.request("POST", "/~faulty@1.0/tell", {"prompt": MARK})
        n.request("POST", "/~faulty@1.0/fail", {"prompt": MARK})
        assert MARK.encode() in _everything(store), "the scan finds what is not sealed"
        assert MARK in caplog.text


FORWARD = """
import sys, urllib.request, json
kept = []
for line in sys.stdin:
    kept.append(line.strip())
    head = json.loads(line)
    kept.append(head)
    call = urllib.request.Request(head["url"], data=b"", headers=head["headers"], method="POST")
    try:
        with urllib.request.urlopen(call) as reply:
            kept.append((dict(reply.headers), reply.read()))
    except urllib.error.HTTPError as error:
        kept.append((dict(error.headers), error.read()))
    names = {name.lower(): text for name, text in kept[-1][0].items()}
    print(json.dumps({"headers": names, "body": kept[-1][1].decode("latin-1")}), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_the_memory_of_whoever_forwards_it_holds_no_word_of_it(amd: FakeAmd) -> None:
    """Another process stores and forwards requests and replies; its whole memory is read and searched."""
    import json

    from hyperpy.http.server import Server

    with serving(amd) as n:
        server = Server(n.node, "127.0.0.1", 0)
        server.start()
        relay = subprocess.Popen(
            [sys.executable, "-c", FORWARD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert relay.stdin is not None
            assert relay.stdout is not None
            client = Sealer(n)
            sent = client.seal(b"r" * 32, path=f"/~message@1.0&prompt={MARK}/prompt")

            def forward(path: str, headers: dict[str, str]) -> dict[str, Any]:
                relay.stdin.write(json.dumps({"url": server.url + path, "headers": headers}) + "\n")
                relay.stdin.flush()
                return json.loads(relay.stdout.readline())

            reply = forward(f"{PLACE}open", sent)
            found = client.opened(Message({"sealed": reply["headers"]["sealed"]}), sent)
            assert found["result"] == MARK.encode()
            memory = _memory(relay.pid)
            assert sent["sealed"].encode() in memory, "the process did forward it"
            assert MARK.encode() not in memory
            forward("/~message@1.0/keys", {"prompt": MARK})
            assert MARK.encode() in _memory(relay.pid), "the search finds what is not sealed"
        finally:
            relay.kill()
            relay.wait()
            for pipe in (relay.stdin, relay.stdout):
                if pipe is not None:
                    pipe.close()
            server.stop()


def _memory(pid: int) -> bytes:
    """Return all that a process has in memory and may be read."""
    out = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            where, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(one, 16) for one in where.split("-"))
                with contextlib.suppress(OSError, OverflowError, ValueError):
                    memory.seek(start)
                    out.append(memory.read(end - start))
    return b"\0".join(out)


# -- sealing to a machine ----------------------------------------------------------------------


def test_nothing_is_sealed_to_a_machine_that_the_policy_does_not_name(n: TestNode) -> None:
    from datetime import UTC, datetime

    from hyperpy.devices.tee.sealing import sealed_for

    client = Sealer(n)
    evidence = n.get(f"{PLACE}attest?nonce={b64u(b'v' * 32)}").text("evidence")
    common = {"evidence": evidence, "nonce": b64u(b"v" * 32), "request-id": b64u(b"r" * 32)}
    made = sealed_for(Message({**common, "policy": MEASURED}), b"prompt", NOW, False)
    info = sealing.context(
        b64u_decode(made.text("attestation")), made.text("policy"), client.said.fields["address"], b"r" * 32
    )
    assert n.node.attestation.unseal(b64u_decode(made.text("sealed")), info) == b"prompt"
    late = datetime(2040, 1, 1, tzinfo=UTC)
    for changed, now in (
        ({"policy": OTHER}, NOW),
        ({}, NOW),
        ({"policy": MEASURED, "nonce": b64u(b"w" * 32)}, NOW),
        ({"policy": MEASURED}, late),
    ):
        with pytest.raises(HyperpyError):
            sealed_for(Message({**common, **changed}), b"prompt", now, False)
    assert n.request("POST", f"{PLACE}seal", {**common, "plain": MARK})["status"] == 400


# -- release -----------------------------------------------------------------------------------


@pytest.fixture
def keeper(amd: FakeAmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestNode]:
    (tmp_path / "model-key.secret").write_bytes(MARK.encode())
    (tmp_path / "model-key.toml").write_text(MEASURED, "utf-8")
    (tmp_path / "open.secret").write_bytes(b"x")
    (tmp_path / "open.toml").write_text('id = "no-software-named"\n', "utf-8")
    (tmp_path / "soft.secret").write_bytes(b"x")
    (tmp_path / "soft.toml").write_text('id = "soft"\nkinds = ["software"]\nallow-software = true\n', "utf-8")
    with serving(amd, **{"tee.secrets": str(tmp_path), "tee.software": True}) as made:
        object.__setattr__(made.node.resolver.services, "now", lambda: NOW.timestamp())
        yield made


class Guest:
    """A machine that asks for secrets."""

    def __init__(self, amd: FakeAmd, measurement: bytes = fake_amd.MEASUREMENT) -> None:
        from tests.attest.test_greenzone import FakeGuest

        guest = FakeGuest(amd)
        guest.measurement = measurement
        self.key = wallet("guest")
        self.attestation = guest.of(self.key, Message({"a": 1}))

    def evidence(self, nonce: bytes, purpose: str = "key-release") -> str:
        made = self.attestation.evidence(purpose, nonce=nonce)
        return b64u(canonical.encode(made.message()))

    def ask(self, n: TestNode, signer: RsaKey | None = None, **items: str) -> Message:
        asked = Message({"path": f"{PLACE}release", "method": "POST", "name": "model-key", **items})
        return _sent(n, commitments.commit(asked, signer or self.key))


def _sent(n: TestNode, message: Message) -> Message:
    target, method, lines, body = request_form(message)
    headers = {name.decode(): text.decode("latin-1") for name, text in lines}
    return n.request(method, target.decode(), headers, body)


def challenge(n: TestNode) -> bytes:
    return b64u_decode(n.get(f"{PLACE}challenge").text("nonce"))


def test_a_measured_machine_gets_the_secret_and_nobody_else_reads_it(amd: FakeAmd, keeper: TestNode) -> None:
    guest, nonce = Guest(amd), challenge(keeper)
    reply = guest.ask(keeper, evidence=guest.evidence(nonce), challenge=b64u(nonce))
    assert (reply["decision"], reply["errors"], reply["status"]) == (b"released", (), 200)
    policy = reply.text("policy")
    assert policy.startswith("mine:"), "the decision names the policy"
    info = sealing.context(
        b64u_decode(reply.text("attestation")), policy, b64u_decode(guest.key.address), sha256(nonce)
    )
    sealed = b64u_decode(reply.text("sealed"))
    assert guest.attestation.unseal(sealed, info) == MARK.encode()
    with pytest.raises(CodecError):
        Guest(amd).attestation.unseal(sealed, info)
    held = _everything(keeper.node.store)
    assert b"Release-Decision" in held, "the decision is a recorded message"
    assert policy.encode() in held
    assert MARK.encode() not in held


def _refused(reply: Message) -> Any:
    assert (reply["decision"], reply["status"]) == (b"refused", 403)
    assert "sealed" not in reply
    return reply["errors"]


def test_what_no_secret_is_released_for(amd: FakeAmd, keeper: TestNode) -> None:
    guest = Guest(amd)

    def ask(machine: Guest = guest, purpose: str = "key-release", signer: Any = None, **more: str) -> Any:
        nonce = challenge(keeper)
        items = {"evidence": machine.evidence(nonce, purpose), "challenge": b64u(nonce), **more}
        return _refused(machine.ask(keeper, signer, **items))

    wrong = Guest(amd, b"\x22" * 48)
    assert ask(wrong) == (b"policy/measurement-not-allowed",)
    assert ask(purpose="channel") == (b"binding/purpose-mismatch",)
    assert ask(signer=wallet("thief")) == (b"binding/key-mismatch",)
    assert ask(name="open") == (b"policy/measurement-not-allowed",), "a policy that names no software gives nothing"
    assert ask(challenge=b64u(challenge(keeper))) == (b"freshness/nonce-mismatch",)
    assert ask(challenge=b64u(b"m" * 32)) == (b"freshness/nonce-mismatch",)
    soft = Guest(amd)
    soft.attestation = _software(guest)
    assert ask(soft, name="soft") == (b"policy/software-not-allowed",)


def _software(guest: Guest) -> Any:
    from tests.attest.test_greenzone import FakeGuest

    return FakeGuest(fake_amd.fake_amd(), software=True).of(guest.key, Message({"a": 1}))


def test_a_challenge_is_good_once_even_where_it_was_refused(amd: FakeAmd, keeper: TestNode) -> None:
    guest, nonce = Guest(amd), challenge(keeper)
    items = {"evidence": guest.evidence(nonce), "challenge": b64u(nonce)}
    assert _refused(guest.ask(keeper, wallet("thief"), **items)) == (b"binding/key-mismatch",)
    assert _refused(guest.ask(keeper, **items)) == (b"freshness/nonce-reused",)


def test_release_needs_a_signature_over_all_that_counts(amd: FakeAmd, keeper: TestNode) -> None:
    guest, nonce = Guest(amd), challenge(keeper)
    items = {"name": "model-key", "evidence": guest.evidence(nonce), "challenge": b64u(nonce)}
    assert keeper.request("POST", f"{PLACE}release", items)["status"] == 401
    part = Message({"path": f"{PLACE}release", "method": "POST", "challenge": items["challenge"]})
    signed = commitments.commit(part, guest.key)
    mixed = Message.make({**signed.raw_items(), **{k: v.encode() for k, v in items.items()}}, signed.commitments)
    assert _sent(keeper, mixed)["status"] in (400, 401)
    for name in ("missing", "../model-key", "model-key.secret", ""):
        assert guest.ask(keeper, evidence=items["evidence"], challenge=items["challenge"], name=name)["status"] == 404
