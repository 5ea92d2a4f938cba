"""codecs: flat and JSON here; ANS-104 items and the deep hash in run_ans104.py."""

from __future__ import annotations

import importlib
import json as stdlib_json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rules
import schema
from compare import attempt, differs, normal, refused
from outcome import Outcome, verdict

from hyperpy.codecs import flat, json, structured
from hyperpy.commitments import signed_id, unsigned_id
from hyperpy.encoding import b64u, sha256
from hyperpy.message import Message, Value


def run(header: Any, case: Any) -> Outcome:
    """Compare one case of the operation it names."""
    operation = case["op"]
    if operation not in _OPERATIONS:
        if not (Path(__file__).parent / "run_ans104.py").is_file():
            return Outcome("failed", detail="no runner for ANS-104")
        return importlib.import_module("run_ans104").run(header, case)  # type: ignore[no-any-return]
    want = rules.expected(case)
    return verdict(want.label, want.rules, _OPERATIONS[operation](want))


def _flat(want: rules.Expected) -> list[str]:
    case, item = want.case, schema.value(want.case["msg"])
    linked = structured.encode(item, link=signed_id)
    problems = attempt("flat", lambda: _mapping(structured.encode(item)), case["flat"], _recorded)
    problems += attempt("flat_default", lambda: _mapping(linked), case["flat_default"], _recorded)
    return problems + attempt("text", lambda: flat.serialize(linked), case["text"], schema.value)


def _mapping(tabm: structured.Tabm) -> Message:
    return Message(flat.encode(tabm))


def _recorded(found: Any) -> Message:
    return Message(schema.tabm(found))


def _flat_from(want: rules.Expected) -> list[str]:
    case = want.case
    return attempt("tabm", lambda: Message(flat.decode(schema.tabm(case["flat"]))), case["tabm"], _recorded)


def _flat_deserialize(want: rules.Expected) -> list[str]:
    case = want.case
    work = lambda: structured.decode(flat.deserialize(schema.value(case["text"])))  # noqa: E731
    return attempt("msg", work, case["msg"], schema.value)


def _json_to(want: rules.Expected) -> list[str]:
    case, item = want.case, schema.value(want.case["msg"])
    problems = _text("json", lambda: json.encode(item, link=signed_id), case["json"])
    if "nested-unsigned-commitments" in want.rules:
        problems += _text("json_bundle", lambda: json.encode(item), want.base["json_bundle"])
        problems += differs("bundle of F", normal(_decoded(case["json_bundle"])), json.decode(json.encode(item)))
    else:
        problems += _text("json_bundle", lambda: json.encode(item), case["json_bundle"])
    back = lambda found: normal(schema.value(found))  # noqa: E731
    return problems + attempt("back", lambda: json.decode(json.encode(item)), case["back"], back)


def _decoded(answer: Any) -> Value:
    return json.decode(schema.value(answer["ok"]))


def _text(name: str, work: Callable[[], bytes], answer: Any) -> list[str]:
    """Compare JSON texts as parsed: the reference's order of keys carries no meaning."""
    if "error" in answer:
        problem = refused(work)
        return [f"{name}: {problem}"] if problem else []
    ours, theirs = stdlib_json.loads(work()), stdlib_json.loads(schema.value(answer["ok"]))
    return [] if _strict(ours) == _strict(theirs) else [f"{name}: {ours!r:.160} is not {theirs!r:.160}"]


def _strict(parsed: Any) -> str:
    return stdlib_json.dumps(parsed, sort_keys=True)


def _json_from(want: rules.Expected) -> list[str]:
    case, text = want.case, schema.value(want.case["json"])
    problems = attempt("msg", lambda: json.decode_any(text), case["msg"], lambda found: normal(schema.value(found)))
    return problems + attempt("id", lambda: _id(json.decode_any(text)).encode(), case["id"], schema.value)


def _id(item: Message | tuple[Value, ...] | bytes) -> str:
    if isinstance(item, bytes):
        return b64u(sha256(item))
    return unsigned_id(item)


_OPERATIONS: dict[str, Callable[[rules.Expected], list[str]]] = {
    "flat": _flat,
    "flat_from": _flat_from,
    "flat_deserialize": _flat_deserialize,
    "json_to": _json_to,
    "json_from": _json_from,
}
