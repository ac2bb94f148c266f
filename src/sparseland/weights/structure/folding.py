"""What a removed channel still gives: folded into the layer that read it.

A BatchNorm whose scale is zero gives its shift, and the activation of that is a constant. It is measured, not derived:
the network runs once with those scales at zero, and what arrives at each layer is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError
from .surgery import Cut
from .tape import evaluation

CONSTANT = 1e-5  # how far a constant may wander, relative to its size
READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def fold_(model: nn.Module, cuts: Sequence[Cut], sample: Any, *, borders: bool = False) -> dict[str, str]:
    """Add the constants of removed channels to what follows, in place; returns {layer: what was done, or why not}.

    Parameters:
        borders: also where zero padding makes the constant smaller at the borders of an image.

    Raises:
        SparselandError: no sample.
    """
    if sample is None:
        raise SparselandError("fold needs sample=, what the network is called with: constants are measured")
    gone = {(cut.name, cut.dim): ~cut.left for cut in cuts}
    readers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, READERS) and (f"{path}.weight", 1) in gone
    }
    inputs, norms = _arriving(model, gone, readers, sample)
    report = {}
    for path, module in readers.items():
        if path not in inputs:
            report[path] = "not run"
            continue
        removed = gone[f"{path}.weight", 1]
        values, steady = _constants(inputs[path], 1 if module.weight.ndim > 2 else -1, removed)
        if not steady:
            report[path] = "dropped: what the removed units give is not constant"
        elif _padded(module) and not borders and bool((values != 0).any()):
            report[path] = "dropped: zero padding makes it smaller at the borders (fold='interior' folds it)"
        else:
            weight = module.weight[:, removed.to(module.weight.device)].flatten(2) if module.weight.ndim > 2 else None
            taps = weight.sum(2) if weight is not None else module.weight[:, removed.to(module.weight.device)]
            report[path] = _add(module, norms.get(path), taps @ values.to(taps))
    return report


def _arriving(
    model: nn.Module, gone: Mapping[tuple[str, int], Tensor], readers: Mapping[str, nn.Module], sample: Any
) -> tuple[dict[str, Tensor], dict[str, nn.Module]]:
    """What each reader is given when the removed scales are zero, and the BatchNorm that follows it directly."""
    twin = copy.deepcopy(model)
    inputs: dict[str, Tensor] = {}
    made: dict[int, tuple[str, Tensor]] = {}
    norms: dict[str, nn.Module] = {}
    with ExitStack() as stack:
        for path, module in twin.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.weight is not None and (f"{path}.weight", 0) in gone:
                    module.weight[gone[f"{path}.weight", 0].to(module.weight.device)] = 0

                def follows(_: nn.Module, args: Any, path: str = path) -> None:
                    if id(args[0]) in made:
                        norms[made[id(args[0])][0]] = model.get_submodule(path)

                stack.callback(module.register_forward_pre_hook(follows).remove)
            if path in readers:

                def read(_: nn.Module, args: Any, out: Tensor, path: str = path) -> None:
                    inputs[path] = args[0].detach().clone()
                    made[id(out)] = (path, out)

                stack.callback(module.register_forward_hook(read).remove)
        with evaluation(twin):
            if isinstance(sample, Tensor):
                twin(sample)
            elif isinstance(sample, Mapping):
                twin(**sample)
            else:
                twin(*sample)
    return inputs, norms


def _constants(given: Tensor, dim: int, removed: Tensor) -> tuple[Tensor, bool]:
    """The value of each removed unit, and whether it is one at all."""
    units = given.movedim(dim, 0)[removed.to(given.device)].flatten(1)
    low, high = units.amin(1), units.amax(1)
    middle = (low + high) / 2
    return middle, bool((high - low <= CONSTANT * (1 + middle.abs())).all())


def _padded(module: Any) -> bool:
    if isinstance(module, nn.Linear) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" or any(int(n) for n in module.padding if module.padding != "valid")


def _add(module: Any, norm: Any, delta: Tensor) -> str:
    if module.bias is not None:
        module.bias += delta.to(module.bias)
        return "folded into its bias"
    if norm is not None and norm.running_mean is not None:
        norm.running_mean -= delta.to(norm.running_mean)
        return "folded into the mean of the BatchNorm behind it"
    return "dropped: neither a bias nor a BatchNorm with running statistics takes it"
