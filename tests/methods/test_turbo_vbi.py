"""Turbo-VBI: layers that draw, inference at work, and the whole procedure on Trainers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.account import Clusters
from sparseland.core import MaskSet
from sparseland.core.errors import InfeasibleBudget, RecipeError, TargetError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights import Method
from sparseland.weights.methods import TurboVBI, turbo_vbi
from sparseland.weights.turbo import Inference, Posterior, Support, Variational, bayesian_, layers_of, plain_

WEAK = {"a": 2.0, "p01": 1e-3, "p10": 0.3}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The default prior lets useless weights stay if they start active (they do not); that is said, once a layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weights without any data stay active")
        yield


# -------------------------------------------------------------------------------------------------------------- layers
def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    return {
        "linear": (nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)),
        "conv1d": (nn.Sequential(nn.Conv1d(2, 4, 3, stride=2, padding=1)), torch.randn(3, 2, 9)),
        "conv2d": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False)), torch.randn(3, 4, 8, 8)),
    }


@pytest.mark.parametrize("kind", models())
def test_outputs_have_the_moments_of_drawn_weights(kind: str) -> None:
    torch.manual_seed(0)
    model, x = models()[kind]
    plain = copy.deepcopy(model)
    bayesian_(model, log_var=-2.0)
    layer = next(iter(layers_of(model).values()))
    with torch.no_grad():
        layer.log_var.add_(torch.randn_like(layer.log_var))
        mean, spread = layer.weight.clone(), layer.variance.sqrt()
        outputs = torch.stack([model.train()(x) for _ in range(1000)])
        drawn = []
        for _ in range(1000):
            next(plain.parameters()).copy_(mean + spread * torch.randn_like(mean))
            drawn.append(plain(x))
        spreads = torch.stack(drawn).std(0)
        off = (outputs.mean(0) - torch.stack(drawn).mean(0)).abs() / spreads
        assert float(off.max()) < 5 * (2 / 1000) ** 0.5  # five standard errors
        torch.testing.assert_close(outputs.std(0), spreads, atol=0, rtol=0.2)
        next(plain.parameters()).copy_(mean)
        assert torch.equal(model.eval()(x), plain(x))


def test_there_and_back() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    before = copy.deepcopy(model)
    weight = model[0].weight
    bayesian_(model, ignore="4")
    assert model[0].weight is weight and list(layers_of(model)) == ["0.weight"] and type(model[4]) is nn.Linear
    assert model[0].log_var.ndim == 1  # not taken for a weight: no decay, no mask
    plain_(model)
    assert [type(m) for m in model] == [type(m) for m in before]
    assert model.state_dict().keys() == before.state_dict().keys()
    copy.deepcopy(model)


def test_what_has_no_posterior_is_refused_before_anything_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(2, 2, 3))
    with pytest.raises(TargetError, match="'1.weight' is in a ConvTranspose1d"):
        bayesian_(model)
    assert type(model[0]) is nn.Linear
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(TargetError, match="shared"):
        bayesian_(tied)
    with pytest.raises(TargetError, match="call bayesian_"):
        Posterior(nn.Linear(2, 2), Support())


# ----------------------------------------------------------------------------------------------------------- inference
def problem(images: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels depend on two clusters of eight of 32 inputs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(images, 32, generator=g)
    y = (x[:, 4:12].sum(1) > 0).long() + 2 * (x[:, 20:28].sum(1) > 0).long()
    return x, y


def infer(method: Variational, steps: int = 300, **more: Any) -> tuple[nn.Module, Inference]:
    torch.manual_seed(0)
    x, y = problem()
    model = bayesian_(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sp = method.attach(model, optimizer, steps=steps, **more)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, sp


def test_the_gradient_is_that_of_the_divergence() -> None:
    """That of k/N (1/2 E[rho] (mu^2 + sigma^2) - 1/2 ln sigma^2), by autograd."""
    torch.manual_seed(0)
    model = bayesian_(nn.Sequential(nn.Linear(5, 3)), log_var=-1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sp = Variational(images=50, ramp=4, warmup=10, every=1).attach(model, optimizer)
    layer = model[0]
    layer.precision.uniform_(1, 30)
    sp.step = 3
    mu, log_var = layer.weight.detach().clone().requires_grad_(), layer.log_var.detach().clone().requires_grad_()
    kl = 0.5 * (layer.precision * (mu.square() + log_var.exp().view_as(mu))).sum() - 0.5 * log_var.sum()
    (3 / 4 / 50 * kl).backward()
    before = layer.weight.detach().clone(), layer.log_var.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(before[0] - layer.weight, mu.grad)
    torch.testing.assert_close(before[1] - layer.log_var, log_var.grad)


def test_inference_finds_the_clusters_that_matter() -> None:
    _, sp = infer(Variational(criterion=Support(**WEAK), images=256))
    scores = sp.posterior.scores()["0.weight"]
    useful = torch.zeros(32, dtype=torch.bool)
    useful[4:12] = useful[20:28] = True
    assert float(scores[:, useful].mean()) > float(scores[:, ~useful].mean()) + 5
    assert 0.02 < sp.posterior.active() < 0.6
    share = (scores > 0).float().mean(0)
    assert float(share[useful].mean()) > 4 * float(share[~useful].mean())


def test_supports_wait_for_the_warm_up_and_the_ramp() -> None:
    method = Variational(criterion=Support(**WEAK), images=256, warmup=1.0)
    _, sp = infer(method, steps=20)
    for layer in sp.layers.values():
        assert bool((layer.odds == layer.odds.flatten()[0]).all()) or sp.step == method.resolve(20).warmup


def test_state_goes_on_bit_for_bit() -> None:
    method = Variational(criterion=Support(**WEAK), images=256, ramp=20, warmup=10, every=7, em=True)
    x, y = problem()

    def steps(model: nn.Module, optimizer: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def fresh() -> tuple[nn.Module, Any]:
        torch.manual_seed(1)
        model = bayesian_(nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)))
        return model, torch.optim.Adam(model.parameters(), lr=1e-2)

    model, optimizer = fresh()
    sp = method.attach(model, optimizer, steps=60)
    steps(model, optimizer, 30)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sp.state_dict(), torch.get_rng_state()))
    steps(model, optimizer, 30)
    other, second = fresh()
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    method.attach(other, second, steps=60, state=saved[2])
    torch.set_rng_state(saved[3])
    steps(other, second, 30)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_em_moves_the_transitions() -> None:
    _, fixed = infer(Variational(criterion=Support(**WEAK), images=256), steps=100)
    _, fitted = infer(Variational(criterion=Support(**WEAK), images=256, em=True), steps=100)
    assert (fixed.posterior.prior("0.weight").p01, fixed.posterior.prior("0.weight").p10) == (1e-3, 0.3)
    assert fitted.posterior.prior("0.weight").p01 > 2e-3


def test_guards_are_said_for_every_layer() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, sp = infer(Variational(criterion=Support(**WEAK), images=256), steps=100)
    told = [str(w.message) for w in said if "stay active" in str(w.message)]
    assert [t.split(":")[0] for t in told] == ["0.weight", "2.weight"] and all("p01 ≤" in t for t in told)
    assert sp.posterior.guards()["0.weight"]["stable"] is True


def test_bad_input_of_the_inference() -> None:
    model = bayesian_(nn.Sequential(nn.Linear(4, 4)))
    optimizer = torch.optim.Adam(model.parameters())
    for images in (None, 0):
        with pytest.raises(RecipeError, match=f"images is {images}.*give the number of training images"):
            Variational(images=images).attach(model, optimizer, steps=10)
    with pytest.raises(RecipeError, match="holds the prior"):
        Variational(criterion="magnitude")
    with pytest.raises(RecipeError, match="scores by 'mu'"):
        Posterior(model, Support()).scores("mu")
    with pytest.raises(RecipeError, match="cut is 'halves'.*'half'"):
        Posterior(model, Support()).masks(Method(), "halves")
    with pytest.raises(InfeasibleBudget, match=r"no weight of '0.weight' is active"):
        model[0].odds.fill_(-1.0)
        Posterior(model, Support()).masks(Method(), "half")


def test_empty_rows_in_front_of_a_batch_norm_are_told() -> None:
    model = bayesian_(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()))
    odds = torch.ones(4, 2, 3, 3)
    odds[1:3] = -1.0
    model[0].odds.copy_(odds)
    Posterior(model, Support()).masks(Method(), "half")  # no bias yet: the unit is dead
    nn.init.ones_(model[1].bias)
    with pytest.warns(UserWarning, match=r"0: 2 of 4 rows are empty, but the bias of 1 keeps.*fold"):
        Posterior(model, Support()).masks(Method(), "half")


# ----------------------------------------------------------------------------------------------------- the procedure
class Toy:
    """The least that a Trainer is: full batches of the problem above."""

    steps, images = 180, 256

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
        self.x, self.y = problem()
        self.log: list[tuple[int, int | None, str]] = []

    def fit(self, method: Any, masks: Any = None, *, start: int = 0, stop: int | None = None, **_: Any) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        stop = self.steps if stop is None else stop
        sp = method.attach(self.model, optimizer, steps=stop - start, masks=masks)
        self.log.append((start, stop, method.name))
        for _ in range(start, stop):
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            optimizer.step()
        sp.finalize_()
        return {"steps": stop - start}

    def evaluate(self, split: str = "validation", *, limit: int | None = None) -> dict[str, float]:
        self.model.eval()
        return {"accuracy": float((self.model(self.x).argmax(1) == self.y).float().mean()), "loss": 0.0}

    def clone(self) -> Toy:
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        return other

    def state(self) -> dict[str, Any]:
        return {k: v.clone() for k, v in self.model.state_dict().items()}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


@pytest.mark.parametrize("chain", ["row", "col", "grid", "iid"])
def test_the_procedure_reaches_its_budget_with_plain_modules(chain: str) -> None:
    toy = Toy()
    names = list(toy.model.state_dict())
    out = turbo_vbi(toy, TurboVBI(0.75, chain=chain))
    total = 32 * 16 + 16 * 4
    assert out["masks"].kept() == sl.core.kept(total, 0.75) and out["steps"] == 180
    assert list(toy.model.state_dict()) == names and type(toy.model[0]) is nn.Linear
    assert sum(int((m.weight != 0).sum()) for m in toy.model if isinstance(m, nn.Linear)) <= out["masks"].kept()
    assert [(start, stop) for start, stop, _ in toy.log] == [(0, 120), (120, 180)]
    assert toy.evaluate()["accuracy"] > 0.8
    assert set(out["guards"]) == {"0.weight", "2.weight"} and 0 < out["active"] < 1


def test_row_chains_make_longer_runs_than_independent_supports() -> None:
    """At equal non-zeros in every layer; the short form of the card's acceptance."""
    runs = {}
    for chain in ("row", "iid"):
        toy = Toy()
        rate = 1e-3 / 0.301
        numbers = {} if chain == "row" else {"p01": rate, "p10": 1 - rate}
        mask = turbo_vbi(toy, TurboVBI(0.75, chain=chain, **numbers))["masks"]["0.weight"]
        runs[chain] = Clusters.of(toy.model[0].weight, mask)
    assert runs["row"].nonzeros == runs["iid"].nonzeros
    assert runs["row"].mean_run > 1.1 * runs["iid"].mean_run
    assert runs["row"].bytes() < runs["row"].csr_bytes()


@pytest.mark.parametrize("cut", ["snr", "half"])
def test_other_cuts(cut: str) -> None:
    toy = Toy()
    out = turbo_vbi(toy, TurboVBI(0.75), cut=cut, infer=1.0)
    kept, total = out["masks"].kept(), out["masks"].numel()
    assert (kept == sl.core.kept(total, 0.75)) if cut == "snr" else (kept / total == pytest.approx(out["active"]))
    assert [name for *_, name in toy.log] == ["variational"] and type(toy.model[0]) is nn.Linear
    assert int((toy.model[0].weight != 0).sum()) == int(out["masks"]["0.weight"].sum())


def test_bad_input_of_the_procedure() -> None:
    with pytest.raises(RecipeError, match="cut is 'budgets'"):
        turbo_vbi(Toy(), cut="budgets")
    with pytest.raises(RecipeError, match=r"infer is 0.*possible: \(0, 1\]"):
        turbo_vbi(Toy(), infer=0)
    toy = Toy()
    toy.images = None
    with pytest.raises(RecipeError, match="images is None"):
        turbo_vbi(toy)
    assert type(toy.model[0]) is nn.Linear
    with pytest.raises(RecipeError, match="holds the prior"):
        turbo_vbi(Toy(), sl.methods.IMP(0.5))
    toy = Toy()
    with pytest.raises(InfeasibleBudget):
        turbo_vbi(toy, TurboVBI(0.9999999))
    assert toy.log == []


def config(**more: Any) -> TrainConfig:
    base = {"model": "mlp-16", "optimizer": "adam", "lr": 0.01, "weight_decay": 0.0, "epochs": 4, "limit": 300}
    return TrainConfig.from_dict(base | {"method": {"name": "turbo-vbi", "sparsity": 0.5, "warmup": 0.3}} | more)


def test_our_trainer_runs_it_from_one_line(tmp_path: Any) -> None:
    result = run(config(), tmp_path, progress=False)
    assert result["procedure"]["name"] == "turbo_vbi" and result["kept"] == sl.core.kept(result["total"], 0.5)
    assert result["test"]["accuracy"] > 0.3 and result["steps"] == 4 * 5
    tensors = sl.zoo.load_weights(sl.zoo.build("mlp-16", in_shape=(1, 8, 8), classes=10), tmp_path / "best.safetensors")
    assert type(tensors.fc1) is nn.Linear


def test_an_interrupted_run_goes_on(tmp_path: Any) -> None:
    whole = run(config(), tmp_path / "whole", progress=False)

    class Stop(Exception):
        pass

    def stop_at(entry: dict[str, Any]) -> None:
        if entry["step"] == 10:
            raise Stop

    with pytest.raises(Stop):
        run(config(), tmp_path / "cut", progress=False, callback=stop_at)
    again = run(config(), tmp_path / "cut", resume="auto", progress=False)
    assert again["test"]["accuracy"] == whole["test"]["accuracy"] and again["layers"] == whole["layers"]


def test_masks_given_by_hand() -> None:
    """The pruning step alone: attached, it is a method as any other."""
    model = nn.Linear(12, 6)
    sp = TurboVBI(0.5).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert sp.masks.kept() == 36 and isinstance(sp.masks, MaskSet)
    assert "Support(a=2.0, p01=0.001)" in str(TurboVBI(0.5))
    assert Trainer is not None
