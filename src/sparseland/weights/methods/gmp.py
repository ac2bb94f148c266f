"""Gradual magnitude pruning (arXiv 1710.01878): dense at first, sparser along a cubic."""

from __future__ import annotations

from ...core import Allocation, Cubic, Pattern
from ..method import Method
from ._registry import register


@register("gmp")
def GMP(
    sparsity: float = 0.9,
    *,
    initial_sparsity: float = 0.0,
    start: int | float = 0,
    end: int | float = 0.75,
    every: int = 100,
    allocation: Allocation | str = "global",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """s(t) = s_f + (s_i - s_f)(1 - (t - t_0)/(t_f - t_0))^3 every ``every`` steps, by magnitude; nothing comes back.

    >>> GMP(0.8, end=200, every=100).schedule(200)
    0.8
    """
    return Method(
        name="gmp",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=Cubic(sparsity, initial=initial_sparsity, start=start, end=end, every=every),
    )
