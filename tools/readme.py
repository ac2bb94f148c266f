"""Write the generated parts of README.md, and the packaged list of finished papers.

    python tools/readme.py            bring them up to date
    python tools/readme.py --check    change nothing; exit 1 and say what is stale

Generated are: the table of methods (from their compositions), the demo's table (from benchmarks/demo/result.json) and
the line on papers (from papers/*/result.json). Each stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DEMO = ROOT / "benchmarks" / "demo" / "result.json"
PACKAGED = ROOT / "src" / "sparseland" / "papers.json"


def methods_table() -> str:
    """One row per registered method: what it is (its file's first line) and its composition (its repr)."""
    from sparseland.weights.methods import build, registry

    lines = ["| name | what it is | composition, with its defaults |", "|---|---|---|"]
    for name in sorted(registry):
        about = (sys.modules[registry[name].__module__].__doc__ or "").strip().splitlines()[0]
        about = re.sub(r"arXiv ([\d., ]+\d)", _links, about)
        composition = re.sub(r"^Method\(name='[^']*'(, )?", "Method(", repr(build(name)))
        cells = (f"`{name}`", about, f"`{composition}`")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _links(found: re.Match[str]) -> str:
    return "arXiv " + ", ".join(f"[{i}](https://arxiv.org/abs/{i})" for i in re.findall(r"\d{4}\.\d{4,5}", found[1]))


def demo_table() -> str:
    """The demo's table as it was measured, with its command and machine."""
    if not DEMO.is_file():
        return "Not measured yet."
    result = json.loads(DEMO.read_text(encoding="utf-8"))
    lines = ["| " + " | ".join(result["columns"]) + " |", "|---|" + "--:|" * (len(result["columns"]) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in result["rows"]]
    machine, versions = result["machine"], result["versions"]
    lines += [
        "",
        f"`{result['command']}`: {result['minutes']:.1f} minutes on {machine['cores']} cores ({machine['cpu']}, torch "
        f"{versions['torch']}). {result['budget']}. Mean ± standard deviation over seeds on the 359 test images (one "
        f"image is 0.28 points); all values are in [benchmarks/demo/result.json](benchmarks/demo/result.json).",
    ]
    lines += [f"Warning of the tool: {said}." for said in result["warnings"]]
    return "\n".join(lines)


def papers_line() -> str:
    """How many systems are done."""
    from sparseland.papers import STATUS, systems

    found = systems(ROOT)
    counts = {status: sum(system.status == status for system in found) for status in STATUS}
    return f"{len(found)} systems: {', '.join(f'{n} {status}' for status, n in counts.items())}."


def packaged_papers() -> str:
    """papers.json with the verdicts of this checkout."""
    from sparseland.papers import results

    text = PACKAGED.read_text(encoding="utf-8")
    done = json.dumps(results(ROOT), ensure_ascii=False)
    return re.sub(r'^  "done": .*,$', lambda _: f'  "done": {done},', text, count=1, flags=re.MULTILINE)


def generated(text: str) -> str:
    """README's text with its generated parts made anew.

    Raises:
        ValueError: a part has no place in it.
    """
    for name, make in {"methods": methods_table, "demo": demo_table, "papers": papers_line}.items():
        pattern = rf"(<!-- {name}:begin[^\n]*-->\n).*?(<!-- {name}:end -->)"
        if not re.search(pattern, text, re.DOTALL):
            raise ValueError(f"README.md has no place for {name!r}: <!-- {name}:begin --> … <!-- {name}:end -->")
        made = make()
        text = re.sub(pattern, lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main(argv: list[str] | None = None) -> int:
    """Write or check; 1 if something is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    wanted = {README: generated(README.read_text(encoding="utf-8")), PACKAGED: packaged_papers()}
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(
            f"{path.relative_to(ROOT)} is stale: run python tools/readme.py"
            if check
            else f"wrote {path.relative_to(ROOT)}"
        )
        if not check:
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
