"""Requests are spread over two nodes that are processes of their own; one is killed, and no request is lost."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperpy.testing import TestNode, node

CHILD = """
import sys, threading
from hyperpy.http.server import Server
from hyperpy.testing import node

with node(flags={"http.url": sys.argv[1], "rate-limit.requests": 0}) as n:
    server = Server(n.node, "127.0.0.1", 0)
    server.start()
    print(server.url, flush=True)
    threading.Event().wait()
"""
PATH = "/~meta@1.0/info/url"


class Peer:
    """A node in a process of its own."""

    def __init__(self, name: str) -> None:
        self.child = subprocess.Popen([sys.executable, "-c", CHILD, name], stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        self.url = self.child.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made = [Peer("one"), Peer("two")]
    yield made
    for peer in made:
        peer.kill()


def test_one_of_two_nodes_is_killed(peers: list[Peer]) -> None:
    urls = [peer.url for peer in peers]
    flags = {
        "relay.peers": urls,
        "routes.table": [{"template": "^/~meta@1.0/info/url", "nodes": urls, "strategy": "Random"}],
        "hooks.on": {"request": {"device": "router@1.0", "path": "preprocess"}},
    }
    with node(flags=flags) as n, ThreadPoolExecutor(8) as pool:

        def asked(times: int) -> Counter[str]:
            return Counter(pool.map(lambda _: _body(n), range(times)))

        before = asked(60)
        assert set(before) == {"one", "two"}
        assert min(before.values()) > 10
        running = [pool.submit(_body, n) for _ in range(60)]
        peers[0].kill()
        assert {answer.result() for answer in running} <= {"one", "two"}
        assert asked(60) == {"two": 60}


def _body(n: TestNode) -> str:
    reply = n.get(PATH)
    return reply.text("body") if reply["status"] == 200 else f"{reply['status']}: {reply.text('body', '')}"
