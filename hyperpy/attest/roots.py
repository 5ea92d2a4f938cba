"""Trust anchors, pinned by the SHA-256 of their whole DER (tee-attestation 1, rule 1).

A root that comes with evidence counts only if all of its bytes are the pinned ones. Nothing adds a
root at run time: no setting, no message, no environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperpy.encoding import sha256

AMD: Final = {
    "Milan": bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    "Genoa": bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    "Turin": bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
}
"""AMD root keys (ARK) by product."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A vendor's root: SHA-256 of its DER; and its public key (X9.62 point), where older certificates of it count."""

    pin: bytes
    point: bytes = b""


INTEL: Final = Anchor(
    bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
    bytes.fromhex(
        "040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
        "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
    ),
)
"""Intel SGX Root CA, for SGX and TDX."""

AWS: Final = Anchor(bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"))
"""AWS Nitro Enclaves root G1."""

NVIDIA_DEVICE: Final = Anchor(bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"))
"""NVIDIA Device Identity CA."""

NVIDIA_RIM: Final = Anchor(bytes.fromhex("12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"))
"""NVIDIA CoRIM signing Root CA."""


def amd_product(der: bytes) -> str | None:
    """Return the product whose root key these bytes are; None if they are none."""
    digest = sha256(der)
    return next((name for name, pin in AMD.items() if pin == digest), None)
