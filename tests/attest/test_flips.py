"""Damage: every bit of a report, other chips' certificates, truncation, garbage. Nothing passes, nothing crashes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.attest import bundle, hyperbeam, nitro, nras, nvidia, quote_chain, snp, snp_chain
from hyperpy.attest.codes import CODES
from hyperpy.errors import AttestationError
from tests.attest import tee

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number", "ignore:Attribute's length")

Check = Callable[[bytes], object]


def code_of(check: Check, data: bytes) -> str | None:
    """Return the code with which evidence is refused; None if it passes. Any other exception is a failure."""
    try:
        check(data)
    except AttestationError as error:
        if error.code not in CODES:
            raise
        return error.code
    return None


def flipped(data: bytes, bit: int) -> bytes:
    made = bytearray(data)
    made[bit // 8] ^= 1 << bit % 8
    return bytes(made)


def passing(check: Check, data: bytes, bits: Iterator[int] | range) -> list[int]:
    """Return the bits whose flip leaves evidence accepted."""
    return [bit for bit in bits if code_of(check, flipped(data, bit)) is None]


@pytest.mark.parametrize("name", ["snp/milan-v2-virtee", "snp/milan-v3-dstack", "snp/turin-v5-openanolis"])
def test_every_bit_of_a_report(name: str) -> None:
    """tee-attestation 12.3: one report per version, 9,472 bits each."""
    one = tee.case(name)
    raw = tee.file(one, "report")
    check = partial(snp_chain.verify, endorsement=tee.endorsement(one), now=tee.now(one))
    assert code_of(check, raw) is None
    assert passing(check, raw, range(8 * len(raw))) == []


@pytest.mark.parametrize("name", ["snp/milan-v2-virtee", "snp/milan-v3-vlek", "snp/turin-v5-openanolis"])
def test_every_bit_of_a_chip_s_certificate(name: str) -> None:
    one = tee.case(name)
    raw, given_ = tee.file(one, "report"), tee.endorsement(one)
    assert given_ is not None

    def check(vek: bytes) -> object:
        return snp_chain.verify(raw, snp_chain.Endorsement(vek, given_.chain), tee.now(one))

    assert code_of(check, given_.vek) is None
    assert passing(check, given_.vek, range(8 * len(given_.vek))) == []


@pytest.mark.parametrize(
    ("name", "step"), [("tdx/v4-uptodate-phala", 5), ("tdx/v5-uptodate-gcp", 13), ("sgx/v3-phala", 13)]
)
def test_bits_of_a_quote(name: str, step: int) -> None:
    """What is not refused lies behind the quote, where zero bytes belong to no signature."""
    one = tee.case(name)
    raw = tee.file(one, "quote")
    check = partial(quote_chain.verify, given=None, now=tee.now(one))
    assert code_of(check, raw) is None
    assert passing(check, raw, range(0, 8 * len(raw), step)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tdx/v4-uptodate-phala", "sgx/v3-phala"])
def test_every_bit_of_a_quote(name: str) -> None:
    one = tee.case(name)
    raw = tee.file(one, "quote")
    check = partial(quote_chain.verify, given=None, now=tee.now(one))
    assert passing(check, raw, range(8 * len(raw))) == []


def test_bits_of_a_nitro_document() -> None:
    one = tee.case("nitro/evervault-valid")
    raw = tee.file(one, "doc")
    check = partial(nitro.verify, now=tee.now(one))
    bits = random.Random(1).sample(range(8 * len(raw)), 3000)
    assert passing(check, raw, iter(bits)) == []


def test_bits_of_a_gpu_s_report_and_chain() -> None:
    one = tee.case("nvidia/h100-590-evidence")
    raw, chain = tee.file(one, "report"), tee.file(one, "chain")
    nonce = bytes.fromhex(one["expected_nonce"])
    check = partial(nvidia.verify, chain=chain, nonce=nonce, now=tee.now(one))
    bits = random.Random(2).sample(range(8 * len(raw)), 2000)
    assert passing(check, raw, iter(bits)) == []

    def check_chain(text: bytes) -> object:
        return nvidia.verify(raw, text, nonce, tee.now(one))

    bits = random.Random(3).sample(range(8 * len(chain)), 2000)
    assert passing(check_chain, chain, iter(bits)) == []


def test_every_report_under_every_chip_s_certificate() -> None:
    """tee-attestation 12.4: only its own passes; another that passes is the same key, issued again."""
    genuine = tee.of_kind("snp")
    if not genuine:
        pytest.skip("no SEV-SNP fixtures")
    late = max(tee.now(one) for one in genuine)
    same_chip: dict[str, str] = {one["id"]: one["expect"]["claims"]["report_id"] for one in genuine}
    for one in genuine:
        for other in genuine:
            given_ = tee.endorsement(other)
            code = code_of(partial(snp_chain.verify, endorsement=given_, now=tee.now(other)), tee.file(one, "report"))
            own = same_chip[one["id"]] == same_chip[other["id"]]
            assert (code is None) == own, (one["id"], other["id"], code)
    assert late


@pytest.mark.parametrize("one", [one for one in tee.cases() if one["genuine"]], ids=lambda one: one["id"])
def test_cut_off_and_run_on(one: tee.Case) -> None:
    name, check = _parser(one)
    raw = tee.file(one, name).rstrip(b"\0") if one["kind"] == "tdx" else tee.file(one, name)
    for size in {0, 1, 31, len(raw) // 2, len(raw) - 1}:
        assert code_of(check, raw[:size]) is not None
    assert code_of(check, raw + b"\x01") is not None


def _parser(one: tee.Case) -> tuple[str, Check]:
    now = tee.now(one)
    if one["kind"] in ("snp", "snp-hyperbeam"):
        return "report", partial(snp_chain.verify, endorsement=tee.endorsement(one), now=now)
    if one["kind"] in ("tdx", "sgx"):
        return "quote", partial(quote_chain.verify, given=None, now=now)
    if one["kind"] == "nitro":
        return "doc", partial(nitro.verify, now=now)
    if one["kind"] == "nras":
        return "eat", partial(nras.verify, keys=None, nonce=None, now=now)
    nonce = bytes.fromhex(one["expected_nonce"])
    return "report", partial(nvidia.verify, chain=tee.file(one, "chain"), nonce=nonce, now=now)


NOW = datetime.fromisoformat("2025-01-01T00:00:00+00:00")
PARSERS: dict[str, Check] = {
    "snp": snp.parse,
    "hyperbeam": hyperbeam.to_bytes,
    "quote": partial(quote_chain.verify, given=None, now=NOW),
    "nitro": partial(nitro.verify, now=NOW),
    "nvidia": partial(nvidia.verify, chain=b"", nonce=bytes(32), now=NOW),
    "nras": partial(nras.verify, keys=None, nonce=None, now=NOW),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=2000))
def test_garbage(name: str, data: bytes) -> None:
    assert code_of(PARSERS[name], data) is not None


def mutated(data: bytes, random_: random.Random) -> bytes:
    """Return evidence with pieces changed, cut out, doubled or exchanged."""
    made = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(made) + 1)
        size = random_.choice((1, 1, 2, 4, 32, 200))
        way = random_.randrange(4)
        if way == 0:
            made[at : at + size] = random_.randbytes(len(made[at : at + size]))
        elif way == 1:
            del made[at : at + size]
        elif way == 2:
            made[at:at] = made[at : at + size]
        else:
            made[at : at + size] = bytes([random_.choice((0, 0x7F, 0x80, 0xFF))]) * size
    return bytes(made)


def sweep(count: int) -> None:
    random_ = random.Random(count)
    genuine = [one for one in tee.cases() if one["genuine"]]
    if not genuine:
        pytest.skip("no TEE fixtures")
    for number in range(count):
        one = genuine[number % len(genuine)]
        name, check = _parser(one)
        raw = tee.file(one, name)
        data = mutated(raw, random_)
        if data != raw and data.rstrip(b"\0") != raw.rstrip(b"\0"):
            assert code_of(check, data) is not None, (one["id"], number)


def test_mutated_evidence() -> None:
    sweep(3000)


@pytest.mark.slow
def test_mutated_evidence_at_length() -> None:
    sweep(100_000)


def test_a_bundle_holds_what_it_says() -> None:
    evidence = bundle.Evidence("snp", b"r", b"v", (b"a", b"b"), statement=b"s", gpus=(bundle.Gpu(b"g", b"c", (b"m",)),))
    made = evidence.message()
    assert bundle.read(made) == evidence
    for bad in (
        made | {"hardware": False},
        made | {"more": "x"},
        made | {"report": 7},
        made | {"evidence-type": "amd"},
        made | {"gpus": ("x",)},
        made | {"chain": tuple([b"c"] * 9)},
        made.without("report"),
        made.without("hardware"),
    ):
        assert code_of(lambda _, item=bad: bundle.read(item), b"") is not None
