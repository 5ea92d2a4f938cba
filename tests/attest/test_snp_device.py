"""snp@1.0: reports made and verified in the reference's form, and every known way to cheat its verifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hyperpy.devices.snp import report
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpy import Message, commitments, config
from hyperpy.attest import hyperbeam
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import CODES
from hyperpy.attestation import Attestation
from hyperpy.attester import certificates, configfs
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import AttestationError, ConfigError, MessageNotFound
from hyperpy.http.client import Connection, parse_url, request_form
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.message import Atom, Link
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.attest import fake_amd, fake_kernel, tee
from tests.security.attack import send

DIGEST = {"firmware": "b8" * 48, "kernel": "69" * 32, "initrd": "54" * 32, "append": "95" * 32}
HASHES: dict[str, Any] = {"vcpus": 2, "vcpu_type": 5, "vmm_type": 1, "guest_features": 1, **DIGEST}
MEASURED = hyperbeam.measurement(HASHES)
ABOUT = {"operator": "somebody", "port": 8734}


@dataclass
class FakeGuest:
    """Stands for the hardware of a machine with the fake chip."""

    amd: fake_amd.FakeAmd
    measurement: bytes = MEASURED
    kind: str = "snp"
    hardware: bool = True
    provider: str = "fake"

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """Return a report of the fake chip."""
        made = self.amd.report(report_data, vmpl=level or 0, measurement=self.measurement)
        return Evidence(self.kind, made, vek=self.amd.vek, chain=self.amd.chain)


def lend(n: TestNode, guest: FakeGuest) -> None:
    """Let a node, whose devices have not started yet, run on this machine."""
    n.node._lend["attester"] = Attestation(n.node.config, wallet(), n.node.settings.info, guest)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> fake_amd.FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def n(amd: fake_amd.FakeAmd) -> Iterator[TestNode]:
    with serving(amd) as made:
        yield made


def serving(amd: fake_amd.FakeAmd, **settings: Any) -> Any:
    """Return a node with the fake chip; it is entered by the caller."""
    from contextlib import contextmanager

    @contextmanager
    def run() -> Iterator[TestNode]:
        flags = {
            "devices.grant": {"snp@1.0": ["node", "keys", "store", "attester"]},
            "snp.trusted": [HASHES],
            **{f"snp.{name}": item for name, item in settings.items()},
        }
        with node(flags=flags) as made:
            lend(made, FakeGuest(amd))
            yield made

    return run()


def claimed(amd: fake_amd.FakeAmd, key: RsaKey, **changes: Any) -> dict[str, Any]:
    """Return the keys of a report's message that is right but for the changes; None leaves a key out."""
    bound = b64u_decode(key.address) + b64u_decode(commitments.content_id(Message(ABOUT)))
    options = {name: changes.pop(name) for name in ("vmpl", "policy", "measurement") if name in changes}
    raw = amd.report(changes.pop("report_data", bound), **{"vmpl": 1, "measurement": MEASURED, **options})
    made = {
        "local-hashes": HASHES,
        "nonce": b64u(bound),
        "address": key.address,
        "node-message": ABOUT,
        "report": hyperbeam.to_json(raw),
        "vek": b64u(amd.vek),
        "chain": [b64u(one) for one in amd.chain],
        **changes,
    }
    return {name: item for name, item in made.items() if item is not None}


def verified(n: TestNode, items: Mapping[str, Any], key: RsaKey, **beside: Any) -> Message:
    """Return the reply to the message, signed by a key and posted as a body."""
    body = commitments.commit(Message(items), key, bundle=True)
    request = Message({"path": "/~snp@1.0/verify", "method": "POST", "body": body, **beside})
    return send(n, request, "/~snp@1.0/verify")


def code(reply: Message) -> str:
    """Return the code of a refusal, once it is sure to be one."""
    assert reply["status"] in (400, 500, 503), reply
    assert b"true" not in (reply.get("body"), reply.get("ao-body"))
    found = reply.text("code")
    assert found in CODES
    assert reply.text("body").startswith(found)
    return found


# -- what is right ---------------------------------------------------------------------------------


def test_a_right_message_is_true(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    reply = verified(n, claimed(amd, wallet("alice")), wallet("alice"))
    assert (reply["status"], reply["body"]) == (200, b"true")


def test_the_message_may_be_the_request_itself(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    items = {**claimed(amd, key), "path": "/~snp@1.0/verify", "method": "POST"}
    signed = commitments.commit(Message(items), key, bundle=True)
    assert send(n, signed, "/~snp@1.0/verify")["body"] == b"true"
    stolen = commitments.commit(Message(items), wallet("mallory"), bundle=True)
    assert code(send(n, stolen, "/~snp@1.0/verify")) == "binding/key-mismatch"


def test_what_generate_makes_verifies_elsewhere(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    made = n.get("/~snp@1.0/generate")
    assert made["status"] == 200, made
    assert made.text("address") == n.node.address
    bound = b64u_decode(made.text("nonce"))
    assert bound[:32] == b64u_decode(n.node.address)
    assert bound[32:] == b64u_decode(commitments.content_id(made["node-message"]))
    assert bytes(json.loads(made.text("report"))["report_data"]) == bound
    assert json.loads(made.text("report"))["vmpl"] == 1
    assert {name: made["local-hashes"][name] for name in HASHES} == Message(HASHES)  # type: ignore[index]
    with node(flags={"snp.trusted": [HASHES], "http.sign": False}) as other:
        lend(other, FakeGuest(amd))
        reply = send(other, Message({"body": made}), "/~snp@1.0/verify")
        assert reply["body"] == b"true", reply


def test_over_sockets_from_the_kernel_s_tree(amd: fake_amd.FakeAmd) -> None:
    given = certificates.build(amd.vek, amd.chain)
    tree = fake_kernel.FakeTsm(lambda data, level: amd.report(data, vmpl=level, measurement=MEASURED), auxblob=given)
    with ExitStack() as stack:
        ask = [served(stack, name, configfs.Configfs(tree, "sev_guest")) for name in ("one", "two")]
        made = ask[0](Message({"path": "/~snp@1.0/generate"}))
        assert made["status"] == 200, made
        assert made.text("address") == wallet("one").address
        reply = ask[1](Message({"path": "/~snp@1.0/verify", "method": "POST", "body": made}))
        assert (reply["status"], reply["body"]) == (200, b"true")
        stolen = commitments.commit(made.with_commitments({}).without("status"), wallet("two"))
        reply = ask[1](Message({"path": "/~snp@1.0/verify", "method": "POST", "body": stolen}))
        assert code(reply) == "binding/key-mismatch"


def served(stack: ExitStack, name: str, attester: Any) -> Callable[[Message], Message]:
    """Return what asks a node of that name, behind a socket."""
    loaded = config.load(environ={}, flags={"snp.trusted": [HASHES]})
    store, operator = MemoryStore(), wallet("operator").address
    inner = stack.enter_context(Node(loaded, key=wallet(name), store=store, operator=operator, attester=attester))
    server = Server(inner, "127.0.0.1", 0)
    server.start()
    stack.callback(server.stop)
    connection = Connection()
    stack.callback(connection.close)
    return lambda message: connection.exchange(parse_url(server.url)[0], request_form(message))


def test_certificates_come_with_the_request_or_are_remembered(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    bare = claimed(amd, key, vek=None, chain=None)
    assert code(verified(n, bare, key)) == "endorsement/missing"
    assert verified(n, bare, key, vek=b64u(amd.vek), chain=[b64u(one) for one in amd.chain])["body"] == b"true"
    assert verified(n, bare, key)["body"] == b"true", "they were remembered"


def test_the_bytes_of_a_report_may_stand_for_its_json(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    items = claimed(amd, key)
    raw = hyperbeam.to_bytes(items["report"])
    assert verified(n, items | {"report": b64u(raw)}, key)["body"] == b"true"
    assert code(verified(n, items | {"report": b64u(raw[:-1])}, key)) == "evidence/malformed"
    assert code(verified(n, items | {"report": b64u(raw[:-1] + b"x")}, key)) == "evidence/reserved-nonzero"


def test_a_challenge_makes_it_fresh(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    asked, other = b64u(b"c" * 32), b64u(b"d" * 32)
    made = n.get(f"/~snp@1.0/generate&challenge={asked}")
    old = n.get("/~snp@1.0/generate")
    assert (made["status"], old["status"]) == (200, 200)
    with node(flags={"snp.trusted": [HASHES], "http.sign": False}) as judge:
        lend(judge, FakeGuest(amd))

        def answer(body: Message, challenge: str) -> Message:
            return send(judge, Message({"body": body, "challenge": challenge}), "/~snp@1.0/verify")

        assert answer(made, asked)["body"] == b"true"
        assert code(answer(made, other)) == "freshness/nonce-mismatch"
        assert code(answer(old, asked)) == "freshness/nonce-mismatch"


# -- the holes -------------------------------------------------------------------------------------


def test_a_report_replayed_under_another_key(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    alice, mallory = wallet("alice"), wallet("mallory")
    items = claimed(amd, alice)
    assert code(verified(n, items, mallory)) == "binding/key-mismatch", "signed by somebody else"
    stolen = items | {"address": mallory.address}
    assert code(verified(n, stolen, mallory)) == "binding/report-data-mismatch"
    own = b64u_decode(mallory.address) + b64u_decode(items["nonce"])[32:]
    assert code(verified(n, stolen | {"nonce": b64u(own)}, mallory)) == "binding/report-data-mismatch"


def test_their_edited_vector_is_refused() -> None:
    one = tee.case("hyperbeam/admissible-32vcpu")
    known = one["hyperbeam"]
    claim = report.read(wrapped(one, known["node_message"]))
    trust = report.Trust((known["local_hashes"],))
    with pytest.raises(AttestationError) as raised:
        report.appraise(claim, {known["address"]: b""}, trust, None, tee.now(one))
    assert raised.value.code == "binding/report-data-mismatch"


def test_a_real_report_verifies_up_to_its_certificate() -> None:
    one = tee.case("hyperbeam/live-node-1vcpu-2025-01-30")
    known = one["hyperbeam"]
    named = b64u(b64u_decode(known["nonce"])[32:])
    claim = report.read(wrapped(one, None) | {"node-message-id": named})
    trust = report.Trust((known["local_hashes"],))
    with pytest.raises(AttestationError) as raised:
        report.appraise(claim, {known["address"]: b""}, trust, None, tee.now(one))
    assert raised.value.code == "endorsement/missing"
    with pytest.raises(AttestationError) as raised:
        report.appraise(claim, {known["address"]: b""}, report.Trust((HASHES,)), None, tee.now(one))
    assert raised.value.code == "policy/measurement-not-allowed"
    with pytest.raises(AttestationError) as raised:
        report.appraise(claim, {wallet("mallory").address: b""}, trust, None, tee.now(one))
    assert raised.value.code == "binding/key-mismatch"


def wrapped(one: tee.Case, about: Any) -> Message:
    known = one["hyperbeam"]
    made = {
        "local-hashes": known["local_hashes"],
        "nonce": known["nonce"],
        "address": known["address"],
        "report": tee.file(one, "report_json"),
    }
    return Message(made if about is None else made | {"node-message": about})


def test_keys_inside_the_report_override_nothing(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    alice, mallory = wallet("alice"), wallet("mallory")
    theirs = claimed(amd, alice)
    inside = json.loads(theirs["report"]) | {"nonce": theirs["nonce"], "address": alice.address}
    items = theirs | {"address": mallory.address, "report": json.dumps(inside)}
    assert code(verified(n, items, mallory)) == "evidence/malformed"
    hashes = json.loads(theirs["report"]) | {"local-hashes": HASHES}
    assert code(verified(n, theirs | {"report": json.dumps(hashes)}, alice)) == "evidence/malformed"


def test_only_signed_keys_count(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    items = claimed(amd, key)
    names = [name for name in items if name != "local-hashes"]
    body = commitments.commit(commitments.bundled(Message(items)), key, committed=names, bundle=True)
    assert code(send(n, Message({"body": body}), "/~snp@1.0/verify")) == "evidence/malformed"


def test_a_signature_that_does_not_hold(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    body = commitments.commit(Message(claimed(amd, key)), key, bundle=True)
    forged = Message.make({**body.raw_items(), "nonce": b"A" * 86}, body.commitments)
    reply = send(n, Message({"body": forged}), "/~snp@1.0/verify")
    assert code(reply) == "signature/invalid"


def test_nobody_signed(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    reply = send(n, Message({"body": Message(claimed(amd, wallet("alice")))}), "/~snp@1.0/verify")
    assert code(reply) == "binding/key-mismatch"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vmpl": 0}, "policy/vmpl"),
        ({"vmpl": 3}, "policy/vmpl"),
        ({"policy": 0x30000 | 1 << 19}, "policy/debug-enabled"),
        ({"policy": 0x30000 | 1 << 18}, "policy/migration-agent"),
        ({"measurement": bytes(48)}, "policy/measurement-not-allowed"),
        ({"local-hashes": HASHES | {"kernel": "00" * 32}}, "policy/measurement-not-allowed"),
        ({"local-hashes": HASHES | {"vcpus": 3}}, "policy/measurement-not-allowed"),
        ({"local-hashes": {k: v for k, v in HASHES.items() if k != "kernel"}}, "policy/measurement-not-allowed"),
        ({"local-hashes": {}}, "policy/measurement-not-allowed"),
        ({"local-hashes": None}, "evidence/malformed"),
        ({"report_data": bytes(64)}, "binding/report-data-mismatch"),
        ({"node-message": {"operator": "another"}}, "binding/report-data-mismatch"),
        ({"node-message": None}, "evidence/malformed"),
        ({"node-message-id": b64u(bytes(32))}, "evidence/malformed"),
        ({"report": None}, "evidence/malformed"),
        ({"report": "{}"}, "evidence/malformed"),
        ({"report": "[" * 5000}, "evidence/malformed"),
        ({"report": "x" * 70_000}, "evidence/too-large"),
        ({"nonce": "AAAA"}, "evidence/malformed"),
        ({"address": "nobody"}, "evidence/malformed"),
        ({"vek": b"\x30\x00"}, "endorsement/chain-invalid"),
        ({"vek": b"0" * 20_000}, "evidence/too-large"),
        ({"chain": []}, "endorsement/chain-invalid"),
        ({"chain": None}, "evidence/malformed"),
    ],
    ids=str,
)
def test_whatever_is_wrong_has_its_code(
    n: TestNode, amd: fake_amd.FakeAmd, changes: dict[str, Any], expected: str
) -> None:
    key = wallet("alice")
    assert code(verified(n, claimed(amd, key, **changes), key)) == expected


def test_the_root_is_pinned(n: TestNode, amd: fake_amd.FakeAmd, monkeypatch: pytest.MonkeyPatch) -> None:
    key = wallet("alice")
    other = fake_amd.FakeAmd()
    items = claimed(other, key)
    assert code(verified(n, items, key)) == "endorsement/untrusted-root"


def test_reported_tcb_chooses_the_certificate(amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    with serving(amd, policy={"min-tcb": {"microcode": 214}}) as strict:
        assert code(verified(strict, claimed(amd, key), key)) == "tcb/below-minimum"
    with serving(amd, policy={"min-tcb": {"microcode": 213}}) as met:
        assert verified(met, claimed(amd, key), key)["body"] == b"true"


def test_fewer_enforced_keys_are_the_operator_s_choice(amd: fake_amd.FakeAmd) -> None:
    key = wallet("alice")
    wide = HASHES | {"vcpus": 7}
    items = claimed(amd, key, measurement=hyperbeam.measurement(wide), **{"local-hashes": wide})
    with serving(amd) as strict:
        assert code(verified(strict, items, key)) == "policy/measurement-not-allowed"
    with serving(amd, enforced_keys=["firmware", "kernel", "initrd", "append"]) as loose:
        assert verified(loose, items, key)["body"] == b"true"


def test_software_evidence_is_no_report(n: TestNode, amd: fake_amd.FakeAmd) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from hyperpy.attest import software

    key = wallet("alice")
    bound = b64u_decode(claimed(amd, key)["nonce"])
    made = software.make(Ed25519PrivateKey.generate(), bytes(32), bound)
    assert code(verified(n, claimed(amd, key, report=made), key)) == "evidence/malformed"
    padded = made.ljust(1184, b" ")[:1184]
    assert code(verified(n, claimed(amd, key, report=padded), key)) == "evidence/malformed"


def test_generate_without_hardware(amd: fake_amd.FakeAmd) -> None:
    with serving(amd) as n:
        lend(n, FakeGuest(amd, kind="software"))
        assert code(n.get("/~snp@1.0/generate")) == "attester/unavailable"
    with serving(amd) as n:
        lend(n, FakeGuest(amd, measurement=bytes(48)))
        assert code(n.get("/~snp@1.0/generate")) == "policy/measurement-not-allowed"
    with node() as n:
        lend(n, FakeGuest(amd))
        assert code(n.get("/~snp@1.0/generate")) == "policy/measurement-not-allowed"


def test_the_node_message_id_is_the_reference_s() -> None:
    one = tee.case("hyperbeam/admissible-32vcpu")
    known = one["hyperbeam"]
    assert commitments.content_id(Message(known["node_message"])) == known["node_message_unsigned_id"]


def outcome(work: Callable[[], Any], items: Mapping[str, Any]) -> str:
    """Return the code that work ends with; ``read`` if it does not raise."""
    try:
        work()
    except AttestationError as error:
        return error.code
    except MessageNotFound:  # the device makes this code of it
        return "evidence/malformed" if any(isinstance(one, Link) for one in items.values()) else "not found"
    return "read"


VALUES = st.one_of(
    st.binary(max_size=40),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False),
    st.booleans(),
    st.just(Atom("undefined")),
    st.lists(st.binary(max_size=8), max_size=3).map(tuple),
    st.dictionaries(st.sampled_from([*HASHES, "1", "2"]), st.binary(max_size=8) | st.integers(), max_size=4).map(
        Message
    ),
    st.just(Link("A" * 43)),
)
KEYS = ("local-hashes", "nonce", "address", "node-message", "node-message-id", "report", "challenge")


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3), st.sampled_from(["", *KEYS]))
@settings(max_examples=400)
def test_whatever_comes_is_read_or_has_a_code(changes: dict[str, Any], missing: str) -> None:
    items = {"local-hashes": HASHES, "nonce": b64u(bytes(64)), "address": b64u(bytes(32)), "node-message": ABOUT}
    item = Message({**items, "report": b64u(bytes(1184))})
    item = Message.make({k: v for k, v in {**item.raw_items(), **changes}.items() if k != missing})
    assert outcome(lambda: report.appraise(report.read(item), {}, report.Trust(), None, fake_amd.NOW), changes) in CODES


@given(st.dictionaries(st.sampled_from(["vek", "chain", "crl"]), VALUES, max_size=3))
def test_certificates_are_read_or_have_a_code(items: dict[str, Any]) -> None:
    assert outcome(lambda: report.endorsement(Message.make(items)), items) in CODES | {"read"}


def test_settings_that_cannot_be_used() -> None:
    for said in (([], ["kernels"], {}), ([], [], {}), ([{"kernel": 1.5}], None, {}), ([], None, {"min-tcbs": {}})):
        with pytest.raises(ConfigError):
            report.trust_of(*(Message({"it": item})["it"] if item is not None else None for item in said))
