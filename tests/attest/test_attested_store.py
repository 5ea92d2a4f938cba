"""Attestations in a store: found again after a restart, checked, and gone with the step they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperpy import attested, config, maintenance
from hyperpy.attester.configfs import Configfs
from hyperpy.encoding import sha256
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
