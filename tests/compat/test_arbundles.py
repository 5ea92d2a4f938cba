"""ANS-104 items exchanged with npm arbundles, both ways, for every signature type it has."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy.codecs import ans104, structured
from hyperpy.codecs.ans104_item import Item
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import (
    ED25519,
    ETHEREUM,
    RSA,
    SOLANA,
    TYPED_ETHEREUM,
    Ed25519Signer,
    EthereumSigner,
    RsaSigner,
    Signer,
    SolanaSigner,
    base58,
    keccak256,
)

ITEMS = 200
_SEED = bytes(range(32))


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


class Peer:
    """arbundles and our signers, with the same keys."""

    def __init__(self, script: Any) -> None:
        self.ask: Callable[..., Any] = script.ask
        wallet, seed = RsaKey.generate(), Ed25519Signer(_SEED)
        self.signers: dict[int, Signer] = {
            RSA: RsaSigner(wallet),
            ED25519: seed,
            ETHEREUM: EthereumSigner(_SEED),
            SOLANA: SolanaSigner(_SEED),
        }
        pair = base58(_SEED + seed.owner)
        secret = "0x" + _SEED.hex()
        self.keys = {RSA: wallet.to_jwk(), ED25519: pair, ETHEREUM: secret, SOLANA: pair, TYPED_ETHEREUM: secret}


@pytest.fixture(scope="module")
def peer(node_script: Any) -> Peer:
    return Peer(node_script("arbundles.cjs", "arbundles"))


def _text(rng: random.Random, longest: int) -> str:
    return "".join(rng.choice('abcXYZ-_09 "\\,é中😀') for _ in range(rng.randint(0, longest)))


def _name(rng: random.Random) -> str:
    return rng.choice(["Action", "Data-Protocol", "type", "Variant", "x", "anchor", "Target", "data", ""]) + _text(
        rng, 8
    )


def _content(rng: random.Random) -> tuple[Item, dict[str, Any]]:
    """Return an unsigned item and the request that makes it with arbundles."""
    tags = [(_name(rng), _text(rng, rng.choice([3, 30, 200]))) for _ in range(rng.choice([0, 1, 2, 5, 20]))]
    tags = tags[: next((n for n in range(len(tags)) if sum(len((a + b).encode()) + 8 for a, b in tags[:n]) > 3500), 99)]
    item = Item(
        target=rng.randbytes(32) if rng.random() < 0.5 else b"",
        anchor=rng.randbytes(32) if rng.random() < 0.5 else b"",
        tags=tuple((name.encode(), value.encode()) for name, value in tags),
        data=rng.randbytes(rng.choice([0, 1, 10, 500, 5000])),
    )
    request = {
        "target": b64u(item.target),
        "anchor": _b64(item.anchor),
        "tags": [{"name": name, "value": value} for name, value in tags],
        "data": _b64(item.data),
    }
    return item, request


def _keeps_its_bytes(raw: bytes) -> None:
    """The message of an item gives the item back, also after typing, and verifies."""
    item = ans104.parse(raw)
    tabm = ans104.decode(raw)
    assert ans104.encode(tabm) == raw
    ((name, fields),) = tabm["commitments"].items()  # type: ignore[union-attr]
    assert name == item.id
    assert ans104.item_verify(tabm, fields, name)  # type: ignore[arg-type]
    typed = structured.encode(structured.decode(tabm))
    assert ans104.encode(typed) == raw


@pytest.mark.timeout(240)
def test_theirs_are_read(peer: Peer) -> None:
    """200 items made by arbundles parse, verify and come back byte for byte."""
    rng = random.Random(104)
    for number in range(ITEMS):
        kind = list(peer.keys)[number % 5]
        content, request = _content(rng)
        theirs = peer.ask(op="create", type=kind, key=peer.keys[kind], **request)
        raw = b64decode(theirs["raw"])
        item = ans104.parse(raw)
        assert theirs["valid"]
        assert (item.target, item.anchor, item.tags, item.data) == (
            content.target,
            content.anchor,
            content.tags,
            content.data,
        )
        assert (item.signature_type, item.id, _b64(item.owner)) == (kind, theirs["id"], theirs["owner"])
        assert item.digest == b64decode(theirs["digest"])
        assert item.verify()
        assert item.encode() == raw
        _keeps_its_bytes(raw)
        if kind in peer.signers:
            assert item.owner == peer.signers[kind].owner


@pytest.mark.timeout(240)
def test_ours_are_read(peer: Peer) -> None:
    """200 items made here are valid for arbundles, with the same ID and deep hash."""
    rng = random.Random(401)
    for number in range(ITEMS):
        kind = list(peer.signers)[number % 4]
        content, _ = _content(rng)
        item = content.sign(peer.signers[kind])
        theirs = peer.ask(op="read", raw=_b64(item.encode()))
        assert theirs["valid"], (kind, number)
        assert (theirs["id"], theirs["type"]) == (item.id, kind)
        assert b64decode(theirs["digest"]) == item.digest
        assert [(tag["name"].encode(), tag["value"].encode()) for tag in theirs["tags"]] == list(item.tags)
        assert b64u_decode(theirs["target"]) == item.target
        assert (b64decode(theirs["anchor"]), b64decode(theirs["data"])) == (item.anchor, item.data)
        broken = bytearray(item.encode())
        broken[-1] ^= 1
        if item.data:
            assert not peer.ask(op="read", raw=_b64(bytes(broken)))["valid"]
            assert not ans104.parse(bytes(broken)).verify()


def test_messages_are_read(peer: Peer) -> None:
    """A message signed with each of our signers is a valid item for arbundles."""
    tabm: structured.Tabm = {"action": b"Eval", "body": b"1 + 1", "n": b"2", "ao-types": b'n="integer"'}
    for kind, signer in peer.signers.items():
        signed = ans104.sign(tabm, signer)
        theirs = peer.ask(op="read", raw=_b64(ans104.encode(signed)))
        assert theirs["valid"]
        assert theirs["type"] == kind
        assert set(signed["commitments"]) == {theirs["id"]}


def test_typed_ethereum_names_its_signer(peer: Peer) -> None:
    """Type 7 carries the address as text; the commitment's committer is that address."""
    theirs = peer.ask(op="create", type=7, key=peer.keys[7], tags=[], target="", anchor="", data="")
    item = ans104.parse(b64decode(theirs["raw"]))
    address = keccak256(peer.signers[ETHEREUM].owner[1:])[-20:].hex()
    assert item.owner.decode().lower() == "0x" + address
    assert item.address == peer.signers[ETHEREUM].address


def test_bundles_both_ways(peer: Peer) -> None:
    """A bundle made on one side is read on the other, with the same IDs."""
    rng = random.Random(2)
    requests = [_content(rng)[1] for _ in range(20)]
    theirs = peer.ask(op="bundle", type=ETHEREUM, key=peer.keys[ETHEREUM], items=requests)
    order, members = ans104.parse_bundle(b64decode(theirs["raw"]))
    assert order == "little"
    assert [b64u(digest) for digest, _ in members] == theirs["ids"]
    assert all(ans104.parse(raw).verify() for _, raw in members)
    items = [_content(rng)[0].sign(peer.signers[1 + n % 4]) for n in range(20)]
    raw = ans104.encode_bundle([(b64u_decode(item.id), item.encode()) for item in items])
    found = peer.ask(op="unbundle", raw=_b64(raw))
    assert found["valid"]
    assert found["ids"] == [item.id for item in items]


def test_deep_hash(peer: Peer) -> None:
    """Nested lists hash alike."""
    chunk: Any = [b"", [b"a", [], [b"bc" * 500]], b"\xff\x00"]

    def shown(part: Any) -> Any:
        return _b64(part) if isinstance(part, bytes) else [shown(one) for one in part]

    assert b64decode(peer.ask(op="deepHash", chunk=shown(chunk))) == ans104.deep_hash(chunk)
