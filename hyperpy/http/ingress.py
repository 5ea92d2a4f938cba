"""HTTP request to singleton message (ao-core 10.2, with the repairs of design 5 and http-clients.md 0).

Most requests are small, unsigned and bodiless: their headers become keys as they are. All others
go through the codec that ``codec-device`` or the content type names; what is signed is verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgpack  # type: ignore[import-untyped]

from hyperpy import commitments
from hyperpy.codecs import ans104, flat, httpsig, json, structured
from hyperpy.codecs.signature import digest_matches
from hyperpy.encoding import key_text
from hyperpy.errors import CodecError, InvalidSignature, ParameterError, SizeError
from hyperpy.http.form import (
    ANS104,
    CODECS,
    DEFAULT_RULES,
    FLAT,
    HTTPSIG,
    JSON,
    BodyType,
    Headers,
    Ingress,
    RawRequest,
    Rules,
    Wants,
)
from hyperpy.http.form import codec_of as _codec_of
from hyperpy.http.secrets import Plan, is_credential, may_name_private, plan, scrub, scrub_value
from hyperpy.message import Message, Value

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PORT = re.compile(rb":[0-9]*\Z")
_UNKEPT: Final = frozenset({"content-length", "body-keys"})
"""Headers that only describe the transport of older clients' messages."""
_MAX_QUERY_KEYS: Final = 10_000
_IS_GRAPHQL: Final = re.compile(rb"/graphql(?:\?|\Z)")
_GRAPHQL: Final = b"/~query@1.0"
"""Where the path leads that clients know from gateways."""


def read(raw: RawRequest, rules: Rules = DEFAULT_RULES) -> Ingress:
    """Return the singleton message of a request, and how its caller wants the reply.

    Raises:
        HyperpyError: 4xx: the bytes do not decode, a signature does not verify or covers a
            credential, the wanted codec does not exist.
    """
    todo = plan(tuple([name for name, _ in raw.headers]))
    values = [value.strip(b" \t") for _, value in raw.headers]
    if _CONTROL.search(b"".join(values)):
        raise CodecError("a header holds a control character", hint="Put such a value into the body.")
    target, private = scrub(raw.target)
    for at, name in todo.private:
        private[name] = values[at]
    for at in todo.paths:
        values[at], found = scrub_value(values[at])
        private.update(found)
    private["peer"] = raw.peer
    query = _query(target) if b"?" in target else {}
    if todo.plain and not raw.body and "codec-device" not in query and "path" not in query:
        items: dict[str, Value] = {name: values[at] for at, name in todo.keys}
        host = items.get("host")
        if type(host) is bytes and not rules.host_with_port:
            items["host"] = _PORT.sub(b"", host)
        message = Message.make(items)
        sent: Mapping[str, Any] = items
        own: Mapping[str, Any] = {}
    else:
        sent = _headers(todo, raw, values)
        message, own = _decode(raw, sent, query, private, target, rules)
    wants = _wants((own, query, message.raw_items(), sent), sent, raw.method, _body_type(message, sent, query))
    kept = tuple([(raw.headers[at][0], values[at]) for at in todo.origin])
    method = raw.method.encode("ascii", "replace")
    body = raw.body if not raw.body or not _names_private(raw.body, query, sent) else b""
    origin = _origin(method, target, kept, body)
    if message.commitments:
        message = Message.make({**_host(sent, rules), **message.raw_items()}, message.commitments)
    return Ingress(_finish(message, method, query, sent, target), origin, wants, private)


def _origin(method: bytes, target: bytes, headers: Headers, body: bytes) -> bytes:
    """Return the canonical bytes of a cleaned request.

    Those of its message of four keys (:mod:`hyperpy.codecs.canonical`): they are sorted here, and hold
    nothing but bytes and lists of them, which msgpack writes canonically by itself.
    """
    packed: bytes = msgpack.packb(
        {b"body": body, b"headers": headers, b"method": method, b"target": target}, use_bin_type=True
    )
    return packed


def _finish(
    message: Message, method: bytes, query: Mapping[str, Value], sent: Mapping[str, Any], target: bytes
) -> Message:
    """Add what every request message has: method, path, accept, accept-bundle (10.2.4)."""
    items = dict(message.raw_items())
    if "method" not in items or not message.commitments or "method" not in message.committed_keys():
        items["method"] = method
    if "path" not in items:
        items["path"] = sent.get("path", _GRAPHQL + target if _IS_GRAPHQL.match(target) else target)
    elif type(items["path"]) is bytes and scrub(items["path"])[1]:
        raise ParameterError(
            "the path inside the message holds a credential",
            hint="Send it as a header: there the node takes it out before anything is recorded.",
        )
    if "accept" not in items:
        items["accept"] = query.get("accept", sent.get("accept", b"*/*"))
    if "accept-bundle" not in items:
        items["accept-bundle"] = query.get("accept-bundle", sent.get("accept-bundle", False))
    return Message.make(items, message.commitments)


def _names_private(body: bytes, query: Mapping[str, Value], sent: Mapping[str, Any]) -> bool:
    """Say whether the trail must not keep a body: it is more than one value, and may name private keys."""
    kind = key_text(sent.get("content-type", b"")).lower()
    named = "codec-device" in query or "codec-device" in sent
    if not named and "multipart" not in kind and _codec_of(kind) in (None, HTTPSIG):
        return False
    return may_name_private(body)


def _wants(
    sources: tuple[Mapping[str, Any], ...], sent: Mapping[str, Any], method: str, body_type: BodyType | None
) -> Wants:
    """Return the wishes of the caller; the first source that has one wins (http-clients.md 0, row 3)."""

    def wish(name: str) -> Any:
        for source in sources:
            if name in source:
                return source[name]
        return None

    required, accept, bundle = wish("require-codec"), wish("accept"), wish("accept-bundle")
    accept_text = key_text(accept) if isinstance(accept, bytes) else "*/*"
    codec = _codec_of(key_text(required)) or HTTPSIG if isinstance(required, bytes) else None
    asked = codec or _codec_of(accept_text)
    if asked is not None and asked not in CODECS:
        raise ParameterError(
            f"this node cannot write replies in {asked[:64]!a}", name="require-codec", hint=_codec_hint()
        )
    return Wants(
        codec=codec,
        accept=accept_text,
        bundle=bundle is True or bundle == b"true",
        allow_headers=sent.get("access-control-request-headers"),
        head=method == "HEAD",
        body_type=body_type,
    )


def _codec_hint() -> str:
    return f"Use one of {', '.join(sorted(CODECS))}."


def _headers(todo: Plan, raw: RawRequest, values: list[bytes]) -> dict[str, bytes]:
    """Return the headers that enter the message; those sent twice are joined with a comma."""
    found: dict[str, list[bytes]] = {}
    for at, name in todo.keys:
        found.setdefault(name, []).append(values[at])
    out = {name: b", ".join(texts) for name, texts in found.items()}
    if "signature-input" in out:
        for at, (header, _) in enumerate(raw.headers):
            if header == b"content-length":
                out.setdefault("content-length", values[at])
    return out


def _query(target: bytes) -> dict[str, Value]:
    """Return the query's keys, decoded once; a key without ``=`` is true; the last of a name wins."""
    pairs = target.partition(b"?")[2].split(b"&", _MAX_QUERY_KEYS)
    if len(pairs) > _MAX_QUERY_KEYS:
        raise SizeError(f"the query has more than {_MAX_QUERY_KEYS} keys")
    out: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition(b"=")
        if name:
            key = key_text(unquote_to_bytes(name.replace(b"+", b" ")))
            out[key] = unquote_to_bytes(text.replace(b"+", b" ")) if equals else True
    return out


# -- requests that need decoding ---------------------------------------------------------------


def _decode(
    raw: RawRequest,
    sent: dict[str, bytes],
    query: Mapping[str, Value],
    private: Mapping[str, Any],
    target: bytes,
    rules: Rules,
) -> tuple[Message, Mapping[str, Any]]:
    """Return the verified message, and those of its keys that are no mere headers.

    Where a signature in the headers covers a JSON body, the message is what was signed, the body as it came; the
    keys that the JSON holds are beside it, as uncommitted as those a node adds, and replace nothing.
    """
    codec = _codec(sent, query)
    if "content-digest" in sent:
        _check_digest(sent["content-digest"], raw.body, signed="signature-input" in sent)
    if codec == HTTPSIG:
        message = _httpsig(raw, sent, private, target)
        if raw.body and may_name_private(raw.body):
            _refuse_private(message)
        if message.commitments:
            return message, message.raw_items()
        extra = {**_host(sent, rules), **_loose(query, sent)}
        return (Message.make({**message.raw_items(), **extra}) if extra else message), {}
    decoded: Message | tuple[Value, ...]
    if codec == ANS104:
        decoded = ans104.decode_message(raw.body)
    elif codec == JSON:
        bare = not raw.body and raw.method in ("GET", "HEAD")  # some clients name the type of no body, too
        decoded = Message() if bare else json.decode(raw.body)
    elif codec == FLAT:
        decoded = structured.decode(flat.deserialize(raw.body))
    else:
        raise ParameterError(f"this node cannot read {codec[:64]!a}", name="codec-device", hint=_codec_hint())
    if not isinstance(decoded, Message):
        raise CodecError("the body is a list; a request must be a map of keys", hint='Wrap it: {"body": [...]}.')
    _verify(decoded, {})
    if codec != ANS104 and may_name_private(raw.body):
        _refuse_private(decoded)
    if codec == ANS104:
        return decoded, decoded.raw_items()
    if any("committer" in one for one in decoded.commitments.values()):
        kept = _only_committed(decoded)  # as in the HTTP form: nobody adds to what was signed
        return kept, kept.raw_items()
    if codec == JSON and "signature-input" in sent:
        signed = _httpsig(raw, sent, private, target)
        if signed.raw("body") == raw.body and "body" in signed.committed_keys():
            return Message.make({**decoded.raw_items(), **signed.raw_items()}, signed.commitments), signed.raw_items()
    own = {**_texts(sent), **_host(sent, rules), **_loose(query, sent), **decoded.raw_items()}
    return Message.make(own, decoded.commitments), decoded.raw_items()


def _codec(sent: Mapping[str, bytes], query: Mapping[str, Value]) -> str:
    """Return the codec that a request names, by itself or by its content type (10.2.2)."""
    named = query.get("codec-device", sent.get("codec-device"))
    if isinstance(named, bytes):
        return key_text(named)
    return _codec_of(key_text(sent.get("content-type", b""))) or HTTPSIG


def _body_type(message: Message, sent: Mapping[str, bytes], query: Mapping[str, Value]) -> BodyType | None:
    """Return the content type that is a key of the message only because it came as a header with the body."""
    kind = sent.get("content-type")
    if kind is None or message.raw("content-type") is not kind or message.commitments:
        return None
    return BodyType(kind, _codec(sent, query) != HTTPSIG or _codec_of(key_text(kind)) == HTTPSIG)


def _refuse_private(item: Value) -> None:
    """Refuse a key that a path or header would not take: ``priv...``, but for its case, which codecs keep.

    Raises:
        ParameterError: there is one.
    """
    if isinstance(item, Message):
        if any(name.lower().startswith("priv") for name in item.raw_items()):
            raise ParameterError(
                "a key of the body begins with 'priv', which no message may",
                hint="Send what must not be recorded as a header: there the node takes it out.",
            )
        for child in item.raw_items().values():
            _refuse_private(child)
    elif isinstance(item, tuple):
        for child in item:
            _refuse_private(child)


def _verify(message: Message, private: Mapping[str, Any]) -> None:
    """Check a message's commitments.

    Raises:
        InvalidSignature: one does not verify, or covers a credential.
        CommitmentError: one is malformed.
    """
    if not message.commitments:
        return
    for name in sorted(message.committed_keys()):
        if name.lower().startswith("priv") or (name in private and is_credential(name)):
            raise InvalidSignature(
                f"the signature covers the credential {name[:64]!a}, which must never be recorded",
                hint="Sign without it, and send it beside the signed keys.",
            )
    claimed = [name for name, one in message.commitments.items() if "committer" in one]
    try:
        commitments.check(message, ids=claimed)
    except InvalidSignature as error:
        raise InvalidSignature(f"Message is not valid. In it, {error.message}.", hint=error.hint) from None
    for name in claimed:
        commitments.refuse_untyped(message, message.commitments[name])


def _texts(sent: Mapping[str, bytes]) -> dict[str, Value]:
    """Return headers as keys of a message whose own form is in the body."""
    dropped = {"signature", "signature-input", "ao-types", "content-digest", "content-length", "body", "commitments"}
    return {name: text for name, text in sent.items() if name not in dropped and not name.endswith("+link")}


def _host(sent: Mapping[str, bytes], rules: Rules) -> dict[str, Value]:
    host = sent.get("host")
    return {} if host is None or rules.host_with_port else {"host": _PORT.sub(b"", host)}


def _loose(query: Mapping[str, Value], sent: Mapping[str, bytes]) -> Mapping[str, Value]:
    """Return the query's keys where the path is not the request's target, which carries them itself."""
    return query if "path" in sent else {}


def _httpsig(raw: RawRequest, sent: dict[str, bytes], private: Mapping[str, Any], target: bytes) -> Message:
    signed = "signature-input" in sent
    if signed:
        sent = {**_derived(sent, raw, target), **sent}
    covers_body = b'"content-digest"' in sent.get("signature-input", b"")
    body = raw.body if raw.body or covers_body or "content-digest" in sent else None
    decoded = structured.decode(httpsig.decode(sent, body))
    if not isinstance(decoded, Message):
        raise CodecError("the request is a list; a request must be a map of keys")
    if decoded.commitments:
        _verify(decoded, private)
        kept = _only_committed(decoded)
        items = {name: item for name, item in kept.raw_items().items() if name not in _UNKEPT}
        return Message.make(items, kept.commitments)
    items = {name: item for name, item in decoded.raw_items().items() if name not in _UNKEPT}
    if not raw.body and items.get("body") == b"":
        del items["body"]
    return Message.make(items)


def _only_committed(message: Message) -> Message:
    """Return a verified message with the keys that every commitment covers.

    Raises:
        InvalidSignature: one covers path or method, and another does not: the signature would stand under a request
            that its signer did not ask for.
    """
    kept = commitments.only_committed(message)
    for name in ("path", "method"):
        if name not in kept and name in message.committed_keys():
            raise InvalidSignature(
                f"one signature covers the {name}, and another does not", hint=f"Sign the {name} with every key."
            )
    return kept


def _derived(sent: Mapping[str, bytes], raw: RawRequest, target: bytes) -> dict[str, bytes]:
    """Return the values of covered names that come from the request line (http-clients.md 3.1)."""
    line = sent["signature-input"]
    sources = (
        ("path", target),
        ("method", raw.method.encode("ascii", "replace")),
        ("authority", sent.get("host", b"")),
    )
    return {name: text for name, text in sources if f'"@{name}"'.encode() in line or f'"{name}"'.encode() in line}


def _check_digest(header: bytes, body: bytes, *, signed: bool) -> None:
    """Compare ``content-digest`` with the body (10.2, ao-core 11 row 6).

    Raises:
        InvalidSignature: the digest is part of a signed message.
        CodecError: it is not.
    """
    if digest_matches(header, body):
        return
    if signed and not body:
        raise InvalidSignature(
            "the request signs a content-digest and has no body",
            hint="Some versions of ao-core-libs lose the body of long or multi-line data; send it as ANS-104.",
        )
    kind = InvalidSignature if signed else CodecError
    raise kind("content-digest does not fit the body", hint="The body changed on its way, or was hashed encoded.")
