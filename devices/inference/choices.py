"""One choice of an answer while its tokens come: its text, where it ends, and the log-probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np

from hyperpy.inference.arith import Ints, exp2n
from hyperpy.inference.generation import Token
from hyperpy.inference.tables import LOG2E
from hyperpy.inference.tokenizer import Stream, Tokenizer

_EXACT = Context(prec=30)
_STEP = Decimal("0.000001")


class Choice:
    """Takes tokens with :meth:`take` until ``reason`` is set: ``stop`` or ``length``.

    Attributes:
        ids: the tokens taken, the one that ended it included.
        states: hex of the state from which each was chosen (HPI-1, 12, level 1).
        offsets: how many characters of the text were complete before each token that has log-probabilities.
        commitments: levels 2 and 3, one map for each token, where they were asked for.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, stops: Sequence[str], limit: int, top: int) -> None:
        self.index = index
        self._tokenizer, self._stops, self._limit, self._top = tokenizer, stops, limit, top
        self._stream = Stream()
        self.text, self._sent = "", 0
        self.ids: list[int] = []
        self.states: list[str] = []
        self.commitments: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.offsets: list[int] = []
        self._told = 0
        self.reason = ""

    def take(self, token: Token) -> None:
        """Add one token."""
        self.ids.append(token.ident)
        self.states.append(token.state.hex())
        if token.ident in self._tokenizer.stops:
            self.reason = "stop"
            self.text += self._stream.end()
        else:
            if self._top >= 0:
                self.logprobs.append(self._logprob(token))
                self.offsets.append(len(self.text))
            self.text += self._stream.feed(self._tokenizer.bytes_of(token.ident))
            if len(self.ids) >= self._limit:
                self.reason = "length"
                self.text += self._stream.end()
        self._cut()

    def _cut(self) -> None:
        """End the text before the first stop sequence."""
        found = [at for stop in self._stops if (at := self.text.find(stop, self._sent)) >= 0]
        if found:
            self.text, self.reason = self.text[: min(found)], "stop"

    def news(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the text, and log-probabilities, that nobody was told of; what may begin a stop sequence waits."""
        upto = len(self.text)
        if not self.reason:
            upto -= max((_overlap(self.text, stop) for stop in self._stops), default=0)
        text, self._sent = self.text[self._sent : upto], max(upto, self._sent)
        fresh, self._told = self.logprobs[self._told :], len(self.logprobs)
        return text, fresh

    def _logprob(self, token: Token) -> dict[str, Any]:
        logits = np.asarray(token.logits, np.int64)
        best = np.argsort(-logits, kind="stable")[: self._top]
        told = self._named(logits, token.ident)
        return {**told, "top_logprobs": [self._named(logits, int(ident)) for ident in best]}

    def _named(self, logits: Ints, ident: int) -> dict[str, Any]:
        data = self._tokenizer.bytes_of(ident)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob(logits, ident), "bytes": list(data)}


def logprob(logits: Ints, ident: int) -> float:
    """Return the natural logarithm of a token's probability at temperature 1, to six decimals.

    (L_i - L_max) / 2**16 - ln(S / 2**30), S being the sum of EXP2N((L_max - L_j) * LOG2E >> 31) over all tokens:
    exact integers, then a correctly rounded decimal logarithm, so that every machine gives the same digits.
    """
    best = int(logits.max())
    z = np.minimum(best - logits, 40 * 65536)
    total = int(exp2n(np.minimum((z * LOG2E) >> 31, 31 * 65536)).sum())
    below = _EXACT.divide(Decimal(int(logits[ident]) - best), Decimal(65536))
    found = _EXACT.subtract(below, _EXACT.ln(_EXACT.divide(Decimal(total), Decimal(1 << 30))))
    return float(found.quantize(_STEP)) + 0.0


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the text's end could begin a stop sequence."""
    for count in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
