"""Joins and the shared identity in the reference's form (devices part 06). Off by default, because it is weak.

Only the joining node is attested, nothing is fresh, one key lasts as long as the process, and RSA with PKCS#1
v1.5 carries it. What is better here: the report must be bound to the node (``snp@1.0``), the term of the
public key is read strictly, ``key`` answers to trusted nodes that sign alone, and what is shared is an identity made
for the purpose: a node's own private key stays where it is. All of it is in memory alone.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hyperpy import Context, Message, Result, commitments
from hyperpy.attest.codes import refusal, require
from hyperpy.capabilities import Http, Keys, NodeControl
from hyperpy.encoding import b64, b64u, b64u_decode
from hyperpy.errors import Busy, ConfigError, Forbidden, UpstreamError
from hyperpy.keys import EXPONENT, RsaKey
from hyperpy.message import Value, as_text, committed_list

from . import terms
from .admission import check_may_join, check_settings

_AT: Final = "/~greenzone@1.0/"
_TEXT: Final = 4096
_IV: Final = 16
_HISTORY: Final = 1000
_REFUSED: Final = "Received invalid commitment report."


class Reference:
    """The reference's green zone on one node: its key, whom it trusts, and the identity that is shared."""

    def __init__(self, node: NodeControl, keys: Keys, removed: Callable[[str], bool]) -> None:
        self._node, self._keys, self._removed = node, keys, removed
        self._zone_key: bytearray | None = None
        self._identity: RsaKey | None = None
        self._making = threading.Lock()
        self.trusted: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether the operator switched it on."""
        return as_text(self._node.setting("green-zone-compatible", False)) == "true"

    @property
    def address(self) -> str | None:
        """The address of the shared identity, if there is one."""
        return self._identity.address if self._identity is not None else None

    def begin(self) -> None:
        """Make the zone's key, if this is switched on and there is none."""
        if self.on and self._zone_key is None:
            self._zone_key = bytearray(secrets.token_bytes(32))

    def forget(self) -> None:
        """Forget key, identity and who was trusted."""
        if self._zone_key is not None:
            self._zone_key[:] = bytes(len(self._zone_key))
        self._zone_key, self._identity = None, None
        self.trusted.clear()

    def remove(self, address: str) -> None:
        """Trust a node no more. The key it was given lasts: that is one of the form's weaknesses."""
        self.trusted.discard(address)

    # -- the side that is joined ---------------------------------------------------------------

    def admit(self, request: Message, ctx: Context) -> Result:
        """Answer a joining node: its message is a report's, with its ``public_key``, signed of its own will.

        Raises:
            AttestationError: the report is refused. Forbidden: this is not switched on, or a setting is missing.
        """
        key, order = self._key(), request.private.get("order")
        said, address = own_words(order if isinstance(order, Message) else Message())
        require(said.get("address") == address.encode(), "binding/key-mismatch", f"{_REFUSED} It is another node's.")
        check_may_join(address, self._removed)
        modulus = terms.read_public(_plain(said.get("public_key"), "public_key"))
        self._check_about(said.get("node-message"))
        verdict = ctx.step(Message({"device": "snp@1.0"}), Message({"path": "verify", "body": order}))
        if verdict.status != "ok" or verdict.value != b"true":
            return Result("error", _with_code(verdict.value))
        if len(self.trusted) >= int(as_text(self._node.setting("green-zone-members", 256))):
            raise Busy("the green zone has all the members it may have")
        sealed = rsa.RSAPublicNumbers(EXPONENT, int.from_bytes(modulus, "big")).public_key()
        made = {
            "body": "Node joined green zone successfully.",
            "node-address": self._keys.address,
            "zone-key": b64(sealed.encrypt(key, padding.PKCS1v15())),
            "public_key": b64(terms.public_key(self._modulus())),
        }
        self.trusted.add(address)
        ctx.log("green-zone-trusted", member=address)
        return Result("ok", Message({"status": 200, **made}))

    def identity(self, request: Message) -> Result:
        """Return the shared identity, encrypted with the zone's key, to a trusted node that signed path and all."""
        key, order = self._key(), request.private.get("order")
        said, address = own_words(order if isinstance(order, Message) else Message())
        if address not in self.trusted or "path" not in said:
            raise Forbidden("only a trusted node that signs its request, and its path, gets the zone's identity")
        with self._making:
            if self._identity is None:
                self._identity = RsaKey.generate()
        jwk = self._identity.to_jwk()
        plain = terms.private_key(b64u_decode(jwk["d"]), b64u_decode(jwk["n"]))
        iv = secrets.token_bytes(_IV)
        made = {"status": 200, "encrypted_key": b64(AESGCM(key).encrypt(iv, plain, None)), "iv": b64(iv)}
        return Result("ok", Message(made))

    # -- the side that joins -------------------------------------------------------------------

    def join(self, where: str, who: str, http: Http, ctx: Context) -> Result:
        """Join the zone of a node: its answer must be signed by the address ``who``; it attests nothing itself."""
        found = ctx.step(Message({"device": "snp@1.0"}), Message({"path": "generate"}))
        if found.status != "ok" or not isinstance(found.value, Message):
            return Result("error", _with_code(found.value))
        own = rsa.generate_private_key(EXPONENT, 4096)
        modulus = own.public_key().public_numbers().n.to_bytes(512, "big")
        asked = found.value | {"public_key": b64(terms.public_key(modulus)), "path": f"{_AT}join", "method": "POST"}
        reply = _signed_by(http.call(where, self._keys.sign(asked)), who, "zone-key")
        try:
            key = own.decrypt(_plain(reply.get("zone-key"), "zone-key"), padding.PKCS1v15())
        except ValueError:
            key = b""
        if len(key) != 32:
            raise UpstreamError("Received incorrect response from peer!")
        self._zone_key = bytearray(key)
        return Result("ok", Message({"status": 200, "body": "Node joined green zone successfully."}))

    def become(self, where: str, who: str, http: Http) -> Result:
        """Adopt the identity of the zone of a node; it is in memory until the process ends."""
        key = self._key()
        asked = Message({"path": f"{_AT}key", "method": "GET"})
        reply = _signed_by(http.call(where, self._keys.sign(asked)), who, "encrypted_key", "iv")
        sealed, iv = (_plain(reply.get(name), name) for name in ("encrypted_key", "iv"))
        try:
            exponent, modulus = terms.read_private(AESGCM(key).decrypt(iv, sealed, None))
        except (InvalidTag, ValueError):
            raise UpstreamError("the peer's key does not open with the zone's", hint="Join its zone first.") from None
        self._identity = RsaKey.from_jwk({"n": b64u(modulus), "e": "AQAB", "d": b64u(exponent)})
        body = {"message": "Successfully adopted target node identity", "peer-location": where, "peer-id": who}
        return Result("ok", Message({"status": 200, "body": body | {"identity": self._identity.address}}))

    # -- small things --------------------------------------------------------------------------

    def _key(self) -> bytes:
        if not self.on:
            raise Forbidden(
                "this node shares no identity, and knows no joins in the reference's form",
                hint="The operator may set [green-zone] compatible = true; see docs/attestation.md.",
            )
        if self._zone_key is None:
            raise ConfigError("Node not part of a green zone.")
        return bytes(self._zone_key)

    def _check_about(self, about: Value | None) -> None:
        if not isinstance(about, Message):
            raise refusal("evidence/malformed", f"{_REFUSED} The node message is missing.")
        required, own = self._node.setting("green-zone-required-config"), self._node.info()
        history = about.get("node_history", ())
        past = list(history) if isinstance(history, tuple) else [about]
        require(len(past) <= _HISTORY, "evidence/too-large", "the node's history is too long")
        for one in (about, *past):
            check_settings(required, one if isinstance(one, Message) else Message(), own)

    def _modulus(self) -> bytes:
        from .admission import public_key

        return public_key(self._keys.sign(Message({"type": "Public-Key"})))[1]


def own_words(order: Message) -> tuple[Message, str]:
    """Return the keys that a signer covers of its own will, and its address.

    Raises:
        Forbidden: nobody signed so.
    """
    for one in order.commitments.values():
        address, names = commitments.committer_of(one), set(committed_list(one))
        if address is not None and commitments.is_own_word(one):
            return Message.make({name: item for name, item in order.raw_items().items() if name in names}), address
    raise Forbidden("the request must be signed by the node that asks")


def _signed_by(reply: Message, who: str, *names: str) -> Message:
    """Return a peer's reply if it is good and the address signed these keys of it."""
    for one in reply.commitments.values():
        covered = set(committed_list(one))
        if commitments.committer_of(one) == who and covered.issuperset(names) and reply.get("status") == 200:
            return reply
    raise UpstreamError("Received incorrect response from peer!")


def _plain(item: Value | None, name: str) -> bytes:
    """Return what base64 (the standard alphabet, padded) stands for."""
    try:
        found = base64.b64decode(item, validate=True) if isinstance(item, bytes) and len(item) <= _TEXT else b""
    except binascii.Error:
        found = b""
    require(bool(found), "evidence/malformed", f"'{name}' is missing, or no base64")
    return found


def _with_code(found: Value) -> Message:
    """Return the refusal of a report: the reference's words, and the code."""
    code: Any = found.get("code", b"verifier/internal") if isinstance(found, Message) else b"verifier/internal"
    return Message({"status": 400, "body": _REFUSED, "code": code})
