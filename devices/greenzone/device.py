"""The keys of greenzone@1.0."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.policy import Policy
from hyperpy.capabilities import Attester, Http, Keys, NodeControl, Storage, Timers
from hyperpy.encoding import b64u, b64u_decode, number_keys
from hyperpy.errors import (
    AttestationError,
    Busy,
    CodecError,
    ConfigError,
    Forbidden,
    HyperpyError,
    ParameterError,
    UpstreamError,
)
from hyperpy.message import Value, as_text, committed_list

from . import admission, keys
from .admission import check_may_join
from .reference import Reference
from .zone import Zone

_STATUS: Final = {"attester": 503, "verifier": 500}
"""By group of codes; all others are 400, as the reference's errors."""
_AT: Final = "/~greenzone@1.0/"
_JOIN, _RENEW = b"Green-Zone-Join", b"Green-Zone-Renew"
_NONCE: Final = 32
_PAUSE_S: Final = 5.0
"""How often a stranger may have this node ask the keeper for news."""
_SEALED: Final = 4096
_BATCHES: Final = 100
"""How often a member that was away asks for more."""
_USED: Final = "greenzone/order/"
_TASK: Final = "greenzone-refresh"


@device(
    "greenzone@1.0",
    needs=("node", "keys", "store", "http", "timers", "attester"),
    excludes=("set", "keys", "id", "commit"),
)
class GreenZone:
    """A group of nodes that attested each other and share a key that changes with every change of members.

    The *keeper* (who ran ``init``) admits and removes; members hold what it seals to them. Only the operator's own
    orders, each good once, make this node begin, join, change or leave a zone (docs/attestation.md).
    """

    def start(
        self, node: NodeControl, keys: Keys, store: Storage, http: Http, timers: Timers, attester: Attester
    ) -> None:
        """Take settings, the node's key, the store, the way to peers, timers, and what makes evidence."""
        self._node, self._keys, self._store, self._http = node, keys, store, http
        self._timers, self._attester = timers, attester
        self.zone = Zone(keys.address, keys.sign, store)
        self.nonces = admission.Nonces()
        self._reference = Reference(node, keys, self.zone.removed)
        self._busy, self._orders = threading.Lock(), threading.Lock()
        self._asked = 0.0

    def stop(self) -> None:
        """Let go of all keys: the node stops."""
        self.zone.drop()
        self._reference.forget()

    @key(deterministic=False)
    def info(self) -> Message:
        """Describe the device, and the zone that this node belongs to."""
        paths = {
            "info": "Get device info",
            "init": "Initialize the green zone; this node becomes its keeper",
            "join": "Join a green zone; or, sent by a joining node, admit it",
            "challenge": "Get the keeper's evidence and a nonce, to join",
            "refresh": "Get the newest epoch from the keeper",
            "remove": "Begin an epoch without a member, who stays out",
            "readmit": "Let a removed node join again",
            "rotate": "Begin an epoch with a new key",
            "leave": "Forget the zone and its keys",
            "members": "List the members, and the signed epochs from {from} on",
            "key": "Get the zone's identity, encrypted, where the operator allows that",
            "become": "Adopt the identity of another node's zone, where the operator allows that",
            "is_trusted": "Say whether a signer of the request is a member",
        }
        about = {"description": "Green zone secure communication", "version": "1.0", "paths": paths}
        return Message({"status": 200, "body": {**about, **self._about()}})

    # -- the operator's ------------------------------------------------------------------------

    @key(deterministic=False)
    def init(self, request: Message, ctx: Context) -> Result:
        """Begin a zone with this node as its keeper. The operator's order."""
        self._ordered(request, "init")

        def run() -> Result:
            if self.zone.held is not None:
                return Result("error", b"Green zone already initialized.")
            kem, nonce, now, policy = (
                X25519PrivateKey.generate(),
                secrets.token_bytes(_NONCE),
                ctx.now(),
                self._policy(),
            )
            about = self._node.info()
            made = self._show(kem, nonce, about, policy)
            shown = admission.check(
                made.message(), about, nonce=nonce, address=self._keys.address, policy=policy, now=now
            )
            self.zone.begin(shown.member, kem, at=now, policy=policy.name)
            self._reference.begin()
            return Result("ok", b"Green zone initialized successfully.")

        return _answered(run)

    @key(deterministic=False)
    def join(self, request: Message, ctx: Context) -> Result:
        """Join the zone of ``peer-location`` and ``peer-id``, keys of the operator's order. Or admit who asks.

        What a joining node sends is signed by it, and holds ``nonce``, ``evidence``, ``node-message``, ``secret``.
        """
        if self._node.is_operator(request):
            self._ordered(request, "join")
            try:
                return _answered(lambda: self._join(request, ctx))
            except UpstreamError as error:
                if not error.unsent:
                    raise
                return Result("error", Message({"status": 503, "body": "Peer node is unreachable."}))
        asked = request.private.get("order")
        if isinstance(asked, Message) and "report" in asked and "evidence" not in asked:
            if self.zone.keeps:
                self._reference.begin()
            return _answered(lambda: self._reference.admit(request, ctx))
        return _answered(lambda: self._admitted(request, ctx))

    @key(deterministic=False)
    def refresh(self, request: Message, ctx: Context) -> Result:
        """Take the newest epoch of the zone from its keeper; anybody may have a member do so, now and then."""
        now = ctx.now()
        if not self._node.is_operator(request) and now < self._asked + _PAUSE_S:
            raise Busy("this node asked its keeper a moment ago")
        self._asked = now
        return _answered(self._refreshed)

    @key(deterministic=False)
    def remove(self, request: Message, ctx: Context) -> Result:
        """Begin an epoch without the member ``address``, a key of the order. It stays out. The operator's order."""
        self._ordered(request, "remove")
        address = self._given(request, "address")
        known = self.zone.members.keys() | self._reference.trusted
        if address == self._keys.address or address not in known:
            raise ParameterError("remove: there is no such member", name="address")
        entry = self.zone.remove(address, ctx.now(), self._policy().name)
        self._reference.remove(address)
        ctx.log("green-zone-removed", member=address, epoch=entry.epoch)
        return Result("ok", Message({"status": 200, "body": "Member removed.", "epoch": entry.epoch}))

    @key(deterministic=False)
    def readmit(self, request: Message, ctx: Context) -> Result:
        """Let the removed node ``address``, a key of the order, join again. The operator's order."""
        self._ordered(request, "readmit")
        address = self._given(request, "address")
        if not self.zone.readmit(address):
            raise ParameterError("readmit: that node was not removed", name="address")
        ctx.log("green-zone-readmitted", member=address)
        return Result("ok", Message({"status": 200, "body": "The node may join again."}))

    @key(deterministic=False)
    def rotate(self, request: Message, ctx: Context) -> Result:
        """Begin an epoch with the same members and a new key. The operator's order."""
        self._ordered(request, "rotate")
        entry = self.zone.change("order", ctx.now(), self._policy().name)
        return Result("ok", Message({"status": 200, "body": "New epoch.", "epoch": entry.epoch}))

    @key(deterministic=False)
    def leave(self, request: Message) -> bytes:
        """Forget the zone and its keys. The operator's order."""
        self._ordered(request, "leave")
        self.zone.leave()
        self._timers.stop(_TASK)
        self._reference.forget()
        return b"OK"

    @key(deterministic=False)
    def become(self, request: Message, ctx: Context) -> Result:
        """Adopt the identity of the zone of ``peer-location``, in memory: only where that is switched on."""
        self._ordered(request, "become")
        where, who = self._peer(request)
        return _answered(lambda: self._reference.become(where, who, self._http))

    # -- everybody's ---------------------------------------------------------------------------

    @key(deterministic=False)
    def challenge(self, request: Message, ctx: Context) -> Result:
        """Return the keeper's evidence, bound to the asker's ``nonce`` (32 bytes, base64url), and a nonce."""

        def run() -> Result:
            theirs = _raw(request, "nonce", _NONCE)
            now = ctx.now()
            if not self.zone.keeps:
                raise ConfigError("this node keeps no green zone", hint="Ask the zone's keeper.")
            if not self._busy.acquire(blocking=False):
                raise Busy("another challenge is being answered")
            try:
                policy = self._policy()
                entry = self.zone.current(now, self._rotation(), policy.name)
                kem, nonce, about = X25519PrivateKey.generate(), secrets.token_bytes(_NONCE), self._node.info()
                made = self._show(kem, theirs, about, policy)
            finally:
                self._busy.release()
            self.nonces.give(nonce, kem, now)
            answer = {"status": 200, "type": "Green-Zone-Challenge", "zone": entry.zone, "nonce": b64u(nonce)}
            return Result("ok", Message({**answer, "evidence": made.message(), "node-message": about}))

        return _answered(run)

    @key(deterministic=False)
    def epoch(self, request: Message, ctx: Context) -> Result:
        """Return to a member the entries after ``after``, and the key of the last, sealed. It signs what it asks."""

        def run() -> Result:
            asked, address = _spoken(request, _RENEW)
            echo = _raw(asked, "nonce", _NONCE)
            if not self.zone.keeps:
                raise ConfigError("this node keeps no green zone", hint="Ask the zone's keeper.")
            if address not in self.zone.members:
                raise Forbidden("who asks is no member of the green zone", hint="Join it.")
            current = self.zone.current(ctx.now(), self._rotation(), self._policy().name)
            if asked.text("zone") != current.zone:
                raise ParameterError("epoch: that is another zone", name="zone")
            entry, entries, sealed = self.zone.news(address, _number(asked, "after"), echo)
            made: dict[str, Any] = {"status": 200, "epoch": entry.epoch, "entries": list(entries)}
            if sealed is not None:
                made["sealed"] = b64u(sealed)
            return Result("ok", Message(made))

        return _answered(run)

    @key(deterministic=False)
    def members(self, request: Message) -> Message:
        """Return the members of the newest epoch known here, and the signed entries from ``from`` on."""
        first = _number(request, "from") if "from" in request else 0
        try:
            listed: Sequence[Message] = self.zone.entries(first)
        except HyperpyError:  # a member knows those since it joined
            listed = ()
        return Message({"status": 200, "members": sorted(self.zone.members), "entries": list(listed), **self._about()})

    @key(name="is_trusted", deterministic=False)
    def is_trusted(self, request: Message) -> bytes:
        """Return the text ``true`` if a verified signer of the request is a member, else ``false``."""
        order = request.private.get("order")
        made = order.commitments.values() if isinstance(order, Message) else ()
        signers = {commitments.committer_of(one) for one in made if commitments.is_own_word(one)}
        known = self.zone.members.keys() | self._reference.trusted
        return b"true" if known & signers else b"false"

    @key(name="key", deterministic=False)
    def shared(self, request: Message) -> Result:
        """Return the zone's identity, encrypted with the reference's zone key, to a trusted node that signs."""
        return _answered(lambda: self._reference.identity(request))

    # -- the work ------------------------------------------------------------------------------

    def _admitted(self, request: Message, ctx: Context) -> Result:
        asked, address = _spoken(request, _JOIN)
        now, policy = ctx.now(), self._policy()
        if not self.zone.keeps:
            raise ConfigError("this node keeps no green zone", hint="Ask the zone's keeper.")
        check_may_join(address, self.zone.removed)
        nonce = _raw(asked, "nonce", _NONCE)
        kem = self.nonces.take(nonce, now)
        about = asked.get("node-message")
        shown = admission.check(asked.get("evidence"), about, nonce=nonce, address=address, policy=policy, now=now)
        admission.check_settings(
            self._node.setting("green-zone-required-config"), about if isinstance(about, Message) else Message(),
            self._node.info(),
        )  # fmt: skip
        zone = self.zone.current(now, self._rotation(), policy.name).zone
        require(asked.text("zone", "") == zone, "binding/purpose-mismatch", "it was to join another zone")
        echo = keys.unseal(_sealed(asked, "secret"), kem, _context(zone, nonce, address))
        require(len(echo) == 32, "evidence/malformed", "the secret has 32 bytes")
        most = int(as_text(self._node.setting("green-zone-members", 256)))
        self.zone.change("join", now, policy.name, lambda members: members.update({address: shown.member}), most)
        entry, sealed = self.zone.grant(address, echo)
        ctx.log("green-zone-admitted", member=address, policy=shown.policy, epoch=entry.epoch)
        made = {"status": 200, "body": "Node admitted to the green zone.", "node-address": self._keys.address}
        return Result("ok", Message({**made, "entry": entry.message, "sealed": b64u(sealed)}))

    def _join(self, request: Message, ctx: Context) -> Result:
        where, who = self._peer(request)
        if self.zone.keeps:
            return Result("error", b"Node already part of green zone.")
        if self._reference.on and self._flag(request, "reference"):
            return self._reference.join(where, who, self._http, ctx)
        policy, own, nonce = self._policy(), self._node.info(), secrets.token_bytes(_NONCE)
        first = Message({"path": f"{_AT}challenge", "method": "POST", "nonce": b64u(nonce)})
        reply = _good(self._http.call(where, first))
        about = reply.get("node-message")
        keeper = admission.check(reply.get("evidence"), about, nonce=nonce, address=who, policy=policy, now=ctx.now())
        admission.check_settings(
            self._node.setting("green-zone-required-config"), about if isinstance(about, Message) else Message(), own
        )
        theirs, zone, address = _raw(reply, "nonce", _NONCE), reply.text("zone"), self._keys.address
        kem, echo = X25519PrivateKey.generate(), secrets.token_bytes(32)
        secret = keys.seal(echo, keeper.member.kem, _context(zone, theirs, address))
        evidence = self._show(kem, theirs, own, policy)
        asked: dict[str, Any] = {
            "path": f"{_AT}join",
            "method": "POST",
            "type": _JOIN,
            "zone": zone,
            "nonce": b64u(theirs),
        }
        asked |= {"evidence": evidence.message(), "node-message": own, "secret": b64u(secret)}
        answer = _good(self._http.call(where, self._keys.sign(Message(asked))))
        entry = self.zone.joined(who, where, answer.get("entry"), _sealed(answer, "sealed"), kem, echo)
        every = float(as_text(self._node.setting("green-zone-refresh", 60.0)))
        if every:
            self._timers.every(f"{_AT}refresh", max(every, 1.0), task=_TASK, owner=self._keys.address)
        ctx.log("green-zone-joined", keeper=who, policy=keeper.policy, epoch=entry.epoch)
        body = "Node joined green zone successfully."
        return Result("ok", Message({"status": 200, "body": body, "zone": entry.zone, "epoch": entry.epoch}))

    def _refreshed(self) -> Result:
        held = self.zone.held
        if held is None or held.kem is None or not held.peer:
            self._timers.stop(_TASK)  # until it joins again
            raise ConfigError("this node must join the green zone", hint="Its keys are not kept over a restart.")
        for _ in range(_BATCHES):
            nonce = secrets.token_bytes(_NONCE)
            known = self.zone.held.entry.epoch if self.zone.held is not None else 0
            asked: dict[str, Any] = {"path": f"{_AT}epoch", "method": "POST", "type": _RENEW}
            asked |= {"zone": held.entry.zone, "after": str(known), "nonce": b64u(nonce)}
            reply = _good(self._http.call(held.peer, self._keys.sign(Message(asked))))
            sealed = _sealed(reply, "sealed") if "sealed" in reply else None
            entry = self.zone.advanced(_listed(reply, "entries"), sealed, nonce)
            if sealed is not None:
                return Result("ok", Message({"status": 200, "body": "Up to date.", "epoch": entry.epoch}))
        raise UpstreamError("the keeper has more epochs than it should", hint="Join again.")

    # -- small things --------------------------------------------------------------------------

    def _ordered(self, request: Message, what: str) -> None:
        """Use an order of the operator up: each signature is good once.

        Raises:
            Forbidden: it is none, or was carried out before.
        """
        order = request.private.get("order")
        if not isinstance(order, Message) or not self._node.is_operator(request):
            raise Forbidden(f"only the operator may order '{what}'", hint="Sign the request and its path.")
        operator = as_text(self._node.setting("operator", b""))
        own = [name for name, one in order.commitments.items() if commitments.committer_of(one) == operator]
        names = {f"{_USED}{name}": b64u(bytes(32)) for name in own}
        with self._orders:
            if any(self._store.named(name) is not None for name in names):
                raise Forbidden("this order was carried out before", hint="Sign it again to repeat it.")
            self._store.link_all(names)

    def _given(self, request: Message, name: str, default: str = "") -> str:
        """Return a parameter of an order: a key that the operator itself signed, never one that others added."""
        order = request.private.get("order")
        if not isinstance(order, Message) or name not in order:
            return default
        operator = as_text(self._node.setting("operator", b""))
        for one in order.commitments.values():
            if commitments.committer_of(one) == operator and {"path", name} <= set(committed_list(one)):
                return order.text(name)
        raise Forbidden(f"the operator did not sign '{name}'")

    def _flag(self, request: Message, name: str) -> bool:
        return self._given(request, name, "false") == "true"

    def _peer(self, request: Message) -> tuple[str, str]:
        where = self._given(request, "peer-location") or as_text(self._node.setting("green-zone-peer-location", b""))
        who = self._given(request, "peer-id") or as_text(self._node.setting("green-zone-peer-id", b""))
        if not where or not who:
            raise ParameterError(
                "join: 'peer-location' and 'peer-id' say whose zone",
                name="peer-location",
                hint="Set them under [green-zone], or send them.",
            )
        return where, who

    def _policy(self) -> Policy:
        trusted = self._node.setting("snp-trusted", ())
        listed = [one for one in trusted if isinstance(one, Message)] if isinstance(trusted, tuple) else []
        return admission.policy_of(self._node.setting("green-zone-policy"), listed)

    def _show(self, kem: X25519PrivateKey, nonce: bytes, about: Message, policy: Policy) -> Evidence:
        return admission.show(self._attester, kem, nonce, about, gpus=policy.nvidia.min_count > 0)

    def _rotation(self) -> float:
        return float(as_text(self._node.setting("green-zone-rotation", 86400.0)))

    def _about(self) -> dict[str, Any]:
        held = self.zone.held
        if held is None:
            return {"zone": "none"}
        ready = held.entry.epoch in held.keys
        role = "keeper" if self.zone.keeps else "member"
        told = {"zone": held.entry.zone, "epoch": held.entry.epoch, "keeper": held.keeper, "role": role}
        return {**told, "hashpath": held.entry.after, "has-key": ready}


def _answered(work: Any) -> Result:
    """Return what work gives; a refusal of evidence with its code, as the reference has errors: 400."""
    try:
        found = work()
    except AttestationError as error:
        made = Message(
            {"status": _STATUS.get(error.code.partition("/")[0], 400), "code": error.code, "body": error.message}
        )
        return Result("error", made)
    return found if isinstance(found, Result) else Result("ok", found)


def _spoken(request: Message, kind: bytes) -> tuple[Message, str]:
    """Return what a node said and who it is: keys that its signature covers, path and type among them.

    Raises:
        Forbidden: nobody signed that, of their own will.
    """
    order = request.private.get("order")
    order = order if isinstance(order, Message) else Message()
    for one in order.commitments.values():
        address, names = commitments.committer_of(one), set(committed_list(one))
        if address is None or not commitments.is_own_word(one) or not {"path", "type"} <= names:
            continue
        said = Message.make({name: item for name, item in order.raw_items().items() if name in names})
        if said.get("type") == kind:
            return said, address
    raise Forbidden("the request must be signed by the node that asks, with its path and type")


def _good(reply: Message) -> Message:
    """Return a peer's reply; raise its refusal, or UpstreamError."""
    if reply.get("status") == 200:
        return reply
    text = reply.text("body", "") if isinstance(reply.get("body"), bytes) else ""
    code = reply.text("code", "") if isinstance(reply.get("code"), bytes) else ""
    raise UpstreamError(f"the peer refused: {(text or code or 'without a word')[:300]}")


def _context(zone: str, nonce: bytes, address: str) -> bytes:
    return keys.SECRET + zone.encode() + nonce + address.encode()


def _raw(item: Message, name: str, size: int) -> bytes:
    """Return what base64url stands for, of one size."""
    found = item.get(name)
    try:
        raw = b64u_decode(found) if isinstance(found, bytes) and len(found) <= 2 * size else b""
    except CodecError:
        raw = b""
    if len(raw) != size or b64u(raw).encode() != found:
        raise refusal("evidence/malformed", f"'{name}' must be {size} bytes as base64url")
    return raw


def _sealed(item: Message, name: str) -> bytes:
    found = item.get(name)
    try:
        return b64u_decode(found) if isinstance(found, bytes) and len(found) <= _SEALED else b""
    except CodecError:
        raise refusal("evidence/malformed", f"'{name}' is no base64url") from None


def _number(item: Message, name: str) -> int:
    text = item.text(name)
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ParameterError(f"'{name}' must be a number", name=name)
    return int(text)


def _listed(item: Message, name: str) -> list[Value]:
    found = item.get(name, ())
    if isinstance(found, Message):
        found = tuple(found[one] for one in number_keys(found))
    return list(found) if isinstance(found, tuple) else []
