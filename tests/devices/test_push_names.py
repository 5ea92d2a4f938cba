"""push@1.0 with names that HTTP cannot carry, and timed tasks that an outbox starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, commitments, device, key
from hyperpy.http.replies import decode_reply
from tests.devices.mailing import Mailer, child, send, spawn
from tests.devices.parts import Place, place

ODD = ("../x", "a/b", "a\nb", "ao-types", "ao-body-key", "signature", "signature-input", "content-type", "@path", 'a"b',
       "a+link", "a\x7f", "a%20b")  # fmt: skip
PLAIN = ("1", "01", "x", "-x", "A", "a b", "a:b", "status-of", "\u00e4")


@device("teller@1.0")
class Teller:
    """Gives as its results what a message tells it to, and more keys than a message may be sent with."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Take the results from the message: texts of hexadecimal digits are names."""
        body = request["body"]
        assert isinstance(body, Message)
        given = body.get("told", Message())
        assert isinstance(given, Message)
        return base | {"results": unhidden(given)}


def hidden(item: Any) -> Any:
    """Return maps with names of hexadecimal digits: what is posted has plain names only."""
    if isinstance(item, dict):
        return {"h" + name.encode().hex(): hidden(one) for name, one in item.items()}
    return [hidden(one) for one in item] if isinstance(item, list) else item


def unhidden(item: Any) -> Any:
    if isinstance(item, Message):
        return Message.make({bytes.fromhex(name[1:]).decode(): unhidden(item[name]) for name in item})
    return tuple(map(unhidden, item)) if isinstance(item, tuple) else item


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Mailer, Teller, flags={"http.sign": True}) as made:
        yield made


def told(here: Place, results: dict[str, Any], bundle: str = "true") -> Message:
    """Push a slot with these results; return the answer as a client reads it, signed by the node."""
    process = here.spawn("teller@1.0", authority=here.node.address)
    slot = send(here, process, told=hidden(results))
    reply = here.web.http("GET", f"/{process}~process@1.0/push&slot={slot}", {"accept-bundle": bundle}, b"")
    assert reply.status == 200, reply.body[:300]
    found = decode_reply(reply.status, reply.headers, reply.body)
    commitments.check(found)
    assert commitments.committers(found) == (here.node.address,)
    assert found["slot"] == slot
    return found


@pytest.mark.parametrize("index", ODD)
@pytest.mark.parametrize("bundle", ["true", "false"])
def test_an_entry_with_an_odd_name_is_delivered_and_answered(here: Place, index: str, bundle: str) -> None:
    target = spawn(here, "target")
    found = told(here, {"outbox": {"1": {"target": target}, index: {"target": target, "n": "2"}}}, bundle)
    assert here.slots.head(target).slot == 2
    if bundle == "true":
        assert child(found, "1", "slot") == 1
        entry = child(found, "entry-2")
        assert (entry["slot"], entry["target"]) == (2, target.encode())
        assert entry["outbox-index"] == ascii(index)[1:-1].encode()
        assert set(child(found, "outbox")) == {"1"}
    assert found["left-out"] == 1


@pytest.mark.parametrize("name", ODD)
def test_odd_names_in_results_do_not_spoil_the_answer(here: Place, name: str) -> None:
    target = spawn(here, "target")
    value = {"inner": "v"}
    results = {
        "outbox": {"1": {"target": target, "n": {name: value, "z": "1"}}},
        "output": {"body": "said", name: ["x", {"y": "z"}]},
        name: value,
        "kept": [{name: value}, "last"],
    }
    found = told(here, results)
    assert child(found, "output", "body") == b"said"
    assert child(found, "outbox", "1", "n", "z") == b"1"
    assert isinstance(found["kept"], tuple)
    assert found["kept"][1] == b"last"
    assert name not in found
    assert found["left-out"] == 4


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_stay_as_they_are(here: Place, name: str) -> None:
    target = spawn(here, "target")
    found = told(here, {"outbox": {name: {"target": target, "n": {name: {"a": "b"}}}}, f"x{name}": "y"})
    assert child(found, name, "slot") == 1
    assert child(found, "outbox", name, "n", name, "a") == b"b"
    assert found[f"x{name}"] == b"y"
    assert "left-out" not in found


def test_names_given_for_odd_ones_do_not_meet(here: Place) -> None:
    target = spawn(here, "target")
    outbox = {"entry-2": {"target": target}, "../x": {"target": target}, "a/b": {"no": "target", "a/b": {"c": "d"}}}
    found = told(here, {"outbox": outbox})
    assert {name for name in found if name.startswith("entry-")} == {"entry-1", "entry-2", "entry-2-"}
    assert child(found, "entry-1", "outbox-index") == b"../x"
    assert "outbox-index" not in child(found, "entry-2")
    refused = child(found, "entry-2-")
    assert (refused["outbox-index"], refused["status"], set(refused["message"])) == (b"a/b", 404, {"no"})


def test_timed_tasks_of_an_outbox_count_for_the_process(here: Place) -> None:
    """Sixteen in all used to be everybody's: they counted for nobody's address."""
    with place(Mailer, flags={"cron.per-caller": 2}) as few:
        timers = few.node._lend["timers"]
        for seed in ("1", "2"):
            process = spawn(few, seed)
            before = timers.count()
            order = {"target": process, "resolve": "/~cron@1.0/every", "interval": "1-hour"}
            outbox = {str(at): {**order, "cron-path": f"/~meta@1.0/info?{seed}={at}"} for at in range(1, 4)}
            slot = send(few, process, outbox=outbox)
            few.get(process, f"push&slot={slot}")
            assert timers.count() == before + 2, "the third is one too many, whoever else has some"
            bodies = [few.slots.read(process, slot + at) for at in range(1, 4)]
            refused = [one["body"] for one in bodies if one and one["body"].get("resolve") == b"error"]  # type: ignore[union-attr]
            assert [b"2 timed tasks" in one["reason"] for one in refused] == [True]  # type: ignore[index, operator]
        reply = few.web.get("/~cron@1.0/every?interval=1-hour&cron-path=/~meta@1.0/info")
        assert reply["status"] == 200
        assert timers.count() == 5
