"""What every ``papers/NN-slug/result.json`` holds: a claim, what we measured, and whether the claim came out.

The models below are the only definition; ``docs/reference/paper-result.md`` is written from them.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from ..core.errors import DataNotFound, SparselandError, nearest

SCHEMA = 1
VERDICTS = ("reproduces", "in part", "does not")
ACCURACY = "test accuracy (%)"

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Claim(_Record):
    """What the paper says.

    >>> Claim(value="ResNet-50, ImageNet, 90 %: 74.5", source="table 2").source
    'table 2'
    """

    value: Text = Field(description="the claim, with its number where there is one")
    source: Text = Field(description="where it stands, or how it is known if the paper could not be read")


class Row(_Record):
    """One number of ours: a method or baseline in one setting, over seeds. Further keys may hold plain values.

    >>> Row(part="digits", setting="", arm="dense", seeds=5, mean=97.3, std=0.6).metric
    'test accuracy (%)'
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    part: Text = Field(description="a key of `setting`")
    setting: str = Field(description="what changes within the part (a width, a model); may be empty")
    arm: Text = Field(description="the method or baseline, with its sparsity or density")
    metric: Text = Field(ACCURACY, description="what `mean` is, with its unit")
    seeds: int = Field(ge=1, description="how many runs, one for each seed")
    mean: Finite = Field(description="mean over the seeds, in the unit of `metric`")
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        description="sample standard deviation over the seeds; null for one seed"
    )
    kept: int | None = Field(None, ge=0, description="non-zero weights")
    total: int | None = Field(None, ge=1, description="weights that may be zero")
    training_flops: Finite | None = Field(None, description="of the whole training, as a share of dense training")
    inference_flops: Finite | None = Field(None, description="of one image, as a share of the dense net's")

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if (self.std is None) != (self.seeds == 1):
            raise ValueError(f"std is {self.std} with seeds = {self.seeds}: it is null for one seed, and only then")
        for name, value in (self.model_extra or {}).items():
            if value is not None and not isinstance(value, (str, int, float, bool)):
                raise ValueError(f"{name} holds a {type(value).__name__}; further keys hold text, numbers or null")
        return self


class Part(_Record):
    """Where and when one part was run, where the parts of a folder differ in it.

    >>> Part(seeds=[0, 1], runs=14, minutes=2.5, machine={"cores": 2}, versions={"torch": "2.13"}).runs
    14
    """

    seeds: list[int] = Field(description="the seeds of this part")
    runs: int = Field(ge=1, description="how many runs")
    minutes: Annotated[float, Field(ge=0)] = Field(description="of these runs, one after the other")
    machine: dict[str, str | int | float] = Field(description="as in the file")
    versions: dict[str, str] = Field(description="as in the file")


class PaperResult(_Record):
    """One JSON object.

    `read` makes one from a file, `check` from plain data; ``to_dict`` is plain data again.

    Raises:
        SparselandError: (from `read` and `check`) a key is missing, unknown or ill-typed; its JSON path is named.

    >>> check({"schema": 1, "verdict": "yes"})
    Traceback (most recent call last):
    sparseland.core.errors.SparselandError: result.json: $.verdict is 'yes'; possible: does not, in part, reproduces
    """

    version: Literal[1] = Field(alias="schema", description="version of this schema: 1")
    system: Text = Field(description="number and name, as in `sparseland papers`")
    claim: Claim = Field(description="what the paper says")
    setting: dict[str, Text] = Field(min_length=1, description="by part: data, net, epochs, in a line")
    seeds: list[int] = Field(min_length=1, description="every seed that was used, rising")
    ours: list[Row] = Field(min_length=1, description="one row per part, setting, arm and metric")
    command: Text = Field(description="makes this file")
    minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(description="of all runs, one after the other")
    machine: dict[str, str | int | float] = Field(min_length=1, description="system, cpu, cores, threads, device, ...")
    versions: dict[str, str] = Field(min_length=1, description="by package")
    verdict: Literal["reproduces", "in part", "does not"] = Field(description="one of these three")
    why: Text = Field(description="one sentence with the numbers that decide")
    headline: Text | None = Field(None, description="ours in a few words, for tables; `why` where there is none")
    missing: list[Text] = Field(description="of the proof; while there is something, the system is not done")
    limits: list[Text] = Field(
        default_factory=list, description="what even the whole proof leaves open: larger nets and data, deviations"
    )
    parts: dict[str, Part] = Field(default_factory=dict, description="by part, where the runner knows it")

    @field_validator("seeds")
    @classmethod
    def _rising(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("seeds rise, and each stands there once")
        return value

    @field_validator("why")
    @classmethod
    def _sentence(cls, value: str) -> str:
        if "\n" in value or not value.endswith(".") or re.search(r"[.!?]\s+[A-Z]", value):
            raise ValueError("it is one sentence on one line, with a full stop at its end")
        return value

    @model_validator(mode="after")
    def _whole(self) -> PaperResult:
        seen: dict[tuple[str, str, str, str], int] = {}
        for i, row in enumerate(self.ours):
            if row.part not in self.setting:
                raise ValueError(f"ours[{i}].part is {row.part!r}; {nearest(row.part, self.setting)} (keys of setting)")
            key = (row.part, row.setting, row.arm, row.metric)
            if key in seen:
                raise ValueError(f"ours[{i}] and ours[{seen[key]}] are the same row: {', '.join(filter(None, key))}")
            seen[key] = i
        for name in self.parts:
            if name not in self.setting:
                raise ValueError(f"parts.{name}: {nearest(name, self.setting)} (keys of setting)")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the order of the schema; what is at its default is left out."""
        out = self.model_dump(by_alias=True, exclude_unset=True)
        return {key: out[key] for key in (f.alias or n for n, f in type(self).model_fields.items()) if key in out}


def check(data: Any, source: str = "result.json") -> PaperResult:
    """Plain data as a `PaperResult`; ``source`` is what errors call it.

    Raises:
        SparselandError: it does not follow the schema; the JSON path of the first fault is named.
    """
    if not isinstance(data, Mapping):
        raise SparselandError(f"{source} holds {type(data).__name__}, not an object")
    try:
        return PaperResult.model_validate(dict(data))
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
        raise SparselandError(f"{source}: {_in_words(faults[0])}") from None


def read(path: str | os.PathLike[str]) -> PaperResult:
    """The result at ``path``: a file, or a paper folder that holds a ``result.json``.

    Raises:
        DataNotFound: there is none. SparselandError: it cannot be read, or does not follow the schema.
    """
    place = Path(path)
    place = place / "result.json" if place.is_dir() else place
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataNotFound(f"no {place.name} in {place.parent}: nothing is measured there yet") from None
    except (OSError, ValueError) as error:
        raise SparselandError(f"{place} cannot be read: {error}") from error
    return check(data, str(place))


def reference() -> str:
    """The schema as a page of Markdown: one table for each record."""
    lines = [
        "# A paper folder's result.json",
        "",
        "Made by `python tools/readme.py` from `sparseland.papers`; do not edit.",
        "",
        "Every folder `papers/NN-slug/` that has been measured holds one `result.json`. `sparseland papers`, the "
        "README and the folder's own page are made from it, and the tests check all of them. In Python:",
        "",
        "```python",
        "from sparseland import papers",
        "",
        'result = papers.read("papers/11-granet")  # errors name the JSON path, e.g. $.ours[3].mean',
        "result.verdict, result.why, result.missing",
        "```",
        "",
        "Verdicts: `reproduces` (all that the proof asks for came out), `in part` (some of it), `does not`. The rule "
        "that gives the verdict is code (`judge` in the folder's `jobs.py`).",
    ]
    for model, title in ((PaperResult, "The file"), (Claim, "claim"), (Row, "A row of ours"), (Part, "A part")):
        lines += ["", f"## {title}", "", (model.__doc__ or "").splitlines()[0], ""]
        lines += ["| key | type | needed | what |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            needed = "yes" if field.is_required() else "no"
            kind = _type(field.annotation)
            lines.append(f"| `{field.alias or name}` | {kind} | {needed} | {field.description} |")
    return "\n".join(lines) + "\n"


def _type(hint: Any) -> str:
    """An annotation in the words of JSON."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object of {_type(inner[1])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return {"Claim": "[claim](#claim)", "Row": "[row](#a-row-of-ours)", "Part": "[part](#a-part)"}[hint.__name__]
    return {str: "text", int: "integer", float: "number", type(None): "null"}.get(hint, str(hint))


def _path(keys: tuple[int | str, ...]) -> str:
    """``$.ours[3].mean`` of ("ours", 3, "mean"); branches of a union, which pydantic adds, are left out."""
    out = "$"
    for key in keys:
        if isinstance(key, int):
            out += f"[{key}]"
        elif not re.fullmatch(r"(str|int|float|none|constrained-\w+|function-.*)", key):
            out += f".{key}"
    return out


def _in_words(fault: Mapping[str, Any]) -> str:
    path, given = _path(fault["loc"]), fault["input"]
    if fault["type"] == "missing":
        return f"{path} is missing"
    if fault["type"] == "extra_forbidden":
        known = {"claim": Claim.model_fields, "parts": Part.model_fields} if len(fault["loc"]) > 1 else {}
        fields = known.get(str(fault["loc"][0]), PaperResult.model_fields)
        return f"{path} is unknown; {nearest(fault['loc'][-1], [f.alias or name for name, f in fields.items()])}"
    if fault["type"] == "literal_error":
        possible = VERDICTS if fault["loc"][-1] == "verdict" else (str(SCHEMA),)
        return f"{path} is {given!r}; {nearest(given, possible)}"
    if fault["type"] in ("value_error", "assertion_error"):
        said = str(fault["ctx"]["error"])
        return f"{path}.{said}" if re.match(r"(ours\[|parts\.)", said) and path == "$" else f"{path}: {said}"
    shown = given if isinstance(given, (str, int, float, bool, type(None))) else type(given).__name__
    return f"{path} is {shown!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
