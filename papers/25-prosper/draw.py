"""The picture of the documentation: filters that part patches has learned with its first seed.

python papers/run.py 25-prosper --parts patches
python papers/25-prosper/draw.py          writes docs/pictures/sparse-coding.svg
"""

from __future__ import annotations

import io
import re
from operator import methodcaller
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparseland.files import write_file
from sparseland.papers.charts import STYLE

ROOT = Path(__file__).resolve().parents[2]
ARMS = {
    "DSC": "DSC, whitened patches",
    "GSC": "GSC, whitened patches",
    "MMCA": "MMCA, centred patches",
    "patches, unlearned": "what they learn from",
}


def tiles(filters: NDArray[np.float64], across: int = 8, gap: int = 1) -> NDArray[np.float64]:
    """Filters side by side, each scaled to -1 ... 1, the strongest first."""
    size = int(np.sqrt(filters.shape[1]))
    order = np.argsort(-(filters**2).sum(1))[: across * across]
    wide = np.zeros((across * (size + gap) - gap, across * (size + gap) - gap))
    for place, i in enumerate(order):
        top, left = (size + gap) * (place // across), (size + gap) * (place % across)
        wide[top : top + size, left : left + size] = (filters[i] / np.abs(filters[i]).max()).reshape(size, size)
    return wide


def main() -> None:
    """Draw, write."""
    runs = ROOT / "runs" / "papers" / "25-prosper"
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        made = Figure(figsize=(9.6, 2.7), layout="constrained")
        for axes, (arm, title) in zip(made.subplots(1, len(ARMS)), ARMS.items(), strict=True):
            axes.imshow(tiles(np.load(runs / f"{arm}.npy")), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set(title=title, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", facecolor="white", dpi=72, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"[ \t]+\n", "\n", buffer.getvalue())
    path = ROOT / "docs" / "pictures" / "sparse-coding.svg"
    write_file(path, methodcaller("write", svg[svg.index("<svg") :].encode()))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
