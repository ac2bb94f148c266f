"""The backward value of a flow: the layer computes with one weight, its input's gradient with another.

Only flows that define `backward` use this; it is the one place where a module gets a hook. The layer runs on a detached
input (so it yields the weight's gradient only) and the input's gradient is computed from the second weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import TargetError


class _InputGradient(torch.autograd.Function):
    """Identity on the output; sends the input the gradient it would have through ``weight``."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, weight: Tensor, conv: tuple[Any, ...] | None) -> Tensor:
        ctx.save_for_backward(weight, inputs if conv is not None else weight)
        ctx.conv = conv
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, inputs = ctx.saved_tensors
        weight = weight.to(grad.dtype)
        if ctx.conv is None:
            return grad, grad @ weight, None, None
        stride, padding, dilation, groups = ctx.conv
        zeros = [0] * (weight.ndim - 2)
        back, _, _ = torch.ops.aten.convolution_backward(
            grad,
            inputs.to(grad.dtype),
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            zeros,
            groups,
            (True, False, False),
        )
        return grad, back, None, None


class TwoWay:
    """Hooks of one layer; ``weight`` is refreshed by the sparsifier after every step."""

    @staticmethod
    def check(module: nn.Module, name: str) -> None:
        """Raise TargetError if this layer's input gradient cannot be computed here."""
        if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise TargetError(f"a two-way flow needs Linear or Conv layers; {name!r} is in a {type(module).__name__}")
        if isinstance(getattr(module, "padding", 0), str) or getattr(module, "padding_mode", "zeros") != "zeros":
            raise TargetError(f"a two-way flow needs numeric zero padding; {name!r} has {module.padding!r}")

    def __init__(self, module: nn.Module, name: str, weight: Tensor) -> None:
        self.check(module, name)
        self.weight = weight
        self.conv = None
        if not isinstance(module, nn.Linear):
            self.conv = tuple(list(getattr(module, k)) for k in ("stride", "padding", "dilation")) + (module.groups,)
        self._inputs: Tensor | None = None
        self._handles: list[Any] = []

    def hook(self, module: nn.Module) -> None:
        """Register on the layer (once: a deepcopy brings its hooks along)."""
        if any(getattr(h, "__self__", None) is self for h in module._forward_hooks.values()):
            return
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inputs": None}

    def unhook(self) -> None:
        """Remove from the layer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = args[0] if args else kwargs["input"]
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            self._inputs = None
            return None
        self._inputs = inputs
        return (inputs.detach(), *args[1:]), {k: v for k, v in kwargs.items() if k != "input"}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        inputs, self._inputs = self._inputs, None
        if inputs is None:
            return None
        return _InputGradient.apply(output, inputs, self.weight, self.conv)  # type: ignore[no-any-return]
