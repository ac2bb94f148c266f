"""Machine code for matrices: the same answers as the loops, on every path that may use it, and a way to do without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparseland.deploy import runtime
from sparseland.deploy.choose_model import candidates
from sparseland.deploy.lower_layers import Choice
from sparseland.kernels import available, native
from tests.deploy.converting import apart, convert, needs_engine, prepared
from tests.deploy.test_convert_choose import layer

OFF = "SPARSELAND_NO_CODE"
needs_code = pytest.mark.skipif(
    not available() or not native().makes_code(), reason="no AVX-512 here, or no executable memory"
)


class Net(nn.Module):
    """A wide first layer, a window, depthwise and pointwise that the engine joins, a residual, and slow activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 70, 3, 2, 1)  # more rows than fit into registers
        self.deep = nn.Conv2d(70, 70, 1)
        self.wide = nn.Conv2d(70, 70, 3, padding=1, groups=70)
        self.join = nn.Conv2d(70, 35, 1)
        self.window = nn.Conv2d(35, 35, 3, padding=1)
        self.last = nn.Linear(35, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.first(x))
        x = x + nn.functional.relu6(self.deep(x))
        x = nn.functional.relu(self.join(nn.functional.relu(self.wide(x))))
        x = nn.functional.gelu(self.window(x)) + x
        return self.last(x.mean((2, 3)))


@needs_code
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_answers_as_the_loops(sparsity: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = prepared(Net(), sparsity), torch.randn(2, 3, 45, 38)
    monkeypatch.delenv(OFF, raising=False)
    with_code = convert(net, x, threads=threads)
    monkeypatch.setenv(OFF, "1")
    with_loops = convert(net, x, threads=threads)
    names = {row["kernel"] for row in with_code.layers}, {row["kernel"] for row in with_loops.layers}
    assert any("as code" in name for name in names[0]) == (sparsity == 0.0)
    assert not any("as code" in name for name in names[1])
    right = net(x)
    assert apart(with_code(x), right) < 1e-5 and apart(with_loops(x), right) < 1e-5


@needs_code
def test_a_file_made_with_code_runs_where_there_is_none(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = prepared(Net(), 0.0), torch.randn(1, 3, 45, 38)
    monkeypatch.delenv(OFF, raising=False)
    engine = convert(net, x)
    place = f"{tmp_path}/net.sland"
    engine.save(place)
    right = engine(x).numpy()
    monkeypatch.setenv(OFF, "1")
    for isa in native().isas():
        made = runtime.load(place, threads=1, isa=isa)(x.numpy())
        assert np.abs(made - right).max() <= 1e-5 * np.abs(right).max()


@needs_code
def test_nan_and_bounds_pass_through_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFF, raising=False)
    net = prepared(nn.Sequential(nn.Conv2d(40, 33, 1), nn.ReLU6()), 0.5)
    x = torch.randn(1, 40, 9, 9) * 30
    x[0, :, 4, 4] = torch.nan
    made, right = convert(net, x.nan_to_num())(x), net(x)
    assert torch.equal(made.isnan(), right.isnan()) and float(made.nan_to_num().amax()) == 6.0
    assert apart(made.nan_to_num(), right.nan_to_num()) < 1e-5


def test_code_is_a_candidate_only_where_it_can_be_made() -> None:
    assert Choice("gemm", False, form=2) in candidates(layer(1.0), code=True)
    assert Choice("gemm", False, form=2) not in candidates(layer(1.0))
    assert Choice("conv", False, form=2).name == "conv as code"


@needs_engine
def test_a_word_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFF, "1")
    assert native().makes_code() is False
