"""The judge of one value (HPI-1, section 13): needs neither model nor GPU, only the evidence and what was signed.

It computes one value from inputs that the accused committed to, by sections 3 to 5, and compares it with the output
that the same accused committed to. An honest computation agrees with itself everywhere, so whatever is sent, it comes
out as *true*; a false one has a first place where output does not follow from inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hyperpy.encoding import sha256
from hyperpy.errors import CodecError
from hyperpy.inference import tables, trees
from hyperpy.inference.arith import Ints, bit_length, exp2n, quantise, rsr, sat, sigmoid
from hyperpy.inference.commitments import OPS, chosen_digest, entry_digest
from hyperpy.inference.evidence import Case, Evidence, Row
from hyperpy.inference.model import Config
from hyperpy.inference.reference import normed
from hyperpy.inference.statements import Partials, Statement
from hyperpy.inference.tables import FA, FG, FH, FL, FN, FQ, FV, PB
from hyperpy.inference.weights import Norm

LOW, HIGH = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of evidence: what the value must be, and what was committed to, as text.

    Attributes:
        lie: where it is false: names the false value, whichever statement and evidence show it.
    """

    expected: str
    claimed: str
    lie: str = ""

    @property
    def false(self) -> bool:
        """Whether the commitment is false."""
        return self.expected != self.claimed


def judge(statement: Statement, evidence: Evidence, partials: Partials | None = None) -> Finding:
    """Return what comes of evidence against a statement.

    Args:
        partials: what else was signed; only of long attentions.

    Raises:
        CodecError: the evidence shows nothing: it does not fit the statement, or has another form.
    """
    case = Case(statement, evidence, partials)
    rule = _RULES.get(evidence.kind)
    op = evidence.kind
    found = rule(case) if rule is not None else Finding(str(_OPS[op](case)), str(case.claimed(op)))
    return replace(found, lie=_lie(case)) if found.false else found


def _lie(case: Case) -> str:
    """Return a name of a false value: what is false, where, and in which tensor.

    A statement binds all ids, the prompt's length and a seed, and evidence has numbers that its kind does not read.
    None of these has a part in a value of a token, so none may make two lies of one. What a value does depend on, the
    ids up to its token, is not in the evidence: the root of its tensor, which follows from them, stands for it.
    """
    s, kind, roots = case.statement, case.evidence.kind, {part: root.hex() for part, root in case.roots.items()}
    at, place = f"{kind} {case.token}", f"{case.layer} {case.index}"
    if kind == "ids":
        return f"ids {s.ids_root.hex()}"
    if kind == "state":
        return f"state {s.ids.hex()}"
    if kind == "chosen":
        return f"{at} {roots['chosen']}"
    if kind == "choice":
        drawn = s.sampling.normal
        return f"{at} {drawn.t16} {drawn.top_k} {drawn.p16} {drawn.seed.hex()} {roots['in']}"
    if kind == "cache":
        return f"{at} {place} {roots['in']} {roots['add']}"
    if case.partials is not None and kind in ("attention-sum", "attention-chunk"):
        # a false Z shows in each of its head's values, and in the sum of all chunks as well
        return f"attention {case.token} {case.layer} head {_head(case)} {case.partials.root.hex()}"
    return f"{at} {place if kind in OPS else case.index} {roots['out']}"


# -- ops ------------------------------------------------------------------------------------------------


def _saturated(v: int, s: int) -> int:
    """Return SAT(RSR(v, s)) of integers of any size."""
    made = (v + (1 << (s - 1))) >> s if s > 0 else v << -s
    return max(LOW, min(HIGH, made))


def product(row: Row, digits: Ints, shift: int, fin: int, fout: int) -> int:
    """Return one row's output of a linear layer (5.4)."""
    return _saturated(int(row.w @ digits) * row.rm, min(row.re + fin - fout - shift, 62))


def _quantised(x: Ints) -> tuple[Ints, int]:
    digits, shift = quantise(x)
    return digits, int(shift)


def _name(case: Case, weight: str) -> str:
    return f"blk.{case.layer}.{weight}.weight"


def _embedding(case: Case) -> int:
    (ident,) = case.ids("ids", case.token, case.token + 1)
    case.claimed("embedding")
    (found,) = case.rows(1)
    row = case.weights(found, "token_embd.weight", ident)
    return _saturated(int(row.w[case.index]) * row.rm, row.re - case.config.fr)


def _normed(case: Case, x: Ints, weight: str) -> int:
    c = case.config
    g, eg = case.vector("norm", weight)
    eps, (cn, kn) = tables.epsilon(c.width, c.eps, c.fr), tables.norm_constants(c.width)
    return int(normed(x[None], Norm(g, eg), eps, cn, kn, FN)[0, case.index])


def _previous(case: Case) -> tuple[str, int]:
    """Return the op, and its layer, that leaves the residual stream before this layer."""
    return ("residual2", case.layer - 1) if case.layer else ("embedding", 0)


def _attn_norm(case: Case) -> int:
    case.claimed("attn_norm")
    return _normed(case, case.row_of("in", *_previous(case)), _name(case, "attn_norm"))


def _ffn_norm(case: Case) -> int:
    case.claimed("ffn_norm")
    return _normed(case, case.row_of("in", "residual1"), _name(case, "ffn_norm"))


def _output_norm(case: Case) -> int:
    case.claimed("output_norm")
    return _normed(case, case.row_of("in", "residual2", case.config.layers - 1), "output_norm.weight")


def _linear(source: str, weight: str, op: str, fin: int, fout: int) -> Callable[[Case], int]:
    """Return the rule of a plain linear layer."""

    def made(case: Case) -> int:
        case.claimed(op)
        digits, shift = _quantised(case.row_of("in", source))
        (found,) = case.rows(1)
        fraction = case.config.fr if fout < 0 else fout
        return product(case.weights(found, _name(case, weight), case.index), digits, shift, fin, fraction)

    return made


def _logits(case: Case) -> int:
    case.claimed("logits")
    digits, shift = _quantised(case.row_of("in", "output_norm"))
    (found,) = case.rows(1)
    name = "token_embd.weight" if case.statement.tied else "output.weight"
    return product(case.weights(found, name, case.index), digits, shift, FN, FL)


def projected(config: Config, index: int) -> list[int]:
    """Return which rows of q or k a rotated value depends on: its pair, or its head where heads are normed."""
    hd = config.head
    first, at = index - index % hd, index % hd
    if config.head_norms:
        return list(range(first, first + hd))
    return sorted((index, first + (at + hd // 2) % hd if config.neox else index ^ 1))


def _project(case: Case, weight: str, numbers: list[int]) -> Ints:
    """Return values of q, k or v before anything else is done to them (5.4)."""
    digits, shift = _quantised(case.row_of("in", "attn_norm"))
    name = _name(case, weight)
    rows = zip(case.rows(len(numbers)), numbers, strict=True)
    made = np.array([product(case.weights(one, name, at), digits, shift, FN, FQ) for one, at in rows], np.int64)
    if not case.config.biases:
        return made
    bias, _ = case.vector("bias", f"blk.{case.layer}.{weight}.bias")
    return sat(made + bias[numbers])


def _rotated(op: str) -> Callable[[Case], int]:
    """Return the rule of q or k."""

    def made(case: Case) -> int:
        case.claimed(op)
        c, hd = case.config, case.hd
        numbers = projected(c, case.index)
        x = _project(case, f"attn_{op}", numbers)
        if c.head_norms:
            g, eg = case.vector("norm", _name(case, f"attn_{op}_norm"))
            eps, (cn, kn) = tables.epsilon(hd, c.eps, FQ), tables.norm_constants(hd)
            x = normed(x[None], Norm(g, eg), eps, cn, kn, FQ)[0]
        at = case.index % hd
        pair = at % (hd // 2) if c.neox else at // 2
        one, other = (pair, pair + hd // 2) if c.neox else (2 * pair, 2 * pair + 1)
        first = case.index - at
        a, b = (int(x[numbers.index(first + number)]) for number in (one, other))
        factor = c.rope_factors[pair] if c.rope_factors else 1.0
        cos, sin = tables.rope_entry(c.rope_base, hd // 2, factor, pair, case.token)
        return _saturated(a * cos - b * sin if at == one else a * sin + b * cos, 30)

    return made


def _v(case: Case) -> int:
    case.claimed("v")
    return int(_project(case, "attn_v", [case.index])[0])


def _sum(before: str, added: str, op: str) -> Callable[[Case], int]:
    """Return the rule of a residual addition."""

    def made(case: Case) -> int:
        case.claimed(op)
        source, layer = (before, case.layer) if before else _previous(case)
        one = case.values("in", source, case.index, case.index + 1, layer)
        return int(sat(one + case.values("add", added, case.index, case.index + 1))[0])

    return made


def _swiglu(case: Case) -> int:
    case.claimed("swiglu")
    g, u = (case.values(part, op, case.index, case.index + 1) for part, op in (("in", "gate"), ("add", "up")))
    return int(sat(rsr(sat(rsr(g * sigmoid(g), 30)) * u, 2 * FG - FH))[0])


# -- attention --------------------------------------------------------------------------------------------


def _head(case: Case) -> int:
    return case.index // case.hd


def scores(q: Ints, k: Ints, ks: Ints) -> Ints:
    """Return s_t of 5.7 for one query head."""
    digits, shift = _quantised(q)
    dots = rsr(k @ digits, 8) * tables.c2(len(q))
    return sat(rsr(dots, (30 + 2 * FQ - 16 - 8) - shift - ks))


def weighed(s: Ints, top: int, v: Ints) -> tuple[int, Ints]:
    """Return Z and num of some positions, weighed by the largest score of all."""
    e = rsr(exp2n(np.clip(top - s, 0, 40 * 65536)), 30 - PB)
    return int(e.sum()), e @ v


def seen(z: int, num: int) -> int:
    """Return o_i from the sums over all positions (5.7); ``z`` is positive."""
    bits = int(bit_length(z))
    reciprocal = (1 << 31) // int(rsr(z, bits - 16))
    return _saturated(int(rsr(num, 8)) * reciprocal, 31 - 16 + bits + FV - FA - 8)


def _kv(case: Case) -> int:
    return _head(case) * case.config.kv_heads // case.config.heads


def _query(case: Case) -> Ints:
    first = _head(case) * case.hd
    return case.values("in", "q", first, first + case.hd)


def _attention(case: Case) -> int:
    case.claimed("attention")
    if case.token >= case.chunk:
        raise CodecError("an attention this long is shown by its partials")
    k, ks, v = case.entries(_kv(case), 0)
    s = scores(_query(case), k, ks)
    z, num = weighed(s, int(s.max()), v)
    return seen(z, int(num[case.index % case.hd]))


def _columns(case: Case) -> tuple[Ints, Ints, Ints]:
    """Return claimed max, Z and num of each chunk."""
    if case.token < case.chunk:
        raise CodecError("an attention this short has no partials")
    if case.index >= case.config.heads * case.hd:
        raise CodecError("the tensor has no such value")
    first = _head(case) * (case.hd + 1)
    pairs, nums = case.columns([first, first + 1 + case.index % case.hd])
    chunks = case.token // case.chunk + 1
    if len(pairs) != 12 * chunks or len(nums) != 8 * chunks:
        raise CodecError("a column has another length")
    table = np.frombuffer(pairs, [("top", "<i4"), ("z", "<u8")])
    return table["top"].astype(np.int64), table["z"], np.frombuffer(nums, "<i8")


def _attention_sum(case: Case) -> Finding:
    claimed = case.claimed("attention")
    _, zs, nums = _columns(case)
    z, num = sum(zs.tolist()), sum(nums.tolist())
    if not 0 < z < 1 << 52 or abs(num) >= 1 << 60:
        return Finding("sums that a softmax can have", f"Z {z}, num {num}")
    return Finding(str(seen(z, num)), str(claimed))


def _attention_chunk(case: Case) -> Finding:
    tops, zs, nums = _columns(case)
    at = case.evidence.chunk
    if at >= len(tops):
        raise CodecError("the attention has no such chunk")
    k, ks, v = case.entries(_kv(case), at)
    s = scores(_query(case), k, ks)
    if int(s.max()) != int(tops[at]):
        return Finding(f"max {int(s.max())}", f"max {int(tops[at])}")
    z, num = weighed(s, int(tops.max()), v)
    found = int(num[case.index % case.hd])
    return Finding(f"Z {z}, num {found}", f"Z {int(zs[at])}, num {int(nums[at])}")


# -- what is not an op --------------------------------------------------------------------------------------


def _next(case: Case) -> int:
    """Return the id behind the disputed token, by the statement."""
    if case.token == case.statement.count - 1:
        return case.statement.chosen
    return case.ids("ids", case.token + 1, case.token + 2)[0]


def _chosen(case: Case) -> Finding:
    """The token root holds another chosen id than the sequence."""
    ident = _next(case)
    as_stated = f"the digest of id {ident}"
    return Finding(as_stated, as_stated if case.chosen(chosen_digest(ident)) else "another digest")


def _choice(case: Case) -> Finding:
    """The chosen id is not what sampling gives. A greedy choice is shown by a better id: ``index``."""
    sampling, claimed, words = case.statement.sampling, _next(case), case.config.vocabulary
    if case.token < case.statement.prompt - 1 or claimed >= words:
        raise CodecError("nothing was chosen there")
    if sampling.t16:
        logits = case.row_of("in", "logits")
        return Finding(str(sampling.choose(logits, case.token + 1)), str(claimed))
    if case.index >= words:
        raise CodecError("the model has no such id")
    (mine,) = case.values("in", "logits", claimed, claimed + 1)
    (other,) = case.values("add", "logits", case.index, case.index + 1)
    better = (int(other), -case.index) > (int(mine), -claimed)
    return Finding(str(case.index if better else claimed), str(claimed))


def _state(case: Case) -> Finding:
    """S1 is not that of the logits."""
    s = case.statement
    if case.token != s.count - 1:
        raise CodecError("a state is of the last token")
    row = sha256(trees.as_bytes(case.row_of("in", "logits")))
    return Finding(hashlib.sha256(b"\3" + s.model + s.ids + row).hexdigest(), s.state.hex())


def _ids(case: Case) -> Finding:
    """The two digests of the ids are of different ids."""
    listed = case.ids("ids", 0, case.statement.count)
    return Finding(sha256(np.array(listed, "<u4").tobytes()).hex(), case.statement.ids.hex())


def _cache(case: Case) -> Finding:
    """What stands in the cache is not the token's k and v; ``index`` is the kv head."""
    if case.index >= case.config.kv_heads:
        raise CodecError("the model has no such head")
    first = case.index * case.hd
    k, v = (case.values(part, op, first, first + case.hd) for part, op in (("in", "k"), ("add", "v")))
    digits, shift = _quantised(k)
    true = entry_digest(digits, shift, np.clip(rsr(v, FQ - FV), -32639, 32639))
    return Finding(true.hex(), case.entry(case.index, case.token).hex())


_OPS: Final[dict[str, Callable[[Case], int]]] = {
    "embedding": _embedding,
    "attn_norm": _attn_norm,
    "q": _rotated("q"),
    "k": _rotated("k"),
    "v": _v,
    "attention": _attention,
    "attn_output": _linear("attention", "attn_output", "attn_output", FA, -1),
    "residual1": _sum("", "attn_output", "residual1"),
    "ffn_norm": _ffn_norm,
    "gate": _linear("ffn_norm", "ffn_gate", "gate", FN, FG),
    "up": _linear("ffn_norm", "ffn_up", "up", FN, FG),
    "swiglu": _swiglu,
    "ffn_down": _linear("swiglu", "ffn_down", "ffn_down", FH, -1),
    "residual2": _sum("residual1", "ffn_down", "residual2"),
    "output_norm": _output_norm,
    "logits": _logits,
}
_RULES: Final[dict[str, Callable[[Case], Finding]]] = {
    "attention-sum": _attention_sum,
    "attention-chunk": _attention_chunk,
    "chosen": _chosen,
    "choice": _choice,
    "state": _state,
    "ids": _ids,
    "cache": _cache,
}
