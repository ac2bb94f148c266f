"""Small networks with zeros and with batch norms that have seen something, for tests of the engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseland import deploy
from sparseland.deploy.convert_check import difference
from sparseland.kernels import available

needs_engine = pytest.mark.skipif(not available(), reason="the native extension is not built")


def prepared(model: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """In evaluation mode: zeros in every layer, batch norms with statistics of their own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.Conv2d | nn.Linear) and sparsity:
                module.weight[torch.rand_like(module.weight) < sparsity] = 0
    return model.eval()


def apart(made: Any, right: Any) -> float:
    """The largest difference between two outputs, relative to the largest number of each tensor."""
    pairs = zip(pytree.tree_leaves(made), pytree.tree_leaves(right), strict=True)
    return max(difference(a, b) for a, b in pairs if isinstance(b, Tensor))


def convert(model: nn.Module, sample: Any, **options: Any) -> deploy.Engine:
    """Without timing, on one thread."""
    return deploy.convert(model, sample, **{"measure": False, "threads": 1, **options})
