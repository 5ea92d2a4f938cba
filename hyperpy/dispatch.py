"""Stage 5 of a step: which device and which key answer (ao-core 7.4, 7.5)."""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy.encoding import key_text
from hyperpy.errors import DeviceNotFound, KeyNotFound
from hyperpy.message import Message
from hyperpy.registry import Loaded, Registry
from hyperpy.sdk import KeySpec, wire_name

MESSAGE = "message@1.0"
"""The identity device: the device of messages that name none, and the fallback of all others."""


_KEPT = 256


@dataclass(frozen=True, slots=True)
class Found:
    """The device, its key, and the name the key was asked for by."""

    device: Loaded
    spec: KeySpec
    name: str


def find(registry: Registry, base: Message, name: str) -> Found:
    """Return who answers ``name`` on ``base``: handler, own key, default, then message@1.0.

    Raises:
        DeviceNotFound: the base's device is not on this node.
    """
    at = base.raw("device")
    if at is None:
        loaded = registry.lookup(MESSAGE)
    elif isinstance(at, bytes):
        loaded = registry.lookup(key_text(at))
    else:
        raise DeviceNotFound("the key 'device' must name a device", hint="Set it to text such as message@1.0.")
    known: Found | None = loaded.found.get(name)
    if known is not None:
        return known
    made = _find(registry, loaded, base, name)
    if loaded.spec.exports is None and made.device is loaded and len(loaded.found) < _KEPT:
        loaded.found[name] = made
    return made


def _find(registry: Registry, loaded: Loaded, base: Message, name: str) -> Found:
    spec = loaded.spec
    found = spec.keys.get(name) or spec.keys.get(wire_name(name))
    if spec.handler is not None or spec.default is not None or spec.exports is not None:
        found = _special(loaded, found, base, wire_name(name))
    if found is not None:
        return Found(loaded, found, name)
    fallback = registry.lookup(MESSAGE)
    own = fallback.spec.keys.get(wire_name(name)) or fallback.spec.default
    if own is None or spec.name == MESSAGE:
        raise KeyNotFound(f"the message has no key '{name}'")
    return Found(fallback, own, name)


def _special(loaded: Loaded, found: KeySpec | None, base: Message, name: str) -> KeySpec | None:
    """Return the key of a device with a handler, a default or a white list."""
    spec = loaded.spec
    if name in spec.excludes:
        return None
    if spec.exports is not None:
        allowed = spec.exports(loaded.instance, base)
        if allowed is not None and name not in {wire_name(item) for item in allowed}:
            return None
    if name == "info":
        return found
    return spec.handler or found or spec.default
