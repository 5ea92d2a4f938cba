"""httpsig@1.0: a TABM as HTTP headers and body, and back (ao-core 4.1 to 4.6).

Small values are headers, one value may be the plain body, everything nested or long makes the
body multipart. A key that has the form of an ID travels with its capitals percent-escaped
(v0.9-final 1, row 1); the older ``ao-ids`` header is read, never written.

Signatures are not made or checked here: encoding leaves commitments out, decoding turns the two
signature headers into commitments whose IDs and committers are recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hyperpy.codecs import envelope, multipart, sfv, signature
from hyperpy.codecs.structured import MAX_KEYS, Tabm
from hyperpy.encoding import ID_LENGTHS, is_id, key_text, ordered
from hyperpy.errors import CodecError, SizeError

MAX_HEADER = multipart.MAX_HEADER
_LEFT_OUT = frozenset({"commitments", "signature", "signature-input"})
_ONLY_COMMITMENTS = frozenset({"commitments"})
_UNKEPT = ("signature", "signature-input", "content-digest")


class HttpForm(NamedTuple):
    """A message as HTTP carries it."""

    headers: dict[str, bytes]
    body: bytes | None
    body_keys: tuple[str, ...] = ()
    """The message's keys that the body holds, in the body's order."""


class Signed(NamedTuple):
    """What a commitment covers."""

    components: list[str]
    """Covered names in canonical order."""
    headers: dict[str, bytes]
    committed: tuple[str, ...]
    """The message's key names behind the components, ``+link`` removed."""

    def base(self, params: bytes) -> bytes:
        """Return the signature base for the parameters of one commitment (4.7)."""
        headers = self.headers
        lines = [(name, headers[name]) for name in self.components]
        return signature.base(lines, signature.param_names(self.components) + params)


def encode(tabm: Tabm, *, whole: bool = False) -> HttpForm:
    """Return the HTTP form of a TABM, without its commitments.

    Args:
        whole: keep keys named like the signature headers. They cannot travel, but an ID must
            tell a message that has them from one that has not.

    Raises:
        SizeError: nested too deep.
    """
    inline = inline_key(tabm)
    left_out = _ONLY_COMMITMENTS if whole else _LEFT_OUT
    headers: dict[str, bytes] = {}
    entries: dict[str, bytes | Tabm] = {}
    for key, value in tabm.items():
        if key in left_out or key.startswith("priv"):
            continue
        if type(value) is not bytes or len(value) > MAX_HEADER or key == inline or key == "body":
            entries[sfv.escape_key(key) if len(key) in ID_LENGTHS else key] = value
        elif len(key) in ID_LENGTHS or not key.isascii():
            headers[sfv.escape_key(key) if is_id(key) else key] = value
        else:
            headers[key] = value
    if inline == "data" and "ao-body-key" not in tabm:
        headers["ao-body-key"] = b"data"
    if not entries:
        return HttpForm(headers, None)
    only = tabm.get(inline) if len(entries) == 1 and inline in tabm else None
    if type(only) is bytes:
        if only:
            headers["content-digest"] = signature.digest_header(only)
        return HttpForm(headers, only, (inline,))
    made = multipart.encode(entries, inline)
    headers["content-type"] = made.content_type
    headers["content-digest"] = signature.digest_header(made.body)
    return HttpForm(headers, made.body, tuple([sfv.unescape_key(name) for name in made.names]))


def inline_key(tabm: Tabm) -> str:
    """Return the key whose value is the plain body or the ``inline`` part (4.1.4)."""
    named = tabm.get("ao-body-key")
    if type(named) is bytes:
        return key_text(named)
    return "data" if "data" in tabm and "body" not in tabm else "body"


def signed(tabm: Tabm, names: Iterable[str] | None = None) -> Signed:
    """Return what a signature over ``names`` (default: every key) covers (4.7, steps 1 to 4).

    A name selects the key, or its ``+link`` if only that is there; what is not there is left out.
    """
    if names is not None:
        chosen: Tabm = {}
        for name in names:
            key = name if name in tabm else name + "+link"
            if key in tabm:
                chosen[key] = tabm[key]
        tabm = chosen
    headers, body, body_keys = encode(tabm, whole=True)
    if body is not None and not body:
        headers["content-digest"] = signature.digest_header(body)
    components = ordered(headers)
    plain = len(body_keys) == 1 and body is tabm.get(body_keys[0])
    wire = envelope.Wire(headers, body, body_keys, multipart=body is not None and not plain)
    return Signed(components, headers, tuple(envelope.committed_names(components, wire)))


def decode(headers: Mapping[str, bytes], body: bytes | None) -> Tabm:
    """Return the TABM of an HTTP message.

    Args:
        headers: by name in lower case. For a request whose signature covers ``@path`` or
            ``@method`` the caller puts those under ``path`` and ``method``.
        body: None where there is none; an empty one is the value of the body's key.

    Raises:
        CodecError: a body or header does not parse, or a signature covers what was not sent.
        SizeError: too many keys, parts or signatures, or nested too deep.
    """
    if len(headers) > MAX_KEYS:
        raise SizeError(f"a message has more than {MAX_KEYS} headers")
    tabm: Tabm = {}
    for name, value in headers.items():
        tabm[sfv.unescape_key(name) if "%" in name else name] = value
    inline = body_key(headers)
    keys: tuple[str, ...] = ()
    mark = multipart.boundary(headers.get("content-type", b"")) if body is not None else None
    if mark is not None and body is not None:
        parts, keys = multipart.decode(body, mark, inline)
        tabm.update(parts)
        envelope.adopt(tabm)
        tabm.pop("content-type", None)
    elif body is not None:
        tabm[inline], keys = body, (inline,)
    if "ao-ids" in headers:
        _expand_ids(tabm)
    if "signature-input" in headers or "signature" in headers:
        _commitments(tabm, headers, envelope.Wire(headers, body, keys, mark is not None))
    for name in _UNKEPT:
        tabm.pop(name, None)
    if body is not None:
        tabm.pop("ao-body-key", None)
        if "inline-body-key" in headers:
            tabm.pop("inline-body-key", None)
    return tabm


def body_key(headers: Mapping[str, bytes]) -> str:
    """Return the key that a plain or ``inline`` body is the value of."""
    """Return the key whose value a plain body is, by the headers that name it."""
    found = headers.get("ao-body-key") or headers.get("inline-body-key") or b"body"
    return key_text(found)


def _expand_ids(tabm: Tabm) -> None:
    text = tabm.pop("ao-ids")
    if type(text) is not bytes:
        raise CodecError("ao-ids must be a header")
    for key, member in sfv.parse_dictionary(text).items():
        value = member.value if isinstance(member, sfv.Item) else None
        if not isinstance(value, str):
            raise CodecError("ao-ids holds strings")
        tabm.setdefault(key, value.encode("utf-8", "surrogateescape"))


def _commitments(tabm: Tabm, headers: Mapping[str, bytes], wire: envelope.Wire) -> None:
    found = envelope.read(headers, wire)
    older = any("dialect" in fields for fields in found.values())
    if older:
        for name in ("content-length", "body-keys"):
            tabm.pop(name, None)
    for name in found:
        tabm.pop(name, None)
    if found:
        tabm["commitments"] = dict(found)
