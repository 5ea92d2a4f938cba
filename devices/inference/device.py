"""The keys of inference@1.0."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from hyperpy import Context, Message, Result, device, key
from hyperpy.capabilities import Models
from hyperpy.errors import Busy, HyperpyError, MessageError, ParameterError
from hyperpy.inference import commitments
from hyperpy.inference.serving import Card, Served, ids_of, in_time
from hyperpy.inference.shaders import NAMES
from hyperpy.inference.tokenizer import Tokenizer
from hyperpy.message import Value

from . import attested, browser, dispute, forms, listing, mail
from .asked import PARAMETERS, Asked, Reader, read, turns_of
from .begun import Begun
from .choices import Choice
from .forms import Forms

_ITSELF = Message({"device": "inference@1.0"})
_SHADERS = tuple(f"{name}.wgsl" for name in NAMES)


@device("inference@1.0", needs=("models",), uses=("hyperpy.inference",), shaders=_SHADERS)
class Inference:
    """Answers with a language model, in OpenAI's forms: ``/~inference@1.0/v1/chat/completions``.

    All arithmetic is integer (HPI-1), so the same request, model and seed give the same bits on every machine, and
    anybody who has the model can make an answer again. A model is named by its name here, or, the same everywhere, by
    its ``reference``; inside a process, or sealed, only by that.
    """

    def start(self, models: Models) -> None:
        """Take the models of this node."""
        self._models = models
        self._begun = Begun()

    def stop(self) -> None:
        """End all answers."""
        self._models.close()

    # -- OpenAI's paths -----------------------------------------------------------------------

    @key
    def v1(self, base: Message, request: Message) -> Message:
        """Return the base with the request's parameters, for the next part of the path."""
        return base | _parameters(request)

    @key
    def chat(self, base: Message, request: Message) -> Message:
        """Return what ``v1`` does, and note that ``completions`` are of a conversation."""
        return base | {**_parameters(request), "chat-mode": True}

    @key
    def completions(self, base: Message, request: Message, ctx: Context) -> Result | Message:
        """Answer ``messages`` (after ``chat``) or a ``prompt`` (text or token ids), as OpenAI's interface does.

        ``max_tokens``, ``temperature``, ``top_p``, ``top_k``, ``seed``, ``stop``, ``n``, ``logprobs``,
        ``top_logprobs``, ``stream`` and ``stream_options`` are understood; penalties, tools and biases are refused.
        Without ``seed`` the request's own ID is the seed. ``level`` says how finely the answer commits to what was
        computed: 0 the last state alone, 1 (the default) the state of every token, 2 layer roots, 3 op roots too.
        ``tee: true`` adds ``attestation``, evidence of this machine about request and answer.
        """
        with _shaped():
            asked = read(base, request)
            body, state = self._answered(asked, ctx)
            if asked.tee:
                plain = _json(body) | {"state": state}
                body = attested.body(asked.text, body, attested.ao_core(base, request, plain), ctx)
        if request.get("type") == b"Message":
            return Message({"data": body, "action": "Inference-Response"})
        return _json(body) | {"state": state}

    @key(deterministic=False, reads=True)
    def models(self) -> Message:
        """List the models of this node, as OpenAI's interface does; ``models/ID`` is one of them."""
        with _shaped():
            return _json(forms.listed(self._models.cards())) | {"device": listing.NAME}

    @key(deterministic=False, reads=True)
    def health(self, ctx: Context) -> Message:
        """Say that this node answers: ``status`` healthy, its models, and how much there is to do."""
        names, now = [card.name for card in self._models.cards()], self._models.stats()
        told = {"running": now.running, "waiting": now.waiting, "tokens": now.made, "tokens-reused": now.reused}
        return _json(forms.text_of({"status": "healthy", "models": names, "timestamp": int(ctx.now()), **told}))

    @key(deterministic=False, reads=True)
    def which(self, model: str = "") -> Message:
        """Return what a model's name means on this node: its ``reference``, and the digests it stands for."""
        card = self._models.which(model)
        return Message(
            {
                "name": card.name,
                "reference": card.reference,
                "model-id": card.model_id,
                "weight-root": card.weight_root,
                "config-digest": card.config_digest,
                "tokenizer": card.tokenizer,
                "source-sha256": card.source,
            }
        )

    @key(deterministic=False)
    def stamp(self, ctx: Context) -> Message:
        """Return the time (milliseconds) and 32 random bytes (hex), for an answer with evidence."""
        return Message({"timestamp": int(ctx.now() * 1000), "nonce": ctx.random(32).hex()})

    @key
    def page(self) -> Message:
        """Return an HTML page that asks this node, and computes the answer again in the browser, with WebGPU."""
        return Message({"content-type": "text/html; charset=utf-8", "body": browser.page()})

    @key(deterministic=False, reads=True)
    def weights(self, model: str = "", part: int = -1) -> Message:
        """Return how a model's file is laid out (JSON), or with ``part`` 4 MiB of it, for who computes elsewhere."""
        with _shaped():
            if part >= 0:
                data = self._models.part(model, part)
                return Message({"content-type": "application/octet-stream", "body": data})
            return _json(forms.layout(self._models.layout(model)))

    # -- text and ids --------------------------------------------------------------------------

    @key
    def tokenize(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the token ``ids`` of ``text`` (nothing in it is a special token), or of the turns ``messages``."""
        reader = Reader(base, request)
        tokenizer = self._opened(reader.text("model"), ctx)[1].tokenizer
        turns = reader.get("messages")
        ids = tokenizer.chat(turns_of(turns)) if turns is not None else tokenizer.encode(reader.text("text"))
        return Message({"ids": tuple(ids), "count": len(ids)})

    @key
    def detokenize(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the ``text`` of the list ``ids``; bytes that are no UTF-8 become U+FFFD."""
        reader = Reader(base, request)
        ids = reader.get("ids")
        if not isinstance(ids, tuple) or not all(type(one) is int for one in ids):
            raise ParameterError("'ids' must be a list of whole numbers", name="ids")
        tokenizer: Tokenizer = self._opened(reader.text("model"), ctx)[1].tokenizer
        return Message({"text": tokenizer.decode(one for one in ids if type(one) is int)})

    # -- disputes ------------------------------------------------------------------------------

    @key(name="dispute", deterministic=False, reads=True)
    def disputed(self, base: Message, request: Message, ctx: Context) -> Message:
        """Begin a dispute about an answer: compute ``ids`` again, and tell the root of every token (HPI-1, 13).

        ``model`` is a reference, ``ids`` the prompt and the answer but its last id, ``prompt`` how many are the prompt,
        ``t16 top_k p16 seed`` the sampling as the answer tells it. The ``name`` is what ``opening`` asks about.
        """
        model = Reader(base, request).text("model")
        if not mail.is_reference(model):
            raise ParameterError("a dispute names the model by reference", name="model", hint=mail.REFERENCE)
        served = self._models.open(model, ctx.deadline)
        asked = dispute.read(base, request, served.card.context)
        standing = self._models.standing
        standing.of(asked, served.tracing, bytes.fromhex(served.card.weight_root), ctx.deadline)
        return Message({"name": asked.name, "body": standing.answer(asked.name, {"ask": "tokens"}, ctx.deadline)})

    @key(deterministic=False, reads=True)
    def opening(self, request: Message, name: str, ctx: Context) -> Message:
        """Answer a question about a disputed computation, in canonical bytes (docs/fault-proofs.md).

        ``ask`` is ``statement``, ``token``, ``leaves``, ``leaf``, ``cache``, ``entries``, ``partials`` or ``columns``.
        The reply to the first and to ``partials`` is this node's word: a fault proof holds it.
        """
        return Message({"body": self._models.standing.answer(name, request, ctx.deadline)})

    # -- processes -------------------------------------------------------------------------------

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Answer a message that was scheduled to a process of this device, in its outbox.

        ``data`` is the prompt, or a JSON text with OpenAI's parameters; the answer goes to who sent it, as
        ``Inference-Response`` or ``Inference-Error``. The process names its model by reference, as ``model``; no
        message names another. A prompt has at most 2,048 tokens, an answer 256 in all its choices, levels 0 and 1.
        """
        found = mail.received(base, request)
        if found is None:
            return base
        try:
            answer = mail.response(self._answered(found.asked(), ctx, mailed=True)[0])
        except MessageError as error:  # what lacks time, room or the model is no result, and raised
            answer = mail.refusal(error.diagnostics())
        return base | {"results": found.results(answer)}

    # -- answering -------------------------------------------------------------------------------

    def _opened(self, model: str, ctx: Context) -> tuple[Card, Served]:
        """Return a model by name or reference; what a name means here is an answer of ``which``, and recorded."""
        if mail.is_reference(model):
            served = self._models.open(model, ctx.deadline)
            return replace(served.card, name=model), served
        found = ctx.resolve(_ITSELF, {"path": "which", "model": model})
        assert isinstance(found, Message)
        served = self._models.open(found.text("reference"), ctx.deadline)
        return replace(served.card, name=found.text("name")), served

    def _answered(self, asked: Asked, ctx: Context, mailed: bool = False) -> tuple[bytes, str]:
        """Return an answer as JSON, and the state of its first choice.

        Args:
            mailed: it is for a process, whose bounds are the device's and not the node's.
        """
        card, served = self._opened(asked.model, ctx)
        prompt = asked.ids(served.tokenizer, card.context)
        if mailed:
            mail.check_prompt(len(prompt))
        limit = min(asked.limit, max(card.context - len(prompt), 1))
        if not mailed:
            self._check(limit)
        documents = Forms(asked, card, prompt)
        made = [Choice(n, served.tokenizer, asked.stops, limit, asked.top) for n in range(len(asked.samplings))]
        drafts, name = self._drafts(len(made), served), (card.reference, asked.digest, asked.seed.hex())
        if mailed and (begun := self._begun.take(name)):
            drafts = begun
        with ExitStack() as open_sessions:
            if mailed:
                open_sessions.push(partial(self._unfinished, name, made))
            sessions = [
                open_sessions.enter_context(
                    served.batcher.submit(
                        prompt, drawn, limit, served.tokenizer.stops, draft=draft, deadline=ctx.deadline
                    )
                )
                for drawn, draft in zip(asked.samplings, drafts, strict=True)
            ]
            for choice, session in zip(made, sessions, strict=True):
                if asked.stream and asked.chat:
                    ctx.emit(documents.first(choice))
                for token in session:
                    choice.take(token)
                    if asked.stream and (piece := documents.news(choice)):
                        ctx.emit(piece)
                    if choice.reason:
                        break
                if asked.level > 1:
                    self._commit(served, prompt, choice, asked.level, ctx.deadline)
        served.check()
        if asked.stream:
            ctx.emit((documents.usage(made) if asked.usage else b"") + forms.DONE)
        return documents.whole(made), made[0].states[-1]

    def _unfinished(self, name: tuple[str, ...], made: list[Choice], kind: type[BaseException] | None, *_: Any) -> None:
        """Keep what there is of an answer that could not be finished, if it could not."""
        if kind is not None:
            self._begun.keep(name, [list(one.ids) for one in made])

    def _commit(self, served: Served, prompt: Sequence[int], choice: Choice, level: int, deadline: float) -> None:
        """Add levels 2 and 3 to a choice, from its ids alone."""
        paused = partial(in_time, deadline)
        ids, states = [*prompt, *choice.ids], [bytes.fromhex(one) for one in choice.states]
        choice.commitments = commitments.told(served.tracing(), ids, len(prompt), states, level, paused)

    def _check(self, limit: int) -> None:
        """Find whether this node makes answers so long; none is cut shorter than on others.

        Raises:
            Busy: it does not; that is no result.
        """
        if limit > self._models.most:
            raise Busy(
                f"this node makes at most {self._models.most} tokens of an answer",
                hint="Ask for fewer with max_tokens, or have the operator raise [inference] tokens.",
            )

    def _drafts(self, count: int, served: Served) -> Sequence[Sequence[int]]:
        """Return the ids that somebody claims for each choice of a request that is made again: they are tried first."""
        claimed = self._models.claimed()
        try:
            told: Any = json.loads(claimed) if claimed else {}
            listed = [one["token_ids"] for one in told["choices"]] if told else []
        except (ValueError, KeyError, TypeError):
            listed = []
        words = served.batcher.vocabulary
        return [ids_of(listed[n], words) if n < len(listed) else () for n in range(count)]


@contextmanager
def _shaped() -> Iterator[None]:
    """Have errors answered in OpenAI's shape."""
    try:
        yield
    except HyperpyError as error:
        error.device = error.device or "inference@1.0"
        error.document = forms.failed(error)
        raise


def _json(body: bytes) -> Message:
    return Message({"status": 200, "content-type": "application/json", "body": body})


def _parameters(request: Message) -> dict[str, Value]:
    """Return the parameters that a part of the path carries itself."""
    names = (*PARAMETERS, *(name.replace("_", "-") for name in PARAMETERS))
    return {name: request[name] for name in names if name in request}
