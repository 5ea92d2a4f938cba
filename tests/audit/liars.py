"""Nodes that lie, made from real ones: their devices' code is changed while they run, their word for it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperpy import Message, commitments, config, device, key
from hyperpy.audit.fault import Peer
from hyperpy.commitments import commit
from hyperpy.errors import HyperpyError
from hyperpy.fault_proof import Proof, as_message
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.sdk import Context
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet


@device("tally@1.0")
class Tally:
    """Adds up what it is sent. A process's execution device that keeps all it knows in the state."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        body = request["body"]
        assert isinstance(body, Message)
        total = int(base.get("total", 0)) + int(body.text("by", "0"))  # type: ignore[call-overload]
        return base | {"total": total, "results": Message({"output": f"total {total}"})}

    @key
    def double(self, n: int) -> int:
        return 2 * n

    @key
    def pair(self, base: Message, n: int) -> Message:
        return base | {"first": n, "second": n + 1}

    @key
    def listed(self, n: int) -> list[int]:
        return [n, n + 1]

    @key
    def credential(self, base: Message) -> bytes:
        return b"known" if base.private.get("authorization") else b"unknown"

    @key
    def elsewhere(self, ctx: Context) -> Any:
        return ctx.resolve({"device": "tally@1.0"}, "clock")

    @key
    def looked_up(self, ctx: Context, at: str) -> Any:
        try:
            return ctx.resolve(at.encode(), "word")
        except HyperpyError:
            return b"absent"

    @key
    def careful(self, ctx: Context) -> Any:
        try:
            return ctx.resolve({"device": "tally@1.0"}, "clock")
        except HyperpyError:
            return b"the clock stands"

    @key
    def broken(self) -> Any:
        raise ValueError("on purpose")

    @key
    def another(self, ctx: Context, n: int) -> Any:
        return ctx.resolve({"device": "helper@1.0", "n": n}, "next")

    @key
    def perhaps(self, ctx: Context, n: int) -> Any:
        try:
            return ctx.resolve({"device": "helper@1.0", "n": n}, "next")
        except HyperpyError:
            return 0

    @key
    def in_slot(self, ctx: Context) -> bool:
        return ctx.strict

    @key(deterministic=False)
    def clock(self, ctx: Context) -> int:
        return int(ctx.now() * 1000)


@device("helper@1.0")
class Helper:
    """Somebody else's device."""

    @key
    def next(self, n: int) -> int:
        return n + 1


class Served:
    """A node with a server, its own wallet, and a way to ask it."""

    def __init__(self, node: Node, server: Server) -> None:
        self.node, self.server, self.url, self.address = node, server, server.url, node.address
        self.peer = Peer(server.url)


@contextmanager
def served(name: str, *devices: str | Path | type, flags: Mapping[str, Any] | None = None) -> Iterator[Served]:
    """Run a node on the loopback with a wallet of that name."""
    made = config.load(environ={}, flags={"rate-limit.requests": 0, "http.sign": True, **(flags or {})})
    node = Node(
        made, key=wallet(name), store=MemoryStore(), operator=wallet("operator").address, devices=devices or (Tally,)
    )
    server = Server(node, "127.0.0.1", 0)
    server.start()
    found = Served(node, server)
    try:
        yield found
    finally:
        found.peer.close()
        server.stop()
        node.close()


def corrupt(node: Node, name: str, which: str, change: Callable[..., Any]) -> None:
    """Change what a device's key answers: ``change`` gets what it would, and the base; its records go on as before."""
    loaded = node.registry.lookup(name)
    honest = loaded.spec.keys.get(which) or loaded.spec.default or loaded.spec.handler
    assert honest is not None

    def lie(instance: Any, **found: Any) -> Any:
        return change(honest.function(instance, **found), found)

    spec = dataclasses.replace(loaded.spec, keys={**loaded.spec.keys, which: dataclasses.replace(honest, function=lie)})
    if which not in loaded.spec.keys:
        spec = dataclasses.replace(
            loaded.spec, **{part: spec.keys[which] for part in ("default", "handler") if getattr(loaded.spec, part)}
        )
    node.registry._loaded[name] = dataclasses.replace(loaded, spec=spec, found={})


def judged(node: Node, message: Message, **more: Any) -> Message:
    """Return what a node says of a signed proof."""
    found = node.resolve({"device": "fault@1.0"}, {"path": "judge", "proof": message, **more})
    assert isinstance(found, Message)
    return found


def signed(proof: Proof) -> Message:
    """Return a proof signed by the challenger."""
    return commit(as_message(proof), wallet("challenger"))


def process(at: Served, execution: str = "tally@1.0", **more: Any) -> Message:
    """Return the definition of a process that a node schedules."""
    keys = {"device": "process@1.0", "type": "Process", "execution-device": execution, **more}
    return commit(Message({**keys, "scheduler": f"{at.address}?hint={at.url}"}), wallet("owner"))


def know(at: Served, message: Message) -> str:
    """Put a message into a node's store; return its signed ID."""
    at.node._lend["store"].write(message)
    return commitments.signed_id(message)
