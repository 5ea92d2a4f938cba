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
from hyperpy.inference.sampler import Sampling
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
    fault = _fault(proof, statement, result.lie)
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
    part, expected, claimed = _compared(document, statement, proof.value)
    if expected == claimed:
        return Verdict("not-guilty", proof.accused, proof.kind, "answer and statement agree", expected, claimed)
    where = "" if part == "name" else f" {statement.ids.hex()}"
    if part == "token" and statement.sampling.t16:
        s = statement.sampling
        where += f" {s.t16} {s.top_k} {s.p16} {s.seed.hex()}"
    fault = _fault(proof, statement, f"answer {part}{where}")
    reason = f"the accused answered otherwise than it computes: another {part}"
    return Verdict("guilty", proof.accused, proof.kind, reason, expected, claimed, fault)


def _fault(proof: Proof, statement: statements.Statement, lie: str) -> str:
    """Return the name of a lie about a model's computation: of what is false in it, not of who asked for it how."""
    return fault_id(proof.accused, f"{DEVICE} {statement.model.hex()} {lie}")


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


def _compared(found: Any, statement: statements.Statement, value: bytes) -> tuple[str, str, str]:
    """Return of what an answer's token they speak, what the statement says of it, and what the answer says."""
    s, mine = statement.sampling, statement
    try:
        words, choice = found["hyperpy"], found["choices"][0]
        prompt, ids = list(words["prompt_token_ids"]), list(choice["token_ids"])
        states = [*words["states"][0]] if "states" in words else [None] * (len(ids) - 1) + [words["state"][0]]
        drawn = words["sampling"]
        sampling = Sampling(drawn["t16"], drawn["top-k"], drawn["p16"], bytes.fromhex(drawn["seed"]))
        number = mine.count - mine.prompt
        listed = b"".join(one.to_bytes(4, "little") for one in [*prompt, *ids[:number]])
        ident, state = ids[number], states[number]
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
        raise Undecided("the answer is not about the sequence of the statement") from None
    labels = _labels(words, mine)
    if len(prompt) != mine.prompt or sampling.normal != s.normal:
        raise Undecided("the answer is of another prompt or sampling than the statement")
    if hashlib.sha256(listed).digest() != mine.ids:
        raise Undecided("the answer is of other ids than the statement")
    if ident != mine.chosen:
        return "token", f"id {mine.chosen}", _shown("id", ident)
    if state is not None and state != mine.state.hex():
        return "state", f"state {mine.state.hex()}", _shown("state", state)
    if labels:
        return "name", "the names of the statement", f"another {labels}"
    return ("root", *_roots(words, number, statement, value)) if value else ("token", "as stated", "as stated")


def _labels(words: Any, statement: statements.Statement) -> str:
    """Return which of the names in an answer is false; empty: none.

    What an answer is of, its reference tells, which is made of three of these names. An honest answer's fit it. Where
    they do not, they are no reason to think of another model: else one false name would free a liar.

    Raises:
        Undecided: by all its names, the answer is of another model.
    """
    true = {"model-id": statement.model, "config-digest": statement.config.digest, "weight-root": statement.weights}
    told = {name: _digest(words, name) for name in (*true, "tokenizer", "reference")}
    parts = [told[name] for name in ("model-id", "config-digest", "tokenizer")]
    false = [name for name, one in true.items() if told[name] != one]
    if told["reference"] == hashlib.sha256(b"".join(parts)).digest() and all(parts):
        if set(false) & {"model-id", "config-digest"}:
            raise Undecided("the answer is of another model than the statement")
        return ", ".join(false)
    return ", ".join(false) or "reference"


def _digest(words: Any, name: str) -> bytes:
    """Return a digest that an answer tells in hex; empty where it is none."""
    try:
        found = bytes.fromhex(words[name])
    except (TypeError, KeyError, ValueError):
        return b""
    return found if len(found) == 32 else b""


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
