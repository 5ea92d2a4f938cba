"""The capability ``attester``, and attested replies. See :class:`hyperpy.capabilities.Attester`.

A node has one attester: the hardware's if this machine has any, else the software attester where ``[tee] software``
says so, else none. A key for secrets (X25519) is made at every start and is never written anywhere.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyperpy import attested, commitments
from hyperpy.attest import merkle, sealing
from hyperpy.attest import nvidia as gpu_reports
from hyperpy.attest import statement as statements
from hyperpy.attest.bundle import MAX_MANIFESTS, Evidence
from hyperpy.attest.codes import refusal
from hyperpy.attest.statement import Statement
from hyperpy.attestation_batch import Together, Turn
from hyperpy.attestation_budget import ASKED, OWN, RESULT, ZONE, Budget
from hyperpy.attestation_code import node_digest
from hyperpy.attestation_key import key_for_secrets
from hyperpy.attester import Attester, base, detect
from hyperpy.attester import nvidia as gpus_here
from hyperpy.attester.software import SoftwareAttester
from hyperpy.capabilities import Sink
from hyperpy.config import Config
from hyperpy.context import Chain
from hyperpy.encoding import b64u, b64u_decode, key_bytes
from hyperpy.errors import AttestationError, CodecError, ConfigError, HyperpyError, ParameterError, SealedElsewhere
from hyperpy.keys import RsaKey
from hyperpy.message import As, Atom, Message, Value, as_text
from hyperpy.sdk import Result
from hyperpy.trail import Record

log = logging.getLogger("hyperpy.attestation")

_ZONE: Final = "zone-join"
_PATIENCE_S: Final = 5.0
"""Seconds that a request waits for others who ask the hardware."""

_KEMS: Final = frozenset({"node-identity", "key-release", "zone-join", "channel"})
_ABOUT: Final = frozenset({"node-identity", "zone-join"})
_MAX_FILE: Final = 4 << 20


class Attestation:
    """Makes this node's evidence. Thread-safe; hardware is asked for one report after another.

    Args:
        key: the node's own; statements name it.
        about: returns the node message.
        attester: what makes evidence; None looks for the hardware of this machine.
        code: returns the digest of the code that the node runs; by default of hyperpy and of what ``[devices]`` says.
    """

    clock = staticmethod(time.time)
    """Seconds since 1970, for what statements say of when they were made."""

    def __init__(
        self,
        config: Config,
        key: RsaKey,
        about: Callable[[], Message],
        attester: Attester | None = None,
        code: Callable[[], bytes] | None = None,
    ) -> None:
        self._code = code if code is not None else lambda: node_digest(config, ())
        self._config, self._key, self._about = config.tee, key, about
        self._lock, self._identifying = threading.Lock(), threading.Lock()
        self._budget = Budget(config.tee.reports)
        self.secrets = config.tee.secrets
        self._together = Together(self._for_results, config.tee.batch, _PATIENCE_S)
        self._epoch = b"start:" + secrets.token_bytes(32)
        self._identity: tuple[bytes, Evidence] | None = None
        self._gpus: gpus_here.Nvidia | None = None
        self.run: Callable[..., Result] | None = None
        found = attester if attester is not None else detect()
        if found is None and config.tee.software:
            found = SoftwareAttester(self._code())
        self._attester = found
        self.kind = found.kind if found is not None else ""
        secret = key_for_secrets(found, config, self._named)
        self._secret: X25519PrivateKey | None = secret
        self.kem = sealing.KEM_X25519 + secret.public_key().public_bytes_raw()
        self._vek, self._chain, self._collateral = _endorsements(config)
        self._manifests = tuple(map(_read, config.tee.manifests))
        if len(self._manifests) > MAX_MANIFESTS:
            raise ConfigError(f"[tee] at most {MAX_MANIFESTS} manifests are sent along")
        if found is not None and found.hardware:
            try:
                self._gpus = gpus_here.find()
            except AttestationError:
                self._gpus = None

    def _named(self) -> Sequence[bytes]:
        """Return what evidence of the node's identity names."""
        return key_bytes(self._key.address), commitments.content_key(self._about()), self._code()

    @property
    def hardware(self) -> bool:
        """Whether hardware makes the evidence."""
        return self._attester is not None and self._attester.hardware

    def accepts_software(self) -> bool:
        """See :meth:`hyperpy.capabilities.Attester.accepts_software`."""
        return self._config.software

    def info(self) -> Message:
        """See :meth:`hyperpy.capabilities.Attester.info`."""
        rows = [{"name": one.name, "present": one.present, "detail": one.detail} for one in base.providers()]
        own = self._attester
        made: dict[str, Any] = {
            "hardware": self.hardware,
            "attester": own.provider if own is not None else "none",
            "evidence-types": [self.kind] if own is not None else [],
            "nvidia": self._gpus is not None,
            "kem": b64u(self.kem),
            "runtime": b64u(self._code()),
            "providers": rows,
        }
        return Message(made)

    # -- evidence ----------------------------------------------------------------------------

    def report(self, report_data: bytes, *, level: int | None = None, peer: str | None = "") -> Evidence:
        """See :meth:`hyperpy.capabilities.Attester.report`."""
        self._spend(OWN if peer is None else ASKED, () if peer is None else (peer,))
        return self._report(report_data, level)

    def _spend(self, use: str, peers: Collection[str]) -> None:
        """Count a report; raise AttestationError where there is no hardware, or it was asked too often."""
        if self._attester is None:
            raise _nothing()
        if self._attester.hardware:
            self._budget.spend(use, peers)

    def _report(self, report_data: bytes, level: int | None = None) -> Evidence:
        if self._attester is None:
            raise _nothing()
        if not self._lock.acquire(timeout=_PATIENCE_S):
            raise refusal("attester/busy", "others wait for the hardware")
        try:
            made = self._attester.evidence(report_data, level)
        finally:
            self._lock.release()
        if made.kind == "snp" and not made.vek and self._vek:
            made = replace(made, vek=self._vek, chain=self._chain)
        if made.kind == "tdx" and self._collateral:
            made = replace(made, collateral=self._collateral)
        return made

    def evidence(
        self,
        purpose: str,
        *,
        nonce: bytes = b"",
        fields: Mapping[str, bytes] | None = None,
        gpus: bool = False,
        peer: str | None = "",
    ) -> Evidence:
        """See :meth:`hyperpy.capabilities.Attester.evidence`."""
        use = ZONE if purpose == _ZONE else OWN if peer is None else ASKED
        return self._made(purpose, nonce, fields, gpus, use, () if peer is None else (peer,))

    def _made(
        self,
        purpose: str,
        nonce: bytes,
        fields: Mapping[str, bytes] | None,
        gpus: bool,
        use: str,
        peers: Collection[str] = (),
    ) -> Evidence:
        said = self.statement(purpose, nonce=nonce, fields=fields)
        self._spend(use, peers)
        found = self._gpus.evidence(said.gpu_nonce()) if gpus and self._gpus is not None else ()
        if found:
            found = tuple(replace(one, manifests=self._manifests) for one in found)
            digest = statements.gpu_digest([gpu_reports.parse(one.report).signed for one in found])
            said = statements.make({**said.fields, "gpu": digest})
        return replace(self._report(said.report_data()), statement=said.encode(), gpus=found)

    def statement(self, purpose: str, *, nonce: bytes = b"", fields: Mapping[str, bytes] | None = None) -> Statement:
        """Return a statement about this node; raise AppraisalError ``binding/statement-malformed``."""
        software = self._attester is not None and not self._attester.hardware
        made = {
            "purpose": ((statements.SOFTWARE if software else "") + purpose).encode(),
            "address": b64u_decode(self._key.address),
            "key": b"\x01" + self._key.modulus,
            "runtime": self._code(),
            "issued-at": int(self.clock()).to_bytes(8, "big"),
            **({"nonce": nonce} if nonce else {"epoch": self._epoch}),
        }
        if purpose in _KEMS:
            made["kem"] = self.kem
        if purpose in _ABOUT:
            made["node-message"] = commitments.content_key(self._about())
        return statements.make({**made, **(fields or {})})

    def identity(self) -> Evidence:
        """See :meth:`hyperpy.capabilities.Attester.identity`. It is made again where settings or code changed."""
        about = commitments.content_key(self._about()) + self._code()
        known = self._identity
        if known is not None and known[0] == about:
            return known[1]
        if not self._identifying.acquire(timeout=_PATIENCE_S):
            raise refusal("attester/busy", "others wait for the hardware")
        try:
            known = self._identity
            if known is None or known[0] != about:
                known = self._identity = about, self._made("node-identity", b"", None, True, OWN)
            return known[1]
        finally:
            self._identifying.release()

    def unseal(self, sealed: bytes, info: bytes) -> bytes:
        """See :meth:`hyperpy.capabilities.Attester.unseal`."""
        return sealing.unseal(sealed, self._opening(), info)

    def derived(self, use: bytes) -> bytes:
        """See :meth:`hyperpy.capabilities.Attester.derived`."""
        return sealing.derived(self._opening(), use)

    def _opening(self) -> X25519PrivateKey:
        if self._secret is None:
            raise SealedElsewhere("this node has stopped, and its key for secrets is gone")
        return self._secret

    def close(self) -> None:
        """Let go of the key for secrets: the node stops, and what is sealed to it opens nowhere any more."""
        self._secret = None

    def privately(self, request: Message, deadline: float, base: Message | None = None, sink: Sink = None) -> Result:
        """See :meth:`hyperpy.capabilities.Attester.privately`."""
        if self.run is None:
            raise ConfigError("there is no node to resolve sealed requests")
        return self.run(request, deadline, base, sink)

    # -- attested replies ----------------------------------------------------------------------

    def attach(self, made: Message, ask: Ask | None, chain: Chain) -> Message:
        """Return a reply with its attestation, if one was asked for; the node is to sign all of it. Never raises.

        An error is nothing that a machine vouches for: its status is ``none``. Signatures of others on the reply
        itself cannot cover an attestation, and readers count only what all signatures cover: they are left out. Where
        the operator's setting alone asks, a reply that is signed already stays as it is.
        """
        if ask is None or (ask.by_setting and commitments.committers(made)):
            return made
        made = attested.bare(made).with_private(**made.private)
        if "error" in made.private or self._attester is None:
            return _marked(made, "none")
        try:
            found = self._attested(made, ask, chain)
        except AttestationError as error:
            return _marked(made, "failed", code=error.code)
        except (HyperpyError, OSError) as error:
            log.warning("no attestation: %s", error)
            return _marked(made, "failed", code="attester/unavailable")
        except Exception:
            log.exception("making an attestation failed")
            return _marked(made, "failed", code="attester/unavailable")
        return _marked(made, "hardware" if self._attester.hardware else "software", found.text())

    def _attested(self, made: Message, ask: Ask, chain: Chain) -> attested.Attestation:
        ids = attested.result_ids(made)
        name, record = chain.last or (b"", None)
        if record is not None and record.result and b64u_decode(record.result) in ids:
            result = b64u_decode(record.result)
        else:
            name, record, result = b"", None, ids[0]
        fields = {**_of_record(record, ask), "hashpath": (made.hashpath or "").encode(), "result": result}
        if ask.level == attested.RESULT:
            self.statement("result", nonce=ask.nonce, fields=fields)  # what is malformed spoils no other's
            if ask.peer is not None and self.hardware:
                self._budget.check(ask.peer)
            found = self._together.attested(Turn(ask.nonce, fields, ask.peer))
        else:
            own = self.identity()
            previous = attested.attestation_id(statements.decode(own.statement))
            said = self.statement("result", nonce=ask.nonce, fields={**fields, "previous": previous})
            found = attested.Attestation(own, said.encode())
        if name and chain.batch is not None:
            chain.batch.put("attested", name, found.encode())
        return found

    def _for_results(self, turns: Sequence[Turn]) -> Sequence[attested.Attestation]:
        """Return the hardware's word on results: on one alone, or on the root of all their statements."""
        peers = {one.peer for one in turns if one.peer is not None}
        use = OWN if any(one.peer is None for one in turns) else RESULT
        if len(turns) == 1:
            (one,) = turns
            return [attested.Attestation(self._made("result", one.nonce, one.fields, True, use, peers))]
        said = [self.statement("result", nonce=one.nonce, fields=one.fields).encode() for one in turns]
        leaves = [merkle.leaf(one) for one in said]
        fields = {**attested.batch_fields(len(said)), "result": merkle.root(leaves)}
        evidence = self._made("result", b"", fields, True, use, peers)
        places = [attested.Place(at, len(said), merkle.proof(leaves, at)) for at in range(len(said))]
        return [attested.Attestation(evidence, one, place) for one, place in zip(said, places, strict=True)]


class Ask:
    """That a reply is to be attested.

    Args:
        level: ``identity`` or ``result``.
        nonce: the caller's, 16 to 64 bytes; empty if there is none.
        request: ID (32 bytes) of the request.
        by_setting: the request itself does not ask, the operator's setting does.
        peer: address that the request came from, empty if unknown; None for the operator's.
    """

    def __init__(
        self, level: str, nonce: bytes, request: bytes, *, by_setting: bool = False, peer: str | None = ""
    ) -> None:
        self.level, self.nonce, self.request, self.by_setting, self.peer = level, nonce, request, by_setting, peer


def _nothing() -> AttestationError:
    return refusal("attester/unavailable", "this machine has no hardware that makes evidence")


def _marked(made: Message, status: str, text: bytes = b"", code: str = "") -> Message:
    more: dict[str, Value] = {attested.STATUS: status.encode()}
    if text:
        more[attested.KEY] = text
        kind = made.raw("content-type")
        if isinstance(kind, bytes):
            more[attested.BODY_TYPE] = kind
    if code:
        more[attested.CODE] = code.encode()
    return Message.make({**made.raw_items(), **more}, private=made.private)


def _of_record(record: Record | None, ask: Ask) -> dict[str, bytes]:
    """Return what a statement says of the step that made a result; of none, where it was only read."""
    if record is None:
        return {"request": ask.request, "device": b"-"}
    device = f"{record.device} {record.implementation}".encode()
    return {"request": b64u_decode(record.request), "device": device}


def _endorsements(config: Config) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """Return the files that vouch for the hardware; raise ConfigError if one cannot be read."""
    chain = [_read(name) for name in config.tee.certificates]
    collateral = _read(config.tee.collateral) if config.tee.collateral else b""
    return chain[0] if chain else b"", tuple(chain[1:]), collateral


def _read(name: str) -> bytes:
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"[tee] the file {name} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError(f"[tee] the file {name} is too long")
    return data


# -- what asks for an attestation ---------------------------------------------------------------

_ALWAYS: Final = {"always": attested.IDENTITY, "hardware": attested.RESULT}
_NONCE: Final = range(16, 65)
_KEYS: Final = ("attest", "attest-nonce")


def asked(
    always: Any, request: Message, members: Sequence[Value], operator: Callable[[Message], bool] = lambda _: False
) -> tuple[Ask | None, Sequence[Value]]:
    """Return what a request, or the operator, asks for; and the path without the keys that ask.

    They are ``attest`` (``true`` or ``hardware``) and ``attest-nonce`` (16 to 64 bytes, base64url), as a header, in
    the query or with any key of the path. What is signed keeps them.

    Args:
        always: the operator's setting ``tee-attest``.
        operator: says whether the operator signed a request.

    Raises:
        ParameterError: the nonce is none.
    """
    level = _ALWAYS.get(as_text(always)) if isinstance(always, (bytes, Atom)) else None
    nonce: Value | None = None
    by_setting = True
    for one in (*map(_message, members), request, _query(request)):
        if one is None:
            continue
        found = _level(one.raw("attest"))
        level = found if level is None or found == attested.RESULT else level
        by_setting = by_setting and found is None
        if nonce is None and level is not None:
            nonce = one.raw("attest-nonce")
    if level is None:
        return None, members
    peer = None if operator(request) else str(request.private.get("peer", ""))
    ask = Ask(level, _nonce(nonce), commitments.content_key(request), by_setting=by_setting, peer=peer)
    return ask, [_without(one) for one in members]


def _level(item: Value | None) -> str | None:
    if item is True or item == b"true":
        return attested.IDENTITY
    return attested.RESULT if item == b"hardware" else None


def _nonce(item: Value | None) -> bytes:
    if item is None:
        return b""
    try:
        found = b64u_decode(item) if isinstance(item, bytes) else b""
    except (CodecError, ValueError):
        found = b""
    if len(found) not in _NONCE:
        raise ParameterError("attest-nonce must be 16 to 64 bytes in base64url", name="attest-nonce")
    return found


def _message(member: Value) -> Message | None:
    found = member.message if isinstance(member, As) else member
    return found if isinstance(found, Message) else None


def _query(request: Message) -> Message | None:
    """Return the keys of the path's query that ask: where a path is a bare ID, no member holds them."""
    text = request.raw("path")
    if not isinstance(text, bytes) or b"attest" not in text:
        return None
    pairs = [one.partition(b"=") for one in text.partition(b"?")[2].split(b"&")[:1000]]
    found = {key.decode(): item for key, _, item in pairs if key in (b"attest", b"attest-nonce")}
    return Message.make(dict(found))


def _without(member: Value) -> Value:
    """Return a member of a path without the keys that ask; one that is signed stays as it is."""
    found = _message(member)
    if found is None or found.commitments:
        return member
    if _level(found.raw("attest")) is None and found.raw("attest-nonce") is None:
        return member
    bare = found.without(*(key for key in _KEYS if key in found))
    return As(member.device, bare) if isinstance(member, As) else bare
