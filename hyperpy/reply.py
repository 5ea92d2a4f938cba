"""Turns the outcome of a chain into the message a node answers with (ao-core 10.3)."""

from __future__ import annotations

from hyperpy import commitments
from hyperpy.commitments import without_reply_signatures as without_reply_signatures
from hyperpy.errors import HyperpyError, KeyNotFound
from hyperpy.message import NOT_FOUND, Atom, Message, Value, as_text, committed_list
from hyperpy.recorder import wrap
from hyperpy.sdk import Result

CODES = {
    "ok": 200,
    "created": 201,
    "error": 400,
    "client_error": 400,
    "no_viable_responses": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "failure": 500,
    "unavailable": 503,
}
"""Status words and their HTTP codes; every other word is 200."""


def of_result(result: Result) -> Message:
    """Return a result as a reply: always a message with an integer ``status``.

    Literals stand under ``body`` with ``ao-result: body``. A committed ``status`` is left alone.
    The hashpath rides along as ``private["hashpath"]``.
    """
    item = result.value
    if type(item) is bytes:
        private = {"hashpath": result.hashpath} if result.hashpath is not None else {}
        code = CODES.get(result.status, 200)
        return Message.make({"ao-result": b"body", "body": item, "status": code}, private=private)
    if not isinstance(item, (bytes, int, float, bool, Atom, tuple, Message)):
        item = Message()
    made = unsigned(wrap(item))
    code = status_code(made, result.status)
    if made.raw("status") != code and "status" not in made.committed_keys():
        made = made | {"status": code}
    if made.hashpath is None and result.hashpath is not None:
        made = made.with_private(hashpath=result.hashpath)
    return made


def status_code(message: Message, word: str) -> int:
    """Return the HTTP status: a body that is a status word, the key ``status``, the result's own word."""
    body = message.raw("body")
    if type(body) is Atom and body in CODES:
        return CODES[body]
    return _code(message.get("status")) or CODES.get(word, 200)


def _code(item: Value | None) -> int | None:
    if item is None or isinstance(item, (tuple, Message, bool, float)):
        return None
    if isinstance(item, int):
        return item if 100 <= item <= 599 else None
    text = as_text(item)
    if len(text) == 3 and text.isascii() and text.isdigit():
        return _code(int(text))
    return CODES.get(text)


def of_error(error: HyperpyError) -> Message:
    """Return an error as a reply.

    A missing key is the reference's own answer, the atom ``not_found``; what else is known (the
    hint, when to try again) rides in ``private`` for whoever writes the reply.
    """
    body: Value = NOT_FOUND if isinstance(error, KeyNotFound) else error.message.encode("utf-8", "replace")
    made = Message({"ao-result": "body", "body": body, "status": error.status})
    return made.with_private(error=error)


def with_cookies(message: Message, request: Message) -> Message:
    """Return a reply with the cookies to set, in its private part: the request hooks' and its own.

    Such are lists of ``set-cookie`` lines; a header of that name that a client sent is none.
    """
    found = request.private.get("set-cookie")
    if not isinstance(found, (list, tuple)):
        return message
    own = message.private.get("set-cookie")
    lines = dict.fromkeys([*found, *(own if isinstance(own, (list, tuple)) else ())])
    return message.with_private(**{"set-cookie": list(lines)})


def unsigned(message: Message) -> Message:
    """Return a message without commitments over keys it has not, and if nobody signed, without any.

    The first are those of the request that the message was made from: every member of a signed path
    carries them (ao-core 11, row 16), and they would not verify. As to the others, signing follows
    the commitments that are there. One that anybody can make, and that leaves keys out, would decide
    what the node signs; without the ``status``, that is an order, not a reply.
    """
    if not message.commitments:
        return message
    kept = {
        name: one
        for name, one in message.commitments.items()
        if all(key in message or key == "ao-types" for key in committed_list(one))
    }
    if len(kept) < len(message.commitments):
        message = message.with_commitments(kept)
    return message if commitments.committers(message) else message.with_commitments({})


class Halted(HyperpyError):
    """A request hook ended the request with an answer of its own."""

    def __init__(self, made: Message) -> None:
        super().__init__("a hook ended the request")
        self.reply = made
