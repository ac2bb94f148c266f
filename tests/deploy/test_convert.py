"""A converted network says what the model says, and says what it did."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import SparselandError
from sparseland.deploy.choose_cache import Cache
from tests.deploy.converting import apart, convert, needs_engine, prepared

pytestmark = needs_engine
IMAGE = (3, 32, 32)
ZOO = [
    ("mobilenet-v1-0.25", IMAGE),
    ("mobilenet-v2-0.35", IMAGE),
    ("mobilenet-v3-small", IMAGE),
    ("mobilenet-v3-large", IMAGE),
    ("efficientnet-b0", IMAGE),
    ("imagenet-resnet-18", IMAGE),
    ("imagenet-resnet-50", IMAGE),
    ("resnet-20-w8", IMAGE),
    ("wrn-16-2", IMAGE),
    ("vgg-c", IMAGE),
    ("lenet-5", (1, 28, 28)),
    ("lenet-300-100", (1, 28, 28)),
    ("mlp-16", (1, 8, 8)),
]


class Middle(nn.Module):
    """A network with an operation in the middle that the engine does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.after = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        return self.after(torch.cumsum(x, 2))


class Many(nn.Module):
    """Several inputs, keywords and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, a: torch.Tensor, *, b: torch.Tensor, scale: float = 2.0) -> dict[str, torch.Tensor]:
        return {"sum": self.one(a) * scale + self.two(b), "first": self.one(a).relu()}


@pytest.mark.parametrize("sparsity", [0.0, 0.85])
@pytest.mark.parametrize(("name", "shape"), ZOO, ids=[name for name, _ in ZOO])
def test_the_zoo(name: str, shape: tuple[int, int, int], sparsity: float) -> None:
    model = prepared(sl.zoo.build(name, in_shape=shape, classes=10, seed=0), sparsity)
    x = torch.randn(2, *shape)
    engine = convert(model, x)
    with torch.no_grad():
        assert apart(engine(x), model(x)) < 1e-4
        other = torch.randn(2, *shape)
        assert apart(engine(other), model(other)) < 1e-4
    assert engine.coverage["whole"], engine.coverage["reasons"]


def test_one_answer_at_every_number_of_threads_and_rows() -> None:
    model = prepared(sl.zoo.build("mobilenet-v1-0.25", in_shape=IMAGE, classes=10, seed=0), 0.8)
    x = torch.randn(3, *IMAGE)
    one = convert(model, x, threads=1)(x)
    assert torch.equal(one, convert(model, x, threads=3)(x))
    odd = convert(model, x, rows=lambda h, w: min(3, h))
    assert apart(odd(x), one) < 1e-5
    assert apart(convert(model, x, rows={(32, 32): 32})(x), one) < 1e-5


def test_every_instruction_set() -> None:
    from sparseland.kernels import native

    model = prepared(sl.zoo.build("mobilenet-v3-small", in_shape=IMAGE, classes=10, seed=0), 0.8)
    x = torch.randn(1, *IMAGE)
    with torch.no_grad():
        right = model(x)
    for isa in native().isas():
        assert apart(convert(model, x, isa=isa)(x), right) < 1e-4, isa


def test_the_unknown_stays_in_torch_by_name() -> None:
    model, x = prepared(Middle(), 0.5), torch.randn(2, 3, 12, 12)
    engine = convert(model, x)
    assert apart(engine(x), model(x)) < 1e-5
    found = engine.coverage
    assert not found["whole"] and found["torch"] == 1
    assert "cumsum" in next(iter(found["reasons"].values()))
    assert "cumsum" in engine.explain()
    assert [step.engine is None for step in engine.steps] == [False, True, False]
    with pytest.raises(SparselandError, match="cumsum"):
        engine.save("nowhere.sland")


def test_keywords_several_inputs_and_outputs() -> None:
    model = prepared(Many(), 0.0)
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    engine = convert(model, {"a": a, "b": b, "scale": 2.0})
    made = engine(b=b, a=a, scale=2.0)
    assert list(made) == ["sum", "first"] and apart(made, model(a, b=b)) < 1e-5
    with pytest.raises(SparselandError, match=r"converted for the argument 2.0; called with 3.0"):
        engine(a=a, b=b, scale=3.0)
    with pytest.raises(SparselandError, match=r"converted for arguments \(a=…, b=…, scale=…\); called with \(…\)"):
        engine(a)


class Returns(nn.Module):
    """Returns what it was given and what it holds, beside what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.linear(x)
        return x, self.table, y, y, x.reshape(2, 8)


def test_inputs_and_constants_are_returned_as_they_are() -> None:
    model, x = Returns().eval(), torch.randn(4, 4)
    engine = convert(model, (x, torch.zeros(1, dtype=torch.bool)))
    made = engine(x, torch.zeros(1, dtype=torch.bool))
    assert len(made) == 5 and apart(made, model(x, x)) < 1e-5
    with pytest.raises(SparselandError, match="file holds what the engine computes"):
        engine.save("nowhere.sland")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    model = prepared(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), 0.5).to(dtype)
    x = torch.randn(3, 8, dtype=dtype)
    engine = convert(model, x)
    assert engine(x).dtype == torch.float32 and apart(engine(x), model.float()(x.float())) < 1e-5
    assert torch.equal(engine(x.float()), engine(x))


def test_the_model_is_left_as_it_was() -> None:
    model = prepared(sl.zoo.build("resnet-20-w8", in_shape=IMAGE, classes=10, seed=0), 0.5).train()
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    x = torch.randn(1, *IMAGE)
    convert(model, x)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


WRONG = [
    (torch.randn(1, 3, 16, 16), r"must be a CPU tensor of float32 \[1, 3, 32, 32\].*got \[1, 3, 16, 16\]"),
    (torch.randn(2, 3, 32, 32), r"shapes are fixed at conversion.*got \[2, 3, 32, 32\]"),
    (torch.randn(1, 3, 32, 32).double(), r"float32.*got float64"),
    (torch.zeros(1, 3, 32, 32, dtype=torch.int64), r"got int64"),
    (torch.zeros(1, 3, 32, 32).to_sparse(), r"layout sparse_coo"),
    (torch.zeros(1, 3, 32, 32, device="meta"), r"on meta"),
    ([[1.0]], r"must be a CPU tensor.*got list"),
]


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, sl.deploy.Engine]:
    """A small network and its engine."""
    model = prepared(sl.zoo.build("resnet-20-w8", in_shape=IMAGE, classes=10, seed=0), 0.5)
    return model, convert(model, torch.zeros(1, *IMAGE))


@pytest.mark.parametrize(("given", "says"), WRONG, ids=range(len(WRONG)))
def test_wrong_inputs(small: tuple[nn.Module, sl.deploy.Engine], given: Any, says: str) -> None:
    with pytest.raises(SparselandError, match=says):
        small[1](given)


def test_layouts_that_are_only_strides(small: tuple[nn.Module, sl.deploy.Engine]) -> None:
    model, engine = small
    x = torch.randn(1, *IMAGE)
    with torch.no_grad():
        assert torch.equal(engine(x.to(memory_format=torch.channels_last)), engine(x))
        assert apart(engine(x.expand(1, 3, 32, 32).requires_grad_()), model(x)) < 1e-4
        assert apart(engine(x.transpose(2, 3)), model(x.transpose(2, 3))) < 1e-4


def test_nan(small: tuple[nn.Module, sl.deploy.Engine]) -> None:
    model, engine = small
    x = torch.randn(1, *IMAGE)
    x[0, 1, 5, 5] = float("nan")
    assert bool(engine(x).isnan().any())
    strict = convert(model, torch.zeros(1, *IMAGE), nan="error")
    with pytest.raises(SparselandError, match="holds 1 entries that are NaN or infinite"):
        strict(x)
    assert bool(strict(torch.zeros(1, *IMAGE)).isfinite().all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"nan": "maybe"}, "possible: pass, error"),
        ({"rivals": ("tvm",)}, "possible: eager, compile"),
        ({"isa": "mmx"}, "this machine has no 'mmx'; possible: "),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SparselandError, match=says):
        convert(nn.Linear(3, 2), torch.zeros(1, 3), **options)


def test_a_difference_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland.deploy import lower_weights

    real = lower_weights._bias
    monkeypatch.setattr(lower_weights, "_bias", lambda node: real(node) + (0.5 if node.name == "2" else 0))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    with pytest.raises(SparselandError, match="the first node that differs: conv '2'"):
        convert(model, torch.randn(1, 3, 8, 8))


def test_save_and_load(tmp_path: Path, small: tuple[nn.Module, sl.deploy.Engine]) -> None:
    _, engine = small
    size = engine.save(tmp_path / "m.sland")
    assert (tmp_path / "m.sland").stat().st_size == size and [p.name for p in tmp_path.iterdir()] == ["m.sland"]
    again = sl.deploy.load(tmp_path / "m.sland")
    x = torch.randn(1, *IMAGE)
    assert torch.equal(again(x), engine(x))
    assert "layer1.0.conv1" in again.explain()
    with pytest.raises(SparselandError, match=r"float32 \[1, 3, 32, 32\]"):
        again(torch.zeros(1))
    with pytest.raises(SparselandError, match="takes 1 inputs; got 2"):
        again(x, x)


def test_explain_and_report_without_measuring(small: tuple[nn.Module, sl.deploy.Engine]) -> None:
    _, engine = small
    text = engine.explain()
    assert "CifarResNet on engine, 1 threads" in text
    assert "nothing to skip" not in text  # every layer has zeros
    assert "as fast as dense (cost model)" in text
    report = engine.report()
    assert report["coverage"]["whole"] and len(report["layers"]) >= 20
    layer = next(one for one in report["layers"] if one["name"] == "layer1.0.conv1")
    assert 0.4 < layer["sparsity"] < 0.6 and layer["kernel"] and layer["reason"]
    assert repr(engine).startswith("Engine(CifarResNet")


def test_measured_and_never_slower(tmp_path: Path) -> None:
    model = prepared(nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)), 0.9)
    x, said = torch.randn(1, 16, 16, 16), []
    cache = Cache(tmp_path / "kernels.json")
    engine = convert(model, x, measure=True, cache=cache, budget=0.01, progress=said.append)
    assert "timing 0" in said and (tmp_path / "kernels.json").is_file()
    times = engine.facts["times"]
    assert set(times) >= {"engine", "torch eager"}
    chosen = {"engine": "engine", "torch eager": "torch eager"}.get(engine.backend)
    assert chosen is not None and min(times, key=lambda name: times[name]).startswith(chosen)
    assert all(layer["ms"] > 0 for layer in engine.layers)
    with torch.no_grad():
        assert apart(engine(x), model(x)) < 1e-4
    again = Cache(tmp_path / "kernels.json")
    said.clear()
    convert(model, x, measure=True, cache=again, budget=0.01, progress=said.append, never_slower=False)
    assert not [text for text in said if text.startswith("timing ")] and again.hits >= 2


def test_torch_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sparseland.deploy import conversion

    monkeypatch.setattr(conversion, "turns", lambda runs, threads: {name: float(len(name)) for name in runs}
                        | {"torch eager": 0.1, "engine": 0.3})  # fmt: skip
    model = prepared(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), 0.5).train()
    x = torch.randn(2, 8)
    cache = Cache(tmp_path / "k.json")
    engine = convert(model, x, measure=True, cache=cache, budget=0.0)
    assert engine.backend == "torch eager" and "3.00 x as fast as the engine" in engine.explain()
    assert torch.equal(engine(x), model.eval()(x))
    model.train()
    engine(x)
    assert model.training and not engine(x).requires_grad


def test_a_graph_is_converted_too(small: tuple[nn.Module, sl.deploy.Engine]) -> None:
    from sparseland.deploy.capture import capture

    model, engine = small
    x = torch.randn(1, *IMAGE)
    made = sl.deploy.convert(capture(model, x), threads=1, measure=False)
    assert torch.equal(made(x), engine(x))


def test_a_net_that_magnifies_rounding_is_held_to_its_own() -> None:
    """Differences of large numbers: single precision is off by thousandths, the model as well as the engine."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 12, 12)
    with torch.no_grad():
        net[0].bias += 1e4
        net[2].weight -= net[2].weight.mean(1, keepdim=True)  # what is left after the large part is taken away
        exact = copy.deepcopy(net).double()(x.double())
        own = float((net(x) - exact).abs().max() / exact.abs().max())
    fast = convert(net, x, threads=1, measure=False, tolerance=own / 10)
    off = float((torch.as_tensor(fast(x)) - exact).abs().max() / exact.abs().max())
    assert own > 1e-5 and own / 10 < off <= 4 * own
