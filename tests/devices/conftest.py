"""A resolver with its parts and no node around it, for tests of single devices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.actors import ActorSystem
from hyperpy.cache import Cache
from hyperpy.context import Chain, Frame, Services
from hyperpy.keys import RsaKey
from hyperpy.message import Message, Value, value
from hyperpy.recorder import Recorder
from hyperpy.registry import Registry
from hyperpy.resolver import Resolver
from hyperpy.sdk import DeviceSpec, Result
from hyperpy.storage import Storage
from hyperpy.store.memory import MemoryStore
from hyperpy.trail import Trail
from hyperpy.watchdog import Watchdog
from tests.devices.parts import Place, place


class FakeNode:
    """Stands for the ``node`` capability: settings that tests change, and an operator."""

    address = "node"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.operators: set[str] = set()

    def setting(self, name: str, default: Any = None) -> Any:
        """Return one setting."""
        return self.settings.get(name, default)

    def put(self, name: str, item: Value) -> None:
        """Store one setting."""
        self.settings[name] = item

    def is_operator(self, request: Message) -> bool:
        """Say whether an operator of the test signed."""
        return not self.operators.isdisjoint(commitments.committers(request))


class Bench:
    """Resolves; keeps what the devices were lent in reach of the test."""

    def __init__(self, devices: Sequence[type] = ()) -> None:
        store = MemoryStore()
        self.cache = Cache(store)
        self.store = Storage(self.cache, store)
        self.node = FakeNode()
        self.actors = ActorSystem()
        self.key: RsaKey | None = None
        registry = Registry(devices, start=self._start)
        trail = Trail(store)
        services = Services(fetch=self._refuse, sign=self._sign, config=self.node.settings)
        self.resolver = Resolver(
            registry,
            self.cache,
            Recorder(self.cache, trail),
            self.actors,
            services=services,
            watchdog=Watchdog(),
            trail=trail,
        )

    def step(self, base: Any, request: Any = None, **private: Any) -> Result:
        """Resolve and return the result, status and all; ``private`` goes into the request's private part."""
        return self._resolve(Chain(deadline=time.monotonic() + 30), base, request, private)

    def hook(self, base: Any, request: Any) -> Result:
        """Resolve as the node runs its hooks: without hashpaths."""
        return self._resolve(Chain(deadline=time.monotonic() + 30, hashpaths=False), base, request, {})

    def _resolve(self, chain: Chain, base: Any, request: Any, private: dict[str, Any]) -> Result:
        asked = None if request is None else value(request if isinstance(request, str) else Message(request))
        if private and isinstance(asked, Message):
            asked = asked.with_private(**private)
        return self.resolver.resolve(base, asked, Frame(self.resolver, chain, 0, None))

    def get(self, base: Any, request: Any = None, **private: Any) -> Any:
        """Resolve and return the value of an ``ok`` result."""
        result = self.step(base, request, **private)
        assert result.status == "ok", result
        return result.value

    def _start(self, spec: DeviceSpec, instance: Any, bundled: bool) -> None:
        lent = {"node": self.node, "store": self.store}
        if hasattr(instance, "start"):
            instance.start(**{need: lent[need] for need in spec.needs})

    def _sign(self, message: Message, **options: Any) -> Message:
        assert self.key is not None, "the test gives the node no key"
        return commitments.commit(message, self.key, **options)

    @staticmethod
    def _refuse(*_: Any) -> Any:
        raise AssertionError("no network in tests")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench with the bundled devices."""
    made = Bench()
    yield made
    made.actors.stop()


@pytest.fixture
def here() -> Iterator[Place]:
    """A node with processes, and no device beyond the bundled ones."""
    with place() as made:
        yield made


@pytest.fixture(scope="session")
def alice() -> RsaKey:
    """A throw-away key."""
    return RsaKey.generate(2048)


@pytest.fixture(scope="session")
def mallory() -> RsaKey:
    """Another throw-away key."""
    return RsaKey.generate(2048)


@pytest.fixture(scope="session")
def arweave() -> RsaKey:
    """A throw-away key of the size that ANS-104 asks for."""
    return RsaKey.generate(4096)
