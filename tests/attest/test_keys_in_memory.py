"""Keys of zones and for secrets are in the node's own memory alone, and are overwritten when they are let go of.

Three nodes keep their stores on disk. What they say to each other goes through another process, which also reads
their stores: the untrusted side. Its whole memory is searched, and so is every file.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hyperpy.encoding import b64, b64u
from hyperpy.errors import ConfigError, SealedElsewhere
from hyperpy.store.lmdb import LmdbStore
from tests.attest import fake_amd
from tests.attest.test_greenzone import Place
from tests.attest.test_sealing import _memory

RELAY = """
import http.client, http.server, pathlib, sys
kept, folder, target = [], pathlib.Path(sys.argv[1]), ["", 0]

class Relay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        there = http.client.HTTPConnection(*target, timeout=60)
        there.request("POST", self.path, body, dict(self.headers))
        answer = there.getresponse()
        said = answer.read()
        kept.append((self.path, dict(self.headers), body, answer.getheaders(), said))
        self.send_response(answer.status)
        for name, text in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, text)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
print(server.server_port, flush=True)
target[1] = int(sys.stdin.readline())
target[0] = "127.0.0.1"
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    files = [one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()]
    kept.append(files)
    print(sum(map(len, files)), flush=True)
"""


class Untrusted:
    """Another process: forwards what is sent to the keeper, keeps it, and reads the stores."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RELAY, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def forward_to(self, port: int) -> None:
        """Say where the keeper listens."""
        self._tell(str(port))

    def memory(self) -> bytes:
        """Have it read all stores; return all that it has in memory."""
        self._tell("read")
        assert int(self._line()) > 10_000
        return _memory(self._process.pid)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> fake_amd.FakeAmd:
    return fake_amd.trusted(monkeypatch)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def place(stack: ExitStack, name: str, amd: fake_amd.FakeAmd, folder: Path, **settings: Any) -> Place:
    return Place(stack, name, amd, LmdbStore(folder / name), **settings)


def secrets_of(at: Place) -> list[bytes]:
    """Return everything that must be nowhere: keys of all epochs, what is derived, keys that others seal to."""
    held, own = at.zone.held, at.node.attestation
    made = [bytes(key) for key in held.keys.values()]
    made += [at.zone.key(purpose, epoch) for epoch in held.keys for purpose in ("volume", "cookies")]
    made.append(held.kem.private_bytes_raw())
    made.append(own._opening().private_bytes_raw())
    made.append(own.derived(b"state\0" + bytes(32)))
    return made


def forms(secret: bytes) -> list[bytes]:
    return [secret, secret[::-1], b64u(secret).encode(), b64(secret).encode(), secret.hex().encode()]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_no_key_is_on_disk_or_in_the_memory_of_another_process(
    stack: ExitStack, amd: fake_amd.FakeAmd, tmp_path: Path
) -> None:
    outside = Untrusted(tmp_path)
    stack.callback(outside.stop)
    keeper = place(stack, "keeper", amd, tmp_path)
    outside.forward_to(int(keeper.url.rpartition(":")[2]))
    there = f"http://127.0.0.1:{outside.port}"
    assert keeper.order("init")["status"] == 200
    members = [place(stack, name, amd, tmp_path, **{"relay.peers": [there]}) for name in ("one", "two")]
    for one in members:
        joined = one.order("join", **{"peer-location": there, "peer-id": keeper.address})
        assert joined["status"] == 200, joined
    keeper.order("rotate")
    found = [secret for at in (keeper, *members) for secret in secrets_of(at)]
    assert members[0].order("refresh")["status"] == 200
    found += secrets_of(members[0])
    memory = outside.memory()
    files = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()]
    assert keeper.zone.held.entry.key_id in memory or b64u(keeper.zone.held.entry.key_id).encode() in memory, (
        "it did read and forward"
    )
    assert b"Green-Zone-Join" in memory
    assert len(set(found)) > 12
    for secret in found:
        for form in forms(secret):
            assert form not in memory
            assert not [one for one in files if form in one]


def test_keys_are_overwritten_when_they_are_let_go_of(stack: ExitStack, amd: fake_amd.FakeAmd, tmp_path: Path) -> None:
    keeper = place(stack, "keeper", amd, tmp_path)
    assert keeper.order("init")["status"] == 200
    first = keeper.zone.held.keys[0]
    assert any(first)
    for _ in range(3):
        keeper.order("rotate")
    assert any(first), "kept for what is under way"
    keeper.order("rotate")
    assert not any(first), "its epoch is long over"
    held = keeper.zone.held
    others = list(held.keys.values())
    assert all(any(one) for one in others)
    assert keeper.order("leave")["body"] == b"OK"
    assert not any(any(one) for one in others)
    assert (held.keys, held.kem, keeper.zone.held) == ({}, None, None)
    with pytest.raises(ConfigError):
        keeper.zone.key("volume")


def test_a_node_that_stops_lets_go_of_all(amd: fake_amd.FakeAmd, tmp_path: Path) -> None:
    with ExitStack() as stack:
        keeper = place(stack, "keeper", amd, tmp_path)
        assert keeper.order("init")["status"] == 200
        held, own = keeper.zone.held, keeper.node.attestation
        kept = list(held.keys.values())
        assert len(own.derived(b"use")) == 64
    assert not any(any(one) for one in kept)
    assert (held.keys, held.kem) == ({}, None)
    with pytest.raises(SealedElsewhere):
        own.derived(b"use")
    with pytest.raises(SealedElsewhere):
        own.unseal(b"sealed", b"info")


def test_a_key_is_never_overwritten_while_it_is_used(stack: ExitStack, amd: fake_amd.FakeAmd, tmp_path: Path) -> None:
    """Grants are made while the zone goes from epoch to epoch: each holds the key of its own entry."""
    from hyperpy.devices.greenzone import keys

    keeper = place(stack, "keeper", amd, tmp_path)
    assert keeper.order("init")["status"] == 200
    kem = keeper.zone.held.kem
    made: list[tuple[Any, bytes]] = []
    done = threading.Event()

    def grants() -> None:
        while not done.is_set():
            made.append(keeper.zone.grant(keeper.address, bytes(32)))

    worker = threading.Thread(target=grants)
    worker.start()
    try:
        for _ in range(12):
            keeper.zone.change("order", 0, "mine")
    finally:
        done.set()
        worker.join()
    assert made
    for entry, sealed in made:
        plain = keys.unseal(sealed, kem, keys.grant_info(entry, keeper.address))
        assert keys.named(plain[:32]) == entry.key_id
