"""Whole nets through ONNX: ours out and in again, and files that torch exports."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.deploy.capture import capture
from sparseland.deploy.fuse import fuse
from sparseland.deploy.graph import Graph, Node, Value
from sparseland.deploy.graph_twin import run
from sparseland.deploy.onnx_read import from_onnx
from sparseland.deploy.onnx_write import to_onnx
from sparseland.zoo import build

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

NETS = {
    "resnet-20": 32, "wrn-10-1": 16, "vgg-c": 32, "lenet-5": 16, "mobilenet-v1-0.25": 32, "mobilenet-v2-0.25": 32,
    "mobilenet-v3-small": 32, "efficientnet-b0": 32, "imagenet-resnet-18": 64, "imagenet-resnet-50": 64,
}  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


class First(nn.Module):
    """The first output of a transformers model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.model(*xs)[0]
        return first


def net(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A net with statistics that are not those of the beginning, and zeros; its input."""
    size = NETS[name]
    options = {"width": 8} if name.startswith("imagenet") else {}
    model = build(name, in_shape=(3, size, size), classes=7, seed=0, **options)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(x)
        for p in model.parameters():
            p[p.abs() < p.abs().median()] = 0
    return model.eval(), (x[:2],)


def encoder(kind: str, masked: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    pytest.importorskip("transformers")
    draw = torch.Generator().manual_seed(0)
    if kind == "vit":
        model = build("hf:config:vit", in_shape=(3, 32, 32), classes=7, seed=0, patch_size=8, **SMALL)
        return First(model).eval(), (torch.randn(2, 3, 32, 32, generator=draw),)
    model = build("hf:config:bert", in_shape=None, classes=7, seed=0, vocab_size=50, **SMALL)
    ids = torch.randint(0, 50, (2, 9), generator=draw)
    mask = (torch.arange(9) < torch.tensor([[6], [9]])).long()
    return First(model).eval(), (ids, mask) if masked else (ids,)


def export(model: nn.Module, sample: tuple[torch.Tensor, ...], path: Path, opset: int = 17) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, sample, str(path), opset_version=opset, dynamo=False)
    return path


def by_onnxruntime(path: Path, sample: tuple[torch.Tensor, ...]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    running = ort.InferenceSession(str(path), options)
    names = [one.name for one in running.get_inputs()]
    answer: np.ndarray = running.run(None, dict(zip(names, (x.numpy() for x in sample), strict=True)))[0]
    return answer


def close(found: Any, expected: torch.Tensor) -> None:
    error = np.abs(np.asarray(found) - expected.numpy()).max()
    assert error <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_nets_out_and_in_again(tmp_path: Path, name: str) -> None:
    model, sample = net(name)
    with torch.no_grad():
        expected = model(*sample)
    path = to_onnx(model, tmp_path / "m.onnx", sample)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    close(by_onnxruntime(path, sample), expected)
    graph = from_onnx(path)
    close(run(graph, sample)[0], expected)
    close(run(fuse(graph), sample)[0], expected)
    zeros = [sum(int((w == 0).sum()) for n in g.nodes for w in n.weights.values()) for g in (graph, fuse(graph))]
    assert min(zeros) > 0.3 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_encoders_out_and_in_again(tmp_path: Path, kind: str, opset: int) -> None:
    model, sample = encoder(kind)
    with torch.no_grad():
        expected = model(*sample)
    path = to_onnx(capture(model, sample), tmp_path / "m.onnx", opset=opset)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    close(by_onnxruntime(path, sample), expected)
    graph = from_onnx(path)
    close(run(graph, sample)[0], expected)
    counts = [node.op for node in graph.nodes]
    assert (counts.count("attention"), counts.count("layer_norm")) == (2, 5)


@pytest.mark.parametrize("name", ["resnet-20", "mobilenet-v2-0.25", "mobilenet-v3-small", "efficientnet-b0"])
def test_nets_that_torch_exports(tmp_path: Path, name: str) -> None:
    model, sample = net(name)
    path = export(model, sample, tmp_path / "m.onnx")
    graph = from_onnx(path)
    with torch.no_grad():
        close(run(fuse(graph), sample)[0], model(*sample))
    assert not {node.op for node in graph.nodes} & {"scale", "torch"}


@pytest.mark.parametrize("opset", [12, 14, 17])
@pytest.mark.parametrize(("kind", "masked"), [("vit", False), ("bert", False), ("bert", True)])
def test_encoders_that_torch_exports(tmp_path: Path, kind: str, masked: bool, opset: int) -> None:
    if masked and opset < 14:
        pytest.skip("torch does not export the masks of transformers below opset 14")
    model, sample = encoder(kind, masked)
    if opset < 14:
        model.model.set_attn_implementation("eager")
    graph = from_onnx(export(model, sample, tmp_path / "m.onnx", opset))
    counts = [node.op for node in graph.nodes]
    assert (counts.count("attention"), counts.count("layer_norm")) == (2, 5)
    acts = [node.attrs["act"] for node in graph.nodes if node.op == "act"]
    assert acts.count("gelu") == 2
    with torch.no_grad():
        expected = model(*sample)
    close(run(graph, sample)[0], expected)
    close(run(fuse(graph), sample)[0], expected)


def test_names_are_those_of_the_modules(tmp_path: Path) -> None:
    model, sample = net("mobilenet-v1-0.25")
    names = [node.name for node in from_onnx(export(model, sample, tmp_path / "m.onnx")).nodes]
    assert {"conv1", "layers.0.depthwise", "layers.0.pointwise", "linear"} <= set(names)
    assert len(names) == len(set(names))


def _one(node: Node, x: Value, y: Value) -> Graph:
    return Graph(["x"], ["y"], [node], {"x": x, "y": y})


RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((5, 4)).astype("f")
WRITTEN = [
    _one(Node("rope", "r", ["x"], ["y"], {}, {"cos": TABLE, "sin": TABLE[::-1].copy()}), *[Value((2, 3, 5, 4))] * 2),
    _one(Node("attention", "a", ["x", "x", "x"], ["y"], {"scale": 0.3, "causal": 1}), *[Value((2, 3, 5, 4))] * 2),
    _one(
        Node("layer_norm", "n", ["x"], ["y"], {"axis": 1, "eps": 1e-3}, {"weight": TABLE[0], "bias": TABLE[1]}),
        *[Value((2, 4, 5, 3))] * 2,
    ),
    _one(Node("rms_norm", "n", ["x"], ["y"], {"axis": 2, "eps": 1e-3}, {"weight": TABLE[0]}), *[Value((2, 5, 4))] * 2),
    *[
        _one(Node("act", "act", ["x"], ["y"], attrs), *[Value((2, 5, 4))] * 2)
        for attrs in (
            {"act": "gelu"}, {"act": "gelu_tanh"}, {"act": "silu"}, {"act": "hardswish"}, {"act": "hardsigmoid"},
            {"act": "tanh"}, {"act": "clamp", "lo": -0.5, "hi": float("inf")}, {"act": "none"},
            {"act": "clamp", "lo": float("-inf"), "hi": 0.5}, {"act": "clamp", "lo": 0.0, "hi": 0.5},
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("graph", WRITTEN, ids=lambda g: f"{g.nodes[0].op}-{g.nodes[0].attrs.get('act', '')}")
def test_ops_are_written_as_they_are_meant(tmp_path: Path, graph: Graph, opset: int) -> None:
    x = torch.randn(graph.values["x"].shape, generator=torch.Generator().manual_seed(0))
    path = to_onnx(graph, tmp_path / "m.onnx", opset=opset)
    close(by_onnxruntime(path, (x,)), run(graph, [x])[0])


def test_attention_with_fewer_heads_of_keys_and_a_mask(tmp_path: Path) -> None:
    values = {
        "q": Value((2, 4, 5, 3)),
        "k": Value((2, 2, 6, 3)),
        "m": Value((2, 1, 5, 6), "bool"),
        "y": Value((2, 4, 5, 3)),
    }
    node = Node("attention", "a", ["q", "k", "k", "m"], ["y"], {"scale": 0.5, "causal": 0})
    graph = Graph(["q", "k", "m"], ["y"], [node], values)
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(values[name].shape, generator=draw) for name in "qk")
    mask = torch.rand(values["m"].shape, generator=draw) < 0.7
    mask[..., 0] = True
    path = to_onnx(graph, tmp_path / "m.onnx")
    close(by_onnxruntime(path, (q, k, mask)), run(graph, [q, k, mask])[0])


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    value = Value((2, 3))
    relu = Node("act", "relu", ["x"], ["y"], {"act": "clamp", "lo": 0.0, "hi": float("inf")})
    path = to_onnx(Graph(["x"], ["x", "y"], [relu], {"x": value, "y": value}), tmp_path / "m.onnx")
    x = torch.randn(2, 3)
    assert np.array_equal(by_onnxruntime(path, (x,)), x.numpy())
    assert torch.equal(run(from_onnx(path), [x])[0], x)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    value = Value((2, 3))
    stays = Node("torch", "odd", ["x"], ["y"], {"reason": "aten.det has no kernel", "module": None})
    with pytest.raises(SparselandError, match=r"'odd' stays in torch \(aten.det has no kernel\)"):
        to_onnx(Graph(["x"], ["y"], [stays], {"x": value, "y": value}), tmp_path / "m.onnx")
    with pytest.raises(SparselandError, match="a Linear needs a sample"):
        to_onnx(nn.Linear(2, 2), tmp_path / "m.onnx")
    with pytest.raises(SparselandError, match="opset is 13 to 17; got 9"):
        to_onnx(nn.Linear(2, 2), tmp_path / "m.onnx", torch.zeros(1, 2), opset=9)
    assert list(tmp_path.iterdir()) == []
