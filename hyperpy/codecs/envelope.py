"""Commitments on the wire: signature headers to commitments and back, in every dialect.

D3 (``comm-`` labels, sorted names) is rebuilt from the message when it is verified, so its
commitment holds only fields (ao-core 4.8). The older dialects D1 and D2 (http-clients.md 3) sign
the header lines as sent, which a typed message cannot give back. Their commitment keeps, beside
the usual fields, ``dialect``, ``signature-input`` (raw, without its label) and ``envelope``: the
covered header lines, and the body where it is multipart or typed. Whoever verifies later checks the
signature over the envelope, decodes it again and compares the result with the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from hyperpy.codecs import signature as sig
from hyperpy.codecs.sfv import unescape_key
from hyperpy.codecs.structured import Tabm, parse_types
from hyperpy.encoding import b64, b64u, b64u_decode, key_bytes, key_text, number_keys, ordered, sha256
from hyperpy.errors import CodecError

LIST_TYPE: Final = b'.="list"'
_BODY_KEY_HEADERS = ("inline-body-key", "ao-body-key")
_TRANSPORT = frozenset({"content-length", "body-keys", *_BODY_KEY_HEADERS})


class Wire(NamedTuple):
    """What signatures on one HTTP message, or on one nested map, may cover."""

    headers: Mapping[str, bytes]
    body: bytes | None
    body_keys: tuple[str, ...]
    """The keys that the body holds."""
    multipart: bool


class Opened(NamedTuple):
    """What an envelope holds."""

    covered: tuple[str, ...]
    headers: dict[str, bytes]
    body: bytes | None
    """A multipart or typed body; the bytes of any other are in the message."""
    bases: tuple[bytes, ...]
    """The texts one of which was signed."""


@lru_cache(maxsize=1024)
def public_key(keyid: str) -> bytes | None:
    """Return the bytes a ``publickey`` keyid names, or None if it is another scheme's.

    A keyid without scheme (D1, D2) is taken as the key, in either base64 alphabet.

    Raises:
        CodecError: not base64.
    """
    scheme, colon, text = keyid.partition(":")
    if colon and scheme != "publickey":
        return None
    return b64u_decode(text if colon else keyid)


@lru_cache(maxsize=1024)
def committer_of(keyid: str, kind: str) -> str | None:
    """Return the address a keyid stands for; None for constants and for no keyid (3.2)."""
    if keyid.startswith("secret:"):
        return keyid[7:]
    if not keyid or keyid.startswith("constant:") or kind.startswith("hmac-"):
        return None
    modulus = public_key(keyid)
    if modulus is None:
        return None
    return b64u(modulus if len(modulus) == 32 else sha256(modulus))


def commitment_id(signature: bytes) -> str:
    """Return the ID a raw signature gives its commitment (4.8)."""
    return b64u(signature if len(signature) == 32 else sha256(signature))


def name_list(names: Iterable[str]) -> Tabm:
    """Return key names as the TABM of a list."""
    found: Tabm = {str(n): key_bytes(name) for n, name in enumerate(names, 1)}
    found["ao-types"] = LIST_TYPE
    return found


def read(headers: Mapping[str, bytes], wire: Wire) -> dict[str, Tabm]:
    """Return the commitments of a pair of signature headers, by recomputed ID.

    Raises:
        CodecError: a header does not parse, an entry has no signature, a key is not base64,
            or an older dialect covers something that was not sent.
    """
    members = sig.parse_input(headers.get("signature-input", b""))
    signatures = sig.parse_signatures(headers.get("signature", b""))
    found: dict[str, Tabm] = {}
    for member in members:
        raw = signatures.get(member.label)
        if raw is None:
            raise CodecError(f"signature-input names '{member.label}', signature does not")
        name = commitment_id(raw)
        fields = _fields(member, raw)
        if _is_d3(member):
            fields["committed"] = name_list(committed_names(member.covered, wire))
        else:
            fields.update(_enveloped(member, wire))
        if name not in found or "committer" in fields:
            found[name] = fields
    return found


def _is_d3(member: sig.Member) -> bool:
    if not member.label.startswith("comm-"):
        return False
    return list(member.covered) == ordered(member.covered)


def _fields(member: sig.Member, raw: bytes) -> Tabm:
    """Return a commitment's fields without the committed names."""
    fields: Tabm = {}
    for name, value in member.params.items():
        if name not in ("alg", "id", "signature", "committed", "committer"):
            fields[name] = original_tags(value) if name == "original-tags" else _param_text(value)
    alg = member.params.get("alg")
    device, slash, kind = (alg if isinstance(alg, str) else "rsa-pss-sha512").rpartition("/")
    keyid = member.params.get("keyid")
    if isinstance(keyid, bytes):
        keyid = b64u(keyid)
        fields["keyid"] = keyid.encode("ascii")
    committer = committer_of(keyid, kind) if isinstance(keyid, str) else None
    if committer is not None:
        fields["committer"] = committer.encode("utf-8", "surrogateescape")
    fields["commitment-device"] = key_bytes(device) if slash else b"httpsig@1.0"
    fields["type"] = key_bytes(kind)
    fields["signature"] = b64u(raw).encode("ascii")
    return fields


def _param_text(value: str | int | bytes | bool) -> bytes:
    if isinstance(value, bytes):
        return b64u(value).encode("ascii")
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return b"%d" % value if isinstance(value, int) else key_bytes(value)


def committed_names(covered: Iterable[str], wire: Wire) -> list[str]:
    """Return the key names that covered component names stand for (4.8)."""
    out: dict[str, None] = {}
    for name in covered:
        bare = name.removeprefix("@")
        if bare == "content-digest":
            out.update(dict.fromkeys(wire.body_keys))
        elif bare == "ao-body-key" or (bare == "content-type" and wire.multipart):
            continue
        else:
            out[unescape_key(bare).removesuffix("+link")] = None
    return list(out)


# -- the older dialects --------------------------------------------------------------------


def _enveloped(member: sig.Member, wire: Wire) -> Tabm:
    lines = []
    for name in member.covered:
        bare = name.removeprefix("@")
        value = wire.headers.get(bare)
        if value is None:
            raise CodecError(f"a signature covers {bare!a}, which was not sent")
        if b"\n" in value or b"\r" in value:
            raise CodecError(f"a signature covers {bare!a}, which holds a line break")
        if bare == "content-digest":
            _check_digest(value, wire.body)
        lines.append(key_bytes(bare) + b": " + value)
    text = b"\r\n".join(lines) + b"\r\n\r\n"
    covers_body = any(name.removeprefix("@") == "content-digest" for name in member.covered)
    if covers_body and wire.body is not None and (wire.multipart or _is_typed(wire)):
        text += wire.body
    names = [name for name in committed_names(member.covered, wire) if name not in _TRANSPORT]
    fields: Tabm = {"committed": name_list(names), "signature-input": member.raw, "envelope": text}
    fields["dialect"] = b"D2" if member.label.startswith("sig-") else b"D1"
    keyid = member.params.get("keyid")
    is_rsa = str(member.params.get("alg", "rsa")).startswith("rsa")
    modulus = public_key(keyid) if is_rsa and isinstance(keyid, str) else None
    if modulus is not None:
        fields["keyid"] = b"publickey:" + b64(modulus).encode("ascii")
    return fields


def _is_typed(wire: Wire) -> bool:
    """Say whether a plain body is the text of a typed value, from which it cannot be made again."""
    types = wire.headers.get("ao-types")
    return types is not None and not set(wire.body_keys).isdisjoint(parse_types(types))


def _check_digest(header: bytes, body: bytes | None) -> None:
    if body is None and not sig.digest_matches(header, b""):
        raise CodecError(
            "the signature covers a body, and none was sent",
            hint="Some clients drop bodies with line breaks or over 4 KiB; send an ANS-104 item.",
        )
    if not sig.digest_matches(header, body or b""):
        raise CodecError("content-digest does not fit the body")


def open_envelope(fields: Mapping[str, bytes]) -> Opened:
    """Return what an older dialect's commitment signed, from its own fields.

    Raises:
        CodecError: the fields do not hold together.
    """
    raw = fields.get("signature-input", b"")
    members = sig.parse_input(b"x=" + raw)
    head, gap, body = fields.get("envelope", b"").partition(b"\r\n\r\n")
    if len(members) != 1 or members[0].raw != raw or not gap:
        raise CodecError("the commitment's envelope is malformed")
    lines: list[tuple[str, bytes]] = []
    for line in head.split(b"\r\n") if head else []:
        name, _, value = line.partition(b": ")
        lines.append((key_text(name), value))
    covered = tuple(name.removeprefix("@") for name in members[0].covered)
    if tuple(name for name, _ in lines) != covered:
        raise CodecError("the commitment's envelope does not hold what it covers")
    bases = sig.bases_as_sent(lines, raw, members[0].covered)
    return Opened(covered, dict(lines), body or None, bases)


def adopt(tabm: Tabm, depth: int = 0) -> None:
    """Give older dialects' commitments of nested maps their fields, in place.

    Clients name such a commitment by its lower-cased ID and send the two signature headers as
    its fields, without ``committed`` (http-clients.md, wao ``spawn`` and ``schedule``).

    Raises:
        CodecError: as :func:`read`.
    """
    for child in tabm.values():
        if type(child) is dict:
            adopt(child, depth + 1)
    found = tabm.get("commitments")
    if type(found) is not dict or depth == 0:
        return
    kept: Tabm = {}
    for name, one in found.items():
        raw = one.get("signature-input") if type(one) is dict else None
        if type(raw) is not bytes or type(one) is not dict or "committed" in one:
            kept[name] = one
            continue
        plain = {key: value for key, value in one.items() if type(value) is bytes}
        for key, fields in read(plain, _nested_wire(tabm)).items():
            if key not in kept:
                kept[key] = fields
    tabm["commitments"] = kept


def _nested_wire(tabm: Tabm) -> Wire:
    """Return a nested map as the headers and body its own signature saw."""
    headers = {key: value for key, value in tabm.items() if type(value) is bytes}
    key = "data" if "data" in headers else "body"
    body = headers.pop(key, None)
    if key == "data":
        headers["inline-body-key"] = b"data"
    if body is not None:
        headers["content-digest"] = sig.digest_header(body)
    return Wire(headers, body, (key,) if body is not None else (), multipart=False)


# -- ANS-104 tags in a parameter -------------------------------------------------------------


def original_tags(value: str | int | bytes | bool) -> Tabm:
    """Return the ``original-tags`` map of its parameter text ``n:name:value, ...``.

    The value is base64url (v0.9-final 1, row 8); text that is not, is the raw form.
    """
    out: Tabm = {}
    if not isinstance(value, str):
        raise CodecError("original-tags must be text")
    for entry in value.split(", "):
        number, _, rest = entry.partition(":")
        name, colon, text = rest.partition(":")
        if not colon or not number_keys([number]):
            raise CodecError("original-tags: n:name:value is wanted")
        try:
            tag = b64u_decode(text)
        except CodecError:
            tag = key_bytes(text)
        out[number] = {"name": key_bytes(name), "value": tag}
    return out


def original_tags_text(tags: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Return the parameter text of an ``original-tags`` map, values in base64url."""
    parts = []
    for number in number_keys(tags):
        tag = tags[number]
        parts.append(f"{number}:".encode() + tag["name"] + b":" + b64u(tag["value"]).encode("ascii"))
    return b", ".join(parts)
