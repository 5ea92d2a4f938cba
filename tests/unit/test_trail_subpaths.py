"""Sub-paths in a request: what of them the trail holds, and steps made again from it (design 3)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hyperpy import Context, Message, device, key
from hyperpy.cache import Batch
from hyperpy.encoding import key_text
from hyperpy.message import Resolve, Value
from hyperpy.testing import TestNode, node
from hyperpy.trail import Record

CALLS: dict[str, int] = {}


@device("probe@1.0")
class Probe:
    """Counts its calls."""

    @key
    def quick(self, a: int) -> int:
        CALLS["quick"] = CALLS.get("quick", 0) + 1
        return a * 2

    @key(deterministic=False)
    def dice(self, ctx: Context) -> bytes:
        CALLS["dice"] = CALLS.get("dice", 0) + 1
        return ctx.random(8).hex().encode()

    @key(deterministic=False)
    def told(self) -> bytes:
        return b"told"

    @key
    def joined(self, x: str, base: Message, ctx: Context) -> str:
        return f"{x} {key_text(ctx.resolve(base, 'dice'))}"

    @key
    def outer(self, base: Message, ctx: Context) -> Value:
        """Ask for dice in a sub-path of a request, then in the step itself."""
        path = (base, Message({"path": "dice"}))
        return ctx.resolve(base, Message({"path": "joined", "x": Resolve(path)}))


@pytest.fixture
def n() -> Iterator[TestNode]:
    CALLS.clear()
    with node(Probe) as made:
        yield made


def records_of(n: TestNode) -> dict[str, list[Record]]:
    """Return the records of a node's trail by key."""
    found: dict[str, list[Record]] = {}
    for name, _ in n.node.store.scan("trail"):
        record = n.node.trail.read(name)
        assert record is not None
        found.setdefault(record.key, []).append(record)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/~probe@1.0/joined&x=(~probe@1.0/dice)",
        "/~probe@1.0&x=(~probe@1.0/dice)/joined",
        "/~probe@1.0/joined&x=(~probe@1.0&y=(~probe@1.0/quick&a=1)/dice)",
    ],
)
def test_sub_paths_of_a_request_are_recorded_under_its_step(n: TestNode, path: str) -> None:
    body = n.get(path).text("body")
    assert CALLS["dice"] == 2
    found = records_of(n)
    assert {key: len(records) for key, records in found.items()} == {"joined": 1, "dice": 2}
    (top,) = found["joined"]
    assert not top.parent
    assert all(one.parent == top.id for one in found["dice"])
    results = [key_text(n.node.cache.read(one.result)["body"]) for one in n.node.trail.children(top.id)]  # type: ignore[index]
    assert " ".join(results) == body, "in the order in which they were made"
    assert len(top.oracles) == 1, "what the request holds by now is not asked for again"
    made = n.node.resolver.rerun(top, time.monotonic() + 10)
    assert (made.value, made.hashpath) == (body.encode(), top.hashpath_after)
    assert CALLS["dice"] == 2


def test_sub_paths_inside_a_device_are_oracles_in_their_order(n: TestNode) -> None:
    body = n.get("/~probe@1.0/outer").text("body")
    (top,) = records_of(n)["outer"]
    kept = [key_text(n.node.cache.read(one.result)["body"]) for one in top.oracles]  # type: ignore[index]
    assert " ".join(kept) == body
    assert n.node.resolver.rerun(top, time.monotonic() + 10).value == body.encode()
    assert CALLS["dice"] == 2


def test_a_result_taken_from_the_cache_has_the_sub_paths_of_its_own_request(n: TestNode) -> None:
    batch = Batch()
    ref = n.node.cache.put(Message({"device": "probe@1.0"}), batch)
    batch.commit(n.node.store)
    for _ in range(2):
        n.get(f"/{ref}/quick&a=3&b=(~probe@1.0/told)")
    assert CALLS["quick"] == 1
    found = records_of(n)
    assert sorted(bool(one.cached_from) for one in found["quick"]) == [False, True]
    assert {one.parent for one in found["told"]} == {one.id for one in found["quick"]}
