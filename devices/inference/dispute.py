"""What a dispute asks: a sequence of ids and how they were chosen (HPI-1, section 13)."""

from __future__ import annotations

from typing import Final

from hyperpy import Message
from hyperpy.errors import ParameterError
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.standing import Disputed

from .asked import Reader

_HEX: Final = frozenset("0123456789abcdef")
_IDS: Final = 1 << 31
"""Above all token ids of all models."""


def read(base: Message, request: Message, context: int) -> Disputed:
    """Return the sequence that a request disputes.

    Args:
        context: most ids.

    Raises:
        ParameterError: something of it is malformed.
    """
    reader = Reader(base, request)
    found = reader.get("ids")
    ids = tuple(one for one in found if type(one) is int and 0 <= one < _IDS) if isinstance(found, tuple) else ()
    if not isinstance(found, tuple) or not ids or len(ids) != len(found) or len(ids) > context:
        raise ParameterError(f"'ids' must be a list of at most {context} token ids", name="ids")
    seed = reader.text("seed", "00" * 32)
    if len(seed) != 64 or not set(seed) <= _HEX:
        raise ParameterError("'seed' must be 32 bytes in hex, as an answer tells it", name="seed")
    t16 = reader.whole("t16", 0, 0, 100 * 65536)
    if 0 < t16 < 656:
        raise ParameterError("'t16' is 0, or at least 656", name="t16")
    top_k, p16 = reader.whole("top_k", 0, 0, 2**31 - 1), reader.whole("p16", 65536, 1, 65536)
    prompt = reader.whole("prompt", len(ids), 1, len(ids))
    return Disputed(reader.text("model"), ids, prompt, Sampling(t16, top_k, p16, bytes.fromhex(seed)))
