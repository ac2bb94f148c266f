"""MCA and MMCA: causes do not add up; in each pixel the largest one (or the one of largest magnitude) shows.

The smooth maximum of a state is an image of its own, (states, D), but it depends on the candidates alone: it is made
once for all points with the same candidates, as a power of one product of states and W^ρ (`kernels.causes`). What is
left per point are products with y and with the posterior. A chunk holds only as many sets of candidates as have room.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import SparselandError
from ...kernels import causes
from ...kernels.choice import chosen
from .annealing import Annealing
from .em import MOST_ROWS, Heat, Parameters, Part, Table, Truncation, slices
from .estimator import SparseCoding
from .groups import Groups, grouped, split
from .prior import binomial_mass
from .states import States, enumerate_states

SHARED = 1.5  # points per set of candidates from which sharing its images pays
SMALLEST = 1e-4  # |W|: the smooth maximum has no gradient at 0


@dataclass(frozen=True)
class Maxima:
    """What one step computes once. Everything with W in it is divided by ``unit``, so that no power overflows."""

    parameters: Parameters
    size: Truncation
    heat: Heat
    states: States
    W: Tensor  # (H, D), double
    rho: float
    unit: float
    powers: Tensor  # (H, D), sign(W) |W|^ρ
    slopes: Tensor  # (H, D), |W|^(ρ − 1)
    scale: float  # β / σ²
    odd: float  # β log(π / (1 − π))
    values: tuple[float, ...] = (1.0,)

    @property
    def singles(self) -> int:
        """Columns of singletons."""
        return self.size.components


@dataclass
class Carry:
    """Of one chunk: smooth maxima (U, n_s, D) in units, None where every group is one point; squared errors of all
    columns (n, 1 + H + n_s)."""

    groups: Groups
    images: Tensor | None
    errors: Tensor


class MaxCoding(SparseCoding):
    """Base of MCA and MMCA."""

    _coolest: ClassVar[float]  # the temperature of the superposition stays at least this
    _cap: ClassVar[bool]  # whether no cause has more than all of a maximum

    @abstractmethod
    def _candidates(self, prepared: Maxima, Y: Tensor, b: Tensor) -> Tensor:
        """(n, H') candidates of each point, ascending; ``b`` (n, H) is y·W_h."""

    @abstractmethod
    def _stronger(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise, which of two causes shows."""

    def _choices(self) -> int:
        return 1

    def _rho(self, T: float) -> float:
        return 1.0 / (1.0 - 1.0 / max(T, self._coolest))

    # ----------------------------------------------------------------------------------------------------- expectation
    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Maxima:
        W = parameters["W"].double()  # 21st powers do not fit into single precision
        rho, unit = self._rho(heat.T), float(W.abs().max())
        scaled = W / unit
        slopes = scaled.abs().pow(rho - 1)
        states = enumerate_states(size.candidates, size.gamma).to(W)
        pi, sigma = float(parameters["pi"]), float(parameters["sigma"])
        odd = heat.beta * (math.log(pi) - math.log1p(-pi))
        return Maxima(parameters, size, heat, states, W, rho, unit, slopes * scaled, slopes, heat.beta / sigma**2, odd)

    def _split(self, prepared: Maxima, Y: Tensor, batch: int | None) -> Iterator[Part]:
        number, found = len(prepared.states), []
        for y in Y.split(MOST_ROWS):
            wide = y.double()
            found.append(self._candidates(prepared, wide, wide @ prepared.W.T))
        rows = 8 * (1 + prepared.singles + number + Y.shape[1])
        shared = SHARED if chosen(None, prepared.powers) else 0.0  # the kernels hold no image of a point
        return split(torch.cat(found), rows, 8 * number * Y.shape[1], batch, shared)

    def _joint(self, prepared: Maxima, Y: Tensor, known: Tensor | None = None) -> Table:
        H, states = prepared.size.components, prepared.states
        y = Y.double()
        b, norm = y @ prepared.W.T, y.square().sum(1, keepdim=True)
        groups = grouped(self._candidates(prepared, y, b) if known is None else known, SHARED)
        lengths, cross = self._maxima(prepared, groups.members, y if groups.single else None)
        images = None if groups.single else cross
        errors = y.new_empty(len(y), 1 + H + len(states))
        errors[:, :1] = norm
        torch.add(prepared.W.square().sum(1), b, alpha=-2.0, out=errors[:, 1 : 1 + H])
        if images is not None:
            cross = groups.products(y, images.transpose(1, 2))
        lengths = (lengths * prepared.unit**2)[groups.group]
        torch.add(lengths, cross, alpha=-2.0 * prepared.unit, out=errors[:, 1 + H :])
        errors[:, 1:].add_(norm).clamp_min_(0.0)
        table = errors * (-0.5 * prepared.scale)
        table[:, 1 : 1 + H] += prepared.odd
        table[:, 1 + H :] += prepared.odd * states.sizes
        return Table(table, groups.members[groups.group], Carry(groups, images, errors))

    def _maxima(self, prepared: Maxima, members: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return causes.maxima(prepared.powers, members, prepared.states.values, 1.0 / prepared.rho - 1.0, y)

    def _offset(self, prepared: Maxima, Y: Tensor) -> Tensor:
        return torch.zeros(len(Y), dtype=torch.float64, device=Y.device)

    # ---------------------------------------------------------------------------------------------------- maximisation
    def _means(self, prepared: Maxima, posterior: Table) -> Tensor:
        q, H = posterior.table, prepared.size.components
        means = q[:, 1 : 1 + H].clone()
        return means.scatter_add_(1, posterior.candidates, q[:, 1 + H :] @ prepared.states.values)

    def _statistics(self, prepared: Maxima, Y: Tensor, posterior: Table, weight: Tensor) -> dict[str, Tensor]:
        q, H = posterior.table, prepared.size.components
        carry: Carry = posterior.carry
        groups, y = carry.groups, Y.double()
        alone, multi = q[:, 1 : 1 + H], q[:, 1 + H :]
        mass = multi if groups.single else groups.totals(multi)  # (U, n_s)
        below, above = causes.shares(
            prepared.powers,
            prepared.slopes,
            groups.members,
            prepared.states.values,
            1.0 / prepared.rho - 1.0,
            mass,
            y=y if groups.single else None,
            second=None if groups.single else groups.sums(multi, y),  # Σ_n q_n(s) y_n, (U, n_s, D)
            cap=self._cap,
        )
        below += alone.sum(0)[:, None]
        above += alone.T @ y
        return {
            "above": above,
            "below": below,
            "error": (q * carry.errors).sum(),
            "causes": alone.sum() + (mass.sum(0) * prepared.states.sizes).sum(),
            "yy": (y * weight).square().sum(),
        }

    def _new_W(self, prepared: Maxima, above: Tensor, below: Tensor) -> Tensor:
        return torch.where(below > 0, above / below.clamp_min(1e-300), torch.zeros_like(above))

    def _maximise(self, prepared: Maxima, sums: dict[str, Tensor], points: int) -> Parameters:
        old, size = prepared.parameters, prepared.size
        log_a, log_b = binomial_mass(size.components, size.gamma, float(old["pi"]))
        smallest = 1e-12 * sums["yy"] / points + 1e-30
        new = {
            "W": self._new_W(prepared, sums["above"], sums["below"]),
            "pi": float(old["pi"]) * math.exp(log_a - log_b) * sums["causes"] / points,
            "sigma": (torch.maximum(sums["error"] / points, smallest) / prepared.W.shape[1]).sqrt(),
        }
        return self._valid({name: value.to(old["W"]) for name, value in new.items()})

    def _log_constant(self, prepared: Maxima) -> float:
        pi, sigma = float(prepared.parameters["pi"]), float(prepared.parameters["sigma"])
        noise = -0.5 * prepared.W.shape[1] * math.log(2 * math.pi * sigma**2)
        return prepared.size.components * math.log1p(-pi) + noise

    def _log_mass(self, prepared: Maxima) -> float:
        size = prepared.size
        return binomial_mass(size.components, size.gamma, float(prepared.parameters["pi"]))[0]

    # --------------------------------------------------------------------------------------------------- superposition
    def _superpose(self, parameters: Parameters, S: Tensor) -> Tensor:
        W, rho = parameters["W"].double(), self._rho(1.0)
        unit = W.abs().max()
        powers = (W / unit).abs().pow(rho) * W.sign()
        return (root(S.double() @ powers, rho) * unit).to(S)

    def _reconstruct(self, prepared: Maxima, Y: Tensor, posterior: Table) -> Tensor:
        q, H = posterior.table, prepared.size.components
        carry: Carry = posterior.carry
        if carry.images is not None:
            multi = carry.groups.products(q[:, 1 + H :], carry.images)
        else:
            multi = torch.empty_like(Y, dtype=q.dtype)
            for rows in slices(len(Y), 8 * len(prepared.states) * Y.shape[1], None):
                images = self._maxima(prepared, carry.groups.members[rows])[1]
                multi[rows] = torch.bmm(q[rows, None, 1 + H :], images).squeeze(1)
        multi *= prepared.unit
        return (q[:, 1 : 1 + H] @ prepared.W + multi).to(Y)

    def _draw(self, parameters: Parameters, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        W = parameters["W"]
        on = (torch.rand(n, len(W), generator=generator, dtype=torch.float64) < float(parameters["pi"])).to(W)
        y = W.new_zeros(n, W.shape[1])
        for h in range(len(W)):
            seen = on[:, h, None] * W[h]
            y = torch.where(on[:, h, None] > 0, torch.where(y == 0, seen, self._stronger(y, seen)), y)
        noise = torch.randn(n, W.shape[1], generator=generator, dtype=torch.float64).to(W)
        return on, y + parameters["sigma"] * noise


def root(powers: Tensor, rho: float) -> Tensor:
    """sign(u) |u|^(1/ρ), elementwise: as a power of two, which takes two thirds of the time of a general power.

    >>> root(torch.tensor([-8.0, 0.0, 27.0]), 3.0).round().tolist()
    [-2.0, 0.0, 3.0]
    """
    return powers.abs().log2_().mul_(1.0 / rho).exp2_().copysign_(powers)


class MCA(MaxCoding):
    r"""Maximal causes analysis: latents are on or off, and each pixel shows the largest cause that is on.

    $$y_d | s \sim N(\max_h s_h W_{hd}, σ^2), \quad W > 0$$

    The maximum is smooth, $(\sum_h s_h W_{hd}^ρ)^{1/ρ}$ with ρ = 1/(1 − 1/max(T, 1.05)), 21 at T = 1. Candidates are
    the H' latents that exceed the point least, $\sum_d \max(W_{hd} - y_d, 0)$. negative: "refuse" data below 0, which
    no maximum of positive causes can explain (split them into ON and OFF channels: `on_off`), or "allow" them as
    noise. Everything else: as in `BSC`. The superposition is computed in double precision whatever ``dtype`` is.

    Raises:
        SparselandError: negative data, unless they are allowed.

    >>> import numpy as np
    >>> truth = np.array([[6, 6, 6, 0, 0, 0], [0, 0, 6, 6, 6, 0], [3, 0, 0, 0, 6, 6]])  # overlap in three pixels
    >>> rng = np.random.default_rng(0)
    >>> X = ((rng.random((500, 3, 1)) < 0.3) * truth).max(1) + 0.3 * rng.random((500, 6))
    >>> cool = Annealing(T=[(0, 4.0), (0.7, 1.0)])
    >>> model = MCA(3, gamma=3, max_iter=60, annealing=cool, n_restarts=3, random_state=0).fit(X)
    >>> away = abs(model.components_[:, None] - truth).mean(2)
    >>> sorted(away.argmin(1).tolist()), bool(away.min(1).max() < 0.4), round(model.pi_, 1)
    ([0, 1, 2], True, 0.3)

    Source: ProSper, arXiv 1908.06843. Differs from its code, which weights states of one cause by W²: here, as in all
    other states, by ∂W̄/∂W = 1.
    """

    _coolest, _cap = 1.05, False

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
        negative: str = "refuse",
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
        self.negative = negative

    def _check_settings(self) -> None:
        if self.negative not in ("refuse", "allow"):
            raise SparselandError(f"negative={self.negative!r}; possible: 'refuse' or 'allow'")

    def _check_data(self, Y: Tensor) -> None:
        least = float(Y.min())
        if least < 0 and self.negative == "refuse":
            raise SparselandError(
                f"Negative values in data passed to MCA: the least is {least:g}, and a maximum of positive causes is "
                "never below 0. Split X into ON and OFF channels (sparseland.features.prosper.on_off), use MMCA, or "
                "give negative='allow' where they are only noise"
            )

    def _positive_only(self) -> bool:
        return self.negative == "refuse"

    def _valid(self, parameters: Parameters) -> Parameters:
        valid = super()._valid(parameters)
        return valid | {"W": valid["W"].clamp_min(SMALLEST)}

    def _candidates(self, prepared: Maxima, Y: Tensor, b: Tensor) -> Tensor:
        # 2 Σ_d max(W_d − y_d, 0) = |W − y|₁ + Σ W − Σ y: one pass, and nothing of size (n, H, D)
        length, own = prepared.W.sum(1), Y.sum(1, keepdim=True)
        over = torch.cdist(Y, prepared.W, p=1.0).add_(length).sub_(own)
        over.masked_fill_(
            over <= 1e-12 * (length + Y.abs().sum(1, keepdim=True)), 0.0
        )  # rounding must not order what ties at 0
        return over.topk(prepared.size.candidates, dim=1, largest=False).indices.sort(1).values

    def _stronger(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)


class MMCA(MaxCoding):
    r"""Maximum magnitude causes analysis: each pixel shows the cause of largest magnitude, of either sign.

    $$y_d | s \sim N(s_{h^*} W_{h^* d}, σ^2), \quad h^* = \arg\max_h |s_h W_{hd}|$$

    Smooth: $u_d = \sum_h s_h \, \mathrm{sign}(W_{hd}) |W_{hd}|^ρ$, W̄ = sign(u)|u|^{1/ρ}, ρ = 1/(1 − 1/max(T, 1.2)),
    6 at T = 1. Candidates are the H' latents nearest to the point. A step moves W only part of the way where it saw few
    points (inertia 1 − exp(−Σ⟨A⟩/2.5), at least 0.2), so the likelihood may fall now and then. The most fragile of the
    six: use many steps and ``n_restarts``. Everything else: as in `BSC`.

    >>> import numpy as np
    >>> truth = np.kron(np.eye(4), np.array([1.0, -1.0, 1.0])) * 5
    >>> rng = np.random.default_rng(0)
    >>> X = (rng.random((500, 4)) < 0.3) @ truth + 0.3 * rng.standard_normal((500, 12))
    >>> cool = Annealing(T=[(0, 4.0), (0.7, 1.0)])
    >>> model = MMCA(4, gamma=4, max_iter=60, annealing=cool, n_restarts=3, random_state=0).fit(X)
    >>> sorted(abs(model.components_[:, None] - truth).mean(2).argmin(1).tolist()), round(model.pi_, 1)
    ([0, 1, 2, 3], 0.3)

    Source: ProSper, arXiv 1908.06843.
    """

    _coolest, _cap = 1.2, True

    def _rho(self, T: float) -> float:
        return min(max(super()._rho(T), 1.0), 35.0)

    def _valid(self, parameters: Parameters) -> Parameters:
        valid = super()._valid(parameters)
        W = valid["W"]
        sign = torch.where(W < 0, -1.0, 1.0).to(W)
        return valid | {"W": sign * W.abs().clamp_min(SMALLEST)}

    def _candidates(self, prepared: Maxima, Y: Tensor, b: Tensor) -> Tensor:
        near = b - 0.5 * prepared.W.square().sum(1)
        return near.topk(prepared.size.candidates, dim=1).indices.sort(1).values

    def _new_W(self, prepared: Maxima, above: Tensor, below: Tensor) -> Tensor:
        inertia = (1.0 - torch.exp(-below / 2.5)).clamp_min(0.2)
        return inertia * above / below.clamp_min(1e-4) + (1.0 - inertia) * prepared.W

    def _stronger(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b.abs() > a.abs(), b, a)
