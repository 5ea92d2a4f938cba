"""The hashpath: the running digest of a base and the requests applied to it (ao-core 5).

A hashpath is ``ID`` or ``ID/reference``: 43 characters, or 44 and those of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hyperpy.commitments import hashpath_id
from hyperpy.encoding import accumulate_256, b64u, chain_sha256, human, key_bytes, native
from hyperpy.errors import CodecError
from hyperpy.message import UNDEFINED, Atom, Message, Value, as_text

ALGORITHMS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "sha-256-chain": chain_sha256,
    "accumulate-256": accumulate_256,
}
_BARE = frozenset({"path", "hashpath"})


def start(base: Value) -> str:
    """Return a base's own hashpath: that of the step that made it, else its ID over all commitments."""
    known = base.hashpath if isinstance(base, Message) else None
    return known if known is not None else hashpath_id(base)


def reference(request: Message) -> str:
    """Return what stands for a request: its path if it is nothing else, else its ID (5.1)."""
    at = request.raw("path")
    if at is not None and not request.commitments and (len(request) == 1 or _BARE.issuperset(request.raw_items())):
        if type(at) is bytes:
            return human(at.strip(b"/").partition(b"/")[0])
        found = parts(at)
        if type(found) is tuple and found:
            return human(as_text(found[0], "path"))
    name = hashpath_id(request)
    return name if len(name) == 43 else human(name)


def parts(path: Value) -> tuple[Value, ...] | Atom:
    """Return the parts of a path: text split at ``/`` without empty parts, lists member by member.

    A number is its text, an atom stays one, a list with anything but text in it is one part. The
    empty text has no parts, which the reference calls ``undefined``.

    Raises:
        MessageError: a map, or a list that holds one, is no path.
    """
    if type(path) is bytes:
        return tuple([part for part in path.split(b"/") if part]) if path else UNDEFINED
    if type(path) is tuple:
        if all(type(member) is bytes for member in path):
            return tuple([part for member in path for part in cast(bytes, member).split(b"/") if part])
        return (key_bytes("/".join([as_text(member, "path") for member in path])),)
    return (path,) if isinstance(path, Atom) else (key_bytes(as_text(path, "path")),)


def extend(base: Message, request: Message) -> str:
    """Return the hashpath of the result of applying ``request`` to ``base``.

    Raises:
        CodecError: the base names an unknown ``hashpath-alg``, or one that cannot take the reference.
    """
    return combine(start(base), reference(request), algorithm_of(base))


def algorithm_of(base: Message) -> str:
    """Return the algorithm a base asks for; ``sha-256-chain`` if none."""
    found = base.raw("hashpath-alg")
    return "sha-256-chain" if found is None else as_text(found, "hashpath-alg")


def combine(previous: str, ref: str, algorithm: str = "sha-256-chain") -> str:
    """Return the hashpath after ``previous`` and a reference (5.1).

    Raises:
        CodecError: the algorithm is unknown or cannot take the two values.
    """
    step = ALGORITHMS.get(algorithm)
    if step is None:
        known = ", ".join(ALGORITHMS)
        raise CodecError(f"unknown hashpath-alg {algorithm[:40]!a}", hint=f"Known: {known}.")
    first, slash, rest = previous.partition("/")
    if not slash:
        return f"{previous}/{ref}"
    if "/" in rest:
        raise CodecError(f"{previous[:100]!a} is no hashpath: it has more than two parts")
    return f"{b64u(step(native(first), _raw(rest)))}/{ref}"


def _raw(ref: str) -> bytes:
    """Return a reference as bytes: 43 characters are 32 bytes, others their own text."""
    return native(ref) if len(ref) == 43 else key_bytes(ref)
