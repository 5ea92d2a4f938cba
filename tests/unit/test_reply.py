"""Outcomes of chains as replies (ao-core 10.3), and whose signatures count."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message, Result
from hyperpy.commitments import commit, committers
from hyperpy.errors import Busy, Forbidden, HyperpyError, KeyNotFound, MessageNotFound, SizeError
from hyperpy.message import NOT_FOUND, As, Atom, Resolve
from hyperpy.reply import CODES, of_error, of_result, status_code, unsigned, without_reply_signatures
from hyperpy.testing import wallet


@pytest.mark.parametrize(
    ("status", "item", "code"),
    [
        *((word, b"x", code) for word, code in CODES.items()),
        ("whatever", b"x", 200),
        ("skip", b"x", 200),
        ("ok", {"status": 201}, 201),
        ("ok", {"status": "404"}, 404),
        ("ok", {"status": b"not_found"}, 404),
        ("ok", {"status": Atom("forbidden")}, 403),
        ("error", {"status": 418}, 418),
        ("error", {"x": "1"}, 400),
        ("ok", {"status": 99}, 200),
        ("ok", {"status": 600}, 200),
        ("ok", {"status": -200}, 200),
        ("ok", {"status": 10**30}, 200),
        ("ok", {"status": True}, 200),
        ("ok", {"status": 200.5}, 200),
        ("ok", {"status": "2000"}, 200),
        ("ok", {"status": "²00"}, 200),
        ("ok", {"status": [200]}, 200),
        ("ok", {"status": {"a": "b"}}, 200),
        ("ok", {"status": b"\xff"}, 200),
        ("ok", {"body": NOT_FOUND}, 404),
        ("ok", {"body": Atom("created")}, 201),
        ("error", NOT_FOUND, 404),
        ("ok", 5, 200),
    ],
)
def test_statuses(status: str, item: Any, code: int) -> None:
    made = of_result(Result(status, Message(item) if isinstance(item, dict) else item))
    assert made["status"] == code
    assert type(made["status"]) is int


def test_literals_stand_under_body() -> None:
    for item in (b"x", 5, 2.5, True, Atom("blue")):
        made = of_result(Result("ok", item))
        assert dict(made.raw_items()) == {"ao-result": b"body", "body": item, "status": 200}
    assert of_result(Result("ok", (b"a", b"b")))["2"] == b"b"


@pytest.mark.parametrize("item", [As("x@1.0", b"k"), Resolve(()), None, object()])
def test_what_is_no_value_is_an_empty_reply(item: Any) -> None:
    assert dict(of_result(Result("ok", item)).raw_items()) == {"status": 200}


def test_the_hashpath_rides_along() -> None:
    assert of_result(Result("ok", 5, "A/b")).hashpath == "A/b"
    own = Message({"x": "1"}).with_private(hashpath="C/d")
    assert of_result(Result("ok", own, "A/b")).hashpath == "C/d"


def test_a_committed_status_is_left_alone() -> None:
    signed = commit(Message({"status": "404", "x": "1"}), wallet("user"))
    made = of_result(Result("ok", signed))
    assert made["status"] == b"404"
    assert status_code(made, "ok") == 404
    plain = commit(Message({"status": "404", "x": "1"}), None, type="unsigned")
    assert of_result(Result("ok", plain))["status"] == 404, "nobody committed to it"


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyNotFound("no x"), 404), (MessageNotFound("gone"), 404), (Forbidden("no"), 403), (SizeError("big"), 413)],
)
def test_errors(error: HyperpyError, status: int) -> None:
    made = of_error(error)
    assert made["status"] == status
    assert made["body"] == (NOT_FOUND if isinstance(error, KeyNotFound) else error.message.encode())
    assert made.private["error"] is error


def test_errors_with_any_text() -> None:
    assert of_error(Busy("\udcff\x00")).text("body")


# -- signatures ----------------------------------------------------------------------------------


def test_commitments_nobody_signed_are_dropped() -> None:
    message = Message({"x": "1", "y": "2"})
    partial = commit(message, None, type="unsigned", committed=["x"])
    assert partial.commitments
    assert not unsigned(partial).commitments
    signed = commit(partial, wallet("user"))
    assert committers(unsigned(signed)) == (wallet("user").address,)
    assert unsigned(message) is message


def test_commitments_over_keys_that_are_not_there_are_dropped() -> None:
    signed = commit(Message({"x": "1", "y": "2"}), wallet("user"))
    member = Message.make({"x": b"1", "path": b"k"}, signed.commitments)
    assert not unsigned(member).commitments


def test_a_reply_signature_is_the_nodes_over_a_status() -> None:
    own, user = wallet(), wallet("user")
    both = commit(commit(Message({"x": "1", "status": 200}), own), user)
    kept = without_reply_signatures(both, {own.address})
    assert committers(kept) == (user.address,)
    for items in ({"x": "1"}, {"x": "1", "status": "shipped"}):
        message = commit(Message(items), own)
        assert without_reply_signatures(message, {own.address}) is message
    beside = Message.make({"x": b"1", "status": 200}, commit(Message({"x": "1"}), own).commitments)
    assert committers(without_reply_signatures(beside, {own.address})) == (own.address,)
    assert without_reply_signatures(Message({"status": 200}), {own.address}).commitments == {}


@pytest.mark.parametrize("word", [*CODES, "strange"])
def test_texts_are_wrapped_like_other_literals(word: str) -> None:
    """A text goes a shorter way than a number: both end alike but for the body."""
    text, number = (of_result(Result(word, body, "a" * 43 + "/x")) for body in (b"5", 5))
    assert text == number | {"body": b"5"}
    assert text.hashpath == number.hashpath == "a" * 43 + "/x"
    assert of_result(Result(word, b"5")).hashpath is None
