"""Every registered method keeps every promise, and so do compositions of words that no method uses yet."""

from __future__ import annotations

import pytest

import sparseland as sl
from sparseland.testing import Case, Report, check_method, check_ranks, checks, tasks
from sparseland.testing.repeating import eager_equals_compiled
from sparseland.weights import Method
from tests.contract.compositions import COMPOSED, SETTINGS, registered

EACH = [name for name in checks if name != "ranks_agree"]  # ranks: one start of processes for all methods, below
MLP, CONV = tasks()
SKIPS = {  # nothing else may be skipped
    "dense": {"pattern_valid", "zeros_survive_optimizers"},
    "frozen": {"zeros_survive_optimizers"},
    "masksparsity": {"zeros_survive_optimizers"},  # channels are removed, not zeroed
    "slimming": {"zeros_survive_optimizers"},
    "group-lasso": {"zeros_survive_optimizers"},
    "frozen-moving": {"zeros_survive_optimizers"},
}
QUICK = {"round_trip", "exact_count", "no_forward_hooks", "plain_after_finalize", "resume_bit_equal"}  # of the composed


def keeps(method: Method, check: str) -> Report:
    report = check_method(method, checks=check)
    assert {r.check for r in report.skipped} == {check} & SKIPS.get(method.name, set()), str(report)
    assert all(r.detail for r in report.skipped)
    return report


def test_every_method_has_a_line() -> None:
    assert set(SETTINGS) == set(sl.methods.registry)


@pytest.mark.parametrize("check", EACH)
@pytest.mark.parametrize("name", SETTINGS)
def test_registered_methods(name: str, check: str) -> None:
    report = keeps(registered()[name], check)
    if check == "pattern_valid" and report.passed:  # every pattern fits these models, so none may be left out
        assert not [r.detail for r in report.passed if "not taken" in r.detail]


@pytest.mark.parametrize("check", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in EACH])
@pytest.mark.parametrize("name", COMPOSED)
def test_composed_methods(name: str, check: str) -> None:
    keeps(COMPOSED[name], check)


@pytest.mark.distributed
def test_ranks_agree_on_registered_methods() -> None:
    assert list(check_ranks(registered())) == list(registered())


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_agree_on_everything() -> None:
    """Two-way flows hook modules inside DistributedDataParallel; they are in here as well."""
    everything = registered() | COMPOSED
    assert list(check_ranks(everything, task=CONV)) == list(everything)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rigl", "sr-ste"])
def test_inductor(name: str) -> None:
    assert eager_equals_compiled(Case(registered()[name], CONV), backend="inductor") == "inductor"
