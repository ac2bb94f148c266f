"""Learned scores: their gradient, their step, their turns, and that nothing else moves in a step of theirs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core import Constant, Magnitude, MaskSet, OneShot, Product
from sparseland.core.errors import OwnershipError, RecipeError, ScheduleError, ScoreError
from sparseland.core.growth import GrowScore
from sparseland.weights import learned
from sparseland.weights.learned import Learned, first_scores, hyper_gradient, learn_, straight_through

M = sl.methods


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 6, 2),
        nn.Flatten(), nn.Linear(54, 5),
    )  # fmt: skip


def batches(count: int = 12, seed: int = 1) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 2, 6, 6, generator=g), torch.randint(5, (8,), generator=g)) for _ in range(count)]


def train(sp: Any, model: nn.Module, opt: Any, data: list[Any], look: Any = None) -> None:
    for x, y in data:
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
        if look is not None:
            look(sp)


def attached(method: sl.Method, steps: int = 12, **options: Any) -> tuple[Any, nn.Module, Any]:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    return method.attach(model, opt, steps=steps, **options), model, opt


# ------------------------------------------------------------------------------------------------------ hyper-gradients
G = torch.Generator().manual_seed(0)
THETA, C, A = (torch.randn(50, generator=G, dtype=torch.float64) for _ in range(3))
MASK = torch.rand(50, generator=G, dtype=torch.float64)  # m in [0, 1]^n


def exact(loss: Any, best: Any, mask: torch.Tensor) -> torch.Tensor:
    """d l(m θ*(m)) / dm by autograd through the closed form of θ*."""
    m = mask.clone().requires_grad_()
    loss(m * best(m)).backward()
    assert m.grad is not None
    return m.grad


@pytest.mark.parametrize("gamma", [0.5, 3.0, 1e4])
def test_linear_loss_gives_the_exact_hyper_gradient(gamma: float) -> None:
    """No Hessian: θ* = −m c/γ and dl/dm = −2 m c²/γ, which the formula must be."""
    theta = -MASK * C / gamma
    found = hyper_gradient(theta, C, MASK, "implicit", gamma)
    torch.testing.assert_close(found, -2 * MASK * C.square() / gamma, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, exact(lambda z: (C * z).sum(), lambda m: -m * C / gamma, MASK))


@pytest.mark.parametrize("gamma", [0.5, 3.0, 50.0])
def test_quadratic_loss_is_off_by_the_hessian_that_was_dropped(gamma: float) -> None:
    """l = ½‖z − a‖²: θ* = m a/(m² + γ), exact −2 m a² γ²/(m² + γ)³; the formula gives (1 + m²/γ) times that."""
    theta = MASK * A / (MASK.square() + gamma)
    truth = -2 * MASK * A.square() * gamma**2 / (MASK.square() + gamma) ** 3
    torch.testing.assert_close(
        exact(lambda z: 0.5 * (z - A).square().sum(), lambda m: m * A / (m.square() + gamma), MASK), truth
    )
    found = hyper_gradient(theta, MASK * theta - A, MASK, "implicit", gamma)
    torch.testing.assert_close(found / truth, 1 + MASK.square() / gamma)


def test_code_compat_is_the_published_term() -> None:
    plain = hyper_gradient(THETA, C, MASK, "none")
    assert torch.equal(plain, THETA * C)
    term = hyper_gradient(THETA, C, MASK, "code-compat", 1e4) - plain
    torch.testing.assert_close(term, -1e-4 * (THETA * C).square(), rtol=1e-6, atol=1e-16)
    with pytest.raises(RecipeError, match="'exact': possible: code-compat, implicit, none"):
        hyper_gradient(THETA, C, MASK, "exact")


def test_score_gradient_is_dense_and_right_by_finite_differences() -> None:
    """dL/dS = (dL/dW̃) W on a linear layer, by central differences in the (relaxed) mask."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double().requires_grad_(False)
    x, y = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    mask = torch.rand(3, 5) > 0.5
    weight = layer.weight.detach()

    def loss(m: torch.Tensor) -> torch.Tensor:
        return (nn.functional.linear(x, weight * m, layer.bias) - y).square().mean()

    score = torch.randn(3, 5).double().requires_grad_()
    z = straight_through(weight, score, mask)
    assert torch.equal(z.detach(), weight * mask)
    (nn.functional.linear(x, z, layer.bias) - y).square().mean().backward()
    eps = 1e-6
    for i in range(3):
        for j in range(5):
            up, down = mask.double(), mask.double()
            up[i, j] += eps
            down[i, j] -= eps
            slope = (loss(up) - loss(down)).item() / (2 * eps)
            assert score.grad is not None and float(score.grad[i, j]) == pytest.approx(slope, abs=1e-7)
    z_ = (weight * mask).requires_grad_()
    (nn.functional.linear(x, z_, layer.bias) - y).square().mean().backward()
    assert z_.grad is not None
    torch.testing.assert_close(hyper_gradient(weight, z_.grad, mask.double()), score.grad)


# ------------------------------------------------------------------------------------------------------- scores and SGD
def test_the_step_is_momentum_sgd() -> None:
    word = Learned(0.1, 0.9, 1e-2, end=10, rank="abs", hyper="implicit", gamma=2.0)
    torch.manual_seed(0)
    weight, start = torch.randn(20), torch.randn(20)
    twin = nn.Parameter(start.clone())
    opt = torch.optim.SGD([twin], lr=0.1, momentum=0.9, weight_decay=1e-2)
    store = {"score": start.clone(), "velocity": torch.zeros(20)}
    for step in range(10):
        grad, mask = torch.randn(20), torch.rand(20) > 0.5
        twin.grad = hyper_gradient(weight, grad, mask.float(), "implicit", 2.0) * twin.detach().sign()
        opt.param_groups[0]["lr"] = word.rate(step)
        opt.step()
        learn_(word, store, weight, grad, mask, step)
    torch.testing.assert_close(store["score"], twin.detach())


def test_rates() -> None:
    step, flat = Learned(1.0, end=8, curve="step"), Learned(1.0, end=8, curve="constant")
    assert [round(step.rate(t), 6) for t in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert flat.rate(7) == 1.0 and Learned(1.0, end=8).rate(8) == 0.0
    with pytest.raises(ScheduleError, match="unknown: give an int"):
        Learned().resolve(None)
    with pytest.raises(ScheduleError, match="nothing would be learned"):
        Learned(end=0).resolve(5)


def test_first_scores_are_float32_and_apart() -> None:
    weight = torch.randn(4, 6, dtype=torch.bfloat16)
    for kind in ("weight", "mask", "random"):
        scores = first_scores(weight, weight > 0, kind, torch.Generator().manual_seed(0))
        assert scores.dtype == torch.float32 and scores.shape == weight.shape
        assert scores.data_ptr() != weight.data_ptr()
    whole = torch.randn(3)
    assert first_scores(whole, whole > 0).data_ptr() != whole.data_ptr()
    assert float(first_scores(torch.ones(9, 100), torch.ones(9, 100) > 0, "random").abs().max()) <= 0.1


def test_scores_apart_from_weights() -> None:
    weight = nn.Parameter(torch.ones(3))
    score = nn.Parameter(weight.detach().clone())
    learned.check_apart([score], [weight], torch.optim.SGD([score], lr=0.1))
    with pytest.raises(OwnershipError, match="share memory with a weight"):
        learned.check_apart([weight.detach()], [weight])
    with pytest.raises(OwnershipError, match=r"SGD trains scores and also holds 1 of 1 weights"):
        learned.check_apart([score], [weight], torch.optim.SGD([score, weight], lr=0.1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"gamma": 0.0}, "learned.gamma is 0.0"),
        ({"gamma": -1.0}, "learned.gamma is -1.0"),
        ({"hyper": "exact"}, "learned.hyper is 'exact'"),
        ({"turns": "never"}, "learned.turns is 'never'"),
        ({"lr": 0.0}, "learned.lr 0.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"alias": True}, "turns='every'"),
    ],
)
def test_bad_words(words: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Learned(**words)


def test_nan_scores_are_refused_before_anything_moves() -> None:
    sp, model, opt = attached(M.Jackpots(0.8))
    train(sp, model, opt, batches(2))
    name = next(iter(sp.targets))
    sp._stats[name]["score"].view(-1)[0] = float("nan")
    before = sp.masks.clone()
    with pytest.raises(ScoreError, match="1 NaN"):
        train(sp, model, opt, batches(1))
    assert sp.masks == before


# ---------------------------------------------------------------------------------------------------------------- turns
@pytest.mark.parametrize("method", [M.Jackpots(0.8), M.BiP(0.8)], ids=lambda m: m.name)
def test_a_step_moves_either_weights_or_scores(method: sl.Method) -> None:
    sp, model, opt = attached(method)
    for number, batch in enumerate(batches()):
        weights = {n: sp._latent.get(n, p).clone() for n, p in model.named_parameters()}
        memory = copy.deepcopy(opt.state_dict()["state"])
        start = {n: net().state_dict()[n] for n in sp.targets} if method.name == "bip" and not number else {}
        scores = {n: s["score"].clone() for n, s in sp._stats.items() if "score" in s} or start
        train(sp, model, opt, [batch])
        mine = method.name == "jackpots" or number % 2 == 1
        for n, p in model.named_parameters():
            now = sp._latent.get(n, p)
            assert torch.equal(weights[n], now) == mine, n
        same = [torch.equal(scores[n], sp._stats[n]["score"]) for n in scores]
        assert not any(same) if mine else all(same) and len(same) == 4  # scores start from θ before any step
        if mine:
            state = opt.state_dict()["state"]
            assert set(state) == set(memory)
            assert all(torch.equal(state[i][k], memory[i][k]) for i in state for k in state[i])


def test_low_precision_weights_have_float32_scores() -> None:
    model = nn.Linear(8, 4).bfloat16()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    sp = M.BiP(0.5).attach(model, opt, steps=4)
    for _ in range(4):
        opt.zero_grad()
        model(torch.randn(3, 8, dtype=torch.bfloat16)).square().sum().backward()
        opt.step()
    assert sp._stats["weight"]["score"].dtype == torch.float32 and model.weight.dtype == torch.bfloat16
    assert sp.masks.kept() == 16


def test_top_is_global_or_by_layer() -> None:
    scores = {"a": torch.randn(3, 4), "b": torch.randn(10)}
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    edge = flat.sort(descending=True).values[6]
    masks = learned.top(scores, 7)
    assert all(torch.equal(masks[n], scores[n] >= edge) for n in scores)
    each = learned.top(scores, {"a": 2, "b": 5})
    assert {n: int(m.sum()) for n, m in each.items()} == {"a": 2, "b": 5}
    with pytest.raises(ScoreError, match="'a'|a "):
        learned.top({"a": torch.tensor([float("nan")])}, {"a": 1})


def test_shares_of_swaps() -> None:
    """Growth "score": ceil(r N) of the N swaps asked for, the clearest first; all of them at r = 1."""
    from sparseland.core import Stats
    from sparseland.weights.topology import exchange

    scores = torch.tensor([[5.0, 1.0, 2.0, 9.0, 8.0, 7.0, 0.0, 6.0]])
    mask = torch.tensor([[True, True, True, False, False, False, True, False]])
    method = sl.Method(criterion=Learned(), initial=Magnitude(), growth=GrowScore(), exchange=Constant(1.0))
    for share, living in (
        (1.0, [3, 4, 5, 7]),
        (0.5, [0, 2, 3, 4]),
        (0.26, [0, 2, 3, 4]),
        (0.25, [0, 1, 2, 3]),
        (0, [0, 1, 2, 6]),
    ):
        out = exchange(method, {"w": torch.zeros(1, 8)}, {"w": mask}, {"w": Stats(score=scores)}, share)["w"]
        assert out.nonzero()[:, 1].tolist() == living, share


# -------------------------------------------------------------------------------------------------------- second stream
def stream_method() -> sl.Method:
    return M.BiP(0.8, stream=True)


def test_scores_learn_on_the_second_stream_only() -> None:
    """The first batch of each pair reaches weights alone, the second scores alone, at the weights just moved."""
    one, two, other = batches(4, seed=1), batches(4, seed=2), batches(4, seed=3)
    runs = []
    for second in (two, other):
        sp, model, opt = attached(stream_method(), 4, data=second)
        train(sp, model, opt, one[:1])
        runs.append((sp, model))
    (a, left), (b, right) = runs
    for n in a.targets:
        assert torch.equal(a._latent[n], b._latent[n])
        assert not torch.equal(a._stats[n]["score"], b._stats[n]["score"])
    for n, p in left.named_parameters():
        if n not in a.targets:
            assert torch.equal(p, dict(right.named_parameters())[n])
    sp, model, opt = attached(stream_method(), 4, data=two)  # by hand: gradient at z = m θ after the weights' step
    masks = sp.masks.clone()
    train(sp, model, opt, one[:1])
    twin = net()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for n, p in twin.named_parameters():
            if n in sp.targets:
                p.copy_(sp._latent[n] * masks[n])
    nn.functional.cross_entropy(twin(two[0][0]), two[0][1]).backward()
    word = sp.method.criterion
    for n, p in twin.named_parameters():
        if n in sp.targets and p.grad is not None:
            start = net().state_dict()[n]
            change = hyper_gradient(sp._latent[n], p.grad, masks[n].float(), word.hyper, word.gamma) * start.sign()
            wanted = start - word.rate(1) * (change + word.decay * start)
            torch.testing.assert_close(sp._stats[n]["score"], wanted, rtol=1e-4, atol=1e-6)


def test_a_short_second_stream_is_cycled_and_says_so() -> None:
    with pytest.warns(UserWarning, match="the second stream has 3 batches for 12 steps; it is cycled"):
        sp, model, opt = attached(stream_method(), 12, data=batches(3, seed=2))
    train(sp, model, opt, batches(12))
    assert sp.step == 12
    for nothing in (None, []):
        with pytest.raises(ScoreError, match="a stream of their own"):
            attached(stream_method(), data=nothing)


def test_a_stream_is_resumed_bit_for_bit() -> None:
    second, data = batches(12, seed=2), batches(12)
    sp, model, opt = attached(stream_method(), data=second)
    train(sp, model, opt, data)
    half, other, opt2 = attached(stream_method(), data=second)
    train(half, other, opt2, data[:5])
    saved = copy.deepcopy((half.state_dict(), other.state_dict(), opt2.state_dict()))
    fresh = net()
    opt3 = torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    fresh.load_state_dict(saved[1])
    opt3.load_state_dict(saved[2])
    again = stream_method().attach(fresh, opt3, steps=12, data=second, state=saved[0])
    train(again, fresh, opt3, data[5:])
    assert again.masks == sp.masks
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True))


def test_shared_memory_only_where_asked() -> None:
    sp, model, opt = attached(M.BiP(0.8, alias_scores=True))
    train(sp, model, opt, batches())  # the last step is one of the scores
    assert all(set(s) == {"velocity"} for s in sp._stats.values())
    top = learned.top({n: w.abs() for n, w in sp._latent.items()}, {n: k for n, (k, _) in sp.masks.counts().items()})
    assert MaskSet(top) == sp.masks  # always the largest |θ|


def test_the_flow_of_a_product() -> None:
    w, g, mask = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([True, False])
    flow = Product()
    assert flow.forward(w, mask, 0).tolist() == [1, 0] and flow.grad(g, w, mask, 0).tolist() == [3, 0]
    assert flow.latent and flow.zeros and OneShot(0.5).final() == 0.5
