"""Confidential processes: what was sealed to a process is read inside its machine alone.

Over HTTP, with the hardware's fake: plain text is looked for in the files of the store, in the log, in the schedule,
in the trail and in every reply; beside it stands what is not sealed, which the same search finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, config, key
from hyperpy import client as clients
from hyperpy.attest import bundle, policy, statement, verifier
from hyperpy.attester import certificates, configfs, sev_guest
from hyperpy.audit.collect import collect
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import replayed as again_from
from hyperpy.client import Client
from hyperpy.codecs import canonical
from hyperpy.confidential import Answer, Machine
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.sdk import Context, device
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Report, Verdict
from hyperpy.verify import verify
from tests.attest import fake_amd, fake_kernel
from tests.attest.fake_amd import NOW, FakeAmd

MARK = "marker-of-the-sealed-message-77aa"
PLAIN = "marker-of-the-plain-message-1e20"
MEASURED = policy.of({"id": "mine", "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
LUA = b"""
function compute(base, req)
  local body = req.body
  base.words = (base.words or "") .. (body.word or "")
  base.count = (base.count or 0) + 1
  base.last = body.from or "nobody"
  if body.word == "fail" then error("cannot take " .. body.secret) end
  base.results = {output = "so far: " .. base.words, from = base.last}
  return base
end
"""


@device("vault@1.0")
class Vault:
    """Keeps words, tells how many; logs and fails with what it was given where it is told to."""

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Take the word of a message."""
        body = request["body"]
        assert isinstance(body, Message)
        word = body.text("word", "")
        ctx.log("took", word=word)
        if body.text("action", "") == "fail":
            raise ValueError(f"cannot take {word}")
        words = base.text("words", "") + word
        count = base.get("count", 0)
        assert isinstance(count, int)
        results = Message({"output": words, "from": body.text("from", "")})
        if "send-to" in body:
            results |= {"outbox": Message({"1": Message({"target": body["send-to"], "word": f"told {word}"})})}
        return base | {"words": words, "count": count + 1, "results": results}


class Place:
    """A node over HTTP, and a client that seals."""

    def __init__(self, node: Node, url: str, folder: Path) -> None:
        self.node, self.url, self.folder = node, url, folder
        self.number = 0

    def machine(self) -> Machine:
        """Return the machine, its evidence verified."""
        nonce = b"v" * 32
        with Client(self.url) as client:
            told = client.get(f"/~tee@1.0/attest?nonce={b64u(nonce)}")
        read = canonical.decode(b64u_decode(told.text("evidence")))
        assert isinstance(read, Message)
        evidence = bundle.read(read)
        found = verifier.verify(evidence, MEASURED, now=NOW, expected=verifier.Expected(nonce=nonce))
        assert found.word == "affirming"
        return Machine.of(statement.decode(evidence.statement), MEASURED.name)

    def spawn(self, device: str = "vault@1.0", public: str = "count", **more: Any) -> str:
        """Return the ID of a process that this machine computes."""
        keys = {"device": "process@1.0", "type": "Process", "scheduler-device": "scheduler@1.0"}
        made = self.machine().definition(device, public)
        with Client(self.url, wallet("owner")) as client:
            done = client.send("/~scheduler@1.0/schedule", {**keys, "scheduler": self.node.address, **made, **more})
        assert done["status"] == 200, done
        return done.text("process")

    def seal(
        self, process: str, items: Mapping[str, Any], number: int | None = None, sender: RsaKey | None = None
    ) -> tuple[dict[str, Any], Answer]:
        """Return a sealed message's keys, and what opens its answer."""
        self.number += 1
        who = sender or wallet("user")
        return self.machine().seal(process, who.address, self.number if number is None else number, items)

    def send(self, process: str, keys: Mapping[str, Any], sender: RsaKey | None = None, *, push: bool = False) -> int:
        """Send a message; return its slot."""
        with Client(self.url, sender or wallet("user")) as client:
            made = client.send(
                f"/{process}/{'push' if push else 'schedule'}", {"target": process, "type": "Message", **keys}
            )
        assert made["status"] == 200, made
        found = made["slot"]
        assert isinstance(found, int)
        return found

    def get(self, path: str) -> Message:
        """Return a reply."""
        with Client(self.url) as client:
            return client.get(path)

    def ask(self, process: str, **items: Any) -> Message:
        """Send a sealed message; return the answer, opened."""
        keys, answer = self.seal(process, items)
        slot = self.send(process, keys)
        state = self.get(f"/{process}/compute={slot}")
        assert state["status"] == 200, state
        return answer.open(slot, _results(state)["sealed"])

    def files(self) -> bytes:
        """Return all bytes of the store."""
        return b"\0".join(file.read_bytes() for file in sorted(self.folder.rglob("*")) if file.is_file())


def _results(state: Message) -> Any:
    return state["results"]


Start = Callable[..., Place]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a node on a folder; one at a time, each with a key for secrets of its own."""
    amd: FakeAmd = fake_amd.trusted(monkeypatch)
    with ExitStack() as stack:
        running: list[ExitStack] = []

        def run(name: str = "store", attester: Any = None, devices: Any = (Vault,), **flags: Any) -> Place:
            if running:
                running.pop().close()
            own = stack.enter_context(ExitStack())
            running.append(own)
            folder = tmp_path / name
            node = Node(
                config.load(environ={}, flags={"rate-limit.requests": 0, **flags}),
                key=wallet(),
                store=LmdbStore(folder),
                operator=wallet("operator").address,
                devices=list(devices),
                attester=attester or configfs.Configfs(fake_kernel.snp(amd), "sev_guest"),
            )
            own.enter_context(node)
            server = Server(node, "127.0.0.1", 0)
            server.start()
            own.callback(server.stop)
            return Place(node, server.url, folder)

        yield run


def module(text: bytes) -> Message:
    return Message({"content-type": "application/lua", "body": text, "name": "test"})


def test_a_sealed_message_is_computed_and_its_answer_sealed(start: Start) -> None:
    at = start()
    process = at.spawn()
    found = at.ask(process, word="one")
    assert found["results"]["output"] == b"one"  # type: ignore[index,call-overload]
    assert found["results"]["from"] == wallet("user").address.encode()  # type: ignore[index,call-overload]
    assert at.ask(process, word="two", **{"from": "somebody else"})["results"]["output"] == b"onetwo"  # type: ignore[index,call-overload]
    state = at.get(f"/{process}/now")
    assert (state["count"], state["at-slot"]) == (3, 2)
    assert "words" not in state


def test_what_the_definition_makes_public_is_seen(start: Start) -> None:
    at = start()
    process = at.spawn(public="words, results, device, confidential-state")
    keys, answer = at.seal(process, {"word": "one"})
    slot = at.send(process, keys)
    state = at.get(f"/{process}/compute={slot}")
    assert (state["words"], _results(state)["output"]) == (b"one", b"one")
    assert _results(answer.open(slot, _results(state)["sealed"]))["output"] == b"one"
    assert state["device"] == b"process@1.0"
    assert len(b64u_decode(state.text("confidential-state"))) == 32


@pytest.mark.parametrize("public", ["count, results", "count"])
def test_what_a_process_sends_leaves_it_where_results_are_public(start: Start, public: str) -> None:
    """Mail is read by others: a process whose results are not public sends none."""
    at = start()
    other, process = at.spawn(public="words"), at.spawn(public=public)
    keys, answer = at.seal(process, {"word": "one", "send-to": other})
    slot = at.send(process, keys, push=True)
    assert "outbox" in _results(answer.open(slot, _results(at.get(f"/{process}/compute={slot}"))["sealed"]))
    told = b"told one" if "results" in public else b""
    assert at.get(f"/{other}/now")["words"] == told


def test_nothing_of_it_is_in_store_log_schedule_trail_or_replies(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    at = start()
    process = at.spawn(public="")
    for pushed, action in ((False, "take"), (True, "take"), (False, "fail")):
        keys, answer = at.seal(process, {"word": MARK, "action": action})
        slot = at.send(process, keys, push=pushed)
        found = answer.open(slot, _results(at.get(f"/{process}/compute={slot}"))["sealed"])
        assert ("error" in found) is (action == "fail")
        if action == "take":
            assert MARK in _results(found).text("output")
    replies = [
        at.get(path)
        for path in (
            f"/{process}/now",
            f"/{process}/schedule",
            f"/{process}/snapshot",
            f"/{process}/as=execution",
            f"/{process}/as=execution/words",
            f"/~audit@1.0/trail&ref={process}",
            "/~hyperbuddy@1.0/metrics",
        )
    ]
    forms = [MARK.encode(), MARK.upper().encode(), b64u(MARK.encode())[:-2].encode(), MARK.encode().hex().encode()]
    for form in forms:
        assert form not in at.files()
        assert form not in repr([dict(one.raw_items()) for one in replies]).encode()
        assert form not in caplog.text.encode()
    assert "incident" in caplog.text, "the failure left its number"
    at.send(process, {"word": PLAIN})
    assert at.get(f"/{process}/now")["status"] == 200
    assert PLAIN.encode() in at.files(), "the search finds what is not sealed"
    assert PLAIN in repr(dict(at.get(f"/{process}/schedule").raw_items()))


def test_lua_inside_goes_on_from_a_snapshot(start: Start) -> None:
    at = start()
    process = at.spawn("lua@5.3a", "count", module=module(LUA))
    assert _results(at.ask(process, word="alpha"))["output"] == b"so far: alpha"
    found = at.ask(process, word="fail", secret=MARK)
    assert MARK in repr(found["error"]), "the sender learns what went wrong, and nobody else"
    assert MARK.encode() not in at.files()
    at.node.actors.retire(lambda actor: actor == ("process", process))
    assert _results(at.ask(process, word="beta"))["output"] == b"so far: alphabeta"
    assert at.get(f"/{process}/now")["count"] == 3


@pytest.mark.parametrize(
    "what", ["sender", "process", "number", "again", "older", "bytes", "attestation", "policy", "key"]
)
def test_sealed_for_something_else_is_refused_alike_everywhere(start: Start, what: str) -> None:
    at = start()
    process = at.spawn(public="count")
    keys, _ = at.seal(process, {"word": "first"}, number=7)
    at.send(process, keys)
    given: dict[str, Any] = at.seal(process, {"word": MARK}, number=8)[0]
    sender = wallet("thief") if what == "sender" else None
    if what == "process":
        given = at.seal(process[:-1] + ("A" if process[-1] != "A" else "E"), {"word": MARK}, number=8)[0]
    elif what == "number":
        given |= {"number": 9}
    elif what == "again":
        given = dict(keys)
    elif what == "older":
        given = at.seal(process, {"word": MARK}, number=6)[0]
    elif what == "bytes":
        raw = bytearray(b64u_decode(given["sealed"]))
        raw[-1] ^= 1
        given |= {"sealed": b64u(bytes(raw))}
    elif what == "attestation":
        given |= {"attestation": b64u(bytes(32))}
    elif what == "policy":
        given |= {"policy": "other"}
    elif what == "key":
        other = Machine(wallet("other").address.encode()[:32], b"\x00\x20" + b"\x09" * 32, bytes(32), "mine")
        given = other.seal(process, wallet("user").address, 8, {"word": MARK})[0]
    slot = at.send(process, given, sender)
    state = at.get(f"/{process}/compute={slot}")
    assert (state["status"], state["at-slot"]) == (200, slot)
    assert _results(state).text("error")
    assert "sealed" not in _results(state)
    assert state["count"] == 2, "nothing was computed of it"
    at.number = 100
    assert _results(at.ask(process, word="next"))["output"] == b"firstnext"


def test_the_answer_opens_for_its_message_and_slot_alone(start: Start) -> None:
    at = start()
    process = at.spawn()
    keys, answer = at.seal(process, {"word": "one"})
    slot = at.send(process, keys)
    text = _results(at.get(f"/{process}/compute={slot}")).text("sealed")
    assert _results(answer.open(slot, text))["output"] == b"one"
    raw = b64u_decode(text)
    for at_byte in range(len(raw)):
        changed = raw[:at_byte] + bytes((raw[at_byte] ^ 1,)) + raw[at_byte + 1 :]
        with pytest.raises(CodecError):
            answer.open(slot, b64u(changed))
    for other in (
        Answer(bytes(32), process, answer.sealed),
        Answer(answer.secret, b64u(bytes(32)), answer.sealed),
        Answer(answer.secret, process, b"other"),
    ):
        with pytest.raises(CodecError):
            other.open(slot, text)
    with pytest.raises(CodecError):
        answer.open(slot + 1, text)


# -- whoever puts a base together -----------------------------------------------------------------


def test_a_stolen_snapshot_tells_a_stranger_nothing(start: Start) -> None:
    """Its ciphertext is public. Neither another definition nor keys beside it make the machine show what is inside."""
    at = start()
    process = at.spawn(public="")
    at.ask(process, word=MARK)
    stolen = at.get(f"/{process}/snapshot")
    assert isinstance(stolen["sealed"], bytes)
    genuine = at.node.cache.read(process)
    assert isinstance(genuine, Message)
    user = wallet("thief")
    greedy = Message({name: genuine[name] for name in genuine} | {"confidential-public": "words,count"})
    mine = commitments.commit(greedy, user)
    beside = {"confidential-public": "words", "confidential-device": "message@1.0", "words": "?"}
    request = {"path": "compute", "slot": 2, "process": process, "type": "Assignment", "body": Message({"a": "1"})}
    live = Message({"device": "confidential@1.0", "process": genuine, "snapshot": stolen | {}})
    taken_up = at.node.resolve(live, Message({"path": "normalize"}))
    assert isinstance(taken_up, Message)
    reopened = at.node.resolve(taken_up, Message({"path": "snapshot"}))
    assert isinstance(reopened, Message)
    assert reopened["sealed"] == stolen["sealed"], "the machine does open it"
    for definition, more in ((mine, {}), (genuine, beside), (greedy, beside)):
        base = (
            Message(
                {"device": "confidential@1.0", "process": definition, "snapshot": Message({"sealed": stolen["sealed"]})}
            )
            | more
        )
        for asked in ({"path": "normalize"}, request, {"path": "snapshot"}, {"path": "words"}):
            try:
                found = at.node.resolve(base, Message(asked))
                found = at.node.resolve(found, Message(request)) if isinstance(found, Message) else found
            except Exception as error:
                found = error
            assert MARK not in repr(found)
            if isinstance(found, Message):
                assert MARK not in repr(dict(found.raw_items()))
    assert MARK.encode() not in at.files()


# -- replays --------------------------------------------------------------------------------------


def replayed(at: Place, process: str, attester: Any = None) -> Report:
    evidence = Evidence.of_store(at.node.store, "the store")
    return replay(evidence, collect(evidence, process), Options(devices=[Vault], attester=attester))


def test_made_again_with_the_key_and_attested_without(start: Start) -> None:
    at = start()
    process = at.spawn()
    for word in ("one", "two"):
        at.ask(process, word=word)
    at.send(process, {"word": "plain"})
    at.get(f"/{process}/now")
    with_key = replayed(at, process, at.node.attestation)
    assert with_key.verdict is Verdict.REPRODUCED, [step.findings for step in with_key.steps]
    assert len({step.slot for step in with_key.steps if step.slot}) == 4
    over_http = at.get(f"/~audit@1.0/replay&ref={process}")
    assert over_http.text("verdict") == "reproduced"
    without = replayed(at, process)
    assert without.verdict is Verdict.ATTESTED
    assert without.exit_code() == 2
    assert {one.rule for step in without.steps for one in step.findings} == {"sealed"}


def test_a_lie_about_a_sealed_slot_is_found_with_the_key(start: Start) -> None:
    """Whoever computes may lie; the key convicts, and without it the lie is at best attested."""
    at = start()
    process = at.spawn()
    at.ask(process, word="one")
    step = replayed(at, process, at.node.attestation).steps[-1]
    assert step.verdict is Verdict.REPRODUCED
    lying = at.node.registry.lookup("confidential@1.0").instance
    honest = lying._results
    try:
        lying._results = lambda known, answer, opened, slot: honest(
            known, Message({"results": Message()}), opened, slot
        )
        at.ask(process, word="two")
    finally:
        lying._results = honest
    lie = replayed(at, process, at.node.attestation)
    assert lie.exit_code() == 1
    assert "result" in {one.rule for one in lie.steps[-1].findings}
    assert [step.verdict for step in lie.steps[:-1]] == [Verdict.REPRODUCED] * 2
    assert replayed(at, process).verdict is Verdict.ATTESTED


def test_after_a_new_start_states_are_kept_and_nothing_more_is_computed(start: Start) -> None:
    at = start()
    process = at.spawn()
    at.ask(process, word="one")
    old = at.get(f"/{process}/compute=1")
    keys, _ = at.seal(process, {"word": "two"})
    waiting = at.send(process, keys)
    again = start()
    kept = again.get(f"/{process}/compute=1")
    assert (kept["count"], kept["confidential-state"]) == (old["count"], old["confidential-state"])
    refused = again.get(f"/{process}/compute={waiting}")
    assert refused["status"] == 409
    assert replayed(again, process, again.node.attestation).verdict is Verdict.ATTESTED


def test_a_derived_key_lets_it_go_on_after_a_new_start(start: Start, tmp_path: Path) -> None:
    """The firmware gives the same guest the same key: what waited is computed, what was computed made again."""
    (tmp_path / "sev-guest").touch()

    def again() -> Place:
        amd = fake_amd.fake_amd()
        driver = fake_kernel.FakeSevGuest(amd, certificates.build(amd.vek, amd.chain))
        return start("store", sev_guest.SevGuest(tmp_path / "sev-guest", 0, driver), **{"tee.key": "derived"})

    at = again()
    process = at.spawn()
    at.ask(process, word="one")
    keys, answer = at.seal(process, {"word": "two"})
    waiting = at.send(process, keys)
    later = again()
    state = later.get(f"/{process}/compute={waiting}")
    assert (state["status"], state["count"]) == (200, 3)
    assert _results(answer.open(waiting, _results(state)["sealed"]))["output"] == b"onetwo"
    assert replayed(later, process, later.node.attestation).verdict is Verdict.REPRODUCED


class Clock(datetime):
    """The clock of the fake chip's certificates."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW


def test_the_hardware_vouches_for_a_state_and_its_receipt(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot compute it has the hardware's word, in the reply and in a receipt."""
    monkeypatch.setattr(clients, "datetime", Clock)
    at = start()
    process = at.spawn()
    at.ask(process, word=MARK)
    with Client(at.url) as client:
        reply, found = client.attested(f"/{process}~process@1.0/compute=1", policy=MEASURED, hardware=True)
        assert (found.status, found.codes, reply["count"]) == ("hardware", (), 2)
        assert found.said is not None
        data = client.get(f"/~audit@1.0/receipt&ref={b64u(found.said.fields['result'])}")["body"]
    assert isinstance(data, bytes)
    assert MARK.encode() not in data
    report = verify(data, {"tee": MEASURED, "attested": "hardware"}, now=NOW)
    assert (report.verdict, report.attestation) == (Verdict.ATTESTED, "hardware")
    again = again_from(data, Options(devices=[Vault]))
    assert again.verdict is Verdict.ATTESTED
    assert at.node.address in again.attested_by
    assert {one.rule for step in again.steps for one in step.findings} == {"sealed"}


def test_the_numbers_of_the_form() -> None:
    """The forms of the page, put together from their parts alone."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    secret = X25519PrivateKey.generate()
    process, sender = b64u(b"p" * 32), b64u(b"s" * 32)
    machine = Machine(b"a" * 32, b"\x00\x20" + secret.public_key().public_bytes_raw(), b"t" * 32, "mine")
    keys, answer = machine.seal(process, sender, 5, {"word": "one"})
    request = sha256(b"hyperpy/tee/message/v1\0" + b"p" * 32 + b"s" * 32 + (5).to_bytes(8, "big"))
    info = b"hyperpy/tee/seal/v1\0" + b"t" * 32 + sha256(b"mine") + b"a" * 32 + request
    sealed = b64u_decode(keys["sealed"])
    plain = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(sealed, secret, info)
    inner = canonical.decode(bytes(plain))
    assert isinstance(inner, Message)
    assert (inner["word"], inner["reply-secret"]) == (b"one", answer.secret)
    about = b"hyperpy/tee/message-answer/v1\0" + b"p" * 32 + sha256(sealed) + (3).to_bytes(8, "big")
    key64 = HKDF(SHA512(), 64, salt=None, info=about).derive(answer.secret)
    text = AESSIV(key64).encrypt(canonical.encode(Message({"results": Message({"x": "y"})})), None)
    assert _results(answer.open(3, b64u(text)))["x"] == b"y"
