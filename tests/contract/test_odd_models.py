"""The promises hold on a model of tied, transposed, grouped, attention, recurrent, frozen and unused layers."""

from __future__ import annotations

import pytest

from sparseland.testing import check_method
from sparseland.testing.counting import with_sparsity
from tests.contract.compositions import registered
from tests.contract.odd_models import odd_task

QUICK = ("exact_count", "pattern_valid", "resume_bit_equal", "zeros_survive_optimizers")
REST = ("plain_after_finalize", "bad_input", "copies_continue", "ways_to_step", "zeros_survive_amp")


@pytest.mark.parametrize("check", [*QUICK, *(pytest.param(c, marks=pytest.mark.slow) for c in REST)])
@pytest.mark.parametrize("name", ["granet", "movement", "rigl", "snip"])
def test_odd_layers(name: str, check: str) -> None:
    method = with_sparsity(registered()[name], 0.7)  # whole rows of nine tensors and a frozen one need some room
    assert check_method(method, checks=check, data=odd_task()).passed
