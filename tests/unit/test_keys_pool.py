"""Signing in child processes: the same signatures, and one here whenever a child is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from hyperpy import keys_pool
from hyperpy.commitments import check, commit
from hyperpy.keys import RsaKey, verify_pss
from hyperpy.keys_pool import PooledKey
from hyperpy.message import Message
from hyperpy.testing import node, wallet


@pytest.fixture
def pooled() -> Iterator[PooledKey]:
    made = PooledKey(wallet(), crowded=lambda: True, children=2)
    made.start()
    yield made
    made.close()


def pids(key: PooledKey) -> list[int]:
    return [child._process.pid for child in key._children]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_children_sign_as_the_key_does(pooled: PooledKey) -> None:
    for size in (0, 1, 600, 100_000):
        data = os.urandom(size)
        assert verify_pss(pooled.modulus, pooled.sign_pss_sha512(data), data, "sha512")
        assert verify_pss(pooled.modulus, pooled.sign_pss_sha256(data), data, "sha256")
        assert verify_pss(pooled.modulus, pooled.sign_pss_sha512(data, 20), data, "sha512")
    assert pooled.delegated == 12
    assert pooled.address == wallet().address
    check(commit(Message({"a": 1}), pooled))


def test_items_are_signed_by_children_too() -> None:
    key = PooledKey(RsaKey.generate(4096), crowded=lambda: True, children=1)
    key.start()
    check(commit(Message({"a": "1"}), key, device="ans104@1.0"))
    assert key.delegated == 1
    key.close()


def test_many_threads_get_their_own_signatures(pooled: PooledKey) -> None:
    wrong: list[bytes] = []

    def work(thread: int) -> None:
        for count in range(20):
            data = b"%d of %d" % (count, thread)
            if not verify_pss(pooled.modulus, pooled.sign_pss_sha512(data), data, "sha512"):
                wrong.append(data)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pooled.delegated == 120


def test_signatures_that_are_never_wanted_together_are_mostly_made_here(pooled: PooledKey) -> None:
    for _ in range(200):
        pooled.sign_pss_sha512(b"x")
    assert 32 <= pooled.delegated <= 32 + 200 // 8


def test_a_killed_child_is_replaced_by_this_process(pooled: PooledKey) -> None:
    pooled.sign_pss_sha512(b"x")
    for pid in pids(pooled):
        os.kill(pid, signal.SIGKILL)
    for _ in range(4):
        assert verify_pss(pooled.modulus, pooled.sign_pss_sha512(b"y"), b"y", "sha512")
    assert pids(pooled) == []


def test_an_interrupted_question_is_never_answered_to_another(
    pooled: PooledKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled.sign_pss_sha512(b"x")
    child = pooled._free.queue[-1]

    class Stopped(BaseException):
        pass

    def stop(size: int) -> bytes:
        raise Stopped

    monkeypatch.setattr(child, "_out", type("Pipe", (), {"read": staticmethod(stop), "close": child._out.close})())
    with pytest.raises(Stopped):
        pooled.sign_pss_sha512(b"a")
    assert child not in pooled._children
    for data in (b"b", b"c", b"d"):
        assert verify_pss(pooled.modulus, pooled.sign_pss_sha512(data), data, "sha512")


def test_closing_ends_the_children_and_signing_goes_on(pooled: PooledKey) -> None:
    pooled.sign_pss_sha512(b"x")
    known = pids(pooled)
    assert len(known) == 2
    pooled.close()
    assert not any(map(alive, known))
    assert verify_pss(pooled.modulus, pooled.sign_pss_sha512(b"y"), b"y", "sha512")
    assert pooled.delegated == 1


def test_nobody_waits_for_children_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they start, this process signs; then they do."""
    go = threading.Event()
    started = keys_pool._Child

    def slow(private: bytes) -> object:
        assert go.wait(20)
        return started(private)

    monkeypatch.setattr(keys_pool, "_Child", slow)
    key = PooledKey(wallet(), crowded=lambda: True, children=1)
    try:
        assert verify_pss(key.modulus, key.sign_pss_sha512(b"y"), b"y", "sha512")
        assert (key.delegated, key._children) == (0, [])
        go.set()
        until = time.monotonic() + 20
        while not key._children and time.monotonic() < until:
            time.sleep(0.01)
        assert verify_pss(key.modulus, key.sign_pss_sha512(b"y"), b"y", "sha512")
        assert key.delegated == 1
    finally:
        go.set()
        key.close()


def test_nothing_is_started_for_a_lone_request() -> None:
    with node() as n:
        n.get("/~message@1.0&a=1/a")
        assert n.node._key._children == []


def test_a_node_without_children_signs_itself() -> None:
    key = PooledKey(wallet(), crowded=lambda: True, children=0)
    assert verify_pss(key.modulus, key.sign_pss_sha512(b"y"), b"y", "sha512")
    assert (key.delegated, key._children) == (0, [])


def test_children_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys, time; from hyperpy.keys import RsaKey; from hyperpy.keys_pool import PooledKey\n"
        "key = PooledKey(RsaKey.generate(2048), crowded=lambda: True, children=1); key.start()\n"
        "print(key._children[0]._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    for _ in range(500):
        if not alive(pid) or _is_zombie(pid):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child lives on")


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_key_is_in_no_argument_or_environment(pooled: PooledKey) -> None:
    pooled.sign_pss_sha512(b"x")
    private = wallet().to_jwk()["d"]
    for pid in pids(pooled):
        for name in ("cmdline", "environ"):
            path = f"/proc/{pid}/{name}"
            if os.path.exists(path):
                with open(path, "rb") as file:
                    assert private.encode() not in file.read()
