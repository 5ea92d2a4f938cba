"""Text of HTTP message signatures: the base that is signed, and the two headers (ao-core 4.7, 4.8).

Nothing here computes a signature or knows a message: names and values in, text out, and back.
The form is AO-Core's own, not RFC 9421's: the covered names stand in the message's key order,
a derived name carries its ``@`` only in the parameter line, and parameters are sorted by name.

Signatures come in dialects (http-clients.md 3). ``comm-`` labels are D3, which is rebuilt from
the message. Everything else (``http-sig-``, ``sig-``, ``sig1``) is verified over the header as
it was sent: its covered list and parameters are kept raw.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from hyperpy.encoding import b64, b64u, b64u_decode, key_bytes, key_text, sha256
from hyperpy.errors import CodecError, SizeError

Params: TypeAlias = dict[str, str | int | bytes | bool]

DERIVED: Final = frozenset(
    {"method", "target-uri", "authority", "scheme", "request-target", "path", "query", "query-param"}
)
"""Names that carry an ``@`` in the parameter line; ``status`` is not one of them."""
MAX_MEMBERS: Final = 64
"""Signatures in one header, at most."""

_BASE_PARAMS: Final = ("alg", "bundle", "created", "expires", "keyid", "nonce", "tag")
_WIRE_PARAMS: Final = ("alg", "keyid", "tag", "created", "expires", "nonce")
_NUMBERS: Final = frozenset({"created", "expires"})
_LABEL = re.compile(rb"[ \t]*([A-Za-z0-9*][A-Za-z0-9_.*-]*)=")
_NAME = re.compile(rb'[ \t]*(?:"((?:[^"\\\x00-\x1f\x7f]|\\["\\])*)"|([A-Za-z*][^ \t()";,\x00-\x1f\x7f]*))')
_PARAM = re.compile(
    rb"[ \t]*;[ \t]*([a-z*][a-z0-9_.*-]*)"
    rb'(?:=(?:"((?:[^"\\\x00-\x1f\x7f]|\\["\\])*)"|:([A-Za-z0-9+/=_-]*):|(\?[01])|(-?[0-9]{1,15}(?![0-9.]))'
    rb"|([A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*)))?"
)
_BYTES = re.compile(rb":([A-Za-z0-9+/=_-]*):")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_COMMA = re.compile(rb"[ \t]*(?:,|\Z)")


class Member(NamedTuple):
    """One entry of ``signature-input``."""

    label: str
    covered: tuple[str, ...]
    """Covered names as written, with ``@`` where written."""
    params: Params
    raw: bytes
    """The value as written, from ``(`` to the last parameter."""


def quoted(text: bytes) -> bytes:
    """Return bytes as a structured-field string; other than ``"`` and ``\\`` they stay raw."""
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def param_names(components: Iterable[str]) -> bytes:
    """Return the covered list of the parameter line: derived names with ``@``, quoted (4.7.7)."""
    return b"(" + b" ".join([_param_name(name) for name in components]) + b")"


@lru_cache(maxsize=4096)
def _param_name(name: str) -> bytes:
    bare = name.removeprefix("@")
    return quoted(key_bytes("@" + bare if bare in DERIVED else bare))


def wire_names(components: Iterable[str]) -> bytes:
    """Return the covered list as the header carries it: no ``@`` anywhere."""
    return b"(" + b" ".join([quoted(key_bytes(name.removeprefix("@"))) for name in components]) + b")"


def base_params(fields: Mapping[str, bytes]) -> bytes:
    """Return the signed parameters of a commitment's fields, sorted by name (4.7.6)."""
    found = [fields["type" if name == "alg" else name] if _given(fields, name) else None for name in _BASE_PARAMS]
    return _written_params(*found)


@lru_cache(maxsize=256)
def _written_params(*texts: bytes | None) -> bytes:
    """Return the parameters of these texts, in the order of their names; the same signer's are mostly the same."""
    found = zip(_BASE_PARAMS, texts, strict=True)
    return b"".join([_param(name, text) for name, text in found if text is not None])


def wire_params(fields: Mapping[str, bytes], extra: Mapping[str, bytes]) -> bytes:
    """Return the header's parameters: the known ones in their order, then ``extra`` (4.7)."""
    alg = fields.get("type", b"")
    device = fields.get("commitment-device", b"httpsig@1.0")
    shown = {**fields, "type": alg if device == b"httpsig@1.0" else device + b"/" + alg}
    known = [_param(name, shown["type" if name == "alg" else name]) for name in _WIRE_PARAMS if _given(shown, name)]
    return b"".join(known) + b"".join(_param(name, text) for name, text in extra.items())


def _given(fields: Mapping[str, bytes], name: str) -> bool:
    return type(fields.get("type" if name == "alg" else name)) is bytes


def _param(name: str, text: bytes) -> bytes:
    if _CONTROL.search(text) is not None:
        raise CodecError(f"the commitment's '{name}' holds a control character")
    bare = name in _NUMBERS and text.isdigit()
    return b";" + key_bytes(name) + b"=" + (text if bare else quoted(text))


def base(lines: Iterable[tuple[str, bytes]], params: bytes) -> bytes:
    """Return the signature base: one line a component, then the parameter line (4.7.5).

    ``params`` is the covered list and the parameters. No component at all is one empty line.
    """
    text = b"\n".join([b'"' + key_bytes(name) + b'": ' + value for name, value in lines])
    return text + b'\n"@signature-params": ' + params


def bases_as_sent(lines: Iterable[tuple[str, bytes]], raw: bytes, covered: Iterable[str]) -> tuple[bytes, ...]:
    """Return the bases of dialects D1 and D2, one of which was signed; parameters are as sent.

    Nodes add ``@`` to the derived names in the last line. hbsig sends it where it means it, and signs a
    field that is only named like one (``authority``) as it is. Without components the base is the
    parameter line alone (http-clients.md 3, steps 1 to 3).
    """
    end = _close(raw) + 1
    head = b"".join([b'"' + key_bytes(name) + b'": ' + value + b"\n" for name, value in lines])
    marked, plain = (b'"@signature-params": ' + names + raw[end:] for names in (param_names(covered), raw[:end]))
    return (head + marked,) if marked == plain else (head + marked, head + plain)


def _close(raw: bytes) -> int:
    """Return where the covered list's closing parenthesis is."""
    at = 1
    while match := _NAME.match(raw, at):
        at = match.end()
    return raw.index(b")", at)


def label(signature: bytes) -> str:
    """Return a D3 label: ``comm-`` and the lower-cased ID of the raw signature (4.7)."""
    return "comm-" + b64u(sha256(signature)).lower()


def signature_member(name: str, signature: bytes) -> bytes:
    """Return one entry of the ``signature`` header."""
    return f"{name}=:{b64(signature)}:".encode("ascii")


# -- reading -------------------------------------------------------------------------------


def parse_input(header: bytes) -> list[Member]:
    """Parse ``signature-input``; labels, key letters and space are taken as clients write them.

    Raises:
        CodecError: not a dictionary of inner lists with parameters.
        SizeError: more than MAX_MEMBERS entries.
    """
    found: list[Member] = []
    at = 0
    while at < len(header):
        name, at = _label(header, at)
        if at >= len(header) or header[at] != 0x28:
            raise CodecError("signature-input: a list of covered names is wanted after the label")
        start, covered, at = at, [], at + 1
        while match := _NAME.match(header, at):
            covered.append(key_text(_unquote(match[1]) if match[1] is not None else match[2]))
            at = match.end()
        while header[at : at + 1] in (b" ", b"\t"):
            at += 1
        if header[at : at + 1] != b")":
            raise CodecError("signature-input: the covered list does not end")
        params, at = _params(header, at + 1)
        found.append(Member(name, tuple(covered), params, header[start:at]))
        at = _next(header, at)
        if len(found) > MAX_MEMBERS:
            raise SizeError(f"a message carries more than {MAX_MEMBERS} signatures")
    return found


def parse_signatures(header: bytes) -> dict[str, bytes]:
    """Parse the ``signature`` header: label to raw signature; either base64 alphabet.

    Raises:
        CodecError: not a dictionary of byte sequences.
    """
    found: dict[str, bytes] = {}
    at = 0
    while at < len(header):
        name, at = _label(header, at)
        match = _BYTES.match(header, at)
        if match is None:
            raise CodecError("signature: base64 between colons is wanted after the label")
        found[name] = b64u_decode(match[1])
        at = _next(header, match.end())
        if len(found) > MAX_MEMBERS:
            raise SizeError(f"a message carries more than {MAX_MEMBERS} signatures")
    return found


def _label(header: bytes, at: int) -> tuple[str, int]:
    match = _LABEL.match(header, at)
    if match is None:
        raise CodecError("signature headers: a label and '=' are wanted")
    return match[1].decode("ascii"), match.end()


def _params(header: bytes, at: int) -> tuple[Params, int]:
    params: Params = {}
    while match := _PARAM.match(header, at):
        name = match[1].decode("ascii")
        if match[2] is not None:
            params[name] = key_text(_unquote(match[2]))
        elif match[3] is not None:
            params[name] = b64u_decode(match[3])
        elif match[4] is not None:
            params[name] = match[4] == b"?1"
        elif match[5] is not None:
            params[name] = int(match[5])
        else:
            params[name] = True if match[6] is None else match[6].decode("ascii")
        at = match.end()
    return params, at


def _unquote(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text) if b"\\" in text else text


def _next(header: bytes, at: int) -> int:
    match = _COMMA.match(header, at)
    if match is None:
        raise CodecError("signature headers: a comma is wanted between entries")
    return match.end()


def digest_header(body: bytes) -> bytes:
    """Return the value of ``content-digest`` for a body (4.1.7)."""
    return b"sha-256=:" + b64(sha256(body)).encode("ascii") + b":"


def digest_matches(header: bytes, body: bytes) -> bool:
    """Say whether a ``content-digest`` names this body: SHA-256 or SHA-512, any base64."""
    for match in re.finditer(rb"(sha-256|sha-512)=:([A-Za-z0-9+/=_-]*):", header):
        made = hashlib.new(match[1].decode("ascii").replace("-", ""), body).digest()
        return made == b64u_decode(match[2])
    return False
