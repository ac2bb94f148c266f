"""kill -9 while a run trains: ``python -m tests.faults.training PLACE calls|times|imp`` prints how often it hit."""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import time
from pathlib import Path

import torch

from sparseland.train import TrainConfig, run
from tests.faults.forks import after, at_call, attempt, calls_of, run_content

METHODS = {
    "imp": {"name": "imp", "sparsity": 0.8, "rounds": 2},
    "rigl": {"name": "rigl", "sparsity": 0.8, "every": 3},
}


def main(place: Path, mode: str) -> None:
    """Kill, resume, compare."""
    torch.set_num_threads(1)
    method = METHODS["imp" if mode == "imp" else "rigl"]
    config = TrainConfig(
        model="mlp-32", method=method, epochs=2, limit=400, lr=0.05, threads=1, ema=0.9, checkpoint_every="3 steps"
    )

    def train(folder: Path) -> None:
        run(config, folder, progress=False, resume="auto")

    train(place / "whole")  # here, so that the forks find everything imported
    began = time.perf_counter()
    assert not attempt(lambda: train(place / "again"))
    seconds = time.perf_counter() - began
    whole, kills = run_content(place / "whole"), 0
    assert run_content(place / "again") == whole
    draw = random.Random(mode)
    calls = 0 if mode == "times" else calls_of(lambda: train(place / "counted"), place / "note")
    for number in range(5 if mode == "imp" else 8):
        folder, first = place / str(number), draw.randint(1, max(2, calls // 2))
        for at in (first, draw.randint(1, max(2, calls - first))):
            arm = functools.partial(at_call, at, draw.random() < 0.5)
            if mode == "times":
                arm = functools.partial(after, draw.uniform(0.0, seconds))
            kills += attempt(functools.partial(train, folder), arm)
        assert not attempt(functools.partial(train, folder))
        assert run_content(folder) == whole, (mode, number)
        assert sorted(os.listdir(folder)) == ["best.safetensors", "last", "log.jsonl", "result.json"], folder
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
