"""SR-STE (arXiv 2102.04010): N:M from scratch; masks follow the dense weights at every step."""

from __future__ import annotations

from ...core import NM, Constant, Pattern, Uniform
from ...core import SRSTE as SRSTEFlow
from ...core import pattern as read_pattern
from ...core.errors import PatternError
from ..method import Method
from ._registry import register


@register("sr-ste")
def SRSTE(pattern: Pattern | str = "2:4", *, decay: float = 2e-4, every: int = 1) -> Method:
    """forward w m, m = the top N of every M by |w|, renewed every ``every`` steps; grad = g + decay (1 - m) w.

    >>> SRSTE("2:4").target_sparsity
    0.5
    """
    shape = read_pattern(pattern)
    if not isinstance(shape, NM):
        raise PatternError(f"SR-STE trains N:M patterns such as '2:4'; got {str(shape)!r}")
    return Method(
        name="sr-ste",
        pattern=shape,
        allocation=Uniform(),
        schedule=Constant(1 - shape.keep / shape.of, every=every),
        flow=SRSTEFlow(decay),
    )
