"""stake-ledger@1.0: a process in which nodes stake, and lose their stake when a fault proof convicts them.

A demonstration: the amounts are no money. The process names the one device whose results it judges, and its code:

    execution-device       stake-ledger@1.0
    judged-device          such as tally@1.0
    judged-implementation  /~fault@1.0/implementation&of=tally@1.0 on a node that runs it
    judged-strictly        true: who stakes promises the results of this very code; see below

Messages, signed by one address each:

    action: stake   amount: whole number    the signer's address puts that much at stake
    action: slash   proof: a proof's file   if ~fault@1.0/judge says guilty, the accused's stake is burned

Usually only a lie about this very code costs the stake: a node that says, in its account, that it ran another version
keeps it, and so does one that gives no account. Where results are judged strictly, neither is an excuse.
A lie costs the whole stake, once: the same lie proven again, by whomever and however, changes nothing.
"""

from __future__ import annotations

from hyperpy import Context, Message, commitments, device, key
from hyperpy.errors import CommitmentError, MessageError
from hyperpy.fault_proof import Proof, account_of, from_bytes, read
from hyperpy.message import committed_list

MOST = 1_000_000
"""Units that one message may stake."""


@device("stake-ledger@1.0")
class StakeLedger:
    """Execution device: keeps ``stakes`` (a list of address and amount), ``faults`` and ``burned``."""

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the state after one assignment; what cannot be done changes nothing but ``results``."""
        body = request.get("body")
        try:
            if not isinstance(body, Message):
                raise MessageError("the assignment holds no message")
            action = body.get("action")
            if action == b"stake":
                return self._stake(base, body)
            if action == b"slash":
                return self._slash(base, body, ctx)
        except (MessageError, CommitmentError) as error:
            return base | {"results": Message({"error": error.message})}
        return base | {"results": Message({"output": "nothing to do"})}

    def _stake(self, base: Message, body: Message) -> Message:
        who = _signer(body, "action", "amount")
        amount = body.get("amount")
        if isinstance(amount, bytes) and amount.isdigit() and len(amount) <= len(str(MOST)):
            amount = int(amount)
        if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MOST:
            raise MessageError(f"an amount is a whole number from 1 to {MOST}")
        stakes = _stakes(base)
        stakes[who] = stakes.get(who, 0) + amount
        return _with(base, stakes, f"{who} has {stakes[who]} at stake")

    def _slash(self, base: Message, body: Message, ctx: Context) -> Message:
        data = body.get("proof")
        if not isinstance(data, bytes):
            raise MessageError("a slash carries the file of a proof as 'proof'")
        message = from_bytes(data)
        proof, stakes = read(message), _stakes(base)
        if not any(stakes.get(one) for one in _suspects(proof)):
            raise MessageError("the accused has nothing at stake")
        asked = Message({"path": "judge", "proof": message, **self._code(base, proof)})
        verdict = ctx.resolve({"device": "fault@1.0"}, asked)
        if not isinstance(verdict, Message) or verdict.get("verdict") != b"guilty":
            reason = verdict.text("reason", "") if isinstance(verdict, Message) else ""
            raise MessageError(f"not guilty by this proof: {reason}")
        accused, fault = verdict.text("accused"), verdict["fault"]
        faults = base.get("faults", ())
        if not isinstance(faults, tuple) or fault in faults:
            raise MessageError("that lie was punished already")
        burned = int(str(base.get("burned", 0))) + stakes.get(accused, 0)
        lost, stakes[accused] = stakes.get(accused, 0), 0
        state = _with(base, stakes, f"{accused} lost {lost}")
        return state | {"faults": (*faults, fault), "burned": burned}

    def _code(self, base: Message, proof: Proof) -> dict[str, str]:
        """Return what to judge by: the code that the process names, and for strict judging the device it is of."""
        definition = base["process"]
        if not isinstance(definition, Message):
            raise MessageError("the state holds no definition")
        judged, code = definition.text("judged-device", ""), definition.text("judged-implementation", "none")
        if definition.get("judged-strictly") in (True, b"true"):
            return {"of": judged, "implementation": code}
        for claim in proof.accounts:
            accused = next(iter(commitments.committers(claim.reply)), "")
            if account_of(claim, accused).record.device != judged:
                raise MessageError(f"this ledger judges {judged} only")
        return {"implementation": code}


def _signer(body: Message, *covered: str) -> str:
    """Return the one address whose own word a message is: no node's reply, and nothing pushed for a process."""
    commitments.check(body)
    found = [
        commitments.committer_of(one)
        for one in body.commitments.values()
        if commitments.committer_of(one) and commitments.is_own_word(one) and set(covered) <= set(committed_list(one))
    ]
    if len(found) != 1 or found[0] is None:
        raise MessageError("one address must sign the message")
    return found[0]


def _suspects(proof: Proof) -> set[str]:
    """Return whom a proof may convict."""
    return {proof.accused, *(one for claim in proof.claims for one in commitments.committers(claim.reply))}


def _stakes(base: Message) -> dict[str, int]:
    listed = base.get("stakes", ())
    found = listed if isinstance(listed, tuple) else ()
    return {one.text("address"): int(str(one["amount"])) for one in found if isinstance(one, Message)}


def _with(base: Message, stakes: dict[str, int], words: str) -> Message:
    rows = tuple(Message({"address": who, "amount": stakes[who]}) for who in sorted(stakes))
    return base | {"stakes": rows, "results": Message({"output": words})}
