"""What auditing costs: replaying against computing, a receipt's verification and size, recording, bisection."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hyperpy import config
from hyperpy.audit.bisect import first_difference
from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source, replay_in_processes
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence, Plan
from hyperpy.bench.computing import Counter, compute_to, scheduled
from hyperpy.bench.measure import cpu
from hyperpy.bench.serving import NEW
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.schedule_rules import check_assignment
from hyperpy.slots import Slots
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
    return [*_slots(slots), *_paths(steps), *_branches(branches, steps), _bisection(), *_recording()]


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
            replayed = median(_replayed(evidence, plan) for _ in range(3))
            yield Figure(f"compute one slot, {name}", computed / count / 1000, "us")
            yield Figure(f"replay one slot, {name}", replayed / count / 1000, "us")
            yield Figure(f"replay / compute, {name}", replayed / computed, "x", 1.2)
            if not lua:
                checked = _signatures(node, evidence, process, count)
                yield Figure("of a slot's replay, its assignment's signature", checked / count / 1000, "us")
                yield _verified_slots(node, evidence, plan, count)


def _replayed(evidence: Evidence, plan: Plan) -> int:
    """Return the CPU nanoseconds of making a plan's steps again."""
    began = time.process_time_ns()
    report = replay(evidence, plan, Options(devices=(Counter,)))
    spent = time.process_time_ns() - began
    assert report.verdict is Verdict.REPRODUCED, report.as_json()["findings"]
    return spent


def _signatures(node: Node, evidence: Evidence, process: str, count: int) -> int:
    """Return the CPU nanoseconds of checking a schedule's signatures, which computing one's own does not."""
    schedule = list(Slots(evidence.store, evidence.cache, node.actors).range(process, 0, count - 1))
    began = time.process_time_ns()
    for one in schedule:
        check_assignment(process, one, (node.address,))
    return time.process_time_ns() - began


def _verified_slots(node: Node, evidence: Evidence, plan: Plan, count: int) -> Figure:
    """Measure the receipt of a process: two signatures a slot, the scheduler's and the sender's."""
    data = build(evidence, plan, sign=node.sign)
    found = cpu(lambda: verify(data), rounds=3, seconds=0.3)
    assert verify(data).verdict is Verdict.ATTESTED
    return Figure(f"verify a receipt of {count} slots, nothing made again", found[0] / 1000, "ms")


@contextmanager
def _node(*, durable: bool = False) -> Iterator[Node]:
    settings = config.load(environ={}, flags={"http.sign": False, "store.durable": durable, "limits.steps": 1_000_000})
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        made = Node(settings, key=RsaKey.generate(2048), store=LmdbStore(Path(folder)), operator="", devices=(Counter,))
        try:
            yield made
        finally:
            made.close()


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


def _branches(branches: int, steps: int) -> Iterator[Figure]:
    """Compare one worker process with two, on chains that do not hang together."""
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        settings = config.load(environ={}, flags={"http.sign": False})
        store = LmdbStore(Path(folder))
        with Node(settings, key=RsaKey.generate(2048), store=store, operator="", devices=(Counter,)) as node:
            bases = [Message({"device": "bench-counter@1.0", "count": number * 10**6}) for number in range(branches)]
            ends = [_chain(node, base, steps) for base in bases]
        source = Source(folder=folder)
        with source.open() as evidence:
            plans = [collect(evidence, end) for end in ends]
            whole = plans[0]
            for other in plans[1:]:
                whole.steps += other.steps
                whole.edges += other.edges
                whole.roots += other.roots
            alone, both = (_processes(source, evidence, whole, jobs) for jobs in (1, 2))
        name = f"replay of {branches} independent branches of {steps} steps, two processes against one"
        yield Figure(name + ", wall", alone[0] / both[0], "x", 1.7, least=True)
        yield Figure(name + ", CPU of the busier one", alone[1] / both[1], "x", 1.7, least=True)


def _processes(source: Source, evidence: Evidence, plan: Plan, jobs: int) -> tuple[float, float]:
    """Return the seconds that an audit takes: by the clock, and of CPU in the process that used more."""

    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began, own, theirs = time.monotonic(), time.process_time(), children()
    report = replay_in_processes(source, evidence, plan, Options(devices=(Counter,)), jobs=jobs)
    assert report.verdict is Verdict.REPRODUCED
    return time.monotonic() - began, max(time.process_time() - own, children() - theirs)


def _bisection() -> Figure:
    """Count how many states are compared to find one of 100,000 slots."""
    lie = 73_421
    found = first_difference(lambda slot: slot < lie, 99_999)
    assert found.slot == lie
    return Figure("states compared to find one of 100,000 slots", found.comparisons, "states", 20)


def _recording() -> Iterator[Figure]:
    """Compare a small request over HTTP with one of which everything is kept but the trail; replies are not signed.

    The client runs in another process, and the two kinds take turns.
    """
    with _node() as node:
        server = Server(node, "127.0.0.1", 0)
        server.start()
        try:
            for name, target in (("of one step", NEW), ("of two steps", "/~message@1.0&a={n}/set&b=1/a")):
                _asked_over_http(node, server.url, target)
                pairs = []
                for _ in range(7):
                    on = _asked_over_http(node, server.url, target)
                    with _unrecorded(node):
                        pairs.append((on, _asked_over_http(node, server.url, target)))
                on, off = (median(kind) for kind in zip(*pairs, strict=True))
                yield Figure(f"small request over HTTP {name}, recorded", on, "us")
                yield Figure(f"small request over HTTP {name}, without its trail", off, "us")
                yield Figure(f"the trail's part of a request {name}", (on - off) / on * 100, "%", 15)
        finally:
            server.stop()


def _asked_over_http(node: Node, url: str, target: str, requests: int = 800) -> float:
    """Return the CPU microseconds that this process spends on a new small request."""
    command = f"from hyperpy.bench.serving import drive; drive({url!r}, {target!r}, {requests})"
    began = time.process_time_ns()
    subprocess.run([sys.executable, "-c", command], check=True)  # noqa: S603
    getattr(node.store, "flush", lambda: None)()
    return (time.process_time_ns() - began) / requests / 1000


@contextmanager
def _unrecorded(node: Node) -> Iterator[None]:
    nothing = bytes(32)
    node.trail.append = lambda record, batch, slot=None: nothing  # type: ignore[method-assign,misc]
    node.trail.put_origin = lambda data, batch: nothing  # type: ignore[method-assign]
    try:
        yield
    finally:
        del node.trail.append, node.trail.put_origin
