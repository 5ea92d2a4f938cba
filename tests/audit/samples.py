"""Small computations of twelve kinds, and the receipts of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from hyperpy import Context, Message, commitments, device, key
from hyperpy.audit.collect import collect
from hyperpy.audit.receipts import build
from hyperpy.audit.source import Evidence
from hyperpy.cache import Batch
from hyperpy.commitments import http_form
from hyperpy.store.base import Store
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from tests.devices.parts import Count, Place, place


@device("sample@1.0")
class Sample:
    """Adds, throws dice, fails, nests."""

    @key
    def add(self, base: Message, a: int = 0, b: int = 0) -> Message:
        """Return a message with the sum."""
        return base | {"sum": a + b, "a": a + 1}

    @key
    def total(self, a: int = 0) -> int:
        """Return a number alone."""
        return a * 2

    @key(deterministic=False)
    def dice(self, ctx: Context) -> bytes:
        """Return what nobody can make again."""
        return ctx.random(8).hex().encode()

    @key
    def told(self, base: Message, ctx: Context) -> Message:
        """Ask for dice."""
        return base | {"told": ctx.resolve(base, "dice")}

    @key
    def nest(self, a: int = 0) -> Message:
        """Return messages in messages, and lists."""
        return Message({"in": {"deep": {"a": a, "x": b"y" * 40}}, "list": [1, {"b": 2}, "three"]})

    @key
    def fail(self) -> Message:
        """Fail the same way on every machine."""
        raise ValueError("always")


DEVICES = (Sample, Count)
KINDS = (
    "chain",
    "literal",
    "oracle",
    "signed",
    "nested",
    "slots",
    "cached",
    "error",
    "part",
    "signed receipt",
    "snapshot",
    "signed request",
)


class Made:
    """A computation: the store it lies in, and what to ask for."""

    def __init__(self, store: Store, ref: str, slots: tuple[int, int] | None = None, part: str = "") -> None:
        self.store, self.ref, self.slots, self.part = store, ref, slots, part

    def receipt(self, **more: Any) -> bytes:
        """Return the receipt's file."""
        evidence = Evidence.of_store(self.store, "the sample")
        return build(evidence, collect(evidence, self.ref, slots=self.slots), part=self.part, **more)


def sign(message: Message) -> Message:
    """Sign as the node of these samples."""
    return commitments.commit(message, wallet("node"))


def after(here: Place, path: str) -> str:
    """Resolve a path and return the hashpath of the last recorded step."""
    known = {key for key, _ in here.node.store.scan("trail")}
    reply = here.web.get(path)
    if reply.hashpath is not None:
        return reply.hashpath
    fresh = [here.node.trail.read(key) for key, _ in here.node.store.scan("trail") if key not in known]
    tops = [record for record in fresh if record is not None and not record.parent]
    befores = {record.hashpath_before for record in tops}
    return next(record.hashpath_after for record in tops if record.hashpath_after not in befores)


def _posted(here: Place) -> str:
    """Let a signed message with a nested one be a base and a request."""
    batch = Batch()
    made = commitments.commit(Message({"device": "sample@1.0", "a": 5, "in": {"b": [1, 2]}}), wallet("author"))
    name = here.node.cache.reference(made, batch)
    batch.commit(here.node.store)
    return after(here, f"/{name}/add&b=3/total")


@contextmanager
def made(kind: str) -> Iterator[Made]:
    """Compute one sample."""
    with place(Sample, store=MemoryStore()) as here:
        store = here.node.store
        if kind in ("chain", "signed receipt"):
            yield Made(store, after(here, "/~sample@1.0&a=1/add&b=2/add&b=3"))
        elif kind == "signed request":
            path = "/~sample@1.0&a=1/add&b=2/add&b=3"
            form = http_form(
                commitments.commit(Message({"path": path, "method": "GET"}), wallet("author")), bundle=True
            )
            reply = here.web.request("GET", path, {key: value.decode() for key, value in form.headers.items()})
            yield Made(store, reply.hashpath or "")
        elif kind == "literal":
            yield Made(store, after(here, "/~sample@1.0&a=4/add&b=2/total"))
        elif kind == "oracle":
            yield Made(store, after(here, "/~sample@1.0&a=4/told"))
        elif kind == "signed":
            yield Made(store, _posted(here))
        elif kind in ("nested", "part"):
            yield Made(store, after(here, "/~sample@1.0&a=4/nest"), part="in/deep" if kind == "part" else "")
        elif kind == "slots":
            process = here.spawn()
            here.send(process, action="Inc")
            here.get(process, "now")
            yield Made(store, process, (0, 1))
        elif kind == "snapshot":
            process = here.spawn()
            for action in ("Inc", "Dec"):
                here.send(process, action=action)
            here.get(process, "now")
            yield Made(store, process, (2, 2))
        elif kind == "cached":
            batch = Batch()
            name = here.node.cache.put(Message({"device": "sample@1.0", "a": 7}), batch)
            batch.commit(store)
            after(here, f"/{name}/add&b=2")
            yield Made(store, after(here, f"/{name}/add&b=2/total"))
        elif kind == "error":
            yield Made(store, after(here, "/~sample@1.0&a=4/add&b=2/fail"))
        else:
            raise KeyError(kind)


@cache
def sample(kind: str) -> bytes:
    """Return the receipt of one sample; signed where its kind says so."""
    with made(kind) as one:
        return one.receipt(sign=sign) if kind in ("signed receipt", "part") else one.receipt()


__all__ = ["DEVICES", "KINDS", "Made", "Sample", "after", "made", "sample", "sign"]
