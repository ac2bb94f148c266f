"""What an inferred posterior says: which weights are active, by which prior, and the masks that follow."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

from torch import Tensor, nn

from ...core.errors import InfeasibleBudget, RecipeError, TargetError, nearest
from ...core.mask import MaskSet
from ...core.selection import count
from ..method import Method
from ..targets import plain_module
from .layers import layers_of
from .prior import Prior, Support

CUTS = ("budget", "half", "snr")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Posterior:
    """A net of `bayesian_` layers, read. ``layers``: by the name of their weights. ``support``: the prior's word.

    Raises:
        TargetError: no layer has a posterior.

    >>> import torch
    >>> from .layers import bayesian_
    >>> net = bayesian_(nn.Sequential(nn.Linear(3, 2)))
    >>> net[0].odds.copy_(torch.tensor([[1.0, -1.0, 2.0], [-3.0, -1.0, 0.5]])).ndim
    2
    >>> posterior = Posterior(net, Support())
    >>> posterior.active(), posterior.masks(Method(), "half")["0.weight"].tolist()
    (0.5, [[True, False, True], [False, False, True]])
    """

    def __init__(self, model: nn.Module, support: Support) -> None:
        self.model, self.support = model, support
        self.layers = layers_of(plain_module(model))
        if not self.layers:
            raise TargetError(f"no layer of {type(model).__name__} has a posterior: call bayesian_(model) first")

    def prior(self, name: str) -> Prior:
        """The prior of a layer, by the name of its weight; before the first exchange that of the present weights."""
        layer = self.layers[name]
        a, b, a_off, b_off, p01, p10 = layer.numbers.tolist()
        if math.isnan(a):
            return self.support.of(float(layer.weight.detach().square().mean()))
        return Prior(a, b, a_off, b_off, p01, p10, self.support.chain)

    def guards(self) -> dict[str, dict[str, float | bool]]:
        """`Prior.guards` of every layer."""
        return {name: self.prior(name).guards() for name in self.layers}

    def scores(self, by: str = "odds") -> dict[str, Tensor]:
        """Per weight, higher = keep: the log-odds of s~, or (``by="snr"``) the signal-to-noise ratio mu^2/sigma^2."""
        if by not in ("odds", "snr"):
            raise RecipeError(f"scores by {by!r}; {nearest(by, ('odds', 'snr'))}")
        return {
            name: layer.odds.clone() if by == "odds" else (layer.weight.square() / layer.variance).detach()
            for name, layer in self.layers.items()
        }

    def active(self) -> float:
        """Share of the weights with s~ > 1/2."""
        found = [layer.odds for layer in self.layers.values()]
        return sum(count(odds > 0) for odds in found) / sum(int(odds.numel()) for odds in found)

    def masks(self, method: Method, cut: str = "budget") -> MaskSet:
        """Masks by the method's allocation, pattern and final sparsity ("budget", "snr"), or s~ > 1/2 ("half").

        Warns where a layer loses whole rows in front of a BatchNorm, whose bias keeps the unit's output alive.

        Raises:
            InfeasibleBudget: "half" leaves nothing of a layer.
        """
        if cut not in CUTS:
            raise RecipeError(f"cut is {cut!r}; {nearest(cut, CUTS)}")
        scores = self.scores("snr" if cut == "snr" else "odds")
        if cut == "half":
            found = {name: score > 0 for name, score in scores.items()}
            for name, mask in found.items():
                if not bool(mask.any()):
                    raise InfeasibleBudget(
                        f"no weight of {name!r} is active: {self.prior(name).guards()}; possible: a smaller b, "
                        f"a larger p01, or cut='budget'"
                    )
        else:
            shapes = {name: tuple(score.shape) for name, score in scores.items()}
            counts = method.allocation(shapes, method.target_sparsity, pattern=method.pattern, scores=scores)
            found = {n: method.pattern.project(score, counts[n], name=n) for n, score in scores.items()}
        self._warn_of_norms(found)
        return MaskSet(found)

    def _warn_of_norms(self, masks: dict[str, Tensor]) -> None:
        modules = [(n, m) for n, m in self.model.named_modules() if not list(m.children())]
        for (name, _), (after, norm) in pairwise(modules):
            mask = masks.get(f"{name}.weight" if name else "weight")
            if mask is None or not isinstance(norm, NORMS) or norm.num_features != mask.shape[0]:
                continue
            empty = int((~mask.flatten(1).any(1)).sum())
            if empty and norm.affine and bool((norm.bias != 0).any()):
                warnings.warn(
                    f"{name}: {empty} of {len(mask)} rows are empty, but the bias of {after} keeps their units alive: "
                    f"fold it in when they are removed (weights.structure: plan.apply(model, fold=True))",
                    stacklevel=3,
                )
