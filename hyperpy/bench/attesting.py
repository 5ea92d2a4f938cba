"""What verifying evidence costs, on genuine evidence that is read in place.

Nothing here makes evidence: where the folder ``HYPERPY_TEE_FIXTURES`` is missing, only the software attester's is
measured, and the rows of hardware are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes

from hyperpy.attest import der, nvidia, policy, rim, snp, snp_chain, software, verifier
from hyperpy.attest import primitives as keys
from hyperpy.attest.bundle import Evidence
from hyperpy.bench.auditing import Figure
from hyperpy.bench.measure import cpu

FOLDER = "HYPERPY_TEE_FIXTURES"
"""Names the folder of genuine evidence."""

_SNP, _GPU = "snp/turin-v5-openanolis", "nvidia/h100-545-full-rim"
_PLAIN = (
    ("TDX quote with collateral", "tdx/v4-uptodate-phala", 2.5),
    ("SGX quote with collateral", "sgx/v3-phala", 2.5),
    ("Nitro document", "", 3.0),
)
_MS = 1000.0


def rows(folder: Path | None = None) -> list[Figure]:
    """Measure each kind: median CPU milliseconds of one verification with the baseline policy, in one thread."""
    found = _Cases(folder or Path(os.environ.get(FOLDER, "")))
    return [*_snp(found), *_others(found), *_gpu(found), _software()]


class _Cases:
    """The cases of a folder, as its ``expected.json`` lists them."""

    def __init__(self, folder: Path) -> None:
        file = folder / "expected.json"
        read = json.loads(file.read_text("utf-8"))["cases"] if file.is_file() else []
        self.folder = folder
        self.by_name: Mapping[str, Any] = {one["id"]: one for one in read}

    def get(self, name: str, kind: str = "") -> Any:
        """Return a case by its name, or the first that is genuine of a kind; None if there is none."""
        if name in self.by_name:
            return self.by_name[name]
        rest = (one for one in self.by_name.values() if one["kind"] == kind and one["expect"]["crypto"] == "pass")
        return next(rest, None)

    def data(self, name: str) -> bytes:
        """Return a file of a case."""
        return (self.folder / name.removeprefix("shared:")).read_bytes()

    @staticmethod
    def at(one: Any) -> datetime:
        """Return the clock of a case."""
        return datetime.fromisoformat(one["now"].replace("Z", "+00:00"))


def _snp(found: _Cases) -> Iterator[Figure]:
    one = found.get(_SNP, "snp")
    if one is None:
        return
    files, now = one["files"], found.at(one)
    made = Evidence(
        "snp", found.data(files["report"]), found.data(files["vek"]), tuple(map(found.data, files["chain"]))
    )
    yield _figure("SNP report, certificates not seen before", _cold(lambda: verifier.verify(made, now=now)), 1.0)
    rooted = _cold(lambda: verifier.verify(made, now=now), keeping=snp_chain._root.cache_clear)
    yield _figure("SNP report, only the pinned root known", rooted, 1.0)
    warm = _measured(lambda: verifier.verify(made, now=now))
    yield _figure("SNP report, certificates known", warm, 0.5)
    given = snp_chain.Endorsement(made.vek, made.chain)
    bare = _measured(lambda: snp_chain.verify(made.report, given, now))
    yield _figure("of it: is it genuine", bare, 0.0)
    read = snp.parse(made.report)
    key, data = keys.public_key(der.certificate(made.vek).key), made.report[: snp.SIGNED]
    alone = _measured(lambda: keys.ecdsa(key, read.r, read.s, data, hashes.SHA384()))
    yield _figure("of it: one ECDSA P-384 verification", alone, 0.0)
    yield Figure("SNP reports under one known certificate", 1e6 / warm, "/s a core", 2000.0, least=True)


def _others(found: _Cases) -> Iterator[Figure]:
    for label, name, aim in _PLAIN:
        kind = label.split()[0].lower()
        one = found.get(name, kind)
        if one is None:
            continue
        files, now = one["files"], found.at(one)
        collateral = found.data(files["collateral"]) if "collateral" in files else b""
        made = Evidence(kind, found.data(files.get("quote") or files["doc"]), collateral=collateral)
        cold = _cold(lambda made=made, now=now: verifier.verify(made, now=now))  # type: ignore[misc]
        yield _figure(f"{label}, certificates not seen before", cold, aim)
        warm = _measured(lambda made=made, now=now: verifier.verify(made, now=now))  # type: ignore[misc]
        yield _figure(f"{label}, certificates known", warm, aim)


def _gpu(found: _Cases) -> Iterator[Figure]:
    one, other = found.get(_GPU, "nvidia"), found.get(_SNP, "snp")
    if one is None or other is None:
        return
    files, now, nonce = one["files"], found.at(one), bytes.fromhex(one["expected_nonce"])
    report, chain = found.data(files["report"]), found.data(files["chain"])
    try:
        golden = [rim.read(found.data(name), now) for name in files.get("rims", ())]
    except Exception:  # the extra for manifests is not installed
        golden = []
    gpu = _cold(lambda: nvidia.verify(report, chain, nonce, now, golden))
    yield _figure("GPU report, golden values known", gpu, 3.0)
    warm = _measured(lambda: nvidia.verify(report, chain, nonce, now, golden))
    yield _figure("GPU report, golden values and certificates known", warm, 3.0)
    own = other["files"]
    machine = Evidence("snp", found.data(own["report"]), found.data(own["vek"]), tuple(map(found.data, own["chain"])))
    at = found.at(other)

    def both() -> None:
        verifier.verify(machine, now=at)
        nvidia.verify(report, chain, nonce, now, golden)

    yield _figure("composite: SNP and one GPU", _cold(both), 8.0)


def _software() -> Figure:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Evidence("software", software.make(Ed25519PrivateKey.generate(), bytes(32), bytes(64)))
    rules = policy.of({"kinds": ["software"], "allow-software": True})
    now = datetime(2026, 1, 1, tzinfo=UTC)
    took = _measured(lambda: verifier.verify(made, rules, now=now, insecure_software=True))
    return _figure("software evidence", took, 0.0)


def _figure(name: str, us: float, aim: float) -> Figure:
    return Figure(name, us / _MS, "ms", aim)


def _measured(operation: Callable[[], object]) -> float:
    return cpu(operation, rounds=7, seconds=0.2)[0]


def _cold(operation: Callable[[], object], keeping: Callable[[], None] | None = None) -> float:
    """Measure with nothing remembered of certificates, keys and collateral.

    Args:
        keeping: what empties a cache that is to stay.
    """
    emptying = [one for one in _CACHES if one != keeping]

    def forgetting() -> None:
        for cached in emptying:
            cached()
        operation()

    return _measured(forgetting)


def _caches() -> list[Callable[[], None]]:
    """Return what empties each cache of the verifier."""
    from hyperpy.attest import certs, collateral, nitro, pck, quote_chain, tcb

    modules = (keys, der, snp_chain, certs, collateral, nitro, pck, quote_chain, tcb, nvidia, rim)
    found = [item for one in modules for item in vars(one).values() if hasattr(item, "cache_clear")]
    return [one.cache_clear for one in found if one is not der.oid]  # numbers as text are no certificates


_CACHES = _caches()
