"""``[trail] public``: who may read what was computed (design 5, hyperpy/privacy.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperpy import Message, device, key
from hyperpy.commitments import content_id, signed_id
from hyperpy.keys import RsaKey
from hyperpy.message import Link
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import ask, mallory, operator, send, sign

PATH = "/~vault@1.0&owner=alice/made"
RESULT = {"body": "for alice alone", "inner": {"deep": "deeper"}}


@device("vault@1.0")
class Vault:
    """Makes something that its caller may want to keep."""

    @key
    def made(self) -> Message:
        return Message(RESULT)


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node(Vault, flags={"trail.public": False}) as made:
        yield made


def alice() -> RsaKey:
    return wallet("alice")


def get(n: TestNode, path: str, key: RsaKey | None = None) -> Message:
    """Return the reply to a GET, its path signed or not signed by anybody."""
    return ask(n, "GET", path) if key is None else send(n, sign({"path": path, "method": "GET"}, key), path)


def computed(n: TestNode, by: RsaKey | None) -> tuple[str, str]:
    """Have the result made; return its ID and hashpath."""
    reply = get(n, PATH, by)
    assert reply["status"] == 200
    assert reply.hashpath is not None
    return content_id(Message(RESULT)), reply.hashpath


def readers(n: TestNode, path: str) -> dict[str, int]:
    found = {"nobody": None, "mallory": mallory(), "alice": alice(), "operator": operator()}
    return {name: int(str(get(n, path, key)["status"])) for name, key in found.items()}


def test_public_by_default() -> None:
    with node(Vault) as n:
        ref, hashpath = computed(n, alice())
        for path in (f"/{ref}", f"/{hashpath}", f"/{ref}/body", f"/{ref}/inner/deep"):
            assert set(readers(n, path).values()) == {200}, path


def test_results_are_for_who_asked_and_the_operator(n: TestNode) -> None:
    ref, hashpath = computed(n, alice())
    ways = [
        f"/{ref}",
        f"/{ref}/body",
        f"/{ref}/inner/deep",
        f"/{hashpath}",
        f"/{hashpath}/body",
        f"/({ref})/body",
        f"/({ref}/body)",
        f"/{ref}~message@1.0/body",
        f"/{ref}~json@1.0/serialize",
        f"/~message@1.0/x?x+resolve={ref}/body",
        f"/~lookup@1.0/read&target={ref}",
        f"/~cache@1.0/read&read={ref}",
        f"/~apply@1.0/pair&base=base:b&request=body?b+resolve={ref}",
    ]
    for path in ways:
        seen = readers(n, path)
        assert (seen["nobody"], seen["mallory"]) == (403, 403), path
        if "apply" not in path:
            assert (seen["alice"], seen["operator"]) == (200, 200), path
        reply = get(n, path)
        assert b"alice alone" not in repr(reply).encode()


def test_what_nobody_signed_is_for_the_operator(n: TestNode) -> None:
    ref, hashpath = computed(n, None)
    for path in (f"/{ref}", f"/{hashpath}"):
        assert readers(n, path) == {"nobody": 403, "mallory": 403, "alice": 403, "operator": 200}


def test_a_signature_without_the_path_shows_nothing(n: TestNode) -> None:
    """Alice signed a note for everybody; whoever has it must not read her results with it."""
    ref, hashpath = computed(n, alice())
    note = sign({"note": "hello"}, alice())
    for path in (f"/{ref}/body", f"/{hashpath}/body"):
        assert send(n, note, path, "GET")["status"] == 403


def test_a_link_is_no_way_around(n: TestNode) -> None:
    ref, _ = computed(n, alice())
    bait = sign({"peek": Link(ref)}, mallory())
    send(n, bait, "/~message@1.0/x")
    for path in (f"/{signed_id(bait)}/peek", f"/{signed_id(bait)}/peek/body", f"/{content_id(bait)}/peek/body"):
        assert get(n, path)["status"] in (403, 404), path
        assert get(n, path, mallory())["status"] in (403, 404), path


@pytest.mark.parametrize("bundle", ["true", "false"])
def test_nor_is_a_link_in_the_request_itself(n: TestNode, bundle: str) -> None:
    """It leads to what the node has, as far as its sender may read that."""
    ref, _ = computed(n, alice())
    for path in ("/~message@1.0/set&z=1/peek/body", "/~message@1.0/set&z=1/peek", "/~message@1.0/set&z=1"):
        reply = n.http("GET", path, {"peek+link": ref, "accept-bundle": bundle})
        assert b"for alice alone" not in reply.body + repr(reply.headers).encode()
        assert reply.status == (403 if "peek" in path or bundle == "true" else 200), (path, reply)
    shown = n.get("/~message@1.0&open=5/set&z=1")
    name = content_id(shown.without("status"))
    assert n.http("GET", "/~message@1.0/set&z=1/peek/open", {"peek+link": name}).status == 403, "a result of nobody's"


def test_signed_messages_stay_public(n: TestNode) -> None:
    statement = sign({"type": "Process", "x": "1"}, alice())
    send(n, statement, "/~message@1.0/x")
    assert set(readers(n, f"/{signed_id(statement)}/x").values()) == {200}


def test_everybody_may_compute_it_themselves(n: TestNode) -> None:
    computed(n, alice())
    reply = get(n, PATH, mallory())
    assert (reply["status"], reply["body"]) == (200, b"for alice alone")
    hashpath = reply.hashpath
    assert get(n, f"/{hashpath}", mallory())["status"] == 200
    assert get(n, f"/{hashpath}", alice())["status"] == 403


def test_timers_read_for_nobody(n: TestNode) -> None:
    ref, _ = computed(n, alice())
    ask(n, "GET", "/~cron@1.0/once", {"cron-path": f"/{ref}/body"})
    assert get(n, f"/{ref}")["status"] == 403


def test_the_node_itself_reads_everything(n: TestNode) -> None:
    ref, _ = computed(n, alice())
    assert n.node.resolve(f"/{ref}/body") == b"for alice alone"
