"""A report as one HTML file that needs nothing else: no network, no other file, no node.

The computation is drawn as a graph; a click, or the keyboard, opens a step with its base, request, result and
findings. Without JavaScript all of it is still there, as lists. Everything shown came from outside: it is
escaped, cut, and a content security policy lets nothing run or load but the two texts that belong to the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, Final

from hyperpy.audit import graph, layout, text
from hyperpy.errors import HyperpyError
from hyperpy.verdicts import Finding, Report, StepReport, Verdict

Reader = Callable[[str], Any]
"""Gives what a reference names as something JSON can say; None or an error if it is not at hand."""

MESSAGE: Final = 4096
"""Characters of one message that are shown, at most."""
MESSAGES: Final = 4 * 1024 * 1024
"""Characters of all messages together, at most."""
COUNT: Final = 6000
"""Messages that are shown, at most: more make a browser slow."""

_ASSETS: Final = Path(__file__).parent / "assets"


def render(report: Report, read: Reader | None = None) -> str:
    """Return the page.

    Args:
        read: fetches a base, request or result while the page is made; without it only their IDs are shown.
    """
    style, script = _asset("report.css"), _asset("report.js")
    messages = _Messages(read)
    drawing = layout.draw(report)
    steps = _step_list(report, messages)
    title = escape(text.shown(report.verdict.value + ": " + report.ref, 120))
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<div class="page">\n{_head(report)}'
        f'<h2>Computation</h2>\n{graph.legend()}<div class="work">\n'
        f'<div class="graph">{graph.svg(drawing, report)}</div>\n'
        f'<aside id="panel" aria-live="polite" data-first="{_first(report)}">'
        '<p class="empty">Choose a step.</p></aside>\n</div>\n'
        f"{graph.groups(drawing, report)}{steps}{messages.render()}</div>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


@lru_cache(maxsize=4)
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Return a policy under which these two texts work, and nothing else."""
    named = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{named[0]}'; script-src 'sha256-{named[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _first(report: Report) -> str:
    """Return which step is shown first: the first that is not in order, else the last."""
    at = next((n for n, step in enumerate(report.steps, 1) if not _is_fine(step)), len(report.steps))
    return f"s-{at}"


def _is_fine(step: StepReport) -> bool:
    return not step.findings and step.verdict in (Verdict.REPRODUCED, Verdict.ATTESTED)


def _head(report: Report) -> str:
    checked = f"{len(report.steps):,} of {max(report.total, len(report.steps)):,} steps checked"
    signed = f"; signed by {', '.join(map(_code, report.attested_by[:8]))}" if report.attested_by else ""
    sample = "".join(f" · {_shown(name)} {_shown(item)}" for name, item in report.sample.items())
    advice = text.next_step(report)
    parts = [
        '<header class="top"><h1>hyperpy audit</h1><button id="theme" type="button">light / dark</button></header>\n',
        f'<div class="verdict {graph.css(report.verdict)}"><strong>{graph.SIGNS[report.verdict]} ',
        f"{escape(text.verdict_line(report))}</strong>\n<p>{_code(report.ref)}</p>\n",
        f'<p class="soft">{checked}{signed}{" · sample" + sample if sample else ""}</p>\n',
        f"<p>{escape(advice)}</p>\n" if advice else "",
        "</div>\n",
        *(_finding(one, report.verdict) for one in report.findings),
    ]
    return "".join(parts)


def _step_list(report: Report, messages: _Messages) -> str:
    """Return every step; messages are fetched for the faulty ones first, as there is a limit to their size."""
    number = {step.record: at for at, step in enumerate(report.steps, 1)}
    needs: dict[int, list[str]] = {}
    for edge in report.edges:
        source, target = number.get(edge.source), number.get(edge.target)
        if source is not None and target is not None:
            needs.setdefault(target, []).append(f'<a href="#s-{source}">{source}</a> ({_shown(edge.kind, 20)})')
    for at, step in sorted(enumerate(report.steps, 1), key=lambda one: _is_fine(one[1])):
        for role in ("base", "request", "result"):
            messages.name(getattr(step, role), f"{role} of step {at}")
    listed = "".join(_step(at, step, messages, needs.get(at, [])) for at, step in enumerate(report.steps, 1))
    return (
        '<h2>Steps</h2>\n<div class="tools"><label><input type="checkbox" id="only"> only what is not in order'
        '</label><span class="soft">keys: j and k, or the arrows, go to the next and previous step, f to the next fault'
        "</span></div>\n"
        f'<div id="steps">\n{listed}</div>\n'
    )


def _step(at: int, step: StepReport, messages: _Messages, needs: list[str]) -> str:
    fields = [("status", _shown(step.status))]
    if step.given:
        fields.append(("given", f"{step.given} attested input{'' if step.given == 1 else 's'}"))
    if step.attested_by:
        fields.append(("attested by", ", ".join(map(_code, step.attested_by))))
    if needs:
        more = f" and {len(needs) - 50} more" if len(needs) > 50 else ""
        fields.append(("needs step", ", ".join(needs[:50]) + more))
    fields += [(name, _code(item)) for name, item in (("before", step.before), ("after", step.after)) if item]
    fields += [(name, _code(item)) for name, item in (("record", step.record), ("parent", step.parent)) if item]
    fields += [(name, messages.link(getattr(step, name))) for name in ("base", "request", "result")]
    listed = "".join(f"<dt>{name}</dt><dd>{item}</dd>" for name, item in fields)
    found = "".join(_finding(one, step.verdict) for one in step.findings)
    fine = " fine" if _is_fine(step) else ""
    return (
        f'<details class="step {graph.css(step.verdict)}{fine}" id="s-{at}"><summary><span class="n">{at}</span> '
        f"{escape(text.title(step))} {graph.badge(step.verdict)}</summary>"
        f'<div class="inside">{found}<dl>{listed}</dl></div></details>\n'
    )


def _finding(finding: Finding, verdict: Verdict) -> str:
    sides = ""
    if finding.expected or finding.got:
        both = (("expected", finding.expected), ("got", finding.got))
        sides = "".join(f"<div><span>{name}</span>{_code(item or '(nothing)')}</div>" for name, item in both)
        sides = f'<div class="sides">{sides}</div>'
    where = "".join(f"<div class=soft>looked in {_code(place)}</div>" for place in finding.where[:20])
    return (
        f'<div class="finding {graph.css(verdict)}"><b>{_shown(finding.rule, 60)}</b>: '
        f"{_shown(finding.text, 1000)}{sides}{where}</div>\n"
    )


def _shown(item: object, width: int = 400) -> str:
    return escape(text.shown(item, width))


def _code(item: object) -> str:
    return f'<code class="id">{_shown(item)}</code>' if item else '<span class="soft">none</span>'


class _Messages:
    """The messages that steps name, each once, and together not more than the limit."""

    def __init__(self, read: Reader | None) -> None:
        self._read = read
        self._numbers: dict[str, int] = {}
        self._texts: list[str] = []
        self._roles: list[str] = []
        self._left = MESSAGES
        self._left_out: set[str] = set()

    def name(self, ref: str, role: str) -> None:
        """Fetch a message unless it was fetched already; say what it is to which step."""
        if not ref or self._read is None or ref in self._numbers:
            return
        if self._left <= 0 or len(self._texts) >= COUNT:
            self._left_out.add(ref)
        else:
            self._numbers[ref] = len(self._texts)
            self._roles.append(role)
            self._texts.append(self._fetch(ref))

    def link(self, ref: str) -> str:
        """Return a reference, as a link to what it names if that was fetched."""
        at = self._numbers.get(ref)
        if ref in self._left_out:
            return f'{_code(ref)} <span class="soft">(left out: the page would be too large)</span>'
        return _code(ref) if at is None else f'<a class="ref" href="#m-{at}">{_code(ref)}</a>'

    def render(self) -> str:
        """Return the list of them."""
        if not self._numbers:
            return ""
        made = (
            f'<details class="msg" id="m-{at}"><summary>{self._roles[at]} {_code(ref)}</summary>'
            f"<pre>{self._texts[at]}</pre></details>\n"
            for ref, at in self._numbers.items()
        )
        return "<h2>Messages</h2>\n" + "".join(made)

    def _fetch(self, ref: str) -> str:
        assert self._read is not None
        try:
            found = self._read(ref)
            made = "(not at hand)" if found is None else _json(found)
        except (HyperpyError, LookupError, OSError, ValueError, TypeError, RecursionError) as error:
            made = text.shown(f"(not at hand: {error})", 400)
        self._left -= len(made)
        return escape(made)


def _json(item: Any) -> str:
    """Return JSON text, its beginning if it is long; characters that cannot be seen are escaped."""
    parts: list[str] = []
    size = 0
    for part in _pieces(item):
        parts.append(part[: MESSAGE + 1])
        size += len(part)
        if size > MESSAGE:
            break
    made = "".join(parts)
    cut = made if len(made) <= MESSAGE else made[:MESSAGE] + "\n… (cut)"
    return "\n".join(text.shown(line, MESSAGE + 16) for line in cut.split("\n"))


def _pieces(item: Any) -> Iterable[str]:
    return json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(item)
