"""Selection: exact against a stable sort, ties by index, errors that quote the input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparseland.core.selection as selection
from sparseland.core.errors import InfeasibleBudget, ScoreError
from sparseland.core.selection import check_sparsity, indices, kept, kth_largest, select, select_many


def oracle(scores, k):
    """The first k of a stable descending sort."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().sort(descending=True, stable=True).indices[:k]] = True
    return mask.view(scores.shape)


@pytest.fixture(params=["small", "bracket"])
def route(request, monkeypatch):
    """Both ways to the threshold: plain kthvalue, and the sampled bracket in tiny chunks."""
    if request.param == "bracket":
        monkeypatch.setattr(selection, "SMALL", 4)
        monkeypatch.setattr(selection, "SAMPLE", 16)
        monkeypatch.setattr(selection, "CHUNK", 64)
    return request.param


@pytest.mark.parametrize("kind", ["normal", "ties", "sorted", "constant", "integer", "bool", "double", "bfloat16"])
def test_whole_tensor_equals_stable_sort(route, kind):
    g = torch.Generator().manual_seed(len(kind))
    for _ in range(25):
        rows, cols = (int(torch.randint(1, 40, (), generator=g)) for _ in range(2))
        x = torch.randn(rows, cols, generator=g)
        x = {
            "normal": lambda x: x,
            "ties": lambda x: x.mul(2).round(),
            "sorted": lambda x: x.sort(dim=0).values,
            "constant": torch.ones_like,
            "integer": lambda x: x.mul(5).int(),
            "bool": lambda x: x > 0,
            "double": lambda x: x.double(),
            "bfloat16": lambda x: x.bfloat16(),
        }[kind](x)
        k = int(torch.randint(0, x.numel() + 1, (), generator=g))
        assert torch.equal(select(x, k), oracle(x.float() if kind == "bfloat16" else x.double(), k))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("cols", [3, 16, 17, 50])
def test_per_slice_equals_stable_sort(dim, cols):
    g = torch.Generator().manual_seed(cols)
    for values in (3, 1000):
        x = torch.randint(0, values, (23, cols), generator=g).float()
        for k in {0, 1, x.shape[dim] // 3, x.shape[dim] // 2 + 1, x.shape[dim]}:
            order = x.sort(dim=dim, descending=True, stable=True).indices.narrow(dim, 0, k)
            want = torch.zeros_like(x, dtype=torch.bool).scatter_(dim, order, True)
            assert torch.equal(select(x, k, dim=dim), want)


def test_one_count_per_slice():
    x = torch.randn(5, 40)
    k = torch.tensor([0, 3, 40, 7, 1])
    assert torch.equal(select(x, k, dim=1).sum(1), k)
    assert torch.equal(select(x, k, dim=1)[1], oracle(x[1], 3))


def test_three_axes():
    x = torch.randn(4, 5, 6)
    mask = select(x, 2, dim=1)
    assert (mask.sum(1) == 2).all()
    assert torch.equal(mask[1, :, 3], oracle(x[1, :, 3], 2))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_tensors_rank_together(data):
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    values = [data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)) for n in sizes]
    parts = {str(i): torch.tensor(v, dtype=torch.float) for i, v in enumerate(values)}
    k = data.draw(st.integers(0, sum(sizes)))
    masks = select_many(parts, k)
    assert torch.equal(torch.cat(list(masks.values())), oracle(torch.cat(list(parts.values())), k))


def test_keep_and_among(route):
    g = torch.Generator().manual_seed(1)
    for _ in range(50):
        x = torch.randn(9, 11, generator=g)
        among = torch.rand(9, 11, generator=g) > 0.3
        keep = among & (torch.rand(9, 11, generator=g) > 0.7)
        k = int(torch.randint(int(keep.sum()), int(among.sum()) + 1, (), generator=g))
        mask = select(x, k, among=among, keep=keep)
        assert int(mask.sum()) == k and not (mask & ~among).any() and not (keep & ~mask).any()
        free = mask & ~keep
        left = among & ~mask
        if free.any() and left.any():
            assert x[free].min() >= x[left].max()


def test_a_misleading_sample_costs_time_not_exactness(monkeypatch):
    monkeypatch.setattr(selection, "SMALL", 4)
    monkeypatch.setattr(selection, "SAMPLE", 100)
    x = torch.zeros(10_000)
    x[1::100] = torch.rand(100) + 1  # never hit by the stride of 100
    for k in (1, 50, 100, 101, 5000):
        assert torch.equal(select(x, k), oracle(x, k))


def test_kth_largest_over_parts():
    parts = [torch.randn(1000), torch.randn(70_000)]
    ordered = torch.cat(parts).sort(descending=True).values
    for k in (1, 2, 35_000, 71_000):
        assert kth_largest(parts, k) == ordered[k - 1]


def test_indices_of_equal_rows():
    x = torch.randn(6, 20)
    assert torch.equal(indices(select(x, 4, dim=1)), x.topk(4, dim=1).indices.sort(dim=1).values)
    with pytest.raises(InfeasibleBudget, match="equal"):
        indices(torch.tensor([[True, False], [True, True]]))


@pytest.mark.parametrize(
    ("total", "sparsity", "want"),
    [(269_722, 0.9, 26_972), (10, 0.9, 1), (1000, 0.999, 1), (3, 0.5, 2), (100, 0.29, 71), (0, 0.5, 0), (5, 0, 5)],
)
def test_budgets_are_exact_integers(total, sparsity, want):
    assert kept(total, sparsity) == want


def test_a_constant_tensor_has_the_right_count():
    for n, sparsity in [(269_722, 0.9), (1000, 0.5), (7, 0.3)]:
        mask = select(torch.full((n,), 0.25), kept(n, sparsity))
        assert int(mask.sum()) == kept(n, sparsity)
        assert mask[: kept(n, sparsity)].all()  # lowest indices


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(bad):
    x = torch.ones(4, 4)
    x[1, 2] = bad
    with pytest.raises(ScoreError, match=r"\(4, 4\) has"):
        select(x, 3)
    with pytest.raises(ScoreError, match=r"'?fc.weight'?"):
        select_many({"fc.weight": x}, 3)


@pytest.mark.parametrize("k", [-1, 17])
def test_impossible_counts_are_quoted(k):
    with pytest.raises(InfeasibleBudget, match=str(k)):
        select(torch.ones(4, 4), k)
    with pytest.raises(InfeasibleBudget):
        select(torch.ones(4, 4), k, dim=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [(90, "percentage.*0.9"), (1.0, r"\[0, 1\).*1.0"), (-0.1, "-0.1"), ("0.9", "'0.9'"), (True, "True")],
)
def test_sparsity_out_of_range(given, said):
    with pytest.raises(InfeasibleBudget, match=said):
        check_sparsity(given)
    with pytest.raises(InfeasibleBudget):
        check_sparsity(float("nan"))
