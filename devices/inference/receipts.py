"""The receipt inside an answer: the fields of inference_receipt@1.0 that are the same on every machine (devices/08).

Time, hashpath and signature are not in it, because an answer that holds them is another at each call: they are in
the signed reply around it, and with all that is needed to make the answer again in ``hyperpy receipt``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from hyperpy.encoding import b64u
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.serving import Card
from hyperpy.inference.shaders import source
from hyperpy.message import NULL, Atom, Link, Value, as_text

TYPE: Final = "apus-inference-receipt"
VERSION: Final = "1.0"
PROFILE: Final = "hpi-1"
PROVENANCE: Final = "receipt-observed"
"""What the field says of who saw it: the node that answers, and no hardware."""
_NOT_DIGESTED: Final = ("stream", "stream_options", "tee")
"""What says how an answer is sent, and not which."""


def request_digest(parameters: Mapping[str, Value]) -> str:
    """Return the digest (base64url SHA-256) of a request: of its parameters as JSON, keys sorted, without spaces."""
    return _digest(text_of({name: found for name, found in parameters.items() if name not in _NOT_DIGESTED}))


@lru_cache(maxsize=1)
def shaders(names: tuple[str, ...]) -> dict[str, str]:
    """Return SHA-256 (hex) of each WGSL text that a GPU may have computed with; all engines give the same bits."""
    return {f"{name}.wgsl": hashlib.sha256(source(f"{name}.wgsl").encode()).hexdigest() for name in sorted(names)}


def of_answer(
    request: str, card: Card, sampling: Sampling, states: Sequence[str], kernels: Mapping[str, str], text: bytes
) -> dict[str, Any]:
    """Return the receipt of an answer.

    Args:
        request: the request's digest.
        sampling: of the first choice, with the request's own seed.
        states: hex of the state after each choice.
        kernels: digests of the shaders.
        text: the answer as JSON, without the receipt.
    """
    made: dict[str, Any] = {
        "type": TYPE,
        "version": VERSION,
        "request-digest": request,
        "response-digest": _digest(text),
        "model": card.name,
        "model-sha256": card.model_id,
        "workload-manifest-id": card.reference,
        "inference-profile": PROFILE,
        "weight-root": card.weight_root,
        "config-digest": card.config_digest,
        "tokenizer-digest": card.tokenizer,
        "shader-digests": dict(kernels),
        "sampling": {"t16": sampling.t16, "top-k": sampling.top_k, "p16": sampling.p16},
        "seed": sampling.seed.hex(),
        "state": list(states),
        "provenance-class": PROVENANCE,
    }
    return {"receipt-id": _digest(text_of(made)), **made}


def text_of(document: Mapping[str, Any]) -> bytes:
    """Return messages and what else JSON knows as JSON text: keys sorted, no spaces."""
    return json.dumps(plain(document), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogateescape"
    )


def plain(item: Any) -> Any:
    """Return a value as JSON has it: text as text, lists as lists."""
    item = item.load() if isinstance(item, Link) else item
    if isinstance(item, bytes):
        return as_text(item)
    if isinstance(item, Atom):
        return None if item == NULL else str(item)
    if isinstance(item, Mapping):
        return {name: plain(one) for name, one in item.items()}
    return [plain(one) for one in item] if isinstance(item, (list, tuple)) else item


def _digest(data: bytes) -> str:
    return b64u(hashlib.sha256(data).digest())
