"""From a network to a graph: export it, compute what is constant, name what is known, keep the rest as torch.

Nothing that torch can export is refused: operations without a node of their own become `torch` nodes, which hold the
piece of the network they stand for.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from sparseland.core.errors import SparselandError

from .capture_build import Builder
from .capture_constants import constants_of
from .capture_patterns import is_alias, simplify
from .graph import Graph

Args = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class InSpec:
    """How a call's arguments become the inputs of a graph.

    Arguments may be given by position or by name. ``kept`` says which leaves of them are the inputs, in order,
    ``dtypes`` which type each gets; all other leaves must be the constants of the capture.
    """

    signature: inspect.Signature
    spec: pytree.TreeSpec
    constants: tuple[Any, ...]
    kept: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The inputs of the graph, in order, out of a call.

        Raises:
            SparselandError: other arguments, or other constants among them, than those of the capture.
        """
        leaves, spec = pytree.tree_flatten(_bound(self.signature, args, kwargs))
        if spec != self.spec:
            raise SparselandError(f"captured with arguments {_tree(self.spec)}; called with {_tree(spec)}")
        for given, constant in zip(leaves, self.constants, strict=True):
            if isinstance(given, Tensor) != (constant is Tensor) or (constant is not Tensor and given != constant):
                raise SparselandError(f"captured with {_says(constant)}; called with {_says(given)}")
        return [leaves[i].to(dtype) for i, dtype in zip(self.kept, self.dtypes, strict=True)]


def _bound(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, in the order of the signature."""
    try:
        bound = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise SparselandError(f"the network takes {signature}: {error}") from error
    return {name: dict(sorted(one.items())) if isinstance(one, dict) else one for name, one in bound.items()}


def _says(leaf: Any) -> str:
    return "a tensor" if leaf is Tensor or isinstance(leaf, Tensor) else repr(leaf)


def _tree(spec: pytree.TreeSpec) -> str:
    """The names of the arguments, briefly."""
    return ", ".join(str(name) for name in spec.context) if isinstance(spec.context, list) else str(spec)


@dataclass(frozen=True)
class OutSpec:
    """How the outputs of a graph become what the network returns.

    ``leaves`` says for every leaf which output it is, or holds its constant (None, a number).
    """

    spec: pytree.TreeSpec
    leaves: tuple[tuple[bool, Any], ...]  # (True, number of the output) or (False, constant)

    def rebuild(self, outputs: Sequence[Tensor]) -> Any:
        """A tensor, tuple, dict or ``ModelOutput`` like that of the network."""
        return pytree.tree_unflatten([outputs[what] if given else what for given, what in self.leaves], self.spec)


def capture(model: nn.Module, args: Args) -> Graph:
    """Read a network as a graph; the network is left as it was.

    Parameters:
        model: any module that `torch.export` can export in evaluation mode.
        args: what it is called with: a tensor, a sequence of positional arguments, or a mapping of keyword arguments.
            Shapes are fixed to theirs.

    Returns:
        A graph whose nodes carry the paths of the modules. ``graph.in_spec.flatten(args, kwargs)`` gives its inputs,
        ``graph.out_spec.rebuild(outputs)`` the object the network would return. Parameters of other types than float32
        are converted; ``graph.nodes[i].attrs["converted"]`` says from what.

    Raises:
        SparselandError: `torch.export` fails, a weight is not finite, the network changes a buffer or an argument.

    >>> from sparseland.deploy.graph_twin import run
    >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4)
    >>> graph = capture(net, x)
    >>> [(node.op, node.name) for node in graph.nodes], torch.allclose(run(graph, [x])[0], net(x), atol=1e-6)
    ([('linear', '0'), ('act', '1.act')], True)
    """
    positional, named = _call(args)
    converted = sorted({str(p.dtype)[6:] for p in model.parameters() if p.is_floating_point()} - {"float32"})
    _check_finite(model)
    if converted or any(parameter.device.type != "cpu" for parameter in model.parameters()):
        model = copy.deepcopy(model).float().cpu()  # a graph is float32 throughout
    positional, named = pytree.tree_map_only(Tensor, _as_graph_type, (positional, named))
    exported = _export(model, positional, named)
    _check_pure(exported)
    constants = constants_of(exported)
    simplify(exported.graph_module.graph, constants)
    builder = Builder(exported.graph_module, constants, _paths(exported), converted)
    graph_inputs, in_spec = _inputs(exported, inspect.signature(model.forward), positional, named)
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in graph_inputs:
            builder.add_input(node)
        elif node.op == "call_function" and node not in constants:
            builder.add(node)
    outputs, out_spec = _outputs(exported, builder)
    graph = builder.finish(graph_inputs, outputs)
    graph.in_spec, graph.out_spec = in_spec, out_spec
    return graph.check()


def _call(args: Args) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(args, Tensor):
        return (args,), {}
    return ((), dict(args)) if isinstance(args, Mapping) else (tuple(args), {})


def _as_graph_type(tensor: Tensor) -> Tensor:
    """Floating point as float32, integers as int64."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        return tensor.float()
    return tensor if tensor.dtype == torch.bool or tensor.is_complex() else tensor.long()


def _check_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(parameter.isfinite().all()):
            count = int((~parameter.isfinite()).sum())
            raise SparselandError(
                f"{name!r} holds {count} entries that are NaN or infinite; only finite weights deploy"
            )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; undone at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """The same without torch's own fused attention: it would be one opaque operation."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    with _evaluation(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own insides
        try:
            exported: ExportedProgram = torch.export.export(model, args, kwargs, strict=False)
            if not _is_functional(exported):
                # An empty table: only what changes tensors in place is rewritten, linear and attention stay whole.
                exported = exported.run_decompositions({})
            return exported
        except Exception as error:
            says = str(error).strip().partition("\n")[0]
            if "Cache" in says:
                says += " (does the network return a cache? Give it use_cache=False: a graph returns tensors)"
            raise SparselandError(f"torch.export cannot export {type(model).__name__}: {says}") from error


def _is_functional(exported: ExportedProgram) -> bool:
    """Whether nothing is changed in place: then rewriting, which takes most of the time, is spared."""
    calls = [node for node in exported.graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]
    schemas = [getattr(node.target, "_schema", None) for node in calls if not is_alias(node)]
    return all(schema is not None and not schema.is_mutable for schema in schemas)


def _check_pure(exported: ExportedProgram) -> None:
    for spec in exported.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
            raise SparselandError(f"the network changes {spec.target!r} while it computes; a graph has no memory")


def _paths(exported: ExportedProgram) -> dict[str, str]:
    """``{placeholder: name of the parameter or buffer}``."""
    specs = exported.graph_signature.input_specs
    return {spec.arg.name: str(spec.target) for spec in specs if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)}


def _inputs(
    exported: ExportedProgram, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[str], InSpec]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    names = [one.arg.name for one in exported.graph_signature.input_specs if one.kind == InputKind.USER_INPUT]
    if len(names) != len(leaves):
        raise SparselandError(f"torch.export reads {len(names)} of {len(leaves)} arguments: {', '.join(names)}")
    # Where the leaves of the call lie among those sorted by name: numbers in their place are followed.
    places, sorted_spec = pytree.tree_flatten(_bound(signature, *pytree.tree_unflatten(range(len(leaves)), spec)))
    given = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    constants = tuple(Tensor if isinstance(leaves[i], Tensor) else leaves[i] for i in places)
    kept, dtypes = tuple(places.index(i) for i in given), tuple(leaves[i].dtype for i in given)
    return [names[i] for i in given], InSpec(signature, sorted_spec, constants, kept, dtypes)


def _outputs(exported: ExportedProgram, builder: Builder) -> tuple[list[str], OutSpec]:
    (result,) = next(node for node in exported.graph.nodes if node.op == "output").args
    names: list[str] = []
    leaves: list[tuple[bool, Any]] = []
    for leaf in result:
        if isinstance(leaf, FxNode):
            leaves.append((True, len(names)))
            names.append(builder.tensor(leaf))
        else:
            leaves.append((False, leaf))
    assert exported.call_spec.out_spec is not None
    return names, OutSpec(exported.call_spec.out_spec, tuple(leaves))
