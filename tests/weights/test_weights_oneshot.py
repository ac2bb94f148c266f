"""prune_ and keep_zeros: exact counts, nothing touched on refusal, zeros that stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import kept, pattern, select
from sparseland.core.errors import InfeasibleBudget, PatternError, ScoreError, TargetError

F = nn.functional


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 4))


TOTAL = 4 * 8 * 9 + 72 * 16 + 16 * 4


def data() -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 4, 5, 5, generator=g), torch.randint(4, (4,), generator=g)) for _ in range(2)]


NAMES = ["magnitude", "lamp", "random", "snip", "grasp", "synflow", "gmp", "rigl", "set", "granet", "imp"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
def test_counts_are_exact_and_nothing_stays_behind(name: str, sparsity: float) -> None:
    model = net()
    dense = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks = sl.prune_(model, sl.methods.build(name, sparsity=sparsity), data())
    assert masks.kept() == kept(TOTAL, sparsity) and masks.numel() == TOTAL
    for n, p in model.named_parameters():
        assert torch.equal(p, dense[n] * masks[n] if n in masks else dense[n])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["gmp", "rigl", "set", "granet", "imp"])
def test_the_criterion_decides_not_the_start(name: str) -> None:
    # RigL, SET and GraNet start at random; pruned once they are their drop criterion, magnitude
    model = net()
    dense = {n: p.detach().abs() for n, p in model.named_parameters()}
    masks = sl.prune_(model, sl.methods.build(name, sparsity=0.8))
    for n, m in masks.items():
        assert torch.equal(m, select(dense[n], int(m.sum())))


@pytest.mark.parametrize("rounds", [2, 7])
def test_rounds_end_at_the_same_count(rounds: int) -> None:
    one, many = net(), net()
    first = sl.prune_(one, sl.methods.SNIP(0.9), data())
    second = sl.prune_(many, sl.methods.SNIP(0.9, rounds=rounds), data())
    assert first.kept() == second.kept() == kept(TOTAL, 0.9) and first.digest() != second.digest()
    assert all(torch.equal(p[second[n]], q[second[n]]) for (n, p), q in _pairs(many, net()) if n in second)


def _pairs(one: nn.Module, two: nn.Module) -> Any:
    return zip(one.named_parameters(), two.parameters(), strict=True)


@pytest.mark.parametrize("text", ["2:4", "1:4", "block 4x1", "kernel", "row", "2:4 axis 0", "kernel 4x1"])
def test_patterns_hold(text: str) -> None:
    model = net()
    sparsity = 0.75 if text == "1:4" else 0.5
    masks = sl.prune_(model, sl.methods.Magnitude(sparsity, pattern=text))
    for n, m in masks.items():
        pattern(text).check(m, n)
    largest = max(pattern(text).step(m.shape) for m in masks.values())  # rows of three lengths: only nearly
    assert abs(masks.kept() - kept(TOTAL, sparsity)) < largest
    if text != "row":
        assert masks.kept() == kept(TOTAL, sparsity)


def odd() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 10), nn.Linear(10, 4))


def test_a_width_that_does_not_fit_is_named_and_nothing_is_touched() -> None:
    model = odd()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(PatternError, match=r"2:4 needs an input size divisible by 4; '1.weight' is \(10, 6\)"):
        sl.prune_(model, sl.methods.Magnitude(0.5, pattern="2:4"))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    masks = sl.prune_(model, sl.methods.Magnitude(0.5, pattern="2:4"), ignore=["1", "2"])
    assert list(masks) == ["0.weight"] and masks.sparsity() == 0.5
    assert all(torch.equal(p, q) for p, q in zip(model[1:].parameters(), before[2:], strict=True))


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, float("nan")])
def test_impossible_sparsities(sparsity: float) -> None:
    with pytest.raises(InfeasibleBudget, match="fraction of zeros"):
        sl.prune_(net(), sl.methods.Magnitude(sparsity))


def test_too_little_is_refused_before_anything_is_touched() -> None:
    model = net()
    with pytest.raises(InfeasibleBudget, match="3 tensors must keep at least one"):
        sl.prune_(model, sl.methods.Magnitude(0.9995))
    with pytest.raises(InfeasibleBudget, match="keeps at most 752"):
        sl.prune_(model, sl.methods.Magnitude(0.2, pattern="2:4"))
    with pytest.raises(ScoreError, match="must be measured on data"):
        sl.prune_(model, sl.methods.SNIP(0.5))
    assert all(torch.equal(p, q) for (_, p), q in _pairs(model, net()))


def test_scores_that_are_not_finite_are_refused() -> None:
    model = net()
    model[3].weight.data[0, 0] = float("nan")
    with pytest.raises(ScoreError, match=r"magnitude scores of '3.weight'.*1 NaN and 0 infinite"):
        sl.prune_(model, sl.methods.Magnitude(0.5))
    assert int(model[0].weight.count_nonzero()) == 288


def test_zero_sparsity_keeps_everything() -> None:
    model = net()
    assert sl.prune_(model, sl.methods.Magnitude(0.0)).kept() == TOTAL
    assert all(torch.equal(p, q) for (_, p), q in _pairs(model, net()))


def test_constant_tensors_give_one_answer() -> None:
    masks = []
    for _ in range(2):
        model = net()
        for p in model.parameters():
            nn.init.ones_(p)
        masks.append(sl.prune_(model, sl.methods.Magnitude(0.9)))
    assert masks[0].digest() == masks[1].digest() and masks[0].kept() == kept(TOTAL, 0.9)


def test_pruning_again_keeps_the_zeros_that_are_there() -> None:
    model = net()
    first = sl.prune_(model, sl.methods.Magnitude(0.8))
    second = sl.prune_(model, sl.methods.Magnitude(0.95))
    assert second.kept() == kept(TOTAL, 0.95) and all(bool((first[n] | ~second[n]).all()) for n in first)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_keep_zeros(kind: Any) -> None:
    model = net()
    masks = sl.prune_(model, sl.methods.Magnitude(0.9))
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.01)
    sp = sl.keep_zeros(model, optimizer)
    assert sp.masks.digest() == masks.digest() and sp.method.name == "keep-zeros"
    start = model[3].weight.detach().clone()
    for x, y in data():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert all(not t.param[~masks[n]].any() for n, t in sp.targets.items())
    assert not torch.equal(start, model[3].weight)
    sp.finalize_()
    assert not optimizer._optimizer_step_pre_hooks


def test_keep_zeros_of_transposed_layers_and_of_chosen_ones() -> None:
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(6, 4, 3))
    sl.prune_(model, sl.methods.Magnitude(0.5), targets="0")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sp = sl.keep_zeros(model, optimizer, targets="0.weight")
    model(torch.randn(2, 4, 5)).square().sum().backward()
    optimizer.step()
    assert int((model[0].weight == 0).sum()) == 36 == sp.masks.numel() - sp.masks.kept()


def test_nothing_to_keep() -> None:
    model = net()
    with pytest.raises(TargetError, match="none of the 1,504 weights .* is zero"):
        sl.keep_zeros(model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_pruning_again_ranks_only_what_is_alive(criterion: str) -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 8))
    method = sl.methods.Magnitude(0.5).replace(criterion=criterion)
    first = sl.prune_(net, method)
    with torch.no_grad():
        net[0].weight += 1.0  # also what is dead: it must not come back, however large
    second = sl.prune_(net, method.replace(schedule=sl.core.OneShot(0.8)), masks=first)
    assert second.kept() == sl.core.kept(768, 0.8)
    for name, mask in second.items():
        assert not bool((mask & ~first[name]).any())
        assert torch.equal(net.get_parameter(name) != 0, mask)
