"""``sparseland transport solve``: a plan from a file of costs and masses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport import OTResult

verbs = typer.Typer(no_args_is_help=True, help="Sparse optimal transport between two sets of masses.")
KEYS = ("a", "b", "M")


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.add_typer(verbs, name="transport")


@verbs.command("solve")
def solve(
    problem: Annotated[Path, typer.Argument(metavar="FILE", help=".npz with M (and a, b), or a .csv of costs.")],
    reg: Annotated[float, typer.Option("--reg", help="Weight of the regulariser, > 0.")],
    reg_type: Annotated[
        str, typer.Option("--reg-type", help="entropy, l2 or sparsity_constrained.")
    ] = "sparsity_constrained",
    max_nz: Annotated[int | None, typer.Option("--max-nz", help="Non-zeros per column, 1 … n.")] = None,
    axis: Annotated[str, typer.Option("--axis", help="Bound the non-zeros of each column or of each row.")] = "column",
    method: Annotated[str, typer.Option("--method", help="auto, dual, semi_dual, sinkhorn or sns.")] = "auto",
    tol: Annotated[float | None, typer.Option("--tol", help="When to stop.")] = None,
    max_iter: Annotated[int | None, typer.Option("--max-iter", help="When to give up.")] = None,
    a: Annotated[Path | None, typer.Option("--a", help=".csv of source masses; uniform without it.")] = None,
    b: Annotated[Path | None, typer.Option("--b", help=".csv of target masses; uniform without it.")] = None,
    drop_zero: Annotated[bool, typer.Option("--drop-zero", help="Leave out points without mass.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help=".npz (plan, u, v, value, …) or .csv (row, column, mass).")
    ] = None,
) -> None:
    """Solve one transport problem and say how well its marginals are met.

    [bold]Examples[/bold]

        sparseland transport solve problem.npz --reg 0.1 --max-nz 4 --out plan.npz
        sparseland transport solve costs.csv --a from.csv --b to.csv --reg 0.1 --max-nz 4 --out plan.csv
        sparseland transport solve problem.npz --reg-type entropy --reg 0.01 --tol 1e-9
    """
    from .. import transport

    if out is not None:
        _writable(out)
    given = _read(problem)
    for name, path in (("a", a), ("b", b)):
        if path is not None:
            given[name] = _numbers(path).reshape(-1)
    smooth = method not in ("sinkhorn", "sns") and (reg_type != "entropy" or method != "auto")
    options: dict[str, Any] = {"reg_type": reg_type, "max_nz": max_nz, "axis": axis, "method": method, "tol": tol}
    options |= {"max_iter": max_iter, "drop_zero": drop_zero}
    with _Bar(smooth) as progress:
        result = transport.solve(given.get("a"), given.get("b"), given["M"], reg, progress=progress, **options)
    _say(problem.name, result)
    if out is not None:
        _write(out, result)


class _Bar:
    """A line on standard error that shows iterations, value and gradient while the solver runs."""

    def __init__(self, shown: bool) -> None:
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        from .screen import errors

        console = errors()
        self.bar = Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True)
        self.task = self.bar.add_task("solving")
        self.shown = shown and console.is_terminal

    def __enter__(self) -> Callable[[dict[str, Any]], object] | None:
        if self.shown:
            self.bar.start()
        return self._show if self.shown else None

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.stop()

    def _show(self, entry: dict[str, Any]) -> None:
        words = f"iteration {entry['iteration']}, value {entry['value']:.8g}, gradient {entry['gradient']:.1e}"
        self.bar.update(self.task, description=words)


def _read(path: Path) -> dict[str, Any]:
    """{"M": …} and, where the file has them, "a" and "b"."""
    import numpy as np

    from ..core.errors import DataNotFound, SparselandError, nearest

    if not path.is_file():
        raise DataNotFound(f"no file {path}")
    if path.suffix != ".npz":
        return {"M": _numbers(path)}
    try:
        with np.load(path, allow_pickle=False) as held:
            found = {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError) as error:
        raise SparselandError(f"{path} cannot be read as .npz: {error}") from error
    if unknown := sorted(set(found) - set(KEYS)):
        raise SparselandError(f"{path} holds {unknown[0]!r}: {nearest(unknown[0], KEYS)}")
    if "M" not in found:
        raise SparselandError(
            f"{path} holds no M, the matrix of costs; it holds {', '.join(sorted(found)) or 'nothing'}"
        )
    return found


def _numbers(path: Path) -> Any:
    """The numbers of a .csv file, a row per line."""
    import warnings

    import numpy as np

    from ..core.errors import DataNotFound, SparselandError

    if not path.is_file():
        raise DataNotFound(f"no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file is told below
            found = np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise SparselandError(f"{path} is not a .csv of numbers without a header: {error}") from error
    if found.size == 0:
        raise SparselandError(f"{path} holds no numbers")
    return found


def _writable(out: Path) -> None:
    from ..core.errors import OutputError

    if out.suffix not in (".npz", ".csv"):
        raise OutputError(f"--out ends in .npz or .csv; got {out.name!r}")
    if not out.parent.is_dir():
        raise OutputError(f"no folder {out.parent}")


def _say(name: str, result: OTResult) -> None:
    from .screen import screen, table

    rows = [
        ["value", f"{float(result.value):.10g}"],
        ["cost <T, M>", f"{float(result.value_linear):.10g}"],
        ["status", f"{result.status} after {result.n_iter} iterations"],
        ["non-zeros", f"{int(result.nnz):,}"],
        ["row error, column error", f"{float(result.row_error):.2e}, {float(result.col_error):.2e}"],
        ["feasible", "yes" if result.feasible else "no"],
    ]
    shape = " x ".join(str(size) for size in result.plan.shape)
    screen().print(table(f"{name}, {shape}", ["", ""], rows))


def _write(out: Path, result: OTResult) -> None:
    import io

    import numpy as np

    from ..files import write_file
    from .screen import screen

    if out.suffix == ".csv":
        plan = result.sparse_plan
        (rows, columns), masses = plan.indices().tolist(), plan.values().tolist()
        lines = [f"{i},{j},{mass!r}\n" for i, j, mass in zip(rows, columns, masses, strict=True)]
        data = "".join(["row,column,mass\n", *lines]).encode()
    else:
        held = io.BytesIO()
        np.savez(
            held, plan=result.dense_plan.numpy(), u=result.potential_a.numpy(), v=result.potential_b.numpy(),
            value=float(result.value), value_linear=float(result.value_linear), status=result.status,
            n_iter=result.n_iter, row_error=float(result.row_error), col_error=float(result.col_error),
        )  # fmt: skip
        data = held.getvalue()
    write_file(out, lambda file: file.write(data))
    screen().print(f"written: {out}")
