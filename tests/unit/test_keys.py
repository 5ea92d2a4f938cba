"""RSA wallets: files, modes, JWKs, signatures."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from hyperpy.encoding import b64u, sha256
from hyperpy.errors import ConfigError
from hyperpy.keys import RsaKey, address_of, verify_pss

BITS = 2048


@pytest.fixture(scope="module")
def key() -> RsaKey:
    """A small key, made once."""
    return RsaKey.generate(BITS)


def test_created_file_is_private_and_loads(tmp_path: Path) -> None:
    """Mode 0600, no temporary file left, the same key back."""
    path = tmp_path / "deep" / "wallet.json"
    made = RsaKey.create(path, BITS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["wallet.json"]
    assert RsaKey.load(path).address == made.address == b64u(sha256(made.modulus)) == address_of(made.modulus)


def test_never_overwritten(tmp_path: Path, key: RsaKey) -> None:
    """An existing file, even an empty one or a dangling link, stays."""
    path = tmp_path / "wallet.json"
    path.write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    for target in (path, tmp_path / "link.json"):
        with pytest.raises(ConfigError, match="exists"):
            RsaKey.create(target, BITS)
        with pytest.raises(ConfigError, match="exists"):
            key.save(target)
    assert path.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.json", "wallet.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_refuses_files_others_can_read(tmp_path: Path, key: RsaKey, mode: int) -> None:
    """The error names the mode and the command that mends it."""
    path = tmp_path / "wallet.json"
    key.save(path)
    os.chmod(path, mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}") as caught:
        RsaKey.load(path)
    assert f"chmod 600 {path}" in caught.value.diagnostics()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"kty":"EC"}', '{"n":1}', '{"n":"AQ","e":"AQ","d":"AQ"}', "[" * 100_000]
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    """Whatever the file holds, it is a ConfigError."""
    path = tmp_path / "wallet.json"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigError):
        RsaKey.load(path)
    with pytest.raises(ConfigError):
        RsaKey.load(tmp_path / "missing.json")


def test_primes_are_recovered(key: RsaKey) -> None:
    """A JWK with n, e, d only is the same key; so is one whose exponent has four bytes."""
    jwk = key.to_jwk()
    for e in (jwk["e"], "AAEAAQ"):
        again = RsaKey.from_jwk({"n": jwk["n"], "e": e, "d": jwk["d"]})
        assert again.address == key.address
        assert verify_pss(key.modulus, again.sign_pss_sha512(b"text"), b"text", "sha512")
    assert json.loads(json.dumps(jwk))["kty"] == "RSA"


def test_wrong_numbers_are_refused(key: RsaKey) -> None:
    """A private exponent of another key does not pass."""
    other = RsaKey.generate(BITS).to_jwk()
    with pytest.raises(ConfigError):
        RsaKey.from_jwk({**key.to_jwk(), "d": other["d"]})


@pytest.mark.parametrize("salt", [0, 32, 64, 190])
def test_any_salt_length_verifies(key: RsaKey, salt: int) -> None:
    """SHA-512 leaves 190 bytes of salt at most in 2048 bits."""
    assert verify_pss(key.modulus, key.sign_pss_sha512(b"text", salt), b"text", "sha512")
    assert verify_pss(key.modulus, key.sign_pss_sha256(b"text", salt), b"text", "sha256")


def test_damage_is_noticed(key: RsaKey) -> None:
    """Another text, hash, signature or key; odd moduli are no keys, not errors."""
    signed = key.sign_pss_sha512(b"text")
    assert not verify_pss(key.modulus, signed, b"texT", "sha512")
    assert not verify_pss(key.modulus, signed, b"text", "sha256")
    assert not verify_pss(key.modulus, signed[:-1] + bytes([signed[-1] ^ 1]), b"text", "sha512")
    assert not verify_pss(key.modulus, b"", b"text", "sha512")
    for modulus in (b"", b"\x00" * 256, b"\x01", b"\xff" * 2000, b"\x02" * 256, key.modulus[:-1]):
        assert not verify_pss(modulus, signed, b"text", "sha512")


def test_repr_hides_the_private_half(key: RsaKey) -> None:
    """Only the address shows."""
    assert repr(key) == f"RsaKey({key.address})"
