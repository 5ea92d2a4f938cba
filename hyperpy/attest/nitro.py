"""AWS Nitro Enclaves: attestation documents (tee-attestation 4).

A document is a COSE_Sign1 over a map. Checks, in this order (numbers are repeated beside the code):

    1  form: no key twice, nothing behind, the one encoding of the envelope, known fields, ES384
    2  chain from the document's certificate to the pinned root
    3  validity at ``now``: the leaf lives about three hours
    4  signature
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest import certs, roots
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.errors import AttestationError

MAX_BYTES: Final = 1 << 15
_ES384: Final = -35
_TAG: Final = 18
_NEEDED: Final = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})
_OPTIONAL: Final = {"public_key": 1024, "user_data": 512, "nonce": 512}
_ZERO: Final = bytes(48)


@dataclass(frozen=True, slots=True)
class Genuine:
    """A document that is genuine.

    Attributes:
        pcrs: platform registers by number, 48 bytes each.
        timestamp_ms: when it was made, milliseconds since 1970.
        public_key, user_data, nonce: what the enclave put in; None where it did not.
        not_after: when the first of the certificates ends; ``leaf_not_after``: the leaf.
    """

    module: str
    pcrs: Mapping[int, bytes]
    timestamp_ms: int
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    not_after: datetime
    leaf_not_after: datetime
    signed: bytes

    @property
    def debug(self) -> bool:
        """Whether the enclave ran in debug mode: its image register is all zero."""
        return self.pcrs.get(0, _ZERO) == _ZERO

    def claims(self) -> Mapping[str, Any]:
        """Return everything the document says, by name; bytes as lower-case hex."""
        return {
            "module_id": self.module,
            "digest": "SHA384",
            "timestamp_ms": self.timestamp_ms,
            "pcrs": {str(number): value.hex() for number, value in self.pcrs.items()},
            **{name: None if (raw := getattr(self, name)) is None else raw.hex() for name in _OPTIONAL},
            "leaf_not_after": f"{self.leaf_not_after:%Y-%m-%dT%H:%M:%SZ}",
        }


def verify(raw: bytes, now: datetime) -> Genuine:
    """Return a document that is genuine.

    Args:
        now: UTC; the clock of the verification.

    Raises:
        AttestationError: the first check that fails, by its code.
    """
    protected, payload, signature = _envelope(raw)  # 1
    fields = _fields(payload)
    leaf = certs.certificate(fields["certificate"])
    path = certs.chain((*fields["cabundle"], fields["certificate"]), roots.AWS, leaf)  # 2
    certs.check_validity(path, now)  # 3
    signed = _decoder().dumps(["Signature1", protected, b"", payload])
    genuine = ecdsa_raw(certs.ec_key(leaf, ec.SECP384R1), signature, signed, hashes.SHA384())  # 4
    require(genuine, "signature/invalid", "the document's signature does not verify")
    return Genuine(
        fields["module_id"], fields["pcrs"], fields["timestamp"],
        fields.get("public_key"), fields.get("user_data"), fields.get("nonce"),
        min(one.not_valid_after_utc for one in path), leaf.not_valid_after_utc, signed,
    )  # fmt: skip


def _decoder() -> Any:
    import cbor2

    return cbor2


def _decode(data: bytes, *, open_ended: bool = False) -> Any:
    """Return what CBOR bytes hold, all of them; ``open_ended`` takes lengths that are not said beforehand."""
    cbor, at = _decoder(), io.BytesIO(data)
    try:
        decoder = cbor.CBORDecoder(
            at, read_size=1, max_depth=8, allow_indefinite=open_ended, allow_duplicate_keys=False
        )
        found = decoder.decode()
        if at.read(1):
            raise ValueError
        return found
    except (cbor.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        raise _malformed("it is not strict CBOR") from None


def _envelope(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what is protected, the payload and the signature."""
    require(len(raw) <= MAX_BYTES, "evidence/too-large", f"a document of {len(raw)} bytes")
    found = _decode(raw)
    if _decoder().dumps(found) != raw:
        raise _malformed("the envelope is not in its one encoding, or something follows it")
    if isinstance(found, _decoder().CBORTag):
        require(found.tag == _TAG, "evidence/malformed", "not a COSE_Sign1")
        found = found.value
    kinds = [bytes, dict, bytes, bytes]
    if not isinstance(found, list) or [type(one) for one in found] != kinds or found[1]:
        raise _malformed("not a COSE_Sign1")
    protected, _, payload, signature = found
    require(_decode(protected) == {1: _ES384}, "signature/algorithm", "not ECDSA on P-384 with SHA-384")
    require(len(signature) == 96, "evidence/malformed", "a signature of the wrong length")
    return protected, payload, signature


def _fields(payload: bytes) -> dict[str, Any]:
    found = _decode(payload, open_ended=True)  # as newer hypervisors write it
    if not isinstance(found, dict) or not _NEEDED <= found.keys() <= _NEEDED | _OPTIONAL.keys():
        raise _malformed("fields are missing or unknown")
    if any(_wrong(found)):
        raise _malformed("a field has the wrong type or size")
    return found


def _wrong(found: Mapping[str, Any]) -> Iterator[bool]:
    """Yield, for each field, whether it is wrong."""
    yield type(found["module_id"]) is not str or not 0 < len(found["module_id"]) <= 256
    yield found["digest"] != "SHA384"
    yield type(found["timestamp"]) is not int or not 0 < found["timestamp"] < 1 << 50
    pcrs = found["pcrs"]
    yield type(pcrs) is not dict or not 1 <= len(pcrs) <= 32 or 0 not in pcrs
    if type(pcrs) is dict:
        yield any(type(number) is not int or not 0 <= number < 32 for number in pcrs)
        yield any(type(value) is not bytes or len(value) != 48 for value in pcrs.values())
    bundle = found["cabundle"]
    yield type(bundle) is not list or not 1 <= len(bundle) < certs.MAX_CHAIN
    yield type(bundle) is list and any(type(one) is not bytes for one in bundle)
    yield type(found["certificate"]) is not bytes
    for name, most in _OPTIONAL.items():
        value = found.get(name)
        yield value is not None and (type(value) is not bytes or len(value) > most)


def _malformed(text: str) -> AttestationError:
    return refusal("evidence/malformed", f"the document: {text}")


@dataclass(frozen=True, slots=True)
class NitroPolicy:
    """What a Nitro document must be. An allow list left out allows everything; an empty one nothing.

    Attributes:
        pcr0: allowed images; pcr1: kernels; pcr2: applications; pcr3: roles; pcr4: instances; pcr8: signers.
        allow_debug: accept an enclave in debug mode.
    """

    pcr0: frozenset[bytes] | None = None
    pcr1: frozenset[bytes] | None = None
    pcr2: frozenset[bytes] | None = None
    pcr3: frozenset[bytes] | None = None
    pcr4: frozenset[bytes] | None = None
    pcr8: frozenset[bytes] | None = None
    allow_debug: bool = False


def appraise(found: Genuine, policy: NitroPolicy) -> list[str]:
    """Return the codes of everything in a genuine document that the policy refuses; empty if it is accepted."""
    codes = []
    if found.debug and not policy.allow_debug:
        codes.append("policy/debug-enabled")
    for number in (0, 1, 2, 3, 4, 8):
        allowed = getattr(policy, f"pcr{number}")
        if allowed is not None and found.pcrs.get(number, b"") not in allowed:
            codes.append("policy/measurement-not-allowed" if number == 0 else "policy/pcr")
    return list(dict.fromkeys(codes))
