"""challenge: a proof that a node signed a false result; and what ``verify`` says of such a proof."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpy.cli.app import DeviceFiles, Json, err, out, plain, show, verdicts, write_whole
from hyperpy.cli.logs import only_ours
from hyperpy.cli.models import DEFAULT, Folder
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, ParameterError
from hyperpy.message import Message

if TYPE_CHECKING:
    from hyperpy.audit.fault import Peer
    from hyperpy.audit.values import Told
    from hyperpy.fault_proof import Claim, Proof

_OWN = Path("hyperpy-user.json")
_CODES = {"guilty": 1, "not-guilty": 0, "undecided": 2}
"""Exit codes by verdict (design 3): diverged, reproduced, incomplete."""
_FIELDS = ("verdict", "accused", "kind", "reason", "expected", "got")

_Targets = Annotated[
    list[str] | None,
    typer.Argument(help="A node's URL and paths; or a receipt, a saved reply or a hashpath, with --url."),
]
_Output = Annotated[Path | None, typer.Option("-o", "--output", help="File for the proof.")]
_Wallet = Annotated[Path, typer.Option("--wallet", help="Your wallet file (JWK); made if absent.")]
_Keep = Annotated[Path | None, typer.Option("--save-reply", help="Keep the node's signed reply in this file.")]


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(context_settings={"ignore_unknown_options": True})(challenge)  # an ID may begin with "-"


@verdicts()
def challenge(
    target: _Targets = None,
    url: Annotated[str | None, typer.Option("--url", help="The node whose word is examined.")] = None,
    against: Annotated[str | None, typer.Option("--against", help="A second node to compare with.")] = None,
    process: Annotated[str | None, typer.Option("--process", help="Find the slot at which two nodes part.")] = None,
    slot: Annotated[
        int | None, typer.Option("--slot", min=0, help="The slot to examine, instead of searching.")
    ] = None,
    inference: Annotated[
        bool, typer.Option("--inference", help="Targets are files of a model's answers: dispute them to one value.")
    ] = False,
    models: Folder = DEFAULT,
    output: _Output = None,
    save_reply: _Keep = None,
    wallet: _Wallet = _OWN,
    device: DeviceFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Make a signed result again; if it is false, write a signed proof of that.

    With --process and --against, the slot at which two nodes part is found by bisecting, and who lied is told. With
    --inference, the targets are files of a language model's answers: OpenAI's document, or better a reply kept with
    --save-reply: of that all fields are compared, of a document its ids alone. The model must be here too, by the name
    that was asked for; who judges the proof needs none.
    Exit codes: 0 the claim holds, 1 it is false, 2 it cannot be decided here, 3 a file that is no receipt or reply.

    Example: hyperpy challenge http://localhost:8734 '/~calculator@1.0&a=1/add&b=2' -o lie.proof
    """
    words = list(target or ())
    if words and words[0].startswith(("http://", "https://")):
        url = words.pop(0)
    if url is None:
        raise ParameterError("name the node whose word is examined", name="url", hint="Give its URL, or --url.")
    with only_ours(), ExitStack() as opened:
        first = opened.enter_context(_peer(url))
        least = 0
        second = None if against is None else opened.enter_context(_peer(against))
        if inference:
            found, least = _disputed(first, words, models, json)
            if not found:
                raise typer.Exit(least)
        elif process is not None:
            found = _process(first, second, process, slot, json)
        else:
            found = _answers(first, second, words, save_reply)
        code = _decided(found, output, wallet, device, json)
        code = 1 if 1 in (code, least) else max(code, least)
    raise typer.Exit(code)


def _peer(url: str) -> Peer:
    from hyperpy.audit.fault import Peer

    return Peer(url)


# -- what is claimed ------------------------------------------------------------------------------


def _process(first: Peer, second: Peer | None, process: str, slot: int | None, json: bool) -> list[Proof]:
    """Return what to judge of a process: the slot that was named, or that at which two nodes part."""
    from hyperpy.audit import fault

    if slot is None:
        if second is None:
            raise ParameterError(
                "a search needs a second node", name="against", hint="Give --against URL, or --slot N."
            )
        last = fault.last_slot(first, process)
        found = fault.parted(first, second, process, last, lambda _: None)
        if not json:
            out.print(f"{last + 1} slots, {found.comparisons} comparisons of states", highlight=False)
        if found.slot is None:
            err.print(f"both nodes have the same state after slot {last}", markup=False, highlight=False)
            return []
        slot = found.slot
        if not json:
            out.print(f"they part at slot {slot}", highlight=False)
    return [fault.wrong_state(peer, process, slot, first) for peer in (first, second) if peer is not None]


def _disputed(peer: Peer, words: Sequence[str], models: Path, json: bool) -> tuple[list[Proof], int]:
    """Return what to judge of a language model's answers, and the exit code if that is nothing."""
    from hyperpy.audit import values
    from hyperpy.inference.commitments import tracing
    from hyperpy.inference.engines import choose
    from hyperpy.inference.library import Library
    from hyperpy.inference.traces import WeightTree

    if not words:
        raise ParameterError("name a file with an answer", name="target")
    found: list[values.Disputed] = []
    codes = [0]
    for file in words:
        try:
            answer = values.told(Path(file).read_bytes())
        except (CodecError, InvalidSignature, OSError) as error:
            err.print(f"error: {file}: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(3) from None
        library = Library(models)
        entry = library.find(answer.model)
        model, _ = library.load(answer.model)
        mine = values.computed(tracing(choose(model)), bytes.fromhex(entry.manifest["weight-root"]), answer)
        codes.append(_compared(peer, answer, models))
        try:
            found.append(values.disputed(peer, answer, mine, WeightTree(model.weights)))
        except HyperpyError as error:
            if codes[-1] != 1:
                raise
            err.print(f"{error}", markup=False, highlight=False, soft_wrap=True)
    proofs = [one.proof for one in found if one.proof is not None]
    for one in found if not json or not proofs else ():
        err.print(one.words, markup=False, highlight=False, soft_wrap=True)
    if 1 not in codes and not all(one.agreed for one in found):
        codes.append(2)
    return proofs, 1 if 1 in codes else max(codes)


def _compared(peer: Peer, answer: Told, models: Path) -> int:
    """Make the whole answer again, tell in what it differs, and return the exit code."""
    from hyperpy.audit import compared
    from hyperpy.cli.infer import memory_node

    if answer.reply is None:
        err.print("ids only were compared: nobody signed this answer, so what was asked is not known")
        return 2
    body = answer.reply.get("body")
    node = memory_node(models, 1 << 20)
    try:
        own = node.resolve(*compared.request_of(peer, answer.reply))
        made = own.get("body") if isinstance(own, Message) else None
        if not isinstance(own, Message) or not isinstance(made, bytes) or not isinstance(body, bytes):
            raise CodecError("this machine makes no document of that request")
        if compared.model_of(made) != answer.model:
            raise CodecError("its request names a model that is another one here")
        fields = compared.differences(made, body)
        fields += ["state"] if own.get("state") != answer.reply.get("state") else []
    except HyperpyError as error:
        err.print(f"ids only were compared: {error.message}", markup=False, highlight=False, soft_wrap=True)
        return 2
    finally:
        node.close()
    if fields:
        err.print(compared.words_of(fields), markup=False, highlight=False, soft_wrap=True)
    return 0 if not fields else 1 if compared.falsified(fields) else 2


def _answers(first: Peer, second: Peer | None, words: Sequence[str], keep: Path | None) -> list[Proof]:
    """Return what to judge of a node's answers."""
    from hyperpy.audit import fault

    if not words:
        raise ParameterError("name a path, a receipt, a saved reply or a hashpath", name="target")
    found: list[Proof] = []
    for where in words:
        for claim in _replies(first, where):
            reply = claim.reply
            if keep is not None:
                write_whole(keep, fault.reply_bytes(reply))
            if second is None:
                found.append(fault.wrong_result(first, reply, claim))
                continue
            proof = fault.equivocation((first, second), (reply, second.ask(where).reply))
            found += [proof] if proof is not None else [fault.wrong_result(first, reply, claim)]
    return found


def _replies(peer: Peer, where: str) -> list[Claim]:
    """Return the signed replies that a word of the command line means."""
    from hyperpy.audit import fault
    from hyperpy.fault_proof import Claim

    file = Path(where)
    if not file.is_file():
        return [peer.ask("/" + where.removeprefix("/")).claim]
    try:
        return [Claim(reply) for reply in fault.replies_of_file(peer, file.read_bytes())]
    except CodecError as error:
        err.print(f"error: {file}: {error.message}", style="red", markup=False, highlight=False)
        raise typer.Exit(3) from None


# -- what comes of it ------------------------------------------------------------------------------


def _decided(found: Sequence[Proof], output: Path | None, wallet: Path, devices: list[Path], json: bool) -> int:
    """Judge what was found, write the proof of the first lie, and return the exit code."""
    from hyperpy.commitments import commit
    from hyperpy.fault_proof import as_message, to_bytes
    from hyperpy.keys import RsaKey

    if not found:
        return 0
    key = RsaKey.load(wallet) if wallet.exists() else RsaKey.create(wallet)
    made = [commit(as_message(proof), key) for proof in found]
    verdicts = [_judged(message, devices) for message in made]
    shown: list[dict[str, Any]] = []
    for message, verdict in zip(made, verdicts, strict=True):
        words = {name: plain(verdict[name]) for name in _FIELDS if name in verdict}
        if verdict.text("verdict") == "guilty" and output is not None and not any("proof" in one for one in shown):
            data = to_bytes(message)
            write_whole(output, data)
            words |= {"proof": str(output), "bytes": len(data)}
        shown.append(words)
    if json:
        show(shown, True)
    for words in () if json else shown:
        _tell(words)
    codes = [_CODES.get(one.text("verdict"), 2) for one in verdicts]
    return 1 if 1 in codes else max(codes)


def _tell(words: dict[str, Any]) -> None:
    """Print a verdict for people."""
    lines = [
        f"{words['verdict']}: {words['reason']}",
        f"  accused   {words['accused']}",
        f"  kind      {words['kind']}",
    ]
    lines += [f"  {name:<9} {words[name]}" for name in ("expected", "got") if name in words]
    if "proof" in words:
        lines.append(f"  proof     {words['proof']}, {words['bytes']} bytes")
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _judged(message: Message, devices: list[Path]) -> Message:
    """Return the verdict of this machine's devices, in a node in memory."""
    from hyperpy.cli.node import _local

    with _local(None, devices) as node:
        found = node.resolve({"device": "fault@1.0"}, {"path": "judge", "proof": message})
    if not isinstance(found, Message):
        raise HyperpyError("the judge gave no verdict")
    return found


def is_proof(data: bytes) -> bool:
    """Say whether a file is a fault proof."""
    from hyperpy.fault_proof import from_bytes

    try:
        from_bytes(data)
    except HyperpyError:
        return False
    return True


def verify_proof(data: bytes, devices: list[Path], *, json: bool) -> int:
    """Judge a proof file for ``hyperpy verify``; print the verdict and return the exit code.

    0: the claim holds, the accused did not lie; 1: it is false; 2: undecided.
    """
    from hyperpy.fault_proof import from_bytes

    with only_ours():
        verdict = _judged(from_bytes(data), devices)
    words = {name: plain(verdict[name]) for name in _FIELDS if name in verdict}
    if json:
        show(words, True)
    else:
        _tell(words)
    return _CODES.get(verdict.text("verdict"), 2)
