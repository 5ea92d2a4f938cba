"""What computing costs: one slot of a Python device, ``now`` with nothing to do, and a long replay.

The schedule is signed beforehand and written straight into the store, so that only computing is measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hyperpy import commitments, config, hashpath
from hyperpy.bench.measure import Row, cpu
from hyperpy.cache import Batch
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, native, sha256
from hyperpy.http.wire import Ingress
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.sdk import device, key
from hyperpy.store.base import Put
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.schedule import write_assignment

SLOTS = 2_000
_AT_ONCE = 500


@device("bench-counter@1.0")
class Counter:
    """Counts: the least that a process can do."""

    @key
    def compute(self, base: Message) -> Message:
        """Count one more."""
        count = base.get("count", 0)
        assert isinstance(count, int)
        return base | {"count": count + 1, "results": {"output": {"body": f"count {count + 1}"}}}


_LUA = b"""
function compute(base, req)
  base.count = (base.count or 0) + 1
  base.results = { output = { body = "count " .. base.count } }
  return base
end
"""


class Point(NamedTuple):
    """One point of a long replay."""

    slots: int
    us: float
    rss_kb: int


@contextmanager
def scheduled(count: int, *, lua: bool = False) -> Iterator[tuple[Node, str]]:
    """Run a node in a folder of its own, with one process of so many slots; gives the process's ID.

    Args:
        lua: the process is a counter in Lua, not one in Python.
    """
    signer = RsaKey.generate(2048)
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder:
        settings = config.load(environ={}, flags={"http.sign": False})
        node = Node(settings, key=signer, store=LmdbStore(Path(folder)), operator="", devices=(Counter,))
        try:
            yield node, _filled(node, signer, count, lua)
        finally:
            node.close()


def _filled(node: Node, signer: RsaKey, count: int, lua: bool) -> str:
    module = commitments.commit(Message({"content-type": "application/lua", "body": _LUA}), signer)
    execution = {"execution-device": "lua@5.3a", "module": commitments.signed_id(module)}
    made = {
        "device": "process@1.0",
        "type": "Process",
        "scheduler-device": "scheduler@1.0",
        "scheduler": node.address,
        **(execution if lua else {"execution-device": "bench-counter@1.0"}),
    }
    definition = commitments.commit(Message(made), signer)
    for one in (module, definition):
        node._lend["store"].write(one)
    process = commitments.signed_id(definition)
    body = commitments.commit(Message({"target": process, "type": "Message", "action": "Inc"}), signer)
    name, path, chain = native(process), process, b""
    rows: list[Put] = []
    for slot in range(count):
        chain = sha256(chain + commitments.signed_id(body).encode())
        one = commitments.commit(_assignment(process, slot, path, chain, body), signer)
        path = hashpath.combine(path, commitments.signed_id(one))
        rows.append(("assignments", name + slot.to_bytes(8, "big"), write_assignment(one, chain)))
        batch = Batch()
        node.cache.put(one, batch)
        batch.commit(node.store)
        if len(rows) >= _AT_ONCE or slot == count - 1:
            node.store.write([*rows, ("heads", name, canonical.encode((slot, chain, path, slot + 1)))])
            rows = []
    return process


def _assignment(process: str, slot: int, path: str, chain: bytes, body: Message) -> Message:
    made: dict[str, Any] = {
        "path": "compute",
        "data-protocol": "ao",
        "variant": "ao.N.1",
        "process": process,
        "epoch": "0",
        "slot": slot,
        "block-height": 0,
        "block-hash": "A" * 43,
        "block-timestamp": 0,
        "timestamp": slot + 1,
        "base-hashpath": path,
        "hash-chain": b64u(chain),
        "body": body,
        "type": "Assignment",
    }
    return Message(made)


def compute_to(node: Node, process: str, slot: int) -> None:
    """Compute up to a slot, however many callers' times that takes."""
    for _ in range(10_000):
        reply = node.handle(Ingress(Message({"path": f"/{process}~process@1.0/compute={slot}/at-slot"})))
        if reply["status"] == 200:
            return
        if reply["status"] != 504:
            break
    raise AssertionError(f"slot {slot} was never computed: {reply}")


def rows(slots: int = SLOTS) -> list[Row]:
    """Measure one slot, and ``now`` with nothing to do; CPU of the whole node, store and children included."""
    found = []
    for name, lua, budget, peer in (("Python device", False, 150.0, 0.0), ("Lua counter", True, 1000.0, 11_500.0)):
        with scheduled(slots, lua=lua) as (node, process):
            found.append(Row(f"compute one slot, {name}", *_slots(node, process, slots), budget=budget, peer=peer))
            if not lua:
                asked = Message({"path": f"/{process}~process@1.0/now/count"})
                now = cpu(lambda node=node, asked=asked: node.handle(Ingress(asked)))  # type: ignore[misc]
                found.append(Row("now, nothing to do", *now, budget=1000.0, peer=20_000.0))
    return found


def _slots(node: Node, process: str, slots: int) -> tuple[float, float, float]:
    """Return (median, least, most) CPU microseconds a slot, over tenths of a schedule."""
    compute_to(node, process, 0)
    found = []
    step = slots // 10
    for slot in range(step, slots, step):
        began = _cpu_ns()
        compute_to(node, process, slot)
        found.append((_cpu_ns() - began) / step / 1000)
    compute_to(node, process, slots - 1)
    found.sort()
    return found[len(found) // 2], found[0], found[-1]


def _cpu_ns() -> int:
    """Return the CPU time of this process and of its running children; those in steps of a clock tick."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text("ascii").split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time_ns() + ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def replay(slots: int = 100_000, points: int = 10) -> list[Point]:
    """Compute a long schedule; return what a slot costs and how large the process is, along the way."""
    found = []
    with scheduled(slots) as (node, process):
        compute_to(node, process, 0)
        step = slots // points
        for slot in range(step, slots + 1, step):
            began = time.process_time_ns()
            compute_to(node, process, min(slot, slots - 1))
            found.append(Point(slot, (time.process_time_ns() - began) / step / 1000, _rss_kb()))
    return found


def _rss_kb() -> int:
    """Return the resident memory of this process that is not a file's, in KiB."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0
