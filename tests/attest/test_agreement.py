"""Another implementation, ``dcap-qvl``, comes to the same verdict about every Intel quote with collateral."""

from __future__ import annotations

import pytest

from hyperpy.attest import quote_chain, quote_policy
from hyperpy.errors import AttestationError
from tests.attest import tee

CASES = [one for one in tee.cases() if one["kind"] in ("tdx", "sgx") and "collateral" in one["files"]]

_STRICTER = {"tdx/v5-outofdate-servicetd"}
"""It refuses a served trust domain as such; here that is a policy's affair."""


@pytest.mark.parametrize("one", CASES, ids=lambda one: one["id"])
def test_dcap_qvl_agrees(one: tee.Case) -> None:
    dcap = pytest.importorskip("dcap_qvl", reason="install dcap-qvl")
    raw, given = tee.file(one, "quote"), tee.file(one, "collateral")
    theirs = None
    try:
        collateral = dcap.QuoteCollateralV3.from_json(given.decode())
        theirs = dcap.verify(raw, collateral, int(tee.now(one).timestamp())).status
    except ValueError:
        pass
    try:
        found = quote_chain.verify(raw, given, tee.now(one))
        ours = found.tcb.status if found.tcb is not None else None
        if found.quote.debug:  # they go no further; here the policy refuses it, unless it allows debugging
            assert theirs is None
            ours = None
    except AttestationError:
        ours = None
    if one["id"] in _STRICTER:
        assert theirs is None
        assert ours == "OutOfDate"
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", ["tdx/v4-debug-td", "sgx/v3-debug-automata"])
def test_whoever_allows_debugging_still_wants_an_up_to_date_platform(name: str) -> None:
    one = tee.case(name)
    found = quote_chain.verify(tee.file(one, "quote"), tee.file(one, "collateral"), tee.now(one))
    kind = quote_policy.TdxPolicy if one["kind"] == "tdx" else quote_policy.SgxPolicy
    assert quote_policy.appraise(found, kind()) == ["policy/debug-enabled"]
    allowed = quote_policy.appraise(found, kind(allow_debug=True))
    assert allowed in (["tcb/out-of-date"], ["tcb/configuration-needed"])
