"""Which codes of a batch are active. The table of all (tokens x features) is never held whole if the rule allows it.

Every function takes x (N, d), already centred, the encoder's rows (F, d) and bias (F,), and gives `Codes`. The oracle
of all of them is `core.matching.allocate` on the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...core.errors import InfeasibleBudget
from ...kernels.sparse_code import above, top_rows
from .codes import Codes, offsets_of

PIECE = 1 << 21  # scores of one piece: 8 MB of float32, so that they stay in the cache between product and choice
Score = Callable[[Tensor, slice], Tensor]  # (codes of a piece of tokens, which tokens) -> what is ranked
Held = tuple[Tensor, Tensor, Tensor, Tensor]  # tokens, features, scores, values


def pieces(tokens: int, width: int) -> Iterator[slice]:
    """Slices of tokens whose scores fit in a piece.

    >>> [s.stop - s.start for s in pieces(5, PIECE // 2)]
    [2, 2, 1]
    """
    step = max(PIECE // width, 1)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


class Scores:
    """Scores of pieces of tokens: raw products and the bias to add, or, with a hook, finished scores.

    Parameters:
        x: (N, d). weight: (F, d) contiguous rows. bias: (F,). hook: what to rank instead of the codes.
    """

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor, hook: Score | None = None) -> None:
        self.x, self.weight, self.bias, self.hook = x, weight, bias, hook
        self.width = weight.shape[0]
        self._buffer: Tensor | None = None
        self._codes: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(tokens, scores, bias still to be added or None)."""
        for part in pieces(self.x.shape[0], self.width):
            x = self.x[part]
            if self._buffer is None:
                self._buffer = x.new_empty(x.shape[0], self.width)
            raw = torch.mm(x, self.weight.t(), out=self._buffer[: x.shape[0]])
            if self.hook is None:
                yield part, raw, self.bias
            else:
                self._codes = raw.add_(self.bias).clamp_(min=0)
                yield part, self.hook(self._codes, part), None

    def values(self, rows: Tensor, columns: Tensor, scores: Tensor) -> Tensor:
        """Codes at entries of the piece just given: their scores, unless a hook ranked something else."""
        return scores if self.hook is None or self._codes is None else self._codes[rows, columns]


def per_token(scores: Scores, k: int) -> Codes:
    """The k best of each token."""
    offsets, columns, values = [scores.x.new_zeros(1, dtype=torch.int64)], [], []
    for part, table, bias in scores:
        ends, chosen, found = top_rows(table, k, bias)
        rows = torch.repeat_interleave(torch.arange(part.stop - part.start, device=ends.device), ends.diff())
        columns.append(chosen)
        values.append(scores.values(rows, chosen, found) if scores.hook else found)
        offsets.append(ends[1:] + offsets[-1][-1])
    return Codes(torch.cat(offsets), torch.cat(columns), torch.cat(values), scores.width)


def per_group(scores: Scores, k: int) -> Codes:
    """The best of each of k groups of neighbouring features."""
    size = scores.width // k
    dense = []
    for part, table, bias in scores:
        ranked = (table if bias is None else table + bias).view(part.stop - part.start, k, size)
        best = ranked.argmax(2, keepdim=True)
        found = torch.zeros_like(ranked, dtype=torch.bool).scatter_(2, best, ranked.gather(2, best) > 0)
        rows, columns = found.view(-1, scores.width).nonzero().unbind(1)
        values = scores.values(rows, columns, ranked.reshape(-1, scores.width)[rows, columns])
        dense.append((rows + part.start, columns, values))
    return _codes(dense, scores)


def over_batch(scores: Scores, total: int) -> Codes:
    """The ``total`` best of the whole batch; ties go to the first token, then to the first feature.

    A bound rises while the pieces pass: the total-th best so far can only be beaten; what lies below is dropped.
    It starts at a guess from a few tokens of the first piece. If that was too high, all is done again from zero.
    """
    held, count = _gathered(scores, total, guess=True)
    if count < total:
        held, count = _gathered(scores, total, guess=False)
    tokens, features, _, values = _best(held, total) if count > total else _joined(held)
    return Codes(offsets_of(tokens, scores.x.shape[0]), features, values, scores.width)


def _gathered(scores: Scores, total: int, guess: bool) -> tuple[list[Held], int]:
    """Entries above the rising bound, and how many."""
    bound, count = 0.0, 0
    held: list[Held] = []
    for part, table, bias in scores:
        if guess and not held:
            bound = _guess(table, bias, total / (scores.x.shape[0] * scores.width))
        rows, columns, found = above(table, bound, bias)
        held.append((rows + part.start, columns, found, scores.values(rows, columns, found)))
        count += found.numel()
        if count > 3 * total:
            held, count = [_best(held, total)], total
            bound = float(held[0][2].min())  # later entries that only equal it lose the tie
    return held, count


def _guess(table: Tensor, bias: Tensor | None, share: float) -> float:
    """A positive value that about twice that share of the entries exceeds, from up to 16 tokens; 0 if there is none."""
    few = table[:: max(table.shape[0] // 16, 1)]
    sample = (few if bias is None else few + bias).reshape(-1)
    rank = int(sample.numel() * min(2 * share, 1.0)) + 8
    if rank >= sample.numel():
        return 0.0
    return max(float(torch.kthvalue(sample, sample.numel() - rank + 1).values), 0.0)


def _joined(held: list[Held]) -> Held:
    tokens, features, scores, values = (torch.cat(parts) for parts in zip(*held, strict=True))
    return tokens, features, scores, values


def _best(held: list[Held], total: int) -> Held:
    """The ``total`` best entries, in the order they came; equal ones: the first."""
    together = _joined(held)
    scores = together[2]
    edge = torch.kthvalue(scores, scores.numel() - total + 1).values
    keep = scores > edge
    equal = (scores == edge).nonzero().squeeze(1)
    keep[equal[: total - int(keep.sum())]] = True
    tokens, features, scores, values = (part[keep] for part in together)
    return tokens, features, scores, values


def per_feature(scores: Scores, counts: Tensor) -> Codes:
    """The counts_i best tokens of feature i: the same as per token, on the transposed table, features in pieces."""
    if scores.hook is not None:
        table = torch.cat([part_scores.clone() for _, part_scores, _ in scores])
        codes = torch.relu(scores.x @ scores.weight.t() + scores.bias)
        ends, tokens, _ = top_rows(table.t().contiguous(), counts)
        features = torch.repeat_interleave(torch.arange(scores.width, device=ends.device), ends.diff())
        return _sorted(tokens, features, codes[tokens, features], scores)
    found_tokens, found_features, found_values = [], [], []
    for part in pieces(scores.width, scores.x.shape[0]):
        table = torch.addmm(scores.bias[part, None], scores.weight[part], scores.x.t())
        ends, tokens, values = top_rows(table, counts[part])
        local = torch.repeat_interleave(torch.arange(part.stop - part.start, device=ends.device), ends.diff())
        found_tokens.append(tokens)
        found_features.append(local + part.start)
        found_values.append(values)
    return _sorted(torch.cat(found_tokens), torch.cat(found_features), torch.cat(found_values), scores)


def over_threshold(scores: Scores, threshold: Tensor) -> Codes:
    """All codes above a threshold, one number or one a feature: no token depends on another."""
    if threshold.ndim and threshold.shape != (scores.width,):
        raise InfeasibleBudget(f"one threshold a feature is {scores.width} numbers; got {tuple(threshold.shape)}")
    lowest = float(threshold.clamp(min=0).min())
    found = []
    for part, table, bias in scores:
        rows, columns, codes = above(table, lowest, bias)
        keep = codes > (threshold[columns] if threshold.ndim else threshold)
        found.append((rows[keep] + part.start, columns[keep], codes[keep]))
    return _codes(found, scores)


def _codes(found: list[tuple[Tensor, Tensor, Tensor]], scores: Scores) -> Codes:
    tokens, features, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Codes(offsets_of(tokens, scores.x.shape[0]), features, values, scores.width)


def _sorted(tokens: Tensor, features: Tensor, values: Tensor, scores: Scores) -> Codes:
    """Entries in order of features (or any) brought into order of tokens."""
    order = tokens.argsort(stable=True)
    return Codes(offsets_of(tokens, scores.x.shape[0]), features[order], values[order], scores.width)
