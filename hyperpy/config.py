"""Every setting: what it means, its default, and where a value came from.

Sources, strongest last: defaults, a TOML file, environment ``HYPERPY_SECTION_KEY``, flags. ``-`` and
``_`` are equal in names. Nothing here may change the result of a deterministic key.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperpy.errors import ConfigError
from hyperpy.message import Message


def _setting(default: Any, doc: str, *, wire: str | None = None, public: bool = True) -> Any:
    """Declare one setting: its default, its meaning, and its name in the node message."""
    metadata = {"doc": doc, "wire": wire, "public": public}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """How the node is reached, and what its replies carry."""

    host: str = _setting("127.0.0.1", "Address to listen on.", public=False)
    port: int = _setting(8734, "Port to listen on; 0 takes a free one.", wire="port")
    url: str = _setting("", "URL under which others reach this node; used by location@1.0.", wire="url")
    sign: bool = _setting(True, "Sign every reply.", wire="force-signed")
    sign_on_request: bool = _setting(
        False, "Let anybody have the node sign what they like. For development only.", wire="sign-on-request"
    )
    host_with_port: bool = _setting(
        False, "Keep the port in the message key 'host', as the September 2025 reference did.", wire="host-with-port"
    )
    default_request: str = _setting("/~meta@1.0/info", "Where GET / leads.", wire="default-request")
    cors: bool = _setting(True, "Allow browsers of any origin.", wire="cors")
    threads: int = _setting(64, "Worker threads.", wire="worker-threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may cost."""

    body: int = _setting(64 << 20, "Bytes of a request's body.")
    header: int = _setting(64 << 10, "Bytes of one header line.")
    headers: int = _setting(256 << 10, "Bytes of all headers.")
    path: int = _setting(64 << 10, "Bytes of the path.")
    parts: int = _setting(256, "Parts of a path.")
    nesting: int = _setting(64, "Depth of nested messages.")
    keys: int = _setting(10_000, "Keys of one message.")
    deadline: float = _setting(30.0, "Seconds until a request is answered with 504.")
    steps: int = _setting(10_000, "Steps of one request, sub-steps included.")
    recursion: int = _setting(64, "Depth of resolutions inside resolutions.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where everything is kept."""

    dir: str = _setting("hyperpy-store", "Folder of the store.", public=False)
    durable: bool = _setting(False, "Sync cache and trail to disk too, at every request.", public=False)
    quota: int = _setting(
        10 * 10**9, "Bytes of cache and trail; oldest unreferenced steps go first.", public=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Whose node it is."""

    wallet: str = _setting("hyperpy-wallet.json", "Wallet file (JWK, RSA-4096); made if absent.", public=False)
    operator: str = _setting("", "Address that may change settings; default: that of operator.json.", public=False)
    initialized: str = _setting("true", "'true', 'false' (only info is served) or 'permanent'.", wire="initialized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Which devices run, and what they may use."""

    files: list[str] = _setting([], "Python files with devices.", public=False)
    override: list[str] = _setting([], "Bundled device names that others may replace.", public=False)
    grant: dict[str, list[str]] = _setting({}, "Capabilities granted to devices that are not bundled.", public=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Who this node talks to."""

    peers: list[str] = _setting([], "Peers, as scheme://host:port, that relay and push may reach.", wire="relay-peers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """Who may read what was computed."""

    public: bool = _setting(True, "Let whoever holds a result ID read its trail.", wire="trail-public")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How often one client address may ask."""

    requests: int = _setting(1000, "Requests per period; 0 turns the limit off.", wire="rate-limit-requests")
    period: float = _setting(60.0, "Seconds of a period.", wire="rate-limit-period")
    min: int = _setting(-1000, "Lowest balance of a client's bucket.", wire="rate-limit-min")
    exempt: list[str] = _setting([], "Client addresses without limit; loopback always is.", wire="rate-limit-exempt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Who may write to the store over HTTP."""

    writers: list[str] = _setting([], "Addresses that may write through cache@1.0.", wire="cache-writers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node. ``extra`` holds the free-form table ``[node]`` of the node message."""

    http: Http = field(default_factory=Http)
    limits: Limits = field(default_factory=Limits)
    store: Store = field(default_factory=Store)
    meta: Meta = field(default_factory=Meta)
    devices: Devices = field(default_factory=Devices)
    relay: Relay = field(default_factory=Relay)
    trail: Trail = field(default_factory=Trail)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    cache: Cache = field(default_factory=Cache)
    extra: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def as_message(self) -> Message:
        """Return the public settings under their ``-`` names."""
        made: dict[str, Any] = {}
        for section in SECTIONS:
            part = getattr(self, section)
            for item in dataclasses.fields(part):
                if item.metadata["public"]:
                    name = item.metadata["wire"] or f"{section}-{item.name}".replace("_", "-")
                    made[name] = getattr(part, item.name)
        made["initialized"] = {"true": True, "false": False}.get(self.meta.initialized, self.meta.initialized)
        return Message({**made, **self.extra})

    def rows(self) -> list[tuple[str, Any, str, str]]:
        """Return (name, value, where it came from, meaning) of every setting, for people."""
        return [
            (f"{section.replace('_', '-')}.{item.name.replace('_', '-')}", getattr(part, item.name), origin, doc)
            for section in SECTIONS
            for part in (getattr(self, section),)
            for item in dataclasses.fields(part)
            for origin in (self.origins.get(f"{section}.{item.name}", "default"),)
            for doc in (item.metadata["doc"],)
        ]


SECTIONS = tuple(item.name for item in dataclasses.fields(Config) if item.name not in ("extra", "origins"))
_CLASSES: dict[str, type] = {name: kind for name, kind in typing.get_type_hints(Config).items() if name in SECTIONS}


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Return the settings of a file, the environment and flags (``{"http.port": 0}``), in that order.

    Raises:
        ConfigError: the file cannot be read, or a name or value is wrong; says what was meant.
    """
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    extra: Mapping[str, Any] = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
        extra = table.pop("node", {})
        for section, items in table.items():
            if not isinstance(items, dict):
                raise ConfigError(f"{file}: '{section}' must be a section", hint=f"Write [{section}] above its keys.")
            for key, item in items.items():
                name = _name(section, key, str(file))
                found[name], origins[name] = _typed(name, item, str(file)), str(file)
    for variable, text in environ.items():
        if variable.startswith("HYPERPY_"):
            named = _from_variable(variable)
            if named is not None:
                found[named], origins[named] = _typed(named, _parse(named, text), variable), variable
    for flag, item in (flags or {}).items():
        if item is not None:
            section, _, key = flag.partition(".")
            name = _name(section, key, "flag")
            found[name], origins[name] = _typed(name, item, f"flag {flag}"), "flag"
    parts = {
        section: _CLASSES[section](
            **{name.partition(".")[2]: item for name, item in found.items() if name.startswith(section + ".")}
        )
        for section in SECTIONS
    }
    made = Config(**parts, extra=extra, origins=origins)
    made.as_message()
    return made


def _hints(section: str) -> dict[str, Any]:
    return typing.get_type_hints(_CLASSES[section])


def _name(section: str, key: str, where: str) -> str:
    own, item = section.replace("-", "_").lower(), key.replace("-", "_").lower()
    if own not in _CLASSES:
        raise ConfigError(f"{where}: there is no section [{section}]", hint=_suggest(section, [*SECTIONS, "node"]))
    if item not in _hints(own):
        raise ConfigError(f"{where}: there is no setting {section}.{key}", hint=_suggest(item, list(_hints(own))))
    return f"{own}.{item}"


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    listed = ", ".join(item.replace("_", "-") for item in known)
    return f"Did you mean '{near[0].replace('_', '-')}'?" if near else f"Known: {listed}."


def _from_variable(variable: str) -> str | None:
    rest = variable.removeprefix("HYPERPY_").lower()
    for section in SECTIONS:
        if rest.startswith(section + "_"):
            return _name(section, rest.removeprefix(section + "_"), variable)
    return None


def _parse(name: str, text: str) -> Any:
    section, _, key = name.partition(".")
    kind = _hints(section)[key]
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return words.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if typing.get_origin(kind) is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _typed(name: str, item: Any, where: str) -> Any:
    section, _, key = name.partition(".")
    kind = _hints(section)[key]
    origin = typing.get_origin(kind) or kind
    if origin is float and isinstance(item, int) and not isinstance(item, bool):
        item = float(item)
    fits = isinstance(item, origin) and not (origin is int and isinstance(item, bool))
    if fits and origin is list:
        fits = all(isinstance(member, str) for member in item)
    if not fits:
        label = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list of text"}
        raise ConfigError(f"{where}: {name.replace('_', '-')} must be {label.get(origin, 'a table')}, not {item!r}")
    return item
