"""Evidence through ``/dev/sev-guest``, where the kernel has no configfs-tsm (tee-attestation 2.9)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.snp import SIZE
from hyperpy.attester import certificates
from hyperpy.errors import AttestationError

DEVICE: Final = Path("dev/sev-guest")
GET_EXT_REPORT: Final = 0xC0205302
GET_DERIVED_KEY: Final = 0xC0205301
_RESPONSE: Final = 4000
_TRIES: Final = 8
_PAUSE_S: Final = 0.02
_BAD_LENGTH, _BUSY = 1, 2
_MAX_CERTIFICATES: Final = 1 << 20
_PAGE: Final = 4096

Ioctl = Callable[[int, int, ctypes.Structure], object]
"""Like :func:`fcntl.ioctl`: file, number, the request, which it changes in place."""


class Request(ctypes.Structure):
    """``struct snp_guest_request_ioctl``."""

    _fields_ = (
        ("version", ctypes.c_uint8),
        ("request", ctypes.c_uint64),
        ("response", ctypes.c_uint64),
        ("exit", ctypes.c_uint64),
    )


class ReportRequest(ctypes.Structure):
    """``struct snp_ext_report_req``."""

    _fields_ = (
        ("user_data", ctypes.c_uint8 * 64),
        ("vmpl", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 28),
        ("certificates", ctypes.c_uint64),
        ("certificates_size", ctypes.c_uint32),
    )


class KeyRequest(ctypes.Structure):
    """``struct snp_derived_key_req``."""

    _fields_ = (
        ("root", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("fields", ctypes.c_uint64),
        ("vmpl", ctypes.c_uint32),
        ("guest_svn", ctypes.c_uint32),
        ("tcb", ctypes.c_uint64),
    )


_MEASUREMENT_AND_POLICY: Final = 1 << 3 | 1
"""What a sealing key always depends on."""


def find(root: Path) -> SevGuest:
    """Return the attester of the device below ``root``; raise ``attester/unavailable`` if there is none."""
    file = root / DEVICE
    if not file.exists():
        raise refusal("attester/unavailable", f"there is no {file}")
    return SevGuest(file)


class SevGuest:
    """The attester of ``/dev/sev-guest``. Requests go one after another: hosts limit their rate.

    Args:
        file: the device.
        vmpl: privilege level to ask for.
        ioctl: what asks the kernel; a test gives a recording.
    """

    kind = "snp"
    hardware = True
    provider = "/dev/sev-guest"

    def __init__(self, file: Path, vmpl: int = 0, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._file, self._vmpl, self._ioctl = file, vmpl, ioctl
        self._lock = threading.Lock()

    def evidence(self, report_data: bytes, level: int | None = None) -> Evidence:
        """See :meth:`hyperpy.attester.base.Attester.evidence`."""
        require(len(report_data) == 64, "binding/statement-malformed", "report data has 64 bytes")
        with self._lock:
            size = _PAGE
            for _ in range(2):
                asked, given = ReportRequest(), ctypes.create_string_buffer(size)
                asked.user_data[:] = report_data
                asked.vmpl = self._vmpl if level is None else level
                asked.certificates, asked.certificates_size = ctypes.addressof(given), size
                response, short = self._call(GET_EXT_REPORT, asked, _RESPONSE)
                if not short:
                    return certificates.snp_evidence(_report(response), given.raw)
                size = asked.certificates_size
                fits = size % _PAGE == 0 and _PAGE < size <= _MAX_CERTIFICATES
                require(fits, "attester/unavailable", "the host's certificates have an impossible size")
        raise refusal("attester/race", "the host's certificates grew while they were read")

    def derived_key(self, *, tcb: bytes = b"") -> bytes:
        """Return a key (32 bytes) that only this guest, as measured and with its policy, gets on this chip.

        Args:
            tcb: the TCB version (8 bytes) that the key also depends on, at most the committed one: firmware below it
                cannot give the key. Empty: the key does not depend on it.

        Raises:
            AttestationError: ``attester/...``.
        """
        asked = KeyRequest()
        asked.fields = _MEASUREMENT_AND_POLICY | (1 << 5 if tcb else 0)
        asked.vmpl = self._vmpl
        asked.tcb = int.from_bytes(tcb, "little")
        with self._lock:
            response, _ = self._call(GET_DERIVED_KEY, asked, 64)
        require(not any(response[:4]), "attester/unavailable", "the firmware gave no key")
        return response[32:64]

    def _call(self, number: int, asked: ctypes.Structure, size: int) -> tuple[bytes, bool]:
        """Return the response, and whether the buffer for certificates was too short."""
        try:
            file = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise refusal("attester/unavailable", f"{self._file}: {error.strerror}") from None
        try:
            for _ in range(_TRIES):
                response = ctypes.create_string_buffer(size)
                made = Request(1, ctypes.addressof(asked), ctypes.addressof(response), 0)
                try:
                    self._ioctl(file, number, made)
                except OSError as error:
                    outcome = made.exit >> 32
                    if outcome == _BAD_LENGTH:
                        return b"", True
                    if outcome == _BUSY or error.errno in (errno.EBUSY, errno.EAGAIN, errno.EINTR):
                        time.sleep(_PAUSE_S)
                        continue
                    raise _failed(error, made.exit) from None
                return response.raw, False
            raise refusal("attester/busy", "the host was busy each time")
        finally:
            os.close(file)


def _report(response: bytes) -> bytes:
    status, size = (int.from_bytes(response[at : at + 4], "little") for at in (0, 4))
    require(status == 0, "attester/unavailable", f"the firmware answered {status:#x}")
    require(size == SIZE, "attester/unavailable", f"the firmware's report has {size} bytes")
    return response[32 : 32 + size]


def _failed(error: OSError, outcome: int) -> AttestationError:
    return refusal("attester/unavailable", f"/dev/sev-guest: {error.strerror} (firmware {outcome & 0xFFFFFFFF:#x})")
