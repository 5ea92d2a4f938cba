"""The composition root: builds the parts of a node, and answers requests with them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperpy import attestation, commitments, path, reply, results
from hyperpy.accounts import Accounts
from hyperpy.actors import ActorSystem
from hyperpy.attestation import Attestation
from hyperpy.attestation_code import node_digest
from hyperpy.attester import Attester
from hyperpy.audit.service import Audits
from hyperpy.cache import Batch, Cache
from hyperpy.config import Config
from hyperpy.context import Chain, Frame, Order, Services, device_error, is_commit, ok
from hyperpy.encoding import sha256
from hyperpy.errors import ConfigError, DeviceTimeout, Forbidden, HyperpyError, StoreError
from hyperpy.housekeeping import Housekeeping
from hyperpy.http.client import PeerClient
from hyperpy.http.form import JSON, is_loopback
from hyperpy.http.wire import ANS104, Ingress, refusal, without_body_type
from hyperpy.inference.serving import Models
from hyperpy.jobs import Jobs, Workers
from hyperpy.keys import RsaKey
from hyperpy.message import Message, Value
from hyperpy.metrics import Metrics
from hyperpy.privacy import reachable
from hyperpy.recorder import Recorder
from hyperpy.registry import Registry
from hyperpy.resolver import Resolver
from hyperpy.sdk import DeviceSpec, Result, hook_of
from hyperpy.settings import Settings, operator_address
from hyperpy.slots import Slots
from hyperpy.storage import HeldKeys, Storage
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore
from hyperpy.timers import Timers
from hyperpy.trail import Trail
from hyperpy.watchdog import Interrupted, Watchdog

_AFTER_S = 5.0
_AFTER_STEPS = 1000
"""What response hooks have at least: seconds, and steps."""
_PROMPT = ("message@1.0", "meta@1.0")
"""Devices of requests that the event loop answers."""


class Node:
    """An AO-Core node without sockets: give it messages, it answers with messages.

    Args:
        config: all settings.
        key: the wallet the node signs with.
        schedulers: more wallets, for processes that name their addresses as schedulers or authorities.
        store: where messages, results and the trail are kept; the node closes it.
        operator: address that may change settings; its key is never loaded here.
        devices: files or classes beside the bundled and installed ones.
        attester: what makes evidence of the machine; None looks for its hardware.
    """

    def __init__(
        self,
        config: Config,
        *,
        key: RsaKey,
        store: Store,
        operator: str,
        devices: Sequence[str | Path | type] = (),
        schedulers: Sequence[RsaKey] = (),
        attester: Attester | None = None,
    ) -> None:
        self.config = config
        self.address = key.address
        self.store = store
        self.cache = Cache(store)
        self.housekeeping = Housekeeping(store, config)
        self.trail = Trail(store, first=not config.trail.public)
        self.metrics = Metrics()
        self.watchdog = Watchdog()
        actors = config.actors
        self.actors = ActorSystem(
            mailbox=actors.mailbox,
            max_actors=actors.most,
            idle_s=actors.idle,
            start_s=actors.start,
            restarts=actors.restarts,
            period_s=actors.period,
        )
        self._key = key
        self._closed = threading.Event()
        limits = config.limits
        self._limits = path.Limits(size=limits.path, parts=limits.parts, depth=limits.nesting, keys=10 * limits.keys)
        self.registry = Registry(devices, override=config.devices.override, start=self._start_device)
        held = {one.address: one for one in schedulers if one.address != key.address}
        self.settings = Settings(
            config, store, address=key.address, operator=operator, devices=self.registry, held=tuple(held)
        )
        self.peers = PeerClient(allowed=self.settings.peers)
        services = Services(fetch=self.peers.call, sign=self.sign, config=self.settings)
        self.resolver = Resolver(
            self.registry,
            self.cache,
            Recorder(self.cache, self.trail),
            self.actors,
            services=services,
            watchdog=self.watchdog,
            trail=self.trail,
        )
        self.resolver.observers.append(self.metrics.step)
        self.metrics.gauge(
            "hyperpy_device_threads_stopped", "Device calls stopped past their deadline.", lambda: self.watchdog.stopped
        )
        secret = sha256(b"timers " + key.to_jwk()["d"].encode())
        self.timers = Timers(self._run_path, limit=config.cron.tasks, store=store, secret=secret)
        slots = Slots(store, self.cache, self.actors)
        self.attestation = Attestation(
            config, key, self.settings.info, attester, lambda: node_digest(config, self.registry.added())
        )
        self.attestation.run = self._run_sealed
        self.models = Models(config.inference)
        self._lend: dict[str, Any] = {
            "node": self.settings,
            "timers": self.timers,
            "keys": HeldKeys(key.address, self.sign, held),
            "http": self.peers,
            "store": Storage(self.cache, store),
            "metrics": self.metrics,
            "jobs": Jobs(self.resolver, store, self._own_chain),
            "workers": Workers(self.actors),
            "slots": slots,
            "audit": Audits(store, config, self.sign, devices, self.attestation),
            "attester": self.attestation,
            "models": self.models,
            "accounts": Accounts(self.registry, self.cache, self.trail, slots, public=config.trail.public),
        }
        if not config.devices.override:
            for name in _PROMPT:
                self.registry.lookup(name)  # so that the event loop need not wait for an import
        self.watchdog.start()
        sys.setswitchinterval(0.0005)

    def close(self) -> None:
        """Stop actors and timers, then close the store. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.timers.close()
        self.actors.stop()
        for instance in self.registry.instances():
            stop = hook_of(instance, "stop")
            if stop is not None:
                try:
                    stop()
                except Exception as error:
                    device_error(error, type(instance).__name__, "stop")
        self.watchdog.stop()
        for part in (self.attestation, self.housekeeping, self.peers, self.store):
            part.close()

    @property
    def evidence_kind(self) -> str:
        """What evidence this node makes: ``snp``, ``tdx``, ``software``; empty if none."""
        return self.attestation.kind

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- answering -------------------------------------------------------------------------

    def handle(self, ingress: Ingress, *, deadline: float | None = None) -> Message:
        """Answer one request; never raises.

        Everything acknowledged by the reply is committed to the store before this returns. Only what reads
        the node's info or a stored message is also answered while the store takes nothing: without a record.

        Args:
            ingress: the request as :func:`hyperpy.http.wire.read` made it.
            deadline: monotonic seconds; default now + ``[limits] deadline``.
        """
        try:
            made = self._answer(ingress, deadline)
        except HyperpyError as error:
            made = self._signed(reply.of_error(error), ingress)
        except Interrupted:
            made = self._signed(reply.of_error(DeviceTimeout("the request's deadline passed")))
        except Exception as error:
            made = self._signed(reply.of_error(device_error(error, "node", "handle")))
        status = made.get("status")
        self.metrics.request(status if isinstance(status, int) else 200)
        return made

    def is_prompt(self, peer: str) -> bool:
        """Say whether an unsigned request of that client would wait for nothing now.

        It would wait for a signature under the reply, for hooks, for a device that replaces a bundled
        one, and for a store that is being written to or is behind.
        """
        return (
            not self.config.devices.override
            and self.settings.setting("tee-attest") == b"asked"
            and not self.settings.flag("force-signed", True)
            and self.resolver.step_hook is None
            and not self.settings.setting("on")
            and (is_loopback(peer) or not self.settings.setting("rate-limit-requests", 1000))
            and bool(getattr(self.store, "prompt", False))
        )

    def _answer(self, ingress: Ingress, deadline: float | None) -> Message:
        request = ingress.message
        if self.settings.setting("initialized") is False and not results.is_info(request):
            raise ConfigError("Node must be initialized before use.", hint="POST to /~meta@1.0/info first.")
        batch = Batch()
        if request.commitments:
            request = reply.without_reply_signatures(request, self.settings.reply_signers())
        private = dict(ingress.private)
        if request.commitments:
            self.cache.put(request, batch)
            private["order"] = request
        request = request.with_private(**private)
        chain = self.chain(batch, deadline, ingress, request)
        request = reachable(request, lambda ref: self.resolver.read(ref, Frame(self.resolver, chain, 0, None)))
        ask = None
        try:
            asked = results.with_slots(path.parse(request, limits=self._limits))
            asked, request = self._ordered(asked, request, chain)
            ask, asked = attestation.asked(
                self.settings.setting("tee-attest"), request, asked, self.settings.is_operator
            )
            members, request = self._hooked_request(request, asked, chain, ingress)
            made = self._resolved(members, chain)
            if ingress.wants.codec == JSON:
                made = results.with_raw(made, members)
            made = self._carried_out(made, chain, ingress)
            made = without_body_type(self._hooked_response(request, made, chain), ingress.wants)
        except reply.Halted as halted:
            made = halted.reply
        except HyperpyError as error:
            made = reply.of_error(error)
        made = self._signed(self.attestation.attach(made, ask, chain), ingress, attested=ask is not None)
        made = reply.with_cookies(made, request)
        refused = True
        try:
            batch.commit(self.store)
            refused = False
        except StoreError:
            if not results.is_read(ingress.message):
                raise
        finally:
            self.housekeeping.tick(refused=refused)
        return made

    def _ordered(self, members: Sequence[Value], request: Message, chain: Chain) -> tuple[Sequence[Value], Message]:
        """Return path and request; where the operator orders a signature, only what the operator signed of both."""
        if chain.may_sign or not any(map(is_commit, members)):
            return members, request
        found = self.settings.signing_order(request)
        if found is None:
            return members, request
        request, use, undo = found
        members = results.with_slots(path.parse(request, limits=self._limits))
        chain.order = Order(tuple(filter(is_commit, members)), use, undo)
        return members, request

    def _carried_out(self, made: Message, chain: Chain, ingress: Ingress) -> Message:
        """Return a reply, or the error that costs it what was ordered; if just a signature was, the order is unused."""
        if chain.order is None or not chain.order.used:
            return made
        if "error" not in made.private:
            try:
                error = refusal(self._signed(without_body_type(made, ingress.wants), ingress), ingress.wants)
            except HyperpyError as failed:
                error = failed
            if error is None:
                return made
            made = reply.of_error(error)
        if not chain.begun and chain.batch is not None:
            chain.batch.clear()
            chain.order.undo()
        return made

    def _resolved(self, members: Sequence[Value], chain: Chain) -> Message:
        """Return the reply of a sequence, that of its error included."""
        try:
            return reply.of_result(self.resolver.top(members, chain))
        except HyperpyError as error:
            return reply.of_error(error)

    def reload(self, file: Path) -> tuple[str, ...]:
        """Load a device file again and let go of the actors of its devices; return their names."""
        names = self.registry.add_file(file)
        self.actors.retire(lambda actor: actor[0] in names)
        return names

    def chain(
        self,
        batch: Batch | None,
        deadline: float | None = None,
        ingress: Ingress | None = None,
        request: Message | None = None,
    ) -> Chain:
        """Return a fresh chain with this node's limits.

        Args:
            ingress: the request it answers; None in this process's own affairs.
            request: the message of ``ingress``, with its private part.
        """
        limits = self.config.limits
        may_sign = self.settings.flag("sign-on-request")
        readers, origin, sink = None, b"", None
        if ingress is not None:
            sink, readers = ingress.sink, self.settings.readers(request)
            if batch is not None:
                origin = self.trail.put_origin(ingress.origin, batch)
        return Chain(
            deadline=deadline if deadline is not None else time.monotonic() + limits.deadline,
            batch=batch,
            origin=origin,
            steps_left=limits.steps,
            max_depth=limits.recursion,
            may_sign=may_sign,
            readers=readers,
            sink=sink,
            lookup=sink is None,  # what is kept has no pieces
        )

    def _own_chain(self, batch: Batch | None) -> Chain:
        """Return a chain for what nobody's request stands behind: a stranger's rights, and no signature."""
        chain = self.chain(batch)
        chain.may_sign = False
        chain.readers = self.settings.readers(None)
        return chain

    def resolve(self, target: Any, request: Any = None, *, record: bool = True) -> Value:
        """Resolve in this process, on the caller's own authority; return the plain result.

        Raises:
            HyperpyError: whatever the resolution raised.
        """
        batch = Batch() if record else None
        chain = self.chain(batch)
        chain.order = Order(None)
        try:
            if request is None:
                members: Sequence[Value] = path.parse(target)
                return ok(self.resolver.top(members, chain))
            return ok(self.resolver.resolve(target, request, Frame(self.resolver, chain, 0, None)))
        finally:
            if batch is not None:
                batch.commit(self.store)

    def _run_sealed(self, request: Message, deadline: float, base: Message | None, sink: Any) -> Result:
        """Resolve what came sealed: a stranger's, by deterministic keys alone; nothing of it is kept or logged."""
        chain = self._own_chain(None)
        chain.deadline, chain.strict, chain.sealed, chain.sink = deadline, True, True, sink
        members = (base, request) if base is not None else path.parse(request, limits=self._limits)
        return self.resolver.top(members, chain)

    def sign(self, message: Message, **options: Any) -> Message:
        """Return the message with a commitment by this node's key."""
        return commitments.commit(message, self._key, **options)

    def _signed(self, made: Message, ingress: Ingress | None = None, *, attested: bool = False) -> Message:
        """Return a reply signed by this node, as an ANS-104 item where the caller asked for one (ao-core 10.3).

        One with an attestation is signed whatever the settings say.
        """
        if not (attested or self.settings.flag("force-signed", True)) or commitments.committers(made):
            return made
        if ingress is not None and ingress.wants.codec_for(made) == ANS104:
            with suppress(HyperpyError):  # such as a message that fits no item
                return commitments.commit(made, self._key, device=ANS104)
        return commitments.commit(made, self._key, tag=made.hashpath)

    def _run_path(self, text: str) -> None:
        """Resolve a path for a timer.

        Anybody may set a timer, so it signs for nobody but where ``[http] sign-on-request`` lets anybody.
        """
        batch = Batch()
        chain = self._own_chain(batch)
        chain.may_sign = self.settings.flag("sign-on-request")
        try:
            self.resolver.top(path.parse(text, limits=self._limits), chain)
        finally:
            batch.commit(self.store)

    # -- hooks (ao-core 10.6) ----------------------------------------------------------------

    def _hooked_request(
        self, request: Message, members: Sequence[Value], chain: Chain, ingress: Ingress
    ) -> tuple[Sequence[Value], Message]:
        """Return the sequence to resolve, and the request that the response hooks will see.

        The private value ``call`` of that request, which no client can make, is the same in both hooks; in
        the response hooks ``effects`` says whether a step of it may have changed something.
        """
        handlers = self.settings.request_hooks(ingress)
        if not handlers:
            return members, request
        event = Message.make({"request": request.with_private(call=object()), "body": tuple(members)})
        outcome = self._hook("request", handlers, event, chain)
        body, heard = outcome.get("body"), outcome.get("request")
        heard = heard if isinstance(heard, Message) else request
        lines = outcome.private.get("set-cookie")
        if lines:
            heard = heard.with_private(**{"set-cookie": lines})
        return body if isinstance(body, tuple) else members, heard

    def _hooked_response(self, request: Message, made: Message, chain: Chain) -> Message:
        handlers = self.settings.hooks("response")
        if not handlers:
            return made
        made, lost = self._settled(made, chain)
        request = request.with_private(effects=chain.effects and not lost)
        outcome = self._hook("response", handlers, Message.make({"request": request, "body": made}), chain)
        body = outcome.get("body")
        return reply.of_result(Result("ok", body)) if body is not None else made

    def _settled(self, made: Message, chain: Chain) -> tuple[Message, bool]:
        """Return what the caller will really get, before the response hooks see it: a payment depends on it.

        An answer that comes too late is none, and one that cannot be kept is an error, and lost.
        """
        if time.monotonic() > chain.deadline:
            made = reply.of_error(DeviceTimeout("the request's deadline passed"))
        try:
            if chain.batch is not None:
                chain.batch.commit(self.store)
        except StoreError as error:
            return reply.of_error(error), True
        return made, False

    def _hook(self, event: str, handlers: Sequence[Message], request: Message, chain: Chain) -> Message:
        after = event == "response"  # runs whatever the request has used up
        quiet = Chain(
            deadline=max(chain.deadline, time.monotonic() + _AFTER_S) if after else chain.deadline,
            steps_left=max(chain.steps_left, _AFTER_STEPS) if after else chain.steps_left,
            max_depth=chain.max_depth,
            may_sign=chain.may_sign,
            readers=chain.readers,
            hashpaths=False,
        )
        for handler in handlers:
            call = request | {
                "path": handler.get("path", event.encode()),
                "method": handler.get("method", b"GET"),
            }
            result = self.resolver.resolve(handler, call, Frame(self.resolver, quiet, 0, None))
            if result.status != "ok":
                raise reply.Halted(reply.of_result(result))
            if isinstance(result.value, Message) and handler.get("hook") is None:
                request = result.value
        return request

    # -- capabilities ------------------------------------------------------------------------

    def _start_device(self, spec: DeviceSpec, instance: Any, bundled: bool) -> None:
        allowed = spec.needs if bundled else self.config.devices.grant.get(spec.name, ())
        missing = [need for need in spec.needs if need not in allowed]
        if missing:
            raise Forbidden(
                f"device '{spec.name}' asks for {', '.join(missing)}, which the operator has not granted",
                hint=f'Set [devices.grant] "{spec.name}" = {sorted(spec.needs)} if you trust it.',
            )
        start = hook_of(instance, "start")
        if start is not None:
            start(**{need: self._lend[need] for need in spec.needs})


def open_node(config: Config, *, readonly: bool = False) -> Node:
    """Return the node of a configuration: its wallet, operator and store made if absent.

    Raises:
        ConfigError: a file is unreadable, or another process serves the same store.
    """
    wallet = Path(config.meta.wallet)
    key = RsaKey.load(wallet) if wallet.exists() else RsaKey.create(wallet)
    more = [RsaKey.load(file) for file in config.scheduler.wallets]
    operator = config.meta.operator or operator_address(wallet.with_name("operator.json"))
    store = LmdbStore(Path(config.store.dir), durable=config.store.durable, quota=config.store.quota, readonly=readonly)
    try:
        return Node(config, key=key, store=store, operator=operator, devices=config.devices.files, schedulers=more)
    except BaseException:
        store.close()
        raise
