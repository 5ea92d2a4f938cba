"""hashpath: single steps, chains for both algorithms, the algorithms, path parts."""

from __future__ import annotations

from typing import Any

import rules
import schema
from compare import attempt, differs
from outcome import Outcome, verdict

from hyperpy import commitments, hashpath
from hyperpy.encoding import b64u_decode
from hyperpy.message import Atom, Message, as_text


def run(header: Any, case: Any) -> Outcome:
    """Compare one case of the operation it names."""
    want = rules.expected(case)
    return verdict(want.label, want.rules, _OPERATIONS[case["op"]](want.case))


def _step(case: Any) -> list[str]:
    base, request = schema.value(case["base"]), schema.value(case["request"])
    problems = attempt("base", lambda: hashpath.start(base).encode(), case["base_hashpath"], schema.value)
    problems += attempt("id", lambda: commitments.hashpath_id(request).encode(), case["request_id"], schema.value)
    return problems + attempt(
        "hashpath", lambda: hashpath.extend(base, request).encode(), case["hashpath"], schema.value
    )


def _chain(case: Any) -> list[str]:
    def follow() -> tuple[bytes, ...]:
        base: Message = schema.value(case["base"])
        if case["alg"] != "sha-256-chain":
            base = base | {"hashpath-alg": case["alg"]}
        found = [hashpath.start(base)]
        for request in case["requests"]:
            found.append(hashpath.extend(base, schema.value(request)))
            base = base.with_private(hashpath=found[-1])
        return tuple(one.encode() for one in found)

    return attempt("hashpaths", follow, case["hashpaths"], schema.value)


def _alg(case: Any) -> list[str]:
    made = hashpath.ALGORITHMS[case["alg"]](b64u_decode(case["a"]), b64u_decode(case["b"]))
    return differs("out", made, b64u_decode(case["out"]))


def _path_parts(case: Any) -> list[str]:
    found = hashpath.parts(schema.value(case["path"]))
    joined = "" if isinstance(found, Atom) else "/".join(as_text(part) for part in found)
    return differs("parts", found, schema.value(case["parts"]["ok"])) + differs(
        "binary", joined.encode(), schema.value(case["binary"]["ok"])
    )


_OPERATIONS = {"step": _step, "chain": _chain, "alg": _alg, "path_parts": _path_parts}
