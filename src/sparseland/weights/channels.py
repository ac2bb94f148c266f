"""Between masks of norm scales and the channels that a traced model can lose: who belongs to whom, and who agrees."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.criterion import Stats
from ..core.errors import ScheduleError, TargetError
from ..core.mask import MaskSet
from .method import Method
from .scales import norm_scales
from .thresholds import merge_votes
from .topology import prune_to

Members = dict[str, list[tuple[str, Tensor]]]  # {group: [(scale's name, (units, positions of each in it))]}


def norm_members(graph: Any, scales: Mapping[str, Tensor]) -> Members:
    """For every removable group of channels the norm scales that belong to it, with the place of each channel in them.

    Raises:
        TargetError: no channel with a scale can be removed; the graph's barriers are quoted.
    """
    found: Members = {}
    for group in graph.groups:
        mine = [(m.name, m.index) for m in group.members if m.name in scales and m.role == "norm"]
        if group.prunable and mine:
            found[group.name] = mine
    if not found:
        why = "; ".join(f"{node}: {reason}" for node, reason in graph.barriers[:3]) or "none has a norm of its own"
        raise TargetError(f"no channel that has a norm scale can be removed ({why})")
    left = sorted(set(scales) - {name for group in found.values() for name, _ in group})
    if left:
        warnings.warn(
            f"scales of channels that cannot be removed are left alone: {', '.join(left[:6])}",
            UserWarning,
            stacklevel=3,
        )
    return found


def vote(
    source: Method | Mapping[str, Tensor],
    members: Members,
    model: nn.Module,
    rule: str = "vote",
    *,
    graph: Any = None,
    flops: float | None = None,
    round_to: int = 1,
) -> dict[str, Tensor]:
    """Keep-masks of the groups, out of masks of scales, or of those a method chooses by the scales as they are now.

    Every group keeps at least one channel, that of the largest scale, and a multiple of ``round_to`` (rounded up).
    ``flops``: the share to keep instead of what the method says, by one threshold on the mean scales of the channels.

    Raises:
        InfeasibleBudget: the share cannot be reached.
    """
    scales = {n: p.detach() for n, p in norm_scales(model).items()}
    worth = {
        g: torch.stack([scales[n].abs().cpu()[at].mean(1) for n, at in mine]).mean(0) for g, mine in members.items()
    }
    if flops is not None:
        return dict(graph.plan(scores=worth, flops=flops, scope="global", round_to=round_to).keep)
    masks = source
    if isinstance(source, Method):
        masks = chosen(source, {n: scales[n] for mine in members.values() for n, _ in mine})
    out = {}
    for g, mine in members.items():
        keep = merge_votes([masks[n].cpu()[at].any(1) for n, at in mine], rule)  # type: ignore[index]
        missing = -(-max(int(keep.sum()), 1) // round_to) * round_to - int(keep.sum())
        best = worth[g].masked_fill(keep, -torch.inf).argsort(descending=True, stable=True)
        keep[best[: min(missing, int((~keep).sum()))]] = True
        out[g] = keep
    return out


def chosen(method: Method, scales: Mapping[str, Tensor]) -> MaskSet:
    """The masks that a method's criterion, allocation and pattern give these tensors, at its final sparsity.

    >>> from sparseland.core import OneShot
    >>> method = Method(schedule=OneShot(0.5), allocation="uniform")
    >>> chosen(method, {"bn.weight": torch.tensor([0.1, -2.0, 0.5, 0.2])})["bn.weight"].tolist()
    [False, True, True, False]
    """
    whole = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scales.items()}
    generator = torch.Generator().manual_seed(0)
    stats = {n: Stats(generator=generator) for n in scales}
    return MaskSet(prune_to(method, scales, whole, stats, method.target_sparsity, first=True))


def spread(
    keep: Mapping[str, Tensor], members: Members, model: nn.Module, names: Sequence[str] | None = None
) -> MaskSet:
    """Masks of the members' scales (or of the parameters ``names``) that say what the groups say; True elsewhere."""
    params = dict(model.named_parameters())
    wanted = names if names is not None else [n for mine in members.values() for n, _ in mine]
    masks = {n: torch.ones(params[n].shape, dtype=torch.bool, device=params[n].device) for n in wanted}
    for g, mask in keep.items():
        for n, at in members[g]:
            masks[n][at.to(masks[n].device)] = mask[:, None].to(masks[n].device)
    return MaskSet(masks)


def makers(graph: Any) -> tuple[str, ...]:
    """Weights whose outputs are channels that can be removed."""
    found = dict.fromkeys(
        m.name for g in graph.groups if g.prunable for m in g.members if m.role == "out" and m.name.endswith("weight")
    )
    if not found:
        why = "; ".join(f"{node}: {reason}" for node, reason in graph.barriers[:3])
        raise TargetError(f"no layer makes channels that can be removed ({why or 'the model has one layer'})")
    return tuple(found)


def told(masks: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> dict[str, float]:
    """{"kept_scale": mean |γ| of what is kept, "removed_scale": largest |γ| of what goes}."""
    kept = torch.cat([scales[n].detach().abs()[m] for n, m in masks.items()])
    gone = torch.cat([scales[n].detach().abs()[~m] for n, m in masks.items()])
    return {
        "kept_scale": float(kept.mean()) if len(kept) else 0.0,
        "removed_scale": float(gone.max()) if len(gone) else 0.0,
    }


def tuning(trainer: Any, share: float) -> int:
    """The step from which the last ``share`` of the schedule is trained; ScheduleError outside of [0, 1].

    >>> class Runs:
    ...     steps = 50
    >>> tuning(Runs, 0.1)
    45
    """
    if not 0 <= share <= 1:
        raise ScheduleError(f"finetune is {share!r}; possible: a share of the schedule, 0 … 1")
    return int(trainer.steps - round(share * trainer.steps))
