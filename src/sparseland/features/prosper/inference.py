"""Questions to a trained model: means, likelihoods, the most probable states; chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import SparselandError
from .em import Table, Truncation, chunks, evidence, normalise_
from .states import LARGEST, count_states

if TYPE_CHECKING:
    from .estimator import SparseCoding

MARGIN = 3  # how far an adaptive posterior goes beyond H' and γ where no cap is given


@dataclass(frozen=True)
class Posterior:
    """The truncated posterior of N points.

    states: (N, top, H) values of the latents in the most probable states, best first. log_probabilities: (N, top),
    normalised over all states looked at; −inf where there are fewer than ``top``. marginals: (N, H), probability that a
    latent is not zero. means: (N, H), as `transform`. candidates, gamma: (N,), H' and γ that each point ended with.
    """

    states: Any
    log_probabilities: Any
    marginals: Any
    means: Any
    candidates: Any
    gamma: Any

    @property
    def probabilities(self) -> Any:
        """exp of ``log_probabilities``."""
        logs = self.log_probabilities
        return logs.exp() if isinstance(logs, Tensor) else np.exp(logs)

    @property
    def map(self) -> Any:
        """The most probable state of every point, (N, H)."""
        return self.states[:, 0]

    def wrapped(self, wrap: Callable[[Tensor], Any]) -> Posterior:
        """The same posterior with ``wrap`` applied to every array."""
        return replace(self, **{name: wrap(value) for name, value in vars(self).items()})


def collect(
    model: SparseCoding, prepared: Any, Y: Tensor, what: Callable[[Any, Table], Tensor], batch: int | None
) -> Tensor:
    """``what`` of every chunk's posterior, in the order of the points."""
    found = None
    for rows, known in chunks(model, prepared, Y, None, batch):
        posterior = model._joint(prepared, Y[rows], known)
        normalise_(posterior)
        part = what(prepared, posterior)
        if found is None:
            found = part.new_empty(len(Y), *part.shape[1:])
        found[rows] = part
    assert found is not None  # as_tensor refuses an empty table
    return found


def reconstruct(model: SparseCoding, prepared: Any, Y: Tensor, batch: int | None) -> Tensor:
    """Posterior mean of the superposition, (N, D)."""
    found = torch.empty_like(Y)
    for rows, known in chunks(model, prepared, Y, None, batch):
        posterior = model._joint(prepared, Y[rows], known)
        normalise_(posterior)
        found[rows] = model._reconstruct(prepared, Y[rows], posterior)
    return found


def likelihoods(model: SparseCoding, prepared: Any, Y: Tensor, batch: int | None) -> Tensor:
    """Log-likelihood of every point, (N,)."""
    return evidence(model, prepared, Y, batch) + (model._log_constant(prepared) - model._log_mass(prepared))


def posterior(
    model: SparseCoding, prepared: Any, Y: Tensor, top: int, adaptive: bool, caps: tuple[int | None, int | None]
) -> Posterior:
    """The ``top`` best states of every point; ``adaptive`` enlarges H' and γ where the best state has γ causes."""
    size: Truncation = prepared.size
    found = _posterior(model, prepared, Y, top)
    if not adaptive:
        return found
    most = _caps(size, caps)
    parts = {name: value.clone() for name, value in vars(found).items()}
    left = torch.arange(len(Y), device=Y.device)
    while True:
        left = left[(parts["states"][left, 0] != 0).sum(1) >= size.gamma]
        grown = Truncation(size.components, min(size.candidates + 1, most[0]), min(size.gamma + 1, most[1]))
        grown = replace(grown, gamma=min(grown.gamma, grown.candidates))
        if not len(left) or grown == size or _too_many(model, grown):
            return Posterior(**parts)
        size = grown
        prepared = model._prepare(prepared.parameters, size, prepared.heat)
        again = _posterior(model, prepared, Y[left], top)
        for name, value in vars(again).items():
            parts[name][left] = value


def _caps(size: Truncation, caps: tuple[int | None, int | None]) -> tuple[int, int]:
    H = size.components
    candidates, gamma = (min(H, start + MARGIN) for start in (size.candidates, size.gamma))
    most = (candidates if caps[0] is None else int(caps[0]), gamma if caps[1] is None else int(caps[1]))
    if not (size.candidates <= most[0] <= H and size.gamma <= most[1] <= H):
        raise SparselandError(
            f"candidates_max={most[0]}, gamma_max={most[1]}; possible: {size.candidates} … {H} and {size.gamma} … {H}"
        )
    return most


def _too_many(model: SparseCoding, size: Truncation) -> bool:
    return count_states(size.candidates, size.gamma, model._choices()) > LARGEST


def _posterior(model: SparseCoding, prepared: Any, Y: Tensor, top: int) -> Posterior:
    parts: list[tuple[Tensor, ...]] = []
    index = []
    for rows, known in chunks(model, prepared, Y, None, model.batch_size):
        table = model._joint(prepared, Y[rows], known)
        normalise_(table)
        parts.append((*_best(prepared, table, top), _marginals(prepared, table), model._means(prepared, table)))
        index.append(torch.arange(len(Y), device=Y.device)[rows])
    order = torch.cat(index).argsort()
    states, logs, marginals, means = (torch.cat(column)[order] for column in zip(*parts, strict=True))
    candidates = torch.full((len(Y),), prepared.size.candidates, device=Y.device)
    gamma = torch.full_like(candidates, prepared.size.gamma)
    return Posterior(states, logs, marginals, means, candidates, gamma)


def _best(prepared: Any, posterior: Table, top: int) -> tuple[Tensor, Tensor]:
    """(n, top, H) values of the best states and their log-probabilities (n, top)."""
    q, H = posterior.table, prepared.size.components
    k = min(top, q.shape[1])
    best, column = q.topk(k, dim=1)
    states = q.new_zeros(len(q), k, H)
    multi = (column - 1 - prepared.singles).clamp_min(0)
    wide = posterior.candidates[:, None].expand(-1, k, -1)
    if len(prepared.states):
        chosen = prepared.states.values[multi] * (column > prepared.singles)[..., None]
        states.scatter_(2, wide, chosen)
    if prepared.singles:
        single = (column >= 1) & (column <= prepared.singles)
        value = torch.tensor(prepared.values, dtype=q.dtype, device=q.device)[
            ((column - 1).clamp_min(0) // H) % len(prepared.values)
        ]
        states.scatter_add_(2, ((column - 1) % H)[..., None], (value * single)[..., None])
    logs = best.log()
    if k < top:
        states = torch.cat([states, states.new_zeros(len(q), top - k, H)], 1)
        logs = torch.cat([logs, logs.new_full((len(q), top - k), -torch.inf)], 1)
    return states, logs


def _marginals(prepared: Any, posterior: Table) -> Tensor:
    """(n, H) probability that each latent is not zero."""
    q, H = posterior.table, prepared.size.components
    found = q.new_zeros(len(q), H)
    for place in range(prepared.singles // H):
        found += q[:, 1 + place * H : 1 + (place + 1) * H]
    active = (prepared.states.values != 0).to(q)
    return found.scatter_add_(1, posterior.candidates, q[:, 1 + prepared.singles :] @ active).clamp_(max=1.0)


def check_names(model: str, names: Any, known: Any) -> None:
    """Columns of a data frame must be those of `fit`, in their order, as scikit-learn demands."""
    if names is None and known is None:
        return
    import warnings

    if known is None:
        warnings.warn(f"X has feature names, but {model} was fitted without feature names", stacklevel=4)
    elif names is None:
        warnings.warn(f"X does not have valid feature names, but {model} was fitted with feature names", stacklevel=4)
    elif list(names) != list(known):
        strange, missing = sorted(set(names) - set(known)), sorted(set(known) - set(names))
        text = "The feature names should match those that were passed during fit.\n"
        if strange:
            text += "Feature names unseen at fit time:\n" + "".join(f"- {name}\n" for name in strange[:5])
        if missing:
            text += "Feature names seen at fit time, yet now missing:\n" + "".join(
                f"- {name}\n" for name in missing[:5]
            )
        if not strange and not missing:
            text += "Feature names must be in the same order as they were in fit.\n"
        raise SparselandError(text)
