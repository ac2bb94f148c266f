"""Names, seeds, options and errors of `build`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.zoo import NAMES, build, logits


def _build(name: str, **kw) -> nn.Module:
    return build(name, **{"in_shape": (3, 32, 32), "classes": 10, **kw})


@pytest.mark.parametrize("name", [name for name in NAMES if "<" not in name and name not in ("wrn-28-10", "wrn-22-8")])
def test_every_listed_name_builds(name: str) -> None:
    assert sum(p.numel() for p in _build(name).parameters()) > 0


def test_a_name_says_the_shape_of_the_net() -> None:
    assert _build("resnet-20-w8").conv1.out_channels == 8
    assert _build("resnet-20", width=8).conv1.out_channels == 8
    assert [_build("mlp-7-5").get_submodule(f"fc{i}").out_features for i in (1, 2, 3)] == [7, 5, 10]
    assert _build("mobilenet-v1-0.5").conv1.out_channels == _build("mobilenet-v1", width=0.5).conv1.out_channels == 16


def test_names_inside_the_stored_resnets() -> None:
    keys = set(_build("resnet-20").state_dict())
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} <= keys
    assert not any("shortcut" in key for key in keys)


@pytest.mark.parametrize("name", ["lenet-5", "resnet-8", "wrn-10-1", "vgg-c", "mobilenet-v1-0.25"])
def test_seeds_decide_and_leave_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (_build(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_without_a_seed_the_global_generator_decides() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        one, two = _build("mlp-8"), _build("mlp-8")
        torch.manual_seed(3)
        again = _build("mlp-8")
    assert torch.equal(one.fc1.weight, again.fc1.weight) and not torch.equal(one.fc1.weight, two.fc1.weight)


def test_he_initialisation() -> None:
    model = _build("vgg-d", seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert module.bias is None or not module.bias.any()


def test_nets_without_batchnorm_keep_torchs_initialisation() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layer = nn.Linear(3 * 32 * 32, 300)
    model = _build("lenet-300-100", seed=4)
    assert torch.equal(model.fc1.weight, layer.weight) and model.fc1.bias.any()
    assert not _build("lenet-300-100", seed=4, init="he").fc1.bias.any()
    torch_like = _build("resnet-8", init="torch", seed=4).conv1.weight
    assert torch_like.abs().max() <= 27**-0.5  # uniform, not normal


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20", r"unknown model 'resnet20': did you mean 'resnet-20'.*lenet-300-100"),
        ("resnet-21", r"depth 6n \+ 2; got 21, near it are 20 and 26"),
        ("resnet-2", "got 2, near it are 8 and 14"),
        ("resnet-20-w0", "width .* at least 1; got 0"),
        ("wrn-17-2", r"depth 6n \+ 4; got 17, near it are 16 and 22"),
        ("wrn-16-0", "at least 1; got 0"),
        ("vgg-e", "unknown model 'vgg-e'"),
        ("mobilenet-v1-0.01", "at least 1/32; got 0.01"),
        ("mobilenet-v2-0", "width .* above 0; got 0.0"),
        ("mobilenet-v3-tiny", "unknown model 'mobilenet-v3-tiny'"),
        ("efficientnet-b9", "unknown variant 'b9' of EfficientNet"),
        ("imagenet-resnet-20", "has depth 18, 34, 50, 101, 152; got 20"),
        ("mlp-", "unknown model"),
        ("", "unknown model"),
    ],
)
def test_impossible_names_are_answered(name: str, message: str) -> None:
    with pytest.raises(SparselandError, match=message):
        _build(name)


@pytest.mark.parametrize(
    ("name", "kw", "message"),
    [
        ("resnet-20", {"widths": 8}, "has no option 'widths': did you mean 'width'"),
        ("resnet-20-w8", {"width": 4}, "says width=8 already; got width=4"),
        ("resnet-20", {"shortcut": "C"}, "unknown shortcut 'C'"),
        ("wrn-16-2", {"dropout": 1.0}, r"dropout is a probability in \[0, 1\); got 1.0"),
        ("lenet-5", {"width": 2}, r"has no option 'width'.*\(nothing\)"),
        ("lenet-5", {"in_shape": (28, 28)}, r"in_shape is \(channels, height, width\).*\(28, 28\)"),
        ("lenet-5", {"in_shape": 28}, "in_shape is .* got 28"),
        ("lenet-5", {"in_shape": None}, "needs in_shape and classes"),
        ("lenet-5", {"classes": 0}, "classes is a number of classes, at least 1; got 0"),
        ("lenet-5", {"init": "xavier"}, "unknown init 'xavier': possible: he, torch"),
        ("hf:config:vit", {"init": "he"}, "keeps the initialisation of its library; got init='he'"),
        ("mobilenet-v1", {"stem_stride": 3}, "stem_stride is 1, 2 or None"),
        ("efficientnet-b0", {"stem_stride": 3}, "stem_stride is 1, 2 or None"),
        ("mobilenet-v3-large", {"dropout": 1.5}, r"dropout is a probability in \[0, 1\); got 1.5"),
        ("imagenet-resnet-18", {"width": 0}, "at least 1; got 0"),
    ],
)
def test_impossible_options_are_answered(name: str, kw: dict, message: str) -> None:
    with pytest.raises(SparselandError, match=message):
        _build(name, **kw)


def test_logits_of_whatever_a_model_returns() -> None:
    x = torch.ones(2, 3)

    class Record:
        logits = x

    assert logits(x) is x and logits((x, None)) is x and logits(Record()) is x
    with pytest.raises(SparselandError, match="got dict"):
        logits({"loss": 1})
