"""The optimizer's side: who owns a parameter, and its state tensors. No list of known optimizers.

Any state tensor with the shape of its parameter belongs to the weights one by one: it is masked with them and is zero
where weights grow. Everything else (factored moments, step counters) is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..core.errors import OwnershipError
from .targets import Target


def unwrap(optimizer: object) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's; OwnershipError if there is none.

    What has torch's own step hooks is an optimizer, also if it holds another one (Lookahead).
    """
    seen = optimizer
    while hasattr(seen, "optimizer") and "_optimizer_step_post_hooks" not in vars(seen):
        seen = seen.optimizer
    if not isinstance(seen, torch.optim.Optimizer):
        raise OwnershipError(
            f"attach needs a torch.optim.Optimizer (any subclass, also your own); got {type(optimizer).__name__}"
        )
    return seen


def check_owns(optimizer: torch.optim.Optimizer, targets: Iterable[Target]) -> None:
    """Raise OwnershipError if a trainable target is not among the optimizer's parameters."""
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    listed = list(targets)
    strangers = [t.name for t in listed if t.param.requires_grad and id(t.param) not in owned]
    if strangers:
        raise OwnershipError(
            f"{type(optimizer).__name__} does not hold {len(strangers)} of the {len(listed)} parameters to sparsify "
            f"(first: {strangers[0]!r}): build it from this model's parameters, after moving, sharding or compiling "
            f"the model, or pass ignore=…"
        )


def state_tensors(optimizer: torch.optim.Optimizer, param: nn.Parameter) -> Iterator[Tensor]:
    """Floating-point state tensors shaped like ``param``, also inside nested dicts and lists."""
    return _shaped(optimizer.state.get(param, {}), param.shape)


def _shaped(value: object, shape: torch.Size) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.shape == shape and value.is_floating_point() and value.ndim:
            yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _shaped(inner, shape)


def skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer is about to skip this step because a GradScaler found Inf or NaN."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def grad_scale(optimizer: torch.optim.Optimizer) -> float:
    """The factor still inside the gradients (fused optimizers unscale inside their kernel); 1 otherwise."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)
