"""The story's runner finds what is wrong: each recorded reply, falsified, no longer compares well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import run_http_process as story
import schema

PATH = schema.folder() / "http_process.json"


def _reply(case: Any) -> Any:
    return (case["final"] or case)["response"]


def _status(case: Any) -> bool:
    reply = _reply(case)
    reply["status_line"] = "HTTP/1.1 202 Accepted"
    return True


def _another_header(case: Any) -> bool:
    _reply(case)["headers"].append(["x-another", "1"])
    return "multipart" not in str(_reply(case)["headers"])


def _header_value(case: Any) -> bool:
    named = {"count", "at-slot", "process", "device", "ao-result", "alpha", "current", "type", "1"}
    for pair in _reply(case)["headers"]:
        if pair[0] in named:
            pair[1] += "0"
            return True
    return False


def _types(case: Any) -> bool:
    for pair in _reply(case)["headers"]:
        if pair[0] == "ao-types":
            pair[1] = pair[1].replace("integer", "float")
            return True
    return False


def _body(case: Any) -> bool:
    reply = _reply(case)
    text = reply.get("body")
    for old, new in (
        ("hello-1", "hello-9"),
        ("lua@5.3a", "lua@5.4a"),
        ('"status":200', '"status":201'),
        ("count ", "c "),
    ):
        if isinstance(text, str) and old in text:
            reply["body"] = text.replace(old, new)
            return True
    return False


def _link(case: Any) -> bool:
    reply = _reply(case)
    text = reply.get("body")
    if not isinstance(text, str) or '"output+link":"' not in text:
        return False
    head, mark, rest = text.partition('"output+link":"')
    reply["body"] = head + mark + "A" * 43 + rest[43:]
    return True


def _fails(header: Any, case: Any) -> bool:
    try:
        return story.run(header, case).status == "failed"
    except Exception:  # the table counts a runner's exception as the case's failure
        return True


FAULTS: tuple[Callable[[Any], bool], ...] = (_status, _another_header, _header_value, _types, _body, _link)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not PATH.is_file(), reason="http_process.json is missing; set HYPERPY_SHARED to the shared folder")
def test_falsified_replies_are_found() -> None:
    """Every read of the story is compared with its recording and with falsified ones."""
    header, cases = schema.load(PATH)
    found = dict.fromkeys(FAULTS, 0)
    try:
        for case in cases:
            assert story.run(header, case).status != "failed"
            reply = _reply(case)
            read = case["request"]["method"] == "GET" and " 200 " in reply["status_line"] and "body_html" not in reply
            if not read or (case["final"] and "result-cache" in case["final"]["rules"]):
                continue
            for fault in FAULTS:
                false = copy.deepcopy(case)
                if fault(false):
                    assert _fails(header, false), (case["n"], fault.__name__)
                    found[fault] += 1
    finally:
        story.close()
    assert all(count > 1 for count in found.values()), found
