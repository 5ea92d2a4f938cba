"""A reply's bytes back to the message, verified: what clients do, and what a node does before it sends an odd one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hyperpy import commitments
from hyperpy.codecs import ans104, httpsig, json, sfv, structured
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import CodecError
from hyperpy.http.form import ANS104, JSON
from hyperpy.message import Message

_TRANSPORT: Final = frozenset(
    {"date", "server", "connection", "transfer-encoding", "content-length", "keep-alive", "vary", "alt-svc", "via"}
    | {"hint", "retry-after", "strict-transport-security", "content-encoding", "content-security-policy"}
    | {"x-content-type-options", "tee-hardware"}
)


def decode_reply(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Message:
    """Return a reply as message: ``status`` is always there, the hashpath is private.

    Raises:
        CodecError: it does not decode.
        InvalidSignature: a signature does not verify.
    """
    found: dict[str, bytes] = {}
    for raw, value in headers:
        name = key_text(raw.lower())
        found[name] = found[name] + b", " + value if name in found else value
    for name in [sfv.unescape_key(name) for name in found if name.startswith("%")]:
        found.pop(name, None)  # HTTP's own: the message's key of that name is the escaped one
    codec = b"" if "signature-input" in found else found.get("codec-device", b"")  # signed, it is a key as others
    if codec == JSON.encode():
        decoded = json.decode(body)
    elif codec == ANS104.encode():
        decoded = ans104.decode_message(body)
    else:
        covered = found.get("signature-input", b"")
        kept = {n: v for n, v in found.items() if not _is_transport(n) or b'"%s"' % key_bytes(n) in covered}
        decoded = structured.decode(httpsig.decode(kept, body if body or b'"content-digest"' in covered else None))
    if not isinstance(decoded, Message):
        raise CodecError("the reply is a list")
    if decoded.commitments:
        commitments.check(decoded)
        decoded = commitments.only_committed(decoded)
    if "status" not in decoded or not (decoded.commitments or isinstance(decoded["status"], int)):
        decoded = decoded | {"status": status}
    tags = [one.raw("tag") for one in decoded.commitments.values()]
    tag = next((key_text(tag) for tag in tags if isinstance(tag, bytes)), None)
    return decoded.with_private(hashpath=tag)


def _is_transport(name: str) -> bool:
    return name in _TRANSPORT or name.startswith("access-control-")
