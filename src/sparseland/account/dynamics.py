"""How masks move: overlap, churn, survival, what was ever explored, and units that died.

A mask is a bool tensor (True = alive), a `MaskSet`, or a mapping of names to bool tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InfeasibleBudget, MaskMismatch
from ..core.mask import MaskSet
from ..core.selection import count
from ..weights.targets import eligible

Masks = Tensor | Mapping[str, Tensor]


def overlap(a: Masks, b: Masks) -> float:
    """|A ∩ B| / |A ∪ B|, in [0, 1]; 1 = the same weights live.

    >>> overlap(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    0.3333333333333333

    Raises:
        MaskMismatch: other names, shapes or types.
    """
    return _masks(a).overlap(_masks(b))


def churn(a: Masks, b: Masks) -> float:
    """Share of coordinates whose state differs (Hamming distance / N), in [0, 1].

    >>> churn(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    0.6666666666666666
    """
    return _masks(a).churn(_masks(b))


def survival(first: Masks, later: Masks) -> float:
    """|A ∩ B| / |A|: share of the weights alive in ``first`` that are alive ``later``, in [0, 1].

    >>> survival(torch.tensor([True, True, True, False]), torch.tensor([True, False, False, True]))
    0.3333333333333333
    """
    one, two = _masks(first), _masks(later)
    one.check_same(two)
    alive = one.kept()
    return sum(count(one[name] & two[name]) for name in one) / alive if alive else 1.0


def exploration(union: Masks | int | Sequence[Masks], total: int | None = None) -> float:
    """In-time exploration rate R_s = |∪_t supp M_t| / N, in [0, 1] (arXiv 2102.02887).

    Parameters:
        union: the masks of a run, their union, or the number of coordinates that were ever alive.
        total: N; only with a number.

    >>> exploration([torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False])])
    0.5
    >>> exploration(30, 120)
    0.25

    Raises:
        InfeasibleBudget: a count outside [0, N].
    """
    if isinstance(union, int):
        if total is None or not 0 <= union <= total or total == 0:
            raise InfeasibleBudget(f"{union:,} explored of {total}; possible: 0 to the number of coordinates, above 0")
        return union / total
    if isinstance(union, Tensor | Mapping):
        seen = _masks(union)
    else:
        seen, *others = [_masks(m) for m in union]
        for other in others:
            seen = seen.union(other)
    return exploration(seen.kept(), seen.numel())


def dead_units(weight: Tensor | nn.Module, *, axis: int = 0) -> int:
    """Units without a living weight: outputs nothing reaches (``axis`` 0), or inputs nobody reads (``axis`` 1).

    Parameters:
        weight: a mask or weight (out, in, taps …); or a model, for the sum over its maskable layers.

    >>> dead_units(torch.tensor([[0.0, 0.0], [0.0, 2.0]])), dead_units(torch.ones(3, 2, dtype=torch.bool))
    (1, 0)

    Raises:
        MaskMismatch: a tensor with fewer than two axes, or another axis.
    """
    if axis not in (0, 1):
        raise MaskMismatch(f"axis {axis}; possible: 0 (outputs) or 1 (inputs)")
    if isinstance(weight, nn.Module):
        return sum(dead_units(t.canonical(t.param.detach()), axis=axis) for t in eligible(weight).values())
    if weight.ndim < 2:
        raise MaskMismatch(f"a weight (out, in, …) has two or more axes; given shape {tuple(weight.shape)}")
    alive = (weight != 0).movedim(axis, 0).flatten(1).any(1)
    return int((~alive).sum())


def with_overlap(moves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mask updates of a run, each with "overlap" and "survival" against the masks before it.

    Equation: with h = churn · N, |A ∩ B| = (|A| + |B| − h)/2, from which both follow exactly.

    Parameters:
        moves: {"kept", "total", "churn"} each, as in `Sparsifier.history`; churn None: a beginning, and both are None.

    >>> moves = [{"kept": 4, "total": 10, "churn": None}, {"kept": 4, "total": 10, "churn": 0.2}]
    >>> with_overlap(moves)[1]
    {'kept': 4, 'total': 10, 'churn': 0.2, 'overlap': 0.6, 'survival': 0.75}
    """
    out: list[dict[str, Any]] = []
    for number, move in enumerate(moves):
        found: dict[str, float | None] = {"overlap": None, "survival": None}
        if move["churn"] is not None and number:
            before, after = moves[number - 1]["kept"], move["kept"]
            both = (before + after - round(move["churn"] * move["total"])) // 2
            either = before + after - both
            found = {"overlap": both / either if either else 1.0, "survival": both / before if before else 1.0}
        out.append({**move, **found})
    return out


def check_fits(mask: Tensor, weight: Tensor, name: str = "weight") -> None:
    """Raise MaskMismatch unless a mask is boolean and has its weight's shape.

    >>> check_fits(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    """
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise MaskMismatch(
            f"the mask of {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; possible: torch.bool of shape "
            f"{tuple(weight.shape)}"
        )


def _masks(given: Masks) -> MaskSet:
    if isinstance(given, Tensor):
        return MaskSet({"mask": given})
    return given if isinstance(given, MaskSet) else MaskSet(given)
