"""Evidence of NVIDIA devices, through NVIDIA's own tools where they are installed (tee-attestation 5).

The package ``nv-local-gpu-verifier`` (module ``verifier``) asks the driver. It is not a part of hyperpy, and
nothing of it but the reports and certificates that it hands over is believed.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hyperpy.attest.bundle import MAX_GPUS, Gpu
from hyperpy.attest.codes import refusal, require
from hyperpy.errors import AttestationError

MODULE: Final = "verifier"
_MAX_REPORT: Final = 32 << 10
_MAX_CHAIN: Final = 64 << 10

Collect = Callable[[str], Sequence[Mapping[str, Any]]]
"""``verifier.cc_admin.collect_gpu_evidence_remote``: nonce as hex to ``{evidence, certificate}`` of each device."""


def find() -> Nvidia:
    """Return what asks NVIDIA's tools; raise ``attester/unavailable`` if they are not installed."""
    found = importlib.util.find_spec(MODULE)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not any(importlib.util.find_spec(f"{MODULE}.cc_admin") for _ in places[:1]):
        raise refusal("attester/unavailable", "NVIDIA's package nv-local-gpu-verifier is not installed")
    return Nvidia(_collect)


class Nvidia:
    """Makes evidence of the NVIDIA devices of this machine, one request after another.

    Args:
        collect: what asks the driver.
    """

    provider = "nv-local-gpu-verifier"

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._lock = threading.Lock()

    def evidence(self, nonce: bytes) -> tuple[Gpu, ...]:
        """Return the evidence of every device, bound to 32 bytes.

        Raises:
            AttestationError: ``attester/unavailable``: the tools failed, or gave something else.
        """
        require(len(nonce) == 32, "binding/statement-malformed", "a device's nonce has 32 bytes")
        with self._lock:
            try:
                found = list(self._collect(nonce.hex()))[: MAX_GPUS + 1]
            except Exception as error:
                raise refusal("attester/unavailable", f"NVIDIA's tools failed: {type(error).__name__}") from None
        require(0 < len(found) <= MAX_GPUS, "attester/unavailable", f"NVIDIA's tools gave {len(found)} reports")
        return tuple(map(_gpu, found))


def _gpu(found: Mapping[str, Any]) -> Gpu:
    report, chain = (_bytes(found, name) for name in ("evidence", "certificate"))
    fits = 0 < len(report) <= _MAX_REPORT and 0 < len(chain) <= _MAX_CHAIN
    require(fits, "attester/unavailable", "a report or certificate of NVIDIA's tools has an impossible size")
    return Gpu(report, chain)


def _bytes(found: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise _malformed(name) from None


def _malformed(name: str) -> AttestationError:
    return refusal("attester/unavailable", f"NVIDIA's tools gave no '{name}' in base64")


def _collect(nonce: str) -> Sequence[Mapping[str, Any]]:
    from verifier import cc_admin  # type: ignore[import-not-found]

    found: Sequence[Mapping[str, Any]] = cc_admin.collect_gpu_evidence_remote(nonce)
    return found
