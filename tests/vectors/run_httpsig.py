"""httpsig: signature bases, HTTP forms both ways, verification of good and damaged messages, secrets."""

from __future__ import annotations

from typing import Any

import rules
import schema
from compare import attempt, differs, normal, refused
from outcome import Outcome, verdict
from run_ids import key, same_lists

from hyperpy import commitments
from hyperpy.codecs import httpsig, signature, structured
from hyperpy.encoding import ordered
from hyperpy.errors import InvalidSignature, MessageError
from hyperpy.message import Message, committed_list

STRICTER = ("wrong-id-key", "other-committer")
"""Damages that the reference does not look for and :func:`commitments.check` refuses."""


def run(header: Any, case: Any) -> Outcome:
    """Compare one case of the operation it names."""
    want = rules.expected(case)
    if "percent-names-decoded" in want.rules:
        return verdict(want.label, want.rules, _percent(header, want.case))
    return verdict(want.label, want.rules, _OPERATIONS[case["op"]](header, want.case))


def _percent(header: Any, case: Any) -> list[str]:
    """Keys with a percent sign are not signed; the unsigned ID is defined, the text of both references."""
    msg = schema.value(case["msg"])
    problems = _refused_to_sign(header, msg)
    unsigned = next(one for one in case["commitments"] if one["commitment"]["type"] == "hmac-sha256")
    if "bundle" not in unsigned["commitment"]:
        problems += differs("unsigned ID", commitments.unsigned_id(msg).encode(), unsigned["id"].encode())
    return problems + differs("tabm", Message(_linked(msg)), Message(schema.tabm(case["tabm"])))


def _refused_to_sign(header: Any, msg: Message) -> list[str]:
    try:
        commitments.commit(msg, key(header, "w1"))
    except MessageError:
        return []
    return ["signed what is ambiguous"]


def _linked(msg: Message) -> Any:
    return structured.encode(msg, link=commitments.signed_id)


def _decoded(msg: Message) -> Any:
    """Return the message with nested ones as links."""
    return normal(structured.decode(_linked(msg)))


def _commit(header: Any, case: Any) -> list[str]:
    spec, msg = case["spec"], schema.value(case["msg"])
    bundle = schema.value(spec.get("bundle", {"$atom": "false"})) is True
    names = spec.get("committed")
    options: dict[str, Any] = {
        "type": spec["type"],
        "bundle": bundle,
        "committed": None if names is None else [schema.key(name) for name in names],
    }
    if "error" in case:
        problem = refused(lambda: commitments.commit(msg, key(header, "w1"), **options))
        return [problem] if problem else []
    problems = differs("tabm", Message(_linked(msg)), Message(schema.tabm(case["tabm"])))
    given = {one["id"]: schema.value(one["commitment"]) for one in case["commitments"]}
    shown = commitments.bundled(msg) if bundle else msg
    theirs = shown.with_commitments({name: structured.as_commitment(name, one) for name, one in given.items()})
    for one in case["commitments"]:
        problems += _base(theirs, one)
    problems += differs("verify", commitments.verify(theirs), case["verify"])
    if case["verify"]:
        commitments.check(theirs)
    problems += _wire(case, theirs, bundle)
    made = commitments.commit(msg, key(header, "w1"), **options)
    commitments.check(made)
    return problems + same_lists("own", made, theirs)


def _base(theirs: Message, one: Any) -> list[str]:
    commitment = theirs.commitments[one["id"]]
    form = commitments.covered(theirs, commitment)
    fields = {k: v for k, v in commitment.raw_items().items() if isinstance(v, bytes)}
    problems = differs("components", tuple(form.components), tuple(one["components"]))
    problems += differs("committed", form.committed, committed_list(commitment))
    base = form.base(signature.base_params(fields))
    return problems + differs("base", base, schema.value(one["signature_base"]))


def _wire(case: Any, theirs: Message, bundle: bool) -> list[str]:
    form = commitments.http_form(theirs, bundle=bundle)
    ours: dict[str, Any] = dict(form.headers) if form.body is None else {**form.headers, "body": form.body}
    http = {schema.key(name): schema.value(text) for name, text in case["http"].items()}
    problems = []
    for name in ordered(ours.keys() | http.keys()):
        problems += differs(f"http {name[:30]}", ours.get(name, b"(none)"), http.get(name, b"(none)"))
    body = http.pop("body", None)

    def decoded() -> Any:
        return structured.decode(httpsig.decode(http, body))

    problems += attempt(
        "decoded",
        lambda: normal(decoded()),
        case["decoded_tabm"],
        lambda found: normal(structured.decode(schema.tabm(found))),
    )
    if "ok" in case["decoded_tabm"]:
        problems += attempt(
            "decoded verify", lambda: commitments.verify(decoded()), case["decoded_verify"], schema.value
        )
    return problems


def _verify(header: Any, case: Any) -> list[str]:
    msg = schema.value(case["committed_msg"])
    problems = attempt("verify_all", lambda: commitments.verify(msg), case["verify_all"], schema.value)
    problems += attempt("verify_signers", lambda: commitments.verify(msg), case["verify_signers"], schema.value)
    good = schema.value(case["verify_all"]["ok"]) is True and not case["name"].endswith(STRICTER)
    try:
        commitments.check(msg)
    except InvalidSignature as error:
        return [*problems, f"check: {error.message}"] if good else problems
    return problems if good else [*problems, "check accepts what is damaged"]


def _secret(header: Any, case: Any) -> list[str]:
    theirs, secret = schema.value(case["committed_msg"]), schema.value(case["secret"])
    made = commitments.commit(schema.value(case["msg"]), None, secret=secret)
    problems = differs("own", _decoded(made), _decoded(theirs))
    problems += differs("right", commitments.verify(theirs, secret=secret), case["verify_right"])
    problems += differs("wrong", commitments.verify(theirs, secret=b"wrong"), case["verify_wrong"])
    signers = tuple(address.encode() for address in commitments.committers(theirs))
    return problems + differs("signers", signers, schema.value(case["signers"]))


_OPERATIONS = {"commit": _commit, "verify": _verify, "hmac-secret": _secret}
