"""Question 2: what zeros are worth in y = W x, measured; writes latency.json, which run.py merges.

    python papers/14-sparseland-handbook/latency.py            # two minutes on a quiet machine
    python papers/14-sparseland-handbook/latency.py --check    # a few cells; asserts only what must hold anywhere

`sparseland.advisor.latency.measure` is the clock: dense, masked (the dense product with zeros in W, which is what
training does), CSR and compacted (rows removed until the FLOPs are those of the sparse one) take turns on one thread.
A speed is the median over rounds of the ratio to dense. A cell whose p90 / p10 exceeds 1.5 for any form is measured
again, up to three times, and marked if it stays so: the machine was too busy to say.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIZES = (256, 512, 1024, 2048)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
BATCHES = (1, 64)
ROUNDS = 31


def cells(sizes: tuple[int, ...], sparsities: tuple[float, ...], rounds: int) -> list[dict[str, Any]]:
    """Every cell of a grid: {"n", "batch", "sparsity", "speedup": {form: times dense}, "stable"}."""
    from sparseland.advisor.latency import measure

    out = []
    for n in sizes:
        for batch in BATCHES:
            for found in measure((n, n), batch, sparsities, rounds=rounds):
                speedup = {form: round(value, 3) for form, value in found["speedup"].items()}
                cell = {"n": n, "batch": batch, "sparsity": found["sparsity"], "speedup": speedup}
                out.append(cell | {"stable": found["stable"]})
                print(out[-1], flush=True)
    return out


def check() -> None:
    """What must hold on any machine, at one size: exit 1 and say what did not."""
    import rules

    found = rules.latency_checks(cells((512,), (0.5, 0.99), 15))
    wrong = [text for text, held in found.items() if not held]
    for text in wrong:
        print(f"did not hold: {text}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def main() -> None:
    """Measure every cell and write the file."""
    import torch

    from sparseland.reports.speed import write_result

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="a few cells; writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.check:
        check()
    began = time.monotonic()
    found = cells(SIZES, SPARSITIES, ROUNDS)
    minutes = round((time.monotonic() - began) / 60, 1)
    claim = "Zeros make y = W x faster only where the format and the kernel skip them."
    command = f"python papers/{HERE.name}/latency.py"
    write_result(HERE / "latency.json", claim, command, minutes=minutes, rounds=ROUNDS, rows=found)


if __name__ == "__main__":
    main()
