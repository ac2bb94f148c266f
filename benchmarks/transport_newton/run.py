"""Entropic transport to 1e-9 at eta = 1200: sparse Newton beside POT, OTT and regot; at eta = 10; and n = 250 to 8,000.

    python benchmarks/transport_newton/run.py            some four minutes on one processor
    python benchmarks/transport_newton/run.py --quick    a try in half a minute, written elsewhere

Random assignment (uniform masses, costs from U[0, 1), float64). One process per solver, all on one processor with
one thread; they take turns on the same problems (numpy's generator with the same seed), and one computes at a time. The
error is |P 1 - a|_1 + |P^T 1 - b|_1 of the dense plan that a solver gives back, whatever it reports itself. POT and OTT
are stopped after a fixed number of steps, because they would take minutes: then their time is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import peers  # noqa: E402 - beside this file

CLAIM = (
    "at eta = 1200, sns reaches 1e-9 in at most a tenth of the time of POT's and OTT's Sinkhorn, and in no more than "
    "regot's sinkhorn_ssns"
)
OURS = ("ours, sns", "ours, sinkhorn")
THEIRS = {"pot": "pot", "ott": "ott", "ott, momentum": "ott", "regot ssns": "regot", "regot splr": "regot"}
SLOWEST = 20.0  # seconds: a solver that took longer is not asked for the next size
PATIENCE = 60.0  # seconds for one answer; who needs more is stopped, and not asked again
TIMES = 3  # how often the quick ones run on each problem


class Worker:
    """A solver's process, pinned to one processor."""

    def __init__(self, python: str, cpu: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, **threads}, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )  # fmt: skip

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a problem, wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(message), file=self.process.stdin, flush=True)
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            if not ready:
                self.process.kill()
                return {"failed": f"took longer than {PATIENCE:g} seconds"}
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"failed": "its process ended"}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def setting(
    workers: dict[str, Worker], names: list[str], n: int, seeds: int, eta: float, tol: float, caps: dict[str, int]
) -> dict[str, Any]:
    """Every solver on every problem, in turns; medians over problems."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(seeds):
        order = names[seed % len(names) :] + names[: seed % len(names)]
        for name in order:
            workers[name].ask(solver=name, n=64, seed=9, eta=eta, tol=tol, cap=20)  # imports, first calls
            told: list[dict[str, Any]] = []
            while len(told) < TIMES and (not told or told[0].get("seconds", 9) < 1):
                told.append(
                    workers[name].ask(solver=name, n=n, seed=seed, eta=eta, tol=tol, cap=caps.get(name, 100_000))
                )
            if "failed" in told[0]:
                runs[name].append(told[0])
            else:
                runs[name].append(told[-1] | {"seconds": statistics.median(t["seconds"] for t in told)})
    return {name: summary(found, tol) for name, found in runs.items()}


def scaled(
    workers: dict[str, Worker], sizes: list[int], eta: Callable[[int], float], caps: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """One problem of each size; who took long is not asked for the next."""
    still = [name for name in workers if name in (*OURS, "regot ssns", "regot splr")]
    cells: dict[str, dict[str, Any]] = {}
    for n in sizes:
        cells[str(n)] = setting(workers, still, n, 1, eta(n), 1e-9, caps)
        show(f"n = {n:,}, eta = {eta(n):g}, to 1e-9", cells[str(n)])
        # twice the points are four times the entries and more steps: say eight times the time
        still = [name for name in still if cells[str(n)][name].get("seconds", 1e9) * 8 < SLOWEST or name == OURS[0]]
    return cells


def summary(found: list[dict[str, Any]], tol: float) -> dict[str, Any]:
    """Medians over the problems, and whether all reached the tolerance."""
    failed = [one["failed"] for one in found if "failed" in one]
    if failed:
        return {"failed": failed[0]}
    return {
        "seconds": statistics.median(one["seconds"] for one in found),
        "error": max(one["error"] for one in found),
        "steps": statistics.median(one["steps"] for one in found),
        "reached": all(one["error"] <= tol for one in found),
        "runs": [one["seconds"] for one in found],
        "costs": [one["cost"] for one in found],
    }


def show(title: str, cells: dict[str, Any]) -> None:
    """One line per solver."""
    print(title)
    base = cells["ours, sns"].get("seconds")
    for name, one in cells.items():
        if "failed" in one:
            print(f"  {name:15} {one['failed']}")
        else:
            ratio = one["seconds"] / base
            print(
                f"  {name:15} {1e3 * one['seconds']:10.1f} ms  {ratio:8.2f} x  error {one['error']:.1e}  "
                f"{one['steps']:g} steps{'' if one['reached'] else '  (not reached)'}",
                flush=True,
            )


def verdict(cells: dict[str, Any]) -> dict[str, Any]:
    """How many times as long the peers take, and whether the claim holds; None where a peer could not be run."""
    base, out = cells["ours, sns"]["seconds"], {}
    for name, least in (("pot", 10.0), ("ott", 10.0), ("regot ssns", 1.0)):
        there = cells.get(name, {"failed": "not there"})
        ratio = None if "failed" in there else there["seconds"] / base
        out[name] = {"ratio": ratio, "wanted": least, "bound": bool(ratio) and not there["reached"],
                     "holds": None if ratio is None else ratio >= least and cells["ours, sns"]["reached"]}  # fmt: skip
    return out


def draw(scaling: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Seconds over n, both logarithmic, a panel per choice of eta; hollow where the tolerance was not reached."""
    import matplotlib
    from matplotlib.figure import Figure

    from sparseland.papers.charts import COLORS, MARKERS, STYLE

    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(9.2, 3.8), layout="constrained")
        panels = made.subplots(1, len(scaling), sharey=True)
        for axes, (title, rows) in zip(panels, scaling.items(), strict=True):
            names = [*dict.fromkeys(name for cells in rows.values() for name in cells)]
            for k, name in enumerate(names):
                at = [(int(n), cells[name]) for n, cells in rows.items() if "seconds" in cells.get(name, {})]
                color = COLORS[k % len(COLORS)]
                axes.plot([n for n, _ in at], [c["seconds"] for _, c in at], color=color)
                for n, c in at:
                    look = {"color": color, "mfc": color if c["reached"] else "white"}
                    axes.plot(n, c["seconds"], MARKERS[k % 7], label=name if n == at[0][0] else None, **look)
            axes.set(xscale="log", yscale="log", xlabel="n", title=f"{title}, to 1e-9")
            axes.set_xticks([int(n) for n in rows], [f"{int(n):,}" for n in rows])
            axes.minorticks_off()
        panels[0].set_ylabel("seconds (hollow: stopped before)")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        made.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Three tables, result.json, plot.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one problem, n up to 1,000, fewer steps for POT and OTT")
    parser.add_argument("--sizes", nargs="+", type=int, help="of the scaling (250 … 8000)")
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)), help="which processor")
    parser.add_argument("--peers", type=Path, default=peers.folder(), help="the environment of the peers")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    if given.quick and given.out == HERE / "result.json":
        given.out = ROOT / "runs" / "benchmarks" / "transport_newton.json"
    python, reasons = peers.environment(given.peers)
    workers = {name: Worker(sys.executable, given.cpu) for name in OURS}
    workers |= {name: Worker(python, given.cpu) for name, peer in THEIRS.items() if not reasons[peer]}
    names, seeds = list(workers), 1 if given.quick else 3
    caps = {"pot": 200, "ott": 200, "ott, momentum": 200} if given.quick else {"pot": 800, "ott": 2000}
    caps |= {"ott, momentum": caps["ott"], "ours, sinkhorn": 5000, "regot ssns": 1000, "regot splr": 3000}
    main_cells = setting(workers, names, 500, seeds, 1200.0, 1e-9, caps)
    show("n = 500, eta = 1200, to 1e-9", main_cells)
    easy = setting(workers, names, 500, seeds, 10.0, 1e-3, {})
    show("n = 500, eta = 10, to 1e-3", easy)
    sizes = given.sizes or ([250, 500, 1000] if given.quick else [250, 500, 1000, 2000, 4000, 8000])
    scaling = {
        "eta = 1200": scaled(workers, sizes, lambda n: 1200.0, caps),
        "eta = 2.4 n": scaled(workers, sizes, lambda n: 2.4 * n, caps),  # as hard at every n: costs get denser with it
    }
    for worker in workers.values():
        worker.close()
    from sparseland.reports.speed import write_result

    given.out.parent.mkdir(parents=True, exist_ok=True)
    claims = verdict(main_cells)
    write_result(
        given.out, CLAIM, "python benchmarks/transport_newton/run.py" + (" --quick" if given.quick else ""), threads=1,
        peers={name: list(packages) for name, packages in peers.PEERS.items()},
        not_there={peer: why for peer, why in reasons.items() if why}, steps=caps, hard=main_cells, easy=easy,
        scaling=scaling, claims=claims,
    )  # fmt: skip
    draw(scaling, given.out.with_name("plot.svg"))
    for name, one in claims.items():
        found = "not run" if one["ratio"] is None else f"{'at least ' if one['bound'] else ''}{one['ratio']:.1f} x"
        print(f"{name}: {found} (wanted {one['wanted']:g}) -> {one['holds']}")
    print(f"-> {given.out}")


if __name__ == "__main__":
    main()
