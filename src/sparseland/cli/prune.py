"""``sparseland prune``: make saved weights sparse, once, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from ..data import Dataset
    from ..weights.method import Method

BATCHES = 8  # of 128 train images each, for methods that measure


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("prune")(prune)


def prune(
    weights: Annotated[Path, typer.Argument(metavar="MODEL.safetensors", help="The weights, plain or packed.")],
    model: Annotated[str, typer.Option("--model", help="The architecture they belong to, as in resnet-20.")],
    out: Annotated[Path, typer.Option("--out", help="Where the sparse weights are written.")],
    method: Annotated[str, typer.Option("--method", help="Which method decides.")] = "magnitude",
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Fraction of zeros, in [0, 1).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="method.NAME=VALUE", help="A hyperparameter, as in method.pattern=2:4."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Measure accuracy before and after on it.")] = None,
    folder: Annotated[str | None, typer.Option("--folder", help="The data folder.", envvar="SPARSELAND_DATA")] = None,
    shape: Annotated[str | None, typer.Option("--shape", help="Of one image, as in 3x32x32 (without --data).")] = None,
    classes: Annotated[int | None, typer.Option("--classes", help="Number of classes (without --data).")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="What to prune: names or patterns.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="What to leave dense.")] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Write the packed format: a smaller file.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
) -> None:
    """Make saved weights sparse in one shot, and say what that costs.

    Nothing is trained. With --data, accuracy on validation and test is measured before and after.

    [bold]Examples[/bold]

        sparseland prune best.safetensors --model resnet-20 --sparsity 0.5 --data cifar10-jpeg --out half.safetensors
        sparseland prune best.safetensors --model lenet-5 --shape 1x28x28 --classes 10 --set method.pattern=2:4 \
--sparsity 0.5 --out 24.safetensors
    """
    from .. import prune_, zoo
    from ..core.errors import DataNotFound
    from .weights_file import fill, read, write

    if not weights.is_file():
        raise DataNotFound(f"no weights at {weights}")
    chosen = _method(method, sparsity, settings or [])
    dataset = _dataset(data, folder, seed)
    in_shape, outputs = (dataset.shape, dataset.classes) if dataset else _shape(shape, classes)
    net = zoo.build(model, in_shape=in_shape, classes=outputs, seed=seed)
    fill(net, weights)
    before = _accuracies(net, dataset)
    masks = prune_(net, chosen, _batches(dataset, seed), targets=target, ignore=ignore, seed=seed)
    after = _accuracies(net, dataset)
    write(out, net.state_dict(), packed)
    _say(weights, out, chosen, masks.kept(), masks.numel(), before, after, read(out))


def _method(name: str, sparsity: float | None, settings: list[str]) -> Method:
    from ..core.errors import RecipeError
    from ..recipes import override
    from ..train import compose

    chosen: dict[str, Any] = {"name": name, **({} if sparsity is None else {"sparsity": sparsity})}
    method: Method = compose(override({"method": chosen}, settings)["method"]).method
    if method.target_sparsity == 0:
        raise RecipeError(f"method {name!r} keeps everything (sparsity 0): give a --sparsity above 0, as in 0.9")
    return method


def _dataset(name: str | None, folder: str | None, seed: int) -> Dataset | None:
    from .. import data

    return None if name is None else data.load(name, folder=folder, seed=seed)


def _shape(text: str | None, classes: int | None) -> tuple[tuple[int, int, int], int]:
    from ..core.errors import RecipeError

    parts = (text or "").lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or classes is None:
        raise RecipeError(
            f"without --data the model's shape must be told: --shape CxHxW --classes N, as in --shape 3x32x32 "
            f"--classes 10; got --shape {text} --classes {classes}"
        )
    return (int(parts[0]), int(parts[1]), int(parts[2])), classes


def _batches(dataset: Dataset | None, seed: int) -> list[Any] | None:
    """A few batches of train images, for methods that measure."""
    if dataset is None:
        return None
    from itertools import islice

    from ..data import batches

    return list(
        islice(batches(dataset.train, 128, mean=dataset.mean, std=dataset.std, shuffle=True, seed=seed), BATCHES)
    )


def _accuracies(net: nn.Module, dataset: Dataset | None) -> dict[str, float]:
    if dataset is None:
        return {}
    from ..train import evaluate

    numbers = {"classes": dataset.classes, "mean": dataset.mean, "std": dataset.std}
    return {split: evaluate(net, dataset.split(split), **numbers)["accuracy"] for split in ("validation", "test")}


def _say(
    source: Path, out: Path, method: Method, kept: int, total: int, before: dict[str, float], after: dict[str, float],
    state: dict[str, Any],
) -> None:  # fmt: skip
    from ..deploy import dense_bytes, packed_bytes
    from ..reports.numbers import percent, scaled
    from .screen import screen, table

    to = screen()
    to.print(str(method))
    if before:
        rows = [[split, percent([before[split]]), percent([after[split]])] for split in before]
        to.print(table("Accuracy", ["split", "before", "after"], rows))
    to.print(f"kept {kept:,} of {total:,} weights (sparsity {1 - kept / total:.4f})")
    to.print(f"{source}: {source.stat().st_size:,} bytes -> {out}: {out.stat().st_size:,} bytes")
    to.print(f"weights: {scaled(dense_bytes(state), 'B')} dense, {scaled(packed_bytes(state), 'B')} packed")
