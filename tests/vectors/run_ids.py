"""ids: unsigned and signed IDs, several signers, commitments over some keys, bundles, ANS-104."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import rules
import schema
from compare import differs
from outcome import Outcome, verdict

from hyperpy import commitments
from hyperpy.codecs import httpsig, plan, structured
from hyperpy.keys import RsaKey
from hyperpy.message import Message, committed_list


@lru_cache
def _key(modulus: str, exponent: str, private: str) -> RsaKey:
    return RsaKey.from_jwk({"n": modulus, "e": exponent, "d": private})


def key(header: Any, name: str) -> RsaKey:
    """Return one of the file's keys, made once."""
    jwk = header["keys"][name]
    return _key(jwk["n"], jwk["e"], jwk["d"])


def run(header: Any, case: Any) -> Outcome:
    """Compare one case of the operation it names."""
    want = rules.expected(case)
    return verdict(want.label, want.rules, _OPERATIONS[case["op"]](header, want))


def _binary(header: Any, want: rules.Expected) -> list[str]:
    found = commitments.content_id(schema.value(want.case["msg"])).encode()
    return differs("id", found, schema.value(_ok(want.case["id"])))


def _ok(answer: Any) -> Any:
    return answer["ok"] if isinstance(answer, dict) and "ok" in answer else answer


def _text(problem: str, ours: str, theirs: Any) -> list[str]:
    return differs(problem, ours.encode(), schema.value(_ok(theirs)))


def _unsigned(header: Any, want: rules.Expected) -> list[str]:
    case, msg = want.case, schema.value(want.case["msg"])
    general = httpsig.signed(structured.encode(msg, link=commitments.signed_id)).base(plan.UNSIGNED_PARAMS)
    problems = differs("sig_base", general, schema.value(_ok(case["sig_base"])))
    if isinstance(msg, Message):
        planned = plan.unsigned_base(msg, commitments.signed_id)
        problems += differs("planned base", general if planned is None else planned, general)
    problems += _text("id_none", commitments.unsigned_id(msg), case["id_none"])
    problems += _text("id_all", commitments.signed_id(msg), case["id_all"])
    return problems + _text("hashpath", commitments.hashpath_id(msg), case["hashpath"])


def _ids(msg: Message, case: Any) -> list[str]:
    bare = msg.with_commitments({})
    problems = _text("id_none", commitments.unsigned_id(msg), case["id_none"])
    problems += _text("id_all", commitments.signed_id(msg), case["id_all"])
    if "id_stripped" in case:
        problems += _text("id_uncommitted", commitments.message_id(msg, "none"), case["id_uncommitted"])
        problems += _text("id_signed", commitments.message_id(msg, "all"), case["id_signed"])
        problems += _text("id_stripped", commitments.content_id(msg), case["id_stripped"])
        problems += _text("id of the bare message", commitments.unsigned_id(bare), case["id_stripped"])
    theirs = [address.encode() for address in commitments.committers(msg)]
    signers = list(schema.value(case["signers"]))
    return problems + differs("signers", tuple(sorted(theirs)), tuple(sorted(signers)))


def _signed(header: Any, want: rules.Expected) -> list[str]:
    case = want.case
    theirs = schema.value(case["committed_msg"])
    problems = _ids(theirs, case)
    address = header["addresses"]["w1"]
    problems += _text("id_by_committer", commitments.message_id(theirs, [address]), case["id_by_committer"])
    names = tuple(name.encode() for name in commitments.committed(theirs))
    problems += differs("committed_keys", tuple(sorted(names)), tuple(sorted(schema.value(case["committed_keys"]))))
    problems += differs("verify_all", commitments.verify(theirs), case["verify_all"])
    if case["verify_all"]:
        commitments.check(theirs)
    return problems + _sign_again(header, case, theirs)


def _sign_again(header: Any, case: Any, theirs: Message) -> list[str]:
    spec = case["commit_spec"]
    names = spec.get("committed")
    made = commitments.commit(
        schema.value(case["msg"]),
        key(header, "w1"),
        device=spec["commitment-device"],
        committed=None if names is None else [schema.key(name) for name in names],
        bundle=schema.value(spec.get("bundle", {"$atom": "false"})) is True,
    )
    commitments.check(made)
    problems = _text("own id_none", commitments.unsigned_id(made), case["id_none"])
    problems += _text("own id_stripped", commitments.content_id(made), case["id_stripped"])
    return problems + same_lists("own", made, theirs)


def same_lists(name: str, ours: Message, theirs: Message) -> list[str]:
    """Compare the committed lists and the plain fields of two messages' commitments, by type."""
    mine, others = _by_type(ours), _by_type(theirs)
    return [] if mine == others else [f"{name}: committed {sorted(mine)} is not {sorted(others)}"[:300]]


def _by_type(msg: Message) -> set[Any]:
    found = set()
    for one in msg.commitments.values():
        fields = {k: v for k, v in one.raw_items().items() if k not in ("signature", "committed")}
        found.add(
            (committed_list(one), *sorted((k, str(v)) for k, v in fields.items() if isinstance(v, (bytes, bool))))
        )
    return found


def _two_signers(header: Any, want: rules.Expected) -> list[str]:
    case = want.case
    theirs = schema.value(case["committed_msg"])
    problems = _ids(theirs, case)
    first, second = header["addresses"]["w1"], header["addresses"]["w2"]
    problems += _text("id_first", commitments.message_id(theirs, [first]), case["id_first"])
    problems += _text("id_second", commitments.message_id(theirs, [second]), case["id_second"])
    problems += differs("verify_all", commitments.verify(theirs), case["verify_all"])
    made = schema.value(case["msg"])
    for name in ("w1", "w2"):
        made = commitments.commit(made, key(header, name))
    commitments.check(made)
    problems += _text("own id_none", commitments.unsigned_id(made), case["id_none"])
    return problems + same_lists("own", made, theirs)


_OPERATIONS = {"binary": _binary, "unsigned": _unsigned, "signed": _signed, "two-signers": _two_signers}
