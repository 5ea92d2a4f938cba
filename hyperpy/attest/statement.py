"""What evidence is bound to: a statement, of which the report data is the hash (tee-attestation 7.1).

A statement is a list of tagged values, tags strictly ascending. It travels beside the evidence; the
verifier hashes it again and compares all 64 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hyperpy.attest.codes import refusal, require
from hyperpy.encoding import sha256

TAGS: Final = {
    "purpose": 1,
    "address": 2,
    "key": 3,
    "kem": 4,
    "nonce": 5,
    "epoch": 6,
    "node-message": 7,
    "request": 8,
    "hashpath": 9,
    "result": 10,
    "device": 11,
    "model": 12,
    "runtime": 13,
    "gpu": 14,
    "issued-at": 15,
    "previous": 16,
    "not-after": 17,
}
"""Tag numbers by name: the fields of a statement."""

PURPOSES: Final = ("node-identity", "result", "key-release", "zone-join", "channel")
SOFTWARE: Final = "software/"
"""What a software attester puts before a purpose, so that no statement of its serves twice (11)."""

_DOMAIN: Final = b"hyperpy/tee/binding/v1\0"
_GPU_DOMAIN: Final = b"hyperpy/tee/gpu-nonce/v1\0"
_NAMES: Final = {number: name for name, number in TAGS.items()}
_SIZES: Final = {
    "address": 32, "node-message": 32, "request": 32, "result": 32, "issued-at": 8, "previous": 32, "not-after": 8,
}  # fmt: skip
_NEEDED: Final = {
    "node-identity": ("node-message",),
    "result": ("request", "hashpath", "result", "device"),
    "key-release": ("kem",),
    "zone-join": ("kem", "node-message"),
    "channel": ("kem",),
}
SKEW_S: Final = 60
"""Seconds by which an attester's clock may be ahead of the verifier's."""
_MAX_VALUE: Final = 1 << 16
_NONCE: Final = range(16, 65)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is well-formed: its fields by name, as raw bytes."""

    fields: Mapping[str, bytes]

    @property
    def purpose(self) -> str:
        """The purpose, without a software attester's prefix."""
        return self.fields["purpose"].decode("ascii").removeprefix(SOFTWARE)

    @property
    def is_software(self) -> bool:
        """Whether a software attester made it."""
        return self.fields["purpose"].startswith(SOFTWARE.encode())

    def number(self, name: str) -> int | None:
        """Return a time of the statement, seconds; None if it is not there."""
        found = self.fields.get(name)
        return None if found is None else int.from_bytes(found, "big")

    def encode(self) -> bytes:
        """Return the tagged values, in order of their tags."""
        rows = sorted((TAGS[name], value) for name, value in self.fields.items())
        return b"".join(tag.to_bytes(2, "big") + len(value).to_bytes(4, "big") + value for tag, value in rows)

    def report_data(self) -> bytes:
        """Return the 64 bytes that evidence must carry."""
        return hashlib.sha512(_DOMAIN + self.encode()).digest()

    def gpu_nonce(self) -> bytes:
        """Return the nonce (32 bytes) that GPU evidence must carry: from the same binding, without the GPU's tag."""
        rest = Statement({name: value for name, value in self.fields.items() if name != "gpu"})
        return sha256(_GPU_DOMAIN + rest.report_data())

    def check_time(self, now: float) -> None:
        """Raise AppraisalError ``freshness/stale`` where the statement was made later than now, or held until earlier.

        Args:
            now: seconds since 1970. An attester's clock may be ahead by :data:`SKEW_S`.
        """
        made, end = self.number("issued-at"), self.number("not-after")
        require(made is None or made - SKEW_S <= now, "freshness/stale", "the statement's time lies in the future")
        require(end is None or now <= end, "freshness/stale", "the attester limited the evidence to an earlier time")

    def check(self, report_data: bytes) -> None:
        """Raise AppraisalError ``binding/report-data-mismatch`` unless evidence carries this statement's hash."""
        same = hmac.compare_digest(self.report_data(), report_data)
        require(same, "binding/report-data-mismatch", "the evidence is bound to another statement")


def make(fields: Mapping[str, bytes]) -> Statement:
    """Return a statement with these fields.

    Raises:
        AppraisalError: ``binding/statement-malformed``: a field is unknown, missing or of the wrong size.
    """
    for name, value in fields.items():
        require(name in TAGS, "binding/statement-malformed", f"a statement has no field '{name[:40]}'")
        size = _SIZES.get(name)
        fits = len(value) <= _MAX_VALUE if size is None else len(value) == size
        require(fits, "binding/statement-malformed", f"'{name}' has {len(value)} bytes")
    made = Statement(dict(fields))
    raw = fields.get("purpose", b"")
    purpose = raw.decode("ascii", "replace").removeprefix(SOFTWARE)
    if purpose not in PURPOSES:
        raise refusal("binding/statement-malformed", "the purpose is missing or unknown")
    wanted = {"address", "key", *_NEEDED[purpose]}
    missing = sorted(wanted - fields.keys())
    require(not missing, "binding/statement-malformed", f"a statement for {purpose} needs {', '.join(missing)}")
    fresh = len(fields["nonce"]) in _NONCE if "nonce" in fields else "epoch" in fields
    require(fresh, "binding/statement-malformed", "a statement needs a nonce of 16 to 64 bytes, or an epoch")
    return made


def decode(data: bytes) -> Statement:
    """Return the statement of tagged values.

    Raises:
        AppraisalError: ``binding/statement-malformed``.
    """
    found: dict[str, bytes] = {}
    at = last = 0
    while at < len(data):
        head = data[at : at + 6]
        tag, size = int.from_bytes(head[:2], "big"), int.from_bytes(head[2:], "big")
        value = data[at + 6 : at + 6 + size]
        whole = len(head) == 6 and len(value) == size
        require(whole and tag > last and tag in _NAMES, "binding/statement-malformed", "a tag is out of place")
        found[_NAMES[tag]] = value
        at, last = at + 6 + size, tag
    return make(found)


def gpu_digest(signed: list[bytes]) -> bytes:
    """Return tag 14: the SHA-384 of each GPU's signed bytes, joined."""
    return b"".join(hashlib.sha384(one).digest() for one in signed)
