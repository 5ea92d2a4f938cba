"""Copies a selection of the shared vectors to ``data/``, so that a plain clone tests the protocol.

Run by hand: ``python tests/vectors/make_selection.py SHARED/vectors``. From each file it takes
the smallest case of every operation under every set of rules, then the smallest of the others,
up to the file's budget; the choice depends on nothing else, so a second run writes the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

BUDGETS = {
    "codecs": 280,
    "hashpath": 140,
    "http": 200,
    "httpsig": 280,
    "ids": 260,
    "key_order": 50,
    "resolve": 220,
    "singleton": 110,
    "structured": 260,
    "structured_fields": 90,
}
"""Kilobytes per file, overlay included; the sum stays under 2 MB."""
NEEDS_ALL = frozenset({"query-results"})
"""Rules of cases whose answer lists what the cases before them stored; such a case means nothing alone."""


def _text(data: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    head = json.dumps(data, ensure_ascii=False, sort_keys=True)[1:-1]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, sort_keys=True) for case in cases)
    return "{" + head + (", " if head else "") + '"cases": [\n' + lines + "\n]}\n"


def _pick(cases: list[dict[str, Any]], overlay: dict[int, dict[str, Any]], budget: int) -> set[int]:
    groups: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for case in cases:
        over = overlay.get(case["n"])
        size = len(json.dumps(case, ensure_ascii=False)) + (len(json.dumps(over, ensure_ascii=False)) if over else 0)
        if over is None or NEEDS_ALL.isdisjoint(over["rules"]):
            groups[case.get("op"), tuple(over["rules"]) if over else ()].append((size, case["n"]))
    firsts = sorted(min(group) for group in groups.values())
    rest = sorted(entry for group in groups.values() for entry in group if entry not in firsts)
    picked: set[int] = set()
    for size, number in firsts + rest:
        if size <= budget:
            budget -= size
            picked.add(number)
    return picked


def main(source: Path) -> None:
    """Write ``data/*.json`` and ``data/final/*.json`` beside this file."""
    target = Path(__file__).parent / "data"
    (target / "final").mkdir(parents=True, exist_ok=True)
    for name, kilobytes in BUDGETS.items():
        data = json.loads((source / f"{name}.json").read_text("utf-8"))
        cases = data.pop("cases")
        over_path = source / "final" / f"{name}.json"
        over = json.loads(over_path.read_text("utf-8")) if over_path.is_file() else {"cases": []}
        over_cases = {case["n"]: case for case in over.pop("cases")}
        picked = _pick(cases, over_cases, kilobytes * 1000 - len(json.dumps(data)))
        (target / f"{name}.json").write_text(_text(data, [c for c in cases if c["n"] in picked]), "utf-8")
        kept = [case for number, case in sorted(over_cases.items()) if number in picked]
        if kept:
            head = {key: over[key] for key in ("kind", "reference", "schema") if key in over}
            (target / "final" / f"{name}.json").write_text(_text(head, kept), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
