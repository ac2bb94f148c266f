"""RigL (arXiv 1911.11134): sparse from the start; the smallest weights move to where the gradient is largest."""

from __future__ import annotations

from ...core import Allocation, Cosine, GrowGradient, OneShot, Pattern, Random
from ..method import Method
from ._registry import register


@register("rigl")
def RigL(
    sparsity: float = 0.9,
    *,
    drop: float = 0.3,
    every: int = 100,
    end: int | float = 0.75,
    allocation: Allocation | str = "erk",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Every ``every`` steps drop f(t) = drop (1 + cos(pi t / end)) / 2 of each layer by |w|, grow as many by |g|.

    >>> round(RigL(0.9, end=1000).exchange(500), 6)
    0.15
    """
    return Method(
        name="rigl",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        initial=Random(),
        growth=GrowGradient(),
        exchange=Cosine(0.0, initial=drop, start=0, end=end, every=every),
    )
