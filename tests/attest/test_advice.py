"""Every code has words, and docs/attestation.md holds them and the worked policy."""

from __future__ import annotations

import re
from pathlib import Path

from hyperpy.attest import advice, policy
from hyperpy.attest.codes import CODES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "attestation.md").read_text("utf-8")


def test_every_code_has_a_row_and_no_other() -> None:
    assert advice.ADVICE.keys() == CODES
    rows = set(re.findall(r"^\| `([a-z]+/[a-z-]+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE))
    assert rows == CODES
    assert advice.table() in PAGE


def test_the_worked_policy_stands_on_the_page_and_says_what_it_seems_to() -> None:
    assert f"```toml\n{advice.WORKED}```" in PAGE
    found = policy.parse(advice.WORKED.encode())
    assert (found.id, found.kinds, found.max_age) == ("my-nodes", {"snp", "tdx", "nvidia"}, 300)
    assert not found.allow_software
    assert found.snp.measurements is not None
    assert {len(one) for one in found.snp.measurements} == {48}
    assert (found.snp.vmpls, found.snp.platform_required, found.snp.platform_forbidden) == ({0}, {5}, {0})
    assert found.snp.min_tcb == {"bootloader": 4, "snp": 22, "microcode": 213}
    assert found.tdx.mrtds is not None
    assert (found.nvidia.min_count, found.nvidia.require_golden) == (0, True)


def test_every_toml_text_of_the_page_is_a_policy() -> None:
    texts = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert texts
    for text in texts:
        policy.parse(text.encode())
