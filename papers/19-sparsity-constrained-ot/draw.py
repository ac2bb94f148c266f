"""Draw the tutorial's pictures: plans between two histograms, and colours of one photo moved to those of another.

    python papers/19-sparsity-constrained-ot/draw.py

They are drawn from what `sparseland.transport.solve` returns and written to docs/pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from sparseland.transport import solve

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.docs_pictures import ALIVE, DROPPED, GROWN, SOFT, Canvas  # noqa: E402 - needs the path above

FOLDER = ROOT / "docs" / "pictures"
SIDE, CELL = 32, 5.0


def histograms() -> tuple[Tensor, Tensor, Tensor]:
    """Two histograms on a line of 32 places and the squared distances, the largest 1."""
    x = torch.arange(SIDE, dtype=torch.float64)
    a = torch.exp(-0.5 * ((x - 10) / 4) ** 2) + 1e-3
    b = 0.6 * torch.exp(-0.5 * ((x - 12) / 2.5) ** 2) + 0.4 * torch.exp(-0.5 * ((x - 24) / 2.5) ** 2) + 1e-3
    cost = (x[:, None] - x) ** 2
    return a / a.sum(), b / b.sum(), cost / cost.max()


def shade(share: float) -> str:
    """White to blue."""
    low, high = (0xE6, 0xE9, 0xF2), (0x3F, 0x51, 0xB5)
    part = min(max(share, 0.0), 1.0) ** 0.5
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def plans() -> Canvas:
    """Entropy, k = n, 4 and 2: the same two histograms."""
    a, b, cost = histograms()
    kinds = [("entropy, reg 0.02", solve(a, b, cost, 0.02, method="semi_dual"))]
    for k in (SIDE, 4, 2):
        found = solve(a, b, cost, 1.0, reg_type="sparsity_constrained", max_nz=k)
        kinds.append((f"k = {k}" if k < SIDE else "k = n, squared norm", found))
    canvas = Canvas(4 * 190 + 10, 250, "Plans between two histograms: fewer partners from left to right")
    for number, (words, found) in enumerate(kinds):
        x, y, plan = 12 + 190 * number, 50, found.plan
        canvas.text(x, 24, words, bold=True)
        canvas.text(x, 40, f"{int((plan > 1e-6).sum())} entries above 1e-6", size=11, fill=SOFT)
        top = float(plan.max())
        canvas.box(x, y, SIDE * CELL, SIDE * CELL, shade(0))
        for i, j in (plan > 1e-6).nonzero().tolist():
            canvas.box(x + j * CELL, y + i * CELL, CELL, CELL, shade(float(plan[i, j]) / top))
        for j in range(SIDE):  # the target's masses below, the source's to the right
            height = 18 * float(b[j] / b.max())
            canvas.box(x + j * CELL, y + SIDE * CELL + 4, CELL - 1, height, GROWN)
            canvas.box(x + SIDE * CELL + 3, y + j * CELL, 12 * float(a[j] / a.max()), CELL - 1, DROPPED)
    return canvas


def partners() -> Canvas:
    """Two clouds of 14 points: lines are the plan, for k = 1, 3 and n."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(14, 2, dtype=torch.float64, generator=generator) * torch.tensor([0.45, 1.0], dtype=torch.float64)
    y = torch.rand(14, 2, dtype=torch.float64, generator=generator) * torch.tensor([0.45, 1.0], dtype=torch.float64)
    y[:, 0] += 0.55
    cost = torch.cdist(x, y) ** 2
    cost = cost / cost.max()
    canvas = Canvas(3 * 230 + 10, 240, "Partners of 14 points: at most k per point on the right")
    for number, k in enumerate((1, 3, 14)):
        left, top = 12 + 230 * number, 40
        found = solve(None, None, cost, 5.0, reg_type="sparsity_constrained", max_nz=k)
        canvas.text(left, 24, f"k = {k}" if k < 14 else "k = n", bold=True)
        place = [[(left + 205 * float(p), top + 185 * float(q)) for p, q in points] for points in (x, y)]
        for i, j in (found.plan > 1e-6).nonzero().tolist():
            share = float(found.plan[i, j] * 14)
            canvas.path([place[0][i], place[1][j]], SOFT, 0.4 + 2.4 * share)
        for points, colour in zip(place, (DROPPED, ALIVE), strict=True):
            for p, q in points:
                canvas.dot(p, q, colour, 4)
    return canvas


def main() -> None:
    """Write both."""
    for name, canvas in (("transport-plans.svg", plans()), ("transport-partners.svg", partners())):
        (FOLDER / name).write_text(canvas.svg(), encoding="utf-8")
        print("wrote", FOLDER / name)


if __name__ == "__main__":
    main()
