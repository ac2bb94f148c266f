"""Cutting parameters, buffers and optimizer state in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import TargetError, nearest


@dataclass(frozen=True, eq=False)
class Cut:
    """One dimension of a parameter or buffer, and which of its positions stay (a bool tensor)."""

    name: str
    dim: int
    left: Tensor


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all of their names."""
    everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return dict(everything)


def check(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Raise TargetError if the model has not the parameters and sizes that the cuts are made for."""
    tensors = tensors_by_name(model)
    for cut in cuts:
        if cut.name not in tensors:
            raise TargetError(f"the plan cuts {cut.name!r}, which is not here; {nearest(cut.name, list(tensors)[:40])}")
        shape = tuple(tensors[cut.name].shape)
        if cut.dim >= len(shape) or shape[cut.dim] != cut.left.numel():
            raise TargetError(
                f"the plan cuts dimension {cut.dim} of {cut.name!r} from {cut.left.numel()} to {int(cut.left.sum())}; "
                f"it is {shape} here. Was a plan applied before?"
            )


def _by_name(cuts: Sequence[Cut]) -> dict[str, list[Cut]]:
    result: dict[str, list[Cut]] = {}
    for cut in cuts:
        result.setdefault(cut.name, []).append(cut)
    return result


@torch.no_grad()
def mask(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Zeros in the parameters (not the buffers) where something would go."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for cut in cuts:
        if cut.name in parameters:
            gone = (~cut.left).nonzero().flatten().to(parameters[cut.name].device)
            parameters[cut.name].index_fill_(cut.dim, gone, 0.0)


@torch.no_grad()
def cut(model: nn.Module, cuts: Sequence[Cut], owner: torch.optim.Optimizer | None = None) -> None:
    """Leave only what stays; parameters stay the same objects, buffers become new tensors."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name, listed in _by_name(cuts).items():
        if name in parameters:
            param = parameters[name]
            old = param.shape
            if owner is not None and param in owner.state:
                owner.state[param] = _follow(owner.state[param], old, listed, name)
            grad = param.grad
            param.grad = None
            param.data = _taken(param.data, {c.dim: c.left for c in listed})
            if grad is not None:
                param.grad = _taken(grad, {c.dim: c.left for c in listed})
        else:
            old_buffer = buffers[name]
            new = _taken(old_buffer, {c.dim: c.left for c in listed})
            for module in model.modules():  # a buffer may be shared
                for k, tensor in list(module._buffers.items()):
                    if tensor is old_buffer:
                        module._buffers[k] = new


def _taken(tensor: Tensor, left: Mapping[int, Tensor]) -> Tensor:
    for dim, mask_ in left.items():
        tensor = tensor.index_select(dim, mask_.nonzero().flatten().to(tensor.device))
    return tensor.clone(memory_format=torch.preserve_format)


def _follow(state: Any, shape: torch.Size, listed: Sequence[Cut], name: str) -> Any:
    """The state of a parameter, cut like it: tensors of its shape, and factors that lack one of its dimensions."""
    left = {c.dim: c.left for c in listed}
    if isinstance(state, dict):
        return type(state)((k, _follow(v, shape, listed, name)) for k, v in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(_follow(v, shape, listed, name) for v in state)
    if not isinstance(state, Tensor) or state.numel() <= 1:
        return state
    if state.shape == shape:
        return _taken(state, left)
    # Adafactor's factors: the parameter's shape without one dimension (or with 1 in its place)
    fits = []
    for gone in range(len(shape)):
        if tuple(state.shape) == (*shape[:gone], *shape[gone + 1 :]):
            fits.append({d - (d > gone): m for d, m in left.items() if d != gone})
        elif tuple(state.shape) == (*shape[:gone], 1, *shape[gone + 1 :]):
            fits.append({d: m for d, m in left.items() if d != gone})
    if len(fits) == 1:
        return _taken(state, fits[0])
    warnings.warn(
        f"the optimizer's state of {name!r} holds a tensor of shape {tuple(state.shape)} (the parameter had "
        f"{tuple(shape)}): it cannot follow and starts at zero",
        stacklevel=2,
    )
    return torch.zeros_like(state)


# ------------------------------------------------------------------------------------- what modules say of their sizes
def rename_sizes(model: nn.Module, names: Iterable[str]) -> None:
    """Let the modules whose parameters were cut say their new sizes (`out_channels`, `in_features`, …)."""
    touched = {name.rpartition(".")[0] for name in names}
    changed = {id(tensor) for name, tensor in tensors_by_name(model).items() if name.rpartition(".")[0] in touched}
    for module in model.modules():
        if any(id(t) in changed for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]):
            for attribute, value in _sizes(module):
                setattr(module, attribute, value)


def _sizes(module: Any) -> list[tuple[str, Any]]:
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return [("out_features", weight.shape[0]), ("in_features", weight.shape[1])]
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return [("in_channels", weight.shape[0]), ("out_channels", weight.shape[1] * module.groups)]
    if isinstance(module, nn.modules.conv._ConvNd):
        return [("out_channels", weight.shape[0]), ("in_channels", weight.shape[1] * module.groups)]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        entry: Any = next((t for t in (weight, module.running_mean) if t is not None), None)
        return [] if entry is None else [("num_features", entry.shape[0])]
    if isinstance(module, nn.GroupNorm) and weight is not None:
        return [("num_channels", weight.shape[0])]
    if isinstance(module, nn.LayerNorm) and weight is not None:
        return [("normalized_shape", tuple(weight.shape))]
    if isinstance(module, nn.Embedding):
        return [("num_embeddings", weight.shape[0]), ("embedding_dim", weight.shape[1])]
    if isinstance(module, nn.PReLU):
        return [("num_parameters", weight.numel())]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nx"):  # transformers: (in, out)
        return [("nx", weight.shape[0]), ("nf", weight.shape[1])]
    return []
