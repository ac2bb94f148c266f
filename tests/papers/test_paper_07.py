"""Paper 07: masks of grouped rows, fine-tuning that keeps them, the rule of the verdict, and its milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core import pattern
from sparseland.kernels.grouping import fill, group_rows
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "07-sparsebytenn"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def finetune() -> Any:
    return load(SLUG, "finetune")


def small() -> tuple[nn.Module, dict[str, nn.Parameter]]:
    model = sl.zoo.build("resnet-8", in_shape=(1, 8, 8), classes=10, seed=0, width=8)
    return model, {n: p for n, p in model.named_parameters() if p.ndim == 4 and "layer" in n}


# -------------------------------------------------------------------------------------------------------------- masks
@pytest.mark.parametrize("shape", ["unstructured", "kernel", "kernel 4x1", "block 4x1", "row"])
def test_masks_follow_the_pattern_and_grow_sparser_inside_themselves(finetune: Any, shape: str) -> None:
    _, weights = small()
    word = pattern(shape)
    order = finetune.orders(weights, word, "identity", 0.5, 0)
    before: dict[str, Any] = {}
    for p in (0.2, 0.5):
        mask = finetune.masks(weights, word, order, p, before)
        for name, weight in weights.items():
            word.check(mask[name], name)
            assert int(mask[name].sum()) == word.reachable(weight.shape, (1 - p) * weight.numel())
            assert not before or not bool((mask[name] & ~before[name]).any())
        before = mask


def test_swapped_rows_share_atoms_and_the_engine_s_packing_finds_them(finetune: Any) -> None:
    _, weights = small()
    word = pattern("kernel 4x1")
    order = finetune.orders(weights, word, "swap", 0.5, 0)
    mask = finetune.masks(weights, word, order, 0.5, {})
    for name, weight in weights.items():
        scores = weight.detach().abs().flatten(2).sum(2).numpy()
        groups = group_rows(scores, 4, "swap", 0, sparsity=0.5)
        assert order[name].tolist() == [row for group in groups for row in group]
        kinds = mask[name].flatten(1)
        assert all(torch.equal(kinds[group[0]], kinds[row]) for group in groups for row in group)
        assert fill((weight * mask[name]).detach().numpy(), 4) == 1.0
    identity = finetune.masks(weights, word, finetune.orders(weights, word, "identity", 0.5, 0), 0.5, {})

    def kept(masks: Any) -> float:
        return sum(float((w.detach().abs() * masks[n]).sum()) for n, w in weights.items())

    assert kept(mask) > kept(identity)


def test_scores_are_sums_over_the_atom(finetune: Any) -> None:
    """The atom that goes is the one whose members together are the smallest, whatever single weights do."""
    weight = nn.Parameter(torch.tensor([[5.0, 2.0], [0.1, 2.0], [0.1, 3.0], [0.1, 3.0]]).view(4, 2, 1, 1))
    order = {"w": torch.arange(4)}
    mask = finetune.masks({"w": weight}, pattern("kernel 2x1"), order, 0.5, {})["w"]
    assert mask.view(4, 2).int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


# -------------------------------------------------------------------------------------------------------- fine-tuning
def test_fine_tuning_ends_at_the_sparsity_and_keeps_the_zeros(finetune: Any) -> None:
    data = sl.data.load("digits", limit=200)
    config = sl.train.TrainConfig(epochs=1, batch_size=20, lr=0.01, weight_decay=4e-5)
    for shape in (pattern("kernel 4x1"), None):
        model, weights = small()
        dense = {n: w.detach().clone() for n, w in weights.items()}
        order = finetune.orders(weights, shape, "swap", 0.5, 0) if shape is not None else {}
        finetune.finetune_(model, data, config, weights, shape, order, 0.5)
        for name, weight in weights.items():
            share = float((weight != 0).float().mean())
            assert share == (pytest.approx(0.5, abs=0.02) if shape is not None else 1.0)
            assert not torch.equal(weight[weight != 0], dense[name][weight != 0])
            if shape is not None:
                assert bool((weight != 0)[order[name]].view(-1, 4, *weight.shape[1:]).float().mean(1).ne(0.5).all())


def test_statistics_are_a_plain_mean_over_batches(finetune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sl.data.load("digits", limit=100)
    monkeypatch.setattr(finetune, "STATISTICS", 1)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
    model[0].running_mean.fill_(7.0)
    finetune.recalibrate_(model, data, 0)
    batch = sl.data.batches(data.train, 128, mean=data.mean, std=data.std, shuffle=True, seed=0, epoch=1000)
    images = next(iter(batch))[0]
    assert float(model[0].running_mean) == pytest.approx(float(images.mean()), abs=1e-5)
    assert model[0].momentum == 0.1 and not model.training


# ------------------------------------------------------------------------------------------------------------ verdict
def row(part: str, setting: str, arm: str, metric: str, mean: float) -> dict[str, Any]:
    return {"part": part, "setting": setting, "arm": arm, "metric": metric, "mean": mean, "std": 0.3, "seeds": 3}


def rows_of(jobs: Any, **changes: float) -> list[dict[str, Any]]:
    means = {"unstructured": 80.0, "single kernels": 79.5, "G=4 consecutive": 78.8, "G=4 swap": 79.2, "filters": 76.0}
    means |= {name.replace("_", " "): value for name, value in changes.items()} | {
        "G=4 swap": changes.get("swap", 79.2)
    }
    made = [row("resnet", "", "dense", jobs.ACCURACY, 80.0)]
    for p in ("30%", "50%"):
        made += [row("resnet", p, arm, jobs.ACCURACY, mean) for arm, mean in means.items() if arm != "swap"]
    return made


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "in part" and "at 30 % G=4 (swap) is -0.8 points from dense (ResNet-20, CIFAR-10 (JPEG))" in why
    assert "filters holds at 30% (80.0, 79.5, 79.2, 76.0) and holds at 50%" in why
    assert "swap gains +0.4 to +0.4 points over consecutive rows" in why and "speed is not measured yet" in why
    assert jobs.judge(rows_of(jobs, swap=78.9))[0] == "does not"
    longer = [row("resnet-long", p, a, jobs.ACCURACY, m) for p, a, m in (("", "dense", 80), ("30%", "G=4 swap", 70))]
    assert "four times as many steps on ResNet-20 leave -10.0;" in jobs.judge(rows_of(jobs) + longer)[1]
    assert jobs.judge(rows_of(jobs) + longer)[0] == "in part"  # it turns nothing
    with pytest.raises(ValueError, match="parts resnet or mobilenet decide"):
        jobs.judge([])


def test_the_order_forgives_half_a_point(jobs: Any) -> None:
    assert "filters holds at 30%" in jobs.judge(rows_of(jobs, filters=79.6))[1]
    assert "filters does not hold at 30%" in jobs.judge(rows_of(jobs, filters=79.8))[1]


@pytest.mark.parametrize(("times", "verdict"), [(1.25, "in part"), (1.1, "does not")])
def test_speed_decides_too(jobs: Any, times: float, verdict: str) -> None:
    made = rows_of(jobs)
    for arm, value in (("unstructured", 1.05), ("G=4", times)):
        made.append(row("speed", "MobileNetV1, 30%", arm, jobs.TIMES, value))
    found, why = jobs.judge(made)
    assert found == verdict and f"same engine: unstructured 1.05, G=4 {times:.2f} times as fast" in why
    assert f"ResNet-20, CIFAR-10 (JPEG) -0.8 points, MobileNetV1 {times:.2f} times as fast" in jobs.headline(made)


def test_figures_have_a_line_for_each_pattern(jobs: Any) -> None:
    made = rows_of(jobs)
    made += [row("latency", "resnet 30%", "G=4 swap", jobs.LATENCY, 0.25)]
    charts = jobs.figures(made)
    assert set(charts) == {"accuracy-resnet.svg", "latency-resnet.svg"}
    chart = charts["accuracy-resnet.svg"]
    assert [line["x"] for line in chart["lines"]] == [[70.0, 50.0]] * 5 and chart["levels"][0]["y"] == 80.0
    assert charts["latency-resnet.svg"]["lines"] == [{"label": "G=4 swap", "x": [0.25], "y": [79.2], "error": [0.3]}]


def test_jobs_differ_in_pattern_and_seed_only(jobs: Any) -> None:
    for part in ("resnet", "mobilenet", "resnet-long"):
        own = ("arm", "shape", "grouping", "sparsity", "seed", "name", "once", "tuned", "source")
        assert len({str({k: v for k, v in job.items() if k not in own}) for job in jobs.PARTS[part]().values()}) == 1


# ------------------------------------------------------------------------------------------------------------ latency
def test_milliseconds_and_times(jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    latency = load(SLUG, "latency")
    monkeypatch.setattr(sl.deploy, "convert", lambda model, sample, **options: model, raising=False)
    job = jobs.latency()["latency/resnet/1"]
    assert set(job["arms"]) == {"dense"} | {key.split("/")[1] for key in jobs.resnet() if jobs.resnet()[key]["tuned"]}
    for arm in ("dense", "G=4 swap 30%"):
        folder = tmp_path / "weights" / "resnet" / arm / "1"
        folder.mkdir(parents=True)
        model = sl.zoo.build("resnet-20", in_shape=(3, 32, 32), classes=10, seed=0)
        save_file(model.state_dict(), folder / "model.safetensors")
    made = latency.measure(**job | {"arms": ["dense", "G=4 swap 30%"], "rounds": 1}, place=str(tmp_path))
    assert [(m["setting"], m["arm"]) for m in made["measured"]] == [("resnet", "dense"), ("resnet 30%", "G=4 swap")]
    monkeypatch.setattr(sl.zoo, "build", narrow(sl.zoo.build))
    found = latency.speed(sparsity=0.3, shapes={"G=4": "block 4x1"}, threads=1, rounds=1, seed=0)["measured"]
    assert [(m["arm"], m["metric"]) for m in found] == [
        ("dense", jobs.LATENCY), ("G=4", jobs.LATENCY), ("G=4", jobs.TIMES),
    ]  # fmt: skip


def narrow(build: Any) -> Any:
    """`build`, but of a MobileNet that takes no time."""
    return lambda *args, **options: build(*args, **options | {"width": 0.125})


def test_zeros_of_a_pattern() -> None:
    latency = load(SLUG, "latency")
    model = sl.zoo.build("mobilenet-v1", in_shape=(3, 32, 32), classes=10, seed=0, width=0.25)
    latency.prune_(model, "block 4x1", 0.3)
    for name, p in model.named_parameters():
        if "pointwise" in name:
            pattern("block 4x1").check(p != 0, name)
            assert float((p == 0).float().mean()) == pytest.approx(0.3, abs=4 / p.numel() + 0.01)
        elif p.ndim == 4:
            assert bool((p != 0).all())
    assert np.isfinite(fill(model.layers[0].pointwise.weight.detach().flatten(1).numpy(), 4))


# ---------------------------------------------------------------------------------------------------------- the folder
@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
