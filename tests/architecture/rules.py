"""The house rules as pure functions: sources in, complaints out.

A package is given as ``{"sparseland.core.mask": source}``, so that every rule can be tried on a small bad string.
Each complaint is one line that says where, what, and what to do instead; no complaints means the rule holds.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sparseland"

# Who may import whom, by the first name below `sparseland`. A tuple names packages, or modules with a dot.
DOMAINS = ("features", "transport", "routing", "attention", "graphs", "pixels", "views")
GROUND = ("core", "files", "kernels", "weights", "data", "zoo", "deploy", "account", *DOMAINS)
ABOVE = ("recipes", "reports", "train", "board", "advisor")
DOORS: dict[str, tuple[str, ...]] = {
    "core": (),
    "files": ("core",),
    "data": ("core",),
    "zoo": ("core",),
    "kernels": ("core.pattern", "core.errors"),
    "weights": ("core", "files"),
    "deploy": ("core", "files", "kernels"),
    "account": ("core", "weights", "deploy"),
    **dict.fromkeys(DOMAINS, ("core", "kernels", "files")),  # a domain writes its checkpoints whole, too
    # The floors above. They may see each other where no cycle follows (`cycles` checks it); only cli sees all.
    **dict.fromkeys(ABOVE, (*GROUND, *ABOVE, "")),  # "": the package itself, for its version
    "testing": ("core", "weights"),
    "papers": ("core", "files"),
    "cli": ("*",),
    "__main__": ("cli",),
}

# Everything the tests or an extra may bring, by import name. torch and the standard library are not in the list.
OPTIONAL = ("transformers", "lightning", "pytorch_lightning", "datasets", "ray", "sklearn", "scipy", "tensorboard")
THIRD_PARTY = (
    *OPTIONAL,
    *("accelerate", "matplotlib", "jinja2", "PIL", "yaml", "pydantic", "typer", "rich", "safetensors", "numpy"),
)
# A file (or folder) may import an optional package at its top if it is named after that use.
NAMED_AFTER = {
    "transformers": ("transformers", "huggingface", "hf"),
    "lightning": ("lightning",),
    "pytorch_lightning": ("lightning",),
    "datasets": ("hub", "datasets"),
    "ray": ("ray",),
    "sklearn": ("sklearn",),
    "scipy": ("scipy",),
    "tensorboard": ("tensorboard",),
}
NOT_REQUIRED_ANYWHERE = ("torchvision", "torchaudio", "timm")
ROOMS_WITHOUT_A_NAME = ("utils", "util", "misc", "helpers", "helper", "common")

Sources = Mapping[str, str]


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, the line, and whether merely importing the file runs it."""

    module: str
    line: int
    at_import: bool

    @property
    def top(self) -> str:
        """The distribution's import name, ``yaml`` of ``yaml.nodes``."""
        return self.module.partition(".")[0]


# ------------------------------------------------------------------------------------------------------------- reading
def read_package(folder: Path, name: str) -> dict[str, str]:
    """``{module: source}`` of every file below a package's folder; ``__init__`` takes its package's name."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [name, *path.relative_to(folder).with_suffix("").parts]
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


@lru_cache(maxsize=1)
def package_sources() -> dict[str, str]:
    """The sources of the library itself."""
    return read_package(ROOT / "src" / PACKAGE, PACKAGE)


@lru_cache(maxsize=4096)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports(name: str, sources: Sources) -> list[Import]:
    """What a module imports, relative names resolved; ``from a import b`` is ``a.b`` where that is a module.

    Imports below ``if TYPE_CHECKING`` or in a function count too (a door is a door), with ``at_import`` False.
    """
    is_package = any(other.startswith(name + ".") for other in sources) or name == PACKAGE
    found: list[Import] = []
    for node, at_import in _walk(_parse(sources[name])):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, is_package, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append(Import(full if full in sources else base, node.lineno, at_import))
    return found


def _absolute(name: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    here = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*here, *([node.module] if node.module else [])])


def _walk(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, False)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from ((inner, False) for branch in child.body for inner in ast.walk(branch))
            yield from ((inner, at_import) for branch in child.orelse for inner in ast.walk(branch))
        else:
            yield child, at_import
            yield from _walk(child, at_import)


def _room(module: str) -> str:
    """``weights`` of ``sparseland.weights.methods.granet``; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


# --------------------------------------------------------------------------------------------------------------- doors
def closed_doors(sources: Sources) -> list[str]:
    """Imports that go through a wall: every package may import itself and what `DOORS` says."""
    complaints = []
    for name in sources:
        room = _room(name)
        if not room:
            continue  # the front door: `closed_front_door` looks at it
        if room not in DOORS:
            complaints.append(f"{name}: {room!r} has no entry in tests/architecture/rules.py:DOORS; give it one")
            continue
        for item in imports(name, sources):
            if _is_ours(item.module) and _room(item.module) != room and not _opens(DOORS[room], item.module):
                allowed = ", ".join(filter(None, DOORS[room])) or "nothing of sparseland"
                complaints.append(f"{name}:{item.line}: {room} may import {allowed}; it imports {item.module}")
    return complaints


def _opens(doors: Iterable[str], module: str) -> bool:
    below = module.partition(".")[2]
    return any(door == "*" or below == door or (door and below.startswith(door + ".")) for door in doors)


def closed_front_door(sources: Sources) -> list[str]:
    """``sparseland/__init__`` loads its rooms when they are asked for, not when it is imported."""
    return [
        f"{PACKAGE}/__init__:{item.line}: imports {item.module} at import; load it in __getattr__"
        for item in imports(PACKAGE, sources)
        if item.at_import and item.top != "__future__" and item.top not in sys.stdlib_module_names
    ]


def methods_that_know_each_other(sources: Sources) -> list[str]:
    """One file per method: files of ``weights/methods`` never import each other.

    The package's ``__init__`` gathers them; a file with a leading underscore is not a method.
    """
    folder = f"{PACKAGE}.weights.methods."
    complaints = []
    for name in sources:
        if not name.startswith(folder) or name.removeprefix(folder).startswith("_"):
            continue
        own = folder + name.removeprefix(folder).partition(".")[0]
        for item in imports(name, sources):
            other = item.module.removeprefix(folder)
            if item.module.startswith(folder) and not f"{item.module}.".startswith(own + ".") and other[0] != "_":
                complaints.append(f"{name}:{item.line}: imports {item.module}; move what both need to weights/")
    return complaints


def strangers(sources: Sources) -> list[str]:
    """``core`` and ``weights`` stand on torch and the standard library only, wherever the import is written."""
    complaints = []
    for name in sources:
        if _room(name) not in ("core", "weights"):
            continue
        for item in imports(name, sources):
            known = _is_ours(item.module) or item.top == "torch" or item.top in sys.stdlib_module_names
            if not known:
                complaints.append(f"{name}:{item.line}: imports {item.top}; here only torch and the standard library")
    return complaints


def early_optionals(sources: Sources) -> list[str]:
    """Packages of an extra are imported inside functions, or at the top of a file named after their use."""
    complaints = []
    for name in sources:
        for item in imports(name, sources):
            words = name.replace("_", ".").split(".")
            named = any(word in words for word in NAMED_AFTER.get(item.top, ()))
            if item.at_import and item.top in OPTIONAL and not named:
                complaints.append(
                    f"{name}:{item.line}: imports {item.top} at its top; do it in the function that needs it"
                )
    return complaints


def not_required_anywhere(sources: Sources) -> list[str]:
    """torchvision, torchaudio and timm are imported nowhere."""
    return [
        f"{name}:{item.line}: imports {item.top}, which this project does without"
        for name in sources
        for item in imports(name, sources)
        if item.top in NOT_REQUIRED_ANYWHERE
    ]


def cycles(sources: Sources) -> list[str]:
    """Circles between packages, as ``a -> b -> a``; the lazy front door is not counted."""
    graph: dict[str, set[str]] = {}
    for name in sources:
        if room := _room(name):
            targets = {_room(item.module) for item in imports(name, sources) if _is_ours(item.module)}
            graph.setdefault(room, set()).update(targets - {room, ""})
    complaints: list[str] = []
    done: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        if room in path:
            complaints.append(" -> ".join((*path[path.index(room) :], room)))
        elif room not in done:
            for target in sorted(graph.get(room, ())):
                visit(target, (*path, room))
            done.add(room)

    for room in sorted(graph):
        visit(room, ())
    return complaints


def rooms_without_a_name(paths: Iterable[Path]) -> list[str]:
    """Files and folders called utils, misc or helpers: say what they are for instead."""
    return [
        f"{path}: a name that says nothing; name it after what it does"
        for path in paths
        if any(part.removesuffix(".py").lstrip("_") in ROOMS_WITHOUT_A_NAME for part in path.parts)
    ]
