"""What tests of processes share: two execution devices, and a node that schedules for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperpy import Message, commitments, config, device, hashpath, key
from hyperpy.capabilities import Head, Slots
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.sdk import Context
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet


@device("count@1.0")
class Count:
    """Counts the slots it computed; fails, waits or re-enters where a message's path says so."""

    computed = 0

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Count one more."""
        Count.computed += 1
        count = base.get("count", 0)
        body = request.get("body")
        assert isinstance(count, int)
        last = body.get("action", b"none") if isinstance(body, Message) else b"none"
        results = {"output": {"body": f"count {count + 1}"}, "seen": sorted(base.get("results", Message()))}
        return base | {"count": count + 1, "last": last, "results": results}

    @key
    def fail(self, base: Message) -> Message:
        """Fail in the same way on every machine."""
        raise ValueError("always")

    @key
    def bare(self, base: Message) -> int:
        """Return no message."""
        return 5

    @key
    def forgetful(self, base: Message) -> Message:
        """Return a message without anything of the base."""
        return Message({"count": 100})

    @key
    def selfish(self, base: Message, ctx: Context) -> Message:
        """Ask for the state that is being computed."""
        process = commitments.signed_id(base["process"])
        ctx.resolve(f"/{process}~process@1.0/now")
        return base

    @key
    def slow(self, base: Message) -> Message:
        """Take a tenth of a second."""
        time.sleep(0.1)
        return base | {"slow": base.get("slow", 0) + 1}  # type: ignore[operator]

    @key
    def for_ever(self, base: Message) -> Message:
        """Never end by itself."""
        while True:
            pass


@device("heap@1.0")
class Heap:
    """Counts in its private part, as a virtual machine does; a snapshot holds what is there."""

    normalized = 0

    @key
    def init(self, base: Message) -> Message:
        """Begin at 0."""
        return base.with_private(heap={"n": 0})

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Count one more; the count is not a key of the state."""
        heap = base.private["heap"]
        heap["n"] += 1
        return base | {"results": {"output": {"body": str(heap["n"])}}}

    @key
    def snapshot(self, base: Message) -> Message:
        """Return the count."""
        return Message({"body": base.private["heap"]["n"]})

    @key
    def normalize(self, base: Message) -> Message:
        """Take the count from the snapshot."""
        Heap.normalized += 1
        return base.with_private(heap={"n": base["snapshot"]["body"]}).without("snapshot")  # type: ignore[index,call-overload]

    @key
    def peek(self, base: Message) -> int:
        """Return the count."""
        return int(base.private["heap"]["n"])


class Place:
    """A node with processes, whose schedules the test writes itself, signed by the node."""

    def __init__(self, inner: Node, author: RsaKey) -> None:
        self.node = inner
        self.web = TestNode(inner)
        self.author = author
        self.slots: Slots = inner._lend["slots"]

    def definition(self, execution: str = "count@1.0", **more: Any) -> Message:
        """Return a signed process message."""
        made = {
            "device": "process@1.0",
            "type": "Process",
            "scheduler-device": "scheduler@1.0",
            "execution-device": execution,
            "scheduler": self.node.address,
            "random-seed": "1",
        }
        return commitments.commit(Message({**made, **more}), self.author)

    def spawn(self, execution: str = "count@1.0", **more: Any) -> str:
        """Store a process and schedule it as its own slot 0; return its ID."""
        made = self.definition(execution, **more)
        self.node._lend["store"].write(made)
        process = commitments.signed_id(made)
        self.schedule(process, made)
        return process

    def send(self, process: str, path: str = "compute", **items: Any) -> Message:
        """Schedule a signed message; return its assignment."""
        body = commitments.commit(Message({"target": process, "type": "Message", **items}), self.author)
        return self.schedule(process, body, path)

    def schedule(self, process: str, body: Message, path: str = "compute") -> Message:
        """Add an assignment of a message, whatever it is."""

        def build(head: Head) -> tuple[Message, Head]:
            chain = sha256(head.chain + commitments.signed_id(body).encode())
            made = {
                "path": path,
                "process": process,
                "slot": head.slot + 1,
                "timestamp": head.slot + 2,
                "hash-chain": b64u(chain),
                "base-hashpath": head.hashpath,
                "body": body,
                "type": "Assignment",
            }
            signed = self.node.sign(Message(made))
            after = hashpath.combine(head.hashpath, commitments.signed_id(signed))
            return signed, Head(head.slot + 1, chain, after, head.slot + 2)

        return self.slots.append(process, build, deadline=time.monotonic() + 30)

    def get(self, process: str, path: str) -> Message:
        """Return the reply to ``GET /<process>~process@1.0/<path>``."""
        return self.web.get(f"/{process}~process@1.0/{path}")

    def value(self, process: str, path: str) -> Any:
        """Return the body of a reply that must be 200."""
        reply = self.get(process, path)
        assert reply["status"] == 200, reply
        return reply["body"]

    def states(self, process: str, last: int) -> list[tuple[str, str | None]]:
        """Return ID and hashpath of every kept state."""
        found = []
        for slot in range(last + 1):
            state = self.slots.state(process, slot)
            assert state is not None, slot
            found.append((commitments.unsigned_id(state), state.hashpath))
        return found


@contextmanager
def place(
    *devices: type, store: Store | Path | None = None, flags: dict[str, Any] | None = None, name: str = "node"
) -> Iterator[Place]:
    """Run a node with the devices of this file and others; the same ``name`` has the same wallet."""
    kept = LmdbStore(store) if isinstance(store, Path) else store or MemoryStore()
    settings = config.load(environ={}, flags={"http.sign": False, **(flags or {})})
    inner = Node(
        settings, key=wallet(name), store=kept, operator=wallet("operator").address, devices=(Count, Heap, *devices)
    )
    try:
        yield Place(inner, wallet("author"))
    finally:
        inner.close()


def copy(other: Place, process: str, assignment: Message) -> None:
    """Add an assignment as it is to another node's schedule."""
    if assignment["slot"] == 0:
        other.node._lend["store"].write(assignment["body"])

    def build(head: Head) -> tuple[Message, Head]:
        path = hashpath.combine(head.hashpath, commitments.signed_id(assignment))
        chain = b64u_decode(assignment["hash-chain"])  # type: ignore[arg-type]
        return assignment, Head(head.slot + 1, chain, path, head.timestamp + 1)

    other.slots.append(process, build, deadline=time.monotonic() + 30)
