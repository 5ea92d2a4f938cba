"""Which signatures on a request are their signers' word that they pay for it.

A signature over the path is, and one that this node made for this very request, for whoever logged in. What somebody
signed for a process, without a path, lies in a public schedule, where anybody finds it and can send it anywhere: it
pays for what it was signed for, and nothing else:

    POST /schedule  /push                               of the devices scheduler, process and push, or of none
    POST /<target>/schedule  /push                      the target that the signature covers
    POST /<target>/compute...  /as=execution/compute    reading that target, as clients do that sign items only

What a node signs for others, its replies and the mail of processes, pays for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hyperpy import path
from hyperpy.commitments import committer_of, is_own_word
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, HyperpyError
from hyperpy.message import As, Message, Resolve, Value, committed_list

_DELIVERED: Final = frozenset({"schedule", "push"})
_DEVICES: Final = frozenset({"scheduler@1.0", "process@1.0", "push@1.0"})
_TELLING: Final = 64
"""Bytes at the front of a signature of any kind that no other one shares."""
_READ: Final = (("compute",), ("compute", "results"), ("as", "compute"))
_ASKED: Final = frozenset(
    {"path", "accept", "accept-bundle", "accept-codec", "require-codec", "async", "result-depth", "max-depth"}
)
"""Keys in the path of a delivery that say how the answer shall be, and change nothing of what is done."""


def paying(source: Message) -> Mapping[str, Message]:
    """Return the commitments whose signers pay for a request, by ID.

    Args:
        source: the request as it was verified at ingress: what not every commitment covers is no part of it.
    """
    signed = {name: one for name, one in source.commitments.items() if committer_of(one) and is_own_word(one)}
    here = source.private.get("signed-here")
    mine = here if isinstance(here, frozenset) else frozenset()
    bound = {name: one for name, one in signed.items() if name in mine or "path" in committed_list(one)}
    loose = {name: one for name, one in signed.items() if name not in bound}
    covers = _delivered(source) if loose and source.get("method") == b"POST" else None
    if covers is None:
        return bound
    return {**bound, **{name: one for name, one in loose.items() if covers in committed_list(one)}}


def signatures(source: Message) -> frozenset[str]:
    """Return what tells each signature on a request from all others.

    Not its ID: one of Ethereum may be written with its recovery byte as 0 or as 27, and is the same.
    """
    return frozenset(_digest(name, one) for name, one in source.commitments.items())


def _digest(name: str, commitment: Message) -> str:
    try:
        raw = b64u_decode(commitment.text("signature", ""))
    except CodecError:
        raw = b""
    return b64u(sha256(raw[:_TELLING])) if len(raw) >= _TELLING else name


def _delivered(source: Message) -> str | None:
    """Return the key that says where a message without a path belongs, if the request takes it there; else None."""
    try:
        members = path.parse(source.text("path", ""))
    except HyperpyError:
        return None
    if len(members) < 2 or any(holds_path(one) or names_device(one) for one in members):
        return None
    names = [one.text("path", "") if isinstance(one, Message) else "" for one in members[1:]]
    delivers = len(names) == 1 and names[0] in _DELIVERED and all(map(_is_plain, members))
    target, base = source.get("target"), members[0]
    if target is not None and _process(base) == target:
        return "target" if delivers or tuple(names) in _READ else None
    if not delivers or not _is_root(base):
        return None
    if target is not None:
        return "target"
    kind = source.get("type")
    return "type" if isinstance(kind, bytes) and kind.lower() == b"process" else None


def _process(base: Value) -> bytes | None:
    """Return the ID of the process that a path begins with."""
    if isinstance(base, As) and base.device == "process@1.0" and isinstance(base.message, Message):
        found = base.message.raw("path")
        return found if isinstance(found, bytes) else None
    return base if isinstance(base, bytes) else None


def _is_root(base: Value) -> bool:
    if isinstance(base, As):
        return base.device in _DEVICES and isinstance(base.message, Message) and "path" not in base.message
    return isinstance(base, Message)


def _is_plain(member: Value) -> bool:
    inner = member.message if isinstance(member, As) else member
    return not isinstance(inner, Message) or _ASKED.issuperset(inner.raw_items())


def holds_path(member: Value) -> bool:
    """Say whether a part of a path stands for the result of another path, or holds such."""
    if isinstance(member, As):
        return isinstance(member.device, Resolve) or holds_path(member.message)
    if isinstance(member, Resolve):
        return True
    return isinstance(member, Message) and any(isinstance(item, (As, Resolve)) for item in member.raw_items().values())


def names_device(member: Value) -> bool:
    """Say whether a part of a path names a device among its keys."""
    inner = member.message if isinstance(member, As) else member
    return isinstance(inner, Message) and any(name.rpartition(".")[2].lower() == "device" for name in inner.raw_items())
