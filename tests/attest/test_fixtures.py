"""Every genuine and every tampered piece of evidence has its verdict and its code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperpy.attest import nras, snp
from hyperpy.attest.codes import CODES
from hyperpy.errors import AttestationError
from tests.attest import tee

_ROWS: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print a table of what came out, at the end."""
    yield
    print("\n" + "\n".join(_ROWS))


def test_the_fixtures_are_there() -> None:
    if not tee.cases():
        pytest.skip(f"no TEE fixtures in {tee.FOLDER}: set HYPERPY_TEE_FIXTURES")
    assert len({one["id"] for one in tee.cases()}) == len(tee.cases())


@pytest.mark.parametrize("one", tee.cases(), ids=lambda one: one["id"])
def test_case(one: tee.Case) -> None:
    expect = one["expect"]
    if expect["crypto"] == "fail":
        with pytest.raises(AttestationError) as caught:
            tee.verify(one)
        code = caught.value.code
        _ROWS.append(f"{one['id']:45} fail              {code}")
        assert code in CODES
        assert code in expect["errors"]
        return
    claims, codes = tee.verify(one)
    _ROWS.append(f"{one['id']:45} pass, policy {'fail' if codes else 'pass'} {' '.join(codes)}")
    assert set(codes) == set(expect["errors"])
    for name, value in (expect.get("claims") or {}).items():
        assert claims.get(name, "absent") == value, name
    tcb = expect.get("tcb") or {}
    if "status" in tcb:
        assert claims["tcb"] == tcb
    for name in ("active", "matched"):
        if name in (expect.get("rim") or {}):
            assert claims["rim"][name] == expect["rim"][name]


@pytest.mark.parametrize(
    "one", [one for one in tee.cases() if one["kind"] == "snp-hyperbeam"], ids=lambda one: one["id"]
)
def test_claims_of_reports_without_endorsement(one: tee.Case) -> None:
    report = snp.parse(tee.file(one, "report"))
    claims = report.claims("Milan")
    for name, value in one["expect"]["claims"].items():
        assert claims[name] == value, name


def test_a_token_without_its_key_still_shows_what_it_says() -> None:
    one = tee.case("nras/h100-v3-detached-eat")
    found, texts = nras.read(tee.file(one, "eat"))
    assert found.claims() == one["expect"]["claims"]
    assert set(texts) == {"", "GPU-0"}
