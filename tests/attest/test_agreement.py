"""Another implementation, ``dcap-qvl``, comes to the same verdict about every Intel quote with collateral."""

from __future__ import annotations

import pytest

from hyperpy.attest import quote_chain
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
    except AttestationError:
        ours = None
    if one["id"] in _STRICTER:
        assert theirs is None
        assert ours == "OutOfDate"
    else:
        assert ours == theirs
