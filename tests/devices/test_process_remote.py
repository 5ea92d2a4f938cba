"""A second node computes from the schedule of the first, over HTTP; and does not take anybody's word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperpy import Message, commitments
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import CodecError, CommitmentError, DeviceError, HyperpyError
from hyperpy.http.server import Server
from hyperpy.schedule_rules import Mark, check_assignment, check_signed, schedulers_of, slot_of
from hyperpy.testing import wallet
from tests.devices.parts import Place, place


@pytest.fixture
def scheduler() -> Iterator[Place]:
    """A served node; ``url`` is where."""
    with place(flags={"rate-limit.requests": 0, "http.sign": True}) as made:
        server = Server(made.node, "127.0.0.1", 0)
        server.start()
        made.url = server.url  # type: ignore[attr-defined]
        try:
            yield made
        finally:
            server.stop()


def spawned(scheduler: Place, url: str, execution: str = "count@1.0") -> tuple[str, Message]:
    made = scheduler.definition(execution, scheduler=f"{scheduler.node.address}?hint={url}")
    scheduler.node._lend["store"].write(made)
    process = commitments.signed_id(made)
    scheduler.schedule(process, made)
    for number in range(5):
        scheduler.send(process, "absent" if number == 3 else "compute", action=f"a{number}")
    return process, made


def test_a_second_node_computes_the_same_states(scheduler: Place) -> None:
    url: str = scheduler.url  # type: ignore[attr-defined]
    process, definition = spawned(scheduler, url, "heap@1.0")
    scheduler.value(process, "now/at-slot")
    with place(name="other", flags={"relay.peers": [url]}) as other:
        other.node._lend["store"].write(definition)
        assert other.value(process, "compute=2/results/output/body") == b"3"
        assert other.value(process, "now/at-slot") == 5
        assert other.states(process, 5) == scheduler.states(process, 5)
        reply = other.get(process, "compute=9")
        assert (reply["status"], reply["attempted-slot"]) == (404, 6)
        scheduler.send(process)
        assert other.value(process, "now/at-slot") == 6
        assert other.slots.head(process).slot == -1, "the schedule stays where it is"


def test_a_scheduler_that_is_no_peer_is_not_asked(scheduler: Place) -> None:
    url: str = scheduler.url  # type: ignore[attr-defined]
    process, definition = spawned(scheduler, url)
    with place(name="other") as other:
        other.node._lend["store"].write(definition)
        assert other.get(process, "compute=1")["status"] >= 300
        assert other.slots.latest(process) is None


def test_only_a_scheduler_of_the_process_assigns() -> None:
    theirs, mine = wallet("scheduler"), wallet("mallory")
    assignment = commitments.commit(Message({"slot": 1, "type": "Assignment"}), mine)
    with pytest.raises(CodecError, match="not signed by a scheduler"):
        check_signed(assignment, (theirs.address,))
    check_signed(assignment, (mine.address,))
    changed = Message.make({**assignment.raw_items(), "slot": 2}, assignment.commitments)
    with pytest.raises(CommitmentError):
        check_signed(changed, (mine.address,))


_ASSIGNMENT = {
    "process": "P" * 43,
    "slot": 1,
    "type": "Assignment",
    "hash-chain": "C" * 43,
    "base-hashpath": "P" * 43,
    "timestamp": 1,
    "body": {"action": "x"},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"status": 200},
        {"status": 200, "host": "x", "method": "POST"},
        {"from-process": "F" * 43},
        {"process": "Q" * 43},
        {"type": "Message"},
        {"type": None},
        {"body": None},
        {"hash-chain": None, "base-hashpath": None},
    ],
)
def test_what_a_scheduler_signed_is_not_yet_an_assignment(changed: dict[str, object]) -> None:
    signer = wallet("scheduler")
    made = {name: item for name, item in {**_ASSIGNMENT, **changed}.items() if item is not None}
    with pytest.raises(CodecError):
        check_assignment("P" * 43, commitments.commit(Message(made), signer), (signer.address,))
    check_assignment("P" * 43, commitments.commit(Message(_ASSIGNMENT), signer), (signer.address,))


def test_a_scheduler_must_sign_all_of_an_assignment() -> None:
    signer = wallet("scheduler")
    signed = commitments.commit(Message(_ASSIGNMENT).without("body"), signer)
    added = Message.make({**signed.raw_items(), "body": Message({"action": "evil"})}, signed.commitments)
    with pytest.raises(CodecError, match="signed all"):
        check_assignment("P" * 43, added, (signer.address,))


def forged(place: Place, process: Message, slot: int) -> Message:
    """Return a base whose caller brings a scheduler and a "next" assignment, signed by the node as a reply."""
    reply = place.node.sign(Message({"slot": slot, "status": 200, "path": "compute", "body": {"action": "evil"}}))
    given = {"device": "process@1.0", "process": process, "scheduler-device": "message@1.0", "next": {"body": reply}}
    return Message(given)


@pytest.mark.parametrize("scheduled", [2, 3])
def test_a_caller_brings_no_schedule_of_its_own_to_the_schedulers_node(scheduler: Place, scheduled: int) -> None:
    process = scheduler.spawn()
    definition = scheduler.node._lend["store"].read(process)
    scheduler.send(process, action="real-1")
    assert scheduler.value(process, "now/last") == b"real-1"
    for slot in range(2, scheduled):
        scheduler.send(process, action=f"real-{slot}")
    try:
        found = scheduler.node.resolve(forged(scheduler, definition, 2), {"path": "compute", "slot": 2})
    except HyperpyError:
        found = Message()
    assert isinstance(found, Message)
    assert found.get("last") in ((None, b"real-2") if scheduled > 2 else (None,))
    scheduler.send(process, action="real-z")
    assert scheduler.value(process, "now/last") == b"real-z"
    expected = b"real-2" if scheduled > 2 else b"real-z"
    assert scheduler.value(process, "compute=2/last") == expected


def test_a_caller_brings_no_schedule_of_its_own_to_a_mirror(scheduler: Place) -> None:
    url: str = scheduler.url  # type: ignore[attr-defined]
    process, definition = spawned(scheduler, url)
    with place(name="other", flags={"relay.peers": [url]}) as other:
        found = other.node.resolve(forged(scheduler, definition, 0), {"path": "compute", "slot": 0})
        assert found["last"] == b"none"  # type: ignore[index,call-overload]
        assert other.slots.latest(process)[1]["count"] == 1  # type: ignore[index]
    with place(name="third") as other:
        with pytest.raises(HyperpyError):
            other.node.resolve(forged(scheduler, definition, 0), {"path": "compute", "slot": 0})
        assert other.slots.latest(process) is None, "no peer, no schedule, no state"


def test_unsigned_keys_beside_a_definitions_signed_ones_do_not_count(scheduler: Place) -> None:
    made = scheduler.definition()
    more = Message.make({**made.raw_items(), "scheduler-device": b"message@1.0"}, made.commitments)
    with place(name="other") as other:
        with pytest.raises(HyperpyError):
            other.node.resolve(forged(scheduler, more, 0), {"path": "compute", "slot": 0})
        assert other.slots.latest(commitments.signed_id(made)) is None


def test_links_are_not_optional_once_a_schedule_has_them() -> None:
    body = commitments.commit(Message({"x": 1}), wallet("author"))
    first = b64u(sha256(commitments.signed_id(body).encode()))
    assert Mark("P").follows(Message({"hash-chain": first, "body": body}))
    assert not Mark("P").follows(Message({"hash-chain": "A" * 43, "body": body}))
    assert not Mark("P/A", "A" * 43).follows(Message({"body": body}))
    assert not Mark("P/A").follows(Message({"hash-chain": first, "body": body}))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"scheduler": "A"}, ("A",)),
        ({"scheduler-location": '"A", B?hint=http://x'}, ("A", "B")),
        ({"scheduler": ["A", "B"]}, ("A", "B")),
        ({}, ()),
    ],
)
def test_schedulers_of_a_process(given: dict[str, object], found: tuple[str, ...]) -> None:
    assert schedulers_of(Message(given)) == found


def test_an_assignment_follows_by_either_chain() -> None:
    body = commitments.commit(Message({"x": 1}), wallet("author"))
    before = b64u(b"1" * 32)
    added = commitments.signed_id(body).encode()
    by_bytes, by_text = (b64u(sha256(one + added)) for one in (b"1" * 32, before.encode()))
    mark = Mark("P/A", before)
    for chain in (by_bytes, by_text):
        assert mark.follows(Message({"hash-chain": chain, "body": body}))
    assert not mark.follows(Message({"hash-chain": before, "body": body}))
    assert mark.follows(Message({"base-hashpath": "P/A", "hash-chain": by_bytes, "body": body}))
    assert not mark.follows(Message({"base-hashpath": "P/B", "hash-chain": by_bytes, "body": body}))
    assert Mark.read(str(mark)) == mark


def test_a_slot_must_be_a_number() -> None:
    assert slot_of(Message({"slot": "7"})) == 7
    with pytest.raises(DeviceError, match="Unprocessable slot value"):
        slot_of(Message({"slot": "x"}))


def test_another_schedule_elsewhere_is_noticed_at_the_next_slot(scheduler: Place) -> None:
    """The scheduler answers with a schedule that does not lead to what this node computed."""
    url: str = scheduler.url  # type: ignore[attr-defined]
    process, definition = spawned(scheduler, url)
    with place(name="other", flags={"relay.peers": [url]}) as other:
        other.node._lend["store"].write(definition)
        assert other.value(process, "compute=2/last") == b"a1"
        store = scheduler.node.store
        store.write([], [("heads", key) for key, _ in store.scan("heads") if len(key) == 32])
        scheduler.node.actors.retire(lambda name: name[0] == "slots")
        scheduler.schedule(process, definition)
        for action in "vwxyz":
            scheduler.send(process, action=action)
        assert other.value(process, "now/last") == b"z"
        assert [other.value(process, f"compute={slot}/last") for slot in (1, 2, 3, 4)] == [b"v", b"w", b"x", b"y"]
        assert other.states(process, 5) == [
            (commitments.unsigned_id(state), state.hashpath)
            for slot in range(6)
            if scheduler.get(process, f"compute={slot}") and (state := scheduler.slots.state(process, slot))
        ]
