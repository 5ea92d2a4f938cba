"""No byte of what a client keeps raises what is found of it: receipts with evidence, and evidence by itself.

Replies as they come over HTTP, headers and body, are swept in ``test_attested_http.py``. Here each byte of a file is
changed, in the file as it is and with the digest at its end made again, and what `hyperpy verify` and `hyperpy
attest verify` find is compared with what they found before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from hyperpy import Message, config
from hyperpy.attest import bundle, policy, verifier
from hyperpy.attester import configfs
from hyperpy.client import Client
from hyperpy.codecs import canonical
from hyperpy.errors import HyperpyError
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.attest import fake_amd, fake_kernel
from tests.attest.fake_amd import NOW
from tests.attest.test_verifier import EXPECTED, POLICY, SOFT, evidence, soft
from tests.audit.flips import WAYS, changed

SUM = "/~calculator@1.0&a=1/add&b=2"
MINE = policy.of({"id": "mine", "snp": {"measurements": [fake_amd.MEASUREMENT.hex()]}})
OTHER = policy.of({"id": "other", "snp": {"measurements": ["11" * 48]}})
DEVELOPMENT = policy.of({"id": "development", "kinds": ["software"], "allow-software": True})
RANK = {"none": 0, "failed": 0, "software": 1, "hardware": 2}
WORDS = {"none": 0, "contraindicated": 0, "warning": 1, "affirming": 2}
KINDS = ("identity", "result", "refused", "untrusted", "software", "none")
SAMPLE = 250
"""Bytes of each receipt and way that every run changes."""


@dataclass
class Kept:
    """A receipt that a client keeps, how it looks at it, and what it finds."""

    data: bytes
    rules: dict[str, Any]
    status: str


@pytest.fixture
def receipts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Kept]]:
    fake_amd.at_now(monkeypatch)
    with ExitStack() as stack:

        def made(kind: str) -> Kept:
            chip = fake_amd.fake_amd() if kind == "untrusted" else fake_amd.trusted(monkeypatch)
            flags = {"tee.software": True} if kind == "software" else {}
            own = None if kind == "software" else configfs.Configfs(fake_kernel.snp(chip), "sev_guest")
            node = Node(
                config.load(environ={}, flags=flags),
                key=wallet(),
                store=MemoryStore(),
                operator=wallet("operator").address,
                attester=own,
            )
            server = Server(stack.enter_context(node), "127.0.0.1", 0)
            server.start()
            stack.callback(server.stop)
            asked = {"none": "", "result": "?attest=hardware"}.get(kind, "?attest=true")
            with Client(server.url) as client:
                ref = client.get(SUM + asked).hashpath
                data = client.get("/~audit@1.0/receipt", {"ref": ref})["body"]
            assert isinstance(data, bytes)
            rules: dict[str, Any] = {"tee": {"refused": OTHER, "software": DEVELOPMENT}.get(kind, MINE)}
            if kind == "software":
                rules["insecure-software"] = True
            return Kept(data, rules, verify(data, rules, now=NOW).attestation)

        yield made


def swept(kept: Kept, places: list[int], way: str) -> int:
    """Change each of some bytes; return how many changed files could still be read."""
    honest, read = verify(kept.data, kept.rules, now=NOW), 0
    for at in places:
        made = changed(kept.data, at, way)
        if made is None or made == kept.data:
            continue
        found = verify(made, kept.rules, now=NOW)
        read += found.verdict is not Verdict.BAD_FILE
        assert RANK[found.attestation] <= RANK[kept.status], f"byte {at} ({way}) raises the status"
        if found.verdict is Verdict.ATTESTED and RANK[found.attestation]:
            assert found.attestations == honest.attestations, f"byte {at} ({way}) passes"
    return read


STATUS = {"identity": "hardware", "result": "hardware", "refused": "failed", "untrusted": "failed", "none": "none"}


@pytest.mark.parametrize("kind", KINDS)
def test_some_bytes_of_a_receipt(receipts: Callable[[str], Kept], kind: str) -> None:
    kept = receipts(kind)
    assert kept.status == STATUS.get(kind, "software")
    for way in WAYS:
        places = random.Random(f"{kind} {way}").sample(range(len(kept.data)), min(SAMPLE, len(kept.data)))
        assert (swept(kept, sorted(places), way) > 0) is (way != WAYS[0]), "the digest alone sees what is as it is"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_all_bytes_of_a_receipt(receipts: Callable[[str], Kept], kind: str) -> None:
    kept = receipts(kind)
    print(kind, len(kept.data), [swept(kept, list(range(len(kept.data))), way) for way in WAYS])


def test_all_bytes_of_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of evidence as it is kept in a file; what is not refused then says the very same."""
    amd = fake_amd.trusted(monkeypatch)
    given = evidence(amd)
    looks: list[tuple[bundle.Evidence, dict[str, Any]]] = [
        (given, {"policy": POLICY, "expected": EXPECTED}),
        (given, {"policy": POLICY}),
        (given, {"policy": OTHER, "expected": EXPECTED}),
        (soft(), {"policy": SOFT, "expected": EXPECTED, "insecure_software": True}),
    ]
    for one, how in looks:
        honest = verifier.verify(one, now=NOW, **how)
        data, passed = canonical.encode(one.message()), 0
        for at in range(len(data)):
            made = data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
            try:
                read = canonical.decode(made)
                found = verifier.verify(bundle.read(read), now=NOW, **how) if isinstance(read, Message) else None
            except HyperpyError:
                continue
            if found is None:
                continue
            assert WORDS[found.word] <= WORDS[honest.word], at
            assert RANK[found.hardware] <= RANK[honest.hardware], at
            if RANK[found.hardware]:
                passed += 1
                assert found.parts["cpu0"].claims == honest.parts["cpu0"].claims
        assert passed <= (0 if one.hardware else len(data) // 100), "a byte that nothing looks at"
