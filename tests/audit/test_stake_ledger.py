"""The demonstration ledger slashes a node that lied, once, and never an honest one; its slots replay."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments
from hyperpy.audit import fault
from hyperpy.audit.collect import collect
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.client import Client
from hyperpy.commitments import commit
from hyperpy.fault_proof import Claim, Proof, as_message, to_bytes
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from tests.audit import liars
from tests.audit.liars import Served, corrupt, know, process, served

LEDGER = Path(__file__).resolve().parents[2] / "docs" / "examples" / "stake-ledger" / "stake_ledger.py"
TALLY = Path(liars.__file__)
DOUBLE = "/~tally@1.0&n=21/double"


class Ledger:
    """A ledger process on a node, and who sends it messages."""

    def __init__(self, at: Served, **more: Any) -> None:
        self.at = at
        code = at.peer.ask("/~fault@1.0/implementation&of=tally@1.0").reply.text("implementation")
        assert re.fullmatch("[0-9a-f]{64}", code)
        named = {"judged-device": "tally@1.0", "judged-implementation": code, **more}
        self.definition = process(at, "stake-ledger@1.0", **named)
        self.last = -1
        with Client(at.url) as client:
            self.name = client.send("/~scheduler@1.0/schedule", self.definition).text("process")
        self.last = 0

    def send(self, who: str, **keys: Any) -> str:
        """Schedule a message; return what the ledger said of it: its output, or its error."""
        words = commit(Message({"target": self.name, "type": "Message", **keys}), wallet(who))
        return self.schedule(words)

    def schedule(self, words: Message) -> str:
        with Client(self.at.url) as client:
            made = client.send(f"/{self.name}/schedule", words)
            assert made.get("status") == 200, made
            self.last = int(str(made["slot"]))
            results = client.get(f"/{self.name}/compute={self.last}/results")
        return results.text("output", "") or results.text("error", "")

    def stakes(self) -> dict[str, int]:
        with Client(self.at.url) as client:
            found = client.get(f"/{self.name}/now")["stakes"]
        return {one.text("address"): one["amount"] for one in found}


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with served("bank", LEDGER, TALLY) as at:
        yield Ledger(at)


@pytest.fixture(scope="module")
def honest(ledger: Ledger) -> Iterator[Served]:
    with served("honest", TALLY) as at:
        ledger.send("honest", action="stake", amount=100)
        yield at


@pytest.fixture(scope="module")
def liar(ledger: Ledger) -> Iterator[Served]:
    with served("liar", TALLY) as at:
        corrupt(at.node, "tally@1.0", "double", lambda true, found: true + 1)
        ledger.send("liar", action="stake", amount=70)
        yield at


def file_of(proof: Any, who: str = "challenger") -> bytes:
    return to_bytes(commit(as_message(proof), wallet(who)))


def proof_of(at: Served, path: str = DOUBLE) -> Any:
    return fault.wrong_result(at.peer, at.peer.ask(path).reply)


def test_an_honest_node_keeps_its_stake(ledger: Ledger, honest: Served) -> None:
    told = ledger.send("challenger", action="slash", proof=file_of(proof_of(honest)))
    assert "made again, the result is the one signed" in told
    assert ledger.stakes()[honest.address] == 100


def test_altered_proofs_against_an_honest_node(ledger: Ledger, honest: Served, liar: Served) -> None:
    true, false = proof_of(honest), proof_of(liar)
    reply = true.claims[0].reply
    forged = Message.make({**reply.raw_items(), "body": 43}, reply.commitments)
    for bad in (
        dataclasses.replace(true, claims=(fault.Claim(forged),)),
        dataclasses.replace(true, claims=false.claims),
        dataclasses.replace(true, accounts=false.accounts),
        dataclasses.replace(false, accused=honest.address),
    ):
        assert "not guilty" in ledger.send("challenger", action="slash", proof=file_of(bad))
    for junk in (b"", b"junk", file_of(true)[:-1], b"x" * 100_000):
        ledger.send("challenger", action="slash", proof=junk)
    assert ledger.stakes()[honest.address] == 100


def test_the_liar_loses_its_stake_once(ledger: Ledger, honest: Served, liar: Served) -> None:
    reply = liar.peer.ask(DOUBLE).reply
    proof = fault.wrong_result(liar.peer, reply)
    told = ledger.send("challenger", action="slash", proof=file_of(proof))
    assert told == f"{liar.address} lost 70"
    assert ledger.stakes() == {honest.address: 100, liar.address: 0}
    assert "nothing at stake" in ledger.send("challenger", action="slash", proof=file_of(proof))
    ledger.send("liar", action="stake", amount=50)
    again = fault.wrong_result(liar.peer, reply)  # a new account, so other bytes; and another challenger
    other = fault.equivocation((honest.peer, liar.peer), (honest.peer.ask(DOUBLE).reply, reply))
    for made, who in ((proof, "challenger"), (proof, "alice"), (again, "challenger"), (other, "challenger")):
        assert "punished already" in ledger.send(who, action="slash", proof=file_of(made, who))
    assert ledger.stakes()[liar.address] == 50
    new = proof_of(liar, "/~tally@1.0&n=5/double")
    assert ledger.send("challenger", action="slash", proof=file_of(new)) == f"{liar.address} lost 50"
    assert ledger.at.peer.ask(f"/{ledger.name}/now/burned").reply["body"] == 120


def test_other_code_and_other_devices_are_not_judged(ledger: Ledger, honest: Served, tmp_path: Path) -> None:
    old = tmp_path / "liars.py"
    old.write_text(TALLY.read_text("utf-8").replace("return 2 * n", "return 3 * n"), "utf-8")
    with served("honest", old) as before:
        assert before.peer.ask(DOUBLE).reply["body"] == 63
        told = ledger.send("challenger", action="slash", proof=file_of(proof_of(before)))
    assert "other code made the result" in told
    told = ledger.send("challenger", action="slash", proof=file_of(proof_of(honest, "/~message@1.0&a=1/a")))
    assert "judges tally@1.0 only" in told
    assert ledger.stakes()[honest.address] == 100


def test_a_ledger_that_judges_strictly(ledger: Ledger, liar: Served, honest: Served, tmp_path: Path) -> None:
    """There, who stakes promises the results of one code: other code is no excuse, and silence is none either."""
    strict = Ledger(ledger.at, **{"judged-strictly": "true"})
    for who in ("liar", "honest", "older"):
        strict.send(who, action="stake", amount=10)
    claim = liar.peer.ask(DOUBLE).claim
    bare = Claim(fault.lean(claim.reply, liar.address), claim.base, claim.request)
    told = strict.send("challenger", action="slash", proof=file_of(Proof("wrong-result", liar.address, claims=(bare,))))
    assert told == f"{liar.address} lost 10"
    old = tmp_path / "liars.py"
    old.write_text(TALLY.read_text("utf-8").replace("return 2 * n", "return 3 * n"), "utf-8")
    with served("older", old) as before:
        told = strict.send("challenger", action="slash", proof=file_of(proof_of(before)))
        assert told == f"{before.address} lost 10"
    for path in (DOUBLE, "/~tally@1.0&n=3/pair", "/~message@1.0&a=1/a", "/~tally@1.0/clock"):
        told = strict.send("challenger", action="slash", proof=file_of(proof_of(honest, path)))
        assert "not guilty" in told
    assert strict.stakes()[honest.address] == 10


def test_stakes_are_their_signers_own_word(ledger: Ledger, honest: Served) -> None:
    before = ledger.stakes()
    words = Message({"target": ledger.name, "type": "Message", "action": "stake", "amount": 5})
    reply = commit(words | {"status": 200}, wallet("honest"))
    partly = commit(words, wallet("honest"), committed=["target", "type", "action"])
    both = commit(commit(words, wallet("honest")), wallet("alice"))
    for one in (reply, partly, both):
        assert "at stake" not in ledger.schedule(one)
    for amount in (0, -5, 10**9, "x", 1.5):
        assert "amount" in ledger.send("honest", action="stake", amount=amount)
    assert ledger.send("honest", action="other") == "nothing to do"
    assert ledger.stakes() == before


def test_another_node_and_a_replay_come_to_the_same(ledger: Ledger, honest: Served, liar: Served) -> None:
    """After all the others: whoever computes the ledger's slots again has the same states."""
    with served("other", LEDGER, TALLY, flags={"relay.peers": [ledger.at.url]}) as other:
        know(other, ledger.definition)
        for slot in (ledger.last // 2, ledger.last):
            states = [fault.state_of(one.peer, ledger.name, slot).reply.without("status") for one in (ledger.at, other)]
            assert commitments.content_id(states[0]) == commitments.content_id(states[1])
    evidence = Evidence.of_store(ledger.at.node.store, "the bank's store")
    plan = collect(evidence, ledger.name)
    report = replay(evidence, plan, Options(devices=(LEDGER, TALLY)))
    assert len(plan.steps) >= ledger.last + 1
    assert report.verdict is Verdict.REPRODUCED, report.as_json()["findings"] + [
        one.as_json() for one in report.steps if one.verdict is not Verdict.REPRODUCED
    ]


def test_a_node_with_other_code_waits(ledger: Ledger, liar: Served, tmp_path: Path) -> None:
    """Its slot is no other state; it is none, until the code that the ledger names is there."""
    new = tmp_path / "liars.py"
    new.write_text(TALLY.read_text("utf-8") + "\n", "utf-8")
    with served("newer", LEDGER, new, flags={"relay.peers": [ledger.at.url]}) as other:
        know(other, ledger.definition)
        reply = other.peer.ask(f"/{ledger.name}/compute={ledger.last}").reply
        assert reply["status"] == 404
        assert b"implementation" in reply["body"]
