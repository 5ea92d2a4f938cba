"""What a small GET costs a serving node, in CPU time of its process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from hyperpy.bench.measure import Row

SMALL = "/~message@1.0&a=hello/a"
NEW = "/~message@1.0&a=hello-{n}/a"
"""``{n}`` is another number in each request: everything about it is recorded anew."""
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[int, str]]:
    """Run ``hyperpy serve`` in a folder; yield its process ID and URL."""
    settings = folder / "node.toml"
    settings.write_text("[http]\n" + "\n".join(flags) + "\n", "utf-8")
    command = [sys.executable, "-m", "hyperpy", "serve", "--port", "0", "--config", str(settings)]
    command += ["--store", str(folder / "store"), "--wallet", str(folder / "wallet.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process.pid, next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait(20)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process and its children have used: scripts run in them."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if pid in (int(file.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def resident_mb(pid: int) -> float:
    """Return the memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rows(requests: int = 4000) -> list[Row]:
    """Measure small GETs at 8 connections, with reply signing off and on, and an idle node's memory."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as temporary:
        folder = Path(temporary)
        with serving(folder, "sign = false") as (pid, url):
            used = resident_mb(pid)
            found.append(Row("memory of an idle node, MB", used, used, used, 120))
            for name, target in (
                ("small GET, unsigned", SMALL),
                ("small GET, unsigned, each a new one", NEW),
                ("info/address, unsigned", "/~meta@1.0/info/address"),
            ):
                found.append(_measured(name, pid, url, target, requests, 200, 0))
        with serving(folder) as (pid, url):
            found.append(_measured("small GET, signed", pid, url, SMALL, requests // 4, 0, 16_000))
            found.append(
                _measured("info/address, signed", pid, url, "/~meta@1.0/info/address", requests // 4, 0, 83_000)
            )
    return found


def _measured(name: str, pid: int, url: str, target: str, requests: int, budget: float, peer: float) -> Row:
    drive(url, target, 200)
    costs = []
    for _ in range(3):
        before = cpu_seconds(pid)
        drive(url, target, requests)
        costs.append((cpu_seconds(pid) - before) / requests * 1e6)
    costs.sort()
    return Row(name, costs[1], costs[0], costs[2], budget, peer)


def drive(url: str, target: str, requests: int, connections: int = 8) -> None:
    """Send GETs over kept-alive connections and read every reply whole; ``{n}`` in the target is counted up."""
    where = urlsplit(url)
    number = count(time.time_ns())
    faults: list[BaseException] = []

    def one() -> None:
        try:
            with socket.create_connection((where.hostname or "", where.port or 80), timeout=30) as link:
                stream = link.makefile("rb")
                head = f"GET {target} HTTP/1.1\r\nhost: {where.netloc}\r\naccept: */*\r\n\r\n"
                for _ in range(requests // connections):
                    link.sendall(head.replace("{n}", str(next(number))).encode())
                    _read_reply(stream)
        except (OSError, ValueError) as error:
            faults.append(error)

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def _read_reply(stream: object) -> None:
    status = stream.readline()  # type: ignore[attr-defined]
    if not status.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"unexpected reply {status!r}")
    length = 0
    while (line := stream.readline().strip()) != b"":  # type: ignore[attr-defined]
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"transfer-encoding":
            raise ValueError("a chunked reply")
    stream.read(length)  # type: ignore[attr-defined]
