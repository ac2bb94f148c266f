"""A program under construction: where each value lies, and the moves between layouts, each made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..kernels.grouping import Packed
from .graph import Graph, Node
from .lower_layers import Choice, Chooser, Layer, best_rows, emit
from .lower_view import (
    Array,
    Atom,
    Dim,
    Held,
    NotLowered,
    View,
    heads,
    image,
    merged,
    to_memory,
    tokens,
    whole,
)

NUMBER = {name: i for i, name in enumerate(
    ("none", "clamp", "hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"))}  # fmt: skip
Act = tuple[int, float, float]
NO_ACT: Act = (0, -math.inf, math.inf)


@dataclass
class Made:
    """An op of the program and the node it came from; ``choice`` and ``layer`` where it has weights."""

    name: str
    node_op: str
    kind: str
    choice: Choice | None = None
    layer: Layer | None = None


@dataclass
class Builder:
    """Writes nodes into a program.

    Parameters:
        program: `sparseland.deploy.program.Program`, or anything with its methods.
        graph: the graph, for shapes.
        choose: says which kernel a layer takes.
        rows: (h, w) -> rows of a band.
    """

    program: Any
    graph: Graph
    choose: Chooser
    rows: Callable[[int, int], int] = best_rows
    held: dict[str, Held] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    skipped: dict[str, Node] = field(default_factory=dict)  # pads taken over by their convolution
    factors: dict[str, tuple[Held, Held]] = field(default_factory=dict)  # products computed by their reader
    readers: dict[str, list[Node]] = field(default_factory=dict)
    given: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    fixed: list[int] = field(default_factory=list)  # constants
    done: set[str] = field(default_factory=set)  # nodes computed together with another
    node: Node | None = None
    packings: dict[tuple[str, int], Packed] = field(default_factory=dict)
    _moves: dict[tuple[Any, ...], Held] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------------- writing
    def op(
        self, kind: str, ins: Sequence[int], y: Held, ints: Sequence[int] = (), floats: Sequence[float] = (),
        blobs: Sequence[Array] = (),
    ) -> Held:  # fmt: skip
        """Add an op that makes ``y``."""
        self.program.op(kind, list(ins), [y.tensor], ints=tuple(ints), floats=tuple(floats), blobs=list(blobs))
        self._note(kind)
        return y

    def layer(self, layer: Layer, x: Held, y: Held, residual: int = -1, scale: int = -1) -> Held:
        """Add a layer with weights, with the kernel that `choose` says."""
        choice = self.choose(layer)
        emit(self.program, layer, choice, x.tensor, y.tensor, residual, scale)
        self._note(layer.kind, choice, layer)
        return y

    def _note(self, kind: str, choice: Choice | None = None, layer: Layer | None = None) -> None:
        node = self.node
        name, op = (node.name, node.op) if node else ("output", "")  # outputs are unpacked at the end, for no node
        self.made.append(Made(name, op, kind, choice, layer))

    def tiles(self, n: int, c: int, h: int, w: int, view: View | None = None, rows: int = 0) -> Held:
        """A new tensor in tiles."""
        rows = rows or self.rows(h, w)
        number = self.program.tensor((n, c, h, w), "tiles", rows=rows)
        return Held(number, "tiles", (n, c, h, w), view or image(n, c, h, w), rows=rows)

    def image_of(self, node: Node) -> Held:
        """A new tensor in tiles for a node's output [N, C, H, W]."""
        n, c, h, w = self.graph.values[node.output].shape
        return self.tiles(n, c, h, w)

    def plain(
        self, n: int, c: int, h: int = 1, w: int = 1, view: View | None = None, interleaved: bool = False
    ) -> Held:
        """A new plain tensor."""
        number = self.program.tensor((n, c, h, w), "plain")
        return Held(number, "plain", (n, c, h, w), view or image(n, c, h, w), interleaved)

    def like(self, x: Held, c: int | None = None, view: View | None = None) -> Held:
        """A new tensor of the same layout, with another number of channels."""
        n, old, h, w = x.size
        c = old if c is None else c
        if x.layout == "tiles":
            return self.tiles(n, c, h, w, view or x.view, x.rows)
        return self.plain(n, c, h, w, view or x.view, x.interleaved)

    # --------------------------------------------------------------------------------------------------------- moves
    def get(self, name: str) -> Held:
        """Where a value lies; constants are placed when they are asked for.

        Raises:
            NotLowered: nothing of the engine's holds it.
        """
        if name in self.held:
            return self.held[name]
        if name in self.factors:
            return self._multiplied(name)
        if name in self.constants:
            self.held[name] = self._constant(self.constants[name])
            return self.held[name]
        raise NotLowered(f"its input {name!r} is not the engine's")

    def _multiplied(self, name: str) -> Held:
        x, factor = self.factors[name]
        self.held[name] = self.op("binary", [x.tensor, factor.tensor], self.like(x), (1, 1, 0), NO_ACT[1:])
        return self.held[name]

    def _constant(self, array: Array) -> Held:
        if array.dtype != np.float32:
            raise NotLowered(f"a constant of {array.dtype}")
        if array.ndim == 4:
            n, c, h, w = array.shape
            number = self._kept(array, "tiles", self.rows(h, w))
            return Held(number, "tiles", (n, c, h, w), image(n, c, h, w), rows=self.rows(h, w))
        if array.ndim == 3:
            n, p, c = array.shape
            return self.placed(array, Held(-1, "tiles", (n, c, p, 1), tokens(n, c, p), rows=self.rows(p, 1)))
        if array.ndim == 2:
            n, c = array.shape
            return Held(self._kept(array.reshape(n, c, 1, 1), "plain"), "plain", (n, c, 1, 1), image(n, c, 1, 1)[:2])
        raise NotLowered(f"a constant of shape {array.shape}")

    def placed(self, array: Array, like: Held) -> Held:
        """A constant that lies as ``like`` does; ``array`` has the shape of its view."""
        memory = np.ascontiguousarray(to_memory(array, like.view, like.size, False), np.float32)
        return replace(like, tensor=self._kept(memory, like.layout, like.rows), interleaved=False)

    def _kept(self, array: Array, layout: str, rows: int = 1) -> int:
        self.fixed.append(self.program.constant(np.ascontiguousarray(array), layout, rows=rows))
        return self.fixed[-1]

    def as_tiles(self, x: Held) -> Held:
        """Plain values packed into tiles."""
        if x.layout == "tiles":
            return x
        if x.layout != "plain":
            raise NotLowered(f"{x.layout} where numbers are needed")
        y = self._moved((x.tensor, "tiles"), lambda: self._pack(x))
        return y.seen(x.view)

    def _pack(self, x: Held) -> Held:
        return self.op("pack", [x.tensor], self.tiles(*x.size), (int(x.interleaved),))

    def as_plain(self, x: Held, interleaved: bool = False) -> Held:
        """Tiles unpacked: memory in the order N, C, H, W or, interleaved, N, H, W, C."""
        if x.layout != "tiles":
            return x
        y = self._moved((x.tensor, "plain", interleaved), lambda: self._unpack(x, interleaved))
        return y.seen(x.view)

    def _unpack(self, x: Held, interleaved: bool) -> Held:
        return self.op("unpack", [x.tensor], self.plain(*x.size, interleaved=interleaved), (int(interleaved),))

    def as_vector(self, x: Held) -> Held:
        """[N, C] in plain memory, of a value with one pixel."""
        if x.pixels != 1:
            raise NotLowered(f"{x.pixels} pixels where one is needed")
        return self.as_plain(x)

    def retiled(self, x: Held, h: int, w: int, rows: int = 0) -> Held:
        """Tiles of the same pixels as h rows of w."""
        x = self.as_tiles(x)
        rows = rows or self.rows(h, w)
        if (*x.size[2:], x.rows) == (h, w, rows):
            return x
        n, c = x.size[:2]
        y = self._moved(
            (x.tensor, h, w, rows), lambda: self.op("relayout", [x.tensor], self.tiles(n, c, h, w, x.view, rows))
        )
        return y.seen(x.view)

    def _moved(self, key: tuple[Any, ...], make: Callable[[], Held]) -> Held:
        if key not in self._moves:
            self._moves[key] = make()
        return self._moves[key]

    def as_image(self, x: Held) -> Held:
        """Tiles whose view is [N, C, H, W].

        Raises:
            NotLowered: its axes lie otherwise.
        """
        found = x.as_image()
        if found is None:
            raise NotLowered("its input does not lie as an image [N, C, H, W]")
        return self.retiled(x, *found)

    def as_tokens(self, x: Held) -> Held:
        """Tiles in which every token is a row."""
        return self.retiled(x, x.pixels, 1)

    # -------------------------------------------------------------------------------------------------------- inputs
    def input(self, name: str) -> Held:
        """Declare an input of the program, in the layout that its first reader likes."""
        value = self.graph.values[name]
        size, view, interleaved = self._mask_view(name) or self._input_view(name)
        layout = "ids" if value.dtype == "int64" and not self.is_mask(name) else "plain"
        number = self.program.input(size, layout)
        self.given.append(number)
        self.held[name] = Held(number, layout, size, view, interleaved)
        return self.held[name]

    def is_mask(self, name: str) -> bool:
        """Whether all that reads a value are attentions that add it to their scores."""
        readers = self.readers.get(name, [])
        return bool(readers) and all(r.op == "attention" and name not in r.inputs[:3] for r in readers)

    def _mask_view(self, name: str) -> tuple[tuple[int, int, int, int], View, bool] | None:
        """Of an input that is only an attention mask: widened to [N or 1, heads or 1, Lq, Lk] before it comes in."""
        value = self.graph.values[name]
        if self.is_mask(name):
            q, k = (self.graph.values[self.readers[name][0].inputs[i]].shape for i in (0, 1))
            if value.dtype == "int64":  # the tokens that count: the same for all heads and queries
                size = (value.shape[0], 1, 1, value.shape[1])
                return size, image(*size), False
            n, h = (1, 1, *value.shape)[-4:-2]
            size = (n, h, q[2], k[2])
            return size, image(*size), False
        if value.dtype == "bool":
            raise NotLowered("an input of bool")
        return None

    def _input_view(self, name: str) -> tuple[tuple[int, int, int, int], View, bool]:
        value = self.graph.values[name]
        shape, readers = value.shape, self.readers.get(name, [])
        if value.dtype == "int64" or len(shape) <= 2:
            n, c = (1, *shape)[-2:] if len(shape) else (1, 1)
            if value.dtype == "int64":
                return (n, 1, c, 1), (whole("N", n), whole("P", c))[2 - len(shape) :], False
            return (n, c, 1, 1), (whole("N", n), whole("C", c))[2 - len(shape) :], False
        if len(shape) == 3:
            n, p, c = shape
            return (n, c, p, 1), tokens(n, c, p), True
        if len(shape) != 4:
            raise NotLowered(f"an input of shape {shape}")
        n, a, b, d = shape
        if any(r.op == "rope" or (r.op == "attention" and name in r.inputs[:3]) for r in readers):
            return (n, a * d, b, 1), heads(n, a * d, b, a), True
        last = ("layer_norm", "rms_norm", "scale")
        if any(r.op == "linear" or (r.op in last and r.attrs["axis"] in (3, -1)) for r in readers):
            return (n, d, a, b), (whole("N", n), merged([Atom("P", b, a)]), whole("P", b), whole("C", d)), True
        flat = [r for r in readers if r.op == "reshape" and len(r.attrs["shape"]) == 2]
        if flat and len(flat) == len(readers):
            c = a * b * d
            cut: tuple[Dim, ...] = (
                whole("N", n), merged([Atom("C", b * d, a)]), merged([Atom("C", d, b)]), whole("C", d),
            )  # fmt: skip
            return (n, c, 1, 1), cut, False
        return (n, a, b, d), image(n, a, b, d), False

    def output(self, name: str) -> Held:
        """Declare an output: plain memory in whichever order its view reads best."""
        x = self.get(name)
        if x.layout == "ids":
            raise NotLowered("token ids as an output")
        last = x.view[-1] if x.view else ()
        y = self.as_plain(x, interleaved=bool(last) and last[-1].axis == "C" and last[-1].stride == 1)
        if y.tensor in self.given or y.tensor in self.fixed:
            raise NotLowered("an input or a constant, returned as it is")
        if y.tensor not in self.returned:
            self.program.output(y.tensor)
            self.returned.append(y.tensor)
        return y


def act_of(node: Node) -> Act:
    """The activation at the end of a node, as the kernels take it: number, lo, hi."""
    name, lo, hi = node.act()
    return NUMBER[name], lo, hi


def single_reader(graph: Graph, readers: Mapping[str, list[Node]], name: str) -> Node | None:
    """The only node that reads a value; None if there are more, or the value is an output of the graph."""
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and name not in graph.outputs else None
