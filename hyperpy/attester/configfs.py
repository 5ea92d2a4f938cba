"""Evidence through the kernel's configfs-tsm, for SEV-SNP and TDX (tee-attestation 2.9).

For each report a directory of its own is made under ``tsm/report``: 64 bytes into ``inblob``, the report
out of ``outblob``, its endorsements out of ``auxblob``. The kernel counts writes in ``generation``: if it
counted others than ours, somebody else used the directory, and nothing that was read counts.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attester import certificates
from hyperpy.errors import AttestationError

FOLDER: Final = Path("sys/kernel/config/tsm/report")
KINDS: Final = {"sev_guest": "snp", "tdx_guest": "tdx"}
_TRIES: Final = 5
_PAUSE_S: Final = 0.05


class Tree(Protocol):
    """The kernel's folder: each entry in it is a report being made, with attributes to write and read.

    All raise OSError as the kernel does.
    """

    def make(self, entry: str) -> None:
        """Make an entry."""

    def read(self, entry: str, attribute: str) -> bytes:
        """Return an attribute."""

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """Write an attribute, at once."""

    def remove(self, entry: str) -> None:
        """Remove an entry; its attributes go with it."""


class Folder:
    """The kernel's folder where it is mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, entry: str) -> None:
        """See :class:`Tree`."""
        (self._folder / entry).mkdir()

    def read(self, entry: str, attribute: str) -> bytes:
        """See :class:`Tree`."""
        return (self._folder / entry / attribute).read_bytes()

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """See :class:`Tree`."""
        file = os.open(self._folder / entry / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(file, data)
        finally:
            os.close(file)
        if written != len(data):
            raise OSError(errno.EIO, "only a part was written")

    def remove(self, entry: str) -> None:
        """See :class:`Tree`."""
        (self._folder / entry).rmdir()


def find(root: Path) -> Configfs:
    """Return the attester of the kernel's tree below ``root``.

    Raises:
        AttestationError: ``attester/unavailable``, or ``attester/provider-mismatch`` for an unknown provider.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        raise refusal("attester/unavailable", f"there is no {folder}")
    tree = Folder(folder)
    return Configfs(tree, provider(tree))


class Configfs:
    """The attester of a configfs-tsm tree. Reports are made one after another.

    Args:
        tree: ``/sys/kernel/config/tsm/report``; a test gives a fake kernel's.
        expected: the kernel's provider, ``sev_guest`` or ``tdx_guest``.
        level: privilege level to ask for (VMPL); None leaves it to the kernel.
    """

    hardware = True

    def __init__(self, tree: Tree, expected: str, level: int | None = None) -> None:
        self.kind = KINDS[expected]
        self.provider = f"configfs-tsm/{expected}"
        self._tree, self._expected, self._level = tree, expected, level
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
        tree, entry = self._tree, _fresh()
        tree.make(entry)
        try:
            found = _text(tree, entry, "provider")
            require(found == self._expected, "attester/provider-mismatch", f"the kernel's provider is {found[:40]}")
            before, writes = _generation(tree, entry), 1
            if level is not None and self.kind == "snp":
                tree.write(entry, "privlevel", f"{level}\n".encode())
                writes += 1
            tree.write(entry, "inblob", report_data)
            report = tree.read(entry, "outblob")
            beside = _optional(tree, entry, "auxblob")
            after = _generation(tree, entry)
        finally:
            tree.remove(entry)
        require(after == before + writes, "attester/race", "somebody else wrote to the same report")
        if self.kind == "tdx":
            return Evidence("tdx", report)
        return certificates.snp_evidence(report, beside)


def provider(tree: Tree) -> str:
    """Return the kernel's provider.

    Raises:
        AttestationError: ``attester/unavailable``; ``attester/provider-mismatch`` if it is not known here.
    """
    entry = _fresh()
    try:
        tree.make(entry)
        try:
            found = _text(tree, entry, "provider")
        finally:
            tree.remove(entry)
    except OSError as error:
        raise _failed(error) from None
    require(found in KINDS, "attester/provider-mismatch", f"the kernel's provider '{found[:40]}' is not known")
    return found


def _fresh() -> str:
    return f"hyperpy-{secrets.token_hex(8)}"


def _text(tree: Tree, entry: str, attribute: str) -> str:
    return tree.read(entry, attribute).decode("ascii", "replace").strip()


def _generation(tree: Tree, entry: str) -> int:
    text = _text(tree, entry, "generation")
    require(text.isdigit(), "attester/race", "the kernel's count of writes is no number")
    return int(text)


def _optional(tree: Tree, entry: str, attribute: str) -> bytes:
    try:
        return tree.read(entry, attribute)
    except OSError:  # older kernels have none
        return b""


def _failed(error: OSError) -> AttestationError:
    busy = error.errno in (errno.EBUSY, errno.EAGAIN)
    return refusal("attester/busy" if busy else "attester/unavailable", f"configfs-tsm: {error.strerror}")
