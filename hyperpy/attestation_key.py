"""The key that secrets are sealed to: of this run alone, or the same whenever this very guest runs (8.2).

Either way it is in memory alone. A derived one is made again at every start from a key that AMD's firmware gives to a
guest with this measurement and policy, on this chip, with firmware not below the committed one. With it goes all that
evidence of the node's identity names: its address, its public settings, what code it runs; the operator's device
files; and the private settings that say which code runs and who may see secrets: ``[devices]``, ``[tee]`` without what
only vouches (certificates, collateral, manifests) or counts (reports, batch), and ``[inference]``. Whoever starts the
same guest with others of these gets another key. Other private settings (where the store is, what is logged, how long
the trail is kept) do not change it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hyperpy.attest import snp
from hyperpy.attester import Attester, base, sev_guest
from hyperpy.config import Config
from hyperpy.encoding import sha256
from hyperpy.errors import AttestationError, ConfigError

RUN: Final = "run"
_FREE: Final = frozenset({"certificates", "collateral", "manifests", "reports", "batch"})
"""Settings of ``[tee]`` that neither say which code runs nor who may see secrets."""
_INFO: Final = b"hyperpy/tee/key/v1\0"


@runtime_checkable
class _Deriving(Protocol):
    """An attester that also gives keys."""

    def derived_key(self, *, tcb: bytes = b"") -> bytes: ...


def key_for_secrets(found: Attester | None, config: Config, about: Callable[[], Sequence[bytes]]) -> X25519PrivateKey:
    """Return the key for secrets.

    Args:
        about: returns digests of what a derived key depends on beside the guest.

    Raises:
        ConfigError: this machine derives no keys, or a device file cannot be read.
    """
    if config.tee.key == RUN:
        return X25519PrivateKey.generate()
    if found is None or found.kind != "snp":
        raise ConfigError("[tee] key = 'derived' takes a machine with SEV-SNP", hint="See `hyperpy doctor`.")
    try:
        own = found if isinstance(found, _Deriving) else sev_guest.find(base.ROOT)
        committed = snp.parse(found.evidence(bytes(64)).report).committed_tcb
        given = own.derived_key(tcb=committed)
    except AttestationError as error:
        raise ConfigError(f"[tee] key = 'derived': {error.message}", hint="It takes /dev/sev-guest.") from None
    files = [sha256(_read(one)) for one in config.devices.files]
    told = b"".join(sha256(one) for one in (*about(), _settings(config), *files))
    raw = HKDF(SHA256(), 32, salt=None, info=_INFO + told).derive(given)
    return X25519PrivateKey.from_private_bytes(raw)


def _settings(config: Config) -> bytes:
    """Return the private settings that a derived key depends on, in one form."""
    kept = {
        "devices": {"override": sorted(config.devices.override), "grant": config.devices.grant},
        "tee": {name: item for name, item in asdict(config.tee).items() if name not in _FREE},
        "inference": asdict(config.inference),
    }
    return json.dumps(kept, sort_keys=True).encode()


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"the device file {name} cannot be read: {error.strerror}") from None
