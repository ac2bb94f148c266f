"""GSC: spike and slab; a latent is off, or on with a Gaussian value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import SparselandError
from ...kernels.choice import chosen
from . import checking
from .annealing import Annealing
from .em import MOST_ROWS, Heat, Parameters, Part, Table, Truncation, slices
from .estimator import SparseCoding
from .groups import split
from .linear import solve
from .prior import poisson_binomial_mass
from .slabs import Slabs, slabs
from .states import States, enumerate_states

NOISES = ("scalar", "diagonal", "full")
SLABS = ("diagonal", "full")
RARE = 5e-5  # π stays this far from 0 and 1
NARROW = 1e-5  # least variance of a slab


@dataclass(frozen=True)
class Spikes:
    """What one step computes once."""

    parameters: Parameters
    size: Truncation
    heat: Heat
    states: States
    power: float  # exponent of the likelihood: 1, or 2 as the original has it
    odds: Tensor  # (H,)
    dual: Tensor  # (H, D), W Σ⁻¹
    gram: Tensor  # (H, H), W Σ⁻¹ Wᵀ
    precision: Tensor  # Σ⁻¹: 0-d, (D,) or (D, D)
    log_noise: float  # log |Σ|
    variance: Tensor  # (H,), of each slab
    narrow: Tensor  # (H,), posterior variance of each slab alone
    values: tuple[float, ...] = (1.0,)

    @property
    def singles(self) -> int:
        """Columns of singletons."""
        return self.size.components


@dataclass
class Carry:
    """What the statistics need beside the probabilities: slabs of singletons (n, H) and of the other states."""

    kappa: Tensor
    multi: Slabs


class GSC(SparseCoding):
    r"""Spike-and-slab sparse coding with learned, per-latent sparsity, slab and noise.

    $$s_h \sim B(π_h), \quad z \sim N(μ, Ψ), \quad y | s, z \sim N(\sum_h s_h z_h W_h, Σ)$$

    noise: Σ is "scalar", "diagonal" or "full"; ``noise_covariance_`` is the variance, (D,) or (D, D). slab: Ψ is
    "diagonal" (``psi_`` (H,)) or "full" ((H, H); its off-diagonal entries are a heuristic, seen only where both latents
    are on). `transform` gives ⟨s∘z⟩. compat: "prosper" repeats three quirks of the original: the likelihood is squared,
    the noise subtracts products of means, Ψ is multiplied by an inverse, not divided; and it ignores the data cut.

    Raises:
        SparselandError: an option that does not exist.

    >>> import numpy as np
    >>> truth = np.eye(4).repeat(2, 1)
    >>> rng = np.random.default_rng(0)
    >>> S = (rng.random((800, 4)) < 0.3) * rng.normal(5, 1, (800, 4))
    >>> X = S @ truth + 0.3 * rng.standard_normal((800, 8))
    >>> model = GSC(4, gamma=4, max_iter=40, annealing=Annealing(T=[(0, 4.0), (0.7, 1.0)]), random_state=0).fit(X)
    >>> W = model.components_ / np.linalg.norm(model.components_, axis=1, keepdims=True)
    >>> sorted((W @ truth.T).argmax(1).tolist()), bool((W @ truth.T).max(1).min() > 1.4)  # √2 = the same direction
    ([0, 1, 2, 3], True)
    >>> model.pi_.round(1).tolist(), round(model.noise_covariance_ ** 0.5, 1)
    ([0.3, 0.3, 0.3, 0.3], 0.3)

    Source: ProSper, arXiv 1908.06843. Differs from its code: see compat; the default is the exact EM step; the data cut
    is obeyed; a sampled point has noise also where no latent, or only the first, is on.
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
        noise: str = "scalar",
        slab: str = "diagonal",
        compat: str | None = None,
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
        self.noise = noise
        self.slab = slab
        self.compat = compat

    # -------------------------------------------------------------------------------------------------------- settings
    def _check_settings(self) -> None:
        for name, value, possible in (("noise", self.noise, NOISES), ("slab", self.slab, SLABS)):
            if value not in possible:
                raise SparselandError(f"{name}={value!r}; possible: {', '.join(possible)}")
        if self.compat not in (None, "prosper"):
            raise SparselandError(f"compat={self.compat!r}; possible: None (the exact step) or 'prosper'")

    def _choices(self) -> int:
        return 1

    def _obeys_cut(self) -> bool:
        return self.compat is None

    def _shapes(self, H: int, D: int) -> dict[str, tuple[int, ...]]:
        noise = {"scalar": (), "diagonal": (D,), "full": (D, D)}[self.noise]
        return {"W": (H, D), "pi": (H,), "mu": (H,), "psi": (H,) if self.slab == "diagonal" else (H, H), "noise": noise}

    def _initial(self, size: Truncation, mean: Tensor, spread: Tensor, generator: torch.Generator) -> Parameters:
        start = super()._initial(size, mean, spread, generator)
        H = size.components
        draw = torch.rand(2, H, generator=generator, dtype=torch.float64).to(mean)
        mu = torch.randn(H, generator=generator, dtype=torch.float64).to(mean)
        psi, variance = (2 * draw[1]).clamp_min(0.05), spread.square() + 1e-3
        noise = {"scalar": variance.mean(), "diagonal": variance, "full": variance.diag()}[self.noise]
        slab = psi if self.slab == "diagonal" else psi.diag()
        return {"W": start["W"], "pi": (0.95 * draw[0]).clamp_min(0.05), "mu": mu, "psi": slab, "noise": noise}

    def _valid(self, parameters: Parameters) -> Parameters:
        psi, noise = parameters["psi"], parameters["noise"]
        tiny = torch.finfo(torch.float32).tiny
        return parameters | {
            "pi": parameters["pi"].clamp(RARE, 1 - RARE),
            "psi": psi.clamp_min(NARROW) if psi.ndim == 1 else positive(psi, NARROW),
            "noise": noise.clamp_min(tiny)
            if noise.ndim < 2
            else positive(noise, 1e-10 * float(noise.diagonal().mean()) + tiny),
        }

    def _publish(self, parameters: Parameters, wrap: checking.Wrap) -> None:
        super()._publish(parameters, wrap)
        self.mu_, self.psi_ = wrap(parameters["mu"]), wrap(parameters["psi"])
        noise = parameters["noise"]
        self.noise_covariance_ = wrap(noise) if noise.ndim else float(noise)

    # ----------------------------------------------------------------------------------------------------- expectation
    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Spikes:
        W, noise, pi, psi = (parameters[name] for name in ("W", "noise", "pi", "psi"))
        if noise.ndim == 2:
            factor = torch.linalg.cholesky(noise)
            precision = torch.cholesky_inverse(factor)
            dual, log_noise = W @ precision, 2 * float(factor.diagonal().log().sum())
        else:
            precision = noise.reciprocal()
            dual = W * precision
            log_noise = float(noise.log().sum()) * (W.shape[1] if noise.ndim == 0 else 1)
        gram = dual @ W.T
        variance = psi if psi.ndim == 1 else psi.diagonal()
        narrow = (gram.diagonal() + variance.reciprocal()).reciprocal()
        states = enumerate_states(size.candidates, size.gamma).to(W)
        power = 2.0 if self.compat else 1.0
        odds = pi.log() - torch.log1p(-pi)
        return Spikes(parameters, size, heat, states, power, odds, dual, gram, precision, log_noise, variance, narrow)

    def _split(self, prepared: Spikes, Y: Tensor, batch: int | None) -> Iterator[Part]:
        h, number = prepared.size.candidates, len(prepared.states)
        if chosen(None, prepared.gram):  # the kernel has no use for points with equal candidates side by side
            return ((rows, None) for rows in slices(len(Y), 8 * (1 + prepared.singles + number), batch))
        wide = 1 + prepared.singles + number * (1 + h)
        found = torch.cat([self._alone(prepared, y)[3] for y in Y.split(MOST_ROWS)])
        return split(found, 8 * wide, 8 * number * h * (h + 1), batch)

    def _alone(self, prepared: Spikes, Y: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """b (n, H); of each singleton: κ, log-likelihood without the shared part; candidates (n, H')."""
        mu, variance, narrow = prepared.parameters["mu"], prepared.variance, prepared.narrow
        b = Y @ prepared.dual.T
        eta = mu / variance
        kappa = (b + eta) * narrow
        constant = 0.5 * ((narrow / variance).log() - mu * eta)
        value = torch.addcmul(constant, b + eta, kappa, value=0.5)
        best = value.topk(prepared.size.candidates, dim=1).indices.sort(1).values if known is None else known
        return b, kappa, value, best

    def _joint(self, prepared: Spikes, Y: Tensor, known: Tensor | None = None) -> Table:
        b, kappa, value, candidates = self._alone(prepared, Y, known)
        H, beta, p = prepared.size.components, prepared.heat.beta, prepared.parameters
        table = b.new_zeros(len(Y), 1 + H + len(prepared.states))
        torch.add(beta * prepared.odds, value, alpha=beta * prepared.power, out=table[:, 1 : 1 + H])
        multi, found = slabs(prepared.gram, p["psi"], p["mu"], b, candidates, prepared.states)
        odds = prepared.odds[candidates] @ prepared.states.values.T  # (n, n_s)
        torch.add(beta * odds, multi, alpha=beta * prepared.power, out=table[:, 1 + H :])
        return Table(table, candidates, Carry(kappa, found))

    def _offset(self, prepared: Spikes, Y: Tensor) -> Tensor:
        inside = (Y @ prepared.precision if prepared.precision.ndim == 2 else Y * prepared.precision) * Y
        return inside.sum(1) * (-0.5 * prepared.heat.beta * prepared.power)

    # ---------------------------------------------------------------------------------------------------- maximisation
    def _means(self, prepared: Spikes, posterior: Table) -> Tensor:
        carry: Carry = posterior.carry
        return self._all_means(posterior, carry, carry.multi.means(posterior.table[:, 1 + prepared.singles :]))

    def _all_means(self, posterior: Table, carry: Carry, multi: Tensor) -> Tensor:
        """(n, H); multi: (n, H'), the part of the states of several causes."""
        means = posterior.table[:, 1 : 1 + carry.kappa.shape[1]] * carry.kappa
        return means.scatter_add_(1, posterior.candidates, multi)

    def _statistics(self, prepared: Spikes, Y: Tensor, posterior: Table, weight: Tensor) -> dict[str, Tensor]:
        q, H = posterior.table, prepared.size.components
        carry: Carry = posterior.carry
        multi, zz, ss = carry.multi.moments(q[:, 1 + H :])
        means = self._all_means(posterior, carry, multi)
        alone = q[:, 1 : 1 + H].double()
        zz.diagonal().add_((alone * (carry.kappa.double().square() + prepared.narrow)).sum(0))
        ss.diagonal().add_(alone.sum(0))
        own = Y * weight
        squares = own.T @ own if self.noise == "full" else own.square().sum(0)
        sums = {"z": means.sum(0), "zy": means.T @ Y, "zz": zz, "ss": ss, "yy": squares}
        if self.compat:
            sums["products"] = means.T @ means
        return {name: value.double() for name, value in sums.items()}

    def _maximise(self, prepared: Spikes, sums: dict[str, Tensor], points: int) -> Parameters:
        zz, ss = sums["zz"], sums["ss"]
        active = ss.diagonal().clamp_min(1e-300)
        mu = sums["z"] / active
        W = solve(zz, sums["zy"])
        spread = zz - torch.outer(mu, mu) * ss
        if self.compat:
            psi = spread * torch.linalg.pinv(ss, hermitian=True)
        else:
            psi = torch.where(ss > 0, spread / ss.clamp_min(1e-300), torch.zeros_like(ss))
        psi = psi.diagonal() if self.slab == "diagonal" else 0.5 * (psi + psi.T)
        noise = self._new_noise(W, sums, points)
        new = {"W": W, "pi": ss.diagonal() / points, "mu": mu, "psi": psi, "noise": noise}
        return self._valid({name: value.to(prepared.dual) for name, value in new.items()})

    def _new_noise(self, W: Tensor, sums: dict[str, Tensor], points: int) -> Tensor:
        """(1/N) Σ ⟨(y − W(s∘z))(y − W(s∘z))ᵀ⟩ with the new W, or its diagonal, or the mean of that."""
        second = sums["products"] if self.compat else sums["zz"]
        yy, cross = sums["yy"], sums["zy"]
        if self.compat:  # as at the exact maximum, where both parts of the cross term make one of the second
            cross = second @ W
        if self.noise == "full":
            both = W.T @ cross
            return (yy - both - both.T + W.T @ second @ W) / points
        rest = (yy - 2 * (W * cross).sum(0) + (W * (second @ W)).sum(0)) / points
        rest = torch.maximum(rest, 1e-12 * yy / points)  # what rounding leaves of an exact fit
        return rest.mean() if self.noise == "scalar" else rest

    def _log_constant(self, prepared: Spikes) -> float:
        off = float(torch.log1p(-prepared.parameters["pi"].double()).sum())
        return off - 0.5 * (prepared.dual.shape[1] * math.log(2 * math.pi) + prepared.log_noise)

    def _log_mass(self, prepared: Spikes) -> float:
        return poisson_binomial_mass(prepared.parameters["pi"], prepared.size.gamma)

    # --------------------------------------------------------------------------------------------------- superposition
    def _superpose(self, parameters: Parameters, S: Tensor) -> Tensor:
        return S @ parameters["W"]

    def _reconstruct(self, prepared: Spikes, Y: Tensor, posterior: Table) -> Tensor:
        return self._superpose(prepared.parameters, self._means(prepared, posterior))

    def _draw(self, parameters: Parameters, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        W, pi, mu, psi, noise = (parameters[name].double().cpu() for name in ("W", "pi", "mu", "psi", "noise"))
        on = torch.rand(n, len(W), generator=generator, dtype=torch.float64) < pi
        slab = _coloured(torch.randn(n, len(W), generator=generator, dtype=torch.float64), psi)
        S = (mu + slab) * on
        Y = S @ W + _coloured(torch.randn(n, W.shape[1], generator=generator, dtype=torch.float64), noise)
        return S.to(parameters["W"]), Y.to(parameters["W"])


def positive(matrix: Tensor, least: float) -> Tensor:
    """The symmetric matrix with eigenvalues below ``least`` raised to it.

    >>> positive(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), 0.5).tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """
    _, failed = torch.linalg.cholesky_ex(
        matrix - least * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    )
    if not bool(failed):
        return matrix
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    raised: Tensor = (vectors * values.clamp_min(least)) @ vectors.T
    return raised


def _coloured(white: Tensor, covariance: Tensor) -> Tensor:
    """White noise (n, D) with variance, variances (D,) or covariance (D, D)."""
    if covariance.ndim < 2:
        return white * covariance.sqrt()
    coloured: Tensor = white @ torch.linalg.cholesky(covariance).T
    return coloured
