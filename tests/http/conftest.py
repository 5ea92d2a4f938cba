"""A node behind a real socket, under both servers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

from hyperpy import device, key
from hyperpy.http.app import App, Bounds
from hyperpy.http.server import Server
from hyperpy.testing import node

HANG_S = 50.0
"""Seconds after which a test that waits gives up: far more than anything here takes."""
BOUNDS = Bounds(body=1 << 20, deadline=20.0, threads=8, queue=400, idle=1.0, receive=4.0)


@device("nap@1.0")
class Nap:
    """Sleeps until a test wakes it; for tests of deadlines and queues."""

    asleep = threading.Semaphore(0)
    """Counts up for each call that has begun."""
    morning = threading.Event()

    @key(deterministic=False)
    def take(self) -> str:
        """Wait for the morning."""
        self.asleep.release()
        return "rested" if self.morning.wait(HANG_S) else "forgotten"


class Uvicorn:
    """uvicorn in a thread, with the methods of :class:`hyperpy.http.server.Server` that tests use."""

    def __init__(self, node: Any, bounds: Bounds) -> None:
        self.app = App(node, bounds=bounds)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, log_level="critical", h11_max_incomplete_event_size=1 << 20, http="h11")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.01)

    def stop(self, grace: float = 5.0) -> None:
        self._server.should_exit = True
        self._thread.join(grace)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(2.0)
        self.app.close()


Start = Callable[..., Any]


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Return a function that starts one of the two servers in front of a fresh node."""
    with ExitStack() as stack:

        def make(bounds: Bounds = BOUNDS) -> Any:
            inner = stack.enter_context(node(Nap, flags={"rate-limit.requests": 0})).node
            made = (
                Server(inner, "127.0.0.1", 0, bounds=bounds) if request.param == "granian" else Uvicorn(inner, bounds)
            )
            made.start()
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture
def nap() -> Iterator[type[Nap]]:
    """Return the device while it is night; at the end of the test everybody wakes."""
    Nap.morning.clear()
    Nap.asleep = threading.Semaphore(0)
    yield Nap
    Nap.morning.set()


@pytest.fixture(scope="module")
def server(start: Start) -> Any:
    """Return one running server for the tests that leave it as it was."""
    return start()
