"""One step of truncated EM: expectation in chunks of points, sums over chunks and processes, then the model's maximum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...core.errors import SparselandError
from . import parallel

Parameters = dict[str, Tensor]
CACHE = 1 << 20  # bytes of one chunk's table of states: about the second-level cache of one core
MOST_ROWS = 4096


@dataclass(frozen=True)
class Truncation:
    """Sizes of the truncated posterior: H latents, H' candidates of each point, at most γ active ones."""

    components: int
    candidates: int
    gamma: int


@dataclass(frozen=True)
class Heat:
    """Inverse temperatures of the likelihood and of the prior, and the temperature itself."""

    T: float = 1.0
    anneal_prior: bool = False

    @property
    def beta(self) -> float:
        """1/T."""
        return 1.0 / self.T

    @property
    def prior(self) -> float:
        """Exponent of the prior: 1, or 1/T where the prior is annealed too."""
        return self.beta if self.anneal_prior else 1.0


@dataclass
class Table:
    """Posterior of one chunk. table: (n, 1 + singles + n_s), log-joints, later probabilities; columns are the null state,
    the singletons of all latents (value by value), the states over each point's ``candidates`` (n, H'), ascending."""

    table: Tensor
    candidates: Tensor
    carry: Any = None


class Model(Protocol):
    """What the loop below needs of a model."""

    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Any: ...
    def _order(self, prepared: Any, Y: Tensor) -> Tensor | None: ...
    def _row_bytes(self, prepared: Any) -> int: ...
    def _joint(self, prepared: Any, Y: Tensor) -> Table: ...
    def _offset(self, prepared: Any, Y: Tensor) -> Tensor: ...
    def _statistics(self, prepared: Any, Y: Tensor, posterior: Table) -> dict[str, Tensor]: ...
    def _maximise(self, prepared: Any, sums: dict[str, Tensor], points: int) -> Parameters: ...
    def _log_constant(self, prepared: Any) -> float: ...
    def _log_mass(self, prepared: Any) -> float: ...


def normalise_(posterior: Table) -> Tensor:
    """Turn log-joints into probabilities in place; returns log Σ exp of every row, (n,)."""
    table = posterior.table
    top = table.amax(1, keepdim=True)
    sums = table.sub_(top).exp_().sum(1, keepdim=True)
    table.div_(sums)
    return (top + sums.log_()).squeeze(1)


def chunks(model: Model, prepared: Any, Y: Tensor, rows: Tensor | None, batch: int | None) -> Iterator[Tensor | slice]:
    """Rows of Y chunk by chunk, as an index or a slice, in the order which the model prefers."""
    size = batch or max(1, min(MOST_ROWS, CACHE // max(1, model._row_bytes(prepared))))
    if rows is None:
        yield from (slice(start, start + size) for start in range(0, len(Y), size))
    else:
        yield from rows.split(size)


def preferred(model: Model, prepared: Any, Y: Tensor, rows: Tensor | None) -> Tensor | None:
    """``rows`` (None: all) in the model's order."""
    order = model._order(prepared, Y if rows is None else Y[rows])
    if order is None or rows is None:
        return rows if order is None else order
    return rows[order]


def evidence(model: Model, prepared: Any, Y: Tensor, batch: int | None = None) -> Tensor:
    """log Σ_s exp F_n(s) of every point, (N,), without the constant that all points share."""
    found = torch.empty(len(Y), dtype=Y.dtype, device=Y.device)
    for rows in chunks(model, prepared, Y, preferred(model, prepared, Y, None), batch):
        y = Y[rows]
        found[rows] = model._joint(prepared, y).table.logsumexp(1) + model._offset(prepared, y)
    return found


def em_step(
    model: Model, prepared: Any, Y: Tensor, *, cut: float = 0.0, batch: int | None = None
) -> tuple[Parameters, float, int]:
    """New parameters, the log-likelihood per point of the old ones, and how many points were used.

    cut: c in 0 … 1; the N (1 − (1 − A) c) points with the largest evidence over all processes are used, A being the
    prior mass of at most γ causes: points with more of them cannot be explained and would bend W.
    """
    number = torch.tensor(len(Y), device=Y.device)
    points = int(parallel.total(number))
    log_mass = model._log_mass(prepared)
    keep = int(points * (1.0 + math.expm1(min(0.0, log_mass)) * cut)) if cut else points
    if keep < 1:
        raise SparselandError(
            f"the data cut leaves {keep} of {points} points: the prior puts {math.exp(log_mass):.3g} of its mass on at "
            f"most gamma causes and Ncut_factor is {cut:g}; raise gamma, or lower Ncut_factor or pi"
        )
    rows = None
    if keep < points:
        score = evidence(model, prepared, Y, batch)
        rows = (score >= parallel.gathered(score).topk(keep).values[-1]).nonzero().squeeze(1)
    rows = preferred(model, prepared, Y, rows)
    sums: dict[str, Tensor] = {}
    wide = torch.float64
    for index in chunks(model, prepared, Y, rows, batch):
        y = Y[index]
        posterior = model._joint(prepared, y)
        found = normalise_(posterior)
        part = model._statistics(prepared, y, posterior)
        part["evidence"] = (found + model._offset(prepared, y)).sum()
        part["points"] = torch.tensor(float(len(y)), dtype=wide, device=Y.device)
        if sums:
            for name, value in part.items():
                sums[name] += value
        else:
            sums = {name: value.to(wide) for name, value in part.items()}
    sums = _everywhere(model, prepared, Y, sums)
    used = int(sums.pop("points"))
    likelihood = float(sums.pop("evidence")) / used + model._log_constant(prepared) - log_mass
    return model._maximise(prepared, sums, used), likelihood, used


def _everywhere(model: Model, prepared: Any, Y: Tensor, sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over all processes; one that kept no point takes part with zeros."""
    if parallel.world() == 1:
        return sums
    if not sums:
        y = Y.new_zeros(0, Y.shape[1])
        posterior = model._joint(prepared, y)
        sums = {name: value.double() for name, value in model._statistics(prepared, y, posterior).items()}
        zero = torch.zeros((), dtype=torch.float64, device=Y.device)
        sums |= {"evidence": zero, "points": zero.clone()}
    return parallel.totals(sums)
