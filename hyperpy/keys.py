"""RSA wallets: JWK files, PSS signatures, addresses (ao-core 3.2, 10.10).

A wallet lives in a JWK file that only its owner can read. Its address is the SHA-256 of the raw
modulus. Signing hashes with SHA-512 and a salt of 64 bytes for httpsig, SHA-256 and 32 for
ANS-104; verifying takes any salt length, since browsers use the longest.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hyperpy.encoding import b64, b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, ConfigError

EXPONENT: Final = 65537
KEY_BITS: Final = 4096
_MODULUS_BYTES = range(128, 1025)
_HASHES: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {"sha256": hashes.SHA256, "sha512": hashes.SHA512}
_SHA256, _SHA512 = hashes.SHA256(), hashes.SHA512()


def address_of(modulus: bytes) -> str:
    """Return the address of a public key given by its raw modulus."""
    return b64u(sha256(modulus))


class RsaKey:
    """An RSA key pair that signs. It never shows its private half."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        numbers = key.public_key().public_numbers()
        if numbers.e != EXPONENT:
            raise ConfigError("an RSA wallet must have the exponent 65537")
        self._key = key
        self.modulus: bytes = numbers.n.to_bytes((key.key_size + 7) // 8, "big")
        self.address: str = address_of(self.modulus)

    @cached_property
    def keyid(self) -> str:
        """The key's name in httpsig commitments."""
        return "publickey:" + b64(self.modulus)

    def sign_pss_sha512(self, data: bytes, salt_len: int = 64) -> bytes:
        """Return an RSA-PSS signature with SHA-512, as httpsig uses (2 ms for 4096 bits)."""
        return self._key.sign(data, padding.PSS(padding.MGF1(_SHA512), salt_len), _SHA512)

    def sign_pss_sha256(self, data: bytes, salt_len: int = 32) -> bytes:
        """Return an RSA-PSS signature with SHA-256, as ANS-104 uses."""
        return self._key.sign(data, padding.PSS(padding.MGF1(_SHA256), salt_len), _SHA256)

    def __repr__(self) -> str:
        return f"RsaKey({self.address})"

    # -- making and keeping ----------------------------------------------------------------

    @classmethod
    def generate(cls, bits: int = KEY_BITS) -> RsaKey:
        """Return a new key. 4096 bits take about a second; fewer are for tests."""
        return cls(rsa.generate_private_key(EXPONENT, bits))

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> RsaKey:
        """Return the key of a JWK with ``n``, ``e``, ``d``; the primes are found if missing.

        Raises:
            ConfigError: not an RSA private key, or its numbers do not fit together.
        """
        if jwk.get("kty", "RSA") != "RSA":
            raise ConfigError("the wallet is no RSA key")
        try:
            n, e, d = (int.from_bytes(b64u_decode(_text(jwk, name)), "big") for name in ("n", "e", "d"))
            if "p" in jwk and "q" in jwk:
                p, q = (int.from_bytes(b64u_decode(_text(jwk, name)), "big") for name in ("p", "q"))
            else:
                p, q = rsa.rsa_recover_prime_factors(n, e, d)
            parts = (rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
            return cls(rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(e, n)).private_key())
        except (ValueError, TypeError, OverflowError, ZeroDivisionError, CodecError, UnsupportedAlgorithm):
            raise ConfigError("the wallet's numbers do not make an RSA key") from None

    def to_jwk(self) -> dict[str, str]:
        """Return the whole key, private numbers included, as a JWK."""
        own = self._key.private_numbers()
        numbers = {
            "n": own.public_numbers.n,
            "e": own.public_numbers.e,
            "d": own.d,
            "p": own.p,
            "q": own.q,
            "dp": own.dmp1,
            "dq": own.dmq1,
            "qi": own.iqmp,
        }
        text = {name: b64u(number.to_bytes((number.bit_length() + 7) // 8, "big")) for name, number in numbers.items()}
        return {"kty": "RSA", **text}

    @classmethod
    def load(cls, path: str | Path) -> RsaKey:
        """Return the key in a JWK file.

        Raises:
            ConfigError: no such file, not a JWK, or others than the owner can read it.
        """
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(1 << 20)
        except OSError as error:
            raise ConfigError(f"the wallet {path} cannot be read: {error.strerror}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(
                f"the wallet {path} can be read by other users of this machine (mode {stat.S_IMODE(mode):04o})",
                hint=f"Run `chmod 600 {path}`. If others had access, make a new wallet.",
            )
        try:
            jwk = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError(f"the wallet {path} is no JSON") from None
        if not isinstance(jwk, dict):
            raise ConfigError(f"the wallet {path} is no JWK")
        return cls.from_jwk(jwk)

    @classmethod
    def create(cls, path: str | Path, bits: int = KEY_BITS) -> RsaKey:
        """Make a key, write it to a new file of mode 0600, and return it.

        The file appears whole or not at all; one that is there is never overwritten.

        Raises:
            ConfigError: the file exists or cannot be written.
        """
        if os.path.lexists(path):
            raise ConfigError(f"the wallet {path} exists", hint="Name another file; wallets are never overwritten.")
        key = cls.generate(bits)
        key.save(path)
        return key

    def save(self, path: str | Path) -> None:
        """Write the key to a new file of mode 0600; see :meth:`create`."""
        target = Path(path)
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".wallet-", dir=target.parent)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                json.dump(self.to_jwk(), file)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        except FileExistsError:
            raise ConfigError(
                f"the wallet {path} exists", hint="Name another file; wallets are never overwritten."
            ) from None
        except OSError as error:
            raise ConfigError(f"the wallet {path} cannot be written: {error.strerror}") from None
        finally:
            if temporary is not None:
                os.unlink(temporary)


def _text(jwk: Mapping[str, Any], name: str) -> str:
    found = jwk.get(name)
    if not isinstance(found, str):
        raise CodecError(f"the JWK has no '{name}'")
    return found


@lru_cache(maxsize=256)
def _public(modulus: bytes) -> rsa.RSAPublicKey | None:
    number = int.from_bytes(modulus, "big")
    if len(modulus) not in _MODULUS_BYTES or number.bit_length() < 8 * _MODULUS_BYTES[0]:
        return None
    try:
        return rsa.RSAPublicNumbers(EXPONENT, number).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def verify_pss(modulus: bytes, signature: bytes, data: bytes, hash_name: str) -> bool:
    """Say whether an RSA-PSS signature fits, whatever its salt length.

    Args:
        modulus: the raw public modulus, 128 to 1024 bytes; the exponent is 65537. No signature fits
            a modulus that is shorter once its leading zeros are gone.
        hash_name: ``sha256`` or ``sha512``, also used by MGF1.
    """
    key = _public(modulus)
    if key is None:
        return False
    algorithm = _HASHES[hash_name]()
    try:
        key.verify(signature, data, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
    except InvalidSignature:
        return False
    return True
