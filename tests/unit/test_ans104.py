"""ANS-104: known items of every signature type, the older generation's forms, limits, hostile bytes."""

from __future__ import annotations

import time
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest

from hyperpy.codecs import ans104, structured
from hyperpy.codecs.ans104_build import BUNDLE_TAGS, content, fresh
from hyperpy.codecs.ans104_item import Item, parse, parse_bundle
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import CodecError, ConfigError, InvalidSignature, SizeError
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import Ed25519Signer, EthereumSigner, RsaSigner, Signer, SolanaSigner, base58, ethereum_address
from hyperpy.message import Message

SEED = bytes(range(32))
SIGNER = Ed25519Signer(SEED)
ID = b64u(SEED).encode()

# Made by npm arbundles 0.11.2 with the seed above: tag Action=Eval, data "1 + 1".
KNOWN = {
    2: (
        "nqdQvW-hOQ7JMECW-gzPcls-a_DtXjGuQ6-98Num948",
        "Vkdap1RjR0wChd9dvyvKtz2mUTWIOem3dIGy6rEHcIw",
        "AgBMPzbMt+++mF5YNeNK25guOQemvqZ7dd8Gd+QjbUcgK0cTvzIB4zuWwR5L0GcibiUrIvlYF90mo78m6rjSG9IJA6EHv/POEL4dcN0Y50vA"
        "mWfk1jCbpQ1fHdyGZBJVMbgAAAEAAAAAAAAADgAAAAAAAAACDEFjdGlvbghFdmFsADEgKyAx",
    ),
    3: (
        "6UykMpGk6g1JJk_Rb9drIM0w0-otYHLIwiJXuf5XWa8",
        "0xedE35562d3555e61120a151B3c8e8e91d83a378a",
        "AwD27omIDsJi16PUrxXACMoAPlWY2OEo2x6P7mLps/tKXT95vngB4ZGhnkEbAbF0U6qRwXTemgXnyz8Ul5kAuE/5GwRtbKrCSK+W9q+n+QT1"
        "UCU6Dz7z9aov5oOKlbIWaRRo4kh+YiKmZk4HnI7fdRje/VYtvtoedZPf1/C+KFiAok2rAAABAAAAAAAAAA4AAAAAAAAAAgxBY3Rpb24IRXZh"
        "bAAxICsgMQ==",
    ),
    4: (
        "jrM6ctD5zAcLeizBUDu7QK9SmW9lDsI_LBEmMdVQevw",
        "FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF",
        "BAB1e9Nslr2fpQN3yOG6Lw5kObw8AQZFCw+a88UJtpST6UJPkvBsX9gOb3LHY10GjGNOamrhYoMVIyM9FKrKE84IA6EHv/POEL4dcN0Y50vA"
        "mWfk1jCbpQ1fHdyGZBJVMbgAAAEAAAAAAAAADgAAAAAAAAACDEFjdGlvbghFdmFsADEgKyAx",
    ),
    7: (
        "jkkxWQa-kXq8qcKS-6URnP1aBSoVfpummgI3VGDIJws",
        "0xedE35562d3555e61120a151B3c8e8e91d83a378a",
        "BwA+iwF5EY8viF+Wr/W+WzPu69EUxKl55CrVUb7sQDSDn1V+ZNyMyPsTfxh9d3Bs5BRPKLOn7c8ojBRQVm9N5ZoNHDB4ZWRlMzU1NjJkMzU1"
        "NWU2MTEyMGExNTFiM2M4ZThlOTFkODNhMzc4YQAAAQAAAAAAAAAOAAAAAAAAAAIMQWN0aW9uCEV2YWwAMSArIDE=",
    ),
}
SIGNERS: dict[int, Signer] = {2: SIGNER, 3: EthereumSigner(SEED), 4: SolanaSigner(SEED)}


@pytest.mark.parametrize("kind", KNOWN)
def test_known_items(kind: int) -> None:
    name, address, text = KNOWN[kind]
    raw = b64decode(text)
    item = parse(raw)
    assert (item.signature_type, item.id, item.address, item.tags) == (kind, name, address, ((b"Action", b"Eval"),))
    assert item.verify()
    tabm: Any = ans104.decode(raw)
    fields = tabm["commitments"][name]
    assert tabm["action"] == b"Eval"
    assert fields["committer"] == address.encode()
    assert ans104.committer(fields) == address
    assert ans104.encode(tabm) == raw
    for at in range(len(raw)):
        broken = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            assert not parse(broken).verify()
        except (CodecError, SizeError):
            continue


@pytest.mark.parametrize("kind", SIGNERS)
def test_signatures_without_salt_are_the_known_ones(kind: int) -> None:
    raw = b64decode(KNOWN[kind][2])
    bare = Item(tags=((b"Action", b"Eval"),), data=b"1 + 1")
    signed = bare.sign(SIGNERS[kind])
    assert signed.verify()
    assert signed.encode() == raw


def test_rsa_signs_and_small_keys_do_not() -> None:
    signed = ans104.sign({"data": b"x"}, RsaKey.generate())
    ((name, fields),) = signed["commitments"].items()  # type: ignore[union-attr]
    assert ans104.item_verify(signed, fields, name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        RsaSigner(RsaKey.generate(2048))
    with pytest.raises(ConfigError):
        Ed25519Signer(b"short")
    with pytest.raises(ConfigError):
        EthereumSigner(bytes(32))


def test_addresses() -> None:
    assert base58(b"\0\0\1") == "112"
    assert ethereum_address(SIGNERS[3].owner) == KNOWN[3][1]


def test_a_signature_has_one_form() -> None:
    """A flipped recovery byte and a high s name the same signer; both are refused."""
    item = Item(data=b"x").sign(SIGNERS[3])
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = (order - int.from_bytes(item.signature[32:64], "big")).to_bytes(32, "big")
    other = bytes([55 - item.signature[64]])
    assert not replace(item, signature=item.signature[:32] + high + other).verify()
    assert not replace(item, signature=item.signature[:64] + other).verify()


# -- messages and commitments ----------------------------------------------------------------


def _signed(tags: list[tuple[bytes, bytes]], **more: bytes) -> tuple[Item, Any, Any]:
    item = Item(tags=tuple(tags), **more).sign(SIGNER)  # type: ignore[arg-type]
    tabm: Any = ans104.decode(item.encode())
    return item, tabm, tabm["commitments"][item.id]


TAGS = [
    [],
    [(b"b", b"1"), (b"a", b"2")],
    [(b"a", b"1"), (b"a", b"2")],
    [(b"a", b"x" * 3000), (b"A", b"y" * 3000)],
    [(b"Anchor", b"1"), (b"target", b"2"), (b"data", b"3"), (b"Data", b"4")],
    [(b"commitments", b"1"), (b"priv", b"2"), (b"unsigned_id", b"3"), (b"content-digest", b"4"), (b"", b"5")],
    [(b"ao-data-key", b"body"), (b"ao-data-key", b"x")],
    [(b"x", b"1"), (b"ao-data-key", b"body")],
    [(b"body", b"1")],
    [(b"ao-types", b"n=integer"), (b"n", b"042")],
    [(b"ao-types", b'gone="integer"')],
    [(b"ao-types", b'N="integer", %41="atom"'), (b"N", b"7"), (b"A", b"true")],
    [(b"ao-type", b"binary")],
    [(b"k+link", ID)],
    [(b"bundle-format", b"binary")],
    [(b"Bundle-Format", b"binary"), (b"Bundle-Version", b"2.0.0")],
    [(b"n" * 1024, b"1")],
    [(b"%d" % n, b"") for n in range(128)],
]


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: str(tags)[:40])
@pytest.mark.parametrize("data", [b"", b"hello", b"z" * 5000])
@pytest.mark.parametrize("field", [b"", SEED])
def test_the_same_bytes_come_back(tags: list[tuple[bytes, bytes]], data: bytes, field: bytes) -> None:
    item, tabm, fields = _signed(tags, data=data, target=field, anchor=field)
    typed: Any = structured.encode(structured.decode(tabm))
    for form in (tabm, typed):
        assert ans104.encode(form) == item.encode()
        assert ans104.item_verify(form, form["commitments"][item.id], item.id)
    for key in tabm.keys() - {"commitments"}:
        assert not ans104.item_verify({**tabm, key: b"other"}, fields) or key == "ao-types"
    assert ans104.item_verify({**tabm, "extra": b"1"}, fields)


def test_what_is_not_signed_does_not_verify() -> None:
    item, tabm, fields = _signed([(b"Action", b"1")], data=b"x")
    more = {**fields["committed"], "3": b"extra"}
    assert not ans104.item_verify({**tabm, "extra": b"1"}, {**fields, "committed": more})
    assert not ans104.item_verify({**tabm, "ao-types": b'action="integer"'}, fields)
    assert not ans104.item_verify(tabm, {**fields, "committer": b"someone"})
    assert not ans104.item_verify(tabm, fields, b64u(SEED))
    assert not ans104.item_verify(tabm, {**fields, "type": b"solana"})
    assert not ans104.item_verify(tabm, {**fields, "keyid": b"publickey:AAAA"})
    assert ans104.item_verify(tabm, {**fields, "committed": {"1": b"action"}}) is False  # the data is gone
    with pytest.raises(InvalidSignature):
        ans104.decode(replace(item, data=b"y").encode())


def test_unsigned_commitments() -> None:
    name, fields = ans104.item_commit({"Action": b"1", "data": b"x"})
    tabm: structured.Tabm = {"action": b"1", "data": b"x", "commitments": {name: fields}}
    assert ans104.item_verify(tabm, fields, name)
    assert ans104.from_tabm(tabm).id == name
    assert ans104.committer(fields) is None
    assert ans104.from_tabm({**tabm, "more": b"1"}).tags == ((b"action", b"1"), (b"more", b"1"))
    assert ans104.from_tabm(ans104.sign(tabm, SIGNER)).tags == ((b"Action", b"1"),)


def test_the_raw_anchor_of_the_older_generation_verifies() -> None:
    item, _, fields = _signed([(b"a", b"1")], anchor=SEED)
    older = {**fields, "field-anchor": SEED, "committed": {"1": b"a"}}
    stored: Any = {"a": b"1", "commitments": {item.id: older}}
    assert ans104.item_verify(stored, older, item.id)
    assert ans104.encode(stored) == item.encode()
    assert not ans104.item_verify(stored, {**older, "field-anchor": SEED[1:]}, item.id)


def test_messages_to_bytes_and_back() -> None:
    child = Message({"x": 1})
    linked: Any = ans104.sign({"k+link": ID, "n": b"1", "ao-types": b'n="integer"'}, SIGNER)
    raw = ans104.encode(linked)
    message = ans104.decode_message(raw, loader=lambda name: child)
    assert (message["n"], message["k"]) == (1, child)
    assert ans104.encode_message(message) == raw
    inline = Message.make({**message.raw_items(), "k": child}, message.commitments)
    assert ans104.encode_message(inline, link=lambda one: ID.decode()) == raw
    with pytest.raises(CodecError):
        ans104.encode_message(inline)
    bundled = ans104.encode_message(Message({"k": child}))
    assert ans104.decode_message(bundled) == {"k": {"x": 1}}
    signed = ans104.encode(ans104.sign(structured.encode(Message({"k": child})), SIGNER))
    assert ans104.encode_message(ans104.decode_message(signed), link=lambda one: ID.decode()) == signed
    with pytest.raises(CodecError):
        ans104.decode_message(ans104.encode(structured.encode((b"a", b"b"))))


# -- bundles ---------------------------------------------------------------------------------

NESTED: structured.Tabm = {
    "a": {"b": {"c": b"1"}, "data": b"x"},
    "list": {"1": b"z", "ao-types": b'.="list"'},
    "n": b"2",
}


def _bundle(order: Any) -> Item:
    return content(NESTED, fresh(NESTED), lambda child, depth: _inner(child, order), order).sign(SIGNER)


def _inner(child: structured.Tabm, order: Any) -> Item:
    return content(child, fresh(child), lambda deeper, depth: _inner(deeper, order), order)


@pytest.mark.parametrize("order", ["little", "big"])
def test_bundles_of_either_byte_order(order: Any) -> None:
    item = _bundle(order)
    assert parse_bundle(item.data)[0] == order
    tabm: Any = ans104.decode(item.encode())
    fields = tabm.pop("commitments")[item.id]
    assert _without_commitments(tabm) == NESTED
    assert ans104.item_verify(tabm, fields, item.id)
    assert ans104.encode({**tabm, "commitments": {item.id: fields}}) == item.encode()
    assert not ans104.item_verify({**tabm, "a": {"b": {"c": b"2"}, "data": b"x"}}, fields)
    assert not ans104.item_verify({**tabm, "a": {**tabm["a"], "extra": b"1"}}, fields)


def _without_commitments(tabm: Any) -> Any:
    if not isinstance(tabm, dict):
        return tabm
    return {key: _without_commitments(value) for key, value in tabm.items() if key != "commitments"}


def test_a_signed_member_keeps_its_signature() -> None:
    inner = ans104.sign({"Action": b"1", "data": b"x"}, SIGNERS[3])
    outer: Any = ans104.decode(ans104.encode(ans104.sign({"inner": inner, "k": b"v"}, SIGNER)))
    assert outer["inner"] == inner
    raw = bytearray(ans104.encode(outer))
    at = bytes(raw).index(b"Action")
    raw[at] ^= 32
    with pytest.raises((InvalidSignature, CodecError)):
        ans104.decode(bytes(raw))


def test_a_bad_member_is_refused_though_the_bundle_is_signed() -> None:
    bad = replace(Item(data=b"x").sign(SIGNER), data=b"y")
    data = ans104.encode_bundle([(b64u_decode(bad.id), bad.encode())])
    outer = Item(tags=BUNDLE_TAGS, data=data).sign(SIGNER)
    with pytest.raises(InvalidSignature):
        ans104.decode(outer.encode())


def test_a_bundle_of_another_form_stays_bytes() -> None:
    """Capital bundle tags, or a manifest in another order: data as it is, signature good."""
    items = [Item(data=b"%d" % n).sign(SIGNER) for n in range(2)]
    data = ans104.encode_bundle([(b64u_decode(item.id), item.encode()) for item in items])
    _, tabm, _ = _signed([(b"Bundle-Format", b"binary"), (b"Bundle-Version", b"2.0.0")], data=data)
    assert tabm["data"] == data
    _, tabm, _ = _signed([*BUNDLE_TAGS, (b"1", b"taken")], data=data)
    assert tabm["data"] == data
    _, tabm, _ = _signed([*BUNDLE_TAGS], data=data)
    assert tabm["1"]["data"] == b"0"


def test_malformed_bundles() -> None:
    good = Item(data=b"x").sign(SIGNER)
    entry = (b64u_decode(good.id), good.encode())
    joined = ans104.encode_bundle([entry])
    liar = ans104.encode_bundle([(SEED, good.encode())])
    for data in (b"", b"\1" * 31, joined[:-1], joined + b"x", liar, (2**255).to_bytes(32, "little"), b"\xff" * 400):
        with pytest.raises(CodecError):
            ans104.to_tabm(Item(tags=BUNDLE_TAGS, data=data))
    many = ans104.encode_bundle([(SEED, b"")] * 10_001)
    with pytest.raises(SizeError):
        parse_bundle(many)


def test_depth_is_bounded() -> None:
    tabm: structured.Tabm = {"x": b"1"}
    for _ in range(31):
        tabm = {"k": tabm}
    assert ans104.to_tabm(ans104.from_tabm(tabm)) == tabm
    with pytest.raises(SizeError):
        ans104.from_tabm({"k": {"k": tabm}})
    item = Item(data=b"x")
    for _ in range(40):
        data = ans104.encode_bundle([(b64u_decode(item.id), item.encode())])
        item = Item(tags=BUNDLE_TAGS, data=data)
    with pytest.raises(SizeError):
        ans104.to_tabm(item)
    chunk: Any = b""
    for _ in range(100):
        chunk = [chunk]
    with pytest.raises(SizeError):
        ans104.deep_hash(chunk)


# -- limits ----------------------------------------------------------------------------------


def test_limits_of_tags() -> None:
    for tags in ([(b"n", b"v")] * 129, [(b"n" * 3073, b"v")], [(b"n", b"v" * 3073)]):
        with pytest.raises(SizeError):
            Item(tags=tuple(tags)).encode()
        with pytest.raises(SizeError):
            ans104.decode_tags(ans104.encode_tags(tags))
    long_name = Item(tags=((b"n" * 1025, b"v"),))
    assert parse(long_name.encode()) == long_name
    with pytest.raises(SizeError):
        long_name.sign(SIGNER)
    with pytest.raises(SizeError):
        ans104.from_tabm({str(n): b"" for n in range(129)}).encode()
    assert ans104.to_tabm(ans104.from_tabm({"n" * 1025: b"v", "k": b"x" * 3073})) == {
        "n" * 1025: b"v",
        "k": b"x" * 3073,
    }


@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"\2\1n", b"\2\2n", b"\4\2n\2v\0", b"\2\2n\2v\0\0", b"\2\2n\2v\2\2n\2v\0", b"\x82\0\2n\2v\0"]
)
def test_tags_have_one_form(raw: bytes) -> None:
    if raw:
        with pytest.raises(CodecError):
            ans104.decode_tags(raw)
    else:
        assert ans104.decode_tags(raw) == ()


@pytest.mark.parametrize("count", [1, 127, 129, 2**32, 2**64 - 1])
def test_counts_that_lie(count: int) -> None:
    raw = bytearray(Item(data=b"x" * 100).encode())
    at = len(raw) - 116
    raw[at : at + 8] = count.to_bytes(8, "little")
    with pytest.raises((CodecError, SizeError)):
        parse(bytes(raw))
    raw = bytearray(Item(data=b"x" * 100).encode())
    raw[at + 8 : at + 16] = count.to_bytes(8, "little")
    with pytest.raises((CodecError, SizeError)):
        parse(bytes(raw))


@pytest.mark.parametrize("kind", [0, 5, 6, 8, 256, 65535])
def test_unknown_signature_types(kind: int) -> None:
    with pytest.raises(CodecError):
        parse(kind.to_bytes(2, "little") + bytes(5000))


def test_ambiguous_items_are_refused() -> None:
    for tags, data in (
        ([(b"x", b"1"), (b"x+link", ID)], b""),
        ([(b"data+link", ID)], b"x"),
        ([(b"ao-data-key", b"x"), (b"x", b"1")], b"x"),
        ([(b"ao-data-key", b"commitments")], b"x"),
        ([(b"ao-data-key", b"private")], b"x"),
        ([(b"ao-data-key", b"x+link")], b"x"),
        ([(b"\xe9", b"1")], b""),
    ):
        with pytest.raises(CodecError):
            ans104.to_tabm(Item(tags=tuple(tags), data=data))
    with pytest.raises(CodecError):
        ans104.from_tabm({"\udce9": b"1"})


def test_large_input_takes_linear_time() -> None:
    items = [(b64u_decode(item.id), item.encode()) for item in (Item(data=b"%d" % n) for n in range(2000))]
    raw = Item(tags=BUNDLE_TAGS, data=ans104.encode_bundle(items)).encode()
    start = time.monotonic()
    assert len(ans104.decode(raw)) == 2000
    assert time.monotonic() - start < 5
