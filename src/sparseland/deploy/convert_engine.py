"""A converted network: called like the model, explained layer by layer, saved as one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import SparselandError
from ..files import write_file
from . import convert_text
from .graph import Graph
from .graph_twin import TORCH, run
from .runtime import Engine as Runtime


@dataclass
class Step:
    """A part of the network: an engine and its program, or nodes that torch computes (``engine`` is None)."""

    graph: Graph
    engine: Runtime | None = None
    program: Any = None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass
class Given:
    """What a call must look like: that of the sample.

    Parameters:
        spec: how the arguments are nested. names: of the keyword arguments, in order.
        kept: leaves that the graph reads. dtypes: those of the sample. others: leaves that are no tensors.
        plain: positional tensors and nothing else.
    """

    spec: Any
    names: tuple[str, ...]
    kept: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    others: dict[int, Any]
    plain: bool = False

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        """That of a sample."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        kept = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        others = {i: leaf for i, leaf in enumerate(leaves) if i not in kept}
        plain = not kwargs and all(isinstance(one, Tensor) for one in args)
        return Given(spec, tuple(kwargs), kept, tuple(leaves[i].dtype for i in kept), others, plain)

    def tensors(self, graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The graph's inputs.

        Raises:
            SparselandError: other arguments than the sample's; shape, type, device or layout of one.
        """
        if self.plain and not kwargs and len(args) == len(self.kept):
            return [
                _checked(name, graph.values[name], one, dtype)
                for name, one, dtype in zip(graph.inputs, args, self.dtypes, strict=True)
            ]
        ordered = {name: kwargs[name] for name in self.names if name in kwargs}
        leaves, spec = pytree.tree_flatten((args, ordered | kwargs))
        if spec != self.spec:
            raise SparselandError(f"converted for arguments {_says(self.spec)}; called with {_says(spec)}")
        for i, value in self.others.items():
            if isinstance(leaves[i], Tensor) or leaves[i] != value:
                raise SparselandError(f"converted for the argument {value!r}; called with {leaves[i]!r}")
        return [
            _checked(name, graph.values[name], leaves[i], dtype)
            for name, i, dtype in zip(graph.inputs, self.kept, self.dtypes, strict=True)
        ]


def _says(spec: Any) -> str:
    args, kwargs = pytree.tree_unflatten(["…"] * spec.num_leaves, spec)
    return "(" + ", ".join([*("…" for _ in args), *(f"{name}=…" for name in kwargs)]) + ")"


def _checked(name: str, value: Any, given: Any, dtype: torch.dtype) -> Tensor:
    wanted = f"input {name!r} must be a CPU tensor of {value.dtype} {list(value.shape)}"
    if not isinstance(given, Tensor):
        raise SparselandError(f"{wanted}; got {type(given).__name__}")
    if given.layout != torch.strided or given.device.type != "cpu":
        raise SparselandError(f"{wanted}; got a tensor of layout {str(given.layout)[6:]} on {given.device}")
    if tuple(given.shape) != value.shape:
        raise SparselandError(f"{wanted} (shapes are fixed at conversion); got {list(given.shape)}")
    if given.dtype not in (TORCH[value.dtype], dtype):
        raise SparselandError(f"{wanted}; got {str(given.dtype)[6:]}")
    return given.detach().to(TORCH[value.dtype])


class Engine:
    """What `convert` returns: call it like the model, from any number of threads.

    It computes with the engine where that was the fastest, and with the model itself where torch was (`explain` says
    so); the answers are the same up to rounding. Gradients are not computed.
    """

    def __init__(
        self, graph: Graph, steps: list[Step], given: Given, facts: dict[str, Any], *, model: nn.Module | None = None,
        nan: str = "pass",
    ) -> None:  # fmt: skip
        self.graph, self.steps, self.given, self.facts, self.nan = graph, steps, given, facts, nan
        self._model = model  # kept where torch is the fastest
        self._constants = {
            node.output: torch.from_numpy(node.weights["value"])
            for node in graph.nodes
            if node.op == "constant" and node.output in graph.outputs
        }
        spec = graph.out_spec
        self._bare = spec is not None and spec.spec == pytree.tree_flatten(0)[1] and spec.leaves == ((True, 0),)

    @property
    def backend(self) -> str:
        """ "engine", or "torch" where the model itself was faster."""
        return str(self.facts["backend"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these arguments, of the same shapes as the sample's.

        Raises:
            SparselandError: another shape, type, device or layout, other arguments, NaN where ``nan="error"``.
        """
        tensors = self.given.tensors(self.graph, args, kwargs)
        if self.nan == "error":
            for name, tensor in zip(self.graph.inputs, tensors, strict=True):
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    count = int((~tensor.isfinite()).sum())
                    raise SparselandError(f"input {name!r} holds {count} entries that are NaN or infinite")
        if self._model is not None:
            with torch.no_grad():
                return self._model(*args, **kwargs)
        outputs = self.run(tensors)
        if self.graph.out_spec is not None and not self._bare:
            return self.graph.out_spec.rebuild(outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the graph for its inputs, computed by the engine."""
        known = {**self._constants, **dict(zip(self.graph.inputs, tensors, strict=True))}
        for step in self.steps:
            given = [known[name] for name in step.graph.inputs]
            if step.engine is None:
                made = run(step.graph, given)
            else:
                arrays = [known[port.name].numpy() for port in step.engine.inputs]
                made = [torch.from_numpy(array) for array in step.engine.run(arrays)]
            known.update(zip(step.graph.outputs, made, strict=True))
        return [known[name] for name in self.graph.outputs]

    # --------------------------------------------------------------------------------------------------------- saying
    @property
    def coverage(self) -> dict[str, Any]:
        """``whole``: all is the engine's; ``engine``, ``torch``: numbers of nodes; ``reasons``: why torch, by node."""
        reasons = {name: why for step in self.steps for name, why in step.reasons.items()}
        nodes = sum(len([one for one in step.graph.nodes if one.op != "constant"]) for step in self.steps)
        whole = all(step.engine is not None for step in self.steps)
        return {"whole": whole, "engine": nodes - len(reasons), "torch": len(reasons), "reasons": reasons}

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Every op: node, kernel, milliseconds, sparsity, crossover, reason."""
        return [layer for step in self.steps if step.engine for layer in step.engine.layers]

    def explain(self) -> str:
        """A table: layer, kernel, milliseconds, share, sparsity, from which sparsity sparse would win, and why."""
        return convert_text.explain(self.facts, self.layers, self.coverage)

    def report(self) -> dict[str, Any]:
        """The same as plain data, for reports."""
        return {**self.facts, "coverage": self.coverage, "layers": self.layers}

    def __repr__(self) -> str:
        return f"Engine({convert_text.headline(self.facts)})"

    # --------------------------------------------------------------------------------------------------------- saving
    def save(self, path: str | os.PathLike[str]) -> int:
        """Write one ``.sland`` file, whole or not at all; `load` and `sparseland.deploy.runtime.load` read it.

        Returns:
            Its size in bytes.

        Raises:
            SparselandError: parts of the network are torch's, by name.
            OutputError: the file cannot be written.
        """
        if self.coverage["whole"] and (len(self.steps) != 1 or self.steps[0].graph.outputs != self.graph.outputs):
            raise SparselandError("a file holds what the engine computes; this network returns an input or a constant")
        if not self.coverage["whole"]:
            named = "; ".join(self.coverage["reasons"].values())
            raise SparselandError(f"a file holds what the engine computes alone; these nodes are torch's: {named}")
        (step,) = self.steps
        assert step.engine is not None
        data = step.program.to_bytes({**step.engine.meta, "facts": self.facts})
        write_file(Path(path).expanduser(), lambda file: file.write(data))
        return len(data)


class Loaded:
    """A ``.sland`` file as a function of torch tensors.

    Parameters:
        runtime: the engine, NumPy in and out.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def __call__(self, *tensors: Tensor) -> Any:
        """One tensor per input, in order; one tensor or a tuple of them back.

        Raises:
            SparselandError: another number of tensors; shape, type, device or layout of one.
        """
        ports = self.runtime.inputs
        if len(tensors) != len(ports):
            raise SparselandError(f"the engine takes {len(ports)} inputs; got {len(tensors)}")
        arrays = [
            _checked(port.name, port, tensor, TORCH[port.dtype]).numpy()
            for port, tensor in zip(ports, tensors, strict=True)
        ]
        made = [torch.from_numpy(array) for array in self.runtime.run(arrays)]
        return made[0] if len(made) == 1 else tuple(made)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Every op, as it was converted."""
        return self.runtime.layers

    def explain(self) -> str:
        """The table of the conversion."""
        whole = {"whole": True, "engine": len(self.layers), "torch": 0, "reasons": {}}
        return convert_text.explain(self.runtime.meta.get("facts", {}), self.layers, whole)


Progress = Callable[[str], None]
