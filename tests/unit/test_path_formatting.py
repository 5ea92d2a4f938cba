"""Paths from messages (ao-core 6.6), the inverse of parsing."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import path
from hyperpy.errors import PathError
from hyperpy.message import As, Atom, Link, Message
from tests.unit.path_parts import BASE, ID, m, seq


@pytest.mark.parametrize(
    ("members", "request_items"),
    [
        ([], {}),
        ([BASE, m(path="a"), m(path="b")], {"path": "/a/b"}),
        ([m(x=1), m(path="a", x=1)], {"path": "/a", "x+integer": "1"}),
        ([BASE, m(path="a", x="v")], {"path": "/a", "1.x": "v"}),
        ([BASE, m(path="a", x=4)], {"path": "/a", "1.x+integer": "4"}),
        ([m(x="0"), m(path="a", x="1")], {"path": "/a", "0.x": "0", "1.x": "1"}),
        ([BASE, m(path="a", x=seq(BASE, m(path="y", k="%")))], {"path": "/a", "1.x+resolve": "/y&k=%25"}),
        ([BASE, m(path="a", method="GET")], {"path": "/a&method=GET"}),
        ([m(method="GET"), m(path="a", method="GET")], {"path": "/a", "method": "GET"}),
        ([BASE, Message({"path": "a", "x.y": "a b"})], {"path": '/a&x.y="a b"'}),
        ([seq(BASE, m(path="a", k="v")), m(path="b")], {"path": "/(a&k=v)/b"}),
        ([seq(m(k="v"), m(path="a", k="v")), m(path="b")], {"path": "/(a?k=v)/b"}),
        ([As("d@1.0", m()), m(path="b")], {"path": "/~d@1.0/b"}),
        ([As(seq(BASE, m(path="x")), m(path="a"))], {"path": "/a~(x)"}),
        ([As("d", m(path=ID, k=7, f=True, z=False))], {"path": f"/{ID}~d&f&k+integer=7&z+atom=false"}),
        ([ID.encode()], {"path": "/" + ID}),
        ([Link(ID), m(path="a")], {"path": f"/{ID}/a"}),
        ([BASE, m(path="a%2Fb")], {"path": "/a%252Fb"}),
        ([BASE, m(path="a", x={"b": 1.5})], {"path": "/a", "1.x": {"b": 1.5}}),
        ([m(path="a"), m(path="b", x="1")], {"path": "/a/b", "2.x": "1"}),
        ([As("d", ID.encode())], {"path": f"/{ID}~d"}),
    ],
)
def test_format(members: list[Any], request_items: dict[str, Any]) -> None:
    assert path.format(members) == Message(request_items)


def test_format_keeps_commitments_that_all_share() -> None:
    signed = {"X": {"type": "t"}}
    made = path.format([Message({"k": 1}, commitments=signed), Message({"path": "a", "k": 1}, commitments=signed)])
    assert set(made.commitments) == {"X"}
    with pytest.raises(PathError):
        path.format([BASE, Message({"path": "a"}, commitments=signed)])


@pytest.mark.parametrize(
    "members",
    [
        [m(a=1)],
        [m(a=1), ID.encode()],
        [BASE, m(path="a"), m(b=1)],
        [BASE, m(path=5)],
        [BASE, m(path="a b")],
        [BASE, m(path="a/b")],
        [BASE, m(path=b"\xff")],
        [BASE, m(path="a" * 600)],
        [BASE, Message({"path": "a", "x+integer": "1"})],
        [Message({"x.y": "1"}), m(path="a")],
        [As("d", m(path=ID, k={"a": 1}))],
        [As("d", m(path=ID, k=Atom("unheard_of")))],
        [As("d", m(path=ID, k='one " quote'))],
        [As("d/e", m(path="a"))],
        [As("d", seq())],
        [BASE, (1, 2)],
        [BASE, 5],
        [b"too short"],
    ],
)
def test_format_refuses_what_has_no_form(members: list[Any]) -> None:
    with pytest.raises(PathError):
        path.format(members)
