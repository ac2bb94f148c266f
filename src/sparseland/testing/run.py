"""One short training under a method, and the comparison of two of them bit by bit."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.mask import MaskSet
from ..weights.method import Method
from ..weights.sparsifier import Sparsifier
from .report import Skipped
from .tasks import Task

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all checks that are not about optimizers: Nesterov momentum and weight decay."""
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


@dataclass
class Run:
    """A model in training. ``net`` is what the loop calls (the model, or its compiled or parallel form)."""

    task: Task
    model: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    sp: Sparsifier
    done: int = 0
    step: Callable[[Run, Any], None] = field(default=lambda run, batch: plain_step(run, batch))

    def train(self, steps: int) -> Run:
        """Go on for ``steps`` batches."""
        for _ in range(steps):
            self.step(self, self.task.batches[self.done % len(self.task.batches)])
            self.done += 1
        return self

    def finish(self) -> Run:
        """Go on to the end of the task."""
        return self.train(self.task.steps - self.done)

    def state(self) -> dict[str, Any]:
        """An independent copy of everything that must be equal for two runs to be equal."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(parts | {"sparsifier": self.sp.state_dict()})


def plain_step(run: Run, batch: Any) -> None:
    """The loop that everybody writes."""
    run.optimizer.zero_grad()
    run.task.loss(run.net, batch).backward()
    run.optimizer.step()


@dataclass(frozen=True)
class Case:
    """What a check is given: a method and a task."""

    method: Method
    task: Task

    @property
    def resolved(self) -> Method:
        """The method with fractions of the run turned into steps."""
        return self.method.resolve(self.task.steps)

    def begin(
        self,
        *,
        method: Method | None = None,
        optimizer: MakeOptimizer = sgd,
        model_seed: int = 1,
        seed: int = 3,
        prepare: Callable[[nn.Module], None] | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        state: dict[str, Any] | None = None,
        **attach: Any,
    ) -> Run:
        """Build model and optimizer, load ``state`` into them if there is one, and attach the method.

        Args:
            prepare: changes the fresh model in place. wrap: what the model is put into before the method is attached.
            state: a `Run.state` to continue from.
        """
        task, model = self.task, self.task.build(model_seed)
        if prepare is not None:
            prepare(model)
        made = optimizer(model.parameters())
        if state is not None:
            model.load_state_dict(state["model"])
            made.load_state_dict(state["optimizer"])
            attach["state"] = state["sparsifier"]
        net = model if wrap is None else wrap(model)
        options: dict[str, Any] = {"data": task.scoring(), "loss": task.loss, "steps": task.steps, "seed": seed}
        sp = (method or self.method).attach(net, made, **options | attach)
        return Run(task, model, net, made, sp, done=sp.step)

    def updates(self) -> list[int]:
        """The steps after which masks may move (step 0 not counted)."""
        return [t for t in range(1, self.task.steps + 1) if is_due(self.resolved, t)]

    def need_masks(self) -> None:
        """Skip what only concerns methods that choose masks."""
        if self.method.schedule is None:
            raise Skipped(f"{self.method.name!r} has no schedule: it keeps every weight")

    def need_zeros(self) -> None:
        """Skip what only concerns methods that make zeros."""
        self.need_masks()
        if not self.method.flow.zeros:
            raise Skipped(f"flow {self.method.flow} keeps dead values, there are no zeros")

    def zero_while_training(self) -> bool:
        """Whether dead coordinates are zero after every step (else only after `finalize_`)."""
        flow = self.resolved.flow
        if not flow.ranks_dead:
            return flow.zeros
        one, dead = torch.ones(1), torch.zeros(1, dtype=torch.bool)
        return flow.latent and all(float(flow.forward(one, dead, t)) == 0 for t in (0, self.task.steps))


def is_due(method: Method, step: int) -> bool:
    """Whether a resolved method's schedule or exchange acts at ``step``."""
    return (method.schedule is not None and method.schedule(step) is not None) or method.share(step) is not None


def nonzero_dead(run: Run, masks: MaskSet | None = None) -> str:
    """Which dead coordinates of the model are not zero, in words; empty if all are."""
    masks = masks or run.sp.masks
    for name, target in run.sp.targets.items():
        values = target.param.detach()[~masks[name]]
        if int(values.count_nonzero()):
            largest = float(values.abs().max())
            odd = int(values.count_nonzero())
            return f"{odd} of {values.numel()} dead weights of {name!r} are not 0 (up to {largest:.3g})"
    return ""


def through_file(state: Any) -> Any:
    """What `torch.save` and ``torch.load(weights_only=True)`` make of a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def difference(a: Any, b: Any, path: str = "") -> str:
    """Where two nested states first differ, bit for bit, in words; empty if they are equal.

    >>> difference({"w": torch.zeros(2)}, {"w": torch.tensor([0.0, -0.0])})
    'w: 1 of 2 entries differ (largest difference 0)'
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        said = _tensors_differ(a.detach(), b.detach())
        return f"{path}: {said}" if said else ""
    if isinstance(a, dict) and isinstance(b, dict):
        if list(map(str, a)) != list(map(str, b)):
            only = [k for k in [*a, *b] if (k in a) != (k in b)]
            return f"{path}: keys differ: {only[:4] or [list(a)[:4], list(b)[:4]]}"
        pairs = [(f"{path}.{k}" if path else str(k), a[k], b[k]) for k in a]
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {len(a)} entries against {len(b)}"
        pairs = [(f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
        return "" if both_nan or (type(a) is type(b) and a == b) else f"{path}: {a!r} against {b!r}"
    return next((said for where, x, y in pairs if (said := difference(x, y, where))), "")


def _tensors_differ(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{tuple(a.shape)} {a.dtype} against {tuple(b.shape)} {b.dtype}"
    x, y = (t.contiguous().reshape(-1, 1).view(torch.uint8) for t in (a, b))  # bytes, so that -0.0 is not 0.0
    if torch.equal(x, y):
        return ""
    odd = int((x != y).any(1).sum())
    return (
        f"{odd} of {a.numel()} entries differ (largest difference {float((a.double() - b.double()).abs().max()):.3g})"
    )
