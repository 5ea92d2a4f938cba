"""``hyperpy challenge`` and ``hyperpy verify`` of a proof, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperpy.audit.collect import collect
from hyperpy.audit.fault import reply_bytes
from hyperpy.audit.receipts import build
from hyperpy.audit.source import Evidence
from hyperpy.cli.app import app, register_all
from hyperpy.client import Client
from hyperpy.codecs import whole
from hyperpy.fault_proof import from_bytes
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.inference.tokenizer import Tokenizer
from hyperpy.message import Message
from hyperpy.testing import wallet
from tests.audit import liars
from tests.audit.liars import Served, corrupt, know, process, served
from tests.audit.test_values import lie
from tests.inference.lying import lying

DEVICE = Path(liars.__file__)
DOUBLE = "/~tally@1.0&n=21/double"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Served, Served]]:
    with served("honest", DEVICE) as honest, served("liar", DEVICE, flags={"relay.peers": [honest.url]}) as liar:
        corrupt(liar.node, "tally@1.0", "double", lambda true, found: true + 1)
        corrupt(
            liar.node, "tally@1.0", "compute", lambda true, found: true | {"total": 0} if true["total"] > 9 else true
        )
        yield honest, liar


def run(folder: Path, *words: str, code: int = 0) -> Any:
    register_all()
    more = ["--wallet", str(folder / "mine.json")] if words[0] == "challenge" else []
    done = CliRunner().invoke(app, [*words, *more, "--device", str(DEVICE), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_a_false_answer_gives_a_proof_that_verify_judges(two: tuple[Served, Served], tmp_path: Path) -> None:
    file = tmp_path / "lie.proof"
    [made] = run(tmp_path, "challenge", two[1].url, DOUBLE, "-o", str(file), code=1)
    assert (made["verdict"], made["accused"], made["proof"]) == ("guilty", two[1].address, str(file))
    assert made["bytes"] == file.stat().st_size < 16 << 10
    found = run(tmp_path, "verify", str(file), code=1)
    assert (found["verdict"], found["expected"]) == ("guilty", made["expected"])
    assert from_bytes(file.read_bytes()).text("accused") == two[1].address


def test_a_true_answer_gives_none(two: tuple[Served, Served], tmp_path: Path) -> None:
    file = tmp_path / "no.proof"
    [made] = run(tmp_path, "challenge", two[0].url, DOUBLE, "-o", str(file))
    assert made["verdict"] == "not-guilty"
    assert not file.exists()
    [made] = run(tmp_path, "challenge", two[0].url, "/~tally@1.0/clock", "-o", str(file), code=2)
    assert made["verdict"] == "undecided"
    assert not file.exists()


def test_two_nodes_are_compared(two: tuple[Served, Served], tmp_path: Path) -> None:
    for first, second in (two, two[::-1]):
        [made] = run(tmp_path, "challenge", first.url, DOUBLE, "--against", second.url, code=1)
        assert (made["kind"], made["accused"]) == ("equivocation", two[1].address)


def test_a_saved_reply_and_a_hashpath(two: tuple[Served, Served], tmp_path: Path) -> None:
    file = tmp_path / "reply"
    run(tmp_path, "challenge", two[1].url, DOUBLE, "--save-reply", str(file), code=1)
    [made] = run(tmp_path, "challenge", str(file), "--url", two[1].url, code=1)
    assert made["verdict"] == "guilty"
    hashpath = two[1].peer.ask(DOUBLE).reply.hashpath
    assert hashpath is not None
    [made] = run(tmp_path, "challenge", hashpath, "--url", two[1].url, code=1)
    assert made["verdict"] == "guilty"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    run(tmp_path, "challenge", str(file), "--url", two[1].url, code=3)


def test_a_receipt_is_challenged_by_asking_its_node(two: tuple[Served, Served], tmp_path: Path) -> None:
    hashpath = two[1].peer.ask(DOUBLE).reply.hashpath
    file = tmp_path / "r.receipt"
    evidence = Evidence.of_store(two[1].node.store, "the liar's store")
    file.write_bytes(build(evidence, collect(evidence, str(hashpath)), sign=None))
    [made] = run(tmp_path, "challenge", str(file), "--url", two[1].url, code=1)
    assert (made["verdict"], made["accused"]) == ("guilty", two[1].address)


def test_a_process_is_bisected(two: tuple[Served, Served], tmp_path: Path) -> None:
    honest, liar = two
    made = process(honest)
    with Client(honest.url, wallet("owner")) as client:
        name = client.send("/~scheduler@1.0/schedule", made).text("process")
        for number in range(1, 8):
            client.send(f"/{name}/schedule", {"target": name, "type": "Message", "by": str(number)})
    know(liar, made)
    file = tmp_path / "slot.proof"
    words = ("challenge", "--process", name, "--url", honest.url, "--against", liar.url)
    found = run(tmp_path, *words, "-o", str(file), code=1)
    assert [one["verdict"] for one in found] == ["not-guilty", "guilty"]
    assert found[1]["accused"] == liar.address
    assert run(tmp_path, "verify", str(file), code=1)["kind"] == "wrong-state"
    done = CliRunner().invoke(app, [*words, "--wallet", str(tmp_path / "mine.json"), "--device", str(DEVICE)])
    assert "8 slots, 4 comparisons of states" in done.stdout
    assert "they part at slot 4" in done.stdout


def test_a_damaged_proof_is_a_bad_file(two: tuple[Served, Served], tmp_path: Path) -> None:
    file = tmp_path / "lie.proof"
    run(tmp_path, "challenge", two[1].url, DOUBLE, "-o", str(file), code=1)
    file.write_bytes(file.read_bytes()[:-1])
    run(tmp_path, "verify", str(file), code=3)


def test_who_cannot_be_asked_is_not_convicted(two: tuple[Served, Served], tmp_path: Path) -> None:
    run(tmp_path, "challenge", "http://127.0.0.1:9", DOUBLE, code=2)
    run(tmp_path, "challenge", two[1].url, "/~tally@1.0/absent", code=2)


# -- a language model's answers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "toy.gguf").write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(folder / "toy.gguf", "toy")
    return folder / "kept"


def answered(at: Served, folder: Path, **more: Any) -> Path:
    """Return the file of a node's signed answer."""
    asked = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}
    asked |= more
    reply = at.peer.post("/~inference@1.0/v1/chat/completions", json.dumps(asked).encode())
    file = folder / f"{at.address[:8]}.reply"
    file.write_bytes(reply_bytes(reply))
    return file


def test_an_answer_of_a_model_is_disputed_to_one_value(models: Path, tmp_path: Path) -> None:
    """The challenger has the model; ``verify`` of the proof runs where there is none."""
    flags = {"inference.models": str(models), "inference.engine": "reference"}
    file = tmp_path / "value.proof"
    with served("honest", flags=flags) as honest, served("liar", flags=flags) as liar:
        words = ("--inference", "--models", str(models), "-o", str(file))
        run(tmp_path, "challenge", str(answered(honest, tmp_path)), "--url", honest.url, *words)
        assert not file.exists()
        lie(liar, lambda true: lying(true, ("tensor", 7, "attention", 1, 9)))
        [made] = run(tmp_path, "challenge", str(answered(liar, tmp_path)), "--url", liar.url, *words, code=1)
        assert (made["verdict"], made["accused"], made["kind"]) == ("guilty", liar.address, "wrong-value")
        assert made["bytes"] == file.stat().st_size < 16 << 10
        address = liar.address
        junk = tmp_path / "junk"
        junk.write_bytes(b"{}")
        run(tmp_path, "challenge", str(junk), "--url", honest.url, *words, code=3)
    found = run(tmp_path, "verify", str(file), code=1)
    assert (found["verdict"], found["accused"]) == ("guilty", address)
    assert "attention of token 7, layer 1, value 9" in found["reason"]


def changed(what: str, document: Any) -> None:
    """Have an answer lie in one field."""
    choices, told = document["choices"], document["hyperpy"]
    if what == "text":
        choices[0]["message"]["content"] = "PAY MALLORY"
    elif what == "another choice":
        choices[1]["token_ids"][2] = (choices[1]["token_ids"][2] + 1) % 264
    elif what == "cut":
        choices[0]["token_ids"] = choices[0]["token_ids"][:2]
        told["states"][0] = told["states"][0][:2]
        told["state"][0] = told["states"][0][1]
        choices[0]["finish_reason"] = "stop"
    else:
        told[what] = "00" * 32


FIELDS = {
    "text": "choices.0.message.content",
    "another choice": "choices.1.token_ids",
    "cut": "choices.0.finish_reason",
    **{name: f"hyperpy.{name}" for name in ("weight-root", "config-digest", "reference", "tokenizer")},
}


def challenged(file: Path, at: str, models: Path, folder: Path, code: int) -> str:
    """Dispute an answer, without --json; return what was printed."""
    register_all()
    words = ["challenge", str(file), "--url", at, "--inference", "--models", str(models)]
    done = CliRunner().invoke(app, [*words, "--wallet", str(folder / "mine.json")])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def answering(models: Path) -> Iterator[Served]:
    with served("honest", flags={"inference.models": str(models), "inference.engine": "reference"}) as made:
        yield made


@pytest.mark.parametrize("what", FIELDS)
def test_a_lie_in_any_field_of_an_answer_is_not_cleared(what: str, models: Path, tmp_path: Path) -> None:
    def lie_about(found: Any, asked: Any) -> Any:
        document = json.loads(found["body"])
        changed(what, document)
        return found | {"body": json.dumps(document).encode()}

    with served("liar", flags={"inference.models": str(models), "inference.engine": "reference"}) as liar:
        corrupt(liar.node, "inference@1.0", "completions", lie_about)
        file = answered(liar, tmp_path, n=2, temperature=1, seed=3)
        assert FIELDS[what] in challenged(file, liar.url, models, tmp_path, 1)


@pytest.mark.parametrize("what", ["prompt", "seed"])
def test_an_answer_to_something_else_is_not_cleared(
    what: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The liar computes right, but another prompt than the signed request's, or with a seed that it likes better."""
    with served("liar", flags={"inference.models": str(models), "inference.engine": "reference"}) as liar:
        with monkeypatch.context() as lies:
            if what == "prompt":
                true = Tokenizer.chat
                lies.setattr(Tokenizer, "chat", lambda self, _: true(self, ({"role": "user", "content": "bye"},)))
            else:
                seeds = liar.node.registry.lookup("inference@1.0").spec.keys["completions"].function.__globals__["read"]
                lies.setitem(seeds.__globals__, "_seed", lambda *_: b"chosen by the liar".ljust(32))
            file = answered(liar, tmp_path, temperature=1, seed=3)
        wrong = "hyperpy.prompt_token_ids" if what == "prompt" else "hyperpy.sampling"
        assert wrong in challenged(file, liar.url, models, tmp_path, 1)


@pytest.mark.parametrize(
    "more", [{"n": 2, "temperature": 1.5, "top_p": 0.9, "stop": "e"}, {"level": 3, "logprobs": True}, {"seed": "x"}]
)
def test_an_honest_answer_is_cleared(more: Any, answering: Served, models: Path, tmp_path: Path) -> None:
    challenged(answered(answering, tmp_path, **more), answering.url, models, tmp_path, 0)


def test_only_ids_of_an_unsigned_answer_are_compared(answering: Served, models: Path, tmp_path: Path) -> None:
    reply = whole.decode(answered(answering, tmp_path).read_bytes()[:-32])
    assert isinstance(reply, Message)
    file = tmp_path / "answer.json"
    file.write_bytes(reply["body"])  # type: ignore[arg-type]
    assert "ids only" in challenged(file, answering.url, models, tmp_path, 2)


def test_an_answer_must_be_signed_by_the_node_that_is_asked(answering: Served, models: Path, tmp_path: Path) -> None:
    good = answered(answering, tmp_path)
    reply = whole.decode(good.read_bytes()[:-32])
    assert isinstance(reply, Message)
    forged = tmp_path / "forged.reply"
    body = reply["body"].replace(b'"role":"assistant"', b'"role":"mallory"')  # type: ignore[union-attr]
    assert body != reply["body"]
    forged.write_bytes(reply_bytes(Message.make({**dict(reply.raw_items()), "body": body}, reply.commitments)))
    challenged(forged, answering.url, models, tmp_path, 3)
    with served("another", flags={"inference.models": str(models), "inference.engine": "reference"}) as other:
        assert answering.address in challenged(good, other.url, models, tmp_path, 2)
