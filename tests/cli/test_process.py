"""``hyperpy process``: spawn, send, state, log, watch against a served node, as a person types them."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)
RUN = (sys.executable, "-m", "hyperpy")
ID = re.compile(r"[A-Za-z0-9_-]{43}")


class Person:
    """Somebody with a wallet in a folder, and a node elsewhere."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def run(self, *words: str, code: int = 0) -> str:
        command = [*RUN, "process", *words, "--url", self.url]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("node")
    process = subprocess.Popen([*RUN, "serve", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    yield Person(tmp_path_factory.mktemp("user"), line.split()[4])
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def process(person: Person) -> str:
    made = person.run("spawn", "--device", "test-device@1.0", "--tag", "Name=Ada").strip()
    assert ID.fullmatch(made)
    return made


def test_the_users_wallet_is_private(person: Person, process: str) -> None:
    """Spawning made a wallet that only its owner can read, and signed with it."""
    wallet = person.folder / "hyperpy-user.json"
    assert os.stat(wallet).st_mode & 0o777 == 0o600
    shown = subprocess.run(
        [*RUN, "wallet", "show", str(wallet), "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    [first] = json.loads(person.run("log", process, "--to", "0", "--json"))
    assert first["from"] == json.loads(shown.stdout)["address"]
    assert (first["slot"], first["message"], first["action"]) == (0, process, "Process")


def test_send_state_and_log(person: Person) -> None:
    """Slots count up, a state can be asked for by slot and by path, the log names every message."""
    process = person.run("spawn", "--device", "test-device@1.0", "--tag", "Name=Bob").strip()
    sent = json.loads(person.run("send", process, "--action", "Inc", "--data", "5", "--json"))
    assert (sent["slot"], sent["process"], sent["assignment-slot"]) == (1, process, 1)
    (person.folder / "long.txt").write_text("some\ntext", "utf-8")
    only = person.run("send", process, "--data", "@long.txt", "--tag", "X=1", "--no-push", "--json")
    assert json.loads(only) == {"process": process, "slot": 2}
    assert json.loads(person.run("state", process, "already-seen", "--slot", "1", "--json")) == {"1": 1, "2": 0}
    state = json.loads(person.run("state", process, "--json"))
    assert (state["already-seen"], state["at-slot"], state["name"]) == ([2, 1, 0], 2, "Bob")
    rows = json.loads(person.run("log", process, "--json"))
    assert [(row["slot"], row["action"]) for row in rows] == [(0, "Process"), (1, "Inc"), (2, "Message")]
    assert all(ID.fullmatch(row["message"]) for row in rows)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["time"]) for row in rows)
    assert [row["slot"] for row in json.loads(person.run("log", process, "--from", "1", "--to", "1", "--json"))] == [1]
    assert rows[2]["message"] in person.run("log", process)


def test_watch_follows(person: Person, process: str) -> None:
    """What is sent while somebody watches is shown, with what it gave; Ctrl-C ends it."""
    command = [*RUN, "process", "watch", process, "--json", "--interval", "0.05", "--url", person.url]
    watching = subprocess.Popen(
        [*command, "--from", "0"], cwd=person.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["slot"] == 0
        slot = json.loads(person.run("send", process, "--action", "Ping", "--no-push", "--json"))["slot"]
        row = json.loads(watching.stdout.readline())
        assert (row["slot"], row["action"], row["results"]) == (slot, "Ping", {"assignment-slot": slot})
    finally:
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Traceback" not in said
    lines = person.run("watch", process, "--from", "0", "--count", "1").splitlines()
    assert process in lines[0]
    assert lines[1].strip() == '{"assignment-slot": 0}'


LUA = """
function compute(base, req, opts)
  if req.body.action == "Fail" then error("no such luck") end
  base.count = (base.count or 0) + (tonumber(req.body.data) or 0)
  base.results = { output = { body = "Count: " .. base.count } }
  return base
end
"""


def test_a_lua_process_from_a_file(person: Person) -> None:
    """The module is stored on the way; what a slot gave is shown by send, state and watch, errors too."""
    (person.folder / "counter.lua").write_text(LUA, "utf-8")
    process = person.run("spawn", "--module", "counter.lua").strip()
    sent = json.loads(person.run("send", process, "--data", "5", "--json"))
    assert (sent["slot"], sent["output"]) == (1, {"body": "Count: 5"})
    person.run("send", process, "--action", "Fail", "--no-push")
    person.run("send", process, "--data", "2", "--no-push")
    assert json.loads(person.run("state", process, "count", "--json")) == 7
    assert person.run("state", process, "results/output/body", "--slot", "1").strip() == "Count: 5"
    rows = [
        json.loads(line) for line in person.run("watch", process, "--from", "1", "--count", "3", "--json").splitlines()
    ]
    assert [row["slot"] for row in rows] == [1, 2, 3]
    assert "no such luck" in json.dumps(rows[1]["results"])
    assert rows[2]["results"] == {"output": {"body": "Count: 7"}}


def test_mistakes_are_explained(person: Person, process: str) -> None:
    """Unknown processes, slots and tags: exit code 1 and a next step."""
    for verb in ("state", "log", "watch"):
        assert "this node holds no message" in person.run(verb, "A" * 43, code=1)
    assert "NAME=VALUE" in person.run("send", process, "--tag", "oops", code=1)
    before = person.run("log", process, "--json")
    for name in ("slot", "Slot"):
        assert "'slot'" in person.run("send", process, "--tag", f"{name}=1", code=1)
    assert person.run("log", process, "--json") == before
    assert "no file and no ID" in person.run("spawn", "--module", "nowhere.lua", code=1)
    assert "slot" in person.run("state", process, "--slot", "99", code=1)
    assert "cannot be read" in person.run("send", process, "--data", "@/nope", code=1)
    assert "cannot be read" in person.run("send", process, "--data", "@/", code=1)
    assert "holds no message" in person.run("spawn", "--module", "A" * 43, code=1)
    person.run("watch", process, "--interval", "inf", code=2)
    assert "LocalProtocolError" not in person.run("state", process, "ü", code=1)


def test_a_refusal_is_no_success(person: Person, process: str) -> None:
    """Errors that the node says in plain text end with exit code 1 as well."""
    said = person.run("send", process, "--tag", "content-type=application/json", "--data", "{", code=1)
    assert "the node answered 4" in said


def test_a_message_may_have_a_path(person: Person) -> None:
    """In a process of Lua the message's path names the function; HTTP's own path is another."""
    code = "function other(base, req)\n  base.found = 'other'\n  return base\nend\n"
    (person.folder / "two.lua").write_text(code, "utf-8")
    process = person.run("spawn", "--module", "two.lua", "--tag", "method=GET").strip()
    person.run("send", process, "--tag", "path=other")
    assert person.run("state", process, "found").strip() == "other"


def test_a_web_server_is_no_node(person: Person, process: str) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = Person(person.folder, f"http://127.0.0.1:{server.server_port}")
        assert "no AO-Core node" in other.run("state", process, code=1)
        server.shutdown()


def test_watch_waits_for_a_node_that_restarts(tmp_path: Path) -> None:
    """It goes on where it was, once the node is back; a node that was never there is an error."""

    def serve(port: str) -> tuple[subprocess.Popen[str], str]:
        made = subprocess.Popen([*RUN, "serve", "--port", port], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        return made, made.stdout.readline().split()[4]

    node, url = serve("0")
    someone = Person(tmp_path, url)
    process = someone.run("spawn", "--device", "test-device@1.0").strip()
    command = [*RUN, "process", "watch", process, "--json", "--interval", "0.1", "--from", "0", "--count", "2"]
    watching = subprocess.Popen([*command, "--url", url], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["slot"] == 0
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
        someone.run("watch", process, "--from", "0", code=1)
        time.sleep(0.5)
        assert watching.poll() is None
        node, _ = serve(url.rsplit(":", 1)[1])
        someone.run("send", process, "--no-push")
        assert json.loads(watching.stdout.readline())["slot"] == 1
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.wait()
        node.send_signal(signal.SIGTERM)
        node.wait(30)
