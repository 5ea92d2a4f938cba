"""What each code means and what to do next, in words; and a worked policy (docs/attestation.md holds both)."""

from __future__ import annotations

from typing import Final

_OTHER: Final = "do not trust the machine; ask for new evidence"
_KDS: Final = "attach certificates of this chip and TCB"
_COLLATERAL: Final = "fetch Intel's collateral again and send it along"
_UPDATE: Final = "the machine's operator must update it; or lower your floor knowingly"
_POLICY: Final = "do not trust it, or change the policy knowingly"
_ASK: Final = "ask for new evidence with a nonce of your own"
_WAIT: Final = "ask again later"

ADVICE: Final[dict[str, tuple[str, str]]] = {
    "evidence/malformed": ("it is not in the form of its type", _OTHER),
    "evidence/unsupported-version": ("a version that is not known here", "update hyperpy"),
    "evidence/unsupported-type": ("a kind or product that is not known, or that the policy does not take", _POLICY),
    "evidence/reserved-nonzero": ("bytes are set that must be zero", _OTHER),
    "evidence/too-large": ("it is longer than any genuine evidence", _OTHER),
    "signature/invalid": ("the hardware did not sign this", _OTHER),
    "signature/algorithm": ("signed in a way that is not accepted", _OTHER),
    "signature/masked": ("the hardware was told to sign nothing", "the host must unmask the chip's key"),
    "endorsement/missing": ("the certificates, or the golden values of a device, are not there", _KDS),
    "endorsement/chain-invalid": ("the certificates do not lead to each other", _KDS),
    "endorsement/untrusted-root": ("the certificates end in a root that is not the vendor's", _OTHER),
    "endorsement/expired": ("a certificate has ended", "get a new one from the vendor"),
    "endorsement/not-yet-valid": ("a certificate begins later than now", "check the clock"),
    "endorsement/revoked": ("the vendor took a certificate back", _OTHER),
    "endorsement/crl-missing": ("a revocation list is needed and not there", "send the list along"),
    "endorsement/crl-stale": ("the revocation list is not the root's, or not of now", "fetch the list again"),
    "endorsement/key-type-mismatch": ("a certificate of another kind than signed, or one the policy refuses", _KDS),
    "endorsement/product-mismatch": ("certificates of another product line", _KDS),
    "endorsement/hwid-mismatch": ("the certificate of another chip", _KDS),
    "endorsement/tcb-mismatch": ("the certificate of another firmware level", _KDS),
    "endorsement/rim-signature": ("golden values that NVIDIA did not sign", "fetch them again"),
    "endorsement/rim-version-mismatch": ("golden values of another driver or firmware", "get those of the version"),
    "qe/binding": ("Intel's quoting enclave did not vouch for the key", _OTHER),
    "qe/signature": ("the quoting enclave's report is not signed by the platform", _OTHER),
    "qe/identity": ("the quoting enclave is not Intel's, or too old", _UPDATE),
    "collateral/missing": ("Intel's word on this platform is not there", _COLLATERAL),
    "collateral/expired": ("Intel's word is too old", _COLLATERAL),
    "collateral/not-yet-valid": ("Intel's word begins later than now", "check the clock"),
    "collateral/signature": ("Intel did not sign it", _COLLATERAL),
    "collateral/type-mismatch": ("it is about another kind of environment", _COLLATERAL),
    "collateral/fmspc-mismatch": ("it is about another platform", _COLLATERAL),
    "collateral/crl-issuer-mismatch": ("the revocation list of another issuer", _COLLATERAL),
    "tcb/unsupported": ("the platform is at no level that Intel knows", _OTHER),
    "tcb/below-minimum": ("firmware or microcode is older than the policy allows", _UPDATE),
    "tcb/out-of-date": ("Intel says that the platform needs an update", _UPDATE),
    "tcb/configuration-needed": ("Intel says that the platform is configured unsafely", _UPDATE),
    "tcb/revoked": ("Intel says that the platform's level is broken", _OTHER),
    "policy/debug-enabled": ("the host can read the guest's memory", _OTHER),
    "policy/migration-agent": ("somebody else may move the guest, with its memory", _POLICY),
    "policy/provisional-firmware": ("the firmware can still be rolled back", _POLICY),
    "policy/vmpl": ("asked for at another privilege level", _POLICY),
    "policy/measurement-not-allowed": ("other software than the policy names, or it names none", _POLICY),
    "policy/host-data": ("launched with other data of the host", _POLICY),
    "policy/id-key": ("the guest's identity is signed by another key", _POLICY),
    "policy/author-key": ("the guest's author is another", _POLICY),
    "policy/guest-policy": ("the guest was launched under other rules", _POLICY),
    "policy/platform-info": ("the platform has a feature on or off that the policy wants otherwise", _POLICY),
    "policy/mitigation-vector": ("mitigations that the policy wants are off", _UPDATE),
    "policy/service-td": ("a service TD may look into the guest", _POLICY),
    "policy/pcr": ("a measurement of the Nitro enclave is another, or it is in debug mode", _POLICY),
    "policy/chip-denied": ("the policy refuses this chip, or who runs it", _POLICY),
    "policy/advisory-denied": ("an advisory of Intel's that the policy does not accept applies", _UPDATE),
    "policy/software-not-allowed": ("no hardware stands behind it", "run the node on a machine that has it"),
    "binding/statement-malformed": ("what it is bound to is missing or malformed", _ASK),
    "binding/report-data-mismatch": ("it is bound to something else", _OTHER),
    "binding/key-mismatch": ("it is bound to another key or node", _OTHER),
    "binding/purpose-mismatch": ("it was made for another purpose", _ASK),
    "binding/result-mismatch": ("it is about another request or result", _OTHER),
    "freshness/nonce-mismatch": ("it answers somebody else's nonce", _ASK),
    "freshness/nonce-reused": ("the nonce was used before", _ASK),
    "freshness/stale": ("it is older than allowed, or its time lies in the future", _ASK),
    "freshness/epoch-unknown": ("it is from a time that does not count", _ASK),
    "attester/unavailable": ("this machine makes no evidence", "run the node on a machine with the hardware"),
    "attester/busy": ("the hardware is being asked by others", _WAIT),
    "attester/rate-limited": ("the hardware was asked too often", _WAIT),
    "attester/provider-mismatch": ("another provider answered than was meant", "see `hyperpy doctor`"),
    "attester/race": ("another program asked at the same time", _WAIT),
    "verifier/internal": ("the verifier failed; nothing is accepted", "report it, with the evidence"),
}
"""Meaning, and what to do next, by code."""

WORKED: Final = """\
id = "my-nodes"                      # stands in every result, with the digest of this file
kinds = ["snp", "tdx", "nvidia"]     # what counts at all; software evidence never does unless named here
max-age = 300                        # seconds since the statement was made

[snp]
measurements = ["87a6000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000ff"]
vmpls = [0]                          # the most privileged layer of the guest asked; the default
signing-keys = ["vcek"]              # no cloud's shared key
min-tcb = { bootloader = 4, snp = 22, microcode = 213 }
platform-required = [5]              # the memory's aliases were checked
platform-forbidden = [0]             # no simultaneous threads

[tdx]
mrtds = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]

[nvidia]
min-count = 0                        # devices that must be there
require-golden = true                # each with golden values of NVIDIA's that match
"""
"""A policy that names what a relying party usually should; measurements are placeholders."""


def table() -> str:
    """Return the table of codes for docs/attestation.md."""
    rows = [f"| `{code}` | {meaning} | {then} |" for code, (meaning, then) in ADVICE.items()]
    return "\n".join(("| code | what is wrong | what to do |", "|---|---|---|", *rows, ""))
