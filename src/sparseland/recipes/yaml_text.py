"""YAML as recipes are written in: read safely, with numbers and booleans as people mean them.

Differs from YAML 1.1, which PyYAML speaks: ``1e-3`` is a number, ``2:4`` is a string (and not 124 in base 60), ``no``
and ``on`` are strings, ``010`` is ten, dates are strings, a key given twice is an error, and there
are no aliases. What is written here reads
the same in both dialects, because whatever either of them would take for something else is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..core.errors import RecipeError, nearest
from ..core.word import Word

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_INT = rf"[-+]?{_DIGITS}"
_FLOAT = rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS}|{_DIGITS}(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
_RESOLVERS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
)


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the rules above."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As usual, but without aliases: they can make a few lines grow without end."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A dict with text keys, each given once."""
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"a key is text, not {key!r}", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """PyYAML's safe dumper: quotes what either dialect would misread, and writes lists of plain values on one line."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Never write anchors."""
        return True


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    if any(letter in value for letter in "\x85\u2028\u2029"):  # line breaks that PyYAML writes bare and reads as others
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper: yaml.SafeDumper, value: Any) -> yaml.SequenceNode:
    plain = all(item is None or isinstance(item, bool | int | float | str) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain)


for _tag, _pattern, _first in _RESOLVERS:
    _start = ["" if letter == "\0" else letter for letter in _first]
    RecipeLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _start)
    if _tag.endswith(("float", "int")):
        RecipeDumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _start)
RecipeLoader.add_constructor("tag:yaml.org,2002:int", _int)
RecipeLoader.add_constructor("tag:yaml.org,2002:float", _float)
RecipeDumper.add_representer(str, _text)
RecipeDumper.add_representer(list, _list)
RecipeDumper.add_representer(tuple, _list)


def read_yaml(text: str, source: str = "YAML") -> Any:
    """Plain data from YAML text; nothing in it is executed.

    Parameters:
        text: one YAML document.
        source: what to call it in errors.

    Raises:
        RecipeError: not YAML, a key twice, a tag (``!!python/…``); the message has the line.

    >>> read_yaml("lr: 1e-3\\npattern: 2:4\\nprecision: no\\nsteps: 30_000")
    {'lr': 0.001, 'pattern': '2:4', 'precision': 'no', 'steps': 30000}
    """
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{source}{where}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"{source} is no YAML: {error}") from None


def write_yaml(data: Any) -> str:
    """YAML text that `read_yaml` turns back into equal data (tuples become lists).

    >>> print(write_yaml({"method": {"name": "rigl", "pattern": "2:4"}, "seeds": [0, 1]}), end="")
    method:
      name: rigl
      pattern: '2:4'
    seeds: [0, 1]
    """
    text: str = yaml.dump(data, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def to_yaml(word: Word) -> str:
    """One word, or a whole method, as YAML: its family and its value. `from_yaml` reads it back, equal.

    >>> from sparseland.core import OneShot, pattern
    >>> print(to_yaml(pattern("2:4")) + to_yaml(OneShot(0.9)), end="")
    pattern: '2:4'
    schedule:
      kind: one-shot
      value: 0.9
      at: 0
      rounds: 1
    """
    family = type(word).family.__name__.lower()
    return write_yaml({family: word.plain()})


def from_yaml(text: str) -> Word:
    """The word or method that `to_yaml` wrote.

    Raises:
        RecipeError: not YAML, not one family with one value, or nothing that exists; the message names the nearest.

    >>> from sparseland.core import Cubic
    >>> from_yaml(to_yaml(Cubic(0.9, end=0.5))) == Cubic(0.9, end=0.5)
    True
    """
    data = read_yaml(text)
    families = _families()
    if not isinstance(data, Mapping) or len(data) != 1:
        keys = list(data) if isinstance(data, Mapping) else data
        raise RecipeError(f"a word is written as 'family: value', one of {', '.join(families)}; got {keys!r}")
    ((family, value),) = data.items()
    if family not in families:
        raise RecipeError(f"unknown family {family!r}: {nearest(family, families)}")
    return families[family].from_dict(value)


def _families() -> dict[str, type[Word]]:
    from .. import core
    from ..weights.method import Method

    words = (core.Pattern, core.Criterion, core.Allocation, core.Schedule, core.Growth, core.Flow, Method)
    return {family.__name__.lower(): family for family in words}
