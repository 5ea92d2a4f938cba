"""structured, JSON, flat and structured fields: what is written comes back; bytes only raise ours."""

from __future__ import annotations

import contextlib
import json as stdlib_json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperpy.codecs import flat, json, sfv, structured
from hyperpy.errors import HyperpyError
from hyperpy.message import UNDEFINED, Link, Message, atom

RESERVED = structured.REGENERATED | {"ao-types"}


def _usable(key: str) -> bool:
    return not key.startswith("priv") and key not in RESERVED and not key.endswith("+link")


ANY_KEY = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
TEXT_KEY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ATOMS = st.from_regex(r"[ -~]{1,10}", fullmatch=True).map(atom)
LINKS = st.text("abcXYZ019-_", min_size=43, max_size=43).map(Link)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def _messages(keys: st.SearchStrategy[str], binaries: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    scalars = st.one_of(binaries, st.integers(), st.integers(10**14, 10**40), FLOATS, st.booleans(), ATOMS)
    named = keys.filter(_usable)
    nested = st.recursive(
        st.one_of(scalars, LINKS),
        lambda inner: st.one_of(
            st.lists(inner.filter(lambda item: item != UNDEFINED), max_size=12).map(tuple),
            st.dictionaries(named, inner, max_size=5).map(Message),
        ),
        max_leaves=20,
    )
    return st.dictionaries(named, nested, max_size=40).map(Message)


BINARIES = st.binary(max_size=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(_messages(ANY_KEY, BINARIES))
def test_structured_comes_back(message: Message) -> None:
    assert structured.decode(structured.encode(message)) == message


@given(_messages(ANY_KEY, BINARIES), st.data())
def test_structured_does_not_see_the_order_of_keys(message: Message, data: Any) -> None:
    shuffled = data.draw(st.permutations(list(message.raw_items().items())))
    ours = structured.encode(Message.make(dict(shuffled)))
    assert ours == structured.encode(message)
    assert list(ours) == list(structured.encode(message))


@given(_messages(TEXT_KEY, TEXTS))
def test_json_comes_back_and_is_json(message: Message) -> None:
    text = json.encode(message)
    assert json.decode(text) == message
    stdlib_json.loads(text)


@given(_messages(ANY_KEY, BINARIES))
def test_linked_forms_say_the_same(message: Message) -> None:
    def name(child: Any) -> str:
        return "x" * 43

    tabm = structured.encode(message, link=name)
    assert not any(isinstance(found, dict) for found in tabm.values())
    with contextlib.suppress(HyperpyError):
        assert json.decode(json.encode(message, link=name)) == structured.decode(tabm)


PARTS = st.text("ab/1", min_size=1, max_size=3).filter(lambda part: "/" not in part)
TABMS: st.SearchStrategy[Any] = st.recursive(
    BINARIES, lambda inner: st.dictionaries(PARTS, inner, min_size=1, max_size=4), max_leaves=20
).filter(lambda item: isinstance(item, dict))


@given(TABMS)
def test_flat_comes_back(tabm: structured.Tabm) -> None:
    assert flat.decode(flat.encode(tabm)) == tabm


@given(st.dictionaries(st.text("ab-1", min_size=1, max_size=3), st.text("ab c:", max_size=5).map(str.encode)))
def test_flat_text_comes_back(tabm: structured.Tabm) -> None:
    readable = {key: found for key, found in tabm.items() if b": " not in found}
    assert flat.deserialize(flat.serialize(readable)) == readable  # type: ignore[arg-type]


@given(ANY_KEY)
def test_key_escape_comes_back(key: str) -> None:
    assert sfv.unescape_key(sfv.escape_key(key)) == key


# -- structured fields against http-sf ---------------------------------------------------------

BARE = st.one_of(
    st.integers(-(10**15) + 1, 10**15 - 1),
    st.integers(-(10**12), 10**12).map(lambda n: Decimal(n).scaleb(-3)),
    st.from_regex(r"[ -~]*", fullmatch=True),
    st.from_regex(r"[A-Za-z*][A-Za-z0-9:/._*-]*", fullmatch=True).map(sfv.Token),
    st.binary(max_size=20),
    st.booleans(),
)
PARAMS = st.dictionaries(st.from_regex(r"[a-z*][a-z0-9_.*-]{0,6}", fullmatch=True), BARE, max_size=3)
ITEMS = st.builds(sfv.Item, BARE, PARAMS)
MEMBERS = st.one_of(ITEMS, st.builds(sfv.InnerList, st.lists(ITEMS, max_size=3).map(tuple), PARAMS))
DICTIONARIES = st.dictionaries(st.from_regex(r"[A-Za-z0-9*._%/?&-]{1,8}", fullmatch=True), MEMBERS, max_size=5)


@given(ITEMS, st.lists(MEMBERS, max_size=5).map(tuple), DICTIONARIES)
def test_structured_fields_come_back(item: sfv.Item, members: tuple[sfv.Member, ...], found: Any) -> None:
    assert sfv.parse_item(sfv.serialize_item(item)) == item
    assert sfv.parse_list(sfv.serialize_list(members)) == members
    assert sfv.parse_dictionary(sfv.serialize_dictionary(found)) == found


@given(st.text('ab1,;=() "\\?:-.\t', max_size=24))
@example('a="x,y", b=(1 2);c, d')
def test_what_http_sf_accepts_reads_alike(text: str) -> None:
    raw = text.encode()
    try:
        theirs: Any = http_sf.parse(raw, tltype="dictionary")
    except ValueError:
        return
    if raw != raw.strip() or not raw:
        return
    ours = sfv.parse_dictionary(raw)
    assert list(ours) == list(theirs)
    assert sfv.serialize_dictionary(ours).decode() == http_sf.ser(theirs)


# -- hostile bytes -----------------------------------------------------------------------------

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "json": json.decode_any,
    "flat": flat.deserialize,
    "types": structured.parse_types,
    "item": sfv.parse_item,
    "list": sfv.parse_list,
    "dictionary": sfv.parse_dictionary,
    "unescape": lambda raw: sfv.unescape_key(raw.decode("utf-8", "surrogateescape")),
    **{name: (lambda raw, read=read: read(raw)) for name, read in sfv.DECODERS.items()},
}
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.text('{}[]",:;=()?*%.-+eE019aA\\ \t\n', max_size=60).map(str.encode),
    st.text('{}[]"atru:1e+,', max_size=40).map(str.encode),
)


@pytest.mark.parametrize("name", PARSERS)
@given(HOSTILE)
def test_bytes_only_raise_our_errors(name: str, raw: bytes) -> None:
    with contextlib.suppress(HyperpyError):
        PARSERS[name](raw)


HOSTILE_TABMS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(HOSTILE, st.sampled_from([b'.="list"', b'a="integer", b=float', b'1="atom", a="list"', b"1", b"true"])),
    lambda inner: st.dictionaries(
        st.sampled_from(["a", "b", "1", "2", ".", "ao-types", "a+link", "+link", "commitments", "committed", "priv"]),
        inner,
        max_size=6,
    ),
    max_leaves=20,
).filter(lambda item: isinstance(item, dict))


@given(HOSTILE_TABMS)
def test_tabms_only_raise_our_errors_and_settle(tabm: structured.Tabm) -> None:
    """Whatever decodes encodes again, and is the same message when read once more."""
    try:
        message = structured.decode(tabm)
        again = structured.encode(message)
    except HyperpyError:
        return
    assert structured.decode(again) == message
