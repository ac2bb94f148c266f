"""Random pruning (arXiv 2202.02643): a random mask before training, never changed. Only the layer ratios are chosen."""

from __future__ import annotations

from ...core import (
    ER,
    ERK,
    SNIP,
    Allocation,
    ERKPlus,
    GraSP,
    OneShot,
    Pattern,
    Random,
    Ratios,
    Uniform,
    UniformPlus,
)
from ...core.errors import RecipeError, nearest
from ..method import Method
from ._registry import register

RATIOS: dict[str, Allocation] = {
    "uniform": Uniform(),
    "uniform+": UniformPlus(),
    "er": ER(),
    "erk": ERK(),
    "erk+": ERKPlus(),
    "snip": Ratios(SNIP()),
    "grasp": Ratios(GraSP()),
}


@register("random")
def RandomPruning(
    sparsity: float = 0.9, *, ratios: str | Allocation = "erk", pattern: Pattern | str = "unstructured"
) -> Method:
    """Exactly round(d_l n_l) weights per layer at random places, d_l from ``ratios``; then train as the dense net.

    ratios: uniform, uniform+, er, erk, erk+, or the layer fractions of a SNIP or GraSP ranking (which needs ``data``);
    or any Allocation. The paper's code draws Bernoulli(d_l) masks; counts here are exact.

    >>> RandomPruning(0.95, ratios="snip").allocation
    Ratios(criterion=SNIP())
    """
    if isinstance(ratios, str) and ratios not in RATIOS:
        raise RecipeError(f"unknown ratios {ratios!r}: {nearest(ratios, RATIOS)}")
    return Method(
        name="random",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=Random(),
        allocation=RATIOS[ratios] if isinstance(ratios, str) else ratios,
        schedule=OneShot(sparsity),
    )
