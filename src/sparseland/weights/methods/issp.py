"""ISS-P (arXiv 2303.09650): the weights that are small now shrink by a share at every step; then they are zeroed."""

from __future__ import annotations

import warnings

from ...core import Allocation, Linear, Pattern, Penalised, Shrinking
from ...core.errors import RecipeError, nearest
from ..method import Method
from ._registry import register

VARIANTS = ("shrink", "penalty")


@register("iss-p")
def ISSP(
    sparsity: float = 0.9,
    *,
    factor: float = 0.95,
    end: int | float = 1 / 3,
    every: int = 1,
    variant: str = "shrink",
    ramp: float = 5e-6,
    allocation: Allocation | str = "uniform",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """After every step until ``end``, U = the smallest |w| of each layer, w_U <- factor w_U; then w_U = 0 for good.

    U is chosen anew every ``every`` steps and at ``end``; its size follows the budget exactly. No dense training goes
    before: a weight that gradients push up leaves U again. Meant for a learning rate that is constant until ``end``.

    factor: alpha, in [0, 1]. 0 is iterative hard thresholding (IHT); 1 shrinks nothing (dense, then one shot): warns.
    end: K_P, a step before the last or a share of the run. variant: "penalty" is ISS-R: instead of shrinking, the
    gradient gets + ramp t w on U after t steps (the code's 1e-4 every 20 steps; "shrink" ignores ``ramp``).

    Raises:
        RecipeError: factor or variant is not possible.
        ScheduleError: at attach, where nothing is left after ``end``.

    >>> ISSP(0.95, end=100).flow, ISSP(0.95, end=100).schedule(100)
    (Shrinking(until=100), 0.95)
    >>> ISSP(variant="penalty", end=100).flow
    Penalised(strength=0.0, ramp=5e-06, until=100)

    Differs from the paper: its code keeps at least 0.5 % of a layer, here one weight; counts per layer add up to the
    budget exactly. Its "fast" runs never shrink (a slip of the code) and are factor=1 here.
    """
    if variant not in VARIANTS:
        raise RecipeError(f"iss-p: unknown variant {variant!r}: {nearest(variant, VARIANTS)}")
    if variant == "shrink" and factor == 1:
        warnings.warn("iss-p: factor 1 means no shrink: dense training, then one shot at `end`", stacklevel=2)
    flow = Shrinking(factor, until=end) if variant == "shrink" else Penalised(0.0, ramp=ramp, until=end)
    return Method(
        name="iss-p",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=Linear(sparsity, initial=sparsity, start=1, end=end, every=every),  # flat, and once exactly at the end
        flow=flow,
    )
