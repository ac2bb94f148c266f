"""Paper 23: curves by hand, the rule of the verdict, what is trained, and how its milliseconds are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.core import pattern
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "23-fast-sparse-convnets"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG
SMALL: dict[str, Any] = {
    "data": "digits", "limit": 200, "epochs": 5, "batch_size": 20, "lr": 0.1, "augment": None, "stem": 1, "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def training() -> Any:
    return load(SLUG, "training")


@pytest.fixture
def latency() -> Any:
    return load(SLUG, "latency")


# ------------------------------------------------------------------------------------------------------------- curves
@pytest.mark.parametrize(
    ("sparse", "gap", "cheaper"),
    [
        ((2.0, 25.0), 5.0, 1.25),  # above: dense needs 2.5 for 25
        ((2.0, 15.0), -5.0, 0.75),
        ((4.0, 50.0), 0.0, 1.0),  # on the last point
        ((3.5, 40.0), 0.0, 1.0),  # on the second line, from (3, 30) to (4, 50)
        ((0.5, 10.0), 0.0, 2.0),  # as good as the cheapest, and cheaper
        ((0.5, 9.9), None, None),  # cheaper and worse than all of them: nothing to compare with
        ((5.0, 50.0), 0.0, 0.8),
        ((5.0, 50.1), None, None),
    ],
)
def test_gaps_by_hand(sparse: tuple[float, float], gap: float | None, cheaper: float | None) -> None:
    curves = load(SLUG, "curves")
    dense = [(4.0, 50.0), (1.0, 10.0), (3.0, 30.0)]
    assert curves.gap(dense, sparse) == (None if gap is None else pytest.approx(gap))
    assert curves.cheaper(dense, sparse) == (None if cheaper is None else pytest.approx(cheaper))


# ------------------------------------------------------------------------------------------------------------ verdict
def row(part: str, arm: str, metric: str, mean: float, setting: str = "") -> dict[str, Any]:
    return {"part": part, "setting": setting, "arm": arm, "metric": metric, "mean": mean, "std": 0.5, "seeds": 3}


def rows_of(jobs: Any, part: str, nets: dict[str, tuple[float, float, float]]) -> list[dict[str, Any]]:
    """{net: (accuracy, multiply-adds, milliseconds; 0: not measured)}."""
    made = []
    for net, (accuracy, macs, ms) in nets.items():
        made += [row(part, net, jobs.ACCURACY, accuracy), row(part, net, jobs.MACS, macs)]
        made += [row("latency", net, jobs.LATENCY, ms, f"{part}, batch 1")] if ms else []
    return made


DENSE = {"dense 0.25": (40.0, 3.0, 1.0), "dense 0.5": (50.0, 11.0, 2.0)}


@pytest.mark.parametrize(
    ("sparse", "verdict", "says"),
    [
        ((46.0, 4.0, 1.5), "in part", "at equal latency, batch 1 above the dense curve (+1.0 points, 1 of 1 compared"),
        ((44.0, 4.0, 1.5), "does not", "at equal latency, batch 1 below the dense curve (-1.0 points"),
        ((44.0, 4.0, 0.0), "in part", "at equal multiply-adds above the dense curve (+2.8 points"),
        ((41.0, 4.0, 0.0), "does not", "latency is not measured yet"),
        ((38.0, 4.0, 0.5), "does not", "outside the range of the dense ones (0 of 1 compared)"),
        ((42.0, 4.0, 0.5), "in part", "at equal latency, batch 1 above the dense curve (+2.0 points"),
    ],
)
def test_latency_decides_where_it_is_measured(
    jobs: Any, sparse: tuple[float, float, float], verdict: str, says: str
) -> None:
    nets = DENSE | {"sparse 0.5 90%": sparse}
    if not sparse[2]:
        nets = {name: (accuracy, macs, 0.0) for name, (accuracy, macs, _) in nets.items()}
    found, why = jobs.judge(rows_of(jobs, "cifar", nets))
    assert found == verdict and says in why


def test_every_data_set_must_hold(jobs: Any) -> None:
    good, bad = DENSE | {"sparse 0.5 90%": (46.0, 4.0, 1.5)}, DENSE | {"sparse 0.5 90%": (44.0, 4.0, 1.5)}
    assert jobs.judge(rows_of(jobs, "cifar", good) + rows_of(jobs, "fashion", good))[0] == "in part"
    verdict, why = jobs.judge(rows_of(jobs, "cifar", good) + rows_of(jobs, "fashion", bad))
    assert verdict == "does not" and "CIFAR-10 (JPEG): the sparse nets are" in why and "Fashion-MNIST: the" in why
    longer = [r for r in rows_of(jobs, "cifar-long", bad) if r["part"] != "latency"]  # the latency is part cifar's
    verdict, why = jobs.judge(rows_of(jobs, "cifar", good) + longer)
    assert verdict == "does not" and "6 epochs: the sparse nets are at equal multiply-adds above" in why
    assert "latency, batch 1 below the dense curve (-1.0" in why
    with pytest.raises(ValueError, match="parts cifar or fashion decide"):
        jobs.judge([])


def test_the_other_numbers_are_told(jobs: Any) -> None:
    nets = DENSE | {"sparse 0.5 90%": (46.0, 4.0, 1.5), "random 0.5 90%": (43.0, 4.0, 1.5)}
    made = rows_of(jobs, "fashion", nets) + [row("speed", "90%", jobs.TIMES, 2.25, "mobilenet-v1 1")]
    verdict, why = jobs.judge(made)
    assert verdict == "in part" and "a random mask at 90 % is -3.0 points from the pruned one" in why
    assert "the same net at 90 % zeros and 224 pixels runs 2.2 to 2.2 times as fast" in why
    assert "Fashion-MNIST, at equal latency: +1.0 to +1.0 points" in jobs.headline(made)
    charts = jobs.figures(made)
    assert set(charts) == {"accuracy-multiply-adds-fashion.svg", "accuracy-latency-fashion.svg"}
    assert [line["label"] for line in charts["accuracy-latency-fashion.svg"]["lines"]] == [
        "dense", "sparse, 90%", "random mask, 90%",
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- training
def test_a_sparse_run_has_its_zeros_where_the_paper_has_them(training: Any, tmp_path: Path) -> None:
    net = {"width": 0.125, "arm": "sparse", "sparsity": 0.8, "split": "test", "name": "x/0"}
    made = training.measure(**SMALL, **net, place=str(tmp_path))
    found = {m["metric"]: m["value"] for m in made["measured"]}
    assert {m["arm"] for m in made["measured"]} == {"sparse 0.125 80%"}
    assert found[training.ZEROS] == pytest.approx(80, abs=0.1) and 0 < found[training.ACCURACY] <= 100
    data = training.load("digits", 200, 1)
    model = sl.zoo.load_weights(training.build(data, 0.125, 1), tmp_path / "weights" / "x" / "0" / "model.safetensors")
    state = model.state_dict()
    for name, (kept, total) in training.counts(model).items():
        assert kept / total == pytest.approx(0.2, abs=4 / total)
        assert name in state
    pattern("block 4x1").check(state[training.LAST] != 0)
    assert all(bool((state[n] != 0).all()) for n in state if n.endswith("depthwise.weight") or n == "conv1.weight")
    again = training.measure(**SMALL, **net, place=str(tmp_path))
    assert again["measured"] == made["measured"]


def test_a_random_mask_never_moves_and_dense_has_no_zeros(training: Any) -> None:
    data = training.load("digits", 200, 1)
    config = sl.train.TrainConfig(epochs=1, batch_size=50, lr=0.05, seed=3)
    masks = []
    for epochs in (1, 2):
        model = training.build(data, 0.125, 1)
        training.fit(data, model, config.replace(epochs=epochs), "random", 0.9, 10)
        masks.append({name: model.state_dict()[name] != 0 for name in training.counts(model)})
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    assert all(int(mask.sum()) == pytest.approx(0.1 * mask.numel(), abs=4) for mask in masks[0].values())
    model = training.build(data, 0.125, 1)
    training.fit(data, model, config, "dense", 0.0, 10)
    assert all(kept == total for kept, total in training.counts(model).values())


def test_jobs_are_equal_in_all_but_the_net(jobs: Any) -> None:
    for part in ("cifar", "fashion", "cifar-long"):
        made = jobs.PARTS[part]()
        own = ("width", "arm", "sparsity", "seed", "name")
        assert len({str({k: v for k, v in job.items() if k not in own}) for job in made.values()}) == 1
        assert all(job["split"] == "test" for job in made.values()) and len(made) == 3 * len(jobs.nets(part))
    assert all(job["split"] == "validation" for job in jobs.rate().values())


# ------------------------------------------------------------------------------------------------------------ latency
def test_milliseconds_of_every_net(
    training: Any, latency: Any, jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key, job), *_ = ((k, j) for k, j in jobs.latency().items() if j["part"] == "cifar")
    nets = {"dense 0.15": 0.15, "dense 0.25": 0.25}
    for name, width in nets.items():
        model = sl.zoo.build("mobilenet-v1", in_shape=(3, 32, 32), classes=10, seed=0, width=width, stem_stride=2)
        folder = tmp_path / "weights" / "cifar" / name / str(job["seed"])
        folder.mkdir(parents=True)
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / "model.safetensors")
    asked: list[tuple[Any, ...]] = []

    def convert(model: Any, sample: Any, *, threads: int, never_slower: bool, **options: Any) -> Any:
        assert not never_slower  # the engine is measured, not what torch may be better at
        asked.append((tuple(sample.shape), threads))
        return model

    monkeypatch.setattr(sl.deploy, "convert", convert, raising=False)
    made = latency.measure(**job | {"nets": nets, "rounds": 2}, place=str(tmp_path))
    assert asked == [((1, 3, 32, 32), 1)] * 2 and key == "latency/cifar, batch 1/0"
    assert [(m["setting"], m["arm"], m["metric"]) for m in made["measured"]] == [
        ("cifar, batch 1", name, jobs.LATENCY) for name in nets
    ]
    assert all(m["value"] > 0 for m in made["measured"])
    monkeypatch.setattr(sl.deploy, "convert", lambda model, sample, **options: lambda x: model(x) * 1.1, raising=False)
    with pytest.raises(ValueError, match=r"differs from torch's by 1\.0e-01"):
        latency.measure(**job | {"nets": nets, "rounds": 2}, place=str(tmp_path))


def test_the_same_net_with_and_without_zeros(latency: Any, jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = []

    def convert(model: Any, sample: Any, *, threads: int, never_slower: bool, **options: Any) -> Any:
        weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
        zeros.append([round(1 - float((w != 0).float().mean()), 2) for w in weights])
        return model

    monkeypatch.setattr(sl.deploy, "convert", convert, raising=False)
    job = next(iter(jobs.speed().values())) | {"width": 0.25, "side": 32, "rounds": 2}
    made = {(m["arm"], m["metric"]): m["value"] for m in latency.speed(**job)["measured"]}
    assert zeros == [[0.0] * 13, [0.9] * 13]
    assert set(made) == {("dense", jobs.LATENCY), ("sparse", jobs.LATENCY), ("90%", jobs.TIMES)}


# ---------------------------------------------------------------------------------------------------------- the folder
@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
