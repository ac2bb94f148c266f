"""How long it takes to find the k highest of 25 million scores: sparseland.core.select against torch.

    python benchmarks/selection/run.py

Every rival turns scores into a boolean mask. `torch.kthvalue` gives a threshold; with equal scores the mask made from
it has too many ones, the others are exact. All masks are compared before anything is timed. Where a whole net is
ranked, `torch.nn.utils.prune.global_unstructured` is a rival too: what people call to prune 54 layers at once. Beside
seconds, the memory that each takes over its scores is measured: the high-water mark of a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

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


class Layers(nn.Module):
    """The scores of many layers, as the weights of modules: what `torch.nn.utils.prune` works on."""

    def __init__(self, scores: dict[str, Tensor]) -> None:
        super().__init__()
        for name, values in scores.items():
            layer = nn.Module()
            layer.weight = nn.Parameter(values, requires_grad=False)
            self.add_module(name, layer)

    def pruned(self, amount: int) -> Tensor:
        """The masks that `global_unstructured` leaves; afterwards the layers are as before."""
        layers = list(self.children())
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=amount)
        masks = torch.cat([layer.weight_mask for layer in layers]).bool()
        for layer in layers:
            original = layer.weight_orig
            prune.remove(layer, "weight")
            layer.weight = original  # `remove` writes the zeros into the weight
        return masks


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

    layers = Layers(scores)
    rivals: dict[str, Callable[[], Tensor]] = {
        "select": lambda: torch.cat(list(select_many(scores, k).values())),
        "topk": concatenated,
        "kthvalue": lambda: by_kthvalue(torch.cat(list(scores.values())), k),
        "torch.nn.utils.prune": lambda: layers.pruned(total - k),
    }
    return [measured(rivals, k, rounds, {"case": f"global over {len(sizes)} tensors", "sparsity": 0.9, "size": total})]


def memory(size: int, sparsity: float = 0.9) -> dict[str, float]:
    """Peak bytes per score over what the scores take, each rival in a process of its own."""
    fork = multiprocessing.get_context("spawn")
    found = {}
    for name in ("select", "topk", "kthvalue"):
        mine, its = fork.Pipe()
        process = fork.Process(target=_peak, args=(its, name, size, sparsity))
        process.start()
        its.close()  # so that a process that dies ends the wait
        found[name] = mine.recv() / size
        process.join()
    print("memory over the scores: " + "  ".join(f"{name} {taken:.1f} bytes a score" for name, taken in found.items()))
    return found


def _peak(answer: object, name: str, size: int, sparsity: float) -> None:
    torch.set_num_threads(1)
    scores = torch.rand(size, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[Tensor, int], Tensor]] = {"select": select, "topk": by_topk, "kthvalue": by_kthvalue}
    calls[name](scores[:1000], 100)  # what is loaded on first use is no part of it
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is in use now
    before = _status("VmHWM")
    mask = calls[name](scores, kept(size, sparsity))
    assert mask.numel() == size
    answer.send(_status("VmHWM") - before)  # type: ignore[attr-defined]


def _status(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


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
    ratios: dict[str, list[float]] = {}
    for row in rows:
        for rival, found in row["rivals"].items():  # type: ignore[attr-defined]
            ratios.setdefault(rival, []).append(found["ratio"])
    del ratios["select"]
    slowest = {rival: min(found) for rival, found in ratios.items()}
    geometric = {rival: math.exp(sum(map(math.log, found)) / len(found)) for rival, found in ratios.items()}
    command = "python benchmarks/selection/run.py"
    for name in ("size", "rounds", "threads"):
        if getattr(given, name) != parser.get_default(name):
            command += f" --{name} {getattr(given, name)}"
    write_result(
        given.out, CLAIM, command, size=given.size, rounds=given.rounds, threads=given.threads, rows=rows,
        least_ratio=slowest, mean_ratio=geometric, holds=min(slowest.values()) >= 1,
        peak_bytes_per_score=memory(given.size),
    )  # fmt: skip
    print(f"select takes 1, {', '.join(f'{rival} at least {r:.2f}' for rival, r in slowest.items())} -> {given.out}")


if __name__ == "__main__":
    main()
