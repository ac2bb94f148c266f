"""The reference: one page per public package, every public name on exactly one of them.

Public is what a package lists in ``__all__`` (and, for the modules of `DOORS`, what they define without a leading
underscore). `complaints` says which public names have no docstring or stand on no page; the build fails on any.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

PACKAGE = "sparseland"
# Packages that are no Python interface: the command line has a page of its own.
NOT_PYTHON = ("cli",)
# Modules that users import by their own path, because their package does not load them.
DOORS = {
    "core": ("core.errors",),
    "features": ("features.prosper",),
    "train": ("train.fan_out", "train.hf", "train.lightning"),
}
ALIASES = {"weights.methods": "methods"}  # sl.methods
FIXED_MEANING = {"forward", "extra_repr"}  # as in tests/architecture/docstrings.py
# Plain values have no docstring of their own.
VALUES = {
    "sparseland.account.UNSTABLE": "Spread (interquartile range over median) from which a timing is called unstable.",
    "sparseland.account.SCOPES": "What `count` counts over; see `Counts`.",
    "sparseland.advisor.GUARDS": "The guards by name; see [Evaluation](../evaluation.md#the-guards).",
    "sparseland.papers.SCHEMA": "Version of the schema of a paper folder's `result.json`.",
    "sparseland.papers.STATUS": "How far a published system can be.",
    "sparseland.papers.VERDICTS": "What a reproduction can come to.",
    "sparseland.testing.checks": "The contract: its checks by name, in the order in which they run.",
    "sparseland.train.fan_out.PLACES": "Where jobs can run: what `fan_out(…, on=…)` takes.",
    "sparseland.data.CORRUPTIONS": "Names of the corruptions that `corrupt` knows.",
    "sparseland.data.AUGMENTATIONS": "Names of the augmentations that `batches` knows.",
    "sparseland.data.NAMES": "Names that `load` knows.",
    "sparseland.zoo.NAMES": "Names that `build` knows; digits in them may be changed where the description says so.",
    "sparseland.zoo.PRETRAINED": "Trained weights that `pretrained` knows, by name.",
    "sparseland.zoo.PRETRAINED_MEAN": "Per-channel mean of the images that the trained weights expect.",
    "sparseland.zoo.PRETRAINED_STD": "Per-channel standard deviation of the images that the trained weights expect.",
    "sparseland.methods.registry": "Every registered method: its name, and the function that makes it.",
}


@dataclass(frozen=True)
class Symbol:
    """A public name: where users find it, where it is defined (None: a plain value or a module) and what it is."""

    public: str
    path: str | None
    value: Any

    @property
    def name(self) -> str:
        """The last part."""
        return self.public.rpartition(".")[2]


@dataclass
class Page:
    """One page: the package (as users call it), the module behind it, and what is documented there."""

    title: str
    module: ModuleType
    symbols: list[Symbol] = field(default_factory=list)
    elsewhere: list[Symbol] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Its name below docs/reference."""
        return f"{self.title.rpartition('.')[2]}.md"


def pages() -> list[Page]:
    """All pages; each object stands on the page of the package that defines it."""
    found = [Page(title, importlib.import_module(path)) for title, path in _packages()]
    taken: dict[str, Page] = {}
    for own in (True, False):  # first what a package defines, then what it only passes on
        for page in found:
            for symbol in _symbols(page):
                home = symbol.path is None or symbol.path.startswith(page.module.__name__ + ".")
                if home is not own or isinstance(symbol.value, ModuleType):
                    continue
                if symbol.path is not None and symbol.path in taken:
                    page.elsewhere += [symbol] if taken[symbol.path] is not page else []
                    continue
                page.symbols.append(symbol)
                if symbol.path is not None:
                    taken[symbol.path] = page
    return found


def _packages() -> Iterator[tuple[str, str]]:
    root = importlib.import_module(PACKAGE)
    names = [m.name for m in pkgutil.iter_modules(root.__path__) if m.ispkg or m.name in root.__all__]
    shown = {name: name for name in names if not name.startswith("_") and name not in NOT_PYTHON}
    shown |= {alias: path for path, alias in ALIASES.items()}
    order = ["core", "weights", "methods", "train", "data", "zoo", "recipes", "account", "advisor", "reports", "deploy"]
    order += ["kernels"]
    for name in sorted(shown, key=lambda n: (order.index(n) if n in order else len(order), n)):
        yield f"{PACKAGE}.{name}", f"{PACKAGE}.{shown[name]}"
    yield PACKAGE, PACKAGE  # last: almost all of it is defined in the others


def _symbols(page: Page) -> Iterator[Symbol]:
    module = page.module
    exported = getattr(module, "__all__", None)
    names = list(exported) if exported is not None else _defined(module)
    for name in names:
        yield _symbol(f"{page.title}.{name}", getattr(module, name))
    for door in DOORS.get(module.__name__.removeprefix(PACKAGE + "."), ()):
        other = importlib.import_module(f"{PACKAGE}.{door}")
        for name in getattr(other, "__all__", None) or _defined(other):
            yield _symbol(f"{other.__name__}.{name}", getattr(other, name))


def _symbol(public: str, value: Any) -> Symbol:
    documented = inspect.isclass(value) or inspect.isroutine(value)
    return Symbol(public, f"{value.__module__}.{value.__qualname__}" if documented else None, value)


def _defined(module: ModuleType) -> list[str]:
    tree = ast.parse(inspect.getsource(module))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


# ------------------------------------------------------------------------------------------------------------ the text
def markdown(page: Page, homes: Mapping[str, Page]) -> str:
    """The page's Markdown; mkdocstrings fills in what the ``:::`` lines ask for."""
    about = inspect.getdoc(page.module) or ""
    parts = [f"# {page.title}", ""]
    parts += ["```text", about, "```", ""] if "\n    " in about else [about, ""]
    for symbol in page.symbols:
        parts += _value(symbol) if symbol.path is None else _object(symbol, page)
    if page.elsewhere:
        parts += ["## Also here", "", *(_link(symbol, homes) for symbol in page.elsewhere), ""]
    return "\n".join(parts)


def _object(symbol: Symbol, page: Page) -> list[str]:
    shown = symbol.public.removeprefix(page.module.__name__ + ".").removeprefix(page.title + ".")
    return [f"::: {symbol.path}", "    options:", f"      heading: {shown}", f"      toc_label: {shown}", ""]


def _value(symbol: Symbol) -> list[str]:
    text = VALUES.get(symbol.public, "")
    value = symbol.value
    shown = ", ".join(f"`{key}`" for key in value) if isinstance(value, dict | tuple | list) else f"`{value!r}`"
    return [f"## `{symbol.name}` {{ #{symbol.public} }}", "", text, "", f"Holds: {shown}.", ""]


def _link(symbol: Symbol, homes: Mapping[str, Page]) -> str:
    home = homes[symbol.path or ""]
    return f"- [`{symbol.name}`]({home.file}#{symbol.path}), documented under `{home.title}`"


def homes(found: list[Page]) -> dict[str, Page]:
    """By definition path, the page on which an object stands."""
    return {symbol.path: page for page in found for symbol in page.symbols if symbol.path is not None}


def overview(found: list[Page]) -> str:
    """The reference's first page."""
    lines = ["# Python reference", "", "Every public name of the library stands on one of these pages: the build of"]
    lines += ["this site fails if one is missing or has no docstring. The examples run as tests.", ""]
    lines += ["| package | what it is | names |", "|---|---|--:|"]
    for page in found:
        about = (inspect.getdoc(page.module) or "").partition("\n")[0].replace("|", r"\|")
        names = len(page.symbols) + len(page.elsewhere)
        lines.append(f"| [`{page.title}`]({page.file}) | {about} | {names} |")
    return "\n".join([*lines, ""])


# ------------------------------------------------------------------------------------------------------------ the check
def undocumented(found: list[Page]) -> list[str]:
    """Public names without a docstring, members of classes included."""
    missing = []
    for page in found:
        for symbol in page.symbols:
            if symbol.path is None:
                missing += [] if symbol.public in VALUES else [f"{symbol.public} (describe it in {__name__}.VALUES)"]
                continue
            missing += [] if _says(symbol.value) else [symbol.public]
            if inspect.isclass(symbol.value):
                missing += [f"{symbol.public}.{name}" for name in _mute(symbol.value)]
    return missing


def _says(value: Any) -> bool:
    own = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    made = inspect.isclass(value) and (own or "").startswith(f"{value.__name__}(")  # what dataclass writes
    return bool(own and own.strip()) and not made


def _mute(cls: type) -> Iterator[str]:
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    for name, member in vars(cls).items():
        member = getattr(member, "__func__", member)
        if name.startswith("_") or name in FIXED_MEANING | fields or not isinstance(member, property | type(_mute)):
            continue
        if not (getattr(cls, "__module__", "").startswith(PACKAGE) and inspect.getdoc(getattr(cls, name))):
            yield name


def complaints(found: list[Page], html: Mapping[str, str]) -> list[str]:
    """What the build fails on. ``html``: the built pages below reference/, by file name without ending."""
    said = [f"{name} has no docstring" for name in undocumented(found)]
    for page in found:
        anchors = set(re.findall(r'id="([^"]+)"', html.get(page.file.removesuffix(".md"), "")))
        for symbol in page.symbols:
            if (symbol.path or symbol.public) not in anchors:
                said.append(f"{symbol.public} is public and not on the page {page.file}")
    return said
