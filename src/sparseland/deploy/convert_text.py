"""What a conversion did, in words and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = ("layer", "kernel", "ms", "share", "sparsity", "sparse from", "why")


def headline(facts: dict[str, Any]) -> str:
    """One line: who computes, with how many threads, and the times against the rivals."""
    times = facts.get("times") or {}
    said = [f"{facts.get('model', 'a network')} on {facts.get('backend', 'engine')}"]
    if facts.get("threads"):
        said.append(f"{facts['threads']} threads, {facts.get('isa', '')}")
    said += [f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items()]
    return ", ".join(said)


def explain(facts: dict[str, Any], layers: Sequence[dict[str, Any]], coverage: dict[str, Any]) -> str:
    """The whole text.

    >>> layer = {"name": "fc", "kernel": "gemm", "ms": 2.0, "sparsity": 0.5, "crossover": 0.6, "reason": "dense kept"}
    >>> print(explain({"backend": "engine"}, [layer], {"whole": True, "reasons": {}}))
    a network on engine
    <BLANKLINE>
    layer  kernel     ms   share  sparsity  sparse from  why
    fc     gemm    2.000  100.0%     50.0%          60%  dense kept
    total          2.000
    """
    lines = [headline(facts), *facts.get("notes", []), ""]
    total = sum(layer["ms"] for layer in layers if layer.get("ms") is not None)
    rows = [list(COLUMNS), *(_row(layer, total) for layer in layers)]
    if total:
        rows.append(["total", "", f"{total:.3f}", "", "", "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        cells = [cell.ljust(width) if i in (0, 1, 6) else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    if coverage["reasons"]:
        lines += ["", "computed by torch, node by node:"]
        lines += [f"  {name}: {why}" for name, why in coverage["reasons"].items()]
    return "\n".join(lines)


def _row(layer: dict[str, Any], total: float) -> list[str]:
    ms, sparsity, cross = layer.get("ms"), layer.get("sparsity"), layer.get("crossover")
    return [
        str(layer["name"]),
        str(layer["kernel"]),
        "" if ms is None else f"{ms:.3f}",
        "" if ms is None or not total else f"{ms / total:.1%}",
        "" if sparsity is None else f"{sparsity:.1%}",
        "" if cross is None else f"{cross:.0%}",
        str(layer.get("reason") or ""),
    ]
