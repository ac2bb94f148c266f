"""Initialisation shared by all models of the zoo, and the check of their input shape."""

from __future__ import annotations

from torch import nn

from sparseland.core.errors import SparselandError


def kaiming_(model: nn.Module) -> nn.Module:
    """He initialisation in place: w ~ N(0, 2 / fan_in) for convolutions and linear layers, biases 0, BatchNorm 1 and 0.

    The original CIFAR ResNets begin like this (arXiv:1502.01852). Draws from torch's global generator.

    >>> import torch
    >>> layer = kaiming_(nn.Linear(1000, 1000))
    >>> abs(layer.weight.std().item() - (2 / 1000) ** 0.5) < 1e-3, layer.bias.abs().max().item()
    (True, 0.0)
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def check_shape(in_shape: tuple[int, int, int], classes: int) -> tuple[int, int, int]:
    """(C, H, W) as given, if it is one.

    Raises:
        SparselandError: not three positive integers, or no class.
    """
    try:
        shape = tuple(int(side) for side in in_shape)
    except TypeError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise SparselandError(f"in_shape is (channels, height, width), for example (3, 32, 32); got {in_shape!r}")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise SparselandError(f"classes is a number of classes, at least 1; got {classes!r}")
    return shape[0], shape[1], shape[2]
