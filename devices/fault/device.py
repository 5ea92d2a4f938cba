"""The keys of fault@1.0."""

from __future__ import annotations

from dataclasses import replace

from hyperpy import Context, Message, commitments, device, key
from hyperpy.capabilities import Accounts, Storage
from hyperpy.encoding import is_id
from hyperpy.errors import CommitmentError, HyperpyError, KeyNotFound, MessageError, ParameterError
from hyperpy.fault_proof import TYPE, Account, account_body, read
from hyperpy.message import as_text

from .judge import Judge
from .verdict import Verdict

_NOBODY = "unknown"
_ALONE = ("double-assignment",)
"""Kinds that are judged without computing anything: no code has a part in it."""


@device(
    "fault@1.0",
    needs=("accounts", "store"),
    excludes=("set", "keys"),
    uses=("hyperpy.fault_proof", "hyperpy.slot_rules", "hyperpy.schedule_rules", "hyperpy.inference"),
)
class Fault:
    """Judges fault proofs: signed messages that show one false step of an accused node.

    A verdict is ``guilty``, ``not-guilty`` (made again, the result is the one signed) or ``undecided``. What could
    have an honest cause is undecided: other code, a key that is not deterministic, a device that is not here.
    """

    def start(self, accounts: Accounts, store: Storage) -> None:
        """Take what makes steps again, and the store for proofs that are handed in."""
        self._accounts, self._store = accounts, store

    @key
    def judge(self, base: Message, request: Message, ctx: Context, implementation: str = "", of: str = "") -> Message:
        """Return the verdict on a proof: the request itself, its ``proof``, its ``body``, or the base's ``proof``.

        Args:
            implementation: digest of the code that the result is judged by. A process must name it: its state
                must not depend on which version a node runs. A node that has another one cannot answer then.
            of: the device that this is the code of: results of it must then be what this code gives, whichever the
                accused says it ran, and even if it gives no account.
        """
        proof = _proof(base, request)
        try:
            found = read(proof)
        except (CommitmentError, MessageError) as error:
            return _message(Verdict("undecided", _NOBODY, _NOBODY, f"not a proof: {error.message}"))
        if ctx.strict and not implementation and found.kind not in _ALONE:
            raise ParameterError(
                "inside a process the code to judge by must be named",
                name="implementation",
                hint="Ask a node for it: /~fault@1.0/implementation&of=DEVICE.",
            )
        return _message(Judge(self._accounts, ctx, implementation, of).of(found))

    @key(deterministic=False)
    def submit(self, base: Message, request: Message, ctx: Context) -> Message:
        """Judge a proof, and keep it; return the verdict with its ID as ``proof``, under which anybody may read it.

        Only proofs that convict somebody are kept.
        """
        proof = _proof(base, request)
        verdict = ctx.resolve(Message({"device": "fault@1.0"}), Message({"path": "judge", "proof": proof}))
        if not isinstance(verdict, Message) or verdict.get("verdict") != b"guilty":
            return verdict if isinstance(verdict, Message) else Message()
        return verdict | {"proof": self._store.write(proof)}

    @key(deterministic=False, reads=True)
    def account(self, request: Message, ctx: Context) -> Message:
        """Return this node's account of what it answered: the trail record, as canonical bytes in ``body``.

        Of a step by its ``hashpath`` and the ID of its ``result``, or of a slot by ``process`` and ``slot``. The
        reply is signed like every other one: it is this node's word for which code made the result.
        """
        process = request.get("process")
        if process is not None:
            found = self._accounts.slot(as_text(process, "process"), _slot(request))
            if found is not None and found.slot > 0:
                found = replace(found, snapshot=_snapshot(found, ctx))
        else:
            named = [request.get(name) for name in ("hashpath", "result")]
            if any(one is None for one in named):
                raise ParameterError("name a hashpath and a result, or a process and a slot", name="hashpath")
            hashpath, result = (as_text(one or b"", "hashpath") for one in named)
            if not is_id(result.encode()):
                raise ParameterError("'result' must be the ID of a result", name="result")
            found = self._accounts.step(hashpath, result)
        if found is None:
            raise KeyNotFound("this node has no record of that", hint="Ask while the step is still in its trail.")
        return Message({"type": "account", "body": account_body(found)})

    @key(deterministic=False, reads=True)
    def implementation(self, of: str) -> Message:
        """Return which code this node runs for the device ``of``, as ledgers name it."""
        return Message({"of": of, "implementation": self._accounts.implementation(of)})


def _proof(base: Message, request: Message) -> Message:
    if request.get("type") == TYPE and request.commitments:  # it was sent as the request itself
        return commitments.only_committed(request)
    for found in (request.get("proof"), request.get("body"), base.get("proof")):
        if isinstance(found, Message):
            return found
    raise ParameterError("there is no proof to judge", name="proof", hint="Send the signed proof as 'proof'.")


def _snapshot(account: Account, ctx: Context) -> Message | None:
    """Return what the execution device keeps beside the state before a slot; None if it keeps nothing."""
    try:
        found = ctx.resolve(f"/{account.process}/compute={account.slot - 1}/snapshot")
    except HyperpyError:
        return None
    return Message.make(dict(found.without("cache-control").raw_items())) if isinstance(found, Message) else None


def _slot(request: Message) -> int:
    found = request.get("slot")
    if isinstance(found, bytes) and found.isdigit() and len(found) < 19:
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ParameterError("'slot' must be a slot: a whole number, 0 or more", name="slot")
    return found


def _message(verdict: Verdict) -> Message:
    """Return a verdict as a message."""
    items = {"verdict": verdict.verdict, "accused": verdict.accused, "kind": verdict.kind, "reason": verdict.reason}
    for name in ("expected", "got", "fault"):
        if getattr(verdict, name):
            items[name] = getattr(verdict, name)
    return Message(items)
