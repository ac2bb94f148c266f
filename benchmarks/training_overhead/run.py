"""What attaching a method costs per training step: ResNet-20 with and without, taking turns.

    python benchmarks/training_overhead/run.py

All nets see the same random images and do the same forward and backward pass; the difference is the masking, and now
and then the update of the mask. The update is timed by itself and given as a share of the run. The rival for a mask
that stays is `torch.nn.utils.prune`, which multiplies weight and mask before every forward pass; both keep the very
same weights. Peak memory is the high-water mark of a process of its own for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparseland as sl
from sparseland.reports.speed import UNSTABLE, summary, take_turns, write_result

HERE = Path(__file__).resolve().parent
CLAIM = "keeping masks costs little beside a training step of ResNet-20 at batch 128, and so do the updates of the mask"
PEER = "torch.nn.utils.prune"
EVERY = 100  # steps between updates for which their share of the run is stated
UPDATE = 5  # steps between updates while measuring, so that there are some


def stepper(method: str, batch: int, steps: int) -> tuple[Callable[[], float], Any]:
    """A function that does one training step and says how long its ``optimizer.step()`` took, where all masking
    happens; and the sparsifier (None for "dense")."""
    model = sl.zoo.build("resnet-20", in_shape=(3, 32, 32), classes=10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    hyper = {"every": UPDATE} if method in ("rigl", "set", "gmp", "granet") else {}
    sparsifier = None
    if method == PEER:
        parametrize(model)  # it replaces the parameters, so the optimizer is made anew
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    elif method != "dense":
        sparsifier = sl.methods.build(method, sparsity=0.9, **hyper).attach(model, optimizer, steps=steps)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        began = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - began

    return step, sparsifier


def parametrize(model: nn.Module) -> None:
    """Give a net the masks of our `random` method by `torch.nn.utils.prune`, to be applied in every forward pass."""
    twin = sl.zoo.build("resnet-20", in_shape=(3, 32, 32), classes=10, seed=0)
    masks = sl.methods.build("random", sparsity=0.9).attach(twin, torch.optim.SGD(twin.parameters(), lr=0.1)).masks
    for name in masks:
        prune.custom_from_mask(model.get_submodule(name.removesuffix(".weight")), "weight", masks[name].float())


def peak(methods: list[str], batch: int) -> dict[str, int]:
    """The high-water mark in bytes of a process that does six steps, by method."""
    spawn = multiprocessing.get_context("spawn")
    found = {}
    for method in methods:
        mine, its = spawn.Pipe()
        process = spawn.Process(target=_peak, args=(its, method, batch))
        process.start()
        its.close()  # so that a process that dies ends the wait
        found[method] = mine.recv()
        process.join()
        print(f"{method}: {found[method] / 2**20:.0f} MiB at most")
    return found


def _peak(answer: Any, method: str, batch: int) -> None:
    torch.set_num_threads(1)
    step, _ = stepper(method, batch, 100)
    for _ in range(UPDATE + 1):
        step()
    answer.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(method: str, batch: int, rounds: int) -> dict[str, Any]:
    """Dense and sparse steps in turn; steps that moved the mask are looked at by themselves."""
    dense, _ = stepper("dense", batch, rounds)
    sparse, sparsifier = stepper(method, batch, 2 * (rounds + 1))
    moves: list[int] = []
    inside: list[float] = []

    def watched() -> None:
        inside.append(sparse())
        moves.append(len(sparsifier.history) if sparsifier is not None else 0)

    times = take_turns({"dense": dense, method: watched}, rounds=rounds)
    moved, inside = [now > before for before, now in pairwise(moves)][-rounds:], inside[-rounds:]
    plain = [i for i, changed in enumerate(moved) if not changed]
    found = summary({name: [taken[i] for i in plain] for name, taken in times.items()}, "dense")
    row: dict[str, Any] = {"method": method, "steps": found, "ratio": found[method]["ratio"], "update": None}
    updates = [inside[i] for i, changed in enumerate(moved) if changed]
    if updates:
        extra = max(0.0, median(updates) - median(inside[i] for i in plain))
        share = extra / (EVERY * found[method]["median"] + extra)
        row["update"] = {"seconds": extra, "updates": len(updates), "share_of_run": share, "every": EVERY}
    shown = (
        ""
        if row["update"] is None
        else f", updates every {EVERY} steps take {row['update']['share_of_run']:.2%} of a run"
    )
    print(f"{method}: {row['ratio']:.3f} of a dense step{shown}")
    return row


def main() -> None:
    """Measure and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[PEER, "random", "rigl", "gmp"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    memory = peak(["dense", *given.methods], given.batch)
    rows = [measure(method, given.batch, given.rounds) for method in given.methods]
    ours = [row for row in rows if row["method"] != PEER]
    command = "python benchmarks/training_overhead/run.py"
    for name in ("methods", "batch", "rounds", "threads"):
        value = getattr(given, name)
        if value != parser.get_default(name):
            command += f" --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
    write_result(
        given.out, CLAIM, command, batch=given.batch, rounds=given.rounds, threads=given.threads, rows=rows,
        unstable_above=UNSTABLE, most_ratio=max(row["ratio"] for row in ours),
        most_update_share=max((row["update"]["share_of_run"] for row in ours if row["update"]), default=0.0),
        peak_bytes=memory,
    )  # fmt: skip
    print(f"-> {given.out}")


if __name__ == "__main__":
    main()
