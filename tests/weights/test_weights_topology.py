"""One topology step against arrays worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparseland.core import Constant, GrowGradient, GrowRandom, OneShot, Stats
from sparseland.core.errors import InfeasibleBudget, ScoreError
from sparseland.weights import Method, topology

W = torch.tensor([[3.0, -1.0, 0.0], [0.5, -4.0, 0.0]])
ALIVE = torch.tensor([[True, True, False], [True, True, False]])
GRAD = torch.tensor([[9.0, 8.0, -7.0], [1.0, 9.0, 0.5]])
EXCHANGE = Constant(0.5, every=1)


def bools(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def exchange(method: Method, share: float, mask: Tensor = ALIVE, w: Tensor = W, **stats: Any) -> Tensor:
    return topology.exchange(method, {"w": w}, {"w": mask}, {"w": Stats(**stats)}, share)["w"]


def prune(
    method: Method, weights: dict[str, Tensor], sparsity: float, masks: Any = None, **kw: Any
) -> dict[str, Tensor]:
    masks = masks or {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    stats = kw.pop("stats", {n: Stats() for n in weights})
    return topology.prune_to(method, weights, masks, stats, sparsity, **kw)


def test_rigl_drops_the_smallest_and_grows_by_gradient() -> None:
    # alive 3 1 .5 4: half of four goes (1 and .5); of what is then dead, |g| is 8 7 1 .5: (0, 1) comes back at once
    method = Method(schedule=OneShot(0.3), growth=GrowGradient(), exchange=EXCHANGE)
    assert torch.equal(exchange(method, 0.5, grad=GRAD), bools([1, 1, 1], [0, 1, 0]))


def test_living_coordinates_never_compete_in_growth() -> None:
    # the gradient of the survivors is the largest, yet exactly as many grow as were dropped
    method = Method(growth=GrowGradient(), exchange=EXCHANGE)
    grown = exchange(method, 0.25, grad=GRAD)  # one of four: .5 goes, 8 … is alive, so 7 grows
    assert torch.equal(grown, bools([1, 1, 1], [0, 1, 0]))


def test_set_grows_where_the_shared_generator_is_highest() -> None:
    method = Method(growth=GrowRandom(), exchange=EXCHANGE)
    for seed in range(20):
        draws = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))
        left = bools([1, 0, 0], [0, 1, 0])
        best = draws.masked_fill(left, -1).reshape(-1).topk(2).indices
        expected = left.reshape(-1).index_fill(0, best, True).view(2, 3)
        got = exchange(method, 0.5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(got, expected)


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (0.5, 2), (1.0, 4)])
def test_number_dropped_is_rounded_up(share: float, dropped: int) -> None:
    # all gradient on the two dead coordinates: what is regrown in place of dropped ones shows how many were dropped
    grad = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 8.0]])
    got = exchange(Method(growth=GrowGradient(), exchange=EXCHANGE), share, grad=grad)
    assert int(got.sum()) == 4
    order = [(1, 0), (0, 1), (0, 0), (1, 1)]  # by |w|
    gone = [bool(~got[at]) for at in order]
    assert sum(gone) == min(dropped, 2)  # only two were dead; the rest came back


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58])
def test_a_share_is_a_decimal_number(share: float) -> None:
    # 0.07 * 100 is 7.000000000000001 in binary: seven of a hundred are dropped, not eight
    w = torch.arange(1.0, 201.0).view(2, 100)
    mask = torch.arange(200).view(2, 100) >= 100
    grad = torch.where(mask, 0.0, 1.0)
    got = exchange(Method(growth=GrowGradient(), exchange=EXCHANGE), share, mask=mask, w=w, grad=grad)
    assert int((mask & ~got).sum()) == round(100 * share)


def test_exchange_within_two_of_four() -> None:
    # groups [4 3 | 2 1] and [1 2 | 3 4]; 2:4 keeps two a row. One of four is dropped (the smallest alive, 3 of row 0 …)
    w = torch.tensor([[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 3.5, 4.0]])
    mask = bools([1, 1, 0, 0], [0, 0, 1, 1])
    grad = torch.tensor([[0.0, 0.0, 1.0, 2.0], [9.0, 9.0, 0.0, 0.0]])
    method = Method(pattern="2:4", growth=GrowGradient(), exchange=EXCHANGE)
    # row 1 is full, so its larger gradients cannot grow: the place goes to row 0
    assert torch.equal(exchange(method, 0.25, mask=mask, w=w, grad=grad), bools([1, 0, 0, 1], [0, 0, 1, 1]))


def test_exchange_of_whole_rows() -> None:
    w = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    mask = bools([1, 1], [1, 1], [0, 0], [0, 0])
    grad = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 5.0], [4.0, 1.0]])  # means 3 and 2.5
    method = Method(pattern="row", growth=GrowGradient(), exchange=EXCHANGE)
    assert torch.equal(exchange(method, 0.5, mask=mask, w=w, grad=grad), bools([0, 0], [1, 1], [1, 1], [0, 0]))


def test_growth_scores_must_be_finite() -> None:
    method = Method(growth=GrowGradient(), exchange=EXCHANGE)
    with pytest.raises(ScoreError, match=r"gradient growth scores of 'w'.*1 NaN"):
        exchange(method, 0.5, grad=GRAD.masked_fill(~ALIVE & (GRAD < 0), torch.nan))


def test_global_pruning_ranks_all_tensors_together() -> None:
    weights = {"a": torch.tensor([[3.0, -1.0, 2.0]]), "b": torch.tensor([[-5.0, 0.5, 2.5]])}
    masks = prune(Method(schedule=OneShot(0.5)), weights, 0.5)
    assert torch.equal(masks["a"], bools([1, 0, 0])) and torch.equal(masks["b"], bools([1, 0, 1]))


def test_uniform_pruning_ranks_each_tensor() -> None:
    weights = {"a": torch.tensor([[3.0, -1.0, 2.0, 9.0]]), "b": torch.tensor([[-0.5, 0.3, 0.2, 0.1]])}
    masks = prune(Method(schedule=OneShot(0.5), allocation="uniform"), weights, 0.5)
    assert torch.equal(masks["a"], bools([1, 0, 0, 1])) and torch.equal(masks["b"], bools([1, 1, 0, 0]))


def test_only_what_is_alive_competes() -> None:
    # a dead coordinate holds the largest value; with hard zeros it stays dead, with a latent flow it comes back
    weights, masks = {"w": torch.tensor([[9.0, 1.0, 2.0, 3.0]])}, {"w": bools([0, 1, 1, 1])}
    hard = prune(Method(schedule=OneShot(0.5)), weights, 0.5, masks)
    latent = prune(Method(schedule=OneShot(0.5), flow="straight-through"), weights, 0.5, masks)
    assert torch.equal(hard["w"], bools([0, 0, 1, 1])) and torch.equal(latent["w"], bools([1, 0, 0, 1]))


def test_a_larger_budget_grows_only_if_something_may_come_back() -> None:
    weights, masks = {"w": torch.tensor([[0.0, 1.0, 2.0, 0.0]])}, {"w": bools([0, 1, 1, 0])}
    stats = {"w": Stats(grad=torch.tensor([[1.0, 0.0, 0.0, 7.0]]))}
    nothing = prune(Method(schedule=OneShot(0.25)), weights, 0.25, masks, stats=stats)
    grown = prune(Method(schedule=OneShot(0.25), growth=GrowGradient()), weights, 0.25, masks, stats=stats)
    assert torch.equal(nothing["w"], masks["w"]) and torch.equal(grown["w"], bools([0, 1, 1, 1]))


def test_granet_step_is_a_global_prune_and_an_exchange() -> None:
    weights = {"a": torch.tensor([[3.0, -1.0, 2.0], [0.5, -4.0, 1.5]]), "b": torch.tensor([[0.2, 0.1, 0.3]])}
    stats = {"a": Stats(grad=torch.tensor([[0.0, 5.0, 0.0], [6.0, 0.0, 0.0]])), "b": Stats(grad=torch.ones(1, 3))}
    method = Method(schedule=OneShot(0.5), growth=GrowGradient(), exchange=EXCHANGE)
    pruned = prune(method, weights, 0.5, stats=stats)  # round(4.5) = 5 alive; every tensor keeps at least one
    assert torch.equal(pruned["a"], bools([1, 0, 1], [0, 1, 1])) and torch.equal(pruned["b"], bools([0, 0, 1]))
    got = topology.exchange(method, weights, pruned, stats, 0.5)
    # a: of four, 2 and 1.5 go; |g| 6 and 5 grow. b: its one weight goes and, all gradients equal, the first grows
    assert torch.equal(got["a"], bools([1, 1, 0], [1, 1, 0])) and torch.equal(got["b"], bools([1, 0, 0]))


def test_total_overrides_the_sparsity() -> None:
    weights = {"w": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    assert int(prune(Method(schedule=OneShot(0.9)), weights, 0.9, total=3)["w"].sum()) == 3


def test_first_uses_the_initial_words() -> None:
    weights = {"w": torch.arange(1.0, 101.0).view(10, 10)}
    method = Method(schedule=OneShot(0.5), initial="random")
    stats = {"w": Stats(generator=torch.Generator().manual_seed(3))}
    first = prune(method, weights, 0.5, stats=stats, first=True)["w"]
    draws = torch.rand(10, 10, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, draws >= draws.reshape(-1).topk(50).values[-1])
    assert torch.equal(prune(method, weights, 0.5)["w"], weights["w"] > 50)


def test_a_relaxed_pattern_is_reached_step_by_step() -> None:
    w = torch.tensor([[4.0, 3.0, 2.0, 1.0], [8.0, 7.0, 6.0, 5.0]])
    method = Method(schedule=OneShot(0.5), pattern="2:4")
    half_way = prune(method, {"w": w}, 0.25)["w"]  # six of eight: both best pairs, then the highest of the others
    assert torch.equal(half_way, bools([1, 1, 0, 0], [1, 1, 1, 1]))
    assert torch.equal(prune(method, {"w": w}, 0.5, {"w": half_way})["w"], bools([1, 1, 0, 0], [1, 1, 0, 0]))


def test_scores_are_reduced_once_and_must_be_finite() -> None:
    seen: list[Tensor] = []

    def reduce(t: Tensor) -> Tensor:
        seen.append(t)
        return t

    weights = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
    prune(Method(schedule=OneShot(0.5)), weights, 0.5, reduce=reduce)
    assert len(seen) == 2
    with pytest.raises(ScoreError, match="magnitude scores of 'b'"):
        prune(Method(schedule=OneShot(0.5)), {"a": weights["a"], "b": torch.tensor([[torch.inf, 1.0]])}, 0.5)


def test_a_budget_below_one_weight_a_layer_is_refused() -> None:
    weights = {n: torch.ones(1, 10) for n in "abc"}
    with pytest.raises(InfeasibleBudget, match="3 tensors must keep at least one"):
        prune(Method(schedule=OneShot(0.95)), weights, 0.95)
