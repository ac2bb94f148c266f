"""Node space: which hidden units of a fully connected net live, and the weights, masks and small net that follow.

For convolutions, attention and nets with skip connections see `structure`, which follows channels through any graph;
here the search needs neither a sample input nor more than torch.fx.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..core.criterion import Stats
from ..core.errors import MaskMismatch, TargetError
from ..core.mask import MaskSet
from ..core.selection import kept
from . import topology
from .method import Method
from .targets import plain_module

UNITWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh,
    nn.Hardswish, nn.Dropout, nn.AlphaDropout, nn.Identity, nn.Flatten, nn.BatchNorm1d,
)  # fmt: skip
FUNCTIONS = {
    "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "hardtanh",
    "hardswish", "dropout", "flatten", "contiguous", "float", "detach", "clone", "to",
}  # fmt: skip
JOINS = {"add", "iadd", "sub", "isub", "mul", "imul", "maximum"}
INPUT = "the input"


@dataclass
class Layer:
    """Hidden units of a fully connected net that live or die together.

    Parameters:
        name: of the linear layer that makes them (of the first one, if several are coupled). size: how many.
        makes: linear layers whose rows they are; reads: those whose columns they are; norms: BatchNorm1d between.
    """

    name: str
    size: int
    makes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)


def hidden(model: nn.Module, coupled: Iterable[Iterable[str]] = ()) -> tuple[Layer, ...]:
    """The hidden layers of a fully connected net in the order of computation; inputs and outputs are never among them.

    Args:
        coupled: groups of names of linear layers whose units are the same nodes (they meet in a skip connection).

    Raises:
        TargetError: units go where they cannot be followed (a convolution, LayerNorm, reshaping), meet in a sum
            without being declared as coupled, meet the input or the output, or there is no hidden layer.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(layer.name, layer.size, layer.reads) for layer in hidden(net)]
    [('0', 8, ['2'])]
    """
    from torch.fx import symbolic_trace

    model = plain_module(model)
    modules = dict(model.named_modules())
    groups = [tuple(group) for group in coupled]
    for name in (name for group in groups for name in group):
        if not isinstance(modules.get(name), nn.Linear):
            linear = ", ".join(n for n, m in modules.items() if isinstance(m, nn.Linear))
            raise TargetError(f"coupled names {name!r}, which is no linear layer; possible: {linear}")
    try:
        graph = symbolic_trace(model).graph
    except Exception as error:  # torch.fx fails in many ways, each with a class of its own
        raise TargetError(f"{type(model).__name__} cannot be followed by torch.fx: {error}") from error
    walk = _Walk(modules, groups)
    for node in graph.nodes:
        walk.step(node)
    found = [layer for layer in walk.layers.values() if layer.name not in walk.outputs]
    if not found:
        raise TargetError(f"{type(model).__name__} has no hidden layer: only inputs and outputs")
    return tuple(found)


class _Walk:
    """Follows units through a torch.fx graph; a value is the name of its layer, `INPUT`, or None (no units)."""

    def __init__(self, modules: Mapping[str, nn.Module], coupled: list[tuple[str, ...]]) -> None:
        self.modules, self.coupled = modules, coupled
        self.layers: dict[str, Layer] = {}
        self.outputs: set[str] = set()
        self.value: dict[object, str | None] = {}

    def step(self, node: object) -> None:
        """Take in the next node of the graph."""
        op, target = node.op, node.target  # type: ignore[attr-defined]
        into = [n for n in node.all_input_nodes if self.value.get(n) is not None]  # type: ignore[attr-defined]
        units = [self.value[n] for n in into]
        if op == "placeholder":
            self.value[node] = INPUT
        elif op == "output":
            self.outputs |= {name for name in units if name in self.layers}
        elif op == "call_module" and isinstance(self.modules[target], nn.Linear):
            self.value[node] = self._linear(target, units[0] if units else None)
        elif op == "call_module" and isinstance(self.modules[target], UNITWISE):
            self.value[node] = units[0] if units else None
            if isinstance(self.modules[target], nn.BatchNorm1d) and units[0] in self.layers:
                self.layers[units[0]].norms.append(target)
        else:
            self.value[node] = self._other(getattr(target, "__name__", str(target)), op, target, units)

    def _linear(self, name: str, units: str | None) -> str:
        made = next((g for g in self.coupled if name in g), (name,))
        layer = next((la for la in self.layers.values() if la.name in made), None)
        size = self.modules[name].out_features
        if layer is None:
            layer = self.layers[name] = Layer(name, int(size))  # type: ignore[arg-type]
        if layer.size != size:
            raise TargetError(f"coupled: {layer.name!r} makes {layer.size} nodes and {name!r} {size}; they must agree")
        if name not in layer.makes:
            layer.makes.append(name)
        if units in self.layers and name not in self.layers[units].reads:
            self.layers[units].reads.append(name)
        return layer.name

    def _other(self, word: str, op: str, target: object, units: list[str | None]) -> str | None:
        names = sorted({name for name in units if name is not None})
        if not names:
            return None
        if word in JOINS and len(names) == 1:
            return names[0]
        if word in JOINS:
            makes = [tuple(self.layers[n].makes) if n in self.layers else (n,) for n in names]
            if INPUT in names:
                raise TargetError(f"the nodes of {names[0]!r} are tied to the input by {word!r}; inputs are not masked")
            raise TargetError(
                f"the nodes of {' and '.join(repr(m[0]) for m in makes)} meet in {word!r} (a skip connection): they "
                f"are the same nodes; declare coupled=[{makes[0] + makes[1]!r}]"
            )
        if word in FUNCTIONS and len(names) == 1:
            return names[0]
        if names == [INPUT] and op != "call_module":
            return INPUT  # what happens to pixels before the first layer
        what = type(self.modules[str(target)]).__name__ if op == "call_module" else word
        raise TargetError(
            f"the nodes of {names[0]!r} go through {what!r}, where they cannot be followed; possible: linear layers, "
            f"BatchNorm1d, dropout and functions of single units (sparseland.weights.structure follows other nets)"
        )


# ----------------------------------------------------------------------------------------------------- which nodes live
def norms(model: nn.Module, layers: Iterable[Layer]) -> dict[str, Tensor]:
    """Per layer the norm of the weights into each node, sqrt(sum W^2), as [nodes, 1]: the tensor that criteria score.

    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> norms(net, hidden(net))["0"].tolist()
    [[5.0]]
    """
    modules = dict(plain_module(model).named_modules())
    return {
        layer.name: torch.cat([modules[n].weight.detach() for n in layer.makes], 1).norm(dim=1, keepdim=True).cpu()
        for layer in layers
    }


def choose(method: Method, values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Which nodes live, by the words of ``method`` (pattern "row"): {layer: bool [nodes]}.

    Equation: sum of max(1, round((1 - s) H_l)) nodes in all, divided by the allocation ("uniform": the same share of
    each layer; "global": of all nodes together, at least one a layer), chosen by the criterion.

    Args:
        values: see `norms`; a random criterion reads only their shape.

    >>> from sparseland.weights.methods import RandomSearch
    >>> words = RandomSearch(0.9)
    >>> alive = choose(words, {"a": torch.ones(256, 1), "b": torch.ones(4, 1)}, torch.Generator())
    >>> [int(mask.sum()) for mask in alive.values()]
    [26, 1]
    """
    sparsity = method.target_sparsity
    everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()}
    stats = {name: Stats(generator=generator) for name in values}
    total = sum(max(1, kept(len(value), sparsity)) for value in values.values())
    chosen = topology.prune_to(method, values, everything, stats, sparsity, first=True, total=total)
    return {name: mask.view(-1) for name, mask in chosen.items()}


def masks(model: nn.Module, layers: Iterable[Layer], alive: Mapping[str, Tensor]) -> MaskSet:
    """The induced masks of the linear layers: W_l lives where z_l z_(l-1)^T does; inputs and outputs all live.

    Raises:
        MaskMismatch: a layer is missing, no hidden one, has another number of nodes, or would lose all of them.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> masks(net, hidden(net), {"0": torch.tensor([True, False, True])})["2.weight"].tolist()
    [[True, False, True]]
    """
    made = {
        f"{name}.weight": torch.ones(module.weight.shape, dtype=torch.bool)
        for name, module in plain_module(model).named_modules()
        if isinstance(module, nn.Linear)
    }
    layers = tuple(layers)
    for name in alive:
        if name not in [layer.name for layer in layers]:
            known = ", ".join(repr(layer.name) for layer in layers)
            raise MaskMismatch(f"{name!r} makes no hidden nodes (inputs and outputs are not masked); possible: {known}")
    for layer in layers:
        z = _checked(layer, alive)
        for name in layer.makes:
            made[f"{name}.weight"] &= z[:, None]
        for name in layer.reads:
            made[f"{name}.weight"] &= z[None, :]
    return MaskSet(made)


def _checked(layer: Layer, alive: Mapping[str, Tensor]) -> Tensor:
    if layer.name not in alive or alive[layer.name].shape != (layer.size,):
        given = tuple(alive[layer.name].shape) if layer.name in alive else "nothing"
        raise MaskMismatch(f"{layer.name!r} has {layer.size} nodes; got {given}")
    if not bool(alive[layer.name].any()):
        raise MaskMismatch(f"no node of {layer.name!r} is left; possible: 1 … {layer.size}")
    return alive[layer.name].cpu().bool()


@torch.no_grad()
def silence_(model: nn.Module, layers: Iterable[Layer], alive: Mapping[str, Tensor]) -> None:
    """Zero, in place, the biases of dead nodes: no weight reads them, so no gradient brings them back."""
    modules = dict(plain_module(model).named_modules())
    for layer in layers:
        for name in layer.makes:
            bias = modules[name].bias
            if isinstance(bias, Tensor):
                bias.masked_fill_(~_checked(layer, alive).to(bias.device), 0)


def cut(model: nn.Module, layers: Iterable[Layer], alive: Mapping[str, Tensor]) -> nn.Module:
    """A copy without the dead nodes: rows, columns, biases, BatchNorm entries; small and dense, same outputs.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> small = cut(net, hidden(net), {"0": torch.tensor([True, False, True])})
    >>> small[0].weight.shape, small[2].in_features
    (torch.Size([2, 2]), 2)
    """
    small = copy.deepcopy(plain_module(model))
    modules = dict(small.named_modules())
    for layer in layers:
        z = _checked(layer, alive)
        for name in layer.makes:
            _take(modules[name], ("weight", "bias"), z, 0, "out_features")
        for name in layer.reads:
            _take(modules[name], ("weight",), z, 1, "in_features")
        for name in layer.norms:
            _take(modules[name], ("weight", "bias", "running_mean", "running_var"), z, 0, "num_features")
    return small


def _take(module: nn.Module, names: Iterable[str], z: Tensor, dim: int, width: str) -> None:
    for name in names:
        old = getattr(module, name)
        if old is not None:
            new = old.detach().index_select(dim, z.nonzero().view(-1).to(old.device)).clone()
            setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    setattr(module, width, int(z.sum()))
