"""Bytes in closed form: against real tensors and torch's own CSR, and the break-even points of the literature."""

from __future__ import annotations

import pytest
import torch

from sparseland.account import bitmask_bytes, break_even, csr_bytes, dense_bytes, nm_bytes, smallest
from sparseland.account.storage import place_bits
from sparseland.core.errors import InfeasibleBudget, PatternError, RecipeError


def _sparse(rows: int, columns: int, nonzeros: int) -> torch.Tensor:
    weight = torch.zeros(rows * columns)
    weight[torch.randperm(rows * columns)[:nonzeros]] = 1.0
    return weight.view(rows, columns)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")  # torch's own notice
@pytest.mark.parametrize("index", [4, 8])
def test_csr_is_what_torch_holds(index: int) -> None:
    weight = _sparse(30, 50, 300)
    csr = weight.to_sparse_csr()
    kind = {4: torch.int32, 8: torch.int64}[index]
    parts = csr.crow_indices().to(kind), csr.col_indices().to(kind), csr.values()
    assert csr_bytes(30, 300, index=index) == sum(p.numel() * p.element_size() for p in parts)
    if index == 8:
        assert csr.col_indices().dtype == torch.int64  # PyTorch's own choice: 12 bytes a weight
        assert csr_bytes(30, 300, index=8) == 12 * 300 + 8 * 31


def test_resnet_50_as_the_literature_counts_it() -> None:
    """102.12 MB dense; 23.62 MB by bitmask at 80 %, where RigL's table prints 23.683 with biases and norms dense."""
    total = 25_530_472
    assert dense_bytes(total) / 1e6 == pytest.approx(102.12, abs=0.005)
    assert bitmask_bytes(total, round(0.2 * total)) / 1e6 == pytest.approx(23.62, abs=0.005)


def test_break_even_points() -> None:
    assert break_even("bitmask") == pytest.approx(0.03, abs=0.002)
    assert break_even("csr") == 0.5
    assert break_even("csr", index=8) == pytest.approx(0.67, abs=0.004)
    assert break_even("bitmask", itemsize=2) == 1 / 16
    assert break_even("n:m", of=4) == pytest.approx(2 / 34)
    with pytest.raises(RecipeError, match="possible: bitmask, csr, n:m"):
        break_even("ellpack")


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize(("form", "index"), [("bitmask", 4), ("csr", 4), ("csr", 8)])
def test_a_form_pays_from_its_break_even_on(form: str, index: int, itemsize: int) -> None:
    total, edge = 1_000_000, break_even(form, itemsize, index=index)
    for sparsity, pays in ((edge - 0.01, False), (edge + 0.01, True)):
        kept = round(total * (1 - sparsity))
        if kept > total:
            continue
        size = bitmask_bytes(total, kept, itemsize) if form == "bitmask" else csr_bytes(1, kept, itemsize, index)
        assert (size < dense_bytes(total, itemsize)) is pays


def test_n_m() -> None:
    assert nm_bytes(1024, 2, 4, itemsize=2) == 1024 + 128  # 9/16 of dense, as the hardware stores it
    assert nm_bytes(1024, 1, 4) == 4 * 256 + 64
    assert [place_bits(of) for of in (1, 2, 3, 4, 8, 9)] == [0, 1, 2, 2, 3, 4]
    with pytest.raises(PatternError, match="divisible by 4; given 1,023"):
        nm_bytes(1023, 2, 4)
    with pytest.raises(PatternError, match="got 5:4"):
        nm_bytes(1024, 5, 4)


def test_the_smallest_form() -> None:
    assert smallest(1000, 1000) == ("dense", 4000)
    assert smallest(1000, 969)[0] == "dense" and smallest(1000, 968)[0] == "bitmask"
    assert smallest(100_000, 100)[0] == "csr"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bitmask_bytes(10, -1), "-1 non-zeros of 10 weights; possible: 0 to 10"),
        (lambda: bitmask_bytes(10, 11), "11 non-zeros of 10"),
        (lambda: csr_bytes(3, -2), "-2 non-zeros"),
        (lambda: csr_bytes(-3, 2), "rows -3"),
        (lambda: dense_bytes(-1), "-1 weights"),
        (lambda: dense_bytes(1, itemsize=0), "itemsize is 0 bytes"),
    ],
)
def test_impossible_counts(call: object, words: str) -> None:
    with pytest.raises(InfeasibleBudget, match=words):
        call()  # type: ignore[operator]
