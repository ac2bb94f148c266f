"""What `check_method` and its report say, apart from any method."""

from __future__ import annotations

import pytest
import torch

import sparseland as sl
from sparseland.testing import (
    Case,
    CheckFailed,
    ContractError,
    Skipped,
    Task,
    check_method,
    checks,
    expect,
    small,
    tasks,
)
from sparseland.testing.run import difference
from sparseland.testing.wording import rebuilt


def test_names_and_order() -> None:
    report = check_method("rigl", checks=["no_forward_hooks", "round_trip"])
    assert [(r.check, r.task) for r in report.results] == [
        ("no_forward_hooks", "mlp"),
        ("no_forward_hooks", "conv"),
        ("round_trip", "mlp"),
    ]
    assert report.ok and report.method == "rigl" and str(report).startswith("rigl: 3 passed, 0 failed, 0 skipped\n")
    assert list(checks)[:2] == ["round_trip", "exact_count"]


def test_unknown_check_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="did you mean 'exact_count'"):
        check_method("rigl", checks="exact_counts")


def test_small_fits_every_registered_method() -> None:
    for name in sl.methods.registry:
        assert Case(small(name), tasks()[0]).resolved.name == small(name).name


def test_strict_raises_after_everything_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(case: Case) -> None:
        raise CheckFailed(f"3 of 4 on {case.task.name}")

    def crashes(case: Case) -> None:
        raise ZeroDivisionError("by zero")

    def skips(case: Case) -> None:
        raise Skipped("not for this one")

    for f in (breaks, crashes, skips):
        monkeypatch.setitem(checks, f.__name__, f)
    with pytest.raises(ContractError, match="method 'set' fails 2 checks:\n  breaks on mlp: 3 of 4 on mlp\n") as caught:
        check_method("set", checks=["breaks", "crashes", "skips", "round_trip"], data=tasks()[0])
    report = caught.value.report
    assert [r.status for r in report.results] == ["failed", "failed", "skipped", "passed"]
    assert report.failed[1].detail.startswith("ZeroDivisionError: by zero (in test_check_method.py:")
    assert report.skipped[0].detail == "not for this one" and "skipped  skips on mlp" in str(report)
    assert check_method("set", checks="breaks", strict=False, data=tasks()).ok is False


def test_own_task() -> None:
    def model() -> torch.nn.Module:
        return torch.nn.Linear(4, 4)

    def loss(net: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return net(batch).square().mean()

    task = Task("mine", model, [torch.randn(3, 4) for _ in range(3)], loss, steps=12)
    report = check_method(sl.methods.GMP(0.5, every=3), checks=["exact_count", "resume_bit_equal"], data=task)
    assert report.passed[0].detail == "8 of 16"


def test_seeds_are_left_alone() -> None:
    before = torch.get_rng_state()
    check_method("snip", checks="exact_count")
    assert torch.equal(before, torch.get_rng_state())


def test_difference() -> None:
    a = {"x": [torch.tensor([1.0, float("nan")]), 2], "y": {"z": float("nan")}}
    assert difference(a, {"x": [torch.tensor([1.0, float("nan")]), 2], "y": {"z": float("nan")}}) == ""
    assert difference(a, a | {"y": {"z": 1.0}}) == "y.z: nan against 1.0"
    assert difference(a, a | {"y": {}}) == "y: keys differ: ['z']"
    assert difference(a, a | {"x": [1]}) == "x: 2 entries against 1"
    assert difference({"x": 1}, {"x": True}) == "x: 1 against True"
    assert "float32 against (1,) torch.float64" in difference(torch.ones(1), torch.ones(1).double())


def test_rebuilt_runs_nothing() -> None:
    with pytest.raises(CheckFailed, match="is not Python that rebuilds"):
        rebuilt("__import__('os').getcwd()", {})
    with pytest.raises(CheckFailed, match="2 is not 3"):
        expect(False, "2 is not 3")
