"""Methods at work in a training loop: counts that follow the schedule, growth from zero, equal methods, few hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import LAMP, SNIP, Constant, Global, GraSP, Movement, OneShot, Ratios, Stats, Steps, kept
from sparseland.core.errors import OwnershipError, ScoreError
from sparseland.weights import statistics

STEPS = 12
TOTAL = 6 * 20 + 20 * 20 + 20 * 3
F = nn.functional


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))


def batch(i: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(i)
    return torch.randn(16, 6, generator=g), torch.randint(3, (16,), generator=g)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
    x, y = batch(i)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def train(method: sl.Method, steps: int = STEPS, optimizer: Any = sgd, **kw: Any) -> tuple[nn.Module, sl.Sparsifier]:
    model = net()
    made = optimizer(model)
    sp = method.attach(model, made, steps=steps, **kw)
    for i in range(steps):
        step(model, made, i)
    return model, sp


def test_granet_follows_its_schedule_exactly() -> None:
    method = sl.methods.GraNet(0.9, end=9, every=3, regrow_until=STEPS)
    model, sp = train(method)
    assert [e["step"] for e in sp.history] == [0, 3, 6, 9]  # at the end nothing that grew could be trained
    for entry in sp.history:
        wanted = method.schedule(entry["step"])
        assert entry["kept"] == kept(TOTAL, 0.9 if wanted is None else wanted) and entry["total"] == TOTAL
    assert not any(p[~sp.masks[n]].any() for n, p in model.named_parameters() if n in sp.masks)


def test_regeneration_does_not_change_counts() -> None:
    steady = sl.methods.GraNet(0.8, initial_sparsity=0.8, end=2, every=2, drop=0.5, regrow_until=11)
    _, sp = train(steady)
    assert {e["kept"] for e in sp.history} == {kept(TOTAL, 0.8)}
    moved = [e["churn"] for e in sp.history[1:]]
    assert len(moved) == 5 and min(moved) > 0
    explored = [e["explored"] for e in sp.history]
    assert explored == sorted(explored) and explored[-1] > explored[0] == pytest.approx(0.2)
    layers = sp.counts()["layers"]
    assert sum(k for k, _ in layers.values()) == sp.counts()["kept"] and layers["2.weight"][1] == 400


def test_granet_without_regeneration_from_dense_is_gradual_pruning() -> None:
    granet = sl.methods.GraNet(0.9, initial_sparsity=0.0, end=9, every=3, drop=0.0, drop_end=0.0)
    first, one = train(granet)
    second, two = train(sl.methods.GMP(0.9, end=9, every=3))
    assert one.masks == two.masks
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_granet_at_constant_sparsity_is_rigl_with_its_own_annealing() -> None:
    every = {"every": 3, "seed": 5}
    words = sl.methods.GraNet(0.8, initial_sparsity=0.8, end=3, every=3, drop=0.3, drop_end=0.0, regrow_until=9)
    first, one = train(words, seed=every["seed"])
    second, two = train(sl.methods.RigL(0.8, drop=0.3, every=3, end=9), seed=every["seed"])
    assert one.masks == two.masks and len(one.history) == len(two.history) == 3
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ["set", "rigl", "granet"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_growth_starts_at_zero_with_zero_state(name: str, kind: str) -> None:
    model = net()
    optimizer = sgd(model) if kind == "sgd" else torch.optim.AdamW(model.parameters(), amsgrad=True)
    hyper = {"end": 8, "regrow_until": 10} if name == "granet" else {"end": 8}
    sp = sl.methods.build(name, sparsity=0.7, every=1, drop=0.4, **hyper).attach(model, optimizer)
    grown = 0
    for i in range(7):
        old = sp.masks
        step(model, optimizer, i)
        for n, t in sp.targets.items():
            new = sp.masks[n] & ~old[n]
            grown += int(new.sum())
            assert not t.param[new].any() and not t.param[~sp.masks[n]].any()
            state = [s for s in optimizer.state[t.param].values() if s is not None and s.shape == t.param.shape]
            assert len(state) == (1 if kind == "sgd" else 3)
            assert not any(s[new].any() or s[~sp.masks[n]].any() for s in state)
    assert grown > 0


def test_a_coordinate_picked_again_keeps_value_and_state() -> None:
    # everything is dropped and, the gradient being zero on what was dead, everything comes back: nothing changed
    model = nn.Linear(4, 4, bias=False)
    method = sl.methods.RigL(0.5, drop=1.0, every=1, end=1000)
    plain, masked = nn.Linear(4, 4, bias=False), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sp = method.attach(model, optimizer)
    plain.load_state_dict(model.state_dict())
    reference = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    masked = sp.masks["weight"].clone()
    for i in range(4):
        for m, o in ((model, optimizer), (plain, reference)):
            o.zero_grad()
            m(batch(i)[0][:, :4]).square().mean().backward()
            m.weight.grad *= masked
            o.step()
        assert torch.equal(sp.masks["weight"], masked) and torch.equal(model.weight, plain.weight)
    assert torch.equal(*(o.state[m.weight]["momentum_buffer"] for m, o in ((model, optimizer), (plain, reference))))


def test_masked_training_is_dense_training_of_the_survivors() -> None:
    # three lines of reference: mask the weights, mask the gradients, step
    model = net()
    optimizer = sgd(model)
    sp = sl.methods.Magnitude(0.8).attach(model, optimizer)
    other = net()
    reference = sgd(other)
    masks = {n: sp.masks[n].float() if n in sp.masks else 1.0 for n, _ in other.named_parameters()}
    with torch.no_grad():
        [p.mul_(masks[n]) for n, p in other.named_parameters()]
    for i in range(STEPS):
        step(model, optimizer, i)
        reference.zero_grad()
        F.cross_entropy(other(batch(i)[0]), batch(i)[1]).backward()
        for n, p in other.named_parameters():
            p.grad *= masks[n]
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def lamp_top(weights: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The paper's definition as a loop: w_u^2 over the sum of all squares that are not smaller, ranked globally."""
    scores = {}
    for n, w in weights.items():
        flat = w.reshape(-1).double().square()
        loop = [float(x / flat[flat >= x].sum()) if x > 0 else 0.0 for x in flat]
        scores[n] = torch.tensor(loop, dtype=torch.float64).view(w.shape)
    edge = torch.cat([s.reshape(-1) for s in scores.values()]).sort(descending=True).values[k - 1]
    return {n: s >= edge for n, s in scores.items()}


def test_lamp_is_the_papers_loop() -> None:
    model = net()
    expected = lamp_top({n: p.detach() for n, p in model.named_parameters() if "weight" in n}, kept(TOTAL, 0.9))
    masks = sl.prune_(model, sl.methods.LAMP(0.9))
    assert all(torch.equal(masks[n], m) for n, m in expected.items())
    assert str(LAMP()) == "lamp" and masks.kept() == kept(TOTAL, 0.9)


def test_lamp_sums_only_over_what_is_alive() -> None:
    # the optimizer has just moved dead weights too; their values must not enter the sums
    model = net()
    optimizer = sgd(model)
    after: dict[str, Tensor] = {}
    optimizer.register_step_post_hook(
        lambda *_: after.update({n: p.detach().clone() for n, p in model.named_parameters() if "weight" in n})
    )
    method = sl.methods.LAMP(0.9).replace(schedule=Steps((0.5, 0.9), at=(0, 4)))
    sp = method.attach(model, optimizer)
    old = sp.masks
    for i in range(4):
        step(model, optimizer, i)
    assert all(after[n][~m].any() for n, m in old.items() if not m.all())
    expected = lamp_top({n: w * old[n] for n, w in after.items()}, kept(TOTAL, 0.9))
    assert all(torch.equal(sp.masks[n], m) for n, m in expected.items())


@pytest.mark.parametrize("word", [SNIP(), GraSP()])
def test_ratios_take_the_layer_counts_of_another_ranking(word: Any) -> None:
    data = [batch(0), batch(1)]
    own = sl.Method(schedule=OneShot(0.9), criterion=word).attach(model := net(), sgd(model), data=data)
    ratio = {"ratios": "snip" if isinstance(word, SNIP) else "grasp"}
    for seed in (1, 2):
        random = sl.methods.RandomPruning(0.9, **ratio).attach(model := net(), sgd(model), data=data, seed=seed)
        assert random.counts()["layers"] == own.counts()["layers"] and random.masks != own.masks
    assert isinstance(random.method.allocation, Ratios) and isinstance(own.method.allocation, Global)


def test_snip_masks_are_the_global_top_of_its_scores() -> None:
    model, data = net(), [batch(0), batch(1)]
    sp = sl.methods.SNIP(0.9).attach(model, sgd(model), data=data)
    fresh = net()
    grads = statistics.gradients(fresh, sp.targets | sl.weights.eligible(fresh), data, statistics.default_loss)
    scores = {n: SNIP()(p.detach(), Stats(grad=grads[n])) for n, p in fresh.named_parameters() if n in grads}
    edge = torch.cat([s.reshape(-1) for s in scores.values()]).sort(descending=True).values[kept(TOTAL, 0.9) - 1]
    assert all(torch.equal(sp.masks[n], s >= edge) for n, s in scores.items())


def test_movement_needs_a_step_before_it_can_score() -> None:
    with pytest.raises(ScoreError, match="movement"):
        sl.Method(schedule=OneShot(0.5), criterion=Movement()).attach(model := net(), sgd(model))


HOOKED: dict[str, dict[str, Any]] = {
    "dense": {},
    "snip": {"sparsity": 0.5},
    "sr-ste": {"pattern": "2:4"},
    **{n: {"sparsity": 0.5, "every": 1} for n in ("gmp", "rigl", "set", "granet", "movement")},
}


@pytest.mark.parametrize("name", HOOKED)
def test_two_hooks_and_none_on_the_model(name: str) -> None:
    model = net()
    optimizer = sgd(model)
    method = sl.methods.build(name, **HOOKED[name])
    sp = method.attach(model, optimizer, targets="2.weight", steps=STEPS, data=[batch(0)])
    assert len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks) == 2
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    assert all(not getattr(m, h) for m in model.modules() for h in hooks)
    assert all(not p._backward_hooks for p in model.parameters())
    assert {type(m) for m in model.modules()} == {nn.Sequential, nn.Linear, nn.ReLU}
    sp.finalize_()
    assert len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks) == 0
    assert list(model.state_dict()) == list(net().state_dict())


def test_ranking_happens_only_when_masks_move(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = sl.weights.sparsifier.moves.topology.scores_of
    monkeypatch.setattr(sl.weights.sparsifier.moves.topology, "scores_of", lambda *a: calls.append(1) or original(*a))
    train(sl.methods.GMP(0.9, start=2, end=8, every=3))  # at 2, 5 and 8
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["rigl", "sr-ste", "movement"])
def test_a_closure_changes_nothing(name: str) -> None:
    hyper: dict[str, Any] = {"pattern": "2:5"} if name == "sr-ste" else {"sparsity": 0.7, "every": 2, "end": 8}
    hyper |= {"start": 2} if name == "movement" else {}
    ends = []
    for style in ("plain", "positional", "keyword"):
        model = net()
        optimizer = sgd(model)
        sp = sl.methods.build(name, **hyper).attach(model, optimizer, targets=["2.weight", "4.weight"])
        for i in range(STEPS):

            def closure(i: int = i, model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch(i)[0]), batch(i)[1])
                loss.backward()
                return loss

            if style == "plain":
                closure()
                optimizer.step()
            else:
                value = optimizer.step(closure) if style == "positional" else optimizer.step(closure=closure)
                assert value.item() > 0  # the closure's loss is handed on
        ends.append((sp.masks.digest(), sp.step, torch.cat([p.detach().reshape(-1) for p in model.parameters()])))
    for digest, steps, weights in ends[1:]:
        assert digest == ends[0][0] and steps == STEPS and torch.equal(weights, ends[0][2])


def test_the_optimizer_must_hold_the_targets() -> None:
    model = net()
    with pytest.raises(OwnershipError, match=r"does not hold 3 of the 3 parameters.*'0.weight'"):
        sl.methods.Magnitude(0.5).attach(model, sgd(net()))
    with pytest.raises(OwnershipError, match="got str"):
        sl.methods.Magnitude(0.5).attach(model, "sgd")


def test_the_exchange_may_stand_alone() -> None:
    model = net()
    optimizer = sgd(model)
    given = sl.prune_(net(), sl.methods.Magnitude(0.8))
    method = sl.Method(growth="random", exchange=Constant(0.2, start=2, every=2))
    sp = method.attach(model, optimizer, masks=given)
    for i in range(6):
        step(model, optimizer, i)
    assert sp.masks.counts() == given.counts() and sp.masks != given and len(sp.history) == 4
