"""Sizes against published numbers, names, shapes, and that every model learns."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.zoo import build


def _count(name: str, in_shape=(3, 32, 32), classes: int = 10, **kw) -> int:
    return sum(p.numel() for p in build(name, in_shape=in_shape, classes=classes, **kw).parameters())


def _conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    """A convolution without bias and the BatchNorm behind it."""
    return inputs * outputs * kernel * kernel + 2 * outputs


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet-20", 269_722), ("resnet-32", 464_154), ("resnet-44", 658_586), ("resnet-56", 853_018),
        ("resnet-110", 1_727_962), ("wrn-28-10", 36_479_194), ("wrn-16-8", 10_961_370),
    ],
)  # fmt: skip
def test_published_counts_on_cifar(name: str, published: int) -> None:
    assert _count(name) == published


def test_published_counts_of_small_nets() -> None:
    assert _count("lenet-300-100", (1, 28, 28)) == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert _count("lenet-5", (1, 28, 28)) == 431_080
    assert _count("mlp-300-100", (1, 28, 28)) == 266_610


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("mobilenet-v1", 4_231_976), ("mobilenet-v1-0.75", 2_585_560),
        ("mobilenet-v1-0.5", 1_331_592), ("mobilenet-v1-0.25", 470_072), ("mobilenet-v2", 3_504_872),
        ("mobilenet-v2-1.4", 6_108_776), ("mobilenet-v3-large", 5_483_032), ("mobilenet-v3-small", 2_542_856),
        ("efficientnet-b0", 5_288_548), ("efficientnet-b1", 7_794_184), ("efficientnet-b4", 19_341_616),
        ("imagenet-resnet-18", 11_689_512), ("imagenet-resnet-34", 21_797_672), ("imagenet-resnet-50", 25_557_032),
        ("imagenet-resnet-101", 44_549_160),
    ],
)  # fmt: skip
def test_published_counts_on_imagenet(name: str, published: int) -> None:
    assert _count(name, (3, 224, 224), 1000) == published


@pytest.mark.parametrize("depth", [20, 110])
@pytest.mark.parametrize("width", [4, 16])
def test_resnet_closed_form(depth: int, width: int) -> None:
    n = (depth - 2) // 6
    w = (width, 2 * width, 4 * width)
    blocks = _conv(3, w[0]) + 2 * n * _conv(w[0], w[0])
    for a, b in ((w[0], w[1]), (w[1], w[2])):
        blocks += _conv(a, b) + (2 * n - 1) * _conv(b, b)
    assert _count(f"resnet-{depth}-w{width}") == blocks + 10 * w[2] + 10
    projections = _conv(w[0], w[1], 1) + _conv(w[1], w[2], 1)
    assert _count(f"resnet-{depth}-w{width}", shortcut="B") == blocks + projections + 10 * w[2] + 10


@pytest.mark.parametrize(("depth", "k", "millions"), [(16, 2, 0.7), (16, 8, 11.0), (22, 8, 17.2), (40, 2, 2.2)])
def test_wide_resnet_closed_form(depth: int, k: int, millions: float) -> None:
    n, total, inputs = (depth - 4) // 6, 3 * 16 * 9, 16
    for outputs in (16 * k, 32 * k, 64 * k):
        first = 2 * inputs + inputs * outputs * 9 + 2 * outputs + outputs * outputs * 9 + inputs * outputs
        other = 2 * (2 * outputs + outputs * outputs * 9)
        total, inputs = total + first + (n - 1) * other, outputs
    total += 2 * inputs + inputs * 10 + 10
    assert _count(f"wrn-{depth}-{k}") == total
    assert round(total / 1e6, 1) == millions  # as printed in arXiv:1605.07146


@pytest.mark.parametrize(("name", "kernels", "millions"), [("vgg-c", (3, 3, 1), 10.5), ("vgg-d", (3, 3, 3), 15.2)])
def test_vgg_closed_form(name: str, kernels: tuple[int, ...], millions: float) -> None:
    total, inputs = 0, 3
    for outputs, group in ((64, (3, 3)), (128, (3, 3)), (256, kernels), (512, kernels), (512, kernels)):
        for kernel in group:
            total, inputs = total + _conv(inputs, outputs, kernel), outputs
    total += 2 * (512 * 512 + 512 + 2 * 512) + 512 * 10 + 10
    assert _count(name) == total
    assert int(total / 1e5) / 10 == millions  # 10.5 and 15.2 million in arXiv:1810.02340


@pytest.mark.parametrize("in_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 31, 17)])
@pytest.mark.parametrize(
    "name",
    [
        "lenet-300-100", "lenet-5", "mlp-16", "resnet-8-w4", "wrn-10-1", "mobilenet-v1-0.25", "vgg-c", "vgg-d",
        "mobilenet-v2-0.25", "mobilenet-v3-small", "efficientnet-b0", "imagenet-resnet-18",
    ],
)  # fmt: skip
def test_any_shape_trains_one_step(name: str, in_shape: tuple[int, int, int]) -> None:
    if name.startswith("vgg") and min(in_shape[1:]) < 17:
        with pytest.raises(SparselandError, match=r"at least 17 pixels a side; got 8×8.*size=32"):
            build(name, in_shape=in_shape, classes=4)
        return
    model = build(name, in_shape=in_shape, classes=4, seed=0)
    x, y = torch.randn(3, *in_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    out = model(x)
    assert out.shape == (3, 4) and out.isfinite().all()
    F.cross_entropy(out, y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_imagenet_and_cifar_stems() -> None:
    assert build("mobilenet-v1-0.25", in_shape=(3, 32, 32), classes=10).conv1.stride == (1, 1)
    assert build("mobilenet-v1-0.25", in_shape=(3, 224, 224), classes=10).conv1.stride == (2, 2)
    assert build("mobilenet-v1-0.25", in_shape=(3, 32, 32), classes=10, stem_stride=2).conv1.stride == (2, 2)
    for name in ("mobilenet-v2-0.25", "mobilenet-v3-small", "efficientnet-b0"):
        assert build(name, in_shape=(3, 32, 32), classes=10).conv1.stride == (1, 1)
        assert build(name, in_shape=(3, 224, 224), classes=10).conv1.stride == (2, 2)


def test_shapes_inside_the_imagenet_nets() -> None:
    """The published resolutions: 7×7 before the average, at 224×224."""
    for name, layer, channels in (
        ("mobilenet-v2", "conv2", 1280), ("mobilenet-v3-large", "conv2", 960),
        ("efficientnet-b0", "conv2", 1280), ("imagenet-resnet-18", "layer4", 512),
    ):  # fmt: skip
        model = build(name, in_shape=(3, 224, 224), classes=10, seed=0).eval()
        shapes = []
        model.get_submodule(layer).register_forward_hook(lambda *a, to=shapes: to.append(tuple(a[2].shape)))
        with torch.inference_mode():
            model(torch.zeros(1, 3, 224, 224))
        assert shapes == [(1, channels, 7, 7)]


def test_the_imagenet_resnets_have_the_widespread_names() -> None:
    keys = set(build("imagenet-resnet-50", in_shape=(3, 64, 64), classes=10, width=4).state_dict())
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.running_var", "fc.bias"} <= keys
    assert not any("layer1.1.downsample" in key for key in keys)


def test_option_a_shortcut_keeps_pixels_and_pads_channels() -> None:
    block = build("resnet-8-w3", in_shape=(3, 8, 8), classes=2).layer2[0]
    x = torch.rand(1, 3, 8, 8)
    out = block.shortcut(x)
    assert out.shape == (1, 6, 4, 4)
    assert torch.equal(out[:, 1:4], x[:, :, ::2, ::2]) and out[:, [0, 4, 5]].abs().max() == 0


def test_dropout_is_where_it_was_asked_for() -> None:
    model = build("wrn-10-1", in_shape=(3, 8, 8), classes=2, dropout=0.3)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


@pytest.mark.parametrize(
    "name", ["lenet-5", "resnet-8-w4", "wrn-10-1", "mobilenet-v1-0.25", "mobilenet-v3-small", "efficientnet-b0"]
)
def test_models_copy_and_pickle(name: str) -> None:
    model = build(name, in_shape=(1, 8, 8), classes=3, seed=0).eval()
    x = torch.rand(2, 1, 8, 8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(model(x), twin(x))
