"""The outgoing side: messages to peers over HTTP, and their replies back as verified messages.

Nothing is followed or resolved on a peer's word: no redirects, no proxies or credentials of the
environment, and the peer is compared with the operator's list (scheme, host, port) before a
connection is made. Paths are sent raw.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import httpx2

from hyperpy.errors import Forbidden, HyperpyError, PathError, UpstreamError
from hyperpy.http.egress import http_message
from hyperpy.http.replies import decode_reply as decode_reply
from hyperpy.message import Message

MAX_REPLY: Final = 64 << 20
"""Bytes of a reply's body that are read."""
_URL = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?", re.IGNORECASE
)
_TARGET = re.compile(rb"/[!-~\x80-\xff]*")
_METHOD = re.compile(r"[A-Z]{1,16}")
_RESERVED: Final = frozenset(
    {"host", "connection", "authorization", "proxy-authorization", "cookie", "set-cookie", "expect", "secret"}
)
"""Keys that would mean something else as headers of a request."""


class Origin(NamedTuple):
    """Whom a URL names."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The URL without a path."""
        return f"{self.scheme}://{self.host}:{self.port}"


def parse_url(url: str) -> tuple[Origin, str]:
    """Return the origin of an http(s) URL and its path, without a slash at its end.

    Raises:
        PathError: anything else, names before an ``@`` included.
    """
    match = _URL.fullmatch(url) if len(url) <= 8192 else None
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise PathError(f"{url[:100]!a} is no peer", hint="Name it as http://HOST:PORT or https://HOST.")
    scheme = match[1].lower()
    port = int(match[3]) if match[3] else 443 if scheme == "https" else 80
    return Origin(scheme, match[2].lower(), port), (match[4] or "").rstrip("/")


class Connection:
    """A pool of HTTP connections, used by all threads."""

    def __init__(self, *, timeout: float = 30.0, connect: float = 5.0, max_reply: int = MAX_REPLY) -> None:
        self._timeout = timeout
        self._max_reply = max_reply
        self._options = httpx2.Timeout(timeout, connect=connect, pool=connect)
        self._client: httpx2.Client | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def exchange(self, origin: Origin, form: RequestForm) -> Message:
        """Send a request to an origin; return its reply, decoded and verified.

        Raises:
            UpstreamError: the peer cannot be reached, answers too slowly or too much.
            CodecError: the reply does not decode.
            InvalidSignature: a signature on the reply does not verify.
        """
        target, method, headers, body = form
        url = origin.url + "/"
        try:
            with self._http().stream(
                method, url, headers=headers, content=body or None, extensions={"target": target}
            ) as answer:
                data = self._body(answer, time.monotonic() + 2 * self._timeout)
                return decode_reply(answer.status_code, answer.headers.raw, data)
        except httpx2.HTTPError as error:
            made = UpstreamError(f"{origin.url} did not answer ({type(error).__name__})")
            made.answered = False
            made.unsent = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
            raise made from None

    def headers(self, origin: Origin, form: RequestForm) -> list[tuple[bytes, bytes]]:
        """Return the headers that a request goes out with: what the origin's node makes its message from."""
        made = self._http().build_request(
            form.method, origin.url + "/", headers=form.headers, content=form.body or None
        )
        return [(name.lower(), value) for name, value in made.headers.raw]

    def _http(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                limits = httpx2.Limits(max_connections=64, max_keepalive_connections=16)
                self._client = httpx2.Client(
                    http1=True,
                    http2=True,
                    timeout=self._options,
                    limits=limits,
                    trust_env=False,
                    follow_redirects=False,
                )
            return self._client

    def _body(self, answer: httpx2.Response, until: float) -> bytes:
        pieces = []
        size = 0
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > self._max_reply:
                raise UpstreamError(f"the reply is longer than {self._max_reply} bytes")
            if time.monotonic() > until:
                raise UpstreamError("the reply came too slowly")
            pieces.append(piece)
        return b"".join(pieces)


class PeerClient:
    """The ``http`` capability: requests to the peers the operator allowed.

    Args:
        allowed: returns the allowed peers, as ``scheme://host:port``; asked at every call.
    """

    def __init__(self, allowed: Callable[[], Iterable[str]], *, timeout: float = 30.0) -> None:
        self._allowed = allowed
        self._connection = Connection(timeout=timeout)

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def allowed(self, peer: str) -> bool:
        """Say whether the operator lets this node talk to the peer."""
        try:
            origin, _ = parse_url(peer)
        except PathError:
            return False
        return origin in self._origins()

    def call(self, peer: str, request: Message) -> Message:
        """Send a request and return the decoded, verified reply.

        A path in the peer's URL is put before that of the request.

        Raises:
            Forbidden: the peer is not on the operator's list.
            PathError, CodecError: the peer's name, or the request, cannot be sent.
            UpstreamError: the peer cannot be reached or answers garbage.
        """
        origin, prefix = parse_url(peer)
        if origin not in self._origins():
            raise Forbidden(
                f"{origin.url} is no peer of this node", hint="The operator lists peers under [relay] peers."
            )
        if prefix:
            request = request | {"path": prefix + request.text("path", "/")}
        form = request_form(request)
        try:
            return self._connection.exchange(origin, form)
        except UpstreamError:
            raise
        except HyperpyError as error:
            raise UpstreamError(f"{origin.url} answered with what cannot be used: {error.message}") from None

    def _origins(self) -> set[Origin]:
        found = set()
        for name in self._allowed():
            try:
                found.add(parse_url(name)[0])
            except PathError:
                continue
        return found


# -- requests and replies as bytes -----------------------------------------------------------------


class RequestForm(NamedTuple):
    """An outgoing request as HTTP carries it."""

    target: bytes
    method: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def request_form(request: Message) -> RequestForm:
    """Return an outgoing request in HTTP form.

    Args:
        request: ``path`` (default ``/``) and ``method`` (default ``GET``, with a body ``POST``) are
            the request line, and headers too where a signature covers them.

    Raises:
        PathError: the path or method cannot stand in a request line.
        CodecError: a key cannot travel over HTTP.
    """
    target = request.text("path", "/").encode("utf-8", "surrogateescape")
    if not target.startswith(b"/"):
        target = b"/" + target
    covered = request.committed_keys()
    has_body = "body" in request or "data" in request
    method = request.text("method", "POST" if has_body else "GET").upper()
    if _TARGET.fullmatch(target) is None or _METHOD.fullmatch(method) is None:
        raise PathError("the path or method cannot stand in a request", hint="Escape blanks and quotes as %20, %22.")
    items = {k: v for k, v in request.raw_items().items() if k not in ("path", "method") or k in covered}
    if "accept-bundle" not in items:
        items["accept-bundle"] = b"true"
    headers, body = http_message(Message.make(items, request.commitments), bundle=True, reserved=_RESERVED)
    return RequestForm(target, method, headers, body)
