"""Errors below ``/~DEVICE/v1``, the place of OpenAI's interface, in the shape that its clients read.

A device gives its own errors that shape. What fails before it or beside it does so here: bodies that do not decode,
limits, paths that lead nowhere, deadlines.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hyperpy.http.form import RawReply

_V1: Final = re.compile(rb"/~[^/?]+/v1(?![^/?&])")
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_GONE: Final = (b"content-type", b"content-digest", b"content-length", b"signature", b"signature-input")
"""Headers about the body that was; no error's reply has a signature that could hold for another."""


def document(message: str, status: int, param: str | None = None) -> bytes:
    """Return an error as JSON; ``message`` says what to do next."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": None}
    return json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def shaped(target: bytes, made: RawReply) -> RawReply:
    """Return a reply to a target: an error there in OpenAI's shape, anything else as it is."""
    if made.status < 400 or _V1.match(target) is None:
        return made
    told = dict(made.headers)
    kind = told.get(b"content-type", b"")
    text = made.body.decode("utf-8", "replace")
    if kind.startswith(b"application/json"):
        try:
            found: Any = json.loads(text)
        except ValueError:
            return made
        if not isinstance(found, dict) or "error" in found:
            return made
        text = f"{found.get('body', '')}\n{told.get(b'hint', b'').decode('latin-1')}"
    elif not kind.startswith(b"text/plain"):
        return made
    headers = [(name, value) for name, value in made.headers if name not in _GONE and not name.startswith(b"ao-")]
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    message = " ".join(line if line.endswith((".", "!", "?", ":")) else f"{line}." for line in lines)
    return RawReply(made.status, [*headers, (b"content-type", b"application/json")], document(message, made.status))
