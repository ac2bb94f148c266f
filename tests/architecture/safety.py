"""Nothing loaded from disk is executed: calls that could are found in the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

RUNS_CODE = {"eval", "exec", "__import__"}
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
READS = {"load", "loads", "Unpickler", "open"}
UNSAFE_YAML = {"unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "UnsafeLoader", "FullLoader"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def unsafe_calls(sources: Mapping[str, str]) -> list[str]:
    """eval/exec, unpickling, ``torch.load`` without ``weights_only=True``, ``yaml.load`` without a safe loader,
    ``np.load(allow_pickle=True)``, under whatever name they were imported."""
    return [f"{name}:{line}: {what}" for name, source in sources.items() for line, what in _unsafe(ast.parse(source))]


def _unsafe(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names = _imported_names(tree)
    loaders = SAFE_LOADERS | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_last(base) in SAFE_LOADERS for base in node.bases)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            what = _complaint(_full_name(node.func, names), node, loaders)
            if what:
                yield node.lineno, what


def _complaint(called: str, node: ast.Call, loaders: set[str]) -> str:
    module, _, function = called.rpartition(".")
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    if called in RUNS_CODE or (module == "builtins" and function in RUNS_CODE):
        return f"{function}() runs text as code"
    if module.partition(".")[0] in PICKLES and function in READS:
        return f"{called} unpickles: use safetensors or json"
    if called in ("torch.load", "torch.serialization.load") and not _is(options.get("weights_only"), True):
        return "torch.load without weights_only=True"
    if module in ("numpy", "numpy.lib.npyio") and function == "load" and "allow_pickle" in options:
        return "" if _is(options["allow_pickle"], False) else "np.load with allow_pickle"
    if module == "yaml" and function in UNSAFE_YAML:
        return f"yaml.{function}: use yaml.safe_load"
    if module == "yaml" and function in ("load", "load_all"):
        loader = options.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        return "" if loader is not None and _last(loader) in loaders else f"yaml.{function} without SafeLoader"
    return ""


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> full name: ``np`` -> ``numpy``, ``tload`` -> ``torch.load``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _full_name(node: ast.expr, names: Mapping[str, str]) -> str:
    """``torch.load`` of ``t.load`` where t is torch; empty for a call on something that has no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = _full_name(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
