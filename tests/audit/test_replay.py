"""Steps made again: no false alarm on an honest trail, and each planted lie found, named and located."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, normalise
from hyperpy.audit.replay import Options, odds
from hyperpy.audit.verified import replayed
from hyperpy.cache import Batch
from hyperpy.codecs import canonical
from hyperpy.commitments import commit, signed_id, unsigned_id
from hyperpy.context import Frame
from hyperpy.encoding import native
from hyperpy.message import Resolve
from hyperpy.receipt import decode
from hyperpy.store.base import Store
from hyperpy.testing import TestNode, node, wallet
from hyperpy.trail import Trail
from hyperpy.verdicts import Verdict
from tests.audit.liars import Tally, corrupt
from tests.audit.lies import DEVICES, audit, damage, everything, forge, keep, last, of, rules

CHAIN = "/~message@1.0&a=1/set&b=2/set&c=3/set&d=4"


@pytest.fixture
def here() -> Iterator[TestNode]:
    with node(*DEVICES) as made:
        yield made


@pytest.fixture
def store(here: TestNode) -> Store:
    return here.node.store


def told(here: TestNode, path: str = CHAIN) -> str:
    reply = here.get(path)
    assert reply["status"] == 200
    return reply.hashpath or ""


def test_a_chain_is_reproduced_to_its_root(here: TestNode, store: Store) -> None:
    report = audit(store, told(here))
    assert [step.verdict for step in report.steps] == [Verdict.REPRODUCED] * 3
    assert {(edge.source, edge.target, edge.kind) for edge in report.edges} == {
        (report.steps[0].record, report.steps[1].record, "next"),
        (report.steps[1].record, report.steps[2].record, "next"),
    }
    assert (report.exit_code(), report.given, report.total) == (0, 0, 3)


def test_every_reference_means_the_same_steps(here: TestNode, store: Store) -> None:
    hashpath = told(here)
    record = last(store, hashpath)
    by_path = audit(store, hashpath).steps
    assert audit(store, record.result).steps == by_path
    assert audit(store, by_path[-1].record).steps == by_path


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/~calculator@1.0&a=20/add&b=22", 0),
        ("/~message@1.0&a=1/set&b=2/~calculator@1.0&a=5/add&b=3", 0),
        ("/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)/set&y=3", 0),
        ("/~message@1.0&a=1/set&x=(/~dice@1.0/roll)/set&y=3", 1),
        ("/~dice@1.0/twice/set&x=1", 2),
        ("/~dice@1.0/careful", 1),
        ("/~dice@1.0/fails", 0),
        ("/~message@1.0&a=1/no-such-key", 0),
        ("/~box@1.0/open/fill/fill", 0),
        ("/~message@1.0&a=1/set&list=(/~message@1.0&1=x&2=y)/list", 0),
    ],
)
def test_no_false_alarm(here: TestNode, store: Store, path: str, given: int) -> None:
    here.get(path)
    report = audit(store, roots=everything(store))
    assert {step.record: step.findings for step in report.steps if step.findings} == {}
    assert (report.verdict, report.given) == (Verdict.REPRODUCED, given)
    assert report.exit_code(strict=True) == (2 if given else 0)


def test_a_stack_is_reproduced(here: TestNode, store: Store) -> None:
    stack = "/~stack@1.0&device-stack=(/~message@1.0&1=calculator@1.0&2=message@1.0)&a=1/add&b=2"
    here.get(stack)
    report = audit(store, roots=everything(store))
    assert report.verdict is Verdict.REPRODUCED
    assert report.steps


def test_what_cannot_be_made_again_is_attested(here: TestNode, store: Store) -> None:
    report = audit(store, told(here, "/~dice@1.0/roll"))
    assert [step.verdict for step in report.steps] == [Verdict.ATTESTED]
    assert report.exit_code() == 2


def test_a_cached_result_leads_to_the_step_it_was_taken_from(here: TestNode, store: Store) -> None:
    base = keep(store, Message({"device": "calculator@1.0", "a": 1}))
    first, second = told(here, f"/{base}/add&b=2"), told(here, f"/{base}/add&b=2")
    assert first == second
    report = audit(store, roots=everything(store))
    assert "cached" in {edge.kind for edge in report.edges}
    assert report.verdict is Verdict.REPRODUCED


def test_what_a_step_did_not_find_and_was_stored_since(store: Store) -> None:
    """A step that goes on without a message is no lie because the message came later; another result still is."""
    with node(Tally) as here:
        name = unsigned_id(Message({"word": "known"}))
        path = f"/~tally@1.0&at={name}/looked-up"
        reply = here.get(path)
        assert reply["body"] == b"absent"
        at = last(here.node.store, reply.hashpath or "")
        assert audit(here.node.store, reply.hashpath or "", devices=(Tally,)).verdict is Verdict.REPRODUCED
        keep(here.node.store, Message({"word": "known"}))
        report = audit(here.node.store, reply.hashpath or "", devices=(Tally,))
        assert (report.verdict, rules(report.steps[0])) == (Verdict.MISSING, {"message"})
        forge(here.node.store, at, result=keep(here.node.store, Message({"ao-result": "body", "body": "other"})))
        report = audit(here.node.store, reply.hashpath or "", devices=(Tally,))
        assert (report.verdict, rules(report.steps[0])) == (Verdict.DIVERGED, {"result"})


def test_what_a_step_looks_for_may_not_be_at_hand() -> None:
    with node(Tally) as here:
        path = f"/~tally@1.0&at={keep(here.node.store, Message({'word': 'known'}))}/looked-up"
        reply = here.get(path)
        assert reply["body"] == b"known"
        data = here.get("/~audit@1.0/receipt", {"ref": reply.hashpath})["body"]
        assert isinstance(data, bytes)
        report = replayed(data, Options(devices=(Tally,)))
        assert (report.verdict, rules(report.steps[0])) == (Verdict.MISSING, {"message"})


def test_a_link_in_a_request_leads_to_what_the_node_has(here: TestNode, store: Store) -> None:
    """Found when it is replayed, it must have been found when it was asked for; and a receipt takes it along."""
    name = keep(store, Message({"x": "deep", "y": {"z": 1}}))
    for path in ("/~message@1.0/set&z=1/held/y/z", "/~message@1.0/set&z=1/held/x"):
        reply = here.get(path, {"held+link": name})
        assert reply["body"] == (1 if path.endswith("z") else b"deep")
        data = here.get("/~audit@1.0/receipt", {"ref": reply.hashpath})["body"]
        assert isinstance(data, bytes)
        receipt = decode(data)
        assert (native(name) in receipt.names.values(), receipt.absent) == (True, ())
        assert replayed(data).verdict is Verdict.REPRODUCED
    assert here.get("/~message@1.0/set&z=1/held/x", {"held+link": "A" * 43})["status"] == 404
    assert not [one for step in audit(store, roots=everything(store)).steps for one in step.findings]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/(~message@1.0&a=1/set&b=2)/set&c=3/set&c=4", 0),
        ("/(~message@1.0&a=(~dice@1.0/roll)/set&b=2)/set&c=3/set&c=(~dice@1.0/roll&most=9)", 2),
        ("/~message@1.0&a=1/set&b=2/~message@1.0&a=5&x=(~dice@1.0/roll)&y=(~dice@1.0/roll&most=9)/set&c=3/set&c=4", 2),
        ("/~message@1.0&a=1/set&b=2/(~message@1.0&k=b/k)", 0),
        ("/set?x+resolve=/~message@1.0%26a=4/a", 0),
        ("/~message@1.0&a=1/set/set?1.b=2&2.x%2Bresolve=~message@1.0%26a=4/a", 0),
        ("/roll~dice@1.0/set&a=1", 0),
    ],
)
def test_no_false_alarm_where_paths_nest(here: TestNode, store: Store, path: str, given: int) -> None:
    here.get("/~message@1.0&a=1/set&b=2")
    report = audit(store, here.get(path).hashpath or "")
    here.get("/~message@1.0&a=1/set&b=2/a")  # equal steps of other requests are at hand, too
    assert audit(store, report.ref) == report
    assert {step.record: step.findings for step in report.steps if step.findings} == {}
    assert report.given == given


def test_a_request_that_is_not_at_hand_is_counted(here: TestNode, store: Store) -> None:
    """Nothing shows what its path gave: that is somebody's word, and no more."""
    record = last(store, told(here, "/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)"))
    assert audit(store, record.hashpath_after).given == 0
    store.write([], [("origins", record.origin)])
    report = audit(store, record.hashpath_after)
    assert (report.verdict, report.given, report.exit_code(strict=True)) == (Verdict.REPRODUCED, 1, 2)


def test_a_value_that_no_recorded_answer_gives(here: TestNode, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same question was answered twice: which came first is not told, but there is no third answer."""
    honest = normalise.without_control

    def lying(resolver: Any, message: Message, frame: Any) -> Message:
        made = honest(resolver, message, frame)
        return made | {"x": Message({"fell": 77})} if isinstance(message.raw("x"), Resolve) else made

    with monkeypatch.context() as patch:
        patch.setattr(normalise, "without_control", lying)
        rolls = "&".join(f"{name}=(~dice@1.0/roll&most=1000000000)" for name in "xy")
        reply = here.get(f"/~message@1.0&a=1/set&{rolls}")
    report = audit(store, reply.hashpath or "")
    assert (report.verdict, rules(report.steps[-1])) == (Verdict.DIVERGED, {"sub-path"})


# -- lies -------------------------------------------------------------------------------------


def test_a_changed_result(here: TestNode, store: Store) -> None:
    record = last(store, told(here))
    lie = forge(store, record, result=keep(store, Message({"a": 9})))
    report = audit(store, lie.hashpath_after)
    found = of(report, lie)
    assert (found.verdict, rules(found)) == (Verdict.DIVERGED, {"result"})
    assert (found.findings[0].expected, found.findings[0].got) == (lie.result, record.result)
    assert report.first_fault is found
    assert [step.verdict for step in report.steps[:2]] == [Verdict.REPRODUCED] * 2


def test_a_changed_request(here: TestNode, store: Store) -> None:
    record = last(store, told(here))
    lie = forge(store, record, request=keep(store, Message({"path": "set", "d": b"5"})))
    found = of(audit(store, lie.hashpath_after), lie)
    assert found.verdict is Verdict.INVALID
    assert "hashpath-after" in rules(found)


def test_swapped_order(here: TestNode, store: Store) -> None:
    """Two steps change places: each hashpath is right in itself, but no base is the result before it."""
    hashpath = told(here)
    report = audit(store, hashpath)
    trail = Trail(store)
    second, third = (trail.read(native(step.record)) for step in report.steps[1:])
    assert second is not None
    assert third is not None
    lie = forge(store, third, base=second.base)
    found = of(audit(store, hashpath), lie)
    assert found.verdict is Verdict.INVALID
    assert "base-link" in rules(found)


@pytest.mark.parametrize("changes", [{"z": b"9"}, {"a": b"7"}])
def test_a_result_from_another_base(here: TestNode, store: Store, changes: dict[str, bytes]) -> None:
    """The step is made honestly, but on another base than the one its hashpath goes on from."""
    record = last(store, told(here))
    honest = here.node.cache.read(record.base, exact=True)
    made = here.node.cache.read(record.result, exact=True)
    assert isinstance(honest, Message)
    assert isinstance(made, Message)
    lie = forge(store, record, base=keep(store, honest | changes), result=keep(store, made | changes))
    found = of(audit(store, lie.hashpath_after), lie)
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"base-link"})


def test_a_root_with_a_borrowed_hashpath(here: TestNode, store: Store) -> None:
    record = last(store, told(here, "/~message@1.0&a=1/set&b=2"))
    lie = forge(store, record, base=keep(store, Message({"device": b"message@1.0", "a": b"7"})))
    found = of(audit(store, lie.hashpath_after), lie)
    assert "hashpath-before" in rules(found)
    assert found.verdict is Verdict.INVALID


def test_another_status(here: TestNode, store: Store) -> None:
    lie = forge(store, last(store, told(here)), status="error")
    found = of(audit(store, lie.hashpath_after), lie)
    assert (found.verdict, rules(found)) == (Verdict.DIVERGED, {"status"})


def test_another_key_and_device(here: TestNode, store: Store) -> None:
    record = last(store, told(here))
    lie = forge(store, record, key="get")
    assert rules(of(audit(store, lie.hashpath_after), lie)) == {"key"}
    lie = forge(store, lie, key="set", device="dice@1.0")
    assert "implementation" in rules(of(audit(store, lie.hashpath_after), lie))


def test_a_step_that_hides_among_the_parts_of_another(here: TestNode, store: Store) -> None:
    """Parts are not held against the path; but one that can be made again is never recorded."""
    first = of(audit(store, told(here)), record := last(store, told(here)))
    steps = audit(store, record.hashpath_after).steps
    trail = Trail(store)
    second = trail.read(native(steps[1].record))
    assert second is not None
    lie = forge(store, second, parent=native(first.record))
    found = of(audit(store, record.hashpath_after), lie)
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"parent"})


def test_other_code_is_not_run(here: TestNode, store: Store) -> None:
    lie = forge(store, last(store, told(here)), implementation="0" * 64, result=keep(store, Message({"x": 1})))
    found = of(audit(store, lie.hashpath_after), lie)
    assert (found.verdict, rules(found)) == (Verdict.DIFFERS, {"implementation"})


def test_other_code_may_answer_a_sub_path_otherwise(here: TestNode, store: Store) -> None:
    corrupt(here.node, "calculator@1.0", "add", lambda true, _: true + 1)
    record = last(store, told(here, "/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)"))
    assert rules(of(audit(store, record.hashpath_after), record)) == {"sub-path"}
    older = forge(store, record, implementation="0" * 64)
    found = of(audit(store, older.hashpath_after), older)
    assert (found.verdict, rules(found)) == (Verdict.DIFFERS, {"implementation"})


def test_a_truncated_trail(here: TestNode, store: Store) -> None:
    hashpath = told(here)
    second = audit(store, hashpath).steps[1]
    store.write([], [("trail", native(second.record))])
    report = audit(store, hashpath)
    assert report.verdict is Verdict.MISSING
    assert [step.key for step in report.steps] == ["set"]
    assert report.steps[0].findings[0].rule == "record"
    assert report.steps[0].findings[0].where == ("the test",)


def test_a_damaged_record_and_a_damaged_message(here: TestNode, store: Store) -> None:
    hashpath = told(here)
    first, second, third = audit(store, hashpath).steps
    damage(store, third.result, Message({"a": b"8"}))
    found = audit(store, hashpath).steps[2]
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"message"})
    data = store.get("trail", native(first.record))
    other = store.get("trail", native(second.record))
    assert data is not None
    assert other is not None
    store.write([("trail", native(first.record), other)])
    assert audit(store, hashpath).verdict is Verdict.INVALID


def test_a_stale_result_from_the_cache(here: TestNode, store: Store) -> None:
    base = keep(store, Message({"device": "calculator@1.0", "a": 1}))
    told(here, f"/{base}/add&b=2")
    hashpath = told(here, f"/{base}/add&b=2")
    cached = last(store, hashpath)
    assert cached.cached_from
    lie = forge(store, cached, result=keep(store, Message({"ao-result": b"body", "body": 7})))
    found = of(audit(store, lie.hashpath_after), lie)
    assert found.verdict is Verdict.INVALID
    assert {"cached-from", "result"} <= rules(found)


def test_an_answer_that_was_changed(here: TestNode, store: Store) -> None:
    record = last(store, told(here, "/~dice@1.0/twice"))
    one, two = record.oracles
    other = dataclasses.replace(one, result=keep(store, Message({"fell": 77})))
    lie = forge(store, record, oracles=(other, two))
    found = of(audit(store, lie.hashpath_after), lie)
    assert found.verdict is Verdict.INVALID
    assert rules(found) == {"part", "result"}


def test_answers_in_another_order_or_too_many_or_none(here: TestNode, store: Store) -> None:
    record = last(store, told(here, "/~dice@1.0/twice"))
    one, two = record.oracles
    for oracles, verdict in (
        ((two, one), Verdict.DIVERGED),
        ((one, two, two), Verdict.DIVERGED),
        ((), Verdict.MISSING),
    ):
        record = forge(store, record, oracles=oracles)
        found = of(audit(store, record.hashpath_after), record)
        assert (found.verdict, rules(found)) == (verdict, {"oracle"}), oracles


def test_a_hidden_sub_step(here: TestNode, store: Store) -> None:
    record = last(store, told(here, "/~dice@1.0/twice"))
    (row, child), *_ = store.scan("by-parent", record.id)
    store.write([], [("by-parent", row), ("trail", child)])
    found = of(audit(store, record.hashpath_after), record)
    assert (found.verdict, rules(found)) == (Verdict.MISSING, {"part"})


def test_a_missing_message(here: TestNode, store: Store) -> None:
    record = last(store, told(here))
    store.write([], [("messages", native(record.request))])
    found = of(audit(store, record.hashpath_after), record)
    assert (found.verdict, rules(found)) == (Verdict.MISSING, {"message"})


def test_a_forged_committer(here: TestNode, store: Store) -> None:
    """A request is laid to somebody who never signed it, and the store says that the signature was verified."""
    signed = commit(Message({"path": "set", "d": b"4"}), wallet("owner"))
    chain = here.node.chain(Batch())
    made = here.node.resolver.resolve(Message({"a": 1}), signed, Frame(here.node.resolver, chain, 0, None))
    assert chain.batch is not None
    chain.batch.commit(store)
    record = last(store, made.hashpath or "")
    assert record.request == signed_id(signed)
    assert audit(store, record.hashpath_after).verdict is Verdict.REPRODUCED
    (name,) = [name for name, fields in signed.commitments.items() if "committer" in fields]
    key = native(unsigned_id(signed)) + name.encode()
    row = store.get("commitments", key)
    assert row is not None
    fields = canonical.decode(row[1:])
    assert isinstance(fields, Message)
    for forged in ({"signature": bytes(256)}, {"signature": b"A" * 342}, {"committer": wallet("alice").address}):
        row = b"\x01" + canonical.encode(fields | forged)
        store.write([("commitments", key, row)])
        found = of(audit(store, record.hashpath_after), record)
        assert found.verdict is Verdict.INVALID
        assert rules(found) & {"signature", "message"}, forged


def test_a_signed_id_that_stands_for_another_message(here: TestNode, store: Store) -> None:
    one, other = (commit(Message({"path": "set", "d": text}), wallet("owner")) for text in (b"4", b"5"))
    chain = here.node.chain(Batch())
    made = here.node.resolver.resolve(Message({"a": 1}), one, Frame(here.node.resolver, chain, 0, None))
    assert chain.batch is not None
    here.node.cache.put(other, chain.batch)
    chain.batch.commit(store)
    alias = store.get("aliases", native(signed_id(other)))
    assert alias is not None
    store.write([("aliases", native(signed_id(one)), alias)])
    record = last(store, made.hashpath or "")
    found = of(audit(store, record.hashpath_after), record)
    assert found.verdict is Verdict.INVALID
    assert "message" in rules(found)


# -- options ------------------------------------------------------------------------------------


def test_stopping_at_the_first_fault(here: TestNode, store: Store) -> None:
    hashpath = told(here)
    second = Trail(store).read(native(audit(store, hashpath).steps[1].record))
    assert second is not None
    lie = forge(store, second, result=keep(store, Message({"a": 9})))
    report = audit(store, hashpath, first=True)
    assert [step.record for step in report.steps][-1] == of(report, lie).record
    assert (len(report.steps), report.total) == (2, 3)


def test_a_sample_is_seeded_and_says_its_odds(here: TestNode, store: Store) -> None:
    told(here, CHAIN + "/set&e=5/set&f=6/set&g=7")
    reports = [audit(store, roots=everything(store), sample=2, seed=seed) for seed in (1, 1, 2)]
    assert reports[0].steps == reports[1].steps
    assert len({step.record for report in reports for step in report.steps}) > 2
    assert reports[0].sample == {
        "size": 2,
        "seed": 1,
        "finds-one-lie": 2 / 6,
        "finds-one-percent": pytest.approx(2 / 6),
    }
    assert reports[0].total == 6
    assert odds(1000, 100)["finds-one-percent"] == pytest.approx(1 - (0.9**10), abs=0.01)


def test_an_audit_of_an_audit_ends_quietly(here: TestNode, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A device that was lent nothing has nothing to let go of."""
    assert audit(store, told(here, "/~audit@1.0/page")).verdict is Verdict.REPRODUCED
    assert not [record for record in caplog.records if record.exc_info]
