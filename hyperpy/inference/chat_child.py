"""Fills in chat templates, in a process of its own; see ``chat.py``. Run as a script: it needs nothing of hyperpy.

    in   4 bytes of length, then JSON: {"template", "turns", "tokens", "seconds", "memory", "most"}
    out  4 bytes of length, then JSON: {"text"}, {"error"}, or {} where a template used more than it may

Each template runs in a fork of this process that has given up its pipes, most of its memory and its time: so the
imports are made once, and a template leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

_CHUNK = 1 << 16


def main() -> None:
    """Answer until nobody asks any more."""
    env = _environment()
    while (asked := _read_frame()) is not None:
        answer = _apart(env, json.loads(asked))
        _write(1, len(answer).to_bytes(4, "little") + answer)


def _environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    known = env.globals
    env.globals = {
        "raise_exception": _refuse,
        "strftime_now": lambda form: "2000-01-01",
        "range": known["range"],
        "namespace": known["namespace"],
    }
    env.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return env


class _Refused(Exception):
    """The template refuses the turns, in words of its own."""


def _refuse(text: str = "refused") -> None:
    raise _Refused(str(text))


def _apart(env: ImmutableSandboxedEnvironment, told: dict[str, Any]) -> bytes:
    """Return what a fork answers, or an empty object if it did not end well."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(0)
            os.close(1)
            os.close(out)
            _write(into, _filled(env, told))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(into)
    answer, most = bytearray(), int(told["most"])
    while len(answer) <= most and (piece := os.read(out, _CHUNK)):
        answer += piece
    os.close(out)
    if len(answer) > most:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return bytes(answer) if status == 0 else b"{}"


def _filled(env: ImmutableSandboxedEnvironment, told: dict[str, Any]) -> bytes:
    resource.setrlimit(resource.RLIMIT_CPU, (told["seconds"], told["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (told["memory"], told["memory"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        template = env.from_string(told["template"])
        text = template.render(messages=told["turns"], add_generation_prompt=True, tools=None, **told["tokens"])
        return json.dumps({"text": text}).encode()
    except MemoryError:
        return b"{}"
    except _Refused as error:
        return json.dumps({"error": str(error)[:300]}).encode()
    except Exception as error:  # a library's own words may be others elsewhere, and a process's answer holds this text
        return json.dumps({"error": type(error).__name__}).encode()


def _read_frame() -> bytes | None:
    head = _read(4)
    return None if len(head) < 4 else _read(int.from_bytes(head, "little"))


def _read(size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (piece := os.read(0, min(_CHUNK, size - len(found)))):
        found += piece
    return bytes(found)


def _write(into: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(into, view) :]


if __name__ == "__main__":
    main()
