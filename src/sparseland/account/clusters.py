"""Clusters: runs of neighbouring non-zeros in a row. How many, how long, and what it costs to store them as such."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import InfeasibleBudget, PatternError
from .storage import csr_bytes


@dataclass(frozen=True)
class Clusters:
    """The runs of one mask [R, C], row by row, as (row, start, length); ``values`` of all runs, one after the other.

    >>> clusters = Clusters.of(torch.tensor([[1.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    >>> clusters.runs.tolist(), clusters.values.tolist()
    ([[0, 0, 2], [0, 3, 1]], [1.0, 2.0, 3.0])
    >>> clusters.mean_run, clusters.empty_rows, clusters.empty_columns
    (1.5, 1, 1)
    >>> clusters.dense().tolist()
    [[1.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    """

    runs: Tensor  # int64 [n, 3]
    values: Tensor  # [non-zeros]
    shape: tuple[int, int]

    @classmethod
    def of(cls, weight: Tensor, mask: Tensor | None = None) -> Clusters:
        """Of the non-zeros of a weight [R, …] (or of ``mask``, whose zeros inside a run are then stored too).

        Convolutions are flattened as they lie: the taps of one input channel stand together.
        """
        if weight.ndim < 2 or (mask is not None and mask.shape != weight.shape):
            raise PatternError(f"clusters need a matrix and a mask of its shape; got {tuple(weight.shape)}")
        matrix = weight.detach().flatten(1).cpu()
        alive = (matrix != 0) if mask is None else mask.flatten(1).cpu()
        edge = torch.zeros(alive.shape[0], 1, dtype=torch.int8)
        change = torch.cat([edge, alive.to(torch.int8), edge], 1).diff(dim=1)  # +1 begins a run, -1 ends it
        starts, ends = (change == 1).nonzero(), (change == -1).nonzero()
        runs = torch.stack([starts[:, 0], starts[:, 1], ends[:, 1] - starts[:, 1]], 1)
        return cls(runs, matrix[alive], (matrix.shape[0], matrix.shape[1]))

    @property
    def nonzeros(self) -> int:
        """How many weights are stored."""
        return self.values.numel()

    @property
    def mean_run(self) -> float:
        """Mean length of a run; 0 where there is none."""
        return self.nonzeros / len(self.runs) if len(self.runs) else 0.0

    @property
    def empty_rows(self) -> int:
        """Rows without any."""
        return self.shape[0] - int(self.runs[:, 0].unique().numel())

    @property
    def empty_columns(self) -> int:
        """Columns without any."""
        rises = torch.zeros(self.shape[1] + 1, dtype=torch.int64)
        rises.index_add_(0, self.runs[:, 1], torch.ones(len(self.runs), dtype=torch.int64))
        rises.index_add_(0, self.runs[:, 1] + self.runs[:, 2], -torch.ones(len(self.runs), dtype=torch.int64))
        return int((rises.cumsum(0)[:-1] == 0).sum())

    def dense(self) -> Tensor:
        """The matrix again."""
        out = torch.zeros(self.shape, dtype=self.values.dtype)
        row, start, length = self.runs.repeat_interleave(self.runs[:, 2], 0).unbind(1)
        first = torch.arange(self.nonzeros) - (self.runs[:, 2].cumsum(0) - self.runs[:, 2]).repeat_interleave(
            self.runs[:, 2]
        )
        del length
        out[row, start + first] = self.values
        return out

    def bytes(self, itemsize: int = 4, index: int = 4) -> int:
        """`cluster_bytes` of these."""
        return cluster_bytes(self.shape[0], self.nonzeros, len(self.runs), itemsize, index)

    def csr_bytes(self, itemsize: int = 4, index: int = 4) -> int:
        """`sparseland.account.csr_bytes` of the same non-zeros."""
        return csr_bytes(self.shape[0], self.nonzeros, itemsize, index)


def cluster_bytes(rows: int, nonzeros: int, runs: int, itemsize: int = 4, index: int = 4) -> int:
    """itemsize · nnz + 2 · index · runs + index · (rows + 1): values, start and length of each run, where rows begin.

    Less than CSR exactly when the mean run is longer than 2. ``index``: bytes of a start or length; with few columns
    2 or 1 will do, in CSR as well.

    >>> cluster_bytes(10, 80, 20), csr_bytes(10, 80)
    (524, 684)

    Raises:
        InfeasibleBudget: more runs than non-zeros, or negative counts.
    """
    if not 0 <= runs <= nonzeros or rows < 0 or itemsize < 1 or index < 1:
        raise InfeasibleBudget(
            f"{runs:,} runs of {nonzeros:,} non-zeros in {rows} rows, {itemsize} and {index} bytes; possible: no more "
            f"runs than non-zeros, bytes 1 or more"
        )
    return itemsize * nonzeros + 2 * index * runs + index * (rows + 1)
