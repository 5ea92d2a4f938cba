"""Many results under one report: made where requests wait for the hardware at once, verified each by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from hyperpy import Message, attestation, attested, config
from hyperpy import client as clients
from hyperpy.attest import merkle, policy, statement
from hyperpy.attest.bundle import Evidence
from hyperpy.attestation import Attestation
from hyperpy.attestation_batch import Together, Turn
from hyperpy.attested import Place, Wanted
from hyperpy.client import Client
from hyperpy.codecs import canonical
from hyperpy.context import Chain
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import AttestationError, AttesterError
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.attest import fake_amd
from tests.attest.fake_amd import NOW, FakeAmd

MINE = policy.of({"id": "mine", "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})

LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Leaves and roots of Certificate Transparency's own tests (RFC 6962), for trees of one to eight leaves."""


class Gated:
    """Stands for hardware that takes its time: the first report waits until the test lets it go."""

    kind, provider, hardware = "snp", "a slow fake", True

    def __init__(self, amd: FakeAmd) -> None:
        self._amd = amd
        self.begun, self.go = threading.Event(), threading.Event()
        self.asked: list[bytes] = []

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """Return a report."""
        self.asked.append(report_data)
        self.begun.set()
        assert self.go.wait(20)
        return Evidence("snp", self._amd.report(report_data), self._amd.vek, self._amd.chain)


class Clock(datetime):
    """The clock of the fake chip's certificates."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    monkeypatch.setattr(clients, "datetime", Clock)
    return fake_amd.trusted(monkeypatch)


# -- the tree ----------------------------------------------------------------------------------


def test_roots_of_certificate_transparency() -> None:
    leaves = [merkle.leaf(bytes.fromhex(one)) for one in LEAVES]
    assert [merkle.root(leaves[:count]).hex() for count in range(1, 9)] == ROOTS


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 64, 65])
def test_every_leaf_is_proved_in_its_place_alone(count: int) -> None:
    leaves = [merkle.leaf(bytes([at])) for at in range(count)]
    root = merkle.root(leaves)
    for at, digest in enumerate(leaves):
        path = merkle.proof(leaves, at)
        assert merkle.climbed(digest, at, count, path) == root
        for other in range(count):
            assert (merkle.climbed(digest, other, count, path) == root) is (other == at)
        assert merkle.climbed(digest, at, count, (*path, bytes(32))) != root
        assert not path or merkle.climbed(digest, at, count, path[:-1]) != root
        assert not path or merkle.climbed(digest, at, count, (bytes(32), *path[1:])) != root
        assert merkle.climbed(sha256(b"x"), at, count, path) != root
    assert merkle.climbed(leaves[0], 0, 0, ()) is None
    assert merkle.climbed(leaves[0], -1, 1, ()) is None
    assert merkle.climbed(leaves[0], 0, merkle.MAX_LEAVES + 1, (bytes(32),) * 17) is None


# -- over HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def gated(amd: FakeAmd) -> Iterator[tuple[Gated, Node, str]]:
    gate = Gated(amd)
    with ExitStack() as stack:
        node = Node(
            config.load(environ={}, flags={"rate-limit.requests": 0}),
            key=wallet(),
            store=MemoryStore(),
            operator=wallet("operator").address,
            attester=gate,
        )
        server = Server(stack.enter_context(node), "127.0.0.1", 0)
        server.start()
        stack.callback(server.stop)
        stack.callback(gate.go.set)
        yield gate, node, server.url


def ask(url: str, number: int) -> tuple[Message, attested.Found, bytes]:
    with Client(url) as client:
        reply, found = client.attested(f"/~calculator@1.0&a={number}/add&b=2", policy=MINE, hardware=True)
        receipt = client.get("/~audit@1.0/receipt", {"ref": reply.hashpath})["body"]
    assert isinstance(receipt, bytes)
    return reply, found, receipt


def test_requests_that_wait_are_attested_together(gated: tuple[Gated, Node, str]) -> None:
    gate, node, url = gated
    waiting = node.attestation._together._waiting
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, url, 0)
        assert gate.begun.wait(20)
        others = [pool.submit(ask, url, number) for number in range(1, 8)]
        while len(waiting) < 7:
            time.sleep(0.005)
        gate.go.set()
        answers = [one.result() for one in (first, *others)]
    assert len(gate.asked) == 2, "one report for the first, one for all that waited meanwhile"
    levels = [found.level for _, found, _ in answers]
    assert levels == ["result", *["batch"] * 7]
    for number, (reply, found, receipt) in enumerate(answers):
        assert (reply["body"], found.status, found.codes, found.asked) == (number + 2, "hardware", (), True)
        report = verify(receipt, {"tee": MINE, "attested": "hardware"}, now=NOW)
        assert (report.verdict, report.attestation) == (Verdict.ATTESTED, "hardware")
        assert [row["level"] for row in report.attestations] == [levels[number]]


# -- lies --------------------------------------------------------------------------------------


class Batch:
    """Attestations of several results under one report, as a node makes them."""

    def __init__(self, amd: FakeAmd, count: int = 5) -> None:
        class Plain:
            kind, provider, hardware = "snp", "a fake", True

            def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
                return Evidence("snp", amd.report(report_data), amd.vek, amd.chain)

        self.node = Attestation(config.load(environ={}), wallet(), lambda: Message({"a": 1}), Plain())
        self.turns = [Turn(bytes([at]) * 32, self.fields(at)) for at in range(count)]
        self.made = list(self.node._for_results(self.turns))

    def fields(self, at: int) -> dict[str, bytes]:
        """Return what a statement says of one result."""
        names = {"request": b"q", "result": b"r"}
        made = {name: letter * 31 + bytes([at]) for name, letter in names.items()}
        return {**made, "hashpath": b"path/%d" % at, "device": b"calculator@1.0 digest"}

    def found(self, given: attested.Attestation, at: int, **changed: Any) -> attested.Found:
        """Return what somebody who asked for a result finds."""
        own = self.fields(at)
        wanted: dict[str, Any] = {
            "signers": {wallet().address},
            "results": [own["result"]],
            "hashpath": own["hashpath"].decode(),
            "nonce": bytes([at]) * 32,
        }
        again = attested.decode(given.encode())
        assert again == given
        return attested.appraise(again, Wanted(**{**wanted, **changed}), MINE, now=NOW)


def test_each_leaf_verifies_offline_and_for_its_own_result_alone(amd: FakeAmd) -> None:
    batch = Batch(amd)
    assert len({one.evidence.report for one in batch.made}) == 1
    for at, one in enumerate(batch.made):
        found = batch.found(one, at)
        assert (found.status, found.codes, found.level) == ("hardware", (), "batch")
        assert found.result is not None
        assert found.result.word == "affirming"
        for other in range(5):
            if other != at:
                assert batch.found(one, other).codes[0] == "freshness/nonce-mismatch"
                assert batch.found(one, other, nonce=None).codes == ("binding/result-mismatch",)


def place(one: attested.Attestation) -> Place:
    assert one.place is not None
    return one.place


def lies(batch: Batch) -> Iterator[tuple[str, attested.Attestation]]:
    one, other = batch.made[1], batch.made[2]
    said = statement.decode(one.statement)
    mine = place(one)
    yield "another's statement", replace(one, statement=other.statement)
    yield "another's place", replace(one, place=other.place)
    yield "another index", replace(one, place=replace(mine, index=0))
    yield "another count", replace(one, place=replace(mine, count=6))
    yield "a smaller tree", replace(one, place=replace(mine, count=4))
    yield "no place", replace(one, place=None)
    yield "a tree of one", replace(one, place=Place(0, 1, ()))
    for at in range(len(mine.proof)):
        cut = (*mine.proof[:at], bytes(32), *mine.proof[at + 1 :])
        yield f"digest {at}", replace(one, place=replace(mine, proof=cut))
    yield "a short proof", replace(one, place=replace(mine, proof=mine.proof[1:]))
    yield "a long proof", replace(one, place=replace(mine, proof=(*mine.proof, bytes(32))))
    for name, item in {
        "result": b"z" * 32,
        "hashpath": b"path/9",
        "nonce": b"z" * 32,
        "device": b"x",
        "issued-at": bytes(8),
    }.items():
        changed = statement.make({**said.fields, name: item})
        yield f"another {name}", replace(one, statement=changed.encode())
    alone = batch.node._for_results(batch.turns[:1])[0]
    yield "the evidence of one result", replace(one, evidence=alone.evidence)
    yield "the evidence of the node's key", replace(one, evidence=batch.node.evidence("node-identity", nonce=b"n" * 32))
    root = statement.decode(one.evidence.statement)
    yield "the root for a result", attested.Attestation(one.evidence)
    yield "the root for a leaf", replace(one, statement=root.encode(), place=Place(0, 1, ()))


def test_lies_about_a_batch(amd: FakeAmd) -> None:
    batch = Batch(amd)
    told = dict(lies(batch))
    assert len(told) > 20 - len(place(batch.made[1]).proof)
    for name, lie in told.items():
        for more in ({}, {"results": None, "hashpath": None, "nonce": None}):
            if name == "the root for a result" and more:
                continue  # nobody was told what it must be about
            found = batch.found(lie, 1, **more)
            assert found.status == "failed", name
            assert found.codes, name


def test_a_batch_of_another_machine_or_software(amd: FakeAmd) -> None:
    batch, leaf = Batch(amd), 2
    own = statement.decode(batch.made[leaf].statement)
    for changed, code in (
        ({"address": sha256(b"k" * 256), "key": b"\x01" + b"k" * 256}, "binding/key-mismatch"),
        ({"purpose": b"software/result"}, "binding/purpose-mismatch"),
        ({"purpose": b"channel", "kem": b"k" * 34}, "binding/purpose-mismatch"),
    ):
        said = [statement.decode(one.statement).encode() for one in batch.made]
        said[leaf] = statement.make({**own.fields, **changed}).encode()
        digests = [merkle.leaf(one) for one in said]
        fields = {**attested.batch_fields(5), "result": merkle.root(digests)}
        evidence = batch.node.evidence("result", fields=fields)
        lie = attested.Attestation(evidence, said[leaf], Place(leaf, 5, merkle.proof(digests, leaf)))
        found = batch.found(lie, leaf, signers={wallet().address, b64u(sha256(b"k" * 256))})
        assert (found.status, found.codes) == ("failed", (code,))


def test_every_byte_of_a_leaf_s_attestation_counts(amd: FakeAmd) -> None:
    batch = Batch(amd, 3)
    data = batch.made[1].encode()
    honest = batch.found(batch.made[1], 1)
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
        try:
            found = batch.found(attested.decode(changed), 1)
        except AttestationError:
            continue
        assert found.status == "failed", at
        assert honest.status == "hardware"


@pytest.mark.parametrize(
    "changed",
    [
        {"proof": bytes(31)},
        {"proof": "x"},
        {"index": -1},
        {"index": "0"},
        {"count": True},
        {"statement": b""},
        {"more": 1},
    ],
    ids=str,
)
def test_a_place_that_is_malformed(amd: FakeAmd, changed: dict[str, Any]) -> None:
    batch = Batch(amd, 3)
    made = batch.made[1]
    found = canonical.decode(made.encode())
    assert isinstance(found, Message)
    assert attested.decode(canonical.encode(found)) == attested.of_text(made.text()) == made
    try:
        status = batch.found(attested.decode(canonical.encode(found | changed)), 1).status
    except AttestationError as error:
        status = error.code
    assert status in ("failed", "evidence/malformed")


# -- gathering ---------------------------------------------------------------------------------


def turns(count: int) -> list[Turn]:
    return [Turn(b"n" * 32, {"result": bytes([at]) * 32}) for at in range(count)]


def test_who_is_alone_waits_for_nobody() -> None:
    made = attested.Attestation(Evidence("snp", b"r"))
    asked: list[int] = []

    def attest(taken: Sequence[Turn]) -> list[attested.Attestation]:
        asked.append(len(taken))
        return [made] * len(taken)

    together = Together(attest, 64, 5.0)
    for one in turns(3):
        assert together.attested(one) is made
    assert asked == [1, 1, 1]


@pytest.mark.parametrize(("most", "sizes"), [(64, [1, 6]), (3, [1, 3, 3]), (1, [1] * 7)])
def test_at_most_so_many_share_a_report(most: int, sizes: list[int]) -> None:
    go, begun, asked = threading.Event(), threading.Event(), list[int]()

    def attest(taken: Sequence[Turn]) -> list[attested.Attestation]:
        asked.append(len(taken))
        begun.set()
        assert go.wait(20)
        return [attested.Attestation(Evidence("snp", one.fields["result"])) for one in taken]

    together, asking = Together(attest, most, 20.0), turns(7)
    with ThreadPoolExecutor(7) as pool:
        futures = [pool.submit(together.attested, asking[0])]
        assert begun.wait(20)
        futures += [pool.submit(together.attested, one) for one in asking[1:]]
        while len(together._waiting) < 6:
            time.sleep(0.005)
        go.set()
        made = [one.result() for one in futures]
    assert asked == sizes
    assert [one.evidence.report for one in made] == [one.fields["result"] for one in asking]


def test_where_there_is_no_report_nobody_has_one() -> None:
    def attest(taken: Sequence[Turn]) -> list[attested.Attestation]:
        raise AttesterError("attester/race", "another program asked")

    together = Together(attest, 64, 5.0)
    for one in turns(2):
        with pytest.raises(AttesterError, match="attester/race"):
            together.attested(one)


@pytest.mark.parametrize("wrong", [ValueError("a library"), None])
def test_whatever_fails_all_of_a_batch_have_the_same_code(wrong: Exception | None) -> None:
    """Nothing but HyperpyError and OSError leaves it; a wrong number of attestations is nobody's."""
    go, begun = threading.Event(), threading.Event()

    def attest(taken: Sequence[Turn]) -> list[attested.Attestation]:
        begun.set()
        assert go.wait(20)
        if wrong is not None:
            raise wrong
        return [attested.Attestation(Evidence("snp", b"r"))] * (len(taken) + 1)

    def code(turn: Turn) -> str:
        with pytest.raises(AttestationError) as found:
            together.attested(turn)
        return found.value.code

    together, asking = Together(attest, 64, 20.0), turns(4)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(code, asking[0])]
        assert begun.wait(20)
        futures += [pool.submit(code, one) for one in asking[1:]]
        while len(together._waiting) < 3:
            time.sleep(0.005)
        go.set()
        assert [one.result() for one in futures] == ["attester/unavailable"] * 4


@pytest.mark.parametrize("level", ["identity", "result"])
def test_an_attester_that_breaks_spoils_no_reply(level: str) -> None:
    class Broken:
        kind, provider, hardware = "snp", "a fake", True

        def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
            raise ValueError("a library")

    own = Attestation(config.load(environ={}), wallet(), lambda: Message({"a": 1}), Broken())
    chain = Chain(deadline=time.monotonic() + 20)
    made = own.attach(Message({"x": 1}), attestation.Ask(level, b"n" * 32, bytes(32)), chain)
    assert (made["x"], made["attestation-status"], made["attestation-code"]) == (1, b"failed", b"attester/unavailable")


def test_patience_ends(amd: FakeAmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "_PATIENCE_S", 0.0)
    own = Batch(amd, 1).node
    with own._together._asking, pytest.raises(AttestationError, match="attester/busy"):
        own._together.attested(Turn(b"n" * 32, {}))
    assert not own._together._waiting
