"""A computation that somebody stands for: its statement, and answers to whoever disputes it (HPI-1, section 13).

Of a token only its root is kept; what it was made of is computed again when somebody asks for it, from the cache.
Questions and answers are messages; see :meth:`Trace.answer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from hyperpy.codecs import whole
from hyperpy.errors import ParameterError
from hyperpy.inference import reference, trees
from hyperpy.inference.arith import Ints
from hyperpy.inference.commitments import (
    CHUNK,
    OPS,
    Tensors,
    TokenRoots,
    entry_digests,
    tensor_roots,
    token_roots,
)
from hyperpy.inference.evidence import chunk_of, size_of
from hyperpy.inference.generation import state_hash
from hyperpy.inference.judging import scores, weighed
from hyperpy.inference.model import Config
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.statements import Partials, Statement
from hyperpy.inference.weights import Matrix, Weight
from hyperpy.message import Message, Value

QUESTIONS: Final = ("tokens", "statement", "token", "leaves", "leaf", "cache", "entries", "partials", "columns")
NAMES: Final = ("embedding", *OPS, "output_norm", "logits")


class Trace:
    """One sequence of ids, read by an engine.

    Args:
        engine: one that traces; see :func:`hyperpy.inference.commitments.tracing`.
        weights: weight-root of its model.
        ids: prompt, and the answer but its last id.
        prompt: how many of them are the prompt.
        sampling: how the answer's ids are chosen.
        paused: called between pieces; may raise.

    Attributes:
        tokens: the token roots.
        choices, states: for each position from the prompt's last on, the id that sampling chooses behind it, and S1.
    """

    def __init__(
        self,
        engine: reference.Engine,
        weights: bytes,
        ids: Sequence[int],
        prompt: int,
        sampling: Sampling,
        paused: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self.config, self.ids, self.prompt, self.sampling = engine, engine.config, ids, prompt, sampling
        self._weights = weights
        self.cache = engine.cache()
        self.cache.reserve(len(ids))  # at once: growing by doubling takes up to three times as much
        self.tokens: list[bytes] = []
        self.choices: dict[int, int] = {}
        self.states: dict[int, bytes] = {}
        self._last: tuple[int, dict[Any, Ints]] = (-1, {})
        for start in range(0, len(ids), CHUNK):
            paused()
            self._read(start, min(start + CHUNK, len(ids)))
        self.chosen, self.state = self.choices[len(ids) - 1], self.states[len(ids) - 1]

    def _read(self, start: int, end: int) -> None:
        found = Tensors(tensor_roots)
        rows = self.engine.forward(self.ids[start:end], self.cache, every=True, trace=found)
        for at in range(start, end):
            if at >= self.prompt - 1:
                self.choices[at] = self.sampling.choose(rows[at - start], at + 1)
                self.states[at] = state_hash(self.engine.model.ident, self.ids[: at + 1], rows[at - start])
            roots = token_roots(found.found, at - start, self.config.layers, self.following(at))
            self.tokens.append(roots.root())

    def following(self, token: int) -> int:
        """Return the id behind a token."""
        return self.ids[token + 1] if token + 1 < len(self.ids) else self.choices[token]

    # -- what it is made of ---------------------------------------------------------------------------

    def tensors(self, token: int) -> dict[Any, Ints]:
        """Return the tensors of a token by name: ``embedding``, (layer, op), ``output_norm``, ``logits``."""
        last = self._last  # held here: another thread may ask for another token meanwhile
        if last[0] != token:
            found = Tensors()
            self.engine.forward([self.ids[token]], self.cache.prefix(token, 1), every=True, trace=found)
            last = self._last = token, {name: rows[0] for name, rows in found.found.items()}
        return last[1]

    def tensor(self, token: int, op: str, layer: int) -> Ints:
        """Return one tensor of a token."""
        return self.tensors(token)[(layer, op) if op in OPS else op]

    def roots(self, token: int) -> TokenRoots:
        """Return level 3 of a token."""
        found = {name: [trees.tensor(row)] for name, row in self.tensors(token).items()}
        return token_roots(found, 0, self.config.layers, self.following(token))

    def entries(self, layer: int, head: int, first: int, last: int) -> list[bytes]:
        """Return the digests of positions ``first`` to ``last`` - 1 of a kv head's cache."""
        return entry_digests(self.cache, layer, head, first, last)

    @cached_property
    def bags(self) -> list[bytes]:
        """The bags of the cache."""
        c, n = self.config, len(self.ids)
        heads = ((layer, head) for layer in range(c.layers) for head in range(c.kv_heads))
        return [trees.bag(trees.peaks_of(self.entries(*one, 0, n))) for one in heads]

    def columns(self, token: int, layer: int) -> list[bytes]:
        """Return the columns of a long attention; see :class:`hyperpy.inference.statements.Partials`."""
        c, each = self.config, chunk_of(self.config.head)
        q, made = self.tensor(token, "q", layer), list[bytes]()
        for head in range(c.heads):
            kv, here = head * c.kv_heads // c.heads, slice(head * c.head, (head + 1) * c.head)
            k, ks, v = (part[layer, kv, : token + 1].astype(np.int64) for part in self._kept())
            s = scores(q[here], k, ks)
            top, cuts = int(s.max()), range(0, token + 1, each)
            sums = [weighed(s[at : at + each], top, v[at : at + each]) for at in cuts]
            pairs = np.zeros(len(sums), [("top", "<i4"), ("z", "<u8")])
            pairs["top"] = [int(s[at : at + each].max()) for at in cuts]
            pairs["z"] = [z for z, _ in sums]
            nums = np.array([num for _, num in sums]).astype("<i8")
            made += [pairs.tobytes(), *(np.ascontiguousarray(nums[:, i]).tobytes() for i in range(c.head))]
        return made

    def _kept(self) -> tuple[Any, Any, Any]:
        return self.cache.k, self.cache.ks, self.cache.v

    @cached_property
    def statement(self) -> Statement:
        """What is signed."""
        ids = np.array(self.ids)
        return Statement(
            model=self.engine.model.ident,
            weights=self._weights,
            config=self.config,
            tied="output.weight" not in self.engine.model.weights,
            count=len(self.ids),
            prompt=self.prompt,
            ids=hashlib.sha256(ids.astype("<u4").tobytes()).digest(),
            ids_root=trees.tensor(ids),
            sampling=self.sampling,
            state=self.state,
            chosen=self.chosen,
            trace_root=trees.over(self.tokens),
            cache_root=trees.over(self.bags),
        )

    # -- answers --------------------------------------------------------------------------------------

    def answer(self, question: Mapping[str, Any]) -> bytes:
        """Return the answer to a question, as canonical bytes; digests stand one after another.

        ``ask`` is one of :data:`QUESTIONS`:

        * ``tokens``: the statement, all token roots, and the bags of the cache;
        * ``statement``: the statement alone, to be signed;
        * ``token`` (``token``): what its root is over (``parts``), and the op roots of all layers;
        * ``leaves`` (``token``, ``op``, ``layer``): the digests of a tensor's leaves; ``leaf`` (``number`` too): one;
        * ``cache`` (``layer``, ``token``): for each kv head the nodes over whole chunks, the entries behind these,
          and the entries of the token's own chunk;
        * ``entries`` (``layer``, ``head``, ``chunk``): the digests of a chunk's entries;
        * ``partials`` (``token``, ``layer``): to be signed; ``columns`` (``number`` of a leaf too): those of its heads.

        Raises:
            ParameterError: there is no such question, or nothing to tell.
        """
        asked = question.get("ask")
        name = asked.decode("ascii", "replace") if isinstance(asked, bytes) else asked
        if name not in QUESTIONS:
            raise ParameterError(f"'ask' must be one of {', '.join(QUESTIONS)}", name="ask")
        if name == "statement":
            return self.statement.encode()
        return getattr(self, f"_{name}")(Asked(question, self.config, len(self.ids)))  # type: ignore[no-any-return]

    def _tokens(self, asked: Asked) -> bytes:
        made = {"statement": self.statement.encode(), "tokens": b"".join(self.tokens), "bags": b"".join(self.bags)}
        return _message(made)

    def _token(self, asked: Asked) -> bytes:
        roots = self.roots(asked.token)
        return _message({"parts": b"".join(roots.parts()), "ops": b"".join(map(b"".join, roots.ops))})

    def _leaves(self, asked: Asked) -> bytes:
        row = trees.as_bytes(self.tensor(asked.token, asked.op, asked.layer))
        return _message({"leaves": b"".join(trees.leaves(row))})

    def _leaf(self, asked: Asked) -> bytes:
        at, row = asked.number * trees.LEAF, trees.as_bytes(self.tensor(asked.token, asked.op, asked.layer))
        return _message({"leaf": row[at : at + trees.LEAF]})

    def _cache(self, asked: Asked) -> bytes:
        each, n, heads = chunk_of(self.config.head), len(self.ids), list[Value]()
        whole_chunks, mine = n // each, asked.token // each
        for head in range(self.config.kv_heads):
            entries = self.entries(asked.layer, head, 0, n)
            nodes = [trees.root(entries[at * each : (at + 1) * each]) for at in range(whole_chunks)]
            own = entries[mine * each : (mine + 1) * each] if mine < whole_chunks else []
            parts = {"chunks": nodes, "tail": entries[whole_chunks * each :], "own": own}
            heads.append(Message.make({name: b"".join(one) for name, one in parts.items()}))
        return _message({"heads": tuple(heads)})

    def _entries(self, asked: Asked) -> bytes:
        each = chunk_of(self.config.head)
        first = asked.whole("chunk", (len(self.ids) - 1) // each) * each
        last = min(first + each, len(self.ids))
        head = asked.whole("head", self.config.kv_heads - 1)
        return _message({"entries": b"".join(self.entries(asked.layer, head, first, last))})

    def _partials(self, asked: Asked) -> bytes:
        if asked.token < chunk_of(self.config.head):
            raise ParameterError("an attention this short has no partials", name="token")
        columns = self.columns(asked.token, asked.layer)
        root = trees.root([trees.leaf(one) for one in columns])
        return Partials(self.statement.name, asked.token, asked.layer, root).encode()

    def _columns(self, asked: Asked) -> bytes:
        columns, heads = self.columns(asked.token, asked.layer), heads_of(self.config, asked.number)
        each = self.config.head + 1
        digests = b"".join(trees.leaf(one) for one in columns)
        return _message({"digests": digests, "columns": tuple(columns[heads[0] * each : heads[-1] * each + each])})


def heads_of(config: Config, leaf: int) -> range:
    """Return the query heads whose values stand in a leaf."""
    last = min((leaf + 1) * trees.VALUES, config.heads * config.head) - 1
    return range(leaf * trees.VALUES // config.head, last // config.head + 1)


class Asked:
    """Reads the numbers of a question."""

    def __init__(self, question: Mapping[str, Any], config: Config, count: int) -> None:
        self._question, self._config, self._count = question, config, count

    def whole(self, name: str, most: int) -> int:
        """Return a whole number from 0 to ``most``."""
        found = self._question.get(name, 0)
        if isinstance(found, (bytes, str)) and len(found) < 12 and found.isdigit():
            found = int(found)
        if type(found) is not int or not 0 <= found <= most:
            raise ParameterError(f"'{name}' must be a whole number from 0 to {most}", name=name)
        return found

    @property
    def token(self) -> int:
        return self.whole("token", self._count - 1)

    @property
    def layer(self) -> int:
        return self.whole("layer", self._config.layers - 1)

    @property
    def op(self) -> str:
        found = self._question.get("op")
        name = found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)
        if name not in NAMES:
            raise ParameterError(f"'op' must be one of {', '.join(NAMES)}", name="op")
        return name

    @property
    def number(self) -> int:
        """The number of a leaf; of a tensor of attention where no op is named."""
        op = self.op if "op" in self._question else "attention"
        return self.whole("number", -(-size_of(self._config, op) // trees.VALUES) - 1)


def _message(items: Mapping[str, Value]) -> bytes:
    return whole.encode(Message.make(dict(items)))


class WeightTree:
    """The weight tree of a model, to open rows from; hashed at first use."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self._weights, self._names = weights, sorted(weights, key=str.encode)
        self._roots: list[bytes] = []
        self.untied = "output.weight" in weights

    def part(self, name: str, row: int = 0) -> Message:
        """Return a row of a matrix, or a vector, with its path to the weight-root."""
        if not self._roots:
            self._roots = [trees.leaf(trees.root(self._weights[one].leaves())) for one in self._names]
        weight = self._weights[name]
        if isinstance(weight, Matrix):
            data = b"".join(part[row].tobytes() for part in weight.parts())
        else:
            data = b"".join(weight.payload())
        path = trees.path(weight.leaves(), row) + trees.path(self._roots, self._names.index(name))
        return Message.make({"row": data, "path": b"".join(path)})
