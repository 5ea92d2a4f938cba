"""structured: typed message to TABM and back (ao-core 2)."""

from __future__ import annotations

from typing import Any

import rules
import schema
from compare import attempt
from outcome import Outcome, verdict

from hyperpy.codecs import structured
from hyperpy.commitments import signed_id
from hyperpy.message import Message


def run(header: Any, case: Any) -> Outcome:
    """Compare both encodings and the decoding of ours."""
    want = rules.expected(case)
    if case["op"] == "decode":
        tabm = schema.tabm(want.case["tabm"])
        problems = attempt("msg", lambda: structured.decode(tabm), want.case["msg"], schema.value)
        return verdict(want.label, want.rules, problems)
    item = schema.value(want.case["msg"])
    problems = _tabm("tabm_bundle", lambda: structured.encode(item), want.case)
    problems += _tabm("tabm_links", lambda: structured.encode(item, link=signed_id), want.case)
    back = want.case["back"]
    problems += attempt("back", lambda: structured.decode(structured.encode(item)), back, schema.value)
    return verdict(want.label, want.rules, problems)


def _tabm(name: str, work: Any, case: Any) -> list[str]:
    return attempt(name, lambda: Message(work()), case[name], lambda found: Message(schema.tabm(found)))
