"""cron@1.0: resolves a path once, or again and again, on the node's own account."""

from __future__ import annotations

import re

from hyperpy import Message, Result, commitments, default, device, key
from hyperpy.capabilities import NodeControl, Timers
from hyperpy.errors import Forbidden, KeyNotFound
from hyperpy.message import as_text

_UNITS = {"millisecond": 0.001, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_LONGEST_S = 3650 * 86400.0


@device("cron@1.0", needs=("timers", "node"), excludes=("set", "keys", "id", "commit", "verify", "path"))
class Cron:
    """Starts and stops timed tasks. They are on the disk before they are answered, and outlive the node.

    A task's ID is that of the request, so the same request twice is one task. Who signed it alone may
    stop it, and the operator. ``[cron]`` says how many tasks a client may have, and how often they run.
    """

    def start(self, timers: Timers, node: NodeControl) -> None:
        """Take the node's timers, and the settings that limit them."""
        self._timers, self._node = timers, node

    @key
    def info(self) -> Message:
        """Describe the device and its paths."""
        return Message(
            {
                "status": 200,
                "body": {
                    "description": "Cron device for scheduling messages",
                    "version": "1.0",
                    "paths": {
                        "info": "Get device info",
                        "once": "Schedule a one-time message",
                        "every": "Schedule a recurring message",
                        "stop": "Stop a scheduled task {task}",
                    },
                },
            }
        )

    @key(deterministic=False)
    def once(self, request: Message) -> Result:
        """Resolve ``cron-path`` (or the value of ``once``) once, now; return the task's ID."""
        path = _path(request, "once")
        if path is None:
            return _error("No cron path found in message.")
        group = self._admitted(request)
        return _started(self._timers.once(path, task=_task(request), owner=_owner(request), group=group))

    @key(deterministic=False)
    def every(self, request: Message) -> Result:
        """Resolve ``cron-path`` every ``interval`` (``5-minutes``); return the task's ID."""
        path = _path(request, "every")
        if path is None:
            return _error("No cron path found in message.")
        if "interval" not in request:
            return _error("No interval found in message.")
        return self._every(path, request.text("interval"), request)

    @key(deterministic=False)
    def stop(self, request: Message) -> Result:
        """Stop the task ``task``."""
        if "task" not in request:
            return _error("No task ID found in message.")
        task = request.text("task")
        owner = self._timers.owner(task)
        if owner and owner not in commitments.committers(_order(request)) and not self._node.is_operator(request):
            raise Forbidden("only who started the task may stop it", hint="Sign the request with the same key.")
        if not self._timers.stop(task):
            return _error("Task not found.")
        body = {"message": "Task stopped successfully", "task_id": task}
        return Result("ok", Message({"status": 200, "body": body}))

    @default(deterministic=False)
    def interval(self, key: str, base: Message, request: Message) -> Result:
        """Resolve the value of a key such as ``5-minutes`` at that interval."""
        path = request.get(key)
        if path is None or "-" not in key:
            raise KeyNotFound(f"cron@1.0 has no key '{key}'", hint="Use once, every, stop, or /5-minutes=PATH.")
        return self._every(as_text(path, key), key, request)

    def _every(self, path: str, interval: str, request: Message) -> Result:
        match = re.fullmatch(r"([0-9]{1,9})-([a-z]+?)s?", interval.lower())
        if match is None:
            return _error("Invalid interval value.")
        unit = next((s for name, s in _UNITS.items() if match[2].startswith(name)), None)
        if unit is None:
            return _error(f"Invalid time unit: {match[2]}")
        seconds = int(match[1]) * unit
        least = float(as_text(self._node.setting("cron-min-interval", 0)))
        if seconds > _LONGEST_S:
            return _error("Invalid interval value. The longest is ten years.")
        if seconds < least and not self._node.is_operator(request):
            return _error(f"Invalid interval value. The shortest on this node is {least:g} seconds.")
        group = self._admitted(request)
        return _started(self._timers.every(path, seconds, task=_task(request), owner=_owner(request), group=group))

    def _admitted(self, request: Message) -> str:
        """Return whom a new task counts for; refuse it if they have enough.

        Addresses are free, so what counts is where the request came from; of that a keyed hash is stored.
        """
        if self._node.is_operator(request):
            return ""
        return self._timers.admit(
            str(request.private.get("peer", "")),
            own=int(as_text(self._node.setting("cron-per-caller", 16))),
            most=int(as_text(self._node.setting("cron-tasks", 1000))),
        )


def _path(request: Message, key: str) -> str | None:
    found = request.get("cron-path", request.get(key))
    return as_text(found, "cron-path") if isinstance(found, bytes) else None


def _order(request: Message) -> Message:
    """Return the request as it was signed."""
    found = request.private.get("order")
    return found if isinstance(found, Message) else request


def _owner(request: Message) -> str:
    return next(iter(commitments.committers(_order(request))), "")


def _task(request: Message) -> str:
    return commitments.hashpath_id(request)


def _started(task: str) -> Result:
    return Result("ok", Message({"status": 200, "cache-control": ["no-store"], "body": task}))


def _error(text: str) -> Result:
    return Result("error", text.encode())
