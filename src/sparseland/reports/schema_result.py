"""The part of ``run.json`` that every run brings: its ``result.json``, as models. Unknown fields are tolerated here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


def about(meaning: str, unit: str = "", **more: Any) -> Any:
    """A pydantic field with its meaning and its unit; required unless ``default`` is given.

    >>> about("How long.", "s").json_schema_extra
    {'unit': 's'}
    """
    return Field(description=meaning, json_schema_extra={"unit": unit}, **more)


class Open(BaseModel):
    """Types as they are written; fields that are not listed are tolerated and left alone."""

    model_config = ConfigDict(extra="allow", strict=True)


class Data(Open):
    """The data set."""

    name: str = about("As in a recipe.")
    images: dict[str, Count] = about("Per split.", "images")
    classes: Count = about("How many.")
    note: str = about("What to know about its splits.", default="")


class Split(Open):
    """What the checkpoint does on a split."""

    accuracy: Fraction | None = about("Share of right answers; null where the split is empty.", "fraction")
    loss: float | None = about("Mean cross-entropy.", "nats", default=None)
    per_class: list[Fraction | None] | None = about("Accuracy of each class; null: no image.", "fraction", default=None)


class Test(Split):
    """The test split, which was looked at once."""

    confusion: list[list[Count]] | None = about(
        "Images; rows: what it is, columns: what the net says.", "images", default=None
    )
    ece: Fraction | None = about(
        "Expected calibration error: Σ |right − confidence| / images over the bins.", "fraction", default=None
    )
    images: Count | None = about("Of the split.", "images", default=None)
    checkpoint: str | None = about("Which one was tested: `best` on validation, or `last`.", default=None)
    bins: list[list[float]] | None = about(
        "15 equal bins of the top label's probability: [images, right ones, sum of probabilities] each.", "images",
        default=None, min_length=1,
    )  # fmt: skip

    @model_validator(mode="after")
    def _square(self) -> Test:
        for i, row in enumerate(self.confusion or ()):
            if len(row) != len(self.confusion or ()):
                raise ValueError(f"confusion[{i}] has {len(row)} columns; there are {len(self.confusion or ())} rows")
        for i, one in enumerate(self.bins or ()):
            if len(one) != 3 or one[1] > one[0] or min(one) < 0:
                raise ValueError(f"bins[{i}] is {one}, not [images, right ones of them, sum of probabilities]")
        return self


class Layer(Open):
    """One maskable tensor."""

    name: str = about("Of the parameter.")
    shape: list[Count] = about("Its shape.")
    kept: Count = about("What the mask keeps.", "weights")
    total: Count = about("Entries.", "weights")
    operator: str | None = about("Kind of operator that uses it.", default=None)
    flops: float | None = about("One sample through it, what is zero skipped.", "FLOP", default=None)
    flops_dense: float | None = about("One sample through it with dense weights.", "FLOP", default=None)
    pattern: str | None = about("The tightest pattern of its zeros.", default=None)
    dead_units: Count | None = about("Its units without a living weight.", "units", default=None)

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Layer:
        if self.kept > self.total:
            raise ValueError(f"{self.name!r} keeps {self.kept} of {self.total} weights")
        return self


class Evaluation(Open):
    """One entry of the learning curve."""

    step: Count = about("Optimizer step.", "steps")
    epoch: float | None = about("Epoch.", "epochs", default=None)
    loss: float | None = about("Mean training loss since the last entry.", "nats", default=None)
    accuracy: Fraction | None = about("Training accuracy since the last entry.", "fraction", default=None)
    validation_accuracy: Fraction | None = about("On validation.", "fraction", default=None)
    validation_loss: float | None = about("On validation.", "nats", default=None)
    sparsity: Fraction | None = about("Of the masks.", "fraction", default=None)
    lr: float | None = about("Learning rate.", default=None)


class Move(Open):
    """One update of the masks."""

    step: Count = about("After which optimizer step.", "steps")
    kept: Count = about("Living weights.", "weights")
    total: Count = about("Maskable weights.", "weights")
    explored: Fraction | None = about("Share of weights that were ever alive.", "fraction", default=None)
    churn: Fraction | None = about(
        "Share of weights that died or came back; null at the start.", "fraction", default=None
    )
    dead_units: Count | None = about("Units without a living weight.", "units", default=None)


class Operator(Open):
    """Cost of one kind of operator, one sample."""

    dense: float = about("With dense weights.", "FLOP")
    sparse: float = about("With what is zero skipped.", "FLOP")


class Flops(Open):
    """What it costs. A multiply-add is two."""

    inference_dense: float = about("One sample through the dense net.", "FLOP")
    inference: float = about("One sample, what is zero skipped.", "FLOP")
    training_dense: float = about("The whole run with dense masks.", "FLOP")
    training: float = about("The whole run, every phase of it, what is zero skipped.", "FLOP")
    by_operator: dict[str, Operator] | None = about("One sample, per kind of operator.", default=None)
    by_pattern: dict[str, dict[str, Operator]] | None = about(
        "One sample, per kind of operator and pattern of its zeros.", default=None
    )
    phases: dict[str, float] | None = about("What each phase of the training cost.", "FLOP", default=None)
    rounds: list[Any] | None = about("Where a procedure trains several times: the cost of each.", "FLOP", default=None)
    uncounted: list[str] | None = about("Operators that were not counted.", default=None)
    notes: list[str] | None = about("What to know about the count.", default=None)


class Sizes(Open):
    """Bytes of the parameters."""

    dense: Count = about("As they are.", "bytes")
    packed: Count = about("By formula: a bit per weight and the living values, where that is less.", "bytes")


class Memory(Open):
    """Memory of training."""

    peak_bytes: Count | None = about(
        "Highest resident memory of the process, or of the GPU; measured.", "bytes", default=None
    )
    as_implemented: Count | None = about(
        "Weights, gradients, optimizer state and masks as they are; by formula.", "bytes", default=None
    )
    if_sparse: Count | None = about("The same if zeros took no room; by formula.", "bytes", default=None)
    activations: Count | None = about("Of one batch, part of both formulas.", "bytes", default=None)


class Checkpoint(Open):
    """A checkpoint in short."""

    step: Count = about("Optimizer step.", "steps")
    epoch: float | None = about("Epoch.", "epochs", default=None)
    accuracy: Fraction | None = about("On validation.", "fraction", default=None)
    loss: float | None = about("On validation.", "nats", default=None)
    sparsity: Fraction | None = about("Of its masks.", "fraction", default=None)


class Checkpoints(Open):
    """What could be chosen from."""

    chosen: str = about("The name of the one that was tested: `best` or `last`.")
    best: Checkpoint | None = about("Highest validation accuracy at the final sparsity.", default=None)
    last: Checkpoint | None = about("The end of training.", default=None)


class Selection(Open):
    """How the checkpoint and the hyperparameters were chosen."""

    split: str | None = about("`validation`, or `last`: not chosen at all.", default=None)
    tuned_on: str | None = about(
        "The split on which hyperparameters were tuned; null: not tuned, or not said.", default=None
    )


class Machine(Open):
    """Where it ran: no name, no path."""

    system: str | None = about("Operating system and architecture.", default=None)
    cpu: str | None = about("Model of the processor.", default=None)
    cores: int | None = about("Logical cores.", default=None)
    threads: int | None = about("Threads of each run.", default=None)
    device: str | None = about("`cpu`, or the name of the GPU.", default=None)
    processes: int | None = about("Ranks of each run.", default=None)


class Result(Open):
    """A run's `result.json`. It may have more fields than these."""

    schema_: int | None = about(
        "The version of `result.json`, which is counted on its own.", alias="schema", default=None
    )
    config: dict[str, Any] = about("`TrainConfig.to_dict`.")
    method: dict[str, Any] = about("The composition: `Method.to_dict`.")
    procedure: dict[str, Any] | None = about(
        "Name and options of the procedure, for methods that have one.", default=None
    )
    steps: Count = about("Optimizer steps.", "steps")
    epochs: Count = about("Passes over the training split.", "epochs")
    seed: int = about("Of everything random.")
    data: Data | None = about("The data set.", default=None)
    validation: Split | None = about("The chosen checkpoint on validation.", default=None)
    test: Test | None = about("The chosen checkpoint on test; null without a test split.")
    checkpoints: Checkpoints | None = about("What could be chosen from.", default=None)
    kept: Count = about("What the masks keep.", "weights")
    total: Count = about("Maskable weights.", "weights")
    sparsity: Fraction = about("1 − kept / total.", "fraction")
    parameters: Count | None = about("Of the whole model.", "weights", default=None)
    layers: list[Layer] = about("Every maskable tensor.")
    history: list[Evaluation] = about("The learning curve.", default=[])
    masks: list[Move] = about("Every update of the masks.", default=[])
    explored: Fraction | None = about("Share of maskable weights that were ever alive.", "fraction", default=None)
    flops: Flops | None = about("Cost.", default=None)
    bytes: Sizes | None = about("Sizes.", default=None)
    memory: Memory | None = about("Memory of training.", default=None)
    counts: dict[str, Any] | None = about(
        "Non-zeros and entries per scope: all, weights, maskable, …", "weights", default=None
    )
    dead_units: Count | None = about("Units without a living weight, at the end.", "units", default=None)
    card: dict[str, Any] | None = about("The sparsity card.", default=None)
    selection: Selection | None = about("How the checkpoint was chosen.", default=None)
    seconds: float | None = about("Training time.", "s", default=None, ge=0)
    resumed: Count | None = about("How often it was continued.", default=None)
    versions: dict[str, str] | None = about("Python and the packages that matter.", default=None)
    machine: Machine | None = about("Where it ran.", default=None)

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Result:
        if self.kept > self.total:
            raise ValueError(f"keeps {self.kept} of {self.total} weights")
        return self


MODELS: tuple[type[BaseModel], ...] = (
    Result, Data, Split, Test, Checkpoints, Checkpoint, Layer, Evaluation, Move, Flops, Operator, Sizes, Memory,
    Selection, Machine,
)  # fmt: skip
