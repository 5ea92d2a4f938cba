"""Confidential processes: what their senders, readers and machines agree on (tee-attestation 8.1; docs/attestation.md).

The definition of a process on ``confidential@1.0`` names the one machine that computes it:

    ``confidential-device``  what executes it inside, such as ``lua@5.3a``
    ``confidential-key``     base64url of that machine's key for secrets, as its statement has it (``kem``)
    ``confidential-node``    that machine's address
    ``confidential-public``  keys of the state that everybody may see, separated by commas; may be missing

A sealed message is an ordinary signed message to the process. It has

    ``sealed``               base64url of the canonical bytes of a message, sealed (HPKE) to that key
    ``attestation``          base64url of the ID of the evidence that the sender accepted
    ``policy``               name of the policy that accepted it
    ``number``               above that of every earlier sealed message of the same sender to this process

It is nested at most 32 deep and holds no links, which lead nowhere inside.

Sealed for one process, sender and number, it opens under no others; a copy that somebody else signs is refused, and
so is the same one again. Inside are the message's own keys and ``reply-secret`` (32 bytes), under which the answer
stands in the state's ``results/sealed``.

Answers and states are encrypted with AES-SIV (RFC 5297), which takes no nonce: computing a slot again gives the same
bytes, and a schedule that was rolled back gives nothing away but which answers are equal.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hyperpy.attest import sealing
from hyperpy.attest.statement import Statement
from hyperpy.attested import attestation_id
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, native, sha256
from hyperpy.errors import CodecError, HyperpyError, ParameterError, SizeError
from hyperpy.message import Link, Message, Value

DEVICE: Final = "confidential-device"
KEY: Final = "confidential-key"
NODE: Final = "confidential-node"
PUBLIC: Final = "confidential-public"
SEALED: Final = ("sealed", "attestation", "policy", "number")
"""Keys of a sealed message, all of which its sender signs."""
REPLY: Final = "reply-secret"
MOST: Final = 1 << 63
"""Numbers are below this."""
MAX_SENDERS: Final = 1 << 16
"""Senders whose sealed messages one process takes: whoever comes first."""
MAX_DEPTH: Final = 32
"""Lists and maps inside one another in a sealed message, itself counted."""

_MESSAGE: Final = b"hyperpy/tee/message/v1\0"
_ANSWER: Final = b"hyperpy/tee/message-answer/v1\0"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine whose evidence was accepted: what messages are sealed to.

    Attributes:
        address: the node's, 32 bytes.
        kem: its key for secrets, as the statement has it.
        attestation: ID of the evidence, 32 bytes.
        policy: name of the policy that accepted it.
    """

    address: bytes
    kem: bytes
    attestation: bytes
    policy: str

    @classmethod
    def of(cls, said: Statement, policy: str) -> Machine:
        """Return the machine of a statement that the evidence is bound to; verify that evidence first."""
        return cls(said.fields["address"], said.fields.get("kem", b""), attestation_id(said), policy)

    def definition(self, device: str, public: str = "") -> dict[str, str]:
        """Return the keys of a process that this machine alone computes.

        Args:
            device: what executes it inside.
            public: keys of its state that everybody may see, separated by commas.
        """
        made = {"execution-device": "confidential@1.0", DEVICE: device, KEY: b64u(self.kem), NODE: b64u(self.address)}
        return {**made, PUBLIC: public} if public else made

    def seal(self, process: str, sender: str, number: int, items: Mapping[str, Any]) -> tuple[dict[str, Any], Answer]:
        """Return the keys of a sealed message, to be signed by its sender, and what opens the answer.

        Args:
            process: the process's ID.
            sender: address of who will sign.
            number: above that of the sender's earlier sealed messages to the process; the time in microseconds will do.
            items: what the process is to read.

        Raises:
            ParameterError: the machine has no key of a known kind, or a part is malformed.
        """
        secret = secrets.token_bytes(32)
        plain = canonical.encode(Message({**items, REPLY: secret}))
        made = sealing.seal(plain, self.kem, info(self.attestation, self.policy, self.address, process, sender, number))
        keys = {"sealed": b64u(made), "attestation": b64u(self.attestation), "policy": self.policy, "number": number}
        return keys, Answer(secret, process, made)


@dataclass(frozen=True, slots=True)
class Answer:
    """What opens the answer to one sealed message."""

    secret: bytes
    process: str
    sealed: bytes

    def open(self, slot: int, text: bytes | str) -> Message:
        """Return the answer, from ``results/sealed`` of the state after the slot that the message got.

        Either ``results`` of the process as it is inside, or ``error``.

        Raises:
            CodecError: it is not the answer to this message at this slot.
        """
        raw = b64u_decode(text)
        found = canonical.decode(decrypted(answer_key(self.secret, self.process, self.sealed, slot), raw))
        if not isinstance(found, Message):
            raise CodecError("an answer is a message")
        return found


def info(attestation: bytes, policy: str, address: bytes, process: str, sender: str, number: int) -> bytes:
    """Return HPKE's ``info`` of a sealed message; raise ParameterError where a part is malformed."""
    if type(number) is not int or not 0 <= number < MOST:
        raise ParameterError("a sealed message's number is a whole number from 0", name="number")
    try:
        parts = native(process) + native(sender)
    except HyperpyError:
        parts = b""
    if len(parts) != 64:
        raise ParameterError("a process and a sender have 32 bytes each")
    request = sha256(_MESSAGE + parts + number.to_bytes(8, "big"))
    return sealing.context(attestation, policy, address, request)


def check_form(item: Value | None, most: int, *, links: bool = True) -> None:
    """Raise unless a value can be part of a message, wherever it stands.

    Args:
        most: lists and maps inside one another, the value itself counted.
        links: whether it may hold links.

    Raises:
        SizeError: it is nested more deeply.
        ParameterError: it holds None, a number that is not finite or, where they are refused, a link.
    """
    left: list[tuple[Value | None, int]] = [(item, 1)]
    while left:
        one, depth = left.pop()
        if isinstance(one, (Message, tuple)):
            if depth > most:
                raise SizeError(f"nested deeper than {most}")
            inner = one.raw_items().values() if isinstance(one, Message) else one
            left += [(part, depth + 1) for part in inner]
        elif one is None or (isinstance(one, float) and not math.isfinite(one)):
            raise ParameterError("a message holds no empty values, and finite numbers")
        elif isinstance(one, Link) and not links:
            raise ParameterError("a link leads to nothing here")


def answer_key(secret: bytes, process: str, sealed: bytes, slot: int) -> bytes:
    """Return the key (64 bytes) of the answer to a sealed message that got a slot."""
    about = _ANSWER + native(process) + sha256(sealed) + slot.to_bytes(8, "big")
    return HKDF(SHA512(), 64, salt=None, info=about).derive(secret)


def encrypted(key: bytes, plain: bytes) -> bytes:
    """Return a text under a key of 64 bytes: the same for the same."""
    return AESSIV(key).encrypt(plain, None)


def decrypted(key: bytes, data: bytes) -> bytes:
    """Return what was encrypted; raise CodecError if it was not under this key, or was changed."""
    try:
        return AESSIV(key).decrypt(data, None)
    except (InvalidTag, ValueError):
        raise CodecError("this is not encrypted under this key") from None
