"""Parameters that come after `attach`: new layers, unfrozen heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core.criterion import Magnitude
from ..core.errors import OwnershipError
from ..core.mask import MaskSet
from . import moves, statistics
from .optimizer_state import check_owns
from .targets import Rules, Target, eligible
from .two_way import TwoWay

if TYPE_CHECKING:
    from .sparsifier import Sparsifier


def add(sp: Sparsifier, targets: Rules) -> list[str]:
    """Put ``targets`` under the masks of ``sp`` at its present sparsity; see `Sparsifier.add_`."""
    new = {n: t for n, t in eligible(sp.model, targets).items() if n not in sp.targets}
    check_owns(sp.optimizer, new.values())
    if not new:
        raise OwnershipError(f"targets={targets!r} names nothing new; already sparse: {', '.join(sp.targets)}")
    sp.method.allocation.check({n: t.shape for n, t in new.items()}, sp.sparsity, sp.method.pattern)
    for n, t in new.items():
        if sp.method.flow.two_way:
            TwoWay.check(t.module, n)
    chosen = _first_masks(sp, new)
    sp.targets |= new
    sp._stats |= {n: {} for n in new}
    sp.masks, sp._seen = MaskSet({**sp.masks, **chosen}), MaskSet({**sp._seen, **chosen})
    sp._to_device()
    if sp.method.flow.latent:
        sp._latent |= {n: t.param.detach().clone() for n, t in new.items()}
    sp._write_values()
    sp._mask_state()
    if sp._hooks is not None and sp.method.flow.two_way:
        sp._hooks.remove()
        sp._hook()
    return list(new)


def _first_masks(sp: Sparsifier, new: dict[str, Target]) -> MaskSet:
    ones = MaskSet({n: torch.ones(t.param.shape, dtype=torch.bool, device=t.param.device) for n, t in new.items()})
    if not sp.sparsity:
        return ones
    other = object.__new__(type(sp))  # the same words, generator and step, for the new parameters only
    other.__dict__.update(sp.__dict__)
    other.targets, other.masks, other._stats, other._grads = new, ones, {n: {} for n in new}, {}
    needs = sp.method.requires(at_start=True)
    if needs - statistics.MEASURED:  # late-comers have no history to be ranked by
        other.method, needs = sp.method.replace(initial=Magnitude()), frozenset()
    measured = statistics.measure(sp.model, new, needs, sp._data, sp._loss)
    return moves.pruned(other, ones, sp.sparsity, measured, first=True)
