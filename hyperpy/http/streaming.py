"""Answers that are sent while they are made, as server-sent events (WHATWG HTML, 9.2).

The request is resolved like any other. While it runs, its device hands over pieces (``ctx.emit``); they go out at once.
Nobody can sign a reply whose end is not known, so the whole reply, signed, with its hashpath, is the last event:
``event: result``, after the device's own. What it holds is what the same request gives without ``stream``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from hyperpy.errors import DeviceStopped
from hyperpy.http.form import RawReply, RawRequest

HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
)
_ROOM: Final = 64 << 20
"""Bytes of pieces that may wait for a slow reader; then it counts as gone."""


def may_stream(raw: RawRequest) -> bool:
    """Say whether a request could ask for a stream; whether it does is known when it is decoded."""
    named = b"stream" in raw.body or b"stream" in raw.target or any(name == b"stream" for name, _ in raw.headers)
    return raw.method == "POST" and named


class Pipe:
    """Carries pieces from the thread that computes to the event loop that sends. Made in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0
        self._gone = False

    def put(self, piece: bytes) -> None:
        """Hand over a piece; called in a thread.

        Raises:
            DeviceStopped: the reader has gone, or reads too slowly.
        """
        if self._gone or self._waiting > _ROOM:
            raise DeviceStopped("the caller has gone")
        self._waiting += len(piece)
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        except RuntimeError:
            raise DeviceStopped("the node is stopping") from None

    def leave(self) -> None:
        """Note that nobody reads any more."""
        self._gone = True

    async def pieces(self, answer: asyncio.Future[Any]) -> AsyncIterator[bytes]:
        """Yield pieces until the answer is there and no piece is left."""
        while True:
            following = asyncio.ensure_future(self._pieces.get())
            try:
                await asyncio.wait({following, answer}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done() and answer.done() and self._pieces.empty():
                    return
                piece = await following
            finally:
                following.cancel()
            self._waiting -= len(piece)
            yield piece


def last(reply: RawReply) -> bytes:
    """Return the last event: the whole reply; before it, if it is an error, the error as a plain event."""
    text = reply.body.decode("utf-8", "replace")
    told = {
        "status": reply.status,
        "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers},
        "body": text,
    }
    whole = b"event: result\ndata: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"
    if reply.status < 400:
        return whole
    is_document = (b"content-type", b"application/json") in reply.headers
    error = text if is_document else json.dumps({"error": {"message": text, "code": reply.status}})
    return b"data: " + error.encode() + b"\n\n" + whole
