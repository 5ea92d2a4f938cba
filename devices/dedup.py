"""dedup@1.0: stops a stack when it has seen the same subject before."""

from __future__ import annotations

from hyperpy import device
from hyperpy.commitments import signed_id
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import KeyNotFound
from hyperpy.message import Message, Value, as_text
from hyperpy.sdk import Context, Result, default


@device("dedup@1.0", excludes=("keys", "set", "id", "commit"))
class Dedup:
    """The first entry of a stack that must not act twice on one message.

    ``dedup-subject`` (base, then request) names the key that is compared, default ``body``; the word
    ``request`` means the whole request. What was seen is a trie@1.0 message under ``dedup``: the
    subject's ID, and the slot it came in (or true).
    """

    @default
    def check(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return the base: status ``skip`` if the subject was seen before, else with it noted."""
        subject = _subject(base, request)
        if subject is None or base.text("pass", "1") != "1":
            return Result("ok", base)
        name = _id(subject)
        seen = base.get("dedup")
        if not isinstance(seen, Message):
            known = seen if isinstance(seen, tuple) else ()
            seen = Message({"device": "trie@1.0"})
            if known:
                seen = ctx.resolve(seen, Message({as_text(item): True for item in known}) | {"path": b"set"})
                assert isinstance(seen, Message)
        try:
            ctx.resolve(seen, {"path": "get", "key": name})
        except KeyNotFound:
            mark = request.get("slot", True)
            return Result("ok", base | {"dedup": ctx.resolve(seen, {"path": "set", name: mark})})
        return Result("skip", base)


def _subject(base: Message, request: Message) -> Value | None:
    name = as_text(base.get("dedup-subject", request.get("dedup-subject", b"body")), "dedup-subject")
    if name == "request":
        return request
    found = request.get(name)  # first: what stands in the state must not hide what came
    return base.get(name) if found is None else found


def _id(subject: Value) -> str:
    """Return the subject's ID: signed if it is signed; a scalar's is that of its text."""
    if isinstance(subject, Message):
        return signed_id(subject)
    if isinstance(subject, tuple):
        return signed_id(Message({str(n): item for n, item in enumerate(subject, 1)}))
    return b64u(sha256(subject if isinstance(subject, bytes) else as_text(subject).encode()))
