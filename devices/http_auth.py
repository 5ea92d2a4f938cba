"""http-auth@1.0: secrets made from HTTP Basic credentials, and MACs with them.

The ``authorization`` header never enters a message: the node hands it to request hooks in the
private part of the request, and the secret made from it stays in the private part too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict

from hyperpy import commitments, device, key
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import ParameterError, TooManyRequests, Unauthorized
from hyperpy.message import Message
from hyperpy.sdk import Result

_DEVICE = "http-auth@1.0"
_ROUNDS = 1_200_000
_LENGTH = 64
_KEPT = 1000
_PER_CLIENT, _PERIOD = 10, 60.0
"""Credentials not seen lately that one address may send, and in how many seconds as many more.

To make a secret of them takes a second or more, and is asked for before the caller has any right.
"""
_CLIENTS = 10_000


@device(_DEVICE)
class HttpAuth:
    """Derives a secret from the ``authorization`` header with PBKDF2, and commits with it (HMAC)."""

    def start(self) -> None:
        """Prepare the memory of secrets derived lately; it holds digests of credentials only."""
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    @key(deterministic=False)
    def generate(self, request: Message) -> Result | Message:
        """Return the request with the caller's secret in its private part.

        Parameters of the derivation are ``salt``, ``iterations``, ``alg``, ``key-length``; with ``raw`` the
        credentials themselves are the secret. Without credentials: status 401, asking for them.
        """
        if "secret" in request.private:
            return request
        found = self._secret(request)
        if found is None:
            text = "No authorization header provided."
            reply = Message({"status": 401, "www-authenticate": "Basic", "body": text})
            return Result("error", reply)
        return request.with_private(secret=found)

    @key(deterministic=False)
    def commit(self, base: Message, request: Message) -> Message:
        """Return the message with a MAC by the caller's secret."""
        return commitments.commit(base, None, device=_DEVICE, secret=self._required(request))

    @key(deterministic=False, reads=True)
    def verify(self, base: Message, request: Message) -> bool:
        """Say whether the caller's secret made a MAC of the message that fits."""
        secret = self._required(request)
        named = b64u(sha256(secret))
        own = [name for name, one in base.commitments.items() if commitments.committer_of(one) == named]
        return bool(own) and commitments.verify(base, committers="none", ids=own, secret=secret)

    def _required(self, request: Message) -> bytes:
        given = request.private.get("secret")
        found = given if isinstance(given, bytes) else self._secret(request)
        if found is None:
            raise Unauthorized("No authorization header provided.", hint="Send HTTP Basic credentials.")
        return found

    def _secret(self, request: Message) -> bytes | None:
        header = request.private.get("authorization")
        if not isinstance(header, bytes):
            return None
        scheme, _, text = header.strip().partition(b" ")
        if scheme.lower() != b"basic":
            raise Unauthorized("Unrecognized authorization header.", hint="Only HTTP Basic is known.")
        try:
            credentials = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise Unauthorized("The authorization header is no base64.") from None
        if request.get("raw") in (True, b"true"):
            return credentials
        return self._derived(credentials, request)

    def _derived(self, credentials: bytes, request: Message) -> bytes:
        salt = request.get("salt", hashlib.sha256(b"constant:ao").digest())
        alg = request.text("alg", "sha256")
        rounds = _number(request, "iterations", _ROUNDS, 2 * _ROUNDS)
        length = _number(request, "key-length", _LENGTH, 1024)
        if not isinstance(salt, bytes) or alg not in ("sha256", "sha512"):
            raise ParameterError("generate: 'salt' must be bytes and 'alg' sha256 or sha512", name="alg")
        what = b"\0".join((self._salt, credentials, salt, f"{alg} {rounds} {length}".encode()))
        name = hashlib.sha256(what).digest()
        with self._lock:
            known = self._known.get(name)
        if known is None:
            self._spend(str(request.private.get("peer", "")))
            known = hashlib.pbkdf2_hmac(alg, credentials, salt, rounds, length)
            with self._lock:
                self._known[name] = known
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return known

    def _spend(self, peer: str) -> None:
        """Account for one derivation.

        Raises:
            TooManyRequests: the address sends new credentials too often. This machine's own is not counted.
        """
        if not peer or _is_here(peer):
            return
        now = time.monotonic()
        with self._lock:
            left, since = self._spent.pop(peer, (float(_PER_CLIENT), now))
            left = min(_PER_CLIENT, left + (now - since) * _PER_CLIENT / _PERIOD)
            self._spent[peer] = (left - 1 if left >= 1 else left, now)
            if len(self._spent) > _CLIENTS:
                self._spent.popitem(last=False)
        if left < 1:
            error = TooManyRequests(f"more than {_PER_CLIENT} new credentials from {peer}")
            error.retry_after = (1 - left) * _PERIOD / _PER_CLIENT
            raise error


def _is_here(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def _number(request: Message, name: str, fallback: int, most: int) -> int:
    text = request.text(name, str(fallback))
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise ParameterError(f"generate: '{name}' must be 1 to {most}", name=name)
    return int(text)
