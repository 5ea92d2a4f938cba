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
