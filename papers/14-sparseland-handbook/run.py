"""Train, prune and measure what the ten questions need, answer them by `rules`, and write result.json and table.md.

    SPARSELAND_DATA=../shared/data python papers/14-sparseland-handbook/run.py --workers 2
    python papers/14-sparseland-handbook/run.py --rebuild     # from finished runs; nothing is trained

Finished runs stay in ``runs/papers`` and are not repeated; runs of papers/11-granet with an equal configuration are
taken from there. Question 2 is measured by latency.py, whose latency.json is merged here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jobs
import rules
import work

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = Path("runs/papers") / HERE.name
LENT = Path("runs/papers/11-granet")
COMMAND = f"python papers/{HERE.name}/run.py"


def lent() -> dict[str, Path]:
    """{configuration as text: folder} of the finished runs of papers/11-granet."""
    from sparseland.train import TrainConfig

    found = {}
    for path in sorted(LENT.glob("*/*/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[text(TrainConfig.from_dict(result["config"]).to_dict())] = path.parent
    return found


def text(config: Mapping[str, Any]) -> str:
    """What a configuration computes, as text."""
    from sparseland.train.config import FREE

    return json.dumps({k: v for k, v in config.items() if k not in FREE}, sort_keys=True)


def places() -> dict[str, tuple[dict[str, Any], Path, bool]]:
    """{run/seed: (configuration, folder, whether papers/11-granet holds it)}."""
    from sparseland.train import TrainConfig

    known, out = lent(), {}
    for name, config in jobs.runs().items():
        for seed in jobs.SEEDS:
            whole = config | {"seed": seed}
            place = known.get(text(TrainConfig.from_dict(whole).to_dict()))
            key = f"{name}/{seed}"
            out[key] = (whole, place or PLACE / key, place is not None)
    return out


def done(workers: int, train: bool) -> dict[str, dict[str, Any]]:
    """{run/seed: numbers} of everything, in three rounds: train; prune trained nets; measure again."""
    from sparseland.train.fan_out import fan_out, require

    def out(function: Any, tasks: dict[str, Any], kind: str) -> dict[str, Any]:
        if not train:
            finished = (PLACE / kind).glob("*.json") if (PLACE / kind).is_dir() else ()
            have = sum(1 for _ in finished)
            if have < len(tasks):
                sys.exit(f"{kind}: {have} of {len(tasks)} jobs are finished; run without --rebuild")
        return require(fan_out(function, tasks, out=PLACE / kind, workers=workers, threads=1, overwrite=True))

    where = places()
    own = {k: {"config": c, "out": str(p)} for k, (c, p, borrowed) in where.items() if not borrowed}
    values = out(work.train, own, "trained")
    for key, (_, place, borrowed) in where.items():
        if borrowed:
            values[key] = work.digest(json.loads((place / "result.json").read_text(encoding="utf-8")))
    later = {}
    for name, job in jobs.derived().items():
        for seed in jobs.SEEDS:
            source = where[f"{job['source']}/{seed}"][1]
            later[f"{name}/{seed}"] = job | {"config": job["config"] | {"seed": seed}, "source": str(source)}
    values |= out(work.from_dense, later, "derived")
    again = {
        f"{name}/{seed}": {"config": where[f"{name}/{seed}"][0], "source": str(where[f"{name}/{seed}"][1])}
        for name in jobs.beyond()
        for seed in jobs.SEEDS
    }
    for key, value in out(work.measure, again, "measured").items():
        values[key] = values[key] | value
    return values


# What a question shows beside accuracy.
MORE = {"L5": ("explored",), "L10": ("worst_class", "ece", "ood_auroc", "noise_drop", "shift_drop")}


def card(name: str) -> dict[str, Any]:
    """What kind of method a run is, and what it needs dense."""
    from sparseland.account import card_of
    from sparseland.train import compose
    from sparseland.weights import methods

    made = jobs.runs().get(name)
    if made is None:  # pruned from a trained dense net
        return card_of(methods.Magnitude(jobs.derived()[name]["sparsity"]), procedure="one-shot").to_dict()
    return card_of(compose(made["method"]).method).to_dict()


def rows_of(key: jobs.Row, values: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of one question, setting and arm: accuracy, and what else the question looks at; shares in percent."""
    question, setting, arm, name = key
    found = [values[f"{name}/{seed}"] for seed in jobs.SEEDS]
    data = name.partition("/")[0]
    base = f"{data}/2,500 images, dense 1x" if question == "L8" else f"{data}/dense"
    dense = values[f"{base}/{jobs.SEEDS[0]}"]
    about = card(name)
    cost = {
        "kept": found[0]["kept"],
        "total": found[0]["total"],
        "training_flops": round(statistics.mean(v["training"] for v in found) / dense["training_dense"], 4),
        "inference_flops": round(found[0]["inference"] / dense["inference_dense"], 4),
        "needs_dense": ", ".join(about["needs_dense"]) or "nothing",
        "route": about["route"],
        "when": about["when"],
        "run": name,
    }
    for metric in ("accuracy", *MORE.get(question, ())):
        by_seed = [round(100 * v[metric], 2) for v in found]
        yield {
            "part": question,
            "setting": setting,
            "arm": arm,
            "metric": rules.METRICS[metric],
            "seeds": len(found),
            "mean": round(statistics.mean(by_seed), 2),
            "std": round(statistics.stdev(by_seed), 2),
            "by_seed": ", ".join(f"{v:g}" for v in by_seed),
            **(cost if metric == "accuracy" else {}),
        }


def latency_rows(timed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Question 2's rows, from what latency.py measured last."""
    for cell in timed.get("rows", ()):
        for form, speed in cell["speedup"].items():
            yield {
                "part": "L2",
                "setting": f"n {cell['n']}, batch {cell['batch']}, {100 * cell['sparsity']:g} % zeros",
                "arm": form,
                "metric": rules.METRICS["speed"],
                "seeds": 1,
                "mean": speed,
                "std": None,
                "by_seed": f"{speed:g}",
                "n": cell["n"],
                "batch": cell["batch"],
                "sparsity": cell["sparsity"],
                "quiet": cell["stable"],
            }


def latency() -> dict[str, Any]:
    """The file of latency.py; empty if it never ran."""
    path = HERE / "latency.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def unquiet(timed: Mapping[str, Any]) -> list[str]:
    """What is missing of question 2: everything, or quiet."""
    cells = timed.get("rows", [])
    loud = sum(not cell["stable"] for cell in cells)
    if not cells:
        return ["question 2 is not measured"]
    return [f"question 2 on a quiet machine: in {loud} of {len(cells)} cells it had other work"] if loud else []


def about(values: Mapping[str, Mapping[str, Any]], timed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By question: its seeds, runs and minutes, and where they were made. Questions share runs."""
    out = {}
    for question in jobs.SETTING:
        if question == "L2":
            if timed:
                out["L2"] = {"seeds": [0], "runs": len(timed["rows"]), "minutes": timed["minutes"]}
                out["L2"] |= {"machine": timed["machine"], "versions": timed["versions"]}
            continue
        names = {name for q, _, _, name in jobs.rows() if q == question}
        found = [values[f"{name}/{seed}"] for name in sorted(names) for seed in jobs.SEEDS]
        minutes = round(sum(v["seconds"] for v in found) / 60, 1)
        out[question] = {"seeds": list(jobs.SEEDS), "runs": len(found), "minutes": minutes}
        out[question] |= {"machine": found[0]["machine"], "versions": found[0]["versions"]}
    return out


def main() -> None:
    """Parse, train, answer, write."""
    from sparseland.files import write_file, write_json
    from sparseland.papers.record import pages, table
    from sparseland.papers.result import check

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rebuild", action="store_true", help="write the result from finished runs; train nothing")
    args = parser.parse_args()
    values, timed = done(args.workers, train=not args.rebuild), latency()
    rows = [row for key in jobs.rows() for row in rows_of(key, values)]
    rows += latency_rows(timed)
    order = list(jobs.SETTING)
    rows.sort(key=lambda row: order.index(row["part"]))
    parts = about(values, timed)
    verdict, why = rules.judge(rules.answers(rows))
    first = values[f"fashion/dense/{jobs.SEEDS[0]}"]
    result = {
        "schema": 1,
        "system": jobs.SYSTEM,
        "claim": jobs.CLAIM,
        "setting": {question: text for question, text in jobs.SETTING.items() if question in parts},
        "seeds": list(jobs.SEEDS),
        "ours": rows,
        "command": COMMAND,
        "minutes": round(sum(v["seconds"] for v in values.values()) / 60, 1),  # of all runs, one after the other
        "machine": first["machine"],
        "versions": first["versions"],
        "verdict": verdict,
        "why": why,
        "missing": unquiet(timed),
        "limits": list(jobs.LIMITS),
        "parts": parts,
    }
    check(result)
    write_json(HERE / "result.json", result)
    for path, text in pages(HERE, jobs, result).items():
        write_file(path, lambda file, text=text: file.write(text.encode()))
    print(table(rows), f"{verdict}: {why}", sep="\n")


if __name__ == "__main__":
    main()
