"""ISS-P: the shrink by hand, its two ends (IHT, one shot), exact counts, masks that move and then stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.core import Shrinking
from sparseland.core.errors import InfeasibleBudget, PatternError, RecipeError, ScheduleError
from sparseland.pixels.super_resolution import EDSR, Patches, SwinIR, bundled_photos, pair
from sparseland.weights.methods import ISSP, GReg, Magnitude
from sparseland.weights.targets import eligible

STEPS, STAGE = 24, 12


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 4, 3, padding=1))


def loss(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    return F.l1_loss(model(x), x.roll(1, 2).expand(-1, 4, -1, -1))


def trained(
    method: sl.Method | None, watch: Callable[[int, nn.Module], None] | None = None, lr: float = 0.02
) -> tuple[nn.Module, sl.Sparsifier | None, torch.optim.Optimizer]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    sp = method.attach(model, optimizer, steps=STEPS) if method is not None else None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
        if watch is not None:
            watch(step + 1, model)
    return model, sp, optimizer


def small(w: Tensor, p: float) -> Tensor:
    """U: the ⌈p n⌉ smallest |w|, by sorting."""
    u = torch.zeros(w.numel(), dtype=torch.bool)
    u[w.abs().flatten().argsort(stable=True)[: math.ceil(round(p * w.numel(), 9))]] = True
    return u.view_as(w)


def by_hand(p: float, alpha: float, ramp: float | None = None, *, fixed: bool = False, every: int = 1) -> list[Tensor]:
    """The card's two stages; with ``ramp`` ISS-R, with ``fixed`` U is chosen once, before the first step."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.9, 0.99))
    weights = [m.weight for m in model if isinstance(m, nn.Conv2d)]
    dead = [small(w.detach(), p) if fixed else torch.zeros_like(w, dtype=torch.bool) for w in weights]
    for k in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(model, k - 1).backward()
        with torch.no_grad():
            if ramp is not None:
                for w, u in zip(weights, dead, strict=True):
                    w.grad += ramp * (k - 1) * w * u
            optimizer.step()
            for i, w in enumerate(weights):
                if not fixed and k <= STAGE and ((k - 1) % every == 0 or k == STAGE):
                    dead[i] = small(w, p)
                if k >= STAGE:
                    w[dead[i]] = 0
                elif ramp is None:
                    w[dead[i]] = alpha * w[dead[i]]
    return [w.detach() for w in weights]


def weights_of(model: nn.Module) -> list[Tensor]:
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d)]


def same(model: nn.Module, other: list[Tensor]) -> None:
    for one, two in zip(weights_of(model), other, strict=True):
        assert torch.equal(one, two), float((one - two).abs().max())


# ------------------------------------------------------------------------------------------------------ the equations
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("every", [1, 5])
def test_it_is_the_card_s_loop(alpha: float, every: int) -> None:
    """alpha = 0 is iterative hard thresholding: w_U <- 0, and what dense gradients move may come back."""
    model, _, _ = trained(ISSP(0.9, factor=alpha, end=STAGE, every=every))
    same(model, by_hand(0.9, alpha, every=every))


def test_without_shrinking_it_is_dense_training_and_one_shot() -> None:
    with pytest.warns(UserWarning, match="no shrink"):
        method = ISSP(0.9, factor=1.0, end=STAGE)
    one, _, _ = trained(method)
    two, _, _ = trained(Magnitude(0.9, at=STAGE, allocation="uniform"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_penalty_variant_and_the_penalty_of_assl_and_srp() -> None:
    model, _, _ = trained(ISSP(0.9, variant="penalty", ramp=0.05, end=STAGE))
    same(model, by_hand(0.9, 0.0, ramp=0.05))
    model, sp, _ = trained(GReg(0.9, ramp=0.05, end=STAGE))
    same(model, by_hand(0.9, 0.0, ramp=0.05, fixed=True))
    assert sp is not None and len(sp.history) == 1  # chosen once


def test_iterative_hard_thresholding_is_not_stuck_with_its_first_zeros() -> None:
    """Where ranking came after zeroing, zeros would stay the smallest for ever."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 0.5, 0.2, 0.1]]))
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    sp = ISSP(0.5, factor=0.0, end=3).attach(layer, optimizer, steps=9)
    layer.weight.grad = torch.tensor([[0.0, 0.0, 0.0, -0.6]])
    optimizer.step()
    assert torch.allclose(layer.weight, torch.tensor([[1.0, 0.0, 0.0, 0.7]]))
    layer.weight.grad = torch.tensor([[0.0, -0.9, 0.0, 0.0]])
    optimizer.step()
    assert torch.allclose(layer.weight, torch.tensor([[1.0, 0.9, 0.0, 0.0]])) and sp.masks.kept() == 2


# -------------------------------------------------------------------------------------------------------------- counts
def test_counts_are_exact_at_every_step_and_zeros_come_at_the_end() -> None:
    sizes, seen = [90, 360], []
    method = ISSP(0.9, end=STAGE)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    sp = method.attach(model, optimizer, steps=STEPS)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
        dead = [int((~m).sum()) for m in sp.masks.values()]
        assert dead == [math.ceil(0.9 * n) for n in sizes]
        zeros = [int((w == 0).sum()) for w in weights_of(model)]
        assert zeros == (dead if step >= STAGE else [0, 0])
        seen.append(sp.masks.clone())
    flips = [one.churn(two) for one, two in pairwise(seen)]
    assert any(flips[: STAGE - 1]) and not any(flips[STAGE - 1 :])  # masks move in stage 1, and never in stage 2
    sp.finalize_()
    assert [int((w == 0).sum()) for w in weights_of(model)] == [81, 324]


def test_ties_at_zero_do_not_change_the_count() -> None:
    layer = nn.Linear(10, 10, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sp = ISSP(0.95, end=2).attach(layer, optimizer, steps=5)
    for _ in range(3):
        layer.weight.grad = torch.zeros(10, 10)
        optimizer.step()
        assert sp.masks.kept() == 5


def test_moments_are_carried_over_and_norms_biases_and_tables_are_left_alone() -> None:
    _, sp, optimizer = trained(ISSP(0.9, end=STAGE))
    assert sp is not None
    for name, target in sp.targets.items():
        assert bool(optimizer.state[target.param]["exp_avg"][~sp.masks[name]].any())  # the paper's code keeps them
    names = set(eligible(SwinIR(2, embed=12, depths=(2,), heads=(2,), window=4)))
    assert len(names) == 4 + 2 * 4  # convolutions: first, group, last, upsample; per layer qkv, proj and two of the MLP
    assert not [n for n in names if "norm" in n or n.endswith("bias")]


def test_flips_fall_and_stop_on_photographs() -> None:
    """The card's net on scikit-learn's photographs, short: U moves while weights shrink, ever less, then not at all."""
    pytest.importorskip("sklearn")
    patches = Patches([pair(photo, 2) for photo in bundled_photos(crop=2)], 16)
    torch.manual_seed(0)
    model, stage = EDSR(2, channels=1, features=20, blocks=1, light=True, skip="bicubic"), 80
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    sp = ISSP(0.95, end=stage).attach(model, optimizer, steps=110)
    drawn, losses = torch.Generator().manual_seed(0), []
    for _ in range(110):
        low, high = patches.batch(4, drawn)
        optimizer.zero_grad()
        found = F.l1_loss(model(low), high)
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    churn = [entry["churn"] for entry in sp.history if entry["step"] > 1]
    assert len(churn) == stage - 1  # nothing moves later
    assert sum(churn[:20]) > sum(churn[20:]) > 0
    dead = [int((~m).sum()) for m in sp.masks.values()]
    assert dead == [math.ceil(round(0.95 * m.numel(), 9)) for m in sp.masks.values()] == [171, 3420, 3420, 3420, 684]
    assert sum(losses[-20:]) < sum(losses[:20])


def test_n_of_m() -> None:
    """Along the input channels, not across the taps of a kernel as in the paper's code."""
    model = net()[2]  # [4, 10, 3, 3]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ISSP(0.8, end=3, pattern="2:10").attach(model, optimizer, steps=6)
    for step in range(6):
        optimizer.zero_grad()
        model(torch.randn(2, 10, 6, 6, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
        assert bool(((model.weight != 0).sum(1) == (2 if step >= 2 else 10)).all())


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: ISSP(factor=-0.1), RecipeError, r"shrinking\.factor is -0\.1; possible: 0 .* 1"),
        (lambda: ISSP(factor=1.01), RecipeError, r"shrinking\.factor is 1\.01"),
        (lambda: Shrinking(float("nan")), RecipeError, "factor is nan"),
        (lambda: ISSP(1.0), InfeasibleBudget, r"in \[0, 1\); got 1\.0"),
        (lambda: ISSP(-0.5), InfeasibleBudget, "got -0.5"),
        (lambda: ISSP(95), InfeasibleBudget, "did you mean 0.95"),
        (lambda: ISSP(variant="shrinking"), RecipeError, "unknown variant 'shrinking': did you mean 'shrink'"),
        (lambda: ISSP(every=0), ScheduleError, "every is 0"),
    ],
)
def test_what_a_method_cannot_be(make: Callable[[], sl.Method], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("end", [10, 1.0])
@pytest.mark.parametrize("make", [ISSP, GReg])
def test_fine_tuning_has_to_be_left(make: Callable[..., sl.Method], end: float) -> None:
    model = nn.Linear(8, 8)
    before = model.weight.detach().clone()
    with pytest.raises(ScheduleError, match="step 10 of 10: no fine-tuning left; possible: 0 … 9"):
        make(0.5, end=end).attach(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=10)
    assert torch.equal(model.weight, before)


def test_groups_have_to_divide() -> None:
    model = nn.Linear(30, 10)
    with pytest.raises(PatternError, match="divisible by 4"):
        ISSP(0.5, pattern="2:4").attach(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=10)


def test_it_prints_its_words() -> None:
    text = str(ISSP(0.95, end=100))
    assert "iss-p" in text and "Shrinking(until=100)" in text and "uniform" in text and "Linear(value=0.95" in text
    assert ISSP(0.9) == sl.methods.build("iss-p") and GReg(0.9) == sl.methods.build("greg")
