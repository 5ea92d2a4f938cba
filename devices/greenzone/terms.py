"""The two Erlang terms that the reference's green zone sends, read strictly (devices part 06).

``{{rsa, 65537}, <modulus>}`` is a public key, ``{{rsa, 65537}, <exponent>, <modulus>}`` a private one, each
in the external term format. Nothing else is a term here: whatever differs in a byte of the form is refused.
"""

from __future__ import annotations

from typing import Final

from hyperpy.attest.codes import refusal

_RSA: Final = b"\x68\x02\x77\x03rsa\x62\x00\x01\x00\x01"
"""A tuple of two: the atom ``rsa`` (UTF-8, short) and the integer 65537."""
_PUBLIC: Final = b"\x83\x68\x02" + _RSA
_PRIVATE: Final = b"\x83\x68\x03" + _RSA
_BINARY: Final = b"\x6d"
_SIZES: Final = range(256, 1025)


def public_key(modulus: bytes) -> bytes:
    """Return the term of a public key."""
    return _PUBLIC + _binary(modulus)


def private_key(exponent: bytes, modulus: bytes) -> bytes:
    """Return the term of a private key."""
    return _PRIVATE + _binary(exponent) + _binary(modulus)


def read_public(term: bytes) -> bytes:
    """Return the modulus of a public key's term: 256 to 1024 bytes, no zero before it, odd.

    Raises:
        EvidenceError: ``evidence/malformed``: it is any other term, or none.
    """
    (modulus,) = _read(term, _PUBLIC, 1)
    return _modulus(modulus)


def read_private(term: bytes) -> tuple[bytes, bytes]:
    """Return exponent and modulus of a private key's term; raise EvidenceError as :func:`read_public`."""
    exponent, modulus = _read(term, _PRIVATE, 2)
    return exponent, _modulus(modulus)


def _binary(data: bytes) -> bytes:
    return _BINARY + len(data).to_bytes(4, "big") + data


def _read(term: bytes, head: bytes, count: int) -> list[bytes]:
    found: list[bytes] = []
    at = len(head)
    if term[:at] == head:
        for _ in range(count):
            size = int.from_bytes(term[at + 1 : at + 5], "big")
            piece = term[at + 5 : at + 5 + size]
            if term[at : at + 1] != _BINARY or len(piece) != size or not 0 < size <= _SIZES[-1]:
                break
            found.append(piece)
            at += 5 + size
    if len(found) != count or at != len(term):
        raise refusal("evidence/malformed", "the public key is no term {{rsa, 65537}, modulus}")
    return found


def _modulus(data: bytes) -> bytes:
    if len(data) not in _SIZES or not data[0] or not data[-1] & 1:
        raise refusal("evidence/malformed", "the term's modulus is none of an RSA key")
    return data
