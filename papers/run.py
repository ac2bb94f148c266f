"""Train what a paper folder lists, and write its result.json, table and verdict.

    python papers/run.py 11-granet --parts digits fashion --workers 2

Each folder has a ``jobs.py``: SYSTEM, CLAIM, PARTS ({name: function returning {"part/…/arm/seed": TrainConfig dict}})
and ``judge(rows)``, which turns the table into a verdict. Finished runs stay in ``runs/papers`` and are not repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def train(config: dict[str, Any], out: str) -> dict[str, Any]:
    """One run, and the few numbers of it that the table needs."""
    from sparseland.train import TrainConfig, run

    result = run(TrainConfig.from_dict(config), out, resume="auto", progress=False)
    return {
        "accuracy": result["test"]["accuracy"],
        "kept": result["kept"],
        "total": result["total"],
        "training_flops": result["flops"]["training"] / result["flops"]["training_dense"],
        "inference_flops": result["flops"]["inference"] / result["flops"]["inference_dense"],
        "seconds": result["seconds"],
        "machine": result["machine"],
        "versions": result["versions"],
    }


def jobs_of(slug: str) -> ModuleType:
    """The folder's jobs.py."""
    path = ROOT / "papers" / slug / "jobs.py"
    if not path.is_file():
        names = sorted(p.parent.name for p in (ROOT / "papers").glob("*/jobs.py"))
        sys.exit(f"no paper folder {slug!r}; possible: {', '.join(names)}")
    spec = importlib.util.spec_from_file_location("jobs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(values: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per part, setting and arm: mean and sample standard deviation over seeds, accuracies in percent."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, value in values.items():
        grouped[key.rpartition("/")[0]].append(value)
    rows = []
    for key, runs in grouped.items():
        accuracies = [100 * run["accuracy"] for run in runs]
        part, _, rest = key.partition("/")
        setting, _, arm = rest.rpartition("/")
        rows.append(
            {
                "part": part,
                "setting": setting,
                "arm": arm,
                "seeds": len(runs),
                "mean": round(statistics.mean(accuracies), 2),
                "std": round(statistics.stdev(accuracies), 2) if len(runs) > 1 else None,
                "kept": runs[0]["kept"],
                "total": runs[0]["total"],
                "training_flops": round(statistics.mean(run["training_flops"] for run in runs), 4),
                "inference_flops": round(statistics.mean(run["inference_flops"] for run in runs), 4),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| data | net | method | test accuracy | non-zeros | training FLOPs |", "|---|---|---|--:|--:|--:|"]
    for r in rows:
        spread = "" if r["std"] is None else f" ± {r['std']:.2f}"
        lines.append(
            f"| {r['part']} | {r['setting']} | {r['arm']} | {r['mean']:.2f}{spread} ({r['seeds']}) "
            f"| {r['kept']:,} of {r['total']:,} | {r['training_flops']:.3f} × dense |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, train, judge, write."""
    from sparseland.train.fan_out import fan_out, require

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug", help="the folder, for example 11-granet")
    parser.add_argument("--parts", nargs="+", help="which parts (default: those the folder names in DEFAULT)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    folder, jobs = ROOT / "papers" / args.slug, jobs_of(args.slug)
    parts = args.parts or list(jobs.DEFAULT)
    unknown = [p for p in parts if p not in jobs.PARTS]
    if unknown:
        sys.exit(f"no part {unknown[0]!r}; possible: {', '.join(jobs.PARTS)}")
    configs = {key: config for part in parts for key, config in jobs.PARTS[part]().items()}
    place = ROOT / "runs" / "papers" / args.slug
    tasks = {key: {"config": config, "out": str(place / key)} for key, config in configs.items()}
    done = fan_out(train, tasks, out=place / "results", workers=args.workers, threads=1)
    require(done)
    values = {key: done[key].value for key in tasks}
    rows = rows_of(values)
    verdict, why = jobs.judge(rows)
    first = next(iter(values.values()))
    result = {
        "schema": 1,
        "system": jobs.SYSTEM,
        "claim": jobs.CLAIM,
        "setting": {part: jobs.PARTS[part].__doc__ for part in parts},
        "seeds": sorted({int(key.rpartition("/")[2]) for key in values}),
        "ours": rows,
        "command": f"python papers/run.py {args.slug} --parts {' '.join(parts)}",
        "minutes": round(sum(v["seconds"] for v in values.values()) / 60, 1),  # of all runs, one after the other
        "machine": first["machine"],
        "versions": first["versions"],
        "verdict": verdict,
        "why": why,
        "missing": list(jobs.MISSING),  # of its proof: while there is something, it is not done
    }
    for name, text in (("result.json", json.dumps(result, indent=1) + "\n"), ("table.md", table(rows))):
        half = folder / f".{name}.half"
        half.write_text(text, encoding="utf-8")
        half.replace(folder / name)
    print(table(rows), f"{verdict}: {why}", folder / "result.json", sep="\n")


if __name__ == "__main__":
    main()
