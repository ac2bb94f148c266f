"""From densities to widths: equal counts, the three rules, budgets that are met, and cropping in place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import InfeasibleBudget, RecipeError, ScoreError, TargetError
from sparseland.weights import eligible, structure
from sparseland.weights.cropping import crop_, crop_widths, densities, edges_of
from sparseland.weights.methods import PreCropping
from sparseland.weights.widths import Edge, EqualCount, fit_widths, real_widths

IMAGE = torch.zeros(1, 3, 16, 16)
NETS = {
    "resnet-8": {"width": 16, "shortcut": "B"},
    "resnet-14": {"width": 16},
    "vgg-d": {},
    "mobilenet-v2-0.5": {},
}


def net(name: str, shape: tuple[int, int, int] = (3, 16, 16)) -> nn.Module:
    size = {"vgg-d": (3, 32, 32)}.get(name, shape)
    return sl.zoo.build(name, in_shape=size, classes=10, seed=0, **NETS.get(name, {}))


def example(name: str) -> torch.Tensor:
    return torch.zeros(1, 3, 32, 32) if name == "vgg-d" else IMAGE


# -------------------------------------------------------------------------------------------------------- equal counts
def test_unsaturated_layers_keep_the_same_number() -> None:
    shapes = {"a": (10, 30), "b": (50, 40), "c": (100, 90), "d": (3, 4)}
    counts = EqualCount()(shapes, 0.8)
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    free = [c for n, c in counts.items() if c < sizes[n]]
    assert max(free) - min(free) <= 1 and sum(counts.values()) == round(0.2 * sum(sizes.values()))
    assert all(counts[n] == sizes[n] for n in sizes if sizes[n] < min(free))


def test_equal_counts_are_the_optimum_of_the_sum_of_logs() -> None:
    """Against brute force over a grid: no other split of the budget has a larger Σ log p."""
    sizes, budget = {"a": 10, "b": 40, "c": 100}, 60
    ours = EqualCount()({n: (s,) for n, s in sizes.items()}, 0.6)
    best = max(
        (math.log(a / 10) + math.log(b / 40) + math.log((budget - a - b) / 100), a, b)
        for a in range(1, 11)
        for b in range(1, 41)
        if 0 < budget - a - b <= 100
    )
    assert (ours["a"], ours["b"]) == best[1:]


# --------------------------------------------------------------------------------------------------------------- rules
MLP = [Edge("1", "a", None), Edge("2", "b", "a"), Edge("3", "c", "b"), Edge("4", None, "c")]
SIZES = {"a": 512, "b": 512, "c": 512}
FOUND = {"1": 0.087, "2": 0.085, "3": 0.122, "4": 0.824}  # the card's densities of SynFlow at p = 0.10


def parameters(w: dict[str, float]) -> float:
    return 784 * w["a"] + w["a"] * w["b"] + w["b"] * w["c"] + w["c"] * 10


def test_the_chain_rule_matches_counts_and_oscillates() -> None:
    """784-512-512-512-10: the card's trial found 44-504-63."""
    widths = real_widths(MLP, SIZES, FOUND, "chain")
    assert widths["a"] == pytest.approx(44.5, abs=0.5) and 490 < widths["b"] < 510 and 60 < widths["c"] < 68
    assert 784 * widths["a"] == pytest.approx(0.087 * 784 * 512)
    assert widths["a"] * widths["b"] == pytest.approx(0.085 * 512 * 512)


def test_the_square_root_alone_keeps_too_much_and_the_factor_mends_it() -> None:
    """18 % instead of 10 % in the card's trial: the ends of the net scale with √p only."""
    total = parameters(SIZES)
    widths = real_widths(MLP, SIZES, FOUND, "sqrt")
    assert widths["a"] == pytest.approx(512 * 0.087**0.5)
    assert 0.17 < parameters(widths) / total < 0.19
    whole = fit_widths(widths, SIZES, 0.1 * total, lambda w: int(parameters(w)))
    assert parameters(whole) / total == pytest.approx(0.1, abs=0.001)
    shares = [whole[g] / widths[g] for g in SIZES]
    assert max(shares) / min(shares) < 1.05  # one factor for all, up to a channel


def test_least_squares_lies_between() -> None:
    root, chain = real_widths(MLP, SIZES, FOUND, "sqrt"), real_widths(MLP, SIZES, FOUND, "chain")
    damped = real_widths(MLP, SIZES, FOUND, "least-squares")
    assert root["b"] < damped["b"] < chain["b"]
    nearly = real_widths(MLP, SIZES, FOUND, "least-squares", ridge=1e6)
    assert nearly == pytest.approx(root, rel=1e-3)

    def miss(w: dict[str, float]) -> float:  # of the counts, in logs
        wished = {"1": w["a"] / 512, "2": w["a"] * w["b"] / 512**2, "3": w["b"] * w["c"] / 512**2, "4": w["c"] / 512}
        return sum(math.log(v / FOUND[n]) ** 2 for n, v in wished.items())

    assert miss(damped) < miss(root)


def test_bad_rules_and_budgets() -> None:
    with pytest.raises(RecipeError, match="'root'.*possible: chain, least-squares, sqrt"):
        real_widths(MLP, SIZES, FOUND, "root")
    with pytest.raises(InfeasibleBudget, match=r"at least 4 channels a layer\) costs 3,208; the budget is 100"):
        fit_widths(SIZES, SIZES, 100, lambda w: int(parameters(w)), least=4)


# ------------------------------------------------------------------------------------------------------------ cropping
@pytest.mark.parametrize("p", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("name", ["resnet-8", "resnet-14", "mobilenet-v2-0.5"])
def test_parameters_are_met_and_the_net_runs(name: str, p: float) -> None:
    model = net(name)
    before = sum(q.numel() for q in model.parameters())
    found = dict.fromkeys(eligible(model), p)
    plan = crop_(model, p, example(name), found, least=2)
    after = sum(q.numel() for q in model.parameters())
    assert after / before == pytest.approx(p, rel=0.01)
    assert plan.after[1] == after
    loss = model(torch.randn(2, 3, 16, 16)).square().sum()
    loss.backward()
    assert all(q.grad is not None for q in model.parameters())


def test_flops_can_be_the_budget_and_widths_multiples() -> None:
    model = net("resnet-8")
    graph = structure.trace(model, IMAGE)
    shares = dict.fromkeys(eligible(model), 0.25)
    widths = crop_widths(graph, model, 0.25, shares, budget="flops")
    assert graph.flops(widths) / graph.flops() == pytest.approx(0.25, rel=0.03)
    widths = crop_widths(graph, model, 0.25, shares, round_to=4)
    assert all(w % 4 == 0 and w >= 4 for w in widths.values())


def test_coupled_layers_share_a_width() -> None:
    model = net("resnet-8")
    crop_(model, 0.25, IMAGE, densities(model, PreCropping(0.75, rounds=5), IMAGE))
    for stage in ("layer2", "layer3"):
        block = getattr(model, stage)[0]
        assert block.conv2.out_channels == block.shortcut.conv.out_channels == block.bn2.num_features
    mobile = net("mobilenet-v2-0.5")
    crop_(mobile, 0.5, IMAGE, dict.fromkeys(eligible(mobile), 0.5))
    for block in mobile.layers:
        assert block.depthwise.in_channels == block.depthwise.out_channels == block.depthwise.groups


def test_densities_are_those_of_the_masks_and_leave_the_model_alone() -> None:
    model = net("resnet-8")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = densities(model, PreCropping(0.9, rounds=20), IMAGE)
    sizes = {n: t.param.numel() for n, t in eligible(model).items()}
    kept = sum(found[n] * s for n, s in sizes.items())
    assert kept == pytest.approx(0.1 * sum(sizes.values()), abs=1)
    assert all(torch.equal(before[n], t) and t.dtype == before[n].dtype for n, t in model.state_dict().items())
    equal = densities(model, PreCropping(0.9, allocation="equal-count"), IMAGE)
    counts = [round(equal[n] * s) for n, s in sizes.items() if equal[n] < 1]
    assert max(counts) - min(counts) <= 1


def test_synflow_in_float64_outlives_float32() -> None:
    """Forty layers without norms: |w| products pass 3.4e38."""
    layers = [m for _ in range(40) for m in (nn.Linear(64, 64), nn.ReLU())]
    deep = nn.Sequential(*layers, nn.Linear(64, 10))
    with torch.no_grad():
        for m in deep:
            if isinstance(m, nn.Linear):
                m.weight.normal_(0, 0.3)
    sample = torch.zeros(1, 64)
    twin = [m.weight.detach().abs() for m in deep if isinstance(m, nn.Linear)]
    signal = torch.ones(64)
    for w in twin:
        signal = w @ signal
    assert not torch.isfinite(signal.sum())
    found = densities(deep, PreCropping(0.5, rounds=3), sample)
    assert min(found.values()) > 0


def test_the_first_draw_is_that_of_the_narrow_net() -> None:
    """Scaled by √(fan-in before / after): the spread He's initialisation would give the new fan-in."""
    model = sl.zoo.build("mlp-512-512", in_shape=(1, 16, 16), classes=10, seed=0, init="he")
    crop_(model, 0.25, torch.zeros(1, 1, 16, 16), dict.fromkeys(eligible(model), 0.25))
    for layer in (model.fc2, model.fc3):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
    model = sl.zoo.build("mlp-512-512", in_shape=(1, 16, 16), classes=10, seed=0)  # torch's own
    crop_(model, 0.25, torch.zeros(1, 1, 16, 16), dict.fromkeys(eligible(model), 0.25))
    bound = model.fc2.in_features**-0.5
    assert 0.95 * bound < float(model.fc2.weight.detach().abs().max()) <= bound + 1e-6
    assert 0.9 * bound < float(model.fc2.bias.detach().abs().max()) <= bound + 1e-6
    sliced = sl.zoo.build("mlp-512-512", in_shape=(1, 16, 16), classes=10, seed=0)
    draw = sliced.fc2.weight.detach().clone()
    crop_(sliced, 0.25, torch.zeros(1, 1, 16, 16), dict.fromkeys(eligible(sliced), 0.25), init="slice")
    out, into = sliced.fc2.weight.shape
    assert torch.equal(sliced.fc2.weight, draw[:out, :into])


class Knot(nn.Module):
    """An operation on channels that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).mean((2, 3))
        return self.b(torch.linalg.qr(x.T @ x)[0][:1] + x)


def test_bad_input() -> None:
    model = net("resnet-8")
    shares = dict.fromkeys(eligible(model), 0.5)
    for p in (0, -0.1, 1.5, True):
        with pytest.raises(InfeasibleBudget, match="possible: above 0, up to 1"):
            crop_(model, p, IMAGE, shares)
    with pytest.raises(InfeasibleBudget, match="cannot grow in place"):
        crop_(model, 1.5, IMAGE, shares, expand=True)
    with pytest.raises(InfeasibleBudget, match=r"the narrowest net \(at least 4 channels a layer\) costs"):
        crop_(model, 0.001, IMAGE, shares)
    with pytest.raises(RecipeError, match="'he'"):
        crop_(model, 0.5, IMAGE, shares, init="he")
    with pytest.raises(RecipeError, match="'macs'"):
        crop_(model, 0.5, IMAGE, shares, budget="macs")
    model.train()(torch.randn(2, 3, 16, 16))  # BatchNorm has seen a batch
    with pytest.raises(TargetError, match=r"num_batches_tracked is 1\).*discard=True"):
        crop_(model, 0.5, IMAGE, shares)
    assert crop_(model, 0.5, IMAGE, shares, discard=True).after[1] < 0.51 * 78042
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    with pytest.raises(TargetError, match=r"'0.weight' is also '2.weight'"):
        crop_(tied, 0.5, torch.zeros(1, 8), {"0.weight": 0.5})


def test_an_operation_that_cannot_be_followed_is_named() -> None:
    knot = Knot()
    with pytest.raises(TargetError, match="cannot be cropped: .*could not be followed"):
        crop_(knot, 0.5, torch.zeros(1, 3, 4, 4), dict.fromkeys(eligible(knot), 0.5))


def test_a_signal_that_dies_is_told() -> None:
    dead = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(dead[0].weight)
    nn.init.zeros_(dead[0].bias)
    with pytest.raises(ScoreError, match=r"SynFlow's signal is 0 \(in float64\)"):
        densities(dead, PreCropping(0.5, rounds=2), torch.zeros(1, 8))


def test_wider_layers_are_told_not_built() -> None:
    """PreConfig: the same parameters, spread otherwise; some layers want more channels than the net has."""
    model = net("resnet-8")
    graph = structure.trace(model, IMAGE)
    shares = {n: (0.9 if "layer3" in n else 0.99) for n in eligible(model)}
    widths = crop_widths(graph, model, 1.2, shares, expand=True)
    built = sl.zoo.build("resnet-8", in_shape=(3, 16, 16), classes=10, seed=0, width=32, shortcut="B")
    doubled = structure.trace(built, IMAGE)  # the same formula on a net that is wide enough
    assert doubled.params(widths) / graph.params() == pytest.approx(1.2, rel=0.01)
    assert any(widths[g.name] > g.size for g in graph.prunable)


def test_edges_name_both_ends() -> None:
    mlp = sl.zoo.build("mlp-8-8", in_shape=(1, 4, 4), classes=3, seed=0)
    edges = edges_of(structure.trace(mlp, torch.zeros(1, 1, 4, 4)), mlp)
    assert [(e.name, e.out, e.into) for e in edges] == [
        ("fc1.weight", "fc1", None), ("fc2.weight", "fc2", "fc1"), ("fc3.weight", None, "fc2"),
    ]  # fmt: skip
