"""inference_receipt@1.0: inference@1.0 with receipts that also say when, and along which hashpath (devices/08).

The answer is that of inference@1.0, asked by path. Time and chance are recorded, so that all the rest is made again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from hyperpy import Context, Message, commitments, device, hashpath, key
from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError, ParameterError
from hyperpy.message import Link, Value, as_text

_NAME: Final = b"inference_receipt@1.0"
_INFERENCE: Final = b"inference@1.0"
_MODELS: Final = Message({"device": _INFERENCE})
_MOST, _LONGEST = 256, 256
"""Steps whose hashpath is computed at once, and bytes of what names one."""


@device("inference_receipt@1.0")
class InferenceReceipt:
    """Answers as inference@1.0 does, not streamed; the ``receipt`` also names time, request and hashpath.

    ``/~inference_receipt@1.0/v1/chat/completions``. A receipt is what this node saw, and no proof of what computed
    it; who wants that makes the answer again: hyperpy replay.
    """

    @key
    def v1(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the base with the request's parameters, for the next part of the path."""
        return self._asked(base, request, ctx) | {"device": _NAME}

    @key
    def chat(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return what ``v1`` does, and note that ``completions`` are of a conversation."""
        return self._asked(base, request, ctx) | {"device": _NAME}

    @key
    def models(self, base: Message, request: Message, ctx: Context) -> Message:
        """List the models of this node."""
        return self._asked(base, request, ctx)

    @key
    def health(self, base: Message, request: Message, ctx: Context) -> Message:
        """Say that this node answers."""
        return self._asked(base, request, ctx)

    @key
    def completions(self, base: Message, request: Message, ctx: Context) -> Message:
        """Answer as inference@1.0 does, with a receipt that names time, request and hashpath."""
        if any(one.get("stream") in (True, b"true") for one in (request, base)):
            body = _text({"error": "receipt-streaming-unsupported"})
            return Message({"status": 400, "content-type": "application/json", "body": body})
        made = self._asked(base, request, ctx)
        name = "body" if "body" in made else "data"
        document = json.loads(made.text(name))
        if "receipt" not in document:
            return made
        stamp = ctx.resolve(_MODELS, "stamp")
        assert isinstance(stamp, Message)
        document["receipt"] = _receipt(document["receipt"], base, request, made, stamp)
        return made | {name: _text(document)}

    @key
    def verify_hashpath(self, request: Message) -> Message:
        """Compute a hashpath again: ``base`` (a hashpath or ID), then ``request``, then those of the list ``rest``.

        Each is an ID, a key or a message. ``response`` is the hashpath that is claimed, or a receipt's ``ao-core``.
        Answers ``verified``, ``expected-hashpath`` and ``recomputed-hashpath``; 422 for what is none of these. To see
        whether the answer itself is right, replay it.
        """
        try:
            expected, recomputed = _expected(request.get("response")), _recomputed(request)
        except HyperpyError as error:
            return Message({"status": 422, "body": error.message})
        told = {"expected-hashpath": expected, "recomputed-hashpath": recomputed}
        return Message({"status": 200, "verified": expected == recomputed, **told})

    @staticmethod
    def _asked(base: Message, request: Message, ctx: Context) -> Message:
        """Return what inference@1.0 answers to the same request."""
        found = ctx.resolve(base | {"device": _INFERENCE}, request)
        assert isinstance(found, Message)
        return found


def _receipt(known: dict[str, Any], base: Message, request: Message, made: Message, stamp: Message) -> dict[str, Any]:
    """Return a receipt that says when it was made, the hashpath that this step leads to, and the plain answer's ID."""
    moment = stamp["timestamp"]
    assert isinstance(moment, int)
    inputs = {"base": hashpath.start(base), "request": hashpath.reference(request)}
    receipt = {
        **{name: one for name, one in known.items() if name != "receipt-id"},
        "sequence": moment,
        "issued-at-unix": moment // 1000,
        "request-id": stamp.text("nonce")[:32],
        "ao-core": {
            "status": "captured",
            "hashpath": hashpath.extend(base, request),
            "request-id": commitments.unsigned_id(request),
            "response-id": commitments.unsigned_id(made),
            "verification-input": inputs,
            "verification-status": "can-be-made-again",
        },
        "device-chain": [_NAME.decode(), _INFERENCE.decode()],
    }
    text = json.dumps(receipt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {"receipt-id": b64u(hashlib.sha256(text.encode()).digest()), **receipt}


def _text(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


# -- hashpaths -----------------------------------------------------------------------------------


def _expected(item: Value | None) -> str:
    item = item.load() if isinstance(item, Link) else item
    found = item.get("hashpath") if isinstance(item, Message) else item
    if not isinstance(found, bytes):
        raise ParameterError("'response' must be a hashpath, or hold one", name="response")
    return as_text(found)


def _recomputed(request: Message) -> str:
    """Return the hashpath behind a base and the requests; raise ParameterError where one is none."""
    base, rest = request.get("base"), request.get("rest", ())
    if isinstance(base, Message):
        at = hashpath.start(base)
    elif isinstance(base, bytes) and base:
        at = as_text(base)
    else:
        raise ParameterError("'base' must be a hashpath, an ID or a message", name="base")
    if not isinstance(rest, tuple) or len(rest) > _MOST:
        raise ParameterError(f"'rest' must be a list of at most {_MOST} requests", name="rest")
    for one in (request.get("request"), *rest):
        one = one.load() if isinstance(one, Link) else one
        if isinstance(one, Message):
            at = hashpath.extend(Message.make({}).with_private(hashpath=at), one)
        elif isinstance(one, bytes) and 0 < len(one) <= _LONGEST and b"/" not in one:
            at = hashpath.combine(at, as_text(one))
        else:
            raise ParameterError("a request must be an ID, a key or a message", name="request")
    return at
