"""The browser page says of a receipt what the light verifier says, honest or not."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments
from hyperpy.audit.collect import collect
from hyperpy.audit.receipts import build
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import replayed
from hyperpy.encoding import b64u
from hyperpy.receipt import decode, encode, ordered
from hyperpy.receipt.content import Absent, name_of, shallow
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit.flips import WAYS, changed
from tests.audit.samples import KINDS, sample, sign
from tests.devices.parts import place

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


def put_on() -> bytes:
    """Return the receipt of a step whose base got a key from a ``~device&key=value`` part of the request."""
    with place(store=MemoryStore()) as here:
        at = here.web.get("/~message@1.0&a=1/set&x=2/~calculator@1.0&b=5/add").hashpath or ""
        evidence = Evidence.of_store(here.node.store, "here")
        return build(evidence, collect(evidence, at))


def test_what_the_request_put_on_a_base(page: Callable[[bytes], dict[str, Any]]) -> None:
    data = put_on()
    assert there(page(data)) == here(data) == ("missing", ["unsigned"], [])
    receipt = decode(data)
    (root,) = receipt.roots
    record = receipt.steps[root]
    for changes, wrong in (({"b": b"6"}, []), ({"zz": b"1"}, ["hashpath-before"])):
        old = next(one for one in receipt.messages if commitments.unsigned_id(one) == record.base)
        assert isinstance(old, Message)
        other = old | changes
        lie = replace(record, base=commitments.unsigned_id(other))
        records = tuple(lie.encode() if name == root else one.encode() for name, one in receipt.steps.items())
        messages = tuple(other if one is old else one for one in receipt.messages)
        made = encode(ordered(replace(receipt, roots=(lie.id,), records=records, messages=messages)))
        assert there(page(made)) == here(made)
        assert here(made)[2] == wrong, "the value is for replay to check"
        assert replayed(made).exit_code() == 1


def test_who_is_said_to_vouch_must_have_signed(page: Callable[[bytes], dict[str, Any]]) -> None:
    receipt = decode(sample("chain"))
    (root,) = receipt.roots
    for who, wrong in ((wallet("alice").address, ["attested-by"]), (wallet("node").address, [])):
        lie = replace(receipt.steps[root], attested_by=who)
        records = tuple(lie.encode() if name == root else one.encode() for name, one in receipt.steps.items())
        made = encode(ordered(replace(receipt, roots=(lie.id,), records=records)).signed(sign))
        assert there(page(made)) == here(made)
        assert here(made)[2] == wrong


@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_are_not_there(page: Callable[[bytes], dict[str, Any]], kind: str) -> None:
    """Each message of a receipt is left out in turn and listed as absent: both sides say the same."""
    receipt = decode(sample(kind))
    said: set[str] = set()
    for item in receipt.messages:
        left = Absent(name_of(item), "gone")
        others = tuple(one for one in receipt.messages if one is not item)
        cut = replace(receipt, messages=others, absent=(*receipt.absent, left), part="", signature=None)
        for made in (encode(ordered(cut)), encode(ordered(cut).signed(sign))):
            assert there(page(made)) == here(made)
            said.add(here(made)[0])
    assert "bad file" not in said


def test_an_absent_definition_leaves_a_schedule_unjudged(page: Callable[[bytes], dict[str, Any]]) -> None:
    """Who may schedule is written in the definition: without it nobody vouches for the schedule."""
    receipt = decode(sample("snapshot"))
    ((process, _),) = receipt.schedules
    others = tuple(one for one in receipt.messages if name_of(one) != process)
    assert len(others) == len(receipt.messages) - 1
    cut = replace(receipt, messages=others, absent=(*receipt.absent, Absent(process, "gone")))
    made = encode(ordered(cut).signed(sign))
    assert there(page(made)) == here(made)
    assert here(made)[:2] == ("missing", ["schedule"])


def test_a_signature_over_half_of_a_result_vouches_for_nothing(page: Callable[[bytes], dict[str, Any]]) -> None:
    receipt = decode(sample("chain"))
    (root,) = receipt.roots
    record = receipt.steps[root]
    old = next(one for one in receipt.messages if commitments.unsigned_id(one) == record.result)
    assert isinstance(old, Message)
    half = commitments.commit(old, wallet("alice"), committed=["a"])
    for result, wrong in ((half, ["attested-by"]), (commitments.commit(old, wallet("alice")), [])):
        lie = replace(record, result=b64u(name_of(result)), attested_by=wallet("alice").address)
        records = tuple(lie.encode() if name == root else one.encode() for name, one in receipt.steps.items())
        messages = (*(one for one in receipt.messages if one is not old), shallow(result))
        made = encode(ordered(replace(receipt, roots=(lie.id,), records=records, messages=messages)).signed(sign))
        assert there(page(made)) == here(made)
        assert ("attested-by" in here(made)[2]) is bool(wrong)
