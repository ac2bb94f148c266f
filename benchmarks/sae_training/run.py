"""Training tokens a second of a TopK autoencoder with 16 x expansion: this library beside SAELens.

    python benchmarks/sae_training/run.py

Both train on the same float32 activations in the same batches, with as many threads, in processes that take turns
(every other round in reverse order); while one works the other waits on its pipe. SAELens runs with dense and with
sparse activations, and the faster of the two is the peer. Both use their own trainer with all it does in a step:
forward, backward, Adam, dead-feature counts, decoder norms. The fraction of variance unexplained after the same number
of steps says whether the faster one also learns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparseland.reports.speed import write_result

HERE = Path(__file__).resolve().parent
CLAIM = (
    "a TopK autoencoder (16 x expansion, float32, 2 cores) trains at least 2 x as many tokens a second as in SAELens"
)
ENOUGH = 2.0
NAMES = ("ours", "saelens", "saelens-sparse")
ROWS = ({"d": 384, "batch": 4096, "k": 32}, {"d": 768, "batch": 2048, "k": 32})  # MiniLM's width, GPT-2 small's
HELD = 4096


def activations(d: int, tokens: int) -> Tensor:
    """Tokens that are sums of 32 of 4 d hidden directions, with noise: (tokens, d)."""
    g = torch.Generator().manual_seed(0)
    basis = torch.nn.functional.normalize(torch.randn(4 * d, d, generator=g), dim=1)
    x = 0.1 * torch.randn(tokens, d, generator=g)
    for part in range(0, tokens, 4096):
        chosen = torch.rand(min(4096, tokens - part), 4 * d, generator=g).topk(32, dim=1).indices
        strength = torch.rand(chosen.shape, generator=g) + 0.5
        x[part : part + 4096] += (basis[chosen] * strength[..., None]).sum(1)
    return x


class Worker:
    """A trainer's process."""

    def __init__(self, name: str, python: str, threads: int) -> None:
        own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **peers.QUIET}
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, **own},
        )  # fmt: skip

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message, wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def measured(row: dict[str, int], pythons: dict[str, str], threads: int, rounds: int, count: int) -> dict[str, Any]:
    """Seconds of turns of ``count`` steps, and what each has learned at the end."""
    workers = {name: Worker(name, python, threads) for name, python in pythons.items()}
    total = (rounds + 1) * count + 1
    try:
        with tempfile.TemporaryDirectory() as place:
            x = activations(row["d"], 8 * row["batch"] + HELD)
            path = Path(place) / "x.safetensors"
            save_file({"x": x[HELD:].contiguous(), "held": x[:HELD].contiguous()}, path)
            plan = {"data": str(path), "features": 16 * row["d"], "lr": 1e-3, "warmup": 4, "total": total + 1}
            errors: dict[str, str] = {}
            for name, worker in workers.items():
                first = [worker.ask(do="start", threads=threads, **plan, **row), worker.ask(do="steps", count=1)]
                errors.update((name, answer["error"]) for answer in first if "error" in answer)
            if "ours" in errors:
                raise SystemExit(f"our worker failed: {errors['ours']}")
        names = [name for name in workers if name not in errors]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 1):  # the first is not counted
            for name in names if turn % 2 == 0 else names[::-1]:
                time.sleep(0.1)
                taken = workers[name].ask(do="steps", count=count)["seconds"]
                if turn:
                    seconds[name].append(taken)
        learned = {name: workers[name].ask(do="quality")["unexplained"] for name in names}
    finally:
        for worker in workers.values():
            worker.close()
    tokens = count * row["batch"]
    found = {
        name: {
            "tokens_per_second": tokens / statistics.median(taken),
            "best_tokens_per_second": tokens / min(taken),
            "unexplained": learned[name],
            "turns": taken,
        }
        for name, taken in seconds.items()
    }
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(seconds[name], seconds["ours"], strict=True))
        for name in seconds
        if name != "ours"
    }
    return {**row, "features": 16 * row["d"], "steps": total, "trainers": found, "ratios": ratios, "errors": errors}


def main() -> None:
    """Measure, print, write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 1], help="which of the sizes")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    python, problem = peers.saelens()
    pythons = {"ours": sys.executable} | (dict.fromkeys(NAMES[1:], python) if python else {})
    rows = []
    for index in given.rows:
        found = measured(ROWS[index], pythons, given.threads, given.rounds, given.steps)
        rows.append(found)
        print(
            f"d={found['d']}, F={found['features']}, k={found['k']}, {found['batch']} tokens a step: "
            + ", ".join(
                f"{name} {one['tokens_per_second']:,.0f} tokens/s (unexplained {one['unexplained']:.3f})"
                for name, one in found["trainers"].items()
            )
            + "".join(f"; {ratio:.2f} x {name}" for name, ratio in found["ratios"].items()),
            flush=True,
        )
    least = min((min(row["ratios"].values()) for row in rows if row["ratios"]), default=None)
    write_result(
        given.out, CLAIM, "python benchmarks/sae_training/run.py", threads=given.threads, rounds=given.rounds,
        peer=problem or "sae-lens 6.54 in its own environment, the same torch", rows=rows, least=least,
        holds=least is not None and least >= ENOUGH,
    )  # fmt: skip
    print(f"least {least} -> {given.out}" if least is None else f"least {least:.2f} x -> {given.out}")


if __name__ == "__main__":
    main()
