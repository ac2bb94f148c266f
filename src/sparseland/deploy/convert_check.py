"""Whether a converted network says what the model says, and if not, from which layer on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.errors import SparselandError
from .choose_model import Modelled
from .convert_engine import Engine
from .graph import Graph
from .graph_twin import run
from .lower import lower
from .runtime import Engine as Runtime

Rows = Callable[[int, int], int]


def difference(made: Tensor, expected: Tensor) -> float:
    """max |made − expected| / max |expected|; infinity where one has a NaN and the other not.

    >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])), difference(torch.ones(1), torch.ones(1) / 0)
    (0.5, inf)
    """
    made, expected = made.detach(), expected.detach()
    same = (made == expected) | (made.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    gap = torch.where(same, 0.0, (made.double() - expected.double()).abs())
    usual = expected[expected.isfinite()].double().abs()
    worst = float((gap.max() / usual.max().clamp_min(1e-30)) if usual.numel() else gap.max())
    return worst if worst == worst else float("inf")


OWN = 4.0  # times the model's own rounding that the engine's may be
GARBAGE = 0.05  # a model whose own rounding is larger says nothing


def as_exact(made: Sequence[Tensor], expected: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    """Whether ``made`` is about as near to the numbers in double precision as the model itself, in single, is.

    >>> one = torch.ones(3)
    >>> as_exact([one + 3e-4], [one - 1e-4], [one]), as_exact([one + 6e-4], [one - 1e-4], [one])
    (True, False)
    """
    own = [difference(b, c) for b, c in zip(expected, exact, strict=True)]
    mine = [difference(a, c) for a, c in zip(made, exact, strict=True)]
    return all(a <= OWN * b <= OWN * GARBAGE for a, b in zip(mine, own, strict=True))


def agrees(
    engine: Engine, tensors: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float, rows: Rows,
    exact: Callable[[], Sequence[Tensor]] | None = None,
) -> None:  # fmt: skip
    """Compare the engine's outputs with the model's.

    Parameters:
        exact: the model's outputs in double precision. Where given, the engine may be further from the model than
            ``tolerance`` if both are equally far from them: a net that magnifies rounding does so to any engine's.

    Raises:
        SparselandError: further apart than ``tolerance``; names the first node where that begins.
    """
    made = engine.run(tensors)
    expected = [one.float() if one.is_floating_point() else one for one in expected]
    if len(made) != len(expected):
        raise SparselandError(f"the model returns {len(expected)} tensors, the engine {len(made)}")
    gaps = [difference(a, b) for a, b in zip(made, expected, strict=True)]
    if max(gaps, default=0.0) <= tolerance:
        return
    if exact is not None and as_exact(made, expected, exact()):
        return
    worst = max(gaps)
    first = first_difference(engine, tensors, tolerance, rows)
    raise SparselandError(
        f"the engine's answer differs from the model's by {worst:.2g} of the largest output, more than {tolerance:g}; "
        + (f"the first node that differs: {first}" if first else "no single node does: raise tolerance if that is fine")
    )


def first_difference(engine: Engine, tensors: Sequence[Tensor], tolerance: float, rows: Rows) -> str | None:
    """The first node whose output in the engine is not that of the graph in torch; None if all agree."""
    known = dict(zip(engine.graph.inputs, tensors, strict=True))
    for step in engine.steps:
        graph = step.graph
        names = [name for node in graph.nodes for name in node.outputs if graph.values[name].dtype == "float32"]
        given = [known[name] for name in graph.inputs]
        whole = Graph(graph.inputs, names, graph.nodes, graph.values)
        right = dict(zip(names, run(whole, given), strict=True))
        if step.engine is not None:
            makers = graph.producers()
            for name, value in _every(graph, step.engine, known, rows).items():
                gap = difference(value, right[name])
                if gap > tolerance:
                    return f"{makers[name].op} {makers[name].name!r} (by {gap:.2g} of its largest number)"
        known.update(right)
    return None


def _every(graph: Graph, engine: Runtime, known: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """What the engine computes for every node, in a program of its own that returns all of it."""
    names = [n for node in graph.nodes if node.op not in ("constant", "pad") for n in node.outputs]
    while True:
        try:
            lowered = lower(Graph(graph.inputs, names, graph.nodes, graph.values), Modelled(engine.threads), rows=rows)
            break
        except SparselandError:  # a view of an input, say: not an output that the engine gives
            names = names[1:]
    ports = [port.plain() for port in lowered.inputs], [port.plain() for port in lowered.outputs]
    data = lowered.program.to_bytes({"inputs": ports[0], "outputs": ports[1], "layers": []})
    full = Runtime(data, threads=engine.threads, isa=engine.isa)
    made = full.run([known[port.name].numpy() for port in full.inputs])
    return {port.name: torch.from_numpy(array.copy()) for port, array in zip(full.outputs, made, strict=True)}


__all__ = ["agrees", "as_exact", "difference", "first_difference"]
