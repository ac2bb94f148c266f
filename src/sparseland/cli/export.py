"""``sparseland export``: weights as plain or packed safetensors, a model as an engine file or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

WEIGHTS, MODELS = ("dense", "packed"), ("engine", "onnx")


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("export")(export)


def export(
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Weights, packed or plain; or an ONNX file.")],
    to: Annotated[str, typer.Option("--to", help="dense: plain safetensors; packed: the small form; engine; onnx.")],
    out: Annotated[Path, typer.Option("--out", help="The file, or for a folder the folder, that is written.")],
    shard_bytes: Annotated[
        str | None, typer.Option("--shard-bytes", help="Split into files of at most so much, as in 2GB.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="engine, onnx: the architecture of the weights, as in mobilenet-v1.")
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="engine, onnx: of one image.")] = "3x32x32",
    classes: Annotated[int, typer.Option("--classes", help="engine, onnx: number of classes.")] = 10,
    tokens: Annotated[int, typer.Option("--tokens", help="engine, onnx: of one text.")] = 128,
    batch: Annotated[int, typer.Option("--batch", help="engine, onnx: images or texts at once.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", help="engine: to measure with; all.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="engine: choose kernels by timing, or by the cost model.")
    ] = True,
) -> None:
    """Turn packed weights into plain ones, or plain into packed, bit by bit the same values; or a model into a program.

    Plain weights are as [bold]save_pretrained[/bold] writes them, without a word about sparsity. Of a folder,
    config.json and the tokenizer's files come along, so that [bold]from_pretrained[/bold] loads the result.
    An engine file runs without torch (sparseland.deploy.runtime) and is fast on the machine it was measured on.

    [bold]Examples[/bold]

        sparseland export small.safetensors --to dense --out plain.safetensors
        sparseland export my-model --to packed --shard-bytes 2GB --out my-model-packed
        sparseland export my-model-packed --to dense --out my-model-again
        sparseland export small.safetensors --to engine --model mobilenet-v1 --shape 3x224x224 --classes 1000 \\
--out m.sland
        sparseland export small.safetensors --to onnx --model resnet-20 --out m.onnx
        sparseland export m.onnx --to engine --out m.sland
    """
    from .. import deploy
    from ..core.errors import RecipeError, nearest
    from ..reports.numbers import scaled
    from .screen import screen

    if to in MODELS:
        options = {"batch": batch, "tokens": tokens, "classes": classes, "shape": shape, "settings": []}
        _program(source, to, out, overwrite, model, options, {"threads": threads, "measure": measure})
        return
    if to not in WEIGHTS:
        raise RecipeError(f"cannot export to {to!r}; {nearest(to, (*WEIGHTS, *MODELS))}")
    way = deploy.export_dense if to == "dense" else deploy.export_packed
    before = weights_bytes(source)
    with _Bar() as bar:
        after = way(source, out, shard_bytes=shard_bytes, overwrite=overwrite, progress=bar)
    screen().print(f"{source}: {scaled(before, 'B')} -> {out}: {scaled(after, 'B')} {to} ({after / before:.3f} of it)")


def _program(
    source: Path, to: str, out: Path, overwrite: bool, name: str | None, options: dict[str, Any], how: dict[str, Any]
) -> None:
    """A model with its weights, or an ONNX file, as an engine file or as ONNX."""
    from .. import deploy
    from ..core.errors import DataNotFound, OutputError, RecipeError
    from ..reports.numbers import scaled
    from .bench import build
    from .screen import errors, screen
    from .weights_file import fill

    source, out = source.expanduser(), out.expanduser()
    if not source.exists():
        raise DataNotFound(f"no weights at {source}")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; --overwrite replaces it")
    out.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".onnx":
        net: Any = deploy.from_onnx(source, batch=options["batch"])
        sample: Any = None
    elif name is None:
        raise RecipeError(f"--to {to} must know what the weights belong to: give --model, as in --model mobilenet-v1")
    else:
        net, sample = build(name, options)
        fill(net, source)
    if to == "onnx":
        deploy.to_onnx(net, out, sample)
        screen().print(f"{source} -> {out}: {scaled(out.stat().st_size, 'B')} ONNX")
        return
    screen_of = errors()
    say = (lambda text: screen_of.print(text, style="dim")) if screen_of.is_terminal else None
    engine = deploy.convert(net, sample, never_slower=False, progress=say, **how)
    size = engine.save(out)
    screen().print(f"{source} -> {out}: {scaled(size, 'B')} engine; sparseland inspect {out} shows what is in it")


def weights_bytes(place: Path) -> int:
    """Bytes of a weights file, or of all in a folder.

    Raises:
        DataNotFound: there are none.
    """
    from ..core.errors import DataNotFound

    place = place.expanduser()
    if place.suffix == ".json" and place.is_file():
        place = place.parent
    files = list(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files or not all(file.is_file() for file in files):
        raise DataNotFound(f"no weights at {place}: give a .safetensors file or a folder that holds some")
    return max(sum(file.stat().st_size for file in files), 1)


class _Bar:
    """A progress bar on standard error while tensors are written; nothing where nobody watches."""

    def __enter__(self) -> _Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from .screen import errors

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tensors"))
        to = errors()
        self._bar = Progress(*columns, console=to, transient=True, disable=not to.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task("reading", total=None)
        return self

    def __call__(self, file: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=file, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
