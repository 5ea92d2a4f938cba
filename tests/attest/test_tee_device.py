"""tee@1.0: evidence for a nonce, challenges, verdicts, launch digests; and that nothing is ever a bare yes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hyperpy.devices.tee import nonces

from hyperpy import Message, attestation, config
from hyperpy.attest import bundle, statement
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import CODES
from hyperpy.attester import configfs
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import AppraisalError, CodecError
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet
from tests.attest import fake_amd, fake_kernel, tee
from tests.attest.fake_amd import NOW, FakeAmd

NONCE = b64u(b"v" * 32)
AT = str(int(NOW.timestamp()))
POLICY = json.dumps({"id": "fake-chip", "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})


@contextmanager
def serving(attester: Any = None, **flags: Any) -> Iterator[TestNode]:
    settings = config.load(environ={}, flags=flags)
    store = MemoryStore()
    inner = Node(settings, key=wallet(), store=store, operator=wallet("operator").address, attester=attester)
    with inner:
        yield TestNode(inner)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def n(amd: FakeAmd) -> Iterator[TestNode]:
    with serving(configfs.Configfs(fake_kernel.snp(amd), "sev_guest")) as made:
        yield made


def verified(n: TestNode, evidence: Any, key: str = "verify", **more: str) -> Message:
    return n.request("POST", f"/~tee@1.0/{key}", {"evidence": str(evidence), "now": AT, **more})


def attest(n: TestNode, **more: str) -> Message:
    query = "&".join(f"{name}={text}" for name, text in more.items())
    return n.get(f"/~tee@1.0/attest?{query}")


# -- making ----------------------------------------------------------------------------------------


def test_info_says_what_there_is(n: TestNode) -> None:
    found = n.get("/~tee@1.0/info")
    assert (found["hardware"], found["attester"], found["evidence-types"]) == (
        True,
        b"configfs-tsm/sev_guest",
        (b"snp",),
    )
    assert found["kem"] == b64u(n.node.attestation.kem).encode()
    with serving() as bare:
        found = bare.get("/~tee@1.0/info")
        assert (found["hardware"], found["attester"], found["evidence-types"]) == (False, b"none", ())
        assert bare.get("/~tee@1.0/attest")["status"] == 503


def test_evidence_is_bound_to_nonce_node_and_keys(n: TestNode) -> None:
    reply = attest(n, nonce=NONCE)
    said = statement.decode(b64u_decode(reply.text("statement")))
    assert said.fields["nonce"] == b"v" * 32
    assert said.fields["key"] == b"\x01" + wallet().modulus
    assert said.fields["address"] == b64u_decode(wallet().address)
    assert said.fields["kem"] == n.node.attestation.kem
    assert len(said.fields["runtime"]) == len(said.fields["node-message"]) == 32
    evidence = bundle.read(canonical.decode(b64u_decode(reply.text("evidence"))))
    assert evidence.report[0x50:0x90] == said.report_data()
    assert said.purpose == "node-identity"
    channel = attest(n, nonce=NONCE, purpose="channel")
    assert statement.decode(b64u_decode(channel.text("statement"))).purpose == "channel"


@pytest.mark.parametrize(
    "more", [{"nonce": "c2hvcnQ"}, {"nonce": "!"}, {"purpose": "result"}, {"purpose": "key-release"}, {"purpose": "x"}]
)
def test_what_nobody_gets_evidence_for(n: TestNode, more: dict[str, str]) -> None:
    assert attest(n, **more)["status"] == 400


def test_a_key_for_secrets_lives_as_long_as_the_node(amd: FakeAmd) -> None:
    settings, about = config.load(environ={}), Message({"a": 1})
    one, two = (attestation.Attestation(settings, wallet(), lambda: about) for _ in range(2))
    assert one.kem != two.kem
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    sealed = suite.encrypt(b"a secret", X25519PublicKey.from_public_bytes(one.kem[2:]), b"context")
    assert one.kem[:2] == b"\x00\x20"
    assert one.unseal(sealed, b"context") == b"a secret"
    for own, context, data in (
        (two, b"context", sealed),
        (one, b"another", sealed),
        (one, b"context", sealed[:-1]),
        (one, b"context", b""),
    ):
        with pytest.raises(CodecError):
            own.unseal(data, context)


def test_certificates_of_the_operator_where_the_host_gives_none(amd: FakeAmd, tmp_path: Any) -> None:
    files = []
    for number, data in enumerate((amd.vek, *amd.chain)):
        (tmp_path / f"{number}.der").write_bytes(data)
        files.append(str(tmp_path / f"{number}.der"))
    own = configfs.Configfs(fake_kernel.snp(amd, host_gives=False), "sev_guest")
    with serving(own) as bare:
        assert verified(bare, attest(bare, nonce=NONCE).text("evidence"))["errors"] == (b"endorsement/missing",)
    with serving(own, **{"tee.certificates": files}) as given:
        found = verified(given, attest(given, nonce=NONCE).text("evidence"), nonce=NONCE)
        assert (found["errors"], found["attestation-result"]) == ((), b"hardware")


def test_gpus_count_under_the_processor_s_statement_alone(amd: FakeAmd, tmp_path: Any) -> None:
    """A genuine GPU report that answers another nonce than the one derived from the statement is refused."""
    from hyperpy.attester.nvidia import Nvidia
    from tests.attest.test_attesters import FakeNvidiaTools

    tools = FakeNvidiaTools()
    (tmp_path / "driver.xml").write_bytes(b"<a manifest/>")
    manifests = {"tee.manifests": [str(tmp_path / "driver.xml")]}
    with serving(configfs.Configfs(fake_kernel.snp(amd), "sev_guest"), **manifests) as n:
        n.node.attestation._gpus = Nvidia(tools.collect)
        reply = attest(n, nonce=NONCE)
        said = statement.decode(b64u_decode(reply.text("statement")))
        assert tools.nonces == [said.gpu_nonce().hex()]
        whole = bundle.read(canonical.decode(b64u_decode(reply.text("evidence"))))
        assert whole.gpus == (bundle.Gpu(tools.report, tools.chain, (b"<a manifest/>",)),)
        bare = replace(whole, gpus=(bundle.Gpu(tools.report, tools.chain),))
        found = verified(n, b64u(canonical.encode(bare.message())), nonce=NONCE, policy=POLICY)
    assert found["attestation-result"] == b"failed"
    parts = found["ear"]["submods"]  # type: ignore[index,call-overload]
    assert parts["cpu0"]["hyperpy.errors"] == ()
    assert set(parts["gpu0"]["hyperpy.errors"]) & {b"freshness/nonce-mismatch", b"endorsement/expired"}


# -- challenges ------------------------------------------------------------------------------------


def test_a_challenge_is_good_once(n: TestNode) -> None:
    nonce = n.get("/~tee@1.0/challenge").text("nonce")
    assert len(b64u_decode(nonce)) == 32
    evidence = attest(n, nonce=nonce).text("evidence")
    first = verified(n, evidence, challenge=nonce, policy=POLICY)
    assert (first["verdict"], first["errors"], first["status"]) == (b"affirming", (), 200)
    again = verified(n, evidence, challenge=nonce, policy=POLICY)
    assert (again["verdict"], again["errors"]) == (b"contraindicated", (b"freshness/nonce-reused",))
    assert again["hardware"] is False
    other = verified(n, evidence, challenge=NONCE, policy=POLICY)
    assert other["errors"][0] == b"freshness/nonce-mismatch"  # type: ignore[index]


def test_challenges_end_and_are_bounded() -> None:
    store = nonces.Nonces()
    store.give(b"a", 1000.0)
    store.take(b"a", 1299.0)
    store.give(b"b", 1000.0)
    with pytest.raises(AppraisalError, match="freshness/stale"):
        store.take(b"b", 1301.0)
    for number in range(nonces.MOST + 5):
        store.give(number.to_bytes(4, "big"), 2000.0)
    assert len(store._given) == nonces.MOST
    with pytest.raises(AppraisalError, match="freshness/nonce-mismatch"):
        store.take((0).to_bytes(4, "big"), 2000.0)
    store.give(b"much later", 9000.0)
    assert len(store._given) == 1


# -- verdicts --------------------------------------------------------------------------------------


def test_a_verdict_is_never_a_bare_yes(n: TestNode) -> None:
    found = verified(n, attest(n, nonce=NONCE).text("evidence"), nonce=NONCE, policy=POLICY)
    assert found["status"] == 200
    assert found["verdict"] == b"affirming"
    assert found["policy"].startswith(b"fake-chip:")  # type: ignore[union-attr]
    assert "body" not in found
    ear = found["ear"]
    assert isinstance(ear, Message)
    assert ear["eat_profile"] == b"tag:hyperpy,2026:ear"
    assert ear["eat_nonce"] == (b"v" * 32).hex().encode()
    assert ear["submods"]["cpu0"]["ear.status"] == 2  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"nonce": b64u(b"w" * 32)}, b"freshness/nonce-mismatch"),
        ({"policy": '{"snp": {"measurements": ["' + "00" * 48 + '"]}}'}, b"policy/measurement-not-allowed"),
        ({"policy": '{"snp": {"vmpls": [3]}}'}, b"policy/vmpl"),
        ({"policy": 'kinds = ["tdx"]'}, b"evidence/unsupported-type"),
        ({"now": "1"}, b"endorsement/not-yet-valid"),
        ({"statement": b64u(b"\x00\x01")}, b"binding/statement-malformed"),
    ],
)
def test_what_a_verdict_refuses(n: TestNode, more: dict[str, str], code: bytes) -> None:
    found = verified(n, attest(n, nonce=NONCE).text("evidence"), **{"nonce": NONCE, "policy": POLICY, **more})
    assert found["status"] == 200
    assert found["errors"][0] == code  # type: ignore[index]
    assert found["hardware"] is False
    assert found["verdict"] != b"affirming"


@pytest.mark.parametrize(
    "more",
    [
        {"evidence": ""},
        {"evidence": "!!"},
        {"evidence": b64u(canonical.encode(b"text"))},
        {"now": "tomorrow"},
        {"now": "-1"},
        {"now": "9" * 13},
        {"nonce": "short"},
        {"report-data": b64u(bytes(63))},
        {"policy": "what is this"},
        {"policy": "a." * 4100 + "a = 1"},
        {"policy": '{"snp": {"no-such-rule": 1}}'},
        {"policy": '{"kinds": ["abacus"]}'},
    ],
)
def test_malformed_requests_are_400(n: TestNode, more: dict[str, str]) -> None:
    found = verified(n, **{"evidence": attest(n, nonce=NONCE).text("evidence"), **more})
    assert found["status"] == 400
    assert "verdict" not in found


def test_the_attestation_of_a_reply_is_taken_too(n: TestNode) -> None:
    reply = n.get(f"/~calculator@1.0&a=1/add&b=2?attest=hardware&attest-nonce={NONCE}")
    found = verified(n, reply.text("attestation"), nonce=NONCE, policy=POLICY)
    assert (found["verdict"], found["errors"]) == (b"affirming", ())
    assert verified(n, reply.text("attestation")[:-4], nonce=NONCE)["status"] == 400


def test_evidence_that_is_wrong_has_a_code(n: TestNode) -> None:
    whole = attest(n, nonce=NONCE).text("evidence")
    made = bundle.read(canonical.decode(b64u_decode(whole)))
    for changed in (
        replace(made, report=made.report[:-1]),
        replace(made, kind="tdx"),
        replace(made, kind="nitro"),
        replace(made, vek=b""),
        replace(made, statement=b""),
        replace(made, report=bytes([*made.report[:0x60], made.report[0x60] ^ 1, *made.report[0x61:]])),
    ):
        found = verified(n, b64u(canonical.encode(changed.message())), nonce=NONCE)
        assert (found["status"], found["hardware"]) == (200, False)
        errors = found["errors"]
        assert isinstance(errors, tuple)
        assert {one.decode() for one in errors} <= CODES  # type: ignore[union-attr]
        assert errors
    unknown = Message({"type": "Attestation-Evidence", "evidence-type": "abacus", "report": b"x", "hardware": True})
    assert verified(n, b64u(canonical.encode(unknown)))["errors"] == (b"evidence/unsupported-type",)


def test_appraise_is_the_same_everywhere_and_needs_the_time(n: TestNode, amd: FakeAmd) -> None:
    evidence = attest(n, nonce=NONCE).text("evidence")
    with serving() as other:
        mine, theirs = (verified(one, evidence, "appraise", policy=POLICY, nonce=NONCE) for one in (n, other))
    assert dict(mine) == dict(theirs)
    assert mine["verdict"] == b"affirming"
    unbound = verified(n, evidence, "appraise", policy=POLICY)
    assert (unbound["verdict"], unbound["errors"]) == (b"warning", ()), "nobody said what it must be bound to"
    assert mine["ear"]["iat"] == int(AT)  # type: ignore[index,call-overload]
    assert n.request("POST", "/~tee@1.0/appraise", {"evidence": evidence})["status"] == 400
    keys = {one["name"]: one for one in spec_keys()}
    assert keys["appraise"]["deterministic"]
    assert keys["measure"]["deterministic"]
    assert not keys["verify"]["deterministic"]


def spec_keys() -> list[dict[str, Any]]:
    from hyperpy.registry import bundled_spec

    return [{"name": k, "deterministic": s.deterministic} for k, s in bundled_spec("tee@1.0").keys.items()]


def test_genuine_evidence_of_others(n: TestNode) -> None:
    """Reports of real machines, read in place: verified here without a statement, and found bound to nothing."""
    one = next(one for one in tee.of_kind("snp") if "report" in one["files"])
    made = Evidence("snp", tee.file(one, "report"))
    found = verified(n, b64u(canonical.encode(made.message())))
    assert found["errors"] == (b"endorsement/missing",)


# -- software --------------------------------------------------------------------------------------

DEVELOPMENT = json.dumps({"id": "development", "allow-software": True})


def test_software_evidence_takes_policy_and_process(amd: FakeAmd) -> None:
    with serving(**{"tee.software": True}) as soft, serving() as strict:
        reply = attest(soft, nonce=NONCE)
        assert (reply["hardware"], reply["evidence-type"]) == (False, b"software")
        evidence = reply.text("evidence")
        both = verified(soft, evidence, policy=DEVELOPMENT, nonce=NONCE)
        assert (both["attestation-result"], both["verdict"], both["hardware"]) == (
            b"software",
            b"contraindicated",
            False,
        )
        for one, more in ((soft, {}), (strict, {"policy": DEVELOPMENT})):
            found = verified(one, evidence, nonce=NONCE, **more)
            assert found["errors"] == (b"policy/software-not-allowed",)
        assert verified(soft, evidence, "appraise", policy=DEVELOPMENT)["attestation-result"] == b"failed"


def test_software_evidence_cannot_be_dressed_up(amd: FakeAmd) -> None:
    with serving(**{"tee.software": True}) as soft:
        made = bundle.read(canonical.decode(b64u_decode(attest(soft, nonce=NONCE).text("evidence"))))
        plain = statement.make({**statement.decode(made.statement).fields, "purpose": b"node-identity"})
        relabelled = [replace(made, kind=kind) for kind in ("snp", "tdx", "sgx", "nitro")]
        padded = replace(made, kind="snp", report=made.report.ljust(1184, b"\0")[:1184], vek=amd.vek, chain=amd.chain)
        nested = replace(made, gpus=(bundle.Gpu(made.report, b"chain"),))
        for one in (*relabelled, padded, nested, replace(made, statement=plain.encode())):
            found = verified(soft, b64u(canonical.encode(one.message())), policy=DEVELOPMENT)
            assert found["attestation-result"] == b"failed"
            assert found["hardware"] is False
        lying = made.message() | {"hardware": True}
        assert verified(soft, b64u(canonical.encode(lying)), policy=DEVELOPMENT)["errors"] == (b"evidence/malformed",)
        snp = soft.request("POST", "/~snp@1.0/verify", {"report": made.report.decode()})
        assert snp.get("body") != b"true"
        assert snp["status"] != 200


# -- measuring -------------------------------------------------------------------------------------


FILE = tee.DEFAULT / "measure" / "vectors.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}


@pytest.mark.parametrize("row", VECTORS.get("hyperbeam", ()), ids=lambda row: row["name"])
def test_a_launch_digest_from_hashes(n: TestNode, row: dict[str, Any]) -> None:
    given = {
        "profile": row["profile"],
        "firmware": row["ovmf_hash"],
        "kernel": row["kernel_sha256"],
        "initrd": row["initrd_sha256"],
        "append": row["cmdline_sha256"],
        "vcpus": str(row["vcpus"]),
        "guest-features": str(row["guest_features"]),
        "vcpu-type": row["vcpu_type"],
        "vmm": row["vmm"],
    }
    assert n.request("GET", "/~tee@1.0/measure", given)["measurement"] == row["measurement"].encode()
    for name in ("firmware", "kernel", "initrd", "append"):
        assert n.request("GET", "/~tee@1.0/measure", {**given, name: "zz"})["status"] == 400
    for name, text in {"vcpus": "0", "vcpu-type": "abacus", "vmm": "bochs", "profile": "none"}.items():
        assert n.request("GET", "/~tee@1.0/measure", {**given, name: text})["status"] == 400


@pytest.mark.parametrize("row", VECTORS.get("full_firmware", ())[::40], ids=lambda row: row["measurement"][:8])
def test_a_launch_digest_from_a_firmware_file(n: TestNode, row: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "path": "measure",
        "firmware-file": (FILE.parent / row["firmware"]).read_bytes(),
        "vcpus": row["vcpus"],
        "guest-features": row["guest_features"],
        "vcpu-type": row["vcpu_type"],
        "vmm": row["vmm"],
    }
    if row["kernel_sha256"] is not None:
        given |= {"kernel": row["kernel_sha256"], "initrd": row["initrd_sha256"]}
        given["append"] = sha256(row["cmdline"].encode() + b"\0").hex()
    found = n.node.resolve({"device": "tee@1.0"}, Message(given))
    assert isinstance(found, Message)
    assert found["measurement"] == row["measurement"].encode()
