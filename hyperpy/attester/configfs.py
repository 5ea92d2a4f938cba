"""Evidence through the kernel's configfs-tsm, for SEV-SNP and TDX (tee-attestation 2.9).

For each report a directory of its own is made under ``tsm/report``: 64 bytes into ``inblob``, the report
out of ``outblob``, its endorsements out of ``auxblob``. The kernel counts writes in ``generation``: if it
counted others than ours, somebody else used the directory, and nothing that was read counts.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from pathlib import Path
from typing import Final

from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attester import certificates
from hyperpy.errors import AttestationError

FOLDER: Final = Path("sys/kernel/config/tsm/report")
KINDS: Final = {"sev_guest": "snp", "tdx_guest": "tdx"}
_TRIES: Final = 5
_PAUSE_S: Final = 0.05


def find(root: Path) -> Configfs:
    """Return the attester of the kernel's tree below ``root``.

    Raises:
        AttestationError: ``attester/unavailable``, or ``attester/provider-mismatch`` for an unknown provider.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        raise refusal("attester/unavailable", f"there is no {folder}")
    return Configfs(folder, _provider(folder))


class Configfs:
    """The attester of a configfs-tsm tree. Reports are made one after another.

    Args:
        folder: ``/sys/kernel/config/tsm/report``.
        expected: the kernel's provider, ``sev_guest`` or ``tdx_guest``.
        level: privilege level to ask for (VMPL); None leaves it to the kernel.
    """

    hardware = True

    def __init__(self, folder: Path, expected: str, level: int | None = None) -> None:
        self.kind = KINDS[expected]
        self.provider = f"configfs-tsm/{expected}"
        self._folder, self._expected, self._level = folder, expected, level
        self._lock = threading.Lock()

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """See :meth:`hyperpy.attester.base.Attester.evidence`."""
        require(len(report_data) == 64, "binding/statement-malformed", "report data has 64 bytes")
        with self._lock:
            for left in reversed(range(_TRIES)):
                try:
                    return self._made(report_data, self._level if level is None else level)
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.EAGAIN) or not left:
                        raise _failed(error) from None
                    time.sleep(_PAUSE_S)
        raise refusal("attester/busy", "the kernel was busy each time")

    def _made(self, report_data: bytes, level: int | None) -> Evidence:
        entry = self._folder / f"hyperpy-{secrets.token_hex(8)}"
        entry.mkdir()
        try:
            found = (entry / "provider").read_text("ascii", "replace").strip()
            require(found == self._expected, "attester/provider-mismatch", f"the kernel's provider is {found[:40]}")
            before, writes = _generation(entry), 1
            if level is not None and self.kind == "snp":
                (entry / "privlevel").write_text(f"{level}\n")
                writes += 1
            (entry / "inblob").write_bytes(report_data)
            report = (entry / "outblob").read_bytes()
            beside = _optional(entry / "auxblob")
            after = _generation(entry)
        finally:
            entry.rmdir()
        require(after == before + writes, "attester/race", "somebody else wrote to the same report")
        if self.kind == "tdx":
            return Evidence("tdx", report)
        return certificates.snp_evidence(report, beside)


def _provider(folder: Path) -> str:
    entry = folder / f"hyperpy-{secrets.token_hex(8)}"
    try:
        entry.mkdir()
        try:
            found = (entry / "provider").read_text("ascii", "replace").strip()
        finally:
            entry.rmdir()
    except OSError as error:
        raise _failed(error) from None
    require(found in KINDS, "attester/provider-mismatch", f"the kernel's provider '{found[:40]}' is not known")
    return found


def _generation(entry: Path) -> int:
    text = (entry / "generation").read_text("ascii", "replace").strip()
    require(text.isdigit(), "attester/race", "the kernel's count of writes is no number")
    return int(text)


def _optional(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # older kernels have none
        return b""


def _failed(error: OSError) -> AttestationError:
    busy = error.errno in (errno.EBUSY, errno.EAGAIN)
    return refusal("attester/busy" if busy else "attester/unavailable", f"configfs-tsm: {error.strerror}")
