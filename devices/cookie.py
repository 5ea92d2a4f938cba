"""cookie@1.0: cookies in the private part of messages, and MACs with a secret kept in one.

The headers ``cookie`` and ``set-cookie`` never enter a message. A message's private part holds
``cookie`` (the header as it came, or the parsed map) and ``set-cookie`` (what the reply will set).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hyperpy import commitments, device, key
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import KeyNotFound, ParameterError, Unauthorized
from hyperpy.message import Message, Value, as_text
from hyperpy.sdk import Context

_DEVICE = "cookie@1.0"
_NOT_STORED = frozenset(
    {"path", "accept-bundle", "ao-peer", "host", "method", "body", "accept", "accept-encoding", "accept-language"}
    | {"user-agent", "connection", "referer", "origin", "dnt", "priority", "cache-control", "pragma", "content-type"}
    | {"content-length", "upgrade-insecure-requests", "if-none-match", "if-modified-since"}
)
"""What every browser sends is no cookie."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_BAD = re.compile(rb"[\x00-\x20\x7f\",;\\]")
_ATTRIBUTES = "; Path=/; HttpOnly; SameSite=Lax"


@device(_DEVICE)
class Cookie:
    """Reads and writes cookies; a secret provider for browsers."""

    @key(name="from", deterministic=False)
    def parse(self, base: Message) -> Message:
        """Return the message with the cookies of its headers parsed, in its private part."""
        return base.with_private(cookie=_cookies(base))

    @key(name="to", deterministic=False)
    def write(self, base: Message) -> Message:
        """Return the message whose cookies will be set by the reply that carries it."""
        return base.with_private(**{"set-cookie": [_line(name, text) for name, text in _cookies(base).items()]})

    @key(deterministic=False)
    def extract(self, base: Message, request: Message) -> Message:
        """Return the cookies of the request, else of the base, as a message."""
        return Message(_cookies(request) or _cookies(base))

    @key(deterministic=False)
    def get_cookie(self, base: Message, request: Message, format: str = "default") -> bytes:
        """Return the cookie named by ``key``: its value, or as a ``set-cookie`` or ``cookie`` header."""
        name = request.text("key", base.text("key", ""))
        found = {**_cookies(base), **_cookies(request)}.get(name)
        if found is None:
            raise KeyNotFound(f"there is no cookie '{name[:100]}'")
        if format == "set-cookie":
            return _line(name, found)
        if format == "cookie":
            return _pair(name, found)
        if format != "default":
            raise ParameterError("get-cookie: 'format' must be default, cookie or set-cookie", name="format")
        return found

    @key(deterministic=False)
    def store(self, base: Message, request: Message) -> Message:
        """Return the base with the request's keys as cookies, to be set by the reply."""
        new = {name: _value(name, request[name]) for name in request if _is_stored(name)}
        lines = [*_lines(base), *(_line(name, text) for name, text in new.items())]
        return base.with_private(**{"cookie": {**_cookies(base), **new}, "set-cookie": lines})

    @key(deterministic=False)
    def reset(self, base: Message) -> Message:
        """Return the base without cookies."""
        return base.with_private(**{"cookie": None, "set-cookie": None})

    @key(deterministic=False)
    def generate(self, request: Message, ctx: Context) -> Message:
        """Return the request with the caller's secret in its private part; a new one is set as cookie."""
        found = _secrets(request)
        if found:
            return request.with_private(secret=found[0])
        return _with_secret(request, b64u(ctx.random(64)).encode())

    @key(deterministic=False)
    def finalize(self, request: Message) -> Message:
        """Return the request's ``body``; what it must set as cookies rides in the private part."""
        inner = request.get("request")
        lines = [*_lines(request), *(_lines(inner) if isinstance(inner, Message) else [])]
        return Message({"body": request.get("body", ())}).with_private(**{"set-cookie": lines or None})

    @key(deterministic=False)
    def commit(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the message with a MAC by the secret in the caller's cookie, a new one if there is none."""
        found = _secrets(request)
        secret = found[0] if found else b64u(ctx.random(64)).encode()
        made = commitments.commit(base, None, device=_DEVICE, secret=secret)
        return made if found else _with_secret(made, secret).with_private(secret=None)

    @key(deterministic=False)
    def verify(self, base: Message, request: Message) -> bool:
        """Say whether a secret in the caller's cookies made a MAC of the message that fits."""
        found = _secrets(request)
        if not found:
            raise Unauthorized("The request has no cookie with a secret.")
        return any(_fits(base, secret) for secret in found)


def _fits(base: Message, secret: bytes) -> bool:
    named = b64u(sha256(secret))
    own = [name for name, one in base.commitments.items() if commitments.committer_of(one) == named]
    return bool(own) and commitments.verify(base, committers="none", ids=own, secret=secret)


def _with_secret(message: Message, secret: bytes) -> Message:
    name = f"secret-{b64u(sha256(secret))}"
    cookies = {**_cookies(message), name: secret}
    return message.with_private(
        **{"secret": secret, "cookie": cookies, "set-cookie": [*_lines(message), _line(name, secret)]}
    )


def _secrets(request: Message) -> list[bytes]:
    """Return the caller's secrets: the one a provider found, else those in cookies that are what their name says."""
    given = request.private.get("secret")
    if isinstance(given, bytes):
        return [given]
    cookies = _cookies(request).items()
    return [text for name, text in cookies if name == f"secret-{b64u(sha256(text))}"]


def _cookies(message: Message) -> dict[str, bytes]:
    """Return the cookies of a message's private part by name; parts that are no pairs are skipped."""
    held: Any = message.private.get("cookie")
    if isinstance(held, Mapping):
        return {name: text for name, text in held.items() if isinstance(text, bytes)}
    found: dict[str, bytes] = {}
    for pair in held.split(b";") if isinstance(held, bytes) else ():
        name, equals, text = pair.strip(b" \t").partition(b"=")
        if equals and _NAME.match(name):
            found.setdefault(name.decode("ascii"), text.strip(b'"'))
    return found


def _lines(message: Message) -> list[bytes]:
    held: Any = message.private.get("set-cookie")
    return [line for line in held if isinstance(line, bytes)] if isinstance(held, (list, tuple)) else []


def _is_stored(name: str) -> bool:
    return name not in _NOT_STORED and not name.startswith("sec-")


def _value(name: str, item: Value) -> bytes:
    text = as_text(item, name).encode("utf-8", "surrogateescape")
    if not _NAME.match(name.encode("utf-8", "surrogateescape")) or _BAD.search(text):
        raise ParameterError(f"store: '{name[:60]}' or its value cannot be a cookie", name=name)
    return text


def _pair(name: str, text: bytes) -> bytes:
    return name.encode("ascii") + b"=" + text


def _line(name: str, text: bytes) -> bytes:
    return _pair(name, text) + _ATTRIBUTES.encode("ascii")
