"""ANS-104: items and messages come back; no bytes do anything but decode or be refused."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hyperpy.codecs import ans104, structured
from hyperpy.codecs.ans104_build import BUNDLE_TAGS
from hyperpy.codecs.ans104_item import Item, parse
from hyperpy.encoding import b64u_decode
from hyperpy.errors import CodecError, InvalidSignature, SizeError
from hyperpy.keys_ans104 import Ed25519Signer, EthereumSigner, SolanaSigner

SEED = bytes(range(32))
SIGNERS = st.sampled_from([Ed25519Signer(SEED), EthereumSigner(SEED), SolanaSigner(SEED)])
REFUSED = (CodecError, SizeError, InvalidSignature)

NAMES = st.one_of(
    st.sampled_from(
        ["Action", "type", "data", "body", "target", "Anchor", "ao-data-key", "ao-types", "x+link", "priv"]
    ),
    st.text("abAB-_ é", max_size=6),
).map(str.encode)
VALUES = st.one_of(st.binary(max_size=40), st.sampled_from([b"body", b"x", b'n="integer"', b"binary", b"v" * 3072]))
TAGS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)
FIELD = st.sampled_from([b"", SEED])
ITEMS = st.builds(Item, target=FIELD, anchor=FIELD, tags=TAGS, data=st.binary(max_size=200))

KEYS = st.one_of(
    st.sampled_from(["data", "body", "target", "anchor", "1", "2", "ao-data-key", "n" * 1025]),
    st.text("abc-_.1", min_size=1, max_size=5),
)
LEAVES = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", b"v" * 4000, b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"])
)
TABMS: st.SearchStrategy[Any] = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=5),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner), max_size=5),
    max_leaves=12,
)


@given(ITEMS)
def test_items_come_back(item: Item) -> None:
    raw = item.encode()
    assert parse(raw) == item
    assert ans104.decode_tags(ans104.encode_tags(item.tags)) == item.tags


@given(ITEMS, SIGNERS)
def test_signed_items_come_back_through_messages(item: Item, signer: Any) -> None:
    raw = item.sign(signer).encode()
    try:
        tabm: Any = ans104.decode(raw)
        typed: Any = structured.encode(structured.decode(tabm))
    except REFUSED:
        return
    ((name, fields),) = tabm["commitments"].items()
    assert ans104.item_verify(tabm, fields, name)
    for form in (tabm, typed):
        assert ans104.encode(form) == raw
        assert ans104.item_verify(form, form["commitments"][name], name)


@given(TABMS)
def test_messages_come_back(tabm: Any) -> None:
    try:
        item = ans104.from_tabm(tabm)
    except REFUSED:
        return
    back: Any = ans104.to_tabm(item)
    assert ans104.from_tabm(back).encode() == item.encode() or _forgets(tabm)
    assert _bare(back) == tabm or _forgets(tabm)


@given(TABMS, SIGNERS, st.data())
def test_signed_messages_verify_until_they_change(tabm: Any, signer: Any, data: st.DataObject) -> None:
    try:
        signed: Any = ans104.sign(tabm, signer)
    except REFUSED:
        return
    ((name, fields),) = signed["commitments"].items()
    assert ans104.item_verify(signed, fields, name)
    keys = sorted(signed.keys() - {"commitments"})
    if keys:
        key = data.draw(st.sampled_from(keys))
        changed = {**signed, key: {"x": b"y"} if signed[key] == b"!" else b"!"}
        assert not ans104.item_verify(changed, fields, name)


def _bare(tabm: Any) -> Any:
    return {
        key: _bare(value) if isinstance(value, dict) else value for key, value in tabm.items() if key != "commitments"
    }


def _forgets(tabm: Any, inner: bool = False) -> bool:
    """Say whether a message has what items cannot say: empty data, a key that names the data's."""
    if "ao-data-key" in tabm or tabm.get("data") == b"" or (tabm.get("body") == b"" and not inner):
        return True
    return any(_forgets(value, True) for value in tabm.values() if isinstance(value, dict))


@given(st.one_of(ITEMS, TABMS), SIGNERS, st.data())
def test_changed_bytes_never_verify(source: Any, signer: Any, data: st.DataObject) -> None:
    try:
        item = (source if isinstance(source, Item) else ans104.from_tabm(source)).sign(signer)
    except REFUSED:
        return
    raw = bytearray(item.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        found = parse(bytes(raw))
    except REFUSED:
        return
    assert found.encode() == bytes(raw)
    assert not found.verify()
    for check in (False, True):
        try:
            ans104.decode(bytes(raw), check=check)
        except REFUSED:
            continue


@given(st.binary(max_size=400), st.sampled_from([1, 2, 3, 4, 7]), st.booleans())
def test_any_bytes(noise: bytes, kind: int, zeros: bool) -> None:
    start = Item(signature_type=kind).encode()[:-18] if zeros else kind.to_bytes(2, "little")
    for raw in (noise, start + noise):
        try:
            item = parse(raw)
        except REFUSED:
            continue
        assert item.encode() == raw


@given(st.lists(st.one_of(ITEMS, st.binary(max_size=60)), max_size=4), st.data())
def test_any_bundle(parts: list[Any], data: st.DataObject) -> None:
    items = [(b64u_decode(part.id), part.encode()) if isinstance(part, Item) else (SEED, part) for part in parts]
    joined = bytearray(ans104.encode_bundle(items, data.draw(st.sampled_from(["little", "big"]))))
    if data.draw(st.booleans()):
        joined[data.draw(st.integers(0, len(joined) - 1))] ^= data.draw(st.integers(1, 255))
    item = Item(tags=BUNDLE_TAGS, data=bytes(joined))
    try:
        tabm = ans104.to_tabm(item)
    except REFUSED:
        return
    assert ans104.encode(tabm) == item.encode()


@given(
    TABMS,
    st.dictionaries(
        st.sampled_from(
            [
                "committed",
                "type",
                "keyid",
                "signature",
                "bundle",
                "original-tags",
                "field-target",
                "bundle-map",
                "committer",
            ]
        ),
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"true", b"ethereum", b"unsigned-sha256", b"publickey:AAAA"]),
            TABMS,
        ),
    ),
)
def test_any_commitment(tabm: Any, fields: Any) -> None:
    fields["commitment-device"] = b"ans104@1.0"
    assert ans104.item_verify(tabm, fields) in (True, False)
    try:
        ans104.encode({**tabm, "commitments": {"x": fields}})
        ans104.committer(fields)
    except REFUSED:
        return
