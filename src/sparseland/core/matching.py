"""Who goes with whom: a budget spread over a table of (tokens x features), (tokens x experts), (sources x targets).

One question, four rules, each solved by `selection.select`: the best k of every row (``token``), the best m_i of
every column (``feature``), the best of the whole table (``mutual``), the best of each group in a row (``groupmax``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InfeasibleBudget, ScoreError, nearest
from .selection import check_scores, select

RULES = ("token", "feature", "mutual", "groupmax")


def allocate(scores: Tensor, rule: str, k: int, *, counts: Tensor | None = None, positive: bool = True) -> Tensor:
    """Boolean mask that maximises the sum of chosen scores under a rule and a budget of ``k`` a row on average.

    max sum(S * scores)  s.t.  S in {0, 1}, and
    token: rows hold k; feature: column i holds counts[i]; mutual: all hold k * rows; groupmax: k groups hold 1 a row

    Args:
        scores: (rows, columns), finite. k: 1 … columns.
        counts: (columns,) whole numbers, for ``feature``; they add up to k * rows. None: as equal as possible.
        positive: entries with score <= 0 are never chosen, even if the budget is not used up then.

    Raises:
        ScoreError: scores are not a table, or not finite. InfeasibleBudget: k, or the counts, do not fit the table.
        Ties go to the lowest index. The equality of sums is exact before ``positive`` drops entries.

    >>> scores = torch.tensor([[9., 8., 7.], [1., 2., 0.]])
    >>> allocate(scores, "token", 1).int().tolist(), allocate(scores, "mutual", 1).int().tolist()
    ([[1, 0, 0], [0, 1, 0]], [[1, 1, 0], [0, 0, 0]])
    >>> allocate(scores, "feature", 1, counts=torch.tensor([2, 0, 0])).int().tolist()
    [[1, 0, 0], [1, 0, 0]]
    """
    if rule not in RULES:
        raise InfeasibleBudget(f"rule {rule!r}: {nearest(rule, RULES)}")
    if scores.ndim != 2:
        raise ScoreError(f"scores are a table (rows, columns); got shape {tuple(scores.shape)}")
    rows, columns = scores.shape
    scores = check_scores(scores)
    if not 1 <= k <= columns:
        raise InfeasibleBudget(f"k={k} a row were asked of {columns} columns; possible: 1 … {columns}")
    if rule == "token":
        mask = select(scores, k, dim=1)
    elif rule == "mutual":
        mask = select(scores, k * rows)
    elif rule == "groupmax":
        mask = select(scores.view(rows, groups_of(columns, k), -1), 1, dim=2).view(rows, columns)
    else:
        if counts is None:
            counts = shares(torch.ones(columns, device=scores.device), k * rows, high=rows)
        mask = select(scores, check_counts(counts, k * rows, rows, columns), dim=0)
    return mask & (scores > 0) if positive else mask


def groups_of(columns: int, k: int) -> int:
    """``k``, if columns can be cut into k equal groups.

    >>> groups_of(6, 3)
    3
    """
    if columns % k:
        raise InfeasibleBudget(f"groupmax cuts the columns into k equal groups; {columns} is not divisible by {k}")
    return k


def check_counts(counts: Tensor, total: int, rows: int, columns: int) -> Tensor:
    """Return the budgets of columns if there is one for each, in 0 … rows, adding up to ``total``.

    >>> check_counts(torch.tensor([1, 2]), 3, rows=2, columns=2).tolist()
    [1, 2]
    """
    if counts.shape != (columns,) or counts.is_floating_point():
        raise InfeasibleBudget(f"counts are {columns} whole numbers, one a column; got {counts.dtype} {counts.shape}")
    low, high, found = int(counts.min()), int(counts.max()), int(counts.sum())
    if low < 0 or high > rows:
        raise InfeasibleBudget(f"counts lie in 0 … {rows} (the rows); got {low} … {high}")
    if found != total:
        raise InfeasibleBudget(f"counts add up to {found:,}; the budget k * rows is {total:,}")
    return counts


def shares(weights: Tensor, total: int, *, high: int, low: int = 1) -> Tensor:
    """Whole numbers in low … high, in proportion to ``weights``, that add up to ``total`` (largest remainders).

    n_i = clip(c * weights_i, low, high) with c such that the sum fits, then the fractions with the largest remainder
    are rounded up. Where ``total`` is too small for ``low`` each, the heaviest get one.

    Args:
        weights: (n,), >= 0, not all zero. total: 0 … n * high.

    Raises:
        InfeasibleBudget: the total does not fit, or a weight is negative or not finite.

    >>> shares(torch.tensor([8., 1., 1., 0.]), 10, high=6).tolist()
    [6, 2, 1, 1]
    """
    n = weights.numel()
    if not 0 <= total <= n * high:
        raise InfeasibleBudget(
            f"{total:,} cannot be shared by {n} with at most {high} each; possible: 0 … {n * high:,}"
        )
    weight = weights.detach().double()
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()) or not bool((weight > 0).any()):
        raise InfeasibleBudget("weights of shares are finite, at least 0, and not all 0")
    if total < n * low:
        order = weight.sort(descending=True, stable=True).indices
        found = torch.zeros(n, dtype=torch.int64, device=weights.device)
        found[order[:total]] = 1 if low else 0
        return found if low == 1 else shares(weights, total, high=high, low=0)
    wanted = _clipped(weight, total, low, high)
    found = wanted.floor().long().clamp(low, high)
    rest = total - int(found.sum())
    able = found < high if rest > 0 else found > low
    remainder = (wanted - found) * (1 if rest > 0 else -1)
    while rest:  # one round, unless rounding left more than there are places
        order = remainder.masked_fill(~able, -torch.inf).sort(descending=True, stable=True).indices[: abs(rest)]
        order = order[able[order]]
        found[order] += 1 if rest > 0 else -1
        rest = total - int(found.sum())
        able = found < high if rest > 0 else found > low
    return found


def _clipped(weight: Tensor, total: int, low: int, high: int) -> Tensor:
    """clip(c * weight, low, high) whose sum is ``total``, c by bisection (the sum rises with c)."""
    least, most = 0.0, 1.0
    smallest = float(weight[weight > 0].min())
    weight = weight.clamp(min=smallest * 1e-12)  # so that some c reaches every total
    while float((weight * most).clamp(low, high).sum()) < total:
        most *= 2
    for _ in range(200):
        middle = (least + most) / 2
        if float((weight * middle).clamp(low, high).sum()) < total:
            least = middle
        else:
            most = middle
        if most - least <= 1e-15 * most:
            break
    return (weight * most).clamp(low, high)


def triplets(mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, columns, values) of the chosen entries in row order; the values keep their gradient.

    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> [t.tolist() for t in triplets(mask, torch.tensor([[5., 6.], [7., 8.]]))]
    [[0, 1], [0, 1], [5.0, 8.0]]
    """
    if mask.shape != values.shape:
        raise ScoreError(f"mask {tuple(mask.shape)} and values {tuple(values.shape)} differ in shape")
    rows, columns = mask.nonzero().unbind(1)
    return rows, columns, values[rows, columns]
