"""TSC: latents of either sign, added up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from .annealing import Annealing
from .linear import OnePi


class TSC(OnePi):
    r"""Ternary sparse coding: like BSC, with latents −1, 0 and 1.

    $$p(s_h = 0) = 1-π, \quad p(s_h = ±1) = π/2, \quad y | s \sim N(\sum_h s_h W_h, σ^2 I)$$

    The posterior is summed over every state of at most γ causes among the H' candidates, which are the latents whose
    better sign has the largest log-joint. sigma_from_new_W and everything else: as in BSC.

    >>> import numpy as np
    >>> truth = np.eye(4).repeat(2, 1) * 5.0
    >>> rng = np.random.default_rng(0)
    >>> S = rng.choice([-1.0, 0.0, 1.0], (400, 4), p=[0.15, 0.7, 0.15])
    >>> X = S @ truth + 0.5 * rng.standard_normal((400, 8))
    >>> cool = Annealing(T=[(0, 4.0), (0.7, 1.0)])
    >>> model = TSC(4, gamma=4, max_iter=60, annealing=cool, n_restarts=3, random_state=0).fit(X)
    >>> near = abs(model.components_ @ truth.T)  # the sign of an atom is free
    >>> sorted(near.argmax(1).tolist()), bool(near.max(1).min() > 45)  # 50 = the atom itself
    ([0, 1, 2, 3], True)
    >>> round(model.pi_, 1), round(model.sigma_, 1)
    (0.3, 0.5)

    Source: ProSper, arXiv 1908.06843. Differs from its code, whose TSC cannot be constructed (an undefined name): a
    latent is a candidate once, not once per sign.
    """

    _fewest: ClassVar[int] = 1  # the states hold the singletons of the candidates; there are no others

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
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
        self.sigma_from_new_W = sigma_from_new_W

    def _nonzero(self) -> tuple[float, ...]:
        return (1.0, -1.0)
