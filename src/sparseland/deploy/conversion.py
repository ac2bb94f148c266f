"""From a trained model to an engine: captured, folded, measured by layer, checked, and never slower than torch."""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import SparselandError
from ..kernels import native
from .capture import Args, capture, evaluating
from .choose import Measured
from .choose_cache import Cache, cpu
from .choose_model import Modelled
from .convert_check import agrees
from .convert_engine import Engine, Given, Loaded, Progress, Step
from .fuse import fuse
from .graph import Graph
from .graph_twin import run
from .lower import Lowered, lower_parts
from .lower_layers import Chooser, best_rows
from .lower_ports import Port
from .runtime import FORMAT
from .runtime import Engine as Runtime
from .runtime import load as load_runtime

Rows = Callable[[int, int], int] | Mapping[tuple[int, int], int]
PROFILES = 12  # runs in which the ops are timed, for `explain`


def convert(
    model: nn.Module | Graph, sample: Args | None = None, *, threads: int | None = None, measure: bool = True,
    rows: Rows | None = None, progress: Progress | None = None, never_slower: bool = True,
    rivals: Sequence[str] = ("eager",),
    nan: str = "pass", isa: str = "", tolerance: float = 1e-4, budget: float = 0.1, cache: Cache | None = None,
) -> Engine:  # fmt: skip
    """Make a model fast on this machine.

    Every layer gets the kernel that was the fastest when timed here; a layer whose zeros do not pay stays dense. What
    the engine lacks stays in torch and is named in ``coverage``. The answer is compared with the model's on the sample.

    Parameters:
        model: any module that `torch.export` can export, converted as in evaluation mode and left as it was; or a
            graph, as `sparseland.deploy.from_onnx` gives it.
        sample: what it is called with: a tensor, a sequence of arguments, or a mapping of keyword arguments. Shapes are
            fixed to theirs. Of a graph it may be left out.
        threads: of the engine; None: all that the process may use.
        measure: False chooses kernels by a cost model, times nothing and so cannot promise ``never_slower``.
        rows: rows per band of tiles, as a function or table of (height, width); None: `lower_layers.best_rows`.
        progress: called with a line of text now and then.
        never_slower: time the engine, the engine without sparse kernels and torch in turns, and return the fastest.
        rivals: of torch: "eager", "compile".
        nan: "pass" lets NaN and infinity in inputs through; "error" refuses them at every call.
        isa: instruction set of the kernels; "": the best of this machine.
        tolerance: largest difference to the model on the sample, relative to the largest output (or, where the
            model's own rounding is larger, 4 times that).
        budget: seconds to time one layer; layers alike are timed once and remembered (`choose_cache`).
        cache: of timings; None: the user's.

    Returns:
        An `Engine`: call it like the model; ``explain()``, ``coverage``, ``report()``, ``save(path)``.

    Raises:
        SparselandError: the model cannot be exported, the extension is not built, or the answers differ (the first
            layer that does is named).

    >>> from sparseland.kernels import available
    >>> net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 8, 8)
    >>> if available():
    ...     fast = convert(net, x, measure=False)
    ...     assert torch.allclose(fast(x), net(x), atol=1e-4) and fast.coverage["whole"]
    """
    sample = _made_up(model) if sample is None and isinstance(model, Graph) else sample
    _check_options(threads, rivals, nan, sample)
    threads = threads or int(native().cpus())
    cache = Cache() if cache is None and measure else cache
    say = progress or (lambda text: None)
    choose: Measured | Modelled = (
        Measured(threads, isa=isa, cache=cache, budget=budget, progress=lambda name: say(f"timing {name}"))
        if measure else Modelled(threads, code=bool(native().makes_code(isa)))
    )  # fmt: skip
    facts = _facts(model, threads, isa, measure)
    engine = _converted(model, sample, choose, _rows(rows), facts, nan, tolerance, say, never_slower, tuple(rivals))
    if cache is not None:
        cache.flush()
    return engine


def _converted(
    model: nn.Module | Graph, sample: Any, choose: Measured | Modelled, rows: Callable[[int, int], int],
    facts: dict[str, Any], nan: str, tolerance: float, say: Progress, never_slower: bool, rivals: tuple[str, ...],
) -> Engine:  # fmt: skip
    """Captured, built, compared with the model, and timed against it."""
    say("capturing")
    args, kwargs = _call(sample)
    graph = fuse(model if isinstance(model, Graph) else capture(model, sample))
    given = Given.of(args, kwargs)
    engine = _built(graph, choose, rows, given, facts, nan)
    tensors = given.tensors(graph, args, kwargs)
    twin = _Twin(model) if isinstance(model, Graph) else model
    with evaluating(twin):
        right = run(graph, tensors) if _is_half(twin) else _tensors_of(twin(*args, **kwargs))
        exact = None if _is_half(twin) or twin is not model else lambda: _in_double(twin, args, kwargs)
        agrees(engine, tensors, right, tolerance, rows, exact)
        if isinstance(choose, Measured) and never_slower:
            say("timing the whole against torch")
            others = () if twin is not model else rivals  # a graph in torch is an oracle and no rival
            engine = _fastest(engine, twin, args, kwargs, tensors, choose, rows, others)
    if isinstance(choose, Measured):
        _profile(engine, tensors)
    return engine


def load_engine(
    path: str | os.PathLike[str], *, threads: int | None = None, isa: str = "", nan: str = "pass"
) -> Loaded:
    """A saved engine, called with torch tensors.

    Parameters:
        path, threads, isa, nan: as `sparseland.deploy.runtime.load` takes them.

    Raises:
        DataNotFound, SparselandError: as there.
    """
    return Loaded(load_runtime(path, threads=threads, isa=isa, nan=nan))


def _is_half(model: nn.Module) -> bool:
    """Whether the model's own answers are too coarse to compare with: then its graph in float32 is the oracle."""
    return any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())


def _facts(model: object, threads: int, isa: str, measured: bool) -> dict[str, Any]:
    """What `report` and the header of `explain` say of a conversion."""
    return {
        "model": "a graph" if isinstance(model, Graph) else type(model).__name__,
        "backend": "engine",
        "threads": threads,
        "isa": isa or str(native().isas()[0]),
        "cpu": cpu(),
        "machine": platform.machine(),
        "torch": str(torch.__version__),
        "measured": measured,
        "times": {},
        "notes": [],
    }


class _Twin(nn.Module):
    """A graph as torch computes it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run(self.graph, tensors))


def _made_up(graph: Graph) -> list[Tensor]:
    """Inputs of the shapes of a graph: standard normal numbers, ids 0 and 1, masks all true."""
    rng = torch.Generator().manual_seed(0)
    made = {
        "float32": lambda shape: torch.randn(shape, generator=rng),
        "int64": lambda shape: torch.randint(0, 2, shape, generator=rng),
        "bool": lambda shape: torch.ones(shape, dtype=torch.bool),
    }
    return [made[graph.values[name].dtype](graph.values[name].shape) for name in graph.inputs]


# ------------------------------------------------------------------------------------------------------------ building
def _built(
    graph: Graph, choose: Chooser, rows: Callable[[int, int], int], given: Given, facts: dict[str, Any], nan: str
) -> Engine:
    steps = []
    for part in lower_parts(graph, choose, rows=rows):
        if part.lowered is None:
            steps.append(Step(part.graph, reasons=part.reasons))
        else:
            data = part.lowered.program.to_bytes(meta_of(part.lowered, facts))
            made = Runtime(data, threads=facts["threads"], isa=facts["isa"])
            steps.append(Step(part.graph, made, part.lowered.program))
    return Engine(graph, steps, given, facts, nan=nan)


def meta_of(lowered: Lowered, facts: dict[str, Any]) -> dict[str, Any]:
    """What Python keeps beside a program."""
    layers = []
    for made in lowered.made:
        entry: dict[str, Any] = {"name": made.name, "op": made.node_op, "kernel": made.kind}
        if made.choice is not None and made.layer is not None:
            choice = made.choice
            entry |= {
                "kernel": choice.name, "sparsity": made.layer.sparsity, "macs": made.layer.macs,
                "crossover": choice.crossover, "reason": choice.reason, "sparse": choice.sparse,
            }  # fmt: skip
        layers.append(entry)
    return {"format": FORMAT, "inputs": _ports(lowered.inputs), "outputs": _ports(lowered.outputs),
            "layers": layers, "facts": facts}  # fmt: skip


def _ports(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [port.plain() for port in ports]


def _rows(rows: Rows | None) -> Callable[[int, int], int]:
    if rows is None:
        return best_rows
    if callable(rows):
        return rows
    table = dict(rows)
    return lambda h, w: min(table.get((h, w)) or best_rows(h, w), h)


# -------------------------------------------------------------------------------------------------------------- timing
def _fastest(
    engine: Engine, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor],
    choose: Measured, rows: Callable[[int, int], int], rivals: tuple[str, ...],
) -> Engine:  # fmt: skip
    """The engine, its dense form, or the model: whichever was the fastest in turns."""
    runs: dict[str, Callable[[], object]] = {"engine": lambda: engine.run(tensors)}
    dense = None
    if any(layer.get("sparse") for layer in engine.layers):
        only = Measured(choose.threads, isa=choose.isa, cache=choose.cache, budget=choose.budget, only="dense")
        only.packings = choose.packings
        dense = _built(engine.graph, only, rows, engine.given, dict(engine.facts), engine.nan)
        runs["engine, dense"] = lambda: dense.run(tensors)
    if "eager" in rivals:
        runs["torch eager"] = lambda: model(*args, **kwargs)
    if "compile" in rivals:
        compiled = torch.compile(model)
        runs["torch.compile"] = lambda: compiled(*args, **kwargs)
    times = turns(runs, engine.facts["threads"])
    best = min(times, key=lambda name: times[name])
    chosen = dense if best == "engine, dense" and dense is not None else engine
    chosen.facts["times"] = times
    if best == "engine, dense":
        chosen.facts["notes"] = [
            f"dense kernels throughout: the sparse ones took {times['engine'] / times[best]:.2f} x"
        ]
    elif best.startswith("torch"):
        ratio = times["engine"] / times[best]
        chosen.facts["backend"] = best
        chosen.facts["notes"] = [f"the model itself is called: {best} is {ratio:.2f} x as fast as the engine here"]
        return Engine(
            engine.graph, engine.steps, engine.given, engine.facts, nan=engine.nan,
            model=_Evaluated(compiled if best == "torch.compile" else model),
        )  # fmt: skip
    return chosen


class _Evaluated(nn.Module):
    """Calls a model in evaluation mode and leaves it in the mode it was in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = [model]  # not a child: its mode is its owner's

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with evaluating(self.inner[0]):
            return self.inner[0](*args, **kwargs)


def turns(runs: Mapping[str, Callable[[], object]], threads: int, seconds: float = 1.5) -> dict[str, float]:
    """Median seconds of each, called in turns for some time: at least 5 rounds, at most 50.

    A turn is three calls, of which the faster of the last two counts, and every other round goes backwards: what has to
    follow torch finds its threads still spinning and the caches full of something else, and must not be alone in that.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    names, before = list(runs), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in names * 2:
            runs[name]()
        began = time.perf_counter()
        for number in range(50):
            if number >= 5 and time.perf_counter() - began > seconds:
                break
            for name in names[:: -1 if number % 2 else 1]:
                calls = []
                for _ in range(3):
                    start = time.perf_counter()
                    runs[name]()
                    calls.append(time.perf_counter() - start)
                taken[name].append(min(calls[1:]))
    finally:
        torch.set_num_threads(before)
    return {name: median(times) for name, times in taken.items()}


def _profile(engine: Engine, tensors: Sequence[Tensor]) -> None:
    """Put the milliseconds of every op beside its name, and into the bytes that `save` writes."""
    known = dict(zip(engine.graph.inputs, tensors, strict=True))
    for step in engine.steps:
        if step.engine is None:
            made = run(step.graph, [known[name] for name in step.graph.inputs])
        else:
            arrays = [known[port.name].numpy() for port in step.engine.inputs]
            runs = [step.engine.profile(*arrays) for _ in range(PROFILES)]
            for layer, times in zip(step.engine.layers, zip(*runs, strict=True), strict=True):
                layer["ms"] = 1e3 * sorted(times)[len(times) // 4]
            for layer, joined in zip(step.engine.layers, step.engine.joined, strict=True):
                if joined:
                    layer["reason"] = "done together with the next layer, timed there"
            made = [torch.from_numpy(array) for array in step.engine.run(arrays)]
        known.update(zip(step.graph.outputs, made, strict=True))


# ------------------------------------------------------------------------------------------------------------- details
def _call(sample: Args) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(sample, Tensor):
        return (sample,), {}
    return ((), dict(sample)) if isinstance(sample, Mapping) else (tuple(sample), {})


def _in_double(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The outputs of a copy of the model in double precision."""
    made = lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    args, kwargs = pytree.tree_map(made, (args, kwargs))
    return _tensors_of(copy.deepcopy(model).double()(*args, **kwargs))


def _tensors_of(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _check_options(threads: int | None, rivals: Sequence[str], nan: str, sample: Any) -> None:
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SparselandError(f"threads must be at least 1, or None for all; got {threads!r}")
    if unknown := [name for name in rivals if name not in ("eager", "compile")]:
        raise SparselandError(f"unknown rival {unknown[0]!r}; possible: eager, compile")
    if nan not in ("pass", "error"):
        raise SparselandError(f"nan={nan!r}; possible: pass, error")
    if not isinstance(sample, Tensor | Mapping | Sequence) or isinstance(sample, str):
        raise SparselandError(f"sample is a tensor, a sequence or a mapping of them; got {type(sample).__name__}")
