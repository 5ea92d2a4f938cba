"""Software evidence: for development, and impossible to mistake for hardware's (tee-attestation 11).

It has its own media type, magic and signature context, is never as long as a hardware report, names its
measurement ``software-digest``, and proves nothing about a machine: whoever runs the code can make it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hyperpy.attest.codes import refusal, require

MEDIA_TYPE: Final = "application/vnd.hyperpy.software-evidence+json"
MAGIC: Final = "HPSW"
MAX_BYTES: Final = 4096
_CONTEXT: Final = b"hyperpy software attester, no hardware\0"
_SIZES: Final = {"software-digest": 32, "report-data": 64, "key": 32, "signature": 64}
_FIELDS: Final = frozenset({"magic", "version", "hardware", *_SIZES})


@dataclass(frozen=True, slots=True)
class Genuine:
    """Software evidence whose signature verifies under the key it names itself."""

    software_digest: bytes
    report_data: bytes
    key: bytes

    def claims(self) -> dict[str, Any]:
        """Return what it says, by name; bytes as lower-case hex."""
        return {
            "hardware": False,
            "software-digest": self.software_digest.hex(),
            "report_data": self.report_data.hex(),
            "key": self.key.hex(),
        }


def make(key: Ed25519PrivateKey, software_digest: bytes, report_data: bytes) -> bytes:
    """Return evidence in JSON.

    Args:
        software_digest: what runs, 32 bytes; report_data: what it is bound to, 64 bytes.
    """
    fields = {
        "magic": MAGIC,
        "version": 1,
        "hardware": False,
        "software-digest": software_digest.hex(),
        "report-data": report_data.hex(),
        "key": key.public_key().public_bytes_raw().hex(),
    }
    return _written({**fields, "signature": key.sign(_CONTEXT + _written(fields)).hex()})


def verify(raw: bytes) -> Genuine:
    """Return evidence whose form and signature are right.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/unsupported-version``, ``evidence/too-large``,
            ``signature/invalid``.
    """
    require(len(raw) <= MAX_BYTES, "evidence/too-large", "software evidence is too long")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise refusal("evidence/malformed", "software evidence is JSON") from None
    if not isinstance(found, dict) or found.keys() != _FIELDS or found["magic"] != MAGIC or found["hardware"]:
        raise refusal("evidence/malformed", "fields of software evidence are missing, unknown or wrong")
    require(found["version"] == 1, "evidence/unsupported-version", "software evidence of another version")
    require(_written(found) == raw, "evidence/malformed", "software evidence is not in its one form")
    parts: dict[str, bytes] = {}
    for name, size in _SIZES.items():
        try:
            parts[name] = bytes.fromhex(found[name])
        except (TypeError, ValueError):
            parts[name] = b""
        fits = len(parts[name]) == size and parts[name].hex() == found[name]
        require(fits, "evidence/malformed", f"'{name}' of software evidence is malformed")
    rest = {name: item for name, item in found.items() if name != "signature"}
    try:
        Ed25519PublicKey.from_public_bytes(parts["key"]).verify(parts["signature"], _CONTEXT + _written(rest))
    except (InvalidSignature, ValueError):
        raise refusal("signature/invalid", "software evidence does not verify") from None
    return Genuine(parts["software-digest"], parts["report-data"], parts["key"])


def _written(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
