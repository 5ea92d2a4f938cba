"""The software attester: for development, with a key that lives in memory alone (tee-attestation 11)."""

from __future__ import annotations

import logging

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyperpy.attest import software
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import require

log = logging.getLogger("hyperpy.attester")


class SoftwareAttester:
    """Makes software evidence: no hardware stands behind it, and every output says so.

    Args:
        digest: SHA-256 of the software that runs, 32 bytes.
    """

    kind = "software"
    hardware = False
    provider = "software (no hardware)"

    def __init__(self, digest: bytes) -> None:
        self._digest = digest
        self._key = Ed25519PrivateKey.generate()
        log.warning("software attester: its evidence proves nothing about this machine; for development only")

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """See :meth:`hyperpy.attester.base.Attester.evidence`."""
        require(len(report_data) == 64, "binding/statement-malformed", "report data has 64 bytes")
        return Evidence("software", software.make(self._key, self._digest, report_data))
