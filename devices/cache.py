"""cache@1.0: this node's message store over HTTP.

Messages are read by ID by anybody. Only the addresses in the setting ``cache-writers`` may write,
with a signature that covers what is written. Names made by ``link`` are the device's own; no other
record of the store can be reached.
"""

from __future__ import annotations

from hyperpy import commitments, device, key
from hyperpy.capabilities import NodeControl, Storage
from hyperpy.commitments.legacy import as_aos2
from hyperpy.encoding import is_id
from hyperpy.errors import Forbidden, HyperpyError, MessageNotFound, ParameterError
from hyperpy.message import Message, Value, as_text
from hyperpy.sdk import Context

_NAMES = "cache@1.0/"


@device("cache@1.0", needs=("store", "node"))
class CacheDevice:
    """Reads and writes the message store."""

    def start(self, store: Storage, node: NodeControl) -> None:
        """Take the store and the settings."""
        self._store = store
        self._node = node

    @key(deterministic=False, reads=True)
    def read(self, request: Message, ctx: Context) -> Value:
        """Return the message whose ID, or name made by ``link``, stands in ``read`` (or ``target``).

        With ``accept: application/aos-2``, as the JSON of aos.
        """
        ref = as_text(request.get("read", request.get("target", b"")), "read")
        if not ref:
            raise ParameterError("read: parameter 'read' (a message ID) is missing", name="read")
        if not is_id(ref.encode("utf-8", "surrogateescape")):
            named = self._store.named(_NAMES + ref.strip("/"))
            if named is None:
                raise MessageNotFound(f"this node has nothing under the name {ref[:100]}")
            ref = named
        return as_aos2(ctx.resolve(ref), request)

    @key(deterministic=False)
    def write(self, request: Message) -> Message:
        """Store the binary ``body``, or with ``type: batch`` what each entry of ``body`` says; return IDs."""
        self._authorize(request, ("body", "type", "operation", "source", "destination"))
        kind = request.text("type", "single")
        body = request.get("body")
        if kind == "batch":
            if not isinstance(body, Message):
                raise ParameterError("No body to write.", name="body", hint="A batch is a map of single writes.")
            entries = {name: body[name] for name in body}
            written = {name: self._single(item) for name, item in entries.items() if isinstance(item, Message)}
            if len(written) != len(entries):
                raise ParameterError("Invalid write type.", name="body", hint="A batch is a map of single writes.")
            return Message({"status": 200, **written})
        if kind != "single":
            raise ParameterError("Invalid write type.", name="type", hint="Use single or batch.")
        return self._single(request)

    @key(deterministic=False)
    def link(self, request: Message) -> Message:
        """Let the name ``destination`` stand for the ID ``source``."""
        self._authorize(request, ("source", "destination"))
        return self._link(request)

    def _single(self, entry: Message) -> Message:
        if entry.text("operation", "write") == "link":
            return self._link(entry)
        body = entry.get("body")
        if body is None:
            raise ParameterError("No body to write.", name="body")
        if not isinstance(body, bytes) or "location" in entry:
            raise ParameterError(
                "Invalid write type.", name="body", hint="Write a binary; it is kept under its own ID, at no location."
            )
        return Message({"status": 200, "path": self._store.write(body)})

    def _link(self, entry: Message) -> Message:
        source, name = entry.text("source"), entry.text("destination").strip("/")
        if not is_id(source.encode("utf-8", "surrogateescape")) or not name:
            raise ParameterError("link: 'source' must be an ID and 'destination' a name", name="source")
        self._store.link(_NAMES + name, source)
        return Message({"status": 200})

    def _authorize(self, request: Message, names: tuple[str, ...]) -> None:
        """Raise Forbidden unless the only signer is a writer and signed each of these keys."""
        signers = commitments.committers(request)
        listed = self._node.setting("cache-writers", ())
        writers = {as_text(item) for item in (listed if isinstance(listed, tuple) else (listed,))}
        refused = Forbidden(
            "Not authorized to write to the cache.",
            hint="Sign the request's keys with a key whose address is in the setting cache-writers.",
        )
        if len(signers) != 1 or signers[0] not in writers:
            raise refused
        covered = commitments.committed(request, committers=signers)
        if any(name in request and name not in covered for name in names):
            raise refused
        try:
            commitments.check(request, committers=signers)
        except HyperpyError:
            raise refused from None
