"""What an image remembers between calls: an immutable value, so that a message that holds it can be used twice.

A state is the image, the memory's pages, the mutable globals, and texts that were written since. Every call
starts a fresh guest, brings it to the state, and makes a new state of what it leaves; pages that did not
change are shared. So a call that fails changes nothing, and a state that was loaded from a snapshot answers
like one that never left the memory. Tables are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyperpy.errors import ParameterError, SizeError

from .engine import Compiled
from .instance import PAGE, ZERO, Host, Limits, Running
from .values import Failure, address

_TEXT = 64 << 20
"""Bytes up to the NUL that :meth:`State.read` returns at most."""


Pages = tuple[int, dict[int, bytes]]
"""A memory's size in bytes, and its pages that are not zero, by number."""


class State:
    """The state of one image.

    Args:
        pages: the memory's pages; None for an image that has just started.
        numbers: the mutable globals.
        writes: texts written into memory since, in order.
    """

    __slots__ = ("_warm", "compiled", "limits", "numbers", "pages", "writes")

    def __init__(
        self,
        compiled: Compiled,
        limits: Limits,
        pages: tuple[bytes, ...] | None = None,
        numbers: tuple[int, ...] = (),
        writes: tuple[bytes, ...] = (),
        warm: Running | None = None,
    ) -> None:
        self.compiled, self.limits = compiled, limits
        self.pages, self.numbers, self.writes = pages, numbers, writes
        self._warm = [] if warm is None else [warm]

    @classmethod
    def load(cls, compiled: Compiled, limits: Limits, memory: bytes | Pages, numbers: Sequence[int]) -> State:
        """Return the state of a snapshot: the whole memory, or its size and the pages that are not zero.

        Raises:
            SizeError: it does not fit into the memory limit.
            ParameterError: a page is not where or what a page must be.
        """
        size = memory[0] if isinstance(memory, tuple) else len(memory)
        if size > limits.memory:
            raise SizeError(f"a snapshot of {size} bytes does not fit into the memory limit of {limits.memory}")
        count = -(-size // PAGE)
        if isinstance(memory, tuple):
            given = memory[1]
            if any(not 0 <= number < count or len(page) != PAGE for number, page in given.items()):
                raise ParameterError("the snapshot's pages do not fit its size", name="snapshot")
            found = [given.get(number, ZERO) for number in range(count)]
        else:
            body = memory + bytes(count * PAGE - size)
            found = [body[number * PAGE : (number + 1) * PAGE] for number in range(count)]
        before = compiled.initial or ()
        pages = []
        for number, page in enumerate(found):
            old = before[number] if number < len(before) else ZERO
            pages.append(old if page == old else ZERO if page == ZERO else page)
        return cls(compiled, limits, tuple(pages), tuple(numbers))

    def write(self, data: bytes, deadline: float) -> tuple[State, int]:
        """Return the state with bytes and a NUL in memory that the guest gave, and their address.

        Raises:
            Failure: the guest has no ``malloc``, or it failed.
            DeviceTimeout: the deadline passed.
        """
        running = self._guest(deadline)
        at = running.put(data, deadline)
        return State(self.compiled, self.limits, self.pages, self.numbers, (*self.writes, data), running), at

    def call(
        self, name: str, values: Sequence[int | float], deadline: float, bind: Callable[[Live], Host]
    ) -> tuple[list[Any], State]:
        """Call an exported function; return its results and the state after.

        Raises:
            Failure, HyperpyError: as :meth:`Running.call`; this state is as it was.
        """
        running = self._guest(deadline)
        try:
            found = running.call(name, values, deadline, bind(Live(running)))
            before = self.compiled.initial or () if self.pages is None else self.pages
            return found, State(self.compiled, self.limits, running.pages(before), running.numbers())
        finally:
            running.close()

    def settled(self, deadline: float) -> State:
        """Return an equal state that holds its memory: the guest started and all texts written."""
        if self.pages is not None and not self.writes:
            return self
        running = self._guest(deadline)
        try:
            before = self.compiled.initial or () if self.pages is None else self.pages
            return State(self.compiled, self.limits, running.pages(before), running.numbers())
        finally:
            running.close()

    def read(self, at: int) -> bytes:
        """Return the bytes from an address up to the NUL. Raises Failure outside the memory."""
        pages = self.pages or ()
        at = address(at)
        found: list[bytes] = []
        number, start = divmod(at, PAGE)
        while number < len(pages) and len(found) * PAGE <= _TEXT:
            end = pages[number].find(b"\0", start)
            found.append(pages[number][start : end if end >= 0 else PAGE])
            if end >= 0:
                return b"".join(found)
            number, start = number + 1, 0
        raise Failure("a text does not end inside the guest's memory")

    def body(self) -> bytes:
        """Return the memory as one piece."""
        return b"".join(self.pages or ())

    def sparse(self) -> Pages:
        """Return the memory's size, and its pages that are not zero, by number."""
        pages = self.pages or ()
        return len(pages) * PAGE, {number: page for number, page in enumerate(pages) if page is not ZERO}

    def _guest(self, deadline: float) -> Running:
        """Return a guest in this state: the one that the last write left, else a new one."""
        try:
            return self._warm.pop()
        except IndexError:
            pass
        running = Running(self.compiled, self.limits, deadline)
        try:
            if self.compiled.initial is None:
                self.compiled.initial = running.pages(())
            if self.pages is not None:
                running.restore(self.pages, self.numbers)
            for data in self.writes:
                running.put(data, deadline)
        except BaseException:
            running.close()
            raise
        return running


class Live:
    """A guest while it waits for an import: the memory that import devices read and write, and its steps."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.memory64 = running.compiled.memory64

    def peek(self, at: int, size: int) -> bytes:
        """Return ``size`` bytes from an address. Raises ParameterError outside the memory."""
        found: bytes = self._in_bounds(lambda: self._running.peek(address(at), size))
        return found

    def poke(self, at: int, data: bytes) -> None:
        """Write bytes at an address. Raises ParameterError outside the memory."""
        self._in_bounds(lambda: self._running.poke(address(at), data))

    def left(self) -> int:
        """Return how many steps the call has left."""
        return self._running.left()

    def spend(self, steps: int) -> None:
        """Take steps from the call for work done for it. Raises ParameterError if there are not so many."""
        self._in_bounds(lambda: self._running.spend(steps))

    def lend(self, data: bytes) -> int:
        """Return where bytes and a NUL stand now, in memory of the guest's ``malloc``. Raises ParameterError."""
        found: int = self._in_bounds(lambda: self._running.lend(data))
        return found

    @staticmethod
    def _in_bounds(work: Any) -> Any:
        try:
            return work()
        except Failure as error:
            raise ParameterError(str(error)) from None
