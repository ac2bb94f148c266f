"""Operations without a node of their own: connected ones are joined into pieces that torch computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from .graph import Node, Value

if TYPE_CHECKING:
    from .capture_build import Builder

CHEAP = ("act", "affine", "add", "sub", "mul", "scale", "mean", "softmax", "reshape", "transpose", "slice", "concat")
KEPT = (torch.float32, torch.int64, torch.bool)


@dataclass
class Piece:
    """Calls that stay torch, in order, and why."""

    calls: list[FxNode]
    reasons: list[str]


def merged(builder: Builder, outputs: list[str]) -> list[Node]:
    """The nodes in order, with as few torch nodes as there can be without a circle between nodes."""
    _take_between(builder, outputs)
    items = _alive(builder, outputs)
    groups = _Groups(builder, items)
    groups.join()
    return [
        item if isinstance(item, Node) else _torch_node(builder, item, groups.read_outside(item, outputs))
        for item in groups.in_order()
    ]


def _take_between(builder: Builder, outputs: list[str]) -> None:
    """What is cheap and stands between torch pieces only joins them: it would split them for nothing."""
    torch_calls = {call for item in builder.items if isinstance(item, Piece) for call in item.calls}
    chosen = {
        call
        for call, made in builder.made.items()
        if all(isinstance(one, Node) and one.op in CHEAP for one in made)
        if isinstance(name := builder.names[call], str) and name not in outputs
    }
    shrinking = True
    while shrinking:
        inside = chosen | torch_calls
        stay = {
            call
            for call in chosen
            if all(one in inside or one in builder.constants for one in call.all_input_nodes)
            and all(one in inside for one in call.users)
        }
        shrinking, chosen = len(stay) < len(chosen), stay
    for call in chosen:
        for one in builder.made[call]:
            builder.items.remove(one)
        builder.items.append(Piece([call], []))
        builder.names[call] = call.name


def _alive(builder: Builder, outputs: list[str]) -> list[Node | Piece]:
    """The items that an output depends on."""
    kept: set[int] = set()
    items = [*builder.fixed, *builder.items]
    makers = {name: item for item in items for name in _makes(item)}
    waiting = [name for name in outputs if name in makers]
    while waiting:
        item = makers[waiting.pop()]
        if id(item) not in kept:
            kept.add(id(item))
            waiting += [name for name in _reads(builder, item) if name in makers]
    return [item for item in items if id(item) in kept]


def _makes(item: Node | Piece) -> list[str]:
    return item.outputs if isinstance(item, Node) else [call.name for call in item.calls]


def _reads(builder: Builder, item: Node | Piece) -> list[str]:
    """Tensors that an item reads from elsewhere."""
    if isinstance(item, Node):
        return [name for name in item.inputs if name]
    inside = set(item.calls)
    found: dict[str, None] = {}
    for call in item.calls:
        for one in call.all_input_nodes:
            if one not in inside and one not in builder.constants:
                found[_name(builder, one)] = None
    return list(found)


def _name(builder: Builder, call: FxNode) -> str:
    """The tensor a piece reads; that of a call with several outputs is read by its getitem only, in the same piece."""
    name = builder.names[call]
    assert isinstance(name, str)
    return name


class _Groups:
    """Items as a graph whose torch pieces grow together."""

    def __init__(self, builder: Builder, items: list[Node | Piece]) -> None:
        self.builder = builder
        self.items: dict[int, Node | Piece] = dict(enumerate(items))
        maker = {name: i for i, item in self.items.items() for name in _makes(item)}
        self.before: dict[int, set[int]] = {
            i: {maker[name] for name in _reads(builder, item) if name in maker} for i, item in self.items.items()
        }
        self.after: dict[int, set[int]] = {i: set() for i in self.items}
        for i, sources in self.before.items():
            for source in sources:
                self.after[source].add(i)

    def join(self) -> None:
        """Join neighbours until no two can be."""
        changed = True
        while changed:
            changed = False
            for i in list(self.items):
                if not isinstance(self.items.get(i), Piece):
                    continue
                for j in sorted(self.after[i]):
                    if isinstance(self.items.get(j), Piece) and not self._another_way(i, j):
                        self._join(i, j)
                        changed = True

    def _another_way(self, start: int, end: int) -> bool:
        """Whether a path leads from one to the other through a third."""
        waiting, seen = [i for i in self.after[start] if i != end], set()
        while waiting:
            i = waiting.pop()
            if i == end:
                return True
            if i not in seen:
                seen.add(i)
                waiting += self.after[i]
        return False

    def _join(self, i: int, j: int) -> None:
        one, two = self.items[i], self.items.pop(j)
        assert isinstance(one, Piece) and isinstance(two, Piece)
        one.calls += two.calls
        one.reasons += [reason for reason in two.reasons if reason not in one.reasons]
        for around, other in ((self.before, self.after), (self.after, self.before)):
            for k in around.pop(j):
                other[k].discard(j)
                if k != i:
                    around[i].add(k)
                    other[k].add(i)
        self.after[i].discard(j)
        self.before[i].discard(j)

    def in_order(self) -> list[Node | Piece]:
        """Every item after what it reads, otherwise in the order of the network."""
        import heapq

        open_ = {i: len(sources) for i, sources in self.before.items()}
        ready = [i for i, count in open_.items() if not count]
        heapq.heapify(ready)
        order = []
        while ready:
            i = heapq.heappop(ready)
            order.append(self.items[i])
            for j in self.after[i]:
                open_[j] -= 1
                if not open_[j]:
                    heapq.heappush(ready, j)
        return order

    def read_outside(self, piece: Piece, outputs: list[str]) -> list[FxNode]:
        """The calls of a piece whose results others read."""
        wanted = set(outputs)
        for item in self.items.values():
            if item is not piece:
                wanted.update(_reads(self.builder, item))
        return [call for call in piece.calls if call.name in wanted]


def _torch_node(builder: Builder, piece: Piece, results: list[FxNode]) -> Node:
    """A node that holds the calls as a module: inputs -> tuple of outputs."""
    order = {call: i for i, call in enumerate(builder.module.graph.nodes)}
    calls = sorted(piece.calls, key=lambda call: order[call])
    graph, inputs = FxGraph(), list[str]()
    attributes: dict[str, Any] = {}
    env: dict[FxNode, FxNode] = {}
    for call in calls:
        for one in call.all_input_nodes:
            if one in env or one in calls:
                continue
            if one in builder.constants:
                attributes[f"constant{len(attributes)}"] = builder.constants[one]
                env[one] = graph.get_attr(f"constant{len(attributes) - 1}")
            else:
                inputs.append(_name(builder, one))
                env[one] = _from_kept(graph, graph.placeholder(f"input{len(inputs) - 1}"), one)
        env[call] = graph.node_copy(call, lambda one: env[one])
        env[call].meta = {}
    graph.output(tuple(_to_kept(graph, env[call], call) for call in results))
    module = GraphModule(_holder(attributes), graph)
    for call in results:
        builder.values[call.name] = _value(call)
    name = builder._unused(f"torch.{calls[0].name}", "name:")
    reason = "; ".join(piece.reasons)
    return Node("torch", name, inputs, [call.name for call in results], {"reason": reason, "module": module})


def _holder(attributes: dict[str, Any]) -> torch.nn.Module:
    root = torch.nn.Module()
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            root.register_buffer(name, value)
        else:
            setattr(root, name, value)
    return root


def _kept_as(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of another type leaves a piece."""
    if dtype in KEPT:
        return dtype
    return torch.float32 if dtype.is_floating_point else torch.int64


def _value(call: FxNode) -> Value:
    value = call.meta["val"]
    shape = tuple(int(n) for n in value.shape)
    if value.dtype.is_complex:
        return Value((*shape, 2))
    return Value(shape, str(_kept_as(value.dtype)).removeprefix("torch."))


def _to_kept(graph: FxGraph, made: FxNode, call: FxNode) -> FxNode:
    """A result as a graph may hold it: complex numbers as pairs, other types as the widest of their kind."""
    dtype = call.meta["val"].dtype
    if dtype.is_complex:
        made = graph.call_function(torch.view_as_real, (made,))
        return graph.call_method("to", (made, torch.float32))
    return made if dtype in KEPT else graph.call_method("to", (made, _kept_as(dtype)))


def _from_kept(graph: FxGraph, made: FxNode, call: FxNode) -> FxNode:
    """An input as the call made it."""
    dtype = call.meta["val"].dtype
    if dtype.is_complex:
        made = graph.call_function(torch.view_as_complex, (made,))
    return made if dtype in KEPT else graph.call_method("to", (made, dtype))
