"""Starts the Node scripts of tests/compat/js, or says what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy.keys import RsaKey
from tests.compat.serving import LUA, Clients, keeper, served, spawn, tags, text_of

FOLDER = Path(__file__).parent / "js"


class Script:
    """One running Node script: requests and answers are JSON lines."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            ["node", str(FOLDER / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def ask(self, **request: Any) -> Any:
        """Send one request and return its answer; AssertionError with the library's text if it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the Node script ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def close(self) -> None:
        """End the script."""
        self._process.communicate(timeout=10)


def _modules() -> Path:
    named = os.environ.get("HYPERPY_NODE_MODULES")
    return Path(named) if named else FOLDER / "node_modules"


@pytest.fixture(scope="module")
def node_script() -> Iterator[Callable[[str, str], Script]]:
    """Give a function (script, package) -> running script; skips where Node or the package is missing."""
    started: list[Script] = []

    def start(name: str, package: str) -> Script:
        if shutil.which("node") is None:
            pytest.skip("node is not installed (Debian package: nodejs)")
        if not (_modules() / package).is_dir():
            pytest.skip(f"npm package {package} is missing: run `npm install` in tests/compat/js")
        started.append(Script(name))
        return started[-1]

    yield start
    for script in started:
        script.close()


@pytest.fixture(scope="module")
def js(node_script: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients of one user at a node that runs for the tests of one file."""
    script = node_script("clients.cjs", "wao")
    with served(tmp_path_factory.mktemp("clients")) as url:
        yield Clients(script, url, RsaKey.generate(4096).to_jwk())


@pytest.fixture(scope="module")
def operator(js: Clients) -> str:
    """The node's address, as clients ask for it."""
    return text_of(js.get("/~meta@1.0/info/address"))


@pytest.fixture(scope="module")
def module(js: Clients, operator: str) -> str:
    """The ID of a Lua script, stored as a message of a process (arbundles)."""
    made = js.item(
        f"/{keeper(js, operator)}/schedule",
        LUA,
        tags=[
            *tags(Type="Module", Data_Protocol="ao", Content_Type="application/lua", Module_Format="lua"),
            *tags(Input_Encoding="message", Output_Encoding="message"),
        ],
    )
    assert made["status"] == 200
    return str(made["id"])


@pytest.fixture(scope="module")
def process(js: Clients, module: str) -> str:
    """A Lua process that aoconnect 0.0.98 spawned."""
    return spawn(js, module)
