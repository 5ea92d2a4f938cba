"""The demonstration: the main job on a real node, on a free port, in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperpy import config
from hyperpy.audit import text
from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source
from hyperpy.audit.replay import Options, replay
from hyperpy.client import Client
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import open_node
from hyperpy.verdicts import Report

_SHOUT = """from hyperpy import device, key


@device("shout@1.0")
class Shout:
    @key
    def say(self, text: str, times: int = 1) -> str:
        return " ".join([text.upper() + "!"] * times)
"""
_TALLY = """from hyperpy import Message, device, key


@device("tally@1.0")
class Tally:
    @key
    def init(self, base: Message) -> Message:
        return base | {"votes": 0}

    @key
    def compute(self, base: Message, request: Message) -> Message:
        votes = base["votes"] + int(request["body"].text("votes", "0"))
        return base | {"votes": votes, "results": {"output": f"{votes} votes"}}
"""
_PATHS = (
    ("compose a path", "/~message@1.0&greeting=hello/set&name=world/set&year+integer=2026"),
    ("call a device", "/~calculator@1.0&a=20/add&b=22"),
    ("your own device", "/~shout@1.0&text=hey/say&times=2"),
)


def run(progress: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Run the demonstration; return what it did, one row per request.

    Raises:
        HyperpyError: a step failed.
        AssertionError: a result made again differs from the one that was served.
    """
    say = progress or (lambda _: None)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hyperpy-demo-") as temporary:
        folder = Path(temporary)
        files = {folder / "shout.py": _SHOUT, folder / "tally.py": _TALLY}
        for file, code in files.items():
            file.write_text(code, "utf-8")
        say("Making the node's, the operator's and a user's keys (RSA-4096) ...")
        user = RsaKey.generate()
        settings = config.load(
            environ={},
            flags={
                "store.dir": str(folder / "store"),
                "meta.wallet": str(folder / "wallet.json"),
                "devices.files": [str(file) for file in files],
            },
        )
        with open_node(settings) as node:
            server = Server(node, "127.0.0.1", 0)
            server.start()
            say(f"A node is running at {server.url}; its address is {node.address}.\n")
            try:
                with Client(server.url) as client:
                    rows += [_ask(client, title, path, say) for title, path in _PATHS]
                with Client(server.url, user) as client:
                    rows += _process(client, node.address, say)
            finally:
                server.stop()
        say("The node has stopped. Now everything is made again, from the store alone:\n")
        _audit(rows, settings, say)
        say("\nTo try it yourself:\n  hyperpy serve --port 8734")
        for _, path in _PATHS[:2]:
            say(f"  curl 'http://localhost:8734{path}'")
    return rows


def _ask(client: Client, title: str, path: str, say: Callable[[str], None]) -> dict[str, Any]:
    reply = client.get(path)
    shown: Any = reply.text("body") if reply.get("ao-result") == b"body" else dict(reply.raw_items())
    hashpath = reply.hashpath or ""
    say(f"{title}\n  GET {path}\n  result    {shown if isinstance(shown, str) else _keys(reply)}")
    say(f"  hashpath  {hashpath}\n  signed by {', '.join(client.signers(reply))}\n")
    return {"title": title, "path": path, "hashpath": hashpath}


def _process(client: Client, scheduler: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Spawn a process, send it two messages, compute, and check its schedule."""
    spawned = client.send(
        "/~scheduler@1.0/schedule",
        {
            "device": "process@1.0",
            "type": "Process",
            "scheduler-device": "scheduler@1.0",
            "execution-device": "tally@1.0",
            "scheduler": scheduler,
        },
    )
    process = spawned.text("process")
    for votes in ("3", "4"):
        client.send(f"/{process}/schedule", {"target": process, "type": "Message", "votes": votes})
    output = client.get(f"/{process}/now/results/output").text("body")
    schedule = client.get(f"/~scheduler@1.0/verify-schedule&target={process}")
    say(f"a process\n  its ID     {process}\n  scheduled  itself (slot 0), then two signed messages")
    say(f"  GET /{process}/now/results/output\n  result     {output}")
    say(f"  schedule   {schedule.text('checked')} slots checked, valid: {schedule.text('valid')}\n")
    assert schedule.text("valid") == "true", "the schedule does not verify"
    title = "slot {slot} of the process"
    return [
        {"title": title.format(slot=slot), "path": f"/{process}/compute={slot}", "process": process, "slot": slot}
        for slot in range(3)
    ]


def _keys(reply: Message) -> str:
    wanted = ("greeting", "name", "year")
    return ", ".join(f"{name}: {reply.text(name)}" for name in wanted if name in reply)


def _audit(rows: list[dict[str, Any]], settings: config.Config, say: Callable[[str], None]) -> None:
    """Make again what was answered, with the devices and the store of the node; note each verdict."""
    options = Options(devices=settings.devices.files, config=settings)
    reports: dict[str, Report] = {}
    with Source(folder=settings.store.dir).open() as evidence:
        for row in rows:
            ref = row["process"] if "slot" in row else row["hashpath"]
            if ref not in reports:
                reports[ref] = replay(evidence, collect(evidence, ref), options)
            report = reports[ref]
            step = report.steps[row.get("slot", -1)]
            row["hashpath"], row["verdict"] = step.after, step.verdict.value
            say(f"  {row['verdict']}: {row['title']}  {row['hashpath']}")
            assert report.exit_code() == 0, text.render(report)
