"""Clusters of non-zeros: found, stored, put back; their bytes beside those of CSR."""

from __future__ import annotations

import pytest
import torch

from sparseland.account import Clusters, cluster_bytes, csr_bytes
from sparseland.core.errors import InfeasibleBudget, PatternError


def slow(mask: list[list[bool]]) -> list[list[int]]:
    """(row, start, length) by walking."""
    runs = []
    for r, row in enumerate(mask):
        c = 0
        while c < len(row):
            start = c
            while c < len(row) and row[c]:
                c += 1
            if c > start:
                runs.append([r, start, c - start])
            c += 1
    return runs


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_runs_are_those_found_by_walking_and_the_weight_comes_back(density: float) -> None:
    generator = torch.Generator().manual_seed(int(10 * density))
    weight = torch.randn(9, 17, generator=generator) * (torch.rand(9, 17, generator=generator) < density)
    found = Clusters.of(weight)
    assert found.runs.tolist() == slow((weight != 0).tolist())
    assert torch.equal(found.dense(), weight)
    assert found.empty_rows == int((weight == 0).all(1).sum())
    assert found.empty_columns == int((weight == 0).all(0).sum())
    assert found.nonzeros == int((weight != 0).sum())
    assert found.bytes() == cluster_bytes(9, found.nonzeros, len(found.runs))


def test_a_mask_decides_where_it_is_given() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0]])
    found = Clusters.of(weight, torch.tensor([[True, True, True]]))
    assert found.runs.tolist() == [[0, 0, 3]] and found.values.tolist() == [1.0, 0.0, 2.0]
    assert found.mean_run == 3.0 and torch.equal(found.dense(), weight)


def test_convolutions_are_flattened_as_they_lie() -> None:
    weight = torch.zeros(2, 2, 1, 3)
    weight[1, 0, 0, 2] = weight[1, 1, 0, 0] = 1.0
    assert Clusters.of(weight).runs.tolist() == [[1, 2, 2]]


def test_clusters_beat_csr_from_runs_of_two() -> None:
    assert cluster_bytes(10, 80, 40) == csr_bytes(10, 80)
    assert cluster_bytes(10, 80, 39) < csr_bytes(10, 80) < cluster_bytes(10, 80, 41)
    assert cluster_bytes(3, 4, 2, itemsize=2, index=1) == 2 * 4 + 2 * 2 + 4
    weight = torch.zeros(4, 12)
    weight[:, 3:8] = 1.0
    found = Clusters.of(weight)
    assert found.bytes() < found.csr_bytes()


def test_bad_input() -> None:
    with pytest.raises(InfeasibleBudget, match="5 runs of 4"):
        cluster_bytes(1, 4, 5)
    with pytest.raises(PatternError, match="matrix"):
        Clusters.of(torch.zeros(4))
    with pytest.raises(PatternError, match="mask of its shape"):
        Clusters.of(torch.zeros(4, 4), torch.zeros(4, 3, dtype=torch.bool))
