"""Write the generated parts of README.md, the packaged list of papers, and the reference page of their results.

    python tools/readme.py            bring them up to date
    python tools/readme.py --check    change nothing; exit 1 and say what is stale

Generated in the README are: the table of methods (from their compositions), the demo's table (from
benchmarks/demo/result.json), the results and the line on papers (from papers/*/result.json). Each stands between
``<!-- name:begin -->`` and ``<!-- name:end -->``. The reference page comes from the models in sparseland.papers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DEMO = ROOT / "benchmarks" / "demo" / "result.json"
PACKAGED = ROOT / "src" / "sparseland" / "papers" / "systems.json"
REFERENCE = ROOT / "docs" / "reference" / "paper-result.md"


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


def results_table() -> str:
    """One row per paper folder: the claim, what came out of ours, seeds, minutes, verdict."""
    from sparseland.papers import results

    lines = ["| system | claim | ours | seeds | minutes | verdict |", "|---|---|---|--:|--:|---|"]
    for slug, result in results(ROOT).items():
        system = re.sub(r"arXiv ([\d., ]+\d)", _links, result.system)
        name, _, about = system.partition(" (")
        cells = (
            f"[{name}](papers/{slug})" + (f" ({about}" if about else ""),
            result.claim.value,
            result.headline or result.why,
            _seeds(result),
            f"{result.minutes:g}",
            f"**{result.verdict}**" + (f" ({len(result.missing)} missing)" if result.missing else ""),
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _seeds(result: Any) -> str:
    """How many: ``5``, or ``3 to 10`` where the parts differ."""
    counts = {len(part.seeds) for part in result.parts.values()} or {len(result.seeds)}
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def packaged_papers() -> str:
    """systems.json with the results of this checkout in brief."""
    from sparseland.papers import packaged

    return packaged(ROOT)


def reference_page() -> str:
    """docs/reference/paper-result.md."""
    from sparseland.papers import reference

    return reference()


def generated(text: str) -> str:
    """README's text with its generated parts made anew.

    Raises:
        ValueError: a part has no place in it.
    """
    parts = {"methods": methods_table, "demo": demo_table, "results": results_table, "papers": papers_line}
    for name, make in parts.items():
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
    wanted = {
        README: generated(README.read_text(encoding="utf-8")),
        PACKAGED: packaged_papers(),
        REFERENCE: reference_page(),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        name = path.relative_to(ROOT)
        print(f"{name} is stale: run python tools/readme.py" if check else f"wrote {name}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
