"""A computation as a drawing: which steps stand together, and where each stands.

Few steps are drawn one by one. Of many, those that belong together (the slots of a process, the parts of a
step, a chain) make one node; a step that is not in order always stands alone, so that it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from hyperpy.verdicts import Edge, Report, StepReport, Verdict

SINGLE: Final = 60
"""Up to so many steps are drawn one by one."""
MOST: Final = 80
"""Nodes that are drawn, at most."""
LINKS: Final = 3
"""Lines that are drawn of many, for each box: those that stand for the most edges."""
FAULTS: Final = 40
"""Faulty steps that stand alone, at most."""
ROW: Final = 5
"""Nodes side by side; a wider layer goes on below."""


@dataclass(slots=True)
class Node:
    """One box: the steps in it, by their number from 0, and its place in rows and columns."""

    steps: list[int]
    group: str = ""
    row: int = 0
    column: int = 0


@dataclass(slots=True)
class Drawing:
    """Boxes in computing order, and what leads from one to another: (source, target, kind, how many)."""

    nodes: list[Node] = field(default_factory=list)
    links: list[tuple[int, int, str, int]] = field(default_factory=list)
    rows: int = 0
    columns: int = 0


def draw(report: Report) -> Drawing:
    """Return where everything stands; edges to steps that are not in the report are left out."""
    nodes = _nodes(report)
    of_step = {step: at for at, node in enumerate(nodes) for step in node.steps}
    number = {step.record: at for at, step in enumerate(report.steps)}
    counted: dict[tuple[int, int, str], int] = {}
    for edge in report.edges:
        source, target = number.get(edge.source), number.get(edge.target)
        if source is None or target is None or of_step[source] == of_step[target]:
            continue
        key = (of_step[source], of_step[target], edge.kind)
        counted[key] = counted.get(key, 0) + 1
    links = [(*key, times) for key, times in counted.items()]
    if len(report.steps) > SINGLE:
        links = sorted(links, key=lambda link: (-link[3], link))[: LINKS * len(nodes)]
    drawing = Drawing(nodes, links)
    _place(drawing)
    return drawing


def _nodes(report: Report) -> list[Node]:
    """Put the steps into boxes: each alone, or together with those that it belongs to."""
    steps = report.steps
    if len(steps) <= SINGLE:
        return [Node([at]) for at in range(len(steps))]
    names = _names(steps, _chains(steps, report.edges))
    nodes: list[Node] = []
    made: dict[str, Node] = {}
    alone = 0
    for at, step in enumerate(steps):
        faulty = step.verdict.exit_code == 1
        if faulty and alone < FAULTS:
            alone += 1
            nodes.append(Node([at]))
            continue
        name = f"{names[at]}\n{step.verdict.value}"
        node = made.get(name)
        if node is None:
            node = made[name] = Node([], name.partition("\n")[0])
            nodes.append(node)
        node.steps.append(at)
    return nodes if len(nodes) <= MOST else _chunks(nodes, steps)


def _chunks(nodes: list[Node], steps: list[StepReport]) -> list[Node]:
    """Join neighbours until few enough are left; what is faulty still stands alone."""
    loose = sum(not _is_alone(node, steps) for node in nodes)
    size = -(-loose // (MOST - FAULTS))
    out: list[Node] = []
    open_node, held = None, 0
    for node in nodes:
        if _is_alone(node, steps):
            out.append(node)
        elif open_node is None or held >= size:
            open_node, held = Node(list(node.steps), "steps"), 1
            out.append(open_node)
        else:
            open_node.steps += node.steps
            held += 1
    return out


def _is_alone(node: Node, steps: list[StepReport]) -> bool:
    return len(node.steps) == 1 and steps[node.steps[0]].verdict.exit_code == 1


def _names(steps: list[StepReport], chains: list[int]) -> list[str]:
    """Return for each step what it belongs to: a process, a chain, or the parts of one of these."""
    number = {step.record: at for at, step in enumerate(steps)}
    names = []
    for at, step in enumerate(steps):
        top, seen = at, {at}
        while steps[top].parent in number and number[steps[top].parent] not in seen:
            top = number[steps[top].parent]
            seen.add(top)
        slot = steps[top].slot
        name = f"chain {chains[top] + 1}" if slot is None else f"process {slot[0]}"
        names.append(name if top == at and not step.parent else f"parts of {name}")
    return names


def _chains(steps: list[StepReport], edges: Iterable[Edge]) -> list[int]:
    """Return for each step the number of the chain it stands in: the first step of it."""
    number = {step.record: at for at, step in enumerate(steps)}
    head = list(range(len(steps)))

    def find(at: int) -> int:
        while head[at] != at:
            head[at] = head[head[at]]
            at = head[at]
        return at

    for edge in edges:
        source, target = number.get(edge.source), number.get(edge.target)
        if edge.kind == "next" and source is not None and target is not None:
            first, second = sorted((find(source), find(target)))
            head[second] = first
    return [find(at) for at in range(len(steps))]


def _place(drawing: Drawing) -> None:
    """Give each box a row and a column: below all it needs, as far as that was computed before it."""
    layer = [0] * len(drawing.nodes)
    incoming: dict[int, list[int]] = {}
    for source, target, _, _ in drawing.links:
        if source < target:
            incoming.setdefault(target, []).append(source)
    for at in range(len(drawing.nodes)):
        layer[at] = max((layer[source] + 1 for source in incoming.get(at, ())), default=0)
    row = 0
    for level in range(max(layer, default=-1) + 1):
        members = [at for at, found in enumerate(layer) if found == level]
        members.sort(key=lambda at: (_middle(drawing, incoming.get(at, [])), at))
        for place, at in enumerate(members):
            drawing.nodes[at].row, drawing.nodes[at].column = row + place // ROW, place % ROW
        row += -(-len(members) // ROW)
    drawing.rows = row
    drawing.columns = max((node.column for node in drawing.nodes), default=-1) + 1


def _middle(drawing: Drawing, sources: list[int]) -> float:
    """Return the mean column of what a box needs, so that lines cross little."""
    return sum(drawing.nodes[at].column for at in sources) / len(sources) if sources else 0.0


def verdict_of(node: Node, steps: list[StepReport]) -> Verdict:
    """Return the worst verdict among a box's steps."""
    order = list(Verdict)
    return max((steps[at].verdict for at in node.steps), key=order.index)
