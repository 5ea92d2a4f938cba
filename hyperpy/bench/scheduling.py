"""Scheduling: what a message costs from its signature to the disk, alone and with eight writers."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyperpy import config
from hyperpy.actors import ActorSystem
from hyperpy.bench.measure import Row, cpu
from hyperpy.cache import Cache
from hyperpy.capabilities import Head
from hyperpy.commitments import commit, signed_id
from hyperpy.encoding import b64u, sha256
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.slots import Slots
from hyperpy.store.lmdb import LmdbStore

WRITERS = 8
_EACH = 25
_SCHEDULER = Message({"device": "scheduler@1.0"})


def rows() -> list[Row]:
    """Measure scheduling on a store in a fresh folder; the last rows are wall time, as their names say."""
    key, user = RsaKey.generate(), RsaKey.generate()
    bare = cpu(lambda: key.sign_pss_sha512(b"x" * 600), rounds=3, seconds=0.5)
    found = [Row("bare RSA-4096 signature", *bare)]
    with _node(key) as node:
        name = _spawn(node, user)
        waiting = iter([_said(user, name, count) for count in range(2000)])
        once = cpu(lambda: _schedule(node, next(waiting)), rounds=5, seconds=0.4)
        found.append(
            Row("schedule one message: verified, signed, on the disk", *once, bare[0] * 1.6, 0, bare[0] / once[0])
        )
    for what, processes in (("a process each", WRITERS), ("one process", 1)):
        with _node(key) as node:
            found.append(_side_by_side(node, user, processes, f"schedule, {WRITERS} writers, {what}: wall"))
    return [*found, *_log()]


@contextmanager
def _node(key: RsaKey) -> Iterator[Node]:
    settings = config.load(environ={})
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        made = Node(settings, key=key, store=LmdbStore(Path(folder)), operator="")
        try:
            yield made
        finally:
            made.close()


def _schedule(node: Node, message: Message) -> None:
    node.resolve(_SCHEDULER, Message({"path": "schedule", "method": "POST", "body": message}), record=False)


def _spawn(node: Node, user: RsaKey, seed: int = 0) -> str:
    made = commit(Message({"type": "Process", "scheduler": node.address, "seed": seed}), user)
    _schedule(node, made)
    return signed_id(made)


def _said(user: RsaKey, process: str, count: int) -> Message:
    """Return a signed message about which nothing is remembered, as if it had just come."""
    made = commit(Message({"target": process, "action": "Inc", "data": f"message {count}"}), user)
    signed = {name: Message.make(dict(one.raw_items())) for name, one in made.commitments.items()}
    return Message.make(dict(made.raw_items()), signed)


def _side_by_side(node: Node, user: RsaKey, processes: int, name: str) -> Row:
    targets = [_spawn(node, user, seed) for seed in range(processes)]
    rounds = [
        [[_said(user, targets[w % processes], n) for n in range(_EACH)] for w in range(WRITERS)] for _ in range(3)
    ]
    found = sorted(_together([_all(node, messages) for messages in work]) for work in rounds)
    return Row(name, found[1], found[0], found[2])


def _all(node: Node, messages: Sequence[Message]) -> Callable[[], None]:
    def run() -> None:
        for message in messages:
            _schedule(node, message)

    return run


def _together(work: Sequence[Callable[[], None]]) -> float:
    """Run all at once; return wall microseconds per message."""
    threads = [threading.Thread(target=one) for one in work]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) * 1e6 / (len(work) * _EACH)


def _log() -> Iterator[Row]:
    """The slot log alone: assignments that nobody signed."""
    body = Message({"data": "x" * 500})

    def build(head: Head) -> tuple[Message, Head]:
        return Message({"slot": head.slot + 1, "body": body}), Head(head.slot + 1, bytes(32), "", 0)

    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        store, actors = LmdbStore(Path(folder)), ActorSystem()
        slots = Slots(store, Cache(store), actors)
        names = [b64u(sha256(b"%d" % number)) for number in range(WRITERS)]

        def write(process: str) -> Callable[[], None]:
            def run() -> None:
                for _ in range(_EACH):
                    slots.append(process, build, deadline=time.monotonic() + 60)

            return run

        one = 0.0
        for title, writers in (
            ("one writer", names[:1]),
            (f"{WRITERS} writers, a process each", names),
            (f"{WRITERS} writers, one process", names[:1] * WRITERS),
        ):
            found = sorted(_together([write(process) for process in writers]) for _ in range(5))
            one = one or found[2]
            yield Row(f"slot log, {title}: wall", found[2], found[0], found[-1], one / 3 if len(writers) > 1 else 0)
        actors.stop()
        store.close()
