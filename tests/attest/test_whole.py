"""The verifier from end to end, as whoever sends a message reaches it: damage, nesting, size, exchange, repetition."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from hyperpy.attest import bundle, der, policy, snp_chain, software, statement, verifier
from hyperpy.attest.bundle import Evidence, Gpu
from hyperpy.attest.codes import CODES
from hyperpy.attest.verifier import Expected
from hyperpy.bench import attesting
from hyperpy.codecs import canonical
from hyperpy.errors import AttestationError, HyperpyError
from hyperpy.message import Message
from tests.attest import fake_amd, tee
from tests.attest.fake_amd import NOW, FakeAmd
from tests.attest.test_flips import mutated
from tests.attest.test_verifier import EXPECTED, POLICY, evidence

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number", "ignore:Attribute's length")

SOFT = policy.of({"id": "soft", "kinds": list(policy.KINDS), "allow-software": True})


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    return fake_amd.trusted(monkeypatch)


def genuine() -> list[tuple[Evidence, Any]]:
    """Return what the fixtures hold, as evidence, each with its clock."""
    found = []
    for one in tee.of_kind("snp", "tdx", "sgx", "nitro"):
        files, now = one["files"], tee.now(one)
        kind = one["kind"]
        name = {"snp": "report", "nitro": "doc"}.get(kind, "quote")
        made = Evidence(kind, tee.file(one, name))
        if "vek" in files:
            made = replace(made, vek=tee.file(one, "vek"), chain=tuple(map(tee.data, files["chain"])))
        if "collateral" in files:
            made = replace(made, collateral=tee.file(one, "collateral"))
        found.append((made, now))
    return found


def gpus() -> list[Gpu]:
    return [
        Gpu(tee.file(one, "report"), tee.file(one, "chain"), tuple(map(tee.data, one["files"].get("rims", ()))))
        for one in tee.of_kind("nvidia")
    ]


def appraised(message: Message, now: Any, expected: Expected | None) -> tuple[str, ...]:
    """Return the codes of a message of evidence, and check that the result can be written down."""
    try:
        read = bundle.read(message)
    except AttestationError as error:
        return (error.code,)
    found = verifier.verify(read, SOFT, now=now, expected=expected, insecure_software=True)
    json.dumps(found.ear("test"))
    assert found.word != "affirming", "no policy of this test names software"
    return tuple(found.codes)


WAYS: tuple[Callable[[random.Random, Evidence, list[Gpu]], Any], ...] = (
    lambda r, e, g: replace(e, report=mutated(e.report, r)).message(),
    lambda r, e, g: replace(e, vek=mutated(e.vek, r)).message(),
    lambda r, e, g: replace(e, chain=tuple(mutated(one, r) for one in e.chain)).message(),
    lambda r, e, g: replace(e, collateral=mutated(e.collateral, r)).message(),
    lambda r, e, g: replace(e, report=e.report[: r.randrange(len(e.report))]).message(),
    lambda r, e, g: replace(e, kind=r.choice(bundle.KINDS)).message(),
    lambda r, e, g: replace(e, statement=r.randbytes(r.choice((1, 6, 7, 300)))).message(),
    lambda r, e, g: replace(e, gpus=tuple(r.choices(g, k=r.randint(1, 3))) if g else ()).message(),
    lambda r, e, g: replace(e, report=e.report + bytes(r.choice((1, 70_000, 1 << 20)))).message(),
    lambda r, e, g: replace(e, crl=mutated(e.vek + e.report, r)).message(),
    lambda r, e, g: e.message() | {r.choice(("report", "vek", "chain", "gpus", "statement")): nested(r, e)},
    lambda r, e, g: e.message().without(r.choice(sorted(e.message()))),
)
"""One way each to damage evidence."""


def nested(random_: random.Random, given: Evidence) -> Any:
    """Return evidence inside evidence, or lists inside lists, where bytes belong."""
    item: Any = given.message()
    for _ in range(random_.choice((1, 3, 40))):
        item = (item,) if random_.random() < 0.5 else Message.make({"report": item})
    return item


def sweep(count: int) -> Iterator[tuple[str, ...]]:
    pairs, devices = genuine(), gpus()
    if not pairs:
        pytest.skip("no TEE fixtures")
    random_ = random.Random(count)
    for number in range(count):
        given, now = pairs[random_.randrange(len(pairs))]
        made = WAYS[number % len(WAYS)](random_, given, devices)
        expected = random_.choice((None, Expected(nonce=b"n" * 32), Expected(report_data=bytes(64))))
        began = time.process_time()
        codes = appraised(made, now, expected)
        assert time.process_time() - began < 5, (number, "CPU seconds")
        assert set(codes) <= CODES, (number, codes)
        assert "verifier/internal" not in codes, number
        yield codes


def test_damaged_messages_have_codes_and_nothing_else() -> None:
    seen = {code for codes in sweep(1500) for code in codes}
    groups = {code.partition("/")[0] for code in seen}
    assert groups >= {"evidence", "signature", "endorsement", "binding"}, "the sample reaches every stage"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_messages_at_length() -> None:
    assert sum(1 for _ in sweep(100_000)) == 100_000


@pytest.mark.parametrize("name", [one.name for one in fields(Evidence) if one.name not in ("kind", "gpus")])
@pytest.mark.parametrize("kind", bundle.KINDS)
def test_oversized_parts(kind: str, name: str) -> None:
    """A part of eight megabytes is refused by its size, or left alone, before anything is worked out of it."""
    huge = b"\x30" * (8 << 20)
    given: Any = (huge, huge) if name == "chain" else huge
    made = replace(Evidence(kind, b"r" * 1184), **{name: given})
    found = verifier.verify(made, SOFT, now=NOW, expected=EXPECTED, insecure_software=True)
    assert found.codes
    assert "verifier/internal" not in found.codes
    assert found.hardware == "failed"


@pytest.mark.parametrize("depth", [10, 100, 1000, 100_000])
def test_bytes_that_nest(depth: int) -> None:
    """Lists in lists in the bytes of a message end in an error of the codec, or of the evidence."""
    for opening in (b"\x81", b"\xa1\x61a", b"\x30\x80", b"["):
        try:
            read = canonical.decode(opening * depth)
        except HyperpyError:
            continue
        with pytest.raises(AttestationError):
            bundle.read(read if isinstance(read, Message) else Message.make({"report": read}))
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    for given in (
        Evidence("software", deep),
        Evidence("tdx", b"\4\0\2\0" + bytes(1000), collateral=deep),
        Evidence("nitro", b"\x84" + b"\x81" * depth),
    ):
        codes = verifier.verify(given, SOFT, now=NOW, insecure_software=True).codes
        assert codes
        assert "verifier/internal" not in codes


# -- the same for the same -----------------------------------------------------------------------


def _forget() -> None:
    """Empty every cache of the verifier."""
    for emptied in attesting._CACHES:
        emptied()
    der.oid.cache_clear()


def ears() -> bytes:
    """Return the results about all fixtures as bytes, without the time they were made at."""
    made = []
    for given, now in genuine():
        ear = verifier.verify(given, SOFT, now=now).ear("test")
        made.append({name: item for name, item in ear.items() if name != "iat"})
    return json.dumps(made).encode()


def test_the_same_bytes_again_and_in_other_processes() -> None:
    first = ears()
    if first == b"[]":
        pytest.skip("no TEE fixtures")
    assert ears() == first, "remembered certificates change nothing"
    _forget()
    assert ears() == first
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); "
        "from tests.attest import test_whole as t; sys.stdout.buffer.write(t.ears())"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tee._ROOT)},
            cwd=tee._ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        assert there.stdout == first


# -- exchanged, repeated, of others --------------------------------------------------------------


def test_parts_of_two_valid_answers_do_not_mix(amd: FakeAmd) -> None:
    one = evidence(amd)
    other = evidence(amd, result=b"s" * 32, nonce=b"m" * 32)
    theirs = Expected(nonce=b"m" * 32, fields={"purpose": b"result", "result": b"s" * 32})
    for given, wanted in ((one, EXPECTED), (other, theirs)):
        assert verifier.verify(given, POLICY, now=NOW, expected=wanted).word == "affirming"
    swaps = (
        (replace(one, report=other.report), EXPECTED, "binding/report-data-mismatch"),
        (replace(one, statement=other.statement), EXPECTED, "binding/report-data-mismatch"),
        (other, EXPECTED, "freshness/nonce-mismatch"),
        (other, Expected(nonce=b"m" * 32, fields={"result": b"r" * 32}), "binding/result-mismatch"),
        (one, Expected(nonce=b"n" * 32, fields={"purpose": b"key-release"}), "binding/purpose-mismatch"),
        (one, Expected(nonce=b"n" * 32, fields={"address": bytes(32)}), "binding/key-mismatch"),
    )
    for given, wanted, code in swaps:
        found = verifier.verify(given, POLICY, now=NOW, expected=wanted)
        assert (found.codes, found.hardware) == ((code,), "failed")


def test_one_certificate_of_another_product_or_root(amd: FakeAmd, monkeypatch: pytest.MonkeyPatch) -> None:
    given = evidence(amd)
    for one in tee.of_kind("snp"):
        mixed = replace(given, chain=tuple(map(tee.data, one["files"]["chain"])))
        (code,) = verifier.verify(mixed, POLICY, now=NOW, expected=EXPECTED).codes
        assert code.startswith("endorsement/")
    monkeypatch.undo()
    snp_chain._chained.cache_clear()
    found = verifier.verify(given, POLICY, now=NOW, expected=EXPECTED)
    assert (found.codes, found.hardware) == (("endorsement/untrusted-root",), "failed"), "a root of a test is nobody's"


def test_the_chain_of_another_product() -> None:
    named = {one["id"]: one for one in tee.of_kind("snp")}
    pairs = [(one, other) for one in named.values() for other in named.values()]
    if not pairs:
        pytest.skip("no TEE fixtures")
    tried = 0
    for one, other in pairs:
        if one["expect"]["claims"]["product"] == other["expect"]["claims"]["product"]:
            continue
        chain = tuple(map(tee.data, other["files"]["chain"]))
        given = Evidence("snp", tee.file(one, "report"), tee.file(one, "vek"), chain)
        (code,) = verifier.verify(given, SOFT, now=tee.now(one)).codes
        assert code == "endorsement/chain-invalid"
        own = replace(given, vek=tee.file(other, "vek"))
        codes = verifier.verify(own, SOFT, now=tee.now(other)).codes
        assert set(codes) <= {
            "endorsement/product-mismatch", "endorsement/hwid-mismatch", "endorsement/key-type-mismatch",
            "endorsement/expired", "endorsement/not-yet-valid",
        }  # fmt: skip
        assert codes
        tried += 1
    assert tried


def test_software_evidence_does_not_become_hardware_by_editing(amd: FakeAmd) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    said = statement.make({**_fields(), "purpose": b"software/result"})
    made = Evidence(
        "software", software.make(Ed25519PrivateKey.generate(), bytes(32), said.report_data()), statement=said.encode()
    )
    text = canonical.encode(made.message())
    for bit in random.Random(5).sample(range(8 * len(text)), 1500):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            read = bundle.read(canonical.decode(bytes(changed)))  # type: ignore[arg-type]
        except (HyperpyError, TypeError):
            continue
        assert verifier.verify(read, SOFT, now=NOW, insecure_software=True).hardware != "hardware"


def _fields() -> dict[str, bytes]:
    from tests.attest.test_verifier import FIELDS

    return {name: item for name, item in FIELDS.items() if name != "purpose"}
