"""A real ``hyperpy serve`` on loopback, and what the client tests do with it first."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ID = re.compile(r"[A-Za-z0-9_-]{43}")
NEWEST, OLDER, OLDEST = "aoconnect-98", "aoconnect-85", "aoconnect-77"
NODE_MODULES = Path(os.environ.get("HYPERPY_NODE_MODULES") or Path(__file__).parent / "js" / "node_modules")
LUA = """
function compute(base, req, opts)
  local body = type(req.body) == "table" and req.body or req
  local action = body.action or body.Action
  if action == "Fail" then error("no such luck") end
  if action == "Inc" then base.count = (base.count or 0) + (tonumber(body.data) or 1) end
  base.results = { output = { body = "Count: " .. tostring(base.count or 0) }, outbox = {} }
  if action == "Echo" then
    base.results.outbox["1"] = { target = body.reply or "nobody", action = "Echoed", data = body.data }
  end
  return base
end
"""


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Run ``hyperpy serve`` in a folder; gives the URL."""
    command = [sys.executable, "-m", "hyperpy", "serve", "--port", "0", "--host", "127.0.0.1", *options]
    environment = {"HYPERPY_NODE_MODULES": str(NODE_MODULES), **os.environ}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split()[4]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Clients:
    """JavaScript clients of one user at one node."""

    def __init__(self, script: Any, url: str, jwk: dict[str, str]) -> None:
        self.url = url
        self.jwk = jwk
        self._script = script

    def call(self, client: str, fn: str, *args: Any, **options: Any) -> Any:
        """Return what the client's method gives its caller; AssertionError with the text it throws."""
        return self._ask("call", client=client, fn=fn, args=[_shown(one) for one in args], options=options)

    def failure(self, client: str, fn: str, *args: Any) -> str:
        """Return the text that a failing call throws."""
        found = self._ask("failure", client=client, fn=fn, args=[_shown(one) for one in args])
        assert "thrown" in found, found
        return str(found["thrown"])

    def item(
        self,
        path: str,
        data: Any,
        headers: dict[str, str] | None = None,
        signer: tuple[str, str] = ("", ""),
        **item: Any,
    ) -> Any:
        """Post an item that arbundles made; give its ID and bytes beside the reply.

        Args:
            signer: another kind of key than the user's wallet, and its secret.
            item: ``tags``, ``target``, ``anchor``.
        """
        made = {"data": _shown(data), **item}
        return self._ask("item", path=path, item=made, headers=headers or {}, kind=signer[0], secret=signer[1])

    def get(self, path: str, **headers: str) -> Any:
        """Give status, headers and body (base64) of a plain GET by ``fetch``."""
        return self._ask("get", path=path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def hbsig(self, *, sign_path: bool = True, **fields: Any) -> Any:
        """Sign fields with hbsig, send them, give what it decodes."""
        return self._ask(
            "hbsig", signPath=sign_path, fields=_shown({key.replace("_", "-"): one for key, one in fields.items()})
        )

    def _ask(self, op: str, **request: Any) -> Any:
        return self._script.ask(op=op, url=self.url, jwk=self.jwk, **request)


def tags(**named: str) -> list[dict[str, str]]:
    """Return tags as arbundles and aoconnect take them; ``_`` in names stands for ``-``."""
    return [{"name": name.replace("_", "-"), "value": value} for name, value in named.items()]


def _shown(item: Any) -> Any:
    if isinstance(item, bytes):
        return {"$bytes": b64encode(item).decode("ascii")}
    if isinstance(item, dict):
        return {key: _shown(one) for key, one in item.items()}
    return [_shown(one) for one in item] if isinstance(item, (list, tuple)) else item


def keeper(js: Clients, operator: str) -> str:
    """Return a process that only keeps what is scheduled to it."""
    definition = tags(Type="Process", device="process@1.0", scheduler_device="scheduler@1.0", Scheduler=operator)
    made = js.item("/~process@1.0/schedule", "1984", tags=definition)
    assert made["headers"]["process"] == made["id"]
    return str(made["id"])


def spawn(js: Clients, module: str, **more: str) -> str:
    """Return a Lua process that aoconnect 0.0.98 spawned."""
    made = js.call(NEWEST, "spawn", {"module": module, "tags": tags(execution_device="lua@5.3a", **more)})
    assert ID.fullmatch(made)
    return str(made)


def text_of(reply: Any) -> str:
    """Return the body of a plain GET as text."""
    return b64decode(reply["body"]).decode("utf-8")


def json_of(reply: Any) -> Any:
    """Return the body of a plain GET as JSON."""
    return json.loads(b64decode(reply["body"]))
