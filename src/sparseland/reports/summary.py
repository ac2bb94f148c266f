"""The top of the page: the comparison in a sentence, and in four numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .judgement import signed
from .numbers import percent, ratio, scaled

Row = Mapping[str, Any]


def answer(rows: Sequence[Row], review: Mapping[str, Any]) -> str:
    """The comparison in a sentence; "" where nothing was tested."""
    best, dense, others = _best(rows)
    if best is None:
        return "" if dense is None else f"Dense: {percent(dense['accuracy']['values'])} on the test split."
    text = f"{best['label']} keeps {_kept(best)} and reaches {percent(best['accuracy']['values'])} on the test split"
    if others:
        text = f"Highest of the {others + 1} sparse nets: " + text
    if dense is not None:
        text += f"; the dense net has {percent(dense['accuracy']['values'])}"
    pair = _pair(review, best, dense)
    said = {
        "indistinguishable": "; the seeds cannot tell the two apart",
        "better": "; over these seeds it is better",
        "worse": "; over these seeds it is worse",
        "not comparable": "; the two are not comparable",
    }
    return text + (said.get(pair["verdict"], "") if pair else "") + "."


def tiles(rows: Sequence[Row], review: Mapping[str, Any]) -> list[dict[str, str]]:
    """Up to four numbers, {"value", "unit", "text"} each, of the best sparse net."""
    best, dense, others = _best(rows)
    row = best or dense
    if row is None:
        return []
    name = f"{row['label']}, highest mean of {others + 1} sparse nets" if others else row["label"]
    out = [{"value": f"{100 * row['accuracy']['mean']:.2f}", "unit": "%", "text": f"test accuracy: {name}"}]
    pair = _pair(review, row, dense)
    if pair is not None and pair.get("difference") is not None:
        low, high = pair.get("low"), pair.get("high")
        spread = "no interval" if low is None or high is None else f"95 % interval {signed(low)} to {signed(high)}"
        text = f"against dense, seed by seed: {spread}, {pair['verdict']}"
        out.append({"value": signed(pair["difference"]), "unit": "points", "text": text})
    if best is not None:
        if "training_flops" in best and best.get("training_dense_flops", {}).get("mean"):
            share = ratio(best["training_flops"]["mean"], best["training_dense_flops"]["mean"])
            spent = scaled(best["training_flops"]["mean"], "FLOP")
            out.append({"value": share.rstrip("×"), "unit": "×", "text": f"the FLOPs of dense training: {spent}"})
    if best is not None and best.get("bytes", {}).get("mean") and best.get("dense_bytes"):
        smaller = best["dense_bytes"]["mean"] / best["bytes"]["mean"]
        size = scaled(best["bytes"]["mean"], "B")
        out.append({"value": f"{smaller:.1f}", "unit": "×", "text": f"smaller on disk than its dense tensors: {size}"})
    return out


def _best(rows: Sequence[Row]) -> tuple[Row | None, Row | None, int]:
    """The sparse row of highest mean, the dense row, and how many other sparse rows were tested."""
    measured = [row for row in rows if "accuracy" in row]
    dense = next((row for row in measured if row["name"] == "dense"), None)
    sparse = [row for row in measured if row["name"] != "dense"]
    best = max(sparse, key=lambda row: row["accuracy"]["mean"]) if sparse else None
    return best, dense, max(0, len(sparse) - 1)


def _kept(row: Row) -> str:
    if "sparsity" not in row:
        return "part of the weights"
    return f"{100 * (1 - row['sparsity']['mean']):.3g} % of the weights"


def _pair(review: Mapping[str, Any], a: Row, b: Row | None) -> Mapping[str, Any] | None:
    pairs = review.get("paired") or ()
    wanted = (a["label"], b["label"] if b else None)
    return next((pair for pair in pairs if (pair["a"], pair["b"]) == wanted), None)
