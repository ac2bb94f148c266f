"""Which shape of zeros serves a goal: unstructured zeros save memory; time only where that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .reasons import UNMEASURED, Reason
from .tables import Table

FORMS = {"csr": "unstructured", "compacted": "row", "2:4": "2:4"}  # what runs fast, and the pattern that allows it
HERE = "this device"
Row = Mapping[str, Any]


def pattern_for(
    goal: str,
    hardware: str,
    sparsity: float,
    shape: tuple[int, int],
    batch: int,
    tables: Sequence[Table],
    measured: Sequence[Row] = (),
) -> tuple[str, list[Reason]]:
    """The pattern, and the reasons for it.

    For speed: the form with the largest measured gain over dense at the nearest shape, batch and sparsity, on the same
    kind of device; unstructured if none gains. For everything else: unstructured.

    Parameters:
        goal, hardware, sparsity, shape, batch: see `Goal`.
        tables: the packaged ones; measured: rows of `latency.measure`, which go first.

    >>> row = {"shape": [8, 8], "batch": 1, "sparsity": 0.9, "speedup": {"csr": 0.7, "compacted": 9.0}, "stable": True}
    >>> pattern_for("speed", "cpu", 0.9, (8, 8), 1, (), [row])[0]
    'row'
    >>> pattern_for("speed", "cpu", 0.9, (8, 8), 1, (), [{**row, "stable": False}])[1][0].text
    'unstable: this device was too busy to measure 8 x 8, batch 1; take it as memory only, or measure again'
    """
    row, table = _nearest(hardware, sparsity, shape, batch, tables, measured)
    if goal != "speed":
        return "unstructured", [*_bytes(sparsity, tables), *_masked(row, table)]
    if row is None:
        device = "GPU" if hardware == "gpu" else "CPU"
        text = f"{UNMEASURED}: speed on a {device}; until then zeros save memory only (--measure times it on yours)"
        return "unstructured", [Reason(text)]
    name, link = (HERE, None) if table is None else (table.name, table.link)
    size = f"{row['shape'][0]} x {row['shape'][1]}, batch {row['batch']}"
    if not row["stable"]:
        text = f"unstable: {name} was too busy to measure {size}; take it as memory only, or measure again"
        return "unstructured", [Reason(text, name, link)]
    gains = {form: gain for form, gain in row["speedup"].items() if form in FORMS}
    listed = ", ".join(f"{form} {gain:.2g}x" for form, gain in row["speedup"].items())
    reasons = [Reason(f"speed over dense at {100 * row['sparsity']:g} % zeros, {size}: {listed}", name, link)]
    if gains.get("csr", 0.0) <= 1:
        reasons.append(Reason(f"unstructured zeros at {size} save memory, not time", name, link))
    if hardware == "gpu" and "2:4" not in gains:
        reasons.append(Reason(f"{UNMEASURED}: the 2:4 kernels of GPUs"))
    form = max(gains, key=lambda form: gains[form], default=None)
    if form is None or gains[form] <= 1:
        return "unstructured", reasons
    if FORMS[form] != "unstructured":
        reasons.append(
            Reason(f"{UNMEASURED}: accuracy with the pattern {FORMS[form]!r}; the methods' were unstructured")
        )
    if form == "compacted":
        text = "this version finds and zeroes rows but does not cut them out; until they are cut, nothing is faster"
        reasons.append(Reason(f"{UNMEASURED}: a compacted model of yours; {text}"))
    return FORMS[form], reasons


def _nearest(
    hardware: str, sparsity: float, shape: tuple[int, int], batch: int, tables: Sequence[Table], measured: Sequence[Row]
) -> tuple[Row | None, Table | None]:
    """The latency row nearest to what was asked, on the same kind of device, and its table (None: measured now)."""
    found: list[tuple[Row, Table | None]] = [
        (row, None) for row in measured if (row.get("device", "cpu") == "cpu") == (hardware == "cpu")
    ]
    if not found:
        found = [
            (row, table)
            for table in tables
            if table.kind == "latency" and (table.machine.get("device") in (None, "cpu")) == (hardware == "cpu")
            for row in table.rows
        ]

    def far(pair: tuple[Row, Table | None]) -> tuple[float, float]:
        row = pair[0]
        size = abs(math.log(row["shape"][0] * row["shape"][1] / (shape[0] * shape[1])))
        return size + abs(math.log(row["batch"] / batch)), abs(math.log((1 - row["sparsity"]) / (1 - sparsity)))

    return min(found, key=far, default=(None, None))


def _masked(row: Row | None, table: Table | None) -> list[Reason]:
    """What zeros in a dense product are worth, where it was measured."""
    if row is None or not row["stable"] or "masked" not in row["speedup"]:
        return []
    name, link = (HERE, None) if table is None else (table.name, table.link)
    return [Reason(f"zeros in a dense product run at {row['speedup']['masked']:.2f}x dense: memory only", name, link)]


def _bytes(sparsity: float, tables: Sequence[Table]) -> list[Reason]:
    """The packed file as a share of the dense one, at the nearest measured sparsity."""
    found = [
        (abs(row["sparsity"] - sparsity), table.kind != "bytes", row.get("share", row.get("bytes")), row, table)
        for table in tables
        for row in table.rows
        if row.get("share", row.get("bytes")) is not None and row.get("pattern", "unstructured") == "unstructured"
    ]
    if not found:
        return [Reason(f"{UNMEASURED}: bytes of a packed file")]
    _, _, share, row, table = min(found, key=lambda item: item[:2])
    return [
        Reason(
            f"packed file at {100 * row['sparsity']:g} % zeros: {share:.3f} of the dense one", table.name, table.link
        )
    ]
