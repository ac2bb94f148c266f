"""DSC: latents with any fixed set of values, added up."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import SparselandError
from .annealing import Annealing
from .em import Parameters, Truncation
from .linear import Linear, LinearCoding
from .prior import binomial_mass

FLOOR = 1e-6  # a value whose probability reached zero could never come back


class DSC(LinearCoding):
    r"""Discrete sparse coding: latents take any of K fixed values, whose probabilities are learned.

    $$p(s_h = φ_i) = π_i, \quad y | s \sim N(\sum_h s_h W_h, σ^2 I)$$

    values: Φ, K ≥ 2 different numbers with 0 among them; ``pi_`` is in their order. penalty: π of zero stays at least
    this (None: free). The posterior is summed over the null state, all (K−1) H singletons and all states of 2 … γ
    causes among the H' latents whose best value has the largest log-joint. sigma_from_new_W and everything else: as in
    `BSC`.

    Raises:
        SparselandError: 0 is missing from ``values``, or one stands there twice; more than two million states.

    >>> import numpy as np
    >>> truth = np.eye(4).repeat(2, 1) * 5.0
    >>> rng = np.random.default_rng(0)
    >>> S = rng.choice([0.0, 1.0, 2.0], (600, 4), p=[0.6, 0.3, 0.1])
    >>> X = S @ truth + 0.3 * rng.standard_normal((600, 8))
    >>> cool = Annealing(T=[(0, 5.0), (0.7, 1.0)])
    >>> model = DSC(4, values=(0, 1, 2), gamma=4, max_iter=60, annealing=cool, n_restarts=3, random_state=0).fit(X)
    >>> sorted((model.components_ @ truth.T).argmax(1).tolist()), model.pi_.round(1).tolist()
    ([0, 1, 2, 3], [0.6, 0.3, 0.1])

    Source: ProSper, arXiv 1908.06843. Differs from its code: states are made from their supports (not filtered from
    Φ^{H'}), the threshold of the data cut is inclusive, ties between values keep their order.
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
        values: Sequence[float] = (-1, 0, 1),
        penalty: float | None = None,
        sigma_from_new_W: bool = False,
        max_iter: int = 100,
        tol: float | None = None,
        annealing: Annealing | None = None,
        noise_policy: Mapping[str, tuple[float, float, bool]] | None = None,
        n_restarts: int = 1,
        batch_size: int | None = None,
        init: Mapping[str, Any] | None = None,
        dtype: str = "float64",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            n_components,
            candidates=candidates,
            gamma=gamma,
            max_iter=max_iter,
            tol=tol,
            annealing=annealing,
            noise_policy=noise_policy,
            n_restarts=n_restarts,
            batch_size=batch_size,
            init=init,
            dtype=dtype,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            random_state=random_state,
            verbose=verbose,
        )
        self.values = values
        self.penalty = penalty
        self.sigma_from_new_W = sigma_from_new_W

    def _check_settings(self) -> None:
        try:
            phi = [float(value) for value in self.values]
        except (TypeError, ValueError):
            raise TypeError(f"values={self.values!r}; possible: a sequence of numbers with 0 among them") from None
        if 0.0 not in phi or len(phi) < 2 or not all(math.isfinite(value) for value in phi):
            raise SparselandError(f"values={self.values!r}; possible: two or more finite numbers with 0 among them")
        if len(set(phi)) < len(phi):
            twice = next(value for value in phi if phi.count(value) > 1)
            raise SparselandError(f"values={self.values!r} hold {twice:g} twice; possible: different numbers")
        if self.penalty is not None and not 0.0 < self.penalty < 1.0:
            raise SparselandError(f"penalty={self.penalty!r}; possible: None, or between 0 and 1")

    def _zero(self) -> int:
        return [float(value) for value in self.values].index(0.0)

    def _nonzero(self) -> tuple[float, ...]:
        return tuple(float(value) for value in self.values if float(value) != 0.0)

    # ------------------------------------------------------------------------------------------------------- parameters
    def _shapes(self, H: int, D: int) -> dict[str, tuple[int, ...]]:
        return super()._shapes(H, D) | {"pi": (len(self.values),)}

    def _initial(self, size: Truncation, mean: Tensor, spread: Tensor, generator: torch.Generator) -> Parameters:
        start = super()._initial(size, mean, spread, generator)
        share = torch.rand(len(self.values) - 1, generator=generator, dtype=torch.float64).clamp_min(0.05).to(mean)
        return start | {"pi": self._with_zero(float(start["pi"]) * share / share.sum())}

    def _check_parameters(self, parameters: Parameters) -> None:
        total = float(parameters["pi"].double().sum())
        if abs(total - 1.0) > 1e-5:
            raise SparselandError(
                f"parameter 'pi' sums to {total:g}; possible: probabilities of {tuple(self.values)}, sum 1"
            )

    def _valid(self, parameters: Parameters) -> Parameters:
        valid = super()._valid(parameters)
        return valid | {"pi": valid["pi"] / valid["pi"].sum()}

    def _with_zero(self, others: Tensor) -> Tensor:
        """(K,) probabilities in the order of ``values`` from those of the non-zero values."""
        zero = self._zero()
        return torch.cat([others[:zero], 1.0 - others.sum()[None], others[zero:]])

    def _without_zero(self, pi: Tensor) -> Tensor:
        zero = self._zero()
        return torch.cat([pi[:zero], pi[zero + 1 :]])

    def _odds(self, parameters: Parameters) -> Tensor:
        pi = parameters["pi"]
        return (self._without_zero(pi) / pi[self._zero()]).log()

    def _log_zero(self, parameters: Parameters) -> float:
        return math.log(float(parameters["pi"][self._zero()]))

    def _log_mass(self, prepared: Linear) -> float:
        size, active = prepared.size, float(self._without_zero(prepared.parameters["pi"]).sum())
        return binomial_mass(size.components, size.gamma, active)[0]

    def _new_pi(self, prepared: Linear, counts: Tensor, points: int) -> Tensor:
        pi = self._with_zero(counts / (points * prepared.size.components))
        zero = self._zero()
        if self.penalty is not None and float(pi[zero]) < self.penalty:
            pi = pi * ((1.0 - self.penalty) / (1.0 - pi[zero]))
            pi[zero] = self.penalty
        low = pi < FLOOR
        missing = (FLOOR - pi[low]).sum()
        pi = torch.where(low, torch.full_like(pi, FLOOR), pi - missing / max(1, int((~low).sum())))
        return pi / pi.sum()

    def _draw(self, parameters: Parameters, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        W, values = parameters["W"], torch.tensor([float(v) for v in self.values], dtype=torch.float64)
        drawn = torch.multinomial(parameters["pi"].double().cpu(), n * len(W), True, generator=generator)
        S = values[drawn].view(n, len(W)).to(W)
        noise = torch.randn(n, W.shape[1], generator=generator, dtype=torch.float64).to(W)
        return S, self._superpose(parameters, S) + parameters["sigma"] * noise
