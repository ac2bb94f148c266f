"""What a recipe is: one training run by its fields, and optionally what to compare.

A recipe's keys are those of `TrainConfig` (one vocabulary in Python, dict and YAML), and ``name``, ``description``,
``compare``. Everything is checked when the recipe is made; unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, field_validator

from ..core.errors import RecipeError, SparselandError, nearest
from ..train.config import TrainConfig
from .program import python_program
from .yaml_text import read_yaml, write_yaml

OWN_KEYS = ("name", "description", "compare")
METHOD_KEYS = ("label", "train")  # of a compared method, beside its hyperparameters
# What every run of a comparison shares: the task, what is measured on it, and what changes nothing in the result.
SHARED = (
    *("model", "model_options", "data", "data_options", "folder", "limit", "validation", "method", "seed"),
    *("threads", "trackers", "checkpoint_every"),
)
OWN_TRAINING = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name not in SHARED)
_KINDS = {"int": "integer", "float": "number", "dict": "mapping", "tuple": "list", "string": "text", "model": "mapping"}


class Compare(BaseModel):
    """Methods × seeds, everything else being equal.

    Parameters:
        methods: mappings such as ``{"name": "rigl", "sparsity": 0.9}``, or bare names; ``label`` names one in tables
            (default: its name, with what tells it from others of that name); ``train`` are fields of `TrainConfig` that
            are its own, as ``{"lr": 0.05}`` (those of `OWN_TRAINING`; a budget of its own makes a comparison that
            ``sparseland compare`` refuses unless told otherwise).
        seeds: integers, each given once.
        sparsity: for the methods that have such a hyperparameter and do not state it.
        tuned_on: the split on which hyperparameters were chosen, said by who writes the recipe; None: not tuned, or not
            said. ``sparseland compare`` refuses "test".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    methods: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    sparsity: float | None = None
    tuned_on: Literal["validation", "test"] | None = None

    @field_validator("methods", "seeds")
    @classmethod
    def _some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("the list is empty; give at least one")
        if len({repr(item) for item in value}) < len(value):
            raise ValueError("an entry is given twice")
        return value


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison: its method's label, its seed and its whole configuration."""

    label: str
    seed: int
    config: TrainConfig

    @property
    def folder(self) -> str:
        """Where it is kept below the comparison's folder, for example ``rigl/seed-0``."""
        safe = "".join(c if c.isalnum() or c in "._-=+" else "-" for c in self.label)
        return f"{safe}/seed-{self.seed}"


class Recipe(BaseModel):
    """A training run, and what to compare it with.

    Parameters:
        config: the run.
        name: lower-case words for tables and folders.
        description: for people.
        compare: methods × seeds, or None.

    Raises:
        RecipeError: see `from_dict`.

    >>> recipe = Recipe.from_dict({"lr": 0.05, "compare": {"methods": [{"name": "dense"}], "seeds": [0]}})
    >>> Recipe.from_yaml(recipe.to_yaml()) == recipe
    True
    >>> [(run.label, run.seed, run.config.lr) for run in recipe.runs()]
    [('dense', 0, 0.05)]
    >>> try:
    ...     Recipe.from_dict({"optimiser": "sgd"})
    ... except RecipeError as error:
    ...     print(str(error).partition(" Possible")[0])
    recipe: unknown key 'optimiser'; did you mean 'optimizer'?
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    config: InstanceOf[TrainConfig] = Field(default_factory=TrainConfig)
    name: str = "recipe"
    description: str = ""
    compare: Compare | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """A recipe from plain data.

        Parameters:
            data: keys of `TrainConfig`, and ``name``, ``description``, ``compare``.
            source: what to call it in errors.

        Raises:
            RecipeError: an unknown key (with its path and the nearest known one), a value of the wrong type, a method
                that cannot be made.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"{source}: a recipe is a mapping of keys to values, not {data!r}")
        _refuse_unknown(data, [*OWN_KEYS, *(f.name for f in dataclasses.fields(TrainConfig))], source)
        if isinstance(data.get("compare"), Mapping):
            _refuse_unknown(data["compare"], Compare.model_fields, f"{source}: compare")
        own = {key: data[key] for key in OWN_KEYS if data.get(key) is not None}
        train = {key: _named(value) if key == "method" else value for key, value in data.items() if key not in OWN_KEYS}
        try:
            config = TrainConfig.from_dict(train)
            recipe = cls.model_validate({"config": config, **_tuples(own)})
            recipe.check()
        except ValidationError as error:
            raise RecipeError(f"{source}: {_in_words(error)}") from None
        except SparselandError as error:
            raise type(error)(f"{source}: {error}") from None
        return recipe

    def check(self) -> Recipe:
        """Raise RecipeError unless every method can be made and the labels differ; the recipe itself otherwise."""
        check_method(self.config, "method")
        if self.compare is not None:
            labels = self.labels()
            for label in labels:
                if labels.count(label) > 1:
                    raise RecipeError(f"compare.methods: two are labelled {label!r}; give each its own 'label'")
            folders = [Run(label, 0, self.config).folder.casefold() for label in labels]
            for label, folder in zip(labels, folders, strict=True):
                if folders.count(folder) > 1:
                    raise RecipeError(
                        f"compare.methods: {label!r} and another label would share the folder "
                        f"{folder.partition('/')[0]!r}; give one its own 'label'"
                    )
            for i, method in enumerate(self.compare.methods):
                path = f"compare.methods.{i}"
                try:
                    config = self._configured(method)
                except SparselandError as error:
                    raise type(error)(f"{path}: {error}") from None
                check_method(config, path)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal recipe; every field is written."""
        out: dict[str, Any] = {"name": self.name, "description": self.description, **self.config.to_dict()}
        if self.compare is not None:
            optional = {"sparsity": self.compare.sparsity, "tuned_on": self.compare.tuned_on}
            out["compare"] = {
                "methods": copy.deepcopy(list(self.compare.methods)),
                "seeds": list(self.compare.seeds),
                **{key: value for key, value in optional.items() if value is not None},
            }
        return out

    def brief(self) -> dict[str, Any]:
        """`to_dict` without what is at its default: how people write it."""
        default = Recipe().to_dict()
        return {key: value for key, value in self.to_dict().items() if key not in default or value != default[key]}

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Recipe:
        """A recipe from YAML text; see `from_dict`."""
        return cls.from_dict(read_yaml(text, source) or {}, source)

    def to_yaml(self) -> str:
        """YAML text of what is not at its default; `from_yaml` gives back an equal recipe."""
        return write_yaml(self.brief())

    def to_python(self) -> str:
        """The Python program that does what this recipe does."""
        return python_program(self)

    def labels(self) -> list[str]:
        """One name for each compared method, in order."""
        methods = [_flat(method) for method in self.compare.methods] if self.compare is not None else []
        names = [str(method.get("name", "method")) for method in methods]
        labels = []
        for method, name in zip(methods, names, strict=True):
            others = [other for other in methods if other is not method and other.get("name", "method") == name]
            keys = [k for k in method if k not in ("name", "label") and any(o.get(k) != method[k] for o in others)]
            labels.append(str(method.get("label") or " ".join([name, *(f"{k}={_short(method[k])}" for k in keys)])))
        return labels

    def runs(self) -> list[Run]:
        """Every run of the comparison: methods in the order given, seeds within each.

        Raises:
            RecipeError: the recipe compares nothing.
        """
        if self.compare is None:
            raise RecipeError(
                f"recipe {self.name!r} has no 'compare' section: give one with methods and seeds, or train it instead"
            )
        return [
            Run(label, seed, dataclasses.replace(self._configured(method), seed=seed))
            for label, method in zip(self.labels(), self.compare.methods, strict=True)
            for seed in self.compare.seeds
        ]

    def _configured(self, method: Mapping[str, Any]) -> TrainConfig:
        """The run of a method of the comparison: the recipe's, with what is the method's own."""
        own = method.get("train") or {}
        if not isinstance(own, Mapping):
            raise RecipeError(f"train is {own!r}, which is no mapping of fields, as {{lr: 0.05}}")
        for key in own:
            if key in SHARED:
                raise RecipeError(f"train.{key} is the same for all runs of a comparison: set it at the top")
        _refuse_unknown(own, OWN_TRAINING, "train")
        return self.config.replace(method=self._filled(method), **own)

    def _filled(self, method: Mapping[str, Any]) -> dict[str, Any]:
        """A method of the comparison as hyperparameters, with the common sparsity where it states none."""
        out = {key: value for key, value in method.items() if key not in METHOD_KEYS}
        common = self.compare.sparsity if self.compare is not None else None
        if common is not None and "sparsity" not in out and "sparsity" in hyperparameters(out.get("name")):
            out["sparsity"] = common
        return out


def hyperparameters(name: Any) -> list[str]:
    """The hyperparameters of a named method; none for an unknown name.

    >>> hyperparameters("rigl")[:2]
    ['sparsity', 'drop']
    """
    import inspect

    from ..weights.methods import registry

    return list(inspect.signature(registry[name]).parameters) if name in registry else []


def check_method(config: TrainConfig, path: str) -> None:
    """Raise, with the path, unless the configuration's method can be made."""
    from ..train import compose

    try:
        compose(config.method)
    except SparselandError as error:
        raise type(error)(f"{path}: {error}") from None


def _flat(method: Mapping[str, Any]) -> dict[str, Any]:
    """A compared method with its own training fields beside its hyperparameters, for telling it from others."""
    own = method.get("train")
    return {k: v for k, v in method.items() if k != "train"} | (dict(own) if isinstance(own, Mapping) else {})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_unknown(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in data:
        if key not in names:
            raise RecipeError(f"{where}: unknown key {key!r}; {nearest(key, names)}")


def _named(method: Any) -> Any:
    """A bare name is the method of that name with its defaults."""
    return {"name": method} if isinstance(method, str) else method


def _tuples(data: Any) -> Any:
    """Lists of a comparison as tuples, which is what frozen values hold."""
    if isinstance(data, Mapping) and isinstance(data.get("compare"), Mapping):
        compare = {k: tuple(v) if isinstance(v, list) else v for k, v in data["compare"].items()}
        if isinstance(compare.get("methods"), tuple):
            compare["methods"] = tuple(map(_named, compare["methods"]))
        return {**data, "compare": compare}
    return data


def _in_words(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(key) for key in first["loc"])
    if first["type"] == "missing":
        return f"{where} is missing"
    given = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
    if first["type"] == "literal_error":
        return f"{where} is {given!r}; possible: {first['ctx']['expected']}"
    if first["type"] == "value_error":
        return f"{where} is {given!r}: {first['msg'].removeprefix('Value error, ')}"
    return f"{where} is {given!r}, which is no {_KINDS.get(first['type'].split('_')[0], first['type'])}"
