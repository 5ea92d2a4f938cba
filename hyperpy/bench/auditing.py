"""What auditing costs: replaying against computing, a receipt's verification and size, recording, bisection."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hyperpy import config
from hyperpy.audit.bisect import first_difference
from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source, replay_in_processes
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.bench.computing import Counter, compute_to, scheduled
from hyperpy.bench.measure import cpu
from hyperpy.http.wire import Ingress
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify

SLOTS, STEPS, BRANCHES = 500, 1000, 40


class Figure(NamedTuple):
    """One figure: what was measured, its value, its unit, and what it should not pass (or reach, if ``least``)."""

    name: str
    value: float
    unit: str
    aim: float = 0.0
    least: bool = False


def rows(slots: int = SLOTS, steps: int = STEPS, branches: int = BRANCHES) -> list[Figure]:
    """Measure all of it; CPU time unless a name says wall."""
    return [*_slots(slots), *_paths(steps), *_branches(branches, slots), _bisection(), *_recording()]


def _slots(count: int) -> Iterator[Figure]:
    """Compare computing a process with replaying it from the store alone."""
    for name, lua in (("Python device", False), ("Lua counter", True)):
        with scheduled(count, lua=lua) as (node, process):
            compute_to(node, process, 0)
            began = time.process_time_ns()
            compute_to(node, process, count - 1)
            computed = time.process_time_ns() - began
            evidence = Evidence.of_store(node.store, "the store")
            plan = collect(evidence, process, slots=(0, count - 1))
            began = time.process_time_ns()
            report = replay(evidence, plan, Options(devices=(Counter,)))
            replayed = time.process_time_ns() - began
            assert report.verdict is Verdict.REPRODUCED, report.as_json()["findings"]
            yield Figure(f"compute one slot, {name}", computed / count / 1000, "us")
            yield Figure(f"replay one slot, {name}", replayed / count / 1000, "us")
            yield Figure(f"replay / compute, {name}", replayed / computed, "x", 1.2)


@contextmanager
def _node(*, durable: bool = False) -> Iterator[Node]:
    settings = config.load(environ={}, flags={"http.sign": False, "store.durable": durable, "limits.steps": 1_000_000})
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        made = Node(settings, key=RsaKey.generate(2048), store=LmdbStore(Path(folder)), operator="", devices=(Counter,))
        try:
            yield made
        finally:
            made.close()


def _asked(node: Node, path: str) -> Message:
    return node.handle(Ingress(Message({"path": path})))


def _paths(count: int) -> Iterator[Figure]:
    """Measure chains of steps, and receipts of them: what verifying costs, and how large they are."""
    sizes: dict[int, int] = {}
    for steps in sorted({10, 100, count}):
        with _node() as node:
            base = Message({"device": "bench-counter@1.0"})
            began = time.process_time_ns()
            after = _chain(node, base, steps)
            made = time.process_time_ns() - began
            evidence = Evidence.of_store(node.store, "the store")
            plan = collect(evidence, after)
            assert len(plan.steps) == steps, (len(plan.steps), steps)
            data = build(evidence, plan, sign=node.sign)
            sizes[steps] = len(data)
            if steps != count:
                continue
            found = cpu(lambda data=data: verify(data), rounds=5, seconds=0.3)  # type: ignore[misc]
            assert verify(data).verdict is Verdict.ATTESTED
            yield Figure(f"verify a receipt of {steps} steps, nothing made again", found[0] / 1000, "ms", 100.0)
            began = time.process_time_ns()
            report = replay(evidence, plan, Options(devices=(Counter,)))
            again = time.process_time_ns() - began
            assert report.verdict is Verdict.REPRODUCED
            yield Figure("replay / compute, a chain of steps", again / made, "x", 1.2)
    for steps, size in sizes.items():
        yield Figure(f"receipt of {steps} steps, bytes a step", size / steps, "B")


def _chain(node: Node, base: Message, count: int) -> str:
    """Resolve a chain of steps, each recorded; return the hashpath behind it."""
    state: Any = base
    for _ in range(count):
        state = node.resolve(state, Message({"path": "compute"}))
    assert isinstance(state, Message)
    assert state.hashpath is not None
    return state.hashpath


def _branches(branches: int, slots: int) -> Iterator[Figure]:
    """Compare one worker process with two, on chains that do not hang together."""
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        settings = config.load(environ={}, flags={"http.sign": False})
        store = LmdbStore(Path(folder))
        with Node(settings, key=RsaKey.generate(2048), store=store, operator="", devices=(Counter,)) as node:
            bases = [Message({"device": "bench-counter@1.0", "branch": number}) for number in range(branches)]
            ends = [_chain(node, base, slots) for base in bases]
        times: dict[int, float] = {}
        source = Source(folder=folder)
        for jobs in (1, 2):
            with source.open() as evidence:
                plans = [collect(evidence, end) for end in ends]
                whole = plans[0]
                for other in plans[1:]:
                    whole.steps += other.steps
                    whole.edges += other.edges
                    whole.roots += other.roots
                began = time.monotonic()
                report = replay_in_processes(source, evidence, whole, Options(devices=(Counter,)), jobs=jobs)
                times[jobs] = time.monotonic() - began
                assert report.verdict is Verdict.REPRODUCED
        name = f"replay of {branches} independent branches, wall, two processes against one"
        yield Figure(name, times[1] / times[2], "x", 1.7, least=True)


def _bisection() -> Figure:
    """Count how many states are compared to find one of 100,000 slots."""
    lie = 73_421
    found = first_difference(lambda slot: slot < lie, 99_999)
    assert found.slot == lie
    return Figure("states compared to find one of 100,000 slots", found.comparisons, "states", 20)


def _recording() -> Iterator[Figure]:
    """Compare a small request with one of which everything is kept but the trail; replies are not signed."""
    numbers = iter(range(1, 10_000_000))

    def ask(node: Node) -> Callable[[], object]:
        return lambda: _asked(node, f"/~message@1.0&a={next(numbers)}/set&b=1/a")

    with _node() as node:
        settle = getattr(node.store, "flush", lambda: None)
        on = cpu(ask(node), settle=settle)
        nothing = bytes(32)
        node.trail.append = lambda record, batch, slot=None: nothing  # type: ignore[method-assign,misc]
        node.trail.put_origin = lambda data, batch: nothing  # type: ignore[method-assign]
        off = cpu(ask(node), settle=settle)
    yield Figure("small request, recorded", on[0], "us")
    yield Figure("small request, without its trail", off[0], "us")
    yield Figure("the trail's part of the whole request", (on[0] - off[0]) / on[0] * 100, "%", 15)
