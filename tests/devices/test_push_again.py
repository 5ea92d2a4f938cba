"""push@1.0: slots pushed again and again, at once, and what came of them: nothing is sent or asked twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hyperpy.devices.push.marks import Desk
from hyperpy.devices.push.posted import Posted

from hyperpy import Message, commitments, device, key
from hyperpy.store.memory import MemoryStore
from tests.devices.mailing import Mailer, send, spawn
from tests.devices.parts import Place, place

MOST = 20


@device("tripler@1.0")
class Tripler:
    """Sends itself three messages at each slot."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Put three messages into the outbox."""
        process = base["process"]
        assert isinstance(process, Message)
        own = commitments.signed_id(process)
        return base | {"results": {"outbox": {number: {"target": own, "action": number} for number in "123"}}}


@device("asked@1.0")
class Asked:
    """Counts how often it is asked."""

    times = 0

    @key(deterministic=False)
    def ask(self, base: Message) -> Message:
        """Count one more."""
        Asked.times += 1
        return Message({"answer": Asked.times})


def tripler(here: Place, seed: str = "1") -> str:
    return here.spawn("tripler@1.0", **{"random-seed": seed, "authority": here.node.address})


def refused(tree: Any) -> int:
    """Count the entries of a tree that went too far."""
    if not isinstance(tree, Message):
        return 0
    return (tree.get("status") == 508) + sum(refused(tree[name]) for name in tree if name in {*"123", "resulted-in"})


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Mailer, Tripler, Asked, flags={"push.messages": MOST}) as made:
        yield made


def test_pushing_again_multiplies_nothing(here: Place) -> None:
    """A process that mails itself threefold: each push used to send as many as one push may."""
    process = tripler(here)
    slot = send(here, process)
    first = here.get(process, f"push&slot={slot}")
    assert here.slots.head(process).slot == slot + MOST
    assert refused(first) > 0
    for _ in range(3):
        again = here.get(process, f"push&slot={slot}")
        assert commitments.unsigned_id(again) == commitments.unsigned_id(first)
    assert here.slots.head(process).slot == slot + MOST


def test_what_came_of_a_push_is_no_new_beginning(here: Place) -> None:
    process = tripler(here)
    slot = send(here, process)
    here.get(process, f"push&slot={slot}")
    for number in range(slot, slot + MOST + 1):
        assert here.get(process, f"push&slot={number}")["status"] == 200
    assert here.slots.head(process).slot == slot + MOST
    other = send(here, process)
    here.get(process, f"push&slot={other}")
    assert here.slots.head(process).slot == other + MOST, "another message has messages of its own"


def test_pushes_at_once_share_what_there_is(here: Place) -> None:
    process = tripler(here)
    slot = send(here, process)
    threads = [threading.Thread(target=here.get, args=(process, f"push&slot={slot}")) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert here.slots.head(process).slot == slot + MOST


def test_what_was_spent_survives_the_node(tmp_path: Path) -> None:
    for delivered in (MOST, MOST, MOST + 5):
        flags = {"push.messages": delivered}
        with place(Tripler, store=tmp_path / "store", flags=flags) as here:
            process = tripler(here)
            slot = 1 if here.slots.head(process).slot > 0 else send(here, process)
            here.get(process, f"push&slot={slot}")
            assert here.slots.head(process).slot == slot + delivered, "only the operator lets it go on"


def test_a_failure_is_not_spent(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "pay"}})
    with monkeypatch.context() as broken:
        broken.setattr(type(here.slots), "append", lambda *args, **more: (_ for _ in ()).throw(_busy()))
        for _ in range(MOST + 2):
            assert here.get(first, f"push&slot={slot}")["1"]["status"] == 503  # type: ignore[index,call-overload]
    here.get(first, f"push&slot={slot}")
    assert here.slots.head(second).slot == 1


def _busy() -> Exception:
    from hyperpy.errors import Busy

    return Busy("too many")


def test_a_path_is_asked_once(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "resolve": "/~asked@1.0/ask"}})
    before = Asked.times
    for _ in range(3):
        tree = here.get(first, f"push&slot={slot}")
        assert tree["1"]["target"] == second.encode()  # type: ignore[index,call-overload]
        assert Asked.times == before + 1
    assert here.get(second, "now/last")["answer"] == Asked.times
    assert here.slots.head(second).slot == 1


def test_a_delivery_costs_two_durable_writes(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark before it is sent, and the slot; the mark behind it goes with the next one."""
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={str(number): {"target": second} for number in range(10)})
    here.get(first, f"compute&slot={slot}")
    store, written = here.node._lend["store"], []
    real = store.link_all

    def link_all(names: Mapping[str, str]) -> None:
        written.append(len(names))
        real(names)

    monkeypatch.setattr(store, "link_all", link_all)
    here.get(first, f"push&slot={slot}")
    assert len(written) == 10 + 1
    assert here.slots.head(second).slot == 10


def test_marks_as_text() -> None:
    for one in (
        Posted("A" * 43, 5),
        Posted("A" * 43, 5, target="B" * 43),
        Posted("A" * 43, None, "httpsig@1.0", -1),
        Posted("A" * 43, None, "ans104@1.0", 7, "-" * 43),
    ):
        assert Posted.read(str(one)) == one
    assert Posted.read("X 12") == Posted("X", 12), "as older versions wrote it"
    assert Posted.read("X httpsig@1.0 -1") == Posted("X", None, "httpsig@1.0", -1)


def test_a_purse_lives_while_it_is_used() -> None:
    from hyperpy.cache import Cache
    from hyperpy.storage import Storage

    store = MemoryStore()
    desk = Desk(Storage(Cache(store), store))
    one = desk.marks("P", 1)
    assert desk.marks("P", 1).purse is one.purse
    assert [one.purse.take(2) for _ in range(3)] == [True, True, False]
    one.delivered("pushed/x", Posted("I", 9), "Q")
    assert desk.marks("Q", 9).purse is one.purse, "before anything is written"
    one.save()
    assert desk.fresh == {}
    again = Desk(Storage(Cache(store), store)).marks("Q", 9)
    assert (again.purse.root, again.purse.spent) == ("P/1", 2)
