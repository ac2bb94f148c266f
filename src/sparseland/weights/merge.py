"""Soups: nets that share one mask, averaged into one; and how far apart they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import MaskMismatch, RecipeError
from ..core.mask import MaskSet

State = Mapping[str, Tensor]


def average(
    states: Sequence[State],
    shares: Sequence[float] | None = None,
    *,
    masks: MaskSet | None = None,
    same_zeros: bool = True,
) -> dict[str, Tensor]:
    """The weighted average of state dicts (a uniform soup without ``shares``), zeros where all have zeros.

    Equation: θ̄ = Σ_i λ_i θ_i / Σ_i λ_i over every floating tensor, summed in float64; integers (step counters) and
    booleans are those of the first. One state alone comes back bit for bit.

    Parameters:
        states: at least one, of equal names and shapes.
        shares: λ, one ≥ 0 per state; None: all the same.
        masks: what is alive; every state must be zero elsewhere. None: the states' zeros are compared among themselves
            (tensors with two or more axes).
        same_zeros: False averages nets with different masks; the union of what is alive survives, so prune again.

    Raises:
        MaskMismatch: names, shapes or zeros differ. RecipeError: no state, or impossible shares.

    >>> one, two = {"w": torch.tensor([[1.0, 0.0]])}, {"w": torch.tensor([[3.0, 0.0]])}
    >>> average([one, two])["w"].tolist(), average([one, two], [3, 1])["w"].tolist()
    ([[2.0, 0.0]], [[1.5, 0.0]])
    >>> average([one, {"w": torch.tensor([[0.0, 2.0]])}])
    Traceback (most recent call last):
    sparseland.core.errors.MaskMismatch: 'w': states 0 and 1 are zero in different places (2 of 2 differ): ...

    References: arXiv 2203.05482 (soups), 2306.16788 (of one mask).
    """
    share = _shares(states, shares)
    _check_alike(states)
    if masks is not None:
        _check_masks(states, masks)
    elif same_zeros:
        _check_zeros(states)
    merged = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            merged[name] = first.detach().clone()
            continue
        total = sum((state[name].detach().double() * part for state, part in zip(states, share, strict=True)), 0.0)
        merged[name] = torch.as_tensor(total).to(first.dtype)
    return merged


def greedy(
    states: Sequence[State], measure: Callable[[State], float], *, masks: MaskSet | None = None
) -> tuple[dict[str, Tensor], list[int], float]:
    """The greedy soup: from the best state on, add the next best wherever the average is not worse.

    Parameters:
        states: as in `average`. measure: accuracy of a state on validation data (never on test), larger is better;
            recalibrate batch norms in it.

    Returns:
        (average, indices of the states in it in the order taken, its measure)

    >>> values = [torch.tensor([[v]]) for v in (1.0, 4.0, 2.0)]
    >>> soup, taken, score = greedy([{"w": v} for v in values], lambda s: 1 - abs(s["w"].item() - 1.5))
    >>> soup["w"].item(), taken, score
    (1.5, [0, 2], 1.0)

    Differs from the paper: nothing; ties are added (``≥``), as in its code.
    """
    scores = [measure(average([state], masks=masks)) for state in states]
    if not scores:
        raise RecipeError("a soup needs at least one state; got none")
    order = sorted(range(len(states)), key=lambda i: -scores[i])  # stable: of equal ones the first
    taken, best = [order[0]], scores[order[0]]
    for i in order[1:]:
        score = measure(average([states[j] for j in (*taken, i)], masks=masks))
        if score >= best:
            taken, best = [*taken, i], score
    return average([states[j] for j in taken], masks=masks), taken, best


def geometry(states: Sequence[State], names: Iterable[str] | None = None) -> dict[str, float]:
    """How the ingredients of a soup lie: distances to their average, and between them.

    Equation: with θ_i all weights of state i as one vector, ‖θ_i − θ̄‖₂ (``barycentre_…``), ‖θ_i − θ_j‖₂
    (``distance_…``) and the angle between θ_i and θ_j in degrees (``angle_…``), each as max, min and mean.

    Parameters:
        states: two or more. names: which tensors; None: floating ones with two or more axes (weights).

    >>> found = geometry([{"w": torch.tensor([[1.0, 0.0]])}, {"w": torch.tensor([[0.0, 1.0]])}])
    >>> round(found["angle_mean"], 4), round(found["distance_max"], 4), round(found["barycentre_min"], 4)
    (90.0, 1.4142, 0.7071)
    """
    if len(states) < 2:
        raise RecipeError(f"distances are between two or more states; got {len(states)}")
    _check_alike(states)
    wanted = list(names) if names is not None else [n for n, t in states[0].items() if _weight(t)]
    vectors = torch.stack([torch.cat([state[n].detach().double().reshape(-1) for n in wanted]) for state in states])
    pairs = list(combinations(range(len(states)), 2))
    lengths = vectors.norm(dim=1)
    cosines = [vectors[i] @ vectors[j] / (lengths[i] * lengths[j]) for i, j in pairs]
    measured = {
        "barycentre": (vectors - vectors.mean(0)).norm(dim=1),
        "distance": torch.stack([(vectors[i] - vectors[j]).norm() for i, j in pairs]),
        "angle": torch.rad2deg(torch.stack(cosines).clamp(-1, 1).arccos()),
    }
    return {
        f"{what}_{how}": float(getattr(values, how)()) for what, values in measured.items() for how in _HOW
    }  # fmt: skip


class Ensemble(nn.Module):
    """Several nets that answer together: log of the mean of their softmax, so argmax and cross-entropy mean something.

    >>> both = Ensemble([nn.Linear(2, 3), nn.Linear(2, 3)])
    >>> torch.allclose(both(torch.ones(1, 2)).exp().sum(), torch.tensor(1.0))
    True
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Log-probabilities [n, classes]."""
        answers = (member(*inputs, **named) for member in self.members)
        logs = torch.stack([getattr(answer, "logits", answer).log_softmax(-1) for answer in answers])
        return logs.logsumexp(0) - torch.tensor(float(len(self.members))).log()


_HOW = ("max", "min", "mean")


def _weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2


def _shares(states: Sequence[State], shares: Sequence[float] | None) -> list[float]:
    if not states:
        raise RecipeError("a soup needs at least one state; got none")
    given = [1.0] * len(states) if shares is None else [float(share) for share in shares]
    if len(given) != len(states) or not all(0 <= share < float("inf") for share in given) or not sum(given):
        raise RecipeError(f"shares={shares!r}; possible: {len(states)} numbers ≥ 0, not all zero")
    return [share / sum(given) for share in given]


def _check_alike(states: Sequence[State]) -> None:
    first = {name: tuple(tensor.shape) for name, tensor in states[0].items()}
    for i, state in enumerate(states[1:], 1):
        for name in [*first, *state]:
            shape = tuple(state[name].shape) if name in state else "absent"
            if first.get(name, "absent") != shape:
                raise MaskMismatch(f"{name!r} is {first.get(name, 'absent')} in state 0 and {shape} in state {i}")


def _check_masks(states: Sequence[State], masks: MaskSet) -> None:
    for name, mask in masks.items():
        for i, state in enumerate(states):
            if name not in state or state[name].shape != mask.shape:
                shape = tuple(state[name].shape) if name in state else "absent"
                raise MaskMismatch(f"the mask of {name!r} is {tuple(mask.shape)}; in state {i} it is {shape}")
            if strays := int((state[name] != 0).logical_and(~mask.to(state[name].device)).sum()):
                raise MaskMismatch(f"state {i} has {strays:,} living weights in {name!r} where the mask says zero")


def _check_zeros(states: Sequence[State]) -> None:
    for name, tensor in states[0].items():
        for i, state in enumerate(states[1:], 1):
            if _weight(tensor) and (odd := int(((tensor == 0) != (state[name] == 0)).sum())):
                raise MaskMismatch(
                    f"{name!r}: states 0 and {i} are zero in different places ({odd:,} of {tensor.numel():,} differ): "
                    f"their average is denser than they are. Average copies of one pruned net, give masks=…, or allow "
                    f"it with same_zeros=False and prune again"
                )
