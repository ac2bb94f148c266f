"""A narrower dense net before training: densities of layers become widths, spare channels go, weights begin afresh."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InfeasibleBudget, RecipeError, ScoreError, TargetError, nearest
from ..core.mask import MaskSet
from . import statistics, structure
from .method import Method
from .oneshot import prune_
from .targets import eligible, parameters, plain_module
from .widths import Edge, Widths, check_density, fit_widths, real_widths

INITS = ("fan-in", "slice")
WIDE = 1000  # times its width: as wide as a group may be asked to become


def densities_masks(model: nn.Module, method: Method, sample: Any, *, seed: int = 0) -> MaskSet:
    """The masks that ``method`` gives a fresh model at its final sparsity; the model stays as it is.

    Scores are computed on a copy in float64 (absolute weights multiply: float32 overflows on deep nets without norms).

    Raises:
        ScoreError: the signal of all-ones through the absolute weights is 0 or not finite, even so.
    """
    twin = copy.deepcopy(plain_module(model)).double()
    ones = [(torch.ones_like(sample, dtype=torch.float64), torch.zeros(len(sample), dtype=torch.long))]
    if "synflow" in method.requires():
        flow = statistics.synaptic_flow(twin, eligible(twin), ones[0])
        total = sum(float((flow[n] * t.param.detach().abs()).sum()) for n, t in eligible(twin).items())
        if not (math.isfinite(total) and total > 0):
            raise ScoreError(
                f"SynFlow's signal is {total:g} (in float64): no layer can be ranked; possible: a net whose layers are "
                f"connected and, where it is infinite, weights scaled down layer by layer"
            )
    return prune_(twin, method, data=ones, seed=seed)


def densities(model: nn.Module, method: Method, sample: Any, *, seed: int = 0) -> dict[str, float]:
    """{weight: share that ``method`` keeps of it at its final sparsity}, by `densities_masks`.

    >>> from sparseland.weights.methods import SynFlow
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> found = densities(net, SynFlow(0.5, rounds=10), torch.zeros(1, 8))
    >>> round(sum(found[n] * p.numel() for n, p in net.named_parameters() if p.ndim > 1)), found["2.weight"] > 0.5
    (80, True)
    """
    masks = densities_masks(model, method, sample, seed=seed)
    return {name: kept / size for name, (kept, size) in masks.counts().items()}


def edges_of(graph: Any, model: nn.Module) -> list[Edge]:
    """The weights of a traced model as edges between its groups of channels."""
    ends: dict[tuple[str, str], list[str]] = {}
    for group in graph.prunable:
        for member in group.members:
            ends.setdefault((member.name, member.role), []).append(group.name)
    made = []
    for name, target in eligible(model).items():
        depthwise = getattr(target.module, "groups", 1) > 1 and target.shape[1] == 1
        for out in ends.get((name, "out"), [None]):
            for into in ends.get((name, "in"), [None]):
                made.append(Edge(name, out, into, depthwise))
    return made


def crop_widths(
    graph: Any,
    model: nn.Module,
    density: float,
    shares: Mapping[str, float],
    *,
    rule: str = "sqrt",
    budget: str = "params",
    least: int = 4,
    round_to: int = 1,
    expand: bool = False,
) -> Widths:
    """Channels of every group so that the net costs ``density`` of what it does, spread as ``shares`` say.

    Parameters:
        shares: densities of the weights (see `densities`), in (0, 1]. rule: "sqrt", "chain" or "least-squares".
        budget: "params" or "flops". least: channels that every layer keeps. expand: layers may become wider, which is
            a net to build, not to crop.

    Raises:
        InfeasibleBudget: density outside (0, 1]; the narrowest net costs more. RecipeError: unknown rule or budget.
    """
    check_density(density, expand)
    if budget not in ("params", "flops"):
        raise RecipeError(f"budget {budget!r}: {nearest(budget, ('params', 'flops'))}")
    sizes = {g.name: g.size for g in graph.prunable}
    wide = graph
    if expand:  # the graph knows no wider net than the one it saw; its formulas do
        wide = dataclasses.replace(
            graph, groups=tuple(dataclasses.replace(g, size=WIDE * g.size) for g in graph.groups)
        )
    cost = wide.params if budget == "params" else wide.flops
    wished = real_widths(edges_of(graph, model), sizes, shares, rule)
    return fit_widths(wished, sizes, density * cost(None), cost, least=least, round_to=round_to, expand=expand)


def crop_(
    model: nn.Module,
    density: float,
    sample: Any,
    shares: Mapping[str, float],
    *,
    init: str = "fan-in",
    discard: bool = False,
    optimizer: Any = None,
    **options: Any,
) -> Any:
    """Make a fresh model narrower in place, and begin anew: no mask is left. Returns the plan (`structure`).

    Weights are drawn already, independently: those of the first channels are kept and, with init="fan-in", scaled by
    √(fan-in before / after), which is the same draw for the narrow net (He's and torch's own initialisation);
    "slice" leaves them as they are.

    Parameters:
        sample: a batch of the model's input. shares, options: see `crop_widths`. discard: crop even if the model was
            trained (what it learned is lost in any case).

    Raises:
        TargetError: the model was trained, shares weights, or has operations that cannot be followed.
        InfeasibleBudget, RecipeError: as `crop_widths`.
    """
    if init not in INITS:
        raise RecipeError(f"init {init!r}: {nearest(init, INITS)}")
    if options.get("expand"):
        raise InfeasibleBudget("a model cannot grow in place: build it with the numbers of crop_widths(…, expand=True)")
    check_density(density)
    _check_fresh(model, discard)
    graph = structure.trace(model, sample)
    if graph.barriers:
        node, reason = graph.barriers[0]
        raise TargetError(f"cannot be cropped: {node} could not be followed ({reason}); {len(graph.barriers)} in all")
    widths = crop_widths(graph, model, density, shares, **options)
    before = _fan_in(model)
    sizes = {g.name: g.size for g in graph.groups}
    plan = graph.plan(keep={g: torch.arange(sizes[g]) < c for g, c in widths.items() if c < sizes[g]})
    plan.apply(model, optimizer)
    if init == "fan-in":
        _rescale_(model, before)
    return plan


def _check_fresh(model: nn.Module, discard: bool) -> None:
    found = list(parameters(plain_module(model)))
    tied = [t for t in found if t.matrix and len(t.holders) > 1]
    if tied:
        raise TargetError(
            f"{tied[0].name!r} is also {tied[0].holders[1][0]!r}: widths of shared weights cannot be chosen layer by "
            f"layer"
        )
    for name, buffer in plain_module(model).named_buffers():
        if name.endswith("num_batches_tracked") and int(buffer) and not discard:
            raise TargetError(
                f"the model was trained ({name} is {int(buffer)}), and cropping before training begins anew; possible: "
                f"a fresh model, or discard=True"
            )


def _fan_in(model: nn.Module) -> dict[str, int]:
    return {n: math.prod(t.shape[1:]) for n, t in eligible(model).items()}


@torch.no_grad()
def _rescale_(model: nn.Module, before: Mapping[str, int]) -> None:
    for name, target in eligible(model).items():
        factor = math.sqrt(before[name] / math.prod(target.shape[1:]))
        bias: Tensor | None = getattr(target.module, "bias", None)
        for tensor in (target.param, bias if isinstance(bias, nn.Parameter) else None):
            if tensor is not None:
                tensor.mul_(factor)
