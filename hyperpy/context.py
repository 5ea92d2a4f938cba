"""The chain a request runs in, and what a key sees of it (``ctx``)."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hyperpy.cache import Batch
from hyperpy.dispatch import Found
from hyperpy.errors import (
    DeviceError,
    DeviceReentered,
    DeviceTimeout,
    Forbidden,
    HyperpyError,
    KeyNotFound,
    MessageNotFound,
    NotDeterministic,
    SizeError,
)
from hyperpy.message import As, Atom, Message, Value, as_text
from hyperpy.sdk import KeySpec, Result
from hyperpy.trail import Oracle, Record

if TYPE_CHECKING:
    from hyperpy.resolver import Resolver

log = logging.getLogger("hyperpy.device")


@dataclass(frozen=True, slots=True)
class Services:
    """What the node lends to keys that are not deterministic; plain callables."""

    fetch: Callable[[str, Message], Message]
    sign: Callable[..., Message]
    config: Mapping[str, Any]
    now: Callable[[], float] = time.time
    random: Callable[[int], bytes] = secrets.token_bytes


@dataclass(slots=True)
class Order:
    """What lets a chain sign although not everybody may: the signature counts only where it was asked for.

    Attributes:
        members: the very messages of the asked path that say ``commit``; None: whatever the path holds,
            where this process itself asks.
        use: called before the first signature; raises Forbidden where the order was used up before.
        undo: makes it as good as new, where nothing of what it did remains.
    """

    members: tuple[Value, ...] | None
    use: Callable[[], None] = lambda: None
    undo: Callable[[], None] = lambda: None
    used: bool = False

    def names(self, member: Value) -> bool:
        """Say whether a member of the path is one that may sign."""
        return is_commit(member) and (self.members is None or any(member is one for one in self.members))


def is_commit(member: Value) -> bool:
    """Say whether a member of a path asks for a signature, in plain words.

    That is ``commit``, or a ``call`` or ``cast`` of relay@1.0 with ``commit-request``.
    """
    asked = member.message if isinstance(member, As) else member
    if not isinstance(asked, Message):
        return asked == b"commit"
    name = asked.raw("path")
    return name == b"commit" or (name in (b"call", b"cast") and any(asked.raw(one) in _YES for one in COMMIT_REQUEST))


COMMIT_REQUEST = ("relay-commit-request", "commit-request")
"""Keys of a request that has relay@1.0 sign what it sends."""
SIGNING = frozenset({"commit", "call", "cast"})
"""Names of the keys that such a member may mean."""
_YES = (True, b"true")


class Given:
    """Recorded answers of keys that cannot be made again, in the order in which they are asked for.

    Args:
        raising: a recorded error is raised again, as it was; else it is answered as a result.

    Attributes:
        fault: what did not fit: a rule's name, words, what was recorded and what was asked. None so far.
    """

    def __init__(self, oracles: Iterable[Oracle] = (), *, raising: bool = True) -> None:
        self._all = tuple(oracles)
        self.raising = raising
        self.rewind()

    def rewind(self) -> None:
        """Begin again with the first answer."""
        self._left = deque(self._all)
        self.used = 0
        self.fault: tuple[str, str, str, str] | None = None

    @property
    def left(self) -> int:
        """How many answers nobody asked for yet."""
        return len(self._left)

    def next(self, device: str, key: str, request: Callable[[], str]) -> Oracle:
        """Return the answer to a request; ``request`` returns its ID.

        Raises:
            MessageNotFound: there is none, or the next one is to something else.
        """
        asked = f"{device}/{key}"
        if not self._left:
            self._refuse(f"the trail holds no recorded answer for {asked}", "", asked)
        known = self._left[0]
        if (known.device, known.key) != (device, key):
            at = f"{known.device}/{known.key}"
            self._refuse(f"the trail's next recorded answer is for {at}", at, asked)
        if known.request != (wanted := request()):
            self._refuse(f"the trail's answer for {asked} is to another request", known.request, wanted)
        self.used += 1
        return self._left.popleft()

    def _refuse(self, text: str, expected: str, got: str) -> None:
        self.fault = self.fault or ("oracle", text, expected, got)
        raise MessageNotFound(text)


@dataclass(slots=True)
class Chain:
    """One top-level request while it runs: its limits, and what it will write.

    Attributes:
        deadline: monotonic seconds after which no new step starts.
        batch: collects messages, results and trail records; None turns recording off.
        origin: digest of the cleaned raw request, or empty.
        lookup: whether cached results may answer.
        strict: whether keys that are not deterministic are refused, and nothing is answered from the trail: a
            state of a process depends on its schedule alone (devices/01-process).
        hashpaths: whether results get hashpaths; hooks run without (ao-core 10.6), and their requests
            hold parsed paths, which have no ID.
        slot: process ID and slot number that the top-level step computes, for the trail's index.
        linked: whether a bare value gets a hashpath too although nothing is recorded.
        may_sign: whether any key may use the node's key through ``ctx.sign`` (design 5, c).
        order: where it may not: whose order lets ``commit`` in the asked path itself do so.
        readers: addresses whose results may be read by ID or hashpath; None is everybody's.
        given: oracle inputs to be injected instead of running keys that are not deterministic;
            None when serving.
        met: what of this node was met first rather than of the inputs: a stored message, a device that is not here
            or keeps a state of its own, an answer that cannot be made again, a limit. Whoever catches the error goes
            on otherwise than another node would.
        effects: whether a key that is not deterministic, and does more than look, has answered in time: it
            may have changed something.
        last: ID and record of the last top-level step that was recorded.
        begun: whether one was begun at all, other than an ordered ``commit``, which only makes a signature.
        sink: takes pieces of an answer ahead of the whole, where the caller asked for a stream.
        sealed: it came sealed (docs/attestation.md): nothing of it goes to the log, to metrics or to hooks.
    """

    deadline: float
    batch: Batch | None = None
    origin: bytes = b""
    lookup: bool = True
    steps_left: int = 10_000
    max_depth: int = 64
    given: Given | None = None
    in_flight: set[bytes] = field(default_factory=set)
    may_sign: bool = True
    order: Order | None = None
    readers: frozenset[str] | None = None
    slot: tuple[str, int] | None = None
    linked: bool = False
    hashpaths: bool = True
    strict: bool = False
    met: str = ""
    last: tuple[bytes, Record] | None = None
    effects: bool = False
    begun: bool = False
    sealed: bool = False
    sink: Callable[[bytes], None] | None = None

    def note(self, result: Result) -> None:
        """Note what a key that is not deterministic answered; an error, or an answer too late, is no effect."""
        status = result.value.raw("status") if isinstance(result.value, Message) else None
        failed = result.status != "ok" or (isinstance(status, int) and status >= 400)
        if not failed and time.monotonic() <= self.deadline:
            self.effects = True

    def spend(self, depth: int) -> None:
        """Account for one step.

        Raises:
            DeviceTimeout, DeviceReentered, SizeError: the chain's limits are used up.
        """
        self.steps_left -= 1
        if self.steps_left < 0:
            self.met = self.met or "a limit"
            raise SizeError("the request needs more steps than this node allows")
        if depth > self.max_depth:
            self.met = self.met or "a limit"
            raise DeviceReentered(
                f"the request recursed more than {self.max_depth} levels deep",
                hint="A path or device probably resolves itself; break the cycle.",
            )
        if time.monotonic() > self.deadline:
            self.met = self.met or "a limit"
            raise DeviceTimeout("the request's deadline passed")


class Step:
    """One step while it is made: what was asked of what, and who answers; then what came of it.

    Attributes:
        frame: where it was asked; what it leaves for the trail goes there.
        inner: where its own sub-steps run.
        before: steps of the sub-paths in a top-level base or request, which hold their results by now: so
            they are no oracle inputs, and a step made again does not ask for them.
        address: the base as it was named, if by an ID or a hashpath.
        cached_from: the record its result was taken from, if it was not computed.
        result, status, after: the outcome and its hashpath, once it is :meth:`done`; a literal is wrapped.
    """

    __slots__ = (
        "address", "after", "base", "before", "cached_from", "found", "frame", "inner", "request", "result", "status",
    )  # fmt: skip

    result: Message
    status: str
    after: str

    def __init__(
        self, base: Message, request: Message, found: Found, frame: Frame, *, address: str | None = None
    ) -> None:
        self.base = base
        self.request = request
        self.found = found
        self.frame = frame
        self.inner = Frame(frame.resolver, frame.chain, frame.depth + 1, found.spec)
        self.address = address
        self.before: Sequence[Step] = ()
        self.cached_from = b""

    def done(self, result: Message, status: str, after: str) -> None:
        """Note the outcome."""
        self.result, self.status, self.after = result, status, after


class Frame:
    """The context of one running key; implements :class:`hyperpy.sdk.Context`.

    ``substeps`` and ``oracles`` collect what sub-steps leave for the trail. ``ordered`` says that the key is a
    ``commit`` which the chain's order names; nothing that the key resolves is.
    """

    __slots__ = ("chain", "depth", "key", "oracles", "ordered", "resolver", "substeps")

    def __init__(self, resolver: Resolver, chain: Chain, depth: int, key: KeySpec | None) -> None:
        self.resolver = resolver
        self.chain = chain
        self.depth = depth
        self.key = key
        self.ordered = False
        self.substeps: list[Step] = []
        self.oracles: list[Oracle] = []

    def nested(self) -> Frame:
        """Return a frame one level deeper that leaves its sub-steps to the same parent."""
        made = Frame(self.resolver, self.chain, self.depth + 1, self.key)
        made.substeps, made.oracles = self.substeps, self.oracles
        return made

    def resolve(self, base: Any, request: Any = None) -> Value:
        """See :meth:`hyperpy.sdk.Context.resolve`."""
        return ok(self.resolver.resolve(base, request, self))

    def step(self, base: Any, request: Any) -> Result:
        """See :meth:`hyperpy.sdk.Context.step`."""
        return self.resolver.resolve(base, request, self)

    def now(self) -> float:
        """See :meth:`hyperpy.sdk.Context.now`."""
        self._open("the time")
        return self.resolver.services.now()

    def random(self, count: int) -> bytes:
        """See :meth:`hyperpy.sdk.Context.random`."""
        self._open("randomness")
        return self.resolver.services.random(count)

    def fetch(self, peer: str, request: Message) -> Message:
        """See :meth:`hyperpy.sdk.Context.fetch`."""
        self._open("the network")
        return self.resolver.services.fetch(peer, request)

    def sign(self, message: Message, **options: Any) -> Message:
        """See :meth:`hyperpy.sdk.Context.sign`."""
        self._open("a signature")
        if not self.chain.may_sign:
            self._use_order()
        return self.resolver.services.sign(message, **options)

    def _use_order(self) -> None:
        order = self.chain.order
        if order is None or not self.ordered:
            raise Forbidden(
                "signing with the node's key on request is for the operator",
                hint="Sign the request as the operator, or set [http] sign-on-request = true while developing.",
            )
        if not order.used:
            order.use()
            order.used = True

    @property
    def deadline(self) -> float:
        """See :meth:`hyperpy.sdk.Context.deadline`."""
        return self.chain.deadline

    @property
    def strict(self) -> bool:
        """See :meth:`hyperpy.sdk.Context.strict`."""
        return self.chain.strict and self.chain.given is None

    @property
    def config(self) -> Mapping[str, Any]:
        """See :meth:`hyperpy.sdk.Context.config`."""
        self._open("the configuration")
        return self.resolver.services.config

    def emit(self, piece: bytes) -> None:
        """See :meth:`hyperpy.sdk.Context.emit`."""
        if self.chain.sink is not None and self.depth == 1:
            self.chain.sink(piece)

    def log(self, event: str, **fields: Any) -> None:
        """See :meth:`hyperpy.sdk.Context.log`."""
        if not self.chain.sealed:
            log.info("%s %s", event, fields)

    def _open(self, what: str) -> None:
        if self.key is not None and self.key.deterministic:
            raise NotDeterministic(f"key '{self.key.name}' is deterministic and asked for {what}")


def ok(result: Result) -> Value:
    """Return the value of an ``ok`` result; raise what any other status means."""
    if result.status == "ok":
        return result.value
    if result.status in ("not_found", "error") and isinstance(result.value, Atom) and result.value == "not_found":
        raise KeyNotFound("the key was not found")
    detail = ""
    if isinstance(result.value, Message) and "body" in result.value:
        detail = f": {as_text(result.value['body'])}"
    raise DeviceError(f"a step ended with status '{result.status}'{detail}")


_TRACE_S: Final = 60.0
_MOST_TRACED: Final = 256
_TRACED: dict[tuple[str, int], float] = {}


def _traced_lately(error: BaseException) -> bool:
    """Say whether an error from the same line was traced in the last minute; if not, it counts as traced now."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = (at.tb_frame.f_code.co_filename, at.tb_lineno) if at is not None else ("", 0)
    now = time.monotonic()
    if now - _TRACED.get(place, -_TRACE_S) < _TRACE_S:
        return True
    while len(_TRACED) >= _MOST_TRACED:
        _TRACED.pop(next(iter(_TRACED)), None)
    _TRACED[place] = now
    return False


def device_error(error: BaseException, device: str, key: str, *, trace: bool = True) -> HyperpyError:
    """Return a device's own bug as a DeviceError with an incident number; log it, with its trace.

    The same bug's trace is logged once a minute, or whoever knows how to cause it could fill the disk.
    """
    incident = secrets.token_hex(4)
    full = trace and not _traced_lately(error)
    known = f" ({type(error).__name__}, as traced before)" if trace and not full else ""
    log.error("incident %s: %s/%.200s failed%s", incident, device, key, known, exc_info=error if full else None)
    made = DeviceError(f"device '{device}' failed in key '{key}' ({type(error).__name__}); incident {incident}")
    made.incident = incident
    return made
