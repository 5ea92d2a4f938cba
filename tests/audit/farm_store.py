"""Lies in a node's trail: its devices were changed while it ran, or its rows afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

from hyperpy import Message, hashpath, normalise
from hyperpy.cache import Batch
from hyperpy.codecs import canonical
from hyperpy.commitments import commit, unsigned_id
from hyperpy.context import Frame
from hyperpy.encoding import native
from hyperpy.testing import TestNode, wallet
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Verdict
from tests.audit.farm import CHAIN, Caught, Farm, everything_of, name_of, told
from tests.audit.liars import corrupt
from tests.audit.lies import audit, forge, keep, last

FARM = Farm()
lie = FARM.lie
REPLAY = "replay"
RUNNING, KEEPER = "a running device", "whoever keeps the store"


def caught(here: TestNode, record: Record, ref: str = "") -> Caught:
    """Replay what led to a record."""
    return Caught(audit(here.node.store, ref or record.hashpath_after), name_of(record))


def newest(here: TestNode, reply: Message) -> Record:
    """Return the record of the last step of a reply."""
    return last(here.node.store, reply.hashpath or "")


def steps(here: TestNode, reply: Message) -> list[Record]:
    """Return the records of a chain, the first one first."""
    found = []
    for step in audit(here.node.store, reply.hashpath or "").steps:
        record = Trail(here.node.store).read(native(step.record))
        assert record is not None
        found.append(record)
    return found


# -- results ------------------------------------------------------------------------------------


@lie("changed result", RUNNING, REPLAY, "result", "second of three steps", Verdict.DIVERGED)
def changed_result() -> Caught:
    """The device lies where it is told ``c``; the step after it is honest, on a false base."""
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "message@1.0", "set", lambda true, found: true | {"c": b"9"} if "c" in true else true)
        reply = here.get(CHAIN)
        assert reply["c"] == b"9"
        return caught(here, steps(here, reply)[1], reply.hashpath or "")


@lie("a sub-path answered falsely", RUNNING, REPLAY, "sub-path", "the step it went into", Verdict.DIVERGED)
def false_sub_path() -> Caught:
    """The sub-path is deterministic and leaves no record; the request that was recorded holds the lie."""
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "calculator@1.0", "add", lambda true, _: true + 1)
        reply = here.get("/~message@1.0&a=1/set&x=(/~calculator@1.0&a=1/add&b=2)/set&y=3")
        assert reply["x"] == 4
        return caught(here, steps(here, reply)[0], reply.hashpath or "")


@lie("a sub-path of the root answered falsely", RUNNING, REPLAY, "sub-path", "the first step", Verdict.DIVERGED)
def false_sub_path_of_root() -> Caught:
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "calculator@1.0", "add", lambda true, _: true + 1)
        reply = here.get("/~message@1.0&x=(/~calculator@1.0&a=1/add&b=2)/set&y=3")
        assert reply["x"] == 4
        return caught(here, newest(here, reply))


@lie("sub-paths of two steps change places", RUNNING, REPLAY, "sub-path", "the first of the two", Verdict.DIVERGED)
def sub_paths_exchanged() -> Caught:
    """Each value is what a sub-path of the request gives, but not the one of its own step."""
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "calculator@1.0", "add", lambda true, _: {3: 10, 10: 3}[true])
        one, other = (f"x=(/~calculator@1.0&a={a}/add&b={b})" for a, b in ((1, 2), (5, 5)))
        reply = here.get(f"/~message@1.0&a=1/set&{one}/set&{other}")
        assert reply["x"] == 3
        return caught(here, steps(here, reply)[0], reply.hashpath or "")


@lie("a sub-path of a later `~device&key=(path)` answered falsely", RUNNING, REPLAY, "sub-path", "the step after it",
     Verdict.DIVERGED)  # fmt: skip
def false_sub_path_put_on() -> Caught:
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "calculator@1.0", "add", lambda true, _: true + 1)
        reply = here.get("/~message@1.0&a=1/set&b=2/~message@1.0&x=(/~calculator@1.0&a=1/add&b=2)/set&c=3")
        assert reply["x"] == 4
        return caught(here, steps(here, reply)[1], reply.hashpath or "")


@lie("a later `~device&key=value` left out", RUNNING, REPLAY, "base-link", "the step after it")
def put_on_nothing() -> Caught:
    honest = normalise._as_request
    with told("/~message@1.0/id") as (here, _):
        with mock.patch.object(
            normalise, "_as_request", lambda resolver, own, *rest: (own, honest(resolver, own, *rest)[1])
        ):
            reply = here.get("/~message@1.0&a=1/set&b=2/~message@1.0&a=5/set&c=3")
        assert reply["a"] == b"1"
        return caught(here, steps(here, reply)[1], reply.hashpath or "")


@lie("a later `~device&key=value` put on an earlier base", RUNNING, REPLAY, "base-link", "the step before it")
def put_on_too_early() -> Caught:
    """Each value stands in the request, but it was put on the base of another step."""
    honest, ahead = normalise._as_request, iter((b"6", b"5"))

    def lying(*given: Any) -> Any:
        base, made = honest(*given)
        return (base | {"a": next(ahead)} if made is None else base), made

    with told("/~message@1.0/id") as (here, _):
        with mock.patch.object(normalise, "_as_request", lying):
            reply = here.get("/~message@1.0/set&b=2/~message@1.0&a=5/set&c=3/~message@1.0&a=6/set&d=4")
        assert reply["a"] == b"5"
        return caught(here, steps(here, reply)[1], reply.hashpath or "")


@lie("one result in ten is false", RUNNING, REPLAY, "result", "the step with `b=50`", Verdict.DIVERGED)
def now_and_then() -> Caught:
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "calculator@1.0", "add", lambda true, _: true if true != 57 else 0)
        reply = Message()
        for b in range(45, 55):
            reply = here.get(f"/~calculator@1.0&a=7/add&b={b}")
            if b == 50:
                liar = newest(here, reply)
        return Caught(everything_of_(here, liar), name_of(liar))


def everything_of_(here: TestNode, liar: Record) -> Any:
    """Return the audit of everything, with the lie last: the order of other branches says nothing."""
    report = everything_of(here)
    report.steps.sort(key=lambda step: step.record == name_of(liar))
    return report


@lie("an error shown as a result", RUNNING, REPLAY, "result", "the only step", Verdict.DIVERGED)
def error_hidden() -> Caught:
    with told("/~message@1.0/id") as (here, _):
        corrupt(here.node, "dice@1.0", "careful", lambda true, _: true | {"wrong": b"nothing"})
        return caught(here, newest(here, here.get("/~dice@1.0/careful")))


@lie("status changed: ok shown as an error", KEEPER, REPLAY, "status", "last of three steps", Verdict.DIVERGED)
def ok_as_error() -> Caught:
    with told() as (here, reply):
        return caught(here, forge(here.node.store, newest(here, reply), status="error"))


@lie("status changed: an error shown as ok", KEEPER, REPLAY, "status", "the only step", Verdict.DIVERGED)
def error_as_ok() -> Caught:
    with told("/~dice@1.0/fails") as (here, _):
        (record,) = [Trail(here.node.store).read(name) for name, _ in here.node.store.scan("trail")]
        assert record is not None
        assert record.status == "error"
        return caught(here, forge(here.node.store, record, status="ok"))


@lie("other bytes under a result's ID", KEEPER, REPLAY, "message", "last of three steps")
def other_bytes() -> Caught:
    with told() as (here, reply):
        record = newest(here, reply)
        other = here.node.store.get("messages", native(record.base))
        assert other is not None
        here.node.store.write([("messages", native(record.result), other)])
        return caught(here, record)


# -- requests, order, hashpaths -------------------------------------------------------------------


@lie("changed request", KEEPER, REPLAY, "hashpath-after", "last of three steps")
def changed_request() -> Caught:
    with told() as (here, reply):
        other = keep(here.node.store, Message({"path": "set", "d": b"5"}))
        return caught(here, forge(here.node.store, newest(here, reply), request=other))


@lie("changed request, its hashpath made again", KEEPER, REPLAY, "result", "last of three steps", Verdict.DIVERGED)
def changed_request_rehashed() -> Caught:
    with told() as (here, reply):
        record = newest(here, reply)
        asked = Message({"path": "set", "d": b"5"})
        base = here.node.cache.read(record.base, exact=True)
        assert isinstance(base, Message)
        after = hashpath.extend(base.with_private(hashpath=record.hashpath_before), asked)
        made = forge(here.node.store, record, request=keep(here.node.store, asked), hashpath_after=after)
        return caught(here, made, name_of(made))


@lie("hashpath extended with another request", KEEPER, REPLAY, "hashpath-after", "last of three steps")
def other_hashpath() -> Caught:
    with told() as (here, reply):
        record = newest(here, reply)
        head = record.hashpath_after.partition("/")[0]
        made = forge(here.node.store, record, hashpath_after=f"{head}/{keep(here.node.store, Message({'x': 1}))}")
        return caught(here, made, name_of(made))


@lie("two steps change places", KEEPER, REPLAY, "base-link", "last of three steps")
def swapped_order() -> Caught:
    with told() as (here, reply):
        _, second, third = steps(here, reply)
        return caught(here, forge(here.node.store, third, base=second.base))


@lie("an order is played again under a later hashpath", KEEPER, REPLAY, "base-link", "last of three steps")
def played_again() -> Caught:
    """The second step once more, in the place of the third: the same request, base and result."""
    with told() as (here, reply):
        _, second, third = steps(here, reply)
        old = second.hashpath_before
        base = here.node.cache.read(second.base, exact=True)
        asked = here.node.cache.read(second.request, exact=True)
        assert isinstance(base, Message)
        assert isinstance(asked, Message)
        after = hashpath.extend(base.with_private(hashpath=third.hashpath_before), asked)
        changes = {name: getattr(second, name) for name in ("base", "request", "result")}
        made = forge(here.node.store, third, **changes, hashpath_after=after)
        assert old != made.hashpath_before
        return caught(here, made, name_of(made))


@lie("result from another base", KEEPER, REPLAY, "base-link", "last of three steps")
def another_base() -> Caught:
    with told() as (here, reply):
        record = newest(here, reply)
        base, made = (here.node.cache.read(one, exact=True) for one in (record.base, record.result))
        assert isinstance(base, Message)
        assert isinstance(made, Message)
        changed = [keep(here.node.store, one | {"a": b"7"}) for one in (base, made)]
        return caught(here, forge(here.node.store, record, base=changed[0], result=changed[1]))


@lie("another value put on a base than the request has", KEEPER, REPLAY, "base-link", "last of two steps")
def another_value_put_on() -> Caught:
    """The request says ``~calculator@1.0&b=5``; the step is an honest one, with ``b=6``."""
    with told("/~message@1.0&a=1/set&x=2/~calculator@1.0&b=5/add&a=1") as (here, reply):
        record = newest(here, reply)
        base = here.node.cache.read(record.base, exact=True)
        assert isinstance(base, Message)
        made = Message({"ao-result": b"body", "body": 7})
        changed = [keep(here.node.store, one) for one in (base | {"b": b"6"}, made)]
        return caught(here, forge(here.node.store, record, base=changed[0], result=changed[1]))


@lie("a root with a borrowed hashpath", KEEPER, REPLAY, "hashpath-before", "the first step")
def borrowed_hashpath() -> Caught:
    with told("/~message@1.0&a=1/set&b=2") as (here, reply):
        other = keep(here.node.store, Message({"device": b"message@1.0", "a": b"7"}))
        return caught(here, forge(here.node.store, newest(here, reply), base=other))


# -- who and with what ----------------------------------------------------------------------------


@lie("record of another key", KEEPER, REPLAY, "key", "last of three steps")
def another_key() -> Caught:
    with told() as (here, reply):
        return caught(here, forge(here.node.store, newest(here, reply), key="get"))


@lie("record of another device", KEEPER, REPLAY, "device", "last of three steps")
def another_device() -> Caught:
    with told() as (here, reply):
        code = here.node.registry.lookup("dice@1.0").implementation
        return caught(here, forge(here.node.store, newest(here, reply), device="dice@1.0", implementation=code))


@lie("implementation digest lied about", KEEPER, REPLAY, "implementation", "last of three steps", Verdict.DIFFERS)
def other_code() -> Caught:
    with told() as (here, reply):
        other = keep(here.node.store, Message({"x": 1}))
        return caught(here, forge(here.node.store, newest(here, reply), implementation="0" * 64, result=other))


@lie("forged committer", KEEPER, REPLAY, "signature", "the only step")
def forged_committer() -> Caught:
    """A request is laid to somebody who never signed it, and the store says that it was verified."""
    signed = commit(Message({"path": "set", "d": b"4"}), wallet("owner"))
    with told("/~message@1.0/id") as (here, _):
        store, resolver = here.node.store, here.node.resolver
        chain = here.node.chain(Batch())
        made = resolver.resolve(Message({"a": 1}), signed, Frame(resolver, chain, 0, None))
        assert chain.batch is not None
        chain.batch.commit(store)
        (name,) = [name for name, fields in signed.commitments.items() if "committer" in fields]
        key = native(unsigned_id(signed)) + name.encode()
        row = store.get("commitments", key)
        assert row is not None
        fields = canonical.decode(row[1:])
        assert isinstance(fields, Message)
        store.write([("commitments", key, b"\x01" + canonical.encode(fields | {"committer": wallet("alice").address}))])
        return caught(here, last(store, made.hashpath or ""))


@lie("attested-by forged", KEEPER, REPLAY, "attested-by", "the only step")
def forged_voucher() -> Caught:
    with told("/~dice@1.0/roll") as (here, reply):
        other = wallet("alice").address
        return caught(here, forge(here.node.store, newest(here, reply), attested_by=other))


# -- what is hidden -------------------------------------------------------------------------------


@lie("trail cut in the middle", KEEPER, REPLAY, "record", "the step after the gap", Verdict.MISSING)
def cut_middle() -> Caught:
    with told() as (here, reply):
        _, second, third = steps(here, reply)
        here.node.store.write([], [("trail", second.id)])
        return caught(here, third)


@lie("trail cut at its beginning", KEEPER, REPLAY, "record", "the step after the gap", Verdict.MISSING)
def cut_beginning() -> Caught:
    with told() as (here, reply):
        first, second, third = steps(here, reply)
        here.node.store.write([], [("trail", first.id)])
        return Caught(audit(here.node.store, third.hashpath_after), name_of(second))


@lie("sub-resolution hidden: its record", KEEPER, REPLAY, "part", "the step that asked", Verdict.MISSING)
def hidden_child() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        (row, child), *_ = here.node.store.scan("by-parent", record.id)
        here.node.store.write([], [("by-parent", row), ("trail", child)])
        return Caught(last_only(here, record), name_of(record))


def last_only(here: TestNode, record: Record) -> Any:
    """Return the audit of a step with its parts."""
    return audit(here.node.store, record.hashpath_after)


@lie("sub-resolution hidden: its answer", KEEPER, REPLAY, "oracle", "the step that asked", Verdict.DIVERGED)
def hidden_oracle() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        return caught(here, forge(here.node.store, record, oracles=record.oracles[:1]))


@lie("an answer too many", KEEPER, REPLAY, "oracle", "the step that asked", Verdict.DIVERGED)
def extra_oracle() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        return caught(here, forge(here.node.store, record, oracles=(*record.oracles, record.oracles[1])))


@lie("answers in another order", KEEPER, REPLAY, "oracle", "the step that asked", Verdict.DIVERGED)
def swapped_oracles() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        return caught(here, forge(here.node.store, record, oracles=record.oracles[::-1]))


@lie("an answer changed", KEEPER, REPLAY, "part", "the step that asked")
def changed_answer() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        other = dataclasses.replace(record.oracles[0], result=keep(here.node.store, Message({"fell": 77})))
        return caught(here, forge(here.node.store, record, oracles=(other, record.oracles[1])))


@lie(
    "an answer changed, and the record that gave it", KEEPER, REPLAY, "result", "the step that asked", Verdict.DIVERGED
)
def changed_answer_and_part() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        store, record = here.node.store, newest(here, reply)
        one, two = record.oracles
        other = keep(store, Message({"fell": 77}))
        row, name = next(pair for pair in store.scan("by-parent", record.id) if result_of(here, pair[1]) == one.result)
        child = Trail(store).read(name)
        assert child is not None
        made = dataclasses.replace(child, result=other)
        store.write([("trail", made.id, made.encode()), ("by-parent", row, made.id)], [("trail", name)])
        return caught(here, forge(store, record, oracles=(dataclasses.replace(one, result=other), two)))


def result_of(here: TestNode, name: bytes) -> str:
    """Return the result of a record."""
    record = Trail(here.node.store).read(name)
    assert record is not None
    return record.result


@lie("an answer's request changed", KEEPER, REPLAY, "oracle", "the step that asked", Verdict.DIVERGED)
def changed_oracle_request() -> Caught:
    with told("/~dice@1.0/twice") as (here, reply):
        record = newest(here, reply)
        asked = keep(here.node.store, Message({"path": "roll", "most": 7}))
        other = dataclasses.replace(record.oracles[0], request=asked)
        return caught(here, forge(here.node.store, record, oracles=(other, record.oracles[1])))


@lie("a sub-step put under another step", KEEPER, REPLAY, "parent", "the step it was put under")
def another_parent() -> Caught:
    with told("/~dice@1.0/twice", "/~dice@1.0&x=1/twice") as (here, reply):
        store, record = here.node.store, newest(here, reply)
        (row, child), *_ = store.scan("by-parent", record.id)
        found = Trail(store).read(child)
        assert found is not None
        other = next(name for name, _ in store.scan("trail") if name not in (record.id, child))
        made = dataclasses.replace(found, parent=other)
        store.write([("trail", made.id, made.encode()), ("by-parent", row, made.id)], [("trail", child)])
        return caught(here, record)


# -- the cache ------------------------------------------------------------------------------------


def cached(**changes: Any) -> Caught:
    """Ask twice for one result; change the second record, and audit it."""
    with told("/~message@1.0/id") as (here, _):
        base = keep(here.node.store, Message({"device": "calculator@1.0", "a": 1}))
        here.get(f"/{base}/add&b=2")
        record = newest(here, here.get(f"/{base}/add&b=2"))
        assert record.cached_from
        source = Trail(here.node.store).read(record.cached_from)
        assert source is not None
        if "source" in changes:
            source = dataclasses.replace(source, **changes.pop("source"))
            batch = Batch()
            Trail(here.node.store).append(source, batch)
            batch.commit(here.node.store)
            changes["cached_from"] = source.id
        if "other" in changes:
            path = changes.pop("other")
            changes["cached_from"] = newest(here, here.get(path.format(base=base))).id
        return caught(here, forge(here.node.store, record, **changes), name_of(dataclasses.replace(record, **changes)))


@lie("stale cache: a result of another request", KEEPER, REPLAY, "cached-from", "the step from the cache")
def stale_request() -> Caught:
    return cached(other="/{base}/add&b=3")


@lie("stale cache: a result of another base", KEEPER, REPLAY, "cached-from", "the step from the cache")
def stale_base() -> Caught:
    return cached(other="/~calculator@1.0&a=2/add&b=2")


@lie("stale cache: a false result said to be cached", KEEPER, REPLAY, "cached-from", "the step from the cache")
def stale_result() -> Caught:
    return cached(result="A" * 43)
