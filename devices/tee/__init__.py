"""tee@1.0: evidence of this machine, and verification of anybody's (tee-attestation 1).

``device`` has the keys; ``asked`` reads what they are given; ``nonces`` remembers challenges.
"""

from .device import Tee

__all__ = ["Tee"]
