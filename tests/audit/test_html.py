"""The report as a page: whole, well-formed, alone in the world, and nothing hostile gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hyperpy.audit import layout
from hyperpy.audit.html import MESSAGE, MESSAGES, render
from hyperpy.errors import MessageNotFound
from hyperpy.verdicts import Finding, Report, Verdict
from tests.audit.reports import chain, edge, name, processes, step

_VOID = {"meta", "input", "br", "link", "img"}
_LOADING = {"src", "srcset", "action", "formaction", "data", "poster", "ping", "style", "xlink:href"}


class Parsed(HTMLParser):
    """Checks that every element is closed where it must be, and collects what the page holds."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.policy = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: item or "" for key, item in attrs}
        assert len(found) == len(attrs), f"an attribute stands twice: {attrs}"
        self.tags.append(tag)
        self.attributes += [(tag, key, item) for key, item in found.items()]
        if "id" in found:
            self.ids.append(found["id"])
        if "href" in found:
            self.links.append(found["href"])
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(data)


def shown(ref: str) -> dict[str, Any]:
    return {"device": "calculator@1.0", "a": 1, "ref": ref}


@pytest.mark.parametrize("report", [Report("X"), chain(1), chain(30), chain(1000), processes(300, 102)])
def test_the_page_is_well_formed_and_every_link_leads_somewhere(report: Report) -> None:
    page = Parsed(render(report, shown))
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert {f"s-{at}" for at in range(1, len(report.steps) + 1)} <= set(page.ids)


def test_nothing_is_loaded_and_only_the_pages_own_texts_run() -> None:
    text = render(processes(300, 102), shown)
    page = Parsed(text)
    assert {tag for tag in page.tags if tag in ("link", "img", "iframe", "object", "embed", "form", "base")} == set()
    assert [one for one in page.attributes if one[1] in _LOADING or one[1].startswith("on")] == []
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("http-equiv", "")
    script, style = ("".join(page.texts[tag]) for tag in ("script", "style"))
    for kind, held in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in page.policy
    assert page.tags.count("script") == page.tags.count("style") == 1


HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></details></script><script>alert(1)</script>",
    "\"onmouseover='alert(1)'x=\"",
    "' onfocus=alert(1) autofocus x='",
    "<!--",
    "&lt;b&gt;",
    "\u202e\x00\x1b[2J\u2028",
    "]]><svg onload=alert(1)>",
    "\udc80",
]


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_strings_stay_strings(bad: str) -> None:
    finding = Finding(bad, bad, expected=bad, got=bad, where=(bad,))
    one = step(1, Verdict.DIVERGED, findings=(finding,), slot=(bad, 3), attested_by=(bad,), parent=bad)
    two = step(2, Verdict.MISSING)
    for field in ("device", "key", "status", "base", "request", "result", "before", "after", "record"):
        setattr(one, field, bad)
    report = Report(bad, [one, two], [edge(1, 2, bad)], [finding], sample={bad: bad}, attested_by=(bad,))
    plain = Parsed(render(Report("X", [step(1, Verdict.DIVERGED), two]), shown))
    text = render(report, lambda ref: {bad: [bad, ref]})
    page = Parsed(text)
    text.encode("utf-8")
    assert set(page.tags) <= set(plain.tags) | {"b"}
    assert {key for _, key, _ in page.attributes} <= {key for _, key, _ in plain.attributes}
    assert page.tags.count("script") == 1
    for hidden in "\u202e\x00\x1b\u2028":
        assert hidden not in text
    if not set(bad) & set("\u202e\x00\x1b\u2028\udc80"):
        assert any(bad in part for parts in page.texts.values() for part in parts)


def test_both_sides_of_a_difference_and_all_of_a_step_are_there() -> None:
    finding = Finding("result", "another result", expected=name("wanted"), got=name("made"))
    report = Report("X", [step(1), step(2, Verdict.DIVERGED, findings=(finding,))], [edge(1, 2)])
    text = render(report, shown)
    for wanted in (name("wanted"), name("made"), report.steps[1].after, report.steps[1].record, "diverged at step 2"):
        assert wanted in text
    assert text.count("&quot;ref&quot;: &quot;" + report.steps[1].base) == 1, "a message stands once"


def test_a_verdict_is_always_a_word_too() -> None:
    verdicts = [one for one in Verdict if one is not Verdict.BAD_FILE]
    page = Parsed(render(Report("X", [step(n, one) for n, one in enumerate(verdicts)])))
    boxes = [item for tag, key, item in page.attributes if tag == "a" and key == "aria-label"]
    assert [box.rpartition(": ")[2] for box in boxes] == [one.value for one in verdicts]


def test_messages_are_cut_and_their_sum_is_bounded() -> None:
    asked = []

    def long(ref: str) -> str:
        asked.append(ref)
        return "x" * 100_000

    report = chain(2000)
    report.steps[1500].verdict = Verdict.DIVERGED
    text = render(report, long)
    assert asked[0] == report.steps[1500].base, "faulty steps come first"
    assert len(asked) * MESSAGE < MESSAGES + 2 * MESSAGE
    assert len(text) < 2 * MESSAGES
    assert "the page would be too large" in text
    assert "x" * (MESSAGE + 1) not in text


def test_what_cannot_be_read_is_said() -> None:
    def broken(ref: str) -> None:
        raise MessageNotFound(f"the message {ref} is not here")

    report = chain(1)
    assert f"not at hand: the message {report.steps[0].base} is not here" in render(report, broken)
    assert "(not at hand)" in render(report, lambda _: None)
    assert "<h2>Messages" not in render(report)


def test_the_same_report_gives_the_same_page() -> None:
    assert render(processes(300, 102), shown) == render(processes(300, 102), shown)


# -- the drawing ---------------------------------------------------------------------------


def test_few_steps_are_drawn_one_by_one_each_below_what_it_needs() -> None:
    report = chain(20)
    report.edges.append(edge(0, 19, "input"))
    drawing = layout.draw(report)
    assert [node.steps for node in drawing.nodes] == [[n] for n in range(20)]
    for source, target, _, _ in drawing.links:
        assert drawing.nodes[source].row < drawing.nodes[target].row


@pytest.mark.parametrize("report", [chain(1000), processes(3000, 1002), Report("X", [step(n) for n in range(1500)])])
def test_many_steps_are_drawn_in_few_boxes_and_none_is_lost(report: Report) -> None:
    drawing = layout.draw(report)
    assert len(drawing.nodes) <= layout.MOST + 2 * layout.FAULTS
    assert sorted(at for node in drawing.nodes for at in node.steps) == list(range(len(report.steps)))
    places = [(node.row, node.column) for node in drawing.nodes]
    assert len(places) == len(set(places))


def test_what_diverged_stands_alone_among_many() -> None:
    report = processes(3000, 1002)
    assert [1002] in [node.steps for node in layout.draw(report).nodes]
    assert 'href="#s-1003"' in render(report)


def test_circles_and_strange_edges_do_no_harm() -> None:
    report = chain(5)
    report.edges += [edge(4, 0), edge(2, 2), edge(1, 77), edge(99, 98)]
    report.steps[0].parent = report.steps[1].record
    report.steps[1].parent = report.steps[0].record
    Parsed(render(report))
    many = chain(100)
    many.edges += [edge(n, n - 1) for n in range(1, 100)]
    many.steps[0].parent, many.steps[1].parent = many.steps[1].record, many.steps[0].record
    Parsed(render(many))


def test_layout_of_many_faults_is_bounded() -> None:
    report = chain(1000)
    for one in report.steps:
        one.verdict = Verdict.INVALID
    assert len(layout.draw(report).nodes) <= layout.MOST + 2 * layout.FAULTS
    assert len(re.findall(r'<details class="step', render(report))) == 1000
