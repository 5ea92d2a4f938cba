"""Making fault proofs: what to ask a node for, and how its signed answers become a proof (docs/fault-proofs.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from hyperpy import commitments, hashpath, receipt
from hyperpy.audit.bisect import Difference, first_difference
from hyperpy.codecs import whole
from hyperpy.encoding import is_id, key_text, sha256
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, MessageNotFound, UpstreamError
from hyperpy.fault_proof import Claim, Proof, account_of, contents
from hyperpy.http.asked import seen
from hyperpy.http.client import Connection, parse_url, request_form
from hyperpy.http.wire import Rules
from hyperpy.message import As, Message, Resolve, Value
from hyperpy.trail import Record

_RULES: Final = (Rules(), Rules(host_with_port=True))


@dataclass(frozen=True, slots=True)
class Asked:
    """A node's signed answer, and the messages of the path it answers.

    Attributes:
        members: as the node most likely saw them.
        readings: all ways in which a node may have seen them, by its settings.
    """

    reply: Message
    members: tuple[Value, ...]
    readings: tuple[tuple[Value, ...], ...] = ()

    @property
    def claim(self) -> Claim:
        """The answer as a claim, where base and request are known from the path alone."""
        base, request = (self.members[0], self.members[1]) if len(self.members) == 2 else (None, None)
        if isinstance(base, As) and isinstance(base.message, Message) and "path" not in base.message:
            base = base.message | {"device": base.device}
        return Claim(self.reply, _whole(base), _whole(request))


def _whole(item: Value | None) -> Message | None:
    """Return a message of a path; None where it has sub-paths, whose results the path does not tell."""
    if not isinstance(item, Message) or any(isinstance(one, Resolve | As) for one in item.raw_items().values()):
        return None
    return item


class Peer:
    """A node whose word is examined.

    Args:
        url: such as ``http://localhost:8734``.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.url = url
        self._origin, self._prefix = parse_url(url)
        self._connection = Connection(timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, where: str) -> Asked:
        """Return the answer to a GET, and the path as the node saw it.

        Raises:
            UpstreamError: the node cannot be reached.
            InvalidSignature: a signature does not verify.
        """
        form = request_form(Message({"path": self._prefix + where, "method": "GET"}))
        reply = self._connection.exchange(self._origin, form)
        readings = tuple(seen(self._connection, self._origin, form, rules).parts for rules in _RULES)
        found: tuple[Value, ...] = ()
        for found in readings:
            claim = Asked(reply, found).claim
            if claim.base is None or claim.request is None or _named(claim) == reply.hashpath:
                break
        return Asked(reply, found, readings)

    def post(self, where: str, document: bytes) -> Message:
        """Return the answer to a POST of a JSON text.

        Raises:
            UpstreamError, InvalidSignature: as :meth:`ask`.
        """
        found = {"path": self._prefix + where, "content-type": "application/json", "body": document}
        return self._connection.exchange(self._origin, request_form(Message(found)))

    def account(self, of: str) -> Claim:
        """Return the node's account, by the query of ``fault@1.0/account``.

        Raises:
            MessageNotFound: it gives none.
        """
        asked = self.ask(f"/~fault@1.0/account?{of}")
        if asked.reply.get("status") != 200:
            raise MessageNotFound(
                f"{self.url} gives no account of this step, so nobody can say which code made it",
                hint="Only hyperpy nodes with a public trail do. Without an account a proof is undecided.",
            )
        return asked.claim


def _named(claim: Claim) -> str:
    if claim.base is None or claim.request is None:
        return ""
    return hashpath.extend(claim.base, claim.request)


def signer_of(reply: Message) -> str:
    """Return who signed a reply with a hashpath; raise InvalidSignature if nobody did."""
    for one in reply.commitments.values():
        who = commitments.committer_of(one)
        if who is not None and "tag" in one:
            return who
    raise InvalidSignature("nobody signed this reply with a hashpath: it claims nothing")


def lean(message: Message, signer: str) -> Message:
    """Return a message with the commitments of one signer alone: others prove nothing here."""
    kept = {name: one for name, one in message.commitments.items() if commitments.committer_of(one) == signer}
    return message.with_commitments(kept)


# -- one answer ---------------------------------------------------------------------------------


def wrong_result(peer: Peer, reply: Message, asked: Claim | None = None) -> Proof:
    """Return what would prove that a reply is false, if it is; its signer is asked for its account.

    Args:
        asked: the same as a claim with base and request, where the path alone tells them. Of such a reply there is
            a proof without an account too, for a ledger that names the code.

    Raises:
        InvalidSignature: the reply claims nothing, or the account is somebody else's.
        MessageNotFound: there is no account of it.
    """
    accused = signer_of(reply)
    try:
        claim, account = with_account(peer, reply, accused)
    except (MessageNotFound, CodecError, InvalidSignature):
        if asked is None or asked.base is None or asked.request is None:
            raise
        return Proof("wrong-result", accused, claims=(Claim(lean(reply, accused), asked.base, asked.request),))
    return Proof("wrong-result", accused, claims=(claim,), accounts=(account,))


def equivocation(peers: tuple[Peer, Peer], replies: tuple[Message, Message]) -> Proof | None:
    """Return what would prove that one of two nodes, who answered the same differently, lies; None if they agree."""
    signers = [signer_of(one) for one in replies]
    found = [with_account(peer, reply, who) for peer, reply, who in zip(peers, replies, signers, strict=True)]
    accounts = [account_of(one[1], who) for one, who in zip(found, signers, strict=True)]
    if accounts[0].record.result == accounts[1].record.result:
        return None
    if accounts[0].record.hashpath_after != accounts[1].record.hashpath_after:
        raise CodecError(
            "these are answers to different questions", hint="Ask both with the same host name and headers."
        )
    return Proof(
        "equivocation", signers[0], claims=tuple(one[0] for one in found), accounts=tuple(one[1] for one in found)
    )


def with_account(peer: Peer, reply: Message, accused: str) -> tuple[Claim, Claim]:
    """Return a reply as claim, and its signer's account of it."""
    last: HyperpyError | None = None
    for ident in sorted(contents(reply)):
        try:
            account = peer.account(f"hashpath={reply.hashpath}&result={ident}")
        except MessageNotFound as error:
            last = error
            continue
        account_of(account, accused)
        return Claim(lean(reply, accused)), _lean(account, accused)
    assert last is not None
    raise last


# -- files --------------------------------------------------------------------------------------


def reply_bytes(reply: Message) -> bytes:
    """Return a file of a signed reply: its canonical bytes and a SHA-256 over them."""
    data = whole.encode(reply.with_private(hashpath=None))
    return data + sha256(data)


def replies_of_file(peer: Peer, data: bytes) -> list[Message]:
    """Return the signed reply in a file, or, for a receipt, the node's replies to the hashpaths it is about.

    Raises:
        CodecError: it is neither.
    """
    if len(data) < 33 or sha256(data[:-32]) != data[-32:]:
        raise CodecError("the file's digest does not fit: it is damaged, or neither receipt nor reply")
    with suppress(HyperpyError):
        found = whole.decode(data[:-32])
        if isinstance(found, Message) and found.commitments:
            commitments.check(found)
            return [_tagged(found)]
    kept = receipt.decode(data)
    records = [Record.decode(one) for one in kept.records]
    return [peer.ask(f"/{one.hashpath_after}").reply for one in records if one.id in kept.roots and one.hashpath_after]


def _tagged(reply: Message) -> Message:
    for one in reply.commitments.values():
        tag = one.raw("tag")
        if isinstance(tag, bytes):
            return reply.with_private(hashpath=key_text(tag))
    return reply


# -- a process ------------------------------------------------------------------------------------


def state_of(peer: Peer, process: str, slot: int) -> Asked:
    """Return a node's signed state after a slot.

    Raises:
        UpstreamError: it answers with an error.
    """
    found = peer.ask(f"/{process}/compute={slot}")
    if found.reply.get("status") != 200 or found.reply.get("at-slot") != slot:
        raise UpstreamError(f"{peer.url} does not answer slot {slot} of {process}")
    return found


def parted(first: Peer, second: Peer, process: str, last: int, heard: Callable[[int], None]) -> Difference:
    """Return the slot at which two nodes part, by comparing state IDs.

    Args:
        heard: called with each slot that is compared.
    """

    def same(slot: int) -> bool:
        heard(slot)
        one, other = (state_of(peer, process, slot).reply.without("status") for peer in (first, second))
        return commitments.content_id(one) == commitments.content_id(other)

    return first_difference(same, last)


def last_slot(peer: Peer, process: str) -> int:
    """Return where a process's schedule ends, by a node's word."""
    found = peer.ask(f"/{process}/slot/current").reply
    current = found.get("body")
    if not isinstance(current, int) or isinstance(current, bool) or current < 0:
        raise UpstreamError(f"{peer.url} knows no schedule of {process}")
    return current


def wrong_state(peer: Peer, process: str, slot: int, scheduler: Peer | None = None) -> Proof:
    """Return what would prove that a node's state after a slot is false, if it is.

    Args:
        scheduler: whom to ask for the assignment; the node itself by default.
    """
    if not is_id(process.encode()):
        raise CodecError(f"{process[:60]!a} is no process ID")
    asked = [_state_claim(peer, process, one) for one in range(max(0, slot - 1), slot + 1)]
    accused = signer_of(asked[-1].reply)
    account = peer.account(f"process={process}&slot={slot}")
    account_of(account, accused)
    claims = tuple(_lean(one, accused) for one in asked)
    assignment = assignment_of(scheduler or peer, process, slot)
    signer = next(iter(commitments.committers(assignment)), "")
    given = (lean(assignment, signer),)
    return Proof("wrong-state", accused, claims, (_lean(account, accused),), given, process=process, slot=slot)


def _lean(claim: Claim, signer: str) -> Claim:
    return Claim(lean(claim.reply, signer), claim.base, claim.request)


def _state_claim(peer: Peer, process: str, slot: int) -> Claim:
    asked = state_of(peer, process, slot)
    request = asked.members[1] if len(asked.members) == 2 else None
    return Claim(asked.reply, None, request if isinstance(request, Message) else None)


def assignment_of(peer: Peer, process: str, slot: int) -> Message:
    """Return the assignment of a slot, by a node's word; its signatures are the scheduler's.

    Raises:
        UpstreamError: the node has none.
    """
    listed = peer.ask(f"/{process}/schedule?from={slot}&to={slot}").reply.get("assignments")
    found = listed.get(str(slot)) if isinstance(listed, Message) else None
    if not isinstance(found, Message):
        raise UpstreamError(f"{peer.url} lists no slot {slot} of {process}")
    return found
