"""Every example in docs/paths.md is run as printed, and its table of limits is the one in force."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from hyperpy.path import LIMITS
from hyperpy.path.parts import MAX_PART

PAGE = Path(__file__).resolve().parents[1] / "docs" / "paths.md"


def test_examples() -> None:
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python") >= 8
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.attempted > 20
    assert not result.failed, "".join(report)


def test_limits() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| 4\d\d \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert [row.replace(",", "") for row in rows.values()] == [
        f"{LIMITS.size // 1024} KiB",
        str(LIMITS.parts),
        str(LIMITS.depth),
        str(LIMITS.keys),
        f"{MAX_PART} bytes",
    ]
