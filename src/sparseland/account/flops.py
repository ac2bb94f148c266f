"""Counting floating-point operations of a forward pass: traced once per model, then multiplied by what is alive.

One multiply-add counts as two. A weight of a layer does 2 operations at every position where the layer is applied, so
a layer costs 2 · kept · positions: with H·W output positions this is 2·k_h·k_w·(C_in/g)·C_out·H·W·density for a
convolution, and 2·in·out·tokens·density for a linear layer. Products of two activations (attention: 4·T²·D) are dense.
Embeddings multiply nothing (their reads are counted apart); biases, norms and activations are left out, as the
literature does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.errors import InfeasibleBudget, SparselandError
from ..weights.targets import TRANSPOSED, Target, parameters

LayerCounts = Mapping[str, tuple[int, int]]  # name -> (kept, total), as in Sparsifier.counts()["layers"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PRODUCTS = "attention"  # the operator under which products of two activations are counted


@dataclass(frozen=True)
class Cost:
    """What one sample costs, from `trace`.

    Parameters:
        positions: {parameter: how often each of its weights is used}.
        sizes: {parameter: number of weights}.
        fixed: FLOPs of products of activations, which no weight mask changes.
        uncounted: parameters with two or more axes that no counted layer used.
        operators: {parameter: "linear", "conv" (transposed ones too) or "recurrent"}.
        reads: {embedding: (rows looked up, rows of the table)}.
        notes: what a reader of the number must know (shared parameters).
    """

    positions: dict[str, int]
    sizes: dict[str, int]
    fixed: int = 0
    uncounted: tuple[str, ...] = ()
    operators: dict[str, str] = field(default_factory=dict)
    reads: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def dense(self) -> int:
        """FLOPs of one forward pass of the dense model, f_D."""
        return self.sparse({})

    def sparse(self, counts: LayerCounts) -> int:
        """FLOPs of one forward pass with these (kept, total) counts, f_S; layers that are not named are dense.

        Raises:
            InfeasibleBudget: kept is negative or above the total. SparselandError: another total than the parameter's.
        """
        return self.fixed + sum(2 * self._kept(name, counts) * times for name, times in self.positions.items())

    def at_density(self, density: float | Mapping[str, float]) -> int:
        """f_S when each layer keeps this share of its weights (rounded to whole weights); others are dense.

        >>> Cost({"w": 3}, {"w": 100}).at_density(0.5)
        300

        Raises:
            InfeasibleBudget: a density outside (0, 1].
        """
        given = dict.fromkeys(self.sizes, density) if isinstance(density, int | float) else density
        counts = {}
        for name, share in given.items():
            if not 0 < share <= 1:
                raise InfeasibleBudget(f"the density of {name!r} is {share!r}; possible: above 0, up to 1")
            if name in self.sizes:
                counts[name] = (round(share * self.sizes[name]), self.sizes[name])
        return self.sparse(counts)

    def by_layer(self, counts: LayerCounts) -> dict[str, dict[str, Any]]:
        """{parameter: {"operator", "dense", "sparse"}} in FLOPs, in the order of use; activations' products last.

        >>> Cost({"w": 1}, {"w": 100}, fixed=7, operators={"w": "linear"}).by_layer({"w": (10, 100)})["w"]
        {'operator': 'linear', 'dense': 200, 'sparse': 20}
        """
        rows: dict[str, dict[str, Any]] = {
            name: {
                "operator": self.operators.get(name, "other"),
                "dense": 2 * self.sizes[name] * times,
                "sparse": 2 * self._kept(name, counts) * times,
            }
            for name, times in self.positions.items()
        }
        if self.fixed:
            rows["(products of activations)"] = {"operator": PRODUCTS, "dense": self.fixed, "sparse": self.fixed}
        return rows

    def by_operator(self, counts: LayerCounts) -> dict[str, dict[str, int]]:
        """{operator: {"dense", "sparse"}} in FLOPs; they add up to `dense` and `sparse`.

        Embeddings multiply nothing: their entry is 0, with "reads" and "reads_dense", the table entries fetched (the
        mean over the rows of the table where it has zeros).

        >>> cost = Cost({"w": 1}, {"w": 100}, fixed=7, operators={"w": "conv"})
        >>> cost.by_operator({"w": (10, 100)})
        {'conv': {'dense': 200, 'sparse': 20}, 'attention': {'dense': 7, 'sparse': 7}}
        """
        table: dict[str, dict[str, int]] = {}
        for row in self.by_layer(counts).values():
            entry = table.setdefault(row["operator"], {"dense": 0, "sparse": 0})
            entry["dense"] += row["dense"]
            entry["sparse"] += row["sparse"]
        for name, (looked_up, rows) in self.reads.items():
            entry = table.setdefault("embedding", {"dense": 0, "sparse": 0, "reads_dense": 0, "reads": 0})
            entry["reads_dense"] += looked_up * self.sizes[name] // rows
            entry["reads"] += looked_up * self._kept(name, counts) // rows
        return table

    def by_pattern(self, counts: LayerCounts, patterns: Mapping[str, str]) -> dict[str, dict[str, dict[str, int]]]:
        """{operator: {pattern: {"dense", "sparse"}}} in FLOPs; ``patterns`` names each layer's (see `pattern_of`).

        >>> cost = Cost({"a": 1, "b": 1}, {"a": 8, "b": 8}, operators={"a": "linear", "b": "linear"})
        >>> cost.by_pattern({"a": (4, 8)}, {"a": "2:4"})
        {'linear': {'2:4': {'dense': 16, 'sparse': 8}, 'dense': {'dense': 16, 'sparse': 16}}}
        """
        table: dict[str, dict[str, dict[str, int]]] = {}
        for name, row in self.by_layer(counts).items():
            kinds = table.setdefault(row["operator"], {})
            entry = kinds.setdefault(patterns.get(name, "dense"), {"dense": 0, "sparse": 0})
            entry["dense"] += row["dense"]
            entry["sparse"] += row["sparse"]
        return table

    def _kept(self, name: str, counts: LayerCounts) -> int:
        if name not in counts:
            return self.sizes[name]
        kept, total = counts[name]
        if total != self.sizes[name]:
            raise SparselandError(f"{name!r} has {self.sizes[name]:,} weights; these counts speak of {total:,}")
        if not 0 <= kept <= total:
            raise InfeasibleBudget(f"{name!r} cannot have {kept:,} non-zeros; possible: 0 to {total:,}")
        return kept


def trace(model: nn.Module, *inputs: Any, strict: bool = False, **keywords: Any) -> Cost:
    """Count one forward pass on a sample (batch of 1), in evaluation mode and without gradients.

    Layers are seen by forward hooks, products of activations by intercepting matmul, einsum and
    scaled_dot_product_attention. Nothing in the model changes. A model on torch's meta device is counted for nothing.

    Parameters:
        strict: refuse a total that is not the whole one: torch's own counter watches, and what it saw must be explained
            by layers with a hook and products of activations. Otherwise such parameters are listed in ``uncounted``.

    Raises:
        SparselandError: with ``strict``, naming the module types, parameters and functions that are not counted.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    >>> cost = trace(model, torch.zeros(1, 3, 4, 4))
    >>> cost.dense() == 2 * (3 * 8 * 9 * 16 + 8 * 16 * 10)
    True
    >>> cost.sparse({"0.weight": (27, 216)}) == 2 * (27 * 16 + 8 * 16 * 10)
    True
    """
    found = list(parameters(model))
    names = {id(target.param): target.name for target in found}
    positions: dict[str, int] = {}
    operators: dict[str, str] = {}
    reads: dict[str, tuple[int, int]] = {}

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, EMBEDDINGS) and id(module.weight) in names:
            name = names[id(module.weight)]
            reads[name] = (reads.get(name, (0, 0))[0] + args[0].numel(), module.num_embeddings)
        for operator, param, times in _uses(module, args, output):
            if id(param) in names:  # a parametrized weight is no parameter of the model
                positions[names[id(param)]] = positions.get(names[id(param)], 0) + times
                operators[names[id(param)]] = operator

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(count).remove)
        stack.enter_context(_evaluation(model))
        stack.enter_context(torch.no_grad())
        torchs = stack.enter_context(_torch_counter()) if strict else None
        products = stack.enter_context(_Products())
        model(*inputs, **keywords)
    sizes = {t.name: t.param.numel() for t in found if t.name in positions or t.name in reads}
    missed = [t for t in found if t.param.ndim >= 2 and t.name not in sizes]
    uncounted = tuple(t.name for t in missed)
    cost = Cost(positions, sizes, products.flops, uncounted, operators, reads, shared(found))
    if torchs is not None:
        _refuse(cost, missed, torchs(), products)
    return cost


def shared(found: list[Target]) -> tuple[str, ...]:
    """One line for each parameter that has several names.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> b.weight = a.weight
    >>> shared(list(parameters(nn.ModuleList([a, b]))))
    ("'0.weight' is also '1.weight': counted once",)
    """
    return tuple(
        f"{target.name!r} is also {', '.join(repr(n) for n, _ in target.holders if n != target.name)}: counted once"
        for target in found
        if len(target.holders) > 1
    )


@contextmanager
def _torch_counter() -> Iterator[Callable[[], int]]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        yield counter.get_total_flops


def _refuse(cost: Cost, missed: list[Target], torchs: int, products: _Products) -> None:
    """Raise if something is not in the total.

    torch's counter is a witness: it knows no module, only kernels. It sees no recurrent layer and, on CPU, no fused
    attention, so that these may be ours alone. Parameters that no layer holds do no harm if nothing multiplies them.
    """
    recurrent = sum(row["dense"] for row in cost.by_layer({}).values() if row["operator"] == "recurrent")
    ours = cost.dense() - recurrent
    if ours - products.fused <= torchs <= ours and not products.unknown:
        return
    kinds = ", ".join(sorted({type(t.module).__name__ for t in missed})) or "none"
    raise SparselandError(
        f"no total: torch's counter saw {torchs:,} FLOPs, layers and products explain {ours:,}. Module types with "
        f"weights that no hook counts: {kinds} (parameters: {', '.join(cost.uncounted) or 'none'}); functions that are "
        f"not counted: {', '.join(sorted(products.unknown)) or 'none'}. strict=False counts the rest and lists them"
    )


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _uses(module: Any, args: tuple[Any, ...], output: Any) -> Iterator[tuple[str, Tensor, int]]:
    """(operator, weight, number of positions at which each of its entries is used) of one call of a layer."""
    if isinstance(module, CONVOLUTIONS):
        yield "conv", module.weight, output.numel() // module.out_channels
    elif isinstance(module, TRANSPOSED):
        yield "conv", module.weight, args[0].numel() // module.in_channels
    elif isinstance(module, nn.Linear):
        yield "linear", module.weight, output.numel() // module.out_features
    elif type(module).__name__ == "Conv1D":  # transformers: a linear layer stored as (in, out)
        yield "linear", module.weight, output.numel() // module.weight.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        query, key = args[0], args[1] if len(args) > 1 else args[0]
        tokens = {"q": query.numel() // query.shape[-1], "k": key.numel() // key.shape[-1]}
        if module.in_proj_weight is not None:
            yield "linear", module.in_proj_weight, tokens["q"]
        else:
            yield from (("linear", w, tokens["k"]) for w in (module.k_proj_weight, module.v_proj_weight))
            yield "linear", module.q_proj_weight, tokens["q"]
        yield "linear", module.out_proj.weight, tokens["q"]
    elif isinstance(module, nn.RNNBase):
        steps = args[0].numel() // args[0].shape[-1]
        own = module.named_parameters(recurse=False)
        yield from (("recurrent", p, steps) for name, p in own if "weight" in name)


class _Products(TorchFunctionMode):
    """FLOPs of products in which neither side is a parameter.

    ``fused``: those that torch's counter may not see; ``unknown``: functions that multiply and that nobody counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.fused = 0
        self.unknown: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.multi_head_attention_forward:
            self._fused(_attention(args[0], args[1], args[0].shape[-1]))
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            query, key, value = (
                args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key", "value"))
            )
            # Q Kᵀ and its product with V, one head or many
            self._fused(2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
        elif func is torch.einsum:
            self.flops += _einsum(*args)
        elif func in _MATMULS:
            left, right = args[-2:] if func in _ADDED else args[:2]
            if not isinstance(left, nn.Parameter) and not isinstance(right, nn.Parameter):
                self.flops += 2 * output.numel() * left.shape[-1]
        elif func in _UNKNOWN:
            self.unknown.add(func.__name__)
        return output

    def _fused(self, flops: int) -> None:
        self.flops += flops
        self.fused += flops


_ADDED = {torch.baddbmm, torch.addmm, Tensor.baddbmm, Tensor.addmm}  # (sum, left, right)
_MATMULS = {torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm, Tensor.__matmul__, *_ADDED}
_UNKNOWN = {  # torch's counter does not know these either
    *(torch.addbmm, Tensor.addbmm, torch.mv, Tensor.mv, torch.addmv, Tensor.addmv, torch.dot, Tensor.dot),
    *(torch.cdist, nn.functional.bilinear, torch.bilinear),
}


def _einsum(equation: Any, *operands: Any) -> int:
    """2 · Π of all index sizes for a contraction of two activations; 0 where that is not what is written."""
    if not isinstance(equation, str) or len(operands) != 2 or "..." in equation:
        return 0
    if any(isinstance(operand, nn.Parameter) for operand in operands):
        return 0
    terms, _, result = equation.replace(" ", "").partition("->")
    sizes = {
        letter: size
        for term, operand in zip(terms.split(","), operands, strict=True)
        for letter, size in zip(term, operand.shape, strict=True)
    }
    if not set(sizes) - set(result) and result:
        return 0  # nothing is summed: an elementwise or outer product
    flops = 2
    for size in sizes.values():
        flops *= size
    return flops


def _attention(query: Tensor, key: Tensor, width: int) -> int:
    """4·T_q·T_k·D for each sequence of the batch; sequences come first in (T, B, D)."""
    batch = query.shape[1] if query.ndim == 3 else 1
    return 4 * query.shape[0] * key.shape[0] * width * batch
