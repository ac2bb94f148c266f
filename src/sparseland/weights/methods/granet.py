"""GraNet (arXiv 2106.10404): gradual magnitude pruning with zero-cost neuroregeneration."""

from __future__ import annotations

from ...core import ERK, Cosine, Cubic, Global, Growth, Pattern, Random
from ..method import Method
from ._registry import register


@register("granet")
def GraNet(
    sparsity: float = 0.9,
    *,
    initial_sparsity: float = 0.5,
    start: int | float = 0,
    end: int | float = 0.5,
    every: int = 1000,
    drop: float = 0.5,
    drop_end: float = 0.005,
    regrow_until: int | float | None = 1.0,
    growth: Growth | str = "gradient",
    stop: str = "at",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Every ``every`` steps: prune globally by |w| to a cubic schedule, then per layer drop and regrow a share r(t).

    initial_sparsity: 0.5 is sparse-to-sparse (random ERK start), 0.0 dense-to-sparse. r(t) anneals by a cosine from
    ``drop`` to ``drop_end`` until ``regrow_until`` (the end of the run). Counts do not change in the regeneration.

    Differs from the paper's code: the last prune hits the target exactly (``stop="before"`` is the code's behaviour),
    and the random start has exact counts.

    >>> m = GraNet(0.9, end=1000, every=100, regrow_until=2000)
    >>> m.schedule(0), m.schedule(1000), m.exchange(0)
    (0.5, 0.9, 0.5)
    """
    return Method(
        name="granet",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=Global(),
        schedule=Cubic(sparsity, initial=initial_sparsity, start=start, end=end, every=every, stop=stop),
        initial=Random(),
        initial_allocation=ERK(),
        growth=growth,  # type: ignore[arg-type]
        exchange=Cosine(drop_end, initial=drop, start=0, end=regrow_until, every=every),
    )
