"""Confidential processes: no message, whoever sent it, stops one, and no text of what is inside comes out."""

from __future__ import annotations

import logging
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from devices.confidential import _from_signer, _Held, _Opened
from hyperpy import Message, Result, commitments, confidential, key
from hyperpy.attest import sealing
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u
from hyperpy.errors import Busy, CommitmentError, HyperpyError, NotCached, ParameterError
from hyperpy.keys import RsaKey
from hyperpy.message import Link
from hyperpy.sdk import Context, device
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from tests.attest.test_confidential import LUA, MARK, Place, Start, Vault, _results, module, replayed, start

__all__ = ["start"]


def deep(levels: int) -> Message:
    """Return maps inside one another."""
    made = Message({"x": "y"})
    for _ in range(levels - 1):
        made = Message({"d": made})
    return made


def sealed_as_is(at: Place, process: str, plain: bytes, sender: RsaKey) -> dict[str, Any]:
    """Return the keys of a sealed message whose plain text is any bytes."""
    at.number += 1
    machine = at.machine()
    info = confidential.info(machine.attestation, machine.policy, machine.address, process, sender.address, at.number)
    made = sealing.seal(plain, machine.kem, info)
    told = {"attestation": b64u(machine.attestation), "policy": machine.policy, "number": at.number}
    return {"sealed": b64u(made), **told}


def plain_text(**items: Any) -> bytes:
    return canonical.encode(Message({**items, "reply-secret": bytes(32)}))


@pytest.mark.parametrize("device", ["vault@1.0", "lua@5.3a"])
def test_a_sealed_message_that_cannot_be_read_inside_is_refused_and_the_process_goes_on(
    start: Start, device: str
) -> None:
    """Links lead nowhere inside; what is too deep, empty or no message is refused with one text for all of them."""
    at = start()
    process = at.spawn(device, "count", **({"module": module(LUA)} if device == "lua@5.3a" else {}))
    thief = wallet("thief")
    there = process  # an ID that the node does have
    wrong = [
        plain_text(word=Link("A" * 43)),
        plain_text(unused=Link(there)),
        plain_text(list=(b"a", Message({"deep": (Link("A" * 43),)}))),
        plain_text(word=deep(confidential.MAX_DEPTH)),
        plain_text(word=deep(120)),
        msgpack.packb({b"word": None, b"reply-secret": bytes(32)}),
        canonical.encode(Message({"zriv-" + MARK: b"y"})).replace(b"zriv-", b"priv-"),
        msgpack.packb([MARK.encode()]),
        MARK.encode(),
        plain_text(word=MARK)[:-1],
    ]
    told = set()
    for plain in wrong:
        slot = at.send(process, sealed_as_is(at, process, plain, thief), thief)
        state = at.get(f"/{process}/compute={slot}")
        assert (state["status"], state["at-slot"]) == (200, slot), plain[:60]
        assert "sealed" not in _results(state)
        told.add(_results(state).text("error"))
    assert len(told) == 1
    assert MARK not in told.pop()
    assert at.get(f"/{process}/now")["count"] == 1, "nothing was computed of them"
    at.ask(process, word="next", more=deep(confidential.MAX_DEPTH - 1))
    state = at.get(f"/{process}/now")
    assert (state["at-slot"], state["count"]) == (len(wrong) + 1, 2)
    assert replayed(at, process, at.node.attestation).verdict is Verdict.REPRODUCED


@device("wrap@1.0")
class Wrap:
    """Puts what it is given deep into its results or its state."""

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Wrap a message as deep, and where, as it says."""
        body = request["body"]
        assert isinstance(body, Message)
        count = base.get("count", 0)
        assert isinstance(count, int)
        where, levels = body.text("where", ""), body.get("levels", 0)
        assert isinstance(levels, int)
        made = body
        for _ in range(levels):
            made = Message({"d": made})
        kept = Message.make({"number": float("inf")}) if where == "infinite" else made
        changed = {"kept": kept} if where in ("kept", "infinite") else {}
        results = made if where == "results" else Message({"output": "ok"})
        return base | {"count": count + 1, **changed, "results": results}


@pytest.mark.parametrize(
    ("public", "where", "levels"),
    [
        ("count", "results", 130),
        ("count, results", "results", 60),
        ("count, kept", "kept", 60),
        ("count, kept", "infinite", 0),
    ],
)
def test_what_cannot_be_written_is_an_error_and_the_process_goes_on(
    start: Start, public: str, where: str, levels: int
) -> None:
    at = start(devices=[Vault, Wrap])
    process = at.spawn("wrap@1.0", public)
    for number in range(2):
        found = at.ask(process, where=where, levels=levels)
        assert b"cannot be written" in found["error"]  # type: ignore[operator]
        good = at.ask(process, where="kept", levels=3, number=number)
        assert _results(good)["output"] == b"ok"
        state = at.get(f"/{process}/now")
        assert (state["status"], state["count"]) == (200, 2 + number), "what was not written is not counted"
    assert at.get(f"/{process}/now")["at-slot"] == 4


@pytest.mark.parametrize("path", ["init", "snapshot", "set", "Normalize", "priv-x", "foo", "count"])
def test_a_path_of_a_message_stops_nothing(start: Start, path: str) -> None:
    """Paths that may not be called are computed as any message is: the scheduler's signature on them is verified."""
    at = start()
    process = at.spawn()
    at.ask(process, word="one")
    at.send(process, {"path": path, "word": "two"}, wallet("thief"))
    keys, answer = at.seal(process, {"word": "three"})
    slot = at.send(process, {"path": path, **keys})
    state = at.get(f"/{process}/compute={slot}")
    assert (state["status"], state["at-slot"], state["count"]) == (200, slot, 4)
    assert _results(answer.open(slot, _results(state)["sealed"]))["output"] == b"onetwothree"
    assert _results(at.ask(process, word="four"))["output"] == b"onetwothreefour"
    assert replayed(at, process, at.node.attestation).verdict is Verdict.REPRODUCED


# -- who it is from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["vault@1.0", "lua@5.3a"])
def test_from_is_who_signed_whatever_an_unsealed_message_says(start: Start, device: str) -> None:
    at = start()
    process = at.spawn(device, "results", **({"module": module(LUA)} if device == "lua@5.3a" else {}))
    victim, thief = wallet("user").address, wallet("thief")
    for said in ({"from": victim}, {}, {"from": ("a", victim)}):
        slot = at.send(process, {"word": "x", **said}, thief)
        state = at.get(f"/{process}/compute={slot}")
        assert (state["status"], _results(state)["from"]) == (200, thief.address.encode())


def test_an_unsealed_message_of_several_signers_or_none_has_no_from() -> None:
    """What only one of them signed is not there, nor what none did."""
    one, two = wallet("user"), wallet("thief")
    plain = Message({"word": "x", "from": one.address})
    twice = commitments.commit(commitments.commit(plain, one), two)
    assert len(commitments.committers(twice)) == 2
    for body in (plain, twice):
        found = _from_signer(body)
        assert (found["word"], "from" in found) == (b"x", False)
    added = commitments.commit(Message({"word": "x"}), one) | {"action": "Transfer"}
    assert commitments.committers(added) == (one.address,)
    found = _from_signer(added)
    assert (found["from"], "action" in found) == (one.address.encode(), False)
    signed = commitments.commit(Message({"word": "x"}), one)
    with pytest.raises(CommitmentError):
        _from_signer(Message.make({"word": b"y"}, signed.commitments))


# -- how many senders --------------------------------------------------------------------------------


def test_sealed_messages_of_a_bounded_number_of_senders_are_taken(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has been heard goes on; somebody new is refused, and it holds after going on from a snapshot."""
    monkeypatch.setattr("hyperpy.confidential.MAX_SENDERS", 2)
    at = start()
    process = at.spawn()
    marks = set()

    def taken(sender: RsaKey) -> bool:
        keys, _ = at.seal(process, {"word": "x"}, sender=sender)
        slot = at.send(process, keys, sender)
        state = at.get(f"/{process}/compute={slot}")
        assert state["status"] == 200
        marks.add(state.text("confidential-state"))
        return "sealed" in _results(state)

    first, second, third = wallet("user"), wallet("thief"), wallet("other")
    assert [taken(one) for one in (first, second, third, first, third, second)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    at.node.actors.retire(lambda actor: actor == ("process", process))
    assert [taken(one) for one in (third, first)] == [False, True]
    assert at.get(f"/{process}/now")["count"] == 6
    assert len(marks) == 8
    assert replayed(at, process, at.node.attestation).verdict is Verdict.REPRODUCED


def test_numbers_are_part_of_what_is_marked() -> None:
    """Which numbers were heard, and in which order, changes the digest that stands for them."""
    held = _Held(Message(), -1, {})
    opened = [_Opened(wallet(name).address, number, b"", b"", {}) for name, number in (("user", 1), ("thief", 2))]
    orders = [held.after(Message(), 0, one).after(Message(), 1, two) for one, two in (opened, opened[::-1])]
    assert orders[0].numbers == orders[1].numbers
    assert len({held.said, *(one.said for one in orders), held.after(Message(), 0, opened[0]).said}) == 4


# -- errors of what is inside -------------------------------------------------------------------------


@device("blab@1.0")
class Blab:
    """Takes words, and says them in every error of its life; how it fails, the last message says."""

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Take the word of a message."""
        body = request["body"]
        assert isinstance(body, Message)
        count = base.get("count", 0)
        assert isinstance(count, int)
        kept = {"word": body.text("word", ""), "how": body.text("how", ""), "when": body.text("when", "")}
        return base | {"count": count + 1, **kept, "results": Message({"output": "ok"})}

    @key
    def snapshot(self, base: Message) -> Message | Result:
        """Fail, or not yet."""
        return self._fail(base) if base.text("when", "") == "snapshot" else Message({"a": "b"})

    @key
    def normalize(self, base: Message) -> Message | Result:
        """Fail."""
        return self._fail(base)

    def _fail(self, base: Message) -> Result:
        text, how = f"cannot go on with {base.text('word', '')}", base.text("how", "")
        if how == "answer":
            return Result("error", text.encode())
        raise {"parameter": ParameterError, "busy": Busy, "python": ValueError, "absent": NotCached}[how](text)


@pytest.mark.parametrize("when", ["snapshot", "normalize"])
@pytest.mark.parametrize("how", ["parameter", "busy", "python", "absent", "answer"])
def test_no_error_of_the_life_of_what_is_inside_comes_out(
    start: Start, caplog: pytest.LogCaptureFixture, when: str, how: str
) -> None:
    caplog.set_level(logging.DEBUG)
    at = start(devices=[Vault, Blab])
    process = at.spawn("blab@1.0", "count")
    at.ask(process, word=MARK, how=how, when=when)
    paths = [f"/{process}/compute=1/snapshot", f"/{process}/now/snapshot", f"/{process}/snapshot", f"/{process}/now"]
    replies = [at.get(path) for path in paths]
    if when == "snapshot":
        assert [reply["status"] == 200 for reply in replies[:2] + replies[3:]] == [False, False, True]
    at.node.actors.retire(lambda actor: actor == ("process", process))
    replies += [at.get(path) for path in (*paths, f"/{process}/compute=1")]
    if when == "snapshot" or how not in ("busy", "absent"):  # these two are tried again, and fail again
        at.ask(process, word="next", how=how, when="")
        assert at.get(f"/{process}/now")["count"] == 3
    sealed = next((one for one in replies if isinstance(one.raw("sealed"), bytes)), None)
    if when == "normalize" and how in ("busy", "absent"):
        assert {reply["status"] for reply in replies} >= {503}
    elif when == "normalize":
        assert sealed is not None
        taken_up = Message({"device": "confidential@1.0", "process": at.node.cache.read(process), "snapshot": sealed})
        with pytest.raises(HyperpyError) as told:
            at.node.resolve(taken_up, Message({"path": "normalize"}))
        assert MARK not in str(told.value)
        assert "inside" in told.value.message
    for reply in replies:
        assert MARK not in repr(dict(reply.raw_items()))
    assert MARK not in caplog.text
    assert MARK.encode() not in at.files()
