"""What the node can lend to a device that names it in ``needs`` (design 5).

A capability arrives as a keyword argument of the device's ``start`` method, before its first key.
Bundled devices get what they name; others only what ``[devices] grant`` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from hyperpy.attest.bundle import Evidence
from hyperpy.cache import Batch
from hyperpy.errors import HyperpyError
from hyperpy.fault_proof import Account
from hyperpy.message import Message, Value
from hyperpy.sdk import Context, Result
from hyperpy.verdicts import Report

if TYPE_CHECKING:
    from hyperpy.inference.batching import Stats
    from hyperpy.inference.serving import Card, Layout, Served
    from hyperpy.inference.standing import Standing

_T = TypeVar("_T")
_R = TypeVar("_R")
Sink = Callable[[bytes], None] | None


class NodeControl(Protocol):
    """``node``: the node's public settings, its operator and its hooks."""

    address: str

    def info(self) -> Message:
        """Return the public settings, address and identities (ao-core 10.8)."""

    def build(self) -> Message:
        """Return what software runs."""

    def setting(self, name: str, default: Any = None) -> Any:
        """Return one setting as a message value or Python value, by its ``-`` name."""

    def change(self, request: Message) -> int:
        """Merge the request's uncommitted-or-committed keys into the settings; return the history's length.

        Raises:
            Forbidden: the request is not signed by the operator, or the node is permanent.
        """

    def put(self, name: str, item: Value) -> None:
        """Store one durable setting on the node's own account."""

    def is_operator(self, request: Message) -> bool:
        """Say whether a verified signature of the operator is on the request."""

    def reply_signers(self, *, address: bool = True) -> frozenset[str]:
        """Return the addresses (``address``: this node's too) whose signature over a status is only a reply's."""

    def hooks(self, event: str) -> Sequence[Message]:
        """Return the handlers of a hook, in order."""

    def devices(self) -> Mapping[str, str]:
        """Return device names and who brought each."""


class Timers(Protocol):
    """``timers``: run a path later or again and again, on the node's own account."""

    def once(
        self, path: str, delay_s: float = 0.0, *, task: str | None = None, owner: str = "", group: str = ""
    ) -> str:
        """Resolve a path once; return the task's ID, ``task`` if given.

        The task is on the disk when this returns. ``owner`` is the address that may stop it, ``group`` whom
        it counts for.
        """

    def every(self, path: str, interval_s: float, *, task: str | None = None, owner: str = "", group: str = "") -> str:
        """Resolve a path at an interval; return the task's ID. See :meth:`once`."""

    def count(self, group: str | None = None) -> int:
        """Return how many tasks there are, or those of one group."""

    def admit(self, peer: str, *, own: int, most: int) -> str:
        """Return the group that a stranger's new task counts for; raise TooManyRequests if they have enough."""

    def owner(self, task: str) -> str | None:
        """Return the address of who may stop a task, empty for anybody; None if there is no such task."""

    def stop(self, task: str) -> bool:
        """Stop a task; False if there is none of that ID."""

    def list(self) -> Mapping[str, Message]:
        """Return the running tasks by ID."""


class Keys(Protocol):
    """``keys``: the node's own signing key, and those of schedulers that it holds too."""

    address: str

    @property
    def addresses(self) -> Sequence[str]:
        """All addresses whose keys this node holds, its own first."""

    def sign(self, message: Message, *, address: str = "", **options: Any) -> Message:
        """Return the message signed by the node, or by the key of that ``address``.

        Options as :func:`hyperpy.commitments.commit`.

        Raises:
            Forbidden: this node does not hold that key.
        """


class Http(Protocol):
    """``http``: requests to peers the operator allowed."""

    def call(self, peer: str, request: Message) -> Message:
        """Send a request (keys ``path``, ``method``, others) and return the decoded, verified reply.

        Raises:
            Forbidden: the peer is not on the operator's list.
            UpstreamError: the peer cannot be reached or answers garbage.
        """

    def allowed(self, peer: str) -> bool:
        """Say whether the operator lets this node talk to the peer."""


class Matches(NamedTuple):
    """Unsigned IDs of messages that were looked for; ``next`` is where to go on, None if all were looked at."""

    refs: Sequence[str]
    next: str | None


class Storage(Protocol):
    """``store``: the node's message store and its names."""

    def read(self, ref: str) -> Value:
        """Return the message or binary with that ID; raise MessageNotFound."""

    def write(self, item: Value) -> str:
        """Store a message, list or binary now; return its unsigned ID."""

    def link(self, name: str, ref: str) -> None:
        """Make a name stand for an ID, durably."""

    def link_all(self, names: Mapping[str, str]) -> None:
        """Make several names stand for IDs, all or none, durably."""

    def named(self, name: str) -> str | None:
        """Return the ID a name stands for."""

    def find(
        self,
        pairs: Mapping[str, frozenset[str]],
        *,
        after: str = "",
        most: int = 1000,
        seconds: float = 1.0,
        signed: bool = False,
        owners: Sequence[str] = (),
    ) -> Matches:
        """Look through the stored messages, in the order of their IDs, for those that hold all pairs.

        Signed messages are in an index; all others are looked at one by one, so that writing them stays cheap.
        The work is bounded by ``seconds``.

        Args:
            pairs: key to the texts one of which its value must have; a nested message counts as its ID.
            after: where an earlier search stopped.
            most: how many matches end the search.
            signed: find only what somebody signed; where the index cannot answer, unsigned ones are found too.
            owners: addresses of which one must have signed; with ``signed``, and where the index answers.
        """

    def names(self, prefix: str = "") -> Mapping[str, str]:
        """Return all names with a prefix, and their IDs."""


class Metrics(Protocol):
    """``metrics``: the node's counters."""

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""


class Jobs(Protocol):
    """``jobs``: top-level steps on the node's own account, beside the request that asks for them."""

    def step(
        self,
        base: Message,
        request: Message,
        *,
        slot: tuple[str, int] | None = None,
        also: Callable[[Result, Batch], None] = ...,
        rescue: Callable[[HyperpyError], Result] | None = None,
        into: Batch | None = None,
    ) -> Result:
        """Run one step with limits of its own; it is recorded and committed when this returns.

        Keys that are not deterministic are refused with NotDeterministic, its own key and those it resolves.

        Args:
            slot: process ID and slot number that the step computes, for the trail's index.
            also: called with the result before the commit; what it puts into the batch is committed too.
            rescue: may turn the step's failure, which is recorded, into a result; or raise.
            into: collects what several steps write; the caller commits it before anybody is answered.

        Raises:
            HyperpyError: the step failed, DeviceStopped if it took all its time; its record is committed all the same.
        """

    def resolve(self, asked: Message) -> Result:
        """Resolve a message's ``path``, recorded and committed, with a stranger's rights.

        Raises:
            HyperpyError: the path does not parse, or a step failed.
        """

    def commit(self, batch: Batch) -> None:
        """Commit what steps wrote ``into`` a batch; raise StoreError if the store cannot take it."""


class Workers(Protocol):
    """``workers``: supervised actors of a device's own, each holding one object."""

    def call(self, kind: str, name: str, make: Callable[[], _T], work: Callable[[_T], _R], *, deadline: float) -> _R:
        """Run ``work`` alone on the object called (kind, name), which ``make`` makes if it is not there.

        Raises:
            DeviceTimeout, Busy, DeviceReentered, DeviceError: see :meth:`hyperpy.actors.ActorSystem.call`.
            HyperpyError: what the work raised.
        """

    def retire(self, kind: str, name: str) -> None:
        """Let go of an object; the next call makes a new one."""


class Head(NamedTuple):
    """Where a schedule ends; slot -1 before the first assignment.

    Attributes:
        slot: the last slot.
        chain: the 32 raw bytes of its hash-chain; nothing before the first.
        hashpath: the ``base-hashpath`` of the next assignment (v0.9-final 3.1).
        timestamp: the last assignment's, milliseconds; 0 before the first.
    """

    slot: int
    chain: bytes
    hashpath: str
    timestamp: int


class Slots(Protocol):
    """``slots``: the schedules this node keeps, and the states computed from them."""

    def append(self, process: str, build: Callable[[Head], tuple[Message, Head]], *, deadline: float) -> Message:
        """Add one assignment; return it when it is on the disk.

        Args:
            build: gets the head and returns the signed assignment of the next slot, and the head after it;
                never run twice at once for one process. If it raises, no slot is taken.
            deadline: monotonic seconds; if it passes while the slot is being written, the slot is taken
                although the caller is told of the timeout.

        Raises:
            StoreError: it could not be written; no slot is taken.
            DeviceTimeout, Busy: too many wait for this process.
            HyperpyError: what ``build`` raised.
        """

    def head(self, process: str) -> Head:
        """Return where the schedule ends, as it is on the disk."""

    def read(self, process: str, slot: int) -> Message | None:
        """Return an assignment with its body and all commitments, or None."""

    def range(self, process: str, first: int, last: int) -> Iterator[Message]:
        """Yield assignments from ``first`` to ``last``, both included, up to the first gap."""

    def processes(self, limit: int = 1_000_000) -> Sequence[str]:
        """Return the processes that have a schedule here, at most ``limit``."""

    def state(self, process: str, slot: int) -> Message | None:
        """Return the state after a slot, or None if it is not kept."""

    def put_state(
        self,
        process: str,
        slot: int,
        state: Message,
        batch: Batch,
        *,
        snapshot: bool,
        made: Message | None = None,
        replaces: int | None = None,
    ) -> None:
        """Keep a state, with its hashpath and ``private["schedule"]``; both come back with it.

        ``snapshot`` says that it carries what resuming needs. ``made`` is a message the batch holds
        already; if the state differs from it in few keys, only these are kept. The batch's commit keeps
        it; with ``snapshot`` it makes the whole batch durable, and the state is never removed to make room,
        until a later snapshot ``replaces`` the one of that slot.
        """

    def latest(self, process: str, limit: int | None = None, *, snapshot: bool = False) -> tuple[int, Message] | None:
        """Return the newest kept state at or below ``limit``, of those with a snapshot if asked."""


class Answers(NamedTuple):
    """Who answers a step here; ``pure`` says that equal inputs give equal results."""

    device: str
    key: str
    implementation: str
    pure: bool


class Made(NamedTuple):
    """What came of a step.

    Attributes:
        result: its outcome, or the error it ended with.
        beside: what else than base and request may have had a part in it, in words; empty: nothing.
        here: whether that is this node's alone: others may not meet it.
    """

    result: Result | HyperpyError
    beside: str
    here: bool


class Accounts(Protocol):
    """``accounts``: what this node answers for, and the means to judge what others do (docs/fault-proofs.md)."""

    def answers(self, base: Message, request: Message) -> Answers:
        """Return which device, key and code a step would run here; raise DeviceNotFound, KeyNotFound."""

    def implementation(self, device: str) -> str:
        """Return the digest of a device's code here; raise DeviceNotFound."""

    def strictly(self, ctx: Context, base: Message, request: Message, *, slot: bool) -> Made:
        """Make a sub-step from base and request alone: no cache answers, what is not deterministic is refused.

        In a ``slot``'s, ``ctx.strict`` holds.
        """

    def step(self, hashpath: str, result: str) -> Account | None:
        """Return this node's account of a step, by its hashpath and the ID of its result; None if it has none.

        Raises:
            Forbidden: the trail is not public.
        """

    def slot(self, process: str, slot: int) -> Account | None:
        """Return this node's account of a process's slot; see :meth:`step`."""


class Models(Protocol):
    """``models``: the language models of this node (docs/inference.md)."""

    standing: Standing  # the computations that this node stands for in disputes

    @property
    def most(self) -> int:
        """Most tokens of one answer."""

    def cards(self) -> Sequence[Card]:
        """Return the models by name, each with its digests."""

    def which(self, name: str) -> Card:
        """Return the model of a name, of the default if it is empty; raise NotFound."""

    def open(self, ref: str, deadline: float) -> Served:
        """Return a model by its reference; see :meth:`hyperpy.inference.serving.Models.open`."""

    def layout(self, name: str) -> Layout:
        """Return where a model's tensors stand in its file; raise NotFound."""

    def part(self, name: str, number: int) -> bytes:
        """Return a part of a model's file; raise NotFound, ParameterError."""

    def stats(self) -> Stats:
        """Return how many answers are being made and wait, and what was made."""

    def claimed(self) -> str | None:
        """Return the answer, as JSON, that is claimed to a request which is made again; None when serving."""

    def close(self) -> None:
        """End all answers: the node stops."""


class Attester(Protocol):
    """``attester``: evidence of this machine, and a key that secrets can be sealed to (docs/attestation.md).

    Attributes:
        kind: ``snp``, ``tdx`` or ``software``; empty if this node makes no evidence.
        kem: the public key, as a statement holds it: HPKE's number of the KEM, then the key.
        secrets: folder of the secrets that this node releases to measured machines; empty if there is none.
    """

    kind: str
    kem: bytes
    secrets: str

    def info(self) -> Message:
        """Return what there is: providers, evidence types, whether it is hardware's."""

    def report(self, report_data: bytes, *, level: int | None = None, peer: str | None = "") -> Evidence:
        """Return evidence of the processor, bound to 64 bytes, at a level (VMPL). Else as :meth:`evidence`."""

    def evidence(
        self,
        purpose: str,
        *,
        nonce: bytes = b"",
        fields: Mapping[str, bytes] | None = None,
        gpus: bool = False,
        peer: str | None = "",
    ) -> Evidence:
        """Return evidence bound to a statement about this node; raise AttestationError ``attester/...``.

        Args:
            purpose: one of :data:`hyperpy.attest.statement.PURPOSES`.
            nonce: the verifier's, 16 to 64 bytes; without one the statement names this run of the node.
            fields: more fields of the statement.
            gpus: with the NVIDIA devices, if NVIDIA's tools are there.
            peer: address that asks, whose share it counts for; None for the operator.
        """

    def identity(self) -> Evidence:
        """Return the evidence of the node's key, made once since the node started; raises as :meth:`evidence`."""

    def accepts_software(self) -> bool:
        """Say whether this process was started to believe software evidence, where a policy does too."""

    def privately(self, request: Message, deadline: float, base: Message | None = None, sink: Sink = None) -> Result:
        """Resolve a request that came sealed: as a stranger's, by deterministic keys alone, and recorded nowhere.

        It is one step on a base, or else its path is resolved, until the deadline (monotonic seconds). A sink takes
        pieces of the answer ahead of the whole. Raises HyperpyError as the resolution does.
        """

    def unseal(self, sealed: bytes, info: bytes) -> bytes:
        """Return what was sealed to this node's key (HPKE, base mode); raise CodecError if it was not."""

    def derived(self, use: bytes) -> bytes:
        """Return 64 bytes that only who holds this node's key for secrets can make: others for each use."""


class Audit(Protocol):
    """``audit``: what this node recorded, made again and compared, and proofs of it (docs/audit.md).

    ``ctx`` is that of the key which asks: it says until when, and whose results the request may read.
    """

    def replay(
        self,
        ref: str,
        ctx: Context,
        *,
        slots: tuple[int, int] | None = None,
        sample: int = 0,
        seed: int = 0,
        first: bool = False,
    ) -> Report:
        """Make recorded steps again and say what came of each.

        Args:
            ref: a message's ID, a hashpath, a record's ID or a process's ID.
            slots: first and last slot of a process, both included.
            sample: how many steps to draw; 0 takes all. ``seed`` says which.
            first: stop at the first fault.

        Raises:
            MessageNotFound: nothing that this node recorded is meant by ``ref``.
            Forbidden: it is for others to read.
            Busy: too many audits are under way.
            DeviceTimeout: time ran out; what was done is kept, and asking again goes on from there.
        """

    def trail(self, ref: str, ctx: Context) -> Message:
        """Return the recorded steps that led to ``ref``, oldest first, as ``steps``; see :meth:`replay`."""

    def receipt(self, ref: str, ctx: Context, **options: Any) -> tuple[bytes, int]:
        """Return the receipt file of ``ref``, signed by this node, and until when what it needs is kept here.

        That is in seconds since 1970; 0: it is not kept. See :meth:`replay`.

        Options as :func:`hyperpy.audit.receipts.build`; ``sign=False`` leaves it unsigned.
        """

    def close(self) -> None:
        """Let go of what is under way: the node stops."""
