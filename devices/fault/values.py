"""Decides proofs about a language model's computation, from what the accused signed alone (HPI-1, section 13).

``wrong-value``: one value of the computation that the accused stands for does not follow from others of it.
``wrong-answer``: the accused answered otherwise than what it stands for. Neither needs the model: who computes
honestly agrees with itself everywhere.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from hyperpy import Message
from hyperpy.codecs import whole
from hyperpy.errors import CodecError
from hyperpy.fault_proof import INFERENCE, Account, Claim, Proof, account_of, contents, said, told
from hyperpy.inference import evidence, statements, trees
from hyperpy.inference.commitments import OPS, told_of
from hyperpy.inference.documents import document
from hyperpy.message import Value

from .verdict import Undecided, Verdict, fault_id

DEVICE: Final = INFERENCE


def judged(proof: Proof) -> Verdict:
    """Return the verdict on a proof of one of the two kinds.

    Raises:
        Undecided, CommitmentError, MessageError: it proves nothing.
    """
    if proof.assignments or not proof.claims:
        raise Undecided(f"a proof of {proof.kind} has claims, and no assignments")
    return _value(proof) if proof.kind == "wrong-value" else _answer(proof)


def _value(proof: Proof) -> Verdict:
    from hyperpy.inference import judging

    if proof.accounts or not proof.value:
        raise Undecided("a proof of wrong-value has evidence, and no accounts")
    body = _word(proof.claims[0], proof.accused, b"statement")
    statement = statements.read(body)
    partials = None
    if len(proof.claims) > 1:
        partials = statements.read_partials(_word(proof.claims[1], proof.accused, b"partials"))
    found = evidence.read(proof.value)
    result = judging.judge(statement, found, partials)
    where = f"{found.kind} of token {found.token}, layer {found.layer}, value {found.index}"
    if not result.false:
        return Verdict("not-guilty", proof.accused, proof.kind, f"{where} is right", result.expected, result.claimed)
    reason = f"{where} does not follow from what the accused committed to"
    fault = fault_id(proof.accused, f"{DEVICE} {statement.name.hex()}")
    return Verdict("guilty", proof.accused, proof.kind, reason, result.expected, result.claimed, fault)


def _word(claim: Claim, accused: str, ask: bytes) -> bytes:
    """Return the bytes that the accused signed as its answer to a question of a dispute."""
    body = told(claim, accused, DEVICE, "opening")
    if claim.request is None or claim.request.get("ask") != ask or type(body) is not bytes:
        raise Undecided(f"the signed reply is not the answer to '{ask.decode()}'")
    return body


def _answer(proof: Proof) -> Verdict:
    if len(proof.claims) != 2 or len(proof.accounts) != 1:
        raise Undecided("a proof of wrong-answer has an answer, a statement, and an account of the answer")
    statement = statements.read(_word(proof.claims[1], proof.accused, b"statement"))
    account = account_of(proof.accounts[0], proof.accused)
    document = _document(proof.claims[0].reply, account, proof.accused)
    expected, claimed = _compared(document, statement, proof.value)
    if expected == claimed:
        return Verdict("not-guilty", proof.accused, proof.kind, "answer and statement agree", expected, claimed)
    fault = fault_id(proof.accused, f"{DEVICE} {statement.name.hex()}")
    reason = "the accused answered otherwise than it computes"
    return Verdict("guilty", proof.accused, proof.kind, reason, expected, claimed, fault)


def _document(reply: Message, account: Account, accused: str) -> Any:
    """Return the JSON document of a signed answer."""
    base, request = account.base, account.request
    if base is None or request is None or base.get("device") != DEVICE.encode():
        raise Undecided(f"the account is not of an answer of {DEVICE}")
    if request.get("path") != b"completions" or "completions" in base:
        raise Undecided("the account is of something else than what the key 'completions' answers")
    before = account.record.hashpath_before if "/" in account.record.hashpath_before else ""
    answered = said(Claim(reply, base, request), accused, before)
    if account.record.result not in contents(answered):
        raise Undecided("the signed reply is not the result that the account is about")
    body = answered.get("body")
    if type(body) is not bytes:
        raise Undecided("the answer has no document")
    return document(body)


def _compared(found: Any, statement: statements.Statement, value: bytes) -> tuple[str, str]:
    """Return what the statement says of an answer's token, and what the answer says."""
    try:
        words, choice = found["hyperpy"], found["choices"][0]
        sampling, prompt, ids = words["sampling"], list(words["prompt_token_ids"]), list(choice["token_ids"])
        states = [*words["states"][0]] if "states" in words else [None] * (len(ids) - 1) + [words["state"][0]]
        told_of = (words["model-id"], words["weight-root"], words["config-digest"], len(prompt))
        drawn = (sampling["t16"], sampling["top-k"], sampling["p16"], sampling["seed"])
        number = statement.count - statement.prompt
        listed = b"".join(one.to_bytes(4, "little") for one in [*prompt, *ids[:number]])
        ident, state = ids[number], states[number]
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
        raise Undecided("the answer is not about the sequence of the statement") from None
    s, mine = statement.sampling, statement
    same = (mine.model.hex(), mine.weights.hex(), mine.config.digest.hex(), mine.prompt)
    if told_of != same or drawn != (s.t16, s.top_k, s.p16, s.seed.hex()):
        raise Undecided("the answer is of another model or sampling than the statement")
    if hashlib.sha256(listed).digest() != mine.ids:
        raise Undecided("the answer is of other ids than the statement")
    if ident != mine.chosen:
        return f"id {mine.chosen}", _shown("id", ident)
    if state is not None and state != mine.state.hex():
        return f"state {mine.state.hex()}", _shown("state", state)
    return _roots(words, number, statement, value) if value else ("as stated", "as stated")


def _shown(name: str, found: Any) -> str:
    """Return what an answer says, as text that every message can hold."""
    return f"{name} {found}".encode("ascii", "backslashreplace")[:100].decode()


def _roots(words: Any, number: int, statement: statements.Statement, value: bytes) -> tuple[str, str]:
    """Return what the statement says of a token's roots, and what the answer says (levels 2 and 3)."""
    found = whole.decode(value)
    if not isinstance(found, Message) or found.raw_items().keys() != {"path", "parts", "ops"}:
        raise CodecError("not an opened token")
    path, parts, flat = (_digests(found.raw(name)) for name in ("path", "parts", "ops"))
    ops = [flat[at : at + len(OPS)] for at in range(0, len(flat), len(OPS))]
    layers, n = statement.config.layers, statement.count
    if len(parts) != layers + 4 or len(flat) != layers * len(OPS) or [trees.over(one) for one in ops] != parts[1:-3]:
        raise CodecError("an opened token's roots do not fit each other")
    if trees.climb(trees.leaf(trees.over(parts)), n - 1, n, path) != statement.trace_root:
        raise CodecError("an opened token does not hash to what was signed")
    try:
        told_roots = words["commitments"][0][number]
        finer = "ops" in told_roots
    except (TypeError, KeyError, IndexError):
        raise Undecided("the answer tells no roots of this token") from None
    true = told_of(statement.state, parts, statement.cache_root, ops if finer else ())
    if told_roots == true:
        return "as stated", "as stated"
    differs = [name for name, one in true.items() if not isinstance(told_roots, dict) or told_roots.get(name) != one]
    return f"the roots of the statement: {', '.join(differs) or 'no others'}", "others"


def _digests(found: Value | None) -> list[bytes]:
    if type(found) is not bytes or len(found) % 32:
        raise CodecError("an opened token is digests, one after another")
    return [found[at : at + 32] for at in range(0, len(found), 32)]
