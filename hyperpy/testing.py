"""Helpers for testing devices: a node in memory, without sockets or files.

from hyperpy.testing import node

with node(Calc) as n:
    assert n.get("/~calc@1.0&a=1/add&b=2")["body"] == 3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hyperpy import config
from hyperpy.codecs import canonical
from hyperpy.commitments import unsigned_id
from hyperpy.http.wire import Ingress, RawReply, RawRequest, Rules, read, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message, Value
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore


@cache
def wallet(name: str = "node") -> RsaKey:
    """Return a throw-away RSA key, made once per process and name."""
    return RsaKey.generate(2048)


class TestNode:
    """A node in this process; ``get`` and ``post`` answer with the reply message."""

    __test__ = False

    def __init__(self, inner: Node) -> None:
        self.node = inner
        self.rules = Rules.of(inner.config)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Message:
        """Return the reply to a GET of a path; never raises."""
        return self.request("GET", path, headers)

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Message:
        """Return the reply to a POST."""
        return self.request("POST", path, headers, body)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Message:
        """Return the reply message to a request made as if it had come over HTTP."""
        return self.node.handle(self._ingress(method, path, headers, body))

    def http(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> RawReply:
        """Return the reply as HTTP carries it."""
        ingress = self._ingress(method, path, headers, body)
        return write(self.node.handle(ingress), ingress.wants)

    def _ingress(self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes) -> Ingress:
        lines = tuple((k.lower().encode(), v.encode("utf-8")) for k, v in (headers or {}).items())
        return read(RawRequest(method, path.encode("utf-8"), lines, body, "127.0.0.1"), self.rules)


@contextmanager
def node(*devices: str | Path | type, flags: Mapping[str, Any] | None = None) -> Iterator[TestNode]:
    """Run a node in memory with these devices; settings as ``{"http.sign": False}``."""
    settings = config.load(environ={}, flags=flags)
    inner = Node(settings, key=wallet(), store=MemoryStore(), operator=wallet("operator").address, devices=devices)
    try:
        yield TestNode(inner)
    finally:
        inner.close()


def assert_deterministic(device: type, path: str, *, times: int = 3) -> None:
    """Resolve a path on fresh and on used nodes and compare the results' IDs.

    Raises:
        AssertionError: two results differ.
    """
    seen: set[Any] = set()
    for _ in range(times):
        with node(device) as fresh:
            for _ in range(times):
                seen.add(_fingerprint(fresh.node.resolve(path)))
    assert len(seen) == 1, f"{path} gave {len(seen)} different results: the device is not deterministic"


def _fingerprint(item: Value) -> str | bytes:
    return unsigned_id(item) if isinstance(item, (Message, tuple)) else canonical.encode(item)
