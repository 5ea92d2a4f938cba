"""What somebody who checks a receipt accepts: whose signature, what evidence (docs/receipts.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hyperpy.attest import policy as policies
from hyperpy.attest.policy import BASELINE, Policy
from hyperpy.errors import ConfigError

STATUSES: Final = ("hardware", "software")


@dataclass(frozen=True, slots=True)
class Rules:
    """A receipt policy.

    Attributes:
        signers: addresses of which one must have signed the receipt; None accepts anybody's signature.
        tee: what evidence is accepted.
        attested: the status that every root must have at least: ``hardware`` or ``software``; None: none is asked for.
        insecure_software: believe software evidence, where ``tee`` allows it too.
    """

    signers: tuple[str, ...] | None = None
    tee: Policy = BASELINE
    attested: str | None = None
    insecure_software: bool = False


def rules_of(found: Mapping[str, Any] | None) -> Rules:
    """Return the policy that a mapping, as a policy file holds it, describes.

    Raises:
        ConfigError: it names something unknown, or of another type: a slip here must not accept more than was meant.
    """
    if found is None:
        return Rules()
    if not isinstance(found, Mapping) or not found:
        raise ConfigError("a receipt policy names what is accepted", hint='Write {"signers": ["ADDRESS"]}.')
    unknown = sorted(str(name) for name in found if name not in ("signers", "tee", "attested", "insecure-software"))
    if unknown:
        raise ConfigError(
            f"a receipt policy has no '{unknown[0][:40]}'", hint="Known: signers, tee, attested, insecure-software."
        )
    signers, attested = found.get("signers"), found.get("attested")
    software = found.get("insecure-software", False)
    listed = signers is None or (isinstance(signers, list | tuple) and all(isinstance(one, str) for one in signers))
    if not listed or signers == []:
        raise ConfigError("the policy's signers are no list of addresses", hint='Write {"signers": ["ADDRESS"]}.')
    if attested is not None and attested not in STATUSES:
        raise ConfigError(f"the policy's 'attested' is {str(attested)[:40]!r}", hint=f"It is {' or '.join(STATUSES)}.")
    if not isinstance(software, bool):
        raise ConfigError("the policy's 'insecure-software' is neither true nor false")
    return Rules(None if signers is None else tuple(signers), _tee(found.get("tee")), attested, software)


def _tee(found: Any) -> Policy:
    if found is None or isinstance(found, Policy):
        return found or BASELINE
    if not isinstance(found, Mapping):
        raise ConfigError(
            "the policy's 'tee' is no attestation policy", hint="See docs/attestation.md, or leave it out."
        )
    return policies.of(found)
