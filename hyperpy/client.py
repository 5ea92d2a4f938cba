"""A client for AO-Core nodes: requests out, verified messages back.

from hyperpy.client import Client

with Client("http://localhost:8734") as client:
    print(client.get("/~calculator@1.0&a=1/add&b=2")["body"])   # 3
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from hyperpy import attested, commitments
from hyperpy.attest.policy import DEFAULT, Policy
from hyperpy.attested import Found
from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError, InvalidSignature
from hyperpy.http.asked import fits, seen, without
from hyperpy.http.client import Connection, RequestForm, parse_url, request_form
from hyperpy.keys import RsaKey
from hyperpy.message import Message, Value

_ATTEST: Final = ("attest", "attest-nonce")
"""Keys that ask for an attestation; the node takes them off before it answers."""


_HTTPS_OWN = ("path", "method")
"""Keys that a request over HTTP has for itself."""


class Client:
    """Talks to one node.

    Args:
        url: such as ``http://localhost:8734``; a path is put before that of every request.
        key: signs every request, its path and method included.
        signed_by: an address that must have signed every reply that is no error; None accepts
            unsigned replies too. Signatures that are there are always verified.
        timeout: seconds to wait for a reply.
    """

    def __init__(
        self, url: str, key: RsaKey | None = None, *, signed_by: str | None = None, timeout: float = 60.0
    ) -> None:
        self._origin, self._prefix = parse_url(url)
        self._key = key
        self._signed_by = signed_by
        self._connection = Connection(timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def get(self, path: str, keys: Mapping[str, Any] | None = None) -> Message:
        """Return the reply to a GET of a path; ``keys`` go along as headers.

        The reply is a message with an integer ``status``, whatever that is; ``reply.hashpath`` is
        what the node signed as its hashpath.

        Raises:
            UpstreamError: the node cannot be reached.
            InvalidSignature: a signature on the reply does not verify, or ``signed_by`` is missing.
        """
        return self.request("GET", path, keys)

    def post(self, path: str, message: Mapping[str, Any] | None = None) -> Message:
        """Return the reply to a POST of a message; raises as :meth:`get`."""
        return self.request("POST", path, message)

    def request(self, method: str, path: str, message: Mapping[str, Any] | None = None) -> Message:
        """Return the reply to any request; raises as :meth:`get`."""
        return self._checked(self._connection.exchange(self._origin, self._form(method, path, message)))

    def _form(self, method: str, path: str, message: Mapping[str, Any] | None) -> RequestForm:
        own = Message(message or {}) | {"path": self._prefix + path, "method": method}
        if self._key is not None:
            own = commitments.commit(own, self._key)
        return request_form(own)

    def attested(
        self,
        path: str,
        keys: Mapping[str, Any] | None = None,
        *,
        method: str = "GET",
        policy: Policy = DEFAULT,
        hardware: bool = False,
        insecure_software: bool = False,
    ) -> tuple[Message, Found]:
        """Return the reply to a request, and what is found of the attestation that was asked for with it.

        The attestation must answer a nonce made here, and be about what was asked for: where the path alone tells
        the hashpath it leads to, ``found.asked`` is True, or the status ``failed``. Where it does not (a process, a
        sub-path in parentheses), ``found.asked`` is None: look then at what the result says of itself, such as the
        ``process`` and ``at-slot`` of a state. What the node says of its evidence is not believed: act on
        ``found.status``, found from the evidence, and on nothing but ``hardware`` where secrets are at stake.

        Args:
            keys: what goes along; with ``method="POST"``, the message that is posted.
            policy: what is accepted; see :mod:`hyperpy.attest.policy`. By default what a policy file without entries
                says; which software runs is then not looked at, and the result at best a *warning*.
            hardware: ask for evidence of this very result, not of the node's key alone.
            insecure_software: for development: believe software evidence where the policy allows it.

        Raises:
            UpstreamError, InvalidSignature: as :meth:`get`.
        """
        nonce = secrets.token_bytes(32)
        asked = {"attest": "hardware" if hardware else "true", "attest-nonce": b64u(nonce)}
        form = self._form(method, path, {**(keys or {}), **asked})
        reply = self._checked(self._connection.exchange(self._origin, form))
        now = datetime.now(UTC)
        found = attested.check(reply, policy, now=now, nonce=nonce, insecure_software=insecure_software)
        if hardware and found.status != "none" and found.level not in (attested.RESULT, attested.BATCH):
            found = replace(found, status="failed", codes=(*found.codes, "binding/purpose-mismatch"))
        return reply, self._compared(found, form)

    def _compared(self, found: Found, form: RequestForm) -> Found:
        """Return what is found, compared with what was asked for."""
        if found.said is None:
            return found
        request, parts = seen(self._connection, self._origin, form)
        told = found.said.fields["hashpath"].decode("utf-8", "replace")
        try:
            if told:
                same = fits(without(parts, _ATTEST), told)
            else:
                same = found.said.fields["request"] == commitments.content_key(request)
        except HyperpyError:
            same = False
        if same is False:
            return replace(found, status="failed", codes=("binding/result-mismatch",), said=None, asked=False)
        return replace(found, asked=same)

    def _checked(self, reply: Message) -> Message:
        status = reply.get("status")
        worked = isinstance(status, int) and status < 400
        if worked and self._signed_by is not None and self._signed_by not in self.signers(reply):
            raise InvalidSignature(f"the reply is not signed by {self._signed_by}")
        return reply

    def send(self, path: str, message: Mapping[str, Any] | Message) -> Message:
        """Return the reply to a POST of a message that stands for itself; raises as :meth:`get`.

        The message is signed without path and method, unless it is signed already: what a process is
        sent, or is, keeps its ID wherever it goes. Where it has keys that HTTP needs itself, such as ``path``, it
        travels inside the request, as its ``body``.
        """
        own = message if isinstance(message, Message) else Message(message)
        if self._key is not None and not own.commitments:
            own = commitments.commit(own, self._key)
        extra: dict[str, Value] = {"path": (self._prefix + path).encode(), "method": b"POST"}
        if any(name in own for name in _HTTPS_OWN):
            own = Message.make({"body": own, **extra})
        else:
            own = Message.make({**own.raw_items(), **extra}, own.commitments)
        return self._checked(self._connection.exchange(self._origin, request_form(own)))

    @staticmethod
    def signers(reply: Message) -> tuple[str, ...]:
        """Return the addresses that signed a reply (their signatures were verified)."""
        return commitments.committers(reply)
