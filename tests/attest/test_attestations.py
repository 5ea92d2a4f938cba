"""Attestations: kept in a store with the step they belong to, in one form, and made one after another."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, attestation, attested, config, maintenance
from hyperpy.attest import statement
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import CODES
from hyperpy.attestation import Attestation
from hyperpy.attester.configfs import Configfs
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import AttestationError, AttesterError
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, wallet
from tests.attest import fake_amd, fake_kernel

SUM = "/~calculator@1.0&a=1/add&b=2"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LmdbStore:
    """Return a store in which a node kept two steps, the first of them with an attestation."""
    own = Configfs(fake_kernel.snp(fake_amd.trusted(monkeypatch)), "sev_guest")
    settings = config.load(environ={})
    operator = wallet("operator").address
    with Node(settings, key=wallet(), store=LmdbStore(tmp_path), operator=operator, attester=own) as node:
        web = TestNode(node)
        assert web.get(SUM + "?attest=true")["attestation-status"] == b"hardware"
        assert web.get("/~calculator@1.0&a=5/add&b=2")["body"] == 7
    return LmdbStore(tmp_path)


def test_an_attestation_is_kept_with_its_step(store: LmdbStore) -> None:
    ((name, data),) = list(store.scan("attested"))
    made = attested.decode(data)
    kept = store.get("trail", name)
    assert kept is not None
    assert sha256(kept) == name
    assert made.said().fields["device"].startswith(b"calculator@1.0 ")
    store.close()


def test_store_verify_looks_at_attestations(store: LmdbStore) -> None:
    assert list(maintenance.verify(store)) == []
    ((name, data),) = list(store.scan("attested"))
    store.write([("attested", name, data[:-1]), ("attested", bytes(32), data)])
    found = {one.table for one in maintenance.verify(store)}
    assert found == {"attested"}
    assert len(list(maintenance.verify(store))) == 2
    store.close()


def test_an_attestation_goes_with_its_step(store: LmdbStore) -> None:
    maintenance.collect(store, 0)
    assert list(store.scan("trail")) == []
    assert list(store.scan("attested")) == []
    assert list(maintenance.verify(store)) == []
    store.close()


# -- the form ------------------------------------------------------------------------------------


def sample(amd: fake_amd.FakeAmd) -> attested.Attestation:
    """Return an attestation of level identity."""
    base = {"address": sha256(b"k" * 256), "key": b"\x01" + b"k" * 256, "nonce": b"n" * 32}
    about = {"request": bytes(32), "hashpath": b"a/b", "result": bytes(32), "device": b"d@1.0 digest"}
    own = statement.make({**base, "purpose": b"node-identity", "node-message": bytes(32)})
    evidence = Evidence("snp", amd.report(own.report_data()), amd.vek, amd.chain, statement=own.encode())
    said = statement.make({**base, **about, "purpose": b"result", "previous": attested.attestation_id(own)})
    return attested.Attestation(evidence, said.encode())


def test_whatever_comes_has_a_code_and_never_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed, cut, doubled and spliced bytes: refused with codes of the list, or the very same attestation."""
    made = sample(fake_amd.trusted(monkeypatch))
    wanted = attested.Wanted({b64u(sha256(b"k" * 256))}, [bytes(32)], "a/b", b"n" * 32)
    honest = attested.appraise(made, wanted, now=fake_amd.NOW)
    assert (honest.status, honest.codes) == ("hardware", ())
    data, draw = made.encode(), random.Random(6)
    for _ in range(4000):
        at, end = sorted(draw.randrange(len(data)) for _ in range(2))
        changed = draw.choice(
            [
                data[:at] + draw.randbytes(1) + data[at + 1 :],
                data[:at] + draw.randbytes(1 + at % 5) + data[at:],
                data[:at] + data[end:],
                data[:end] + data[at:],
                data[:at],
                b"\x91" * at + data,
            ]
        )
        try:
            found = attested.appraise(attested.decode(changed), wanted, now=fake_amd.NOW)
            codes = found.codes
        except AttestationError as error:
            found, codes = None, (error.code,)
        assert set(codes) <= CODES
        if changed == data:
            continue
        assert found is None or found.status == "failed" or found.said == honest.said


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"signers": {"somebody"}}, "binding/key-mismatch"),
        ({"results": [b"r" * 32]}, "binding/result-mismatch"),
        ({"hashpath": "a/c"}, "binding/result-mismatch"),
        ({"nonce": b"m" * 32}, "freshness/nonce-mismatch"),
        ({"fields": {"device": b"other"}}, "binding/result-mismatch"),
    ],
)
def test_what_an_attestation_is_not_about(monkeypatch: pytest.MonkeyPatch, wanted: Any, code: str) -> None:
    made = sample(fake_amd.trusted(monkeypatch))
    right = {"signers": {b64u(sha256(b"k" * 256))}, "results": [bytes(32)], "hashpath": "a/b", "nonce": b"n" * 32}
    found = attested.appraise(made, attested.Wanted(**{**right, **wanted}), now=fake_amd.NOW)
    assert (found.status, found.codes, found.said) == ("failed", (code,), None)


@pytest.mark.parametrize(
    ("field", "seconds", "status"),
    [
        ("issued-at", 60, "hardware"),
        ("issued-at", 61, "failed"),
        ("not-after", 0, "hardware"),
        ("not-after", -1, "failed"),
    ],
)
def test_when_the_attested_key_signed(monkeypatch: pytest.MonkeyPatch, field: str, seconds: int, status: str) -> None:
    """The statement about the result has a time of its own, which the evidence of the key does not vouch for."""
    made = sample(fake_amd.trusted(monkeypatch))
    at = int(fake_amd.NOW.timestamp() + seconds).to_bytes(8, "big")
    said = statement.make({**made.said().fields, field: at})
    wanted = attested.Wanted({b64u(sha256(b"k" * 256))})
    found = attested.appraise(attested.Attestation(made.evidence, said.encode()), wanted, now=fake_amd.NOW)
    assert (found.status, found.codes) == (status, () if status == "hardware" else ("freshness/stale",))


@pytest.mark.parametrize(
    "changed",
    [
        {"purpose": b"key-release", "kem": b"k"},
        {"purpose": b"software/result"},
        {"previous": bytes(32)},
        {"address": bytes(32)},
        {"key": b"\x02" + b"k" * 256},
    ],
    ids=str,
)
def test_a_statement_that_is_not_the_attested_key_s(monkeypatch: pytest.MonkeyPatch, changed: Any) -> None:
    made = sample(fake_amd.trusted(monkeypatch))
    said = statement.make({**made.said().fields, **changed})
    wanted = attested.Wanted({b64u(sha256(b"k" * 256)), b64u(bytes(32))})
    found = attested.appraise(attested.Attestation(made.evidence, said.encode()), wanted, now=fake_amd.NOW)
    assert (found.status, found.codes[0].partition("/")[0]) == ("failed", "binding")


def test_the_hardware_is_asked_for_one_report_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    amd = fake_amd.trusted(monkeypatch)
    inside, most = 0, 0
    gate = threading.Lock()

    class Slow:
        kind, provider, hardware = "snp", "a slow fake", True

        def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
            nonlocal inside, most
            with gate:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            made = Evidence("snp", amd.report(report_data), amd.vek, amd.chain)
            with gate:
                inside -= 1
            return made

    own = Attestation(config.load(environ={}), wallet(), lambda: Message({"a": 1}), Slow())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: own.evidence("channel", nonce=bytes([number]) * 32), range(16)))
    assert most == 1
    assert len({one.report for one in made}) == 16
    monkeypatch.setattr(attestation, "_PATIENCE_S", 0.0)
    with own._lock, pytest.raises(AttesterError, match="attester/busy"):
        own.report(bytes(64))
