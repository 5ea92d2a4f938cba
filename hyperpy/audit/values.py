"""Disputing a language model's answer with the node that gave it: its word, opened down to one value (HPI-1, 13)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from hyperpy import commitments
from hyperpy.audit.fault import Peer, lean, signer_of, with_account
from hyperpy.codecs import whole
from hyperpy.encoding import sha256
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, UpstreamError
from hyperpy.fault_proof import INFERENCE, Claim, Proof
from hyperpy.inference import trees
from hyperpy.inference.commitments import told_of
from hyperpy.inference.disputes import Answer, Outcome, Question, dispute
from hyperpy.inference.reference import Engine
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.traces import Trace, WeightTree
from hyperpy.message import Message, committed_list

_RETRIES: Final = 120
"""Times that a node which still computes, or is asked by others, is asked again."""


@dataclass(frozen=True, slots=True)
class Told:
    """A model's answer as somebody has it.

    Attributes:
        reference, model: what it is said to be of (hex).
        prompt, ids: token ids. states: hex; those that are not told are empty.
        roots: levels 2 and 3 of each token, as they were told; none at lower levels.
        reply: the signed message that it came in; None where only the document is known.
    """

    reference: str
    model: str
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    states: tuple[str, ...]
    sampling: Sampling
    roots: tuple[Any, ...] = ()
    reply: Message | None = None


def told(data: bytes) -> Told:
    """Return the answer in a file: OpenAI's document, or the signed reply that held it (``--save-reply``).

    Raises:
        CodecError: it is neither, or not an answer of inference@1.0.
        InvalidSignature: a signature of the reply does not verify, or does not cover the answer.
    """
    reply: Message | None = None
    if len(data) > 32 and sha256(data[:-32]) == data[-32:]:
        found = whole.decode(data[:-32])
        reply = _tagged(found) if isinstance(found, Message) and found.commitments else None
        if reply is not None:
            _check_signed(reply)
        body = reply.get("body") if reply is not None else None
        data = body if isinstance(body, bytes) else b""
    try:
        document: Any = json.loads(data)
        words, choice = document["hyperpy"], document["choices"][0]
        drawn, prompt, ids = words["sampling"], words["prompt_token_ids"], choice["token_ids"]
        states = words["states"][0] if "states" in words else [""] * (len(ids) - 1) + [words["state"][0]]
        t16, top_k, p16 = (_whole(drawn[one]) for one in ("t16", "top-k", "p16"))
        sampling = Sampling(t16, top_k, p16, bytes.fromhex(drawn["seed"]))
        made = Told(
            str(words["reference"]),
            str(words["model-id"]),
            tuple(map(_whole, prompt)),
            tuple(map(_whole, ids)),
            tuple(map(str, states)),
            sampling,
            tuple(words["commitments"][0]) if "commitments" in words else (),
            reply,
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise CodecError("not an answer of a language model with what it depends on, under 'hyperpy'") from None
    if not made.prompt or not made.ids or {len(made.states), len(made.roots) or len(made.ids)} != {len(made.ids)}:
        raise CodecError("the answer has no tokens, or not a state for each")
    return made


def _tagged(reply: Message) -> Message:
    for one in reply.commitments.values():
        tag = one.raw("tag")
        if isinstance(tag, bytes):
            return reply.with_private(hashpath=tag.decode("ascii", "replace"))
    return reply


def _check_signed(reply: Message) -> None:
    """Find whether the reply's signer signed its answer, with the hashpath; raise InvalidSignature."""
    commitments.check(reply)
    signer = signer_of(reply)
    signed = (one for one in reply.commitments.values() if commitments.committer_of(one) == signer and "tag" in one)
    if not all({"body", "status"} <= set(committed_list(one)) for one in signed):
        raise InvalidSignature("the signature leaves the answer out")


def _whole(found: Any) -> int:
    if type(found) is not int or not 0 <= found < 1 << 31:
        raise ValueError("not a whole number")
    return found


def computed(engine: Engine, weights: bytes, answer: Told) -> Trace:
    """Return one's own computation of an answer, up to the first token of which it says something false.

    Raises:
        ParameterError, SizeError: its ids are none of the model's.
    """
    from hyperpy.inference.generation import check_prompt

    ids = [*answer.prompt, *answer.ids[:-1]]
    check_prompt(engine.config, [*ids, answer.ids[-1]], 1)
    made = Trace(engine, weights, ids, len(answer.prompt), answer.sampling)
    wrong = next((at for at in made.choices if not _right(made, answer, at)), len(ids) - 1)
    if wrong == len(ids) - 1:
        return made
    return Trace(engine, weights, ids[: wrong + 1], len(answer.prompt), answer.sampling)


def _right(mine: Trace, answer: Told, at: int) -> bool:
    """Say whether what an answer says of the token behind a position is what one computes oneself."""
    number = at - mine.prompt + 1
    if answer.ids[number] != mine.choices[at] or answer.states[number] not in ("", mine.states[at].hex()):
        return False
    if not answer.roots:
        return True
    roots = answer.roots[number]
    return bool(roots == _roots(mine, at, isinstance(roots, dict) and "ops" in roots))


def _roots(mine: Trace, at: int, finer: bool) -> dict[str, Any]:
    """Return levels 2 and 3 of a token."""
    heads = ((layer, head) for layer in range(mine.config.layers) for head in range(mine.config.kv_heads))
    bags = [trees.bag(trees.peaks_of(mine.entries(*one, 0, at + 1))) for one in heads]
    found = mine.roots(at)
    return told_of(mine.states[at], found.parts(), trees.over(bags), found.ops if finer else ())


class Claimant:
    """A node that is asked about its computation of a sequence; see :data:`hyperpy.inference.disputes.Ask`.

    Args:
        heard: called before each round trip.

    Attributes:
        signer: address of the node, when it has begun the dispute and signs.
    """

    def __init__(self, peer: Peer, reference: str, mine: Trace, heard: Callable[[], None] = lambda: None) -> None:
        self._peer, self._heard, self._name, self.signer = peer, heard, "", ""
        s = mine.sampling
        asked = {"model": reference, "ids": list(map(int, mine.ids)), "prompt": mine.prompt, "t16": s.t16}
        self._asked = json.dumps({**asked, "top_k": s.top_k, "p16": s.p16, "seed": s.seed.hex()}).encode()

    def __call__(self, questions: Sequence[Question]) -> list[Answer]:
        """Send questions in one round trip."""
        self._heard()
        return [self._one(dict(one)) for one in questions]

    def _one(self, question: dict[str, Any]) -> Answer:
        if question["ask"] == b"tokens":
            return self._begun()
        words = [(name, one.decode() if isinstance(one, bytes) else str(one)) for name, one in question.items()]
        query = "&".join(map("=".join, [("name", self._name), *words]))
        for _ in range(_RETRIES):
            asked = self._peer.ask(f"/~{INFERENCE}/opening?{query}")
            if asked.reply.get("status") != 503:
                break
            time.sleep(1.0)
        return Answer(_body(asked.reply), asked.claim)

    def _begun(self) -> Answer:
        for _ in range(_RETRIES):
            reply = self._peer.post(f"/~{INFERENCE}/dispute", self._asked)
            if reply.get("status") not in (503, 504):
                break
            time.sleep(1.0)
        body, name = _body(reply), reply.get("name")
        with suppress(InvalidSignature):
            self.signer = signer_of(reply)
        self._name = name.decode("ascii", "replace") if isinstance(name, bytes) else ""
        if len(self._name) != 64:
            raise UpstreamError("the node does not begin a dispute", hint="Only hyperpy nodes with the model do.")
        return Answer(body)


def _body(reply: Message) -> bytes:
    """Return an answer's bytes; raise UpstreamError where the node answers with an error."""
    status, body = reply.get("status"), reply.get("body")
    if status != 200 or not isinstance(body, bytes):
        text = body[:200].decode("utf-8", "replace") if isinstance(body, bytes) else ""
        raise UpstreamError(f"the node refuses to open its computation ({status!r}): {text}")
    return body


@dataclass(frozen=True, slots=True)
class Disputed:
    """What came of a dispute: a proof, or none, and words for people.

    Attributes:
        agreed: whether the node computes the ids that it answered, and this machine does; nothing else is compared.
    """

    proof: Proof | None
    words: str
    rounds: int
    agreed: bool = False


def disputed(peer: Peer, answer: Told, mine: Trace, weights: WeightTree) -> Disputed:
    """Dispute an answer with the node that gave it.

    Raises:
        Refused: it does not open what it committed to.
        UpstreamError: it cannot be asked.
    """
    claimant = Claimant(peer, answer.reference, mine)
    outcome = dispute(mine, weights, claimant)
    if answer.reply is not None and signer_of(answer.reply) != claimant.signer:
        raise InvalidSignature(
            f"the answer is signed by {signer_of(answer.reply)}, and the node that is asked is another",
            hint="Name the node that signed it with --url.",
        )
    if outcome.evidence is not None:
        return Disputed(_wrong_value(outcome), f"found in {outcome.rounds} round trips", outcome.rounds)
    if _right(mine, answer, len(mine.ids) - 1):
        return Disputed(None, "the node computes what it answered, and so does this machine", outcome.rounds, True)
    if answer.reply is None:
        words = "the node computes something else than this answer, which nobody signed"
        return Disputed(None, words, outcome.rounds)
    (statement,) = claimant([{"ask": b"statement"}])
    accused = signer_of(answer.reply)
    claim, account = with_account(peer, answer.reply, accused)
    claims, value = (claim, _lean(statement.word, accused)), _token(mine) if answer.roots else b""
    proof = Proof("wrong-answer", accused, claims=claims, accounts=(account,), value=value)
    return Disputed(proof, "the node computes something else than it answered", outcome.rounds + 1)


def _token(mine: Trace) -> bytes:
    """Return the last token, opened to its op roots."""
    last = len(mine.ids) - 1
    found, path = mine.roots(last), trees.path([trees.leaf(one) for one in mine.tokens], last)
    parts = {"path": path, "parts": found.parts(), "ops": [one for layer in found.ops for one in layer]}
    return whole.encode(Message.make({name: b"".join(one) for name, one in parts.items()}))


def _wrong_value(outcome: Outcome) -> Proof:
    if outcome.evidence is None or outcome.statement is None:
        raise HyperpyError("the dispute found nothing")
    claims = [one.word for one in (outcome.statement, outcome.partials) if one is not None]
    accused = signer_of(claims[0].reply)
    words = tuple(_lean(one, accused) for one in claims)
    return Proof("wrong-value", accused, claims=words, value=outcome.evidence.encode())


def _lean(claim: Claim, accused: str) -> Claim:
    return Claim(lean(claim.reply, accused), claim.base, claim.request)
