"""What a link must not make a browser do (design 5).

Anybody can write a message into a link, and its keys are the headers of the reply. So keys that order
a browser about do not travel under their own name, and what is sent to a browser as a page is kept
out of this node's origin, where cookies are. Programs get the same messages as ever.
"""

from __future__ import annotations

import re
from typing import Final

from hyperpy.encoding import key_bytes
from hyperpy.http.form import Headers, RawReply

ORDERS: Final = frozenset(
    {"set-cookie", "set-cookie2", "content-encoding", "refresh", "clear-site-data", "strict-transport-security"}
    | {"content-security-policy", "content-security-policy-report-only", "service-worker-allowed", "alt-svc", "nel"}
    | {"www-authenticate", "proxy-authenticate", "access-control-allow-credentials", "report-to", "reporting-endpoints"}
    | {"link", "vary", "x-content-type-options", "expect-ct", "public-key-pins", "accept-ch", "critical-ch"}
    | {"secure-session-registration", "sec-session-registration", "secure-session-challenge", "sec-session-challenge"}
    | {"attribution-reporting-register-source", "attribution-reporting-register-trigger", "shared-storage-write"}
    | {"speculation-rules", "set-login", "no-vary-search", "use-as-dictionary", "activate-storage-access"}
    | {"x-accel-redirect", "x-accel-buffering", "x-accel-expires", "x-accel-limit-rate", "x-accel-charset"}
    | {"x-sendfile", "x-sendfile2", "x-lighttpd-send-file", "x-lighttpd-send-tempfile", "x-reproxy-url"}
    | {"x-reproxy-file", "x-litespeed-location", "x-litespeed-purge", "x-litespeed-cache-control"}
    | {"surrogate-control", "cdn-cache-control"}
)
"""Keys that would be orders as headers, to a browser or to a proxy in front of this node."""
_INERT: Final = (b"application/json", b"text/plain", b"application/octet-stream", b"multipart/form-data", b"text/css")
"""Content types that no browser takes for a page; text without a type may be taken for one."""
_INERT_KINDS: Final = (b"image/", b"audio/", b"video/", b"font/")
_TYPE = re.compile(
    rb"([a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*)(?:[ \t]*;[ \t]*[a-z0-9-]+=[a-z0-9._:+-]+)*[ \t]*", re.IGNORECASE
)
"""One content type and its parameters: of a list, browsers take the last."""
_SANDBOX: Final = (b"content-security-policy", b"sandbox allow-scripts allow-popups")
"""A page may run, but in an origin of its own, without this node's cookies."""
_TYPED: Final = (b"x-content-type-options", b"nosniff")
"""What is no page stays none, whatever its bytes look like."""
VARY: Final = (
    b"vary",
    b"accept, accept-bundle, access-control-request-headers, authorization, cookie, require-codec, sec-fetch-mode",
)
"""The headers of a request that decide how one message is written, for whom, and whether in a sandbox."""
_LOCAL = re.compile(rb"/(?![/\\])[!-\[\]-~]*")


def hidden_name(key: str) -> bytes:
    """Return a header name that says nothing to HTTP and is read back as the key: its first byte is escaped."""
    raw = key_bytes(key)
    return b"%%%02x" % raw[0] + raw[1:]


def guarded(made: RawReply, asked: Headers) -> RawReply:
    """Return a reply as a browser may have it, if the request's own headers look like one's; else as it is."""
    if _wants_page(asked):
        made.headers.append(_TYPED)
        if not _is_inert(made.headers):
            made.headers.append(_SANDBOX)
        if 300 <= made.status < 400:
            made.headers = [_without_redirect(pair) for pair in made.headers]
    return made


def _wants_page(asked: Headers) -> bool:
    return any(
        (name == b"accept" and b"text/html" in value.lower()) or (name == b"sec-fetch-mode" and value == b"navigate")
        for name, value in asked
    )


def _without_redirect(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return a header; one that leads a browser to another origin under a name it does not know."""
    name, text = pair
    return (hidden_name("location"), text) if name == b"location" and _LOCAL.fullmatch(text) is None else pair


def _is_inert(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, text in headers:
        if name == b"content-type":
            found = _TYPE.fullmatch(text)
            kind = found[1].lower() if found else b""
            return kind in _INERT or (kind.startswith(_INERT_KINDS) and not kind.endswith(b"xml"))
    return False
