"""What the keys of tee@1.0 are given: evidence, policies, times and what a guest was started from."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from hyperpy import Message
from hyperpy.attest import bundle, measure, policy
from hyperpy.attest.bundle import Evidence
from hyperpy.attest.policy import Policy
from hyperpy.attest.statement import TAGS
from hyperpy.attest.verifier import Expected
from hyperpy.attest.vmsa import CPU_SIGNATURES
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import CodecError, ConfigError, HyperpyError, ParameterError, SizeError
from hyperpy.message import Link, Value, as_text

MAX_EVIDENCE: Final = 4 << 20
_TIMES: Final = range(1 << 35)
_NONCE: Final = range(16, 65)
_MAX_POLICY: Final = 8192
"""Bytes of a policy in a request: what reads TOML takes more than linear time."""
_WORDS: Final = frozenset({"purpose", "device"})
"""Fields of a statement that are text; all others are bytes."""


def evidence(request: Message) -> Evidence:
    """Return the evidence of a request: a message, or base64url of its canonical bytes; with a ``statement`` beside it.

    The attestation of a reply is taken for the evidence in it.

    Raises:
        ParameterError: there is none.
        AttestationError: ``evidence/...``.
    """
    found = request.get("evidence")
    found = found.load() if isinstance(found, Link) else found
    if isinstance(found, bytes):
        if len(found) > 2 * MAX_EVIDENCE:
            raise SizeError("the evidence is too long")
        try:
            found = canonical.decode(raw(found, "evidence"))
        except (CodecError, SizeError):
            raise ParameterError("'evidence' is no message's canonical bytes", name="evidence") from None
    if not isinstance(found, Message):
        raise ParameterError(
            "there is no evidence", name="evidence", hint="Send a message, or base64url of its canonical bytes."
        )
    inner = found.get("evidence")  # an attestation of a reply holds evidence
    made = bundle.read(inner if isinstance(inner, Message) and "level" in found else found)
    said = request.get("statement")
    return made if said is None else replace(made, statement=raw(said, "statement"))


def written(found: Evidence) -> Message:
    """Return evidence as a reply holds it: the type in words, the whole as base64url of its canonical bytes."""
    made = {
        "evidence-type": found.kind,
        "hardware": found.hardware,
        "evidence": b64u(canonical.encode(found.message())),
        "statement": b64u(found.statement),
    }
    return Message(made)


def policy_of(request: Message) -> Policy:
    """Return the policy of a request: TOML or JSON text, or a message; without one the baseline.

    Raises:
        ParameterError: it says something unknown.
    """
    found = request.get("policy")
    try:
        if found is None:
            return policy.BASELINE
        if isinstance(found, bytes):
            if len(found) > _MAX_POLICY:
                raise ParameterError(f"a policy in a request has at most {_MAX_POLICY} bytes", name="policy")
            return policy.parse(found)
        if isinstance(found, Message):
            return policy.parse(json.dumps(_plain(found), sort_keys=True).encode())
    except ConfigError as error:
        raise ParameterError(f"policy: {error.message}", name="policy") from None
    raise ParameterError("a policy is TOML or JSON text, or a message", name="policy")


def _plain(item: Value) -> Any:
    if isinstance(item, Message):
        return {name: _plain(item[name]) for name in item}
    if isinstance(item, tuple):
        return [_plain(one) for one in item]
    if isinstance(item, (bool, int, float)):
        return item
    return as_text(item)


def when(item: Value | None) -> datetime | None:
    """Return the time of a request (seconds since 1970), None if it has none; raise ParameterError if it is none."""
    if item is None:
        return None
    text = as_text(item)
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) not in _TIMES:
        raise ParameterError("'now' must be whole seconds since 1970", name="now")
    return datetime.fromtimestamp(int(text), UTC)


def expected(request: Message) -> Expected | None:
    """Return what the evidence must be bound to: ``nonce``, ``report-data``, ``expected`` (fields of the statement).

    None if the request says nothing of it.

    Raises:
        ParameterError: a value is malformed, or a field unknown.
    """
    fields: dict[str, bytes] = {}
    given = request.get("expected")
    if given is not None and not isinstance(given, Message):
        raise ParameterError("'expected' holds fields of a statement", name="expected")
    given = given or Message()
    for name in given:
        if name not in TAGS:
            raise ParameterError(f"a statement has no field {name[:40]!a}", name="expected")
        item = given[name]
        fields[name] = as_text(item).encode() if name in _WORDS else raw(item, name)
    bound = request.get("report-data")
    data = None if bound is None else raw(bound, "report-data")
    if data is not None and len(data) != 64:
        raise ParameterError("report data has 64 bytes", name="report-data")
    own = nonce(request.get("nonce"))
    if own is None and not fields and data is None:
        return None
    return Expected(nonce=own, fields=fields or None, report_data=data)


def nonce(item: Value | None) -> bytes | None:
    """Return a nonce; None if there is none; raise ParameterError if it is malformed."""
    if item is None:
        return None
    found = raw(item, "nonce")
    if len(found) not in _NONCE:
        raise ParameterError("a nonce has 16 to 64 bytes, in base64url", name="nonce")
    return found


def raw(item: Value, name: str) -> bytes:
    """Return the bytes of base64url text; raise ParameterError."""
    try:
        return b64u_decode(as_text(item))
    except (HyperpyError, ValueError):
        raise ParameterError(f"'{name}' must be base64url", name=name) from None


# -- measuring ------------------------------------------------------------------------------------


def launch_digest(request: Message) -> bytes:
    """Return the launch digest of what a request says was started; raise ParameterError."""
    image = request.get("firmware-file")
    if isinstance(image, bytes):
        layout, start = measure.layout_of(image), measure.firmware_digest(image)
    else:
        name = as_text(request.get("profile", b"hyperbeam-ovmf-1.55"))
        if name not in measure.PROFILES:
            known = ", ".join(sorted(measure.PROFILES))
            raise ParameterError(f"there is no profile {name[:60]!a}", name="profile", hint=f"Known: {known}.")
        layout, start = measure.PROFILES[name], _hex(request, "firmware", 48)
    kind = as_text(request.get("vcpu-type", b"EPYC-v4"))
    if kind not in CPU_SIGNATURES:
        known = ", ".join(sorted(CPU_SIGNATURES))
        raise ParameterError(f"there is no processor {kind[:40]!a}", name="vcpu-type", hint=f"Known: {known}.")
    features = _number(request, "guest-features", 1)
    vmm = as_text(request.get("vmm", b"qemu"))
    machine = measure.Machine(_number(request, "vcpus", 1), CPU_SIGNATURES[kind], features, vmm)
    return measure.launch_digest(machine, layout, _boot(request), ovmf_hash=start)


def _boot(request: Message) -> measure.Boot | None:
    """Return the kernel that is booted directly, from files or from hashes; None if none is."""
    kernel = request.get("kernel-file")
    if isinstance(kernel, bytes):
        initrd = request.get("initrd-file", b"")
        if not isinstance(initrd, bytes):
            raise ParameterError("'initrd-file' must be bytes", name="initrd-file")
        return measure.Boot.of_files(kernel, initrd, as_text(request.get("cmdline", b"")))
    if request.get("kernel") is None:
        return None
    return measure.Boot(*(_hex(request, name, 32) for name in ("kernel", "initrd", "append")))


def _hex(request: Message, name: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(as_text(request.get(name, b"")))
    except (ValueError, HyperpyError):
        found = b""
    if len(found) != size:
        raise ParameterError(f"'{name}' must be {size} bytes in hex", name=name)
    return found


def _number(request: Message, name: str, default: int) -> int:
    text = as_text(request.get(name, default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ParameterError(f"'{name}' must be a whole number", name=name)
    return int(text)
