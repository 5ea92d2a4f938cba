"""Assignments: what a scheduler signs, and the two chains that link them (devices/02-scheduler, 4; v0.9-final 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from hyperpy import Message, commitments, hashpath
from hyperpy.capabilities import Head
from hyperpy.commitments.assignments import FIELDS, LINKS
from hyperpy.encoding import b64u, sha256
from hyperpy.message import Value, as_text

VARIANT: Final = b"ao.N.1"
ZERO_HASH: Final = b"A" * 43
BLOCK: Final[dict[str, Value]] = {"block-height": 0, "block-hash": ZERO_HASH}
"""No Arweave gateway is asked: the block is always none."""

_CODECS: Final = ("httpsig@1.0", "ans104@1.0")


def chained(previous: bytes, message: Message) -> bytes:
    """Return the hash-chain after one more message: SHA-256 of what was before and its signed ID's characters."""
    return sha256(previous + commitments.signed_id(message).encode())


def unsigned_assignment(process: str, head: Head, body: Message, now_ms: int) -> tuple[Message, bytes]:
    """Return the assignment of the slot after ``head``, and its 32 chain bytes."""
    chain = chained(head.chain, body)
    path = body.get("path")
    made: dict[str, Any] = {
        "path": path if isinstance(path, bytes) and path and b"/" not in path else b"compute",
        "data-protocol": b"ao",
        "variant": VARIANT,
        "process": process.encode(),
        "epoch": b"0",
        "slot": head.slot + 1,
        **BLOCK,
        "block-timestamp": 0,
        "timestamp": max(now_ms, head.timestamp),
        "base-hashpath": head.hashpath.encode(),
        "hash-chain": b64u(chain).encode(),
        "body": body,
        "type": b"Assignment",
    }
    return Message.make(made), chain


def misfits(names: Collection[str]) -> list[str]:
    """Return in which keys a signature over ``names`` is not one over an assignment: missing or too many.

    A node signs what anybody asks it for, with a ``status``: only its word for exactly an assignment's
    fields makes an assignment (design 5). The list is empty where they fit.
    """
    signed = set(names) - {"ao-types"}
    wrong = [f"no {name}" for name in sorted(FIELDS - signed)]
    if signed.isdisjoint(LINKS):
        wrong.append("no " + " or ".join(sorted(LINKS)))
    return wrong + [name[:60] for name in sorted(signed - FIELDS - LINKS)]


def assigned(
    process: str, head: Head, body: Message, now_ms: int, sign: Callable[[Message], Message], algorithm: str
) -> tuple[Message, Head]:
    """Return the signed assignment of the slot after ``head``, and the head after it."""
    bare, chain = unsigned_assignment(process, head, body, now_ms)
    made = sign(bare)
    if made.raw("body") is not body:  # an item names it only
        made = Message.make({**made.raw_items(), "body": body}, made.commitments)
    after = hashpath.combine(head.hashpath, commitments.signed_id(made), algorithm)
    stamp = made["timestamp"]
    assert isinstance(stamp, int)
    return made, Head(head.slot + 1, chain, after, stamp)


def algorithm_of(process: Message) -> str:
    """Return the process's hashpath algorithm; the usual one if it names none that is known."""
    named = process.get("hashpath-alg")
    text = as_text(named, "hashpath-alg") if isinstance(named, bytes) else ""
    return text if text in hashpath.ALGORITHMS else "sha-256-chain"


def codec_of(process: Message) -> str:
    """Return the device that signs the process's assignments."""
    named = process.get("scheduler-commitment-spec")
    text = as_text(named) if isinstance(named, bytes) else ""
    return text if text in _CODECS else "httpsig@1.0"
