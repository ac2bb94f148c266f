"""How long it takes to find the k highest of 25 million scores: sparseland.core.select against torch.

    python benchmarks/selection/run.py

Every rival turns scores into a boolean mask. `torch.kthvalue` gives a threshold; with equal scores the mask made from
it has too many ones, the others are exact. All masks are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sparseland.core import kept, select, select_many
from sparseland.reports.speed import summary, take_turns, write_result

HERE = Path(__file__).resolve().parent
CLAIM = "select makes an exact mask of the k highest of 25 M scores at least as fast as torch.topk and torch.kthvalue"
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)


def by_topk(scores: Tensor, k: int) -> Tensor:
    """Exactly k ones."""
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    mask[scores.topk(k, sorted=False).indices] = True
    return mask


def by_kthvalue(scores: Tensor, k: int) -> Tensor:
    """At least k ones (more with ties)."""
    return scores >= scores.kthvalue(scores.numel() - k + 1).values


def one_tensor(size: int, rounds: int) -> list[dict[str, object]]:
    """One big tensor, several sparsities."""
    scores = torch.randn(size, generator=torch.Generator().manual_seed(0)).abs()
    rows: list[dict[str, object]] = []
    for sparsity in SPARSITIES:
        k = kept(size, sparsity)
        rivals: dict[str, Callable[[], Tensor]] = {
            "select": lambda k=k: select(scores, k),
            "topk": lambda k=k: by_topk(scores, k),
            "kthvalue": lambda k=k: by_kthvalue(scores, k),
        }
        rows.append(measured(rivals, k, rounds, {"case": "one tensor", "sparsity": sparsity}))
    return rows


def many_tensors(size: int, rounds: int) -> list[dict[str, object]]:
    """A global ranking over 54 tensors of very different sizes (the shape of a ResNet-50)."""
    generator = torch.Generator().manual_seed(0)
    widths = [0.5**i for i in range(12)]
    sizes = [max(1, round(size * widths[i % 12] / (4.5 * sum(widths)))) for i in range(54)]
    scores = {f"layer{i}": torch.randn(n, generator=generator).abs() for i, n in enumerate(sizes)}
    total = sum(sizes)
    k = kept(total, 0.9)

    def concatenated() -> Tensor:
        return by_topk(torch.cat(list(scores.values())), k)

    rivals: dict[str, Callable[[], Tensor]] = {
        "select": lambda: torch.cat(list(select_many(scores, k).values())),
        "topk": concatenated,
        "kthvalue": lambda: by_kthvalue(torch.cat(list(scores.values())), k),
    }
    return [measured(rivals, k, rounds, {"case": f"global over {len(sizes)} tensors", "sparsity": 0.9, "size": total})]


def measured(
    rivals: dict[str, Callable[[], Tensor]], k: int, rounds: int, about: dict[str, object]
) -> dict[str, object]:
    """Compare the masks, then time; ratios are against select."""
    masks = {name: make() for name, make in rivals.items()}
    ones = {name: int(mask.sum()) for name, mask in masks.items()}
    assert ones["select"] == ones["topk"] == k, ones
    found = summary(take_turns(rivals, rounds=rounds), "select")
    row = {**about, "k": k, "ones": ones, "rivals": found}
    shown = "  ".join(f"{name} {one['median']:.3f} s ({one['ratio']:.2f}×)" for name, one in found.items())
    print(f"{about['case']}, sparsity {about['sparsity']}: {shown}")
    return row


def main() -> None:
    """Measure and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [*one_tensor(given.size, given.rounds), *many_tensors(given.size, given.rounds)]
    slowest = {
        rival: min(row["rivals"][rival]["ratio"] for row in rows)  # type: ignore[index]
        for rival in ("topk", "kthvalue")
    }
    geometric = {
        rival: math.exp(sum(math.log(row["rivals"][rival]["ratio"]) for row in rows) / len(rows))  # type: ignore[index]
        for rival in ("topk", "kthvalue")
    }
    command = "python benchmarks/selection/run.py"
    for name in ("size", "rounds", "threads"):
        if getattr(given, name) != parser.get_default(name):
            command += f" --{name} {getattr(given, name)}"
    write_result(
        given.out, CLAIM, command, size=given.size, rounds=given.rounds, threads=given.threads, rows=rows,
        least_ratio=slowest, mean_ratio=geometric, holds=min(slowest.values()) >= 1,
    )  # fmt: skip
    print(f"select takes 1, topk at least {slowest['topk']:.2f}, kthvalue {slowest['kthvalue']:.2f} -> {given.out}")


if __name__ == "__main__":
    main()
