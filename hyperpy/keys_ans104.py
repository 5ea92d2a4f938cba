"""The signature types of ANS-104 items: signers, verification, addresses (v0.9-final 4.1).

Every type signs the 48-byte deep hash of an item, each in its own way. A signer holds a private
key and never shows it. Verification takes the raw owner bytes of an item and answers yes or no;
it raises nothing, whatever the bytes.

Types 5 and 6 (Aptos) and others are not known here: their items do not parse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hyperpy.encoding import b64u, sha256
from hyperpy.errors import ConfigError
from hyperpy.keys import RsaKey, verify_pss

RSA, ED25519, ETHEREUM, SOLANA, TYPED_ETHEREUM = 1, 2, 3, 4, 7


class SignatureType(NamedTuple):
    """Sizes in bytes of one signature type, and its name in a commitment's ``type``."""

    number: int
    signature_size: int
    owner_size: int
    name: str


TYPES: Final[Mapping[int, SignatureType]] = {
    kind.number: kind
    for kind in (
        SignatureType(RSA, 512, 512, "rsa-pss-sha256"),
        SignatureType(ED25519, 64, 32, "ed25519-sha512"),
        SignatureType(ETHEREUM, 65, 65, "ethereum"),
        SignatureType(SOLANA, 64, 32, "solana"),
        SignatureType(TYPED_ETHEREUM, 65, 42, "typed_ethereum"),
    )
}
TYPE_OF_NAME: Final[Mapping[str, SignatureType]] = {kind.name: kind for kind in TYPES.values()}


class Signer(Protocol):
    """Something that signs items: an RSA, Ed25519, Ethereum or Solana key."""

    @property
    def signature_type(self) -> int:
        """The number that items carry."""

    @property
    def owner(self) -> bytes:
        """The public key as items carry it."""

    @property
    def address(self) -> str:
        """The committer's name."""

    def sign(self, digest: bytes) -> bytes:
        """Return the signature over a 48-byte deep hash."""


# -- Ethereum --------------------------------------------------------------------------------

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 digest that Ethereum uses (not SHA3-256)."""
    from Crypto.Hash import keccak  # loaded only by who meets an Ethereum key

    return keccak.new(digest_bits=256, data=data).digest()


def ethereum_address(public_key: bytes) -> str:
    """Return the checksummed address (EIP-55) of an uncompressed public key of 65 bytes."""
    return _checksummed(keccak256(public_key[1:])[-20:])


def _checksummed(raw: bytes) -> str:
    text = raw.hex()
    digest = keccak256(text.encode("ascii")).hex()
    return "0x" + "".join(c.upper() if digest[at] >= "8" else c for at, c in enumerate(text))


def _personal(message: bytes) -> bytes:
    """Return the digest of ``personal_sign`` (EIP-191, version 0x45)."""
    return keccak256(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)


def _typed(message: bytes, address: bytes) -> bytes:
    """Return the EIP-712 digest that clients of type 7 sign: domain ``Bundlr``, version 1."""
    domain = keccak256(
        keccak256(b"EIP712Domain(string name,string version)") + keccak256(b"Bundlr") + keccak256(b"1"),
    )
    kind = keccak256(b"Bundlr(bytes Transaction hash,address address)")
    struct = keccak256(kind + keccak256(message) + address.rjust(32, b"\0"))
    return keccak256(b"\x19\x01" + domain + struct)


def _recover(digest: bytes, signature: bytes) -> bytes | None:
    """Return the uncompressed public key a signature names, or None.

    The recovery byte may be 0, 1, 27 or 28. A signature with a high ``s`` is refused (EIP-2):
    else one signed item would have two IDs.
    """
    recovery = signature[64] - 27 if signature[64] >= 27 else signature[64]
    if recovery not in (0, 1) or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    from coincurve import PublicKey  # a light verifier does without it

    try:
        return PublicKey.from_signature_and_message(signature[:64] + bytes([recovery]), digest, hasher=None).format(
            False
        )
    except Exception:  # libsecp256k1's binding raises bare Exception for an unusable signature
        return None


def _verify_ethereum(owner: bytes, signature: bytes, digest: bytes) -> bool:
    return _recover(_personal(digest), signature) == owner


def _owner_address(owner: bytes) -> bytes | None:
    """Return the 20 bytes of an owner written as address text, or None."""
    if owner[:2] != b"0x" or owner[2:].translate(None, b"0123456789abcdefABCDEF"):
        return None
    return bytes.fromhex(owner[2:].decode("ascii"))


def _verify_typed(owner: bytes, signature: bytes, digest: bytes) -> bool:
    address = _owner_address(owner)
    if address is None:
        return False
    found = _recover(_typed(digest, address), signature)
    return found is not None and keccak256(found[1:])[-20:] == address


# -- the other types -------------------------------------------------------------------------


def _verify_rsa(owner: bytes, signature: bytes, digest: bytes) -> bool:
    return verify_pss(owner, signature, digest, "sha256")


def _verify_ed25519(owner: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(owner).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_solana(owner: bytes, signature: bytes, digest: bytes) -> bool:
    return _verify_ed25519(owner, signature, digest.hex().encode("ascii"))


_VERIFIERS: Final[Mapping[int, Callable[[bytes, bytes, bytes], bool]]] = {
    RSA: _verify_rsa,
    ED25519: _verify_ed25519,
    ETHEREUM: _verify_ethereum,
    SOLANA: _verify_solana,
    TYPED_ETHEREUM: _verify_typed,
}


def verify(signature_type: int, owner: bytes, signature: bytes, digest: bytes) -> bool:
    """Say whether ``owner`` signed the deep hash ``digest`` of an item."""
    kind = TYPES.get(signature_type)
    if kind is None or len(owner) != kind.owner_size or len(signature) != kind.signature_size:
        return False
    return _VERIFIERS[signature_type](owner, signature, digest)


def address_of(signature_type: int, owner: bytes) -> str:
    """Return the committer's name of an item's owner bytes, whose size fits the type."""
    if signature_type == ETHEREUM:
        return ethereum_address(owner)
    if signature_type == SOLANA:
        return base58(owner)
    if signature_type == TYPED_ETHEREUM:
        raw = _owner_address(owner)
        return _checksummed(raw) if raw is not None else b64u(sha256(owner))
    return b64u(sha256(owner))


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(data: bytes) -> str:
    """Return base58 text, as Solana writes addresses. For short values: takes quadratic time."""
    number, digits = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


# -- signers ---------------------------------------------------------------------------------


class RsaSigner:
    """Signs items with an RSA-4096 wallet (type 1)."""

    signature_type: Final = RSA

    def __init__(self, key: RsaKey) -> None:
        if len(key.modulus) != TYPES[RSA].owner_size:
            raise ConfigError("ANS-104 items are signed with RSA keys of 4096 bits only")
        self._key = key
        self.owner: bytes = key.modulus
        self.address: str = key.address

    def sign(self, digest: bytes) -> bytes:
        """Return an RSA-PSS signature with SHA-256 and 32 bytes of salt."""
        return self._key.sign_pss_sha256(digest)


class Ed25519Signer:
    """Signs items with an Ed25519 key (type 2); ``seed`` is its 32 private bytes."""

    signature_type: int = ED25519

    def __init__(self, seed: bytes) -> None:
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(seed)
        except ValueError:
            raise ConfigError("an Ed25519 seed has 32 bytes") from None
        self.owner: bytes = self._key.public_key().public_bytes_raw()
        self.address: str = address_of(self.signature_type, self.owner)

    def sign(self, digest: bytes) -> bytes:
        """Return the signature over the deep hash as it is."""
        return self._key.sign(digest)


class SolanaSigner(Ed25519Signer):
    """Signs items as Solana wallets do (type 4): over the hex text of the deep hash."""

    signature_type: int = SOLANA

    def sign(self, digest: bytes) -> bytes:
        """Return the signature over the deep hash in lower-case hex."""
        return super().sign(digest.hex().encode("ascii"))


class EthereumSigner:
    """Signs items with ``personal_sign`` (type 3); ``secret`` is the 32 private bytes."""

    signature_type: Final = ETHEREUM

    def __init__(self, secret: bytes) -> None:
        from coincurve import PrivateKey

        try:
            self._key = PrivateKey(secret)
        except ValueError:
            raise ConfigError("a secp256k1 secret is 32 bytes, not zero, below the curve's order") from None
        self.owner: bytes = self._key.public_key.format(compressed=False)
        self.address: str = ethereum_address(self.owner)

    def sign(self, digest: bytes) -> bytes:
        """Return ``r | s | v`` with v = 27 or 28."""
        found = self._key.sign_recoverable(_personal(digest), hasher=None)
        return found[:64] + bytes([27 + found[64]])


def as_signer(key: Any) -> Signer:
    """Return ``key`` as a signer of items; an RsaKey is wrapped.

    Raises:
        ConfigError: an RSA key of another size than 4096 bits.
    """
    if isinstance(key, RsaKey):
        return RsaSigner(key)
    signer: Signer = key
    return signer
