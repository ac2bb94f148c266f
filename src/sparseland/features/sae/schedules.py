"""Learning rate and k over the steps of a run: pure functions of the step."""

from __future__ import annotations

import math

from ...core.errors import ScheduleError


def default_lr(d_sae: int) -> float:
    """2e-4 * sqrt(2^14 / F), the scaling of Gao et al. (arXiv 2406.04093) as dictionary_learning uses it.

    >>> default_lr(1 << 14)
    0.0002
    """
    return 2e-4 * math.sqrt(2**14 / d_sae)


def lr_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """1 after a linear rise over ``warmup`` steps, then linearly to 0 over the last ``decay`` of all steps.

    Parameters:
        step: 0 … steps - 1, of the update that follows. decay: share in [0, 1].

    >>> [lr_factor(s, 10, warmup=2, decay=0.2) for s in (0, 1, 5, 8, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    rise = (step + 1) / warmup if step < warmup else 1.0
    fall = round(steps * decay)
    left = steps - step
    return min(rise, left / fall if fall and left < fall else 1.0)


def k_at(step: int, k: int, k_start: int | None, anneal: int) -> int:
    """k of a step: linear from ``k_start`` to ``k`` over ``anneal`` steps, whole, then k.

    Raises:
        ScheduleError: k_start below k.

    >>> [k_at(s, 4, 12, anneal=4) for s in range(6)]
    [12, 10, 8, 6, 4, 4]
    """
    if k_start is None or step >= anneal:
        return k
    if k_start < k:
        raise ScheduleError(f"k falls from k_start to k; got k_start={k_start} below k={k}")
    return round(k_start + (k - k_start) * step / anneal)
