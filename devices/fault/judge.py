"""Decides a fault proof by making one step again.

Who is found guilty must have lied: whatever leaves a doubt ends as *undecided*. So the accused's account of
the step has to name the very code that judges, the result that was signed must be the recorded one, and the
step must depend on nothing but its base and request. What else the account says excuses nobody: recorded answers,
a cache, another device's name are the accused's own words, and making the step again shows whether they count.

Where the code is pinned for a device (a ledger in which nodes stake on it), even the account's word for the code is no
excuse, and none is needed: the signed result must be what that code gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hyperpy import Context, Message, commitments, hashpath, slot_rules
from hyperpy.capabilities import Accounts, Answers
from hyperpy.encoding import is_id
from hyperpy.errors import (
    Busy,
    CommitmentError,
    DeviceNotFound,
    HyperpyError,
    KeyNotFound,
    MessageError,
    MessageNotFound,
    ParameterError,
)
from hyperpy.fault_proof import Account, Claim, Proof, account_of, alike, check_assignment, contents, path_of, said
from hyperpy.message import Value, list_to_map
from hyperpy.schedule_rules import schedulers_of
from hyperpy.sdk import Result

from .verdict import Undecided, Verdict, fault_id

_ELSEWHERE: Final = (MessageNotFound, DeviceNotFound, *slot_rules.PASSING)
"""Failures that say something of this node, not of the step."""
_FALLBACK: Final = "message@1.0"
"""Answers what a device has no key for."""
_PLAIN: Final = (str, bytes, int, float, tuple, list, dict, Message)


class Watched(dict[str, Any]):
    """The private part of a message that notes whether somebody looked for what is not there.

    No ID shows it, so a step that reads it cannot be made again from what was signed.
    """

    asked = False

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry."""
        self._note(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._note(name)
        return super().__contains__(name)

    def __missing__(self, name: str) -> Any:
        self._note(name)
        raise KeyError(name)

    def _note(self, name: object) -> None:
        if not super().__contains__(name):
            self.asked = True


class Judge:
    """Judges proofs with this node's devices.

    Args:
        pinned: implementation that the result must be judged by; empty: this node's, whichever it is. If this
            node runs another one, judging fails rather than ends otherwise than elsewhere.
        of: the device that ``pinned`` is the code of: whoever is judged by it answers for what that code gives,
            whatever its account says. Empty: the account must name ``pinned``.
    """

    def __init__(self, accounts: Accounts, ctx: Context, pinned: str = "", of: str = "") -> None:
        self._accounts, self._ctx, self._pinned, self._of = accounts, ctx, pinned, of if pinned else ""

    def of(self, proof: Proof) -> Verdict:
        """Return the verdict on a proof that was read.

        Raises:
            HyperpyError: only with ``pinned``: this node cannot judge now.
        """
        try:
            return _KINDS[proof.kind](self, proof)
        except Undecided as error:
            return Verdict("undecided", proof.accused, proof.kind, error.message)
        except (CommitmentError, MessageError) as error:
            return Verdict("undecided", proof.accused, proof.kind, f"the proof does not hold: {error.message}")

    # -- a single step ---------------------------------------------------------------------------

    def _result(self, proof: Proof) -> Verdict:
        """``wrong-result``: a signed result does not follow from its base and request."""
        if not proof.accounts:
            return self._unaccounted(proof)
        _shape(proof, 1, 1, 0)
        account = self._account(proof.accused, proof.accounts[0])
        return self._one(proof, proof.accused, proof.claims[0], account)

    def _unaccounted(self, proof: Proof) -> Verdict:
        """Judge a signed result whose signer gives no account of it: by pinned code alone."""
        _shape(proof, 1, 0, 0)
        claim = proof.claims[0]
        if claim.base is None or claim.request is None:
            raise Undecided("the claim comes without its base and request")
        reply = said(claim, proof.accused)
        if not self._of:
            raise Undecided("the accused gives no account of it, so which code it ran is not known")
        self._fits("", claim.base, claim.request)
        path = path_of(claim.base, claim.request, "")
        made = _wrapped(self._made(claim.base, claim.request, hashpath.start(claim.base), fresh=True))
        found = contents(reply)
        expected = commitments.content_id(made)
        if expected not in found and alike(reply, made):
            raise Undecided("the reply's own keys, such as its status, stand where the result's are")
        return _compared(proof, proof.accused, made, expected if expected in found else min(found), path)

    def _equivocation(self, proof: Proof) -> Verdict:
        """``equivocation``: two signed results for one base and request; one of them is false."""
        _shape(proof, 2, 2, 0)
        found: list[tuple[str, Account]] = []
        for claim, given in zip(proof.claims, proof.accounts, strict=True):
            signer = next((one for one in commitments.committers(claim.reply) if one), "")
            found.append((signer, self._account(signer, given)))
        (first, one), (second, other) = found
        if proof.accused not in (first, second):
            raise Undecided("the accused signed neither of the two")
        if one.record.hashpath_after != other.record.hashpath_after or one.record.result == other.record.result:
            raise Undecided("these are not two results of one step")
        verdicts = [
            self._one(proof, signer, claim, account)
            for (signer, account), claim in zip(found, proof.claims, strict=True)
        ]
        return next((one for one in verdicts if one.verdict == "guilty"), verdicts[0])

    def _account(self, signer: str, claim: Claim) -> Account:
        return account_of(claim, signer)

    def _one(self, proof: Proof, signer: str, claim: Claim, account: Account) -> Verdict:
        record, base, request = account.record, account.base, account.request
        if base is None or request is None:
            raise Undecided("the account holds no base and request")
        before = record.hashpath_before if "/" in record.hashpath_before else ""
        reply = said(Claim(claim.reply, base, request), signer, before)
        if record.result not in contents(reply):
            raise Undecided("the signed reply is not the result that the account is about")
        self._fits(record.implementation, base, request)
        result = self._made(base, request, record.hashpath_before, fresh=not before)
        return _compared(proof, signer, _wrapped(result), record.result, path_of(base, request, before))

    def _fits(self, told: str, base: Message, request: Message) -> None:
        """Refuse what cannot be judged here.

        Args:
            told: the implementation that made the result, by the account.

        Raises:
            Undecided: it depends on more than base and request, or other code made it.
            DeviceNotFound: this node has not the code that the result must be judged by.
        """
        if self._pinned and not self._of and told != self._pinned:
            raise Undecided("other code made the result than the one it is to be judged by")
        here = self._answers(base, request)
        if self._of and here.device != self._of:
            raise Undecided(f"{here.device} answers this step, and it is to be judged by the code of {self._of}")
        if not here.pure:
            raise Undecided(f"{here.device}/{here.key} is not deterministic")
        if self._pinned:
            self._has(here.implementation, here.device)
        elif here.implementation != told:
            raise Undecided("the implementation differs: the accused ran other code than this node, by its own word")

    def _has(self, implementation: str, device: str) -> None:
        """Raise DeviceNotFound unless this node's code of a device is the pinned one."""
        if implementation != self._pinned:
            raise DeviceNotFound(
                f"this node has not the implementation {self._pinned[:16]} of {device}",
                hint="Install the version that the ledger names, and ask again.",
            )

    def _answers(self, base: Message, request: Message) -> Answers:
        try:
            return self._accounts.answers(base, request)
        except HyperpyError as error:
            if self._pinned and isinstance(error, _ELSEWHERE):
                raise
            raise Undecided(f"this node cannot make the step: {error.message}") from None

    def _made(
        self, base: Message, request: Message, path: str, *, fresh: bool, slot: bool = False, bare: bool = False
    ) -> Result:
        """Make the step; what may have other causes than base and request is no outcome.

        Args:
            fresh: the base's private part is all there was: it has no history, or was made again.
            bare: there was none at all, so that whoever looks for something in it found nothing.
        """
        private = (Watched({**base.private, "hashpath": path}), Watched())
        base = Message.make(dict(base.raw_items()), base.commitments, private[0])
        request = Message.make(dict(request.raw_items()), request.commitments, private[1])
        result, beside, here = self._accounts.strictly(self._ctx, base, request, slot=slot)
        if beside and here and self._pinned:
            raise result if isinstance(result, _ELSEWHERE) else Busy(f"this node cannot judge: the step met {beside}")
        if beside:
            raise Undecided(f"the step depends on more than base and request: {beside}")
        if isinstance(result, HyperpyError):
            if isinstance(result, _ELSEWHERE) and self._pinned:
                raise result
            if not isinstance(result, (KeyNotFound, ParameterError)):
                text = result.message.replace(f"; incident {result.incident}", "")  # a number of this node's own
                raise Undecided(f"the step fails here: {text}")
            result = Result("error", result.message.encode("utf-8", "replace"))
        if not bare and any(one.asked for one in private):
            raise Undecided("the step reads what no ID shows, such as a credential or a running machine")
        live = isinstance(result.value, Message) and any(
            not isinstance(one, _PLAIN) for one in result.value.private.values()
        )
        if live and not fresh:
            raise Undecided("the device keeps a running machine beside its messages")
        return result

    # -- a process's slot --------------------------------------------------------------------------

    def _state(self, proof: Proof) -> Verdict:
        """``wrong-state``: the signed state after a slot does not follow from the one before."""
        first = proof.slot == 0
        _shape(proof, 1 if first else 2, 1, 1)
        account = account_of(proof.accounts[0], proof.accused)
        if (account.process, account.slot) != (proof.process, proof.slot) or proof.slot < 0:
            raise Undecided("the account is of another slot")
        after = self._signed_state(proof, proof.claims[-1], proof.slot)
        if account.after not in contents(after):
            raise Undecided("the signed state is not the one that the account is about")
        after = contents(after)[account.after]
        process = _definition(proof, after)
        if first:
            state = self._begun(process)
        else:
            state = self._signed_state(proof, proof.claims[0], proof.slot - 1)
            if account.before not in contents(state):
                raise Undecided("the two signed states are not of one schedule, by the accused's account")
            state = contents(state)[account.before]
            _definition(proof, state)
        return self._slot(proof, account, state, process)

    def _slot(self, proof: Proof, account: Account, state: Message, process: Message) -> Verdict:
        assignment, schedulers = proof.assignments[0], schedulers_of(process)
        if not set(check_assignment(proof.process, proof.slot, assignment)) & set(schedulers):
            raise Undecided("no scheduler of the process signed the assignment")
        state, doubt = self._live(state, account)
        base, request = slot_rules.asked(assignment, state)
        if account.record.request not in (commitments.signed_id(request), commitments.unsigned_id(request)):
            raise Undecided("the accused computed another assignment of this slot")
        self._fits(account.record.implementation, base, request)
        result = self._made(base, request, account.record.hashpath_before, fresh=True, slot=True)
        made = slot_rules.after(result, state, base, request, process, proof.slot)
        verdict = _compared(proof, proof.accused, made, account.after, f"{proof.process} {proof.slot}")
        if verdict.verdict == "guilty" and doubt:
            raise Undecided(f"what the device keeps beside the state depends on more than the snapshot: {doubt}")
        return verdict

    def _signed_state(self, proof: Proof, claim: Claim, slot: int) -> Message:
        """Return a state that the accused signed as that of a process's slot."""
        request = claim.request
        if request is None or request.get("path") != b"compute":
            raise Undecided("the signed reply is not to compute=SLOT of the process")
        asked = request.get("compute", request.get("slot"))
        if asked != slot and asked != str(slot).encode():
            raise Undecided("the signed reply is of another slot")
        state = said(Claim(claim.reply, claim.base or _process_in(claim.reply), request), proof.accused)
        if state.get("at-slot") != slot or state.get("device") != slot_rules.NAME:
            raise Undecided("the signed reply is no state of this slot")
        return state

    def _begun(self, process: Message) -> Message:
        """Return the state before the first slot."""

        def init(base: Message) -> Value:
            asked = Message({"path": "init"})
            found = self._answers(base, asked)
            if found.device == _FALLBACK and "init" not in base:
                return base
            if not found.pure:
                raise Undecided("the execution device's init is not deterministic")
            result = self._made(base, asked, hashpath.start(base), fresh=True, slot=True, bare=True)
            if result.status != "ok":
                raise Undecided("the process cannot begin here")
            return result.value

        return slot_rules.begun(process, process, init)

    def _live(self, state: Message, account: Account) -> tuple[Message, str]:
        """Return a state with what its device keeps beside it, made again from the accused's snapshot; and what else
        had a part in that."""
        found = self._answers(slot_rules.as_role(state, "execution"), Message({"path": "snapshot"}))
        if found.device == _FALLBACK or account.slot == 0:
            return state, ""
        if account.snapshot is None:
            raise Undecided("the execution device keeps more than the state shows, and the account has no snapshot")
        kept = slot_rules.as_role(state | {"snapshot": account.snapshot}, "execution")
        asked = Message({"path": "normalize"})
        if not self._answers(kept, asked).pure:
            raise Undecided("the execution device's normalize is not deterministic")
        made, beside, here = self._accounts.strictly(self._ctx, kept, asked, slot=True)
        if isinstance(made, HyperpyError):
            if self._pinned and (here or isinstance(made, _ELSEWHERE)):
                raise made
            raise Undecided("the accused's snapshot cannot be taken up here")
        if made.status != "ok" or not isinstance(made.value, Message):
            raise Undecided("the accused's snapshot cannot be taken up here")
        live = {name: one for name, one in made.value.private.items() if name not in ("hashpath", "schedule")}
        return state.with_private(**live), beside

    # -- a schedule ----------------------------------------------------------------------------------

    def _assignments(self, proof: Proof) -> Verdict:
        """``double-assignment``: a scheduler signed two assignments for one slot."""
        _shape(proof, 0, 0, 2)
        if not is_id(proof.process):
            raise Undecided("the proof names no process")
        for one in proof.assignments:
            check_assignment(proof.process, proof.slot, one, proof.accused)
        first, second = (commitments.content_id(one.with_commitments({})) for one in proof.assignments)
        if first == second:
            return Verdict("not-guilty", proof.accused, proof.kind, "both are the same assignment", first, second)
        reason = f"two assignments were signed for slot {proof.slot}"
        fault = fault_id(proof.accused, f"{proof.process} {proof.slot} double-assignment")
        return Verdict("guilty", proof.accused, proof.kind, reason, first, second, fault)

    # -- a language model's computation ------------------------------------------------------------

    def _value(self, proof: Proof) -> Verdict:
        """``wrong-value``, ``wrong-answer``: judged from what was signed alone, by HPI-1."""
        from . import values  # which needs NumPy

        if self._pinned and self._of != values.DEVICE:
            raise Undecided(f"only {values.DEVICE} is judged by this, and only where its results are promised")
        if self._pinned:
            self._has(self._accounts.implementation(values.DEVICE), values.DEVICE)
        return values.judged(proof)


_KINDS: Final[dict[str, Callable[[Judge, Proof], Verdict]]] = {
    "wrong-result": Judge._result,
    "equivocation": Judge._equivocation,
    "wrong-state": Judge._state,
    "double-assignment": Judge._assignments,
    "wrong-value": Judge._value,
    "wrong-answer": Judge._value,
}


def _shape(proof: Proof, claims: int, accounts: int, assignments: int) -> None:
    found = tuple(map(len, (proof.claims, proof.accounts, proof.assignments)))
    if found != (claims, accounts, assignments):
        raise Undecided(
            f"a proof of {proof.kind} has {claims} claims, {accounts} accounts and {assignments} assignments"
        )


def _process_in(reply: Message) -> Message | None:
    found = reply.get("process")
    return found if isinstance(found, Message) else None


def _definition(proof: Proof, state: Message) -> Message:
    """Return the process's definition that a state holds, proven to be the one with the process's ID."""
    found = _process_in(state)
    if found is None or not found.commitments:
        raise Undecided("the signed state holds no definition of the process")
    commitments.check(found)
    kept = commitments.only_committed(found)
    if commitments.signed_id(kept) != proof.process or len(kept) != len(found):
        raise Undecided("the signed state is of another process")
    return found


def _wrapped(result: Result) -> Message:
    """Return a result as the message that stands for it (design 3)."""
    item = result.value
    if isinstance(item, Message):
        return item
    if isinstance(item, tuple):
        return Message.make(list_to_map(item))
    return Message.make({"ao-result": b"body", "body": item})


def _compared(proof: Proof, accused: str, made: Message, claimed: str, where: str) -> Verdict:
    expected = commitments.content_id(made)
    if expected == claimed:
        return Verdict("not-guilty", accused, proof.kind, "made again, the result is the one signed", expected, claimed)
    reason = "made again, the result is another one"
    return Verdict("guilty", accused, proof.kind, reason, expected, claimed, fault_id(accused, where))
