"""Sparsity without a training method: prune a trained model once, or keep the zeros it already has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import TargetError
from ..core.mask import MaskSet
from . import moves, ranks, statistics
from .method import Method
from .sparsifier import Sparsifier
from .targets import Rules, eligible


class _NoSteps(torch.optim.Optimizer):
    """An optimizer that holds parameters and never moves them."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Do nothing."""


def prune_(
    model: nn.Module,
    method: Method,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    targets: Rules = None,
    ignore: Rules = None,
    seed: int = 0,
    masks: MaskSet | None = None,
) -> MaskSet:
    """Prune ``model`` in place, once, to the method's final sparsity, and return the masks.

    The method's criterion, allocation and pattern decide; its schedule only says how much. ``masks``: what an earlier
    pruning left alive; only that is ranked, so the new masks lie within them whatever the criterion.

    Raises:
        ScoreError: the criterion must be measured and ``data`` is missing. Others as `Method.attach`.

    >>> import sparseland as sl
    >>> net = nn.Linear(10, 10)
    >>> sl.prune_(net, sl.methods.Magnitude(0.9)).kept(), int((net.weight != 0).sum())
    (10, 10)
    """
    from ..core.flow import Hard
    from ..core.growth import GrowNone
    from ..core.schedule import OneShot

    rounds = method.schedule.rounds if isinstance(method.schedule, OneShot) else 1
    schedule = OneShot(method.target_sparsity, rounds=rounds)
    once = method.replace(
        schedule=schedule, exchange=None, growth=GrowNone(), flow=Hard(), initial=None, initial_allocation=None
    )
    chosen = eligible(model, targets, ignore)
    optimizer = _NoSteps(t.param for t in chosen.values())
    sp = Sparsifier(once, model, optimizer, targets, ignore, data=data, loss=loss, seed=seed, masks=masks)
    if masks is not None:
        measured = statistics.measure(model, sp.targets, once.requires(at_start=True), data, loss)
        sp.masks = moves.pruned(sp, sp.masks, once.target_sparsity, measured, first=True)
        sp._to_device()
    return sp.finalize_().masks


def keep_zeros(model: nn.Module, optimizer: Any, targets: Rules = None, ignore: Rules = None) -> Sparsifier:
    """Fine-tune an already sparse model: every weight that is zero now stays zero.

    Raises:
        TargetError: the model has no zeros to keep.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[0., 1.], [2., 0.]]))
    >>> sgd = torch.optim.SGD(net.parameters(), lr=1.0)
    >>> sp = keep_zeros(net, sgd)
    >>> net(torch.ones(1, 2)).sum().backward(); sgd.step()
    >>> net.weight.detach().tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    chosen = eligible(model, targets, ignore)
    masks = MaskSet({n: ranks.full(t.param.detach()) != 0 for n, t in chosen.items()})
    if masks.kept() == masks.numel():
        raise TargetError(
            f"none of the {masks.numel():,} weights in {', '.join(list(chosen)[:4])} … is zero: nothing to keep"
        )
    return Method(name="keep-zeros").attach(model, optimizer, targets, ignore, masks=masks)
