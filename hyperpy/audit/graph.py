"""The drawing of a report as SVG: boxes with a sign and a word for their verdict, so colour is never needed."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Final

from hyperpy.audit import text
from hyperpy.audit.layout import Drawing, Node, verdict_of
from hyperpy.verdicts import Report, Verdict

SIGNS: Final = {
    Verdict.REPRODUCED: "✓",
    Verdict.ATTESTED: "◇",
    Verdict.DIFFERS: "≈",
    Verdict.MISSING: "?",
    Verdict.DIVERGED: "≠",
    Verdict.INVALID: "✗",
    Verdict.BAD_FILE: "✗",
}
KINDS: Final = {
    "next": "result is the base",
    "part": "part of a step",
    "input": "result is an input",
    "cached": "taken from the cache",
    "slot": "next slot",
}
CHIPS: Final = 2000
"""Members of a group that are listed, at most."""

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _EDGE = 208, 62, 34, 46, 14


def css(verdict: Verdict) -> str:
    """Return the class that colours what has this verdict."""
    return "v-" + verdict.value.replace(" ", "-")


def badge(verdict: Verdict) -> str:
    """Return the verdict as a coloured word with its sign."""
    return f'<span class="badge {css(verdict)}">{SIGNS[verdict]} {verdict.value}</span>'


def legend() -> str:
    """Return what the boxes and lines mean."""
    boxes = "".join(badge(one) for one in Verdict if one is not Verdict.BAD_FILE)
    lines = "".join(
        '<span><svg width="34" height="10" aria-hidden="true">'
        f'<path class="edge {kind}" d="M0 5H34"/></svg> {words}</span>'
        for kind, words in KINDS.items()
    )
    return f'<div class="legend">{boxes}{lines}</div>\n'


def svg(drawing: Drawing, report: Report) -> str:
    """Return the drawing; each box is a link to its step or group."""
    width = max(drawing.columns * (_WIDTH + _ACROSS) - _ACROSS + 2 * _EDGE + 40, 260)
    height = max(drawing.rows * (_HEIGHT + _DOWN) - _DOWN + 2 * _EDGE + 8, 60)
    edges = "".join(_edge(drawing, *link) for link in drawing.links)
    boxes = "".join(_box(at, node, report) for at, node in enumerate(drawing.nodes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="group" aria-label="the computation, from its roots downwards">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto">'
        f'<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>{edges}{boxes}</svg>'
    )


def groups(drawing: Drawing, report: Report) -> str:
    """Return the members of each box that holds several steps."""
    found = [(at, node) for at, node in enumerate(drawing.nodes) if len(node.steps) > 1]
    if not found:
        return ""
    made = []
    for at, node in found:
        chips = "".join(
            f'<a class="{css(report.steps[step].verdict)}" href="#s-{step + 1}" title="{_chip_title(report, step)}">'
            f"{SIGNS[report.steps[step].verdict]} {_chip(report, step)}</a>"
            for step in node.steps[:CHIPS]
        )
        more = f"<p>and {len(node.steps) - CHIPS:,} more, in the list below</p>" if len(node.steps) > CHIPS else ""
        title = escape(f"{text.shown(node.group, 80)}: {_counted(node, report)}")
        made.append(
            f'<details class="group" id="g-{at}"><summary>{title}</summary>'
            f'<div class="inside"><div class="chips">{chips}</div>{more}</div></details>\n'
        )
    return "<h2>Groups</h2>\n" + "".join(made)


def _chip(report: Report, step: int) -> str:
    slot = report.steps[step].slot
    return str(step + 1) if slot is None else f"slot {slot[1]}"


def _chip_title(report: Report, step: int) -> str:
    return escape(f"step {step + 1}: {text.title(report.steps[step])}, {report.steps[step].verdict.value}")


def _counted(node: Node, report: Report) -> str:
    counted = Counter(report.steps[at].verdict for at in node.steps)
    return ", ".join(f"{counted[one]:,} {one.value}" for one in Verdict if counted[one])


def _corner(node: Node) -> tuple[int, int]:
    return _EDGE + node.column * (_WIDTH + _ACROSS), _EDGE + node.row * (_HEIGHT + _DOWN)


def _edge(drawing: Drawing, source: int, target: int, kind: str, times: int) -> str:
    one, two = drawing.nodes[source], drawing.nodes[target]
    (x1, y1), (x2, y2) = _corner(one), _corner(two)
    if two.row == one.row + 1 or (two.row > one.row and two.column != one.column):
        x1, y1, x2, y2 = x1 + _WIDTH // 2, y1 + _HEIGHT, x2 + _WIDTH // 2, y2
        bend = min(abs(y2 - y1) // 2, 60)
        path = f"M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
    else:  # beside the boxes that stand between
        x1, y1, x2, y2 = x1 + _WIDTH, y1 + _HEIGHT // 2, x2 + _WIDTH, y2 + _HEIGHT // 2
        out = max(x1, x2) + min(14 + 6 * abs(two.row - one.row), 44)
        path = f"M{x1} {y1}C{out} {y1} {out} {y2} {x2} {y2}"
    known = kind if kind in KINDS else "other"
    label = ""
    if times > 1:
        label = f'<text class="times" x="{(x1 + x2) // 2 + 6}" y="{(y1 + y2) // 2}">×{times:,}</text>'
    words = escape(KINDS.get(kind, text.shown(kind, 40)))
    return f'<path class="edge {known}" d="{path}" marker-end="url(#tip)"><title>{words}</title></path>{label}'


def _box(at: int, node: Node, report: Report) -> str:
    x, y = _corner(node)
    verdict = verdict_of(node, report.steps)
    if len(node.steps) == 1:
        step = report.steps[node.steps[0]]
        number = node.steps[0] + 1
        name = f"{step.device} {step.key}"
        third = f"step {number}" if step.slot is None else f"step {number} · slot {step.slot[1]}"
        what, target, pile = verdict.value, f"s-{number}", ""
    else:
        name, what, target = node.group, _counted(node, report), f"g-{at}"
        third = f"{len(node.steps):,} steps{_slots(node, report)}"
        pile = "".join(_rect(x + more, y + more, ' class="pile"') for more in (7, 3.5))
    label = escape(f"{text.shown(name, 80)}, {third}: {what}", quote=True)
    members = "" if len(node.steps) == 1 else f' data-steps="{" ".join(f"s-{one + 1}" for one in node.steps[:CHIPS])}"'
    return (
        f'<a class="node {css(verdict)}" href="#{target}" aria-label="{label}"{members}><title>{label}</title>'
        f"{pile}{_rect(x, y)}"
        f'<svg x="{x + 12}" y="{y}" width="{_WIDTH - 20}" height="{_HEIGHT}">'
        f'<text x="0" y="20">{escape(text.shown(name, 25))}</text>'
        f'<text class="what" x="0" y="37">{SIGNS[verdict]} {escape(text.shown(what, 30))}</text>'
        f'<text class="at" x="0" y="53">{third}</text></svg></a>'
    )


def _slots(node: Node, report: Report) -> str:
    """Return the range of slots in a box; empty if it holds none, or those of several processes."""
    found = [slot for one in node.steps if (slot := report.steps[one].slot) is not None]
    numbers = [number for _, number in found]
    return f" · slots {min(numbers)}–{max(numbers)}" if len({process for process, _ in found}) == 1 else ""


def _rect(x: float, y: float, more: str = "") -> str:
    return f'<rect{more} x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
