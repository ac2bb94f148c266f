"""Write the generated parts of docs/handbook (tables, answers) and the figures beside the handbook's result.json.

    python tools/handbook.py            bring them up to date
    python tools/handbook.py --check    change nothing; exit 1 and say what is stale

A generated part stands between ``<!-- kind:begin L1 -->`` and ``<!-- kind:end -->``; kinds are setting, table, answers
and, on the index, summary. The sentence that answers a question is written by hand, below a mark that names the
verdicts it was written for (``<!-- written for: holds, in part -->``): if a new measurement changes them, the check
says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "papers" / "14-sparseland-handbook"
PAGES = ROOT / "docs" / "handbook"
BLOCK = re.compile(r"(<!-- (\w+):begin ?(L\d+)? -->\n).*?(<!-- \2:end -->)", re.DOTALL)
WRITTEN = re.compile(r"<!-- written for: (.*?) -->")

Result = Mapping[str, Any]


def load() -> dict[str, Any]:
    """The result; exits where there is none."""
    path = PAPER / "result.json"
    if not path.is_file():
        sys.exit(f"no {path.relative_to(ROOT)}: run `python papers/{PAPER.name}/run.py` first")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def number(page: Path) -> str:
    """``L3`` of ``03-pruning-vs-sparse-training.md``."""
    return f"L{int(page.name[:2])}"


def pages() -> dict[str, Path]:
    """{question: page}, in order."""
    return {number(path): path for path in sorted(PAGES.glob("[0-9][0-9]-*.md"))}


def module(name: str) -> ModuleType:
    """A module of the paper's folder, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"handbook_{name}", PAPER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look themselves up there
    spec.loader.exec_module(made)
    return made


RULES = module("rules")


def spread(row: Mapping[str, Any], digits: int = 2) -> str:
    """Mean ± sample standard deviation.

    >>> spread({"mean": 2.0, "std": 1.0})
    '2.00 ± 1.00'
    """
    return f"{row['mean']:.{digits}f} ± {row['std']:.{digits}f}"


def markdown(head: list[str], body: list[list[str]]) -> str:
    """A table whose headings with # stand over numbers.

    >>> print(markdown(["arm", "#accuracy"], [["dense", "86"]]))
    | arm | accuracy |
    |---|--:|
    | dense | 86 |
    """
    rule = "".join("--:|" if name.startswith("#") else "---|" for name in head)
    lines = ["| " + " | ".join(name.lstrip("#") for name in head) + " |", f"|{rule}"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def table(result: Result, question: str) -> str:
    """Every row of a question: accuracy over seeds, non-zeros, and what training and inference cost."""
    if question == "L2":
        return latency(result)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result["ours"]:
        if row["part"] == question:
            found.setdefault((row["setting"], row["arm"]), {})[row["metric"]] = row
    accuracy, *extra = list(dict.fromkeys(metric for cells in found.values() for metric in cells))
    cards = question == "L4"
    head = ["setting", "arm", *(["needs dense"] if cards else []), f"#{accuracy}", *(f"#{name}" for name in extra)]
    body = []
    for (where, arm), cells in found.items():
        row = cells[accuracy]
        body.append([where, arm, *([row["needs_dense"]] if cards else []), *(spread(c) for c in cells.values())])
        body[-1] += [f"{row['kept']:,} of {row['total']:,}", f"{row['training_flops']:.3f} ×"]
        body[-1].append(f"{row['inference_flops']:.3f} ×")
    head += ["#non-zeros", "#training FLOPs", "#inference FLOPs"]
    seeds = sorted({cells[accuracy]["seeds"] for cells in found.values()})
    return f"{markdown(head, body)}\n\n{', '.join(map(str, seeds))} seeds; FLOPs as multiples of one dense run."


def latency(result: Result) -> str:
    """Times dense of every form, by size, batch and sparsity."""
    cells = RULES.cells_of(result["ours"])
    if not cells:
        return "Not measured yet."
    head = ["#n", "#batch", "#zeros", "#masked", "#CSR", "#row-compacted", "quiet"]
    body = [
        [f"{c['n']}", f"{c['batch']}", f"{100 * c['sparsity']:g} %"]
        + [f"{c['speedup'][form]:.2f} ×" for form in ("masked", "csr", "compacted")]
        + ["yes" if c["quiet"] else "no"]
        for c in cells
    ]
    unquiet, part = sum(not c["quiet"] for c in cells), result["parts"]["L2"]
    told = (
        f"Times as fast as dense, medians; {part['machine']['cpu']}, {part['machine']['threads']} thread, torch "
        f"{part['versions']['torch']}. In {unquiet} of {len(cells)} cells the machine was not quiet (p90 / p10 above "
        f"1.5) after three tries."
    )
    return f"{markdown(head, body)}\n\n{told}"


def setting(result: Result, question: str) -> str:
    """What was run, and the command that runs it again."""
    command = f"python papers/{PAPER.name}/latency.py" if question == "L2" else result["command"]
    said = result["setting"].get(question, "Not measured yet.")
    return (
        f"{said}\n\n```bash\nSPARSELAND_DATA=../shared/data {command}\n```\n\n"
        f"The rules were written before the runs: [rules.py](../../papers/{PAPER.name}/rules.py). "
        f"All numbers: [result.json](../../papers/{PAPER.name}/result.json)."
    )


def told_of(result: Result, question: str) -> list[dict[str, Any]]:
    """The beliefs of a question with their verdicts, by the rules, from the rows."""
    return [t for t in RULES.answers(result["ours"]) if t["question"] == question]


WORDS = {"better": "above", "worse": "below", "indistinguishable": "not told apart"}


def answers(result: Result, question: str) -> str:
    """Every belief of a question with its verdict, and the comparisons behind it."""
    told = told_of(result, question)
    out = [f"{i}. {t['says']} **{_verdict(t)}**" for i, t in enumerate(told, 1)]
    body = []
    for i, t in enumerate(told, 1):
        unit, digits = ("", 3) if t.get("metric") == "training_flops" else (" points", 2)
        for p in t.get("pairs", ()):
            interval = f"{p['low']:+.{digits}f} to {p['high']:+.{digits}f}"
            first, second = (" at ".join(dict.fromkeys(reversed(p[side]))) for side in "ab")
            cells = [f"{i}", first, second, f"{p['difference']:+.{digits}f}{unit}", interval, WORDS[p["verdict"]]]
            body.append([*cells, "yes" if p["as_believed"] else "no"])
    if body:
        asked = "decided" if question == "L9" else "as believed"
        head = ["belief", "a", "b", "#a − b", "#95 % interval", "#a is", f"#{asked}"]
        out += ["", "<details markdown><summary>The comparisons, paired over seeds</summary>", "", markdown(head, body)]
        out += ["", "</details>"]
    return "\n".join(out)


def _verdict(told: Mapping[str, Any]) -> str:
    if "checks" in told:
        failed = [name for name, held in told["checks"].items() if not held]
        return f"{told['verdict'].capitalize()}" + (f" (not: {'; '.join(failed)})." if failed else ".")
    if "decided" in told:
        counts = ", ".join(f"{count} of {told['of']} on {data}" for data, count in told["decided"].items())
        return f"{told['verdict'].capitalize()} (decided: {counts})."
    count = sum(p["as_believed"] for p in told["pairs"])
    against = {"better": "worse", "less": "better"}.get(told["kind"])
    opposite = sum(p["verdict"] == against for p in told["pairs"])
    more = f"; the opposite in {opposite}" if opposite else ""
    return f"{told['verdict'].capitalize()} ({count} of {len(told['pairs'])}{more})."


def summary(result: Result, _: str = "") -> str:
    """The index's table: every belief and its verdict, and the folder's."""
    body = []
    for question, page in pages().items():
        title = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for i, t in enumerate(told_of(result, question)):
            body.append(["" if i else f"[{title}]({page.name})", t["says"], t["verdict"]])
    return f"{markdown(['question', 'belief', 'here'], body)}\n\n{result['why']}"


MAKERS: dict[str, Callable[[Result, str], str]] = {
    "setting": setting,
    "table": table,
    "answers": answers,
    "summary": summary,
}


def filled(text: str, result: Result) -> str:
    """A page with its blocks made anew."""

    def make(found: re.Match[str]) -> str:
        begin, kind, question, end = found.groups()
        return f"{begin}{MAKERS[kind](result, question or '')}\n{end}"

    return BLOCK.sub(make, text)


def figures(result: Result) -> dict[str, str]:
    """{file name: SVG} of the figures module beside the result."""
    return {f"{question}.svg": text for question, text in module("figures").every(result).items()}


def outdated(result: Result) -> list[str]:
    """Answers by hand that were written for other verdicts than the result's."""
    out = []
    for question, page in pages().items():
        told = ", ".join(t["verdict"] for t in told_of(result, question))
        found = WRITTEN.search(page.read_text(encoding="utf-8"))
        if found is None or found[1] != told:
            before = found[1] if found else "nothing"
            out.append(f"{page.name}: the answer was written for {before!r}; now it is {told!r}")
    return out


def wanted(result: Result) -> dict[Path, str]:
    """{file: what it should hold} of every generated file."""
    out = {path: filled(path.read_text(encoding="utf-8"), result) for path in (PAGES / "index.md", *pages().values())}
    return out | {PAPER / "figures" / name: text for name, text in figures(result).items()}


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is stale")
    args = parser.parse_args()
    result = load()
    stale = []
    for path, text in wanted(result).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    said = [f"stale: {name}" for name in stale] if args.check else []
    said += outdated(result)
    if said:
        sys.exit("\n".join([*said, "run `python tools/handbook.py`, and read the answers again"]))
    print(f"{len(stale)} files written" if stale else "all up to date")


if __name__ == "__main__":
    main()
