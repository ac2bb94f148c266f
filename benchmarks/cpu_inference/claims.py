"""What is claimed of the measurements, and whether it holds: numbers in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
# (model, sparsity, rival, times as fast as it), all at batch 1
GOALS = (
    ("mobilenet-v1", 0.9, "deepsparse", 1.5), ("mobilenet-v2", 0.9, "deepsparse", 1.5),
    ("imagenet-resnet-50", 0.9, "deepsparse", 1.5), ("minilm", 0.9, "deepsparse", 1.5),
    ("mobilenet-v1", 0.9, "onnxruntime", 6.0), ("imagenet-resnet-50", 0.9, "onnxruntime", 3.5),
)  # fmt: skip
DENSE = 0.95  # times as fast as ONNX Runtime at 0 %
NEVER = 1.03  # at worst this much of the best of torch, torch.compile and our own dense
AGREE = 1e-3
OF_PEAK = 0.6  # of the measured multiply-add peak, on non-zeros of 1×1 layers that fit L2
L2 = 1 << 20  # bytes of one core's second cache, where the system does not say
CROSSOVER = 0.6  # sparsity from which sparse beats our own dense on 1×1 layers


def seconds(row: Row | None, engine: str) -> float | None:
    """Median of an engine in a cell, if it was measured."""
    return None if row is None else row["engines"].get(engine, {}).get("median")


def find(rows: list[Row], model: str, sparsity: float, batch: int = 1) -> Row | None:
    """The cell."""
    wanted = (model, sparsity, batch)
    return next((row for row in rows if (row["model"], row["sparsity"], row["batch"]) == wanted), None)


def claims(rows: list[Row]) -> list[Row]:
    """Every claim with what was found; ``holds`` is None where the cell was not measured."""
    return [*_goals(rows), *_dense(rows), *_never(rows), *_layers(rows), *_agree(rows)]


def _claim(text: str, found: float | None, wanted: float, most: bool = False) -> Row:
    holds = None if found is None else (found <= wanted if most else found >= wanted)
    return {"claim": text, "wanted": wanted, "found": None if found is None else float(f"{found:.4g}"), "holds": holds}


def _goals(rows: list[Row]) -> Iterator[Row]:
    for model, sparsity, rival, wanted in GOALS:
        row = find(rows, model, sparsity)
        ours, theirs = seconds(row, "ours"), seconds(row, rival)
        found = theirs / ours if ours and theirs else None
        yield _claim(f"{model} at {sparsity:.0%}, batch 1: at least {wanted} × as fast as {rival}", found, wanted)


def _dense(rows: list[Row]) -> Iterator[Row]:
    for model in dict.fromkeys(row["model"] for row in rows):
        row = find(rows, model, 0.0)
        ours, theirs = seconds(row, "ours"), seconds(row, "onnxruntime")
        found = theirs / ours if ours and theirs else None
        yield _claim(f"{model} at 0 %, batch 1: at least {DENSE} × as fast as onnxruntime", found, DENSE)


def _never(rows: list[Row]) -> Iterator[Row]:
    """The worst cell over all: our time over the best of the three that could have been used instead.

    While a cell lacks one of torch's two, nothing is said of whether it holds.
    """
    worst: tuple[float, str] | None = None
    whole = all(seconds(row, "torch") and seconds(row, "torch.compile") for row in rows)
    for row in rows:
        ours = seconds(row, "ours")
        rivals = [seconds(row, "torch"), seconds(row, "torch.compile")]
        rivals.append(seconds(find(rows, row["model"], 0.0, row["batch"]), "ours") if row["sparsity"] else None)
        known = [one for one in rivals if one]
        if ours and known:
            where = f"{row['model']} {row['sparsity']:.0%} batch {row['batch']}"
            worst = max(worst or (0.0, ""), (ours / min(known), where))
    text = f"never slower: at most {NEVER} × the best of torch, torch.compile and our own dense"
    if not whole:
        text += "; of those that were measured"
    made = _claim(f"{text} (worst: {worst[1]})" if worst else text, worst[0] if worst else None, NEVER, most=True)
    yield made if whole else {**made, "holds": None}


def l2() -> int:
    """Bytes of the second cache of a core."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="utf-8").strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return L2


def layers(row: Row) -> Iterator[Row]:
    """Our layers of a cell that multiply: name, kernel, ``gmacs`` (10⁹ non-zero multiply-adds a second), ``share`` of
    the measured peak, ``pointwise``: whether 1×1 (or linear), ``fits``: whether its activations and non-zeros fit L2.

    Left out are layers in whose time another one was done: their own is not known.
    """
    ours = row["engines"].get("ours", {})
    every = ours.get("layers", [])
    for before, layer in zip([{}, *every], every, strict=False):
        size = row["sizes"].get(layer["name"])
        joined = "done together" in before.get("reason", "")
        if size is None or joined or not layer.get("macs") or not layer.get("ms"):
            continue
        inputs, outputs, side, groups, _, moved = size
        sparse = bool(layer.get("sparse"))
        done = layer["macs"] * (1 - layer["sparsity"] if sparse else 1)
        gmacs = done / layer["ms"] / 1e6
        weights = inputs * outputs * side * side // groups * (6 * (1 - layer["sparsity"]) if sparse else 4)
        yield {
            "name": layer["name"], "kernel": layer["kernel"], "sparse": sparse, "gmacs": gmacs, "ms": layer["ms"],
            "share": gmacs / ours["peak"], "pointwise": side == 1 and groups == 1 and moved > 4 * row["batch"] * 8192,
            "fits": moved + weights <= l2(), "crossover": layer.get("crossover"),
        }  # fmt: skip


def _layers(rows: list[Row]) -> Iterator[Row]:
    """Share of the peak and crossover, over the 1×1 layers at 90 % and batch 1."""
    chosen = [row for row in rows if row["sparsity"] == 0.9 and row["batch"] == 1]
    points = [layer for row in chosen for layer in layers(row) if layer["pointwise"]]
    shares = [layer["share"] for layer in points if layer["fits"] and layer["sparse"]]
    text = f"90 %, batch 1: 1×1 layers that fit L2 reach {OF_PEAK:.0%} of the measured peak (median of {len(shares)})"
    yield _claim(text, median(shares) if shares else None, OF_PEAK)
    crossovers = [layer["crossover"] for layer in points if layer["crossover"] is not None]
    text = f"1×1 layers: sparse beats our own dense from {CROSSOVER:.0%} zeros on (median of {len(crossovers)})"
    yield _claim(text, median(crossovers) if crossovers else None, CROSSOVER, most=True)


def _agree(rows: list[Row]) -> Iterator[Row]:
    found = [engine["difference"] for row in rows for engine in row["engines"].values() if "difference" in engine]
    text = f"all engines compute the same: differences of at most {AGREE} of the largest output"
    yield _claim(text, max(found) if found else None, AGREE, most=True)
