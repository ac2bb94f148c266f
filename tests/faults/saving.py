"""kill -9 while weights are saved: ``python -m tests.faults.saving PLACE file|shards|folder|times``."""

from __future__ import annotations

import functools
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sparseland import files
from sparseland.deploy import load, save
from tests.faults.forks import after, at_call, attempt, calls_of

State = dict[str, Tensor]


def state(seed: int, size: int) -> State:
    """Tensors of several forms: dense, nine tenths zero, bfloat16."""
    draw = torch.Generator().manual_seed(seed)
    sparse = torch.randn(size, 64, generator=draw)
    sparse *= torch.rand(size, 64, generator=draw) < 0.1
    names = {"a.weight": sparse, "b.weight": torch.randn(size, 32, generator=draw)}
    return names | {"c.weight": sparse[: size // 2].bfloat16().clone(), "d.bias": torch.randn(7, generator=draw)}


def same(a: State, b: State) -> bool:
    """Whether two states have the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def writers(mode: str) -> tuple[Callable[[State, Path], object], Callable[[Path], State], str]:
    """How the mode saves and loads, and the name it saves under."""
    if mode == "shards":
        return (lambda state, path: save(state, path, shard_bytes=6000)), load, "packed"
    if mode == "folder":  # as the journal of a run writes its checkpoint

        def write(state: State, path: Path) -> None:
            files.write_folder(path, lambda place: save(state, place / "w.safetensors"))

        return write, (lambda path: load(files.settle(path) / "w.safetensors")), "last"
    return save, load, "w.safetensors"


def main(place: Path, mode: str) -> None:
    """Kill at every call to the file system, or at random times; what is there is the old state or the new one."""
    torch.set_num_threads(1)
    size = 20_000 if mode == "times" else 128
    old, new = state(0, size), state(1, size)
    write, read, name = writers(mode)
    write(new, place / name)
    assert same(read(place / name), new)
    began = time.perf_counter()
    assert not attempt(lambda: write(new, place / name))
    seconds = time.perf_counter() - began
    draw, kills, found = random.Random(mode), 0, {"old": 0, "new": 0}
    if mode == "times":
        arms = [functools.partial(after, draw.uniform(0, seconds)) for _ in range(12)]
    else:
        write(old, place / name)
        calls = calls_of(lambda: write(new, place / name), place / "note")
        arms = [functools.partial(at_call, n, late) for n in range(1, calls + 1) for late in (False, True)]
    for arm in arms:
        write(old, place / name)
        kills += attempt(lambda: write(new, place / name), arm)
        there = read(place / name)
        found["new" if same(there, new) else "old"] += 1
        assert same(there, new) or same(there, old), "neither the old state nor the new one"
        write(new, place / name)
        assert same(read(place / name), new)
    print(json.dumps({"kills": kills, **found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
