"""What happens around a run: averages, layers frozen or added later, compilation, stopping, saving."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparseland as sl
from sparseland.core import MaskSet, Steps, kept
from sparseland.core.errors import MaskMismatch, OwnershipError, PatternError, ResumeError, ScheduleError

F = nn.functional
STEPS = 12


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def step(model: Any, optimizer: torch.optim.Optimizer, i: int) -> None:
    g = torch.Generator().manual_seed(i)
    x, y = torch.randn(16, 6, generator=g), torch.randint(3, (16,), generator=g)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def gmp() -> sl.Method:
    return sl.methods.GMP(0.8, end=9, every=3)


# --- averages ---------------------------------------------------------------------------------------------------------


def test_project_an_averaged_model() -> None:
    model = net()
    optimizer = sgd(model)
    sp = sl.methods.RigL(0.8, every=2, end=10).attach(model, optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for i in range(STEPS):
        step(model, optimizer, i)
        average.update_parameters(model)
    inner = average.module
    assert any(p[~sp.masks[n]].any() for n, p in inner.named_parameters() if n in sp.masks)  # masks moved
    before = copy.deepcopy(inner.state_dict())
    assert sp.project_(average) is average
    for n, p in inner.named_parameters():
        assert torch.equal(p, before[n] * sp.masks[n] if n in sp.masks else before[n])


def test_project_a_copy_by_hand_at_every_step() -> None:
    model = net()
    optimizer = sgd(model)
    sp = sl.methods.SET(0.8, every=2, end=10).attach(model, optimizer)
    ema = copy.deepcopy(model)
    assert not ema[0]._forward_hooks
    for i in range(STEPS):
        step(model, optimizer, i)
        with torch.no_grad():
            for e, p in zip(ema.parameters(), model.parameters(), strict=True):
                e.lerp_(p, 0.1)
        sp.project_(ema)
        assert not any(p[~sp.masks[n]].any() for n, p in ema.named_parameters() if n in sp.masks)


def test_project_kills_what_is_not_a_number_and_leaves_no_negative_zero() -> None:
    model = net()
    sp = sl.methods.Magnitude(0.5).attach(model, sgd(model))
    other = net(1)
    dead = ~sp.masks["2.weight"]
    with torch.no_grad():
        other[2].weight.masked_fill_(dead, float("nan"))
        other[0].weight.fill_(-1.0)
    sp.project_(other)
    assert not other[2].weight[dead].any() and not torch.signbit(other[0].weight[~sp.masks["0.weight"]]).any()


def test_project_refuses_another_model() -> None:
    model = net()
    sp = sl.methods.Magnitude(0.5).attach(model, sgd(model))
    with pytest.raises(MaskMismatch, match="no parameter '2.weight' of the masked shape"):
        sp.project_(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 21)))


# --- frozen and added later -------------------------------------------------------------------------------------------


def test_a_layer_frozen_later_keeps_its_mask_and_the_others_make_up_the_total() -> None:
    model = net()
    optimizer = sgd(model)
    sp = gmp().attach(model, optimizer)
    for i in range(4):
        step(model, optimizer, i)
    model[0].weight.requires_grad_(False)
    frozen, value = sp.masks["0.weight"].clone(), model[0].weight.detach().clone()
    for i in range(4, STEPS):
        step(model, optimizer, i)
        wanted = [e["kept"] for e in sp.history]
        assert sp.masks.kept() == wanted[-1]
    assert torch.equal(sp.masks["0.weight"], frozen) and torch.equal(model[0].weight, value)
    assert sp.masks.kept() == kept(580, 0.8)


@pytest.mark.parametrize("sparsity", [0.65, 0.654, 0.655, 0.9])
def test_a_budget_that_the_frozen_layers_use_up(sparsity: float) -> None:
    model = net()
    optimizer = sgd(model)
    method = sl.Method(schedule=Steps((0.5, sparsity), at=(0, 2)), allocation="uniform")
    sp = method.attach(model, optimizer)
    model[2].weight.requires_grad_(False)  # keeps 200 of 400
    for i in range(3):
        step(model, optimizer, i)  # never stops the training
    left = kept(580, sparsity) - 200
    assert sp.masks.kept() == (200 + left if left >= 2 else 290)


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_exchange_leaves_a_frozen_layer_alone(name: str) -> None:
    model = net()
    optimizer = sgd(model)
    model[2].weight.requires_grad_(False)
    sp = sl.methods.build(name, sparsity=0.7, every=1, end=10).attach(model, optimizer)
    frozen, counts = sp.masks["2.weight"].clone(), sp.counts()
    for i in range(6):
        step(model, optimizer, i)
    assert torch.equal(sp.masks["2.weight"], frozen) and sp.counts() == counts
    assert sp.history[-1]["churn"] > 0


def test_everything_frozen_is_not_an_error() -> None:
    model = net()
    optimizer = sgd(model)
    sp = gmp().attach(model, optimizer)
    for p in model.parameters():
        p.requires_grad_(False)
    for _ in range(STEPS):
        optimizer.step()
    assert sp.step == STEPS and sp.sparsity == 0


class Growing(nn.Module):
    """A head is added in the middle of the run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        extra = getattr(self, "extra", None)
        return self.head(hidden) + (0 if extra is None else extra(hidden))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["gmp", "rigl", "set", "granet", "movement", "snip", "sr-ste"])
def test_parameters_added_later(name: str) -> None:
    hyper: dict[str, Any] = {"sparsity": 0.7} if name == "snip" else {"sparsity": 0.7, "every": 2, "end": 10}
    hyper = {"pattern": "2:4"} if name == "sr-ste" else hyper | ({"start": 2} if name == "movement" else {})
    data = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    model = Growing()
    optimizer = sgd(model)
    only = "head" if name == "sr-ste" else None
    sp = sl.methods.build(name, **hyper).attach(model, optimizer, only, steps=STEPS, data=data)
    for i in range(5):
        step(model, optimizer, i)
    model.extra = nn.Linear(20, 3)
    with pytest.raises(OwnershipError, match=r"does not hold 1 of the 1 parameters.*'extra.weight'"):
        sp.add_("extra")
    optimizer.add_param_group({"params": list(model.extra.parameters())})
    before = sp.sparsity
    assert sp.add_("extra") == ["extra.weight"]
    assert sp.counts()["layers"]["extra.weight"] == (kept(60, before), 60)
    assert not model.extra.weight[~sp.masks["extra.weight"]].any()
    for i in range(5, STEPS):
        step(model, optimizer, i)
    assert sp.masks.kept() == pytest.approx(kept(sp.masks.numel(), sp.method.target_sparsity), abs=1)
    assert not any(t.param[~sp.masks[n]].any() for n, t in sp.targets.items())
    with pytest.raises(OwnershipError, match="names nothing new"):
        sp.add_("extra")
    sp.finalize_()


def test_adding_a_layer_that_does_not_fit_changes_nothing() -> None:
    model = Growing()
    optimizer = sgd(model)
    sp = sl.methods.Magnitude(0.5, pattern="2:4").attach(model, optimizer, "head")
    model.extra = nn.Linear(6, 3)
    optimizer.add_param_group({"params": list(model.extra.parameters())})
    masks, value = sp.masks.digest(), model.extra.weight.detach().clone()
    with pytest.raises(PatternError, match="'extra.weight'"):
        sp.add_("extra")
    assert sp.masks.digest() == masks and list(sp.targets) == ["head.weight"] and torch.equal(value, model.extra.weight)


# --- compilation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("when", ["before", "after", "in place"])
def test_compiled_equals_eager(backend: str, when: str) -> None:
    ends = []
    for compiled in (False, True):
        torch.compiler.reset()
        model: Any = net()
        run = model
        if compiled and when == "before":
            run = model = torch.compile(model, backend=backend)
        if compiled and when == "in place":
            model.compile(backend=backend)
        optimizer = sgd(model)
        sp = sl.methods.RigL(0.8, every=2, end=10).attach(model, optimizer)
        assert list(sp.masks) == ["0.weight", "2.weight", "4.weight"]
        if compiled and when == "after":
            run = torch.compile(model, backend=backend)
        for i in range(8):
            step(run, optimizer, i)
        ends.append((sp.masks.digest(), [p.detach().clone() for p in model.parameters()]))
    assert ends[0][0] == ends[1][0]
    for p, q in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(p, q)


def test_mask_updates_do_not_recompile() -> None:
    torch.compiler.reset()
    counts = []

    def backend(graph: Any, _: Any) -> Any:
        counts.append(1)
        return graph.forward

    model = net()
    optimizer = sgd(model)
    sl.methods.RigL(0.8, every=1, end=10).attach(model, optimizer)
    run = torch.compile(model, backend=backend)
    for i in range(8):
        step(run, optimizer, i)
    assert len(counts) == 1


# --- stopping and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gmp", "rigl", "set", "granet", "movement", "sr-ste"])
def test_resume_from_bytes_is_equal_to_the_last_bit(name: str) -> None:
    hyper: dict[str, Any] = {"sparsity": 0.7, "every": 2, "end": 10} | ({"start": 2} if name == "movement" else {})
    method = sl.methods.build(name, **({"pattern": "2:4"} if name == "sr-ste" else hyper))
    models, ignore = [net(), net(9)], "0" if name == "sr-ste" else None
    optimizers = [sgd(m) for m in models]
    sp = method.attach(models[0], optimizers[0], ignore=ignore, steps=STEPS, seed=3)
    for i in range(5):
        step(models[0], optimizers[0], i)
    file = io.BytesIO()
    torch.save([models[0].state_dict(), optimizers[0].state_dict(), sp.state_dict()], file)
    file.seek(0)
    weights, state, saved = torch.load(file, weights_only=True)
    kept_apart = copy.deepcopy(saved)
    models[1].load_state_dict(weights)
    optimizers[1].load_state_dict(state)
    again = method.attach(models[1], optimizers[1], ignore=ignore, steps=STEPS, seed=8, state=saved)
    for i in range(5, STEPS):
        for m, o in zip(models, optimizers, strict=True):
            step(m, o, i)
    assert again.masks == sp.masks and again.history == sp.history and again.explored() == sp.explored()
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert saved["history"] == kept_apart["history"] and saved["step"] == 5  # what was loaded is not shared
    for part in ("stats", "latent"):
        flat = [_tensors(x[part]) for x in (saved, kept_apart)]
        assert all(torch.equal(p, q) for p, q in zip(*flat, strict=True))


def _tensors(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [t for v in x.values() for t in _tensors(v)]


def test_a_saved_state_takes_one_bit_a_weight() -> None:
    model = nn.Linear(512, 512, bias=False)
    sp = sl.methods.Magnitude(0.9).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    bits = sp.state_dict()["masks"]["weight"]["bits"]
    assert bits.dtype == torch.uint8 and bits.numel() == 512 * 512 // 8


def test_states_of_others_are_refused_by_name_and_nothing_is_loaded() -> None:
    model = net()
    sp = gmp().attach(model, sgd(model))
    saved = sp.state_dict()
    other = net()
    with pytest.raises(ResumeError, match=r"another method: schedule.value was 0.8, here it is 0.9"):
        sl.methods.GMP(0.9, end=9, every=3).attach(other, sgd(other), state=saved)
    narrow = nn.Sequential(nn.Linear(6, 19), nn.ReLU(), nn.Linear(19, 3))
    with pytest.raises(ResumeError, match=r"another model: 0.weight was \(20, 6\), here it is \(19, 6\)"):
        gmp().attach(narrow, sgd(narrow), state=saved)
    with pytest.raises(ResumeError, match="version 99"):
        sp.load_state_dict(saved | {"version": 99})
    with pytest.raises(ResumeError, match="not a sparsifier state"):
        sp.load_state_dict({"state": {}})
    with pytest.raises(ResumeError, match="damaged"):
        sp.load_state_dict(saved | {"masks": {"0.weight": {"shape": [20, 6], "bits": torch.zeros(2)}}})
    assert sp.step == 0 and sp.sparsity == 0


def test_detach_stops_and_finalize_cleans() -> None:
    model = net()
    optimizer = sgd(model)
    sp = sl.methods.Magnitude(0.8).attach(model, optimizer)
    step(model, optimizer, 0)
    sp.detach()
    step(model, optimizer, 1)
    assert sp.step == 1 and model[2].weight[~sp.masks["2.weight"]].any()  # nothing masks any more
    assert sp.finalize_() is sp and not model[2].weight[~sp.masks["2.weight"]].any()
    assert [type(m) for m in model.modules()] == [type(m) for m in net().modules()]
    sp.finalize_(), sp.detach()  # again is harmless


def test_given_masks_are_copied_and_checked() -> None:
    masks = sl.prune_(net(), sl.methods.Magnitude(0.8))
    model = net()
    sp = gmp().replace(schedule=None).attach(model, sgd(model), masks=masks)
    masks["2.weight"].fill_(True)
    assert sp.masks.kept() == kept(580, 0.8)
    with pytest.raises(MaskMismatch, match=r"'4.weight': \(3, 20\) against absent"):
        gmp().attach(model, sgd(model), masks=MaskSet({n: m for n, m in masks.items() if n != "4.weight"}))


def test_ends_beyond_the_run_are_refused() -> None:
    model = net()
    with pytest.raises(ScheduleError, match="beyond the end of the run"):
        sl.methods.GMP(0.8, end=100).attach(model, sgd(model), steps=50)
    with pytest.raises(ScheduleError, match="length is unknown"):
        sl.methods.GMP(0.8, end=0.5).attach(model, sgd(model))
    assert not sgd(model)._optimizer_step_pre_hooks
