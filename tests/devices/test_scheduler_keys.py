"""Several keys on one node: every scheduler of a process that it holds signs its assignments (devices/02-scheduler)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hyperpy.devices.push.outgoing import signed

from hyperpy import Message, commitments, config
from hyperpy.errors import ConfigError, Forbidden
from hyperpy.keys import RsaKey
from hyperpy.node import Node, open_node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet
from tests.devices.mailing import Mailer, child
from tests.devices.parts import Count, Place
from tests.devices.scheduling import post

ONE, TWO, OTHER = (wallet(name) for name in ("one", "two", "other"))


class Scheduled(Place):
    """A place whose schedules the node's own scheduler writes."""

    def schedule(self, process: str, body: Message, path: str = "compute") -> Message:
        """Post a message to the scheduler; return its assignment."""
        made = post(self.web, body)
        assert made["status"] == 200, made
        found = self.slots.read(process, self.slots.head(process).slot)
        assert found is not None
        return found


@contextmanager
def held(*keys: RsaKey, store: Path | None = None, **flags: Any) -> Iterator[Scheduled]:
    """Run a node that holds more keys than its own."""
    settings = config.load(environ={}, flags={"http.sign": False, **flags})
    kept = LmdbStore(store) if store else MemoryStore()
    inner = Node(
        settings,
        key=wallet("node"),
        store=kept,
        operator=wallet("operator").address,
        devices=(Count, Mailer),
        schedulers=keys,
    )
    try:
        yield Scheduled(inner, wallet("author"))
    finally:
        inner.close()


def signers(here: Place, process: str, slot: int) -> set[str]:
    found = here.slots.read(process, slot)
    assert found is not None
    commitments.check(found)
    return set(commitments.committers(found))


def audited(here: Place, process: str) -> Message:
    return here.web.get(f"/~scheduler@1.0/verify-schedule?target={process}")


FORMS = [
    lambda *names: ", ".join(names),
    lambda *names: ", ".join(f'"{name}"' for name in names),
    lambda *names: list(names),
]


@pytest.mark.parametrize("form", FORMS, ids=["text", "structured field", "list"])
def test_every_scheduler_key_that_is_held_signs(form: Any) -> None:
    with held(ONE, TWO) as here:
        named = form(OTHER.address, TWO.address, here.node.address, ONE.address)
        process = here.spawn(scheduler=named)
        for _ in range(3):
            here.send(process, action="x")
        mine = {here.node.address, ONE.address, TWO.address}
        assert [signers(here, process, slot) for slot in range(4)] == [mine] * 4
        verdict = audited(here, process)
        assert (verdict["valid"], verdict["checked"]) == (True, 4), verdict
        assert here.value(process, "now/count") == 4
        order = (TWO.address, here.node.address, ONE.address)
        assert here.get(process, "slot")["addresses"] == tuple(one.encode() for one in order)


def test_a_process_of_another_key_alone() -> None:
    """The node's own key is no scheduler of it, and does not sign."""
    with held(ONE) as here:
        process = here.spawn(scheduler=ONE.address)
        here.send(process, action="x")
        assert signers(here, process, 1) == {ONE.address}
        assert audited(here, process)["valid"] is True


def test_a_lost_and_a_foreign_signature_are_found() -> None:
    with held(ONE) as here:
        process = here.spawn(scheduler=f"{here.node.address}, {ONE.address}")
        here.send(process, action="x")
        answer = here.get(process, "schedule")
        listed = answer["assignments"]
        assert isinstance(listed, Message)
        last = listed["1"]
        assert isinstance(last, Message)
        foreign = commitments.commit(last, OTHER)
        told = here.node.resolve(
            Message({"device": "scheduler@1.0", "process": here.node._lend["store"].read(process)}),
            {"path": "verify-schedule", "body": answer | {"assignments": listed | {"1": foreign}}},
        )
        assert isinstance(told, Message)
        assert told["valid"] is False
        assert OTHER.address in str(told["findings"])


def test_a_second_node_takes_the_schedule_over(tmp_path: Path) -> None:
    """The chain goes on under the same signers, by the ID that all signatures make together."""
    with held(ONE, store=tmp_path / "s") as here:
        process = here.spawn(scheduler=f"{here.node.address}, {ONE.address}")
        here.send(process, action="x")
    with held(ONE, store=tmp_path / "s") as again:
        again.send(process, action="y")
        verdict = audited(again, process)
        assert (verdict["valid"], verdict["checked"]) == (True, 3)


def test_items_carry_one_signature() -> None:
    with held(RsaKey.generate(4096)) as here:
        (extra,) = [one for one in here.node._lend["keys"].addresses if one != here.node.address]
        process = here.spawn(scheduler=f"{extra}, {here.node.address}", **{"scheduler-commitment-spec": "ans104@1.0"})
        assert signers(here, process, 0) == {extra}
        assert audited(here, process)["valid"] is True


def test_mail_is_signed_by_every_authority_that_is_held() -> None:
    """devices/04, example 3: both schedulers sign the assignment, exactly the authority signs its body."""
    with held(ONE, TWO) as here:
        both = f"{here.node.address}, {ONE.address}"
        first = here.spawn("mailer@1.0", **{"random-seed": "1"})
        second = here.spawn("mailer@1.0", scheduler=both, authority=TWO.address, **{"random-seed": "2"})
        slot = here.send(first, outbox={"1": {"target": second, "action": "x"}})["slot"]
        assert child(here.get(first, f"push&slot={slot}"), "1", "slot") == 1
        assert signers(here, second, 1) == {here.node.address, ONE.address}
        mail = here.slots.read(second, 1)
        assert mail is not None
        assert isinstance(mail["body"], Message)
        assert commitments.committers(mail["body"]) == (TWO.address,)
        assert here.value(second, "now/got/2") == b"x"
        keys = here.node._lend["keys"]
        three = signed(Message({"a": 1}), Message({"authority": [ONE.address, "X", TWO.address]}), keys, always=False)
        assert set(commitments.committers(three)) == {ONE.address, TWO.address}


# -- what a held key may not ---------------------------------------------------------------------


def test_a_held_key_is_never_the_operators() -> None:
    with pytest.raises(ConfigError, match="is the node's own"):
        Node(
            config.load(environ={}),
            key=wallet("node"),
            store=MemoryStore(),
            operator=ONE.address,
            schedulers=[ONE],
        )
    with held(ONE) as here:
        order = Message({"path": "/~meta@1.0/info", "method": "POST", "operator": ONE.address})
        form = commitments.http_form(commitments.commit(order, wallet("operator")))
        headers = {name: text.decode() for name, text in form.headers.items()}
        assert here.web.http("POST", "/~meta@1.0/info", headers, form.body or b"").status >= 400
        assert here.node.settings.operator == wallet("operator").address


def test_its_signature_over_a_status_is_a_replys() -> None:
    with held(ONE) as here:
        assert {here.node.address, ONE.address} <= here.node.settings.reply_signers()
        process = here.spawn()
        for key, status in ((ONE, 400), (OTHER, 200)):
            mail = commitments.commit(Message({"target": process, "type": "Message", "status": 200}), key)
            form = commitments.http_form(mail)
            headers = {name: text.decode() for name, text in form.headers.items()}
            assert here.web.http("POST", f"/{process}/schedule", headers, form.body or b"").status == status


def test_keys_that_are_not_held_do_not_sign() -> None:
    with held(ONE) as here:
        keys = here.node._lend["keys"]
        assert tuple(keys.addresses) == (here.node.address, ONE.address)
        with pytest.raises(Forbidden, match="does not hold"):
            keys.sign(Message({"a": 1}), address=OTHER.address)


def test_nobody_has_a_held_key_sign_on_request() -> None:
    """``commit`` on request is by the node's own key; and never while the node schedules under another."""
    with held(ONE, **{"http.sign_on_request": True}) as here:
        made = here.node.resolve(f"/~message@1.0&a=1/commit&address={ONE.address}")
        assert isinstance(made, Message)
        assert commitments.committers(made) == (here.node.address,)
    flags = {"http.sign_on_request": True, "scheduler.schedulers": [ONE.address]}
    with pytest.raises(ConfigError, match="sign-on-request"), held(ONE, **flags):
        pass


def test_wallets_of_the_configuration(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in ("node", "more")]
    for file, key in zip(files, (wallet("node"), ONE), strict=True):
        key.save(file)
    flags = {"store.dir": str(tmp_path / "s"), "meta.wallet": str(files[0]), "meta.operator": OTHER.address}
    made = config.load(environ={}, flags={**flags, "scheduler.wallets": [str(files[1])]})
    inner = open_node(made)
    try:
        info = TestNode(inner).get("/~meta@1.0/info")
        shown = json.dumps({name: str(info[name]) for name in info})
        assert ONE.address in shown
        assert "more.json" not in shown
    finally:
        inner.close()
    absent = config.load(environ={}, flags={**flags, "scheduler.wallets": [str(tmp_path / "none.json")]})
    with pytest.raises(ConfigError, match=r"none\.json"):
        open_node(absent)
