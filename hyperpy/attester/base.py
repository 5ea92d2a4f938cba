"""What an attester is, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hyperpy.attest.bundle import Evidence
from hyperpy.errors import AttestationError

ROOT: Final = Path("/")


class Attester(Protocol):
    """Makes evidence of this machine.

    Attributes:
        kind: ``snp``, ``tdx`` or ``software``.
        provider: what it goes through, such as ``configfs-tsm/sev_guest``.
        hardware: whether the evidence is hardware's.
    """

    kind: str
    provider: str
    hardware: bool

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """Return evidence bound to 64 bytes; its statement is the caller's to add.

        Args:
            level: privilege level to ask for (VMPL); None leaves it to the attester. Only SEV-SNP has any.

        Raises:
            AttestationError: ``attester/...``.
        """


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to evidence that was looked for: what it is, whether it is here, and why not."""

    name: str
    present: bool
    detail: str
    attester: Attester | None = None


def providers(root: Path = ROOT) -> Sequence[Provider]:
    """Return every provider of processor evidence, the preferred first.

    Args:
        root: where the kernel's trees lie; a test gives a fake one.
    """
    from hyperpy.attester import configfs, sev_guest

    return [
        _tried("configfs-tsm", lambda: configfs.find(root)),
        _tried("/dev/sev-guest", lambda: sev_guest.find(root)),
    ]


def detect(root: Path = ROOT) -> Attester | None:
    """Return the attester of this machine's hardware; None if it has none."""
    return next((one.attester for one in providers(root) if one.attester is not None), None)


def _tried(name: str, find: Callable[[], Attester]) -> Provider:
    try:
        found = find()
    except AttestationError as error:
        return Provider(name, False, error.message)
    return Provider(name, True, found.provider, found)
