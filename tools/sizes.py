"""Lines per folder, and what is too long: files over 400 lines, functions over 60.

Run ``python tools/sizes.py [folder ...]`` (default: src tests tools benchmarks examples, those that exist).
Exits with 1 if something under ``src`` is too long.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 60
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")


def python_files(folders: Iterable[Path]) -> list[Path]:
    """Every ``.py`` file below the folders, sorted."""
    return sorted({path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts})


def long_functions(source: str, limit: int = FUNCTION_LINES) -> Iterator[tuple[str, int, int]]:
    """(name, first line, lines) of each function longer than ``limit``, its docstring included, decorators not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > limit:
                yield node.name, node.lineno, lines


def count_lines(source: str) -> int:
    """Lines of a text, a last line without a newline included."""
    return len(source.splitlines())


def lines_per_folder(paths: Iterable[Path]) -> dict[Path, int]:
    """Lines of the files directly inside each folder."""
    total: dict[Path, int] = defaultdict(int)
    for path in paths:
        total[path.parent] += count_lines(path.read_text(encoding="utf-8"))
    return dict(sorted(total.items()))


def main(argv: list[str] | None = None) -> int:
    """Print the three lists; 1 if a file or function under ``src`` is too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args(argv).folders or [Path(name) for name in FOLDERS if Path(name).is_dir()]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        parser.error(f"not a folder: {', '.join(missing)}")
    paths = python_files(folders)
    per_folder = lines_per_folder(paths)
    for folder, lines in per_folder.items():
        print(f"{lines:7d}  {folder}")
    print(f"{sum(per_folder.values()):7d}  in all, {len(paths)} files")
    too_long_in_src = False
    for path in paths:
        source = path.read_text(encoding="utf-8")
        found = [f"{count_lines(source)} lines: {path}"] if count_lines(source) > FILE_LINES else []
        found += [f"{lines} lines: {path}:{start} {name}" for name, start, lines in long_functions(source)]
        too_long_in_src |= bool(found) and path.parts[0] == "src"
        print(*found, sep="\n", end="\n" if found else "")
    return int(too_long_in_src)


if __name__ == "__main__":
    sys.exit(main())
