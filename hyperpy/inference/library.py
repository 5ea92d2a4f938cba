"""Models on disk: converted once, named by what they are, checked whenever they are loaded.

A model is a folder named by its model-id (hex) with ``weights`` (the payloads of 4.5, one after another),
``tokenizer.json`` and ``manifest.json``. Loading reads the payloads whole and hashes what was read, so weights that
rotted on disk are refused before they can make a wrong token. They are not mapped: a file that is written to or cut
while it is mapped would change tokens, or end the process.
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hyperpy.errors import CodecError, Corrupt, NotFound, ParameterError, StoreError
from hyperpy.inference import blocks, checkpoint, gguf, weights
from hyperpy.inference.model import Config, Model, check_shapes, config_of
from hyperpy.inference.reference import Engine
from hyperpy.inference.tokenizer import Tokenizer, fields_of
from hyperpy.inference.weights import Matrix, Norm, Weight

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of how many."""

ALIGN = 64
_LOCK, _YOUNG_S = ".lock", 60.0
LARGEST = 2**30
"""A calibration run whose residual stream passes this wants fewer fraction bits (5.1)."""
_CALIBRATION = "In 1843 the first program was written: 12 steps, 25 variables.\n\ndef f(x): return x * 7 # naïve"


def _quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A model of the library, as its manifest describes it; digests are hex."""

    name: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def ident(self) -> str:
        return str(self.manifest["model-id"])


class Library:
    """The models under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[Entry]:
        """Return the models, by name."""
        return self.sound()[0]

    def sound(self) -> tuple[list[Entry], list[Corrupt]]:
        """Return the models, by name, and what is wrong with those whose manifest is damaged."""
        found: list[Entry] = []
        damaged: list[Corrupt] = []
        for path in sorted(self.folder.glob("*/manifest.json")):
            if len(path.parent.name) != 64:
                continue
            try:
                found.append(_entry(path))
            except Corrupt as error:
                damaged.append(error)
        return sorted(found, key=lambda entry: (entry.name, entry.ident)), damaged

    def find(self, name: str) -> Entry:
        """Return the model of a name, a model-id, or a model-id's beginning of at least eight characters.

        Raises:
            NotFound: there is none.
            Corrupt: there is none, but one whose manifest is damaged.
        """
        found, damaged = self.sound()
        for entry in found:
            if name == entry.name or (len(name) >= 8 and entry.ident.startswith(name)):
                return entry
        if damaged:  # it may be one of these
            raise damaged[0]
        raise NotFound(
            f"there is no model '{name}' in {self.folder}",
            hint="See `hyperpy models list`; get one with `hyperpy models pull smollm2-135m`.",
        )

    def remove(self, name: str) -> Entry:
        """Delete a model and return what it was."""
        try:
            entry = self.find(name)
        except (NotFound, Corrupt):
            damaged = [path for path in self.folder.glob(f"{glob.escape(name)}*") if len(path.name) == 64]
            if len(name) < 8 or len(damaged) != 1:
                raise
            entry = Entry(damaged[0].name[:16], damaged[0], {"model-id": damaged[0].name})
        shutil.rmtree(entry.folder)
        return entry

    def add(self, file: Path, name: str, progress: Progress = _quiet) -> Entry:
        """Convert a GGUF file or a checkpoint folder and keep the result; it is not needed afterwards.

        Raises:
            CodecError, SizeError: the file is not a model that HPI-1 can run; the text says why.
            ParameterError: the name cannot be printed.
            StoreError: the disk is full, or the same weights are kept with another shape or tokenizer.
        """
        if not name.isprintable() or not 1 <= len(name) <= 100:
            raise ParameterError("a model's name has 1 to 100 printable characters", name="--name")
        files = checkpoint.files_of(file) if file.is_dir() else [file]
        parsed = checkpoint.read(file) if file.is_dir() else gguf.read(file)
        factors = parsed.tensors.pop("rope_freqs.weight", None)
        config = config_of(
            parsed.metadata, blocks.floats(factors).tolist() if factors is not None else (), parsed.halves
        )
        check_shapes(config, {tensor.name: tensor.shape for tensor in parsed.tensors.values()})
        tokenizer = Tokenizer(fields_of(parsed.metadata))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            work = Path(tempfile.mkdtemp(prefix=".import-", dir=self.folder))
            lock = _locked(work)
        except OSError as error:
            raise self._refused(error) from None
        try:
            source = {"file": file.name, **_source(files, progress)}
            model, records = _convert(parsed, config, work / "weights", progress)
            progress("calibrating", 0, 1)
            config = _calibrated(model, tokenizer)
            manifest = {
                "name": name,
                "model-id": model.ident.hex(),
                "weight-root": weights.weight_root(dict(model.weights)).hex(),
                "source": source,
                "config": dataclasses.asdict(config),
                "tokenizer": tokenizer.digest,
                "tensors": records,
            }
            (work / "tokenizer.json").write_text(json.dumps(tokenizer.fields), "utf-8")
            manifest["check"] = _check(manifest)
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
            return self._keep(work, manifest)
        except OSError as error:
            raise self._refused(error) from None
        finally:
            os.close(lock)
            shutil.rmtree(work, ignore_errors=True)

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"the model cannot be kept in {self.folder}: {error.strerror}",
            hint="Make room there, or name another folder with --models or HYPERPY_MODELS.",
        )

    def _sweep(self) -> None:
        """Delete what imports left that were killed: nobody holds its lock any more."""
        for work in self.folder.glob(".import-*"):
            if time.time() - work.stat().st_mtime < _YOUNG_S and not (work / _LOCK).exists():
                continue  # it may be about to be locked
            try:
                os.close(_locked(work))
            except OSError:
                continue
            shutil.rmtree(work, ignore_errors=True)

    def _keep(self, work: Path, manifest: dict[str, Any]) -> Entry:
        """Move a finished folder to its name."""
        target = self.folder / str(manifest["model-id"])
        aside = work.with_name(work.name + "-old")
        try:
            old = _entry(target / "manifest.json").manifest
        except Corrupt:  # or not there
            old = None
        if old is not None:
            same = Config(**old["config"]) == Config(**manifest["config"]) and old["tokenizer"] == manifest["tokenizer"]
            if not same:
                raise StoreError(
                    f"the weights {manifest['model-id'][:16]} are kept with another shape or tokenizer",
                    hint=f"Remove the other one first: hyperpy models rm {manifest['model-id'][:16]}",
                )
        (work / _LOCK).unlink(missing_ok=True)
        if target.exists():
            os.replace(target, aside)
        os.replace(work, target)
        shutil.rmtree(aside, ignore_errors=True)
        return _entry(target / "manifest.json")

    def load(self, name: str) -> tuple[Model, Tokenizer]:
        """Read a model's weights and check them against its model-id.

        Raises:
            Corrupt: the bytes on disk are not what their name promises.
        """
        entry = self.find(name)
        try:
            fields = json.loads((entry.folder / "tokenizer.json").read_text("utf-8"))
            config = Config(**entry.manifest["config"])
            mapped = _payload(entry.folder / "weights")
            found = {record["name"]: _weight(record, mapped) for record in entry.manifest["tensors"]}
            tokenizer = Tokenizer(fields)
        except (OSError, ValueError, KeyError, TypeError, CodecError) as error:
            raise Corrupt(f"the files of '{entry.name}' are damaged: {error}", hint="Import it again.") from None
        ident = weights.model_id(found)
        if ident.hex() != entry.folder.name or tokenizer.digest != entry.manifest.get("tokenizer"):
            raise Corrupt(
                f"the files of '{entry.name}' changed on disk",
                expected=entry.folder.name,
                got=ident.hex(),
                hint="Import it again.",
            )
        check_shapes(config, {key: w.shape if isinstance(w, Matrix) else w.g.shape for key, w in found.items()})
        return Model(config, found, ident), tokenizer


def _entry(path: Path) -> Entry:
    """Return what a manifest says; it is read again when it was written again."""
    try:
        found = path.stat()
    except OSError as error:
        raise Corrupt(f"the manifest {path} is damaged: {error}", hint=f"Delete the folder {path.parent}.") from None
    return _read(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=256)
def _read(path: Path, signature: tuple[int, ...]) -> Entry:
    """Read a manifest; ``signature`` says which one is meant."""
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["model-id"] != path.parent.name:
            raise ValueError("it names another model-id")
        if manifest.pop("check") != _check(manifest):
            raise ValueError("its check sum is another")
        return Entry(str(manifest["name"]), path.parent, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the manifest {path} is damaged: {error}", hint=f"Delete the folder {path.parent}.") from None


def _check(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest as sorted JSON."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _source(files: list[Path], progress: Progress) -> dict[str, Any]:
    """Return SHA-256 and size of what is imported; of a folder, the SHA-256 of the sorted lines of sha256sum."""
    total, done, lines = sum(file.stat().st_size for file in files), 0, []
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
                done += len(chunk)
                progress("hashing", done, total)
        lines.append(f"{digest.hexdigest()}  {file.name}\n")
    whole = lines[0][:64] if len(files) == 1 else hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return {"sha256": whole, "bytes": total}


def _convert(parsed: gguf.Gguf, config: Config, path: Path, progress: Progress) -> tuple[Model, list[dict[str, Any]]]:
    """Write the integer weights of a file, and return them, with a record of each."""
    records: list[dict[str, Any]] = []
    total, done = sum(len(tensor.data) for tensor in parsed.tensors.values()), 0
    with path.open("wb") as out:
        for name in sorted(parsed.tensors, key=str.encode):
            tensor = parsed.tensors[name]
            weight = weights.convert(tensor)
            out.write(bytes(-out.tell() % ALIGN))
            records.append(_record(name, weight, out.tell()))
            for part in weight.payload():
                out.write(part)
            done += len(tensor.data)
            progress("converting", done, total)
        out.flush()
        os.fsync(out.fileno())
    mapped = _payload(path)
    found = {record["name"]: _weight(record, mapped) for record in records}
    return Model(config, found, weights.model_id(found)), records


def _record(name: str, weight: Weight, offset: int) -> dict[str, Any]:
    if isinstance(weight, Norm):
        return {"name": name, "offset": offset, "values": len(weight.g)}
    rows, columns = weight.shape
    kind = "u8" if weight.q.dtype == np.uint8 else "i8"
    return {"name": name, "offset": offset, "rows": rows, "columns": columns, "group": weight.group, "q": kind}


def _payload(path: Path) -> memoryview:
    """Return a file's bytes, aligned; nobody can change them."""
    whole: Any = np.fromfile(path, np.uint8)
    whole.flags.writeable = False
    return memoryview(whole)


def _locked(work: Path) -> int:
    """Return a descriptor that holds the lock of an import's folder; raise OSError if somebody else does."""
    made = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(made)
        raise
    return made


def _weight(record: dict[str, Any], mapped: memoryview) -> Weight:
    """Return the weight that a record describes, as views of the bytes."""
    parts = _parts(mapped, int(record["offset"]))
    if "values" in record:
        return Norm(parts("<i4", int(record["values"])), int(parts("<i4", 1)[0]))
    rows, columns, group = (int(record[key]) for key in ("rows", "columns", "group"))
    q = parts({"u8": "u1", "i8": "i1"}[record["q"]], rows, columns)
    d, m = parts("<i2", rows, columns // group), parts("<i2", rows, columns // group)
    return Matrix(q, d, m, parts("<u2", rows), parts("u1", rows))


def _parts(mapped: memoryview, offset: int) -> Callable[..., Any]:
    """Return a function that takes the next array of a type and shape."""
    at = offset

    def take(kind: str, *shape: int) -> Any:
        nonlocal at
        count = int(np.prod(shape))
        made = np.frombuffer(mapped, kind, count, at).reshape(shape)
        at += made.nbytes
        return made

    return take


def _calibrated(model: Model, tokenizer: Tokenizer) -> Config:
    """Return the configuration with the most fraction bits that keep the residual stream below 2**30 (5.1)."""
    ids = [*sorted(tokenizer.special.values())[:2], *tokenizer.encode(_CALIBRATION)][: model.config.context]
    for bits in (14, 12, 10):
        config = dataclasses.replace(model.config, fr=bits)
        if max(_peaks(Model(config, model.weights, model.ident), ids)) < LARGEST:
            return config
    raise CodecError("the model's residual stream passes 2**30 even with 10 fraction bits; HPI-1 cannot run it")


def _peaks(model: Model, ids: list[int]) -> Iterator[int]:
    """Return the largest value of the residual stream after each step of a run."""
    peaks: list[int] = []
    kept = lambda name, value: peaks.append(int(np.abs(value).max())) if "residual" in name else None  # noqa: E731
    Engine(model).forward(ids, Engine(model).cache(), trace=kept)
    return iter(peaks)
