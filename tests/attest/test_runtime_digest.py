"""The runtime digest: what code a node runs shows in its evidence."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hyperpy
from hyperpy import Message, config, device, key
from hyperpy.attest import bundle, statement, verifier
from hyperpy.attest.policy import Policy
from hyperpy.attest.snp_policy import SnpPolicy
from hyperpy.attestation import Attestation
from hyperpy.attestation_code import _digest, node_digest, runtime_digest
from hyperpy.attester import configfs
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u_decode
from hyperpy.errors import ConfigError
from hyperpy.node import Node
from hyperpy.registry import Registry
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.attest import fake_amd, fake_kernel

DEVICE = '''
from hyperpy import Message, device, key

@device("{name}")
class Added:
    @key
    def say(self) -> Message:
        """Answer."""
        return Message({{"word": "{word}"}})
'''


@device("said@1.0")
class Said:
    """A device given as a class."""

    @key
    def say(self) -> Message:
        """Answer."""
        return Message({"word": "class"})


def written(path: Path, word: str, name: str = "added@1.0") -> Path:
    path.write_text(DEVICE.format(name=name, word=word), "utf-8")
    return path


def digest(registry: Registry, **flags: Any) -> bytes:
    return node_digest(config.load(environ={}, flags=flags), registry.added())


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


def test_a_source_tree_and_what_is_installed_from_it_have_one_digest(tmp_path: Path) -> None:
    own = {"__init__.py": "1", "devices/__init__.py": "2"}
    beside = {"devices/lua.py": "3", "devices/lua/a.lua": "4", "shaders/a.wgsl": "5"}
    source = tree(tmp_path / "source", {f"hyperpy/{name}": text for name, text in own.items()} | beside)
    (source / "pyproject.toml").touch()
    installed = tree(tmp_path / "site" / "hyperpy", own | beside)
    rows = sorted((name, hashlib.sha256(text.encode()).hexdigest()) for name, text in (own | beside).items())
    expected = hashlib.sha256("".join(f"{name} {one}\n" for name, one in rows).encode()).digest()
    assert _digest(source / "hyperpy") == _digest(installed) == expected
    tree(source, {"devices/__pycache__/lua.pyc": "x", "hyperpy/.cache/x": "x"})
    assert _digest(source / "hyperpy") == expected, "compiled copies are of no account"
    for name in beside:
        (source / name).write_text("changed", "utf-8")
        assert _digest(source / "hyperpy") != expected, name
        (source / name).write_text(beside[name], "utf-8")


def test_it_covers_the_bundled_devices_of_this_hyperpy(tmp_path: Path) -> None:
    root = Path(hyperpy.__file__).resolve().parent
    source = (root.parent / "pyproject.toml").is_file()
    copy = tmp_path / "hyperpy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("devices", "shaders") if source else ():
        shutil.copytree(
            root.parent / name, copy / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    assert _digest(copy) == runtime_digest()
    (copy / "devices" / "confidential.py").write_text("other", "utf-8")
    assert _digest(copy) != runtime_digest()


def test_whatever_the_operator_adds_changes_it(tmp_path: Path) -> None:
    plain = digest(Registry())
    file = written(tmp_path / "one.py", "one")
    found = [
        plain,
        digest(Registry([file])),
        digest(Registry([Said])),
        digest(Registry(), **{"devices.override": ["confidential@1.0"]}),
        digest(Registry(), **{"devices.grant": {"added@1.0": ["store"]}}),
        digest(Registry(), **{"devices.grant": {"added@1.0": ["store", "attester"]}}),
    ]
    assert plain == runtime_digest()
    written(file, "two")
    found.append(digest(Registry([file])))
    written(file, "two", "cache@1.0")
    found.append(digest(Registry([file], override=["cache@1.0"]), **{"devices.override": ["cache@1.0"]}))
    assert len(set(found)) == len(found)
    again = {"devices.grant": {"added@1.0": ["attester", "store"]}}
    assert digest(Registry(), **again) == found[5], "the order of a grant is of no account"


def test_a_file_that_is_loaded_again_shows_and_what_ran_before_stays(tmp_path: Path) -> None:
    file = written(tmp_path / "one.py", "one")
    registry = Registry([file])
    first = registry.added()
    written(file, "two")
    assert registry.added() == first, "what runs is what was loaded"
    registry.add_file(file)
    rows = registry.added()
    for word in ("one", "two"):
        text = DEVICE.format(name="added@1.0", word=word).encode()
        assert f"file {hashlib.sha256(text).hexdigest()}" in rows


def test_a_file_runs_from_its_own_bytes_never_from_a_compiled_copy(tmp_path: Path) -> None:
    file = written(tmp_path / "one.py", "evil")
    stat = file.stat()
    compiled = Path(importlib.util.cache_from_source(str(file)))
    py_compile.compile(str(file), str(compiled))
    written(file, "good")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Registry([file]).lookup("added@1.0").instance.say()["word"] == b"good"


def test_code_that_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    file = written(tmp_path / "one.py", "one")
    registry = Registry([file])
    file.unlink()
    with pytest.raises(ConfigError, match=r"added@1\.0"):
        registry.added()


def test_a_node_that_replaces_a_device_shows_it_in_every_statement(tmp_path: Path) -> None:
    file = written(tmp_path / "cache.py", "mine", "cache@1.0")
    flags = {"devices.override": ["cache@1.0"]}
    with node() as honest, node(file, flags=flags) as other:
        for purpose, fields in (
            ("node-identity", {}),
            ("channel", {}),
            ("result", {"request": bytes(32), "hashpath": b"", "result": bytes(32), "device": b"-"}),
        ):
            told = [
                statement.decode(one.node.attestation.statement(purpose, nonce=bytes(32), fields=fields).encode())
                for one in (honest, other)
            ]
            assert told[0].fields["runtime"] == runtime_digest() != told[1].fields["runtime"]


def test_a_policy_refuses_a_node_that_replaces_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    amd = fake_amd.trusted(monkeypatch)
    file = written(tmp_path / "confidential.py", "mine", "confidential@1.0")
    plain = Policy(snp=SnpPolicy(measurements=frozenset({fake_amd.MEASUREMENT})))
    strict = replace(plain, runtimes=frozenset({runtime_digest()}))
    for files, override, words in (
        ([], [], ["affirming", "affirming"]),
        ([file], ["confidential@1.0"], ["affirming", "contraindicated"]),
    ):
        inner = Node(
            config.load(environ={}, flags={"devices.override": override}),
            key=wallet(),
            store=MemoryStore(),
            operator=wallet("operator").address,
            devices=files,
            attester=configfs.Configfs(fake_kernel.snp(amd), "sev_guest"),
        )
        with inner:
            told = canonical.decode(b64u_decode(TestNode(inner).get("/~tee@1.0/attest").text("evidence")))
            assert isinstance(told, Message)
            wanted = verifier.Expected(fields={"purpose": b"node-identity", "kem": inner.attestation.kem})
            found = [
                verifier.verify(bundle.read(told), one, now=fake_amd.NOW, expected=wanted).word
                for one in (plain, strict)
            ]
            assert found == words


def test_without_a_node_devices_of_the_settings_show_too() -> None:
    settings = config.load(environ={}, flags={"devices.override": ["cache@1.0"]})
    own = Attestation(settings, wallet(), lambda: Message({"a": 1}))
    assert own.statement("channel", nonce=bytes(32)).fields["runtime"] == node_digest(settings, ()) != runtime_digest()
