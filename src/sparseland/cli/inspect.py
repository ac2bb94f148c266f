"""``sparseland inspect``: what is in a weights file, an engine file, a run or a model, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ..deploy import Info
    from ..reports.layers import Layer

COLUMNS = ["tensor", "shape", "zeros form", "kept", "of", "sparsity", "dense", "packed"]
STORED = ["stored as", "in the file"]  # of packed files


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("inspect")(inspect)


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="FILE|RUN|MODEL", help="A .safetensors or .sland file, a run's folder, or a name.")
    ],
    shape: Annotated[str, typer.Option("--shape", help="Of one image, for a model's name.")] = "3x32x32",
    classes: Annotated[int, typer.Option("--classes", help="Number of classes, for a model's name.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show per layer: shape, weights kept, sparsity, the patterns its zeros satisfy, bytes dense and packed.

    [bold]Examples[/bold]

        sparseland inspect runs/digits/best.safetensors
        sparseland inspect small.safetensors             packed: also the form of each tensor
        sparseland inspect m.sland                       an engine: every op and its kernel
        sparseland inspect runs/digits
        sparseland inspect runs/demo                     a comparison: its table again
        sparseland inspect resnet-20 --shape 3x32x32
    """
    path = Path(what).expanduser()
    if (path / "run.json").is_file() and not (path / "best.safetensors").is_file():
        _comparison(path, as_json)
        return
    from .. import deploy

    if deploy.is_engine(path):
        from .inspect_engine import show_engine

        show_engine(path, as_json)
        return
    title, state = _weights(what, path, shape, classes)
    from ..reports.layers import layers

    rows, info = layers(state), _packed(path)
    if as_json:
        typer.echo(json.dumps([_plain(row, info) for row in rows], indent=1))
    else:
        _say(title, rows, state, info)


def _weights(what: str, path: Path, shape: str, classes: int) -> tuple[str, dict[str, Tensor]]:
    from ..core.errors import DataNotFound
    from .weights_file import read

    if path.is_file() or (path.is_dir() and _packed(path)):
        return str(path), read(path)
    if path.is_dir():
        best = path / "best.safetensors"
        if not best.is_file():
            raise DataNotFound(
                f"{path} holds no best.safetensors, run.json or packed weights: no run of ours, or not finished"
            )
        return _of_run(path), read(best)
    if path.suffix or ("/" in what and not what.startswith("hf:")):
        raise DataNotFound(f"no file or folder {what!r}")
    from .. import zoo
    from .prune import _shape

    in_shape, outputs = _shape(shape, classes)
    return f"{what} (freshly initialised)", zoo.build(what, in_shape=in_shape, classes=outputs, seed=0).state_dict()


def _packed(path: Path) -> Info | None:
    """What a packed file or folder says of its tensors; None for anything else."""
    from .. import deploy

    return deploy.describe(path) if path.exists() and deploy.is_packed(path) else None


def _of_run(path: Path) -> str:
    """The folder's name and, where the run is finished, what came out of it."""
    from ..reports.record import read_json

    if not (path / "result.json").is_file():
        return f"{path} (not finished)"
    result = read_json(path / "result.json")
    config = result["config"]
    return (
        f"{path}: {config['model']} on {config['data']}, method {result['method']['name']}, seed {result['seed']}, "
        f"test accuracy {result['test']['accuracy']:.2%}"
    )


def _comparison(path: Path, as_json: bool) -> None:
    from ..reports.record import read_record
    from .compare import show

    record = read_record(path / "run.json")
    if as_json:
        typer.echo(json.dumps(record["aggregate"], indent=1))
    else:
        show(record)


def _plain(row: Layer, info: Info | None) -> dict[str, Any]:
    from dataclasses import asdict

    made = {**asdict(row), "sparsity": row.sparsity}
    for one in info.tensors if info else ():
        if one.name == row.name:
            made |= {"form": one.form, "stored": one.stored}
    return made


def _say(title: str, rows: list[Layer], state: dict[str, Tensor], info: Info | None) -> None:
    from ..deploy import dense_bytes, packed_bytes
    from ..reports.numbers import scaled
    from .screen import screen, table

    cells = [
        [
            row.name, " × ".join(map(str, row.shape)) or "scalar", ", ".join(row.patterns) or _plainly(row),
            f"{row.kept:,}", f"{row.total:,}", f"{row.sparsity:.4f}", scaled(row.dense, "B"), scaled(row.packed, "B"),
        ]
        for row in rows
    ]  # fmt: skip
    if info is not None:
        stored = {one.name: [one.form, scaled(one.stored, "B")] for one in info.tensors}
        cells = [[*cell, *stored[row.name]] for cell, row in zip(cells, rows, strict=True)]
    screen().print(title, style="bold", soft_wrap=True)  # a table's title is wrapped to the table's width
    screen().print(table("", [*COLUMNS, *(STORED if info else [])], cells, left=3))
    kept, total = sum(row.kept for row in rows), sum(row.total for row in rows)
    matrices = [row for row in rows if len(row.shape) >= 2]
    inside, of = sum(row.kept for row in matrices), sum(row.total for row in matrices)
    screen().print(
        f"all tensors: {kept:,} of {total:,} ({1 - kept / max(total, 1):.4f} zeros); "
        f"matrices and kernels: {inside:,} of {of:,} ({1 - inside / max(of, 1):.4f} zeros)"
    )
    screen().print(f"bytes: {dense_bytes(state):,} dense, {packed_bytes(state):,} as a packed file")
    if info is not None:
        files = f"{len(info.files)} file{'s' if len(info.files) > 1 else ''}"
        screen().print(f"packed, version {info.version} of the format: {info.bytes:,} bytes in {files}")


def _plainly(row: Layer) -> str:
    if row.kept == row.total:
        return "none"
    return "all zero" if row.kept == 0 else "unstructured"
