"""What MkDocs calls while it builds the site: the navigation, generated pages, links out of docs/, and the last check.

Generated are the Python reference, the command line, the changelog and "add a method" (from CONTRIBUTING.md). They are
made anew at every build, so they cannot be stale.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import docs_cli, docs_reference  # noqa: E402 - needs the path above

# Pages by hand, in order. Folders marked * take in whatever lies there, sorted: their pages come and go.
NAV: list[Any] = [
    {"Home": ["index.md", "tutorial.md", "changelog.md"]},
    {"Tutorials": ["tutorials/index.md", "tutorials/*"]},
    {
        "How to": [
            "how-to/index.md", "how-to/my-own-loop.md", "how-to/hf-trainer.md", "how-to/lightning.md",
            "how-to/resume.md", "how-to/distributed.md", "how-to/add-a-method.md", "how-to/compare-fairly.md",
            "how-to/ask-for-advice.md",
            "how-to/small-files.md", "how-to/prune-a-checkpoint.md", "how-to/*",
        ]
    },
    {
        "Concepts": [
            "concepts/index.md", "concepts/words.md", "concepts/how-a-step-runs.md", "concepts/budgets.md",
            "concepts/costs.md", "conventions.md", "evaluation.md",
        ]
    },
    {"Handbook": ["handbook/index.md", "handbook/README.md", "handbook/*"]},
    {
        "Coming from": [
            "coming-from/index.md", "coming-from/torch-prune.md", "coming-from/torchao.md",
            "coming-from/jaxpruner.md", "coming-from/sparseml.md",
        ]
    },
    {"Reference": ["reference/index.md", "reference/cli.md", "reference/*"]},
]  # fmt: skip
TITLES = {"reference/run-json.md": "run.json", "reference/paper-result.md": "result.json of a paper"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", re.MULTILINE | re.DOTALL)
_made: dict[str, Any] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, then write the navigation over all that is there."""
    found = docs_reference.pages()
    homes = docs_reference.homes(found)
    _made["pages"] = found
    texts = {f"reference/{page.file}": docs_reference.markdown(page, homes) for page in found}
    texts["reference/index.md"] = docs_reference.overview(found)
    texts["reference/cli.md"] = docs_cli.markdown()
    texts["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    texts["how-to/add-a-method.md"] = add_a_method()
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for target in outside_pictures(files):
        name = inside_name(target)
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(target)))
    there = [file.src_uri for file in files.documentation_pages()]
    ordered = [f"reference/{page.file}" for page in found]
    config["nav"] = navigation(there, ordered)
    return files


def navigation(there: list[str], ordered: list[str]) -> list[dict[str, list[Any]]]:
    """`NAV` with its stars filled in and what is not there left out; every page stands once.

    there: pages of the site. ordered: these come first where a star takes them in.
    """
    taken = {name for section in NAV for names in section.values() for name in names}
    rest = [name for name in sorted(there) if name not in taken]
    rest.sort(key=lambda name: (ordered.index(name) if name in ordered else len(ordered), name))
    nav = []
    for section in NAV:
        ((title, names),) = section.items()
        listed: list[str] = []
        for name in names:
            if name.endswith("/*"):
                listed += [other for other in rest if other.startswith(name[:-1])]
            elif name in there:
                listed.append(name)
        nav += [{title: [{TITLES[name]: name} if name in TITLES else name for name in listed]}] if listed else []
    return nav


def add_a_method() -> str:
    """CONTRIBUTING.md's worked example, which a test follows step by step, and what a reader of the site also wants."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"^## Add a method in one file\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise PluginError("CONTRIBUTING.md has no section '## Add a method in one file'")
    more = (ROOT / "docs" / "how-to" / "add-a-method.in").read_text(encoding="utf-8")
    # Inside a list, Python-Markdown wants four spaces where GitHub takes three; code at the margin stays as it is.
    parts = re.split(r"(^```.*?^```$)", found[1].strip(), flags=re.MULTILINE | re.DOTALL)
    text = "".join(p if p.startswith("```") else re.sub(r"^   ", "    ", p, flags=re.MULTILINE) for p in parts)
    return f"# Add a method\n\n{text}\n\n{more}"


def guards() -> str:
    """The guards of `sparseland.advisor` as a table, the refusing ones first."""
    from sparseland.advisor import GUARDS

    order = sorted(GUARDS.values(), key=lambda guard: (guard.level != "refuse", guard.name))
    said = {guard.name: guard.about.removeprefix("Protects from ") for guard in order}
    rows = [f"| `{guard.name}` | {guard.level} | {said[guard.name]} |" for guard in order]
    return "\n".join(["| guard | level | what it protects from |", "|---|---|---|", *rows])


# --------------------------------------------------------------------------------------------------------------- links
def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository that are no pages become their names; pictures among them are copied."""
    here = page.file.src_uri
    if here == "evaluation.md":
        markdown = markdown.replace("<!-- guards -->", guards())
    generated = {"changelog.md": ROOT, "how-to/add-a-method.md": ROOT}
    folder = generated.get(here, ROOT / "docs" / Path(here).parent)

    def mend(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return found[0]
        place = Path(os.path.normpath(folder / path))
        docs = ROOT / "docs"
        if docs in place.parents:
            there = place.relative_to(docs).as_posix()
            if files.get_file_from_path(there) is None or folder != ROOT:
                return found[0]
            up = os.path.relpath(there, Path(here).parent)
            return f"{mark}[{text}]({up}{'#' + anchor if anchor else ''})"
        if ROOT not in place.parents:
            return found[0]
        if not place.exists():  # the strict build complains, unless the paper's folder is waiting for its result
            return f"*{text}: not measured yet*" if mark and _unmeasured(place) else found[0]
        if mark:
            return f"![{text}]({os.path.relpath(inside_name(place), Path(here).parent)})"
        name = place.relative_to(ROOT).as_posix()
        return text if text.strip("`") == name else f"{text} (`{name}` in the repository)"

    parts = FENCE.split(markdown)
    return "".join(part if FENCE.fullmatch(part) else LINK.sub(mend, part) for part in parts)


def _unmeasured(place: Path) -> bool:
    """Whether a picture belongs to a folder of papers/ that has no result yet."""
    papers = ROOT / "papers"
    return papers in place.parents and not (papers / place.relative_to(papers).parts[0] / "result.json").exists()


def outside_pictures(files: Files) -> list[Path]:
    """Pictures outside docs/ that a page shows (the figures of papers/)."""
    found = []
    for file in files.documentation_pages():
        if file.src_dir is None or file.generated_by is not None:
            continue
        folder = ROOT / "docs" / Path(file.src_uri).parent
        for mark, _, target in LINK.findall(file.content_string):
            place = Path(os.path.normpath(folder / target))
            if mark and ROOT / "docs" not in place.parents and ROOT in place.parents and place.is_file():
                found.append(place)
    return found


def inside_name(place: Path) -> str:
    """Where a picture of the repository lies in the site."""
    return "outside/" + place.relative_to(ROOT).as_posix()


# --------------------------------------------------------------------------------------------------------------- check
def on_post_build(config: Any) -> None:
    """Fail if a public name has no docstring or is on no page."""
    folder = Path(config["site_dir"]) / "reference"
    html = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}
    said = docs_reference.complaints(_made["pages"], html)
    if said:
        raise PluginError("the reference is not complete:\n  " + "\n  ".join(said))
