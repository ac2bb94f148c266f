"""Paper 19: its values, its curve and its router in small, and the rule of its verdict."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "19-sparsity-constrained-ot"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def curves() -> Any:
    return load(SLUG, "curves")


@pytest.fixture(scope="module")
def moe() -> Any:
    return load(SLUG, "moe")


def told(result: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {(m.get("setting", ""), m["arm"], m["metric"]): m["value"] for m in result["measured"]}


def small_values(curves: Any, n: int) -> dict[tuple[str, str, str], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of POT and what it imports
        pytest.importorskip("ot")
        return told(curves.values(n=n, gamma=0.1, seed=0))


def test_values_agree_with_pot_and_the_linear_program(curves: Any, jobs: Any) -> None:
    """Card's A in small."""
    found = small_values(curves, 24)
    assert len(found) == 8 and max(found.values()) <= jobs.CLOSE


@pytest.mark.slow
def test_values_agree_at_the_cards_size(curves: Any, jobs: Any) -> None:
    """Card's A: n = 100, k = 1, 2, 5 and n, both forms."""
    assert max(small_values(curves, 100).values()) <= jobs.CLOSE


def test_a_larger_k_takes_fewer_iterations(curves: Any, jobs: Any) -> None:
    """Card's B in small: the ends of the curve."""
    found = told(curves.curve(problem="1-D Gaussians", gamma=0.1, ks=[4, 64], seed=0))
    line = "1-D Gaussians"
    assert found[line, "k=64", jobs.ITERATIONS] < found[line, "k=4", jobs.ITERATIONS]
    assert all(0 < found[line, k, jobs.FILLED] <= 100 for k in ("k=4", "k=64"))


def test_colours_are_masses_and_costs(curves: Any) -> None:
    a, b, cost = curves.colours(0)
    assert a.shape == b.shape == (64,) and cost.shape == (64, 64) and cost.max() == 1
    assert a.sum() == pytest.approx(1) and b.sum() == pytest.approx(1)


@pytest.mark.parametrize("arm", ["top-1 token choice", "expert choice", "Sinkhorn", "SCOT", "random, balanced"])
def test_every_router_keeps_to_its_places(moe: Any, arm: str) -> None:
    """Card's C: no expert ever holds more than k, whatever the gates say."""
    logits = torch.randn(2, 32, 4, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 4, 4)
    mask = moe.ROUTERS[arm](logits, 8)
    assert mask.dtype == torch.bool and mask.shape == logits.shape and int(mask.sum(1).max()) <= 8
    if arm != "top-1 token choice":
        assert int(mask.sum(1).min()) >= 7
    if arm in ("top-1 token choice", "random, balanced"):
        assert int(mask.sum(-1).max()) == 1


def test_the_experts_output_is_the_weighted_sum(moe: Any) -> None:
    torch.manual_seed(0)
    layer = moe.Experts(6, 5, 4, "SCOT")
    x = torch.randn(3, 16, 6)
    out = layer(x)
    gates = layer.gate(x).softmax(-1)
    wanted = torch.zeros_like(x)
    for e in range(4):
        said = torch.nn.functional.gelu(x @ layer.up[e]) @ layer.down[e]
        wanted += torch.where(layer.mask[..., e, None], gates[..., e, None] * said, 0)
    assert torch.allclose(out, wanted, atol=1e-5)


@pytest.mark.parametrize("arm", ["SCOT", "top-1, balance loss 0.01"])
def test_training_learns_something(moe: Any, monkeypatch: pytest.MonkeyPatch, arm: str) -> None:
    text = torch.arange(4000) % 7  # made here: no data folder is needed
    monkeypatch.setattr(moe, "characters", lambda: (text, 7))
    found = told(moe.train(arm=arm, seed=0, steps=80, width=16, hidden=16, length=4, tokens=32))
    assert found["", arm, moe.LOSS] < 150  # untrained: 100 log 7 = 195
    assert found["", arm, moe.MOST] <= 4  # 32 / 8


@pytest.mark.slow
def test_the_router_on_text(moe: Any, jobs: Any) -> None:
    """Card's C, one seed: balance, service, and a loss near the others'."""
    if "SPARSELAND_DATA" not in os.environ:
        pytest.skip("SPARSELAND_DATA is not set: no tiny Shakespeare")
    size = jobs.SIZE | {"steps": 200, "seed": 0}
    scot = told(moe.train(arm="SCOT", **size))
    choice = told(moe.train(arm="top-1 token choice", **size))
    assert scot["", "SCOT", moe.MOST] <= jobs.PLACES and scot["", "SCOT", moe.CV] <= jobs.EVEN
    assert scot["", "SCOT", moe.UNSERVED] <= choice["", "top-1 token choice", moe.UNSERVED]


def rows(jobs: Any, *, gap: float = 0.1, ends: tuple[float, float] = (90, 10), loss: float = 160.0) -> Any:
    """Rows that the rule reads."""

    def row(part: str, setting: str, arm: str, metric: str, mean: float, std: float = 1.0) -> dict[str, Any]:
        return {"part": part, "setting": setting, "arm": arm, "metric": metric, "mean": mean, "std": std, "seeds": 3}

    made = [row("values", "k=2", "dual", jobs.GAP, gap), row("values", "k=1", "dual", jobs.IDENTITY, 0.0)]
    for problem in jobs.PROBLEMS:
        for i, k in enumerate(jobs.KS):
            falling = ends[0] + (ends[1] - ends[0]) * i / (len(jobs.KS) - 1)
            made.append(row("trade-off", problem, f"k={k}", jobs.ITERATIONS, falling))
            made.append(row("trade-off", problem, f"k={k}", jobs.FILLED, 90.0))
    for arm in jobs.ARMS:
        numbers = {jobs.LOSS: loss if arm == "SCOT" else 160.0, jobs.CV: 0.0, jobs.MOST: 16.0}
        numbers[jobs.UNSERVED] = 5.0 if arm == "SCOT" else 20.0
        made += [row("router", "", arm, metric, mean) for metric, mean in numbers.items()]
    return made


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "in part", "All of the card's proof holds at small scale"),
        ({"gap": 2.0}, "in part", "the values (A)"),
        ({"ends": (10, 90)}, "in part", "fewer iterations with larger k (B)"),
        ({"gap": 2.0, "ends": (10, 90)}, "does not", "Not at this size"),
        ({"loss": 170.0}, "in part", "the router's balance and loss (C)"),
    ],
)
def test_the_rule(jobs: Any, changes: dict[str, Any], verdict: str, said: str) -> None:
    found, why = jobs.judge(rows(jobs, **changes))
    assert found == verdict and said in why
    assert jobs.headline(rows(jobs)) and set(jobs.figures(rows(jobs))) == {"iterations.svg", "router.svg"}


def test_the_rule_needs_its_parts(jobs: Any) -> None:
    with pytest.raises(ValueError, match="one is not there"):
        jobs.judge([row for row in rows(jobs) if row["part"] == "router"])
    without = [row for row in rows(jobs) if row["part"] != "router"]
    assert jobs.judge(without)[0] == "in part" and "router" not in jobs.judge(without)[1]


def test_the_folder_is_whole(jobs: Any) -> None:
    sys.modules.pop("jobs", None)
    check_folder(FOLDER, jobs)
