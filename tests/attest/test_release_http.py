"""A secret's way over the wire: an attested machine asks a node for it with evidence, over real HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message
from hyperpy.attest import sealing
from hyperpy.client import Client
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError
from hyperpy.http.server import Server
from hyperpy.testing import TestNode
from tests.attest import fake_amd
from tests.attest.fake_amd import FakeAmd
from tests.attest.test_sealing import MARK, PLACE, Guest, keeper

__all__ = ["keeper"]


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


def _asked(url: str, guest: Guest, **more: str) -> tuple[Message, bytes]:
    """Return a keeper's answer to a guest, and the challenge."""
    with Client(url, key=guest.key) as client:
        nonce = b64u_decode(client.get(f"{PLACE}challenge").text("nonce"))
        items: dict[str, Any] = {"name": "model-key", "evidence": guest.evidence(nonce), "challenge": b64u(nonce)}
        return client.send(f"{PLACE}release", {**items, **more}), nonce


def _info(reply: Message, guest: Guest, nonce: bytes) -> bytes:
    made = b64u_decode(reply.text("attestation"))
    return sealing.context(made, reply.text("policy"), b64u_decode(guest.key.address), sha256(nonce))


def test_a_secret_goes_to_the_measured_machine_alone_over_http(amd: FakeAmd, keeper: TestNode) -> None:
    server = Server(keeper.node, "127.0.0.1", 0)
    server.start()
    try:
        guest, wrong = Guest(amd), Guest(amd, b"\x22" * 48)
        reply, nonce = _asked(server.url, guest)
        assert reply["decision"] == b"released"
        sealed = b64u_decode(reply.text("sealed"))
        assert guest.attestation.unseal(sealed, _info(reply, guest, nonce)) == MARK.encode()
        with pytest.raises(CodecError):
            wrong.attestation.unseal(sealed, _info(reply, guest, nonce))
        refused, _ = _asked(server.url, wrong)
        assert (refused["decision"], "sealed" in refused) == (b"refused", False)
        assert refused["errors"] == (b"policy/measurement-not-allowed",)
        replayed, _ = _asked(server.url, guest, challenge=b64u(nonce))
        assert (replayed["decision"], "sealed" in replayed) == (b"refused", False)
    finally:
        server.stop()
