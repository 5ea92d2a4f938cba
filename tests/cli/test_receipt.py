"""``hyperpy receipt`` and ``hyperpy verify``, as a person types them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hyperpy.cli.app import app, register_all
from hyperpy.encoding import sha256
from hyperpy.errors import HyperpyError
from hyperpy.http.server import Server
from hyperpy.receipt import decode
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.lock import FolderLock
from hyperpy.testing import wallet
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit import samples
from tests.audit.samples import Sample, after
from tests.devices import parts
from tests.devices.parts import place

DEVICE = Path(samples.__file__)


class Shop:
    """A store on the disk, and what lies in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "wallet.json"
        wallet("node").save(self.key)
        with place(Sample, store=folder / "store") as here:
            self.process = here.spawn()
            here.send(self.process, action="Inc")
            here.get(self.process, "now")
            self.at = after(here, "/~sample@1.0&a=1/add&b=2/told")
            self.nested = after(here, "/~sample@1.0&a=4/nest")

    def run(self, *words: str) -> Result:
        register_all()
        return CliRunner().invoke(app, list(words))

    def receipt(self, *words: str) -> bytes:
        done = self.run("receipt", *words, "--store", str(self.folder / "store"), "--wallet", str(self.key))
        assert done.exit_code == 0, done.output
        return done.stdout_bytes

    def verify(self, data: bytes, *words: str, code: int) -> Any:
        file = self.folder / "r.receipt"
        file.write_bytes(data)
        done = self.run("verify", str(file), "--json", "--device", str(DEVICE), *words)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def test_signed_it_is_attested_and_with_replay_reproduced(shop: Shop) -> None:
    data = shop.receipt(shop.at)
    found = shop.verify(data, code=2)
    assert (found["verdict"], found["attested-by"]) == ("attested", [wallet("node").address])
    again = shop.verify(data, "--replay", code=0)
    assert (again["verdict"], again["given"]) == ("reproduced", 1)
    assert shop.verify(data, "--replay", "--strict", code=2)["verdict"] == "reproduced"


def test_unsigned_it_is_the_same_each_time(shop: Shop) -> None:
    one, two = shop.receipt(shop.at, "--no-sign"), shop.receipt(shop.at, "--no-sign")
    assert one == two
    assert shop.verify(one, code=2)["verdict"] == "missing"
    assert shop.verify(one, "--replay", code=0)["verdict"] == "reproduced"


def test_slots_of_a_process(shop: Shop) -> None:
    data = shop.receipt(shop.process, "--slots", "0-1", "--no-sign")
    assert [one.slot for one in sorted(decode(data).slots)] == [0, 1]
    assert len(shop.verify(data, "--replay", "--device", parts.__file__, code=0)["steps"]) == 2
    done = shop.run("receipt", shop.process, "--slots", "3-1", "--store", str(shop.folder / "store"))
    assert isinstance(done.exception, HyperpyError)


def test_a_part(shop: Shop) -> None:
    data = shop.receipt(shop.nested, "--part", "in/deep")
    assert decode(data).part == "in/deep"
    assert shop.verify(data, code=2)["verdict"] == "attested"


def test_a_lie_is_named(shop: Shop) -> None:
    data = shop.receipt(shop.at)
    lie = data[:-32].replace(b"\xc4\x03add", b"\xc4\x03ads", 1)
    found = shop.verify(lie + sha256(lie), "--replay", code=1)
    assert found["verdict"] == "invalid"
    assert found["findings"]


def test_what_is_no_receipt(shop: Shop) -> None:
    assert shop.verify(b"junk", code=3)["verdict"] == "bad file"
    assert shop.run("verify", str(shop.folder / "none")).exit_code == 3


def test_a_policy(shop: Shop) -> None:
    data = shop.receipt(shop.at)
    policy = shop.folder / "policy.json"
    policy.write_text(json.dumps({"signers": [wallet("author").address]}), "utf-8")
    assert shop.verify(data, "--policy", str(policy), code=1)["findings"][0]["rule"] == "policy"
    policy.write_text(json.dumps({"signers": [wallet("node").address]}), "utf-8")
    shop.verify(data, "--policy", str(policy), code=2)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "{",
        '{"signers": "A"}',
        '{"signers": []}',
        '{"tee": 5}',
        '{"tee": {"kinds": ["x"]}}',
        '{"sign": ["A"]}',
        '{"attested": "yes"}',
        '{"insecure-software": 1}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_policy_with_a_slip_accepts_nothing(shop: Shop, text: str) -> None:
    """A verdict of 1 would accuse somebody; 0 would accept what the policy was meant to refuse."""
    policy = shop.folder / "slip.json"
    policy.write_text(text, "utf-8")
    (shop.folder / "slip.receipt").write_bytes(shop.receipt(shop.at))
    for more in ((), ("--replay",)):
        done = shop.run("verify", str(shop.folder / "slip.receipt"), "--policy", str(policy), *more)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "http://127.0.0.1:9/~calculator@1.0&a=1/add&b=2"),
        ("replay", "A" * 43, "--slots", "5-1"),
        ("replay", "A" * 43, "--config", "none.toml"),
        ("audit-peer", "http://127.0.0.1:9"),
        ("challenge", "http://127.0.0.1:9", "/~calculator@1.0&a=1/add&b=2"),
        ("challenge", "no-url"),
        ("verify", "sum.receipt", "--html", "none/page.html"),
    ],
    ids=" ".join,
)
def test_what_gives_no_verdict_accuses_nobody(shop: Shop, words: tuple[str, ...]) -> None:
    (shop.folder / "sum.receipt").write_bytes(shop.receipt(shop.at))
    done = shop.run(*(str(shop.folder / word) if word.startswith(("sum.", "none")) else word for word in words))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")


def test_a_page(shop: Shop) -> None:
    page = shop.folder / "report.html"
    shop.verify(shop.receipt(shop.at), "--html", str(page), code=2)
    text = page.read_text("utf-8")
    assert text.startswith("<!doctype html>")
    assert "sample@1.0" in text


def test_text_for_people(shop: Shop) -> None:
    file = shop.folder / "people.receipt"
    file.write_bytes(shop.receipt(shop.at))
    done = shop.run("verify", str(file))
    assert done.exit_code == 2
    assert done.stdout.startswith("attested")
    assert wallet("node").address in done.stdout


def test_a_file_is_written_whole(shop: Shop) -> None:
    file = shop.folder / "out.receipt"
    assert shop.receipt(shop.at, "-o", str(file)) == b""
    assert shop.verify(file.read_bytes(), code=2)["verdict"] == "attested"
    assert not list(shop.folder.glob(".out.receipt*"))


def test_no_wallet_to_sign_with(shop: Shop) -> None:
    nowhere = shop.folder / "nowhere.json"
    done = shop.run("receipt", shop.at, "--store", str(shop.folder / "store"), "--wallet", str(nowhere))
    assert isinstance(done.exception, HyperpyError)
    assert "--no-sign" in done.exception.diagnostics()
    assert not nowhere.exists()


def test_a_terminal_gets_no_bytes(shop: Shop) -> None:
    theirs, ours = pty.openpty()
    try:
        words = ["receipt", shop.at, "--no-sign", "--store", str(shop.folder / "store")]
        command = [sys.executable, "-m", "hyperpy", *words]
        done = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, timeout=50)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 1
    assert b"-o FILE" in done.stderr


def test_from_a_running_node(shop: Shop) -> None:
    with place(Sample, flags={"http.sign": True}) as here:
        server = Server(here.node, "127.0.0.1", 0)
        server.start()
        try:
            at = after(here, "/~sample@1.0&a=1/add&b=2/told")
            signed = shop.run("receipt", at, "--url", server.url)
            unsigned = shop.run("receipt", at, "--url", server.url, "--no-sign")
            part = shop.run("receipt", after(here, "/~sample@1.0/nest"), "--url", server.url, "--part", "in/deep")
            none = shop.run("receipt", "A" * 43, "--url", server.url)
        finally:
            server.stop()
    assert shop.verify(signed.stdout_bytes, "--replay", code=0)["attested-by"] == [here.node.address]
    assert decode(unsigned.stdout_bytes).signature is None
    assert decode(signed.stdout_bytes).digest == decode(unsigned.stdout_bytes).digest
    assert decode(part.stdout_bytes).part == "in/deep"
    assert none.exit_code == 1
    assert "404" in str(none.exception)


def test_who_asks_is_told_how_long_the_steps_are_kept(shop: Shop) -> None:
    flags = {"trail.receipt_days": 3.0, "trail.receipt_records": 2}
    with place(Sample, flags=flags) as here:
        server = Server(here.node, "127.0.0.1", 0)
        server.start()
        try:
            kept = shop.run("receipt", after(here, "/~sample@1.0&a=1/add&b=2"), "--url", server.url)
            pinned = {key for key, _ in here.node.store.scan("pins")}
            full = shop.run("receipt", after(here, "/~sample@1.0&a=5/add&b=2/add&b=7"), "--url", server.url)
        finally:
            server.stop()
        assert {key for key, _ in here.node.store.scan("pins")} == pinned
    assert pinned == set(decode(kept.stdout_bytes).roots)
    day = datetime.now(UTC) + timedelta(days=3)
    assert "keeps what it is about until " in kept.stderr
    assert f"{day:%Y-%m-}" in kept.stderr
    assert "does not promise" in full.stderr
    assert verify(full.stdout_bytes).verdict is Verdict.ATTESTED


def test_a_receipt_of_a_store_is_kept_in_it(shop: Shop) -> None:
    folder = shop.folder / "store"
    made = decode(shop.receipt(shop.at))
    opened = LmdbStore(folder, readonly=True)
    assert set(made.roots) <= {key for key, _ in opened.scan("pins")}
    opened.close()
    lock = FolderLock(folder)  # as a running node has it
    try:
        done = shop.run("receipt", shop.at, "--store", str(folder), "--no-sign")
    finally:
        lock.release()
    assert done.exit_code == 0
    assert "--url" in done.stderr
