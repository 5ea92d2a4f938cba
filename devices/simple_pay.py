"""simple-pay@1.0: a price per message, and a ledger of this node's own (devices part 10, payments).

Balances are durable names in the node's store, changed by one actor: each change is checked first,
then written, then answered, so neither two callers at once nor a crash lose or invent money.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hyperpy import device, key, path
from hyperpy.capabilities import NodeControl, Storage, Workers
from hyperpy.commitments import committer_of, committers
from hyperpy.errors import Forbidden, MessageError, NotFound, ParameterError
from hyperpy.message import As, Message, Resolve, Value, as_text, committed_list
from hyperpy.sdk import Context, Result

_R = TypeVar("_R")
_NAMES = "simple-pay@1.0/balance/"
_ORDERS = "simple-pay@1.0/order/"
_MOST = 10**30
"""The largest amount; a balance is written with at most so many digits."""
_INNER = 4
"""Paths inside paths that are counted."""


class _Ledger:
    """The balances. Used by one caller at a time."""

    def __init__(self, store: Storage, node: NodeControl) -> None:
        self._store, self._node = store, node

    def balance(self, account: str) -> int:
        kept = self._store.named(_NAMES + account)
        if kept is not None:
            return int(kept)
        opening = self._node.setting("simple-pay-ledger")
        found = opening.get(account, 0) if isinstance(opening, Message) else 0
        return _amount(found, "simple-pay-ledger")

    def charge(self, account: str, quantity: int) -> Result:
        before = self.balance(account)
        if before < quantity:
            text = (
                f"Insufficient funds: the balance is {before}, the price {quantity}; {quantity - before} are missing."
            )
            return Result("error", Message({"status": 402, "body": text, "balance": before, "price": quantity}))
        self._store.link(_NAMES + account, str(before - quantity))
        return Result("ok", True)

    def topup(self, account: str, amount: int, orders: Sequence[str]) -> int:
        marks = [_ORDERS + name for name in orders]
        if any(self._store.named(mark) is not None for mark in marks):
            raise Forbidden("this order was carried out before", hint="Sign it again to repeat it.")
        after = self.balance(account) + amount
        if not 0 <= after <= _MOST:
            raise ParameterError(f"topup: the balance would be {after}", name="amount")
        self._store.link_all({**dict.fromkeys(marks, account), _NAMES + account: str(after)})
        return after


@device("simple-pay@1.0", needs=("node", "store", "workers"), excludes=("set", "keys"))
class SimplePay:
    """Pricing and ledger device for p4@1.0.

    Settings: ``simple-pay-price`` is the price of one message of a request (default 1);
    ``simple-pay-ledger`` maps addresses to opening balances; ``router-opts/offered`` lists routes with
    prices of their own.
    """

    def start(self, node: NodeControl, store: Storage, workers: Workers) -> None:
        """Take the settings, the store and the actors."""
        self._node, self._store, self._workers = node, store, workers

    @key(deterministic=False, reads=True)
    def estimate(self, request: Message, ctx: Context) -> int:
        """Return what ``request`` will cost: nothing for the operator, a route's price, or one per message."""
        asked = _inner(request)
        if self._node.is_operator(asked):
            return 0
        offered = self._offered(asked, ctx)
        if offered is not None:
            return offered
        return _count(asked) * _amount(self._node.setting("simple-pay-price", 1), "simple-pay-price")

    @key(deterministic=False, reads=True)
    def price(self, request: Message, ctx: Context) -> int:
        """Return what ``request`` costs: what was estimated."""
        return self.estimate(request, ctx)

    @key(deterministic=False, reads=True)
    def balance(self, request: Message, ctx: Context) -> int:
        """Return the balance of the first signer of ``request``, else of the caller, else of ``target``."""
        asked = request.get("request")
        signers = committers(asked if isinstance(asked, Message) else request)
        account = signers[0] if signers else request.text("target", "")
        return self._at_ledger(lambda ledger: ledger.balance(_account(account)), ctx) if account else 0

    @key(deterministic=False)
    def charge(self, request: Message, ctx: Context) -> Result:
        """Take ``quantity`` from ``account``; for the node's own payment hook only."""
        if type(request.private.get("ledger")) is not object:
            raise Forbidden("only the node's payment hook charges", hint="Pay by signing your request.")
        named = request.get("account")
        accounts = list(named) if isinstance(named, tuple) else [named]
        if len(accounts) != 1:
            return Result("error", Message({"status": 400, "body": "Multiple signers in charge."}))
        if accounts[0] in (None, b"", b"unknown"):
            return Result("ok", False)
        account, quantity = _account(as_text(accounts[0])), _amount(request.get("quantity"), "quantity")
        return self._at_ledger(lambda ledger: ledger.charge(account, quantity), ctx)

    @key(deterministic=False)
    def topup(self, request: Message, amount: int, recipient: str, ctx: Context) -> int:
        """Add ``amount`` to the balance of ``recipient`` and return it; for the operator only, once an order.

        A negative amount takes back what is there; a balance never falls below nothing.
        """
        order = request.private.get("order")
        if not isinstance(order, Message) or not self._node.is_operator(request):
            raise Forbidden("Unauthorized", hint="Sign the request, its path too, with the operator's key.")
        mine = {name: one for name, one in order.commitments.items() if committer_of(one) == self._operator()}
        covered = {name for one in mine.values() for name in committed_list(one)}
        if any(name in order and name not in covered for name in ("amount", "recipient")):
            raise Forbidden("Unauthorized", hint="The operator's signature must cover 'amount' and 'recipient'.")
        if abs(amount) > _MOST:
            raise ParameterError("topup: 'amount' is too large", name="amount")
        return self._at_ledger(lambda ledger: ledger.topup(_account(recipient), amount, sorted(mine)), ctx)

    def _operator(self) -> str:
        return as_text(self._node.setting("operator", b""))

    def _at_ledger(self, work: Callable[[_Ledger], _R], ctx: Context) -> _R:
        return self._workers.call(
            "simple-pay", "ledger", lambda: _Ledger(self._store, self._node), work, deadline=ctx.deadline
        )

    def _offered(self, asked: Message, ctx: Context) -> int | None:
        """Return the price of the offered route that the request takes, or None."""
        options = self._node.setting("router-opts")
        offered = options.get("offered") if isinstance(options, Message) else None
        if not isinstance(offered, (tuple, Message)) or not len(offered):
            return None
        call = Message({"path": "match", "route-path": asked.text("path", "/")})
        try:
            found = ctx.step(As("router@1.0", Message({"routes": offered})), call)
        except NotFound:
            return None
        if found.status != "ok" or not isinstance(found.value, Message):
            return None
        return _amount(found.value.get("price", 0), "price")


def _inner(request: Message) -> Message:
    asked = request.get("request")
    if not isinstance(asked, Message):
        raise ParameterError("simple-pay: there is no 'request' to price", name="request")
    return asked


def _amount(item: Value | None, name: str) -> int:
    text = as_text(item, name) if item is not None else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 31) or int(text) > _MOST:
        raise ParameterError(f"'{name}' must be a whole number, not negative", name=name)
    return int(text)


def _account(name: str) -> str:
    if not 0 < len(name.encode("utf-8", "surrogateescape")) <= 128:
        raise ParameterError("an account is an address of at most 128 bytes", name="account")
    return name


def _count(asked: Message) -> int:
    """Return how many messages a request is: every part of every path that it will have resolved.

    A path in parentheses, or under ``+resolve``, counts for each part that holds it: a request's keys go to all parts
    of its path. So does a path that apply@1.0 will run.
    """
    return _parts(path.parse(asked), asked, 0, {})


def _parts(members: Sequence[Value], asked: Message, depth: int, known: dict[int, int]) -> int:
    total, applies = len(members), False
    for at, member in enumerate(members):
        for inner in _inside(member):
            if id(inner) not in known:  # as one object, it may stand in every part
                known[id(inner)] = _parts(inner.messages, asked, depth, known)
            total += known[id(inner)]
        if applies and depth < _INNER:
            total += _applied(member, members[:at], asked, depth)
        applies = applies or _device(member) == "apply@1.0"
    return total


def _inside(member: Value) -> Iterator[Resolve]:
    """Yield the sub-paths that a part stands for, or holds under its keys."""
    if isinstance(member, As):
        if isinstance(member.device, Resolve):
            yield member.device
        yield from _inside(member.message)
    elif isinstance(member, Resolve):
        yield member
    elif isinstance(member, Message):
        for item in member.raw_items().values():
            if isinstance(item, (As, Resolve)):
                yield from _inside(item)


def _applied(step: Value, before: Sequence[Value], asked: Message, depth: int) -> int:
    """Return how many messages the path is that apply@1.0 finds under the key of a step; 0 if none is seen here."""
    name = step.get("path") if isinstance(step, Message) else None
    if not isinstance(name, bytes):
        return 0
    key = as_text(name)
    parts = (one.message if isinstance(one, As) else one for one in (step, *reversed(before), asked))
    text = next((place.raw(key) for place in parts if isinstance(place, Message) and place.raw(key) is not None), None)
    if not isinstance(text, bytes):
        return 0
    try:
        return _parts(path.parse(text), asked, depth + 1, {})
    except MessageError:
        return 0


def _device(member: Value) -> str:
    named = member.device if isinstance(member, As) else member.get("device") if isinstance(member, Message) else b""
    return named if isinstance(named, str) else as_text(named) if isinstance(named, bytes) else ""
