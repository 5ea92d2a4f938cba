"""Who may have how many of the hardware's reports within a minute."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from hyperpy import attestation_budget, config
from hyperpy.attestation_budget import ASKED, OWN, RESULT, ZONE, Budget
from hyperpy.attester import configfs
from hyperpy.client import Client
from hyperpy.errors import AttestationError
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from tests.attest import fake_amd, fake_kernel

SUM = "/~message@1.0&x=3/x"


class Time:
    """A clock that stands still until it is told."""

    now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(attestation_budget, "time", made)
    return made


def had(budget: Budget, use: str, *clients: str, tries: int = 1000) -> int:
    """Return how many reports there are until one is refused."""
    for count in range(tries):
        try:
            for one in clients if use == RESULT else ():
                budget.check(one)
            budget.spend(use, clients)
        except AttestationError as error:
            return count if error.code == "attester/rate-limited" else -1
    return tries


def test_one_client_has_a_quarter_and_half_for_results(clock: Time) -> None:
    budget = Budget(120)
    assert had(budget, ASKED, "a") == 30
    assert had(budget, RESULT, "a") == 60
    assert had(budget, OWN) == 120 - 90


def test_many_clients_leave_a_quarter_for_results_and_a_tenth_for_the_node(clock: Time) -> None:
    budget = Budget(120)
    assert sum(had(budget, ASKED, str(one)) for one in range(100)) == 60, "half"
    assert had(budget, ZONE) == 120 - 12 - 30 - 60
    assert sum(had(budget, RESULT, str(one)) for one in range(100)) == 30
    assert had(budget, OWN) == 12


def test_zones_have_half(clock: Time) -> None:
    budget = Budget(120)
    assert had(budget, ZONE) == 60
    assert sum(had(budget, ASKED, str(one)) for one in range(100)) == 18


def test_a_report_for_many_counts_once_and_for_each(clock: Time) -> None:
    budget = Budget(20)
    assert had(budget, RESULT, "a", "b") == 10
    assert had(budget, RESULT, "a") == had(budget, RESULT, "b") == 0
    assert had(budget, RESULT, "c") == 8


def test_a_minute_later_it_begins_anew(clock: Time) -> None:
    budget = Budget(20)
    assert had(budget, ASKED, "a") == 5
    clock.now += 30
    assert had(budget, RESULT, "a") == 10
    clock.now += 29.9
    assert had(budget, ASKED, "a") == 0
    clock.now += 0.2
    assert had(budget, ASKED, "a") == 5
    assert had(budget, RESULT, "a") == 0
    clock.now += 60
    assert had(budget, RESULT, "a") == 10
    clock.now += 60
    assert had(budget, RESULT, "b") == 10
    assert set(budget._clients) == {(RESULT, "b")}, "nothing is kept of who asked before"


@pytest.mark.parametrize("use", [ASKED, ZONE, RESULT, OWN])
def test_of_a_single_report_everybody_may_have_it(clock: Time, use: str) -> None:
    budget = Budget(1)
    assert had(budget, use, "a") == 1
    assert had(budget, OWN) == 0


def status(server: Server, path: str, source: str) -> int:
    """Return the status of a GET from an address of this machine."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20, source_address=(source, 0))
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_who_asks_for_evidence_leaves_reports_for_results_others_and_the_operator() -> None:
    amd = fake_amd.fake_amd()
    settings = config.load(environ={}, flags={"rate-limit.requests": 0, "tee.reports": 20})
    own = configfs.Configfs(fake_kernel.snp(amd), "sev_guest")
    operator = wallet("operator")
    with Node(settings, key=wallet(), store=MemoryStore(), operator=operator.address, attester=own) as node:
        server = Server(node, "127.0.0.1", 0)
        server.start()
        try:
            for source in ("127.0.0.1", "127.0.0.2"):
                asked = [status(server, "/~tee@1.0/attest", source) for _ in range(8)]
                assert asked == [200] * 5 + [503] * 3, source
            assert status(server, "/~tee@1.0/attest", "127.0.0.3") == 503, "half of all is spent"
            with Client(server.url) as client, Client(server.url, operator) as master:
                told = [client.get(f"{SUM}?attest=hardware&n={at}") for at in range(9)]
                words = [one["attestation-status"] for one in told]
                assert words == [b"hardware"] * 8 + [b"failed"], "all but a tenth"
                assert told[-1]["attestation-code"] == b"attester/rate-limited"
                assert client.get(f"{SUM}?attest=true")["attestation-status"] == b"hardware", "the node's own key"
                assert [master.get("/~tee@1.0/attest")["status"] for _ in range(2)] == [200, 503]
                assert client.get(f"{SUM}?attest=true")["attestation-status"] == b"hardware", "made once"
        finally:
            server.stop()
