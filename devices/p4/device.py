"""The keys of p4@1.0, a hook device for the events ``request`` and ``response``.

Before a request runs, its price is set aside from the signer's balance; after it ran, the price is
charged, once; if the call failed, nothing is, unless a part of it took effect. What is set aside lives in
memory alone: a crash, or a reply that never leaves, gives it back. One actor per ledger decides who has
enough. Each signature pays once: before it is charged for, that is on the disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hyperpy import device, key, path
from hyperpy.capabilities import Keys, NodeControl, Storage, Workers
from hyperpy.commitments import committers, content_id
from hyperpy.errors import DeviceError, Forbidden, HyperpyError, KeyNotFound, NotFound, ParameterError, StoreError
from hyperpy.message import As, Atom, Message, Value, as_text
from hyperpy.sdk import Context, Result

from .words import holds_path, names_device, paying, signatures

_R = TypeVar("_R")
_MONEY = frozenset({"balance", "topup"})
_FREE = {"p4@1.0": _MONEY, "simple-pay@1.0": _MONEY, "meta@1.0": frozenset({"info", "build"})}
"""Keys that cost nothing unless ``p4-non-chargable-routes`` says otherwise; in meta@1.0's answers, one key too."""
_WORKS = frozenset({"set", "remove", "id", "commit", "committed", "verify"})
"""Keys that do more than look into a message."""
_NEVER = "Node will not service this request under any circumstances."
_PAID = "p4@1.0/paid/"
"""Names of signatures that paid: each stands for whose it was."""
_TWICE = "This signature has paid before, or is about to: sign the request again, with new salt or some new key."
_UNBOUND = "Insufficient funds: the signature covers no path, so it does not pay for this. Sign path and method too."
_GRACE = 10.0
"""Seconds past the request's deadline for which money stays set aside."""


class _Holds:
    """What is set aside from the accounts of one ledger. Used by one caller at a time."""

    def __init__(self) -> None:
        self._held: dict[object, tuple[str, int, float, frozenset[str]]] = {}
        self._last = 0

    def of(self, account: str) -> int:
        """Return what is set aside from an account."""
        now = time.monotonic()
        for call in [call for call, held in self._held.items() if held[2] < now]:
            del self._held[call]
        return sum(held[1] for held in self._held.values() if held[0] == account)

    def about_to_pay(self, given: frozenset[str]) -> bool:
        """Say whether money is set aside by one of the signatures."""
        return any(given & held[3] for held in self._held.values())

    def put(self, call: object, account: str, amount: int, until: float, given: frozenset[str]) -> None:
        self._held[call] = (account, amount, until, given)

    def nonce(self, now: float) -> int:
        """Return a number greater than all before, restarts included: microseconds since 1970 or so."""
        self._last = max(self._last + 1, int(now * 1e6))
        return self._last

    def drop(self, call: object) -> None:
        self._held.pop(call, None)


@device("p4@1.0", needs=("node", "keys", "store", "workers"), excludes=("set", "keys"))
class P4:
    """Charges for requests, with the ``pricing-device`` and the ``ledger-device`` that its hook names.

    ``[hooks.on]`` names it twice, under ``request`` and under ``response``. Without one of the two devices
    requests pass free. Settings: ``p4-recipient`` gets what is paid (default the operator);
    ``p4-non-chargable-routes`` lists routes (``template``: a regular expression that the path begins with)
    that cost nothing, by default balances and meta@1.0. With ``ledger-path`` the ledger is the process at
    that path: its state's ``balance`` maps addresses to numbers, and it is sent signed ``charge`` messages, each
    with a greater ``nonce``. See docs/payments.md.
    """

    def start(self, node: NodeControl, keys: Keys, store: Storage, workers: Workers) -> None:
        """Take the settings, the node's key, the store and the actors."""
        self._node, self._keys, self._store, self._workers = node, keys, store, workers

    @key(deterministic=False)
    def request(self, base: Message, request: Message, ctx: Context) -> Message | Result:
        """Let a request pass that can be paid, and set its price aside; answer any other."""
        heard, call = _heard(request)
        if not _charges(base) or self._is_free(heard):
            return request
        source = _with_payers(heard)
        price = self._price(base, request | {"request": source}, ("estimate",), ctx)
        if price == 0:
            return request
        if price is None:
            return Result("error", Message({"status": 400, "body": _NEVER}))
        signers = committers(source)
        if len(signers) > 1:
            return Result("error", Message({"status": 400, "body": "Multiple signers in charge."}))
        account = signers[0] if signers else "unknown"
        until, given = ctx.deadline + _GRACE, signatures(source)
        words = _UNBOUND if not signers and committers(heard) else "Insufficient funds"

        def reserve(holds: _Holds) -> Result | None:
            balance = self._balance(base, source, account, ctx)
            left = None if balance is None else balance - holds.of(account)
            if left is not None and left < price:
                short = {"status": 402, "body": words, "price": price, "balance": left}
                return Result("error", Message(short))
            if holds.about_to_pay(given) or any(map(self._store.named, _marks(given))):
                return Result("error", Message({"status": 409, "body": _TWICE}))
            holds.put(call, account, price, until, given)
            return None

        return self._at_ledger(base, reserve, ctx) or request

    @key(deterministic=False)
    def response(self, base: Message, request: Message, ctx: Context) -> Message | Result:
        """Charge for a request that was answered; one that failed costs nothing if nothing in it took effect."""
        source, call = _heard(request)
        if not _charges(base) or self._is_free(source):
            return request
        failed = _failed(request.get("body")) and source.private.get("effects") is not True
        source = _with_payers(source)
        asked = request | {"request": source}
        price = 0 if failed else self._price(base, asked, ("price", "estimate"), ctx) or 0

        ordered = "ledger-path" in base  # then the order of the nonces is that of the schedule
        early = None if ordered or not price else self._order(source, price, int(ctx.now() * 1e6))

        def settle(holds: _Holds) -> Result | None:
            holds.drop(call)
            if not price:
                return None
            if source.commitments:
                self._store.link_all(dict.fromkeys(_marks(signatures(source)), committers(source)[0]))
            return self._charge(base, early or self._order(source, price, holds.nonce(ctx.now())), ctx)

        return self._at_ledger(base, settle, ctx) or request

    @key(deterministic=False, reads=True)
    def balance(self, request: Message, ctx: Context) -> Value | Result:
        """Return the caller's balance, or that of ``target``, at the ledger of the request hook."""
        hook = self._hook()
        if hook is None:
            return Result("error", b"No request hook found.")
        signers = committers(request)
        account = signers[0] if signers else request.text("target", "")
        found = self._balance(hook, request, account, ctx) if account else 0
        return b"infinity" if found is None else found

    @key(deterministic=False)
    def topup(self, request: Message, ctx: Context) -> Value | Result:
        """Add to a balance at the ledger of the request hook, which says who may."""
        hook = self._hook()
        if hook is None or "ledger-device" not in hook:
            return Result("error", b"No request hook found.")
        done = ctx.step(_as(hook, "ledger-device"), request | {"path": "topup"})
        return done.value if done.status == "ok" else done

    def _hook(self) -> Message | None:
        found = [one for one in self._node.hooks("request") if one.get("device") == b"p4@1.0"]
        return found[0] if found else None

    # -- free or not -----------------------------------------------------------------------

    def _is_free(self, source: Message) -> bool:
        """Say whether the path is one that costs nothing. A sub-path or a device makes it more than its path."""
        members = path.parse(source)
        if any(holds_path(one) or names_device(one) for one in members):
            return False
        listed = self._node.setting("p4-non-chargable-routes")
        target = source.text("path", "/")[:8192]
        if listed is None:
            return "(" not in target and _costs_nothing(members)
        routes = listed if isinstance(listed, tuple) else (listed,)
        return any(re.match(text, target) for text in map(_template, routes) if text)

    # -- pricing and ledger ----------------------------------------------------------------

    def _price(self, base: Message, request: Message, names: tuple[str, ...], ctx: Context) -> int | None:
        """Return the price, None for what is not sold; ask for the first of ``names`` that answers."""
        asked: dict[str, Value] = {"request": request["request"], "body": request.get("body", ())}
        for name in names:
            try:
                found = ctx.step(_as(base, "pricing-device"), Message.make({**asked, "path": name.encode()}))
            except KeyNotFound:
                continue
            if found.status == "ok":
                return _amount(found.value)
        raise DeviceError("Could not estimate price of request.")

    def _balance(self, base: Message, source: Message, account: str, ctx: Context) -> int | None:
        """Return the balance of an account; None if it has no end."""
        try:
            if "ledger-path" in base:
                found = _process_balance(base.text("ledger-path"), account, ctx)
            else:
                call = Message.make({"path": b"balance", "target": account.encode(), "request": source})
                done = ctx.step(_as(base, "ledger-device"), call)
                if done.status != "ok":
                    raise DeviceError(f"the ledger answered '{done.status}'")
                found = done.value
            return None if found is True else _amount(found)
        except StoreError:
            raise
        except HyperpyError as error:
            ctx.log("ledger-failed", error=error.message)
            raise DeviceError("Error checking ledger balance.") from None

    def _order(self, source: Message, price: int, nonce: int) -> Message:
        """Return the signed order to charge the signer of a request.

        It may become public, in the schedule of a process: by its ``nonce`` the ledger knows it again, and by
        its ``type`` that no process had it sent: push@1.0 signs nothing but the type ``Message``.
        """
        signers = committers(source)
        named = self._node.setting("p4-recipient") or self._node.setting("operator", b"")
        made = {
            "type": "Payment-Order",
            "path": "charge",
            "action": "charge",
            "quantity": price,
            "nonce": nonce,
            "account": signers[0] if signers else "unknown",
            "recipient": as_text(named),
            "request": content_id(source),
        }
        return self._keys.sign(Message(made))

    def _charge(self, base: Message, order: Message, ctx: Context) -> Result | None:
        """Have the ledger carry out an order; return its answer if that is no."""
        if "ledger-path" in base:
            return _process_charge(base.text("ledger-path"), order, ctx)
        done = ctx.step(_as(base, "ledger-device"), order.with_private(ledger=object()))
        return None if done.status == "ok" else done

    def _at_ledger(self, base: Message, work: Callable[[_Holds], _R], ctx: Context) -> _R:
        name = as_text(base.get("ledger-path", base.get("ledger-device", b"")))
        return self._workers.call("p4", name, _Holds, work, deadline=ctx.deadline)


def _heard(request: Message) -> tuple[Message, object]:
    """Return the request that a hook's event is about, and what stands for this one call.

    Raises:
        Forbidden: this is no hook of the node: whoever asks names requests of others.
    """
    source = request.get("request")
    call = source.private.get("call") if isinstance(source, Message) else None
    if not isinstance(source, Message) or type(call) is not object:
        raise Forbidden("p4@1.0 charges as a hook only", hint="The operator names it in [hooks.on].")
    return source, call


def _with_payers(source: Message) -> Message:
    """Return a request with only those signatures that pay for it."""
    return source.with_commitments(paying(source)) if source.commitments else source


def _marks(given: Iterable[str]) -> list[str]:
    return [_PAID + name for name in sorted(given)]


def _charges(base: Message) -> bool:
    return "pricing-device" in base and ("ledger-device" in base or "ledger-path" in base)


def _as(base: Message, name: str) -> Message:
    return base | {"device": base[name]}


def _amount(item: Value) -> int | None:
    """Return a price or balance; None for ``infinity``."""
    if isinstance(item, (bytes, Atom)) and as_text(item) == "infinity":
        return None
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    text = as_text(item, "amount")
    if not (text.isascii() and text.isdigit() and len(text) <= 64):
        raise ParameterError("an amount must be a whole number", name="amount")
    return int(text)


def _failed(body: Value | None) -> bool:
    status = body.get("status") if isinstance(body, Message) else None
    return isinstance(status, int) and status >= 400


def _template(route: Value) -> str | None:
    found = route.get("template") if isinstance(route, Message) else route
    return as_text(found) if isinstance(found, bytes) else None


def _costs_nothing(members: Sequence[Value]) -> bool:
    """Say whether a path is a free device, one of its keys and, for meta@1.0, a key to look up in what it answers."""
    first = members[0]
    if not isinstance(first, As) or not isinstance(first.device, str):
        return False
    names = [one.get("path") if isinstance(one, Message) else None for one in members[1:]]
    asked = [as_text(name).lower() for name in names if isinstance(name, bytes)]
    if len(asked) != len(names) or not 1 <= len(names) <= (2 if first.device == "meta@1.0" else 1):
        return False
    return asked[0] in _FREE.get(first.device, ()) and not _WORKS.intersection(asked)


# -- a process as ledger -----------------------------------------------------------------------


def _process_balance(ledger: str, account: str, ctx: Context) -> Value:
    """Return an account's number in the ledger's state; the account is a caller's word, and no part of a path."""
    try:
        accounts = ctx.resolve(f"{ledger}/now/balance")
    except NotFound:
        return 0
    return accounts.get(account, 0) if isinstance(accounts, Message) else 0


def _process_charge(ledger: str, order: Message, ctx: Context) -> Result | None:
    """Schedule the charge on the ledger process and compute it; return the ledger's own error if it has one."""
    done = ctx.step(ctx.resolve(ledger), Message({"path": "schedule", "method": "POST", "body": order}))
    if done.status != "ok" or not isinstance(done.value, Message):
        return done
    try:
        error = ctx.resolve(f"{ledger}/compute={done.value.text('slot')}/results/error")
    except NotFound:
        return None
    return Result("error", Message({"status": 402, "body": _said(error)}))


def _said(error: Value) -> str:
    """Return the text of a ledger's error, which may be a message with the text as its ``body``."""
    if isinstance(error, Message):
        error = next((error[name] for name in ("body", "message", "reason") if isinstance(error.get(name), bytes)), b"")
    return as_text(error)[:1000] if isinstance(error, (bytes, Atom)) and error else "the ledger refused the charge"
