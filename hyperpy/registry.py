"""Finds devices by name: the bundled table, installed entry points, and single files.

One order, no surprises: bundled, then entry points in group ``hyperpy.devices``, then
``--device FILE``. A name claimed twice is an error that names both owners; replacing a bundled
device takes ``[devices] override``. Code is never fetched from a network.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperpy.errors import ConfigError, DeviceNotFound, HyperpyError
from hyperpy.sdk import DeviceSpec, spec_of

GROUP = "hyperpy.devices"

_ONE_FILE = (
    *("message", "stack", "multipass", "dedup", "patch", "trie", "apply", "lookup", "cache", "hook", "rate-limit"),
    *("location", "relay", "name", "local-name", "whois", "cron", "test-device", "secret", "http-auth", "cookie"),
    *("auth-hook", "meta", "calculator", "hyperbuddy", "process", "push"),
    *("p4", "simple-pay", "faff", "router", "query", "node-process"),
    *("wasm-64", "wasi", "json-iface", "genesis-wasm", "audit", "fault", "tee"),
    *("snp", "greenzone", "inference", "confidential", "wasi-nn", "inference_receipt"),
)
BUNDLED: dict[str, str] = {
    **{f"{name}@1.0": f"hyperpy.devices.{name.replace('-', '_')}" for name in _ONE_FILE},
    **{f"{name}@1.0": "hyperpy.devices.codecs" for name in ("structured", "httpsig", "flat", "json", "ans104")},
    "stack-transformer@1.0": "hyperpy.devices.stack",
    "inference-models@1.0": "hyperpy.devices.inference",
    "scheduler@1.0": "hyperpy.devices.scheduler",
    "lua@5.3a": "hyperpy.devices.lua",
}
"""Name to module. The class in it whose ``@device`` name matches is the device."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A device ready to run: its spec, who brought it and the digest of its code.

    ``found`` keeps which key answers which name; see :mod:`hyperpy.dispatch`.
    """

    spec: DeviceSpec
    owner: str
    implementation: str
    instance: Any
    found: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def bundled(self) -> bool:
        """Whether the device came with hyperpy."""
        return self.owner == BUNDLED.get(self.spec.name)


class Registry:
    """The devices of one node. Thread-safe; classes are loaded at first use.

    Args:
        files: Python files or classes given by the operator.
        override: bundled names that entry points or files may replace.
        start: called with (spec, instance, bundled) for each new instance, so that the node can hand
            over the capabilities the device asked for.
        stop: called with each instance of a stateless device that a reload or shutdown retires.
    """

    def __init__(
        self,
        files: Collection[str | Path | type] = (),
        *,
        override: Collection[str] = (),
        start: Callable[[DeviceSpec, Any, bool], None] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._start = start
        self._loaded: dict[str, Loaded] = {}
        self._sources: dict[str, tuple[str, Callable[[], type]]] = {
            name: (module, _bundled_class(name, module)) for name, module in BUNDLED.items()
        }
        self._override = frozenset(override)
        self._files: dict[Path, tuple[str, ...]] = {}
        self._ran: set[str] = set()
        self._added: tuple[str, ...] | None = None
        for point in entry_points(group=GROUP):
            self._claim(point.name, f"entry point {point.value}", point.load)
        for item in files:
            if isinstance(item, type):
                spec = spec_of(item)
                self._claim(spec.name, f"class {item.__module__}.{item.__qualname__}", _constant(item))
            else:
                self.add_file(Path(item))

    def _claim(self, name: str, owner: str, load: Callable[[], type]) -> None:
        taken = self._sources.get(name)
        if taken is not None and taken[0] != owner and name not in self._override:
            raise ConfigError(
                f"device '{name}' is claimed by {taken[0]} and by {owner}",
                hint=f'Rename one, or set [devices] override = ["{name}"].',
            )
        self._sources[name] = (owner, load)

    def add_file(self, path: Path) -> tuple[str, ...]:
        """Load every device of one Python file and return their names; again to reload it.

        Raises:
            ConfigError: the file does not exist, does not import, or holds no device.
        """
        with self._lock:
            self._added = None
            module = _import_file(path, self._ran)
            classes = [
                member
                for member in vars(module).values()
                if isinstance(member, type)
                and "__hyperpy_device__" in member.__dict__
                and member.__module__ == module.__name__
            ]
            if not classes:
                raise ConfigError(
                    f"{path} holds no device", hint='Put @device("name@1.0") above a class, or see hyperpy new device.'
                )
            names = tuple(spec_of(cls).name for cls in classes)
            for old in self._files.get(path, ()):
                self._sources.pop(old, None)
                self._loaded.pop(old, None)
            for name, cls in zip(names, classes, strict=True):
                self._claim(name, str(path), _constant(cls))
                self._loaded.pop(name, None)
            self._files[path] = names
            return names

    def added(self) -> Sequence[str]:
        """Return a line for each device that did not come with hyperpy, and for each file that was ever loaded.

        ``device NAME DIGEST`` has :func:`implementation_digest`, ``file DIGEST`` the SHA-256 of the very bytes that
        ran, in hex.

        Raises:
            ConfigError: an installed device does not load, or its code cannot be read.
        """
        with self._lock:
            if self._added is None:
                rows = [f"file {one}" for one in sorted(self._ran)]
                for name, (owner, load) in sorted(self._sources.items()):
                    if owner != BUNDLED.get(name):
                        rows.append(f"device {name} {_code_of(name, load)}")
                self._added = tuple(rows)
            return self._added

    def names(self) -> list[str]:
        """Return the names of all devices, sorted."""
        return sorted(name for name in self._sources if name != "stack-transformer@1.0")

    def owner(self, name: str) -> str:
        """Return who brought the device: a module, an entry point or a file."""
        return self._sources[name][0]

    def lookup(self, name: str) -> Loaded:
        """Return the device called ``name``.

        Raises:
            DeviceNotFound: no such device here; says what was probably meant.
        """
        found = self._loaded.get(name)
        return found if found is not None else self._load(name)

    def _load(self, name: str) -> Loaded:
        with self._lock:
            if name in self._loaded:
                return self._loaded[name]
            source = self._sources.get(name)
            if source is None:
                raise DeviceNotFound(f"there is no device '{name}' on this node", hint=self._suggest(name))
            owner, load = source
            spec = spec_of(load())
            if spec.name != name:
                raise ConfigError(f"{owner} promises device '{name}' but defines '{spec.name}'")
            loaded = Loaded(spec, owner, implementation_digest(spec), None)
            if spec.one_per is None:
                loaded = replace(loaded, instance=self.make(loaded))
            self._loaded[name] = loaded
            return loaded

    def make(self, loaded: Loaded) -> Any:
        """Return a new, started instance of a device."""
        instance = loaded.spec.cls()
        if self._start is not None:
            self._start(loaded.spec, instance, loaded.bundled)
        return instance

    def _suggest(self, name: str) -> str:
        near = difflib.get_close_matches(name.lower(), self.names(), n=1, cutoff=0.6)
        if near:
            return f"Did you mean '{near[0]}'?"
        return "List the devices with `hyperpy devices` or /~meta@1.0/info/devices."

    def instances(self) -> list[Any]:
        """Return the running instances of stateless devices, newest first."""
        with self._lock:
            return [item.instance for item in reversed(self._loaded.values()) if item.instance is not None]


def bundled_spec(name: str) -> DeviceSpec:
    """Return the spec of a bundled device, without a node."""
    return spec_of(_bundled_class(name, BUNDLED[name])())


def _constant(cls: type) -> Callable[[], type]:
    return lambda: cls


def _bundled_class(name: str, module: str) -> Callable[[], type]:
    def load() -> type:
        for member in vars(importlib.import_module(module)).values():
            spec = getattr(member, "__hyperpy_device__", None) if isinstance(member, type) else None
            if isinstance(spec, DeviceSpec) and spec.name == name:
                return spec.cls
        raise ConfigError(f"{module} does not define device '{name}'")

    return load


def _code_of(name: str, load: Callable[[], type]) -> str:
    try:
        return implementation_digest(spec_of(load()))
    except HyperpyError:
        raise
    except Exception as error:
        raise ConfigError(f"the code of device '{name}' cannot be read: {type(error).__name__}: {error}") from error


def _import_file(path: Path, ran: set[str]) -> ModuleType:
    """Return the module of a file: of the very bytes whose digest is put into ``ran``, never of a compiled copy."""
    if not path.is_file():
        raise ConfigError(f"device file {path} does not exist", hint="Check its name, or make one: hyperpy new device.")
    data = path.read_bytes()
    digest = hashlib.sha256(data + str(path.resolve()).encode()).hexdigest()[:16]
    name = f"hyperpy_device_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file", hint="A device file's name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    ran.add(hashlib.sha256(data).hexdigest())
    try:
        exec(compile(data, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the operator's own file
    except ConfigError:
        raise
    except Exception as error:
        sys.modules.pop(name, None)
        line = getattr(error, "lineno", None) or (error.__traceback__.tb_lineno if error.__traceback__ else "?")
        raise ConfigError(
            f"{path} does not import: {type(error).__name__}: {error} (line {line})", hint="Mend the file there."
        ) from error
    return module


def implementation_digest(spec: DeviceSpec) -> str:
    """Return the hex digest that names a device's code (design 3, ``implementation``).

    SHA-256 over hyperpy's version and the sorted (relative path, SHA-256) of the device's module,
    or of its whole folder if it is a package, and of the modules and shaders it names.
    """
    file = Path(sys.modules[spec.cls.__module__].__file__ or "")
    package = (file.parent / "__init__.py").is_file() and file.parent.name not in ("devices", "hyperpy")
    files = _files(file.parent) if package else {file.name: file.read_bytes()}
    for used in spec.uses:
        found = importlib.util.find_spec(used)
        if found is None or found.origin is None:
            raise ConfigError(f"device '{spec.name}' names the module {used}, which is not installed")
        at = Path(found.origin)
        own = {at.name: at.read_bytes()} if found.submodule_search_locations is None else _files(at.parent)
        files |= {f"{used}/{name}": data for name, data in own.items()}
    whole = hashlib.sha256(f"hyperpy {_version()}\n".encode())
    for name in sorted(files):
        whole.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    for shader in sorted(spec.shaders):
        whole.update(f"{shader} {hashlib.sha256(_shader(shader)).hexdigest()}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> dict[str, bytes]:
    """Return a package's files by their path in it: Python, and what it carries along."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _shader(name: str) -> bytes:
    for folder in (Path(__file__).parent / "shaders", Path(__file__).resolve().parents[1] / "shaders"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise ConfigError(f"shader {name} is not installed")


def _version() -> str:
    try:
        return version("hyperpy")
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
