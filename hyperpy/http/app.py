"""The ASGI application: bytes in, a worker thread, bytes out (design 2.2, 2.4, 5).

This module and :mod:`hyperpy.http.workers` alone are asynchronous. The event loop receives the request
within its limits, hands it to one of a bounded number of threads, and sends the reply; parsing,
verifying, resolving and signing happen in the thread. Only what takes microseconds and waits for
nothing is answered in the loop itself (:mod:`hyperpy.http.brief`). A request that waits longer than
its deadline is answered 504 while its thread may still finish and keep what it computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

from hyperpy.config import Config
from hyperpy.context import device_error
from hyperpy.errors import Busy, CodecError, DeviceTimeout, HyperpyError, SizeError
from hyperpy.http.brief import is_brief
from hyperpy.http.browsers import VARY, guarded
from hyperpy.http.form import Ingress, RawReply, RawRequest, Rules, Wants
from hyperpy.http.openai import shaped
from hyperpy.http.secrets import scrub_value
from hyperpy.http.streaming import HEADERS, Pipe, last, may_stream
from hyperpy.http.wire import answer_at_edge, read, without_cors, write, write_error
from hyperpy.http.workers import Workers, waited
from hyperpy.message import Message
from hyperpy.store.haste import WouldWait, haste

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_Task: TypeAlias = tuple[RawRequest, float, "Pipe | None"]
"""A request, until when (monotonic seconds) it may take, and who reads it while it is made, if somebody may."""

log = logging.getLogger("hyperpy.http")
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_WHOLE: Final = "Send as many bytes as content-length says, or whole chunks and the empty one at the end."
_SLACK: Final = 0.25
"""Seconds the node gets to notice the deadline by itself before the loop answers."""


class Answers(Protocol):
    """What the application needs of a node."""

    def handle(self, ingress: Ingress, *, deadline: float | None = None) -> Message:
        """Answer one request; never raises."""

    def is_prompt(self, peer: str) -> bool:
        """Say whether a small request of that client would wait for nothing now; see :mod:`hyperpy.http.brief`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the server accepts. Sizes in bytes, times in seconds.

    Attributes:
        queue: requests that may wait for a thread; more are answered 503.
        in_flight: bytes of all bodies being received or answered; more are answered 503.
        idle: longest pause between two pieces of a body.
        receive: longest time for a whole body.
    """

    body: int = 64 << 20
    header: int = 64 << 10
    headers: int = 256 << 10
    path: int = 64 << 10
    deadline: float = 30.0
    threads: int = 64
    queue: int = 1024
    in_flight: int = 512 << 20
    idle: float = 15.0
    receive: float = 300.0

    @classmethod
    def of(cls, config: Config) -> Bounds:
        """Return the bounds of a node."""
        limits = config.limits
        return cls(
            body=limits.body,
            header=limits.header,
            headers=limits.headers,
            path=limits.path,
            deadline=limits.deadline,
            threads=config.http.threads,
            in_flight=max(512 << 20, 2 * limits.body),
        )


class _Refused(Exception):
    """The request is answered before it reaches a thread, and its connection closed."""

    def __init__(self, status: int, error: HyperpyError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class App:
    """An ASGI application that answers with one node; what is not given, the node's settings say."""

    def __init__(
        self,
        node: Answers,
        *,
        bounds: Bounds | None = None,
        rules: Rules | None = None,
        default_request: str | None = None,
    ) -> None:
        config = getattr(node, "config", None) or Config()
        self.bounds = bounds or Bounds.of(config)
        self._node = node
        self._rules = rules or Rules.of(config)
        self._default_request = default_request or config.http.default_request
        self._cors = config.http.cors
        self._marks = [(b"tee-hardware", b"false")] if getattr(node, "evidence_kind", "") == "software" else []
        self._workers = Workers[_Task, RawReply](
            self._work,
            threads=self.bounds.threads,
            queue=self.bounds.queue,
            patience=self.bounds.deadline + _SLACK,
        )
        self._bytes = 0

    def close(self) -> None:
        """Let running requests end, and take no more."""
        self._workers.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: a request, or the server's lifespan."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        body = None
        try:
            raw = _head(scope, self.bounds)
            if not _is_bodiless(scope, raw):
                body = _Body(self, self.bounds)
                raw = RawRequest(raw.method, raw.target, raw.headers, await body.receive(raw, receive), raw.peer)
            answer = answer_at_edge(raw, self._default_request) or self._at_once(raw)
            if answer is None and may_stream(raw):
                answer = await self._streamed(raw, receive, send)
                if answer is None:
                    return
            reply = answer or await self._answer(raw)
        except _Refused as refused:
            raw = RawRequest(str(scope["method"]), scope.get("raw_path") or b"")
            reply = shaped(raw.target, write_error(refused.error, _plain_wants(scope), status=refused.status))
            reply.headers.append((b"connection", b"close"))
        finally:
            if body is not None:
                body.release()
        reply.headers += [VARY, *self._marks]
        await _send(reply if self._cors else without_cors(reply), raw.method, send)
        if log.isEnabledFor(logging.INFO):
            path = scrub_value(raw.target)[0].partition(b"?")[0][:200].decode("ascii", "backslashreplace")
            log.info("%s %s %d %.1f ms", raw.method, path, reply.status, (time.monotonic() - started) * 1e3)

    def _at_once(self, raw: RawRequest) -> RawReply | None:
        """Answer what takes microseconds here, in the event loop, if the node need not wait for anything. Else None."""
        if is_brief(raw) and self._node.is_prompt(raw.peer):
            with suppress(WouldWait), haste():
                return self._work((raw, time.monotonic() + self.bounds.deadline, None))
        return None

    async def _answer(self, raw: RawRequest, pipe: Pipe | None = None) -> RawReply:
        """Have a worker thread answer, within the deadline."""
        try:
            made = await self._workers.ask((raw, time.monotonic() + self.bounds.deadline, pipe))
        except HyperpyError as error:
            made = write_error(error, wants_of(raw))
        return shaped(raw.target, made)

    async def _streamed(self, raw: RawRequest, receive: Receive, send: Send) -> RawReply | None:
        """Answer in pieces, if there are any, and return None; else return the reply, which is still to be sent."""
        pipe = Pipe()
        answer = asyncio.ensure_future(self._answer(raw, pipe))
        gone = asyncio.ensure_future(_gone(receive, pipe))
        begun = False
        try:
            async for piece in pipe.pieces(answer):
                if not begun:
                    begun = True
                    headers = [*(HEADERS if self._cors else HEADERS[:3]), VARY, *self._marks]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            reply = await answer
            if not begun:
                return reply
            await send({"type": "http.response.body", "body": last(reply), "more_body": False})
            return None
        finally:
            pipe.leave()
            gone.cancel()

    def _work(self, task: _Task) -> RawReply:
        """Answer one request; runs in a worker thread and never raises."""
        raw, deadline, pipe = task
        wants = Wants(head=raw.method == "HEAD")
        try:
            if time.monotonic() > deadline:
                raise waited()
            ingress = read(raw, self._rules)
            wants = ingress.wants
            if pipe is not None and ingress.message.raw("stream") in (True, b"true"):
                ingress = replace(ingress, sink=pipe.put)
            return guarded(write(self._node.handle(ingress, deadline=deadline), wants), raw.headers)
        except HyperpyError as error:
            return write_error(error, wants_of(raw) if wants.accept == "*/*" else wants)
        except Exception as error:
            return write_error(device_error(error, "http", "request"), wants)


def wants_of(raw: RawRequest) -> Wants:
    """Return what the headers alone say of the wanted reply, for requests that do not decode."""
    accept = b"*/*"
    codec = None
    for name, value in raw.headers:
        if name == b"accept":
            accept = value
        elif name == b"require-codec" and b"json" in value:
            codec = "json@1.0"
    if codec is None and b"require-codec=json" in raw.target:
        codec = "json@1.0"
    return Wants(codec=codec, accept=accept.decode("latin-1"), head=raw.method == "HEAD")


def _plain_wants(scope: Scope) -> Wants:
    return wants_of(RawRequest(str(scope["method"]), b"", tuple(scope["headers"])[:100]))


def _head(scope: Scope, bounds: Bounds) -> RawRequest:
    """Return the request without its body, within the limits on path and headers."""
    path = scope.get("raw_path") or str(scope["path"]).encode("utf-8", "surrogateescape")
    query = scope.get("query_string") or b""
    target = path + b"?" + query if query else path
    if len(target) > bounds.path:
        raise _Refused(414, SizeError(f"the path is longer than {bounds.path} bytes"))
    headers = tuple([(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]])
    sizes = [len(name) + len(value) for name, value in headers]
    if sizes and max(sizes) > bounds.header:
        raise _Refused(431, SizeError(f"a header is longer than {bounds.header} bytes"))
    if sum(sizes) > bounds.headers:
        raise _Refused(431, SizeError(f"the headers are longer than {bounds.headers} bytes together"))
    client = scope.get("client")
    return RawRequest(str(scope["method"]).upper(), target, headers, b"", client[0] if client else "")


def _is_bodiless(scope: Scope, raw: RawRequest) -> bool:
    """Say whether the head of an HTTP/1 request says that no body follows (RFC 9112, 6.3)."""
    if scope.get("http_version") not in ("1.1", "1.0"):
        return False
    framing = [pair for pair in raw.headers if pair[0] in _FRAMING]
    return not framing or all(pair == (b"content-length", b"0") for pair in framing)


class _Body:
    """Receives one body and accounts for its bytes until the request is answered."""

    def __init__(self, app: App, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds
        self._held = 0

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self._app._bytes -= self._held
        self._held = 0

    async def receive(self, raw: RawRequest, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            _Refused: it is too long, comes too slowly, or too many bytes are in flight.
        """
        bounds = self._bounds
        for name, value in raw.headers:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > bounds.body:
                raise _Refused(413, SizeError(f"the body is longer than {bounds.body} bytes"))
        pieces: list[bytes] = []
        until = time.monotonic() + bounds.receive
        while True:
            try:
                async with asyncio.timeout(min(bounds.idle, max(0.01, until - time.monotonic()))):
                    event = await receive()
            except TimeoutError:
                raise _Refused(408, DeviceTimeout("the rest of the body did not arrive in time")) from None
            if event["type"] == "http.disconnect":
                raise _Refused(400, CodecError("the body is cut off, or its chunks are damaged", hint=_WHOLE))
            piece = event.get("body", b"")
            if piece:
                self._take(len(piece))
                pieces.append(piece)
            if not event.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take(self, count: int) -> None:
        self._held += count
        self._app._bytes += count
        if self._held > self._bounds.body:
            raise _Refused(413, SizeError(f"the body is longer than {self._bounds.body} bytes"))
        if self._app._bytes > self._bounds.in_flight:
            raise _Refused(503, Busy("the node is receiving too much at once"))


async def _gone(receive: Receive, pipe: Pipe) -> None:
    """Wait until the client has gone, and say so."""
    while (await receive())["type"] != "http.disconnect":
        pass
    pipe.leave()


async def _send(reply: RawReply, method: str, send: Send) -> None:
    headers = reply.headers
    if reply.status not in (204, 304):
        headers = [*headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
