"""The demo as a benchmark: `sparseland compare demo`, its table and its minutes.

python benchmarks/demo/run.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from sparseland.reports import read_record
from sparseland.reports.speed import write_result
from sparseland.reports.tables import budget_line, headline

HERE = Path(__file__).resolve().parent
CLAIM = "one command compares six methods at 90 % sparsity, three seeds each, within five minutes on two cores"


def main() -> None:
    """Run the comparison anew and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where the comparison goes")
    parser.add_argument("--set", action="append", default=[], help="settings for the recipe")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    settings = [word for one in given.set for word in ("--set", one)]
    command = ["compare", "demo", *settings, "--out", str(given.folder), "--overwrite"]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "sparseland.cli", *command], check=True)
    minutes = (time.monotonic() - began) / 60
    record = read_record(given.folder / "run.json")
    columns, rows = headline(record["aggregate"])
    write_result(
        given.out, CLAIM, record["command"], minutes=round(minutes, 2), jobs=record["jobs"], columns=columns, rows=rows,
        budget=budget_line(record), warnings=record["warnings"], aggregate=record["aggregate"],
    )  # fmt: skip
    print(f"{minutes:.1f} minutes -> {given.out}")


if __name__ == "__main__":
    main()
