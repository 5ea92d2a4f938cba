"""verify-schedule against a scheduler that signs well-linked nonsense: each field and message is held to the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy.commitments import commit, signed_id
from hyperpy.errors import HyperpyError
from hyperpy.message import Message
from hyperpy.schedule_rules import Mark
from hyperpy.testing import TestNode, node, wallet
from tests.devices.auditing import audit, findings, linked, lying, raw
from tests.devices.scheduling import own, post, process, said

ODD_TIMES = (-5, 10**18, 10**31, 1.5, b"1795349955189", b"soon")


@pytest.fixture(scope="module")
def story() -> tuple[str, list[Message]]:
    """A process with five slots, and what its scheduler assigned."""
    with node() as made:
        definition = process(made)
        assert post(made, definition)["slot"] == 0
        name = signed_id(definition)
        for count in range(4):
            post(made, said(name, count=str(count)))
        return name, own(made, name)


@pytest.fixture(scope="module")
def other(story: tuple[str, list[Message]]) -> Iterator[TestNode]:
    """A node that knows the process, and holds no slot of it."""
    with node() as made:
        made.node._lend["store"].write(story[1][0]["body"])
        yield made


def changed(assignments: list[Message], slot: int, **fields: Any) -> list[Message]:
    """Return the assignments, of which one has other fields; nothing is signed."""
    return [one | fields if at == slot else one for at, one in enumerate(assignments)]


def alternating(slot: int) -> str:
    return "base-hashpath" if slot % 2 == 0 else "hash-chain"


def computable(name: str, assignments: list[Message]) -> bool:
    """Say whether computing would take these assignments one after another."""
    mark = Mark(name)
    for one in assignments:
        if not mark.follows(one):
            return False
        mark = mark.after(one, "sha-256-chain")
    return True


# -- links ---------------------------------------------------------------------------------------


def test_links_that_nobody_can_compute_again_are_named(other: TestNode, story: tuple[str, list[Message]]) -> None:
    """Slots that carry by turns only one of the two links are no chain: computing refuses them as well."""
    name, honest = story
    by_turns = linked(name, honest, without=alternating)
    assert not computable(name, by_turns)
    found = audit(other, name, by_turns)
    assert (2, "chain") in findings(found)
    assert found["unlinked"] == 0


def test_a_second_history_spliced_in_is_found(other: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    first = linked(name, honest, without=alternating)
    second = linked(name, [honest[0], honest[3], honest[1], honest[2], honest[4]], without=alternating)
    assert (4, "chain") in findings(audit(other, name, [*first[:3], *second[3:]]))
    replaced = linked(name, [*honest[:3], honest[3] | {"body": said(name, count="x")}, honest[4]], without=alternating)
    assert (4, "chain") in findings(audit(other, name, [*first[:3], replaced[3], first[4]]))


def test_a_schedule_that_went_on_with_another_link_holds_as_far_as_computing_takes_it(
    other: TestNode, story: tuple[str, list[Message]]
) -> None:
    """As where a node of the older generation was replaced by one of the newer, which links assignments."""
    name, honest = story
    moved = linked(name, honest, without=lambda slot: "base-hashpath" if slot < 2 else "hash-chain")
    assert computable(name, moved)
    assert findings(audit(other, name, moved)) == set()
    swapped = [*moved[:2], lying(moved[2], **{"base-hashpath": moved[3]["base-hashpath"]}), *moved[3:]]
    assert (2, "base-hashpath") in findings(audit(other, name, swapped))
    back = linked(name, honest, without=lambda slot: "hash-chain" if slot < 2 else "base-hashpath")
    assert not computable(name, back)
    assert findings(audit(other, name, back)) == {(2, "chain")}


# -- what is scheduled ---------------------------------------------------------------------------


def _unsigned(name: str) -> Message:
    return Message({"target": name, "type": "Message", "count": "9"})


def _more_than_signed(name: str) -> Message:
    body = said(name, count="9")
    return Message.make({**body.raw_items(), "quantity": b"1000"}, body.commitments)


BODIES: dict[str, Callable[[str], Message]] = {
    "signed by nobody": _unsigned,
    "with a key that nobody signed": _more_than_signed,
    "for another process": lambda name: said("A" * 43, count="9"),
    "for what is no process": lambda name: said("nobody", count="9"),
    "another process": lambda name: commit(Message({"device": "process@1.0", "type": "Process"}), wallet("alice")),
}


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_a_message_that_does_not_belong_there_is_named(
    other: TestNode, story: tuple[str, list[Message]], kind: str
) -> None:
    name, honest = story
    made = linked(name, changed(honest, 2, body=BODIES[kind](name)))
    assert findings(audit(other, name, made)) == {(2, "body")}


@pytest.mark.parametrize("target", ["/{}", "{}~process@1.0", "{}?hint=http://127.0.0.1:1", None])
def test_every_way_to_name_the_process_holds(
    other: TestNode, story: tuple[str, list[Message]], target: str | None
) -> None:
    name, honest = story
    body = said(target.format(name)) if target else commit(Message({"count": "1"}), wallet("alice"))
    assert findings(audit(other, name, linked(name, changed(honest, 2, body=body)))) == set()


def test_the_first_slot_holds_the_process(other: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    assert findings(audit(other, name, linked(name, honest[1:]))) == {(0, "body")}
    again = linked(name, [honest[0], honest[0], honest[1]])
    assert findings(audit(other, name, again)) == set()  # each POST is a slot


def test_a_path_that_the_message_does_not_say_is_named(other: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    assert findings(audit(other, name, linked(name, changed(honest, 2, path="evil")))) == {(2, "path")}
    own_path = changed(honest, 2, body=said(name, path="vote"), path="vote")
    assert findings(audit(other, name, linked(name, own_path))) == set()
    silenced = changed(own_path, 2, path="compute")
    assert findings(audit(other, name, linked(name, silenced))) == {(2, "path")}
    for path in ("a/b", "compute"):  # the reference copies it, this node does not: both compute alike
        nested = changed(honest, 2, body=said(name, path="a/b"), path=path)
        assert findings(audit(other, name, linked(name, nested))) == set()


# -- odd values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float, str, lambda slot: slot == 1 if slot < 2 else slot])
def test_a_slot_that_is_no_whole_number_is_named(
    other: TestNode, story: tuple[str, list[Message]], number: Callable[[int], Any]
) -> None:
    name, honest = story
    made = {str(slot): one for slot, one in enumerate(linked(name, honest, number=number))}
    found = findings(audit(other, name, made))
    assert {(0, "slot"), (1, "slot")} <= found
    assert {kind for _, kind in found} == {"slot"}


@pytest.mark.parametrize("stamp", ODD_TIMES)
def test_a_time_that_is_none_is_named(other: TestNode, story: tuple[str, list[Message]], stamp: Any) -> None:
    name, honest = story
    found = findings(audit(other, name, linked(name, changed(honest, 4, timestamp=stamp))))
    assert (4, "timestamp") in found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "5"), ("epoch", 0), ("data-protocol", "evil"), ("variant", "x"), ("block-height", -7),
        ("block-height", "1"), ("block-timestamp", 1.0), ("block-timestamp", 10**31), ("block-hash", "x"),
    ],
)  # fmt: skip
def test_a_field_that_no_scheduler_writes_is_named(
    other: TestNode, story: tuple[str, list[Message]], field: str, value: Any
) -> None:
    name, honest = story
    assert findings(audit(other, name, linked(name, changed(honest, 2, **{field: value})))) == {(2, "field")}


# -- keys, and nothing at all --------------------------------------------------------------------


@pytest.mark.parametrize("key", ["-1", "99999999999999999999", "9" * 5000, "01", "+1", "1.0", "\u0661"])
def test_a_key_that_is_no_slot_is_named(other: TestNode, story: tuple[str, list[Message]], key: str) -> None:
    name, honest = story
    found = audit(other, name, {"0": honest[0], key: honest[1]})
    assert findings(found) == {(-1, "key")}
    assert found["checked"] == 1
    assert key[:20].encode("ascii", "backslashreplace").decode() in str(found["findings"])


def test_what_was_not_checked_is_not_valid(other: TestNode, story: tuple[str, list[Message]]) -> None:
    name, _ = story
    for found in (audit(other, name), audit(other, name, []), audit(other, name, **{"from": 7})):
        assert found["checked"] == 0
        assert "unchecked" in {kind for _, kind in findings(found)}
    with node() as keeper:
        definition = process(keeper)
        post(keeper, definition)
        for keys in ({"from": 1}, {"from": 0, "to": -1}):
            late = audit(keeper, signed_id(definition), **keys)
            assert (late["checked"], findings(late)) == (0, {(keys["from"], "unchecked")})


# -- a damaged store -----------------------------------------------------------------------------


def test_a_damaged_assignment_is_named_and_the_rest_checked() -> None:
    with node() as made:
        definition = process(made)
        post(made, definition)
        name = signed_id(definition)
        for count in range(5):
            post(made, said(name, count=str(count)))
        key = raw(name) + (2).to_bytes(8, "big")
        data = made.node.store.get("assignments", key)
        assert data is not None
        made.node.store.write([("assignments", key, data[: len(data) // 2])])
        found = audit(made, name)
        assert findings(found) == {(2, "damaged")}
        assert (found["checked"], found["to"], found["unlinked"]) == (5, 5, 1)
        part = audit(made, name, **{"from": 3})
        assert findings(part) == {(2, "missing")}
        reply = made.get(f"/~scheduler@1.0/verify-schedule?target={name}")
        assert (reply["status"], reply["valid"]) == (200, False)
        made.node.store.write([("heads", raw(name), b"garbage")])
        assert findings(audit(made, name)) == {(-1, "damaged"), (2, "damaged")}
        with pytest.raises(HyperpyError):
            made.node._lend["slots"].head(name)
