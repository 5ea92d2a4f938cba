"""Answers with evidence inside, as ``tee: true`` asks for (devices/08, "Attestation flag").

    raw    JSON text of request, response, time and chance, and what AO-Core says of them
    nonce  SHA-256 of raw, in hex: what the evidence is bound to

``status`` is what this node found of its own evidence, and is always there; who relies on it verifies ``evidences``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from hyperpy import Context, Message, commitments, hashpath
from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError

from .forms import text_of
from .receipts import plain

HARDWARE, SOFTWARE, FAILED = "hardware", "software-only", "failed"
_OWN: Final = Message({"device": "inference@1.0"})
_TEE: Final = Message({"device": "tee@1.0"})
_CODE: Final = re.compile(r"[a-z]+/[a-z-]+(?=: )")
"""With what errors about evidence begin (hyperpy.attest.codes)."""
_ALGORITHM: Final = "sha-256-chain"


def body(request: bytes, answer: bytes, said: Mapping[str, str], ctx: Context) -> bytes:
    """Return an answer with ``attestation`` and ``resolved_model`` in it.

    Args:
        request: its parameters as JSON.
        answer: the plain answer.
        said: what AO-Core says of it.
    """
    response = json.loads(answer)
    stamp = ctx.resolve(_OWN, "stamp")
    assert isinstance(stamp, Message)
    about = {"request": json.loads(request), "response": response}
    about |= {"timestamp": stamp["timestamp"], "nonce": stamp.text("nonce"), "ao-core": said}
    more = {"resolved_model": response["hyperpy"]["reference"], "attestation": _attestation(text_of(about), ctx)}
    return text_of({**response, **more})


def ao_core(base: Message, request: Message, response: Message) -> dict[str, str]:
    """Return what AO-Core says of an answer: its step's hashpath, the request's ID, and that of the plain response."""
    try:
        made = {"hashpath": hashpath.extend(base, request), "request-id": commitments.unsigned_id(request)}
    except HyperpyError:
        return {"status": "not-captured", "source": "inference@1.0"}
    named = {"response-id": commitments.unsigned_id(response), "verification-status": "can-be-made-again"}
    return {"status": "captured", "source": "inference@1.0", "hashpath-algorithm": _ALGORITHM, **made, **named}


def _attestation(raw: bytes, ctx: Context) -> dict[str, Any]:
    """Return the evidence of this machine for a text: that it was here when the text was made."""
    digest = hashlib.sha256(raw).digest()
    made: dict[str, Any] = {"status": FAILED, "raw": raw.decode("utf-8"), "nonce": digest.hex()}
    made |= {"evidences": [], "claims": {}, "eat": None, "token": None, "verified": False}
    nonce = b64u(digest)
    evidence = _told(ctx, {"path": "attest", "nonce": nonce})
    if isinstance(evidence, str):
        return {**made, "code": evidence}
    found = _told(ctx, {"path": "verify", "nonce": nonce, "evidence": evidence["evidence"]})
    if isinstance(found, str):
        return {**made, "code": found}
    genuine = found.get("hardware") is True
    software = evidence.get("hardware") is False
    return {
        **made,
        "status": SOFTWARE if software else HARDWARE if genuine else FAILED,
        "evidences": [{"type": evidence.text("evidence-type"), "evidence": evidence.text("evidence")}],
        "claims": plain(found.get("ear", Message())),
        "verified": genuine and not software,
    }


def _told(ctx: Context, request: dict[str, Any]) -> Message | str:
    """Return what tee@1.0 answers, or the code of why it has no evidence: as it was recorded, or as it is raised.

    Raises:
        HyperpyError: it is about something else.
    """
    try:
        result = ctx.step(_TEE, request)
    except HyperpyError as error:
        code = _CODE.match(error.message)
        if code is None:
            raise
        return code[0]
    assert isinstance(result.value, Message)
    if result.status == "ok":
        return result.value
    code = _CODE.match(result.value.text("body", ""))
    return code[0] if code is not None else "attester/unavailable"
