"""One forward pass, written down: every operation that torch runs ties the axes of what it reads and makes.

Nothing is exported or rewritten: the network runs once as it is, in evaluation mode and without gradients. A mode of
torch sees each call as it was written (with its `Number`s), another the operations that it comes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.errors import SparselandError
from .axes import Axis, Dim, dims, fixed, lock
from .numbers import Notes, Number, remembering

# Functions whose integers are sizes; those of others (flatten's dims, a softmax's axis) are not looked at.
SIZED = frozenset(
    (
        *("view", "reshape", "unflatten", "expand", "broadcast_to", "repeat", "repeat_interleave", "tile", "pad"),
        *("split", "split_with_sizes", "narrow", "__getitem__", "slice", "as_strided", "roll"),
        *("zeros", "ones", "full", "empty", "rand", "randn", "arange"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "group_norm", "layer_norm", "rms_norm"),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        "multi_head_attention_forward",
    )
)
DERIVED = frozenset(("multi_head_attention_forward",))  # they reckon sizes themselves, out of their arguments
Origin = tuple[str, int] | None


@dataclass
class Call:
    """One operation: its name, its arguments by name, what it made, and where in the network it is."""

    name: str
    args: dict[str, Any]
    out: Any
    module: str

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def node(self) -> str:
        """For messages."""
        return f"{self.module or 'the network'}: {self.name}"


@dataclass
class Product:
    """Multiply-adds: the axes whose sizes are multiplied, and a constant."""

    axes: tuple[Axis, ...]
    times: int = 1


@dataclass
class Tape:
    """What is known of the axes so far.

    ``weights``: the axes of each parameter and buffer that was read, by name. ``roles``: what each dimension of them
    does. ``required``: axes whose size the network states, and the number with which it does.
    """

    names: dict[int, str]
    known: dict[int, tuple[Tensor, list[Axis], list[Origin]]] = field(default_factory=dict)
    weights: dict[str, list[Axis]] = field(default_factory=dict)
    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    required: list[tuple[Axis, int, str]] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    barriers: list[tuple[str, str, list[Dim]]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    scope: tuple[str, Any] | None = None
    path: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------------------- tensors
    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor; one that was never seen is a parameter, a buffer, or a constant."""
        return self._entry(tensor)[1]

    def origins(self, tensor: Tensor) -> list[Origin]:
        """For each axis the dimension of the parameter that it is, if it is one."""
        return self._entry(tensor)[2]

    def _entry(self, tensor: Tensor) -> tuple[Tensor, list[Axis], list[Origin]]:
        if id(tensor) not in self.known:
            name = self.names.get(id(tensor))
            if name is None:
                self.put(tensor, [fixed(size) for size in tensor.shape])
            else:
                owner = name.rpartition(".")[0] or name
                axes: list[Axis] = [Dim(s, owner) if s > 1 else fixed(s) for s in tensor.shape]
                self.weights[name] = axes
                self.put(tensor, axes, [(name, i) for i in range(tensor.ndim)])
        return self.known[id(tensor)]

    def put(self, tensor: Tensor, axes: Sequence[Axis], origins: Sequence[Origin] | None = None) -> None:
        """Write down the axes of a tensor (which is kept, so that its identity stays its own)."""
        assert [a.size for a in axes] == list(tensor.shape), (axes, tensor.shape)
        self.known[id(tensor)] = (tensor, list(axes), list(origins or [None] * len(axes)))

    def role(self, tensor: Tensor, role: str, axis: int | None = None) -> None:
        """Say what a parameter's dimension does (all of them without ``axis``); one that is shared may do several."""
        for i, origin in enumerate(self.origins(tensor)):
            if origin is not None and (axis is None or axis == i):
                self.roles.setdefault(origin, set()).add(role)

    # ------------------------------------------------------------------------------------------------------- barriers
    def hold(self, axes: Sequence[Axis], reason: str) -> None:
        """These axes stay whole, for a reason in the nature of the operation."""
        for axis in axes:
            lock(axis, f"{self.path[-1] if self.path else 'the network'}: {reason}")

    def barrier(self, axes: Sequence[Axis], call: Call, reason: str) -> None:
        """These axes stay whole because the operation cannot be followed; listed if anything is lost by it."""
        self.bar(axes, call.node, reason)

    def bar(self, axes: Sequence[Axis], node: str, reason: str) -> bool:
        """The same, by the name of a node; whether anything new is locked."""
        lost = [dim for axis in axes for dim in dims(axis) if not dim.locked]
        for axis in axes:
            lock(axis, f"{node}: {reason}")
        if lost:
            self.barriers.append((node, reason, lost))
        return bool(lost)

    # -------------------------------------------------------------------------------------------------------- numbers
    def written(self, values: Sequence[int]) -> list[int | None]:
        """How the network states these sizes: a Number, an int (written out), or None (torch reckons it)."""
        if self.scope is None or self.scope[0] not in SIZED:
            return [None] * len(values)
        flat = list(_ints(self.scope[1]))
        if self.scope[0] in DERIVED:
            return list(values)
        for row in _rows(self.scope[1]):
            if len(row) == len(values) and all(r in (v, -1) for r, v in zip(row, values, strict=True)):
                return [None if int(r) == -1 else r for r in row]
        found: list[int | None] = []
        for value in values:
            same = [n for n in flat if int(n) == value]
            found.append(next((n for n in same if isinstance(n, Number)), same[0] if same else None))
        return found

    def require(self, axis: Axis, number: int | None, call: Call) -> None:
        """The axis has the size that the network states."""
        if number is not None:
            self.required.append((axis, number, call.node))

    def count(self, *axes: Axis, times: int = 1) -> None:
        """A product of matrices: 2 FLOPs for each combination of positions."""
        self.products.append(Product(axes, times))


def _ints(value: Any) -> Iterator[int]:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, slice):
        yield from _ints((value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _ints(entry)
    elif isinstance(value, dict):
        yield from _ints(tuple(value.values()))


def _rows(value: Any) -> Iterator[list[int]]:
    """Runs of integers in the arguments, as candidates for a list of sizes."""
    if isinstance(value, (tuple, list)):
        run = [entry for entry in value if isinstance(entry, int)]
        if run:
            yield run
        for entry in value:
            yield from _rows(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _rows(entry)


_SHAPE: Any = Tensor.shape


class Shape(tuple[int, ...]):
    """A shape whose sizes remember their axes (torch.Size would forget them)."""

    def numel(self) -> int:
        """The product, as torch.Size has it."""
        return math.prod(self)


class _Written(TorchFunctionMode):
    """Sees calls as they are written; shapes that are read become Numbers."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (_SHAPE.__get__, Tensor.size):  # not "is": a getter is a new object each time
            return self._shape(func(*args, **kwargs), args, kwargs)
        name = getattr(func, "__name__", "")
        outer, self.tape.scope = self.tape.scope, (name, (args, kwargs))
        try:
            return func(*args, **kwargs)
        finally:
            self.tape.scope = outer

    def _shape(self, result: Any, args: Any, kwargs: Any) -> Any:
        axes = self.tape.axes(args[0])
        if isinstance(result, int):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            return Number(result, axes[dim], self.tape.notes)
        return Shape(Number(size, axis, self.tape.notes) for size, axis in zip(result, axes, strict=True))


class _Run(TorchDispatchMode):
    """Sees the operations that torch runs."""

    def __init__(self, tape: Tape, rules: Mapping[str, Callable[[Tape, Call], None]]) -> None:
        super().__init__()
        self.tape, self.rules = tape, rules

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the guard of torch.compile would import all of it, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        names = [argument.name for argument in func._schema.arguments]
        defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        bound = {**defaults, **dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = func.overloadpacket.__name__
        call = Call(name, bound, out, self.tape.path[-1] if self.tape.path else "")
        rule = self.rules.get(name) or self.rules.get(name.removesuffix("_"))
        if rule is None:
            rule = self.rules["(pointwise)" if torch.Tag.pointwise in func.tags else "(unknown)"]
        rule(self.tape, call)
        return out


@contextmanager
def _watching(tape: Tape, model: nn.Module) -> Iterator[None]:
    """While it lasts the tape knows in which module the network is."""
    paths = {module: path for path, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        tape.path.append(paths.get(module, tape.path[-1] if tape.path else ""))

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        tape.path.pop()

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no fused transformer layer; undone at the end."""
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode


def record(model: nn.Module, sample: Any, rules: Mapping[str, Callable[[Tape, Call], None]]) -> Tape:
    """Run the network once and write down what it does."""
    everything = [*model.named_parameters(), *model.named_buffers()]
    tape = Tape({id(tensor): name for name, tensor in reversed(everything)})
    args, kwargs = ((sample,), {}) if isinstance(sample, Tensor) else ((), {})
    if isinstance(sample, Mapping):
        kwargs = dict(sample)
    elif not isinstance(sample, Tensor):
        args = tuple(sample)
    with evaluation(model), _watching(tape, model), remembering(model, tape.notes):
        with _Written(tape), _Run(tape, rules):
            result = model(*args, **kwargs)
        outputs = list(tensors_of(result))
        if not outputs:
            raise SparselandError(f"{type(model).__name__} returns {type(result).__name__}, in which no tensor is seen")
        for axis in [axis for tensor in outputs for axis in tape.axes(tensor)]:
            lock(axis, "an output of the network")
    return tape


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in what a network returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_of(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from tensors_of(entry)
