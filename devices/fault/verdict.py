"""What comes of a fault proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyperpy.encoding import b64u, sha256
from hyperpy.errors import HyperpyError

Word = Literal["guilty", "not-guilty", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a proof.

    Attributes:
        expected, got: content IDs of the true result and of the signed one.
        fault: names the lie, by whom and about which step, however it was proven: a ledger punishes each once.
    """

    verdict: Word
    accused: str
    kind: str
    reason: str
    expected: str = ""
    got: str = ""
    fault: str = ""


class Undecided(HyperpyError):
    """The proof proves nothing, for the reason given."""

    status = 400


def fault_id(accused: str, where: str) -> str:
    return b64u(sha256(f"{accused}\n{where}".encode("utf-8", "surrogateescape")))
