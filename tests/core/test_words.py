"""Words: frozen, comparable, lossless; schedules, growth, criteria and flows against hand arrays."""

import dataclasses
import math

import pytest
import torch

import sparseland.core as core
from sparseland.core import (
    SRSTE,
    Bidirectional,
    Constant,
    Cosine,
    Cubic,
    Fading,
    Frozen,
    GrowGradient,
    GrowMomentum,
    GrowNone,
    GrowRandom,
    Hard,
    Linear,
    MultiCycle,
    OneShot,
    Penalised,
    Shrinking,
    Stats,
    Steps,
    StraightThrough,
    pattern,
)
from sparseland.core.errors import InfeasibleBudget, PatternError, RecipeError, ScheduleError, ScoreError
from sparseland.core.word import Word

WORDS = [
    *(pattern(t) for t in ("unstructured", "2:4", "1:8 axis 0", "block 4x1", "row", "column", "kernel 4x1")),
    *(c() for c in (core.Magnitude, core.Random, core.Gradient, core.SNIP, core.GraSP, core.SynFlow, core.Movement)),
    core.Taylor(),
    core.Reversed(core.SNIP()),
    core.Uniform(),
    core.ER(power=0.5),
    core.ERK(),
    core.ERKPlus("fc", 0.3),
    core.UniformPlus(last_density=0.4),
    core.Global(),
    core.LAMP(),
    core.Ratios(core.GraSP()),
    Constant(0.3, every=7, end=0.75),
    OneShot(0.9, at=3, rounds=4),
    Cubic(0.9, initial=0.5, end=100, stop="before"),
    Linear(0.9, end=0.5),
    Cosine(0.0, initial=0.3),
    core.Quartic(0.0, initial=1.0),
    MultiCycle(Cubic(0.9, end=5), cycles=2, length=10),
    Steps((0.5, 0.75), at=(1, 2)),
    *(g() for g in (GrowNone, GrowRandom, GrowGradient, GrowMomentum, core.GrowScore)),
    *(f() for f in (Hard, StraightThrough, SRSTE, Shrinking, Penalised, Frozen, core.Product)),
    Fading(0.1, curve="linear", start=5),
    Bidirectional(pattern("1:4 axis 0"), 0.0),
]


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_lossless_frozen_and_comparable(word):
    family = type(word).family
    assert family.from_dict(word.to_dict()) == word
    assert family.from_dict(word.plain()) == word
    assert eval(repr(word), vars(core)) == word  # the text is our own repr
    assert hash(word) == hash(family.from_dict(word.to_dict())) and str(word)
    assert word.replace() == word
    with pytest.raises(dataclasses.FrozenInstanceError):
        word.anything = 1
    with pytest.raises(RecipeError, match="has no field 'pover'"):
        word.replace(pover=1)


def test_every_kind_is_covered():
    families = Word.__subclasses__()
    kinds = {k for f in families for k, word in f.registry.items() if word.__module__.startswith("sparseland.core")}
    assert kinds == {w.kind for w in WORDS}


@pytest.mark.parametrize(
    ("family", "data", "said"),
    [
        (core.Criterion, "magnitud", "did you mean 'magnitude'"),
        (core.Allocation, {"kind": "erk", "pover": 1}, "did you mean 'power'"),
        (core.Allocation, {"kind": "erk", "power": "x"}, "erk.power is 'x'"),
        (core.Schedule, {"kind": "cubic"}, "fields: value"),
        (core.Schedule, {"kind": "cubic", "value": float("nan")}, "nan"),
        (core.Schedule, 7, "not 7"),
        (core.Growth, core.Magnitude(), "is a Criterion, not a Growth"),
        (core.Flow, {"kind": "fading", "rate": 0.1, "curve": "square"}, "possible: exponential, linear"),
    ],
)
def test_bad_descriptions(family, data, said):
    with pytest.raises(RecipeError, match=said):
        family.from_dict(data)


# --- schedules -------------------------------------------------------------------------------------------------------


def test_updates_hit_the_end_exactly():
    s = Cubic(0.9, initial=0.5, start=10, end=95, every=20)
    times = [t for t in range(200) if s(t) is not None]
    assert times == [10, 30, 50, 70, 90, 95]
    assert s(10) == 0.5 and s(95) == 0.9
    assert s(50) == pytest.approx(0.9 + (0.5 - 0.9) * (1 - 40 / 85) ** 3)
    assert Cubic(0.9, end=100, every=10, stop="before")(100) is None


def test_curves_by_hand():
    assert Linear(0.8, end=4)(1) == pytest.approx(0.2)
    assert Cosine(0.005, initial=0.5, end=10)(5) == pytest.approx((0.5 + 0.005) / 2)
    assert [MultiCycle(Linear(0.5, end=2), 2, 3)(t) for t in range(7)] == [0.0, 0.25, 0.5, 0.0, 0.25, 0.5, None]
    assert OneShot(0.9, rounds=2).parts() == [pytest.approx(1 - math.sqrt(0.1)), 0.9]


def test_fractions_need_the_length_of_the_run():
    assert Cubic(0.9, start=0.1, end=0.5).resolve(1000) == Cubic(0.9, start=100, end=500)
    assert Cosine(0.0).resolve(50).end == 50
    assert Constant(0.3).resolve(None).end is None
    with pytest.raises(ScheduleError, match=r"fraction 0.5.*steps="):
        Cubic(0.9, end=0.5).resolve(None)
    with pytest.raises(ScheduleError, match="holds fractions"):
        Cubic(0.9, end=0.5)(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cubic(0.9, end=2000).resolve(1000), r"step 2000, beyond the end of the run \(1000 steps\)"),
        (lambda: OneShot(0.9, at=2000).resolve(1000), "beyond"),
        (lambda: Steps((0.5,), at=(2000,)).resolve(1000), "beyond"),
        (lambda: MultiCycle(OneShot(0.5), 3, 500).resolve(1000), "beyond"),
        (lambda: Cubic(0.9, start=50, end=20), "end 20 lies before start 50"),
        (lambda: Cubic(0.9, end=50, every=100).resolve(1000), "shorter than one interval"),
        (lambda: Cubic(0.9, end=50, every=0), "every is 0"),
        (lambda: Cubic(0.9, end=1.5).resolve(100), "1.5"),
        (lambda: Steps((0.1, 0.2), at=(3, 2)), "rising"),
        (lambda: OneShot(0.9, rounds=0), "rounds is 0"),
    ],
)
def test_schedules_that_do_not_fit(make, said):
    with pytest.raises(ScheduleError, match=said):
        make()


# --- criteria and growth ---------------------------------------------------------------------------------------------


def test_criteria_by_hand():
    w, g = torch.tensor([1.0, -2, 3]), torch.tensor([4.0, 0.5, -1])
    assert core.Gradient()(w, Stats(grad=g)).tolist() == [4, 0.5, 1]
    assert core.SNIP()(w, Stats(grad=g)).tolist() == [4, 1, 3]
    assert core.GraSP()(w, Stats(hessian_grad=g)).tolist() == [4, -1, -3]
    assert core.SynFlow()(w, Stats(synflow=g)).tolist() == [4, 1, 3]
    assert core.Reversed()(w, Stats()).tolist() == [-1, -2, -3]
    g1, g2 = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(core.Random()(w, Stats(generator=g1)), core.Random()(w, Stats(generator=g2)))
    with pytest.raises(ScoreError, match="snip needs the statistic 'grad'"):
        core.SNIP()(w, Stats())
    with pytest.raises(ScoreError, match="generator"):
        core.Random()(w, Stats())


def test_growth_by_hand():
    mask = torch.tensor([[True, False, False, False], [False, False, False, True]])
    stats = Stats(grad=torch.arange(8.0).view(2, 4), momentum=-torch.arange(8.0).view(2, 4))
    grown = GrowGradient()(mask, torch.zeros(2, 4), stats, 2)
    assert grown.int().tolist() == [[1, 0, 0, 0], [0, 1, 1, 1]]
    assert torch.equal(GrowMomentum()(mask, torch.zeros(2, 4), stats, 2), grown)
    grown = GrowGradient()(mask, torch.zeros(2, 4), stats, 2, pattern("2:4"))
    assert grown.int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert torch.equal(GrowNone()(mask, torch.zeros(2, 4), stats, 2), mask)
    assert int(GrowRandom()(mask, mask, Stats(generator=torch.Generator()), 3).sum()) == 5
    with pytest.raises(PatternError, match="cannot keep 9 of the 8"):
        GrowGradient()(mask, torch.zeros(2, 4), stats, 7)
    with pytest.raises(InfeasibleBudget, match="-1"):
        GrowGradient()(mask, torch.zeros(2, 4), stats, -1)


# --- flows: forward, backward value, own gradient, update, on hand arrays ---------------------------------------------

W = torch.tensor([1.0, -2.0, 3.0])
G = torch.tensor([0.5, 0.5, 0.5])
M = torch.tensor([True, False, True])
B = torch.tensor([9.0, 8.0, 7.0])
FLOWS = {
    Hard(): ([1, -2, 3], [1, -2, 3], [0.5, 0.5, 0.5], [1, 0, 3]),
    StraightThrough(): ([1, 0, 3], [1, 0, 3], [0.5, 0.5, 0.5], [1, -2, 3]),
    StraightThrough(dead=0.0): ([1, 0, 3], [1, 0, 3], [0.5, 0, 0.5], [1, 8, 3]),
    SRSTE(0.1): ([1, 0, 3], [1, 0, 3], [0.5, 0.3, 0.5], [1, -2, 3]),
    Fading(0.25, curve="linear"): ([1, -1, 3], [1, -1, 3], [0.5, 0.5, 0.5], [1, -2, 3]),
    Fading(0.25, curve="linear", gradient="exact"): ([1, -1, 3], [1, -1, 3], [0.5, 0.25, 0.5], [1, -2, 3]),
    Fading(math.log(2) / 2): ([1, -1, 3], [1, -1, 3], [0.5, 0.5, 0.5], [1, -2, 3]),
    Shrinking(0.5): ([1, -2, 3], [1, -2, 3], [0.5, 0.5, 0.5], [1, -1, 3]),
    Shrinking(0.5, until=2): ([1, -2, 3], [1, -2, 3], [0.5, 0.5, 0.5], [1, 0, 3]),
    Penalised(0.1): ([1, -2, 3], [1, -2, 3], [0.5, 0.3, 0.5], [1, -2, 3]),
    Penalised(0.1, norm="l1", ramp=0.05): ([1, -2, 3], [1, -2, 3], [0.5, 0.3, 0.5], [1, -2, 3]),
    Frozen(): ([1, -2, 3], [1, -2, 3], [0.5, 0, 0.5], [1, 8, 3]),
}


@pytest.mark.parametrize("flow", FLOWS, ids=repr)
def test_flow_functions_by_hand(flow):
    forward, backward, grad, update = FLOWS[flow]
    step = 2
    for got, want in [
        (flow.forward(W, M, step), forward),
        (flow.backward(W, M, step), backward),
        (flow.grad(G, W, M, step), grad),
        (flow.update(W, B, M, step), update),
    ]:
        assert torch.allclose(got, torch.tensor(want, dtype=torch.float), atol=1e-6), (got, want)


def test_bidirectional_uses_a_second_mask_along_the_other_axis():
    flow = Bidirectional(pattern("1:2 axis 0"), decay=0.1)
    w = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    m = torch.tensor([[False, True], [True, False]])
    assert flow.forward(w, m, 0).tolist() == [[0, -4], [3, 0]]
    assert flow.backward(w, m, 0).tolist() == [[0, -4], [3, 0]]
    w = torch.tensor([[1.0, 4.0], [3.0, 5.0]])
    assert flow.backward(w, m, 0).tolist() == [[0, 0], [3, 5]]  # best of each column
    assert torch.allclose(flow.grad(torch.zeros(2, 2), w, m, 0), torch.tensor([[0.1, 0.0], [0.0, 0.5]]))


def test_which_flows_need_what():
    assert not Hard().latent and not Hard().two_way and Hard().zeros
    assert StraightThrough().latent and SRSTE().latent and Fading(0.1).latent
    assert Bidirectional().two_way and not Frozen().zeros and not Shrinking().latent
    assert Fading(0.1, start=0.5).resolve(10).start == 5 and Shrinking(until=0.5).resolve(10).until == 5


def test_hard_leaves_no_negative_zero_and_kills_nan():
    out = Hard().update(torch.tensor([-1.0, float("nan"), 2.0]), B, torch.tensor([False, False, True]), 0)
    assert out.tolist() == [0.0, 0.0, 2.0] and not torch.signbit(out).any()
