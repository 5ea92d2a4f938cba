"""Which signatures pay: those that say what is asked for, each of them once; and what a request is counted as."""

from __future__ import annotations

import json

from tests.devices.test_payments import ALICE, WORK, Worker, balance, charged
from tests.security.attack import send, sign, text


def test_a_signed_json_body_is_paid_for() -> None:
    with charged(funds=10) as n:
        body = {"content-type": "application/json", "body": json.dumps({"fail": "status"}).encode()}
        reply = send(n, sign({**body, "path": WORK, "method": "POST"}, ALICE), WORK)
        assert reply["status"] == 404, "the device sees the keys"
        assert Worker.calls["status"] == 1
        body["body"] = b'{"fail": "no", "path": "/~meta@1.0/info", "method": "GET"}'
        reply = send(n, sign({**body, "path": WORK, "method": "POST"}, ALICE), WORK)
        assert text(reply) == "done", "a body's keys replace nothing"
        assert balance(n) == 4
