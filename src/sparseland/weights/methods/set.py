"""SET (arXiv 1707.04780): sparse from the start; the smallest weights move to random places."""

from __future__ import annotations

from ...core import Allocation, Constant, GrowRandom, OneShot, Pattern, Random
from ..method import Method
from ._registry import register


@register("set")
def SET(
    sparsity: float = 0.9,
    *,
    drop: float = 0.3,
    every: int = 100,
    end: int | float | None = 0.75,
    allocation: Allocation | str = "erk",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Every ``every`` steps until ``end``: drop the share ``drop`` of smallest |w| per layer, grow as many at random.

    >>> SET(0.9, end=1000).growth
    GrowRandom()
    """
    return Method(
        name="set",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        initial=Random(),
        growth=GrowRandom(),
        exchange=Constant(drop, start=every, end=end, every=every),
    )
