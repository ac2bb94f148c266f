"""What is measured, against finite differences, Hessians and closed forms; and that measuring leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import sparseland as sl
from sparseland.core import SNIP, GraSP, Stats, SynFlow, Taylor
from sparseland.core.errors import ScoreError, SparselandError
from sparseland.weights import eligible, statistics

F = nn.functional


def tiny(bias: bool = True) -> nn.Module:
    """Smooth, in double precision: 4·3 + 3·2 weights."""
    return nn.Sequential(nn.Linear(4, 3, bias=bias), nn.Tanh(), nn.Linear(3, 2, bias=bias)).double()


def batches(n: int = 2) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(5, 4, generator=g).double(), torch.randint(2, (5,), generator=g)) for _ in range(n)]


def measured(model: nn.Module, needs: str, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    values = statistics.measure(model, eligible(model), frozenset({needs}), data or batches(), loss)
    return {n: v[needs] for n, v in values.items()}


def mean_loss(model: nn.Module, parameters: dict[str, Tensor]) -> Tensor:
    losses = [F.cross_entropy(functional_call(model, parameters, x), y) for x, y in batches()]
    return torch.stack(losses).mean()


def test_snip_is_the_derivative_by_a_multiplicative_mask() -> None:
    model, h = tiny(), 1e-6
    grads = measured(model, "grad")
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    for name, grad in grads.items():
        score = SNIP()(parameters[name], Stats(grad=grad))
        for at in torch.ones(grad.shape).nonzero().tolist():
            c = torch.zeros_like(grad)
            c[tuple(at)] = h
            up = mean_loss(model, parameters | {name: parameters[name] * (1 + c)})
            down = mean_loss(model, parameters | {name: parameters[name] * (1 - c)})
            assert abs(float(score[tuple(at)]) - abs(float(up - down)) / (2 * h)) < 1e-8


def test_grasp_is_the_hessian_times_the_gradient() -> None:
    model = tiny()
    products = measured(model, "hessian_grad")
    names = list(products)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [parameters[n].numel() for n in names]

    def loss(flat: Tensor) -> Tensor:
        parts = {n: p.view(parameters[n].shape) for n, p in zip(names, flat.split(sizes), strict=True)}
        return mean_loss(model, parameters | parts)

    flat = torch.cat([parameters[n].reshape(-1) for n in names])
    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    expected = hessian @ gradient
    torch.testing.assert_close(torch.cat([products[n].reshape(-1) for n in names]), expected)
    scores = torch.cat([GraSP()(parameters[n], Stats(hessian_grad=products[n])).reshape(-1) for n in names])
    # removing one weight alone changes g^T g by -2 w (Hg) to first order
    i = int(scores.abs().argmax())
    step = torch.zeros_like(flat)
    step[i] = -1e-6 * flat[i]
    after = torch.autograd.functional.jacobian(loss, flat + step).square().sum()
    change = (after - gradient.square().sum()) / 1e-6
    torch.testing.assert_close(change, -2 * scores[i], rtol=1e-4, atol=1e-9)


def test_synflow_of_two_linear_layers_is_a_product() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    first, second = model[0].weight.detach().abs(), model[1].weight.detach().abs()
    flow = measured(model, "synflow")
    # R = 1^T |W2| |W1| 1: dR/d|W1|_ij = sum_o |W2|_oi, dR/d|W2|_oi = sum_j |W1|_ij
    torch.testing.assert_close(flow["0.weight"], second.sum(0)[:, None].expand(3, 4))
    torch.testing.assert_close(flow["1.weight"], first.sum(1)[None].expand(2, 3))


def test_synflow_is_conserved_through_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 2, bias=False), nn.ReLU(), nn.Flatten()
    )
    model = nn.Sequential(*model, nn.Linear(3 * 2 * 2, 5, bias=False)).double()
    data = [(torch.randn(1, 2, 5, 5).double(), torch.tensor([0]))]
    flow = measured(model, "synflow", data)
    scores = [SynFlow()(dict(model.named_parameters())[n].detach(), Stats(synflow=f)) for n, f in flow.items()]
    sums = torch.stack([s.sum() for s in scores])
    torch.testing.assert_close(sums, sums[:1].expand(3))  # every layer carries all of R
    # and of every hidden unit: what flows in flows out
    torch.testing.assert_close(scores[0].sum((1, 2, 3)), scores[1].sum((0, 2, 3)))


def test_gradients_are_averaged_over_batches() -> None:
    model = tiny()
    one, two = (measured(model, "grad", [b]) for b in batches())
    both = measured(model, "grad")
    for n in both:
        torch.testing.assert_close(both[n], (one[n] + two[n]) / 2)
    squares = measured(model, "taylor")
    for n, p in model.named_parameters():
        if n in both:
            torch.testing.assert_close(Taylor()(p, Stats(taylor=squares[n])), (p.detach() * both[n]).square())


def accumulators(criterion: str, growth: str = "none") -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """The sparsifier's statistics of a dense net after four steps, and the (weight, gradient) of each."""
    model = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exchange = None if growth == "none" else sl.core.Constant(0.1, start=50)
    words: dict[str, Any] = {"criterion": criterion, "growth": growth, "exchange": exchange}
    sp = sl.Method(schedule=sl.core.OneShot(0.5, at=50), **words).attach(model, optimizer)
    pairs = []
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        pairs.append((model.weight.detach().clone(), model.weight.grad.clone()))
        optimizer.step()
    return sp.state_dict()["stats"]["weight"], pairs


def test_movement_is_the_sum_of_minus_weight_times_gradient() -> None:
    stats, pairs = accumulators("movement")
    torch.testing.assert_close(stats["movement"], -sum(w * g for w, g in pairs))


def test_taylor_is_the_sum_of_squares() -> None:
    stats, pairs = accumulators("taylor")
    torch.testing.assert_close(stats["taylor"], sum((w * g).square() for w, g in pairs))


def test_momentum_is_a_moving_average_of_the_gradient() -> None:
    stats, pairs = accumulators("magnitude", "momentum")
    d = statistics.DECAY
    expected = sum((1 - d) * d ** (3 - i) * g for i, (_, g) in enumerate(pairs))
    torch.testing.assert_close(stats["momentum"], expected)


class Noisy(nn.Module):
    """Everything that measuring could disturb: norm statistics, dropout, a frozen layer, an odd training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.conv.bias.requires_grad_(False)
        self.head.weight.requires_grad_(False)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))  # type: ignore[no-any-return]


def images() -> torch.utils.data.DataLoader[Any]:
    data = torch.utils.data.TensorDataset(torch.randn(6, 2, 5, 5), torch.randint(3, (6,)))
    return torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)


@pytest.mark.parametrize("needs", ["grad", "taylor", "hessian_grad", "synflow"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_measuring_leaves_no_trace(needs: str, mode: str) -> None:
    model = Noisy()
    if mode == "train":
        model.norm.train()
    else:
        model.eval()
        model.drop.train()
    data = images()
    F.cross_entropy(model(torch.randn(4, 2, 5, 5)), torch.zeros(4, dtype=torch.long)).backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    before = copy.deepcopy((model.state_dict(), {n: g for n, g in grads.items() if g is not None}))
    modes = [m.training for m in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    values = measured(model, needs, data)
    assert set(values) == {"conv.weight", "head.weight"} and all(float(v.abs().sum()) > 0 for v in values.values())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()] and trained == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(v, before[0][n]) for n, v in model.state_dict().items())
    assert all(p.grad is grads[n] for n, p in model.named_parameters())  # the very same tensors
    assert all(torch.equal(grads[n], g) for n, g in before[1].items())


@pytest.mark.parametrize("needs", ["grad", "hessian_grad", "synflow"])
def test_a_failing_loss_leaves_no_trace(needs: str) -> None:
    class Fails(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("out of something")

    model = Fails()
    before = copy.deepcopy(model.state_dict())
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError, match="out of something"):
        measured(model, needs, images())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert trained == [p.requires_grad for p in model.parameters()] and not model.norm.training and model.training


def test_losses_of_dict_batches_and_own_losses() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor, labels: Tensor) -> Any:
            return type("Output", (), {"loss": F.cross_entropy(self.fc(x), labels)})()

    model = WithLoss()
    x, y = torch.randn(5, 4), torch.randint(2, (5,))
    named = measured(model, "grad", [{"x": x, "labels": y}])["fc.weight"]
    own = measured(model, "grad", [x], lambda m, b: m(b, y).loss)["fc.weight"]
    assert torch.equal(named, own) and torch.equal(named, measured(model.fc, "grad", [(x, y)])["weight"])


def test_errors_say_what_was_given() -> None:
    model = tiny()
    with pytest.raises(ScoreError, match="must be measured on data.*got None"):
        statistics.measure(model, eligible(model), frozenset({"grad"}), None, None)
    with pytest.raises(ScoreError, match=r"got \[\]"):
        statistics.measure(model, eligible(model), frozenset({"grad"}), [], None)
    with pytest.raises(SparselandError, match="batch of type Tensor"):
        measured(model, "grad", [torch.ones(2, 4).double()])
    with pytest.raises(SparselandError, match=r"Linear returned no .loss for a batch with \['input'\]"):
        measured(nn.Linear(2, 2), "grad", [{"input": torch.ones(1, 2)}])
    with pytest.raises(ScoreError, match="SynFlow feeds ones"):
        measured(model, "synflow", [{"tokens": torch.ones(1, 2)}])


def test_data_may_be_a_generator() -> None:
    for rounds in (1, 3):
        made = []
        for data in (batches(), (b for b in batches())):
            torch.manual_seed(0)
            model = tiny()
            sp = sl.methods.SNIP(0.5, rounds=rounds).attach(model, torch.optim.SGD(model.parameters(), 0.1), data=data)
            made.append(sp.masks)
        assert made[0].digest() == made[1].digest()


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_a_mask_chosen_on_data_in_the_middle_of_training(criterion: str) -> None:
    """Masks move after the optimizer's step, where gradients are switched off; measuring switches them on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(12, 6), torch.randint(0, 3, (12,))
    method = sl.Method(criterion=criterion, schedule={"kind": "one-shot", "value": 0.5, "at": 2})
    sparsifier = method.attach(model, optimizer, data=[(x, y)], steps=4)
    for step in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        kept = sparsifier.masks.kept()
        assert (kept == sparsifier.masks.numel() // 2) == (step >= 1), (step, kept)
