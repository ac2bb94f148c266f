"""Milliseconds per inference on a CPU, dense and sparse, beside everything else one could use.

    python benchmarks/cpu_inference/run.py

Every engine lives in a process of its own, pinned to the same processors with as many threads; they take turns, and the
others sleep meanwhile. A cell is one model at one batch size and one sparsity. Cells are written as they come; started
again, the script goes on with those that are missing (`--fresh` begins anew, `--report` only writes the tables again).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import claims
import models
import numpy as np
import peers
import report
import torch
from safetensors.torch import save_file
from turns import Worker, difference, python, take_turns

from sparseland.reports.speed import write_result

HERE = Path(__file__).resolve().parent
CLAIM = "sparse models are really faster on CPUs: our engine beside torch, ONNX Runtime, OpenVINO and DeepSparse"
ENGINES = ("torch", "torch.compile", "onnxruntime", "openvino", "deepsparse", "ours")
REFERENCE = "torch"  # what the outputs of the others are compared with
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
BATCHES = (1, 16)
ROUNDS, PER_TURN = 60, 5  # runs of each engine in a cell that count, and how many of them in one turn
QUICK = {"models": ["mobilenet-v1"], "sparsity": [0.0, 0.9], "batch": [1], "rounds": 10}


def prepare(place: Path, name: str, batch: int, sparsity: float, threads: int, store: Path) -> dict[str, Any]:
    """Write the files of a cell: weights, inputs and ONNX; the message that makes an engine load them."""
    model, inputs = models.build(name, batch, str(store))
    layers = models.prune(model, sparsity)
    models.calibrate(model, inputs)
    sizes = models.sizes(model, inputs)
    state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state, place / "weights.safetensors")
    np.savez(place / "inputs.npz", *[x.numpy() for x in inputs])
    files = {}
    for engine in ("onnxruntime", "openvino", "deepsparse"):
        opset = models.OPSET_OF.get(engine, models.OPSET)
        files[engine] = str(place / f"opset{opset}.onnx")
        if not Path(files[engine]).exists():
            models.export(model, inputs, Path(files[engine]), opset)
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    job = {
        "do": "load", "model": name, "batch": batch, "threads": threads, "peers": str(store),
        "onnx": files, "weights": str(place / "weights.safetensors"),
        "inputs": str(place / "inputs.npz"),
    }  # fmt: skip
    total = sum(p.numel() for p in model.parameters())
    return {"job": job, "facts": {"pruned_layers": layers, "parameters": total, "zeros": zeros, "sizes": sizes}}


def cell(workers: list[Worker], ready: dict[str, Any], rounds: int, place: Path) -> dict[str, Any]:
    """Load everywhere, compare the answers, take turns; what was found of each engine."""
    found: dict[str, Any] = {}
    loaded = []
    for worker in workers:
        answer = worker.ask(**ready["job"])
        if "error" not in answer:
            about = answer["about"]
            answer = worker.ask(do="answer", to=str(place / f"{worker.name}.npz"), threads=ready["job"]["threads"])
        if "error" in answer:
            found[worker.name] = {"error": answer["error"]}
            continue
        found[worker.name] = {"about": about, **answer["facts"]}
        loaded.append(worker)
    reference = place / f"{REFERENCE}.npz"
    for worker in loaded:
        if worker.name != REFERENCE and reference.exists():
            found[worker.name]["difference"] = difference(reference, place / f"{worker.name}.npz")
    for name, measured in take_turns(loaded, rounds, PER_TURN).items():
        found[name].update(measured)
    return found


def show(row: dict[str, Any]) -> None:
    """One line of a cell."""
    shown = []
    for name, one in row["engines"].items():
        shown.append(f"{name} {1000 * one['median']:.2f}" if "median" in one else f"{name} –")
    print(f"{row['model']} batch {row['batch']} {row['sparsity']:.0%}: " + ", ".join(shown) + " ms", flush=True)
    for name, one in row["engines"].items():
        if "error" in one:
            print(f"    {name}: {one['error']}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=models.MODELS, default=list(models.MODELS))
    parser.add_argument("--sparsity", nargs="+", type=float, default=list(SPARSITIES))
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cpus", nargs="+", type=int, default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument("--peers", type=Path, default=peers.folder(), help="where DeepSparse and MiniLM are kept")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--quick", action="store_true", help="one model, two sparsities, ten runs")
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are there")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the tables and the plot")
    given = parser.parse_args()
    if given.quick:
        for name, value in QUICK.items():
            if getattr(given, name) == parser.get_default(name):
                setattr(given, name, value)
        if given.out == HERE / "result.json":
            given.out = Path(tempfile.gettempdir()) / "cpu_inference.json"
    return given


def stored(path: Path) -> list[dict[str, Any]]:
    """The cells that are there."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def fewest_runs(rows: list[dict[str, Any]]) -> int:
    """Runs that every time here is at least the median of."""
    return min((one["runs"] for row in rows for one in row["engines"].values() if "runs" in one), default=ROUNDS)


def command(rows: list[dict[str, Any]]) -> str:
    """The line that measures the cells that are there."""
    words = {
        "--models": [name for name in models.MODELS if any(row["model"] == name for row in rows)],
        "--sparsity": sorted({row["sparsity"] for row in rows}),
        "--batch": sorted({row["batch"] for row in rows}),
        "--engines": [name for name in ENGINES if any(name in row["engines"] for row in rows)],
    }
    every = {
        "--models": list(models.MODELS),
        "--sparsity": list(SPARSITIES),
        "--batch": list(BATCHES),
        "--engines": list(ENGINES),
    }
    if (rounds := fewest_runs(rows)) != ROUNDS:
        words["--rounds"], every["--rounds"] = [rounds], []
    said = [" ".join([name, *map(str, some)]) for name, some in words.items() if some != every[name]]
    return " ".join(["python benchmarks/cpu_inference/run.py", *said])


def write(given: argparse.Namespace, rows: list[dict[str, Any]], absent: dict[str, str]) -> None:
    """result.json with all cells so far, and the tables and the plot that are made of it."""
    order = {name: i for i, name in enumerate(models.MODELS)}
    rows.sort(key=lambda row: (order[row["model"]], row["batch"], row["sparsity"]))
    write_result(
        given.out, CLAIM, command(rows), cpus=len(given.cpus), rounds=fewest_runs(rows),
        per_turn=PER_TURN, opset=models.OPSET, absent=absent, claims=claims.claims(rows), rows=rows,
    )  # fmt: skip
    if given.out.parent == HERE:
        report.write(HERE, json.loads(given.out.read_text(encoding="utf-8")))


def main() -> None:
    """Measure what is missing, cell by cell."""
    given = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(len(given.cpus))
    rows = [] if given.fresh else stored(given.out)
    absent: dict[str, str] = {}
    if given.report:
        return write(given, rows, json.loads(given.out.read_text(encoding="utf-8"))["absent"])
    given.peers.mkdir(parents=True, exist_ok=True)
    pythons = dict.fromkeys(given.engines, python())
    if "deepsparse" in given.engines:
        found, why = peers.deepsparse(given.peers)
        if found is None:
            absent["deepsparse"] = why
            print(f"without DeepSparse: {why}")
        pythons["deepsparse"] = found or ""
    workers = [Worker(name, pythons[name], given.cpus) for name in given.engines if name not in absent]
    try:
        for name in given.models:
            if name == "minilm" and (why := peers.minilm(given.peers)):
                absent[name] = why
                print(f"without MiniLM: {why}")
                continue
            for batch in given.batch:
                for sparsity in given.sparsity:
                    old = claims.find(rows, name, sparsity, batch)
                    if old is not None and {worker.name for worker in workers} <= old["engines"].keys():
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        place = Path(folder)
                        ready = prepare(place, name, batch, sparsity, len(given.cpus), given.peers)
                        row = {"model": name, "batch": batch, "sparsity": sparsity, **ready["facts"]}
                        row["engines"] = cell(workers, ready, given.rounds, place)
                    rows = [one for one in rows if one is not old] + [row]
                    show(row)
                    write(given, rows, absent)
    finally:
        for worker in workers:
            worker.close()
    for one in claims.claims(rows):
        print({True: "holds", False: "FAILS", None: "  ?  "}[one["holds"]], one["claim"], "found", one["found"])
    print(f"-> {given.out}")
    return None


if __name__ == "__main__":
    main()
