"""The documentation is true: examples run, tables equal the code, README's lines work."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
from rules import OWN, SIDES
from typer.main import get_command
from typer.testing import CliRunner

from hyperpy import cli
from hyperpy.cli import app as shared
from hyperpy.cli.devices import page
from hyperpy.testing import node

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("file", [f for f in PAGES if f.name != "paths.md"], ids=lambda f: f.name)
def test_examples_run(file: Path) -> None:
    failed, _ = doctest.testfile(str(file), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("file", PAGES, ids=lambda f: f.name)
def test_links_lead_somewhere(file: Path) -> None:
    missing = [
        target
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text("utf-8"))
        if not (file.parent / target).exists()
    ]
    assert not missing


def test_devices_page_is_the_code() -> None:
    assert (ROOT / "docs/devices.md").read_text("utf-8") == page(), "run: hyperpy devices --markdown > docs/devices.md"


def test_compatibility_page_has_every_rule() -> None:
    text = (ROOT / "docs/compatibility.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (F|S|both|neither|ours) \|", text, re.MULTILINE))
    assert rows == {**SIDES, **{rule.name: "ours" for rule in OWN}}


def test_files_that_pages_name_exist() -> None:
    for file in PAGES:
        for named in re.findall(r"`((?:hyperpy|devices|tests|docs)/[\w./-]+\.(?:py|md))`", file.read_text("utf-8")):
            assert (ROOT / named).exists(), f"{file.name} names {named}"


def _commands() -> list[tuple[str, ...]]:
    cli.app.register_all()
    found: list[tuple[str, ...]] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(path)
            return
        for name, child in inner.items():
            walk(child, (*path, name))

    walk(get_command(shared.app), ())
    return found


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    outcome = CliRunner().invoke(shared.app, [*command, "--help"])
    assert outcome.exit_code == 0
    assert f"Example: hyperpy {' '.join(command)}" in outcome.output


def _curls() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8") + (ROOT / "docs/http-api.md").read_text("utf-8")
    return [line for line in text.splitlines() if line.startswith("curl ") and ":8734" in line]


@pytest.mark.parametrize("line", _curls())
def test_curl_lines_answer(line: str) -> None:
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http"))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = next((words[at + 1].encode() for at, word in enumerate(words) if word == "-d"), b"")
    path = url.partition(":8734")[2]
    with node() as n:
        reply = n.http("POST" if body else "GET", path, headers, body)
    wrong = "calculatr" in path or "/nope" in path
    assert (reply.status >= 400) == wrong, (reply.status, reply.body[:200])
    assert b"Did you mean 'calculator@1.0'" in reply.body or "calculatr" not in path
