"""MaskSparsity, network slimming and the group lasso: who is penalised, what is cut, and that the cut net goes on."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import (
    InfeasibleBudget,
    MaskMismatch,
    RecipeError,
    ScheduleError,
    SparselandError,
    TargetError,
)
from sparseland.testing import check_method, tasks
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights import structure
from sparseland.weights.channels import norm_members, spread, told, vote
from sparseland.weights.methods import GroupLasso, MaskSparsity, Slimming, group_lasso, masksparsity, slimming
from sparseland.weights.scales import is_scale, norm_scales

CONFIG = {"data": "digits", "limit": 200, "epochs": 2, "lr": 0.05, "batch_size": 50, "evaluate_every": 2, "threads": 1}
RESNET = {"model": "resnet-8", "model_options": {"width": 4, "shortcut": "B"}}


def conv4(width: int = 8) -> nn.Module:
    """The card's net, narrower."""
    torch.manual_seed(0)
    sides = (1, width, width, 2 * width, 2 * width)
    layers: list[nn.Module] = []
    for i, (into, out) in enumerate(itertools.pairwise(sides)):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i == 1 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def trainer(model: nn.Module | None = None, **changes: Any) -> Trainer:
    config = TrainConfig(**{**CONFIG, **({} if model is not None else RESNET), **changes})
    return Trainer(config, model=model)


@pytest.mark.filterwarnings("ignore:a penalty of")
def test_the_whole_procedure_cuts_channels_and_goes_on() -> None:
    one = trainer()
    before = sum(p.numel() for p in one.model.parameters())
    out = masksparsity(one, MaskSparsity(0.5, strength=0.05), finetune=0.5)
    assert out["steps"] == 3 * one.steps + one.steps // 2
    assert sum(p.numel() for p in one.model.parameters()) == out["plan"].after[1] < 0.35 * before
    assert one.cost.dense() == out["plan"].after[0]
    assert one.model.layer3[0].conv1.out_channels == 8  # half, where nobody votes; where layers vote, no more stay
    assert one.model.conv1.out_channels == one.model.layer1[0].bn2.num_features <= 2
    assert one.model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert len(out["accuracy"]) == 3 and out["masks"].sparsity() >= 0.5
    assert one.record.meter.training < one.record.meter.training_dense


def test_kept_scales_get_no_extra_gradient() -> None:
    """One step with and without the method: kept scales move to the same bits, the others further to zero."""
    moved = {}
    for sparse in (False, True):
        model = conv4()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        masks = {n: torch.arange(len(p)) % 2 == 0 for n, p in norm_scales(model).items()}
        if sparse:
            method = MaskSparsity(0.5, strength=0.3)
            method.attach(model, optimizer, targets=is_scale, masks=sl.core.MaskSet(masks))
        torch.manual_seed(1)
        nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8)).backward()
        optimizer.step()
        moved[sparse] = {n: p.detach().clone() for n, p in norm_scales(model).items()}
    for n, mask in masks.items():
        assert torch.equal(moved[True][n][mask], moved[False][n][mask])
        assert torch.allclose(moved[True][n][~mask], moved[False][n][~mask] - 0.1 * 0.3)


@pytest.mark.filterwarnings("ignore:a penalty of")
def test_the_masks_follow_the_globally_trained_scales_but_training_starts_from_the_baseline() -> None:
    log = []

    class Watched(Trainer):
        def fit(self, method: Any = None, masks: Any = None, **options: Any) -> Any:
            scales = {n: p.detach().clone() for n, p in norm_scales(self.model).items()}
            done = super().fit(method, masks, **options)
            ended = {n: p.detach().clone() for n, p in norm_scales(self.model).items()}
            log.append((scales, masks, ended))
            return done

    one = Watched(TrainConfig(**CONFIG), model=conv4())
    masksparsity(one, MaskSparsity(0.5, strength=0.3))
    (_, _, baseline), (began, whole, globally), (again, masks, _), _ = log
    assert all(torch.equal(began[n], baseline[n]) and torch.equal(again[n], baseline[n]) for n in baseline)
    assert all(bool(m.all()) for m in whole.values())
    for n, mask in masks.items():
        assert float(globally[n].abs()[mask].min()) >= float(globally[n].abs()[~mask].max())


@pytest.mark.filterwarnings("ignore:a penalty of")
def test_masks_from_elsewhere_and_thresholds() -> None:
    one = trainer(conv4())
    given = {n: torch.arange(len(p)) < 3 for n, p in norm_scales(one.model).items()}
    out = masksparsity(one, MaskSparsity(0.5, strength=0.05), masks=given)
    assert out["plan"].widths == {"0": 3, "3": 3, "7": 3, "10": 3}
    assert out["steps"] == 2 * one.steps + round(0.1 * one.steps)  # no global training
    one = trainer(conv4())
    out = masksparsity(one, MaskSparsity(0.5, strength=1e-4), threshold=0.01)
    assert out["plan"].widths == {"0": 8, "3": 8, "7": 16, "10": 16}  # too weak a penalty: nothing is small yet
    one = trainer(conv4())
    out = masksparsity(one, MaskSparsity(0.5, strength=0.05, allocation="energy"), start="global")
    assert out["masks"].sparsity() < 0.5  # what the scales say, not what was asked for


def test_cut_equals_masked_and_folded_equals_scales_at_zero() -> None:
    model = conv4().train()
    for _ in range(5):
        model(torch.randn(16, 1, 8, 8))
    model.eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if ".bias" in n or (n.endswith("weight") and p.ndim == 1):
                p.uniform_(-1, 1)
    x = torch.randn(4, 1, 8, 8)
    graph = structure.trace(model, x)
    members = norm_members(graph, norm_scales(model))
    keep = vote(MaskSparsity(0.5), members, model)
    plan = graph.plan(keep=keep)
    masked = plan.mask_(copy.deepcopy(model))(x)
    assert torch.allclose(plan.apply(copy.deepcopy(model))(x), masked, atol=1e-5)
    last = graph.plan(keep={"10": keep["10"]})  # read by a mean and a linear layer: its constants fold exactly
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        zeroed[11].weight.mul_(keep["10"])
    folded = last.apply(copy.deepcopy(model), fold=True, sample=x)
    assert folded[10].out_channels == 8
    assert torch.allclose(folded(x), zeroed(x), atol=1e-5)
    assert not torch.allclose(last.apply(copy.deepcopy(model))(x), zeroed(x), atol=1e-3)  # dropping β is another net


def test_residual_layers_vote_and_share_a_mask() -> None:
    model = sl.zoo.build("resnet-8", in_shape=(1, 8, 8), classes=10, seed=0, width=4, shortcut="B")
    graph = structure.trace(model, torch.zeros(1, 1, 8, 8))
    members = norm_members(graph, norm_scales(model))
    assert [n for n, _ in members["layer2.0.conv2"]] == ["layer2.0.bn2.weight", "layer2.0.shortcut.bn.weight"]
    masks = {n: torch.ones(len(p), dtype=torch.bool) for n, p in norm_scales(model).items()}
    masks["layer2.0.bn2.weight"][:3] = False
    masks["layer2.0.shortcut.bn.weight"][1:4] = False
    widths = {rule: int(vote(masks, members, model, rule)["layer2.0.conv2"].sum()) for rule in ("vote", "and", "or")}
    assert widths == {"vote": 4, "and": 6, "or": 4}
    both = spread(vote(masks, members, model), members, model)
    assert torch.equal(both["layer2.0.bn2.weight"], both["layer2.0.shortcut.bn.weight"])


def test_an_empty_layer_keeps_its_largest_scale() -> None:
    model = conv4()
    with torch.no_grad():
        model[1].weight[5] = -7.0
    graph = structure.trace(model, torch.zeros(1, 1, 8, 8))
    members = norm_members(graph, norm_scales(model))
    nothing = {n: torch.zeros(len(p), dtype=torch.bool) for n, p in norm_scales(model).items()}
    keep = vote(nothing, members, model)
    assert keep["0"].nonzero().flatten().tolist() == [5] and all(int(m.sum()) == 1 for m in keep.values())
    assert all(int(m.sum()) == 4 for m in vote(nothing, members, model, round_to=4).values())


def test_a_flops_target_is_searched_over_the_scales() -> None:
    model = conv4(16)
    with torch.no_grad():
        for p in norm_scales(model).values():
            p.uniform_(0, 1)
    graph = structure.trace(model, torch.zeros(1, 1, 8, 8))
    members = norm_members(graph, norm_scales(model))
    keep = vote(MaskSparsity(0.5), members, model, graph=graph, flops=0.49)
    assert 0.44 < graph.plan(keep=keep).after[0] / graph.flops() <= 0.49
    with pytest.raises(InfeasibleBudget):
        vote(MaskSparsity(0.5), members, model, graph=graph, flops=1e-6)


@pytest.mark.parametrize(
    ("procedure", "method", "trainings"),
    [(slimming, Slimming(0.5, strength=0.03), 2), (group_lasso, GroupLasso(0.5, strength=1e-3), 2)],
)
def test_the_baselines_cut_too(procedure: Any, method: Any, trainings: int) -> None:
    one = trainer(conv4())
    out = procedure(one, method)
    assert out["steps"] == trainings * one.steps + round(0.1 * one.steps)
    widths = out["plan"].widths
    assert sum(widths.values()) == 24 and sum(p.numel() for p in one.model.parameters()) == out["plan"].after[1]


def test_slimming_shrinks_kept_scales_and_masksparsity_does_not() -> None:
    """The paper's point in a few seconds, same final widths; the whole proof is the slow test of paper 24."""
    found = {}
    everywhere = Slimming(0.5, strength=0.06, allocation="uniform")
    for procedure, method in ((masksparsity, MaskSparsity(0.5, strength=0.06)), (slimming, everywhere)):
        one = trainer(conv4(), limit=500, epochs=8, batch_size=25, evaluate_every=8)
        found[procedure] = procedure(one, method)
    ours, theirs = found[masksparsity], found[slimming]
    assert ours["plan"].widths == theirs["plan"].widths
    assert ours["kept_scale"] > 0.8 and theirs["kept_scale"] < 0.5
    assert ours["removed_scale"] < theirs["removed_scale"]
    assert ours["accuracy"][2] > theirs["accuracy"][2] + 0.03


# ------------------------------------------------------------------------------------------------------------- as a run
@pytest.mark.filterwarnings("ignore:a penalty of")
@pytest.mark.parametrize("name", ["masksparsity", "slimming", "group-lasso"])
def test_a_run_counts_what_was_removed(name: str, tmp_path: Path) -> None:
    config = TrainConfig(**CONFIG, **RESNET, method={"name": name, "sparsity": 0.5, "finetune": 0.5})
    result = run(config, tmp_path, progress=False)
    dense = sl.zoo.build("resnet-8", in_shape=(1, 8, 8), classes=10, width=4, shortcut="B")
    assert result["total"] == sum(t.param.numel() for t in sl.weights.eligible(dense).values())
    assert result["kept"] < 0.75 * result["total"] and result["sparsity"] == pytest.approx(
        1 - result["kept"] / result["total"]
    )
    assert result["flops"]["inference"] < result["flops"]["inference_dense"]
    assert result["flops"]["training"] < result["flops"]["training_dense"]
    assert run(config, tmp_path, progress=False, resume=True) == result


@pytest.mark.filterwarnings("ignore:a penalty of")
def test_a_run_that_was_cut_after_the_removal_goes_on(tmp_path: Path) -> None:
    config = TrainConfig(**CONFIG, **RESNET, method={"name": "masksparsity", "sparsity": 0.5, "finetune": 0.5})
    whole = run(config, tmp_path / "a", progress=False)

    def stop(entry: dict[str, Any]) -> None:
        if entry["fit"] == 3:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        run(config, tmp_path / "b", progress=False, callback=stop)
    again = run(config, tmp_path / "b", progress=False, resume=True)
    assert again["test"]["accuracy"] == whole["test"]["accuracy"] and again["kept"] == whole["kept"]
    assert again["flops"]["training"] == whole["flops"]["training"]


@pytest.mark.parametrize("check", ["exact_count", "resume_bit_equal", "plain_after_finalize"])
def test_the_contract_on_scales(check: str) -> None:
    """As the paper has it: the masks are of norm scales."""
    conv = next(task for task in tasks() if task.name == "conv")
    assert check_method(MaskSparsity(0.5, strength=0.01), checks=check, data=conv).ok


# -------------------------------------------------------------------------------------------------------------- refused
def test_bad_input_is_refused_before_anything_is_trained() -> None:
    class Untouched(Trainer):
        def fit(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("trained")

    def one(model: nn.Module | None = None) -> Trainer:
        return Untouched(TrainConfig(**CONFIG), model=model or conv4())

    with pytest.raises(RecipeError, match=r"strength is 0.0; possible: a number > 0"):
        MaskSparsity(0.5, strength=0.0)
    with pytest.raises(MaskMismatch, match="no mask for 1.weight"):
        masksparsity(one(), masks={"4.weight": torch.ones(8)})
    masks = {n: torch.ones(len(p)) for n, p in norm_scales(conv4()).items()}
    with pytest.raises(MaskMismatch, match="4.weight: 9 for 8 channels"):
        masksparsity(one(), masks=masks | {"4.weight": torch.ones(9)})
    with pytest.raises(MaskMismatch, match=r"'4.weight' holds 0.25"):
        masksparsity(one(), masks=masks | {"4.weight": torch.full((8,), 0.25)})
    with pytest.raises(TargetError, match="has no BatchNorm, GroupNorm or InstanceNorm"):
        masksparsity(one(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))))
    frozen = conv4()
    frozen[1] = nn.BatchNorm2d(8, affine=False)
    with pytest.raises(TargetError, match="'1' is BatchNorm2d"):
        masksparsity(one(frozen))
    with pytest.raises(RecipeError, match="start is 'end'; possible: baseline, global"):
        masksparsity(one(), start="end")
    with pytest.raises(ScheduleError, match="finetune is 2; possible"):
        masksparsity(one(), finetune=2)
    with pytest.raises(SparselandError, match=r"give example="):
        masksparsity(type("Bare", (), {"model": conv4(), "steps": 4})())  # type: ignore[arg-type]


def test_a_weak_penalty_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"strength=.* would do"):
        masksparsity(trainer(conv4()), MaskSparsity(0.5, strength=1e-4))


def test_group_norms_serve_as_well() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    graph = structure.trace(model, torch.zeros(1, 1, 8, 8))
    scales = norm_scales(model)
    try:
        members = norm_members(graph, scales)
    except TargetError as error:  # the channels of a group cannot go one by one
        assert "no channel" in str(error)
        return
    plan = graph.plan(keep=vote(MaskSparsity(0.5), members, model))
    assert plan.apply(model)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_what_is_told_of_scales() -> None:
    scales = {"a": torch.tensor([1.0, -3.0, 0.5])}
    assert told({"a": torch.tensor([True, True, False])}, scales) == {"kept_scale": 2.0, "removed_scale": 0.5}


def test_a_report_leaves_out_nets_that_lost_units() -> None:
    """Its pictures build each net from the configuration, and a cut one is another net."""
    from sparseland.reports.exhibits import _pictures

    config, data = TrainConfig(**CONFIG, **RESNET), sl.data.load("digits", limit=50)
    model = sl.train.Trainer(config, dataset=data).model
    whole = copy.deepcopy(model.state_dict())
    graph = structure.trace(model, torch.zeros(1, 1, 8, 8))
    cut = graph.plan(scores=graph.weight_norms(), ratio=0.5).apply(model).state_dict()
    runs = [{"label": "whole", "seed": 0}, {"label": "cut", "seed": 0}]
    assert set(_pictures(runs, {("whole", 0): whole, ("cut", 0): cut}, config, data)["predictions"]) == {"whole"}
    assert _pictures(runs[1:], {("cut", 0): cut}, config, data) == {}
