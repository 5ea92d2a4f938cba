"""Two nodes disagree on a process: few comparisons find the slot, one slot made again finds the liar."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hyperpy import Message, commitments
from hyperpy.actors import ActorSystem
from hyperpy.audit import fault
from hyperpy.audit.bisect import first_difference
from hyperpy.cache import Batch
from hyperpy.client import Client
from hyperpy.commitments import commit
from hyperpy.errors import MessageNotFound
from hyperpy.fault_proof import Claim, Proof, to_bytes
from hyperpy.sdk import Result
from hyperpy.testing import node, wallet
from tests.audit.liars import Served, Tally, corrupt, judged, know, process, served, signed

SLOTS = 300
LIES_FROM = 211


# -- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parted", [0, 1, 2, 49_999, 65_535, 65_536, 99_998, 99_999])
def test_a_hundred_thousand_slots_take_twenty_comparisons(parted: int) -> None:
    asked: list[int] = []

    def same(slot: int) -> bool:
        asked.append(slot)
        return slot < parted

    found = first_difference(same, 99_999)
    assert (found.slot, found.comparisons) == (parted, len(asked))
    assert found.comparisons <= 20
    assert len(set(asked)) == len(asked)


def test_each_slot_of_short_schedules_is_found() -> None:
    for last in range(40):
        for parted in range(last + 1):
            found = first_difference(lambda slot, parted=parted: slot < parted, last)
            assert found.slot == parted
            assert found.comparisons <= 2 + math.log2(last + 1)


def test_nodes_that_agree_are_asked_once() -> None:
    assert first_difference(lambda slot: True, 99_999) == (found := first_difference(lambda slot: True, 5))
    assert (found.slot, found.comparisons) == (None, 1)
    assert first_difference(lambda slot: True, -1).comparisons == 0


def test_a_node_that_lies_now_and_then_is_found_at_a_slot_where_they_part() -> None:
    lies = {slot for slot in range(1000) if slot % 7 in (3, 4)} | {999}
    found = first_difference(lambda slot: slot not in lies, 999)
    assert found.slot in lies
    assert found.slot - 1 not in lies


def test_slots_known_to_agree_are_left_out() -> None:
    asked: list[int] = []

    def same(slot: int) -> bool:
        asked.append(slot)
        return slot < 950

    assert first_difference(same, 999, first=900).slot == 950
    assert min(asked) >= 900


# -- two nodes --------------------------------------------------------------------------------------


class Two(NamedTuple):
    honest: Served
    liar: Served
    process: str


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with served("honest") as honest, served("liar", flags={"relay.peers": [honest.url]}) as liar:
        made = process(honest)
        with Client(honest.url, wallet("owner")) as client:
            found = client.send("/~scheduler@1.0/schedule", made).text("process")
            for number in range(1, SLOTS):
                client.send(f"/{found}/schedule", {"target": found, "type": "Message", "by": str(number)})
        know(liar, made)
        corrupt(liar.node, "tally@1.0", "compute", _from_then_on)
        yield Two(honest, liar, found)


def _from_then_on(true: Message, found: dict[str, Any]) -> Message:
    return true | {"total": 0} if found["request"]["slot"] >= LIES_FROM else true


@pytest.fixture(scope="module")
def third() -> Iterator[Any]:
    with node(Tally) as made:
        yield made.node


def test_the_liar_is_found_by_bisecting_and_one_slot(two: Two, third: Any) -> None:
    heard: list[int] = []
    last = fault.last_slot(two.honest.peer, two.process)
    assert last == SLOTS - 1
    found = fault.parted(two.honest.peer, two.liar.peer, two.process, last, heard.append)
    assert (found.slot, found.comparisons) == (LIES_FROM, len(heard))
    assert found.comparisons <= 2 + math.log2(SLOTS)
    guilty = fault.wrong_state(two.liar.peer, two.process, LIES_FROM, two.honest.peer)
    verdict = judged(third, signed(guilty))
    assert (verdict.text("verdict"), verdict.text("accused")) == ("guilty", two.liar.address)
    cleared = judged(third, signed(fault.wrong_state(two.honest.peer, two.process, LIES_FROM)))
    assert (cleared.text("verdict"), cleared.text("accused")) == ("not-guilty", two.honest.address)
    assert verdict["expected"] == cleared["got"]
    assert len(to_bytes(signed(guilty))) < 24 << 10


@pytest.mark.parametrize("slot", [0, 1, 2, LIES_FROM - 1])
def test_slots_before_the_lie_are_true(two: Two, third: Any, slot: int) -> None:
    for at in (two.honest, two.liar):
        found = judged(third, signed(fault.wrong_state(at.peer, two.process, slot, two.honest.peer)))
        assert found.text("verdict") == "not-guilty", found.text("reason")


def test_a_lie_in_the_first_slot(third: Any) -> None:
    with served("honest") as honest, served("liar", flags={"relay.peers": [honest.url]}) as liar:
        made = process(honest)
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", made).text("process")
        know(liar, made)
        corrupt(liar.node, "tally@1.0", "compute", lambda true, found: true | {"total": 5})
        found = judged(third, signed(fault.wrong_state(liar.peer, name, 0, honest.peer)))
        assert found.text("verdict") == "guilty"
        found = judged(third, signed(fault.wrong_state(honest.peer, name, 0)))
        assert found.text("verdict") == "not-guilty"


# -- attacks on an honest node ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fair(two: Two) -> Proof:
    return fault.wrong_state(two.honest.peer, two.process, 7)


def word(third: Any, proof: Proof) -> tuple[str, str]:
    message = signed(proof)
    found = judged(third, message)
    assert commitments.content_id(judged(third, message)) == commitments.content_id(found), "judged twice"
    return found.text("verdict"), found.text("reason")


def test_a_second_assignment_does_not_convict_who_computed_the_first(two: Two, third: Any, fair: Proof) -> None:
    """A scheduler that signs twice for one slot can make nobody else guilty, but is so itself."""
    first = fair.assignments[0]
    other = commit(
        first.with_commitments({}) | {"body": commit(Message({"target": two.process, "by": "900"}), wallet("owner"))},
        wallet("honest"),
    )
    found, reason = word(third, dataclasses.replace(fair, assignments=(other,)))
    assert (found, reason) == ("undecided", "the accused computed another assignment of this slot")
    double = Proof("double-assignment", two.honest.address, (), (), (first, other), two.process, 7)
    assert word(third, double)[0] == "guilty"
    for accused, pair in ((two.honest.address, (first, first)), (two.liar.address, (first, other))):
        cleared = dataclasses.replace(double, accused=accused, assignments=pair)
        assert word(third, cleared)[0] != "guilty"


def test_a_reply_that_looks_like_an_assignment_is_none(two: Two, third: Any, fair: Proof) -> None:
    first = fair.assignments[0]
    plain = first.with_commitments({}) | {"timestamp": 1}
    for fields in (
        plain | {"status": 200},
        plain | {"more": "x"},
        plain.without("variant"),
        plain | {"slot": 8},
        plain | {"process": "P" * 43},
    ):
        double = Proof(
            "double-assignment", two.honest.address, (), (), (first, commit(fields, wallet("honest"))), two.process, 7
        )
        assert word(third, double)[0] == "undecided"
    covered = commit(plain | {"status": 200}, wallet("honest"), committed=sorted(plain))
    narrow = commit(plain, wallet("honest"), committed=sorted(set(plain) - {"body"}))
    for other in (covered, narrow):
        double = Proof("double-assignment", two.honest.address, (), (), (first, other), two.process, 7)
        assert word(third, double)[0] == "undecided"


def test_an_assignment_that_no_scheduler_of_the_process_signed(third: Any, fair: Proof) -> None:
    mine = commit(fair.assignments[0].with_commitments({}), wallet("mallory"))
    found, reason = word(third, dataclasses.replace(fair, assignments=(mine,)))
    assert (found, "scheduler" in reason) == ("undecided", True)


def test_states_of_other_slots_do_not_fit(two: Two, third: Any, fair: Proof) -> None:
    early = fault.wrong_state(two.honest.peer, two.process, 5)
    for mixed in (
        dataclasses.replace(fair, claims=(early.claims[1], fair.claims[1])),
        dataclasses.replace(fair, claims=(fair.claims[0], early.claims[1])),
        dataclasses.replace(fair, accounts=early.accounts),
        dataclasses.replace(fair, assignments=early.assignments),
        dataclasses.replace(fair, slot=8),
        dataclasses.replace(fair, process=commitments.signed_id(fair.assignments[0])),
        dataclasses.replace(fair, claims=fair.claims[::-1]),
    ):
        assert word(third, mixed)[0] == "undecided"


def test_what_a_signed_message_says_cannot_be_exchanged_inside_another(third: Any, fair: Proof) -> None:
    """The ID of a signed message is that of its signatures: who signed what holds it did not see its words."""
    first = fair.assignments[0]
    body = first["body"]
    assert isinstance(body, Message)
    for inner in (
        Message.make({**body.raw_items(), "by": b"900"}, body.commitments),
        Message.make({**body.raw_items(), "more": b"1"}, body.commitments),
    ):
        assert commitments.signed_id(inner) == commitments.signed_id(body)
        other = Message.make({**first.raw_items(), "body": inner}, first.commitments)
        commitments.check(other)
        assert word(third, dataclasses.replace(fair, assignments=(other,)))[0] == "undecided"
    for place in (0, 1):
        claim = fair.claims[place]
        held = claim.reply["process"]
        assert isinstance(held, Message)
        inner = Message.make({**held.raw_items(), "total": 9}, held.commitments)
        reply = Message.make({**claim.reply.raw_items(), "process": inner}, claim.reply.commitments)
        changed = list(fair.claims)
        changed[place] = Claim(reply, claim.base, claim.request)
        assert word(third, dataclasses.replace(fair, claims=tuple(changed)))[0] == "undecided"


def test_keys_beside_a_signed_state_count_for_nothing(third: Any, fair: Proof) -> None:
    before = fair.claims[0]
    more = Message.make({**before.reply.raw_items(), "bonus": 1}, before.reply.commitments)
    changed = Message.make({**before.reply.raw_items(), "total": 1}, before.reply.commitments)
    assert word(third, dataclasses.replace(fair, claims=(Claim(more, None, before.request), fair.claims[1])))[0] == (
        "not-guilty"
    )
    assert word(third, dataclasses.replace(fair, claims=(Claim(changed, None, before.request), fair.claims[1])))[0] == (
        "undecided"
    )


COUNTING = """
from hyperpy import Message, device, key
@device("counting@1.0")
class Counting:
    @key
    def compute(self, base: Message) -> Message:
        return base | {"n": int(base.get("n", 0)) + STEP}
"""


def test_states_of_an_older_version_beside_a_newer_account(tmp_path: Path) -> None:
    """An honest node was updated and computed its process again: its old word does not meet its new one."""
    file = tmp_path / "counting.py"
    file.write_text(COUNTING.replace("STEP", "1"), "utf-8")
    with served("honest", file) as honest:
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", process(honest, "counting@1.0")).text("process")
            for _ in range(3):
                client.send(f"/{name}/schedule", {"target": name, "type": "Message"})
        old = fault.wrong_state(honest.peer, name, 3)
        file.write_text(COUNTING.replace("STEP", "2"), "utf-8")
        honest.node.reload(file)
        honest.node.actors.stop()  # whoever computed with the old code keeps what it has, and is gone
        honest.node.actors = honest.node._lend["workers"]._actors = ActorSystem()
        store = honest.node.store
        gone = [("states", at) for at, _ in store.scan("states")]
        store.write([], gone + [("heads", at) for at, _ in store.scan("heads") if len(at) == 40])
        new = fault.wrong_state(honest.peer, name, 3)
        assert (old.claims[1].reply["n"], new.claims[1].reply["n"]) == (4, 8)
        with node(file) as judge:
            assert word(judge.node, new)[0] == "not-guilty"
            assert "implementation differs" in word(judge.node, old)[1]
            for claims in (old.claims, (old.claims[0], new.claims[1]), (new.claims[0], old.claims[1])):
                found, reason = word(judge.node, dataclasses.replace(new, claims=claims))
                assert (found, "by the accused's account" in reason or "is about" in reason) == ("undecided", True)


ODD: list[dict[str, Any]] = [
    {"by": "not a number"},
    {"path": "absent"},
    {"path": "pair"},
    {"path": "total"},
    {"path": "results"},
    {"path": "double", "n": "4"},
    {"path": "in-slot"},
    {"path": "clock"},
    {"path": "a/b"},
    {"path": "credential"},
    {"path": "another", "n": "1"},
    {"data": "no number at all"},
]


def test_slots_that_fail_or_do_odd_things_convict_nobody(third: Any) -> None:
    with served("honest") as honest:
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", process(honest)).text("process")
            client.send(f"/{name}/schedule", {"target": name, "type": "Message", "by": "3"})
            for one in ODD:
                post_odd(client, honest, name, one)
        words = [examined(honest, third, name, slot) for slot in range(len(ODD) + 2)]
    assert {found for found, _ in words} == {"not-guilty", "undecided"}, words
    assert [found for found, _ in words].count("not-guilty") >= 8, words


def examined(at: Served, third: Any, name: str, slot: int) -> tuple[str, str]:
    try:
        return word(third, fault.wrong_state(at.peer, name, slot))
    except MessageNotFound as error:  # no account, no proof
        return "undecided", error.message


def post_odd(client: Client, at: Served, name: str, keys: dict[str, Any]) -> None:
    made = commit(Message({"target": name, "type": "Message", **keys}), wallet("owner"))
    at.node._lend["store"].write(made)
    asked = Message({"path": "schedule", "method": "POST", "body": made})
    assert at.node.resolve({"device": "scheduler@1.0"}, asked)["slot"]


def test_a_node_gives_no_account_of_states_that_do_not_follow_each_other(third: Any) -> None:
    """After a change of schedule an old state may stand beside a new one for a while."""
    with served("honest") as honest:
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", process(honest)).text("process")
            for _ in range(2):
                client.send(f"/{name}/schedule", {"target": name, "type": "Message", "by": "1"})
            client.get(f"/{name}/now")
        assert word(third, fault.wrong_state(honest.peer, name, 2))[0] == "not-guilty"
        slots = honest.node._lend["slots"]
        batch = Batch()
        slots.put_state(name, 1, slots.state(name, 1) | {"total": 77}, batch, snapshot=False)
        batch.commit(honest.node.store)
        with pytest.raises(MessageNotFound):
            honest.peer.account(f"process={name}&slot=2")


LUA = b"""
local hidden = 0
function compute(base, req)
  hidden = hidden + 1
  base.n = (base.n or 0) + hidden
  return base
end
"""


def test_a_lua_process_is_judged_with_what_it_keeps_beside_its_state(third: Any) -> None:
    """Both nodes give their snapshot of the state before the slot: what no message of the process shows."""
    with served("honest") as honest, served("liar", flags={"relay.peers": [honest.url]}) as liar:
        made = process(honest, "lua@5.3a", module={"content-type": "application/lua", "body": LUA})
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", made).text("process")
            for _ in range(5):
                client.send(f"/{name}/schedule", {"target": name, "type": "Message", "data": "x"})
        know(liar, made)

        def lie(true: Any, found: dict[str, Any]) -> Any:
            if found["key"] == "compute" and found["request"].get("slot") == 4:
                return Result(true.status, true.value | {"n": 100})
            return true

        corrupt(liar.node, "lua@5.3a", "call", lie)
        assert fault.parted(honest.peer, liar.peer, name, 5, lambda _: None).slot == 4
        for slot in (4, 5, 0, 1, 3):
            assert word(third, fault.wrong_state(honest.peer, name, slot))[0] == "not-guilty"
        assert honest.peer.ask(f"/{name}/compute=5").reply["n"] == 21
        proof = fault.wrong_state(liar.peer, name, 4, honest.peer)
        assert word(third, proof)[0] == "guilty"
        assert word(third, fault.wrong_state(liar.peer, name, 3, honest.peer))[0] == "not-guilty"


def test_a_device_whose_snapshot_is_not_given_is_undecided(third: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with served("honest") as honest:
        made = process(honest, "lua@5.3a", module={"content-type": "application/lua", "body": LUA})
        with Client(honest.url, wallet("owner")) as client:
            name = client.send("/~scheduler@1.0/schedule", made).text("process")
            client.send(f"/{name}/schedule", {"target": name, "type": "Message", "data": "x"})
        monkeypatch.setattr("hyperpy.devices.fault.device._snapshot", lambda *_: None)
        found, reason = word(third, fault.wrong_state(honest.peer, name, 1))
    assert (found, "no snapshot" in reason) == ("undecided", True)
