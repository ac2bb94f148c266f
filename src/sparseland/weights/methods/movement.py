"""Movement pruning (arXiv 2005.07683): while fine-tuning, keep the weights that move away from zero."""

from __future__ import annotations

from ...core import Allocation, Cubic, Pattern, StraightThrough
from ...core import Movement as MovementScore
from ..method import Method
from ._registry import register


@register("movement")
def Movement(
    sparsity: float = 0.9,
    *,
    start: int | float = 0.1,
    end: int | float = 0.75,
    every: int = 10,
    allocation: Allocation | str = "global",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Scores S = -sum_t w_t dL/dw'_t, w' = w m(S); the top share of S lives, the others wait unchanged and may return.

    The paper learns S by its own optimizer step; with a constant score learning rate that is this sum.

    >>> Movement(0.9, end=100, start=10).flow
    StraightThrough(dead=0.0)
    """
    return Method(
        name="movement",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=MovementScore(),
        allocation=allocation,  # type: ignore[arg-type]
        schedule=Cubic(sparsity, start=start, end=end, every=every),
        flow=StraightThrough(dead=0.0),
    )
