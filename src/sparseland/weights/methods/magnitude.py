"""One-shot magnitude pruning: keep the largest |w|, once, then train on."""

from __future__ import annotations

from ...core import Allocation, OneShot, Pattern
from ..method import Method
from ._registry import register


@register("magnitude")
def Magnitude(
    sparsity: float = 0.9,
    *,
    at: int | float = 0,
    allocation: Allocation | str = "global",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Keep the (1 - sparsity) share of weights with the largest magnitude at step ``at``.

    >>> Magnitude(0.5, pattern="2:4").schedule
    OneShot(value=0.5)
    """
    return Method(
        name="magnitude",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity, at=at),
    )
