"""From a sparsifier's modules to the pure topology step and back: gather, rank, merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.criterion import Stats
from ..core.mask import MaskSet
from ..core.selection import count, kept
from . import ranks, topology

if TYPE_CHECKING:
    from .sparsifier import Sparsifier

Measured = dict[str, dict[str, Tensor]]


def pruned(sp: Sparsifier, masks: MaskSet, sparsity: float, measured: Measured, *, first: bool = False) -> MaskSet:
    """Masks at ``sparsity``; those of frozen parameters stay and count."""
    moving = movable(sp, first)
    fixed = sum(count(m) for n, m in masks.items() if n not in moving)
    total = kept(masks.numel(), sparsity) - fixed if fixed else None
    atoms = sum(sp.method.pattern.step(sp.targets[n].shape) for n in moving)
    if not moving or (total is not None and total < atoms):  # the frozen ones take the whole budget
        return masks
    weights, canonical, stats = views(sp, masks, moving, measured)
    new = topology.prune_to(sp.method, weights, canonical, stats, sparsity, first=first, total=total, reduce=ranks.mean)
    return merged(sp, masks, new)


def exchanged(sp: Sparsifier, masks: MaskSet, share: float, measured: Measured) -> MaskSet:
    """Masks with a share of each tensor's living coordinates moved."""
    weights, canonical, stats = views(sp, masks, movable(sp, False), measured)
    relaxed = sp.method.relaxed(masks.sparsity())
    new = topology.exchange(sp.method, weights, canonical, stats, share, relaxed=relaxed, reduce=ranks.mean)
    return merged(sp, masks, new)


def movable(sp: Sparsifier, first: bool) -> list[str]:
    """Names whose masks may change: all at first, later those that still train."""
    return [n for n, t in sp.targets.items() if first or t.param.requires_grad]


def views(
    sp: Sparsifier, masks: MaskSet, names: list[str], measured: Measured
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Stats]]:
    """Whole tensors in canonical layout: weights, masks, statistics."""
    weights, canonical, stats = {}, {}, {}
    for n in names:
        t = sp.targets[n]
        known = dict(sp._stats[n]) | measured[n]
        if n in sp._grads:
            known["grad"] = sp._grads[n]
        elif "grad" not in known and sp.step:
            known["grad"] = torch.zeros_like(t.param)  # got no gradient in this step
        weights[n] = t.canonical(ranks.full(t.param.detach()))
        canonical[n] = t.canonical(masks[n])
        stats[n] = Stats(generator=sp.generator, **{k: t.canonical(ranks.full(v)) for k, v in known.items()})
    return weights, canonical, stats


def merged(sp: Sparsifier, masks: MaskSet, new: dict[str, Tensor]) -> MaskSet:
    """The old masks with the new ones (canonical layout) put in."""
    return MaskSet({n: sp.targets[n].canonical(new[n]).contiguous() if n in new else m for n, m in masks.items()})
