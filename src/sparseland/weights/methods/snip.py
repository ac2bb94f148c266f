"""SNIP (arXiv 1810.02340): prune once, before training, by connection sensitivity |w g|."""

from __future__ import annotations

from ...core import SNIP as SNIPScore
from ...core import Global, OneShot, Pattern
from ..method import Method
from ._registry import register


@register("snip")
def SNIP(sparsity: float = 0.9, *, rounds: int = 1, pattern: Pattern | str = "unstructured") -> Method:
    """Keep the largest |w dL/dw| over all layers, measured on ``data`` at step 0.

    rounds > 1 prunes in exponential steps and measures again in between (iterative SNIP, arXiv 2006.00896).

    >>> SNIP(0.9).needs_data
    True
    """
    return Method(
        name="snip",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=SNIPScore(),
        allocation=Global(),
        schedule=OneShot(sparsity, rounds=rounds),
    )
