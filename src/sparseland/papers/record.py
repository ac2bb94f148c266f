"""From finished runs to what a paper folder shows: rows, result.json, table.md, figures, the README's block.

Used by ``papers/run.py``; nothing here trains.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from . import charts
from .result import ACCURACY

SHARES = ("training_flops", "inference_flops")
BLOCK = r"(<!-- result:begin[^\n]*-->\n).*?(<!-- result:end -->)"


def rows_of(values: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per part, setting, arm and metric: mean and sample standard deviation over seeds.

    values: by key ``part/setting/arm/seed`` {"accuracy" (a fraction), "kept", "total", "training_flops",
    "inference_flops"}, or by ``part/setting/seed`` {"measured": a list of {"arm", "metric", "value"}, with "setting"
    where it is not the key's}.

    >>> ece = {"arm": "dense", "metric": "ECE (%)"}
    >>> values = {f"attack//{seed}": {"measured": [ece | {"value": seed}]} for seed in (1, 3)}
    >>> [(row["part"], row["arm"], row["mean"], row["std"], row["seeds"]) for row in rows_of(values)]
    [('attack', 'dense', 2, 1.41, 2)]
    """
    grouped: dict[tuple[str, str, str, str], list[tuple[float, Mapping[str, Any]]]] = {}
    for key, value in values.items():
        part, _, rest = key.rpartition("/")[0].partition("/")
        if "measured" in value:
            for item in value["measured"]:
                place = (part, item.get("setting", rest), item["arm"], item["metric"])
                grouped.setdefault(place, []).append((item["value"], {}))
        else:
            setting, _, arm = rest.rpartition("/")
            grouped.setdefault((part, setting, arm, ACCURACY), []).append((100 * value["accuracy"], value))
    return [_row(place, found) for place, found in grouped.items()]


def _row(place: tuple[str, str, str, str], found: list[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    numbers, first = [number for number, _ in found], found[0][1]
    row: dict[str, Any] = dict(zip(("part", "setting", "arm", "metric"), place, strict=True))
    row |= {
        "seeds": len(found),
        "mean": round(statistics.mean(numbers), 2) + 0,  # + 0: no minus zero
        "std": round(statistics.stdev(numbers), 2) if len(found) > 1 else None,
    }
    if first:
        row |= {"kept": first["kept"], "total": first["total"]}
        row |= {name: round(statistics.mean(value[name] for _, value in found), 4) for name in SHARES}
    return row


def part_of(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where and when the runs of one part were made, from what each returned under "seconds", "machine", "versions"."""
    first = next(iter(values.values()))
    return {
        "seeds": sorted({int(key.rpartition("/")[2]) for key in values}),
        "runs": len(values),
        "minutes": round(sum(value["seconds"] for value in values.values()) / 60, 1),
        "machine": first["machine"],
        "versions": first["versions"],
    }


def result_of(
    slug: str,
    jobs: Any,
    parts: Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]],
    missing: Iterable[str],
) -> dict[str, Any]:
    """The whole result as plain data; ``judge`` of the folder gives the verdict.

    jobs: a folder's ``jobs.py``. parts: its rows and its `part_of`, by part. missing: of the proof.
    """
    rows = [row for rows, _ in parts.values() for row in rows]
    about = [part for _, part in parts.values()]
    verdict, why = jobs.judge(rows)
    return {
        "schema": 1,
        "system": jobs.SYSTEM,
        "claim": jobs.CLAIM,
        "setting": {part: " ".join((jobs.PARTS[part].__doc__ or part).split()) for part in parts},
        "seeds": sorted({seed for part in about for seed in part["seeds"]}),
        "ours": rows,
        "command": f"python papers/run.py {slug} --parts {' '.join(parts)}",
        "minutes": round(sum(part["minutes"] for part in about), 1),
        "machine": about[0]["machine"],
        "versions": about[0]["versions"],
        "verdict": verdict,
        "why": why,
        "headline": jobs.headline(rows) if hasattr(jobs, "headline") else None,
        "missing": list(missing),
        "limits": list(jobs.LIMITS),
        "parts": {name: part for name, (_, part) in parts.items()},
    }


# -------------------------------------------------------------------------------------------------- what people see
def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as Markdown: accuracies with non-zeros and FLOPs, then one table for everything else."""
    accuracy = [row for row in rows if row.get("total")]
    others = [row for row in rows if not row.get("total")]
    lines = []
    if accuracy:
        lines += [
            "| data | net | method | test accuracy (%) | non-zeros | training FLOPs |",
            "|---|---|---|--:|--:|--:|",
        ]
        lines += [
            f"| {r['part']} | {r['setting']} | {r['arm']} | {spread(r)} ({r['seeds']}) "
            f"| {r['kept']:,} of {r['total']:,} | {r['training_flops']:.3f} × dense |"
            for r in accuracy
        ]
    if others:
        lines += [""] * bool(accuracy)
        lines += ["| part | setting | arm | measure | mean ± std (seeds) |", "|---|---|---|---|--:|"]
        lines += [
            f"| {r['part']} | {r['setting']} | {r['arm']} | {r['metric']} | {spread(r)} ({r['seeds']}) |"
            for r in others
        ]
    return "\n".join(lines) + "\n"


def spread(row: Mapping[str, Any]) -> str:
    """``97.33 ± 0.64``; without a standard deviation the mean alone. Small numbers keep three digits that count.

    >>> spread({"mean": 97.334, "std": 0.64}), spread({"mean": 2.5e-12, "std": None}), spread({"mean": 0.0, "std": 0.0})
    ('97.33 ± 0.64', '2.5e-12', '0.00 ± 0.00')
    """
    small = 0 < abs(row["mean"]) < 0.05
    mean, std = (f"{x:.3g}" if small else f"{x:.2f}" for x in (row["mean"], row["std"] or 0.0))
    return mean if row["std"] is None else f"{mean} ± {std}"


def block(result: Mapping[str, Any], pictures: Iterable[str]) -> str:
    """What a folder's README says of its result, as Markdown."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"**Verdict: {result['verdict']}.** {result['why']}",
        "",
        "| part | what | seeds | runs | minutes |",
        "|---|---|---|--:|--:|",
        *(
            f"| {name} | {result['setting'][name]} | {', '.join(map(str, part['seeds']))} | {part['runs']} "
            f"| {part['minutes']:g} |"
            for name, part in result["parts"].items()
        ),
        "",
        f"{result['minutes']:g} minutes in all, one run after the other with one thread each, on a machine that had "
        f"other work too ({machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, torch "
        f"{versions.get('torch', '?')}). All numbers: [table.md](table.md), [result.json](result.json).",
        "",
        "```bash",
        f"SPARSELAND_DATA=../shared/data {result['command']}",
        "```",
        "",
        *(f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures),
        "**Not shown:**",
        "",
        *(f"- {text}" for text in (*result["missing"], *result.get("limits", ()))),
    ]
    return "\n".join(lines)


def pages(folder: Path, jobs: Any, result: Mapping[str, Any]) -> dict[Path, str]:
    """Every generated text of a folder but result.json: the figures, the table, the README with its block."""
    rows = [{"metric": ACCURACY, **row} for row in result["ours"]]
    draw: Callable[..., dict[str, Any]] = getattr(jobs, "figures", lambda rows: {})
    drawn = {name: charts.draw(chart) for name, chart in draw(rows).items()}
    texts = {folder / name: svg for name, svg in drawn.items()} | {folder / "table.md": table(rows)}
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8")
        made = block(result, drawn)
        texts[readme] = re.sub(BLOCK, lambda found: f"{found[1]}{made}\n{found[2]}", text, flags=re.DOTALL)
    return texts


def stale(texts: Mapping[Path, str]) -> list[Path]:
    """Files that do not hold what they should."""
    return [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
