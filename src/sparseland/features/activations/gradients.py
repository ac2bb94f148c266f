"""g = dL/dx: how much the frozen model's loss moves with an activation (arXiv 2411.10397)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError
from .hook import replaced
from .inputs import Inputs, call
from .objectives import Objective, objective


def random_layers(model: nn.Module) -> list[str]:
    """Names of the dropout layers that would change the result: in training mode, with a rate above zero.

    >>> random_layers(nn.Sequential(nn.Dropout(0.1))), random_layers(nn.Sequential(nn.Dropout(0.1)).eval())
    (['0'], [])
    """
    kinds = (nn.modules.dropout._DropoutNd,)
    return [name for name, m in model.named_modules() if isinstance(m, kinds) and m.training and m.p > 0]


def warn_if_random(model: nn.Module) -> None:
    """Warn where dropout would make activations and gradients differ from call to call."""
    if names := random_layers(model):
        warnings.warn(
            f"the model is in training mode and has {len(names)} dropout layers (first: {names[0]!r}): activations and "
            f"gradients are not the same twice; call model.eval() first",
            stacklevel=3,
        )


def activation_gradients(
    model: nn.Module,
    layer: str,
    inputs: Inputs,
    *,
    loss: Objective = "next_token",
    at: str = "output",
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Activations x of a layer, and the gradient of the model's loss with the original activations in place.

    g[b, t] = d(sum of the losses of sequence b) / d x[b, t]

    The loss is a sum: a row holds the effect on its own and all later tokens, whatever the batch.

    Parameters:
        model: evaluated as it is; its weights get no gradients. layer, at: see `replaced`.
        inputs: token ids [B, L], or a mapping of the model's arguments. loss: see `objective`.
        scale: the loss is multiplied by it and g divided by it, against underflow; None: 1, and 1024 in half precision.

    Returns:
        x and g, [B, L, d] (or [N, d]), detached; g in float32 at least.

    Raises:
        SparselandError: gradients are switched off, the loss does not depend on the layer, or has no labels.

    Warns:
        UserWarning: dropout in training mode.

    >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
    >>> x, g = activation_gradients(net, "0", torch.ones(3, 2), loss=lambda y, _: y.sum())
    >>> torch.equal(g, net[1].weight.detach().expand(3, 2))
    True
    """
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise SparselandError(
            "no gradient can be had under torch.no_grad() or torch.inference_mode(): call with grads enabled"
        )
    warn_if_random(model)
    leaves: list[Tensor] = []

    def cut(x: Tensor) -> Tensor:
        leaves.append(x.detach().requires_grad_())
        return leaves[-1]

    with replaced(model, layer, cut, at=at):
        outputs = call(model, inputs)
        value = objective(loss, outputs, inputs)
    x = _only(leaves, layer)
    scale = scale or (1024.0 if x.dtype in (torch.float16, torch.bfloat16) else 1.0)
    if not value.requires_grad:
        raise SparselandError(
            f"the loss does not depend on layer {layer!r} through a graph: call with grads enabled (does the model run "
            f"under torch.no_grad() itself?), and choose a layer before the loss"
        )
    (g,) = torch.autograd.grad(value * scale, x, allow_unused=True)
    if g is None:
        raise SparselandError(f"the loss does not depend on layer {layer!r}; choose a layer before the loss")
    wide = torch.promote_types(g.dtype, torch.float32)
    return x.detach(), g.to(wide) / scale


def _only(leaves: list[Tensor], layer: str) -> Tensor:
    """The activations of a layer that ran once."""
    if not leaves:
        raise SparselandError(f"layer {layer!r} did not run when the model was called; choose one that does")
    if len(leaves) > 1:
        raise SparselandError(f"layer {layer!r} runs {len(leaves)} times in one call; its gradient is not one tensor")
    return leaves[0]
