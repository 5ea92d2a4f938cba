"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

RUN = (sys.executable, "-m", "hyperpy")


def run(*words: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run([*RUN, *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("served")
    process = subprocess.Popen([*RUN, "serve", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    yield folder, line.split()[4]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_get_without_a_node(tmp_path: Path) -> None:
    assert run("get", "/~calculator@1.0&a=20/add&b=22", cwd=tmp_path).strip() == "42"
    assert json.loads(run("get", "/~message@1.0&a+list=1,2/a", "--json", cwd=tmp_path)) == [1, 2]
    assert "Did you mean 'calculator@1.0'?" in run("get", "/~calculatr@1.0/add", cwd=tmp_path, code=1)


def test_first_run_makes_private_keys(served: tuple[Path, str]) -> None:
    folder, url = served
    for name in ("hyperpy-wallet.json", "operator.json"):
        assert os.stat(folder / name).st_mode & 0o777 == 0o600
    shown = json.loads(run("wallet", "show", "--json", cwd=folder))["address"]
    with urllib.request.urlopen(url + "/~meta@1.0/info/address") as reply:
        assert reply.read().decode() == shown


def test_a_second_serve_on_the_same_store_is_refused(served: tuple[Path, str]) -> None:
    folder, _ = served
    text = run("serve", "--port", "0", cwd=folder, code=1)
    assert "another process" in text or "in use" in text or "pid" in text.lower()


def test_the_trail_of_a_reply(served: tuple[Path, str]) -> None:
    folder, url = served
    assert run("get", "/~calculator@1.0&a=1/add&b=2", "--url", url, cwd=folder).strip() == "3"
    with urllib.request.urlopen(url + "/~calculator@1.0&a=1/add&b=2") as reply:
        hashpath = re.search(r'tag="([^"]+)"', reply.headers["signature-input"])
    assert hashpath is not None
    rows = json.loads(run("trail", hashpath[1], "--json", cwd=folder))
    assert [row["step"] for row in rows] == ["calculator@1.0/add"]
    assert run("trail", "-nothing/here", cwd=folder, code=1).startswith("error: the trail knows no step")


def test_store_stats_and_verify_beside_a_running_node(served: tuple[Path, str]) -> None:
    folder, _ = served
    assert json.loads(run("store", "stats", "--json", cwd=folder))["tables"]["trail"] > 0
    assert json.loads(run("store", "verify", "--json", cwd=folder)) == []


def test_a_new_device_passes_its_test(tmp_path: Path) -> None:
    run("new", "device", "shout", cwd=tmp_path)
    folder = tmp_path / "hyperpy-shout"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", str(folder)], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    said = run("get", "/~shout@1.0&text=hey/say", "--device", str(folder / "shout.py"), cwd=tmp_path)
    assert said.strip() == "HEY!"
    assert "exists already" in run("new", "device", "shout", cwd=tmp_path, code=1)


@pytest.mark.parametrize("name", ["message", "test-device", "process"])
def test_no_new_device_takes_the_name_of_a_bundled_one(tmp_path: Path, name: str) -> None:
    assert "Choose another name" in run("new", "device", name, cwd=tmp_path, code=1)
    assert not list(tmp_path.iterdir())


def test_a_device_file_that_breaks_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from hyperpy import device\n\ndevice(\n", "utf-8")
    told = run("get", "/~meta@1.0/info", "--device", "broken.py", cwd=tmp_path, code=1)
    assert "(line 3)" in told
    assert "Mend the file" in told
    assert "hyperpy config" not in told


def test_config_names_the_typo(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[http]\nprot = 1\n", "utf-8")
    assert "Did you mean 'port'?" in run("config", "--config", "node.toml", cwd=tmp_path, code=1)


def test_the_demo_reproduces_what_it_did(tmp_path: Path) -> None:
    rows = json.loads(run("demo", "--json", cwd=tmp_path))
    assert [row["verdict"] for row in rows] == ["reproduced"] * 6
