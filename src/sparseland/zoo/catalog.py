"""The front door: one name in, one freshly initialised model out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from sparseland.core.errors import SparselandError, nearest
from sparseland.zoo.efficientnet import EfficientNet
from sparseland.zoo.huggingface import hugging_face
from sparseland.zoo.imagenet_resnet import ImageNetResNet
from sparseland.zoo.init import check_shape, kaiming_
from sparseland.zoo.mlp import MLP, LeNet5
from sparseland.zoo.mobilenet import MobileNetV1
from sparseland.zoo.mobilenet_v2 import MobileNetV2
from sparseland.zoo.mobilenet_v3 import MobileNetV3
from sparseland.zoo.resnet import CifarResNet
from sparseland.zoo.vgg import VGG
from sparseland.zoo.wideresnet import WideResNet

NAMES = (
    "lenet-300-100", "lenet-5", "mlp-128-128", "mlp-<H>-<H>-…",
    "resnet-20", "resnet-32", "resnet-44", "resnet-56", "resnet-110", "resnet-<depth>-w<width>",
    "wrn-16-2", "wrn-16-8", "wrn-22-8", "wrn-28-10", "wrn-<depth>-<k>",
    "vgg-c", "vgg-d", "mobilenet-v1", "mobilenet-v1-0.5", "mobilenet-v1-<width>",
    "mobilenet-v2", "mobilenet-v2-<width>", "mobilenet-v3-large", "mobilenet-v3-small", "efficientnet-b0",
    "efficientnet-b<0…4>", "imagenet-resnet-18", "imagenet-resnet-50", "imagenet-resnet-<18|34|50|101|152>",
    "hf:<name or folder>", "hf:config:<model type>",
)  # fmt: skip

# What a name says (pattern), the class, how the groups of the pattern become its arguments, and what ``**kw`` may say.
Parse = Callable[[re.Match[str]], dict[str, Any]]
FAMILIES: tuple[tuple[str, Callable[..., nn.Module], Parse, tuple[str, ...]], ...] = (
    (r"lenet-300-100", MLP, lambda m: {"hidden": (300, 100)}, ()),
    (r"lenet-5", LeNet5, lambda m: {}, ()),
    (r"mlp((?:-\d+)+)", MLP, lambda m: {"hidden": tuple(int(h) for h in m[1][1:].split("-"))}, ()),
    (
        r"resnet-(\d+)(?:-w(\d+))?", CifarResNet,
        lambda m: {"depth": int(m[1]), **({"width": int(m[2])} if m[2] else {})}, ("width", "shortcut"),
    ),
    (r"wrn-(\d+)-(\d+)", WideResNet, lambda m: {"depth": int(m[1]), "factor": int(m[2])}, ("dropout",)),
    (r"vgg-([cd])", VGG, lambda m: {"variant": m[1].upper()}, ()),
    (
        r"mobilenet-v1(?:-(\d+(?:\.\d+)?))?", MobileNetV1,
        lambda m: {"width": float(m[1])} if m[1] else {}, ("width", "stem_stride"),
    ),
    (
        r"mobilenet-v2(?:-(\d+(?:\.\d+)?))?", MobileNetV2,
        lambda m: {"width": float(m[1])} if m[1] else {}, ("width", "stem_stride", "dropout"),
    ),
    (
        r"mobilenet-v3-(large|small)", MobileNetV3,
        lambda m: {"variant": m[1]}, ("width", "stem_stride", "dropout"),
    ),
    (r"efficientnet-(b\d)", EfficientNet, lambda m: {"variant": m[1]}, ("stem_stride", "dropout")),
    (r"imagenet-resnet-(\d+)", ImageNetResNet, lambda m: {"depth": int(m[1])}, ("width",)),
)  # fmt: skip
INITS = ("he", "torch")
PLAIN = (MLP, LeNet5)  # without BatchNorm


def build(
    name: str,
    *,
    in_shape: tuple[int, int, int] | None,
    classes: int | None,
    seed: int | None = None,
    init: str | None = None,
    **kw: Any,
) -> nn.Module:
    """Build a model by name, freshly initialised.

    Parameters:
        name: one of

            - ``"lenet-300-100"``, ``"lenet-5"``, ``"mlp-<H>-<H>…"`` (any number of hidden layers);
            - ``"resnet-20"`` (6n + 2), with width ``"resnet-20-w8"``; ``width=``, ``shortcut="A"|"B"``;
            - ``"wrn-16-2"``: depth 6n + 4, widening factor; ``dropout=``;
            - ``"vgg-c"``, ``"vgg-d"``: images of at least 17 pixels a side;
            - ``"mobilenet-v1"``, ``"mobilenet-v2"`` (or ``"…-0.5"``, its width), ``"mobilenet-v3-large"`` or small:
              ``width=``, ``stem_stride=``, ``dropout=`` but for v1; ``"efficientnet-b0"`` to b4: the last two;
            - ``"imagenet-resnet-50"``, 18, 34, 101 or 152 (four stages, for large images): ``width=``;
            - ``"hf:<name or folder>"``: a pretrained transformers model; ``"hf:config:vit"``: one with random weights;
              ``**kw`` are entries of its configuration.
        in_shape: (channels, height, width) of one image; None only for ``hf:`` models of text.
        classes: number of logits.
        seed: of the initialisation; torch's global generator is left as it was. None: draw from that generator.
        init: "he" (normal, variance 2 / fan_in, biases 0, as the original CIFAR ResNets) or "torch" (what torch's
            layers do by themselves). None: "he" for nets with BatchNorm, "torch" for those without (with "he", LeNet-5
            on digits stays below 30 %, with "torch" it passes 98 %). Transformers models keep their own.
        kw: what the family takes, see above.

    Raises:
        SparselandError: an unknown name or option, a shape or depth that the family does not have.
        DataNotFound: an ``hf:`` model that is not there.

    >>> import torch
    >>> from sparseland.zoo import build
    >>> one, two = (build("resnet-20", in_shape=(3, 32, 32), classes=10, seed=7) for _ in range(2))
    >>> sum(p.numel() for p in one.parameters()), torch.equal(one.conv1.weight, two.conv1.weight)
    (269722, True)
    >>> build("lenet-5", in_shape=(1, 8, 8), classes=10)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    """
    kind, colon, rest = str(name).partition(":")
    if colon and kind == "hf":
        with _seeded(seed):
            if init is not None:
                raise SparselandError(f"{name!r} keeps the initialisation of its library; got init={init!r}")
            return hugging_face(rest, in_shape, classes, **kw)
    family, arguments = _parse(str(name), kw)
    if in_shape is None or classes is None:
        raise SparselandError(f"{name!r} needs in_shape and classes; got in_shape={in_shape}, classes={classes}")
    if init not in (None, *INITS):
        raise SparselandError(f"unknown init {init!r}: {nearest(init, INITS)}")
    with _seeded(seed):
        model = family(check_shape(in_shape, classes), classes, **arguments)
        he = init == "he" if init is not None else family not in PLAIN
        return kaiming_(model) if he else model


def _parse(name: str, kw: dict[str, Any]) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """The class that a name stands for, and its arguments."""
    for pattern, family, parse, options in FAMILIES:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        arguments = parse(match)
        for key in kw:
            if key in arguments:
                raise SparselandError(f"{name!r} says {key}={arguments[key]} already; got {key}={kw[key]} as well")
            if key not in options:
                raise SparselandError(f"{name!r} has no option {key!r}: {nearest(key, options)}")
        return family, arguments | kw
    raise SparselandError(f"unknown model {name!r}: {nearest(name, NAMES)}")


def logits(output: Any) -> torch.Tensor:
    """The tensor of logits in what a model returned: itself, ``output.logits``, or the first entry of a tuple.

    Models of the zoo return a tensor, those of transformers a record; a loop that calls this serves both.

    Raises:
        SparselandError: no tensor in it.

    >>> logits(torch.ones(2, 3)).shape, logits((torch.ones(2, 3), None)).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    found = getattr(output, "logits", output)
    if isinstance(found, tuple | list) and len(found):
        found = found[0]
    if not isinstance(found, torch.Tensor):
        raise SparselandError(f"expected a tensor, a record with .logits or a tuple; got {type(output).__name__}")
    return found


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
