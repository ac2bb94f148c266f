"""papers/run.py: it resumes, merges, leaves out what has not finished, says so, and draws the same bytes again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparseland import papers
from sparseland.core.errors import SparselandError

ROOT = Path(__file__).resolve().parents[2]
Go = Callable[..., int]


def result(fake: Path) -> dict[str, Any]:
    return papers.read(fake / "papers" / "11-granet").to_dict()


def ran(fake: Path) -> int:
    """How many jobs ran so far."""
    count = fake / "runs" / "papers" / "11-granet" / "count"
    return len(count.read_text()) if count.exists() else 0


def forget(fake: Path, key: str) -> None:
    """Remove what is kept of one run."""
    (fake / "runs" / "papers" / "11-granet" / "results" / f"{key.replace('/', '_')}.json").unlink()


def test_rows_verdict_and_texts(fake: Path, go: Go) -> None:
    assert go() == 0
    made = result(fake)
    assert [(r["setting"], r["arm"], r["metric"], r["mean"], r["std"]) for r in made["ours"]] == [
        ("a", "a", "points", 1.5, 0.71),
        ("b", "b", "points", 4.5, 0.71),
    ]
    assert made["seeds"] == [0, 1] and made["minutes"] == 2.0 and made["parts"]["one"]["runs"] == 4
    assert made["missing"] == [
        "part two: not run: The same once more.",
        "part bad: not run: One job that fails.",
    ]
    assert made["limits"] == ["full scale"]
    assert made["command"] == "python papers/run.py 11-granet --parts one" and made["headline"] == "2 rows"
    folder = fake / "papers" / "11-granet"
    assert "| one | a | a | points | 1.50 ± 0.71 (2) |" in (folder / "table.md").read_text()
    page = (folder / "README.md").read_text()
    assert (
        page.startswith("# Fake") and page.endswith("By hand.\n") and "**Verdict: in part.** there are 2 rows." in page
    )
    assert "![a](a.svg)" in page and (folder / "a.svg").read_text().startswith("<svg")


def test_finished_runs_are_not_repeated_and_nothing_is_rewritten(fake: Path, go: Go, capsys: Any) -> None:
    go()
    before = {path: path.stat().st_mtime_ns for path in (fake / "papers" / "11-granet").iterdir() if path.is_file()}
    assert ran(fake) == 4
    capsys.readouterr()
    go()
    assert ran(fake) == 4 and "wrote" not in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    forget(fake, "one/a/1")
    go()
    assert ran(fake) == 5


def test_a_part_keeps_the_others(fake: Path, go: Go) -> None:
    go()
    go("--parts", "two")
    made = result(fake)
    assert list(made["setting"]) == ["one", "two"] and made["seeds"] == [0, 1, 2] and len(made["ours"]) == 3
    assert made["setting"]["two"] == "The same once more."  # its docstring has two lines
    assert made["command"].endswith("--parts one two")
    go("--parts", "one")
    assert result(fake) == made


def test_finished_parts_are_taken_though_not_asked_for(fake: Path, go: Go) -> None:
    go("--parts", "two")
    (fake / "papers" / "11-granet" / "result.json").unlink()
    go("--parts", "one")
    assert list(result(fake)["setting"]) == ["one", "two"]


def test_needed_parts_come_along(fake: Path, go: Go) -> None:
    go("--parts", "two")
    assert list(result(fake)["setting"]) == ["one", "two"] and ran(fake) == 7


def test_rows_stay_where_their_runs_are_on_another_machine(fake: Path, go: Go) -> None:
    go("--parts", "two")
    made = result(fake)
    for seed in (0, 1, 2):
        forget(fake, f"two/W=4/{seed}")
    go("--parts", "one")
    assert result(fake) == made and ran(fake) == 7


def test_finished_only_leaves_a_part_out_and_says_so(fake: Path, go: Go) -> None:
    go("--parts", "two")
    (fake / "papers" / "11-granet" / "result.json").unlink()
    forget(fake, "two/W=4/1")
    assert go("--parts", "one", "two", "--finished-only") == 0
    made = result(fake)
    assert list(made["setting"]) == ["one"] and ran(fake) == 7
    assert made["missing"][0] == "part two: 1 of 3 runs not finished (first: two/W=4/1)"


def test_nothing_finished_is_no_result(fake: Path, go: Go) -> None:
    with pytest.raises(SystemExit, match="nothing to write: part one: not run: Two seeds of two arms"):
        go("--finished-only")
    assert not (fake / "papers" / "11-granet" / "result.json").exists()


def test_failed_runs_are_missing_and_the_rest_is_kept(fake: Path, go: Go, capsys: Any) -> None:
    assert go("--parts", "one", "bad") == 1
    made = result(fake)
    assert list(made["setting"]) == ["one"]
    told = [text for text in made["missing"] if text.startswith("part bad")]
    assert told == ["part bad: 1 of 2 runs failed (bad/1: RuntimeError: this value is below zero)"]


def test_no_verdict_without_the_part_that_decides(fake: Path, go: Go) -> None:
    go("--parts", "two")
    (fake / "papers" / "11-granet" / "result.json").unlink()
    forget(fake, "one/a/0")
    with pytest.raises(SystemExit, match="no verdict yet: part one decides"):
        go("--parts", "two", "--finished-only")


def test_an_invalid_result_is_never_written(fake: Path, go: Go) -> None:
    jobs = fake / "papers" / "11-granet" / "jobs.py"
    jobs.write_text(jobs.read_text().replace('"in part", f', '"perhaps", f'))
    with pytest.raises(SparselandError, match=r"\$\.verdict is 'perhaps'"):
        go()
    assert not (fake / "papers" / "11-granet" / "result.json").exists()


def test_redraw_reads_result_json_only(fake: Path, go: Go) -> None:
    with pytest.raises(SystemExit, match=r"no result\.json"):
        go("--redraw")
    go()
    folder = fake / "papers" / "11-granet"
    texts = {name: (folder / name).read_bytes() for name in ("a.svg", "table.md", "README.md", "result.json")}
    (folder / "a.svg").unlink()
    (folder / "table.md").write_text("stale")
    forget(fake, "one/a/0")
    go("--redraw")
    assert texts == {name: (folder / name).read_bytes() for name in texts} and ran(fake) == 4


def test_list(fake: Path, go: Go, capsys: Any) -> None:
    go()
    capsys.readouterr()
    assert go("--list") == 0
    said = capsys.readouterr().out
    assert "11-granet: 11 A fake" in said
    assert "one                  4 of 4 runs        Two seeds of two arms." in said
    assert "two                  0 of 3 runs" in said


def test_unknown_names(runner: Any, fake: Path, go: Go) -> None:
    with pytest.raises(SystemExit, match="no part 'three'; possible: one, two, bad"):
        go("--parts", "three")
    with pytest.raises(SystemExit, match="no paper folder '12-x'; possible: 11-granet"):
        runner.main(["12-x", "--root", str(fake)])


TRAINED = '''
SYSTEM, CLAIM = "02 Tiny (arXiv 2202.02643)", {"value": "it trains", "source": "nowhere"}
DEFAULT, LIMITS = ("digits",), ()
COMMON = {"data": "digits", "model": "mlp-8", "limit": 100, "epochs": 1, "threads": 1}

def digits():
    """Digits, 100 images, one epoch."""
    method = {"name": "random", "sparsity": 0.5}
    return {f"digits/H=8/random 50%/{seed}": COMMON | {"method": method, "seed": seed} for seed in (0, 1)}

PARTS = {"digits": digits}

def judge(rows):
    return "reproduces", "It trains."
'''


def test_a_real_training_run_in_processes(runner: Any, tmp_path: Path) -> None:
    """As a user starts it; then finished folders alone are enough, as after a run that was started elsewhere."""
    folder = tmp_path / "papers" / "02-random-pruning"
    folder.mkdir(parents=True)
    (folder / "jobs.py").write_text(TRAINED)
    words = ["02-random-pruning", "--root", str(tmp_path)]
    command = [sys.executable, str(ROOT / "papers" / "run.py"), *words, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = papers.read(folder)
    (row,) = made.ours
    assert (row.setting, row.arm, row.seeds, row.kept, row.total) == ("H=8", "random 50%", 2, 296, 592)
    assert made.missing == [] and made.parts["digits"].runs == 2
    place = tmp_path / "runs" / "papers" / "02-random-pruning"
    for path in (*(place / "results").glob("*.json"), folder / "result.json"):
        path.unlink()
    assert runner.main([*words, "--finished-only"]) == 0
    assert papers.read(folder) == made
    assert len(list((place / "results").glob("*.json"))) == 2
    (place / "digits" / "H=8" / "random 50%" / "1" / "result.json").unlink()
    next((place / "results").glob("*_1.json")).unlink()
    (folder / "result.json").unlink()
    with pytest.raises(SystemExit, match=r"1 of 2 runs not finished \(first: digits/H=8/random 50%/1\)"):
        runner.main([*words, "--finished-only"])


def test_results_of_the_runs_under_way_are_accepted(runner: Any, tmp_path: Path) -> None:
    """What earlier releases of the runner left (``run:train``, config and out) is what this one looks for."""
    folder = tmp_path / "papers" / "02-random-pruning"
    folder.mkdir(parents=True)
    (folder / "jobs.py").write_text(TRAINED)
    mine = runner.Folder("02-random-pruning", tmp_path)
    kept = mine.place / "results"
    kept.mkdir(parents=True)
    config = mine.jobs.COMMON | {"method": {"name": "random", "sparsity": 0.5}}
    saved: dict[str, Any] = {"key": "digits/H=8/random 50%/0", "function": "run:train"}
    saved["kwargs"] = {"config": config | {"seed": 0}, "out": str(mine.place / saved["key"])}
    (kept / "one.json").write_text(json.dumps(saved))
    (kept / "half.json").write_text("{")
    assert list(mine.finished("digits")) == ["digits/H=8/random 50%/0"]
