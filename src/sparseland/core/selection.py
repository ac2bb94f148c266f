"""The one selection operator: which k coordinates of a tensor, a row, a column or many tensors score highest.

Exact everywhere: the result has exactly k ones, and equal scores are taken in index order (so constant tensors give
the same mask on every machine). Weights, SAE codes (token choice: ``dim=-1``; feature choice: ``dim=0``; mutual
choice: ``dim=None``), routers and transport plans all call `select`.

How: the k-th largest value is bracketed with a small strided sample, one pass counts what lies above, and only the
few values inside the bracket are ranked. The sample decides the time, never the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

import torch
from torch import Tensor

from .errors import InfeasibleBudget, ScoreError

SMALL = 1 << 17  # up to this many values a plain kthvalue is as fast as the bracket
SAMPLE = 1 << 15  # at most so many values set the bracket (one in 64 of smaller inputs: sorting them costs, too)
CHUNK = 1 << 18  # values per pass over a large tensor
PAIRWISE = 16  # groups up to this size are ranked by comparing all pairs: no sort


def kept(numel: int, sparsity: float) -> int:
    """Number of non-zeros of ``numel`` weights at ``sparsity``: round((1 - sparsity) * numel), halves up.

    Computed in decimal, so that 0.9 means nine tenths and not its binary neighbour.

    >>> kept(269_722, 0.9), kept(10, 0.9), kept(10, 0.95), kept(7, 0.0)
    (26972, 1, 1, 7)
    """
    check_sparsity(sparsity)
    return int(((1 - Decimal(repr(float(sparsity)))) * numel).to_integral_value(ROUND_HALF_UP))


def check_sparsity(sparsity: float) -> float:
    """Return ``sparsity`` if it is a fraction of zeros in [0, 1); a percentage or anything else is refused."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)):
        raise InfeasibleBudget(f"sparsity is a number in [0, 1), not {sparsity!r}")
    if 1 < sparsity <= 100:
        raise InfeasibleBudget(
            f"sparsity is the fraction of zeros, in [0, 1); {sparsity!r} looks like a percentage: "
            f"did you mean {sparsity / 100:g}?"
        )
    if not 0 <= sparsity < 1:
        raise InfeasibleBudget(f"sparsity is the fraction of zeros, in [0, 1); got {sparsity!r}")
    return float(sparsity)


def check_scores(scores: Tensor, name: str = "scores") -> Tensor:
    """Return ``scores`` (bool, integer or float) ready to rank; NaN and infinity raise ScoreError with their count."""
    scores = scores.detach()
    if scores.dtype == torch.bool:
        return scores.to(torch.uint8)
    if not scores.is_floating_point():
        return scores
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if scores.numel():
        low, high = torch.aminmax(scores)  # NaN propagates, so two numbers tell everything
        if not (torch.isfinite(low) and torch.isfinite(high)):
            nan, inf = count(scores.isnan()), count(scores.isinf())
            raise ScoreError(
                f"{name} {tuple(scores.shape)} has {nan} NaN and {inf} infinite values; scores must be finite "
                f"(did the loss overflow? unscale the gradients before scoring)"
            )
    return scores


def select(
    scores: Tensor,
    k: int | Tensor | Sequence[int],
    *,
    dim: int | None = None,
    among: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Boolean mask of the ``k`` highest scores, over the whole tensor or along one axis.

    mask = argmax_m sum(m * scores)  s.t.  sum(m) = k (per slice along ``dim``), ``keep`` <= m <= ``among``

    Args:
        scores: any shape, any real dtype, finite.
        k: how many to choose; with ``dim`` one number for all slices or one per slice.
        dim: None ranks the whole tensor (mutual choice); an axis ranks every slice along it on its own.
        among: bool, scores' shape; only these may be chosen.
        keep: bool, scores' shape; these are chosen first, whatever their score.

    Raises:
        ScoreError: NaN or infinity. InfeasibleBudget: k is negative or more than may be chosen.

    >>> select(torch.tensor([3., 1., 3., 2.]), 2).tolist()
    [True, False, True, False]
    >>> select(torch.zeros(2, 3), 1, dim=1).tolist()  # ties: lowest index
    [[True, False, False], [True, False, False]]
    """
    scores = check_scores(scores)
    if dim is None:
        return _select_whole(scores, int(k), among, keep)  # type: ignore[arg-type]
    moved = scores.movedim(dim, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    if among is not None or keep is not None:
        rows = _ranked(rows, _rows(among, dim), _rows(keep, dim))
    counts = torch.as_tensor(k, device=scores.device).reshape(-1)
    limit = rows.shape[1] if among is None else _rows(among, dim).sum(1)  # type: ignore[union-attr]
    floor = 0 if keep is None else _rows(keep, dim).sum(1)  # type: ignore[union-attr]
    if bool((counts < floor).any()) or bool((counts > limit).any()):
        raise InfeasibleBudget(
            f"{counts.tolist()[:8]} asked per slice of {rows.shape[1]}; at least {_few(floor)}, at most {_few(limit)}"
        )
    mask = _top_rows(rows, counts.expand(rows.shape[0]))
    return mask.view(moved.shape).movedim(-1, dim)


def select_many(
    scores: Mapping[str, Tensor], k: int, *, among: Mapping[str, Tensor] | None = None, checked: bool = False
) -> dict[str, Tensor]:
    """Masks of the ``k`` highest scores over many tensors together (global ranking); ties by order, then index.

    Nothing is concatenated: beside the masks only a sample and the values near the threshold are held.

    >>> masks = select_many({"a": torch.tensor([5., 1.]), "b": torch.tensor([4., 3.])}, 2)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([True, False], [True, False])
    """
    parts = {name: s if checked else check_scores(s, name) for name, s in scores.items()}
    if among is not None:
        parts = {name: _ranked(s, among[name], None) for name, s in parts.items()}
    total = sum(s.numel() for s in parts.values()) if among is None else sum(count(m) for m in among.values())
    if not 0 <= k <= total:
        raise InfeasibleBudget(f"asked to choose {k} of {total}; possible: 0 … {total}")
    if k == 0:
        return {name: torch.zeros(s.shape, dtype=torch.bool, device=s.device) for name, s in parts.items()}
    flat = {name: s.reshape(-1) for name, s in parts.items()}
    threshold = kth_largest(list(flat.values()), k)
    masks = {name: s > threshold for name, s in flat.items()}
    missing = k - sum(count(m) for m in masks.values())
    for name, s in flat.items():  # fill ties in index order
        for start in range(0, s.numel(), CHUNK):
            if missing <= 0:
                break
            equal = (s[start : start + CHUNK] == threshold).nonzero().squeeze(1)[:missing]
            masks[name][equal + start] = True
            missing -= equal.numel()
    return {name: masks[name].view(s.shape) for name, s in parts.items()}


def kth_largest(parts: Sequence[Tensor], k: int) -> Tensor:
    """The k-th largest value over 1-d ``parts`` (k from 1), exact, as a 0-d tensor.

    >>> kth_largest([torch.tensor([3., 1.]), torch.tensor([2.])], 2).item()
    2.0
    """
    total = sum(p.numel() for p in parts)
    if total <= SMALL:
        return torch.kthvalue(torch.cat(list(parts)), total - k + 1).values
    stride = max(1, total // min(SAMPLE, max(total // 64, 16)))
    sample = torch.cat([p[::stride] for p in parts]).sort(descending=True).values
    at, slack = k * sample.numel() / total, 4 * sample.numel() ** 0.5
    # widen until the bracket holds the k-th value; with a misleading sample it ends at the whole range
    while True:
        first, last = int(at - slack), int(at + slack)
        high = sample[first] if first >= 0 else None
        low = sample[last] if last < sample.numel() else None
        if high is not None and low is not None and bool(high == low):  # one value fills the bracket
            above = sum(count(p > high) for p in parts)
            if above < k <= above + sum(count(p == high) for p in parts):
                return high
        else:
            above, pool = _bracket(parts, low, high)
            if above < k <= above + pool.numel():
                return torch.kthvalue(pool, pool.numel() - (k - above) + 1).values
        slack *= 8


def _bracket(parts: Sequence[Tensor], low: Tensor | None, high: Tensor | None) -> tuple[int, Tensor]:
    """How many values lie above ``high``, and the values in [low, high] (None: unbounded)."""
    inside, above = [], 0
    for part in parts:
        for p in part.split(CHUNK):  # a chunk and its masks stay in cache
            middle = torch.ones_like(p, dtype=torch.bool) if low is None else p >= low
            if high is not None:
                over = p > high
                above += count(over)
                middle &= ~over
            inside.append(p[middle])
    return above, torch.cat(inside)


def count(mask: Tensor) -> int:
    """Number of True entries (several times faster than ``mask.sum()`` on CPU)."""
    return int(torch.count_nonzero(mask))


def indices(mask: Tensor) -> Tensor:
    """Column indices chosen in each row of a (rows, columns) mask with equal counts per row: (rows, k), ascending.

    >>> indices(select(torch.tensor([[1., 3., 2.], [9., 0., 5.]]), 2, dim=1)).tolist()
    [[1, 2], [0, 2]]
    """
    counts = mask.sum(-1)
    if mask.ndim != 2 or bool((counts != counts[:1]).any()):
        raise InfeasibleBudget(f"rows of {tuple(mask.shape)} hold {_few(counts)} chosen entries; they must be equal")
    return mask.nonzero()[:, 1].view(mask.shape[0], -1)


def _few(value: int | Tensor) -> object:
    return value if isinstance(value, int) else sorted(set(value.reshape(-1).tolist()))[:8]


def _rows(mask: Tensor | None, dim: int) -> Tensor | None:
    return None if mask is None else mask.movedim(dim, -1).reshape(-1, mask.shape[dim])


def _ranked(scores: Tensor, among: Tensor | None, keep: Tensor | None) -> Tensor:
    """Scores in which forbidden coordinates rank last and kept ones first."""
    ranked = scores if scores.is_floating_point() else scores.double()
    if among is not None:
        ranked = ranked.masked_fill(~among, -torch.inf)
    if keep is not None:
        ranked = ranked.masked_fill(keep, torch.inf)
    return ranked


def _select_whole(scores: Tensor, k: int, among: Tensor | None, keep: Tensor | None) -> Tensor:
    most = scores.numel() if among is None else count(among)
    least = 0 if keep is None else count(keep)
    if not least <= k <= most:
        raise InfeasibleBudget(f"asked to choose {k} of {scores.numel()}; possible: {least} … {most}")
    if among is not None or keep is not None:
        scores = _ranked(scores, among, keep)
    return select_many({"scores": scores}, k, checked=True)["scores"]


def _top_rows(rows: Tensor, counts: Tensor) -> Tensor:
    """Row-wise exact top-k with index ties; ``counts`` (rows,)."""
    width = rows.shape[1]
    if width <= PAIRWISE:
        return _rank_pairwise(rows) < counts[:, None]
    if bool((counts == counts[:1]).all()) and rows.shape[0]:
        k = int(counts[0])
        if k in (0, width):
            return torch.full(rows.shape, k == width, dtype=torch.bool, device=rows.device)
        if k <= width - k:  # the (k+1)-th value is just below the chosen ones
            ends = torch.topk(rows, k + 1, dim=1, sorted=False).values
            edge = ends.amin(1, keepdim=True)
            mask, clear = rows > edge, torch.count_nonzero(ends > edge, dim=1) == k
        else:
            ends = torch.topk(rows, width - k + 1, dim=1, largest=False, sorted=False).values
            edge = ends.amax(1, keepdim=True)
            mask, clear = rows >= edge, torch.count_nonzero(ends < edge, dim=1) == width - k
        tied = (~clear).nonzero().squeeze(1)
        if tied.numel():
            equal, above = rows[tied] == edge[tied], rows[tied] > edge[tied]
            mask[tied] = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
        return mask
    order = rows.sort(dim=1, descending=True, stable=True).indices
    chosen = torch.arange(width, device=rows.device) < counts[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def _rank_pairwise(rows: Tensor) -> Tensor:
    """Rank of each entry in its row, 0 = highest, earlier index first: rank_i = #{s_j > s_i} + #{s_j = s_i, j < i}."""
    columns = rows.unbind(1)
    ranks = [torch.zeros_like(columns[0], dtype=torch.uint8) for _ in columns]
    for i, first in enumerate(columns):
        for j in range(i + 1, len(columns)):
            wins = first >= columns[j]
            ranks[j] += wins
            ranks[i] += ~wins
    return torch.stack(ranks, dim=1)
