"""Paths: formatting is the inverse of parsing, and any text at all parses or is refused."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hyperpy import path
from hyperpy.errors import HyperpyError, PathError
from hyperpy.message import Atom, Link, Message, Value, atom

NAMES = st.text("abcdXYZ-_0189é#:;!'*,[]{}|^<>$", min_size=1, max_size=8)
IDS = st.text("abcXYZ019-_", min_size=43, max_size=43)
DEVICES = st.one_of(NAMES, IDS, st.just("message@1.0"))
PLAIN = st.text("abc XYZ.~+=019é%^", max_size=8).map(lambda text: text.replace("%", "%25"))
QUOTED = st.text('ab /?&()=~+ "%\\', max_size=8).map(
    lambda text: '"' + text.replace("\\", "").replace('"', '\\"').replace("%", "%25") + '"'
)
TYPED = st.one_of(
    st.integers(-(10**20), 10**20).map(lambda n: f"+integer={n}"),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: f"+float={x:.20e}"),
    st.sampled_from(
        ["+atom=true", "+atom=false", "+atom=ok", "+list=1,2", "+list=1.5, a", '+list="\\"a b\\""', "+list="]
    ),
)


def escaped(text: str) -> str:
    """Escape a sub-path for the decoding that is its own."""
    return text.replace("%", "%25")


def sub_paths(paths: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return paths.map(lambda text: f"({escaped(text)})")


def pairs(paths: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    values = st.one_of(PLAIN.filter(lambda t: "&" not in t), QUOTED, sub_paths(paths))
    return st.one_of(
        st.builds("{}={}".format, NAMES, values),
        st.builds("{}{}".format, NAMES, TYPED),
        NAMES,
        st.builds("{}+integer".format, NAMES),
        st.builds("{}.{}=1".format, NAMES, NAMES),
    )


def parts(paths: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inline = st.lists(pairs(paths), max_size=3).map(lambda found: "".join("&" + pair for pair in found))
    return st.one_of(
        st.builds("{}{}".format, NAMES, inline),
        st.builds("{}={}{}".format, NAMES, PLAIN, inline),
        st.builds("{}~{}{}".format, st.one_of(st.just(""), NAMES, IDS), DEVICES, inline),
        st.builds("{}~{}{}".format, NAMES, sub_paths(paths), inline),
        sub_paths(paths),
        IDS,
    )


def queries() -> st.SearchStrategy[str]:
    key = st.one_of(NAMES, st.builds("{}.{}".format, st.integers(0, 4), NAMES), st.just("method"), st.just("1.2.3"))
    value = st.one_of(st.text(max_size=6), st.binary(max_size=4), st.just('"')).map(
        lambda raw: "=" + quote(quote(raw, safe=""), safe="")
    )
    pair = st.builds(
        "{}{}".format, key, st.one_of(value, st.just(""), st.just("+integer=5"), st.just("+resolve=/a&b=1/c"))
    )
    return st.lists(pair, max_size=3).map("&".join)


def whole(paths: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    text = st.lists(parts(paths), max_size=4).map("/".join)
    return st.one_of(text, st.builds("{}?{}".format, text, queries()))


PATHS = st.recursive(st.just("a"), whole, max_leaves=6)


@given(PATHS)
def test_format_is_the_inverse_of_parse(text: str) -> None:
    try:
        members = path.parse(text)
    except HyperpyError:
        assume(False)  # a part grew over 512 bytes, or a name is one that a path may not set
        return
    assert path.parse(path.format(members)) == members


@given(PATHS, st.dictionaries(st.one_of(NAMES, st.sampled_from(["1.x", "2.y", "1.2.3"])), st.text(max_size=5)))
def test_the_inverse_with_keys_of_a_request(text: str, keys: dict[str, str]) -> None:
    request = Message({**keys, "path": text})
    try:
        members = path.parse(request)
    except HyperpyError:
        assume(False)
        return
    text = path.format(members)
    try:
        again = path.parse(text)
    except PathError as error:  # keys of the request stand in the path now, and a part has at most 512 bytes
        if "bytes long, more than 512" not in error.message:
            raise
        return
    assert again == members


@given(st.one_of(st.text(), st.text('/?&~+ =()"\\%.a1é4', max_size=80), st.binary(), PATHS))
def test_any_text_parses_or_is_refused(text: str | bytes) -> None:
    for singleton in (text, Message({"path": "/a", "x+resolve": text}) if isinstance(text, bytes) else text):
        with contextlib.suppress(HyperpyError):
            for member in path.parse(singleton):
                assert isinstance(member, (bytes, Message)) or member is not None


@given(
    st.dictionaries(
        st.text("abpriv+ .1rxesolvintg-", max_size=12).filter(lambda key: not key.startswith("priv")),
        st.one_of(st.binary(max_size=8), st.text('/?&~+ =()"%.a1', max_size=20), st.integers(), st.booleans()),
        max_size=4,
    )
)
def test_any_request_parses_or_is_refused(keys: dict[str, object]) -> None:
    with contextlib.suppress(HyperpyError):
        for member in path.parse(Message({"path": "/a/~b", **keys})):
            if isinstance(member, Message):
                assert not any(key.startswith("priv") or key == "commitments" for key in member)


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.binary(max_size=8),
    st.text('ab "/?&()\\%+=', max_size=8).map(str.encode),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["ok", "unheard_of"]).map(atom),
    st.builds(Link, IDS),
    st.tuples(st.integers(), st.binary(max_size=3)),
    st.dictionaries(NAMES, st.integers(), max_size=2).map(Message),
)
KEYS = st.one_of(NAMES, st.text("ab.+ =&/é1", max_size=5))


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=2, max_size=4))
def test_what_format_writes_reads_back(found: list[dict[str, Value]]) -> None:
    members: list[Value] = [Message(found[0])]
    members += [Message({**items, "path": f"p{n}"}) for n, items in enumerate(found[1:])]
    with contextlib.suppress(HyperpyError):
        assert path.parse(path.format(members)) == members


def test_typed_atoms_stay_atoms() -> None:
    assert path.parse("/a&k+atom=ok")[1] == Message({"path": "a", "k": Atom("ok")})


@pytest.mark.parametrize("text", ["/a&k+list=", '/a&k+list="\\"x\\""', "/(a?k+float=1.5&0.m+atom=ok)/b"])
def test_typed_values_in_text(text: str) -> None:
    members = path.parse(text)
    assert path.parse(path.format(members)) == members
