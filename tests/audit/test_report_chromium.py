"""The HTML report in a real browser: nothing is asked for, nothing is stopped, mouse and keys work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy.audit.html import render
from hyperpy.verdicts import Finding, Report, Verdict
from tests.audit.chromium import Page, browser
from tests.audit.reports import chain, edge, processes, step


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


def opened(tab: Page, folder: Path, report: Report) -> str:
    """Show a report; return its address."""
    file = folder / "report.html"
    file.write_text(render(report, lambda ref: {"device": "calculator@1.0", "ref": ref}), "utf-8")
    tab.open(file.as_uri())
    return file.as_uri()


def shown(tab: Page) -> str:
    return str(tab.run("document.querySelector('#panel h3').textContent"))


def test_nothing_but_the_file_is_asked_for_and_the_policy_stops_nothing(tab: Page, tmp_path: Path) -> None:
    url = opened(tab, tmp_path, processes(300, 102))
    assert tab.requests() == [url]
    assert tab.complaints() == []
    assert tab.run("getComputedStyle(document.querySelector('.verdict')).borderLeftWidth") == "8px", "the style works"


def test_the_first_fault_is_open_and_a_click_opens_another_step(tab: Page, tmp_path: Path) -> None:
    finding = Finding("result", "another result", expected="WANTED", got="MADE")
    report = chain(9)
    report.steps[6].verdict, report.steps[6].findings = Verdict.DIVERGED, (finding,)
    opened(tab, tmp_path, report)
    assert shown(tab).startswith("7 calculator@1.0 add")
    panel = tab.run("document.querySelector('#panel').innerText")
    assert "WANTED" in panel
    assert f'"ref": "{report.steps[6].base}"' in panel
    box = "document.querySelectorAll('.node')[2].querySelector('rect')"
    middle = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box}.getBoundingClientRect())"
    x, y = tab.run(f"({box}.scrollIntoView({{block: 'center'}}), {middle})")
    for kind in ("mousePressed", "mouseReleased"):
        tab.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert shown(tab).startswith("3 calculator@1.0 add")
    assert tab.run("document.querySelectorAll('.node.chosen').length") == 1


def test_keys_walk_through_the_steps(tab: Page, tmp_path: Path) -> None:
    report = chain(9)
    for at in (2, 6):
        report.steps[at].verdict = Verdict.INVALID
    opened(tab, tmp_path, report)
    assert shown(tab).startswith("3 ")
    tab.key("j", 74)
    assert shown(tab).startswith("4 ")
    tab.key("ArrowLeft", 37)
    tab.key("k", 75)
    assert shown(tab).startswith("2 ")
    tab.key("f", 70)
    tab.key("f", 70)
    assert shown(tab).startswith("7 ")
    tab.run("document.querySelectorAll('.node')[4].focus()")
    tab.key("Enter", 13)
    assert shown(tab).startswith("5 ")


def test_a_thousand_steps_can_be_opened_and_filtered(tab: Page, tmp_path: Path) -> None:
    report = processes(1500, 1002)
    opened(tab, tmp_path, report)
    assert shown(tab).startswith("1003 process@1.0" if report.steps[1002].device == "process@1.0" else "1003 ")
    assert 1 < tab.run("document.querySelectorAll('.node').length") < 100
    tab.run("document.querySelector('.node[data-steps]').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert tab.run("document.querySelectorAll('#panel .chips a').length") > 100
    tab.run("document.querySelector('#panel .chips a').click()")
    assert shown(tab).startswith("1 ")
    tab.run("document.getElementById('only').click()")
    count = "[...document.querySelectorAll('.step')].filter((one) => one.checkVisibility()).length"
    assert tab.run(count) == 1
    assert tab.complaints() == []


def test_hostile_texts_run_nothing(tab: Page, tmp_path: Path) -> None:
    bad = "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    one = step(1, Verdict.INVALID, findings=(Finding(bad, bad, bad, bad, (bad,)),), slot=(bad, 1), attested_by=(bad,))
    one.device = one.key = one.base = one.record = bad
    url = opened(tab, tmp_path, Report(bad, [one, step(2)], [edge(1, 2)], sample={bad: bad}))
    tab.run("document.querySelector('.node').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert "owned" not in tab.run("document.title").split(":")[0]
    assert tab.run("document.querySelectorAll('img').length + document.scripts.length") == 1
    assert tab.requests() == [url]
    assert tab.complaints() == []


def test_a_script_that_is_not_the_pages_own_is_stopped_and_told(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "planted.html"
    planted = "<script>document.title = 'owned'</script></body>"
    file.write_text(render(chain(2)).replace("</body>", planted), "utf-8")
    tab.open(file.as_uri())
    assert tab.run("document.title") != "owned"
    assert any("Content Security Policy" in one for one in tab.complaints())
