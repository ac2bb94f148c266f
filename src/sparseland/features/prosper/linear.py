"""What BSC, TSC and DSC share: latents with fixed values, added up, under Gaussian noise of one variance.

Candidate space: with G = W Wᵀ and b = W y, |y − Σ s_h W_h|² = |y|² − 2 s·b + sᵀG s is linear in the monomials of s, so
all states of all points cost one product (n, H' + P)·(H' + P, n_s), P = H'(H'+1)/2, and all moments another one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .em import Heat, Parameters, Part, Table, Truncation, slices
from .estimator import SparseCoding
from .prior import binomial_mass
from .states import States, enumerate_states


@dataclass(frozen=True)
class Linear:
    """What one step computes once. values: φ ≠ 0; odds: (V,) log-prior of each over that of zero (not annealed)."""

    parameters: Parameters
    size: Truncation
    heat: Heat
    values: tuple[float, ...]
    odds: Tensor
    states: States
    W: Tensor
    gram: Tensor
    norms: Tensor  # (H,), |W_h|²
    scale: float  # β / σ²
    quadratic: Tensor  # (H·H,), minus scale·G, half of it on the diagonal
    prior: Tensor  # (n_s,)

    @property
    def singles(self) -> int:
        """Columns of singletons over all latents (none where the states hold them)."""
        return len(self.values) * self.size.components if self.states.fewest == 2 else 0


class LinearCoding(SparseCoding):
    """Base of the models y = Σ_h s_h W_h + noise with s_h from a fixed set of values."""

    _fewest: ClassVar[int] = 2  # the states over the candidates start at this many causes
    _signed: ClassVar[bool] = True  # the log-joint chooses the candidates; BSC takes the cosine
    sigma_from_new_W: bool

    # -------------------------------------------------------------------------------------------------- of each model
    @abstractmethod
    def _nonzero(self) -> tuple[float, ...]:
        """The values φ ≠ 0 of a latent."""

    @abstractmethod
    def _odds(self, parameters: Parameters) -> Tensor:
        """(V,) log-prior of each non-zero value relative to zero."""

    @abstractmethod
    def _log_zero(self, parameters: Parameters) -> float:
        """Log-prior of zero, of one latent."""

    @abstractmethod
    def _new_pi(self, prepared: Linear, counts: Tensor, points: int) -> Tensor:
        """The prior's maximum from ⟨how often each non-zero value occurs⟩."""

    def _choices(self) -> int:
        return len(self._nonzero())

    # ---------------------------------------------------------------------------------------------------- expectation
    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Linear:
        W, values = parameters["W"], self._nonzero()
        states = enumerate_states(size.candidates, size.gamma, values, self._fewest).to(W)
        odds = self._odds(parameters)
        gram = W @ W.T
        norms = gram.diagonal().clone()
        scale = heat.beta / float(parameters["sigma"]) ** 2
        quadratic = -scale * gram
        quadratic.diagonal().mul_(0.5)
        prior = states.counts @ (heat.prior * odds)
        return Linear(parameters, size, heat, values, odds, states, W, gram, norms, scale, quadratic.reshape(-1), prior)

    def _split(self, prepared: Linear, Y: Tensor, batch: int | None) -> Iterator[Part]:
        wide = 1 + prepared.singles + len(prepared.states) + prepared.states.features.shape[1]
        return ((rows, None) for rows in slices(len(Y), wide * prepared.W.element_size(), batch))

    def _centred(self, prepared: Linear, Y: Tensor) -> Tensor:
        mean = prepared.parameters.get("mu")
        return Y if mean is None else Y - mean

    def _offset(self, prepared: Linear, Y: Tensor) -> Tensor:
        return self._centred(prepared, Y).square().sum(1).mul_(-0.5 * prepared.scale)

    def _candidates(self, prepared: Linear, b: Tensor) -> Tensor:
        """(n, H') the candidates of each point, ascending; ``b`` (n, H) is y·W_h β/σ²."""
        if self._signed:  # by log-joint at T = 1, the best value of each latent
            b = b / prepared.heat.beta
            scale = prepared.scale / prepared.heat.beta
            score = torch.full_like(b, -math.inf)
            for value, odds in zip(prepared.values, prepared.odds.tolist(), strict=True):
                score = torch.maximum(score, value * b + (odds - 0.5 * value**2 * scale * prepared.norms))
        else:  # the cosine without |y|; a W_h of norm zero has none and comes last among the positive ones
            length = prepared.norms.sqrt()
            score = b / length.clamp_min(torch.finfo(b.dtype).tiny ** 0.5)
        return score.topk(prepared.size.candidates, dim=1).indices.sort(1).values

    def _joint(self, prepared: Linear, Y: Tensor, known: Tensor | None = None) -> Table:
        b = self._centred(prepared, Y) @ (prepared.W.T * prepared.scale)  # (n, H)
        chosen = self._candidates(prepared, b)
        states, H = prepared.states, prepared.size.components
        first = chosen[:, states.rows] * H + chosen[:, states.columns]
        parts = torch.cat([b.gather(1, chosen), prepared.quadratic[first]], 1)  # (n, H' + P)
        table = b.new_empty(len(Y), 1 + prepared.singles + len(states))
        table[:, 0] = 0.0
        if prepared.singles:
            odds = (prepared.heat.prior * prepared.odds).tolist()
            for place, (value, odd) in enumerate(zip(prepared.values, odds, strict=True)):
                here = table[:, 1 + place * H : 1 + (place + 1) * H]
                torch.add(odd - (0.5 * value**2 * prepared.scale) * prepared.norms, b, alpha=value, out=here)
        monomials = states.features[:, : parts.shape[1]].T
        torch.addmm(prepared.prior, parts, monomials, out=table[:, 1 + prepared.singles :])
        return Table(table, chosen, first)

    # ---------------------------------------------------------------------------------------------------- maximisation
    def _means(self, prepared: Linear, posterior: Table) -> Tensor:
        """⟨s⟩, (n, H)."""
        return self._moments(prepared, posterior)[0]

    def _moments(self, prepared: Linear, posterior: Table) -> tuple[Tensor, Tensor]:
        H, h = prepared.size.components, prepared.size.candidates
        q = posterior.table
        expected = q[:, 1 + prepared.singles :] @ prepared.states.features  # (n, H' + P + V)
        means = q.new_zeros(len(q), H)
        if prepared.singles:
            for place, value in enumerate(prepared.values):
                means.add_(q[:, 1 + place * H : 1 + (place + 1) * H], alpha=value)
        return means.scatter_add_(1, posterior.candidates, expected[:, :h]), expected

    def _statistics(self, prepared: Linear, Y: Tensor, posterior: Table, weight: Tensor) -> dict[str, Tensor]:
        H, h = prepared.size.components, prepared.size.candidates
        V, q = len(prepared.values), posterior.table
        means, expected = self._moments(prepared, posterior)
        pairs = expected[:, h:-V].double()
        second = torch.bincount(posterior.carry.reshape(-1), pairs.reshape(-1), minlength=H * H)
        second = second.double().view(H, H)  # of nothing, bincount makes integers
        second = second + second.triu(1).T  # candidates ascend: only the upper half was filled
        counts = expected[:, -V:].double().sum(0)
        if prepared.singles:
            alone = q[:, 1 : 1 + prepared.singles].double().sum(0).view(V, H)
            squares = torch.tensor(prepared.values, dtype=alone.dtype, device=alone.device).square()
            second.diagonal().add_(squares @ alone)
            counts = counts + alone.sum(1)
        centred = self._centred(prepared, Y) * weight
        return {
            "s": means.double().sum(0),
            "sy": (means.T @ centred).double(),
            "ss": second,
            "y": centred.double().sum(0),
            "yy": centred.square().sum(),
            "counts": counts,
        }

    def _maximise(self, prepared: Linear, sums: dict[str, Tensor], points: int) -> Parameters:
        old, like = prepared.parameters, prepared.W
        W = solve(sums["ss"], sums["sy"])
        new = {"W": W, "pi": self._new_pi(prepared, sums["counts"], points)}
        shift = torch.zeros_like(sums["y"])
        if "mu" in old:
            shift = (sums["y"] - sums["s"] @ W) / points  # μ_new − μ_old
            new["mu"] = old["mu"].double() + shift
        if self.sigma_from_new_W:
            rest = _residual(W, sums) - 2 * shift @ (sums["y"] - sums["s"] @ W) + points * shift.square().sum()
        else:
            rest = _residual(like.double(), sums)
        smallest = 1e-12 * sums["yy"] / points + 1e-30  # of |y|²: what rounding leaves of an exact fit
        new["sigma"] = (torch.maximum(rest / points, smallest) / like.shape[1]).sqrt()
        return {name: value.to(like) for name, value in new.items()}

    def _log_constant(self, prepared: Linear) -> float:
        D = prepared.W.shape[1]
        noise = -0.5 * D * math.log(2 * math.pi * float(prepared.parameters["sigma"]) ** 2)
        return prepared.size.components * self._log_zero(prepared.parameters) + noise

    def _superpose(self, parameters: Parameters, S: Tensor) -> Tensor:
        y = S @ parameters["W"]
        return y + parameters["mu"] if "mu" in parameters else y

    def _reconstruct(self, prepared: Linear, Y: Tensor, posterior: Table) -> Tensor:
        return self._superpose(prepared.parameters, self._means(prepared, posterior))


class OnePi(LinearCoding):
    """Linear models whose prior has one number, the probability that a latent is not zero."""

    def _draw(self, parameters: Parameters, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        W, values = parameters["W"], torch.tensor(self._nonzero(), dtype=torch.float64)
        shape = (n, len(W))
        on = torch.rand(shape, generator=generator, dtype=torch.float64) < float(parameters["pi"])
        S = (values[torch.randint(len(values), shape, generator=generator)] * on).to(W)
        noise = torch.randn(n, W.shape[1], generator=generator, dtype=torch.float64).to(W)
        return S, self._superpose(parameters, S) + parameters["sigma"] * noise

    def _odds(self, parameters: Parameters) -> Tensor:
        pi, number = parameters["pi"], len(self._nonzero())
        return ((pi / number).log() - torch.log1p(-pi)).expand(number)

    def _log_zero(self, parameters: Parameters) -> float:
        return math.log1p(-float(parameters["pi"]))

    def _log_mass(self, prepared: Linear) -> float:
        size = prepared.size
        return binomial_mass(size.components, size.gamma, float(prepared.parameters["pi"]))[0]

    def _new_pi(self, prepared: Linear, counts: Tensor, points: int) -> Tensor:
        size, pi = prepared.size, float(prepared.parameters["pi"])
        log_a, log_b = binomial_mass(size.components, size.gamma, pi)
        return pi * math.exp(log_a - log_b) * counts.sum() / points


def solve(second: Tensor, first: Tensor) -> Tensor:
    """The least-squares solution X of ``second`` X = ``first``; second (H, H) symmetric, ≥ 0, perhaps singular."""
    factor, failed = torch.linalg.cholesky_ex(second)
    size = factor.diagonal().square()
    if not bool(failed) and bool(size.min() > 1e-10 * size.max()):
        return torch.cholesky_solve(first, factor)
    least: Tensor = torch.linalg.pinv(second, hermitian=True) @ first
    return least


def _residual(W: Tensor, sums: dict[str, Tensor]) -> Tensor:
    """Σ_n ⟨|y − W s|²⟩."""
    return sums["yy"] - 2 * (W * sums["sy"]).sum() + ((W @ W.T) * sums["ss"]).sum()
