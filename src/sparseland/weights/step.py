"""Hooks around one optimizer step, however it is called.

``before(first)`` runs when the gradients exist and before the weights move, ``after()`` once they have moved; neither
runs for a step that a GradScaler skips inside a fused optimizer. With ``step(closure)`` the gradients exist only after
the closure; for an optimizer that calls it again (LBFGS, SAM), ``again()`` runs ahead and ``before(False)`` after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from .optimizer_state import skipped

_WRAPPER = torch.optim.Optimizer.profile_hook_step(
    lambda self: None
).__code__  # torch wraps step() of every class in it


class StepHooks:
    """Calls ``before``, ``again`` and ``after`` of a sparsifier around the outermost ``optimizer.step``.

    ``skipped``: instead, where a fused optimizer is about to skip the step itself.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        before: Callable[[bool], None],
        again: Callable[[], None],
        after: Callable[[], None],
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        self.before, self.again, self.after, self.skipped = before, again, after, skipped
        self._skip = False
        self._handles = [optimizer.register_step_pre_hook(self._pre), optimizer.register_step_post_hook(self._post)]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _pre(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _nested(optimizer):
            return None
        self._skip = skipped(optimizer)
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if self._skip:
            self.skipped()
            return None
        if closure is None:
            self.before(True)
            return None
        calls = 0

        def measured() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                self.again()
            with torch.enable_grad():
                loss = closure()
            self.before(calls == 1)
            return loss

        return ((args[0], measured, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": measured})

    def _post(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._skip and not _nested(optimizer):
            self.after()


def _nested(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is the inner call of a subclass whose ``step`` calls ``super().step()`` (torch hooks both)."""
    hooked = sum(getattr(vars(c).get("step"), "hooked", False) is True for c in type(optimizer).__mro__)
    if hooked < 2:
        return False
    frame, found = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code is _WRAPPER and frame.f_locals["args"][0] is optimizer:
            found += 1
        frame = frame.f_back  # type: ignore[assignment]
    return found > 1
