"""What criteria need to know about weights: measured on batches (once), or accumulated while training.

`measure` fills grad (SNIP, gradient, Taylor), hessian_grad (GraSP) and synflow; it leaves no trace in the model:
gradients, buffers, training mode and random states are put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.errors import ScoreError, SparselandError
from ..core.selection import check_scores
from . import ranks
from .targets import Target, plain_module

Loss = Callable[[nn.Module, Any], Tensor]
MEASURED = frozenset({"grad", "taylor", "hessian_grad", "synflow"})
ACCUMULATED = frozenset({"movement", "taylor", "momentum"})
DECAY = 0.9  # of the moving average behind "momentum"


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of an (input, label) batch, or ``.loss`` of a model called with a dict batch."""
    if isinstance(batch, Mapping):
        loss: Tensor | None = getattr(model(**batch), "loss", None)
        if loss is None:
            raise SparselandError(
                f"{type(model).__name__} returned no .loss for a batch with {list(batch)}; pass loss=…"
            )
        return loss
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])
    raise SparselandError(
        f"cannot tell input and label in a batch of type {type(batch).__name__}: give (input, label) tuples, "
        f"dicts with labels, or loss=lambda model, batch: …"
    )


@torch.enable_grad()  # masks may move inside of a no_grad block
def measure(
    model: nn.Module,
    targets: Mapping[str, Target],
    needs: frozenset[str],
    data: Iterable[Any] | None,
    loss: Loss | None,
) -> dict[str, dict[str, Tensor]]:
    """{parameter name: {statistic: tensor in the parameter's layout}} for every statistic in ``needs``.

    Args:
        data: batches; gradients are averaged over all of them (SynFlow only reads their shape).
        loss: ``loss(model, batch) -> scalar``.

    Raises:
        ScoreError: something needs data and none was given, or there was no batch.
    """
    out: dict[str, dict[str, Tensor]] = {n: {} for n in targets}
    needs = needs & MEASURED
    if not needs:
        return out
    with torch.random.fork_rng():  # a shuffling loader draws from the global generator
        batches = list(data) if data is not None else []
    if ranks.anywhere(not batches, next(iter(targets.values())).param):
        raise ScoreError(f"{', '.join(sorted(needs))} must be measured on data: attach(…, data=batches), got {data!r}")
    model = plain_module(model)
    loss = loss or default_loss
    if needs & {"grad", "taylor"}:
        for name, grad in gradients(model, targets, batches, loss).items():
            out[name]["grad"] = grad
            out[name]["taylor"] = (ranks.full(targets[name].param.detach()) * grad).square()
    if "hessian_grad" in needs:
        for name, product in hessian_gradients(model, targets, batches, loss).items():
            out[name]["hessian_grad"] = product
    if "synflow" in needs:
        for name, flow in synaptic_flow(model, targets, batches[0]).items():
            out[name]["synflow"] = flow
    return out


def check_finite(targets: Mapping[str, Target], step: int) -> None:
    """Raise ScoreError, on all ranks, if a gradient is not finite where the masks are about to move (nothing has)."""
    bad = [n for n, t in targets.items() if t.param.grad is not None and not _finite(ranks.local(t.param.grad))]
    if ranks.anywhere(bool(bad), next(iter(targets.values())).param):
        where = f"of {bad[0]!r}" if bad else "on another rank"
        raise ScoreError(
            f"the gradient {where} is not finite (NaN or Inf) at step {step}, where the masks would move; "
            f"nothing was changed. Did the loss overflow? Skip the step, clip, or unscale first"
        )


def _finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put gradients, buffers, training mode and random states back afterwards."""
    grads = {n: p.grad for n, p in model.named_parameters()}
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    training = {m: m.training for m in model.modules()}
    with torch.random.fork_rng():
        try:
            for p in model.parameters():
                p.grad = None
            yield
        finally:
            for n, p in model.named_parameters():
                p.grad = grads[n]
                p.requires_grad_(trained[n])
            with torch.no_grad():
                for n, b in model.named_buffers():
                    b.copy_(buffers[n])
            for m, mode in training.items():
                m.training = mode


def gradients(model: nn.Module, targets: Mapping[str, Target], batches: list[Any], loss: Loss) -> dict[str, Tensor]:
    """Gradient of the mean loss over batches and ranks, whole on every rank."""
    with _untouched(model):
        for t in targets.values():
            t.param.requires_grad_(True)
        for batch in batches:
            (loss(model, batch) / len(batches)).backward()
        return {n: _reduced(t.param.grad, t.param) for n, t in targets.items()}


@torch.enable_grad()
def stream_gradients(
    model: nn.Module, targets: Mapping[str, Target], batch: Any, loss: Loss | None
) -> dict[str, Tensor]:
    """Gradient of the loss on one batch of a second stream; finite, or a ScoreError."""
    found = gradients(plain_module(model), targets, [batch], loss or default_loss)
    return {n: check_scores(grad, f"the second stream's gradient of {n!r}") for n, grad in found.items()}


def _reduced(grad: Tensor | None, param: Tensor) -> Tensor:
    if grad is None:  # another rank may have one: the average is taken all the same
        grad = torch.zeros(param.shape, dtype=param.dtype, device=ranks.local(param).device)
    return ranks.full(grad) if ranks.is_sharded(param) else ranks.mean(grad.detach())


def hessian_gradients(
    model: nn.Module, targets: Mapping[str, Target], batches: list[Any], loss: Loss
) -> dict[str, Tensor]:
    """H g with g and H of the mean loss: the gradient of g(w)^T stop(g), batch by batch."""
    if any(ranks.is_sharded(t.param) for t in targets.values()):
        raise ScoreError(
            "GraSP needs second derivatives, which sharded (FSDP2) parameters do not give: score before sharding"
        )
    mean = gradients(model, targets, batches, loss)
    names, params = list(targets), [t.param for t in targets.values()]
    with _untouched(model), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for p in params:
            p.requires_grad_(True)
        total = [torch.zeros_like(p) for p in params]
        for batch in batches:
            first = torch.autograd.grad(loss(model, batch) / len(batches), params, create_graph=True, allow_unused=True)
            products = [(g * mean[n]).sum() for n, g in zip(names, first, strict=True) if g is not None]
            inner = torch.stack(products).sum()
            second = torch.autograd.grad(inner, params, allow_unused=True)
            for sum_, part in zip(total, second, strict=True):
                if part is not None:
                    sum_ += part
        return {n: ranks.mean(t.detach()) for n, t in zip(names, total, strict=True)}


def synaptic_flow(model: nn.Module, targets: Mapping[str, Target], batch: Any) -> dict[str, Tensor]:
    """dR/d|w| of R = sum of outputs for an input of ones, all parameters replaced by their absolute value."""
    example = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(example, Tensor) or not example.is_floating_point():
        raise ScoreError(
            f"SynFlow feeds ones of the input's shape; the first batch holds {type(example).__name__}, not floats"
        )
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    with _untouched(model):
        try:
            model.eval()
            with torch.no_grad():
                for p in model.parameters():
                    p.abs_()
            for t in targets.values():
                t.param.requires_grad_(True)
            output = model(torch.ones_like(example[:1]))
            output = getattr(output, "logits", output)
            output.sum().backward()
            return {n: _reduced(t.param.grad, t.param) for n, t in targets.items()}
        finally:
            with torch.no_grad():
                for n, p in model.named_parameters():
                    p.copy_(values[n])


def accumulate(store: dict[str, Tensor], needs: frozenset[str], weight: Tensor, grad: Tensor) -> None:
    """Add one step to the running statistics of one parameter (in its own, possibly sharded, layout)."""
    for name in sorted(needs & ACCUMULATED):  # one order on all ranks: sharded ones are gathered one by one
        if name not in store:
            store[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
    with torch.no_grad():
        if "movement" in needs:
            store["movement"].sub_(weight * grad)
        if "taylor" in needs:
            store["taylor"].add_((weight * grad).square())
        if "momentum" in needs:
            store["momentum"].mul_(DECAY).add_(grad, alpha=1 - DECAY)
