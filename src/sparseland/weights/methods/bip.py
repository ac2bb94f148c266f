"""BiP (arXiv 2210.04092): pruning as a bi-level problem: weights below, mask scores above, one gradient each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar

from torch import Tensor

from ...core import Allocation, Constant, Global, Pattern, Unstructured
from ...core.errors import RecipeError, ScheduleError, SparselandError, TargetError, nearest
from ...core.flow import Product
from ..learned import Learned
from ..method import Method
from ..pretrained import entry, living, looks_trained
from ..targets import Rules
from ..trainer import Trainer, trains
from ._registry import register

MODES = {"unstructured": "unstructured", "filter": "row", "channel": "column"}


@register("bip")
def BiP(
    sparsity: float = 0.9,
    *,
    mode: str = "unstructured",
    hyper: str = "implicit",
    gamma: float = 1e4,
    lr: float = 0.1,
    momentum: float = 0.9,
    decay: float = 1e-4,
    curve: str = "step",
    stream: bool = False,
    alias_scores: bool = False,
) -> Method:
    """min_m l(m θ*(m)), θ*(m) = argmin_θ l(m θ) + (γ/2) ‖θ‖²: weights and scores s take turns.

    Odd steps: θ − α (m dl/dz + decay θ) by the run's optimizer. Even steps, on the next batch: s − β sign(s) times the
    `hyper_gradient`, then m = top of |s| over all layers. s starts as a copy of the trained θ: at first m is the
    magnitude mask. `bip` runs the whole procedure on a Trainer.

    Parameters:
        sparsity: 1 − k, in [0, 1).
        mode: "unstructured", "filter" or "channel" (rows or columns of convolutions by the L2 norm of their scores,
            ⌈kC⌉ in each; linear layers stay dense).
        hyper, gamma: "implicit", "none" or "code-compat"; γ > 0.
        lr, momentum, decay, curve: β and its SGD; "step" is the published schedule, "cosine" and "constant" others.
        stream: the scores learn on ``data``, a second stream of batches, after each of the optimizer's steps.
        alias_scores: scores and weights are one tensor, as the published code has it by accident.

    Differs from the code: scores have memory of their own, the two optimizers hold different things (a step of one
    moves nothing of the other), and each tensor keeps at least one weight (a budget below that is refused).

    >>> BiP(0.9).criterion.turns, str(BiP(0.5, mode="filter").pattern)
    ('alternate', 'row')
    """
    if mode not in MODES:
        raise RecipeError(f"unknown mode {mode!r}: {nearest(mode, MODES)}")
    whole = mode != "unstructured"
    return Method(
        name="bip",
        pattern=MODES[mode],  # type: ignore[arg-type]
        criterion=Learned(
            lr, momentum, decay, curve, rank="square" if whole else "abs", turns="stream" if stream else "alternate",
            hyper=hyper, gamma=gamma, alias=alias_scores,
        ),
        allocation=SameShare() if whole else Global(),
        schedule=Constant(sparsity, every=1 if stream else 2),
        flow=Product(),
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class SameShare(Allocation):
    """⌈kC⌉ of the C atoms (filters, channels) of every convolution, k = 1 − sparsity; linear layers stay whole.

    >>> from sparseland.core import Row
    >>> SameShare()({"conv": (5, 2, 3, 3), "fc": (4, 4)}, 0.5, pattern=Row())
    {'conv': 54, 'fc': 16}
    """

    kind: ClassVar[str] = "same-share"

    def __call__(
        self,
        shapes: Mapping[str, Sequence[int]],
        sparsity: float,
        *,
        pattern: Pattern | None = None,
        scores: Mapping[str, Tensor] | None = None,
        relaxed: bool = False,
        total: int | None = None,
        alive: Mapping[str, Tensor] | None = None,
    ) -> dict[str, int]:
        if not any(len(s) > 2 for s in shapes.values()):
            raise TargetError(f"filters and channels are those of convolutions; {', '.join(shapes)} are linear layers")
        share, counts = 1 - Decimal(repr(float(sparsity))), {}
        for name, shape in shapes.items():
            size = math.prod(shape)
            step = (pattern or Unstructured()).step(tuple(shape))
            atoms = int((share * (size // step)).to_integral_value(ROUND_CEILING))
            counts[name] = atoms * step if len(shape) > 2 else size
        return counts


@trains(lambda pretrain, tune: pretrain + 1 + tune)
def bip(
    trainer: Trainer,
    method: Method | None = None,
    *,
    pretrain: bool = True,
    tune: float = 0.0,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Train densely (``pretrain``), solve the bi-level problem over one schedule, train on with the mask over the last
    ``tune`` of one (0: not at all; only needed where about 1 % is left).

    Returns:
        {"masks": MaskSet, "rounds": [{"round", "sparsity", "steps", "accuracy", …}], "steps": all steps trained}
    """
    if not 0 <= tune <= 1:
        raise ScheduleError(f"tune is {tune!r}; possible: in [0, 1]")
    method = method or BiP()
    done = trainer.fit(None)["steps"] if pretrain else 0
    if not pretrain and not looks_trained(trainer, targets, ignore):
        raise SparselandError(
            "bip begins with a trained dense net; this one answers like an untrained one: pretrain=True"
        )
    log = [entry(0, None, done, trainer)]
    steps = trainer.fit(method)["steps"]
    masks = living(trainer, targets, ignore)
    log.append(entry(1, masks, steps, trainer))
    if tune:
        keep, start = Method(name="bip", pattern=method.pattern), trainer.steps - max(1, round(tune * trainer.steps))
        log.append(entry(2, masks, trainer.fit(keep, masks, start=start)["steps"], trainer))
    return {"masks": masks, "rounds": log, "steps": done + sum(e["steps"] for e in log[1:])}
