"""The keys of scheduler@1.0 (devices/02-scheduler)."""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.capabilities import Head, Http, Keys, NodeControl, Slots, Storage
from hyperpy.errors import Forbidden, HyperpyError, KeyNotFound, MessageNotFound
from hyperpy.message import As, as_text

from . import assignment, audit, formats, message, targets
from .remote import Remote, redirection

_NO_STORE: Final = b"no-store"
_KNOWN: Final = 4096
_LISTED: Final = 10_000


class _Process(NamedTuple):
    """What scheduling needs to know of a process."""

    references: tuple[targets.Reference, ...]
    codec: str
    algorithm: str


@device("scheduler@1.0", needs=("node", "keys", "http", "store", "slots"), excludes=("set", "keys"))
class Scheduler:
    """Assigns slots to messages, one after another, and answers with what was assigned.

    Each accepted message gets a slot of its own, the same message twice gets two. An assignment is
    signed by every scheduler of the process whose key this node holds, and is on the disk before it
    is answered.
    """

    def start(self, node: NodeControl, keys: Keys, http: Http, store: Storage, slots: Slots) -> None:
        """Take the settings, the node's key, the way to peers, the store and the schedules."""
        self._node, self._keys, self._store, self._slots = node, keys, store, slots
        self._remote = Remote(http, store)
        self._known: dict[str, _Process] = {}
        self._lock = threading.Lock()

    # -- keys ------------------------------------------------------------------------------

    @key(deterministic=False)
    def schedule(self, base: Message, request: Message, ctx: Context) -> Result:
        """Schedule a message (POST), or return assignments ``from``, ``to`` (GET)."""
        if request.get("method") == b"POST":
            return self._post(base, request, ctx)
        process, at = self._server(base, request, None)
        if at is not None:
            tail = "".join(f"&{name}={formats.number(request, name, 0)}" for name in ("from", "to") if name in request)
            return self._ask(at, request, f"/{process}/schedule{tail.replace('&', '?', 1)}", "accept")
        first, last, more = formats.window(request, self._slots.head(process).slot)
        found, cut = formats.fitting(self._slots.range(process, first, last))
        return Result("ok", formats.answer(process, found, more or cut, json_form=formats.is_aos2(request)))

    @key(deterministic=False)
    def init(self, base: Message, request: Message, ctx: Context) -> Result:
        """Do what ``schedule`` does."""
        return self.schedule(base, request, ctx)

    @key(deterministic=False, reads=True)
    def slot(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return the newest slot of a process, and who signs for it."""
        process, at = self._server(base, request, None)
        if at is not None:
            return self._ask(at, request, f"/{process}/slot")
        known = self._definition(process, base, None)
        made = {
            "process": process,
            "current": self._slots.head(process).slot,
            "timestamp": 0,
            **assignment.BLOCK,
            "cache-control": _NO_STORE,
            "addresses": self._held(known.references),
        }
        return Result("ok", Message(made))

    @key(deterministic=False, reads=True)
    def status(self) -> Message:
        """Return this node's address and the processes it schedules, 10,000 at most."""
        listed = list(self._slots.processes(_LISTED))
        return Message({"address": self._keys.address, "processes": listed, "cache-control": _NO_STORE})

    @key(deterministic=False)
    def next(self, base: Message, request: Message, ctx: Context) -> Result:
        """Return the assignment after the base's ``at-slot``, and the base."""
        at = base.get("at-slot")
        if isinstance(at, bytes) and at.removeprefix(b"-").isdigit() and len(at) < 20:
            at = int(at)
        if not isinstance(at, int) or isinstance(at, bool):
            return _failed(500, "Unprocessable slot value received in assignment.")
        process, elsewhere = self._server(base, request, None)
        if elsewhere is not None:
            answered = self._ask(elsewhere, request, f"/{process}/schedule?from={at + 1}&to={at + 1}").value
            listed = answered.get("assignments") if isinstance(answered, Message) else None
            found = listed.get(str(at + 1)) if isinstance(listed, Message) else None
        else:
            found = self._slots.read(process, at + 1)
        if not isinstance(found, Message):
            return _failed(404, "Requested slot not yet available in schedule.")
        if found.get("slot") != at + 1:
            wrong = {"unexpected-slot": found.get("slot", -1), "expected-slot": at + 1}
            return _failed(404, "Received assignment slot does not match expected slot.", **wrong)
        return Result("ok", Message({"body": found, "state": base}))

    @key(deterministic=False)
    def location(self, base: Message, request: Message, ctx: Context) -> Result:
        """Do what location@1.0 does: return the record of an ``address`` (GET), or take a record (POST)."""
        there = As("location@1.0", Message())
        if request.get("method") == b"POST":
            record = base if request.get("target") == b"self" else message.subject(request)
            return ctx.step(there, Message({"path": "known", "method": "POST", "body": record}))
        address = request.text("address", self._keys.address)
        own = address == self._keys.address
        try:
            return Result("ok", Message({"body": ctx.resolve(there, {"path": "node" if own else address})}))
        except HyperpyError as error:
            if error.status != 404:
                raise
            return Result("ok", Message({"status": 404, "body": f"No location found for address: {address}"}))

    @key(deterministic=False)
    def checkpoint(self, base: Message) -> Message:
        """Return the base."""
        return base

    @key(deterministic=False, reads=True)
    def verify_schedule(self, base: Message, request: Message, ctx: Context) -> Message:
        """Check a schedule: this node's own, or the one given as ``body`` (a schedule as GET answers it).

        Answers ``valid``, and in ``findings`` what is wrong with which slot; see docs/processes.md.
        """
        given = request.get("body")
        source = given if isinstance(given, Message) else None
        text = as_text(source["process"], "process") if source is not None and "process" in source else None
        process, _ = targets.split_target(text or targets.target_of(base, request))
        own = base.get("process")
        known = targets.definition(process, None, (own if isinstance(own, Message) else None, base), self._store.read)
        first = max(0, formats.number(request, "from", 0))
        last = formats.number(request, "to", first + audit.MOST)
        task = audit.Audit(self._slots, process, known, deadline=ctx.deadline)
        return task.given(source) if source is not None else task.own(first, min(last, first + audit.MOST))

    # -- scheduling ------------------------------------------------------------------------

    def _post(self, base: Message, request: Message, ctx: Context) -> Result:
        if as_text(self._node.setting("scheduler-mode", b"local")) == "disabled":
            raise Forbidden("this node schedules nothing", hint="The operator turned it off: [scheduler] mode.")
        try:
            found = self._admitted(base, request)
        except message.NotValid as error:
            return _not_valid(error)
        if targets.is_process(found):
            found = message.loaded(found, self._store.read)
        process, at = self._server(base, request, found)
        if at is not None:
            sent = Message({"path": f"/{process}/schedule", "method": "POST", "body": found})
            return self._answered(at, sent, request)
        known = self._definition(process, base, found)
        if not targets.is_process(found) and self._slots.head(process).slot < 0:
            raise MessageNotFound(
                f"the process {process} is not scheduled here yet: its definition is slot 0",
                hint="Schedule the definition first: POST it to /~scheduler@1.0/schedule.",
            )
        body = message.loaded(found, self._store.read)
        made = self._slots.append(
            process, lambda head: self._build(process, known, head, body, ctx), deadline=ctx.deadline
        )
        return Result("ok", made)

    def _admitted(self, base: Message, request: Message) -> Message:
        """Return what is scheduled of a request's message (see message.admitted).

        A reply of a scheduler or an authority of the process it goes to is not signed by them here; a
        definition without such a signature is another process, so both are asked again.
        """
        subject, unsigned = message.subject(request), _on(self._node.setting("scheduler-unsigned"))
        if request.private.get("pushed") is True:
            return message.admitted(subject, (), unsigned=unsigned)
        signers = self._node.reply_signers()
        while True:
            found = message.admitted(subject, signers, unsigned=unsigned)
            more = self._speakers(base, request, found) if "status" in subject else signers
            if more <= signers:
                return found
            signers |= more

    def _speakers(self, base: Message, request: Message, found: Message) -> frozenset[str]:
        """Return the schedulers and authorities of the process that a message goes to; none if it is unknown."""
        process, _ = self._named(base, request, found)
        try:
            return targets.speakers(self._proven(process, base, found))
        except MessageNotFound:
            return frozenset()

    def _build(self, process: str, known: _Process, head: Head, body: Message, ctx: Context) -> tuple[Message, Head]:
        def sign(made: Message) -> Message:
            for address in self._held(known.references)[: None if known.codec == "httpsig@1.0" else 1]:
                made = self._keys.sign(made, address=address, device=known.codec)
            return made

        return assignment.assigned(process, head, body, int(ctx.now() * 1000), sign, known.algorithm)

    # -- whose process, and where ----------------------------------------------------------

    def _server(self, base: Message, request: Message, found: Message | None) -> tuple[str, Message | None]:
        """Return the process's ID, and the redirect to its scheduler; None if that is this node.

        Raises:
            ParameterError: no process is named.
            MessageNotFound: the process is not known here, nor where its schedulers are.
            KeyNotFound: it names no scheduler.
        """
        process, hint = self._named(base, request, found)
        there = None
        if hint and _on(self._node.setting("scheduler-follow-hints", True)):
            there = redirection(hint, assignment.VARIANT)
        try:
            known = self._definition(process, base, found)
        except (MessageNotFound, KeyNotFound):
            if there is None:
                raise
            return process, there
        if self._held(known.references):
            return process, None  # whatever a hint says: nobody else has this schedule
        at = there or self._remote.redirect(known.references)
        if at is None:
            raise MessageNotFound(
                f"this node is no scheduler of {process}, and does not know where its schedulers are",
                hint="Ask its scheduler's node, or post that node's location record to /~location@1.0/known.",
            )
        return process, at

    def _named(self, base: Message, request: Message, found: Message | None) -> tuple[str, str]:
        """Return the ID of the process that is meant, and its hint.

        Raises:
            ParameterError: the target is no ID.
        """
        if found is not None and targets.is_process(found):
            text = commitments.signed_id(found)
        elif found is not None and isinstance(found.get("target"), bytes):
            text = found.text("target")
        else:
            text = targets.target_of(base, request)
        return targets.split_target(text)

    def _proven(self, process: str, base: Message, found: Message | None) -> Message:
        own = base.get("process")
        candidates = (own if isinstance(own, Message) else None, base)
        return targets.definition(process, found, candidates, self._read)

    def _definition(self, process: str, base: Message, found: Message | None) -> _Process:
        known = self._known.get(process)
        if known is not None:
            return known
        definition = self._proven(process, base, found)
        references = targets.references(definition, found or Message())
        if not references:
            raise targets.no_scheduler()
        made = _Process(tuple(references), assignment.codec_of(definition), assignment.algorithm_of(definition))
        if "scheduler" not in definition and "scheduler-location" not in definition:
            return made  # the word of this message alone
        with self._lock:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[process] = made
        return made

    def _read(self, process: str) -> Message:
        """Return a process's definition from the store, or from its schedule."""
        try:
            found = self._store.read(process)
        except MessageNotFound:
            first = self._slots.read(process, 0)
            found = first.get("body", b"") if first is not None else b""
            if not isinstance(found, Message) or commitments.signed_id(found) != process:
                raise
        return found if isinstance(found, Message) else Message()

    def _held(self, references: tuple[targets.Reference, ...]) -> tuple[str, ...]:
        """Return the addresses of those schedulers whose key this node holds, in the process's order."""
        named = (self._keys.address if one.address == targets.DEFAULT else one.address for one in references)
        return tuple(dict.fromkeys(one for one in named if one in self._keys.addresses))

    # -- elsewhere -------------------------------------------------------------------------

    def _ask(self, at: Message, request: Message, path: str, *keep: str) -> Result:
        sent = Message({"path": path, "method": "GET", **{name: request[name] for name in keep if name in request}})
        return self._answered(at, sent, request)

    def _answered(self, at: Message, sent: Message, request: Message) -> Result:
        if not _on(self._node.setting("scheduler-follow-redirects", True)):
            return Result("ok", at)
        return Result("ok", self._remote.follow(at, sent, request))


def _on(setting: object) -> bool:
    return setting is True or setting == b"true"


def _not_valid(error: HyperpyError) -> Result:
    made = Message({"status": 400, "body": "Message is not valid.", "reason": "Given message is invalid."})
    return Result("error", made.with_private(error=error))


def _failed(status: int, reason: str, **more: object) -> Result:
    return Result("error", Message({"status": status, "reason": reason, **more}))
