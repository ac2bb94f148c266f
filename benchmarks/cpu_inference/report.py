"""The tables of README.md and the plot, made of result.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from claims import find, layers, seconds

ORDER = ("torch", "torch.compile", "onnxruntime", "openvino", "deepsparse", "ours")
LABELS = {
    "torch": "torch", "torch.compile": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
    "deepsparse": "DeepSparse", "ours": "sparseland",
}  # fmt: skip
COLOURS = dict(zip(ORDER, ("#999999", "#777777", "#4477aa", "#228833", "#ee6677", "#000000"), strict=True))
BEGIN, END = "<!-- begin: made by run.py -->", "<!-- end -->"
Row = dict[str, Any]


def write(folder: Path, result: Row) -> None:
    """Put the tables between the marks of README.md, and draw plot.svg."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{tables(result)}\n{END}{after}", encoding="utf-8")
    draw(folder / "plot.svg", result["rows"])


def tables(result: Row) -> str:
    """The claims, then one table of milliseconds for each batch size."""
    rows: list[Row] = result["rows"]
    lines = ["What is in [result.json](result.json), and no more than this, was measured by", ""]
    lines += [f"    {result['command']}", "", "| claim | wanted | found | holds |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: "not measured"}
    for one in result["claims"]:
        found = "–" if one["found"] is None else f"{one['found']:.4g}"
        lines.append(f"| {one['claim']} | {one['wanted']} | {found} | {words[one['holds']]} |")
    for batch in sorted({row["batch"] for row in rows}):
        lines += ["", f"Milliseconds at batch {batch}: median (best).", ""]
        lines.append("| model | sparsity | " + " | ".join(LABELS[name] for name in ORDER) + " |")
        lines.append("|---|---|" + "---|" * len(ORDER))
        for row in (row for row in rows if row["batch"] == batch):
            cells = [_cell(row["engines"].get(name)) for name in ORDER]
            lines.append(f"| {row['model']} | {row['sparsity']:.0%} | " + " | ".join(cells) + " |")
    lines += _kernels(rows)
    for name, why in result["absent"].items():
        lines += ["", f"Without {name}: {why}."]
    return "\n".join(lines)


def _kernels(rows: list[Row]) -> list[str]:
    """Our kernels at 90 % and batch 1: how much of the time they take and what they achieve."""
    lines = [
        "",
        "Our kernels at 90 %, batch 1; multiply-adds of non-zeros; without layers done together with another.",
        "",
    ]
    lines += ["| model | kernel | layers | ms | GMAC/s | of the peak | best layer |", "|---|---|---|---|---|---|---|"]
    for row in (row for row in rows if (row["sparsity"], row["batch"]) == (0.9, 1)):
        kinds: dict[str, list[Row]] = {}
        for layer in layers(row):
            word = layer["kernel"].split()[0]
            one = "1×1 " if layer["pointwise"] and word == "conv" else ""
            kinds.setdefault(f"{one}{word}, {'sparse' if layer['sparse'] else 'dense'}", []).append(layer)
        for kind, found in sorted(kinds.items()):
            total = sum(layer["ms"] for layer in found)
            speed = sum(layer["gmacs"] * layer["ms"] for layer in found) / total
            share = sum(layer["share"] * layer["ms"] for layer in found) / total
            best = max(layer["share"] for layer in found)
            cells = [row["model"], kind, str(len(found)), f"{total:.2f}", f"{speed:.1f}", f"{share:.0%}", f"{best:.0%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines if len(lines) > 5 else []


def _cell(found: Row | None) -> str:
    if found is None or "median" not in found:
        return "–"
    return f"{1000 * found['median']:.2f} ({1000 * found['best']:.2f})"


def draw(path: Path, rows: list[Row]) -> None:
    """Milliseconds over sparsity at batch 1, one panel per model."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cpu_inference"  # so that equal numbers make equal files
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["model"] for row in rows if row["batch"] == 1))
    if not names:
        return
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.1 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        sparsities = sorted({row["sparsity"] for row in rows if row["model"] == name and row["batch"] == 1})
        for engine in ORDER:
            points = [(100 * s, seconds(find(rows, name, s), engine)) for s in sparsities]
            known = [(s, 1000 * t) for s, t in points if t is not None]
            if known:
                wide = 2.2 if engine == "ours" else 1.1
                axis.plot(*zip(*known, strict=True), "o-", ms=3, lw=wide, color=COLOURS[engine], label=LABELS[engine])
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("sparsity, %")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms per image or text, batch 1")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
