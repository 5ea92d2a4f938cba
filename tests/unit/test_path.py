"""Paths: every row of the tables of ao-core 6.1 to 6.5, and our own rules."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hyperpy import path
from hyperpy.errors import CodecError, PathError, SizeError
from hyperpy.message import As, Atom, Link, Message
from tests.unit.path_parts import BASE, ID, m, seq

# -- 6.1 stages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", []),
        ("/", []),
        ("/?a=1", []),
        ("a", [BASE, m(path="a")]),
        ("//a///b/", [BASE, m(path="a"), m(path="b")]),
        ("/a%2Fb", [BASE, m(path="a"), m(path="b")]),
        ("/a%", [BASE, m(path="a%")]),
        ("/a%2", [BASE, m(path="a%2")]),
        ("/caf%C3%A9", [BASE, m(path="café")]),
        ("/a&x=a+b", [BASE, m(path="a", x="a+b")]),
        ("/a%3Fx=1", [m(x="1"), m(path="a", x="1")]),
        ("/a?x=1&x=2", [m(x="2"), m(path="a", x="2")]),
        ("/a?x", [m(x=True), m(path="a", x=True)]),
        ("/a?x=", [m(x=""), m(path="a", x="")]),
        ("/a?&&x=1&", [m(x="1"), m(path="a", x="1")]),
        ("/a?x=a+b%2520c", [m(x="a b c"), m(path="a", x="a b c")]),
        ("/a?x=%25ff", [m(x=b"\xff"), m(path="a", x=b"\xff")]),
        ("/a?b%253Dc=d", [Message({"b=c": "d"}), Message({"b=c": "d", "path": "a"})]),
        ("/a??x=1", [Message({"?x": "1"}), Message({"path": "a", "?x": "1"})]),
        ("/a?path=b", [BASE, m(path="a")]),
        ('/a&x="?/&"?y=1', [m(y="1"), m(path="a", x="?/&", y="1")]),
        ("/a&x=(b?y=1)", [BASE, m(path="a", x=seq(m(y="1"), m(path="b", y="1")))]),
        ("/" + "a" * 512, [BASE, m(path="a" * 512)]),
        ("/a&ao-types=x=integer&x=5/b&x=5", [BASE, m(path="a", x=5), m(path="b", x="5")]),
    ],
)
def test_stages(text: str, members: list[Any]) -> None:
    assert path.parse(text) == members
    assert path.parse(text.encode()) == members
    assert path.parse(Message({"path": text})) == members


@pytest.mark.parametrize(
    ("text", "offset", "says"),
    [
        ("/a%zz", 2, "hex"),
        ("/a%2z/b", 2, "hex"),
        ("/ab%ff", 3, "UTF-8"),
        ("/a?=1", 0, "no name"),
        ("/a?x=%25zz", 0, "hex"),
        ("/ok/" + "a" * 513, 4, "512"),
        ("/ok/" + "é" * 257, 4, "514 bytes"),
    ],
)
def test_stages_that_fail(text: str, offset: int, says: str) -> None:
    with pytest.raises(PathError, match=says) as caught:
        path.parse(text)
    assert caught.value.offset == offset
    assert caught.value.hint


def test_a_path_is_text() -> None:
    assert path.parse(Message({"a": 1})) == []
    assert path.parse(Message({"path": Atom("keys")})) == [BASE, m(path="keys")]
    for bad in (5, True, [b"a"], {"a": 1}):
        with pytest.raises(PathError, match="must be text"):
            path.parse(Message({"path": bad}))
    for raw in (b"/\xff", "/\udcff", "/\ud800"):
        with pytest.raises(PathError, match="UTF-8"):
            path.parse(raw)


# -- 6.2 one part ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "member"),
    [
        (ID, ID.encode()),
        ("b" * 32, b"b" * 32),
        ("b" * 42, b"b" * 42),
        ("é" * 16, ("é" * 16).encode()),
        ("(a)", seq(BASE, m(path="a"))),
        ("(/a/b)", seq(BASE, m(path="a"), m(path="b"))),
        ("((a)/b)", seq(seq(BASE, m(path="a")), m(path="b"))),
        ("()", seq()),
        (f"({ID})", seq(ID.encode())),
        ("~d@1.0", As("d@1.0", m())),
        ("~d@1.0&k=v", As("d@1.0", m(k="v"))),
        ("a~d@1.0&k=v&f", As("d@1.0", m(path="a", k="v", f=True))),
        ("a~", As("", m(path="a"))),
        ("~a~b", As("a~b", m())),
        (f"{ID}~d@1.0&k=v", As("d@1.0", m(path=ID, k="v"))),
        ("a~(b/c)", As(seq(BASE, m(path="b"), m(path="c")), m(path="a"))),
        ("a~(b&x=1)&k=v", As(seq(BASE, m(path="b", x="1")), m(path="a", k="v"))),
        ("(a)~d", As("d", m(path="(a)"))),
    ],
)
def test_parts_that_stand_alone(part: str, member: Any) -> None:
    assert path.parse("/" + part) == [member]
    assert path.parse(f"/{part}/z") == [member, m(path="z")]


@pytest.mark.parametrize(
    ("part", "items"),
    [
        ("a", {"path": "a"}),
        ("a&k=v&f", {"path": "a", "k": "v", "f": True}),
        ("a&&k=v&", {"path": "a", "k": "v"}),
        ("a&=v", {"path": "a", "": "v"}),
        ("&k=v", {"path": "", "k": "v"}),
        ("a&k=1&k=2", {"path": "a", "k": "2"}),
        ("a=v", {"path": "a", "a": "v"}),
        ("a=v&b=w", {"path": "a", "a": "v", "b": "w"}),
        ("results=7", {"path": "results", "results": "7"}),
        ("as=execution", {"path": "as", "as": "execution"}),
        ("a+integer=4", {"path": "a", "a": 4}),
        ("a integer=4", {"path": "a", "a": 4}),
        ("a integer=4&b=c d", {"path": "a", "a": 4, "b": "c d"}),
        ("a+integer", {"path": "a", "a+integer": True}),
        ("a&b~c", {"path": "a", "b~c": True}),
        ("a&b=c~d", {"path": "a", "b": "c~d"}),
        ("(a)&k=v", {"path": "(a)", "k": "v"}),
        ("(a", {"path": "(a"}),
        ("(a&b", {"path": "(a&b"}),
        ("a)", {"path": "a)"}),
        ("a)&b", {"path": "a)", "b": True}),
        ("a#b;c:d!", {"path": "a#b;c:d!"}),
        ("a&path=b", {"path": "b"}),
    ],
)
def test_parts_that_are_keys(part: str, items: dict[str, Any]) -> None:
    assert path.parse("/z/" + part) == [BASE, m(path="z"), Message(items)]
    assert path.parse("/" + part) == [BASE, Message(items)]


def test_an_id_is_bare() -> None:
    for part in ("~message@1.0&alpha=(~message@1.0&x=world/x)", '~message@1.0&alpha="hello world"', "a&k=" + "v" * 39):
        assert len(part) in (32, 43)
        assert path.parse("/" + part)[0] != part.encode()
    assert path.parse("/" + "a" * 38 + "&b=1")[1] == Message({"path": "a" * 38, "b": "1"})


def test_an_unclosed_quote_or_parenthesis_runs_to_the_end() -> None:
    assert path.parse('/a&x="b/c?d=e') == [BASE, m(path="a", x="b/c?d=e")]
    assert path.parse("/(a/b?c=d") == [BASE, m(path="(a/b?c=d")]
    assert path.parse('/a&x="b\\') == [BASE, m(path="a", x="b\\")]


@pytest.mark.parametrize("text", ["/a b", "/a%20b", "/z/a b&c=1", "/a b c=", "/a +b"])
def test_junk_after_a_space_is_refused(text: str) -> None:
    with pytest.raises(PathError) as caught:
        path.parse(text)
    assert caught.value.hint
    assert "space" in caught.value.message or "type" in caught.value.message


# -- 6.3 values --------------------------------------------------------------------------------

INLINE = [
    ("k=v", "v"),
    ('k="v"', "v"),
    ('k="a b/c&d?e=(f"', "a b/c&d?e=(f"),
    ('k="a\\"b"', 'a\\"b'),
    ('k="open', "open"),
    ('k="', ""),
    ('k=a"b/c"d', 'a"b/c"d'),
    ('k="(x)"', seq(BASE, m(path="x"))),
    ("k=[1,2]", "[1,2]"),
    ("k=(x/y)", seq(BASE, m(path="x"), m(path="y"))),
    ("k=()", seq()),
    ("k+resolve=x", seq(BASE, m(path="x"))),
    ("k+resolve=", seq()),
    ('k+resolve="x/y"', seq(BASE, m(path="x"), m(path="y"))),
    ("k+integer=42", 42),
    ("k+INTEGER=-42", -42),
    ('k+integer="42"', 42),
    ("k integer=42", 42),
    ("k+integer=1234567890123456789012", 1234567890123456789012),
    ("k+float=1.5", 1.5),
    ("k+atom=true", True),
    ("k+atom=not_found", Atom("not_found")),
    ('k+atom="ok"', Atom("ok")),
    ("k+list=1,2", (1, 2)),
    ("k+list=a,b", (Atom("a"), Atom("b"))),
    ('k+list="\\"a\\", \\"b\\""', (b"a", b"b")),
    ("k+list=", ()),
    ('k+map="a=1,b=?0"', m(a=1, b=False)),
    ("k", True),
]


@pytest.mark.parametrize(("pair", "value"), INLINE)
def test_inline_values(pair: str, value: Any) -> None:
    assert path.parse(f"/a&{pair}") == [BASE, m(path="a", k=value)]


QUERY = [
    ("k=v", "v"),
    ('k="v"', "v"),
    ('k="v', "v"),
    ('k=""v""', '"v"'),
    ("k=(x/y)", "(x/y)"),
    ("k+integer=42", 42),
    ("k%2Binteger=42", 42),
    ("k+float=1.5", 1.5),
    ("k+atom=true", True),
    ("k+list=1,2", (1, 2)),
    ("k+resolve=/x/y", seq(BASE, m(path="x"), m(path="y"))),
    ("k+resolve=(x)", seq(seq(BASE, m(path="x")))),
    ("k", True),
]


@pytest.mark.parametrize(("pair", "value"), QUERY)
def test_query_values(pair: str, value: Any) -> None:
    assert path.parse(f"/a?{pair}") == [m(k=value), m(path="a", k=value)]


@pytest.mark.parametrize(
    ("key", "text", "name", "value"),
    [
        ("k", '"v"', "k", b'"v"'),
        ("k", "(x)", "k", b"(x)"),
        ("k+integer", "42", "k", 42),
        ("k integer", "42", "k", 42),
        ("k+resolve", "/x&y=1", "k", seq(BASE, m(path="x", y="1"))),
        ("k+integer", 5, "k+integer", 5),
        ("k+integer", True, "k+integer", True),
        ("k", Link(ID), "k", Link(ID)),
        ("k", 1.5, "k", 1.5),
    ],
)
def test_message_values(key: str, text: Any, name: str, value: Any) -> None:
    assert path.parse(Message({"path": "/a", key: text})) == [
        Message({name: value}),
        Message({"path": "a", name: value}),
    ]


@pytest.mark.parametrize(
    ("pair", "says", "hint"),
    [
        ("k+int=4", "'+int' is no type", "Did you mean +integer?"),
        ("k+bool=true", "no type", "Did you mean +atom?"),
        ("k+flaot=1.0", "no type", "Did you mean +float?"),
        ("k+string=a", "no type", "Text needs no type"),
        ("k+binary=a", "no type", "Text needs no type"),
        ("k+zzz=a", "no type", "The types are"),
        ("k+float=42", "does not read as +float", "k+float=1.0"),
        ("k+float=x", "does not read as +float", "dot"),
        ("k+atom=zzz", "no atom", "plain text"),
        ('k+list="message@1.0"', "does not read as +list", "escaped quotes"),
        ("k+map=%25", "does not read as +map", "k+map=a=1"),
    ],
)
def test_values_that_fail(pair: str, says: str, hint: str) -> None:
    for text in (f"/a&{pair}", f"/a?{pair.replace('%25', '%2525')}"):
        with pytest.raises(PathError, match=re.escape(says)) as caught:
            path.parse(text)
        assert hint in str(caught.value.hint)


def test_the_offset_points_at_the_key() -> None:
    with pytest.raises(PathError) as caught:
        path.parse("/first/second&ok=1&k+int=4")
    assert caught.value.offset == len("/first/second&ok=1&")
    with pytest.raises(PathError) as caught:
        path.parse("/first/(in/a b)")
    assert caught.value.offset == len("/first/(in/a")


def test_an_integer_that_is_none_vanishes() -> None:
    assert path.parse("/a&k+integer=hello") == [BASE, m(path="a")]
    assert path.parse("/a?k+integer=hello") == [BASE, m(path="a")]
    with pytest.raises(SizeError):
        path.parse(Message({"path": "/a", "k+integer": "9" * 5000}))


def test_a_sub_path_takes_no_type() -> None:
    for kind in ("resolve", "integer", "int"):
        with pytest.raises(PathError, match="both a type and"):
            path.parse(f"/a&k+{kind}=(x)")


# -- 6.4 scoping -------------------------------------------------------------------------------


def test_keys_go_to_every_map_member() -> None:
    got = path.parse(Message({"path": "/~d@1.0/a/(b)/" + ID + f"/{ID}~e@1.0/c", "k": "v", "1.2.k": "w"}))
    every = {"k": "v", "1.2.k": "w"}
    assert got == [
        As("d@1.0", Message(every)),
        Message({"path": "a", **every}),
        seq(BASE, m(path="b")),
        ID.encode(),
        As("e@1.0", m(path=ID)),
        Message({"path": "c", **every}),
    ]


def test_a_number_and_a_dot_scope_a_key() -> None:
    got = path.parse("/a/b?0.x=0&1.x=1&2.x+integer=2&x=3&9.y=9&-1.y=9")
    assert got == [m(x="0"), m(path="a", x="1"), m(path="b", x=2)]
    assert path.parse("/~d/b?1.x=1&0.y=2") == [As("d", m(y="2")), m(path="b", x="1")]
    assert path.parse("/a&x=in?1.x=s&x=g") == [m(x="g"), m(path="a", x="in")]
    assert path.parse("/a?0.path=x&1.path=y") == [BASE, m(path="a")]
    assert path.parse(f"/{ID}~d?0.x=1") == [As("d", m(path=ID))]


@pytest.mark.parametrize("key", ["x.y", ".y", "x.", "1e1.y", "٣.y"])
def test_one_dot_needs_a_number(key: str) -> None:
    for request in (f"/a?{key}=1", Message({"path": "/a", key: "1"})):
        with pytest.raises(PathError, match="one dot") as caught:
            path.parse(request)
        assert "1.key" in str(caught.value.hint)


def test_the_query_wins_over_the_message_and_inline_over_both() -> None:
    got = path.parse(Message({"path": "/a&x=i/b?x=q&y+integer=2", "x": "h", "y": "h", "z": "h"}))
    assert got == [m(x="q", y=2, z="h"), m(path="a", x="i", y=2, z="h"), m(path="b", x="q", y=2, z="h")]


def test_ao_types_of_the_request_are_applied() -> None:
    assert path.parse(Message({"path": "/a", "x": "42", "ao-types": 'x="integer"'})) == [m(x=42), m(path="a", x=42)]
    for bad in ('x="nonsense"', 'x="float"', "="):
        with pytest.raises(CodecError):
            path.parse(Message({"path": "/a", "x": "42", "ao-types": bad}))
    with pytest.raises(PathError):
        path.parse(Message({"path": "/a", "ao-types": 5}))


def test_commitments_and_private_values_go_along() -> None:
    signed = Message(
        {"path": "/~d/a/(b)", "k": "v"}, commitments={"X": {"type": "t"}}, private={"secret": b"s", "hashpath": "h"}
    )
    first, second, third = path.parse(signed)
    assert isinstance(first, As)
    assert isinstance(first.message, Message)
    for member in (first.message, second):
        assert isinstance(member, Message)
        assert set(member.commitments) == {"X"}
        assert dict(member.private) == {"secret": b"s"}
    assert third == seq(BASE, m(path="b"))


@pytest.mark.parametrize("key", ["priv", "priv-x", "private", "commitments"])
def test_a_path_sets_no_private_value(key: str) -> None:
    for text in (
        "/a&{}=1",
        "/a&{}+map=a=1",
        "/a&{}",
        "/{}=1",
        "/~d&{}=1",
        "/a?{}=1",
        "/a?{}",
        "/a?1.{}=1",
        "/a&x=(b&{}=1)",
    ):
        with pytest.raises(PathError, match="cannot be set"):
            path.parse(text.format(key))
    with pytest.raises(PathError, match="cannot be set"):
        path.parse(f"/a?%25{ord(key[0]):x}{key[1:]}=1")
    assert path.parse(f"/{key}") == [BASE, m(path=key)]
    assert path.parse(f"/a&x={key}") == [BASE, m(path="a", x=key)]


def test_a_typed_message_key_sets_no_commitments() -> None:
    with pytest.raises(PathError, match="cannot be set"):
        path.parse(Message({"path": "/a", "commitments+map": "a=1"}))
    assert path.parse(Message({"path": "/a", "path+integer": "1"})) == [BASE, m(path="a")]
    with pytest.raises(PathError, match="must be text"):
        path.parse("/a&path+integer=1")


# -- 6.5 and clients' examples -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (f"/{ID}/a", [ID.encode(), m(path="a")]),
        (f"/{ID}~dev@1.0&k=v/now", [As("dev@1.0", m(k="v", path=ID)), m(path="now")]),
        ("/a/b&x=1&y?z=2", [m(z="2"), m(path="a", z="2"), m(path="b", x="1", y=True, z="2")]),
        ("/a/b?1.k+integer=4", [BASE, m(path="a", k=4), m(path="b")]),
        ("/(a/b)/c", [seq(BASE, m(path="a"), m(path="b")), m(path="c")]),
        ("/a/(b/c)&k=v", [BASE, m(path="a"), m(path="(b/c)", k="v")]),
        ("/a/b&k=(c/d)", [BASE, m(path="a"), m(path="b", k=seq(BASE, m(path="c"), m(path="d")))]),
        ('/x="a%2Fb"', [BASE, m(path="x", x="a/b")]),
        (
            f"/{ID}~process@1.0/compute/results=7",
            [As("process@1.0", m(path=ID)), m(path="compute"), m(path="results", results="7")],
        ),
        (
            f"/{ID}~process@1.0/as=execution/compute&Action=Inc",
            [
                As("process@1.0", m(path=ID)),
                Message({"path": "as", "as": "execution"}),
                m(path="compute", Action="Inc"),
            ],
        ),
    ],
)
def test_examples(text: str, members: list[Any]) -> None:
    assert path.parse(text) == members
