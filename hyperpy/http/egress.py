"""Reply message to HTTP reply (ao-core 10.4, 10.5, with the repairs of http-clients.md 0).

A key becomes a header where HTTP can carry it there: a lower-case name of at most 64 characters,
a value without control characters or blanks at its ends and of at most 4096 bytes, at most 90
headers in all. Every other key goes into the multipart body, which all readers merge back; so no
header ever holds a line break, and signatures still verify. In replies that are JSON such keys
are in the body alone.

Errors are short text with the next step, JSON where that was asked for, HTML only for browsers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from hyperpy import commitments
from hyperpy.codecs import ans104, flat, httpsig, json, multipart, signature, structured
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import ID_LENGTHS, key_bytes, key_text, ordered
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, KeyNotFound, NotCached, ParameterError
from hyperpy.http.browsers import ORDERS, hidden_name
from hyperpy.http.form import ANS104, FLAT, HTTPSIG, JSON, RawReply, RawRequest, Wants, codec_of
from hyperpy.http.members import signature_headers
from hyperpy.http.readable import refuse_unreadable
from hyperpy.message import NOT_FOUND, Atom, Message, Value, as_text

MAX_HEADERS: Final = 90
MAX_VALUE: Final = 4096
_OWN_HEADERS: Final = 14
"""Headers added to those of the message: CORS, signatures, digest, type, length, date, server."""
_NAME = re.compile(r"[a-z0-9!#$&'*+.^_`|~-]{1,64}")
_PART = re.compile(r"[^\x00-\x1f\x7f\"%/\\]*")
"""A key that is no header name but may name a part of the body."""
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z")
_TRANSPORT: Final = frozenset(
    {"content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection"}
)
_NO_HEADERS: Final = _TRANSPORT | ORDERS
_KEPT: Final = ("ao-types", "ao-result", "status", "ao-body-key", "content-type", "content-digest")
"""Headers that stay headers whatever their number: they say how to read the rest."""
_DROPPED: Final = frozenset({"commitments", "signature", "signature-input"})
_CONNECTION: Final = frozenset({b"close", b"keep-alive"})
_BODILESS: Final = frozenset({204, 205, 304})
"""Statuses of replies that hold no body (RFC 9110, 15)."""
_MAX_COOKIES: Final = 50
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_CORS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-expose-headers", b"*"),
)


def write(reply: Message, wants: Wants) -> RawReply:
    """Return the HTTP reply of a message; never raises a HyperpyError.

    A reply that cannot be written in the wanted codec becomes an error that says so.
    """
    error = reply.private.get("error")
    try:
        made = _written(reply, wants, error if isinstance(error, HyperpyError) else None)
    except HyperpyError as failed:
        return write_error(failed, wants)
    lines = reply.private.get("set-cookie")
    if isinstance(lines, (list, tuple)):  # a header of that name that the caller sent is no list
        made.headers.extend(
            (b"set-cookie", line) for line in lines[:_MAX_COOKIES] if type(line) is bytes and _fits(line)
        )
    return _finished(made, wants)


def refusal(reply: Message, wants: Wants) -> HyperpyError | None:
    """Return the error that :func:`write` would answer with instead of this reply, if it would."""
    try:
        _written(reply, wants, None)
    except HyperpyError as error:
        return error
    return None


def without_body_type(reply: Message, wants: Wants) -> Message:
    """Return a reply, not yet signed, without the content type that only described the request's body.

    A request's headers are keys of its message, and what echoes the message has them all. The type of a
    body that a codec turned into keys describes nothing there; that of another body is overwritten where
    the reply has parts, and whoever signs it signs something that does not arrive.
    """
    kind = wants.body_type
    if kind is None or reply.raw("content-type") != kind.text or "accept-bundle" not in reply or reply.commitments:
        return reply
    bare = reply.without("content-type")
    if kind.decoded or (wants.codec_for(reply) == HTTPSIG and _has_parts(bare, wants.bundle)):
        return bare
    return reply


def _has_parts(reply: Message, bundle: bool) -> bool:
    with suppress(HyperpyError):
        return any(name == b"content-type" for name, _ in http_message(reply, bundle=bundle)[0])
    return False


def without_cors(made: RawReply) -> RawReply:
    """Return a reply that lets no browser page of another origin read it (``[http] cors = false``).

    Neither the node nor the message may: keys of that kind do not travel under their own name.
    """
    signed = dict(made.headers).get(b"signature-input", b"")
    headers = []
    for name, text in made.headers:
        if not name.startswith(b"access-control-"):
            headers.append((name, text))
        elif b'"%s"' % name in signed:
            headers.append((hidden_name(key_text(name)), text))
    return RawReply(made.status, headers, made.body)


def answer_at_edge(raw: RawRequest, default_request: str) -> RawReply | None:
    """Answer what needs no node: ``OPTIONS``, methods there are none of, and ``GET /``, which leads elsewhere (10.1).

    All else gives None.
    """
    if raw.method not in _METHODS:
        refused = ParameterError(f"there is no method {raw.method[:20]!a} here", hint="Use GET or POST.")
        made = write_error(
            refused, Wants(accept=dict(raw.headers).get(b"accept", b"*/*").decode("latin-1")), status=405
        )
        made.headers.append((b"allow", ", ".join(_METHODS).encode()))
        return made
    if raw.method == "OPTIONS":
        wanted = dict(raw.headers).get(b"access-control-request-headers", b"*")
        allowed = wanted if _fits(wanted) else b"*"
        return RawReply(204, [*_CORS, (b"access-control-allow-headers", allowed)])
    if raw.method in ("GET", "HEAD") and raw.target == b"/":
        body = b"Redirecting to default request."
        found = Message({"status": 307, "location": default_request, "body": body})
        return write(found, Wants(HTTPSIG))
    return None


def write_error(error: HyperpyError, wants: Wants, *, status: int | None = None) -> RawReply:
    """Return the HTTP reply of an error, unsigned; ``status`` overrides that of its class."""
    if error.document is not None:
        made = _document(status or error.status, error)
        return _finished(made, wants)
    body: Value = NOT_FOUND if isinstance(error, KeyNotFound) else error.message.encode("utf-8", "replace")
    reply = Message({"ao-result": "body", "body": body, "status": status or error.status})
    if _wants_json(wants):
        made = _json(reply, Wants(JSON))
    else:
        made = _text(reply, wants, error)
    _advise(made, error)
    return _finished(made, wants)


def _written(reply: Message, wants: Wants, error: HyperpyError | None) -> RawReply:
    if error is not None and error.document is not None:
        return _document(_status(reply), error)
    codec = wants.codec_for(reply)
    if error is not None and _wants_json(wants):
        codec = JSON
    missing = reply.raw("body") == NOT_FOUND and type(reply.raw("body")) is Atom and _status(reply) == 404
    if codec == HTTPSIG and not wants.bundle and (error is not None or missing):
        made = _text(reply, wants, error)
    elif codec == JSON:
        made = _json(reply, wants)
    elif codec == ANS104:
        link = None if wants.bundle else commitments.signed_id
        made = RawReply(
            _status(reply), _typed(b"ans104@1.0", b"application/ans104"), ans104.encode_message(reply, link=link)
        )
    elif codec == FLAT:
        text = flat.serialize(structured.encode(reply, link=commitments.signed_id))
        made = RawReply(_status(reply), _typed(b"flat@1.0", b"application/flat"), text)
    else:
        made = _httpsig(reply, wants)
    if error is not None:
        _advise(made, error)
    return made


def _fits(text: bytes) -> bool:
    return _UNSAFE.search(text) is None and len(text) <= MAX_VALUE


def _status(reply: Message) -> int:
    found = reply.get("status")
    return found if type(found) is int and 200 <= found <= 599 else 200


def _typed(codec: bytes, content_type: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"codec-device", codec), (b"content-type", content_type)]


def _finished(made: RawReply, wants: Wants) -> RawReply:
    """Add CORS headers the message does not set itself."""
    names = {name for name, _ in made.headers}
    made.headers.extend([pair for pair in _CORS if pair[0] not in names])
    asked = wants.allow_headers
    if asked is not None and b"access-control-allow-headers" not in names and _fits(asked):
        made.headers.append((b"access-control-allow-headers", asked))
    if made.status in _BODILESS and made.body:
        made.status = 200  # the key says what it said: a body that is left out is one that does not verify
    return made


# -- httpsig ---------------------------------------------------------------------------------


def _httpsig(reply: Message, wants: Wants) -> RawReply:
    plain = _literal(reply)
    if plain is not None:
        return plain
    headers, body = http_message(reply, bundle=wants.bundle)
    made = RawReply(_status(reply), headers, body)
    refuse_unreadable(reply, made, wants.bundle)
    return made


def _literal(reply: Message) -> RawReply | None:
    """Return what :func:`http_message` gives for the commonest reply, a bare text nobody signed. None for others."""
    body, status = reply.raw("body"), reply.raw("status")
    if len(reply) != 3 or reply.commitments or type(body) is not bytes or not body or type(status) is not int:
        return None
    result = reply.raw("ao-result")
    if type(result) is not bytes or result != b"body":
        return None
    headers = [(b"ao-result", result), (b"status", b"%d" % status), (b"ao-types", b'status="integer"')]
    headers.append((b"content-digest", signature.digest_header(body)))
    return RawReply(_status(reply), headers, body)


def http_message(
    message: Message, *, bundle: bool, reserved: frozenset[str] = frozenset()
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of a message in httpsig form, signatures included.

    Args:
        bundle: nested messages inline, else by ID.
        reserved: further keys that must not be headers.

    Raises:
        CodecError: a key that cannot name a part has a value that cannot be a header.
    """
    linked = message.memo.get("tabm") or structured.encode(message, link=commitments.signed_id)
    sent = structured.encode(message) if bundle else linked
    moved, escaped = _unfit(sent, reserved)
    form = httpsig.encode({key: found for key, found in sent.items() if key not in moved} if moved else sent)
    if moved:
        form = _with_parts(form, sent, moved)
    headers = [(escaped.get(name) or key_bytes(name), text) for name, text in form.headers.items()]
    headers.extend(signature_headers(message))
    return headers, form.body or b""


def _unfit(tabm: Tabm, reserved: frozenset[str]) -> tuple[set[str], dict[str, bytes]]:
    """Return the keys that must go into the body, and the escaped names of some that need not."""
    named = tabm.get("ao-body-key")
    inline = key_text(named) if type(named) is bytes else "data" if "body" not in tabm else "body"
    moved: set[str] = set()
    escaped: dict[str, bytes] = {}
    fit = []
    for key, found in tabm.items():
        if type(found) is not bytes or len(found) > MAX_VALUE or key == "body" or key == inline or key in _DROPPED:
            continue
        bad = _UNSAFE.search(found) is not None or (key == "connection" and found not in _CONNECTION)
        if _NAME.fullmatch(key) is not None or len(key) in ID_LENGTHS:
            bad = bad or key in _TRANSPORT or key in reserved
            if key in ORDERS and not bad and "content-type" in tabm:  # which parts would overwrite
                escaped[key] = hidden_name(key)
                continue
            bad = bad or key in ORDERS
        elif _PART.fullmatch(key) is not None:
            bad = True
        elif bad:
            raise CodecError(
                f"the key {key[:64]!a} and its value cannot travel as HTTP headers",
                hint="Ask for JSON: accept: application/json.",
            )
        else:
            escaped[key] = b"".join([b"%c" % byte if byte in _SAFE else b"%%%02x" % byte for byte in key_bytes(key)])
        if bad:
            moved.add(key)
        else:
            fit.append(key)
    excess = len(fit) + _OWN_HEADERS - MAX_HEADERS
    if excess > 0:
        moved.update([key for key in reversed(ordered(fit)) if key not in _KEPT and key not in escaped][:excess])
    return moved, escaped


def _with_parts(form: httpsig.HttpForm, tabm: Tabm, moved: Collection[str]) -> httpsig.HttpForm:
    """Return an HTTP form with the values of more keys as parts of its body."""
    inline = key_text(form.headers.get("ao-body-key", b"body"))
    entries = {
        key: found
        for key, found in tabm.items()
        if key in moved or key in (inline, "body") or type(found) is not bytes or len(found) > MAX_VALUE
    }
    made = multipart.encode({key: found for key, found in entries.items() if key not in _DROPPED}, inline)
    headers = {**form.headers, "content-type": made.content_type, "content-digest": signature.digest_header(made.body)}
    return httpsig.HttpForm(headers, made.body, made.names)


# -- JSON, text, HTML --------------------------------------------------------------------------


def _json(reply: Message, wants: Wants) -> RawReply:
    body = json.encode(reply, link=None if wants.bundle else commitments.signed_id)
    headers = _typed(b"json@1.0", b"application/json")
    for key in reply.ordered():
        found = reply.raw(key)
        if key in ("body", "data", "content-type", "codec-device", "content-digest") or len(headers) > 70:
            continue
        if isinstance(found, (bytes, int, float, Atom)):
            text = as_text(found).encode("utf-8", "surrogateescape")
            if _NAME.fullmatch(key) and key not in _NO_HEADERS and len(text) <= MAX_VALUE and not _UNSAFE.search(text):
                headers.append((key_bytes(key), text))
    return RawReply(_status(reply), headers, body)


def _text(reply: Message, wants: Wants, error: HyperpyError | None) -> RawReply:
    """Return an error as a short text (or page) with the next step."""
    status = _status(reply)
    first = error.message if error is not None else "The key was not found."
    text = first.rstrip() + ("\n" + error.next_step() if error is not None else "") + "\n"
    headers = [(b"status", b"%d" % status)]
    attested = reply.raw("attestation-status")  # the only key of an error that whoever asked for it looks for
    if isinstance(attested, bytes) and _fits(attested):
        headers.append((b"attestation-status", attested))
    if "text/html" in wants.accept:
        page = html.escape(text).replace("\n", "<br>")
        body = f"<!doctype html><title>{status}</title><h1>{status}</h1><p>{page}</p>\n".encode("utf-8", "replace")
        return RawReply(status, [*headers, (b"content-type", b"text/html; charset=utf-8")], body)
    return RawReply(
        status, [*headers, (b"content-type", b"text/plain; charset=utf-8")], text.encode("utf-8", "replace")
    )


def _document(status: int, error: HyperpyError) -> RawReply:
    """Return an error in the form that a device's clients know."""
    headers = [(b"status", b"%d" % status), (b"content-type", b"application/json")]
    made = RawReply(status, headers, error.document or b"")
    _advise(made, error)
    return made


def _wants_json(wants: Wants) -> bool:
    if wants.codec is not None:
        return wants.codec == JSON
    return codec_of(wants.accept) == JSON or ("application/json" in wants.accept and "text/html" not in wants.accept)


def _advise(made: RawReply, error: HyperpyError) -> None:
    """Add unsigned headers: ``hint``, ``retry-after``, and what goes with some statuses."""
    names = {name for name, _ in made.headers}
    hint = " ".join(error.next_step().split()).encode("ascii", "replace")
    if hint and b"hint" not in names and _UNSAFE.search(hint) is None:
        made.headers.append((b"hint", hint[:MAX_VALUE]))
    if isinstance(error, InvalidSignature) and b"reason" not in names:
        made.headers.append((b"reason", b"Given message is invalid."))
    if isinstance(error, NotCached):
        made.headers.append((b"cache-status", b"miss"))
    if error.status == 401 and b"www-authenticate" not in names:
        made.headers.append((b"www-authenticate", b"Basic"))
    if error.retry_after is not None and b"retry-after" not in names:
        made.headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
