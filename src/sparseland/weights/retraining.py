"""Learning rates for retraining a pruned net, derived from those its pretraining is known to have had."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..core.errors import RecipeError, ScheduleError, nearest

WARMUP = 0.1  # share of the retraining
_MISSING = (
    "is derived from the learning rates of the pretraining, and that record is missing: let the trainer's fit return "
    "'lrs' (one per step), or give log=[…]"
)
SCHEDULES = ("FT", "LRW", "SLR", "CLR", "LLR", "ALLR")


def retraining_lrs(
    schedule: str,
    log: Sequence[float] | None,
    steps: int,
    *,
    peak: float | None = None,
    drop: float | None = None,
    pruned: float | None = None,
) -> list[float]:
    """The learning rate of every retraining step, from the learning rates of the pretraining.

    Equation: with l the log after its own warm-up (from its first maximum on), p = max l, and W = ⌊steps / 10⌉ steps of
    warm-up p (1 − cos(π t / W)) / 2, then with u = (t − W) / (steps − W):

    - FT: min l throughout, no warm-up. LRW: the last ``steps`` of the log again, no warm-up.
    - SLR: l[⌊u |l|⌋], the whole schedule compressed. CLR: min l + (p − min l)(1 + cos πu) / 2. LLR: p (1 − u).
    - ALLR: as LLR with p ← clip(drop / √pruned · p, min(steps / |log|, 1) p, p).

    Parameters:
        schedule: FT, LRW, SLR, CLR, LLR or ALLR. log: the pretraining's learning rates, one per step.
        steps: of the retraining, ≥ 1. peak: instead of max l (not for FT and LRW).
        drop: ‖Δθ‖ / ‖θ‖ of the pruning, see `norm_drop`. pruned: share of the living weights it removed, in (0, 1].

    Raises:
        RecipeError: an unknown schedule, or ALLR without ``drop`` and ``pruned``.
        ScheduleError: there is no log, or LRW wants more steps than it has.

    >>> log = [0.1 * (1 - t / 100) for t in range(100)]
    >>> [round(lr, 3) for lr in retraining_lrs("LLR", log, 10)]
    [0.0, 0.1, 0.089, 0.078, 0.067, 0.056, 0.044, 0.033, 0.022, 0.011]
    >>> retraining_lrs("LRW", log, 10) == log[-10:], set(retraining_lrs("FT", log, 10)) == {log[-1]}
    (True, True)
    >>> round(max(retraining_lrs("ALLR", log, 50, drop=0.4, pruned=0.64)), 3)  # as 0.4 / √0.64 · 0.1
    0.05

    References: arXiv 2111.00843 (LLR, ALLR), 2003.02389 (LRW), 2105.03193 (SLR, CLR).
    """
    if schedule not in SCHEDULES:
        raise RecipeError(f"retrain schedule {schedule!r}: {nearest(schedule, SCHEDULES)}")
    if steps < 1:
        raise ScheduleError(f"a retraining of {steps} steps; possible: 1 or more")
    if not log:
        raise ScheduleError(f"{schedule} {_MISSING}")
    own = list(log)[max(range(len(log)), key=log.__getitem__) :]  # max gives the first of equals
    top, low = (own[0] if peak is None else peak), min(own)
    if schedule == "FT":
        return [low] * steps
    if schedule == "LRW":
        if steps > len(log):
            raise ScheduleError(f"LRW replays the last {steps} learning rates of a pretraining that had {len(log)}")
        return list(log)[-steps:]
    if schedule == "ALLR":
        top *= _allr_share(drop, pruned, steps / len(log))
    scale = top / own[0] if own[0] else 1.0
    decay: dict[str, Callable[[float], float]] = {
        "SLR": lambda u: scale * own[min(int(u * len(own)), len(own) - 1)],
        "CLR": lambda u: low + (top - low) * (1 + math.cos(math.pi * u)) / 2,
    }
    return _warmed(top, steps, decay.get(schedule, lambda u: top * (1 - u)))


def _allr_share(drop: float | None, pruned: float | None, length: float) -> float:
    if drop is None or not pruned:
        raise RecipeError("ALLR needs drop (how much the pruning changed the norm) and pruned (share removed)")
    return min(max(drop / math.sqrt(pruned), min(length, 1.0)), 1.0)


def _warmed(top: float, steps: int, decay: Callable[[float], float]) -> list[float]:
    warm = min(round(WARMUP * steps), steps - 1)
    rising = [top * (1 - math.cos(math.pi * t / warm)) / 2 for t in range(warm)]
    return rising + [decay(t / (steps - warm)) for t in range(steps - warm)]


def norm_drop(before: float, after: float) -> float:
    """How much a pruning changed a net: √|‖θ‖² − ‖θ'‖²| / ‖θ‖ of its norms before and after, in [0, 1] when it shrank.

    >>> round(norm_drop(5.0, 3.0), 12)
    0.8
    """
    return math.sqrt(abs(before**2 - after**2)) / before if before else 0.0
