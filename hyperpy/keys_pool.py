"""A key that signs in child processes while several threads want signatures.

A signature of 4096 bits takes 1.5 ms in which no other thread of this process runs: measured, two
threads sign no faster than one. So while requests come side by side, child processes sign, one per core;
a lone request is signed at once, here. They are started when first needed. The private key reaches
them through a pipe, and they end with this process, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from hyperpy.keys import RsaKey

MOST: Final = 8
"""Children that are started at most, whatever the number of cores."""

_CHILD: Final = Path(__file__).with_name("keys_child.py")
_WAIT_S: Final = 10.0
_CREDIT: Final = 32
_PROBE: Final = 8
_HASHES: Final = (hashlib.sha256, hashlib.sha512)


class PooledKey(RsaKey):
    """An RSA key that may sign in child processes. Thread-safe.

    Args:
        key: what signs.
        crowded: says whether several threads want signatures now.
        children: how many to start when first needed; 0 is never, -1 one per core.
    """

    def __init__(self, key: RsaKey, *, crowded: Callable[[], bool], children: int = -1) -> None:
        super().__init__(key._key)
        self._crowded = crowded
        self._wanted = min(MOST, os.cpu_count() or 1) if children < 0 else children
        self._children: list[_Child] = []
        self._free: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._started = self._wanted == 0
        self._closed = False
        self._away = 0  # signatures that children are making now
        self._credit = _CREDIT
        self._asked = 0
        self.delegated = 0
        """How many signatures children made."""

    def _should_delegate(self) -> bool:
        """Say whether a child is to sign: only where signatures are wanted at the same time.

        Those of one schedule never are, for each names the one before; a hop to a child only costs then. So
        after some signatures during which nobody wanted another, only every eighth one goes to a child.
        """
        if not self._crowded():
            return False
        if self._away > 0:
            self._credit = _CREDIT
            return True
        if self._credit > 0:
            self._credit -= 1
            return True
        self._asked += 1
        return self._asked % _PROBE == 0

    def sign_pss_sha512(self, data: bytes, salt_len: int = 64) -> bytes:
        """Return an RSA-PSS signature with SHA-512."""
        made = self._elsewhere(1, data, salt_len) if self._should_delegate() else None
        return super().sign_pss_sha512(data, salt_len) if made is None else made

    def sign_pss_sha256(self, data: bytes, salt_len: int = 32) -> bytes:
        """Return an RSA-PSS signature with SHA-256."""
        made = self._elsewhere(0, data, salt_len) if self._should_delegate() else None
        return super().sign_pss_sha256(data, salt_len) if made is None else made

    def close(self) -> None:
        """End the children; signatures are made here from now on."""
        with self._lock:
            self._started = self._closed = True
            children, self._children = self._children, []
        for child in children:
            child.close()

    def _elsewhere(self, kind: int, data: bytes, salt_len: int) -> bytes | None:
        """Return a child's signature; None if no child can make it."""
        if not self._started:
            self._start_aside()
        if not self._children:
            return None
        try:
            child = self._free.get(timeout=_WAIT_S)
        except queue.Empty:
            return None
        made = None
        with self._lock:
            self._away += 1
        try:
            made = child.sign(kind, salt_len, _HASHES[kind](data).digest())
        finally:
            with self._lock:
                self._away -= 1
            if made is None:  # gone, or interrupted between question and answer
                self._drop(child)
            else:
                self._free.put(child)
                with self._lock:
                    self.delegated += 1
        return made

    def start(self) -> None:
        """Start the children, and return when they can sign."""
        with self._lock:
            if self._started:
                return
            self._started = True
        self._bring_up()

    def _start_aside(self) -> None:
        """Start them in a thread: half a second of a new process is nothing for a request to wait for."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._bring_up, name="hyperpy-signers", daemon=True).start()

    def _bring_up(self) -> None:
        private = self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for _ in range(self._wanted):
            try:
                child = _Child(private)
            except OSError:
                break
            ready = child.sign(0, 32, hashlib.sha256().digest()) is not None
            with self._lock:
                if ready and not self._closed:
                    self._children.append(child)
                    self._free.put(child)
                    continue
            child.close()

    def _drop(self, child: _Child) -> None:
        with self._lock:
            if child in self._children:
                self._children.remove(child)
        child.close()


class _Child:
    """One child process."""

    def __init__(self, private: bytes) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own file, no input of others
            [sys.executable, "-I", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._in.write(len(private).to_bytes(4, "big") + private)
        self._in.flush()

    def sign(self, kind: int, salt_len: int, digest: bytes) -> bytes | None:
        """Return the signature of a digest; None if the child is gone."""
        try:
            self._in.write(bytes((kind, salt_len)) + digest)
            self._in.flush()
            head = self._out.read(2)
            size = int.from_bytes(head, "big")
            made = self._out.read(size)
        except (OSError, ValueError):
            return None
        return made if size and len(made) == size else None

    def close(self) -> None:
        """End the process."""
        for pipe in (self._in, self._out):
            with suppress(OSError):
                pipe.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
