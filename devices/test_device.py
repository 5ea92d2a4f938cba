"""test-device@1.0: what conformance tests of other devices are made with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from hyperpy import device, key
from hyperpy.capabilities import NodeControl
from hyperpy.errors import DeviceError, ParameterError
from hyperpy.message import NOT_FOUND, Message, Value, list_to_map

_LONGEST_MS = 60_000


@device("test-device@1.0", needs=("node",))
class TestDevice:
    """A process device, an import, a slow key and a few more, each with a known answer."""

    __test__ = False

    workers: ClassVar[dict[str, Callable[[str], object]]] = {}
    """What tests register under a ``test-id`` to be told of ``increment_counter`` and ``update_state``."""

    def start(self, node: NodeControl) -> None:
        """Take the node's settings."""
        self._node = node

    @key
    def info(self) -> Message:
        """Describe the device the way the reference does."""
        paths = {name: member.__doc__ or "" for name, member in vars(TestDevice).items() if callable(member)}
        named = {name: text.splitlines()[0] for name, text in paths.items() if text and not name.startswith("_")}
        body = {"description": "Test device for testing the AO-Core framework", "version": "1.0", "paths": named}
        return Message({"status": 200, "body": body})

    @key
    def index(self, name: str = "turtles") -> Message:
        """Return a page that says what ``name`` is liked."""
        safe = name.replace("&", "&amp;").replace("<", "&lt;")
        return Message({"content-type": "text/html", "body": f"i like {safe}!"})

    @key
    def init(self, base: Message) -> Message:
        """Return the base with nothing seen."""
        return base | {"already-seen": ()}

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Return the base with the request's ``slot`` noted and two known results."""
        slot = request.get("slot", NOT_FOUND)
        seen = base.get("already-seen", ())
        results = base.get("results", Message())
        if isinstance(results, tuple):
            results = Message.make(list_to_map(results))
        if not isinstance(results, Message) or not isinstance(seen, tuple):
            raise ParameterError("compute: 'results' must be a map and 'already-seen' a list")
        return base | {
            "already-seen": (slot, *seen),
            "results": results | {"assignment-slot": slot},
            "random-key": "random-value",
        }

    @key
    def snapshot(self) -> Message:
        """Return an empty message."""
        return Message()

    @key
    def restore(self, base: Message) -> Message:
        """Return the base with what was seen in its private part."""
        seen = base.get("already-seen")
        if seen is None:
            raise DeviceError("No viable state to restore.")
        return base.with_private(**{"test-key": {"started-state": seen}})

    @key
    def mul(self, base: Message, args: tuple[int, int]) -> Message:
        """Return the product of two arguments, in the form of a WebAssembly import."""
        if len(args) != 2 or not all(isinstance(item, int) for item in args):
            raise ParameterError("mul: 'args' must be two integers", name="args")
        state = base.get("state")
        return Message({"results": [args[0] * args[1]], **({} if state is None else {"state": state})})

    @key
    def test_func(self) -> bytes:
        """Return a known text."""
        return b"GOOD_FUNCTION"

    @key
    def load(self, base: Message) -> Message:
        """Return the base as a message of this device."""
        return base | {"device": "test-device@1.0"}

    @key
    def delay(self, base: Message, request: Message) -> Value:
        """Wait ``duration`` milliseconds (750), then return ``return``, the request's body, or a note."""
        duration = base.get("duration", request.get("duration", 750))
        if isinstance(duration, bytes) and duration.isdigit() and len(duration) < 9:
            duration = int(duration)
        if not isinstance(duration, int) or not 0 <= duration <= _LONGEST_MS:
            raise ParameterError(f"delay: 'duration' must be 0 to {_LONGEST_MS} milliseconds", name="duration")
        time.sleep(duration / 1000)
        found = base.get("return")
        return request.get("body", Message({"result": "slept"})) if found is None else found

    @key(deterministic=False)
    def increment_counter(self, base: Message, request: Message) -> Message:
        """Tell the worker of ``test-id``; return the base."""
        return self._tell("increment", base, request)

    @key(deterministic=False)
    def update_state(self, base: Message, request: Message) -> Message:
        """Tell the worker of ``test-id``; return the base."""
        return self._tell("update", base, request)

    @key(deterministic=False)
    def postprocess(self, request: Message) -> Value:
        """Set the node's option ``postprocessor-called``; return the request's body."""
        self._node.put("postprocessor-called", True)
        return request.get("body", Message())

    def _tell(self, what: str, base: Message, request: Message) -> Message:
        name = request.text("test-id", base.text("test-id", ""))
        if not name:
            raise ParameterError("No test ID found in message.", name="test-id")
        worker = self.workers.get(name)
        if worker is None:
            raise DeviceError(f"No test worker found for test ID {name[:60]}.")
        worker(what)
        return base
