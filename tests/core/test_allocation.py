"""Allocations: closed forms, exact totals under every pattern, the published FLOP ratios of ResNet-50."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland.core import (
    ER,
    ERK,
    LAMP,
    SNIP,
    ERKPlus,
    Global,
    Ratios,
    Stats,
    Uniform,
    UniformPlus,
    kept,
    pattern,
    select_many,
)
from sparseland.core.errors import InfeasibleBudget, PatternError, TargetError

CONVNET = {
    "conv1": (16, 4, 3, 3),
    "conv2": (32, 16, 3, 3),
    "short": (32, 16, 1, 1),
    "conv3": (64, 32, 3, 3),
    "fc": (12, 64),
}
MLP = {"a": (300, 784), "b": (100, 300), "c": (10, 100)}


def size(shapes):
    return sum(math.prod(s) for s in shapes.values())


def resnet50():
    """{name: ((out, in, k, k), output pixels)} of ResNet-50 at 224 x 224."""
    layers = {"conv1": ((64, 3, 7, 7), 112**2)}
    inp = 64
    for stage, (width, blocks, side) in enumerate([(64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)]):
        for b in range(blocks):
            first = side * 2 if stage and b == 0 else side  # v1.5: the stride is in the 3x3
            layers[f"{stage}.{b}.1"] = ((width, inp, 1, 1), first**2)
            layers[f"{stage}.{b}.2"] = ((width, width, 3, 3), side**2)
            layers[f"{stage}.{b}.3"] = ((4 * width, width, 1, 1), side**2)
            if b == 0:
                layers[f"{stage}.{b}.d"] = ((4 * width, inp, 1, 1), side**2)
            inp = 4 * width
    layers["fc"] = ((1000, 2048), 1)
    return layers


@pytest.mark.parametrize(
    ("rule", "sparsity", "published"), [(ERK(), 0.8, 0.42), (ERK(), 0.9, 0.24), (Uniform(), 0.8, 0.20)]
)
def test_flops_of_resnet50_match_the_rigl_table(rule, sparsity, published):
    net = resnet50()
    shapes = {n: s for n, (s, _) in net.items()}
    assert size(shapes) == 25_502_912  # 25.557 M with norms and the bias
    counts = rule(shapes, sparsity)
    assert sum(counts.values()) == kept(size(shapes), sparsity)
    dense = sum(math.prod(s) * pixels for s, pixels in net.values())
    sparse = sum(counts[n] * pixels for n, (_, pixels) in net.items())
    assert abs(sparse / dense - published) < 0.012


@pytest.mark.parametrize(
    ("rule", "shapes"),
    [(r, s) for r in (Uniform(), ER(), ERK(), ERKPlus(density=0.5), ERKPlus()) for s in (CONVNET, MLP)]
    + [(UniformPlus(), CONVNET)],
    ids=str,
)
@settings(max_examples=20, deadline=None)
@given(sparsity=st.floats(0, 0.93))
def test_totals_are_exact_and_densities_valid(rule, shapes, sparsity):
    counts = rule(shapes, sparsity)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == kept(size(shapes), sparsity)
    assert all(0 < counts[n] <= math.prod(shapes[n]) for n in shapes)


def test_erk_is_er_on_matrices():
    assert ERK()(MLP, 0.93) == ER()(MLP, 0.93)


def test_er_ignores_kernel_taps_and_erk_does_not():
    er, erk = ER()(CONVNET, 0.8), ERK()(CONVNET, 0.8)
    density = {n: (er[n] / math.prod(s), erk[n] / math.prod(s)) for n, s in CONVNET.items()}
    assert abs(density["conv2"][0] - density["short"][0]) < 0.01  # ER: 1x1 and 3x3 alike
    assert density["short"][1] > 2 * density["conv2"][1]


def test_dense_layer_fix_point_by_hand():
    shapes = {"small": (4, 4), "big": (100, 100)}
    # raw: 8/16 = .5 and 200/10000 = .02; K = 1002; eps = 1002 / (8 + 200) = 4.8 -> small is dense (16), big 986
    assert ERK()(shapes, 0.9) == {"small": 16, "big": 986}


def test_uniform_plus_and_erk_plus_protect_what_they_say():
    with pytest.raises(InfeasibleBudget, match="'a' \\(235,200\\)"):
        UniformPlus()(MLP, 0.95)  # the first layer alone passes the budget
    small = {"first": (8, 4), "mid": (64, 64), "last": (10, 64)}
    counts = UniformPlus()(small, 0.9)
    assert counts["first"] == 32 and counts["last"] == 128 and sum(counts.values()) == kept(size(small), 0.9)
    assert ERKPlus("last")(small, 0.8)["last"] == 640
    with pytest.raises(InfeasibleBudget, match=r"'last'.*'erk' or 'uniform'"):
        ERKPlus("last")(small, 0.9)
    with pytest.raises(TargetError, match=r"no tensor 'fc'.*last"):
        ERKPlus("fc")(small, 0.5)


def test_global_is_one_ranking():
    scores = {n: torch.rand(s) * (i + 1) for i, (n, s) in enumerate(CONVNET.items())}
    counts = Global()(CONVNET, 0.9, scores=scores)
    masks = select_many(scores, kept(size(CONVNET), 0.9))
    safe = sum(not masks[n].any() for n in CONVNET)  # tensors that the ranking would empty keep their best weight
    assert all(abs(counts[n] - int(masks[n].sum())) <= max(safe, 1) for n in CONVNET)
    assert sum(counts.values()) == kept(size(CONVNET), 0.9)


def test_no_tensor_is_emptied():
    scores = {"a": torch.rand(10, 10) + 100, "b": torch.rand(10, 10) * 1e-9}
    assert Global()({"a": (10, 10), "b": (10, 10)}, 0.9, scores=scores) == {"a": 19, "b": 1}


def test_lamp_against_a_plain_loop():
    g = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(s, generator=g) for n, s in {"a": (6, 5), "b": (3, 7)}.items()}
    ranked = []
    for n, s in scores.items():
        w = sorted(s.flatten().tolist())
        ranked += [(x * x / sum(y * y for y in w[i:]), n) for i, x in enumerate(w)]
    top = [n for _, n in sorted(ranked, reverse=True)[:20]]
    counts = LAMP()({n: tuple(s.shape) for n, s in scores.items()}, 1 - 20 / 51, scores=scores, total=20)
    assert counts == {"a": top.count("a"), "b": top.count("b")}


def test_ratios_reproduce_the_fractions_of_the_scores():
    shapes = {"a": (10, 10), "b": (20, 10)}
    g = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(s, generator=g) for n, s in shapes.items()}
    scores = {n: SNIP()(w, Stats(grad=torch.ones_like(w) * (1 if n == "a" else 2))) for n, w in weights.items()}
    assert Ratios(SNIP())(shapes, 0.7, scores=scores) == Global()(shapes, 0.7, scores=scores)


@pytest.mark.parametrize("text", ["2:4", "block 4x1", "block 2x2", "row", "column", "kernel"])
@pytest.mark.parametrize("rule", [Uniform(), ERK(), Global(), LAMP()])
def test_counts_fit_the_pattern(text, rule):
    p = pattern(text)
    shapes = CONVNET | {"fc": (12, 64)}
    scores = {n: torch.rand(s) for n, s in shapes.items()}
    counts = rule(shapes, 0.75, pattern=p, scores=scores)
    budget = kept(size(shapes), 0.75)
    for n, k in counts.items():
        assert p.step(shapes[n]) <= k <= p.capacity(shapes[n])
        assert int(p.project(scores[n], k).sum()) == k
    largest = max(p.step(s) for s in shapes.values())
    assert abs(sum(counts.values()) - budget) < largest
    if text == "2:4":
        assert sum(counts.values()) == budget


def test_alive_bounds():
    shapes = {"a": (10, 10), "b": (10, 10)}
    alive = {"a": torch.zeros(10, 10, dtype=torch.bool), "b": torch.ones(10, 10, dtype=torch.bool)}
    alive["a"][0, :3] = True
    assert Uniform()(shapes, 0.5, alive=alive) == {"a": 3, "b": 97}
    scores = {"a": torch.rand(10, 10) + 5, "b": torch.rand(10, 10)}
    assert Global()(shapes, 0.5, alive=alive, scores=scores) == {"a": 3, "b": 97}


def test_infeasible_budgets():
    with pytest.raises(InfeasibleBudget, match="at most 50"):
        Uniform()({"a": (10, 10)} | {}, 0.2, pattern=pattern("1:2"))
    with pytest.raises(InfeasibleBudget, match="at least one atom"):
        Uniform()({"a": (2, 2), "b": (2, 2)}, 0.9)
    with pytest.raises(PatternError, match="divisible by 4"):
        Uniform()({"a": (10, 10)}, 0.5, pattern=pattern("2:4"))
    with pytest.raises(InfeasibleBudget, match="scores"):
        Global()({"a": (10, 10)}, 0.5)
    with pytest.raises(TargetError, match="nothing"):
        Uniform()({}, 0.5)
    with pytest.raises(InfeasibleBudget, match="percentage"):
        Uniform()({"a": (10, 10)}, 90)
