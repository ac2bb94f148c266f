"""Growing regularisation (arXiv 2012.09243), the penalty of ASSL and SRP: chosen once, pulled to zero, then removed."""

from __future__ import annotations

from ...core import Allocation, OneShot, Pattern, Penalised
from ..method import Method
from ._registry import register


@register("greg")
def GReg(
    sparsity: float = 0.9,
    *,
    end: int | float = 1 / 3,
    ramp: float = 5e-6,
    allocation: Allocation | str = "uniform",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """U = the smallest |w| of each layer at the start; the gradient gets + ramp t w on U at step t; at ``end`` w_U = 0.

    ramp: growth of the penalty's factor per step, >= 0. end: a step before the last or a share of the run.

    Raises:
        ScheduleError: at attach, where nothing is left after ``end``.

    >>> GReg(0.9, end=100).schedule(0), GReg(0.9, end=100).schedule(1)
    (0.9, None)

    Differs from the papers: ASSL and SRP (both for super-resolution) penalise the scales of whole filters, the same
    ones in layers that are joined, of nets trained before; here every pattern will do, from random values too.
    """
    return Method(
        name="greg",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        flow=Penalised(0.0, ramp=ramp, until=end),
    )
