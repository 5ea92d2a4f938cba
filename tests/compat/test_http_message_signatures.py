"""HTTP signatures exchanged with npm http-message-signatures (RFC 9421), both ways.

AO-Core's form and the RFC's are one where names are plain header names (no ``path``, ``method``
and other derived ones), values are printable ASCII, and nothing is signed as a bundle. Neither the
library nor the RFC compares ``content-digest`` with the body; our ingress does. Signatures of
the library are D3 if they have such a label and cover their names in AO-Core's order (which is not
the alphabet's above 32 keys), else they are verified over the headers as sent.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from hyperpy.codecs.signature import digest_header
from hyperpy.commitments import commit, committers
from hyperpy.encoding import ordered
from hyperpy.errors import HyperpyError
from hyperpy.http.wire import RawReply, RawRequest, Wants, read, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from tests.compat.damage import changed, replaced

MESSAGES = 200
URL = "http://localhost:8734/~message@1.0/set"
PRINTABLE = bytes(range(0x20, 0x7F)).decode("ascii")
LABELS = (None, "sig1", "sig-b21", "http-sig-0011223344556677", "comm-x")
PARAMS = (["alg", "keyid"], ["alg", "created", "keyid"], ["alg", "created", "keyid", "nonce", "tag"])


class Peer:
    """The library, and a key that both sides sign with."""

    def __init__(self, script: Any) -> None:
        self.ask: Callable[..., Any] = script.ask
        self.key = RsaKey.generate(2048)
        self.jwk = self.key.to_jwk()

    def verify(self, reply: RawReply) -> dict[str, bool]:
        """Return what the library says of each signature, by keyid."""
        headers = {name.decode("ascii"): text.decode("ascii") for name, text in reply.headers}
        found: dict[str, bool] = self.ask(op="verify", url=URL, headers=headers)
        return found

    def sign(self, rng: random.Random, headers: dict[str, Any], fields: list[str], **how: Any) -> dict[str, Any]:
        """Return the headers, signed by the library with a keyid in one of the forms in use."""
        modulus = self.jwk["n"]
        keyid = self.key.keyid if how.get("name") == "comm-x" else rng.choice([self.key.keyid, modulus])
        request = {"jwk": self.jwk, "keyid": keyid, "url": URL, "method": "POST"}
        made: dict[str, Any] = self.ask(op="sign", headers=headers, fields=fields, **request, **how)
        return made


@pytest.fixture(scope="module")
def peer(node_script: Any) -> Peer:
    return Peer(node_script("http-message-signatures.cjs", "http-message-signatures"))


def _text(rng: random.Random, longest: int) -> str:
    return "".join(rng.choice(PRINTABLE) for _ in range(rng.randint(1, longest))).strip() or "-"


def _names(rng: random.Random) -> list[str]:
    count = rng.choice([1, 2, 5, 12, 40])
    words = ["action", "type", "x", "variant", "data-protocol", "k_1", "a.b"]
    return [f"{rng.choice(words)}{number}" for number in range(count)]


def _any(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of any kind; below the top they hold anything, being signed by their IDs."""
    kind = rng.randrange(8)
    if kind < 3:
        return _text(rng, 60) if depth == 0 else _text(rng, 9) + "é中😀"
    if kind == 3:
        return rng.choice([True, False, 1.5, -7, rng.randrange(10**18), ""])
    if kind == 4 and depth:
        return rng.randbytes(rng.choice([0, 1, 300]))
    if kind == 5:
        return tuple(_any(rng, depth + 1) for _ in range(rng.randint(0, 3 - depth)))
    if kind == 6 and depth < 3:
        return {f"ключ-{n}": _any(rng, depth + 1) for n in range(rng.randint(0, 3))}
    return rng.randint(-9, 9)


def _covered(headers: Iterable[tuple[bytes, bytes]]) -> list[int]:
    """Return the places of the headers that the first signature covers, empty ones left out."""
    lines = list(headers)
    names = re.findall(rb'"([^"]+)"', dict(lines)[b"signature-input"].partition(b")")[0])
    return [at for at, (name, text) in enumerate(lines) if name in names and text]


@pytest.mark.timeout(120)
def test_ours_are_read(peer: Peer) -> None:
    """200 signed replies: the library verifies RSA and HMAC, and neither after one changed byte."""
    rng = random.Random(9421)
    for number in range(MESSAGES):
        items = {name: _any(rng) for name in _names(rng)}
        if rng.random() < 0.5:
            items["body"] = rng.randbytes(rng.choice([1, 50, 9000]))
        tag = _text(rng, 40) if rng.random() < 0.5 else None
        reply = write(commit(Message({**items, "status": 200}), peer.key, tag=tag), Wants())
        assert peer.verify(reply) == {peer.key.keyid: True, "constant:ao": True}, number
        at = rng.choice(_covered(reply.headers))
        broken = replaced(reply.headers, at, changed(reply.headers[at][1]))
        found = peer.verify(RawReply(reply.status, broken))
        assert found == {peer.key.keyid: False, "constant:ao": False}, number


def _request(named: dict[str, Any], body: bytes) -> RawRequest:
    """Return a request with these headers; a list is a header sent more than once."""
    lines = []
    for name, found in named.items():
        for text in found if isinstance(found, list) else [found]:
            lines.append((name.lower().encode("ascii"), text.encode("ascii")))
    return RawRequest("POST", b"/~message@1.0/set", tuple(lines), body, "127.0.0.1")


def _refused(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Say whether the request is a 400 for us."""
    try:
        read(RawRequest("POST", b"/~message@1.0/set", tuple(headers), body, "127.0.0.1"))
    except HyperpyError as error:
        return error.status == 400
    return False


@pytest.mark.timeout(120)
def test_theirs_are_read(peer: Peer) -> None:
    """200 messages the library signed, with every label and order, are verified at our ingress."""
    rng = random.Random(1249)
    for number in range(MESSAGES):
        label = LABELS[number % len(LABELS)]
        headers: dict[str, Any] = {name: _text(rng, 60) for name in _names(rng)}
        expected: dict[str, Any] = dict(headers)
        if rng.random() < 0.3:
            headers["twice"] = ["one", "two"]
            expected["twice"] = "one, two"
        body = rng.randbytes(rng.choice([0, 1, 500]))
        if rng.random() < 0.5:
            headers |= {"n": "42", "ao-types": 'n="integer"'}
            expected["n"] = 42
        if body:
            headers["content-digest"] = digest_header(body).decode("ascii")
            expected["body"] = body
        fields, params = list(headers), rng.choice(PARAMS)
        if label == "comm-x":
            fields = ordered(fields)
        else:
            rng.shuffle(fields)
            params = rng.sample(params, len(params))
        values = {"nonce": _text(rng, 20), "tag": _text(rng, 20)}
        how = {"name": label, "params": params, "values": values}
        signed = peer.sign(rng, headers, fields, **how)
        _check_theirs(rng, peer, signed, body, expected)
        (commitment,) = read(_request(signed, body)).message.commitments.values()
        assert ("dialect" in commitment) is (label != "comm-x")


def _check_theirs(
    rng: random.Random, peer: Peer, signed: dict[str, Any], body: bytes, expected: dict[str, Any]
) -> None:
    raw = _request(signed, body)
    found = read(raw).message
    assert committers(found) == (peer.key.address,)
    want = Message(expected)
    assert {name: found.get(name) for name in want} == dict(want)
    at = rng.choice(_covered(raw.headers))
    assert _refused(replaced(raw.headers, at, changed(raw.headers[at][1])), body)
    at, text = next((n, text) for n, (name, text) in enumerate(raw.headers) if name == b"signature")
    where = text.index(b"=:") + 2 + rng.randrange(300)
    assert _refused(replaced(raw.headers, at, changed(text, where)), body)
    if body:
        assert _refused(raw.headers, changed(body, rng.randrange(len(body))))


def test_derived_names_are_not_shared(peer: Peer) -> None:
    """The RFC keeps the ``@`` of ``@path`` in its line, AO-Core drops it: neither side takes the other's."""
    reply = write(commit(Message({"path": "/~message@1.0/set", "status": 200}), peer.key), Wants())
    assert peer.verify(reply) == {peer.key.keyid: False, "constant:ao": False}
    how = {"name": "sig1", "params": ["alg", "keyid"]}
    signed = peer.sign(random.Random(1), {"x": "1"}, ["x", "@path"], **how)
    assert _refused(_request(signed, b"").headers, b"")
