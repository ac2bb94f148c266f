"""Read, or replace, what one layer of a model hands on, without changing the model."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...core.errors import SparselandError, TargetError

PLACES = ("output", "input")  # which side of the layer
Change = Callable[[Tensor], "Tensor | None"]


class _Enough(Exception):
    """Raised inside a hook: what was wanted is there, the rest of the model need not run."""


def layer(model: nn.Module, name: str) -> nn.Module:
    """The module of ``model`` called ``name``, as in ``model.named_modules()``.

    Raises:
        TargetError: no module has this name; the message lists close ones. TypeError: not a module, not a text.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> layer(net, "1")
    ReLU()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is an nn.Module, not {type(model).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"a layer's name is a text, as in model.named_modules(), not {name!r}")
    found = dict(model.named_modules())
    if name in found:
        module: nn.Module = found[name]
        return module
    names = [other for other in found if other]
    close = difflib.get_close_matches(name, names, n=6, cutoff=0.4)
    tail = [other for other in names if name and other.endswith("." + name)]
    likely = list(dict.fromkeys([*tail[:6], *close])) or names[:6]
    listed = ", ".join(repr(other) for other in likely) or "(it has none)"
    raise TargetError(f"no layer {name!r} in {type(model).__name__}, which has {len(names)}; close: {listed}")


def tensor_of(value: Any, name: str) -> Tensor:
    """The activations in what a layer hands on: a tensor, or the first tensor of a tuple or of a mapping."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if hasattr(value, "values") else value if isinstance(value, (tuple, list)) else ()
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise TargetError(f"layer {name!r} hands on {type(value).__name__} without a tensor in it; choose another layer")


def _exchanged(value: Any, old: Tensor, new: Tensor) -> Any:
    """``value`` with ``new`` where ``old`` stood."""
    if value is old:
        return new
    if hasattr(value, "items"):
        return type(value)(**{key: new if item is old else item for key, item in value.items()})
    items = [new if item is old else item for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


@contextlib.contextmanager
def replaced(model: nn.Module, name: str, change: Change, *, at: str = "output") -> Iterator[nn.Module]:
    """While open, the layer hands on ``change(x)`` instead of x.

    y = rest(change(x))  with  x = the layer's output (or its input, ``at="input"``)

    Parameters:
        model: any nn.Module. name: of one of its layers.
        change: from x to a tensor of its shape; None leaves x as it is (so it may just look).
        at: "output" or "input".

    Raises:
        TargetError: no such layer, or it hands on no tensor. SparselandError: another shape came back, or a bad ``at``.

    >>> import torch
    >>> net = nn.Sequential(nn.Identity(), nn.Identity())
    >>> with replaced(net, "0", lambda x: 2 * x):
    ...     net(torch.ones(2)).tolist()
    [2.0, 2.0]
    >>> net(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    if at not in PLACES:
        raise SparselandError(f"at is one of {', '.join(PLACES)}, not {at!r}")
    place = layer(model, name)

    def changed(value: Any) -> Any:
        old = tensor_of(value, name)
        new = change(old)
        if new is None:
            return None
        if new.shape != old.shape:
            raise SparselandError(
                f"layer {name!r} hands on {tuple(old.shape)}; its replacement has {tuple(new.shape)}, not the same"
            )
        return _exchanged(value, old, new.to(old.dtype))

    def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            new = changed(given)
            return None if new is None else (new, named)
        new = changed(named)
        return None if new is None else (given, new)

    if at == "output":
        handle = place.register_forward_hook(lambda _, __, value: changed(value))
    else:
        handle = place.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield model
    finally:
        handle.remove()


def tapped(model: nn.Module, name: str, run: Callable[[], object], *, at: str = "output", stop: bool = True) -> Tensor:
    """What the layer hands on while ``run()`` calls the model; with ``stop`` the layers behind it do not run.

    Raises:
        TargetError: no such layer, or ``run`` never came to it.

    >>> import torch
    >>> net = nn.Sequential(nn.Identity(), nn.Linear(1, 99))
    >>> tapped(net, "0", lambda: net(torch.ones(3, 2))).shape  # the second layer would not fit
    torch.Size([3, 2])
    """
    seen: list[Tensor] = []

    def look(x: Tensor) -> None:
        seen.append(x)
        if stop:
            raise _Enough

    with replaced(model, name, look, at=at), contextlib.suppress(_Enough):
        run()
    if not seen:
        raise TargetError(f"layer {name!r} did not run when the model was called; choose one that does")
    return seen[0]  # of a layer that runs more than once, the first time
