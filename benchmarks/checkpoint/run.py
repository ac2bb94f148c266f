"""How long it takes to load a packed checkpoint: sparseland.deploy against safetensors' own dense files.

    python benchmarks/checkpoint/run.py

The same tensors lie on disk packed and dense, in the page cache. Three pairs are timed, taking turns:

load       deploy.load(packed) against {k: v.clone()} of load_file(dense): tensors in memory of their own.
           (load_file alone maps the file and reads nothing; the clone is what first use would read.)
load into  deploy.load_into(model, packed) against model.load_state_dict(load_file(dense)): a model's own memory.
mapped     deploy.load(packed) against load_file(dense) alone, which has read nothing: the harshest pair.

The C library is told (MALLOC_MMAP_THRESHOLD_) to take big blocks from the system each time, as in a process that loads
its first model; else both rivals would write into recycled memory. What is loaded is compared first, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparseland import deploy
from sparseland.reports.speed import summary, take_turns, write_result

HERE = Path(__file__).resolve().parent
CLAIM = (
    "at 90 % zeros in float32 a packed checkpoint takes at most 0.15 of the dense bytes, and loads in at most 1.3 "
    "times the time of a dense one"
)
MOST = 1.3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CASES: list[tuple[str, torch.dtype]] = [
    ("0.9", torch.float32), ("0.95", torch.float32), ("0.99", torch.float32), ("0.8", torch.float32),
    ("0.5", torch.float32), ("2:4", torch.float32), ("0", torch.float32), ("0.9", torch.bfloat16),
    ("2:4", torch.bfloat16),
]  # fmt: skip


def tensors(size: int, zeros: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """About ``size`` weights shaped like a transformer: an embedding, then blocks of square and wide matrices."""
    generator = torch.Generator().manual_seed(0)
    blocks = max(1, round((size / 1e6 - 8) / 12.6))
    shapes: dict[str, tuple[int, ...]] = {"embedding": (8000, 1024)}
    for i in range(blocks):
        shapes |= {f"{i}-{name}": (1024, 1024) for name in "qkvo"}
        shapes |= {f"{i}-up": (4096, 1024), f"{i}-down": (1024, 4096), f"{i}-norm": (1024,)}
    made = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        if len(shape) > 1 and zeros == "2:4":
            groups = weight.view(-1, 4)
            weight = torch.zeros_like(groups).scatter(1, (top := groups.abs().topk(2).indices), groups.gather(1, top))
        elif len(shape) > 1:
            weight[torch.rand(shape, generator=generator) < float(zeros)] = 0
        made[name] = weight.view(shape).to(dtype)
    return made


def pairs(folder: Path, model: nn.Module) -> dict[str, dict[str, Any]]:
    """The functions that take turns, the packed one first."""
    packed, dense = folder / "packed.safetensors", folder / "dense.safetensors"
    return {
        "load": {
            "packed": lambda: deploy.load(packed),
            "dense": lambda: {name: tensor.clone() for name, tensor in load_file(dense).items()},
        },
        "load into": {
            "packed": lambda: deploy.load_into(model, packed),
            "dense": lambda: model.load_state_dict(load_file(dense)),
        },
        "mapped": {"packed": lambda: deploy.load(packed), "dense": lambda: load_file(dense)},
    }


def case(zeros: str, dtype: torch.dtype, given: argparse.Namespace) -> dict[str, Any]:
    """Size and times of one kind of weights."""
    state = tensors(given.size, zeros, dtype)
    model = nn.Module()
    for name, tensor in state.items():
        model.register_parameter(name, nn.Parameter(torch.zeros_like(tensor)))
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place)
        began = time.perf_counter()
        size = deploy.save(state, folder / "packed.safetensors")
        took = time.perf_counter() - began
        save_file(state, folder / "dense.safetensors")
        back = deploy.load_into(model, folder / "packed.safetensors").state_dict()
        for loaded in (back, deploy.load(folder / "packed.safetensors")):
            assert all(torch.equal(loaded[name].view(torch.uint8), state[name].view(torch.uint8)) for name in state)
        forms = Counter(one.form for one in deploy.describe(folder / "packed.safetensors").tensors)
        clock = CLOCKS[given.clock]
        found = {
            name: summary(take_turns(rivals, rounds=given.rounds, clock=clock), "dense")
            for name, rivals in pairs(folder, model).items()
        }
    dense = deploy.dense_bytes(state)
    kind = str(dtype).removeprefix("torch.")
    times = ", ".join(f"{name} {pair['packed']['ratio']:.2f}" for name, pair in found.items())
    print(f"zeros {zeros}, {kind}: {size / dense:.4f} of the bytes ({dict(forms)}), saved in {took:.1f} s", flush=True)
    print(f"    time packed / dense: {times}", flush=True)
    return {"zeros": zeros, "dtype": kind, "weights": sum(t.numel() for t in state.values()), "dense_bytes": dense,
            "packed_bytes": size, "bytes_ratio": size / dense, "forms": dict(forms), "save_seconds": took,
            "pairs": found}  # fmt: skip


def main() -> None:
    """Measure and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=45_000_000, help="weights, about")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: as many as torch takes")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: seconds of all threads together")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read when a process starts: start again
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(given.threads)
    rows = [case(zeros, dtype, given) for zeros, dtype in CASES[: given.cases]]
    command = "python benchmarks/checkpoint/run.py"
    for name in ("size", "rounds", "clock", "cases"):
        if getattr(given, name) != parser.get_default(name):
            command += f" --{name} {getattr(given, name)}"
    ratios = {name: pair["packed"]["ratio"] for name, pair in rows[0]["pairs"].items()}
    holds = rows[0]["bytes_ratio"] <= 0.15 and ratios["load"] <= MOST and ratios["load into"] <= MOST
    write_result(
        given.out, CLAIM, f"{command} --threads {given.threads}", size=given.size, rounds=given.rounds,
        threads=given.threads, clock=given.clock, rows=rows, ratios_at_90=ratios,
        bytes_ratio_at_90=rows[0]["bytes_ratio"], holds=holds,
    )  # fmt: skip
    print(f"at 90 % zeros: {ratios}; holds: {holds} -> {given.out}")


if __name__ == "__main__":
    main()
