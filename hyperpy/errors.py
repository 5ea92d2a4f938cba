"""Every error hyperpy raises, as one tree.

    HyperpyError                      never raised itself
    |-- MessageError            400   the caller's message is wrong
    |   |-- CodecError          400   bytes do not decode
    |   |-- PathError           400   a path does not parse (carries ``offset``)
    |   |-- ParameterError      400   a key's parameter is missing or of the wrong type (carries ``name``)
    |   `-- SizeError           413   a limit on size, depth or count was passed
    |-- CommitmentError         400   a commitment is malformed
    |   |-- InvalidSignature    400   a signature does not verify
    |   |-- UnknownCommitment   400   a commitment or committer that was asked for is not there
    |   |-- Unauthorized        401   the caller must identify itself
    |   `-- Forbidden           403   the caller may not do this
    |-- NotFound                404
    |   |-- KeyNotFound         404   the message has no such key
    |   |-- MessageNotFound     404   no store holds the message
    |   `-- DeviceNotFound      404   no such device on this node
    |-- SealedElsewhere         409   what it takes is sealed to a key that this node does not hold
    |-- TooManyRequests         429   a rate limit was passed
    |-- DeviceError             500   the device failed
    |   |-- NotDeterministic    500   a deterministic key asked for time, randomness, network ...
    |   |-- DeviceReentered     508   a call chain came back to an actor it is already inside
    |   |-- DeviceTimeout       504   the deadline passed
    |   |-- NotCached           504   ``only-if-cached`` and nothing is cached
    |   `-- Busy                503   a mailbox or queue is full
    |-- StoreError              503   the store cannot answer now (full disk, closed, locked)
    |   `-- Corrupt             500   stored bytes differ from what their name promises
    |-- UpstreamError           502   another node answered wrongly or not at all
    `-- ConfigError             400   configuration is wrong (start-up, or an operator's change)

``status`` is the HTTP status and lives on the class. ``retry_after`` (seconds) is set where
trying again makes sense. ``diagnostics()`` is the message plus one sentence saying what to do
next. No text here ever holds a stack trace.
"""

from __future__ import annotations

from typing import ClassVar


class HyperpyError(Exception):
    """Something went wrong; the class says whose fault it is."""

    status: ClassVar[int] = 500
    advice: ClassVar[str] = "Look at the node's log for the incident number."
    retry_after: float | None = None
    document: bytes | None = None
    """What is answered over HTTP instead of the text: JSON in the form that a device's clients know."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.device: str | None = None
        self.key: str | None = None
        self.hashpath: str | None = None
        self.incident: str | None = None

    def next_step(self) -> str:
        """Return what to do next: the hint, or the class's advice with the device's name filled in."""
        return self.hint or (self.advice.replace("DEVICE", self.device) if self.device else self.advice)

    def diagnostics(self) -> str:
        """Return the message and the next step, as one paragraph."""
        stop = "" if self.message[-1:] in ("", ".", "!", "?", ":") else "."
        return f"{self.message}{stop} {self.next_step()}".strip()


class MessageError(HyperpyError):
    """The caller sent a message that cannot be used."""

    status = 400
    advice = "Check the message against docs/http-api.md."


class CodecError(MessageError):
    """The caller's bytes do not decode."""

    advice = "Check the encoding named by content-type or codec-device."


class PathError(MessageError):
    """The caller's path does not parse; ``offset`` is where in the decoded path."""

    advice = "See docs/paths.md for the path grammar."

    def __init__(self, message: str, *, offset: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class ParameterError(MessageError):
    """The caller left out a parameter or gave one of the wrong type."""

    advice = "Ask the device for its keys and types: /~DEVICE/info."

    def __init__(self, message: str, *, name: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.name = name


class SizeError(MessageError):
    """The caller passed a limit on size, depth, count or length."""

    status = 413
    advice = "Send less, or ask the operator to raise the limit under [limits]."


class CommitmentError(HyperpyError):
    """A commitment in the caller's message cannot be used."""

    status = 400
    advice = "Sign the message again, or send it without its commitments."


class InvalidSignature(CommitmentError):
    """A signature or MAC does not fit the message."""

    advice = "The message changed after signing, or the key is another one; sign it again."


class UnknownCommitment(CommitmentError):
    """A committer or commitment ID that was asked for is not on the message."""

    advice = "List them with /committers or /commitments."


class Unauthorized(CommitmentError):
    """The caller did not say who it is."""

    status = 401
    advice = "Sign the request or send credentials."


class Forbidden(CommitmentError):
    """The caller is known and may not do this."""

    status = 403
    advice = "Sign the request with a key that is allowed to do this."


class NotFound(HyperpyError):
    """What was asked for is not here."""

    status = 404
    advice = "Check the spelling."


class KeyNotFound(NotFound):
    """The message has no such key, and its device does not answer it."""

    advice = "List what is there with /keys, and what the device answers with /info."


class MessageNotFound(NotFound):
    """No store of this node holds the message."""

    advice = "Send the message first, or ask a node that has it."


class DeviceNotFound(NotFound):
    """No device of that name is installed on this node."""

    advice = "List the devices with `hyperpy devices` or /~meta@1.0/info/devices."


class SealedElsewhere(HyperpyError):
    """What this takes is sealed to a key that this node does not hold; nobody's fault, and no result."""

    status = 409
    advice = "Ask the machine that the process names; after a new start its key is another. See docs/attestation.md."


class TooManyRequests(HyperpyError):
    """The caller asks too often."""

    status = 429
    advice = "Wait and try again."


class DeviceError(HyperpyError):
    """The device failed; not the caller's fault."""

    advice = "Report the incident number to the node's operator."


class NotDeterministic(DeviceError):
    """A deterministic key asked for something that differs from run to run."""

    advice = "Declare the key with @key(deterministic=False), or take the value as a parameter."


class DeviceReentered(DeviceError):
    """A call chain came back to an actor that it is already inside."""

    status = 508
    advice = "Break the cycle, or declare the key with @key(reentrant=True)."


class DeviceTimeout(DeviceError):
    """The deadline passed before the answer was there."""

    status = 504
    advice = "Try again later; finished work is kept."
    retry_after = 1.0


class DeviceStopped(DeviceTimeout):
    """A safety net ended the work, whatever time the caller had left; this is no result."""

    advice = "Do less in one call."


class NotCached(DeviceError):
    """The caller asked for a cached answer only, and there is none."""

    status = 504
    advice = "Leave out only-if-cached to have it computed."


class Busy(DeviceError):
    """A queue is full."""

    status = 503
    advice = "Try again in a moment."
    retry_after = 1.0


class StoreError(HyperpyError):
    """The store cannot answer now."""

    status = 503
    advice = "Free disk space or raise [store] quota, then try again."
    retry_after: float | None = 5.0


class Corrupt(StoreError):
    """Stored bytes are not what their name promises."""

    status = 500
    advice = "Run `hyperpy store verify`."
    retry_after = None

    def __init__(self, message: str, *, expected: str = "", got: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.got = got


class UpstreamError(HyperpyError):
    """Another node answered wrongly, or not at all.

    ``answered`` says whether anything came back; ``unsent`` that no byte of the request reached it, so that sending
    again repeats nothing.
    """

    status = 502
    answered = True
    unsent = False
    advice = "Check that the peer runs and is reachable."


class AttestationError(HyperpyError):
    """Evidence of a trusted execution environment is refused.

    ``code`` is one of :data:`hyperpy.attest.codes.CODES`, stable for programs.
    """

    status = 403
    advice = "See docs/attestation.md for what this code means."

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{code}: {message}", hint=hint)
        self.code = code


class EvidenceError(AttestationError):
    """The evidence is malformed, or its own signature does not hold."""


class EndorsementError(AttestationError):
    """Certificates, collateral or reference values do not vouch for the evidence."""


class AttesterError(AttestationError):
    """This machine cannot make evidence now."""

    status = 503
    advice = "Run `hyperpy doctor` to see what this machine has; try again later."
    retry_after = 1.0


class AppraisalError(AttestationError):
    """The evidence is genuine, but a policy, the binding or its freshness refuses it."""


class ConfigError(HyperpyError):
    """A setting is wrong."""

    status = 400
    advice = "Run `hyperpy config` to see every setting and where it came from."
