"""What fuzzing found, so that it stays fixed (docs/fuzzing.md)."""

from __future__ import annotations

import pytest

from hyperpy.codecs import sfv
from hyperpy.errors import CodecError
from hyperpy.http.wire import RawRequest, read
from hyperpy.keys import verify_pss
from hyperpy.message import Message


@pytest.mark.parametrize("parse", [sfv.parse_item, sfv.parse_list, sfv.parse_dictionary])
def test_an_inner_list_ends_where_it_ends(parse: object) -> None:
    for text in (b"(a),b", b'("x"),b', b"k=(a)(b)"):
        if parse is sfv.parse_item or b")(" in text:
            with pytest.raises(CodecError):
                parse(text)  # type: ignore[operator]


def test_a_map_on_one_line_has_no_commitments_and_nothing_private() -> None:
    for text in (b"commitments", b"commitments=1", b'commit%6dents="x"'):
        with pytest.raises(CodecError):
            sfv.decode_value("map", text)
    found = sfv.decode_value("map", b"a=1, priv=2, private=3, %70riv-x=4")
    assert found == Message({"a": 1})
    assert isinstance(found, Message)
    assert not found.private


@pytest.mark.parametrize("bits", [8, 256, 520, 1023])
def test_a_padded_modulus_is_no_key(bits: int) -> None:
    """An RSA key that is short behind its zeros: no signature fits, and no other error comes out."""
    for size in (128, 512):
        modulus = ((1 << bits) - 1).to_bytes(size, "big")
        for name in ("sha256", "sha512"):
            assert not verify_pss(modulus, b"\x01" * size, b"text", name)


def test_a_header_sent_many_times_is_joined() -> None:
    """In one go: to add each to what is there takes quadratic time."""
    raw = RawRequest("GET", b"/a", tuple((b"x", b"%d" % at) for at in range(5)), b"b")
    assert read(raw).message["x"] == b"0, 1, 2, 3, 4"
