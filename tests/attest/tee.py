"""The genuine evidence that tests read in place, and how each kind of it is verified.

``HYPERPY_TEE_FIXTURES`` names the folder; the default is the shared one. In ``expected.json`` a path that
begins with ``shared:`` is relative to the default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hyperpy.attest import hyperbeam, nitro, nras, nvidia, quote_chain, quote_policy, rim, snp_chain, snp_policy

_ROOT = Path(__file__).resolve().parents[2]
DEFAULT = Path(os.environ.get("HYPERPY_SHARED", _ROOT.parent / "shared")) / "fixtures" / "tee"
FOLDER = Path(os.environ.get("HYPERPY_TEE_FIXTURES", DEFAULT))

Case = Mapping[str, Any]


@cache
def cases() -> tuple[Case, ...]:
    """Return all cases; none where the folder is missing."""
    file = FOLDER / "expected.json"
    return tuple(json.loads(file.read_text("utf-8"))["cases"]) if file.is_file() else ()


def case(name: str) -> Case:
    """Return one case of the shared folder; skip the test where it is missing."""
    found = next((one for one in cases() if one["id"] == name), None)
    if found is None:
        pytest.skip(f"the case {name} is not in {FOLDER}")
    return found


def of_kind(*kinds: str) -> list[Case]:
    """Return the cases of some kinds that are genuine: their cryptography passes."""
    return [one for one in cases() if one["kind"] in kinds and one["expect"]["crypto"] == "pass"]


def data(name: str) -> bytes:
    """Return a file that a case names."""
    base = DEFAULT if name.startswith("shared:") else FOLDER
    return (base / name.removeprefix("shared:")).read_bytes()


def file(one: Case, name: str) -> bytes:
    """Return a file of a case by the name of its role."""
    return data(one["files"][name])


def now(one: Case) -> datetime:
    """Return the clock to verify at."""
    return datetime.fromisoformat(one["now"].replace("Z", "+00:00"))


def endorsement(one: Case) -> snp_chain.Endorsement | None:
    """Return what vouches for an SEV-SNP report."""
    if "vek" not in one["files"]:
        return None
    return snp_chain.Endorsement(file(one, "vek"), tuple(map(data, one["files"]["chain"])))


def verify(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    """Return claims and the codes of the baseline policy; raise AttestationError where it is not genuine."""
    return _KINDS[one["kind"]](one)


def _snp(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    found = snp_chain.verify(file(one, "report"), endorsement(one), now(one))
    return found.claims(), snp_policy.appraise(found, snp_policy.SnpPolicy())


def _hyperbeam(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    raw = hyperbeam.to_bytes(file(one, "report_json"))
    assert raw == file(one, "report"), "the JSON and the bytes are one report"
    assert json.loads(hyperbeam.to_json(raw)) == json.loads(file(one, "report_json"))
    found = snp_chain.verify(raw, endorsement(one), now(one))
    return found.claims(), snp_policy.appraise(found, snp_policy.SnpPolicy(vmpls=frozenset({1})))


def _quote(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    given = file(one, "collateral") if "collateral" in one["files"] else None
    found = quote_chain.verify(file(one, "quote"), given, now(one))
    policy = quote_policy.TdxPolicy() if one["kind"] == "tdx" else quote_policy.SgxPolicy()
    return found.claims(), quote_policy.appraise(found, policy)


def _nitro(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    found = nitro.verify(file(one, "doc"), now(one))
    return found.claims(), nitro.appraise(found, nitro.NitroPolicy())


def _nvidia(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    golden = [rim.read(data(name), now(one)) for name in one["files"].get("rims", ())]
    nonce = bytes.fromhex(one["expected_nonce"])
    found = nvidia.verify(file(one, "report"), file(one, "chain"), nonce, now(one), golden)
    claims = dict(found.claims())
    if found.golden is not None:
        claims["rim"] = {"active": found.golden.active, "matched": found.golden.active}
    return claims, []


def _nras(one: Case) -> tuple[Mapping[str, Any], list[str]]:
    return nras.verify(file(one, "eat"), None, None, now(one)).claims(), []


_KINDS = {
    "snp": _snp,
    "snp-hyperbeam": _hyperbeam,
    "tdx": _quote,
    "sgx": _quote,
    "nitro": _nitro,
    "nvidia": _nvidia,
    "nras": _nras,
}
