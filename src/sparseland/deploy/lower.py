"""From a graph to programs: what the engine can compute becomes ops over tiles, the rest is named.

Reshapes, transposes and splits into heads are free: a value keeps its memory and gets another view
(`sparseland.deploy.lower_view`). Layouts change only where an op needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, Node
from .lower_build import Builder, Made
from .lower_layers import Choice, Chooser, best_rows
from .lower_ports import Port
from .lower_rules import (
    act,
    affine,
    attention,
    concat,
    constant,
    cut,
    embedding,
    mean,
    norm,
    other,
    pad,
    pool,
    reshape,
    rope,
    scale,
    softmax,
    transpose,
    two,
)
from .lower_view import NotLowered
from .lower_weights import conv, linear

RULES: dict[str, Callable[[Builder, Node], None]] = {
    "conv": conv,
    "linear": linear,
    "scale": scale,
    "act": act,
    "affine": affine,
    **dict.fromkeys(("add", "sub", "mul"), two),
    "constant": constant,
    **dict.fromkeys(("max_pool", "avg_pool"), pool),
    "mean": mean,
    **dict.fromkeys(("layer_norm", "rms_norm"), norm),
    "softmax": softmax,
    "attention": attention,
    "rope": rope,
    "embedding": embedding,
    "reshape": reshape,
    "transpose": transpose,
    "concat": concat,
    "slice": cut,
    "pad": pad,
}
FREE = ("reshape", "transpose", "constant", "slice", "concat", "pad", "act", "affine", "add", "sub", "mul", "scale")


@dataclass
class Lowered:
    """A graph as a program, with the way in and out.

    Parameters:
        graph: what was lowered.
        program: its ops; ``made`` names the node of each.
        inputs, outputs: the graph's, as the engine sees them.
    """

    graph: Graph
    program: Any
    made: list[Made]
    inputs: list[Port]
    outputs: list[Port]


def lower(
    graph: Graph, choose: Chooser, *, rows: Callable[[int, int], int] = best_rows, program: Any = None
) -> Lowered:
    """Write a whole graph as one program.

    Parameters:
        graph: fused (`sparseland.deploy.fuse`).
        choose: says which kernel a layer with weights takes, as `sparseland.deploy.choose.Measured`.
        rows: (height, width) -> rows of a band.
        program: an empty program; None: a new one.

    Raises:
        NotLowered: a node that the engine cannot compute, by name and with the reason.
    """
    return Attempt(graph, choose, rows, program).finish()


class Attempt:
    """Lowering node by node; a node that fails leaves the ones before it as they are."""

    def __init__(
        self, graph: Graph, choose: Chooser, rows: Callable[[int, int], int] = best_rows, program: Any = None
    ) -> None:
        if program is None:
            from .program import Program

            program = Program()
        self.builder = Builder(program, graph, choose, rows, readers=graph.consumers())
        self.builder.packings = getattr(choose, "packings", self.builder.packings)

    def finish(self) -> Lowered:
        """All inputs, nodes and outputs."""
        b, graph = self.builder, self.builder.graph
        ports = [self.take(name) for name in graph.inputs if b.readers[name]]
        for node in graph.nodes:
            self.write(node)
        return Lowered(graph, b.program, b.made, ports, [self.give(name) for name in graph.outputs])

    def take(self, name: str) -> Port:
        """Declare an input."""
        b, value = self.builder, self.builder.graph.values[name]
        held = b.input(name)
        mask = b.is_mask(name)
        return Port(name, value.shape, value.dtype, held.size, held.view, held.interleaved, len(b.given) - 1, mask)

    def write(self, node: Node) -> None:
        """Lower one node."""
        if node.name in self.builder.done:
            return
        self.builder.node = node
        try:
            RULES.get(node.op, other)(self.builder, node)
        except NotLowered as error:
            raise NotLowered(f"{node.op} {node.name!r}: {error}", node.name) from None
        finally:
            self.builder.node = None

    def give(self, name: str) -> Port:
        """Declare an output."""
        b, value = self.builder, self.builder.graph.values[name]
        held = b.output(name)
        place = b.returned.index(held.tensor)
        return Port(name, value.shape, value.dtype, held.size, held.view, held.interleaved, place)


@dataclass
class Part:
    """A run of nodes that is computed in one place: a program, or torch (``lowered`` is None)."""

    graph: Graph
    lowered: Lowered | None = None
    reasons: dict[str, str] = field(default_factory=dict)  # of torch parts: node -> why


def lower_parts(
    graph: Graph, choose: Chooser, *, rows: Callable[[int, int], int] = best_rows, new: Callable[[], Any] | None = None
) -> list[Part]:
    """Write a graph as programs with torch between them; one part if the engine can compute everything.

    Nodes are put in an order with few changes of place. A stretch for the engine that holds only additions, reshapes
    and the like stays in torch as well.

    Parameters:
        graph, choose, rows: as `lower` takes them.
        new: makes an empty program.
    """
    reasons = refused(graph, rows)
    while True:
        parts = split(graph, reasons)
        try:
            for part in parts:
                if not part.reasons:
                    part.lowered = lower(part.graph, choose, rows=rows, program=new() if new else None)
            return parts
        except NotLowered as error:  # at the border of a part a value may lie otherwise than in the middle
            if error.node is None or error.node in reasons:
                raise
            reasons[error.node] = str(error)


def refused(graph: Graph, rows: Callable[[int, int], int] = best_rows) -> dict[str, str]:
    """``{node: reason}`` of everything the engine cannot compute; nothing is written."""
    attempt = Attempt(graph, lambda layer: Choice("gemm", False), rows, _Dry())
    builder, reasons = attempt.builder, {}
    for name in graph.inputs:
        _try_input(builder, name)
    for node in graph.nodes:
        try:
            attempt.write(node)
        except NotLowered as error:
            reasons[node.name] = str(error)
            for name in node.outputs:
                _try_input(builder, name)
    makers = graph.producers()
    for name in graph.outputs:
        try:
            builder.output(name)
        except NotLowered as error:
            if name in makers:
                reasons.setdefault(makers[name].name, f"{makers[name].op} {makers[name].name!r}: {error}")
    return reasons


def _try_input(builder: Builder, name: str) -> None:
    try:
        builder.input(name)
    except NotLowered:  # its readers will say so
        builder.held.pop(name, None)


class _Dry:
    """Takes ops as a program does and forgets them."""

    def __init__(self) -> None:
        self.ops: list[None] = []
        self.tensors = 0

    def tensor(self, *_: Any, **__: Any) -> int:
        self.tensors += 1
        return self.tensors - 1

    input = constant = tensor

    def op(self, *_: Any, **__: Any) -> None:
        self.ops.append(None)

    def output(self, number: int) -> None:
        return


def split(graph: Graph, reasons: dict[str, str]) -> list[Part]:
    """Cut a graph into runs of nodes that ``reasons`` names and runs of others."""
    constants = {node.output: node for node in graph.nodes if node.op == "constant"}
    runs: list[tuple[bool, list[Node]]] = []
    ready = set(graph.inputs) | set(constants)
    waiting = [node for node in graph.nodes if node.op != "constant"]
    in_torch = any(node.name in reasons and _is_ready(node, ready) for node in waiting)
    while waiting:
        run: list[Node] = []
        left = []
        for node in waiting:  # one pass is enough: the order is topological
            if (node.name in reasons) == in_torch and _is_ready(node, ready):
                run.append(node)
                ready.update(node.outputs)
            else:
                left.append(node)
        if run:
            runs.append((in_torch, run))
        waiting, in_torch = left, not in_torch
    joined: list[tuple[bool, list[Node]]] = []
    for torch_run, run in runs:
        torch_run = torch_run or (len(runs) > 1 and all(node.op in FREE for node in run))
        if joined and joined[-1][0] == torch_run:
            joined[-1][1].extend(run)
        else:
            joined.append((torch_run, run))
    return [
        Part(_part(graph, joined, i, constants), None, _why(run, reasons) if torch_run else {})
        for i, (torch_run, run) in enumerate(joined)
    ]


def _is_ready(node: Node, ready: set[str]) -> bool:
    return all(name in ready for name in node.inputs if name)


def _why(run: Sequence[Node], reasons: dict[str, str]) -> dict[str, str]:
    return {node.name: reasons.get(node.name, "too little between nodes that stay in torch") for node in run}


def _part(graph: Graph, runs: list[tuple[bool, list[Node]]], i: int, constants: dict[str, Node]) -> Graph:
    """The i-th run as a graph of its own: constants come along, everything else is handed over."""
    nodes = runs[i][1]
    read = {name for node in nodes for name in node.inputs if name}
    made = {name for node in nodes for name in node.outputs}
    later = {name for _, run in runs[i + 1 :] for node in run for name in node.inputs}
    tables = [node for name, node in constants.items() if name in read]
    given = [name for name in graph.values if name in read and name not in made and name not in constants]
    order = {name: k for k, name in enumerate(graph.inputs)}
    given.sort(key=lambda name: order.get(name, len(order)))
    outputs = [name for name in dict.fromkeys(graph.outputs) if name in made]
    outputs += [name for node in nodes for name in node.outputs if name in later and name not in outputs]
    values = {name: graph.values[name] for name in (*given, *made, *(t.output for t in tables))}
    return Graph(given, outputs, [*tables, *nodes], values)
