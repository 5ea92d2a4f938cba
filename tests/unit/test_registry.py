"""Where devices come from: bundled, entry points, files; names, overrides, reload."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, device, key, registry
from hyperpy.cache import Batch
from hyperpy.commitments import content_id
from hyperpy.errors import ConfigError, DeviceNotFound
from hyperpy.registry import BUNDLED, Registry, implementation_digest
from hyperpy.sdk import spec_of
from hyperpy.testing import node

SOURCE = """
from hyperpy import device, key

@device("{name}@1.0")
class Shout:
    @key
    def say(self, text: str) -> str:
        return text.upper() + "{mark}"
"""


def write(folder: Path, name: str = "shout", mark: str = "!", file: str = "shout.py") -> Path:
    path = folder / file
    path.write_text(SOURCE.format(name=name, mark=mark), "utf-8")
    return path


@device("mine@1.0")
class Mine:
    @key
    def x(self) -> int:
        return 1


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_every_bundled_device_is_there(name: str) -> None:
    loaded = Registry().lookup(name)
    assert loaded.spec.name == name
    assert loaded.bundled


def test_names_are_sorted_and_say_who_brought_them() -> None:
    made = Registry([Mine])
    assert made.names() == sorted(made.names())
    assert made.owner("mine@1.0").endswith("Mine")
    assert made.owner("message@1.0") == "hyperpy.devices.message"
    assert not made.lookup("mine@1.0").bundled


def test_a_name_claimed_twice_names_both(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, file="other.py")
    with pytest.raises(ConfigError) as caught:
        Registry([first, second])
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message
    assert "override" in str(caught.value.hint)


def test_a_bundled_device_is_replaced_only_on_demand(tmp_path: Path) -> None:
    file = write(tmp_path, name="calculator")
    with pytest.raises(ConfigError, match=r"hyperpy\.devices\.calculator"):
        Registry([file])
    made = Registry([file], override=["calculator@1.0"])
    assert made.owner("calculator@1.0") == str(file)
    assert not made.lookup("calculator@1.0").bundled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "holds no device"),
        ("x = (", "does not import: SyntaxError"),
        ("import nowhere_at_all", "does not import: ModuleNotFoundError"),
        ("raise RuntimeError('no')", "does not import: RuntimeError: no"),
        ("from hyperpy import device\n@device('nameless')\nclass A: pass", "must look like word@1.0"),
        ("from hyperpy.devices.calculator import Calculator", "holds no device"),
    ],
)
def test_files_that_are_no_devices(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        Registry([file])
    assert said in caught.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Registry([tmp_path / "absent.py"])
    with pytest.raises(ConfigError, match="does not exist"):
        Registry([tmp_path])


def test_a_class_without_device() -> None:
    with pytest.raises(ConfigError, match="is no device"):
        Registry([dict])

    class Child(Mine):
        pass

    with pytest.raises(ConfigError, match="is no device"):
        spec_of(Child)


class Point:
    """An installed entry point."""

    def __init__(self, name: str, target: Any) -> None:
        self.name, self.value, self._target = name, "package:Class", target

    def load(self) -> Any:
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("mine@1.0", Mine), Point("yours@1.0", Mine), Point("broken@1.0", ImportError("no module"))]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    made = Registry()
    assert made.lookup("mine@1.0").owner == "entry point package:Class"
    with pytest.raises(ConfigError, match=r"promises device 'yours@1\.0' but defines 'mine@1\.0'"):
        made.lookup("yours@1.0")
    with pytest.raises(Exception, match="no module"):
        made.lookup("broken@1.0")
    assert made.lookup("message@1.0")


def test_suggestions() -> None:
    for wrong, right in (("mesage@1.0", "message@1.0"), ("message", "message@1.0"), ("JSON@1.0", "json@1.0")):
        with pytest.raises(DeviceNotFound) as caught:
            Registry().lookup(wrong)
        assert right in str(caught.value.hint)


# -- reload --------------------------------------------------------------------------------------


def test_reload_takes_the_new_code_and_forgets_the_old_results(tmp_path: Path) -> None:
    file = write(tmp_path)
    with node(file) as n:
        assert n.get("/~shout@1.0/say&text=hi")["body"] == b"HI!"
        old = n.node.registry.lookup("shout@1.0").implementation
        write(tmp_path, mark="?")
        assert n.node.reload(file) == ("shout@1.0",)
        assert n.get("/~shout@1.0/say&text=hi")["body"] == b"HI?"
        assert n.node.registry.lookup("shout@1.0").implementation != old


def test_reload_with_another_name(tmp_path: Path) -> None:
    file = write(tmp_path)
    made = Registry([file])
    made.lookup("shout@1.0")
    write(tmp_path, name="whisper")
    assert made.add_file(file) == ("whisper@1.0",)
    assert made.lookup("whisper@1.0")
    with pytest.raises(DeviceNotFound):
        made.lookup("shout@1.0")


def test_a_broken_reload_keeps_what_ran(tmp_path: Path) -> None:
    file = write(tmp_path)
    with node(file) as n:
        file.write_text("def broken(", "utf-8")
        with pytest.raises(ConfigError):
            n.node.reload(file)
        assert n.get("/~shout@1.0/say&text=hi")["body"] == b"HI!"


def test_reload_lets_actors_go(tmp_path: Path) -> None:
    file = tmp_path / "counter.py"
    text = (
        "from hyperpy import device, key\n"
        "@device('counter@1.0', one_per='who')\n"
        "class Counter:\n"
        "    count = {start}\n"
        "    @key(deterministic=False)\n"
        "    def bump(self) -> int:\n"
        "        self.count += 1\n"
        "        return self.count\n"
    )
    file.write_text(text.format(start=0), "utf-8")
    with node(file) as n:
        assert [n.get("/~counter@1.0&who=a/bump")["body"] for _ in range(3)] == [1, 2, 3]
        assert n.get("/~counter@1.0&who=b/bump")["body"] == 1
        file.write_text(text.format(start=100), "utf-8")
        n.node.reload(file)
        assert n.get("/~counter@1.0&who=a/bump")["body"] == 101


def test_a_cached_result_belongs_to_its_code(tmp_path: Path) -> None:
    file = write(tmp_path)
    with node(file) as n:
        base = Message({"device": "shout@1.0", "text": "hi"})
        batch = Batch()
        n.node.cache.put(base, batch)
        batch.commit(n.node.store)
        assert n.get(f"/{content_id(base)}/say")["body"] == b"HI!"
        write(tmp_path, mark="?")
        n.node.reload(file)
        assert n.get(f"/{content_id(base)}/say")["body"] == b"HI?"


# -- the implementation's digest ---------------------------------------------------------------------


def digest(file: Path) -> str:
    return Registry([file]).lookup("shout@1.0").implementation


def test_the_digest_names_the_code(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first = digest(write(one))
    assert digest(write(two)) == first, "where it lies does not matter"
    assert digest(write(two, mark="?")) != first
    assert digest(write(one, file="renamed.py")) != first, "its name does"


def test_the_digest_covers_a_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shouting"
    package.mkdir()
    (package / "__init__.py").write_text("", "utf-8")
    (package / "helper.py").write_text("LOUD = 1\n", "utf-8")
    write(package, file="main.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("shouting.main")
    first = implementation_digest(spec_of(module.Shout))
    (package / "helper.py").write_text("LOUD = 2\n", "utf-8")
    assert implementation_digest(spec_of(module.Shout)) != first


def test_a_missing_shader_is_said(tmp_path: Path) -> None:
    @device("shaded@1.0", shaders=("absent.wgsl",))
    class Shaded:
        @key
        def x(self) -> int:
            return 1

    with pytest.raises(ConfigError, match=r"absent\.wgsl"):
        Registry([Shaded]).lookup("shaded@1.0")


def test_a_directory_named_like_a_file(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "device.py")
    with pytest.raises(ConfigError):
        Registry([tmp_path / "device.py"])


def test_the_digest_covers_the_modules_a_device_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "engine_of_shout"
    package.mkdir()
    (package / "__init__.py").write_text("", "utf-8")
    (package / "rules.txt").write_text("one", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest() -> str:
        @device("engine@1.0", uses=("engine_of_shout",))
        class Engine:
            @key
            def run(self) -> int:
                return 1

        return implementation_digest(spec_of(Engine))

    first = digest()
    assert digest() == first
    (package / "rules.txt").write_text("two", "utf-8")
    assert digest() != first
