"""Attesters: what makes evidence on this machine (RFC 9334; tee-attestation 2.9, 5, 11)."""

from hyperpy.attester.base import Attester, detect

__all__ = ["Attester", "detect"]
