"""BSC: latents that are on or off, added up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .annealing import Annealing
from .em import Parameters, Truncation
from .linear import OnePi


class BSC(OnePi):
    r"""Binary sparse coding, learned by Expectation Truncation: dictionary, sparsity π and noise σ.

    $$p(s) = \prod_h π^{s_h} (1-π)^{1-s_h}, \quad y | s \sim N(μ + \sum_h s_h W_h, σ^2 I)$$

    The posterior is summed over the null state, all H singletons and all states of 2 … γ causes among the H' latents of
    largest cosine similarity with the point. learn_mean: learn μ (D,) too, otherwise it is 0. sigma_from_new_W: take σ
    from the residual of the new dictionary instead of the old one. Everything else: `SparseCoding`.

    Raises:
        SparselandError: γ > H', H' > H, NaN in the data and the like, all before any work.

    >>> import numpy as np
    >>> truth = np.eye(4).repeat(2, 1) * 5.0  # four atoms of two pixels each
    >>> rng = np.random.default_rng(0)
    >>> X = (rng.random((400, 4)) < 0.3) @ truth + 0.5 * rng.standard_normal((400, 8))
    >>> model = BSC(4, gamma=3, max_iter=40, annealing=Annealing(T=[(0, 3.0), (0.7, 1.0)]), random_state=0).fit(X)
    >>> order = (model.components_ @ truth.T).argmax(1)
    >>> sorted(order.tolist()), bool(abs(model.components_ - truth[order]).max() < 0.3)
    ([0, 1, 2, 3], True)
    >>> round(model.pi_, 1), round(model.sigma_, 1)
    (0.3, 0.5)

    Source: ProSper, arXiv 1908.06843. Differs from its code: sums are taken with the maximum subtracted, μ is
    divided by the number of points of all processes, all processes start from the same W.
    """

    _signed: ClassVar[bool] = False

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
        learn_mean: bool = False,
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
        self.learn_mean = learn_mean
        self.sigma_from_new_W = sigma_from_new_W

    def _shapes(self, H: int, D: int) -> dict[str, tuple[int, ...]]:
        return super()._shapes(H, D) | ({"mu": (D,)} if self.learn_mean else {})

    def _initial(self, size: Truncation, mean: Tensor, spread: Tensor, generator: torch.Generator) -> Parameters:
        start = super()._initial(size, mean, spread, generator)
        return start | ({"mu": torch.zeros_like(mean)} if self.learn_mean else {})

    def _nonzero(self) -> tuple[float, ...]:
        return (1.0,)
