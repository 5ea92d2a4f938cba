"""wasi-nn@1.0: language models for WebAssembly guests, through the calls of WASI-NN (docs/wasm.md).

Graphs, contexts, inputs and outputs are keys of ``wasi-nn`` in the state, so they are part of it and of its ID. What
a guest computes is what inference@1.0 answers, asked by path; each token costs the guest :data:`TOKEN_STEPS` steps.
"""

from __future__ import annotations

import json as plain
import re
from typing import Any, Final, Protocol, cast

from hyperpy import Context, Message, device, key
from hyperpy.codecs import json
from hyperpy.encoding import key_bytes
from hyperpy.errors import KeyNotFound, MessageError, NotFound, ParameterError, SizeError
from hyperpy.inference.prompts import parameters
from hyperpy.message import Value, as_text

SUCCESS, INVALID_ARGUMENT, INVALID_ENCODING, MISSING_MEMORY = 0, 1, 2, 3
UNSUPPORTED_OPERATION, TOO_LARGE, PROMPT_TOO_LONG, MODEL_NOT_FOUND = 6, 7, 102, 103
"""Error numbers of WASI-NN, and from 100 those that its users for language models added. 4, busy, is never used:
who has no time or room for an answer is told so with 503 or 504, and the call has no result."""

NAME, CONFIG, INPUT = 256, 4096, 65_536
"""Bytes of a model's name, of a configuration or options, of a prompt."""
GRAPHS, CONTEXTS = 16, 16
"""Graphs of one state; contexts, of which the oldest goes when one more is made."""
TOKEN_STEPS: Final = 1_000_000
"""Steps that a guest pays for each token of prompt and answer."""
_LEAST, _MOST_TOKENS = 256, ("max_tokens", "max_completion_tokens")
_TEXT_TYPES = (2, 3)
"""``u8`` among WASI-NN's types of tensors: in the form of 2022, and since 2024."""
_HANDLES = 1 << 31
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_REFERENCE = re.compile(r"[0-9a-f]{64}")
_MODELS = Message({"device": "inference@1.0"})


class _Guest(Protocol):
    """A guest that waits for an import."""

    memory64: bool

    def peek(self, at: int, size: int) -> bytes: ...
    def poke(self, at: int, data: bytes) -> None: ...
    def lend(self, data: bytes) -> int: ...
    def left(self) -> int: ...
    def spend(self, steps: int) -> None: ...


class _Refused(Exception):
    """The call is answered with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@device("wasi-nn@1.0", uses=("hyperpy.inference.prompts",))
class WasiNn:
    """Language models for WebAssembly guests: the library ``wasi_ephemeral_nn``; its calls take ``state`` and ``args``.

    A model is named by its reference, or by a name that the process gives one: ``models`` (a message of references by
    name), or ``model`` for an empty name and ``default``. Outside of processes, a name is what this node calls a model.
    """

    @key
    def init(self, base: Message) -> Message:
        """Become the library ``wasi_ephemeral_nn`` of the image."""
        where = [*_prefix(base), "stdlib", "wasi_ephemeral_nn"]
        return _put(base, where, Message({"device": "wasi-nn@1.0"}))

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """As an import: have the model answer the context's input; answer 0 or an error number. Else: the base."""
        state = base.get("state")
        if not isinstance(state, Message) or _waiting(state) is None:
            return base
        call = _Call(state, request, 1)
        return call.answered(lambda: _compute(call, call.args[0], ctx))

    @key
    def load(self, base: Message, request: Message) -> Message:
        """Answer 6: weights come from the node, by name, and not from the guest."""
        return _Call(_state(base), request, 0).answer(UNSUPPORTED_OPERATION)

    @key
    def load_by_name(self, base: Message, request: Message, ctx: Context) -> Message:
        """Write the number of the graph of a model; answer 0 or an error number."""
        call = _Call(_state(base), request, 3)
        return call.answered(lambda: _load(call, b"", call.args[2], ctx))

    @key
    def load_by_name_with_config(self, base: Message, request: Message, ctx: Context) -> Message:
        """As ``load_by_name``, with a JSON object of OpenAI's parameters that hold for the graph's contexts."""
        call = _Call(_state(base), request, 5)
        return call.answered(lambda: _load(call, call.options(*call.args[2:4]), call.args[4], ctx))

    @key
    def init_execution_context(self, base: Message, request: Message) -> Message:
        """Write the number of a new context of a graph; answer 0 or an error number."""
        call = _Call(_state(base), request, 2)

        def work() -> None:
            call.graph(call.args[0])
            number = call.next()
            kept = dict(sorted(call.table("contexts").items(), key=lambda one: int(one[0]))[-(CONTEXTS - 1) :])
            call.put("contexts", kept | {str(number): Message({"graph": call.args[0]})})
            call.write_u32(call.args[1], number)

        return call.answered(work)

    @key
    def set_input(self, base: Message, request: Message) -> Message:
        """Take a tensor of bytes: input 0 is the prompt, 1 a JSON object of OpenAI's parameters; answer 0 or an error.

        A prompt is a user's turn, or a JSON object with ``messages`` or ``prompt``.
        """
        call = _Call(_state(base), request, 3)

        def work() -> None:
            context = call.context(call.args[0])
            at, size = call.tensor(call.args[2])
            if call.args[1] == 0:
                given = {"prompt": call.text(at, size, INPUT)}
            elif call.args[1] == 1:
                given = {"options": call.options(at, size)}
            else:
                raise _Refused(INVALID_ARGUMENT)
            call.keep(call.args[0], (context | given).without("output"))

        return call.answered(work)

    @key
    def get_output(self, base: Message, request: Message) -> Message:
        """Write output 0, the answer's text, or 1, the document of inference@1.0, and its size; answer 0 or an error.

        If there is no room for it, nothing but its size is written, and the answer is 7.
        """
        call = _Call(_state(base), request, 5)

        def work() -> None:
            number, index, at, most, written = call.args[:5]
            found = call.context(number).get("output")
            if not isinstance(found, bytes) or index not in (0, 1):
                raise _Refused(INVALID_ARGUMENT)
            data = found if index else _text_of(found)
            call.write_u32(written, len(data))
            if len(data) > (most if most >= 0 else most + (1 << 32)):
                raise _Refused(TOO_LARGE)
            call.poke(at, data)

        return call.answered(work)

    @key
    def run_inference(self, base: Message, request: Message, ctx: Context) -> Message:
        """Answer where the text of the answer to a prompt stands, with a NUL behind it; 0 if there is none.

        It is made by the context that was made last; the memory comes from the guest's ``malloc``.
        """
        state = _state(base)
        call = _Call(state, request, 2)
        try:
            prompt = call.text(call.args[0], call.args[1], INPUT)
            number = max(map(int, call.table("contexts")), default=-1)
            call.keep(number, call.context(number) | {"prompt": prompt})
            _compute(call, number, ctx)
            text = _text_of(call.context(number)["output"])
        except _Refused:
            call.state = state
            return call.answer(0)
        return call.answer(call.guest.lend(text))

    @key
    def run_inference_http(
        self, request: Message, ctx: Context, prompt: str, config: str = "", model: str = ""
    ) -> Message:
        """Return the text that a model answers to ``prompt``; ``config`` is JSON with OpenAI's parameters."""
        if request.get("method", b"GET") != b"GET":
            raise ParameterError("Unsupported method", name="method", hint="Use GET.")
        asked = parameters(key_bytes(prompt), [key_bytes(config)])
        asked |= {"model": key_bytes(model), "stream": False, "tee": False}
        base = _MODELS | {"chat-mode": "messages" in asked}
        reply = ctx.resolve(base, Message({"path": "completions", "body": json.encode(Message.make(asked))}))
        document = reply.get("body") if isinstance(reply, Message) else None
        assert isinstance(document, bytes)
        return Message({"content-type": "text/plain; charset=utf-8", "body": _text_of(document)})


class _Call:
    """One call of a guest: its arguments, its memory, and the state that it makes."""

    def __init__(self, state: Message, request: Message, count: int) -> None:
        found = request.get("args", ())
        if not isinstance(found, tuple) or len(found) < count or not all(type(item) is int for item in found):
            raise ParameterError(f"wasi-nn: 'args' must be a list of {count} integers", name="args")
        guest = _waiting(state)
        if guest is None:
            raise KeyNotFound("wasi-nn: no guest is waiting for this call")
        self.state, self.guest = state, guest
        self.args = [cast(int, item) for item in found]

    # -- answers ---------------------------------------------------------------------------------

    def answer(self, number: int) -> Message:
        return Message.make({"state": self.state, "results": (number,)})

    def answered(self, work: Any) -> Message:
        """Do the call's work; answer 0, or the number of what refused it: then the state is as it was."""
        before = self.state
        try:
            work()
        except _Refused as refused:
            self.state = before
            return self.answer(refused.number)
        return self.answer(SUCCESS)

    # -- the guest's memory ----------------------------------------------------------------------

    def peek(self, at: int, size: int) -> bytes:
        try:
            return self.guest.peek(at, size)
        except ParameterError:
            raise _Refused(MISSING_MEMORY) from None

    def poke(self, at: int, data: bytes) -> None:
        try:
            self.guest.poke(at, data)
        except ParameterError:
            raise _Refused(MISSING_MEMORY) from None

    def write_u32(self, at: int, number: int) -> None:
        self.poke(at, number.to_bytes(4, "little"))

    def text(self, at: int, size: int, most: int) -> bytes:
        """Return bytes that must be text, without NULs at the end."""
        if not 0 <= size <= most:
            raise _Refused(TOO_LARGE)
        data = self.peek(at, size).rstrip(b"\0")
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise _Refused(INVALID_ENCODING) from None
        return data

    def options(self, at: int, size: int) -> bytes:
        """Return bytes that must be a JSON object; nothing stands for an empty one."""
        data = self.text(at, size, CONFIG)
        try:
            if data and not isinstance(json.decode(data), Message):
                raise _Refused(INVALID_ENCODING)
        except MessageError:
            raise _Refused(INVALID_ENCODING) from None
        return data

    def tensor(self, at: int) -> tuple[int, int]:
        """Return address and size of a tensor's bytes: a list of dimensions, a type, a list of bytes."""
        word = 8 if self.guest.memory64 else 4
        raw = self.peek(at, 5 * word)
        if raw[2 * word] not in _TEXT_TYPES:
            raise _Refused(INVALID_ENCODING)
        return int.from_bytes(raw[3 * word : 4 * word], "little"), int.from_bytes(raw[4 * word :], "little")

    # -- what the state holds --------------------------------------------------------------------

    def table(self, name: str) -> dict[str, Message]:
        """Return graphs or contexts by number."""
        own = self.state.get("wasi-nn")
        found = own.get(name) if isinstance(own, Message) else None
        items = found.items() if isinstance(found, Message) else ()
        return {name: one for name, one in items if _NUMBER.fullmatch(name) and isinstance(one, Message)}

    def put(self, name: str, table: dict[str, Message]) -> None:
        self.state = _put(self.state, ["wasi-nn", name], Message.make(dict(table)))

    def next(self) -> int:
        """Return the number of a new context."""
        own = self.state.get("wasi-nn")
        found = own.get("made") if isinstance(own, Message) else None
        number = found if type(found) is int and 0 <= found < _HANDLES else 0
        self.state = _put(self.state, ["wasi-nn", "made"], (number + 1) % _HANDLES)
        return number

    def graph(self, number: int) -> Message:
        return self._one("graphs", number)

    def context(self, number: int) -> Message:
        return self._one("contexts", number)

    def keep(self, number: int, context: Message) -> None:
        self.put("contexts", self.table("contexts") | {str(number): context})

    def _one(self, name: str, number: int) -> Message:
        found = self.table(name).get(str(number))
        if found is None:
            raise _Refused(INVALID_ARGUMENT)
        return found


def _load(call: _Call, config: bytes, at: int, ctx: Context) -> None:
    """Give a model a graph; the same model and configuration have one graph."""
    model = _model(call.state, call.text(call.args[0], call.args[1], NAME).decode("utf-8"), ctx)
    made = Message({"model": model, "config": config})
    known = call.table("graphs")
    number = next((one for one, graph in known.items() if graph == made), None)
    if number is None:
        if len(known) >= GRAPHS:
            raise _Refused(TOO_LARGE)
        number = str(len(known))
        call.put("graphs", known | {number: made})
    call.write_u32(at, int(number))


def _model(state: Message, name: str, ctx: Context) -> str:
    """Return the reference that a name stands for; a process's state depends on no node's names."""
    process = state.get("process")
    named = process if isinstance(process, Message) else state
    models = named.get("models")
    found = models.get(name) if isinstance(models, Message) else None
    if found is None and name in ("", "default"):
        found = named.get("model")
    wanted = as_text(found) if isinstance(found, bytes) else name
    if _REFERENCE.fullmatch(wanted):
        return wanted
    if isinstance(process, Message):
        raise _Refused(MODEL_NOT_FOUND)
    try:
        told = ctx.resolve(_MODELS, {"path": "which", "model": wanted})
    except NotFound:
        raise _Refused(MODEL_NOT_FOUND) from None
    assert isinstance(told, Message)
    return told.text("reference")


def _compute(call: _Call, number: int, ctx: Context) -> None:
    """Have inference@1.0 answer a context's prompt, and take its tokens from the guest's steps."""
    context = call.context(number)
    graph = call.table("graphs").get(str(context.get("graph")))
    prompt, model = context.get("prompt"), graph.get("model") if graph is not None else None
    if graph is None or not isinstance(prompt, bytes) or not isinstance(model, bytes) or not prompt:
        raise _Refused(INVALID_ARGUMENT)
    try:
        asked = parameters(prompt, [graph.get("config"), context.get("options")])
    except ParameterError:
        raise _Refused(INVALID_ARGUMENT) from None
    asked |= {"model": model, "stream": False, "tee": False, **_affordable(asked, call.guest.left())}
    base = _MODELS | {"chat-mode": "messages" in asked}
    try:
        body = json.encode(Message.make(asked))
    except MessageError:
        raise _Refused(INVALID_ENCODING) from None
    try:
        reply = ctx.resolve(base, Message({"path": "completions", "body": body}))
    except MessageError as error:
        if error.device != "inference@1.0":  # a limit of this node's, on how many steps a request may take
            raise
        raise _Refused(PROMPT_TOO_LONG if isinstance(error, SizeError) else INVALID_ARGUMENT) from None
    document = reply.get("body") if isinstance(reply, Message) else None
    assert isinstance(document, bytes)
    call.guest.spend(plain.loads(document)["usage"]["total_tokens"] * TOKEN_STEPS)
    call.keep(number, context | {"output": document})


def _affordable(asked: dict[str, Value], left: int) -> dict[str, Value]:
    """Return a bound on the answer's tokens where what was asked for is more than the guest can pay."""
    most = left // TOKEN_STEPS + 1
    given = {name: asked[name] for name in _MOST_TOKENS if name in asked}
    if not given:
        return {"max_tokens": most} if most < _LEAST else {}
    return {name: most for name, found in given.items() if isinstance(found, int) and found > most}


def _text_of(document: Value) -> bytes:
    """Return the text of an answer's first choice."""
    try:
        choice: dict[str, Any] = plain.loads(as_text(document))["choices"][0]
        text: str = choice["message"]["content"] if "message" in choice else choice["text"]
        return text.encode("utf-8", "replace")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Refused(INVALID_ARGUMENT) from None


# -- the state -----------------------------------------------------------------------------------


def _state(base: Message) -> Message:
    found = base.get("state")
    if not isinstance(found, Message):
        raise KeyNotFound("wasi-nn: this is an import of a running guest; 'state' is missing")
    return found


def _waiting(state: Message) -> _Guest | None:
    """Return the guest that waits for a call, if one does."""
    found: Any = state.private.get("/".join([*_prefix(state), "instance"]))
    return cast(_Guest, found) if hasattr(found, "poke") else None


def _prefix(base: Message) -> list[str]:
    found = base.get("output-prefix")
    return [] if found is None else [part for part in as_text(found, "output-prefix").split("/") if part]


def _put(base: Message, parts: list[str], item: Value) -> Message:
    """Return the base with a value at a path of plain keys."""
    if len(parts) == 1:
        return base | {parts[0]: item}
    inner = base.get(parts[0])
    return base | {parts[0]: _put(inner if isinstance(inner, Message) else Message(), parts[1:], item)}
