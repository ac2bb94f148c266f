"""GraSP (arXiv 2002.07376): prune once, before training, so that the gradient's norm survives."""

from __future__ import annotations

from ...core import Global, OneShot, Pattern
from ...core import GraSP as GraSPScore
from ..method import Method
from ._registry import register


@register("grasp")
def GraSP(sparsity: float = 0.9, *, pattern: Pattern | str = "unstructured") -> Method:
    """Keep the largest w (Hg) over all layers, measured on ``data`` at step 0.

    >>> GraSP(0.9).requires(at_start=True) == {"hessian_grad"}
    True
    """
    return Method(
        name="grasp",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=GraSPScore(),
        allocation=Global(),
        schedule=OneShot(sparsity),
    )
