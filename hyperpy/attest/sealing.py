"""Sealing: bytes that only one attested machine can read (HPKE, RFC 9180; tee-attestation 8.1).

Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode. There is no separate associated data:
what a sealed text belongs to stands in ``info``, and a text does not open under another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hyperpy.errors import CodecError, ParameterError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

KEM_X25519: Final = b"\x00\x20"
"""HPKE's number of the KEM, which stands before a public key."""
MAX_BYTES: Final = 4 << 20
"""Most bytes that are sealed at once."""

_DOMAIN: Final = b"hyperpy/tee/seal/v1\0"
_REPLY: Final = b"hyperpy/tee/reply/v1\0"
_STREAM: Final = b"hyperpy/tee/stream/v1\0"
_PIECES: Final = b"hyperpy/tee/pieces/v1\0"
_DERIVED: Final = b"hyperpy/tee/derived/v1\0"
_LAST: Final = 1 << 95


def context(attestation: bytes, policy: str, address: bytes, request: bytes) -> bytes:
    """Return ``info``: what a sealed text belongs to.

    All four parts have 32 bytes, so that no two contexts are the same bytes.

    Args:
        attestation: :func:`hyperpy.attested.attestation_id` of the recipient's evidence.
        policy: name of the policy under which it was accepted; its SHA-256 stands in the context.
        address: the recipient's address, raw.
        request: what the sender names this text, 32 bytes, never used twice.

    Raises:
        ParameterError: a part has another length.
    """
    for name, item in (("attestation", attestation), ("address", address), ("request-id", request)):
        if len(item) != 32:
            raise ParameterError(f"'{name}' has 32 bytes, not {len(item)}", name=name)
    return _DOMAIN + attestation + hashlib.sha256(policy.encode("utf-8", "surrogatepass")).digest() + address + request


def reply_context(sealed: bytes) -> bytes:
    """Return ``info`` of the answer to a sealed request."""
    return _REPLY + hashlib.sha256(sealed).digest()


def stream_context(sealed: bytes, salt: bytes) -> bytes:
    """Return ``info`` of the pieces of an answer to a sealed request; the salt is another for each answer."""
    return _PIECES + hashlib.sha256(sealed).digest() + salt


def seal(plain: bytes, kem: bytes, info: bytes) -> bytes:
    """Return bytes sealed to a public key.

    Args:
        kem: the key as a statement holds it: ``00 20``, then 32 bytes of X25519.

    Raises:
        ParameterError: it is no such key, or the text is too long.
    """
    if len(kem) != 34 or kem[:2] != KEM_X25519:
        raise ParameterError("only keys of DHKEM(X25519) are known", name="kem")
    if len(plain) > MAX_BYTES:
        raise ParameterError(f"at most {MAX_BYTES} bytes are sealed at once")
    try:
        return bytes(_suite().encrypt(plain, X25519PublicKey.from_public_bytes(kem[2:]), info))
    except ValueError:  # a key of small order
        raise ParameterError("the key is no point that secrets can be sealed to", name="kem") from None


def unseal(sealed: bytes, secret: X25519PrivateKey, info: bytes) -> bytes:
    """Return what was sealed; raise CodecError if it was sealed to another key, for something else, or changed."""
    try:
        return bytes(_suite().decrypt(sealed, secret, info))
    except (InvalidTag, ValueError):
        raise CodecError("this was not sealed to this node's key, or for something else") from None


def derived(secret: X25519PrivateKey, use: bytes) -> bytes:
    """Return 64 bytes from a key for secrets, others for each use; they say nothing about the key."""
    return HKDF(SHA512(), 64, salt=None, info=_DERIVED + use).derive(secret.private_bytes_raw())


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Stream:
    """One direction of a sealed stream: chunks under a derived key, numbered, the last one marked.

    A chunk that is left out, repeated, moved or cut off does not open; neither does anything after the last.

    Args:
        secret: at least 32 bytes that both sides know, such as a value inside a sealed request.
        info: what the stream belongs to. Never use the same secret and ``info`` for two streams.
    """

    def __init__(self, secret: bytes, info: bytes) -> None:
        if len(secret) < 32:
            raise ParameterError("a stream's secret has at least 32 bytes")
        self._aead = AESGCM(HKDF(SHA256(), 32, salt=None, info=_STREAM + info).derive(secret))
        self._count = 0
        self._done = False

    def seal(self, chunk: bytes, *, last: bool = False) -> bytes:
        """Return the next chunk, sealed; raise CodecError after the last."""
        return self._aead.encrypt(self._nonce(last), chunk, None)

    def open(self, sealed: bytes, *, last: bool = False) -> bytes:
        """Return the next chunk; raise CodecError if it is not the next, or not the last as it is said to be."""
        try:
            return self._aead.decrypt(self._nonce(last), sealed, None)
        except (InvalidTag, ValueError):
            self._done = True
            raise CodecError("this is not the next chunk of the stream") from None

    def _nonce(self, last: bool) -> bytes:
        if self._done:
            raise CodecError("the stream has ended")
        self._done = last
        made = (self._count | (_LAST if last else 0)).to_bytes(12, "big")
        self._count += 1
        return made
