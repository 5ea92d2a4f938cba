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
    assert found == ({json.dumps(json.loads(data))} if depth <= MAX_NESTING else {CodecError})


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
        *(b"", b"[", b'"', b'"\\', b"\\[", b"]" * 99, b"\xff", b"\xef\xbb\xbf1", b'{"a"}', b"NaN", b"[-Infinity]"),
        *(b"1e999", b"1" * (MAX_DIGITS + 1), b"[" + b"7" * 4400 + b"]"),
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(CodecError):
        document(data)


@pytest.mark.parametrize("most", ["0", "640", "100000"])
def test_what_a_process_allows_of_integers_does_not_matter(most: str) -> None:
    code = (
        "from hyperpy.inference.documents import document\n"
        "for n in (19, 20, 700, 5000):\n"
        "    try: print(len(str(document(b'1' * n))))\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    command = [sys.executable, "-X", f"int_max_str_digits={most}", "-c", code]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout.split() == ["19", "CodecError", "CodecError", "CodecError"]
