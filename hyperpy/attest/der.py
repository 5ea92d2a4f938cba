"""A strict reader for DER certificates (tee-attestation 1, caveat on serial 0).

AMD's chip certificates carry the serial number 0, which X.509 libraries announce to refuse. This
reader takes exactly what those certificates are: definite lengths in their shortest form, no trailing
bytes, no repeated extension. It checks form alone; signatures are checked by ``cryptography``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from hyperpy.attest.codes import refusal
from hyperpy.errors import AttestationError

MAX_BYTES: Final = 8192
"""Bytes of a certificate."""

INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x02, 0x03, 0x04, 0x05, 0x06
SEQUENCE, SET, BOOLEAN, IA5_STRING = 0x30, 0x31, 0x01, 0x16
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
_TEXTS: Final = frozenset({0x0C, 0x13, 0x14, IA5_STRING})
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_COMMON_NAME: Final = b"\x55\x04\x03"
"""2.5.4.3, as it is written."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        signed: the bytes under the signature (``tbsCertificate`` with its header).
        algorithm: DER of the signature algorithm, parameters included.
        signature: the signature's bytes.
        serial: serial number.
        issuer, subject: DER of the names.
        issuer_name, subject_name: their common names.
        not_before, not_after: validity, UTC.
        key: DER of the subject's public key (``SubjectPublicKeyInfo``).
        extensions: OID to value, without the OCTET STRING around it.
    """

    signed: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    issuer_name: str
    subject_name: str
    not_before: datetime
    not_after: datetime
    key: bytes
    extensions: Mapping[str, bytes]


class Reader:
    """Takes one element after another from DER bytes.

    Every method raises EndorsementError ``endorsement/chain-invalid`` where the bytes are not DER.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)

    def peek(self) -> int:
        """Return the tag of the next element; 0 if there is none."""
        return 0 if self.done else self._data[self._at]

    def take(self, tag: int | None = None) -> bytes:
        """Return the content of the next element, which must have that tag if one is given."""
        start = self._next(tag)
        return self._data[start : self._at]

    def whole(self, tag: int | None = None) -> bytes:
        """Return the next element with its header."""
        start = self._at
        self._next(tag)
        return self._data[start : self._at]

    def finish(self) -> None:
        """Raise unless everything was taken."""
        if self._at != len(self._data):
            raise _bad("bytes follow where an element ends")

    def _next(self, tag: int | None) -> int:
        """Go behind the next element; return where its content begins."""
        data, start = self._data, self._at
        length = len(data)
        if start + 2 > length:
            raise _bad("it is cut off")
        if tag is not None and data[start] != tag:
            raise _bad(f"an element has the tag {data[start]:#x} where {tag:#x} must be")
        if data[start] & 0x1F == 0x1F:
            raise _bad("a tag has more than one byte")
        size, at = data[start + 1], start + 2
        if size >= 0x80:
            count = size & 0x7F
            if not 1 <= count <= 3 or at + count > length:
                raise _bad("a length is indefinite, too long or cut off")
            size = int.from_bytes(data[at : at + count], "big")
            at += count
            if size < 0x80 or size < 1 << 8 * (count - 1):
                raise _bad("a length is not in its shortest form")
        if at + size > length:
            raise _bad("an element is longer than what holds it")
        self._at = at + size
        return at


def certificate(data: bytes) -> Certificate:
    """Return what a DER certificate says.

    Raises:
        AttestationError: ``endorsement/chain-invalid``; it is not one, or not in strict DER.
    """
    if len(data) > MAX_BYTES:
        raise _bad(f"it has more than {MAX_BYTES} bytes")
    outer = Reader(data)
    inner = Reader(outer.take(SEQUENCE))
    outer.finish()
    signed = inner.whole(SEQUENCE)
    algorithm = inner.whole(SEQUENCE)
    signature = bits(inner.take(BIT_STRING))
    inner.finish()
    body = Reader(Reader(signed).take(SEQUENCE))
    version = Reader(body.take(_VERSION))
    if integer(version.take(INTEGER)) != 2:
        raise _bad("it is not of version 3")
    version.finish()
    serial = integer(body.take(INTEGER))
    if body.whole(SEQUENCE) != algorithm:
        raise _bad("it names two signature algorithms")
    issuer = body.whole(SEQUENCE)
    dates = Reader(body.take(SEQUENCE))
    begin, end = time(dates), time(dates)
    dates.finish()
    subject = body.whole(SEQUENCE)
    key = body.whole(SEQUENCE)
    extensions = _extensions(body.take(_EXTENSIONS)) if not body.done else {}
    body.finish()
    return Certificate(
        signed, algorithm, signature, serial, issuer, subject,
        _common_name(issuer), _common_name(subject), begin, end, key, extensions,
    )  # fmt: skip


def integer(content: bytes) -> int:
    """Return the value of an INTEGER's content; raise if it is empty or not in its shortest form."""
    if not content or (len(content) > 1 and content[0] in (0, 0xFF) and (content[0] ^ content[1]) < 0x80):
        raise _bad("an integer is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


@lru_cache(512)
def oid(content: bytes) -> str:
    """Return an object identifier's content as dotted text."""
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise _bad("an object identifier is cut off or too long")
    numbers, value, fresh = [], 0, True
    for byte in content:
        if fresh and byte == 0x80:
            raise _bad("an object identifier is not in its shortest form")
        value, fresh = value << 7 | byte & 0x7F, not byte & 0x80
        if fresh:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def bits(content: bytes) -> bytes:
    """Return the bytes of a BIT STRING's content; raise if it has unused bits."""
    if not content or content[0] != 0:
        raise _bad("a bit string has unused bits")
    return content[1:]


def time(at: Reader) -> datetime:
    """Return the moment that comes next: UTCTime or GeneralizedTime, to the second, UTC."""
    tag = at.peek()
    text = at.take()
    try:
        if tag == UTC_TIME and len(text) == 13 and text[-1:] == b"Z" and text[:-1].isdigit():
            year = int(text[:2])
            return _moment((b"19" if year >= 50 else b"20") + text[:-1])
        if tag == GENERALIZED_TIME and len(text) == 15 and text[-1:] == b"Z" and text[:-1].isdigit():
            return _moment(text[:-1])
    except ValueError:
        pass
    raise _bad("a date is malformed")


def _moment(digits: bytes) -> datetime:
    parts = [int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))]
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@lru_cache(64)
def _common_name(name: bytes) -> str:
    parts = Reader(Reader(name).take(SEQUENCE))
    found = ""
    while not parts.done:
        members = Reader(parts.take(SET))
        while not members.done:
            pair = Reader(members.take(SEQUENCE))
            kind, tag = pair.take(OID), pair.peek()
            content = pair.take()
            pair.finish()
            if kind != _COMMON_NAME:
                oid(kind)
                continue
            if found or tag not in _TEXTS:
                raise _bad("a name has two common names, or one that is no text")
            try:
                found = content.decode("utf-8")
            except UnicodeDecodeError:
                raise _bad("a common name is no text") from None
    return found


def _extensions(data: bytes) -> dict[str, bytes]:
    outer = Reader(data)
    rows = Reader(outer.take(SEQUENCE))
    outer.finish()
    found: dict[str, bytes] = {}
    while not rows.done:
        row = Reader(rows.take(SEQUENCE))
        name = oid(row.take(OID))
        if row.peek() == BOOLEAN and row.take(BOOLEAN) != b"\xff":
            raise _bad("a boolean is not in DER")
        value = row.take(OCTET_STRING)
        row.finish()
        if name in found:
            raise _bad(f"the extension {name} is there twice")
        found[name] = value
    return found


def _bad(text: str) -> AttestationError:
    return refusal("endorsement/chain-invalid", f"a certificate is malformed: {text}")
