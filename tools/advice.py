"""Write the measured tables on which `sparseland advise` rests: src/sparseland/advisor/tables.json.

    python tools/advice.py            bring it up to date
    python tools/advice.py --check    change nothing; exit 1 if it is stale

Everything in it comes from result files of papers/ and benchmarks/; no number is written here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "src" / "sparseland" / "advisor" / "tables.json"
DATA = {"fashion": "fashion-mnist", "cifar": "cifar10-jpeg", "digits": "digits"}

# What the arms of the papers' tables are called there (without their density), and the method that each one is.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "er": ("random", {"ratios": "er"}),
    "erk": ("random", {"ratios": "erk"}),
    "static erk": ("random", {"ratios": "erk"}),
    "uniform": ("random", {"ratios": "uniform"}),
    "static uniform": ("random", {"ratios": "uniform"}),
    "snip-ratio": ("random", {"ratios": "snip"}),
    "grasp-ratio": ("random", {"ratios": "grasp"}),
    "snip shuffled": ("random", {"ratios": "snip"}),
    "grasp shuffled": ("random", {"ratios": "grasp"}),
    "set": ("set", {}),
    "set uniform": ("set", {"allocation": "uniform"}),
    "rigl": ("rigl", {}),
    "rigl uniform": ("rigl", {"allocation": "uniform"}),
    "gmp": ("gmp", {}),
    "granet": ("granet", {}),
    "granet dense start": ("granet", {"initial_sparsity": 0.0}),
    "granet half-sparse start": ("granet", {"initial_sparsity": 0.5}),
    "snip": ("snip", {}),
    "grasp": ("grasp", {}),
    "synflow": ("synflow", {}),
    "one-shot, no retraining": ("magnitude", {}),
    "ticket": ("imp", {"rounds": 1, "rewind": "weights"}),
    "one-shot, retrained": ("imp", {"rounds": 1, "rewind": "learning-rate"}),
}


def tables(root: Path = ROOT) -> dict[str, Any]:
    """The content of the file, from the result files below ``root``."""
    found: list[dict[str, Any]] = []
    files = ("papers/*/result.json", "papers/*/latency.json", "benchmarks/*/result.json")
    for path in sorted(path for pattern in files for path in root.glob(pattern)):
        found += _tables_of(path.relative_to(root), json.loads(path.read_text(encoding="utf-8")))
    return {"schema": 1, "tables": found}


def _tables_of(path: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of one result file that advice can use; a file without any gives none."""
    about = {
        "table": path.parent.as_posix(),
        "link": path.as_posix(),
        "machine": {key: (result.get("machine") or {}).get(key) for key in ("cpu", "device", "threads")},
    }
    if "verdict" in result:
        about["verdict"] = result["verdict"]
    rows: dict[str, list[dict[str, Any]]] = {
        "accuracy": accuracy_rows(result) if isinstance(result.get("ours"), list) else demo_rows(result),
        "latency": latency_rows(result) if path.name == "latency.json" else [],
        "overhead": overhead_rows(result),
        "bytes": byte_rows(result),
    }
    return [{**about, "kind": kind, "rows": content} for kind, content in rows.items() if content]


def accuracy_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a paper folder whose arm is a known method, each beside the dense net of its setting."""
    out: list[dict[str, Any]] = []
    rows = [row for row in result["ours"] if str(row.get("metric", "accuracy")).startswith(("test acc", "accuracy"))]
    for row in rows:
        named = method_of(str(row.get("arm", "")))
        dense = _dense(rows, row)
        if named is None or dense is None or not row.get("total"):
            continue
        made = {
            "data": data_of(row, result.get("setting") or {}),
            "setting": _setting(row),
            "method": named[0],
            "options": named[1],
            "arm": row["arm"],
            "sparsity": round(1 - row["kept"] / row["total"], 4),
            "accuracy": round(row["mean"] / 100, 4),
            "std": None if row.get("std") is None else round(row["std"] / 100, 4),
            "seeds": row["seeds"],
            "dense": round(dense["mean"] / 100, 4),
            "training_flops": row.get("training_flops"),
        }
        if made not in out:
            out.append(made)
    return out


def method_of(arm: str) -> tuple[str, dict[str, Any]] | None:
    """The method and options of an arm such as "RigL 5%"; None if it is none of ours.

    >>> method_of("GraNet dense start 5%"), method_of("small dense")
    (('granet', {'initial_sparsity': 0.0}), None)
    """
    return ARMS.get(re.sub(r"\s*[\d.]+\s*%$", "", arm).strip().lower())


def data_of(row: Mapping[str, Any], setting: Mapping[str, str]) -> str:
    """The data set of a row: named in its setting, its part, or first in the part's description."""
    part = str(row.get("part", ""))
    for text in (str(row.get("setting", "")), part, str(setting.get(part, ""))):
        places = {name: text.lower().find(name) for name in DATA}
        named = [name for name, place in places.items() if place >= 0]
        if named:
            return DATA[min(named, key=lambda name: places[name])]
    return part


def _setting(row: Mapping[str, Any]) -> str:
    """The net or the length of training that a row belongs to; densities and names of data are said elsewhere."""
    words = str(row.get("setting", "")).split()
    return " ".join(word for word in words if not word.endswith("%") and word not in (*DATA, "dense"))


def _dense(rows: list[dict[str, Any]], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The dense row of the same part and setting, or else of the same part and data."""
    same = [other for other in rows if other.get("arm") == "dense" and other.get("part") == row.get("part")]
    for other in same:
        if other.get("setting") == row.get("setting"):
            return other
    first = [other for other in same if str(row.get("setting", "")).startswith(str(other.get("setting")))]
    return first[0] if first else same[0] if len(same) == 1 else None


def demo_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a benchmark that holds the aggregate of a comparison."""
    aggregate = result.get("aggregate")
    rows = aggregate if isinstance(aggregate, list) else []
    dense = next((row for row in rows if row.get("name") == "dense"), None)
    if dense is None:
        return []
    return [
        {
            "data": "digits",
            "setting": "",
            "method": row["name"],
            "options": {},
            "arm": row["label"],
            "sparsity": round(row["sparsity"]["mean"], 4),
            "accuracy": round(row["accuracy"]["mean"], 4),
            "std": None if row["accuracy"]["std"] is None else round(row["accuracy"]["std"], 4),
            "seeds": len(row["seeds"]),
            "dense": round(dense["accuracy"]["mean"], 4),
            "training_flops": round(row["training_flops"]["mean"] / dense["training_flops"]["mean"], 4),
            "bytes": round(row["bytes"]["mean"] / dense["bytes"]["mean"], 4),
        }
        for row in rows
        if row is not dense
    ]


def latency_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measured products: {"shape", "batch", "sparsity", "speedup", "stable"}."""
    return [
        {
            "shape": row.get("shape") or [row["n"], row["n"]],
            "batch": row["batch"],
            "sparsity": row["sparsity"],
            "speedup": row["speedup"],
            "stable": row["stable"],
        }
        for row in result.get("rows") or []
    ]


def overhead_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Training steps with masks as a ratio of dense steps."""
    if "most_update_share" not in result:
        return []
    return [{"method": row["method"], "ratio": round(row["ratio"], 4)} for row in result["rows"]]


def byte_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sizes of packed float32 files as a share of the dense file, by the zeros in them."""
    rows = result.get("rows")
    rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    out = []
    for row in rows:
        if "bytes_ratio" in row and row.get("dtype") == "float32":
            kept = re.fullmatch(r"(\d+):(\d+)", row["zeros"])
            sparsity = 1 - int(kept[1]) / int(kept[2]) if kept else float(row["zeros"])
            pattern = row["zeros"] if kept else "unstructured"
            out.append({"sparsity": sparsity, "pattern": pattern, "share": round(row["bytes_ratio"], 4)})
    return out


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or say whether it is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the file is stale")
    args = parser.parse_args(arguments)
    made = json.dumps(tables(), ensure_ascii=False, indent=1) + "\n"
    if TABLES.is_file() and TABLES.read_text(encoding="utf-8") == made:
        print(f"{TABLES.relative_to(ROOT)} is up to date")
        return 0
    if args.check:
        print(f"{TABLES.relative_to(ROOT)} is stale: run python tools/advice.py", file=sys.stderr)
        return 1
    TABLES.write_text(made, encoding="utf-8")
    print(f"{TABLES.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
