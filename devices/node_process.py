"""node-process@1.0: named processes of this node, each made once (devices part 10).

``/ledger~node-process@1.0/now/balance`` reads the process that the operator called ``ledger`` in the
setting ``node-processes``. It is signed by the node and scheduled when somebody first asks for it; from
then on the name stands for it, restarts included.
"""

from __future__ import annotations

from hyperpy import Context, Message, Result, commitments, default, device
from hyperpy.capabilities import Keys, NodeControl, Storage, Workers
from hyperpy.errors import DeviceError, KeyNotFound
from hyperpy.message import Value, as_text

_NAMES = "local-name@1.0/"
"""Names are those of local-name@1.0, so that both devices answer alike."""
_DEFAULTS = {"device": "process@1.0", "type": "Process", "scheduler-device": "scheduler@1.0"}


@device("node-process@1.0", needs=("node", "keys", "store", "workers"), excludes=("set", "keys", "id"))
class NodeProcess:
    """Answers every key with the process of that name.

    Settings: ``node-processes`` maps names to definitions, to each of which this node's address is added as
    ``scheduler`` and ``authority``; ``node-process-spawn-codec`` is what they are signed with. With
    ``spawn=false`` a process that is not there yet is not made.
    """

    def start(self, node: NodeControl, keys: Keys, store: Storage, workers: Workers) -> None:
        """Take the settings, the node's key, the store and the actors."""
        self._node, self._keys, self._store, self._workers = node, keys, store, workers

    @default(deterministic=False)
    def find(self, key: str, request: Message, ctx: Context) -> Value:
        """Return the process called ``key``; make it if the operator defined it and it is not there yet."""
        found = self._named(key)
        if found is not None:
            return found
        if as_text(request.get("spawn", b"true")) == "false" or self._definition(key) is None:
            raise KeyNotFound(
                f"this node has no process called '{key[:100]}'", hint="The operator defines some in node-processes."
            )
        return self._workers.call(
            "node-process", key, object, lambda _: self._named(key) or self._spawned(key, ctx), deadline=ctx.deadline
        )

    def _named(self, name: str) -> Value | None:
        ref = self._store.named(_NAMES + name)
        return None if ref is None else self._store.read(ref)

    def _definition(self, name: str) -> Message | None:
        defined = self._node.setting("node-processes")
        found = defined.get(name) if isinstance(defined, Message) else None
        return found if isinstance(found, Message) else None

    def _spawned(self, name: str, ctx: Context) -> Message:
        """Sign and schedule a process, then register its name; one caller at a time for each name.

        The name comes last: what a crash leaves before that is a process nobody knows.
        """
        defined = self._definition(name) or Message()
        own = self._keys.address.encode()
        added = {role: _with(defined.get(role), own) for role in ("scheduler", "authority")}
        codec = as_text(self._node.setting("node-process-spawn-codec", b"httpsig@1.0"))
        unsigned = (Message(_DEFAULTS) | defined.with_commitments({})) | added
        process = self._keys.sign(unsigned, device=codec)
        order = Message({"path": "schedule", "method": "POST", "body": process})
        answer: Result = ctx.step(Message({"device": "scheduler@1.0"}), order)
        if answer.status != "ok":
            raise DeviceError(f"the process '{name[:100]}' could not be scheduled")
        ref = commitments.signed_id(process)
        self._store.write(process)
        self._store.link(_NAMES + name, ref)
        found = self._store.read(ref)
        if not isinstance(found, Message):
            raise DeviceError(f"the process '{name[:100]}' could not be registered")
        return found


def _with(listed: Value | None, own: bytes) -> Value:
    """Return an address, or a list of several, with one more if it is not there."""
    if listed is None:
        return own
    if isinstance(listed, Message):
        listed = tuple(listed[name] for name in listed)
    items = listed if isinstance(listed, tuple) else tuple(part.strip().encode() for part in as_text(listed).split(","))
    return items if own in items else (*items, own)
