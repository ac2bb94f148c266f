"""What zeros are worth in y = W x on this device: dense, masked, CSR and compacted, taking turns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from ..account import summary, take_turns
from ..core.errors import SparselandError

if TYPE_CHECKING:
    import torch

SLICE = 1e-3  # seconds a timed call should take at least; short products are repeated within it
Call = Callable[[], Any]


def measure(
    shape: tuple[int, int] = (1024, 1024),
    batch: int = 1,
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95, 0.99),
    *,
    device: str = "cpu",
    rounds: int = 31,
    tries: int = 3,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """The speed-up over dense of each form, per sparsity: the median over rounds of t_dense / t_form.

    "masked" is the dense product with zeros in W, "compacted" keeps as many rows as give the same FLOPs; all in
    float32, on as many threads as torch has.

    Parameters:
        shape: (outputs, inputs) of the layer, each ≥ 1.
        batch: columns of x, ≥ 1.
        sparsities: each in (0, 1).
        device: as torch names it.
        rounds: timed turns of every form, ≥ 2; tries: how often a row that is not stable is measured, ≥ 1.
        clock: for tests.

    Returns:
        Rows {"shape", "batch", "sparsity", "device", "speedup": {form: ratio}, "stable"}; "stable" is False where
        p90 / p10 of any form exceeds 1.5: such a row says nothing.

    Raises:
        SparselandError: a value out of its range, or a device that is not there.

    >>> row = measure((64, 64), 1, (0.9,), rounds=3)[0]
    >>> sorted(row["speedup"]), row["sparsity"]
    (['compacted', 'csr', 'masked'], 0.9)
    """
    if min(*shape, batch, tries) < 1 or rounds < 2 or not all(0 < s < 1 for s in sparsities):
        raise SparselandError(
            f"shape {shape}, batch {batch}, rounds {rounds}, tries {tries}, sparsities {tuple(sparsities)}; possible: "
            f"sizes, batch and tries >= 1, rounds >= 2, sparsities in (0, 1)"
        )
    place, name = _place(device)
    rows = []
    for sparsity in sparsities:
        for _ in range(tries):
            times = _turns(_forms(shape, batch, sparsity, place, seed), rounds, clock, place)
            stable = all(form["stable"] for form in summary(times, "dense").values())
            if stable:
                break
        ratios = {form: [d / t for d, t in zip(times["dense"], taken, strict=True)] for form, taken in times.items()}
        speedup = {form: median(found) for form, found in ratios.items() if form != "dense"}
        about = {"shape": list(shape), "batch": batch, "sparsity": sparsity, "device": name}
        rows.append({**about, "speedup": speedup, "stable": stable})
    return rows


def _place(device: str) -> tuple[torch.device, str]:
    """The device and what it is called; SparselandError if it is not there."""
    import torch

    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        possible = ", ".join(["cpu", *(name for name in ("cuda", "mps") if _is_there(name))])
        raise SparselandError(f"device {device!r} cannot be used here; possible: {possible}") from error
    return place, torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def _is_there(name: str) -> bool:
    import torch

    return bool(torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available())


def _forms(shape: tuple[int, int], batch: int, sparsity: float, device: torch.device, seed: int) -> dict[str, Call]:
    """The products by name; masked and CSR hold the same random zeros."""
    import torch

    rows, columns = shape
    draw = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(rows, columns, generator=draw), torch.randn(columns, batch, generator=draw)
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[torch.randperm(rows * columns, generator=draw)[: round((1 - sparsity) * rows * columns)]] = True
    weight, x = weight.to(device), x.to(device)
    masked = weight * mask.view(rows, columns).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that CSR is in beta
        matrices: dict[str, Any] = {
            "dense": weight,
            "masked": masked,
            "csr": masked.to_sparse_csr(),
            "compacted": weight[: max(1, round((1 - sparsity) * rows))].contiguous(),
        }
    return {name: partial(torch.matmul, matrix, x) for name, matrix in matrices.items()}


def _turns(
    calls: Mapping[str, Call], rounds: int, clock: Callable[[], float], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every call; short ones are repeated within a turn, often enough for the clock."""
    import torch

    def repeated(call: Call, times: int) -> None:
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed(call: Call) -> float:
        repeated(call, 2)
        began = clock()
        repeated(call, 1)
        return clock() - began

    with torch.inference_mode():
        often = {name: max(1, min(10_000, round(SLICE / max(timed(call), 1e-7)))) for name, call in calls.items()}
        turns = {name: partial(repeated, call, often[name]) for name, call in calls.items()}
        times = take_turns(turns, rounds=rounds, warm_up=0, clock=clock)
    return {name: [seconds / often[name] for seconds in taken] for name, taken in times.items()}


def crossover(rows: Sequence[Mapping[str, Any]], form: str) -> float | None:
    """The least measured sparsity from which on a form is faster than dense; None if it never is, or nobody can say.

    Rows that were not stable count as not faster.

    Parameters:
        rows: of `measure`, one shape and batch; form: "csr", "compacted" or "masked".

    >>> rows = [{"sparsity": s, "speedup": {"csr": v}, "stable": True} for s, v in ((0.5, 0.3), (0.9, 1.2), (0.99, 5))]
    >>> crossover(rows, "csr"), crossover(rows, "compacted")
    (0.9, None)
    """
    found = None
    for row in sorted(rows, key=lambda row: -row["sparsity"]):
        if form not in row["speedup"]:
            continue
        if not row["stable"] or row["speedup"][form] <= 1:
            break
        found = row["sparsity"]
    return found
