"""``sparseland export``: weights as plain safetensors, which everything reads, or packed, which are small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("export")(export)


def export(
    source: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Weights, packed or plain.")],
    to: Annotated[str, typer.Option("--to", help="dense: plain safetensors; packed: the small form.")],
    out: Annotated[Path, typer.Option("--out", help="The file, or for a folder the folder, that is written.")],
    shard_bytes: Annotated[
        str | None, typer.Option("--shard-bytes", help="Split into files of at most so much, as in 2GB.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Turn packed weights into plain ones, or plain into packed, bit by bit the same values.

    Plain weights are as [bold]save_pretrained[/bold] writes them, without a word about sparsity. Of a folder,
    config.json and the tokenizer's files come along, so that [bold]from_pretrained[/bold] loads the result.

    [bold]Examples[/bold]

        sparseland export small.safetensors --to dense --out plain.safetensors
        sparseland export my-model --to packed --shard-bytes 2GB --out my-model-packed
        sparseland export my-model-packed --to dense --out my-model-again
    """
    from .. import deploy
    from ..core.errors import RecipeError, nearest
    from ..reports.numbers import scaled
    from .screen import screen

    ways = {"dense": deploy.export_dense, "packed": deploy.export_packed}
    if to not in ways:
        raise RecipeError(f"cannot export to {to!r}; {nearest(to, ways)}")
    before = weights_bytes(source)
    with _Bar() as bar:
        after = ways[to](source, out, shard_bytes=shard_bytes, overwrite=overwrite, progress=bar)
    screen().print(f"{source}: {scaled(before, 'B')} -> {out}: {scaled(after, 'B')} {to} ({after / before:.3f} of it)")


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
