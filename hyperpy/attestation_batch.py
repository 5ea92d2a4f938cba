"""One report for many results: who waits for the hardware at once is attested together (tee-attestation 7.2)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from hyperpy.attest.codes import refusal
from hyperpy.attested import Attestation
from hyperpy.errors import HyperpyError

log = logging.getLogger("hyperpy.attestation")


class Turn:
    """One result that is to be attested: the fields of its statement, for whom, and what became of it.

    Args:
        peer: address that asks, empty if unknown; None for the operator.
    """

    def __init__(self, nonce: bytes, fields: dict[str, bytes], peer: str | None = "") -> None:
        self.nonce, self.fields, self.peer = nonce, fields, peer
        self.made: Attestation | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()

    def outcome(self) -> Attestation:
        """Return the attestation, or raise why there is none."""
        if self.made is not None:
            return self.made
        raise self.error or refusal("attester/busy", "others wait for the hardware")


class Together:
    """Gathers turns: while the hardware is asked for some, the next ones gather, and have one report for all.

    Nobody waits for others to come: who is alone has a report of its own at once.

    Args:
        attest: makes the attestations of some turns; raises where there are none.
        most: turns of one report at most.
        patience_s: seconds that a turn waits for others.
    """

    def __init__(self, attest: Callable[[Sequence[Turn]], Sequence[Attestation]], most: int, patience_s: float) -> None:
        self._attest, self._most, self._patience_s = attest, most, patience_s
        self._waiting: deque[Turn] = deque()
        self._gathering, self._asking = threading.Lock(), threading.Lock()

    def attested(self, turn: Turn) -> Attestation:
        """Return the attestation of a turn, alone or together with others.

        Raises:
            AttestationError: ``attester/...``: there is none now; ``attester/unavailable`` where making it failed.
            HyperpyError, OSError: what making it raised.
        """
        with self._gathering:
            self._waiting.append(turn)
        if not self._asking.acquire(timeout=self._patience_s):
            with self._gathering:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    raise refusal("attester/busy", "others wait for the hardware")
            turn.done.wait(self._patience_s)  # somebody asks for it just now
            return turn.outcome()
        try:
            while not turn.done.is_set():
                with self._gathering:
                    taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                self._serve(taken)
        finally:
            self._asking.release()
        return turn.outcome()

    def _serve(self, taken: Sequence[Turn]) -> None:
        try:
            for turn, made in list(zip(taken, self._attest(taken), strict=True)):
                turn.made = made
        except BaseException as error:
            known = isinstance(error, (HyperpyError, OSError))
            if not known:
                log.exception("making an attestation failed")
            for turn in taken:
                turn.error = error if known else refusal("attester/unavailable", f"it failed: {type(error).__name__}")
            if not isinstance(error, Exception):
                raise
        finally:
            for turn in taken:
                turn.done.set()
