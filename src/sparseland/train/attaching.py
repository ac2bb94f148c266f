"""What the callbacks for other loops share: attach a method, or keep the zeros a model has, or go on from a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from sparseland.core.errors import ResumeError
from sparseland.train.plans import compose
from sparseland.weights import Method, Sparsifier, keep_zeros

KEEP = "keep-zeros"


def read_method(method: Method | Mapping[str, Any] | None) -> Method | None:
    """A method from itself, from ``{"name": "rigl", …}`` or from its words; None stays None (keep the zeros).

    Raises:
        RecipeError: unknown names; a procedure of several trainings, which a callback cannot run.

    >>> read_method({"name": "rigl", "sparsity": 0.8}).name
    'rigl'
    """
    if method is None or isinstance(method, Method):
        return method
    return compose(method).method


def attach(
    method: Method | None,
    model: nn.Module,
    optimizer: Any,
    targets: Any = None,
    ignore: Any = None,
    *,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    steps: int | None = None,
    seed: int = 0,
    state: dict[str, Any] | None = None,
) -> Sparsifier:
    """`Method.attach`, or `keep_zeros` where ``method`` is None; with ``state``, where that state left off.

    Raises:
        ResumeError: the state is of another method or model. Others as `Method.attach`.

    >>> import torch
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    >>> attach(None, layer, torch.optim.SGD(layer.parameters(), lr=0.1)).sparsity
    0.5
    """
    if method is None and state is None:
        return keep_zeros(model, optimizer, targets, ignore)
    if method is None:
        saved = state.get("method", {}).get("name") if state is not None else None
        if saved != KEEP:
            raise ResumeError(f"the checkpoint was trained with {saved!r}; this callback keeps zeros (method=None)")
        method = Method(name=KEEP)
    return method.attach(model, optimizer, targets, ignore, data=data, loss=loss, steps=steps, seed=seed, state=state)


def reached(sparsifier: Sparsifier) -> bool:
    """Whether the schedule has ended."""
    schedule = sparsifier.method.schedule
    return schedule is None or sparsifier.step >= (schedule.last() or 0)
