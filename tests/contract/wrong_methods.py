"""Deliberately wrong methods: each breaks one promise, so that the check of that promise is seen to fail."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparseland.core.errors import ScoreError, SparselandError
from sparseland.weights import Method, Sparsifier
from sparseland.weights.optimizer_state import state_tensors

FAULTS: dict[str, type[Sparsifier]] = {}


@dataclass(frozen=True, repr=False)
class Wrong(Method):
    """A method whose sparsifier has a fault."""

    fault: str = ""

    def attach(self, *args: Any, **kwargs: Any) -> Sparsifier:
        return FAULTS[self.fault](self, *args, **kwargs)


def wrong(method: Method, fault: str) -> Wrong:
    """A registered method with a fault."""
    words = {name: getattr(method, name) for name in (f.name for f in fields(method))}
    return Wrong(**words | {"name": fault}, fault=fault)


def fault(cls: type[Sparsifier]) -> type[Sparsifier]:
    """Register a faulty sparsifier under its class name."""
    FAULTS[cls.__name__] = cls
    return cls


def swap_(mask: torch.Tensor) -> None:
    """Exchange one living and one dead coordinate."""
    flat = mask.view(-1)
    alive, dead = int(flat.nonzero()[0]), int((~flat).nonzero()[-1])
    flat[alive], flat[dead] = False, True


# --- numbers ----------------------------------------------------------------------------------------------------------
@fault
class OffByOne(Sparsifier):
    def _move_masks(self) -> None:
        super()._move_masks()
        mask = list(self.masks.values())[-1].view(-1)
        mask[mask.nonzero()[0]] = False
        self._to_device()


@fault
class NegativeZero(Sparsifier):
    def finalize_(self) -> Sparsifier:
        super().finalize_()
        with torch.no_grad():
            for n, t in self.targets.items():
                t.param.masked_fill_(~self.masks[n], -0.0)
        return self


@fault
class MovesAnyTime(Sparsifier):
    def _after_update(self) -> None:
        super()._after_update()
        if self.step == 7:
            swap_(next(iter(self.masks.values())))
            self._to_device()


@fault
class WrongLedger(Sparsifier):
    def counts(self) -> dict[str, Any]:
        said = super().counts()
        return said | {"kept": said["kept"] + (self.step > 12)}


@fault
class BreaksPattern(Sparsifier):
    def _move_masks(self) -> None:
        super()._move_masks()
        swap_(list(self.masks.values())[-1])
        self._to_device()


# --- again ------------------------------------------------------------------------------------------------------------
@fault
class ForgetsGenerator(Sparsifier):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.manual_seed(0)


@fault
class ForgetsStatistics(Sparsifier):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"stats": {n: {} for n in self.targets}}


@fault
class SharesHistory(Sparsifier):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.history = state["history"]


@fault
class CopyStopsMasking(Sparsifier):
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_attached": False})


@fault
class CopySharesGenerator(Sparsifier):
    def __deepcopy__(self, memo: dict[int, Any]) -> Sparsifier:
        memo[id(self.generator)] = self.generator
        new = type(self).__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return new


@fault
class SeesTheCompiler(Sparsifier):
    def __init__(self, method: Method, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(method, model, *args, **kwargs)
        if hasattr(model, "_orig_mod"):
            self.generator.manual_seed(99)


@fault
class MovesAlone(Sparsifier):
    def _move_masks(self) -> None:
        super()._move_masks()
        if dist.get_rank():
            swap_(next(iter(self.masks.values())))
            self._to_device()


@fault
class NeverDisagrees(Sparsifier):
    def assert_agree(self) -> str:
        return self.masks.digest()


# --- optimizers -------------------------------------------------------------------------------------------------------
@fault
class LeavesMomentum(Sparsifier):
    def _mask_state(self) -> None:
        pass


@fault
class WipesMomentum(Sparsifier):
    def _mask_state(self) -> None:
        for t in self.targets.values():
            for tensor in state_tensors(self.optimizer, t.param):
                tensor.zero_()


@fault
class GrowsGarbage(Sparsifier):
    def _move_masks(self) -> None:
        before = self.masks
        super()._move_masks()
        with torch.no_grad():
            for n, t in self.targets.items():
                t.param[self.masks[n] & ~before[n]] = 1e-3


@fault
class WeightDecayRevives(Sparsifier):
    def _write_values(self) -> None:
        if self.step != 13:
            super()._write_values()


class NaiveHooks:
    """Hooks that know nothing of closures, subclasses and skipped steps."""

    def __init__(self, sp: Sparsifier) -> None:
        optimizer = sp.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: sp._before_update(True)),
            optimizer.register_step_post_hook(lambda *_: sp._after_update()),
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@fault
class CountsEveryCall(Sparsifier):
    def _hook(self) -> None:
        self._hooks = NaiveHooks(self)  # type: ignore[assignment]


@fault
class ReadsScaledGradients(Sparsifier):
    def _before_update(self, first: bool) -> None:
        scale = vars(self.optimizer).pop("grad_scale", None)
        super()._before_update(first)
        if scale is not None:
            self.optimizer.grad_scale = scale  # type: ignore[attr-defined]


# --- endings ----------------------------------------------------------------------------------------------------------
@fault
class LeaksHook(Sparsifier):
    def detach(self) -> None:
        pass


@fault
class AddsBuffer(Sparsifier):
    def finalize_(self) -> Sparsifier:
        for n, t in self.targets.items():
            t.module.register_buffer("mask", self.masks[n])
        return super().finalize_()


@fault
class SwapsParameters(Sparsifier):
    def finalize_(self) -> Sparsifier:
        super().finalize_()
        for t in self.targets.values():
            t.module.weight = nn.Parameter(t.param.detach().clone())
        return self


@fault
class MasksInForward(Sparsifier):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.register_forward_pre_hook(lambda *_: None)


# --- bad input --------------------------------------------------------------------------------------------------------
@fault
class AcceptsAnyState(Sparsifier):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state.get("step", 0)


@fault
class TouchesFirst(Sparsifier):
    def __init__(self, method: Method, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.5)
        super().__init__(method, model, *args, **kwargs)


@contextmanager
def _terse() -> Iterator[None]:
    try:
        yield
    except SparselandError as error:
        raise type(error)("bad input") from None


@fault
class SaysNothing(Sparsifier):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _terse():
            super().__init__(*args, **kwargs)


@fault
class HalfLoads(Sparsifier):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"] + 1 if "step" in state else 0
        super().load_state_dict(state)


@fault
class LooksAway(Sparsifier):
    """Notices a NaN gradient only after the optimizer has spread it."""

    def _before_update(self, first: bool) -> None:
        grads = {n: t.param.grad for n, t in self.targets.items()}
        try:
            super()._before_update(first)
        except ScoreError:
            for n, t in self.targets.items():
                t.param.grad = torch.nan_to_num(grads[n])
            super()._before_update(first)


# --- the value --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Lossy(Method):
    """Loses its pattern on the way to a dict."""

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_dict().items() if k != "pattern"}


@dataclass(frozen=True, repr=False)
class Anonymous(Method):
    """Its repr is not Python."""

    kind = "anonymous"

    def __repr__(self) -> str:
        return f"<method {self.name}>"


@dataclass(frozen=True, repr=False)
class Fluid(Method):
    """Can be assigned to."""

    kind = "fluid"


Fluid.__setattr__ = object.__setattr__  # type: ignore[method-assign,assignment]


@dataclass(frozen=True, repr=False)
class Greedy(Method):
    """Says that it needs data, and does not."""

    @property
    def needs_data(self) -> bool:
        return True


def as_class(method: Method, cls: type[Method]) -> Method:
    """The same words in another class."""
    return cls(**{name: getattr(method, name) for name in (f.name for f in fields(Method))})


__all__ = ["FAULTS", "Anonymous", "Fluid", "Greedy", "Lossy", "Wrong", "as_class", "wrong"]
