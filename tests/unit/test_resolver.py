"""Steps: caches, flights, the trail as a source, hooks (ao-core 7, design 3)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy import Context, Message, Result, config, device, key
from hyperpy.cache import Batch
from hyperpy.commitments import content_id
from hyperpy.encoding import native
from hyperpy.errors import DeviceTimeout, HyperpyError, KeyNotFound, NotCached
from hyperpy.flights import Flights
from hyperpy.message import Atom, Link, Resolve, Value
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet

CALLS: dict[str, int] = {}
OPEN = threading.Event()


def called(name: str) -> None:
    CALLS[name] = CALLS.get(name, 0) + 1


@device("probe@1.0")
class Probe:
    """Counts its calls."""

    @key
    def slow(self, a: int) -> int:
        called("slow")
        OPEN.wait(5)
        return a * 2

    @key
    def quick(self, a: int) -> int:
        called("quick")
        return a * 2

    @key
    def echo(self, request: Message) -> Message:
        called("echo")
        OPEN.wait(5)
        return Message.make({"x": b"1"}, private=request.private)

    @key
    def made(self) -> Message:
        called("made")
        return Message({"body": "made", "inner": {"y": "2"}})

    @key(deterministic=False)
    def dice(self, ctx: Context) -> bytes:
        called("dice")
        return ctx.random(8).hex().encode()

    @key
    def both(self, base: Message, ctx: Context) -> Message:
        called("both")
        return Message({"first": ctx.resolve(base, "dice"), "second": ctx.resolve(base, "dice")})

    @key
    def words(self, word: str) -> Result:
        return Result(word, b"seen")

    @key
    def sequence(self) -> Resolve:
        return Resolve((Message({"a": "7"}), Message({"path": "a"})))

    @key
    def listed(self) -> list[int]:
        return [5, 6]

    @key
    def nested(self, base: Message, ctx: Context) -> Value:
        return ctx.resolve(base, "quick")

    @key
    def missing(self) -> int:
        raise KeyNotFound("gone")

    @key(deterministic=False)
    def secret(self, base: Message) -> bytes:
        found = base.private.get("secret", b"none")
        return found if isinstance(found, bytes) else b"odd"


@device("gate@1.0")
class Gate:
    """Hooks."""

    @key(deterministic=False)
    def request(self, request: Message) -> Value | Result:
        asked = request.get("request")
        assert isinstance(asked, Message)
        if asked.get("word") == b"stop":
            return Result("error", Message({"status": 418, "body": "stopped"}))
        if asked.get("word") == b"other":
            return request | {"body": (Message({"a": "rewritten"}), Message({"path": "a"}))}
        return request

    @key(deterministic=False)
    def response(self, request: Message) -> Message:
        body = request["body"]
        assert isinstance(body, Message)
        return request | {"body": body | {"seen": "yes"}}


@pytest.fixture
def n() -> Iterator[TestNode]:
    CALLS.clear()
    OPEN.set()
    with node(Probe, Gate) as made:
        yield made


def kept(n: TestNode, **items: Any) -> str:
    """Put a base for the probe into the store; return its ID."""
    message = Message({"device": "probe@1.0", **items})
    batch = Batch()
    n.node.cache.put(message, batch)
    batch.commit(n.node.store)
    return content_id(message)


def forget(n: TestNode, *wanted: Message) -> TestNode:
    """Delete messages from the store, and return a node that never saw them."""
    store = n.node.store
    store.write([], [("messages", native(content_id(one))) for one in wanted])
    again = Node(config.load(environ={}), key=wallet(), store=store, operator="x", devices=[Probe, Gate])
    return TestNode(again)


def together(*work: Callable[[], Any]) -> list[Any]:
    """Run several calls at once; return what they returned, in their order."""
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i, w=w: found.update({i: w()})) for i, w in enumerate(work)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    OPEN.set()
    for thread in threads:
        thread.join(10)
    return [found[i] for i in range(len(work))]


# -- equal computations ------------------------------------------------------------------------


def test_equal_computations_at_the_same_time_run_once(n: TestNode) -> None:
    ref = kept(n, a=21)
    OPEN.clear()
    replies = together(*[lambda: n.get(f"/{ref}/slow")] * 5)
    assert [reply["body"] for reply in replies] == [42] * 5
    assert CALLS["slow"] == 1
    assert len({reply.hashpath for reply in replies}) == 1
    assert n.get(f"/{ref}/slow")["body"] == 42
    assert CALLS["slow"] == 1, "later ones are answered from the cache"


def test_who_waited_is_on_the_trail_too(n: TestNode) -> None:
    ref = kept(n, a=21)
    OPEN.clear()
    together(lambda: n.get(f"/{ref}/slow", {"x": "1"}), lambda: n.get(f"/{ref}/slow", {"x": "1"}))
    trail = n.node.trail
    records = [trail.read(name) for name, _ in n.node.store.scan("trail")]
    assert {record.key for record in records if record is not None} == {"slow"}
    assert all(record.result for record in records if record is not None)


def test_unequal_computations_run_each(n: TestNode) -> None:
    ref, other = kept(n, a=1), kept(n, a=2)
    OPEN.clear()
    replies = together(lambda: n.get(f"/{ref}/slow"), lambda: n.get(f"/{other}/slow"))
    assert [reply["body"] for reply in replies] == [2, 4]
    assert CALLS["slow"] == 2


def test_who_waited_sees_nothing_private_of_who_ran(n: TestNode) -> None:
    ref = kept(n)
    OPEN.clear()
    asks = [lambda word=word: n.get(f"/{ref}/echo/secret~probe@1.0", {"secret": word}) for word in ("one", "two")]
    replies = together(*asks)
    assert CALLS["echo"] == 1
    bodies = [reply["body"] for reply in replies]
    assert bodies.count(b"none") == 1
    assert set(bodies) < {b"none", b"one", b"two"}


def test_flights_share_results_and_errors_but_not_limits() -> None:
    flights: Flights[int] = Flights()
    started, go = threading.Event(), threading.Event()

    def lead(outcome: int | HyperpyError) -> Callable[[], int]:
        def work() -> int:
            started.set()
            go.wait(5)
            if isinstance(outcome, HyperpyError):
                raise outcome
            return outcome

        return work

    def follow(outcome: int | HyperpyError) -> Any:
        started.clear()
        go.clear()
        first: list[Any] = []

        def run() -> None:
            try:
                first.append(flights.run(b"k", lead(outcome), time.monotonic() + 5))
            except HyperpyError as error:
                first.append(error)

        leader = threading.Thread(target=run)
        leader.start()
        started.wait(5)
        threading.Timer(0.05, go.set).start()
        try:
            return flights.run(b"k", lambda: -1, time.monotonic() + 5)
        finally:
            leader.join(5)
            assert first

    assert follow(7) == (7, False)
    assert follow(DeviceTimeout("mine")) == (-1, True)
    with pytest.raises(KeyNotFound):
        follow(KeyNotFound("for all"))


def test_waiting_for_a_flight_ends_at_the_deadline() -> None:
    flights: Flights[int] = Flights()
    go = threading.Event()
    leader = threading.Thread(target=lambda: flights.run(b"k", lambda: int(go.wait(5)), time.monotonic() + 5))
    leader.start()
    time.sleep(0.05)
    with pytest.raises(DeviceTimeout):
        flights.run(b"k", lambda: 1, time.monotonic() + 0.05)
    go.set()
    leader.join(5)


# -- caches ------------------------------------------------------------------------------------


def test_only_if_cached(n: TestNode) -> None:
    ref = kept(n, a=1)
    asked = {"cache-control": "only-if-cached"}
    assert n.get(f"/{ref}/quick", asked)["status"] == NotCached.status
    assert "quick" not in CALLS
    assert n.get(f"/{ref}/dice", asked)["status"] == NotCached.status
    assert "dice" not in CALLS
    again = {"cache-control": "max-age=1, only-if-cached"}
    assert n.get(f"/{ref}/quick", {"cache-control": "max-age=1"})["body"] == 2
    assert n.get(f"/{ref}/quick", again)["status"] == NotCached.status, "another request, another result"


def test_no_cache_computes_again(n: TestNode) -> None:
    ref = kept(n, a=1)
    for _ in range(2):
        n.get(f"/{ref}/quick")
    assert CALLS["quick"] == 1
    for _ in range(2):
        assert n.get(f"/{ref}/quick", {"cache-control": "no-cache"})["body"] == 2
    assert CALLS["quick"] == 3


def test_what_a_device_sees_decides_what_is_equal(n: TestNode) -> None:
    ref = kept(n, a=1)
    n.get(f"/{ref}/quick")
    assert n.get(f"/{ref}/quick&a=5")["body"] == 10
    assert n.get(f"/{ref}/quick?a=6")["body"] == 12
    assert CALLS["quick"] == 3


def test_literals_come_out_of_the_cache_as_literals(n: TestNode) -> None:
    ref = kept(n, a=1)
    first, second = n.get(f"/{ref}/quick"), n.get(f"/{ref}/quick")
    assert dict(first.raw_items()) == dict(second.raw_items())
    assert first.hashpath == second.hashpath
    whole = [n.get(f"/{ref}/made") for _ in range(2)]
    assert CALLS["made"] == 1
    assert whole[0]["body"] == whole[1]["body"] == b"made"


def test_what_is_not_deterministic_is_never_cached(n: TestNode) -> None:
    ref = kept(n)
    assert n.get(f"/{ref}/dice")["body"] != n.get(f"/{ref}/dice")["body"]
    assert n.get(f"/{ref}/both")["first"] != n.get(f"/{ref}/both")["first"], "nor what was made from it"


# -- results by hashpath -------------------------------------------------------------------------


def test_a_hashpath_is_an_address(n: TestNode) -> None:
    reply = n.get("/~probe@1.0&a=1/made")
    assert n.get(f"/{reply.hashpath}")["body"] == b"made"
    assert n.get(f"/{reply.hashpath}/inner/y")["body"] == b"2"
    assert CALLS["made"] == 1
    missing = n.get("/" + "A" * 43 + "/nowhere")
    assert missing["status"] == 404
    assert "A" * 43 in missing.text("body")
    assert "/nowhere" in missing.text("body")


def test_a_lost_result_is_made_again(n: TestNode) -> None:
    reply = n.get("/~probe@1.0&a=1/made")
    again = forget(n, Message({"body": "made", "inner": {"y": "2"}}))
    assert again.get(f"/{reply.hashpath}")["body"] == b"made"
    assert CALLS["made"] == 2
    ref = content_id(Message({"body": "made", "inner": {"y": "2"}}))
    assert again.get(f"/{ref}")["body"] == b"made", "by the result's own ID too"
    assert CALLS["made"] >= 2


def test_oracles_are_injected_when_made_again(n: TestNode) -> None:
    reply = n.get("/~probe@1.0/both")
    assert CALLS["dice"] == 2
    made = Message({"first": reply["first"], "second": reply["second"]})
    again = forget(n, made).get(f"/{reply.hashpath}")
    assert (again["first"], again["second"]) == (reply["first"], reply["second"])
    assert (CALLS["both"], CALLS["dice"]) == (2, 2)


def test_a_lost_oracle_is_said_to_be_lost(n: TestNode) -> None:
    reply = n.get("/~probe@1.0/both")
    made = Message({"first": reply["first"], "second": reply["second"]})
    dice = Message({"ao-result": "body", "body": reply["second"]})
    again = forget(n, made, dice).get(f"/{reply.hashpath}")
    assert again["status"] == 404
    assert CALLS["dice"] == 2


def test_an_attested_step_is_not_made_again(n: TestNode) -> None:
    reply = n.get("/~probe@1.0/dice")
    again = forget(n, Message({"ao-result": "body", "body": reply["body"]}))
    assert again.get(f"/{reply.hashpath}")["status"] == 404
    assert CALLS["dice"] == 1


def test_errors_are_steps_too(n: TestNode) -> None:
    n.get("/~probe@1.0/missing")
    n.get("/~probe@1.0/quick")
    records = [n.node.trail.read(name) for name, _ in n.node.store.scan("trail")]
    assert {(one.key, one.status) for one in records if one} == {("missing", "not_found"), ("quick", "error")}


def test_sub_steps_are_recorded_where_they_cannot_be_made_again(n: TestNode) -> None:
    n.get("/~probe@1.0/both")
    n.get("/~probe@1.0&a=1/nested")
    records = [one for name, _ in n.node.store.scan("trail") if (one := n.node.trail.read(name))]
    tree = sorted((one.key, bool(one.parent), len(one.oracles)) for one in records)
    assert tree == [("both", False, 2), ("dice", True, 0), ("dice", True, 0), ("nested", False, 0)]


def test_without_recording_nothing_is_kept(n: TestNode) -> None:
    assert n.node.resolve("/~probe@1.0&a=2/quick", record=False) == 4
    assert not list(n.node.store.scan("trail"))


# -- what a step is --------------------------------------------------------------------------------


def test_a_chain_ends_at_the_first_other_status(n: TestNode) -> None:
    reply = n.get("/~probe@1.0/words&word=skip/size/more")
    assert reply["body"] == b"seen"


def test_a_sequence_as_result_is_resolved(n: TestNode) -> None:
    assert n.get("/~probe@1.0/sequence")["body"] == b"7"


def test_lists_are_maps(n: TestNode) -> None:
    assert n.get("/~probe@1.0/listed/2")["body"] == 6


def test_a_literal_has_no_keys(n: TestNode) -> None:
    reply = n.http("GET", "/~probe@1.0&a=1/quick/more")
    assert reply.status == 404
    assert b"literal" in reply.body


def test_links_are_loaded(n: TestNode) -> None:
    inner = kept(n, a=4)
    outer = Message({"child": Link(inner, n.node.cache.read)})
    assert n.node.resolve(outer, "child/quick") == 8


def test_errors_say_where(n: TestNode) -> None:
    with pytest.raises(HyperpyError) as caught:
        n.node.resolve("/~probe@1.0&a=1/made/quick~probe@1.0")
    assert (caught.value.device, caught.value.key) == ("probe@1.0", "quick")


def test_observers_hear_of_every_step(n: TestNode) -> None:
    seen: list[tuple[str, str, str]] = []
    n.node.resolver.observers.append(lambda device, key, status, base: seen.append((device, key, status)))
    n.get("/~probe@1.0&a=1/nested")
    n.get("/~probe@1.0/missing")
    assert seen == [("probe@1.0", "quick", "ok"), ("probe@1.0", "nested", "ok"), ("probe@1.0", "missing", "404")]


def test_an_empty_path_is_an_error(n: TestNode) -> None:
    assert n.http("GET", "").status in (307, 400)
    assert n.get("/?x=1")["status"] == 400


# -- hooks -----------------------------------------------------------------------------------------


def test_the_step_hook_may_replace_results(n: TestNode) -> None:
    def hook(base: Message, request: Message, result: Result) -> Result:
        return Result("ok", 99) if result.value == 2 else result

    n.node.resolver.step_hook = hook
    assert n.get("/~probe@1.0&a=1/quick")["body"] == 99
    assert n.get("/~probe@1.0&a=2/quick")["body"] == 4
    assert n.get("/~probe@1.0&a=1/nested")["body"] == 99, "of top-level steps alone, and this is one"


def test_request_hooks_refuse_and_rewrite(n: TestNode) -> None:
    n.node.settings.put("on", Message({"request": {"device": "gate@1.0"}}))
    assert n.get("/~message@1.0&a=1/a")["body"] == b"1"
    stopped = n.get("/~message@1.0&a=1/a", {"word": "stop"})
    assert (stopped["status"], stopped["body"]) == (418, b"stopped")
    assert n.get("/~message@1.0&a=1/a", {"word": "other"})["body"] == b"rewritten"


def test_response_hooks_see_the_reply(n: TestNode) -> None:
    n.node.settings.put("on", Message({"response": [{"device": "gate@1.0"}]}))
    reply = n.get("/~message@1.0&a=1/a")
    assert (reply["body"], reply["seen"], reply["status"]) == (b"1", b"yes", 200)


def test_a_hook_that_does_not_exist_stops_requests(n: TestNode) -> None:
    n.node.settings.put("on", Message({"request": {"device": "absent@1.0"}}))
    assert n.get("/~message@1.0&a=1/a")["status"] == 404
    assert n.node.resolve("/~message@1.0&a=1/a") == b"1"


def test_results_of_two_nodes_are_equal() -> None:
    ids = set()
    for _ in range(2):
        own = Node(config.load(environ={}), key=wallet(), store=MemoryStore(), operator="x", devices=[Probe])
        with own:
            made = own.resolve("/~probe@1.0&a=1/made")
            assert isinstance(made, Message)
            ids.add((content_id(made), made.hashpath))
    assert len(ids) == 1


def test_atoms_are_values(n: TestNode) -> None:
    assert n.node.resolve(Message({"x": Atom("blue")}), "x") == Atom("blue")
