"""A node that is killed while it charges forgets no charge that it answered, and takes no money twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from hyperpy import config
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, wallet

FUNDS = 1_000_000
CHILD = """
import os, sys
from dataclasses import replace
from hyperpy import Message, commitments, config
from hyperpy.commitments import http_form
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, wallet

hook = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-device": "simple-pay@1.0"}
caller = RsaKey.load(sys.argv[2])
made = config.load(environ={}, flags={"hooks.on": {"request": hook, "response": hook}})
made = replace(made, extra={"simple-pay-ledger": {caller.address: int(sys.argv[3])}})
n = TestNode(Node(made, key=wallet(), store=LmdbStore(sys.argv[1]), operator=wallet("operator").address))
path = "/~message@1.0/keys"
while True:
    form = http_form(commitments.commit(Message({"path": path, "method": "POST"}), caller), bundle=True)
    headers = {name: text.decode() for name, text in form.headers.items()}
    assert n.post(path, form.body or b"", headers)["status"] == 200
    os.write(1, b"paid\\n")
"""


def test_what_was_charged_stays_charged(tmp_path: Path) -> None:
    wallet_file = tmp_path / "caller.json"
    caller = RsaKey.create(wallet_file)
    folder = tmp_path / "store"
    funds = FUNDS
    for paid in (5, 20):
        command = [sys.executable, "-c", CHILD, str(folder), str(wallet_file), str(FUNDS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(paid):
                assert child.stdout.readline() == b"paid\n"
            child.send_signal(signal.SIGKILL)
            answered = paid + child.stdout.read().count(b"paid\n")
        left = balance(folder, caller.address)
        assert funds - 2 * (answered + 1) <= left <= funds - 2 * answered
        funds = left


def balance(folder: Path, address: str) -> int:
    settings = replace(config.load(environ={}), extra={"simple-pay-ledger": {address: FUNDS}})
    with Node(settings, key=wallet(), store=LmdbStore(folder), operator=wallet("operator").address) as inner:
        return int(TestNode(inner).get(f"/~simple-pay@1.0/balance?target={address}").text("body"))
