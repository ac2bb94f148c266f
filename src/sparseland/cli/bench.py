"""``sparseland bench``: what a model's zeros are worth on this machine, in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

COLUMNS = ["", "median ms", "10 %", "90 %", "times torch eager"]


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("bench")(bench)


def bench(
    what: Annotated[str, typer.Argument(metavar="MODEL|FILE", help="A model's name, a .sland or an .onnx file.")],
    sparsity: Annotated[float, typer.Option("--sparsity", help="Fraction of zeros, in [0, 1).")] = 0.9,
    batch: Annotated[int, typer.Option("--batch", help="Images or texts at once.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", help="Of the engine and of torch; all.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Timed calls of each.")] = 30,
    shape: Annotated[str, typer.Option("--shape", help="Of one image.")] = "3x224x224",
    tokens: Annotated[int, typer.Option("--tokens", help="Of one text.")] = 128,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes.")] = 1000,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the model, as in hidden_size=64."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Choose kernels by timing, or by the cost model.")
    ] = True,
    layers: Annotated[bool, typer.Option("--layers", help="Also show every layer of the sparse engine.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write everything as JSON.")] = None,
) -> None:
    """Time torch, the engine with dense weights and the engine with sparse weights, in turns.

    The weights of a model's name are random; the smallest are set to zero, as many in every layer (of convolutions that
    mix more than four channels, and of linear layers). Files are timed as they are.

    [bold]Examples[/bold]

        sparseland bench mobilenet-v1 --sparsity 0.9 --threads 2
        sparseland bench hf:config:bert --tokens 128 --set num_hidden_layers=6 --set hidden_size=384
        sparseland bench m.sland --layers
    """
    from ..account.timing import summary, take_turns

    _check(sparsity, batch, rounds)
    path = Path(what).expanduser()
    if path.suffix in (".sland", ".onnx") or path.is_file():
        rivals, said, explained = _file(path, batch, threads, measure)
    else:
        options = {"batch": batch, "tokens": tokens, "classes": classes, "shape": shape, "settings": settings or []}
        rivals, said, explained = _model(what, sparsity, threads, measure, options)
    said |= {"sparsity": sparsity if "torch eager" in rivals else None, "rounds": rounds}
    times = take_turns(rivals, rounds=rounds, warm_up=2)
    found = summary(times, "torch eager" if "torch eager" in rivals else next(iter(rivals)))
    _say(what, said, found, explained() if layers else None)
    if out is not None:
        _write(out, {"what": what, **said, "times": found, "seconds": times})


def _check(sparsity: float, batch: int, rounds: int) -> None:
    from ..core.errors import RecipeError

    if not 0 <= sparsity < 1:
        raise RecipeError(f"--sparsity is a fraction in [0, 1); got {sparsity}")
    if batch < 1 or rounds < 1:
        raise RecipeError(f"--batch and --rounds are at least 1; got {batch} and {rounds}")


def _file(path: Path, batch: int, threads: int | None, measure: bool) -> Any:
    """An engine file as it is, or an ONNX file with and without sparse kernels."""
    from .. import deploy
    from ..core.errors import DataNotFound

    if not path.is_file():
        raise DataNotFound(f"no file {path}")
    if path.suffix != ".onnx":
        from ..deploy import runtime

        engine = runtime.load(path, threads=threads)
        arrays = [made_up(port) for port in engine.inputs]
        said = {"threads": engine.threads, "isa": engine.isa}
        return {"engine": lambda: engine.run(arrays)}, said, deploy.load_engine(path).explain
    graph = deploy.from_onnx(path, batch=batch)
    made = deploy.convert(graph, threads=threads, measure=measure, never_slower=False)
    tensors = _given(graph)
    said = {"threads": made.facts["threads"], "isa": made.facts["isa"]}
    return {"engine": lambda: made.run(tensors)}, said, made.explain


def _given(graph: Any) -> list[Tensor]:
    import torch

    return [torch.from_numpy(made_up(graph.values[name])) for name in graph.inputs]


def made_up(port: Any) -> Any:
    """An array for an input: standard normal numbers, ids 0 and 1, masks all true."""
    import numpy as np

    rng = np.random.default_rng(0)
    if port.dtype == "int64":
        return rng.integers(0, 2, port.shape)
    if port.dtype == "bool":
        return np.ones(port.shape, bool)
    return rng.standard_normal(port.shape, dtype=np.float32)


def _model(name: str, sparsity: float, threads: int | None, measure: bool, options: dict[str, Any]) -> Any:
    import torch

    from .. import deploy

    model, sample = build(name, options)
    if threads:
        torch.set_num_threads(threads)
    plain = deploy.convert(model, sample, threads=threads, measure=measure, never_slower=False)
    if sparsity:
        zeroed(model, sparsity)
        sparse = deploy.convert(model, sample, threads=threads, measure=measure, never_slower=False)
    else:
        sparse = plain
    model.eval()

    def eager() -> None:
        with torch.no_grad():
            model(*sample)

    rivals = {"torch eager": eager, "engine, dense": lambda: plain(*sample)}
    if sparsity:
        rivals["engine, sparse"] = lambda: sparse(*sample)
    facts = sparse.facts
    said = {"batch": options["batch"], "threads": facts["threads"], "isa": facts["isa"], "cpu": facts["cpu"],
            "torch": facts["torch"], "engine": sparse.report()}  # fmt: skip
    return rivals, said, sparse.explain


def build(name: str, options: dict[str, Any]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model in evaluation mode, and what it is called with."""
    import torch

    from .. import zoo
    from ..recipes.yaml_text import read_yaml
    from .prune import _shape

    in_shape, outputs = _shape(options["shape"], options["classes"])
    entries = dict(_entry(text, read_yaml) for text in options["settings"])
    model = zoo.build(name, in_shape=in_shape, classes=outputs, seed=0, **entries).eval()
    if getattr(model, "main_input_name", "pixel_values") == "input_ids":
        generator = torch.Generator().manual_seed(0)
        words = int(getattr(model.config, "vocab_size", 2))
        return model, (torch.randint(0, words, (options["batch"], options["tokens"]), generator=generator),)
    return model, (torch.randn(options["batch"], *in_shape, generator=torch.Generator().manual_seed(0)),)


def _entry(text: str, read: Callable[[str], Any]) -> tuple[str, Any]:
    from ..core.errors import RecipeError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set takes NAME=VALUE, as in hidden_size=64; got {text!r}")
    return name, read(value)


def zeroed(model: nn.Module, sparsity: float) -> None:
    """Set the smallest weights of every layer to zero, in place: convolutions that mix channels, and linear layers."""
    from torch import nn

    from .. import methods, prune_

    targets = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.weight.shape[1] > 4)  # not depthwise, not the first of an image
    ]
    prune_(model, methods.Magnitude(sparsity, allocation="uniform"), targets=targets)


def _say(what: str, said: dict[str, Any], found: dict[str, dict[str, Any]], explained: str | None) -> None:
    from .screen import screen, table

    words = [what] + ([] if said["sparsity"] is None else [f"{said['sparsity']:.0%} zeros"])
    words += ([f"batch {said['batch']}"] if "batch" in said else []) + [f"{said['threads']} threads", str(said["isa"])]
    rows = [
        [name, *(f"{1e3 * one[key]:.3f}" for key in ("median", "p10", "p90")), _times(name, one["ratio"])]
        for name, one in found.items()
    ]
    to = screen()
    to.print(table(", ".join(words), COLUMNS if "torch eager" in found else COLUMNS[:4], _cut(rows, found)))
    if unstable := [name for name, one in found.items() if not one["stable"]]:
        to.print(f"the machine was busy: {', '.join(unstable)} varied by more than half")
    if explained is not None:
        to.print(explained, soft_wrap=True)


def _times(name: str, ratio: float) -> str:
    return "" if name == "torch eager" or not ratio else f"{1 / ratio:.2f} x as fast"


def _cut(rows: Sequence[list[str]], found: dict[str, Any]) -> list[list[str]]:
    return [row if "torch eager" in found else row[:4] for row in rows]


def _write(out: Path, data: dict[str, Any]) -> None:
    from ..files import write_json
    from .screen import screen

    out = out.expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, data)
    screen().print(f"written: {out}")
