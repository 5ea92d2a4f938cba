"""The browser page says of a receipt what the light verifier says, honest or not."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy.receipt import decode, encode
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit.flips import WAYS, changed
from tests.audit.samples import KINDS, sample, sign

SCRIPT = Path(__file__).parent / "page.mjs"
EACH = 12
"""Changed bytes of each receipt and way."""

Said = tuple[str, list[str], list[str]]


@pytest.fixture(scope="module")
def page() -> Iterator[Callable[[bytes], dict[str, Any]]]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (Debian package: nodejs)")
    pipe = subprocess.PIPE
    process = subprocess.Popen(["node", str(SCRIPT)], stdin=pipe, stdout=pipe, text=True, encoding="utf-8")

    def ask(data: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"op": "verify", "data": base64.b64encode(data).decode()}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return dict(answer["ok"])

    yield ask
    process.communicate(timeout=10)


def here(data: bytes) -> Said:
    """Return what Python says: verdict, rules of the whole, rules of the steps.

    A bad file may be so in several ways at once, and either side names the first that it meets. Of a schedule
    with a forged signature Python says so twice; the page names the signature alone.
    """
    report = verify(data)
    if report.verdict is Verdict.BAD_FILE:
        return report.verdict.value, [], []
    rules = {finding.rule for finding in report.findings}
    if "commitment" in rules:
        rules.discard("schedule")
    return report.verdict.value, sorted(rules), sorted({one.rule for step in report.steps for one in step.findings})


def there(found: dict[str, Any]) -> Said:
    if found["verdict"] == "bad file":
        return found["verdict"], [], []
    rules = {finding["rule"] for finding in found["findings"]}
    if "commitment" in rules:
        rules.discard("schedule")
    return found["verdict"], sorted(rules), sorted({one["rule"] for step in found["steps"] for one in step["findings"]})


@pytest.mark.parametrize("kind", KINDS)
def test_honest_receipts(page: Callable[[bytes], dict[str, Any]], kind: str) -> None:
    for data in (sample(kind), encode(decode(sample(kind)).signed(sign))):
        found = page(data)
        report = verify(data)
        assert there(found) == here(data)
        assert found["unchecked"] == []
        assert found["ref"] == report.ref
        assert tuple(found["attested-by"]) == report.attested_by
        assert [step["record"] for step in found["steps"]] == [step.record for step in report.steps]


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(page: Callable[[bytes], dict[str, Any]], kind: str, way: str) -> None:
    data = sample(kind)
    for at in sorted(random.Random(f"page {kind} {way}").sample(range(len(data) - 32), EACH)):
        made = changed(data, at, way)
        if made is not None:
            assert there(page(made)) == here(made), (kind, way, at)
