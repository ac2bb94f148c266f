"""Thresholds, votes, scales and the penalty on them, against hand-made numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseland.core import MaskSet, OneShot
from sparseland.core.errors import MaskMismatch, RecipeError, TargetError
from sparseland.weights import Method, eligible
from sparseland.weights.channels import chosen
from sparseland.weights.penalty import Regularised, reach
from sparseland.weights.scales import check_masks, is_scale, norm_scales, warn_if_out_of_reach
from sparseland.weights.thresholds import Above, Energy, merge_votes

BN = nn.BatchNorm2d


def mask(text: str) -> torch.Tensor:
    return torch.tensor([c == "1" for c in text])


# ---------------------------------------------------------------------------------------------------------- thresholds
def test_energy_on_a_known_vector() -> None:
    """Σ s² = 5.02; shares 0.00199, 0.00398, 0.2032: the first above 0.01 is the third, so τ is midway of 0.1 and 1."""
    scores = torch.tensor([1.0, 0.1, 2.0, 0.1])
    assert Energy(0.01).threshold(scores) == pytest.approx(0.55)
    assert Energy(0.01)({"a": (4,)}, 0.0, scores={"a": scores}) == {"a": 2}
    assert Energy(0.001).survivors(scores) == 4  # not even the smallest may go


def test_energy_of_a_dead_layer_keeps_the_largest() -> None:
    scores = torch.tensor([1e-4, 9e-4, 2e-4])
    method = Method(allocation=Energy(), schedule=OneShot(0.5))
    assert chosen(method, {"bn": scores})["bn"].tolist() == [False, True, False]
    assert chosen(Method(allocation=Above(0.01), schedule=OneShot(0.5)), {"bn": scores})["bn"].int().tolist() == [
        0,
        1,
        0,
    ]


def test_thresholds_are_per_layer_and_leave_a_layer_whole() -> None:
    method = Method(allocation=Above(0.01), schedule=OneShot(0.5))
    found = chosen(method, {"a": torch.tensor([0.5, -0.02]), "b": torch.tensor([0.001, -0.3])})
    assert found["a"].tolist() == [True, True] and found["b"].tolist() == [False, True]
    assert Method.from_dict(method.to_dict()) == method


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_top_k_and_quantile_are_allocations(rule: str) -> None:
    scales = {"a": torch.tensor([0.9, 0.8, 0.7, 0.6]), "b": torch.tensor([0.4, 0.3, 0.2, 0.1])}
    found = chosen(Method(allocation=rule, schedule=OneShot(0.5)), scales)  # type: ignore[arg-type]
    kept = {n: int(m.sum()) for n, m in found.items()}
    assert kept == ({"a": 2, "b": 2} if rule == "uniform" else {"a": 3, "b": 1})  # every layer's best is safe


@pytest.mark.parametrize(
    ("word", "says"),
    [(lambda: Above(-1.0), "-1.0"), (lambda: Energy(0.0), "0.0"), (lambda: Energy(1.0), "1.0")],
)
def test_bad_thresholds(word: object, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        word()  # type: ignore[operator]


# --------------------------------------------------------------------------------------------------------------- votes
def test_votes_of_three_layers_by_hand() -> None:
    """Wishes 4, 3 and 2: votes 3,2,2,1,1,0; the most modest wants 2: q = 3 removes one, q = 2 three, and stops."""
    keeps = [mask("000011"), mask("000111"), mask("011101")]
    votes = sum((~k).int() for k in keeps)
    assert votes.tolist() == [3, 2, 2, 1, 1, 0]
    assert torch.equal(merge_votes(keeps), mask("000111"))
    assert torch.equal(merge_votes(keeps, "and"), mask("011111"))
    assert torch.equal(merge_votes(keeps, "or"), mask("000001"))
    assert torch.equal(merge_votes(keeps, "majority"), mask("000111"))


def test_votes_stop_where_the_most_modest_is_content() -> None:
    assert torch.equal(merge_votes([mask("1111"), mask("0001")]), mask("1111"))
    assert torch.equal(merge_votes([mask("0101")]), mask("0101"))


def test_bad_votes() -> None:
    with pytest.raises(RecipeError, match="'most'.*possible: and, majority, or, vote"):
        merge_votes([mask("01")], "most")
    with pytest.raises(MaskMismatch, match=r"lengths \[2, 3\]"):
        merge_votes([mask("01"), mask("011")])
    with pytest.raises(MaskMismatch, match="float32"):
        merge_votes([torch.ones(2)])


# -------------------------------------------------------------------------------------------------------------- scales
def test_scales_of_batch_group_and_instance_norms() -> None:
    net = nn.Sequential(BN(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4))
    assert list(norm_scales(net)) == ["0.weight", "1.weight", "2.weight"]
    assert list(eligible(net, is_scale)) == ["0.weight", "1.weight", "2.weight"]


@pytest.mark.parametrize(
    ("options", "says"), [({"affine": False}, "affine=False"), ({"track_running_stats": False}, "track")]
)
def test_a_batch_norm_that_cannot_be_ranked(options: dict[str, bool], says: str) -> None:
    with pytest.raises(TargetError, match=f"'0' is .*{says}.*possible: affine=True"):
        norm_scales(nn.Sequential(BN(4, **options)))


def test_no_norm_at_all() -> None:
    with pytest.raises(TargetError, match=r"its norms: LayerNorm\); possible: .*group-lasso"):
        norm_scales(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))


def test_masks_are_compared_before_anything_is_trained() -> None:
    scales = {"a": torch.ones(2), "b": torch.ones(3)}
    assert check_masks({"b": torch.ones(3), "a": torch.tensor([0, 1])}, scales)["a"].tolist() == [False, True]
    with pytest.raises(MaskMismatch, match="no mask for b; the scales are a, b"):
        check_masks({"a": torch.ones(2)}, scales)
    with pytest.raises(MaskMismatch, match="no scale for c"):
        check_masks({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}, scales)
    with pytest.raises(MaskMismatch, match="b: 4 for 3 channels"):
        check_masks({"a": torch.ones(2), "b": torch.ones(4)}, scales)
    with pytest.raises(MaskMismatch, match=r"'a' holds 0.5"):
        check_masks({"a": torch.tensor([0.5, 1.0]), "b": torch.ones(3)}, scales)


# ------------------------------------------------------------------------------------------------------------- penalty
@pytest.mark.parametrize(
    ("flow", "wanted"),
    [
        (Regularised(0.1), [0.0, -0.1, 0.1, 0.0]),
        (Regularised(0.1, "l2"), [0.0, -0.2, 0.05, 0.0]),
        (Regularised(0.1, "smooth-l1", knee=1.0), [0.0, -0.1, 0.05, 0.0]),
        (Regularised(0.1, everywhere=True), [0.1, -0.1, 0.1, 0.0]),
    ],
)
def test_only_what_shall_go_is_penalised(flow: Regularised, wanted: list[float]) -> None:
    """And sign(0) = 0: a scale that starts at zero is not moved."""
    scale = torch.tensor([3.0, -2.0, 0.5, 0.0])
    gradient = flow.grad(torch.zeros(4), scale, mask("1000"), 0)
    assert gradient.tolist() == pytest.approx(wanted)


def test_group_lasso_is_the_gradient_of_its_penalty() -> None:
    w = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    penalty = 0.3 * 18**0.5 * w.flatten(1).norm(dim=1).sum()
    (wanted,) = torch.autograd.grad(penalty, w)
    flow = Regularised(0.3, "group", everywhere=True)
    assert torch.allclose(flow.grad(torch.zeros_like(w), w.detach(), torch.zeros_like(w, dtype=torch.bool), 0), wanted)
    zero = torch.zeros(2, 3)
    assert flow.grad(zero, zero, zero.bool(), 0).isfinite().all()


def test_momentum_of_penalised_scales_is_left_alone() -> None:
    """A flow whose dead coordinates learn does not forget their momentum: two steps of SGD by hand."""
    net = nn.Sequential(BN(2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    keep = MaskSet({"0.weight": mask("10")})
    sparsifier = Method("m", flow=Regularised(0.2)).attach(net, optimizer, targets=is_scale, masks=keep)
    for _ in range(2):
        optimizer.zero_grad()
        (net[0].weight.sum() * 0.0).backward()
        optimizer.step()
    assert net[0].weight.tolist() == pytest.approx([1.0, 1 - 0.1 * 0.2 - 0.1 * (0.5 * 0.2 + 0.2)])
    sparsifier.finalize_()
    assert bool((net[0].weight != 0).all())  # nothing is zeroed: channels are removed later


@pytest.mark.parametrize(
    ("options", "says"),
    [({"strength": 0.0}, "strength is 0.0"), ({"norm": "l3"}, "norm is 'l3'"), ({"knee": -1.0}, "knee is -1.0")],
)
def test_bad_penalties(options: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Regularised(**options)  # type: ignore[arg-type]


def test_the_shrink_budget_bounds_what_really_moves() -> None:
    """Penalty alone, momentum and a falling learning rate: the scale moves by `reach` at most, and nearly by it."""
    rates = [0.1 * (1 - t / 200) for t in range(200)]
    w = nn.Parameter(torch.tensor([100.0]))
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    for lr in rates:
        optimizer.param_groups[0]["lr"] = lr
        w.grad = 0.01 * w.detach().sign()
        optimizer.step()
    most = reach(0.01, rates, 0.9)
    assert 0.9 * most < 100 - float(w.detach()) <= most


def test_a_penalty_out_of_reach_is_told_before_training() -> None:
    scales, masks = {"g": torch.tensor([1.0, 0.2])}, {"g": mask("01")}
    with pytest.warns(UserWarning, match=r"moves scales by 0.1 at most .* removed is 1; strength=0.015 would do"):
        warn_if_out_of_reach(scales, masks, 1e-3, [0.1] * 100, 0.9)
    warn_if_out_of_reach(scales, masks, 2e-2, [0.1] * 100, 0.9)  # in reach: no warning
    with pytest.raises(RecipeError, match="strength is -1"):
        warn_if_out_of_reach(scales, masks, -1, [0.1], 0.9)
