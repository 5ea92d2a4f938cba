"""The choice of the next token, in integers (section 9). Ties go to the lowest id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from hyperpy.errors import ParameterError
from hyperpy.inference.arith import Ints, exp2n
from hyperpy.inference.tables import LOG2E


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        t16: temperature in 1/65536; 0 is greedy.
        top_k: how many of the best are looked at; 0 is all.
        p16: share of the probability that is kept, in 1/65536.
        seed: 32 bytes; the same seed, ids and model give the same tokens.
    """

    t16: int = 0
    top_k: int = 0
    p16: int = 65536
    seed: bytes = bytes(32)

    @property
    def normal(self) -> Sampling:
        """The same choices, written in one way: nothing but ``t16`` has a part in a greedy one."""
        return self if self.t16 else Sampling()

    @property
    def whole(self) -> bool:
        """Whether the whole vocabulary is looked at."""
        return not self.top_k and self.p16 == 65536

    @property
    def inverse(self) -> int:
        """The inverse of the temperature, invT; 0 where it is greedy."""
        return (LOG2E * 65536 + self.t16 // 2) // self.t16 if self.t16 else 0

    def drawn(self, position: int) -> int:
        """Return the random number of a position, 64 bits."""
        digest = hashlib.sha256(b"hpi1-sample" + self.seed + position.to_bytes(8, "big")).digest()
        return int.from_bytes(digest[:8], "big")

    def choose(self, logits: Ints, position: int) -> int:
        """Return the id of the next token, which will stand at ``position`` of the whole sequence."""
        if self.t16 == 0:
            return int(np.argmax(logits))
        logits = np.asarray(logits, np.int64)
        order = np.argsort(-logits, kind="stable")
        order = order[: self.top_k] if self.top_k else order
        z = np.minimum(logits[order[0]] - logits[order], 40 * self.t16)
        weights = exp2n(np.minimum((z * self.inverse) >> 31, 31 * 65536))
        sums = np.cumsum(weights)
        enough = -(-self.p16 * int(sums[-1]) // 65536)
        kept = int(np.searchsorted(sums, enough)) + 1
        ids = order[:kept]
        by_id = np.argsort(ids)
        running = np.cumsum(weights[:kept][by_id])
        target = self.drawn(position) * int(running[-1]) >> 64
        return int(ids[by_id][np.searchsorted(running, target, side="right")])


def sampling(temperature: str = "0", top_p: str = "1", top_k: int = 0, seed: bytes = bytes(32)) -> Sampling:
    """Return the sampling that a request's decimal strings ask for.

    Raises:
        ParameterError: a number is out of range, a temperature is too small to compute with, or the seed has
            another length than 32 bytes.
    """
    t16, p16 = _scaled(temperature, "temperature", 100), _scaled(top_p, "top-p", 1)
    if 0 < t16 < 656 or (t16 == 0 and Decimal(temperature) != 0):
        raise ParameterError("a temperature below 0.01 is not computed; 0 means greedy", name="temperature")
    if p16 == 0:
        raise ParameterError("top-p must be above 0", name="top-p")
    if not 0 <= top_k < 2**31:
        raise ParameterError("top-k must not be negative", name="top-k")
    if len(seed) != 32:
        raise ParameterError("a seed has 32 bytes", name="seed")
    return Sampling(t16, top_k, p16, seed)


def _scaled(text: str, name: str, most: int) -> int:
    """Return floor(65536 * x + 1/2) of a decimal between 0 and ``most``, exactly."""
    try:
        value = Decimal(text) if len(text) <= 40 else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= most or (value and value.adjusted() < -40):
        raise ParameterError(f"{name} must be a decimal from 0 to {most}", name=name)
    numerator, denominator = value.as_integer_ratio()
    return (2 * 65536 * numerator + denominator) // (2 * denominator)
