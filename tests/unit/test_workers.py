"""The threads that answer requests: one that computes, more while it waits, bounded, and nobody stuck."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy.errors import Busy, DeviceTimeout
from hyperpy.http.workers import Workers


def made(work: Callable[[Any], Any], *, threads: int = 8, queue: int = 1000, patience: float = 20.0) -> Any:
    return Workers[Any, Any](work, threads=threads, queue=queue, patience=patience)


def run(workers: Any, *arguments: Any) -> list[Any]:
    """Ask for all at once; return results and errors in order."""

    async def main() -> list[Any]:
        return list(await asyncio.gather(*map(workers.ask, arguments), return_exceptions=True))

    try:
        return asyncio.run(main())
    finally:
        workers.close()


class Counting:
    """Work that counts how many run at once."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._now = self.most = 0
        self.threads: set[int] = set()

    def __call__(self, argument: Any) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.threads.add(threading.get_ident())
        try:
            return self._work(argument)
        finally:
            with self._lock:
                self._now -= 1


def test_results_reach_their_callers() -> None:
    assert run(made(lambda n: n * 2), *range(500)) == [n * 2 for n in range(500)]


def test_short_work_stays_on_few_threads() -> None:
    """Forty waves of eight, as eight busy connections send them: most of it is one thread's."""
    per: dict[int, int] = {}

    def work(_: Any) -> None:
        sum(range(2000))
        per[threading.get_ident()] = per.get(threading.get_ident(), 0) + 1

    workers = made(work, threads=64)

    async def main() -> None:
        for _ in range(40):
            await asyncio.gather(*(workers.ask(n) for n in range(8)))

    asyncio.run(main())
    workers.close()
    assert sum(per.values()) == 320
    assert len(per) < 64
    assert max(per.values()) > 320 / 8


def test_sleeping_work_gets_more_threads_up_to_the_most() -> None:
    counting = Counting(lambda n: time.sleep(0.3) or n)
    started = time.monotonic()
    assert run(made(counting, threads=8), *range(16)) == list(range(16))
    assert counting.most == 8
    assert time.monotonic() - started < 16 * 0.3


def test_a_job_that_computes_for_ever_holds_up_nobody() -> None:
    stop = threading.Event()

    def work(name: str) -> str:
        while name == "loop" and not stop.is_set():
            pass
        return name

    workers = made(work)

    async def main() -> list[str]:
        looping = asyncio.ensure_future(workers.ask("loop"))
        await asyncio.sleep(0.05)
        others = await asyncio.wait_for(asyncio.gather(*(workers.ask(str(n)) for n in range(20))), 15)
        assert not looping.done()
        stop.set()
        return [*others, await looping]

    try:
        assert asyncio.run(main()) == [*map(str, range(20)), "loop"]
    finally:
        stop.set()
        workers.close()


def test_what_is_ready_is_handed_over_though_the_next_job_blocks() -> None:
    """One thread takes all three, the last one does not end by itself: the results before it still arrive."""
    release = threading.Event()

    def work(name: str) -> str:
        if name == "blocks":
            release.wait(20)
        return name

    workers = made(work, threads=1)

    async def main() -> None:
        *quick, blocked = (asyncio.ensure_future(workers.ask(name)) for name in ("one", "two", "blocks"))
        assert await asyncio.wait_for(asyncio.gather(*quick), 10) == ["one", "two"]
        assert not blocked.done()
        release.set()
        assert await blocked == "blocks"

    try:
        asyncio.run(main())
    finally:
        release.set()
        workers.close()


def test_too_many_are_refused_and_room_comes_back() -> None:
    release = threading.Event()
    workers = made(lambda n: release.wait(20) and n, threads=2, queue=3)

    async def main() -> tuple[list[Any], Any]:
        asked = [asyncio.ensure_future(workers.ask(n)) for n in range(9)]
        await asyncio.sleep(0.1)
        release.set()
        return await asyncio.gather(*asked, return_exceptions=True), await workers.ask(99)

    first, after = asyncio.run(main())
    workers.close()
    assert [type(one) for one in first[5:]] == [Busy] * 4
    assert first[:5] == list(range(5))
    assert after == 99


def test_who_was_never_begun_is_told_that_the_node_is_busy() -> None:
    release = threading.Event()
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        release.wait(20)
        return n

    workers = made(work, threads=1, queue=1, patience=0.3)

    async def main() -> list[Any]:
        return await asyncio.gather(workers.ask(1), workers.ask(2), return_exceptions=True)

    try:
        first, second = asyncio.run(main())
        assert (type(first), type(second), begun) == (DeviceTimeout, Busy, [1])
    finally:
        release.set()


def test_a_caller_waits_only_so_long_and_the_thread_counts_until_it_ends() -> None:
    release = threading.Event()
    workers = made(lambda n: release.wait(20) and n, threads=1, queue=0, patience=0.2)

    async def main() -> Any:
        with pytest.raises(DeviceTimeout):
            await workers.ask(1)
        with pytest.raises(Busy):
            await workers.ask(2)
        release.set()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                return await workers.ask(3)
            except Busy:
                await asyncio.sleep(0.01)
        return None

    try:
        assert asyncio.run(main()) == 3
    finally:
        release.set()
        workers.close()


def test_those_who_wait_are_told_when_it_closes() -> None:
    release = threading.Event()
    workers = made(lambda n: release.wait(20) and n, threads=1)

    async def main() -> list[Any]:
        asked = [asyncio.ensure_future(workers.ask(n)) for n in (1, 2)]
        await asyncio.sleep(0.1)
        workers.close()
        release.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(Busy):
            await workers.ask(3)
        return list(found)

    first, second = asyncio.run(main())
    assert first == 1
    assert isinstance(second, Busy)


def test_a_caller_that_went_away_is_forgotten() -> None:
    workers = made(lambda n: time.sleep(0.1) or n, threads=1)

    async def main() -> Any:
        gone = asyncio.ensure_future(workers.ask(1))
        await asyncio.sleep(0.02)
        gone.cancel()
        return await workers.ask(2)

    assert asyncio.run(main()) == 2
    workers.close()


def test_threads_end_when_it_closes() -> None:
    seen: set[threading.Thread] = set()
    workers = made(lambda n: seen.add(threading.current_thread()) or time.sleep(0.05), threads=8)
    run(workers, *range(16))
    for thread in seen:
        thread.join(10)
    assert seen
    assert not any(thread.is_alive() for thread in seen)


def test_another_event_loop_may_follow() -> None:
    workers = made(lambda n: n)
    for _ in range(3):
        assert asyncio.run(_ask(workers, 5)) == list(range(5))
    workers.close()


async def _ask(workers: Any, count: int) -> list[Any]:
    return list(await asyncio.wait_for(asyncio.gather(*map(workers.ask, range(count))), 20))
