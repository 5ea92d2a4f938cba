"""structured@1.0 where the vectors do not reach: commitments, limits, ambiguity, links."""

from __future__ import annotations

import pytest

from hyperpy.codecs import json, structured
from hyperpy.errors import CodecError, MessageNotFound, SizeError
from hyperpy.message import As, Atom, Link, Message

ID = "x" * 43
COMMITMENT = Message({"commitment-device": "httpsig@1.0", "committed": ["a"], "keyid": "constant:ao"})


def test_commitments_ride_along_and_committed_is_a_list_both_ways() -> None:
    signed = Message({"a": 1, "n": {"b": 2}}, commitments={ID: COMMITMENT})
    tabm = structured.encode(signed, link=lambda child: ID)
    written = tabm["commitments"][ID]["committed"]  # type: ignore[index]
    assert written == {"1": b"a", "ao-types": b'.="list"'}
    assert structured.decode(structured.encode(signed)) == signed
    assert json.decode(json.encode(signed)) == signed


def test_committed_as_a_map_is_read_as_a_list() -> None:
    tabm: structured.Tabm = {"commitments": {ID: {"committed": {"1": b"a", "2": b"b"}}}}
    assert structured.decode(tabm).commitments[ID]["committed"] == (b"a", b"b")  # type: ignore[union-attr]
    text = b'{"commitments": {"i": {"committed": {"1": "a"}}}}'
    assert json.decode(text).commitments["i"]["committed"] == (b"a",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "tabm",
    [
        {"a": b"1", "a+link": ID.encode()},
        {"a+link": {"b": b"1"}},
        {"commitments+link": ID.encode()},
        {"commitments": b"x"},
        {"commitments": {ID: b"x"}},
        {"commitments": {ID: {"committed": {"1": b"a", "3": b"b"}}}},
        {"commitments": {ID: {"ao-types": b'.="list"'}}},
        {"ao-types": {"a": b"integer"}},
        {"a": b"1_0", "ao-types": b'a="integer"'},
        {"a": b"1e5", "ao-types": b'a="float"'},
        {"a": b"1.5e999", "ao-types": b'a="float"'},
        {"a": b"\xd9\xa3", "ao-types": b'a="integer"'},
        {"1": b"a", "01": b"b", "ao-types": b'.="list"'},
    ],
)
def test_what_could_be_read_two_ways_is_refused(tabm: structured.Tabm) -> None:
    with pytest.raises(CodecError):
        structured.decode(tabm)


def test_the_error_says_where() -> None:
    with pytest.raises(CodecError, match="'outer': 'inner'"):
        structured.decode({"outer": {"inner": b"x", "ao-types": b'inner="integer"'}})


def test_private_keys_neither_leave_nor_enter() -> None:
    message = Message({"a": 1, "priv": {"hashpath": "x"}, "private-thing": "y"})
    assert structured.encode(message) == {"a": b"1", "ao-types": b'a="integer"'}
    got = structured.decode({"a": b"1", "priv": {"hashpath": b"forged"}, "priv+link": ID.encode()})
    assert got == Message({"a": b"1"})
    assert not got.private  # type: ignore[union-attr]
    assert not json.decode(b'{"priv": {"hashpath": "forged"}, "private": 1}').private  # type: ignore[union-attr]


def test_a_bundle_takes_in_what_links_name_and_keeps_what_cannot_be_had() -> None:
    message = Message({"a": Link(ID, lambda _: Message({"b": 1})), "c": Link("y" * 43)})
    assert structured.encode(message) == {"a": {"b": b"1", "ao-types": b'b="integer"'}, "c+link": b"y" * 43}
    assert structured.encode(message, link=lambda _: "z" * 43) == {"a+link": b"x" * 43, "c+link": b"y" * 43}
    assert json.decode(json.encode(message)) == Message({"a": {"b": 1}, "c": Link("y" * 43)})


def test_links_carry_the_loader() -> None:
    loaded = structured.decode({"a+link": ID.encode()}, loader=lambda name: name.encode())
    assert loaded["a"] == ID.encode()  # type: ignore[call-overload]
    with pytest.raises(MessageNotFound):
        structured.decode({"a+link": ID.encode()})["a"]  # type: ignore[call-overload]


def test_control_objects_are_left_out_of_maps_and_refused_in_lists() -> None:
    named = As("test@1.0", Message())
    assert structured.encode(Message({"a": named, "b": b"1"})) == {"b": b"1"}
    for encode in (structured.encode, json.encode):
        with pytest.raises(CodecError):
            encode(Message({"l": (named,)}))  # type: ignore[operator]


def test_types_win_over_a_users_ao_types() -> None:
    message = Message({"a": "5", "b": 1, "ao-types": 'a="integer"'})
    assert structured.encode(message)["ao-types"] == b'b="integer"'


def test_atoms_that_are_no_tokens_are_quoted() -> None:
    message = Message({"a": Atom("two words")})
    assert structured.encode(message)["a"] == b'"two words"'
    assert structured.decode(structured.encode(message)) == message
    with pytest.raises(CodecError):
        structured.encode(Message({"a": Atom("é")}))


def _deep(levels: int) -> Message:
    message = Message({"a": b"1"})
    for _ in range(levels):
        message = Message.make({"a": message})
    return message


def test_nesting_is_limited_everywhere() -> None:
    deepest = _deep(structured.MAX_DEPTH)
    assert structured.decode(structured.encode(deepest)) == deepest
    assert json.decode(json.encode(deepest)) == deepest
    tabm: structured.Tabm = {"a": b"1"}
    for _ in range(100_000):
        tabm = {"a": tabm}
    too_deep = _deep(structured.MAX_DEPTH + 1)
    for work in (
        lambda: structured.encode(too_deep),
        lambda: json.encode(too_deep),
        lambda: structured.decode(tabm),
        lambda: json.decode(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        lambda: json.decode(b"[" * 100_000 + b"]" * 100_000),
        lambda: json.decode(b"[" * 100 + b"]" * 100),
    ):
        with pytest.raises(SizeError):
            work()
    while isinstance(tabm, dict):  # taken apart here, for a hundred thousand nested frees overflow the stack
        tabm = tabm.pop("a")  # type: ignore[assignment]


def test_keys_and_integers_are_limited() -> None:
    with pytest.raises(SizeError):
        structured.decode({str(n): b"" for n in range(structured.MAX_KEYS + 1)})
    with pytest.raises(SizeError):
        json.decode(b"{" + b",".join(b'"%d":1' % n for n in range(structured.MAX_KEYS + 1)) + b"}")
    for item in (Message({"a": 10**5000}), Message({"a": -(10**5000)})):
        for encode in (structured.encode, json.encode):
            with pytest.raises(SizeError):
                encode(item)  # type: ignore[operator]
    with pytest.raises(SizeError):
        structured.decode({"a": b"9" * 5000, "ao-types": b'a="integer"'})
    with pytest.raises(SizeError):
        json.decode(b'{"a":' + b"9" * 5000 + b"}")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\udc80"}',
        b'{"\\ud800":1}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1,"a+link":"x"}',
        b'{"ao-types":5}',
        b'{"a":"\x01"}',
        b'{"a":1} x',
    ],
)
def test_json_that_could_be_read_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(CodecError):
        json.decode(text)


def test_values_without_text_are_refused() -> None:
    for encode in (structured.encode, json.encode):
        for bad in (float("nan"), float("inf")):
            with pytest.raises(CodecError):
                encode(Message({"a": bad}))  # type: ignore[operator]
    with pytest.raises(CodecError):
        json.encode(Message({"a": b"\xff"}))
    with pytest.raises(CodecError):
        json.encode(Message({"\udcff": b"1"}))


def test_remembered_shapes_stay_bounded() -> None:
    for n in range(3000):
        tabm = structured.encode(Message({f"key-{n}": n}))
        assert structured.decode(tabm)[f"key-{n}"] == n  # type: ignore[call-overload]
    assert len(structured._encode_plans) <= 2048
    assert len(structured._decode_plans) <= 2048
    huge = {"k" * 5000: 1}
    before = len(structured._encode_plans)
    structured.encode(Message(huge))
    assert len(structured._encode_plans) == before
