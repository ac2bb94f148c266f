"""``run.json`` as models: what may stand in it, in which unit, and what it means. The reference page is made from here.

Fields that a model does not know are refused, except below `Result` and what hangs from it: a run's ``result.json``
may say more than a report reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from .schema_result import Machine, Result, about


class Strict(BaseModel):
    """Types as they are written (no "3" for 3), and no field that is not listed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Measured(Strict):
    """One number over the seeds of a method."""

    mean: float = about("The mean of `values`.")
    std: float | None = about("Sample standard deviation (n − 1); null for one seed.")
    values: list[float] = about("One per seed that has the number, in the order of the row's `seeds`.", min_length=1)


class MethodRow(Strict):
    """One method of the comparison: every number over its seeds. Numbers that no seed has are left out."""

    label: str = about("Its name in tables and figures.")
    name: str = about("The name of the method, such as `rigl`; two labels may share it.")
    method: dict[str, Any] = about("Its composition in words: `Method.to_dict`.")
    seeds: list[int] = about("The seeds of its runs.", min_length=1)
    accuracy: Measured | None = about("Test accuracy.", "fraction", default=None)
    validation: Measured | None = about(
        "Validation accuracy of the checkpoint that was tested.", "fraction", default=None
    )
    worst_class: Measured | None = about(
        "Test accuracy of the class that is recognised least.", "fraction", default=None
    )
    ece: Measured | None = about("Expected calibration error on test, 15 bins.", "fraction", default=None)
    nonzeros: Measured | None = about(
        "Non-zeros counted in the weights file, maskable layers.", "weights", default=None
    )
    kept: Measured | None = about("What the masks keep.", "weights", default=None)
    total: Measured | None = about("Entries of the maskable layers.", "weights", default=None)
    sparsity: Measured | None = about("1 − kept / total.", "fraction", default=None)
    training_flops: Measured | None = about("Of the whole run; what is zero is skipped.", "FLOP", default=None)
    training_dense_flops: Measured | None = about("The same run with dense masks.", "FLOP", default=None)
    inference_flops: Measured | None = about("Of one sample.", "FLOP", default=None)
    inference_dense_flops: Measured | None = about("Of one sample through the dense net.", "FLOP", default=None)
    bytes: Measured | None = about("The packed file.", "bytes", default=None)
    dense_bytes: Measured | None = about("The parameters as dense tensors.", "bytes", default=None)
    peak_bytes: Measured | None = about("Highest memory of the process (or of the GPU).", "bytes", default=None)
    dead_units: Measured | None = about("Units without a living weight, at the end.", "units", default=None)
    steps: Measured | None = about("Optimizer steps.", "steps", default=None)
    epochs: Measured | None = about("Passes over the training split.", "epochs", default=None)
    explored: Measured | None = about("Share of maskable weights that were ever alive.", "fraction", default=None)
    seconds: Measured | None = about("Training time.", "s", default=None)


class Budget(Strict):
    """What every run had to spend; the values are those of the first run."""

    epochs: int | None = about("Passes over the training split.", "epochs", default=None)
    batch_size: int | None = about("Images per batch.", "images", default=None)
    accumulate: int | None = about("Batches per optimizer step.", "batches", default=None)
    optimizer: str | None = about("Its name.", default=None)
    lr: float | None = about("Peak learning rate.", default=None)
    lr_schedule: str | None = about("How the learning rate falls.", default=None)
    warmup: float | None = about(
        "Rise of the learning rate at the start; below 1, a share of the run.", "steps", default=None
    )
    weight_decay: float | None = about("L2 coefficient.", default=None)
    augment: str | bool | None = about("Augmentation.", default=None)
    steps: list[int] = about("Every number of optimizer steps that occurs.", "steps")
    equal: bool = about("Whether all of the above, and the steps, are the same for every run.")


class Failure(Strict):
    """A run that did not end."""

    label: str = about("Of its method.")
    seed: int = about("Of the run.")
    error: str = about("What it said.")


class Finding(Strict):
    """What a guard has to say about the comparison."""

    guard: str = about("The guard's name, as `--allow` takes it.")
    level: Literal["refuse", "flag"] = about("`refuse`: not a fair comparison; `flag`: to be kept in mind.")
    says: str = about("What is wrong.")
    fix: str = about("What to do about it.")


class Paired(Strict):
    """Two methods, seed by seed."""

    a: str = about("Label of the one method.")
    b: str = about("Label of the other.")
    metric: str = about("What is compared: `accuracy` on the test split.")
    difference: float | None = about("Mean of a − b over the common seeds.", "fraction")
    low: float | None = about("Lower end of its 95 % t interval; null where there is none.", "fraction")
    high: float | None = about("Upper end.", "fraction")
    p: float | None = about("Two-sided p-value of the paired t-test; null where there is none.", ge=0, le=1)
    p_holm: float | None = about("The same after Holm's correction for all pairs.", ge=0, le=1)
    seeds: list[int] = about("The seeds that both have.")
    verdict: Literal["better", "worse", "indistinguishable", "not comparable"] = about("Of a, against b.")
    why: str = about("What the verdict rests on, or what it lacks; empty where the interval says it all.")


class Verdict(Strict):
    """A pair in a sentence."""

    label: str = about("Label of a.")
    against: str = about("Label of b.")
    verdict: str = about("As in `paired`.")
    says: str = about("The sentence.")


class ParetoPoint(Strict):
    """Where a method stands between accuracy and cost."""

    label: str = about("Of the method.")
    accuracy: float | None = about("Mean test accuracy.", "fraction")
    training_flops: float | None = about("Mean training cost.", "FLOP")
    inference_flops: float | None = about("Mean cost of one sample.", "FLOP")
    bytes: float | None = about("Mean size of the packed file.", "bytes")
    front: list[str] = about("The costs on whose front against accuracy it is: no other is as good and cheaper.")


class Review(Strict):
    """What `sparseland.advisor.review` makes of the runs."""

    findings: list[Finding] = about("Of the guards.")
    paired: list[Paired] = about("Differences with their intervals.")
    verdicts: list[Verdict] = about("The same in sentences.")
    pareto: list[ParetoPoint] = about("One per method.")


class Run(Strict):
    """One finished run."""

    label: str = about("Of its method.")
    seed: int = about("Of everything random in it.")
    folder: str = about("Its folder, from the folder of `run.json`.")
    packed: int | None = about("The packed file.", "bytes", default=None, ge=0)
    nonzeros: int | None = about("Counted in the weights file, maskable layers.", "weights", default=None, ge=0)
    result: Result = about("The content of its `result.json`.")


class Pictures(Strict):
    """Test pictures, and what the nets of one seed say they are."""

    shape: list[int] = about("(channels, height, width).", "pixels")
    images: list[str] = about("One per picture: the bytes of a uint8 array of that shape, base64.")
    labels: list[int] = about("Their true classes.")
    names: list[str] = about("Names of the classes.")
    predictions: dict[str, list[int]] = about("Per method, the class it says for each picture.")
    examined: int = about("Test images among which the hard ones were looked for.", "images")
    seed: int = about("Of the nets.")
    hard: int = about("How many of the pictures, the first ones, are the hard ones.", "images")


class FirstLayer(Strict):
    """Where the first maskable layer has its connections."""

    name: str = about("Of its weight.")
    shape: list[int] = about("(channels, height, width) of what a unit sees.")
    outputs: int = about("Units of the layer.", "units")
    connections: dict[str, list[float]] = about("Per method and input: living weights, mean over seeds.", "weights")
    units: dict[str, list[list[int]]] = about("Per method: the weights of its strongest units, −127 … 127.")


class Exhibits(Strict):
    """What the page shows of the data and the nets, so that it can be made anew without them."""

    pictures: Pictures | None = about("Missing without a test split.", default=None)
    first_layer: FirstLayer | None = about("Missing where the first layer is no picture.", default=None)


class Speed(Strict):
    """One sample through a trained net, on the machine that compared: medians of turns."""

    label: str = about("Of its method.")
    seed: int = about("Of the net.")
    torch_ms: float = about("torch, eager; it computes with the zeros.", "ms", ge=0)
    dense_ms: float = about("The engine, told to ignore the zeros.", "ms", ge=0)
    sparse_ms: float = about("The engine, each layer with its fastest kernel.", "ms", ge=0)
    threads: int = about("Of each.", ge=1)
    isa: str = about("Instruction set of the engine's kernels.")


class Record(Strict):
    """Everything that a comparison, or one run, came to."""

    schema_: int = about("The version of this format.", alias="schema")
    kind: Literal["compare", "train"] = about("Which verb wrote it.")
    created: str = about("When, in UTC: `YYYY-MM-DDThh:mm:ssZ`.", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    command: str = about("The line that was typed.")
    seconds: float = about("From start to end of the last session.", "s", ge=0)
    jobs: int = about("Runs at a time.", ge=1)
    machine: Machine | None = about("Of the first run.")
    versions: dict[str, str] | None = about("Of the first run: Python and the packages that matter.")
    recipe: dict[str, Any] = about("`Recipe.to_dict`; its keys are those of a recipe.")
    budget: Budget = about("What every run had to spend.")
    allowed: list[str] = about("Guards that refused and were waved through with `--allow`.")
    review: Review = about("Findings, differences and fronts.")
    warnings: list[str] = about("The texts of the findings of level `flag`.")
    failed: list[Failure] = about("Runs that did not end.")
    aggregate: list[MethodRow] = about("One row per method, from `runs`.", min_length=1)
    runs: list[Run] = about("Every finished run.", min_length=1)
    exhibits: Exhibits = about("Pictures.")
    speed: list[Speed] | None = about("Milliseconds, with `--speed`: one row per method.", default=None)

    @model_validator(mode="after")
    def _agree(self) -> Record:
        """What is written twice must be the same: files are edited by hand."""
        labels = list(dict.fromkeys(run.label for run in self.runs))
        if [row.label for row in self.aggregate] != labels:
            raise ValueError(f"aggregate has {[row.label for row in self.aggregate]}; the runs have {labels}")
        for i, row in enumerate(self.aggregate):
            seeds = [run.seed for run in self.runs if run.label == row.label]
            if row.seeds != seeds:
                raise ValueError(f"aggregate[{i}].seeds is {row.seeds}; the runs of {row.label!r} have {seeds}")
        return self


MODELS: tuple[type[BaseModel], ...] = (
    Record, Budget, Failure, Review, Finding, Paired, Verdict, ParetoPoint, MethodRow, Measured, Run, Exhibits,
    Pictures, FirstLayer, Speed,
)  # fmt: skip


def complaints(data: Mapping[str, Any]) -> list[str]:
    """What keeps plain JSON data from being a record of this schema: one line each, with its JSON path; [] if nothing.

    >>> complaints({"schema": 2, "kind": "walk"})[:1]
    ["kind: Input should be 'compare' or 'train'; it is 'walk'"]
    """
    from pydantic import ValidationError

    try:
        Record.model_validate(data)
    except ValidationError as error:
        return [_in_words(one) for one in error.errors(include_url=False)]
    return []


def _in_words(one: Mapping[str, Any]) -> str:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in one["loc"]).lstrip(".")
    if one["type"] == "missing":
        return f"{path}: missing"
    if one["type"] == "extra_forbidden":
        return f"{path}: a field that this schema does not have"
    if one["type"] == "value_error":
        said = str(one["msg"]).removeprefix("Value error, ")
        return f"{path}: {said}" if path else said
    shown = repr(one["input"])
    return f"{path}: {one['msg']}; it is {shown if len(shown) <= 60 else shown[:57] + '...'}"
