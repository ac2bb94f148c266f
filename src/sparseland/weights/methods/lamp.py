"""LAMP (arXiv 2010.07611): one-shot magnitude pruning with layer-adaptive sparsity."""

from __future__ import annotations

from ...core import LAMP as LAMPScores
from ...core import OneShot, Pattern
from ..method import Method
from ._registry import register


@register("lamp")
def LAMP(sparsity: float = 0.9, *, at: int | float = 0, pattern: Pattern | str = "unstructured") -> Method:
    """Rank w_u^2 / sum_{|w_v| >= |w_u|} w_v^2 over all layers at step ``at``; inside a layer that is magnitude.

    >>> LAMP(0.9).allocation
    LAMP()
    """
    return Method(
        name="lamp",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=LAMPScores(),
        schedule=OneShot(sparsity, at=at),
    )
