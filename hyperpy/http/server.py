"""Runs the application under granian, in a thread of this process.

HTTP/1.1 and HTTP/2 (prior knowledge; no TLS: put a proxy in front) on one port. The listening
socket is made here, so that port 0 works and a taken port is an error before anything starts.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.net import SocketSpec  # type: ignore[attr-defined]
from granian.server.embed import Server as Embedded

from hyperpy.errors import ConfigError
from hyperpy.http.app import Answers, App, Bounds

_START_TIMEOUT: Final = 10.0
_BACKLOG: Final = 1024
_CONCURRENT: Final = 8192
"""Requests granian lets wait in the loop; slow clients sit here and hold no thread."""


class _Granian(Embedded):
    """granian on a socket of ours."""

    holder: Any

    def _init_shared_socket(self) -> None:
        self._shd = self.holder
        self._ssp = None


class Server:
    """One listening HTTP server. The port is taken when it is made; ``start`` serves."""

    def __init__(self, node: Answers, host: str, port: int, *, bounds: Bounds | None = None) -> None:
        self.app = App(node, bounds=bounds)
        self._holder, self.host, self.port = _listen(host, port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._granian: _Granian | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hyperpy-server", daemon=True)

    @property
    def url(self) -> str:
        """The server's URL, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Start serving; return once connections are accepted.

        Raises:
            ConfigError: the server does not start.
        """
        self._thread.start()
        until = time.monotonic() + _START_TIMEOUT
        while not self._accepts():
            if not self._thread.is_alive() or time.monotonic() > until:
                raise ConfigError(f"the HTTP server did not start: {self._failure}") from self._failure
            time.sleep(0.005)

    def stop(self, grace: float = 5.0) -> None:
        """Stop accepting, let running requests end within ``grace`` seconds, then close."""
        loop, thread = self._loop, self._thread
        if loop is None or not thread.is_alive():
            return
        loop.call_soon_threadsafe(self._interrupt)
        thread.join(grace)
        if thread.is_alive() and self._task is not None:
            loop.call_soon_threadsafe(self._task.cancel)
            thread.join(2.0)
        self.app.close()

    def wait(self) -> None:
        """Block until the server has stopped."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 0.5).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _interrupt(self) -> None:
        if self._granian is not None:
            self._granian.stop()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        """Run the event loop; the server's own thread."""
        try:
            with asyncio.Runner(loop_factory=_quick_loop()) as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failure = error

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        granian = self._granian = _Granian(
            self.app,
            address=self.host,
            port=self.port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            runtime_threads=1,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_CONCURRENT,
            http1_settings=HTTP1Settings(max_buffer_size=4 << 20, header_read_timeout=15_000),
            http2_settings=HTTP2Settings(max_headers_size=1 << 20, keep_alive_interval=30_000),
            log_enabled=False,
        )
        granian.holder = self._holder
        await granian.serve()


def _quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the quicker event loop, where there is one for this machine (an eighth of a small GET)."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


def _listen(host: str, port: int) -> tuple[Any, str, int]:
    """Return granian's socket holder, the address and the port it listens on.

    Raises:
        ConfigError: the host has no address, or the port is taken or not ours to take.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder = SocketSpec(str(address[0]), port, _BACKLOG).build()
        with socket.socket(fileno=os.dup(holder.get_fd())) as own:
            found = own.getsockname()
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}",
            hint="Choose another one with --port (0 takes a free one), or stop what uses it.",
        ) from None
    return holder, str(found[0]), int(found[1])


def serve(
    node: Answers,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[Server], None] | None = None,
    *,
    bounds: Bounds | None = None,
) -> Server:
    """Serve a node over HTTP from a thread of this process; return the running server.

    Args:
        port: 0 takes a free one; ``Server.port`` says which.
        ready: called once connections are accepted, before this returns.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    server = Server(node, host, port, bounds=bounds)
    server.start()
    if ready is not None:
        ready(server)
    return server
