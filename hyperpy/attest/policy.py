"""The appraisal policy: a file that says what evidence a relying party accepts (RFC 9334; tee-attestation 2.7, 11).

    id = "my-nodes"
    kinds = ["snp", "nvidia"]          # which evidence counts at all
    max-age = 300                      # seconds since the statement or document was made

    [snp]
    measurements = ["87a6…"]
    vmpls = [0]

TOML or JSON. What is left out has the safe default: debug off, migration off, collateral needed, software refused.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hyperpy.attest import sections
from hyperpy.attest.nitro import NitroPolicy
from hyperpy.attest.quote_policy import SgxPolicy, TdxPolicy
from hyperpy.attest.snp_policy import SnpPolicy
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import ConfigError

KINDS: Final = ("snp", "tdx", "sgx", "nitro", "nvidia", "software")
HARDWARE: Final = frozenset(KINDS) - {"software"}
"""Kinds of evidence that hardware makes."""

MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """What NVIDIA evidence must be.

    Attributes:
        min_count: least number of devices.
        require_golden: every device must come with golden values that match.
        products, drivers, vbioses: allowed product lines and versions; all if left out.
    """

    min_count: int = 0
    require_golden: bool = True
    products: frozenset[str] | None = None
    drivers: frozenset[str] | None = None
    vbioses: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """An appraisal policy.

    Attributes:
        id: its name; with :attr:`digest` it stands in every result.
        kinds: kinds of evidence that count.
        max_age: most seconds since a statement or document was made; 0: a nonce alone says how fresh it is.
        runtimes: runtime digests (tag 13) of which the statement must name one; None leaves open which devices run.
        allow_software: accept software evidence; it also takes a process started with --insecure-software-tee.
        digest: SHA-256 of the file's content, base64url.
    """

    id: str = "baseline"
    kinds: frozenset[str] = HARDWARE
    max_age: int = 0
    runtimes: frozenset[bytes] | None = None
    allow_software: bool = False
    snp: SnpPolicy = field(default_factory=SnpPolicy)
    tdx: TdxPolicy = field(default_factory=TdxPolicy)
    sgx: SgxPolicy = field(default_factory=SgxPolicy)
    nitro: NitroPolicy = field(default_factory=NitroPolicy)
    nvidia: GpuPolicy = field(default_factory=GpuPolicy)
    digest: str = ""

    @property
    def name(self) -> str:
        """Return what stands in results: ID and digest."""
        return f"{self.id}:{self.digest}" if self.digest else self.id


@dataclass(frozen=True, slots=True)
class _Head:
    id: str = "unnamed"
    kinds: frozenset[str] = HARDWARE
    max_age: int = 0
    runtimes: frozenset[bytes] | None = None
    allow_software: bool = False


_SECTIONS: Final[Mapping[str, type]] = {
    "snp": SnpPolicy, "tdx": TdxPolicy, "sgx": SgxPolicy, "nitro": NitroPolicy, "nvidia": GpuPolicy,
}  # fmt: skip

BASELINE: Final = Policy()
"""Genuine hardware, not in debug mode, up to date; which software runs, and in which layer, is not looked at."""


def load(file: Path) -> Policy:
    """Return the policy of a TOML or JSON file.

    Raises:
        ConfigError: it cannot be read, or says something unknown.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the policy {file} cannot be read: {error.strerror}") from None
    return parse(data)


def parse(data: bytes) -> Policy:
    """Return the policy of a TOML or JSON text.

    Raises:
        ConfigError: it is neither, or says something unknown.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError("the policy is too long")
    try:
        text = data.decode("utf-8")
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the policy is neither TOML nor JSON: {error}") from None
    return of(found, b64u(sha256(data)))


def of(found: Mapping[str, Any], digest: str = "", vmpls: frozenset[int] = frozenset({0})) -> Policy:
    """Return the policy of a mapping; raise ConfigError as :func:`parse`.

    Args:
        vmpls: privilege levels that are allowed where the mapping names none (2.7).
    """
    head = sections.read(_Head, {name: item for name, item in found.items() if name not in _SECTIONS}, "policy")
    unknown = sorted(head.kinds - set(KINDS))
    if unknown:
        raise ConfigError(f"there is no evidence of kind '{unknown[0]}'", hint=f"Known: {', '.join(KINDS)}.")
    made: dict[str, Any] = {}
    for name, kind in _SECTIONS.items():
        part = found.get(name, {})
        if not isinstance(part, Mapping):
            raise ConfigError(f"[{name}] must be a table")
        made[name] = sections.read(kind, part, name)
    if made["snp"].vmpls is None:
        made["snp"] = replace(made["snp"], vmpls=vmpls)
    return Policy(head.id, head.kinds, head.max_age, head.runtimes, head.allow_software, digest=digest, **made)


DEFAULT: Final = of({"id": "default"})
"""What a policy file without entries says: the baseline, in the most privileged layer."""
