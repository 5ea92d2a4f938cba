"""The page in a real browser: receipts are dropped on it after the node that served it has stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy.http.server import Server
from hyperpy.receipt import decode, encode
from hyperpy.testing import node
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit.chromium import Page, browser
from tests.audit.flips import WAYS, changed
from tests.audit.samples import sample, sign

SHOWN = "document.querySelector('#verdict')?.innerText ?? ''"


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """Give a tab that holds the page, and whose node is gone."""
    with browser() as page:
        with node() as made:
            server = Server(made.node, "127.0.0.1", 0)
            server.start()
            try:
                page.open(f"http://127.0.0.1:{server.port}/~audit@1.0/page")
                asked = page.requests()
            finally:
                server.stop()
        assert [url.rpartition("/")[2] for url in asked if "favicon" not in url] == ["page"]
        page.events.clear()
        yield page


def dropped(tab: Page, data: bytes, name: str) -> str:
    """Drop a file on the page; return the verdict that appears."""
    tab.run("document.querySelector('#verdict')?.remove()")
    tab.drop("#drop", data, name)
    return str(tab.wait("document.querySelector('#verdict')?.dataset.verdict"))


def receipt(kind: str) -> bytes:
    """Return a receipt that somebody signed."""
    return encode(decode(sample(kind)).signed(sign))


@pytest.mark.parametrize("kind", ["chain", "signed", "slots"])
def test_an_honest_receipt_and_a_tampered_one(tab: Page, kind: str) -> None:
    honest = receipt(kind)
    report = verify(honest)
    assert report.verdict is Verdict.ATTESTED
    assert dropped(tab, honest, "honest.receipt") == "attested"
    assert report.attested_by[0] in tab.run(SHOWN)
    assert tab.run("document.querySelectorAll('.step').length") == len(report.steps)
    assert tab.run("document.querySelectorAll('.node').length") == len(report.steps)
    assert not tab.run("!!document.querySelector('#unchecked')"), "this browser checks all of it"

    flipped = bytearray(honest)
    flipped[len(flipped) // 2] ^= 1
    assert dropped(tab, bytes(flipped), "flipped.receipt") == "bad file"
    assert "digest" in tab.run(SHOWN)

    bare = sample(kind)
    made = (changed(bare, at, WAYS[2]) for at in range(200, len(bare) - 32, 7))
    lie = next(data for data in made if data is not None and verify(data).verdict is Verdict.INVALID)
    rules = {one.rule for one in verify(lie).findings} | {f.rule for step in verify(lie).steps for f in step.findings}
    assert dropped(tab, lie, "lie.receipt") == "invalid"
    told = tab.run("document.querySelector('#outcome').textContent")
    assert rules - {"unsigned"}
    assert all(rule in told for rule in rules)


def test_nothing_was_asked_for_and_nothing_stopped(tab: Page) -> None:
    assert dropped(tab, receipt("chain"), "honest.receipt") == "attested"
    assert tab.requests() == []
    assert tab.complaints() == []


def test_a_step_opens_with_its_messages(tab: Page) -> None:
    honest = receipt("chain")
    assert dropped(tab, honest, "honest.receipt") == "attested"
    tab.run("document.querySelector('.step').open = true")
    text = tab.wait("document.querySelector('.step dl')?.innerText")
    step = verify(honest).steps[0]
    assert all(one in text for one in (step.base, step.request, step.result, step.after))
    assert tab.run("document.querySelectorAll('.step pre').length") == 3


def test_a_file_may_be_chosen_by_hand(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "r.receipt"
    file.write_bytes(receipt("chain"))
    tab.run("document.querySelector('#verdict')?.remove()")
    found = tab.send("Runtime.evaluate", expression="document.getElementById('file')")["result"]["objectId"]
    tab.send("DOM.setFileInputFiles", files=[str(file)], objectId=found)
    assert tab.wait("document.querySelector('#verdict')?.dataset.verdict") == "attested"


@pytest.mark.parametrize("data", [b"", b"no receipt", b"\x00" * 5000, b"<script>document.title='owned'</script>" * 9])
def test_what_is_no_receipt_is_a_bad_file(tab: Page, data: bytes) -> None:
    assert dropped(tab, data, "<img src=x onerror=\"document.title='owned'\">") == "bad file"
    assert "owned" not in tab.run("document.title")
