"""devices, new device."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hyperpy.cli.app import DeviceFiles, Json, out, show
from hyperpy.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(devices)
    new = typer.Typer(no_args_is_help=True, help="Start something new.")
    new.command("device")(new_device)
    app.add_typer(new, name="new")


def devices(
    device: DeviceFiles = [],  # noqa: B006
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/devices.md.")] = False,
) -> None:
    """List the devices of this installation.

    Example: hyperpy devices
    """
    from hyperpy.registry import Registry

    if markdown:
        print(page(), end="")
        return
    registry = Registry(device)
    rows = {name: registry.owner(name) for name in registry.names()}
    if json:
        show(rows, True)
        return
    table = Table("device", "brought by", box=None)
    for name, owner in rows.items():
        table.add_row(name, owner)
    out.print(table)


def page() -> str:
    """Return docs/devices.md: every bundled device with its keys, from the code."""
    from hyperpy.registry import BUNDLED, bundled_spec

    lines = [
        "# Bundled devices",
        "",
        "Made by `hyperpy devices --markdown`; a test compares. Keys marked * are not deterministic: their steps are",
        "attested, not recomputed. Every device also answers `info`; other keys fall to `message@1.0`.",
        "",
    ]
    for name in sorted(set(BUNDLED) - {"stack-transformer@1.0"}):
        spec = bundled_spec(name)
        lines += [f"## {name}", "", spec.doc.split("\n\n")[0].replace("\n", " "), ""]
        keys = [*spec.keys.values()]
        rows = [(key.name, key) for key in sorted(keys, key=lambda key: key.name) if key.name != "info" or key.own]
        rows += [("any key", spec.handler)] if spec.handler else []
        rows += [("other keys", spec.default)] if spec.default else []
        if rows:
            lines += ["| key | parameters | does |", "|---|---|---|"]
        for label, key in rows:
            parameters = ", ".join(f"`{item.wire}` {item.type}" for item in key.parameters)
            star = "" if key.deterministic else " *"
            lines.append(f"| `{label}`{star} | {parameters} | {key.doc.split(chr(10))[0].replace('|', '/')} |")
        lines.append("")
    return "\n".join(lines)


def new_device(
    name: Annotated[str, typer.Argument(help="Name of the device, such as 'shout'.")],
    folder: Annotated[Path, typer.Option(help="Where to make its folder.")] = Path(),
) -> None:
    """Make a device with a test and the metadata to install it.

    Example: hyperpy new device shout
    """
    from hyperpy.registry import BUNDLED

    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' is no device name", hint="Use lower-case letters, digits and '-'.")
    if f"{name}@1.0" in BUNDLED:
        raise ConfigError(f"hyperpy brings a device '{name}@1.0' itself", hint="Choose another name.")
    target = folder / f"hyperpy-{name}"
    if target.exists():
        raise ConfigError(f"{target} exists already", hint="Choose another name, or remove it.")
    module, cls = name.replace("-", "_"), "".join(part.title() for part in name.split("-"))
    target.mkdir(parents=True)
    for file, text in _FILES.items():
        made = text.replace("NAME", name).replace("MODULE", module).replace("CLASS", cls)
        (target / file.replace("MODULE", module)).write_text(made, "utf-8")
    out.print(f"made {target}", markup=False, soft_wrap=True)
    out.print(f"  test it:   pytest {target}", markup=False, soft_wrap=True)
    out.print(f"  serve it:  hyperpy serve --device {target / module}.py --reload", markup=False, soft_wrap=True)
    ask = f"hyperpy get '/~{name}@1.0&text=hey/say' --device {target / module}.py"
    out.print(f"  ask it:    {ask}", markup=False, soft_wrap=True)


_FILES = {
    "MODULE.py": '''"""NAME@1.0: says a text louder. Change it into what you need."""

from hyperpy import device, key


@device("NAME@1.0")
class CLASS:
    @key
    def say(self, text: str) -> str:
        """Return the text in capitals with an exclamation mark."""
        return text.upper() + "!"
''',
    "test_MODULE.py": '''"""Tests of NAME@1.0."""

from pathlib import Path

from hyperpy.testing import node


def test_say() -> None:
    with node(Path(__file__).with_name("MODULE.py")) as n:
        assert n.get("/~NAME@1.0&text=hey/say")["body"] == b"HEY!"
''',
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "hyperpy-NAME"
version = "0.1.0"
description = "The hyperpy device NAME@1.0"
requires-python = ">=3.11"
dependencies = ["hyperpy"]

[project.entry-points."hyperpy.devices"]
"NAME@1.0" = "MODULE:CLASS"

[tool.hatch.build.targets.wheel]
include = ["MODULE.py"]
""",
}
