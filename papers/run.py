"""Train what a paper folder lists, and write its result.json, table, figures and verdict.

    python papers/run.py --list                                     folders, parts, and how many of their runs are there
    python papers/run.py 11-granet --parts digits fashion --workers 2
    python papers/run.py 11-granet --finished-only                  train nothing: take what has finished
    python papers/run.py 11-granet --redraw                         table, figures and README from result.json

Each folder has a ``jobs.py``: SYSTEM, CLAIM, LIMITS, PARTS ({part: function returning {"part/…/seed": job}}), DEFAULT,
EXTRA (parts that nobody misses), ``judge(rows)``, which turns rows into a verdict, ``headline(rows)`` and
``figures(rows)``. A job is a TrainConfig as a dict, or the arguments of the function that FUNCTIONS names for the part;
NEEDS says which parts have to be there first. Runs stay in ``runs/papers``: finished ones are not repeated, interrupted
ones go on. Parts that are not asked for are taken too if all their runs are there, and stay in result.json if they are
in it already. Do not start it twice at once for runs that are not finished. A folder with a ``run.py`` of its own is
left to that.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Value = dict[str, Any]
Part = tuple[list[dict[str, Any]], dict[str, Any]]  # its rows, and where they come from


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


def jobs_of(slug: str, root: Path = ROOT) -> ModuleType:
    """The folder's jobs.py."""
    path = root / "papers" / slug / "jobs.py"
    if not path.is_file():
        names = sorted(p.parent.name for p in (root / "papers").glob("*/jobs.py"))
        sys.exit(f"no paper folder {slug!r}; possible: {', '.join(names)}")
    spec = importlib.util.spec_from_file_location("jobs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Folder:
    """A paper folder and its runs.

    Parameters:
        slug: its name. root: the folder that holds ``papers`` and ``runs``.
    """

    def __init__(self, slug: str, root: Path = ROOT) -> None:
        self.slug, self.path, self.place = slug, root / "papers" / slug, root / "runs" / "papers" / slug
        self.jobs = jobs_of(slug, root)
        self._kept: dict[str, Any] | None = None

    def tasks(self, part: str) -> dict[str, dict[str, Any]]:
        """The part's jobs as arguments of `function`."""
        function = self.jobs.PARTS[part]
        if self.function(part) is train:
            return {key: {"config": config, "out": str(self.place / key)} for key, config in function().items()}
        wants = inspect.signature(_load(str(self.function(part)), self.path)).parameters
        extra = {"place": str(self.place)} if "place" in wants else {}
        return {key: job | extra for key, job in function().items()}

    def function(self, part: str) -> Any:
        """What runs a job: `train`, or ``"module:name"`` of the folder."""
        return getattr(self.jobs, "FUNCTIONS", {}).get(part, train)

    def order(self, parts: Sequence[str]) -> list[str]:
        """The parts and those they need, in the folder's order."""
        needs: Mapping[str, Sequence[str]] = getattr(self.jobs, "NEEDS", {})
        wanted = {*parts, *(other for part in parts for other in needs.get(part, ()))}
        return [part for part in self.jobs.PARTS if part in wanted]

    def finished(self, part: str) -> dict[str, dict[str, Any]]:
        """Those tasks of a part that need no work any more."""
        kept, function = self._results(), self.function(part)
        name = f"run:{train.__name__}" if function is train else function
        ready = {}
        for key, task in self.tasks(part).items():
            saved = kept.get(key, {})
            whole = function is train and (self.place / key / "result.json").is_file()
            if whole or (saved.get("function"), saved.get("kwargs")) == (name, task):
                ready[key] = task
        return ready

    def _results(self) -> dict[str, Any]:
        """What fan_out kept, by key."""
        if self._kept is None:
            self._kept = {}
            for path in (self.place / "results").glob("*.json"):
                try:
                    item = json.loads(path.read_bytes())
                    self._kept[item["key"]] = item
                except (ValueError, KeyError, TypeError):  # damaged: then it is not there
                    continue
        return self._kept

    def before(self) -> dict[str, Any]:
        """The result that is there; empty if there is none, or if it cannot be read."""
        try:
            found: dict[str, Any] = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found


def _load(name: str, folder: Path) -> Any:
    """A function of the folder; from now on workers can import it too."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    from sparseland.train.fan_out_worker import load

    return load(name)


# ------------------------------------------------------------------------------------------------------------- the work
def run_part(folder: Folder, part: str, *, on: str, workers: int) -> tuple[dict[str, Value], str]:
    """Run what is not there yet; the values by key, and what went wrong ("" if nothing did)."""
    from sparseland.train.fan_out import fan_out

    tasks = folder.tasks(part)
    print(f"{folder.slug}, part {part}: {len(folder.finished(part))} of {len(tasks)} runs are there", flush=True)
    results = folder.place / "results"
    # overwrite: what a job returned is measured anew if its arguments changed; the run's own folder still refuses.
    done = fan_out(folder.function(part), tasks, out=results, on=on, workers=workers, threads=1, overwrite=True)
    folder._kept = None
    failed = {key: result for key, result in done.items() if result.status == "failed"}
    if failed:
        key, first = next(iter(failed.items()))
        reason = (first.error or "").strip().splitlines()[-1:]
        return {}, f"{len(failed)} of {len(tasks)} runs failed ({key}: {''.join(reason)})"
    return {key: done[key].value for key in tasks}, ""


def take_part(folder: Folder, part: str) -> tuple[dict[str, Value], str]:
    """What has finished, if that is all of the part; otherwise nothing, and how much is not there."""
    from sparseland.train.fan_out import fan_out, require

    tasks, ready = folder.tasks(part), folder.finished(part)
    absent = [key for key in tasks if key not in ready]
    if not ready:
        return {}, f"not run: {' '.join((folder.jobs.PARTS[part].__doc__ or '').split())}"
    if absent:
        return {}, f"{len(absent)} of {len(tasks)} runs not finished (first: {absent[0]})"
    done = fan_out(
        folder.function(part), ready, out=folder.place / "results", on="inline", progress=False, overwrite=True
    )
    return require(done), ""


def gather(folder: Folder, parts: Sequence[str], *, finished_only: bool, on: str, workers: int) -> dict[str, Any]:
    """The folder's result: the parts asked for, those that stay from before, and what is missing."""
    from sparseland.papers import record

    before, wanted = folder.before(), folder.order(parts)
    chosen: dict[str, Part] = {}
    missing = []
    for part in folder.jobs.PARTS:
        if part in wanted and not finished_only:
            values, trouble = run_part(folder, part, on=on, workers=workers)
        else:
            values, trouble = take_part(folder, part)
        if values:
            chosen[part] = (record.rows_of(values), record.part_of(values))
        elif part in before.get("parts", {}) and "failed" not in trouble:  # its runs are on another machine
            rows = [{"metric": record.ACCURACY, **row} for row in before["ours"] if row["part"] == part]
            chosen[part] = (rows, before["parts"][part])
        elif part not in getattr(folder.jobs, "EXTRA", ()):
            missing.append(f"part {part}: {trouble}")
    if not chosen:
        sys.exit(f"{folder.slug}: nothing to write: {'; '.join(missing)}")
    try:
        return record.result_of(folder.slug, folder.jobs, chosen, missing)
    except ValueError as error:
        sys.exit(f"{folder.slug}: no verdict yet: {error}")


def write(folder: Folder, result: Mapping[str, Any]) -> list[Path]:
    """Write what differs: result.json, once it is valid, and all that is made from it."""
    from sparseland import files, papers
    from sparseland.papers import record

    papers.check(result, str(folder.path / "result.json"))
    texts = {folder.path / "result.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n"}
    texts |= record.pages(folder.path, folder.jobs, result)
    changed = record.stale(texts)
    for path in changed:
        files.write_file(path, methodcaller("write", texts[path].encode()))
    return changed


def listed(root: Path = ROOT) -> str:
    """Folders, their parts, and how many runs are there."""
    lines = []
    for path in sorted((root / "papers").glob("*/jobs.py")):
        if (path.parent / "run.py").is_file():
            lines.append(f"{path.parent.name}: run by papers/{path.parent.name}/run.py")
            continue
        folder = Folder(path.parent.name, root)
        lines.append(f"{folder.slug}: {folder.jobs.SYSTEM}")
        for part, function in folder.jobs.PARTS.items():
            count = f"{len(folder.finished(part))} of {len(folder.tasks(part))} runs"
            lines.append(f"  {part:<20} {count:<18} {' '.join((function.__doc__ or '').split())}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, judge, write. 1 if runs failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug", nargs="?", help="the folder, for example 11-granet")
    parser.add_argument("--parts", nargs="+", help="which parts (default: those the folder names in DEFAULT)")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--on", default="processes", help="processes, inline, ray, or the address of a Ray")
    parser.add_argument(
        "--finished-only", action="store_true", help="train nothing; a part that is not whole is missing"
    )
    parser.add_argument("--redraw", action="store_true", help="only table, figures and README, from result.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with papers/ and runs/ (this checkout)")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    if args.list or args.slug is None:
        print(listed(root))
        return 0
    folder = Folder(args.slug, root)
    if (folder.path / "run.py").is_file():
        sys.exit(f"{args.slug} has a runner of its own: python papers/{args.slug}/run.py")
    parts = args.parts or list(folder.jobs.DEFAULT)
    unknown = [part for part in parts if part not in folder.jobs.PARTS]
    if unknown:
        sys.exit(f"no part {unknown[0]!r}; possible: {', '.join(folder.jobs.PARTS)}")
    if args.redraw:
        result = folder.before() or sys.exit(f"no result.json in {folder.path}")
    else:
        result = gather(folder, parts, finished_only=args.finished_only, on=args.on, workers=args.workers)
    changed = write(folder, result)
    for line in (*(f"wrote {path}" for path in changed), *(f"missing: {text}" for text in result["missing"])):
        print(line)
    print(f"{result['verdict']}: {result['why']}")
    return int(any("runs failed" in text for text in result["missing"]))


if __name__ == "__main__":
    sys.exit(main())
