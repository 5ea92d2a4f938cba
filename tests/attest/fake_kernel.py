"""Fakes of what the kernel gives a guest: the folder of configfs-tsm, and ``/dev/sev-guest``. For tests alone.

Both have the fake chip sign (:mod:`tests.attest.fake_amd`), which only tests trust.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hyperpy.attester import certificates
from tests.attest.fake_amd import FakeAmd

GET_REPORT, GET_DERIVED_KEY, GET_EXT_REPORT = 0xC0205300, 0xC0205301, 0xC0205302
PAGE = 4096


@dataclass
class _Entry:
    """A report being made."""

    generation: int = 0
    made_of: int = -1
    inblob: bytes = b""
    level: int | None = None
    outblob: bytes = b""


@dataclass
class FakeTsm:
    """Behaves as the kernel's ``tsm/report`` folder does.

    Attributes:
        make_report: report data and privilege level to a report.
        auxblob: what the host gives along; None for a kernel that has no such attribute.
        busy: how many reads of a report are refused first.
        meddle: whether somebody else writes to each entry between its write and its read.
        floor: the lowest privilege level the kernel asks for.
    """

    make_report: Callable[[bytes, int], bytes]
    provider: str = "sev_guest"
    auxblob: bytes | None = b""
    busy: int = 0
    meddle: bool = False
    floor: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    reports: list[bytes] = field(default_factory=list)

    def make(self, entry: str) -> None:
        """Make an entry: a name that is there is refused."""
        if entry in self.entries:
            raise OSError(errno.EEXIST, "File exists")
        self.entries[entry] = _Entry()
        self.made.append(entry)

    def remove(self, entry: str) -> None:
        """Remove an entry."""
        self._find(entry)
        del self.entries[entry]

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """Write an attribute: each write raises the generation."""
        found = self._find(entry)
        if attribute == "inblob":
            if not 0 < len(data) <= 64:
                raise OSError(errno.EINVAL, "Invalid argument")
            found.inblob = data
        elif attribute == "privlevel" and self.provider == "sev_guest":
            if not self.floor <= int(data) <= 3:
                raise OSError(errno.EINVAL, "Invalid argument")
            found.level = int(data)
        else:
            raise OSError(errno.EACCES, "Permission denied")
        found.generation += 1

    def read(self, entry: str, attribute: str) -> bytes:
        """Read an attribute."""
        found = self._find(entry)
        if attribute == "provider":
            return f"{self.provider}\n".encode()
        if attribute == "generation":
            return f"{found.generation}\n".encode()
        if attribute == "auxblob" and self.auxblob is not None:
            return self.auxblob
        if attribute != "outblob":
            raise OSError(errno.ENOENT, "No such file or directory")
        if not found.inblob:
            raise OSError(errno.EINVAL, "Invalid argument")
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, "Device or resource busy")
        if self.meddle:
            self.write(entry, "inblob", b"somebody else's".ljust(64, b"."))
        if found.made_of != found.generation:
            found.outblob = self.make_report(found.inblob, found.level if found.level is not None else self.floor)
            found.made_of = found.generation
            self.reports.append(found.inblob)
        return found.outblob

    def _find(self, entry: str) -> _Entry:
        if entry not in self.entries:
            raise OSError(errno.ENOENT, "No such file or directory")
        return self.entries[entry]


def snp(amd: FakeAmd, *, host_gives: bool = True, **options: object) -> FakeTsm:
    """Return the folder of an SEV-SNP guest on the fake chip."""
    given = certificates.build(amd.vek, amd.chain) if host_gives else b""
    return FakeTsm(lambda data, level: amd.report(data, vmpl=level), auxblob=given, **options)  # type: ignore[arg-type]


@dataclass
class FakeSevGuest:
    """Behaves as the driver behind ``/dev/sev-guest`` does, and records every request's bytes.

    Attributes:
        table: the host's table of certificates.
        outcomes: what the next calls come to: ``busy``, ``again``, ``refused``, ``interrupted``; then all is well.
        size: what the firmware says of the report's size; firmware: its status.
        grow: whether the host's table grows after each answer about its size.
    """

    amd: FakeAmd
    table: bytes = b""
    outcomes: Iterable[str] = ()
    size: int = 1184
    firmware: int = 0
    grow: bool = False
    secret: bytes = b"the fake chip's own"
    record: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = iter(self.outcomes)

    def __call__(self, file: int, number: int, made: ctypes.Structure) -> int:
        """Answer one ioctl, as :func:`fcntl.ioctl` would: the structures are changed in place."""
        outer = bytes(made)
        assert len(outer) == 32
        assert outer[0] == 1
        request, response = (int.from_bytes(outer[at : at + 8], "little") for at in (8, 16))
        outcome = next(self._next, "")
        if outcome == "busy":
            made.exit = 2 << 32  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "Input/output error")
        if outcome == "again":
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        if outcome == "interrupted":
            raise OSError(errno.EINTR, "Interrupted system call")
        if outcome == "refused":
            made.exit = 0x16  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "Input/output error")
        if number == GET_DERIVED_KEY:
            return self._derive(request, response)
        assert number == GET_EXT_REPORT
        return self._report(made, request, response)

    def _report(self, made: ctypes.Structure, request: int, response: int) -> int:
        asked = ctypes.string_at(request, 112)
        self.record.append((GET_EXT_REPORT, asked))
        address, room = int.from_bytes(asked[96:104], "little"), int.from_bytes(asked[104:108], "little")
        assert room % PAGE == 0
        if room < len(self.table):
            needed = -(-len(self.table) // PAGE) * PAGE
            ctypes.memmove(request + 104, needed.to_bytes(4, "little"), 4)
            if self.grow:
                self.table += bytes(PAGE)
            made.exit = 1 << 32  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")
        assert not any(asked[68:96])
        report = self.amd.report(asked[:64], vmpl=int.from_bytes(asked[64:68], "little"))
        head = self.firmware.to_bytes(4, "little") + self.size.to_bytes(4, "little") + bytes(24)
        ctypes.memmove(address, self.table, len(self.table))
        ctypes.memmove(response, head + report, 32 + len(report))
        return 0

    def _derive(self, request: int, response: int) -> int:
        asked = ctypes.string_at(request, 32)
        self.record.append((GET_DERIVED_KEY, asked))
        derived = hmac.digest(self.secret, asked, hashlib.sha256)
        ctypes.memmove(response, self.firmware.to_bytes(4, "little") + bytes(28) + derived, 64)
        return 0
