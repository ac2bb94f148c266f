"""One step of truncated EM: expectation in chunks of points, sums over chunks and processes, the model's maximum."""

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
Part = tuple[Tensor | slice, Tensor | None]  # rows of one chunk, and their candidates where these are known already
CACHE = 1 << 20  # bytes of one chunk's table of states: about the second-level cache of one core
MOST_ROWS = 4096
NOTHING = -500.0  # a state is impossible where its log-probability is so far below the best one's


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
    """Posterior of one chunk. table: (n, 1 + singles + n_s), log-joints, later probabilities; columns are the null
    state, the singletons of all latents (value by value), the states over each point's ``candidates`` (n, H'),
    ascending."""

    table: Tensor
    candidates: Tensor
    carry: Any = None


class Model(Protocol):
    """What the loop below needs of a model."""

    def _obeys_cut(self) -> bool: ...
    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Any: ...
    def _split(self, prepared: Any, Y: Tensor, batch: int | None) -> Iterator[Part]: ...
    def _joint(self, prepared: Any, Y: Tensor, known: Tensor | None) -> Table: ...
    def _offset(self, prepared: Any, Y: Tensor) -> Tensor: ...
    def _statistics(self, prepared: Any, Y: Tensor, posterior: Table, weight: Tensor) -> dict[str, Tensor]: ...
    def _maximise(self, prepared: Any, sums: dict[str, Tensor], points: int) -> Parameters: ...
    def _log_constant(self, prepared: Any) -> float: ...
    def _log_mass(self, prepared: Any) -> float: ...


def normalise_(posterior: Table) -> Tensor:
    """Turn log-joints into probabilities in place; returns log Σ exp of every row, (n,)."""
    top, sums = _exponentials_(posterior.table)
    posterior.table.div_(sums)
    return (top + sums.log_()).squeeze(1)


def _exponentials_(table: Tensor) -> tuple[Tensor, Tensor]:
    """exp(F − max F) in place; the maximum and the sum of every row, (n, 1)."""
    top = table.amax(1, keepdim=True)
    torch.threshold_(table.sub_(top), NOTHING, -math.inf)  # numbers near underflow are slow to work with
    return top, table.exp_().sum(1, keepdim=True)


def chunks(model: Model, prepared: Any, Y: Tensor, rows: Tensor | None, batch: int | None) -> Iterator[Part]:
    """``rows`` of Y (None: all) chunk by chunk, as an index or a slice, as the model likes them."""
    for part, known in model._split(prepared, Y if rows is None else Y[rows], batch):
        yield part if rows is None else rows[part], known


def slices(number: int, row_bytes: int, batch: int | None) -> Iterator[slice]:
    """Chunks of rows as they come; at least one, perhaps empty: every process has sums.

    >>> list(slices(5, 1, batch=3))
    [slice(0, 3, None), slice(3, 6, None)]
    """
    size = batch or max(1, min(MOST_ROWS, CACHE // max(1, row_bytes)))
    yield from (slice(start, start + size) for start in range(0, max(1, number), size))


def evidence(model: Model, prepared: Any, Y: Tensor, batch: int | None = None) -> Tensor:
    """log Σ_s exp F_n(s) of every point, (N,), without the constant that all points share."""
    found = torch.empty(len(Y), dtype=torch.float64, device=Y.device)
    for rows, known in chunks(model, prepared, Y, None, batch):
        y = Y[rows]
        top, sums = _exponentials_(model._joint(prepared, y, known).table)
        found[rows] = ((top + sums.log_()).squeeze(1) + model._offset(prepared, y)).double()
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
    cut = cut if model._obeys_cut() else 0.0
    keep = int(points * (1.0 + math.expm1(min(0.0, log_mass)) * cut)) if cut else points
    if keep < 1:
        raise SparselandError(
            f"the data cut leaves {keep} of {points} points: the prior puts {math.exp(log_mass):.3g} of its mass on at "
            f"most gamma causes and Ncut_factor is {cut:g}; raise gamma, or lower Ncut_factor or pi"
        )
    guess = -math.inf if keep == points else _guess(model, prepared, Y, keep / points)
    sums, score = _accumulate(model, prepared, Y, None, guess, batch)
    kept = score >= guess
    if keep < points:
        exact = score >= parallel.gathered(score).topk(keep).values[-1]
        for rows, sign in ((exact & ~kept, 1.0), (kept & ~exact, -1.0)):  # the few on the wrong side of the guess
            if bool(rows.any()):
                part, _ = _accumulate(model, prepared, Y, rows.nonzero().squeeze(1), -math.inf, batch)
                for name, value in part.items():
                    sums[name] += sign * value
        kept = exact
    sums["evidence"] = score[kept].sum()
    sums["points"] = kept.sum().double()
    sums = parallel.totals(sums)
    used = int(sums.pop("points"))
    likelihood = float(sums.pop("evidence")) / used + model._log_constant(prepared) - log_mass
    return model._maximise(prepared, sums, used), likelihood, used


def _guess(model: Model, prepared: Any, Y: Tensor, share: float) -> float:
    """Evidence above which about ``share`` of all points lie, from a sample of them: it saves a second pass."""
    sample = evidence(model, prepared, Y[:: max(1, min(16, len(Y) // 64))])
    found = parallel.gathered(sample).sort(descending=True).values
    return float(found[min(len(found) - 1, int(share * len(found)))])


def _accumulate(
    model: Model, prepared: Any, Y: Tensor, rows: Tensor | None, above: float, batch: int | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Statistics of the ``rows`` (None: all) whose evidence is at least ``above``, and the evidence of all rows."""
    sums: dict[str, Tensor] = {}
    score = torch.full((len(Y),), -math.inf, dtype=torch.float64, device=Y.device)
    for index, known in chunks(model, prepared, Y, rows, batch):
        y = Y[index]
        posterior = model._joint(prepared, y, known)
        found = (normalise_(posterior) + model._offset(prepared, y)).double()
        weight = (found >= above).to(posterior.table)[:, None]  # (n, 1)
        if above > -math.inf:
            posterior.table.mul_(weight)
        score[index] = found
        part = model._statistics(prepared, y, posterior, weight)
        if sums:
            for name, value in part.items():
                sums[name] += value
        else:
            sums = {name: value.double() for name, value in part.items()}
    return sums, score
