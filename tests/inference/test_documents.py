"""JSON whose reading decides something: what is refused depends on the text alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy.errors import CodecError
from hyperpy.inference.documents import MAX_DIGITS, MAX_NESTING, document


def deeper(frames: int, made: Callable[[], Any]) -> Any:
    return made() if frames == 0 else deeper(frames - 1, made)


def outcome(data: bytes) -> Any:
    try:
        return json.dumps(document(data))
    except CodecError as error:
        return type(error)


@pytest.mark.parametrize("depth", [MAX_NESTING, MAX_NESTING + 1, 600, 850, 930, 200_000])
@pytest.mark.parametrize("mark", ["[]", "{}"])
def test_nesting_has_one_bound_whatever_the_stack(depth: int, mark: str) -> None:
    opened = "[" if mark == "[]" else '{"a":'
    data = (opened * depth + "1" + mark[1] * depth).encode()
    found = {outcome(data), *(deeper(frames, lambda: outcome(data)) for frames in (30, 100, 600))}
    most = min(depth, MAX_NESTING)
    inner = "1" if depth <= MAX_NESTING else "null"
    assert found == {json.dumps(json.loads(opened * most + inner + mark[1] * most))}
    beside = b'{"a": ' + data + b', "b": [' + data + b', "]"]}'
    assert document(beside)["b"][1] == "]"


@pytest.mark.parametrize(
    "text",
    [
        '"' + "[" * 500 + '"',
        '"' + '\\"[' * 500 + '"',
        '"\\\\"',
        '["\\\\", [1], "[\\\\\\"["]',
        "[" + ",".join(["[[]]"] * 500) + "]",
        '{"a": -1.5e3, "b": [true, null, "\\u00e9"]}',
        "-" + "9" * (MAX_DIGITS - 1),
    ],
)
def test_what_stands_in_strings_nests_nothing(text: str) -> None:
    assert document(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"[",
            b'"',
            b'"\\',
            b"\\[",
            b"]" * 99,
            b"\xff",
            b"\xef\xbb\xbf1",
            b'{"a"}',
            b"nan",
            b"[" * 99 + b"]" * 98,
        ),
        *(b"[" * 200_000, b"[" * 99 + b'"' + b"]" * 99, b"[" * 99 + b"]" * 100),
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(CodecError):
        document(data)


def test_what_no_answer_holds_stands_for_nothing() -> None:
    long = b"-" + b"7" * 4400
    found = document(b"[NaN, -Infinity, 1e999, " + long + b", 3]")
    assert [type(one) for one in found] == [str, str, float, str, int]


@pytest.mark.parametrize("most", ["0", "640", "100000"])
def test_what_a_process_allows_of_integers_does_not_matter(most: str) -> None:
    code = (
        "from hyperpy.inference.documents import document\n"
        "for n in (19, 20, 700, 5000):\n"
        "    print(type(document(b'1' * n)).__name__)\n"
    )
    command = [sys.executable, "-X", f"int_max_str_digits={most}", "-c", code]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout.split() == ["int", "str", "str", "str"]
