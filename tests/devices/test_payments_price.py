"""What simple-pay@1.0 counts: every message that a request will have resolved."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy.testing import TestNode
from tests.devices.test_payments import ALICE, WORK, Worker, balance, call, charged
from tests.security.attack import ask, send, sign

SUB = f"~message@1.0/{'/'.join(['set'] * 100)}/k5"
"""102 messages: a base, 100 of a kind, and a key. A path has at most 256 parts, those of its sub-paths among them."""


def price(n: TestNode, method: str, path: str, **keys: Any) -> int:
    """Return what a request costs that nobody can pay."""
    reply = ask(n, method, path, keys)
    assert reply["status"] == 402
    found = reply["price"]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/~message@1.0&a=1/a", 2),
        ("/~message@1.0&a=1/a?x=1", 2),
        (f"/{SUB}", 102),
        (f"/({SUB})/k5", 1 + 102 + 1),
        (f"/~message@1.0/({SUB})", 2 + 102),
        (f"/~message@1.0&a=({SUB})/a", 2 + 102),
        (f"/~message@1.0/set&z=({SUB})/z", 3 + 102),
        ("/~message@1.0/set&z=(~message@1.0&a=1/a)&y=(~message@1.0/set/set)/z", 3 + 2 + 3),
        (f"/~message@1.0/set?x+resolve=/{SUB}", 2 + 2 * 102),
        (f"/~message@1.0/set?1.x+resolve=/{SUB}", 2 + 102),
        (f"/~message@1.0/set&z=(~message@1.0/set&y=({SUB})/y)/z", 3 + 3 + 102),
        ("/~message@1.0/a~(~worker@1.0/work)", 2 + 2),
        ('/~message@1.0/set&device=apply@1.0&job="/~worker@1.0/work"/job', 3 + 2),
    ],
)
def test_what_a_path_holds_is_counted(path: str, expected: int) -> None:
    with charged(price=1) as n:
        assert price(n, "GET", path) == expected


@pytest.mark.parametrize("count", [1, 2])
def test_what_headers_have_resolved_is_counted(count: int) -> None:
    with charged(price=1) as n:
        keys = {f"x{at}+resolve": f"/{SUB}" for at in range(count)}
        assert price(n, "POST", "/~message@1.0/set", **keys) == 2 + 2 * count * 102


def test_what_is_counted_is_what_runs() -> None:
    """Each message of a price of one: the calls of a device at the end of a path of two are half of what is paid."""
    with charged(funds=100, price=1) as n:
        for path, keys in (
            (WORK, {}),
            ("/~message@1.0/set&z=(~worker@1.0/work)/z", {}),
            ("/~message@1.0/set", {"x+resolve": WORK, "y+resolve": WORK}),
            ("/(~worker@1.0/work)/body", {}),
        ):
            before = balance(n), Worker.calls["no"]
            assert call(n, ALICE, path, **keys)["status"] == 200
            paid, ran = before[0] - balance(n), Worker.calls["no"] - before[1]
            own = 0 if path == WORK else 3 if path.endswith("/z") else 2
            assert paid == own + 2 * ran, path
            assert ran


def test_a_signed_message_is_counted_too() -> None:
    with charged(funds=1000, price=1) as n:
        keys: dict[str, Any] = {
            "path": "/~message@1.0/set",
            "method": "POST",
            "x+resolve": f"/{SUB.removesuffix('/k5')}",
        }
        assert send(n, sign(keys, ALICE), "/~message@1.0/set")["status"] == 200
        assert balance(n) == 1000 - 2 - 2 * 101


def test_what_every_part_holds_is_counted_for_every_part() -> None:
    with charged(price=1) as n:
        many, inner = "/".join(["set"] * 120), f"~message@1.0/{'/'.join(['set'] * 100)}"
        assert price(n, "GET", f"/~message@1.0/{many}?a+resolve=/{inner}") == 121 + 121 * 101


@pytest.mark.parametrize("path", ["/~apply@1.0/x/job", "/~apply@1.0/set&a=1/job"])
def test_what_apply_runs_later_is_counted(path: str) -> None:
    with charged(price=1) as n:
        assert price(n, "GET", path, job=f"/{SUB}") == 3 + 102
