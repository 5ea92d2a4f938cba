"""greenzone@1.0 in the reference's form: what its nodes send and get, and that all of it is off by default."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hyperpy.devices.greenzone import terms

from hyperpy import Message
from hyperpy.encoding import b64u
from hyperpy.errors import EvidenceError
from hyperpy.testing import wallet
from tests.attest import fake_amd
from tests.attest.test_greenzone import Place
from tests.attest.test_snp_device import HASHES, claimed

MODULUS = bytes([0xC1, *range(254), 0x0B])
TERM = b"\x83h\x02h\x02w\x03rsab\x00\x01\x00\x01m\x00\x00\x01\x00" + MODULUS
"""What ``term_to_binary({{rsa, 65537}, Modulus})`` is, by the external term format."""


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> fake_amd.FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def compatible(stack: ExitStack, name: str, amd: fake_amd.FakeAmd, **settings: Any) -> Place:
    """Return a node that talks to the reference's."""
    return Place(stack, name, amd, **{"green_zone.compatible": True, **settings})


def asked(amd: fake_amd.FakeAmd, name: str, **changes: Any) -> dict[str, Any]:
    """Return what a node of the reference sends to join."""
    key = wallet(name)
    term = base64.b64encode(terms.public_key(key.modulus)).decode()
    return {**claimed(amd, key), "public_key": term, **changes}


# -- terms -----------------------------------------------------------------------------------------


def test_the_one_term() -> None:
    assert terms.public_key(MODULUS) == TERM
    assert terms.read_public(TERM) == MODULUS


@pytest.mark.parametrize("at", range(len(TERM) - 256))
def test_any_other_byte_is_another_term(at: int) -> None:
    for value in {0, 1, 104, 105, 109, 131, 255} - {TERM[at]}:
        with pytest.raises(EvidenceError) as raised:
            terms.read_public(TERM[:at] + bytes([value]) + TERM[at + 1 :])
        assert raised.value.code == "evidence/malformed"


@pytest.mark.parametrize(
    "term",
    [
        b"",
        b"\x83",
        TERM[:-1],
        TERM + b"\0",
        b"\x83P\x00\x00\x01\x00" + TERM[1:],  # compressed
        b"\x83d\x00\x07new_one",  # an atom
        b"\x83h\x02h\x02d\x00\x03rsa" + TERM[10:],  # the atom in its older form
        b"\x83l\x00\x00\x00\x01" * 1000,
        TERM[:-256] + bytes(256),
        TERM[:-1] + b"\x0a",
    ],
)
def test_no_other_term_is_read(term: bytes) -> None:
    with pytest.raises(EvidenceError):
        terms.read_public(term)
    with pytest.raises(EvidenceError):
        terms.read_private(term)


def test_a_private_key_s_term() -> None:
    term = b"\x83h\x03" + TERM[3:15] + b"m\x00\x00\x00\x03abc" + TERM[15:]
    assert terms.private_key(b"abc", MODULUS) == term
    assert terms.read_private(term) == (b"abc", MODULUS)
    with pytest.raises(EvidenceError):
        terms.read_private(term + b"\0")


# -- joins -----------------------------------------------------------------------------------------


def test_it_is_off_by_default(stack: ExitStack, amd: fake_amd.FakeAmd) -> None:
    plain = Place(stack, "keeper", amd)
    plain.order("init")
    assert plain.ask("join", wallet("outsider"), **asked(amd, "outsider"))["status"] == 403
    assert plain.ask("key", wallet("outsider"))["status"] == 403


def test_a_node_of_the_reference_joins(stack: ExitStack, amd: fake_amd.FakeAmd) -> None:
    keeper = compatible(stack, "keeper", amd)
    keeper.order("init")
    key = wallet("outsider")
    reply = keeper.ask("join", key, **asked(amd, "outsider"))
    assert reply["status"] == 200, reply
    zone_key = key._key.decrypt(base64.b64decode(reply.text("zone-key")), padding.PKCS1v15())
    assert len(zone_key) == 32
    assert reply.text("node-address") == keeper.address
    assert terms.read_public(base64.b64decode(reply.text("public_key"))) == keeper.key.modulus, "the public half"
    assert keeper.ask("is_trusted", key)["body"] == b"true"
    assert keeper.zone.members.keys() == {keeper.address}, "the attested zone does not have it"

    shared = keeper.ask("key", key)
    iv, sealed = (base64.b64decode(shared.text(name)) for name in ("iv", "encrypted_key"))
    assert len(iv) == 16
    exponent, modulus = terms.read_private(AESGCM(zone_key).decrypt(iv, sealed, None))
    assert modulus != keeper.key.modulus, "a node's own key is never sent"
    n, d = (int.from_bytes(raw, "big") for raw in (modulus, exponent))
    assert pow(pow(5, 65537, n), d, n) == 5
    for signer in (None, wallet("mallory"), keeper.key):
        assert keeper.ask("key", signer)["status"] == 403
    assert keeper.order("remove", address=key.address)["status"] == 200
    assert keeper.ask("key", key)["status"] == 403


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": b64u(bytes(64))}, "binding/report-data-mismatch"),
        ({"local-hashes": HASHES | {"kernel": "00" * 32}}, "policy/measurement-not-allowed"),
        ({"report": "{}"}, "evidence/malformed"),
        ({"public_key": base64.b64encode(TERM + b"\0").decode()}, "evidence/malformed"),
        ({"public_key": "!"}, "evidence/malformed"),
        ({"node-message": b"none"}, "evidence/malformed"),
        ({"address": wallet("mallory").address}, "binding/key-mismatch"),
    ],
    ids=str,
)
def test_what_is_wrong_joins_nothing(
    stack: ExitStack, amd: fake_amd.FakeAmd, changes: dict[str, Any], code: str
) -> None:
    keeper = compatible(stack, "keeper", amd)
    keeper.order("init")
    key = wallet("outsider")
    reply = keeper.ask("join", key, **asked(amd, "outsider", **changes))
    assert (reply["status"], reply.text("code")) == (400, code)
    assert keeper.ask("is_trusted", key)["body"] == b"false"


def test_a_reply_of_the_victim_joins_nothing(stack: ExitStack, amd: fake_amd.FakeAmd) -> None:
    keeper = compatible(stack, "keeper", amd)
    keeper.order("init")
    victim = wallet("outsider")
    mine = base64.b64encode(terms.public_key(wallet("mallory").modulus)).decode()
    echoed = asked(amd, "outsider", public_key=mine, status=200)
    assert keeper.ask("join", victim, **echoed)["status"] == 403


def test_two_nodes_in_this_form(stack: ExitStack, amd: fake_amd.FakeAmd) -> None:
    keeper = compatible(stack, "keeper", amd)
    keeper.order("init")
    one = compatible(stack, "one", amd, **{"relay.peers": [keeper.url]})
    given = {"peer-location": keeper.url, "peer-id": keeper.address}
    assert one.order("join", reference="true", **given)["body"] == b"Node joined green zone successfully."
    made = one.order("become", **given)
    assert made["status"] == 200, made
    body = made.get("body")
    said = body if isinstance(body, Message) else made
    assert said.text("message") == "Successfully adopted target node identity"
    assert said.text("identity") not in (keeper.address, one.address)
    wrong = {**given, "peer-id": wallet("mallory").address}
    assert one.order("join", reference="true", **wrong)["status"] == 502
    assert one.order("become", **wrong)["status"] == 502
