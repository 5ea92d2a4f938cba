"""cron@1.0: resolves a path once, or again and again, on the node's own account."""

from __future__ import annotations

import re

from hyperpy import Message, Result, default, device, key
from hyperpy.capabilities import Timers
from hyperpy.errors import KeyNotFound
from hyperpy.message import as_text

_UNITS = {"millisecond": 0.001, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


@device("cron@1.0", needs=("timers",), excludes=("set", "keys", "id", "commit", "verify", "path"))
class Cron:
    """Starts and stops timed tasks. Tasks end with the node."""

    def start(self, timers: Timers) -> None:
        """Take the node's timers."""
        self._timers = timers

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
        return _error("No cron path found in message.") if path is None else _started(self._timers.once(path))

    @key(deterministic=False)
    def every(self, request: Message) -> Result:
        """Resolve ``cron-path`` every ``interval`` (``5-minutes``); return the task's ID."""
        path = _path(request, "every")
        if path is None:
            return _error("No cron path found in message.")
        if "interval" not in request:
            return _error("No interval found in message.")
        return self._every(path, request.text("interval"))

    @key(deterministic=False)
    def stop(self, request: Message) -> Result:
        """Stop the task ``task``."""
        if "task" not in request:
            return _error("No task ID found in message.")
        task = request.text("task")
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
        return self._every(as_text(path, key), key)

    def _every(self, path: str, interval: str) -> Result:
        match = re.fullmatch(r"([0-9]{1,9})-([a-z]+?)s?", interval.lower())
        if match is None:
            return _error("Invalid interval value.")
        unit = next((s for name, s in _UNITS.items() if match[2].startswith(name)), None)
        if unit is None:
            return _error(f"Invalid time unit: {match[2]}")
        return _started(self._timers.every(path, int(match[1]) * unit))


def _path(request: Message, key: str) -> str | None:
    found = request.get("cron-path", request.get(key))
    return as_text(found, "cron-path") if isinstance(found, bytes) else None


def _started(task: str) -> Result:
    return Result("ok", Message({"status": 200, "cache-control": ["no-store"], "body": task}))


def _error(text: str) -> Result:
    return Result("error", text.encode())
