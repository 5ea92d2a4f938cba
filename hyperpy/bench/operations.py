"""The operations of the table, in process."""

from __future__ import annotations

import hmac
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperpy import commitments, config, hashpath, path
from hyperpy.bench.measure import Row, cpu
from hyperpy.cache import Batch
from hyperpy.codecs import httpsig, structured
from hyperpy.context import Chain, Frame
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore

TEN_STEPS = "/~message@1.0&a=1" + "".join(f"/set&k{n}=value-{n}" for n in range(9)) + "/k3"
"""A base and ten requests."""

TWENTY = {f"key-{n}": n * 1001 for n in range(20)}


@contextmanager
def plain_node(store: LmdbStore | None = None) -> Iterator[Node]:
    """Run a node without sockets, in memory unless a store is given."""
    made = Node(
        config.load(environ={}),
        key=RsaKey.generate(2048),
        store=store or MemoryStore(),
        operator="",
    )
    try:
        yield made
    finally:
        made.close()


def frame(node: Node, batch: Batch | None = None) -> Frame:
    """Return a fresh top-level frame."""
    return Frame(node.resolver, Chain(deadline=time.monotonic() + 3600, batch=batch, steps_left=1 << 30), 0, None)


def rows() -> list[Row]:
    """Measure everything in process; caches and trail off unless the name says record."""
    found: list[Row] = []
    with plain_node() as node:
        found += _resolving(node)
    found += _bytes()
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        store = LmdbStore(Path(folder))
        with plain_node(store) as node:
            found += _recording(node, store.flush)
    found += _signing()
    return found


def _row(name: str, operation: Callable[[], object], budget: float, peer: float, hashed: float = 0.0) -> Row:
    us, low, high = cpu(operation)
    return Row(name, us, low, high, budget, peer, hashed / us if hashed else None)


def _mac_cost(size: int, times: int = 1) -> float:
    data = bytes(size)
    return cpu(lambda: hmac.digest(b"constant:ao", data, "sha256"))[0] * times


def _resolving(node: Node) -> Iterator[Row]:
    base = Message(TWENTY)
    looked = Message({"path": "key-3"})
    here = frame(node)
    yield _row("key lookup", lambda: node.resolver.step(base, looked, here), 5, 20)
    numbers = iter(range(1 << 60))
    start = Message({"a": 1, "b": "two"}).with_private(hashpath="A" * 43 + "/b")

    def change() -> object:
        request = Message.make({"path": b"set", "k": b"%d" % next(numbers)})
        result = node.resolver.step(start, request, here)
        assert isinstance(result.value, Message)
        return commitments.unsigned_id(result.value), result.hashpath

    yield _row("one set, ID and hashpath", change, 20, 75, _mac_cost(120, 2))
    yield _row("parse a ten-step path", lambda: path.parse(TEN_STEPS.replace("a=1", f"a={next(numbers)}")), 40, 190)
    yield _row("ten-step path from text", lambda: node.resolver.many(path.parse(TEN_STEPS), here), 250, 1260)


def _recording(node: Node, settle: Callable[[], None]) -> Iterator[Row]:
    """Measure steps with store and trail record; bringing what they wrote into the tables is counted."""
    numbers = iter(range(1 << 60))
    start = Message({"a": 1, "b": "two"}).with_private(hashpath="A" * 43 + "/b")

    def change() -> None:
        batch = Batch()
        node.resolver.step(start, Message.make({"path": b"set", "k": b"%d" % next(numbers)}), frame(node, batch))
        batch.commit(node.store)

    yield Row("one set, store and trail record", *cpu(change, seconds=0.4, settle=settle), 45, 0)

    def walk() -> None:
        batch = Batch()
        text = TEN_STEPS.replace("a=1", f"a={next(numbers)}")
        node.resolver.many(path.parse(text), frame(node, batch))
        batch.commit(node.store)

    yield Row("ten-step path, with record", *cpu(walk, seconds=0.4, settle=settle), 600, 0)


def _bytes() -> Iterator[Row]:
    numbers = iter(range(1 << 60))

    def name() -> str:
        return commitments.unsigned_id(Message.make({**TWENTY, "key-0": next(numbers)}))

    yield _row("unsigned ID of 20 integer keys", name, 15, 91, _mac_cost(900))
    texts = {f"key-{n}": (b"value %d" % n if n % 2 else n) for n in range(20)}

    def there_and_back() -> object:
        form = httpsig.encode(structured.encode(Message.make({**texts, "key-0": next(numbers)})))
        return structured.decode(httpsig.decode(form.headers, form.body))

    yield _row("20 keys to HTTP form and back", there_and_back, 60, 70)
    prior = Message({"a": 1}).with_private(hashpath="A" * 43 + "/b")
    asked = Message({"path": "next"})
    yield _row("extend a hashpath by a bare key", lambda: hashpath.extend(prior, asked), 0, 0)


def _signing() -> Iterator[Row]:
    key = RsaKey.generate(4096)
    numbers = iter(range(1 << 60))
    bare = cpu(lambda: key.sign_pss_sha512(b"x" * 600), rounds=3, seconds=0.5)
    yield Row("bare RSA-4096 signature", *bare)

    def sign() -> Message:
        return commitments.commit(Message.make({**TWENTY, "key-0": next(numbers)}), key)

    us, low, high = cpu(sign, rounds=3, seconds=0.5)
    yield Row("commit: RSA and HMAC", us, low, high, bare[0] * 1.15, 14_000, bare[0] / us)
