"""The auditor's tutorial: its files are written and its commands run as they are printed, but for the port."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "auditing-tutorial.md"
BIN = Path(sys.executable).parent
MARK = "<<<done>>>"


class Command(NamedTuple):
    """A command of the page, and what it prints there."""

    line: str
    output: str


def parts() -> Iterator[tuple[str, str]]:
    """Yield the page's fenced parts: kind and text."""
    yield from re.findall(r"^```(console|python)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of a part."""
    for one in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = one.partition("\n")
        yield Command(line, output)


class Shell:
    """One shell, as a reader has it open: variables and background jobs stay."""

    def __init__(self, folder: Path) -> None:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, line: str) -> str:
        """Run a line; return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\necho {shlex.quote(MARK)}\n")
        self._process.stdin.flush()
        printed = []
        for text in self._process.stdout:
            if text == MARK + "\n":
                return "".join(printed)
            printed.append(text)
        raise AssertionError(f"the shell ended: {''.join(printed)}")

    def close(self) -> None:
        """End it, and what it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=30)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def test_the_tutorial_works_as_printed(shell: Shell, tmp_path: Path) -> None:
    port = str(free_port())
    checker, ran = doctest.OutputChecker(), 0
    for kind, text in parts():
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name is not None
            (tmp_path / name.group(1)).write_text(text, "utf-8")
            continue
        for command in commands(text):
            got = shell.run(command.line.replace("8734", port)).replace(port, "8734")
            wanted = command.output
            if command.line.endswith("&") or not wanted:
                continue
            ran += 1
            assert checker.check_output(wanted, got, doctest.ELLIPSIS), f"$ {command.line}\n{got}"
    assert ran >= 15


def test_every_part_is_run() -> None:
    text = PAGE.read_text("utf-8")
    assert text.count("```") == 2 * len(list(parts()))
    assert sum(len(list(commands(text))) for kind, text in parts() if kind == "console") >= 20
