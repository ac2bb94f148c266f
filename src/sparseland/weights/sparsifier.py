"""The sparsifier: hooks on an optimizer's step that keep a method's masks on a model's weights.

Nothing is hooked into the forward pass (except for flows with a ``backward`` value), so torch.compile, AMP, gradient
accumulation, DDP and FSDP2 see an ordinary model. One step:

    before   gradients are read; flows put the dense values back and change the gradient
    step     the user's optimizer
    after    update(w), zeros in weights and optimizer state; at scheduled steps the masks move
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InfeasibleBudget, MaskMismatch
from ..core.flow import Flow, Hard
from ..core.mask import MaskSet
from ..core.schedule import OneShot
from ..core.selection import kept
from . import late, learned, moves, ranks, statistics
from .method import Method
from .optimizer_state import check_owns, grad_scale, state_tensors, unwrap
from .state import pack_state, read_state
from .step import StepHooks
from .targets import Rules, eligible, parameters
from .two_way import TwoWay


class Sparsifier:
    """A method at work on one model and one optimizer. Made by `Method.attach`, which documents the arguments.

    Attributes: ``masks`` (MaskSet, whole tensors in the parameters' own layout), ``step`` (optimizer steps seen),
    ``history`` (one dict per mask update), ``method`` (fractions resolved).
    """

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        optimizer: Any,
        targets: Rules = None,
        ignore: Rules = None,
        *,
        data: Iterable[Any] | None = None,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        steps: int | None = None,
        seed: int = 0,
        masks: MaskSet | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.optimizer = unwrap(optimizer)
        self.model, self.targets = model, eligible(model, targets, ignore)
        self.method = method.resolve(steps)
        check_owns(self.optimizer, self.targets.values())
        self._check_budget()
        if method.flow.two_way:
            for n, t in self.targets.items():
                TwoWay.check(t.module, n)
        self.step, self.history = 0, list[dict[str, Any]]()
        self.generator = torch.Generator().manual_seed(ranks.shared_seed(seed))
        self.masks = MaskSet({n: torch.ones(t.param.shape, dtype=torch.bool) for n, t in self.targets.items()})
        self._to_device()
        self._seen = self.masks.clone()  # union of all masks so far
        self._latent: dict[str, Tensor] = {}
        self._stats: dict[str, dict[str, Tensor]] = {n: {} for n in self.targets}
        self._grads: dict[str, Tensor] = {}
        self._before_values: dict[str, Tensor] = {}
        self._data, self._loss = data, loss
        if isinstance(data, Iterator):  # rounds and later updates measure again
            with torch.random.fork_rng():
                self._data = list(data)
        learned.check(self.method, self._data, steps)
        self._two_way: dict[str, TwoWay] = {}
        self._hooks: StepHooks | None = None
        if state is not None:
            self.load_state_dict(state)
        else:
            self._start(masks)
        self._hook()

    # --- life ---------------------------------------------------------------------------------------------------

    def _start(self, masks: MaskSet | None) -> None:
        """The mask of step 0, applied; nothing is touched if choosing it fails."""
        if masks is not None:
            self.masks.check_same(masks)
            chosen: MaskSet | None = masks.clone()
        else:
            chosen = self._first_masks()
        if chosen is not None:
            self.masks = chosen
            self._to_device()
        self._seen = self.masks.clone()
        if self.method.flow.latent:
            self._latent = {n: t.param.detach().clone() for n, t in self.targets.items()}
        self._write_values()
        self._mask_state()
        self._record(churn=None)

    def _first_masks(self) -> MaskSet | None:
        schedule = self.method.schedule
        value = None if schedule is None else schedule(0)
        if not value:
            return None
        needs = self.method.requires(at_start=True)
        rounds = schedule.parts() if isinstance(schedule, OneShot) else [value]
        backup = {n: t.param.detach().clone() for n, t in self.targets.items()} if len(rounds) > 1 else {}
        masks = self.masks
        try:
            for sparsity in rounds:
                measured = statistics.measure(self.model, self.targets, needs, self._data, self._loss)
                masks = moves.pruned(self, masks, sparsity, measured, first=True)
                if backup:
                    self._multiply(masks)
        finally:
            with torch.no_grad():
                for n, value_ in backup.items():
                    self.targets[n].param.copy_(value_)
        return masks

    def _hook(self) -> None:
        if self.method.flow.two_way:
            for n, t in self.targets.items():
                if n not in self._two_way:
                    self._two_way[n] = TwoWay(t.module, n, self._backward_value(n))
                self._two_way[n].hook(t.module)
        calls = self._before_update, self._write_again, self._after_update, lambda: learned.withhold_gradients(self)
        self._hooks = StepHooks(self.optimizer, *calls)

    def detach(self) -> None:
        """Stop masking and leave everything as it is."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        for hooks in self._two_way.values():
            hooks.unhook()

    def finalize_(self) -> Sparsifier:
        """Zeros in place (unless the flow is frozen), hooks gone: plain modules, no extra keys."""
        ranks.reshard(self.model)
        with torch.no_grad():
            for n, t in self.targets.items():
                if n in self._latent:
                    ranks.local(t.param).copy_(ranks.local(self._latent[n]))
            if self.method.flow.zeros:
                self._multiply(self.masks)
        self._latent = {}
        self.detach()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy and pickle of (model, optimizer, sparsifier) together: everything but hooks, data and loss."""
        state = self.__dict__.copy()
        state.update(
            _data=None, _loss=None, _grads={}, _before_values={}, _attached=self._hooks is not None, _hooks=None
        )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        attached = state.pop("_attached")
        self.__dict__.update(state)
        if attached:
            self._hook()

    # --- one optimizer step -------------------------------------------------------------------------------------

    def _before_update(self, first: bool) -> None:
        """Gradients are there, weights have not moved: read statistics, put dense values back, change gradients."""
        flow, step = self.method.flow, self.step + 1
        needs = self.method.requires() & statistics.ACCUMULATED
        wants_grads = self._due(step) and "grad" in self.method.requires()
        changes_grad = type(flow).grad is not Flow.grad
        scale = grad_scale(self.optimizer) if needs or wants_grads or changes_grad else 1.0
        if self._due(step):
            statistics.check_finite(self.targets, step)
        with torch.no_grad():
            for n, t in self.targets.items():
                if n in self._latent:
                    ranks.local(t.param).copy_(ranks.local(self._latent[n]))
                if first and type(flow).update is not Flow.update and not isinstance(flow, Hard):
                    self._before_values[n] = ranks.local(t.param).detach().clone()
                if not t.param.requires_grad:
                    continue
                grad = t.param.grad
                true = grad if grad is None or scale == 1.0 else grad / scale
                if needs and first:  # on every rank, with or without a gradient
                    known = torch.zeros_like(t.param) if true is None else true
                    statistics.accumulate(self._stats[n], needs, t.param.detach(), known)
                if first:
                    learned.step_(self, n, true)
                if grad is None or true is None:
                    continue
                if wants_grads and first:
                    self._grads[n] = true.clone()  # optimizers may change p.grad in place
                if changes_grad:
                    g, w, m = ranks.local(true), ranks.local(t.param), ~self._dead[n]
                    ranks.local(grad).copy_(flow.grad(g, w, m, self.step) * scale)
        learned.withhold_gradients(self)

    def _write_again(self) -> None:
        """An optimizer evaluates its closure once more within a step: compute with masked values there too."""
        if self.method.flow.latent:
            with torch.no_grad():
                for n, t in self.targets.items():
                    self._latent[n].copy_(t.param)
            self._write_values()

    def _after_update(self) -> None:
        self.step += 1
        due, first = self._due(self.step), self.method.flow.ranks_first
        with torch.no_grad():
            if due and first:
                self._move_masks()
            self._apply_update()
            learned.on_stream(self)
            if due and not first:
                if isinstance(self.method.flow, Hard):
                    self._multiply(self.masks)  # what grows starts at zero, not at the optimizer's last move
                self._move_masks()
            if self.method.flow.latent:
                for n, t in self.targets.items():
                    self._latent[n].copy_(t.param)
            self._write_values()
        self._grads, self._before_values = {}, {}

    def _apply_update(self) -> None:
        flow = self.method.flow
        for n, t in self.targets.items():
            if n in self._before_values:
                w = ranks.local(t.param)
                w.copy_(flow.update(w, self._before_values[n], ~self._dead[n], self.step))
        self._mask_state()

    def _mask_state(self) -> None:
        """Zero the optimizer's memory of dead coordinates, for flows in which they receive nothing."""
        if self.method.flow.learns:
            return
        for n, t in self.targets.items():
            for tensor in state_tensors(self.optimizer, t.param):
                ranks.local(tensor).masked_fill_(self._dead[n], 0)

    def _write_values(self) -> None:
        """Put into each parameter the value its layer computes with."""
        flow = self.method.flow
        with torch.no_grad():
            if isinstance(flow, Hard):
                self._multiply(self.masks)
            elif flow.latent:
                for n, t in self.targets.items():
                    w = ranks.local(self._latent[n])
                    ranks.local(t.param).copy_(flow.forward(w, ~self._dead[n], self.step))
            for n, hooks in self._two_way.items():
                hooks.weight = self._backward_value(n)

    def _backward_value(self, n: str) -> Tensor:
        target = self.targets[n]
        w = target.canonical(ranks.full(self._latent.get(n, target.param.detach())))
        m = target.canonical(self.masks[n])
        return target.canonical(self.method.flow.backward(w, m, self.step))

    def _multiply(self, masks: MaskSet) -> None:
        with torch.no_grad():
            for n, t in self.targets.items():
                dead = self._dead[n] if masks is self.masks else ~ranks.shard_like(masks[n], t.param)
                ranks.local(t.param).masked_fill_(dead, 0)

    # --- moving the masks -----------------------------------------------------------------------------------------

    def _due(self, step: int) -> bool:
        schedule = self.method.schedule
        return (schedule is not None and schedule(step) is not None) or self.method.share(step) is not None

    def _move_masks(self) -> None:
        sparsity = None if self.method.schedule is None else self.method.schedule(self.step)
        share = self.method.share(self.step)
        needs = self.method.requires() & {"hessian_grad", "synflow"}
        measured = statistics.measure(self.model, self.targets, needs, self._data, self._loss)
        before, masks = self.masks, self.masks
        if sparsity is not None:
            masks = moves.pruned(self, masks, sparsity, measured)
        if share is not None:
            masks = moves.exchanged(self, masks, share, measured)
        self.masks = masks
        self._to_device()
        self._seen = self._seen.union(masks)
        self._mask_state()
        self._record(churn=masks.churn(before))

    def _to_device(self) -> None:
        """Masks follow the parameters to their device; the local parts of sharded ones are cut once."""
        params = {n: t.param for n, t in self.targets.items()}
        self.masks = MaskSet({n: ranks.on_device(m, params[n]) for n, m in self.masks.items()})
        self._dead = {n: ~ranks.shard_like(m, params[n]) for n, m in self.masks.items()}

    def _record(self, churn: float | None) -> None:
        entry = {"step": self.step, "kept": self.masks.kept(), "total": self.masks.numel(), "explored": self.explored()}
        self.history.append(entry | {"churn": churn})

    def _check_budget(self) -> None:
        """Find out before anything is touched whether the final budget can be reached."""
        schedule = self.method.schedule
        if schedule is None:
            return
        pruned = [n for n, t in self.targets.items() if schedule(0) or t.param.requires_grad]
        frozen = sum(t.param.numel() for n, t in self.targets.items() if n not in pruned)
        if not pruned:
            raise InfeasibleBudget(
                f"all {len(self.targets)} targets are frozen: {self.method.name} can prune none of them"
            )
        total = kept(frozen + sum(self.targets[n].param.numel() for n in pruned), self.method.target_sparsity) - frozen
        shapes = {n: self.targets[n].shape for n in pruned}
        try:
            self.method.allocation.check(shapes, self.method.target_sparsity, self.method.pattern, total=total)
        except InfeasibleBudget as error:
            note = (
                f" ({len(self.targets) - len(pruned)} frozen targets keep their {frozen:,} weights)" if frozen else ""
            )
            raise InfeasibleBudget(f"{error}{note}") from None

    # --- what users ask -------------------------------------------------------------------------------------------

    @property
    def sparsity(self) -> float:
        """Realised fraction of zeros over the targets."""
        return self.masks.sparsity()

    def counts(self) -> dict[str, Any]:
        """{"kept", "total", "layers": {name: (kept, total)}}, exact."""
        return {"kept": self.masks.kept(), "total": self.masks.numel(), "layers": self.masks.counts()}

    def explored(self) -> float:
        """In-time exploration rate: share of coordinates that were ever alive, |union of masks| / N."""
        return self._seen.kept() / self._seen.numel()

    def assert_agree(self) -> str:
        """The digest of the masks, after making sure that all ranks hold the same; MaskMismatch otherwise."""
        return ranks.assert_agree(self.masks)

    def project_(self, model: nn.Module) -> nn.Module:
        """Multiply another copy of the model (an EMA, an average) by the masks, in place (not for frozen flows)."""
        if not self.method.flow.zeros:
            return model
        others = {t.name: t.param for t in parameters(model)}
        missing = [n for n in self.masks if n not in others or others[n].shape != self.targets[n].param.shape]
        if missing:
            raise MaskMismatch(f"{type(model).__name__} has no parameter {missing[0]!r} of the masked shape")
        with torch.no_grad():
            for n in self.masks:
                dead = ~ranks.shard_like(ranks.on_device(self.masks[n], others[n]), others[n])
                ranks.local(others[n]).masked_fill_(dead, 0)  # not a product: no -0.0, and NaN dies too
        return model

    def add_(self, targets: Rules) -> list[str]:
        """Take in parameters that came later (new layers, unfrozen heads), pruned to the sparsity of the others.

        Returns their names. Raises OwnershipError, PatternError or TargetError before anything is touched.
        """
        return late.add(self, targets)

    # --- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit; masks take one bit a weight. Plain data and tensors."""
        return pack_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; load the model's and the optimizer's own states first.

        Raises:
            ResumeError: it was saved by another method, another model or a newer version.
        """
        shapes = {n: tuple(t.param.shape) for n, t in self.targets.items()}
        loaded = read_state(state, self.method, shapes, self.method.flow.latent)
        self.step, self.history = loaded["step"], loaded["history"]
        self.masks, self._seen = loaded["masks"], loaded["seen"]
        self._to_device()
        self._seen = MaskSet({n: m.to(self.masks[n].device) for n, m in self._seen.items()})
        self.generator.set_state(loaded["generator"])
        self._stats = {
            n: {k: _like(v, t.param) for k, v in loaded["stats"][n].items()} for n, t in self.targets.items()
        }
        self._latent = {n: _like(v, self.targets[n].param) for n, v in loaded["latent"].items()}
        self._write_values()


def _like(value: Tensor, param: Tensor) -> Tensor:
    return value.clone() if ranks.is_sharded(value) else value.to(ranks.local(param).device).clone()
