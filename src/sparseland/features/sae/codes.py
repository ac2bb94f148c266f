"""Sparse codes of a batch: which features, how strong, and which token they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.sparse_code import rows_of


@dataclass
class Codes:
    """Codes of N tokens over F features, in CSR form; ``values`` carries the gradient.

    Parameters:
        offsets: (N + 1,) int64, token n owns entries offsets[n] … offsets[n + 1].
        features: (entries,) int64, ascending within a token. values: (entries,). width: F.

    >>> codes = Codes.of(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]))
    >>> codes.tokens.tolist(), codes.features.tolist(), codes.values.tolist(), codes.l0.tolist()
    ([0, 1, 1], [1, 0, 2], [2.0, 1.0, 3.0], [1, 2])
    """

    offsets: Tensor
    features: Tensor
    values: Tensor
    width: int

    @classmethod
    def of(cls, dense: Tensor) -> Codes:
        """From a table (N, F): its non-zeros."""
        tokens, features = dense.nonzero().unbind(1)
        return cls(offsets_of(tokens, dense.shape[0]), features, dense[tokens, features], dense.shape[1])

    @property
    def tokens(self) -> Tensor:
        """(entries,) int64: the token of each entry."""
        return rows_of(self.offsets)

    @property
    def l0(self) -> Tensor:
        """(N,) int64: active features of each token."""
        return self.offsets.diff()

    def dense(self) -> Tensor:
        """(N, F) with zeros; keeps the gradient."""
        out = self.values.new_zeros(self.offsets.numel() - 1, self.width)
        return out.index_put((self.tokens, self.features), self.values)

    def fired(self) -> Tensor:
        """(F,) int64: tokens each feature is active for."""
        return torch.bincount(self.features[self.values > 0], minlength=self.width)

    def detach(self) -> Codes:
        """The same codes without gradient."""
        return Codes(self.offsets, self.features, self.values.detach(), self.width)


def offsets_of(tokens: Tensor, count: int) -> Tensor:
    """CSR offsets of entries sorted by token.

    >>> offsets_of(torch.tensor([0, 0, 2]), 3).tolist()
    [0, 2, 2, 3]
    """
    offsets = tokens.new_zeros(count + 1)
    offsets[1:] = torch.bincount(tokens, minlength=count).cumsum(0)
    return offsets
