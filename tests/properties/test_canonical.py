"""Canonical bytes: one text per value, and nothing else decodes."""

from __future__ import annotations

import contextlib
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.codecs import canonical
from hyperpy.encoding import bytewise, key_bytes
from hyperpy.errors import CodecError, HyperpyError, SizeError
from hyperpy.message import As, Atom, Link, Message, Resolve, atom

KEYS = st.one_of(
    st.text(max_size=12), st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
).filter(lambda key: not key.startswith("priv") and key != "commitments")
SCALARS = st.one_of(
    st.binary(max_size=300),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abc_é", min_size=1, max_size=8).map(atom),
    st.text("abcXYZ019-_", min_size=43, max_size=43).map(Link),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple), st.dictionaries(KEYS, inner, max_size=40).map(Message)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_comes_back_and_has_one_text(item: object) -> None:
    data = canonical.encode(item)
    back = canonical.decode(data)
    assert type(back) is type(item)
    assert back == item
    assert canonical.encode(back) == data


@given(st.dictionaries(KEYS, SCALARS, max_size=50))
def test_the_order_of_building_does_not_matter(items: dict[str, object]) -> None:
    backwards = dict(reversed(items.items()))
    assert canonical.encode(Message(items)) == canonical.encode(Message(backwards)) == canonical.encode(backwards)
    seen: list[bytes] = []
    msgpack.unpackb(
        canonical.encode(items), object_pairs_hook=lambda pairs: seen.extend(k for k, _ in pairs), strict_map_key=False
    )
    assert seen == [key_bytes(key) for key in bytewise(items)]


@given(st.binary(max_size=60))
def test_any_bytes_decode_canonically_or_raise_our_errors(data: bytes) -> None:
    try:
        item = canonical.decode(data)
    except HyperpyError:
        return
    assert canonical.encode(item) == data


@given(VALUES, st.data())
def test_a_changed_byte_never_gives_the_same_bytes_again(item: object, data: st.DataObject) -> None:
    good = canonical.encode(item)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with contextlib.suppress(HyperpyError):
        assert canonical.encode(canonical.decode(bad)) == bad


@given(st.integers())
def test_integers_are_the_shortest(number: int) -> None:
    data = canonical.encode(number)
    if -(2**63) <= number < 2**64:
        assert data == msgpack.packb(number)
    else:
        size = (number if number >= 0 else ~number).bit_length() // 8 + 1
        assert data[-size:] == number.to_bytes(size, "big", signed=True)
    assert canonical.decode(data) == number


def test_known_bytes() -> None:
    message = Message({"b": 1, "a": b"x", "t": True, "f": 1.5, "at": Atom("ok"), "l": (1, b""), "k": Link("I" * 43)})
    assert canonical.encode(message) == (
        b"\x87\xc4\x01a\xc4\x01x\xc4\x02at\xd5\x02ok\xc4\x01b\x01\xc4\x01f\xc7\x1a\x041.50000000000000000000e+00"
        b"\xc4\x01k\xc7\x2b\x03" + b"I" * 43 + b"\xc4\x01l\x92\x01\xc4\x00\xc4\x01t\xc3"
    )
    assert canonical.encode(None) == b"\xc0"
    assert canonical.decode(b"\xc0") is None
    assert canonical.encode(2**64) == b"\xc7\x09\x01\x01" + b"\0" * 8
    assert canonical.encode({"a": "x", "b": [1, {"c": 1.5}]}) == canonical.encode(
        Message({"a": "x", "b": [1, {"c": 1.5}]})
    )


def test_commitments_and_private_values_stay_out() -> None:
    message = Message({"a": 1}, commitments={"X": {"type": "t"}}, private={"hashpath": "h"})
    assert canonical.encode(message) == canonical.encode(Message({"a": 1}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",  # bytes after the value
        b"\xcc\x01",  # an integer longer than need be
        b"\xc5\x00\x01x",  # a binary header longer than need be
        b"\xa1x",  # msgpack text
        b"\xcb" + b"\0" * 8,  # a msgpack float
        b"\x82\xc4\x01b\x01\xc4\x01a\x01",  # keys out of order
        b"\x82\xc4\x01a\x01\xc4\x01a\x01",  # a key twice
        b"\x81\xa1a\x01",  # a text key
        b"\x81\x01\x01",  # an integer key
        b"\x81\x90\x01",  # a list as key
        b"\x81\x80\x01",  # a map as key
        b"\x81\xc4\x04priv\x01",  # a private key
        b"\x81\xc4\x0bcommitments\x80",
        b"\xd4\x01\x05",  # a small integer as ext 1
        b"\xc7\x04\x02true",  # a bool as atom
        b"\xc7\x03\x041.5",  # a float that is not float_text
        b"\xc7\x03\x04nan",
        b"\xd6\xff\0\0\0\0",  # a msgpack timestamp
        b"\xd4\x05x",  # an unknown ext
        b"\xdd\xff\xff\xff\xff",  # a list of four thousand million
        b"\xc1",
    ],
)
def test_other_forms_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        canonical.decode(data)


@pytest.mark.parametrize(
    "item",
    [
        math.nan,
        -math.inf,
        object(),
        {1, 2},
        {1: 2},
        {"x": [math.nan]},
        {"priv": 1},
        {"commitments": 1},
        {"é": 1, "\udcc3\udca9": 2},  # two keys of the same bytes
        As("d", Message()),
        Resolve(()),
        "\ud800",
    ],
)
def test_values_without_a_canonical_form_are_refused(item: object) -> None:
    with pytest.raises(CodecError):
        canonical.encode(item)


def test_depth_is_bounded_alike_both_ways() -> None:
    deep: object = b""
    for _ in range(canonical.MAX_DEPTH):
        deep = (deep,)
    assert canonical.decode(canonical.encode(deep)) == deep
    for outer in ((deep,), [deep], {"a": deep}, Message({"a": deep})):
        with pytest.raises(SizeError):
            canonical.encode(outer)
    for depth in (canonical.MAX_DEPTH + 1, 1000, 2000, 200_000):
        with pytest.raises(SizeError):
            canonical.decode(b"\x91" * depth + b"\x01")
        with pytest.raises(SizeError):
            canonical.decode(b"\x81\xc4\x01a" * depth + b"\x01")
