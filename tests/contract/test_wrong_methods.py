"""Every check can fail: a method with exactly one fault is caught, by the check of the broken promise, with numbers."""

from __future__ import annotations

import re

import pytest

import sparseland as sl
from sparseland.testing import CheckFailed, ContractError, check_method, check_ranks, checks, tasks
from sparseland.weights import Method
from tests.contract.wrong_methods import FAULTS, Anonymous, Fluid, Greedy, Lossy, as_class, wrong

RIGL, SET = sl.methods.RigL(0.8, every=5), sl.methods.SET(0.8, every=5)
GMP, LATE = sl.methods.GMP(0.8, every=5), sl.methods.Magnitude(0.8, at=10)
MLP = tasks()[0]

# check, method, what the message must match
CASES: list[tuple[str, Method, str]] = [
    ("exact_count", wrong(GMP, "OffByOne"), r"step 5 .*: \d+ weights live, the budget is \d+"),
    ("exact_count", wrong(LATE, "NegativeZero"), r"\d+ dead weights of '0.weight' are -0.0"),
    ("exact_count", wrong(RIGL, "MovesAnyTime"), "step 7: masks moved"),
    ("exact_count", wrong(RIGL, "WrongLedger"), r"step 13: counts\(\) says 91 of 448"),
    ("pattern_valid", wrong(GMP, "BreaksPattern"), r"keeps 3 in a group of 4|splits \d+ of \d+ atoms"),
    ("resume_bit_equal", wrong(SET, "ForgetsGenerator"), r"resumed at step \d+: already .*generator"),
    ("resume_bit_equal", wrong(sl.methods.Movement(0.8, every=5), "ForgetsStatistics"), r"resumed at step \d+.*differ"),
    ("resume_bit_equal", wrong(RIGL, "SharesHistory"), "going on changed the state that was loaded: history"),
    ("copies_continue", wrong(RIGL, "CopyStopsMasking"), "deepcopy at step 5, trained on to 40, differs"),
    ("copies_continue", wrong(SET, "CopySharesGenerator"), "training the copy changed the original: .*generator"),
    ("eager_equals_compiled", wrong(SET, "SeesTheCompiler"), r"compiled before attach: masks differ at steps \[5"),
    ("zeros_survive_optimizers", wrong(RIGL, "LeavesMomentum"), r"SGD, step 1: \d+ of 358 numbers .* dead weights"),
    ("zeros_survive_optimizers", wrong(RIGL, "WipesMomentum"), r"of 90 numbers remembered of living weights 0 are"),
    ("zeros_survive_optimizers", wrong(RIGL, "GrowsGarbage"), r"step 5: \d+ of \d+ newly grown weights .* 0.001, not"),
    ("zeros_survive_optimizers", wrong(GMP, "WeightDecayRevives"), r"SGD, step 13: \d+ of \d+ dead weights of"),
    ("zeros_survive_amp", wrong(GMP, "WeightDecayRevives"), r"bf16 autocast, step 13: \d+ of \d+ dead weights"),
    (
        "zeros_survive_amp",
        wrong(RIGL, "CountsEveryCall"),
        r"fused: the step \d+, which the scaler skips, raises .*not finite",
    ),
    ("zeros_survive_amp", wrong(sl.methods.SRSTE(decay=1.0), "ReadsScaledGradients"), "fused, scaled by 1024"),
    ("ways_to_step", wrong(RIGL, "CountsEveryCall"), r"step\(closure\): other masks"),
    ("plain_after_finalize", wrong(RIGL, "LeaksHook"), "2 hooks are left: .*optimizer_step_pre_hooks"),
    ("plain_after_finalize", wrong(RIGL, "AddsBuffer"), "keys of the state_dict: .*0.mask"),
    ("plain_after_finalize", wrong(RIGL, "SwapsParameters"), "parameters were exchanged"),
    ("no_forward_hooks", wrong(RIGL, "MasksInForward"), "_forward_pre_hooks of ''"),
    ("no_forward_hooks", as_class(RIGL, Greedy), "needs_data is True, but attach did without"),
    ("bad_input", wrong(RIGL, "AcceptsAnyState"), "the state of another method is accepted"),
    ("bad_input", wrong(RIGL, "TouchesFirst"), "after weights were touched: 0.weight: 128 of 128"),
    ("bad_input", wrong(RIGL, "SaysNothing"), "the message does not quote .*: 'bad input'"),
    ("bad_input", wrong(RIGL, "HalfLoads"), "raised ResumeError, but sparsifier.step"),
    ("bad_input", wrong(RIGL, "LooksAway"), r"a NaN gradient at step \d+, an update is accepted"),
    ("round_trip", as_class(RIGL.replace(pattern="2:4"), Lossy), "from_dict"),
    ("round_trip", as_class(RIGL, Anonymous), "repr|invalid syntax"),
    ("round_trip", as_class(RIGL, Fluid), "Fluid.name can be assigned to"),
]


@pytest.mark.parametrize(
    ("check", "method", "message"), CASES, ids=[f"{c}-{m.name}-{type(m).__name__}" for c, m, _ in CASES]
)
def test_the_check_fails(check: str, method: Method, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_method(method, checks=check, data=MLP)
    (result,) = caught.value.report.failed
    assert result.check == check
    assert re.search(message, result.detail), result.detail


@pytest.mark.distributed
def test_ranks_that_disagree() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_ranks({"good": SET, "alone": wrong(SET, "MovesAlone"), "blind": wrong(RIGL, "NeverDisagrees")})
    alone, blind = str(caught.value).split("; ", 1)
    assert re.search(r"alone: step \d+: masks of ranks \[1\] differ", alone)
    assert blind.startswith("blind: rank 0: the mask '4.weight' of the last rank was changed; assert_agree raised on ")


def test_every_check_has_a_wrong_method() -> None:
    assert {check for check, *_ in CASES} | {"ranks_agree"} == set(checks)
    used = {m.name for _, m, _ in CASES} | {"MovesAlone", "NeverDisagrees"}
    assert set(FAULTS) <= used
