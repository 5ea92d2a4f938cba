"""Attested results and states over real HTTP: what the node says is found again from the evidence, or is nothing."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hyperpy import Message, attested, commitments, config
from hyperpy import client as clients
from hyperpy.attest import policy as policies
from hyperpy.attest.bundle import Evidence
from hyperpy.attester import Attester, certificates, configfs, sev_guest
from hyperpy.client import Client
from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError
from hyperpy.http.replies import decode_reply
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.attest import fake_amd, fake_kernel
from tests.attest.fake_amd import NOW, FakeAmd
from tests.between import between
from tests.devices.parts import Count, Place

POLICY = policies.of({"id": "fake-chip", "snp": {"measurements": [fake_amd.MEASUREMENT.hex()], "vmpls": [0]}})
OTHER = policies.of({"id": "other", "snp": {"measurements": ["00" * 48]}})
SOFTWARE = policies.of({"id": "development", "kinds": ["software"], "allow-software": True})
SUM = "/~calculator@1.0&a=1/add&b=2"

Serve = Callable[..., Any]


class Clock(datetime):
    """The clock of the fake chip's certificates."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW


@pytest.fixture(autouse=True)
def _clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "datetime", Clock)
    fake_amd.at_now(monkeypatch)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that serves a node with an attester, and gives the server."""
    with ExitStack() as stack:

        def run(attester: Attester | None = None, **flags: Any) -> Server:
            settings = config.load(environ={}, flags={"rate-limit.requests": 0, **flags})
            inner = Node(
                settings,
                key=wallet(),
                store=MemoryStore(),
                operator=wallet("operator").address,
                devices=[Count],
                attester=attester,
            )
            stack.enter_context(inner)
            made = Server(inner, "127.0.0.1", 0)
            made.node = inner  # type: ignore[attr-defined]
            made.start()
            stack.callback(made.stop)
            return made

        yield run


def through_configfs(amd: FakeAmd, **options: Any) -> Attester:
    tree = fake_kernel.snp(amd, **options)
    return configfs.Configfs(tree, configfs.provider(tree))


def through_device(amd: FakeAmd, folder: Path) -> Attester:
    file = folder / "sev-guest"
    file.touch()
    return sev_guest.SevGuest(file, 0, fake_kernel.FakeSevGuest(amd, certificates.build(amd.vek, amd.chain)))


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [False, True], ids=["identity", "result"])
@pytest.mark.parametrize("way", ["configfs", "device"])
def test_a_result_is_attested_by_hardware(amd: FakeAmd, serve: Serve, tmp_path: Path, way: str, hardware: bool) -> None:
    attester = through_configfs(amd) if way == "configfs" else through_device(amd, tmp_path)
    with Client(serve(attester).url) as client:
        reply, found = client.attested(SUM, policy=POLICY, hardware=hardware)
    assert (reply["body"], reply["attestation-status"]) == (3, b"hardware")
    assert (found.status, found.codes, found.level) == ("hardware", (), "result" if hardware else "identity")
    assert found.result is not None
    assert found.result.word == "affirming"
    assert found.said is not None
    fields = found.said.fields
    assert fields["address"] == amd_address()
    assert fields["hashpath"].decode() == reply.hashpath
    assert fields["result"] == commitments.content_key(Message({"ao-result": "body", "body": 3}))
    assert fields["device"].startswith(b"calculator@1.0 ")
    covered = [name for one in reply.commitments.values() for name in one["committed"]]  # type: ignore[union-attr]
    assert {b"attestation", b"attestation-status"} <= set(covered)


def amd_address() -> bytes:
    from hyperpy.encoding import b64u_decode

    return b64u_decode(wallet().address)


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        (SUM, {"attest": "true"}),
        (SUM + "?attest=true", {}),
        (SUM + "&attest=true", {}),
        ("/~calculator@1.0&a=1&attest=true/add&b=2", {}),
        (SUM + "?attest=hardware", {}),
        (SUM + "?attest=hardware&accept-bundle=true", {}),
        (SUM, {"attest": "true", "accept": "application/json"}),
        ("/~message@1.0&x+integer=1&attest=true/set&c=2", {}),
        ("/~meta@1.0/info?attest=true", {}),
    ],
)
def test_ways_to_ask(amd: FakeAmd, serve: Serve, path: str, keys: dict[str, str]) -> None:
    with Client(serve(through_configfs(amd)).url) as client:
        plain = client.get(path.replace("attest=", "not="))
        reply = client.get(path, keys)
    assert "attestation-status" not in plain
    found = attested.check(reply, POLICY, now=NOW)
    assert (found.status, found.codes) == ("hardware", ())
    assert "attest" not in reply, "what asks for an attestation is no part of a result"


def test_a_hashpath_does_not_depend_on_who_asks_for_what(amd: FakeAmd, serve: Serve) -> None:
    with Client(serve(through_configfs(amd)).url) as client:
        paths = {
            client.get(SUM + more).hashpath
            for more in ("", "?attest=true", "&attest=hardware&attest-nonce=" + "A" * 43)
        }
    assert len(paths) == 1


def test_a_node_that_attests_always(amd: FakeAmd, serve: Serve) -> None:
    for setting, level in (("always", "identity"), ("hardware", "result")):
        with Client(serve(through_configfs(amd), **{"tee.attest": setting, "http.sign": False}).url) as client:
            found = attested.check(client.get(SUM), POLICY, now=NOW)
        assert (found.status, found.level) == ("hardware", level)


def test_a_setting_does_not_take_signatures_away(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd), **{"tee.attest": "always"})
    own = commitments.commit(Message({"words": "mine"}), wallet("author"))
    server.node._lend["store"].write(own)
    with Client(server.url) as client:
        kept = client.get(f"/{commitments.signed_id(own)}")
        asked = client.get(f"/{commitments.signed_id(own)}?attest=true")
    assert client.signers(kept) == (wallet("author").address,)
    assert "attestation" not in kept
    assert attested.check(asked, POLICY, now=NOW).status == "hardware"


def test_a_step_that_did_not_make_the_reply_is_not_named(amd: FakeAmd, serve: Serve) -> None:
    """What a response hook put in the place of a result is attested as the reply it is, and as no device's."""
    server = serve(through_configfs(amd))

    def swap(request: Any, made: Message, chain: Any) -> Message:
        return Message({"status": 200, "body": "swapped", "ao-result": "body"})

    server.node._hooked_response = swap
    with Client(server.url) as client:
        reply, found = client.attested(SUM, policy=POLICY)
    assert (reply["body"], found.status) == (b"swapped", "hardware")
    assert found.said is not None
    assert found.said.fields["device"] == b"-"
    assert found.said.fields["result"] != commitments.content_key(Message({"ao-result": "body", "body": 3}))


def test_what_was_read_by_its_id_and_what_others_signed(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd))
    own = commitments.commit(Message({"words": "mine", "n": 7}), wallet("author"))
    server.node._lend["store"].write(own)
    with Client(server.url) as client:
        reply, found = client.attested(f"/{commitments.signed_id(own)}", policy=POLICY)
    assert (found.status, found.codes) == ("hardware", ())
    assert (reply["words"], client.signers(reply)) == (b"mine", (wallet().address,))


def test_an_item_has_no_room_for_an_attestation(amd: FakeAmd, serve: Serve) -> None:
    """ANS-104 limits what a tag holds: such a reply is not signed, and so nothing of it counts."""
    with Client(serve(through_configfs(amd)).url) as client:
        reply = client.get(SUM, {"attest": "true", "require-codec": "ans104@1.0"})
    assert attested.check(reply, POLICY, now=NOW).status == "failed"


def test_an_error_is_never_attested(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd))
    with Client(server.url) as client:
        for keys in ({}, {"accept": "application/json"}):
            reply = client.get("/~calculator@1.0/nothing-like-it", {"attest": "true", **keys})
            assert reply["status"] == 404
            assert reply["attestation-status"] == b"none"
            assert attested.check(reply, POLICY, now=NOW).status == "none"
        assert client.get(SUM, {"attest": "true", "attest-nonce": "short"})["status"] == 400


def test_without_hardware_the_status_is_none(serve: Serve) -> None:
    with Client(serve().url) as client:
        reply, found = client.attested(SUM)
        assert (reply["attestation-status"], found.status) == (b"none", "none")
        assert "attestation" not in reply
        refused = client.get("/~tee@1.0/attest")
    assert (refused["status"], refused["body"]) == (
        503,
        b"attester/unavailable: this machine has no hardware that makes evidence",
    )


def test_hardware_that_fails_or_is_asked_too_often(amd: FakeAmd, serve: Serve) -> None:
    with Client(serve(through_configfs(amd, meddle=True)).url) as client:
        reply, found = client.attested(SUM, policy=POLICY, hardware=True)
        assert (reply["attestation-status"], reply["attestation-code"]) == (b"failed", b"attester/race")
        assert (found.status, reply["body"]) == ("none", 3)
    with Client(serve(through_configfs(amd), **{"tee.reports": 4}).url) as client:
        words = [client.attested(SUM, policy=POLICY, hardware=True)[1].status for _ in range(3)]
        assert words == ["hardware", "hardware", "none"], "half of all is for one client's results"
        assert [client.get("/~tee@1.0/attest")["status"] for _ in range(2)] == [200, 503], "and a quarter"


def test_what_the_policy_does_not_accept_has_failed(amd: FakeAmd, serve: Serve) -> None:
    with Client(serve(through_configfs(amd)).url) as client:
        reply, found = client.attested(SUM, policy=OTHER)
    assert reply["attestation-status"] == b"hardware"
    assert (found.status, found.codes) == ("failed", ("policy/measurement-not-allowed",))


def test_without_the_root_nothing_of_it_is_believed(serve: Serve) -> None:
    with Client(serve(through_configfs(fake_amd.fake_amd())).url) as client:
        reply, found = client.attested(SUM)
    assert (reply["attestation-status"], found.status) == (b"hardware", "failed")
    assert found.codes == ("endorsement/untrusted-root",)


# -- what an attacker holds ------------------------------------------------------------------------


def raw(server: Any, path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    headers = [(name.lower().encode(), text.encode("latin-1")) for name, text in answer.getheaders()]
    connection.close()
    return answer.status, headers, body


def looked(status: int, headers: list[tuple[bytes, bytes]], body: bytes, nonce: bytes, **how: Any) -> Any:
    """Return what a client makes of the bytes of a reply: the message and what is found, or the error."""
    try:
        reply = decode_reply(status, headers, body)
        return reply, attested.check(reply, how.get("policy", POLICY), now=NOW, nonce=nonce, **how.get("more", {}))
    except (HyperpyError, ValueError) as error:
        return error, None


RANK = {"none": 0, "failed": 0, "software": 1, "hardware": 2}


@pytest.mark.parametrize("level", ["true", "hardware"])
@pytest.mark.parametrize("kind", ["hardware", "untrusted", "software"])
def test_no_byte_raises_the_status(serve: Serve, monkeypatch: pytest.MonkeyPatch, kind: str, level: str) -> None:
    nonce = b"N" * 32
    how: dict[str, Any] = {}
    if kind == "software":
        how = {"policy": SOFTWARE, "more": {"insecure_software": True}}
        server = serve(**{"tee.software": True})
    else:
        chip = fake_amd.trusted(monkeypatch) if kind == "hardware" else fake_amd.fake_amd()
        server = serve(through_configfs(chip))
    status, headers, body = raw(server, f"{SUM}?attest={level}&attest-nonce={b64u(nonce)}")
    reply, found = looked(status, headers, body, nonce, **how)
    honest = {"hardware": "hardware", "untrusted": "failed", "software": "software"}[kind]
    assert found.status == honest
    said = {key: reply.raw(key) for key in ("body", "attestation", "attestation-status", "status")}

    def judge(*changed: Any) -> None:
        other, now_found = looked(*changed, nonce, **how)
        if now_found is None or not RANK[now_found.status]:
            return
        assert RANK[now_found.status] <= RANK[honest]
        kept = {key: other.raw(key) for key in said if key in other}
        assert kept.items() <= said.items(), "nothing may be another than it was"
        assert {"body", "attestation"} <= kept.keys()
        assert now_found.said.fields == found.said.fields

    for at in range(len(body)):
        judge(status, headers, body[:at] + bytes([body[at] ^ (1 << at % 8)]) + body[at + 1 :])
    for number, (name, text) in enumerate(headers):
        if name in (b"date", b"server", b"connection", b"content-length") or name.startswith(b"access-control"):
            continue
        for at in range(len(text)):
            new = text[:at] + bytes([text[at] ^ (1 << at % 7)]) + text[at + 1 :]
            judge(status, [*headers[:number], (name, new), *headers[number + 1 :]], body)
        judge(status, [*headers[:number], *headers[number + 1 :]], body)


def test_words_and_evidence_of_other_replies(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd))
    with Client(server.url) as client:
        first = client.get(SUM + "?attest=hardware&attest-nonce=" + "A" * 43)
        other = client.get("/~calculator@1.0&a=5/add&b=2?attest=hardware&attest-nonce=" + "B" * 43)
        plain = client.get(SUM)
    a, b = bytes(32), b"\x04\x10\x41" * 10 + b"\x04\x10"
    assert attested.check(first, POLICY, now=NOW, nonce=a).status == "hardware"
    stale = attested.check(first, POLICY, now=NOW, nonce=b"x" * 32)
    assert (stale.status, stale.codes) == ("failed", ("freshness/nonce-mismatch",))
    assert b != a
    word = plain | {"attestation-status": "hardware"}
    assert attested.check(word, POLICY, now=NOW).status == "none"
    lent = Message.make({**plain.raw_items(), "attestation": first["attestation"]}, plain.commitments)
    assert attested.check(lent, POLICY, now=NOW).codes == ("binding/key-mismatch",)
    thief = wallet("thief")
    resigned = Message.make({"ao-result": b"body", "body": 8, "status": 200, "attestation": first["attestation"]})
    stolen = commitments.commit(resigned, thief, tag=first.hashpath)
    assert attested.check(stolen, POLICY, now=NOW).status == "failed"
    mine = commitments.commit(resigned, wallet(), tag=first.hashpath)
    assert attested.check(mine, POLICY, now=NOW).codes == ("binding/result-mismatch",)
    path = commitments.commit(
        Message.make({**attested.bare(first).raw_items(), "attestation": first["attestation"]}),
        wallet(),
        tag=other.hashpath,
    )
    assert attested.check(path, POLICY, now=NOW).codes == ("binding/result-mismatch",)


def test_a_statement_under_the_evidence_of_another_key(amd: FakeAmd, serve: Serve) -> None:
    """A key outside the machine cannot put its statements under the evidence of the key inside."""
    from hyperpy.attest import statement
    from hyperpy.encoding import b64u_decode, sha256

    with Client(serve(through_configfs(amd)).url) as client:
        reply = client.get(SUM + "?attest=true")
    own = attested.of_text(reply["attestation"])  # type: ignore[arg-type]
    thief = wallet("thief")
    fields = dict(own.said().fields) | {"address": b64u_decode(thief.address), "key": b"\x01" + thief.modulus}
    assert sha256(thief.modulus) == fields["address"]
    forged = attested.Attestation(own.evidence, statement.make(fields).encode())
    bare = attested.bare(reply)
    signed = commitments.commit(
        Message.make({**bare.raw_items(), "attestation": forged.text()}), thief, tag=reply.hashpath
    )
    assert attested.check(signed, POLICY, now=NOW).codes == ("binding/key-mismatch",)


# -- software --------------------------------------------------------------------------------------


def test_the_software_attester_says_so_everywhere(serve: Serve) -> None:
    server = serve(**{"tee.software": True})
    with Client(server.url) as client:
        reply, found = client.attested(SUM, policy=SOFTWARE, insecure_software=True)
        assert (reply["attestation-status"], found.status) == (b"software", "software")
        assert found.result is not None
        assert found.result.word == "contraindicated"
        assert found.result.parts["cpu0"].vector["hardware"] == 97
        for refusing, process in ((SOFTWARE, False), (POLICY, True)):
            _, refused = client.attested(SUM, policy=refusing, insecure_software=process)
            assert (refused.status, refused.codes[0]) == ("failed", "policy/software-not-allowed")
        info = client.get("/~tee@1.0/info")
        assert (info["hardware"], info["evidence-types"]) == (False, (b"software",))
    with urllib.request.urlopen(server.url + SUM, timeout=20) as answer:
        assert answer.headers["tee-hardware"] == "false"
    with urllib.request.urlopen(serve().url + SUM, timeout=20) as answer:
        assert "tee-hardware" not in answer.headers


# -- processes and receipts ------------------------------------------------------------------------


def test_the_state_of_a_process_is_attested_and_its_receipt_appraised(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd))
    here = Place(server.node, wallet("author"))
    process = here.spawn()
    here.send(process, action="Inc")
    with Client(server.url) as client:
        reply, found = client.attested(f"/{process}~process@1.0/compute=1", policy=POLICY, hardware=True)
        assert (found.status, found.codes) == ("hardware", ())
        assert reply["count"] == 2
        assert found.said is not None
        assert found.said.fields["device"].startswith(b"process@1.0 ")
        data = client.get(f"/~audit@1.0/receipt&ref={b64u(found.said.fields['result'])}")["body"]
    assert isinstance(data, bytes)
    report = verify(data, {"tee": POLICY, "attested": "hardware"}, now=NOW)
    assert (report.verdict, report.attestation) == (Verdict.ATTESTED, "hardware")
    assert [row["codes"] for row in report.attestations] == [[]]
    bad = verify(data, {"tee": OTHER, "attested": "hardware"}, now=NOW)
    assert (bad.verdict, bad.attestation) == (Verdict.INVALID, "failed")
    assert bad.findings[0].rule == "policy"
    assert verify(data, {"tee": OTHER}, now=NOW).verdict == Verdict.ATTESTED


def test_evidence_that_does_not_belong_to_a_receipt(amd: FakeAmd, serve: Serve) -> None:
    from dataclasses import replace

    from hyperpy.receipt import decode, encode, ordered

    server = serve(through_configfs(amd))
    receipts = []
    with Client(server.url) as client:
        for path in (SUM, "/~calculator@1.0&a=4/add&b=2"):
            _, found = client.attested(path, policy=POLICY)
            assert found.said is not None
            ref = found.said.fields["hashpath"].decode()
            receipts.append(decode(client.get("/~audit@1.0/receipt", {"ref": ref})["body"]))  # type: ignore[arg-type]
    sign = server.node.sign
    first, second = receipts
    assert len(first.evidence) == 1

    def again(**changed: Any) -> Any:
        made = ordered(replace(first, **changed)).signed(sign)
        return verify(encode(made), {"tee": POLICY}, now=NOW)

    assert (again().verdict, again().attestation) == (Verdict.ATTESTED, "hardware")
    assert again(evidence=()).attestation == "none"
    for wrong in (second.evidence, (*first.evidence, *second.evidence), (first.evidence[0][:-1],), (b"",)):
        found = again(evidence=wrong)
        assert found.verdict == Verdict.INVALID
        assert "evidence" in {one.rule for one in found.findings}
    other = ordered(first).signed(lambda item: commitments.commit(item, wallet("thief")))
    stolen = verify(encode(other), {"tee": POLICY}, now=NOW)
    assert (stolen.verdict, stolen.attestation) == (Verdict.INVALID, "failed")


def test_evidence_and_attestations_have_one_form(amd: FakeAmd) -> None:
    made = attested.Attestation(Evidence("snp", amd.report(bytes(64)), amd.vek, amd.chain, statement=b"s"))
    assert attested.decode(made.encode()) == made
    assert attested.of_text(made.text()) == made
    for bad in (b"", b"\xc0", made.encode() + b"\0", made.encode()[:-1], b"\x81\xa1v\x01"):
        with pytest.raises(HyperpyError):
            attested.decode(bad)


# -- what was asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [False, True], ids=["identity", "result"])
@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (SUM, "b=2", "b=40"),
        (SUM, "a=1", "a=40"),
        (SUM, "/add", "/multiply"),
        ("/~message@1.0&n=1/set&n=7/set&m=2", "n=7", "n=8"),
        ("/~message@1.0&n=1/set&n=7/set&m=2", "/set&m=2", ""),
        ("/~meta@1.0/info", "/info", "/info/address"),
    ],
)
def test_an_answer_to_another_question_is_not_attested(
    amd: FakeAmd, serve: Serve, hardware: bool, path: str, old: str, new: str
) -> None:
    server = serve(through_configfs(amd))
    for instead, status in ((("~", "~"), "hardware"), ((old, new), "failed")):
        with between(server.port, lambda asked, pair=instead: asked.replace(*pair)) as url, Client(url) as client:
            reply, found = client.attested(path, policy=POLICY, hardware=hardware)
        assert reply["status"] == 200
        assert (found.status, found.asked) == (status, status == "hardware")
        assert found.codes == (() if status == "hardware" else ("binding/result-mismatch",))


def test_where_the_path_does_not_tell_that_is_said(amd: FakeAmd, serve: Serve) -> None:
    server = serve(through_configfs(amd))
    with Client(server.url) as client:
        _, found = client.attested("/~message@1.0&x=1/set&y=(/~calculator@1.0&a=1/add&b=2)", policy=POLICY)
    assert (found.status, found.asked) == ("hardware", None)


def test_two_replies_of_one_node_put_together(amd: FakeAmd, serve: Serve) -> None:
    """Each part is signed by the attested key, and the whole is no reply of it."""
    server, nonce = serve(through_configfs(amd)), bytes(range(32))
    with Client(server.url) as client:
        other = client.get(SUM.replace("b=2", "b=666"), {"accept-bundle": "true"})
        good = client.get("/~message@1.0&x=1", {"attest": "true", "attest-nonce": b64u(nonce)})
    assert attested.check(good, POLICY, now=NOW, nonce=nonce).status == "hardware"
    assert other.commitments
    for pair in ((good, other), (other, good)):
        items = {**pair[0].raw_items(), **pair[1].raw_items()}
        items |= {name: good.raw_items()[name] for name in good.raw_items() if name.startswith("attestation")}
        made = Message.make(items, {**pair[0].commitments, **pair[1].commitments})
        found = attested.check(made, POLICY, now=NOW, nonce=nonce)
        assert (found.status, found.codes) == ("failed", ("binding/key-mismatch",))
