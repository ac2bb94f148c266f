"""Docstring coverage of what is public: modules, functions, classes and methods without a leading underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
# Their meaning is fixed by torch or the standard library; the class docstring says what they compute.
FIXED_MEANING = {"forward", "extra_repr"}


def without_docstring(sources: Mapping[str, str]) -> list[str]:
    """Public names that say nothing. A method inherits the docstring of the same method of a base class of ours."""
    trees = {name: ast.parse(source) for name, source in sources.items() if _is_public_module(name)}
    everywhere = {
        node.name: node
        for source in sources.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }
    complaints = []
    for module, tree in trees.items():
        known = everywhere | {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        if tree.body and ast.get_docstring(tree) is None:
            complaints.append(f"{module}: the module has no docstring")
        for name, node in _public(tree):
            if ast.get_docstring(node) is None and not _inherited(name, known):
                complaints.append(f"{module}:{node.lineno}: {name} has no docstring")
    return complaints


def _is_public_module(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def _public(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    exported = _exported(tree)
    for node in _definitions(tree.body):
        if node.name in exported if exported is not None else not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public_methods(node)


def _public_methods(node: ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    for inner in _definitions(node.body):
        if not inner.name.startswith("_") and inner.name not in FIXED_MEANING:
            yield f"{node.name}.{inner.name}", inner


def _definitions(body: list[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not any(_is_variant(item) for item in node.decorator_list):
            yield node


def _is_variant(decorator: ast.expr) -> bool:
    """``@overload`` and ``@x.setter`` repeat something that is documented once."""
    return ast.unparse(decorator).rpartition(".")[2] in ("overload", "setter", "deleter")


def _exported(tree: ast.Module) -> set[str] | None:
    """The names in ``__all__``, or None where the module has none (or builds it)."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            values = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else []
            return {item.value for item in values if isinstance(item, ast.Constant)} or None
    return None


def _inherited(name: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    """Whether a base class (of ours) documents the method ``Class.method``."""
    owner, _, method = name.partition(".")
    if not method or owner not in classes:
        return False
    for base in classes[owner].bases:
        base_name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if base_name == owner or base_name not in classes:
            continue
        for node in _definitions(classes[base_name].body):
            if node.name == method and ast.get_docstring(node) is not None:
                return True
        if _inherited(f"{base_name}.{method}", classes):
            return True
    return False
