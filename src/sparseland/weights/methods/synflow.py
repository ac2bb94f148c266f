"""SynFlow (arXiv 2006.05467): prune before training, without data, in many exponential rounds."""

from __future__ import annotations

from ...core import Global, OneShot, Pattern
from ...core import SynFlow as SynFlowScore
from ..method import Method
from ._registry import register


@register("synflow")
def SynFlow(sparsity: float = 0.9, *, rounds: int = 100, pattern: Pattern | str = "unstructured") -> Method:
    """Keep the largest |w| dR/d|w|, R = 1^T (prod |W_l|) 1; ``data`` only gives the input's shape.

    Rounds keep layers from collapsing: after round i the density is d^(i/rounds).

    >>> len(SynFlow(0.9).schedule.parts())
    100
    """
    return Method(
        name="synflow",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=SynFlowScore(),
        allocation=Global(),
        schedule=OneShot(sparsity, rounds=rounds),
    )
