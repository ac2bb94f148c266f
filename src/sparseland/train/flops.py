"""Counting floating-point operations: traced once per model, then multiplied by what is alive.

One multiply-add counts as two. A weight of a layer does 2 operations at every position where the layer is applied, so
a layer costs 2 · kept · positions: with H·W output positions this is 2·k_h·k_w·(C_in/g)·C_out·H·W·density for a
convolution, and 2·in·out·tokens·density for a linear layer. Products of two activations (attention: 4·T²·D) are dense.
Embeddings cost nothing; biases, norms and activations are left out, as the literature does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparseland.core.errors import RecipeError, nearest
from sparseland.weights import Method
from sparseland.weights.targets import TRANSPOSED, parameters

Counts = Mapping[str, tuple[int, int]]  # name -> (kept, total), as in Sparsifier.counts()["layers"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Cost:
    """What one sample costs, from `trace`.

    Parameters:
        positions: {parameter: how often each of its weights is used}.
        sizes: {parameter: number of weights}.
        fixed: FLOPs of products of activations, which no weight mask changes.
        uncounted: parameters with two or more axes that no counted layer used.
    """

    positions: dict[str, int]
    sizes: dict[str, int]
    fixed: int = 0
    uncounted: tuple[str, ...] = ()

    def dense(self) -> int:
        """FLOPs of one forward pass of the dense model, f_D."""
        return self.sparse({})

    def sparse(self, counts: Counts) -> int:
        """FLOPs of one forward pass with these (kept, total) counts, f_S; layers that are not named are dense."""
        kept = {name: counts[name][0] if name in counts else size for name, size in self.sizes.items()}
        return self.fixed + sum(2 * kept[name] * times for name, times in self.positions.items())


def trace(model: nn.Module, *inputs: Any, **keywords: Any) -> Cost:
    """Count one forward pass on a sample (batch of 1), in evaluation mode and without gradients.

    Layers are seen by forward hooks, products of activations by intercepting matmul and scaled_dot_product_attention.
    Nothing in the model changes.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    >>> cost = trace(model, torch.zeros(1, 3, 4, 4))
    >>> cost.dense() == 2 * (3 * 8 * 9 * 16 + 8 * 16 * 10)
    True
    >>> cost.sparse({"0.weight": (27, 216)}) == 2 * (27 * 16 + 8 * 16 * 10)
    True
    """
    names = {id(target.param): target.name for target in parameters(model)}
    sizes = {target.name: target.param.numel() for target in parameters(model)}
    positions: dict[str, int] = {}
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for param, times in _uses(module, args, output):
            if id(param) in names:  # a parametrized weight is no parameter of the model
                positions[names[id(param)]] = positions.get(names[id(param)], 0) + times

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(count).remove)
        stack.enter_context(_evaluation(model))
        stack.enter_context(torch.no_grad())
        products = stack.enter_context(_Products())
        model(*inputs, **keywords)
    matrices = [t for t in parameters(model) if t.param.ndim >= 2 and id(t.param) not in embedded]
    uncounted = tuple(t.name for t in matrices if t.name not in positions)
    return Cost(positions, {name: sizes[name] for name in positions}, products.flops, uncounted)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _uses(module: Any, args: tuple[Any, ...], output: Any) -> Iterator[tuple[Tensor, int]]:
    """(weight, number of positions at which each of its entries is used) of one call of a layer."""
    if isinstance(module, CONVOLUTIONS):
        yield module.weight, output.numel() // module.out_channels
    elif isinstance(module, TRANSPOSED):
        yield module.weight, args[0].numel() // module.in_channels
    elif isinstance(module, nn.Linear):
        yield module.weight, output.numel() // module.out_features
    elif type(module).__name__ == "Conv1D":  # transformers: a linear layer stored as (in, out)
        yield module.weight, output.numel() // module.weight.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        query, key = args[0], args[1] if len(args) > 1 else args[0]
        tokens = {"q": query.numel() // query.shape[-1], "k": key.numel() // key.shape[-1]}
        if module.in_proj_weight is not None:
            yield module.in_proj_weight, tokens["q"]
        else:
            yield from ((w, tokens["k"]) for w in (module.k_proj_weight, module.v_proj_weight))
            yield module.q_proj_weight, tokens["q"]
        yield module.out_proj.weight, tokens["q"]
    elif isinstance(module, nn.RNNBase):
        steps = args[0].numel() // args[0].shape[-1]
        yield from ((p, steps) for name, p in module.named_parameters(recurse=False) if "weight" in name)


class _Products(TorchFunctionMode):
    """FLOPs of matrix products in which neither side is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.multi_head_attention_forward:
            self.flops += _attention(args[0], args[1], args[0].shape[-1])
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key")))
            self.flops += 4 * query.numel() * key.shape[-2]  # Q Kᵀ and its product with V, one head or many
        elif func in _MATMULS and not any(isinstance(a, nn.Parameter) for a in args[:2]):
            self.flops += 2 * output.numel() * args[0].shape[-1]
        return output


_MATMULS = {torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm, Tensor.__matmul__}


def _attention(query: Tensor, key: Tensor, width: int) -> int:
    """4·T_q·T_k·D for each sequence of the batch; sequences come first in (T, B, D)."""
    batch = query.shape[1] if query.ndim == 3 else 1
    return 4 * query.shape[0] * key.shape[0] * width * batch


def step_flops(method: Method | None, dense: int, sparse: int, *, moved: bool = False) -> int:
    """FLOPs per sample of one optimizer step: forward f, gradient of the inputs f, gradient of the weights f.

    By the word *flow* (what dead weights receive) and the word *growth* (what must be known about them), with f_D of
    the dense model and f_S at the current masks:

    - hard zeros (static masks, SET, magnitude pruning, GMP): 3 f_S; without a mask f_S = f_D, so dense is 3 f_D;
    - gradient growth (RigL, GraNet): 2 f_S + f_D in the steps in which masks move, 3 f_S in the others;
    - momentum growth (SNFS): 2 f_S + f_D in every step;
    - flows with dense values behind the mask (straight-through, SR-STE, fading, bidirectional): 2 f_S + f_D;
    - frozen (the mask acts on the update only): 2 f_D + f_S;
    - flows whose dead weights are still non-zero (shrinking, penalised): 3 f_D.

    A measure of what sparse kernels would do (arXiv 1911.11134, appendix); masked layers on today's hardware cost f_D.

    >>> from sparseland.weights.methods import RigL
    >>> step_flops(RigL(0.8), 100, 42), step_flops(RigL(0.8), 100, 42, moved=True), step_flops(None, 100, 100)
    (126, 184, 300)
    """
    if method is None:
        return 3 * dense
    flow, growth = method.flow, method.growth
    if not flow.zeros:
        return 2 * dense + sparse
    if flow.latent or "momentum" in growth.needs:
        return 2 * sparse + dense
    if flow.ranks_dead:
        return 3 * dense
    return 2 * sparse + dense if moved and "grad" in growth.needs else 3 * sparse


# FLOPs per sample of measuring a statistic once, in units of f_D: a gradient is a forward and a backward pass; the
# product of Hessian and gradient differentiates such a pass again.
MEASURING = {"grad": 3, "taylor": 3, "synflow": 3, "hessian_grad": 3 + 9}

ROUTES = ("dense", "static", "set", "snfs", "rigl")


def route_flops(route: str, dense: float, sparse: float = 0.0, *, every: int = 100) -> float:
    """Mean FLOPs per sample and step in closed form, to compare a run's own count with.

    Equation: 3 f_D (dense); 3 f_S (static, set); 2 f_S + f_D (snfs); (3 f_S ΔT + 2 f_S + f_D)/(ΔT + 1) (rigl).

    Parameters:
        dense, sparse: f_D and f_S; every: ΔT, steps between updates.

    >>> round(route_flops("rigl", 1.0, 0.42, every=100) / route_flops("dense", 1.0), 3)  # ResNet-50, ERK, 80 %
    0.422
    """
    match route:
        case "dense":
            return 3 * dense
        case "static" | "set":
            return 3 * sparse
        case "snfs":
            return 2 * sparse + dense
        case "rigl":
            return (3 * sparse * every + 2 * sparse + dense) / (every + 1)
    raise RecipeError(f"unknown route {route!r}: {nearest(route, ROUTES)}")


@dataclass
class Meter:
    """Adds up what a run costs, from the masks it really had.

    Parameters:
        cost: of one sample; training, training_dense: FLOPs so far, of this run and of a dense run of equal steps.

    >>> meter = Meter(Cost({"w": 1}, {"w": 100}))
    >>> meter.step(None, {"w": (10, 100)}, samples=2)
    >>> meter.training, meter.training_dense
    (1200, 1200)
    """

    cost: Cost
    training: int = 0
    training_dense: int = 0
    _known: tuple[Any, int] = field(default=(None, 0), repr=False)

    def step(
        self, method: Method | None, counts: Counts, *, samples: int, moved: bool = False, key: Any = None
    ) -> None:
        """Count one optimizer step on ``samples``; ``counts`` are those before it, ``key`` names them (for speed)."""
        dense = self.cost.dense()
        if key is None or self._known[0] != key:
            self._known = (key, self.cost.sparse(counts))
        self.training += samples * step_flops(method, dense, self._known[1], moved=moved)
        self.training_dense += samples * 3 * dense

    def measured(self, method: Method, samples: int) -> None:
        """Count the statistics from which the first mask was chosen (SNIP, GraSP; SynFlow needs one sample a round)."""
        rounds = getattr(method.schedule, "rounds", 1)
        for name in method.requires(at_start=True):
            images = 1 if name == "synflow" else samples
            self.training += rounds * images * MEASURING.get(name, 0) * self.cost.dense()
