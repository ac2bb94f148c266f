"""The products of sparse codes: torch bodies against dense algebra, native bodies against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import SparselandError
from sparseland.core.matching import allocate
from sparseland.kernels import available, native
from sparseland.kernels import sparse_code as sc

NATIVE = pytest.mark.skipif(
    not (available() and hasattr(native(), "sparse_code_spmm")), reason="the native extension is not built"
)


def pattern(
    rows: int, width: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random CSR pattern (some rows empty), its values, and the same as a table."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, width, generator=g, dtype=dtype) * (torch.rand(rows, width, generator=g) < 0.2)
    table[rows // 2] = 0
    mask = table != 0
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    offsets[1:] = mask.sum(1).cumsum(0)
    return offsets, mask.nonzero()[:, 1].contiguous(), table[mask], table


SIZES = [(1, 1, 1), (3, 5, 2), (17, 40, 64), (33, 300, 65), (20, 64, 130), (64, 7, 384)]


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=NATIVE)])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_the_dense_table(size: tuple[int, int, int], fast: bool) -> None:
    rows, width, d = size
    offsets, columns, values, table = pattern(rows, width, seed=sum(size))
    weight, x = torch.randn(width, d), torch.randn(rows, d)
    spmm, sddmm, spmm_t = (sc.spmm, sc.sddmm, sc.spmm_t) if fast else (sc.spmm_torch, sc.sddmm_torch, sc.spmm_t_torch)
    torch.testing.assert_close(spmm(offsets, columns, values, weight), table @ weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sddmm(offsets, columns, x, weight), (x @ weight.t())[table != 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spmm_t(offsets, columns, values, x, width), table.t() @ x, rtol=1e-4, atol=1e-4)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, columns, values, table = pattern(9, 20, seed=3, dtype=torch.float64)
    weight = torch.randn(20, 6, dtype=torch.float64)
    monkeypatch.setattr(sc, "CHUNK", 7)
    torch.testing.assert_close(sc.spmm(offsets, columns, values, weight), table @ weight)


def test_gradients_are_those_of_finite_differences() -> None:
    offsets, columns, values, _ = pattern(5, 8, seed=1, dtype=torch.float64)
    weight = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: sc.Decode.apply(v, w, offsets, columns), (values, weight))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    shift, bias = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (3, 8))

    def encode(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = sc.Encode.apply(x, shift, weight, bias, offsets, columns, None)
        return found

    assert torch.autograd.gradcheck(encode, (x, shift, weight, bias))


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=NATIVE)])
@pytest.mark.parametrize("width", [1, 5, 16, 256, 257, 1000, 2048])
@pytest.mark.parametrize("ties", [False, True])
def test_top_rows_are_the_allocation_by_token(width: int, ties: bool, fast: bool) -> None:
    scores = torch.randn(12, width, generator=torch.Generator().manual_seed(width))
    if ties:
        scores = (scores * 2).round()
    scores[3] = -1.0  # nothing positive
    bias = torch.linspace(-0.5, 0.5, width) if not ties else torch.zeros(width)
    top = sc.top_rows if fast else sc.top_rows_torch
    for k in {1, min(3, width), min(40, width), width}:
        mask = allocate(scores + bias, "token", k)
        offsets, columns, values = top(scores, k, bias)
        assert offsets.diff().tolist() == mask.sum(1).tolist()
        assert columns.tolist() == mask.nonzero()[:, 1].tolist()
        torch.testing.assert_close(values, (scores + bias)[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=NATIVE)])
def test_top_rows_with_a_count_for_each_row(fast: bool) -> None:
    scores = torch.randn(6, 600, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([0, 1, 5, 600, 17, 300])
    mask = allocate(scores.t().contiguous(), "feature", int(counts.sum()) // 600 + 1, counts=None)  # shape only
    assert mask.shape == (600, 6)
    offsets, columns, _ = (sc.top_rows if fast else sc.top_rows_torch)(scores, counts)
    for row, count in enumerate(counts.tolist()):
        chosen = columns[offsets[row] : offsets[row + 1]]
        best = scores[row].clamp(min=0).topk(count).indices
        assert set(chosen.tolist()) == {i for i in best.tolist() if scores[row, i] > 0}


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=NATIVE)])
def test_numbers_that_are_none_are_never_chosen(fast: bool) -> None:
    scores = torch.randn(8, 700, generator=torch.Generator().manual_seed(4))
    scores[0] = float("nan")
    scores[1, ::2] = float("nan")
    scores[2, 5] = float("inf")
    offsets, columns, values = (sc.top_rows if fast else sc.top_rows_torch)(scores, 9)
    assert bool((values > 0).all()) and int(offsets[1]) == 0
    assert set(columns[offsets[2] : offsets[3]].tolist()) == {5, *scores[2].topk(9).indices.tolist()}
    if fast:  # torch ranks NaN first, so its body chooses fewer of such a row
        second = scores[1].nan_to_num(nan=-1.0).topk(9)
        assert sorted(columns[: offsets[2]].tolist()) == sorted(second.indices.tolist())


@NATIVE
def test_above_finds_what_comparison_finds() -> None:
    scores, bias = torch.randn(9, 333), torch.randn(333)
    rows, columns, values = sc.above(scores, 0.7, bias)
    assert torch.stack([rows, columns], 1).tolist() == (scores + bias > 0.7).nonzero().tolist()
    torch.testing.assert_close(values, (scores + bias)[rows, columns])
    assert [t.numel() for t in sc.above(scores, 1e9)] == [0, 0, 0]


@NATIVE
def test_threads_change_nothing() -> None:
    offsets, columns, values, _ = pattern(200, 100, seed=5)
    weight, x, before = torch.randn(100, 70), torch.randn(200, 70), torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(
            (
                sc.spmm(offsets, columns, values, weight),
                sc.sddmm(offsets, columns, x, weight),
                sc.spmm_t(offsets, columns, values, x, 100),
                *sc.top_rows(x, 9),
                *sc.above(x, 0.3),
            )
        )
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@NATIVE
@pytest.mark.parametrize(
    "change",
    ["falling offsets", "last offset", "column too large", "negative column", "values", "x rows", "width", "out"],
)
def test_native_refuses_what_does_not_fit(change: str) -> None:
    offsets, columns, values, _ = pattern(6, 10, seed=2)
    weight, x, out = torch.randn(10, 4), torch.randn(6, 4), torch.empty(6, 4)
    given = {"o": offsets.clone(), "c": columns.clone(), "v": values, "w": weight, "x": x, "y": out}
    if change == "falling offsets":
        given["o"][1] = 99
    elif change == "last offset":
        given["o"][-1] += 1
    elif change == "column too large":
        given["c"][0] = 10
    elif change == "negative column":
        given["c"][0] = -1
    elif change == "values":
        given["v"] = values[1:]
    elif change == "x rows":
        given["x"] = x[1:]
    elif change == "width":
        given["w"], given["x"] = weight[:, :3].contiguous(), x[:, :3].contiguous()
    else:
        given["y"] = torch.empty(5, 4)
    o, c, v, w, xs, y = (given[n].numpy() for n in "ocvwxy")
    refused = 0
    for call in (
        lambda: native().sparse_code_spmm(o, c, v, w, y, 1),
        lambda: native().sparse_code_sddmm(o, c, xs, w, torch.empty(columns.numel() - (change == "out")).numpy(), 1),
        lambda: native().sparse_code_spmm_t(o, c, v, xs, torch.empty(10, 4 - (change == "out")).numpy(), 1),
    ):
        try:
            call()
        except ValueError:
            refused += 1
    assert refused >= (1 if change in ("values", "x rows", "width") else 3)


def test_a_pattern_is_checked() -> None:
    with pytest.raises(SparselandError, match="columns lie in 0 … 2; got 0 … 3"):
        sc.check_pattern(torch.tensor([0, 2]), torch.tensor([0, 3]), 3)
    with pytest.raises(SparselandError, match="never fall"):
        sc.check_pattern(torch.tensor([0, 2, 1, 2]), torch.tensor([0, 1]), 3)
