"""Networks written by hand: what has a node of its own, what stays torch, what comes back, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sparseland.core.errors import SparselandError
from sparseland.deploy.capture import capture
from sparseland.deploy.fuse import fuse
from sparseland.deploy.graph_twin import run
from tests.deploy.capture_cases import assert_same, captured, lively, ops, reasons

IMAGE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))


class Of(nn.Module):
    """A function as a network, with the layers it uses."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def test_squeeze_and_excite() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.silu(self.bn(self.conv(x)))
        gate = torch.sigmoid(self.grow(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + y * gate

    net = Of(
        forward, conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4), squeeze=nn.Conv2d(4, 2, 1),
        grow=nn.Conv2d(2, 4, 1),
    )  # fmt: skip
    graph = captured(lively(net), IMAGE)
    assert [(node.op, node.name, node.act()[0]) for node in graph.nodes] == [
        ("conv", "conv", "silu"), ("mean", "mean", "none"), ("conv", "squeeze", "clamp"), ("conv", "grow", "sigmoid"),
        ("mul", "mul", "none"), ("add", "add", "none"),
    ]  # fmt: skip


LAYERS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=(2, 1), padding=(1, 0)), {"conv": 1}),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=2), {"conv": 1}),
    "same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), {"conv": 1}),
    "valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), {"conv": 1}),
    "padded": (lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(4, 2, 3, padding=1)), {"conv": 1}),
    "max pool, ceil": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), {"max_pool": 1}),
    "max pool": (lambda: nn.MaxPool2d(3, 2, padding=1), {"max_pool": 1}),
    "average": (lambda: nn.AvgPool2d(3, 2, padding=1), {"avg_pool": 1}),
    "average inside": (lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), {"avg_pool": 1}),
    "average, ceil": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), {"avg_pool": 1}),
    "padded average": (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.AvgPool2d(2)), {"avg_pool": 1}),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d(4), {"avg_pool": 1}),
    "whole": (lambda: nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2)), {"mean": 1, "linear": 1}),
    "adaptive max": (lambda: nn.AdaptiveMaxPool2d(1), {"max_pool": 1}),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU6()), {"scale": 1}),
    "bare batch norm": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), {"conv": 1}),
    "in place": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardswish(inplace=True), nn.Dropout(0.5)), {"conv": 1}),
    "tanh": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Hardsigmoid()), {"conv": 1, "act": 1}),
    "clamps": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardtanh(-2, 2), nn.ReLU(), nn.ReLU6()), {"conv": 1}),
    "upsampling": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1)), {"torch": 1, "conv": 1}),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)), {"torch": 1, "conv": 1}),
    "transposed": (lambda: nn.ConvTranspose2d(4, 2, 2), {"torch": 1}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_images(name: str) -> None:
    make, expected = LAYERS[name]
    assert ops(captured(lively(make()), IMAGE)) == expected


FUNCTIONS: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, int]]] = {
    "gelu by erf": (lambda _, x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), {"act": 1}),
    "gelu by tanh": (lambda _, x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))), {"act": 1}),
    "swish": (lambda _, x: x * torch.sigmoid(x), {"act": 1}),
    "hard swish": (lambda _, x: x * F.relu6(x + 3) / 6, {"act": 1}),
    "hard sigmoid": (lambda _, x: (x + 3).clamp(0, 6) / 6, {"act": 1}),
    "quick gelu": (lambda _, x: x * torch.sigmoid(1.702 * x), {"affine": 2, "act": 1}),
    "a polynomial": (lambda _, x: 1 - 2 * (x * x) / 4, {"mul": 1, "affine": 1}),
    "slices": (lambda _, x: torch.cat((x[:, 1:3], x[:, 5].unsqueeze(1), x.narrow(1, -3, 2)), 1),
               {"slice": 3, "concat": 1}),
    "chunks": (lambda _, x: torch.mul(*x.chunk(2, -1)), {"slice": 2, "mul": 1}),
    "unbound": (lambda _, x: x.unbind(1)[2] - x[:, 0], {"slice": 2, "reshape": 2, "sub": 1}),
    "stacked": (lambda _, x: torch.stack([x, x.tanh()], 2), {"act": 1, "reshape": 2, "concat": 1}),
    "every second": (lambda _, x: x[:, 1::2], {"reshape": 2, "slice": 1}),
    "rolled": (lambda _, x: x.roll((1, -2), (1, 2)), {"slice": 4, "concat": 2}),
    "turned twice": (lambda _, x: x.transpose(1, 2).permute(0, 2, 1).movedim(0, 1), {"transpose": 1}),
    "a constant": (lambda _, x: x + torch.arange(8.0) / 2 - torch.ones(8), {"scale": 1}),
    "divided": (lambda _, x: x / torch.arange(1.0, 9.0) + 1, {"scale": 1}),
    "by itself": (lambda _, x: x / (x.abs() + 1), {"torch": 1}),
    "root mean square": (lambda _, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5), {"rms_norm": 1}),
    "float64 for a while": (lambda _, x: (x.double() ** 3).float().tanh(), {"torch": 1, "act": 1}),
    "ints": (lambda _, x: x.tanh() * (x > 0), {"act": 1, "torch": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tokens(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert ops(captured(Of(function), TOKENS)) == expected


def test_torch_pieces_are_joined_where_no_circle_arises() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.first(x))
        back = torch.fft.irfft(spectrum * 2, n=8)  # one piece with the line before
        return self.last(back) + torch.cumsum(back, 1)  # joined as well: nothing lies between

    graph = captured(lively(Of(forward, first=nn.Linear(8, 8), last=nn.Linear(8, 8))), TOKENS)
    assert ops(graph) == {"linear": 2, "torch": 1}
    assert "aten.fft_rfft.default in the network itself" in reasons(graph) and "cumsum" in reasons(graph)
    last = graph.nodes[-1]
    assert last.name == "last" and len(last.inputs) == 2  # the sum is its residual

    def around(self: Any, x: Tensor) -> Tensor:
        early = torch.cumsum(x, 1)
        return torch.cumprod(early + self.between(early), 1)

    assert ops(captured(lively(Of(around, between=nn.Linear(8, 8))), TOKENS)) == {"torch": 2, "linear": 1}


def test_a_piece_may_end_in_types_that_graphs_lack() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)  # complex: read by two pieces, with a layer between
        y = self.layer(torch.view_as_real(spectrum).amax(-1))
        return torch.fft.irfft(spectrum * y.cumsum(1), n=8)

    assert ops(captured(lively(Of(forward, layer=nn.Linear(5, 5))), TOKENS)) == {"torch": 2, "linear": 1}


def test_several_outputs_of_one_operation() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        values, places = torch.topk(x, 2, -1)
        return self.layer(values) * places

    graph = captured(lively(Of(forward, layer=nn.Linear(2, 2))), TOKENS)
    assert ops(graph) == {"torch": 2, "linear": 1}
    assert [len(node.outputs) for node in graph.nodes if node.op == "torch"] == [2, 1]


def test_what_is_cheap_between_torch_pieces_joins_them() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.layer(x), dim=1, keepdim=True)
        return x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))

    graph = captured(lively(Of(forward, layer=nn.Linear(8, 8))), TOKENS)
    assert ops(graph) == {"linear": 1, "torch": 1, "mul": 1}


def test_outputs_keep_their_container() -> None:
    def forward(self: Any, x: Tensor, factor: float = 2.0) -> dict[str, Any]:
        y = self.layer(x)
        return {"given": x, "made": (y, [y.tanh(), None]), "number": 3, "fixed": torch.ones(2)}

    net = Of(forward, layer=nn.Linear(8, 3))
    graph = captured(lively(net), TOKENS)
    assert len(graph.outputs) == 4 and graph.outputs[0] == graph.inputs[0]
    assert ops(graph) == {"linear": 1, "act": 1, "constant": 1}  # y is read by two: the tanh stays apart


class Named(nn.Module):
    """Two arguments with a default each."""

    def forward(self, x: Tensor, y: Tensor | None = None, *, sign: int = 1) -> Tensor:
        return (x if y is None else x.tanh() - y) * sign


def test_arguments_by_position_and_by_name() -> None:
    net, two = Named(), TOKENS + 1
    graph = capture(net, {"y": two, "x": TOKENS, "sign": -1})
    assert graph.in_spec is not None
    for args, named in (((TOKENS, two), {"sign": -1}), ((TOKENS,), {"sign": -1, "y": two})):
        assert torch.equal(run(graph, graph.in_spec.flatten(args, named))[0], net(*args, **named))
    assert_same(graph, net, {"x": TOKENS, "y": two, "sign": -1})
    with pytest.raises(SparselandError, match="captured with -1; called with 1"):
        graph.in_spec.flatten((TOKENS, two), {"sign": 1})
    with pytest.raises(SparselandError, match="captured with arguments x, y, sign; called with x, sign"):
        graph.in_spec.flatten((TOKENS,), {"sign": -1})
    with pytest.raises(SparselandError, match="unexpected keyword argument 'z'"):
        graph.in_spec.flatten((TOKENS,), {"z": 1})
    plain = fuse(capture(net, (TOKENS, None)))
    assert plain.in_spec is not None and plain.outputs == plain.inputs
    assert len(plain.in_spec.flatten((TOKENS, None), {})) == 1


def test_the_same_tensor_twice() -> None:
    attention = lively(nn.MultiheadAttention(8, 2, batch_first=True))
    graph = captured(Of(lambda self, x: self.attention(x, x, x)[0], attention=attention), TOKENS)
    assert ops(graph)["attention"] == 1 and "torch" not in ops(graph)
    graph = captured(attention, (TOKENS, TOKENS, TOKENS))  # the weights are asked for: not one call
    assert len(graph.inputs) == 3 and ops(graph)["softmax"] == 1


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_transformer_layers(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, activation="gelu")
    net = lively(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    found = ops(captured(net, TOKENS))
    assert found["attention"] == 2 and found["linear"] == 8 and not {"torch", "act", "affine"} & found.keys()


def test_weights_that_are_computed_are_computed_once() -> None:
    class Masked(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * (weight.abs() > 0.2)

    net = lively(nn.Sequential(nn.Linear(8, 8)))
    parametrize.register_parametrization(net[0], "weight", Masked())
    graph = captured(net, TOKENS)
    assert ops(graph) == {"linear": 1}
    assert np.array_equal(graph.nodes[0].weights["weight"], net[0].weight.detach().numpy())


def test_a_layer_used_twice_has_two_names() -> None:
    graph = captured(lively(Of(lambda self, x: self.a(self.a(x)), a=nn.Linear(8, 8))), TOKENS)
    assert [node.name for node in graph.nodes] == ["a", "a_1"]
    assert np.shares_memory(graph.nodes[0].weights["weight"], graph.nodes[1].weights["weight"])


def test_modes_and_weights_stay_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.BatchNorm1d(6))
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fuse(capture(net, TOKENS))
    assert [module.training for module in net] == [True, False, True] and net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_other_types_become_float32() -> None:
    net = lively(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    half = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).bfloat16().eval()
    half.load_state_dict(net.state_dict())
    graph = capture(half, TOKENS.bfloat16())
    assert graph.nodes[0].attrs["converted"] == "bfloat16" and half[0].weight.dtype == torch.bfloat16
    assert graph.in_spec is not None
    (out,) = run(graph, graph.in_spec.flatten((TOKENS.bfloat16(),), {}))
    assert torch.allclose(out, half.float()(TOKENS.bfloat16().float()), atol=1e-6)


def test_random_numbers_are_drawn_anew() -> None:
    graph = fuse(capture(Of(lambda _, x: x + torch.rand(3, 8).sum(0)), TOKENS))
    assert ops(graph) == {"torch": 1, "add": 1}
    one, two = (run(graph, [TOKENS])[0] for _ in range(2))
    assert not torch.equal(one, two)


class Counting(nn.Module):
    """Changes a buffer when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_what_is_refused() -> None:
    net = nn.Sequential(nn.Linear(8, 8))
    with torch.no_grad():
        net[0].weight[1, 2:4] = float("nan")
    with pytest.raises(SparselandError, match="'0.weight' holds 2 entries that are NaN or infinite"):
        capture(net, TOKENS)
    with pytest.raises(SparselandError, match="changes 'calls' while it computes"):
        capture(Counting(), TOKENS)
    with pytest.raises(SparselandError, match=r"torch\.export cannot export Of: .*"):
        capture(Of(lambda _, x: x if float(x.sum()) > 0 else -x), TOKENS)
    net = nn.Sequential(nn.BatchNorm2d(4))
    net[0].running_mean[0] = float("inf")
    with pytest.raises(SparselandError, match="shift of 0 holds NaN or infinity"):
        capture(net, IMAGE)


def test_a_graph_says_what_it_was_given() -> None:
    graph = capture(nn.Linear(8, 2), TOKENS)
    with pytest.raises(SparselandError, match=r"takes 1 inputs \['input'\]; got 0"):
        run(graph, [])
    with pytest.raises(SparselandError, match=r"'input' is Value\(shape=\(2, 6, 8\), dtype='float32'\); got \(6, 8\)"):
        run(graph, [TOKENS[0]])
