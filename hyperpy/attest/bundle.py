"""Evidence as it travels: the report, what vouches for it, what it is bound to, and GPUs beside it.

As a message (every value binary text or bytes, so that it can stand in a reply, a receipt or a process):

    ``evidence-type``  ``snp``, ``tdx``, ``sgx``, ``nitro`` or ``software``
    ``hardware``       whether hardware made it; must agree with the type
    ``report``         the report, quote or document
    ``vek``, ``chain`` certificate of the chip; list of issuer and root (SNP)
    ``crl``            the root's revocation list (SNP), may be missing
    ``collateral``     Intel's collateral, JSON text (TDX, SGX), may be missing
    ``statement``      what the report is bound to, tagged values; missing where the verifier gives the 64 bytes
    ``gpus``           list of ``{report, chain, manifests}`` (NVIDIA)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperpy.attest.codes import refusal, require
from hyperpy.errors import AttestationError
from hyperpy.message import Link, Message, Value

KINDS: Final = ("snp", "tdx", "sgx", "nitro", "software")
MAX_GPUS: Final = 32
MAX_MANIFESTS: Final = 4
_NAMES: Final = frozenset(
    {"evidence-type", "hardware", "report", "vek", "chain", "crl", "collateral", "statement", "gpus", "type"}
)
_TYPE: Final = b"Attestation-Evidence"


@dataclass(frozen=True, slots=True)
class Gpu:
    """Evidence of one NVIDIA device: report, PEM text of its chain, manifests with golden values (XML)."""

    report: bytes
    chain: bytes
    manifests: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of one machine; see the module's table."""

    kind: str
    report: bytes
    vek: bytes = b""
    chain: tuple[bytes, ...] = ()
    crl: bytes = b""
    collateral: bytes = b""
    statement: bytes = b""
    gpus: tuple[Gpu, ...] = ()

    @property
    def hardware(self) -> bool:
        """Whether hardware makes evidence of this type."""
        return self.kind != "software"

    def message(self) -> Message:
        """Return the evidence as a message; empty parts are left out."""
        made: dict[str, Value] = {
            "type": _TYPE,
            "evidence-type": self.kind.encode(),
            "hardware": self.hardware,
            "report": self.report,
        }
        for name in ("vek", "crl", "collateral", "statement"):
            if getattr(self, name):
                made[name] = getattr(self, name)
        if self.chain:
            made["chain"] = tuple(self.chain)
        if self.gpus:
            made["gpus"] = tuple(
                Message.make({"report": one.report, "chain": one.chain, "manifests": tuple(one.manifests)})
                for one in self.gpus
            )
        return Message.make(made)


def read(item: Message) -> Evidence:
    """Return the evidence that a message holds.

    Raises:
        EvidenceError: ``evidence/malformed``, ``evidence/unsupported-type``.
    """
    unknown = sorted(set(item) - _NAMES)
    require(not unknown, "evidence/malformed", f"evidence holds no '{unknown[0][:40] if unknown else ''}'")
    require(item.get("type", _TYPE) == _TYPE, "evidence/malformed", "'type' names something else")
    kind = _bytes(item, "evidence-type").decode("ascii", "replace")
    if kind not in KINDS:
        raise refusal("evidence/unsupported-type", f"there is no evidence of type '{kind[:40]}'")
    made = Evidence(
        kind,
        _bytes(item, "report"),
        vek=_bytes(item, "vek", b""),
        chain=tuple(_list(item, "chain")),
        crl=_bytes(item, "crl", b""),
        collateral=_bytes(item, "collateral", b""),
        statement=_bytes(item, "statement", b""),
        gpus=tuple(_gpu(one) for one in _members(item, "gpus", MAX_GPUS)),
    )
    said = item.get("hardware")
    require(said in (made.hardware, str(made.hardware).lower().encode()), "evidence/malformed", "'hardware' is wrong")
    return made


def _gpu(item: Value | None) -> Gpu:
    if not isinstance(item, Message):
        raise _malformed("gpus")
    return Gpu(_bytes(item, "report"), _bytes(item, "chain"), tuple(_list(item, "manifests", MAX_MANIFESTS)))


def _bytes(item: Message, name: str, default: bytes | None = None) -> bytes:
    found = _loaded(item.get(name, default))
    if not isinstance(found, bytes):
        raise _malformed(name)
    return found


def _list(item: Message, name: str, most: int = 8) -> list[bytes]:
    found = _members(item, name, most)
    if not all(isinstance(one, bytes) for one in found):
        raise _malformed(name)
    return [one for one in found if isinstance(one, bytes)]


def _members(item: Message, name: str, most: int) -> list[Value | None]:
    """Return the members of a list, which a message with numbered keys may stand for."""
    found = _loaded(item.get(name, ()))
    if isinstance(found, Message):
        numbered = [found.get(str(number)) for number in range(1, len(found) + 1)]
        found = tuple(one for one in numbered if one is not None) if None not in numbered else None
    if not isinstance(found, tuple) or len(found) > most:
        raise _malformed(name)
    return [_loaded(one) for one in found]


def _loaded(item: Value | None) -> Value | None:
    return item.load() if isinstance(item, Link) else item


def _malformed(name: str) -> AttestationError:
    return refusal("evidence/malformed", f"'{name}' of the evidence is missing or malformed")
