"""The rules that give the verdicts, on rows made by hand: each clause can turn the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparseland import papers

ROOT = Path(__file__).resolve().parents[2]
ACCURACY = "test accuracy (%)"


def row(
    part: str, setting: str, arm: str, mean: float, std: float = 0.5, metric: str = ACCURACY, seeds: int = 5
) -> Any:
    return {
        "part": part,
        "setting": setting,
        "arm": arm,
        "metric": metric,
        "mean": mean,
        "std": std,
        "seeds": seeds,
        "kept": 1,
        "total": 2,
        "training_flops": 0.1,
    }


def widths(part: str = "fashion", **gaps: list[float]) -> list[dict[str, Any]]:
    """Rows of three widths: dense at 90, each arm below it by its gap."""
    settings = ("H=32", "H=128", "H=512") if part == "fashion" else ("W=4", "W=8", "W=16")
    rows = [row(part, s, "dense", 90.0) for s in settings]
    for name, gap in gaps.items():
        arm = name.replace("_", " ") + "%"
        rows += [row(part, s, arm, 90.0 - g) for s, g in zip(settings, gap, strict=True)]
    return rows


GOOD = widths(er_5=[6, 4, 4.5], uniform_5=[12, 5, 4.6], er_2=[40, 9, 6], uniform_2=[70, 30, 7])
FINE_CIFAR = widths("cifar", erk_10=[8, 5, 3], uniform_10=[9, 6, 4])


def changed(rows: list[Any], part: str, setting: str, arm: str, mean: float) -> list[Any]:
    found = [r for r in rows if (r["part"], r["setting"], r["arm"]) == (part, setting, arm)]
    assert len(found) == 1
    return [r | {"mean": mean} if r is found[0] else r for r in rows]


def test_random_pruning_holds_in_part_at_most(jobs_02: Any) -> None:
    verdict, why = jobs_02.judge(GOOD)
    assert verdict == "in part" and "falls from the narrowest net to the next: 4.5 to 7.0 points" in why
    verdict, why = jobs_02.judge(GOOD + FINE_CIFAR)
    assert verdict == "in part" and "at every step" not in why


@pytest.mark.parametrize(
    ("part", "setting", "arm", "mean", "says"),
    [
        ("fashion", "H=128", "er 2%", 49.0, "does not always fall"),
        ("fashion", "H=128", "er 2%", 62.5, "ER against uniform"),  # only 2.5 above uniform where 3 are asked for
        ("fashion", "H=512", "er 5%", 84.8, "ER against uniform: -0.6"),
        ("cifar", "W=8", "erk 10%", 81.0, "does not always fall"),
        ("cifar", "W=16", "uniform 10%", 83.9, "cifar, uniform 10%: not falling at every step"),
    ],
)
def test_random_pruning_can_fail(jobs_02: Any, part: str, setting: str, arm: str, mean: float, says: str) -> None:
    rows = changed(GOOD + FINE_CIFAR, part, setting, arm, mean)
    verdict, why = jobs_02.judge(rows)
    assert verdict == "does not" and says in why


def test_flat_columns_are_named(jobs_02: Any) -> None:
    rows = GOOD + [
        row("fashion", s, "grasp-ratio 5%", 90 - g) for s, g in (("H=32", 4.3), ("H=128", 4.2), ("H=512", 4.4))
    ]
    verdict, why = jobs_02.judge(rows)
    assert verdict == "in part" and "grasp-ratio 5%: no smaller than at the narrowest" in why


def test_robustness_is_told_and_turns_nothing(jobs_02: Any) -> None:
    ece, ood, fgsm = jobs_02.BETTER
    rows = [
        row("robustness", "H=512", "dense", m, 1.0, metric) for metric, m in ((ece, 5.0), (ood, 80.0), (fgsm, 70.0))
    ]
    rows += [
        row("robustness", "H=512", "er 5%", m, 0.5, metric) for metric, m in ((ece, 3.0), (ood, 80.9), (fgsm, 60.0))
    ]
    verdict, why = jobs_02.judge(GOOD + rows)
    assert verdict == "in part"
    assert "ECE better (3.0 against 5.0 %)" in why
    assert "AUROC against MNIST digits no different" in why
    assert "accuracy under FGSM 4/255 worse" in why


def granet(part: str = "digits", **means: float) -> list[dict[str, Any]]:
    arms = {"GMP": 95.0, "RigL": 93.0, "static ERK": 60.0, "GraNet dense start": 95.2, "GraNet half-sparse start": 94.5}
    return [row(part, "", f"{arm} 2%", means.get(arm.replace(" ", "_"), mean)) for arm, mean in arms.items()]


def test_granet_order(jobs_11: Any) -> None:
    verdict, why = jobs_11.judge(granet())
    assert verdict == "in part" and why.startswith("The order holds at every density")
    verdict, why = jobs_11.judge(granet() + granet("fashion", GMP=95.6))  # 1.1 below
    assert verdict == "in part" and why.startswith(
        "The order does not hold everywhere: GraNet from a half-sparse start is -1.1"
    )
    verdict, why = jobs_11.judge(granet(static_ERK=94.6))
    assert verdict == "does not"


def test_granet_separates_or_not_on_cifar(jobs_11: Any) -> None:
    _, why = jobs_11.judge(granet() + granet("cifar", GraNet_dense_start=95.6, GraNet_half_sparse_start=95.4))
    assert "half-sparse start does not separate (-0.5), dense start separates (+0.6)" in why


def plastic(part: str, lr: float, regrown: float, std: float = 1.0, seeds: int = 10) -> list[dict[str, Any]]:
    metric = "paired difference in plasticity (points)"
    return [
        row(part, "90%, magnitude only", "high - low lr", lr, std, metric, seeds),
        row(part, "90%, low lr", "gradient regrowth - magnitude only", regrown, std, metric, seeds),
    ]


def test_plasticity_needs_an_interval_above_zero(jobs_11: Any) -> None:
    _, why = jobs_11.judge(granet() + plastic("plasticity", 2.0, 0.7))  # 2.26 · 1.0 / √10 = 0.71
    assert "falls with the learning rate: yes (+2.00 ± 0.71); rises with regrowth: no (+0.70 ± 0.71)" in why
    bad = granet(static_ERK=94.6)
    assert jobs_11.judge(bad + plastic("plasticity", 2.0, 0.7))[0] == "does not"
    assert jobs_11.judge(bad + plastic("plasticity", 2.0, 0.8))[0] == "in part"
    both = bad + plastic("plasticity", 2.0, 0.8) + plastic("plasticity-fashion", 2.0, -0.1, seeds=5)
    verdict, why = jobs_11.judge(both)
    assert verdict == "does not" and "rises with regrowth: yes (+0.80 ± 0.71), no (-0.10 ± 1.24)" in why


@pytest.mark.parametrize("slug", ["02-random-pruning", "11-granet"])
def test_the_verdict_in_the_folder_is_the_rule_s(slug: str, request: pytest.FixtureRequest) -> None:
    jobs = request.getfixturevalue(f"jobs_{slug[:2]}")
    result = papers.read(ROOT / "papers" / slug)
    rows = [{"metric": ACCURACY, **r.model_dump(exclude_unset=True)} for r in result.ours]
    assert jobs.judge(rows) == (result.verdict, result.why)
    assert jobs.headline(rows) == result.headline
    assert result.limits == list(jobs.LIMITS)
    assert set(result.setting) <= set(jobs.PARTS)
