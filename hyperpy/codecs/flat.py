"""flat@1.0: a TABM as one level of paths, and as lines of text (ao-core 13.2).

``{a: {b: "1"}}`` is ``{"a/b": "1"}``, in text ``a/b: 1``. The form loses what it cannot say:
maps without any value vanish, and a key that holds ``/`` comes back as nested maps.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperpy.codecs.structured import MAX_DEPTH, MAX_KEYS, Tabm
from hyperpy.encoding import bytewise, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError


def encode(tabm: Tabm) -> dict[str, bytes]:
    """Return the paths and values of a TABM; raise SizeError past the nesting limit."""
    out: dict[str, bytes] = {}
    _flatten(tabm, "", out, 0)
    return out


def _flatten(tabm: Tabm, prefix: str, out: dict[str, bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    for key, found in tabm.items():
        if type(found) is bytes:
            out[prefix + key] = found
        else:
            _flatten(found, prefix + key + "/", out, depth + 1)  # type: ignore[arg-type]


def decode(flat: Mapping[str, bytes]) -> Tabm:
    """Return the TABM of paths; empty parts of a path are skipped, ``/a/`` is ``a``.

    Raises:
        CodecError: a path is empty, is given twice, or leads through a value.
        SizeError: more than MAX_KEYS paths, or one of more than MAX_DEPTH parts.
    """
    if len(flat) > MAX_KEYS:
        raise SizeError(f"a message has more than {MAX_KEYS} keys")
    root: Tabm = {}
    for path, found in flat.items():
        parts = [part for part in path.split("/") if part]
        if not parts:
            raise CodecError("flat: a path is empty")
        if len(parts) > MAX_DEPTH:
            raise SizeError(f"a path has more than {MAX_DEPTH} parts")
        at = root
        for part in parts[:-1]:
            child = at.setdefault(part, {})
            if type(child) is not dict:
                raise CodecError(f"flat: the path {path[:80]!a} leads through a value")
            at = child
        if parts[-1] in at:
            raise CodecError(f"flat: the path {path[:80]!a} is given twice")
        at[parts[-1]] = found
    return root


def serialize(tabm: Tabm) -> bytes:
    """Return a line ``path: value`` for each value, sorted by path.

    As in the reference nothing is escaped: a value with line feeds does not come back.
    """
    flat = encode(tabm)
    return b"".join(key_bytes(path) + b": " + flat[path] + b"\n" for path in bytewise(flat))


def deserialize(text: bytes) -> Tabm:
    """Read lines that hold ``: `` exactly once and skip all others; see :func:`decode`."""
    flat: dict[str, bytes] = {}
    for line in text.split(b"\n"):
        name, separator, found = line.partition(b": ")
        if not separator or b": " in found:
            continue
        path = key_text(name)
        if path in flat:
            raise CodecError(f"flat: the path {path[:80]!a} is given twice")
        flat[path] = found
    return decode(flat)
