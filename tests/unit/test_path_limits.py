"""Paths: limits on size and work, and errors that can be shown."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy import path
from hyperpy.errors import HyperpyError, PathError, SizeError
from hyperpy.message import Message


def test_limits() -> None:
    assert len(path.parse("/a" * 256)) == 257
    for text in ("/a" * 257, "/x&k=(" + "/a" * 150 + ")/y&k=(" + "/a" * 150 + ")"):
        with pytest.raises(SizeError, match="256 parts"):
            path.parse(text)
    with pytest.raises(SizeError, match="256 parts"):
        path.parse(Message({"path": "/a" * 200, "x+resolve": "/b" * 100}))
    with pytest.raises(SizeError, match="bytes long"):
        path.parse("/a?" + "é" * 32767)
    with pytest.raises(SizeError, match="long"):
        path.parse(Message({"path": "/a", "x+resolve": "b" * 65537}))
    assert path.parse("(" * 64 + "a&b" + ")" * 64)
    for text in ("(" * 65 + "a&b" + ")" * 65, "(" * 250 + ")" * 250, "/k=" + "(b&k=" * 70 + ")" * 70):
        with pytest.raises(SizeError, match="64"):
            path.parse(text)
    with pytest.raises(SizeError, match="more than 100000 keys"):
        path.parse("/a" * 200 + "?" + "&".join(f"k{n}" for n in range(1000)))
    small = path.Limits(size=10, parts=2, depth=1)
    assert path.parse("/a/b", limits=small)
    for text in ("/a/b/c", "/((a))", "/aaaaaaaaaaaa"):
        with pytest.raises(SizeError):
            path.parse(text, limits=small)


def work(call: Callable[[], Any]) -> int:
    """Count the calls, of Python and of built-in functions, that ``call`` makes."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        with contextlib.suppress(HyperpyError):
            call()
    finally:
        sys.setprofile(before)
    return count


HOSTILE = {
    "open": lambda n: "(" * n,
    "close": lambda n: ")" * n,
    "pairs": lambda n: "()" * (n // 2),
    "nests": lambda n: ("/" + "(" * 200 + ")" * 200) * (n // 401),
    "mixed nests": lambda n: ("/" + "(a&k=" * 60 + "1" + ")" * 60) * (n // 362),
    "split nests": lambda n: ("/(" + "(a)(b)/" * 60 + ")") * (n // 423),
    "quotes": lambda n: '"' * (n | 1),
    "escaped quotes": lambda n: '"' + '\\"' * (n // 2),
    "backslashes": lambda n: '/a&b="' + "\\" * n,
    "ampersands": lambda n: "/a" + "&" * n,
    "flags": lambda n: "/a?" + "&b" * (n // 2),
    "keys": lambda n: "/a?" + "&".join(f"{i:x}" for i in range(n // 5)),
    "typed": lambda n: "/a?" + "&k+integer=x" * (n // 12),
    "escapes": lambda n: "/a" + "%41" * (n // 3),
    "double escapes": lambda n: "/a?b=" + "%2541" * (n // 5),
    "bad escapes": lambda n: "/a" + "%41" * (n // 3) + "%zz",
    "slashes": lambda n: "/" * n,
    "slashes in front of an error": lambda n: "/" * n + "a b",
    "question marks": lambda n: "?" * n,
    "parts with quotes": lambda n: '/a="b c"' * (n // 8),
    "dots": lambda n: "/a?" + "&1." * (n // 3),
    "spaces": lambda n: " " * n,
    "list": lambda n: "/a?b+list=" + "1," * (n // 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_linear_in_the_size_of_the_text(name: str) -> None:
    make = HOSTILE[name]
    wide = path.Limits(size=1 << 20, parts=1 << 20, keys=1 << 20)
    path.parse("/warm?up=1")
    small, large = (work(lambda n=n: path.parse(make(n), limits=wide)) for n in (8000, 16000))  # type: ignore[misc]
    assert large <= 2.3 * small + 50
    start = time.process_time()
    with contextlib.suppress(HyperpyError):
        path.parse(make(65536))
    assert time.process_time() - start < 1


def test_a_header_is_no_way_around_the_limits() -> None:
    for text in ("(" * 60000, '"' * 60001, "&a" * 30000, "%2541" * 12000):
        start = time.process_time()
        with contextlib.suppress(HyperpyError):
            path.parse(Message({"path": "/a", "x+resolve": text}))
        assert time.process_time() - start < 1


def test_errors_are_printable() -> None:
    for text in ("/a\x00\n b", "/a?\x1b[0m+x=1", "/a&k+\r\n=1", "/a?é\n.b=1", "/a&k+atom=\x07"):
        with pytest.raises(PathError) as caught:
            path.parse(text)
        assert caught.value.diagnostics().isprintable()
        assert caught.value.diagnostics().isascii()
