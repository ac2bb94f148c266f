"""The states that a truncated posterior looks at: supports first, then values, so that none is made in vain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...core.errors import SparselandError

LARGEST = 2_000_000  # states of one point; more is a mistake in the settings, not a model


@dataclass(frozen=True)
class States:
    """States over H' candidates, and the monomials of their entries that every linear model needs.

    values: (n_s, H'). counts: (n_s, V), how often each non-zero value occurs. rows, columns: (P,), the pairs i ≤ j.
    features: (n_s, H' + P + V): values, products s_i s_j, counts; one product with the posterior gives all moments.
    """

    values: Tensor
    counts: Tensor
    rows: Tensor
    columns: Tensor
    features: Tensor
    fewest: int = 2

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def sizes(self) -> Tensor:
        """Number of active entries of each state, (n_s,)."""
        return self.counts.sum(1)

    def to(self, like: Tensor) -> States:
        """The same states with the dtype and on the device of ``like``."""
        return States(
            self.values.to(like),
            self.counts.to(like),
            self.rows.to(like.device),
            self.columns.to(like.device),
            self.features.to(like),
            self.fewest,
        )


def count_states(candidates: int, gamma: int, choices: int = 1, fewest: int = 2) -> int:
    r"""How many states have ``fewest`` … γ active entries: $\sum_g \binom{H'}{g} V^g$ with V non-zero values.

    >>> count_states(8, 5)
    210
    >>> count_states(10, 6)
    837
    """
    return sum(math.comb(candidates, g) * choices**g for g in range(fewest, gamma + 1))


def enumerate_states(candidates: int, gamma: int, values: tuple[float, ...] = (1.0,), fewest: int = 2) -> States:
    r"""All $s \in (\{0\} \cup \Phi)^{H'}$ with ``fewest`` ≤ $|s|_0$ ≤ γ, ordered by $|s|_0$, then support, then values.

    candidates: H' ≥ γ. values: the non-zero values Φ. Cached, so do not write into the result.

    Raises:
        SparselandError: more than two million states.

    >>> enumerate_states(3, 2, (1.0,)).values.tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    >>> len(enumerate_states(10, 3, (-1.0, 1.0), fewest=1)) == count_states(10, 3, 2, fewest=1)
    True

    Differs from the original: it filters the whole product Φ^{H'} afterwards (9.8 million rows for K=5, H'=10).
    """
    number = count_states(candidates, gamma, len(values), fewest)
    if number > LARGEST:
        raise SparselandError(
            f"candidates={candidates}, gamma={gamma} and {len(values)} non-zero values make {number:,} states per "
            f"point; possible: at most {LARGEST:,}. Lower gamma or candidates"
        )
    return _enumerate(candidates, gamma, tuple(float(v) for v in values), fewest)


@lru_cache(maxsize=32)
def _enumerate(candidates: int, gamma: int, values: tuple[float, ...], fewest: int) -> States:
    phi = torch.tensor(values, dtype=torch.float64)
    choice = torch.arange(len(values))
    filled, chosen = [], []
    for size in range(fewest, gamma + 1):
        supports = torch.combinations(torch.arange(candidates), size)  # (C, size)
        picks = torch.cartesian_prod(*[choice] * size).view(-1, size)  # (V^size, size)
        state = torch.zeros(len(supports), len(picks), candidates, dtype=torch.float64)
        state.scatter_(2, supports[:, None].expand(-1, len(picks), -1), phi[picks].expand(len(supports), -1, -1))
        filled.append(state.flatten(0, 1))
        chosen.append(torch.stack([(picks == v).sum(1) for v in choice], 1).repeat(len(supports), 1))
    table = torch.cat(filled) if filled else torch.zeros(0, candidates, dtype=torch.float64)
    counts = torch.cat(chosen).double() if chosen else torch.zeros(0, len(values), dtype=torch.float64)
    rows, columns = torch.triu_indices(candidates, candidates)
    features = torch.cat([table, table[:, rows] * table[:, columns], counts], 1)
    return States(table, counts, rows, columns, features, fewest)
