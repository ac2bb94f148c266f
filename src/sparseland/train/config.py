"""What one training run is: a frozen record of plain values, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparseland.core.errors import RecipeError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "adafactor")
LR_SCHEDULES = ("cosine", "step", "constant")
PRECISIONS = ("no", "bf16", "fp16")
AUGMENTATIONS = ("crop+flip", "crop", "flip")

# Fields that do not change what is computed: a run may be resumed with others.
FREE = ("threads", "folder", "trackers", "checkpoint_every")


@dataclass(frozen=True)
class TrainConfig:
    """One run: a model, its data, a method and how to optimise. Every field is plain data (JSON, YAML).

    Parameters:
        model: a name of `zoo.build`; ``model_options`` are its keywords.
        data: a name of `data.load`; ``data_options`` are further keywords of it (``size``).
        method: ``{"name": "granet", "sparsity": 0.9, …}`` (a registered name and its hyperparameters), or the words
            that `Method.to_dict` writes; a Method is turned into them.
        optimizer: sgd, adam, adamw, rmsprop, adagrad or adafactor.
        lr: peak learning rate, > 0.
        momentum: of sgd and rmsprop, in [0, 1); nesterov: of sgd, where momentum > 0.
        weight_decay: ≥ 0; on weights only, unless ``decay_all`` (then on biases and norms too).
        lr_schedule: cosine (to 0), step (times ``gamma`` at ``milestones``) or constant.
        milestones: fractions of the run, rising, in (0, 1).
        warmup: linear warm-up: steps (int) or a fraction of the run (float in [0, 1]).
        epochs: passes over train, ≥ 1.
        batch_size: images per batch and process, ≥ 1; ``accumulate`` batches make one optimizer step.
        label_smoothing: in [0, 1).
        clip: largest norm of the gradient (of living weights), > 0; None: no clipping.
        ema: decay of a moving average of the weights, in (0, 1), which is then evaluated; None: none.
        precision: no (float32), bf16 or fp16 (autocast; fp16 scales the loss).
        compile: run the model through torch.compile.
        augment: crop+flip, crop, flip or None.
        targets, ignore: which parameters become sparse, as in `Method.attach` (names or glob patterns).
        seed: of initialisation, order, augmentation, validation cut and method.
        threads: torch's CPU threads during the run; None: as they are.
        limit: at most so many train images; validation: share of train set apart, in [0, 1), None: the dataset's own.
        folder: the data folder; None: the environment variable SPARSELAND_DATA.
        evaluate_every: epochs between evaluations (the last step is always evaluated).
        checkpoint_every: epochs (int) or steps (``"200 steps"``) between checkpoints.
        trackers: names of Accelerate's trackers, for example ``("tensorboard",)``.

    Raises:
        RecipeError: an unknown field, a value of the wrong type or out of its range.

    >>> config = TrainConfig(model="mlp-32", method={"name": "rigl", "sparsity": 0.9}, epochs=2)
    >>> TrainConfig.from_dict(config.to_dict()) == config
    True
    >>> try:
    ...     TrainConfig(optimizer="sgdd")
    ... except RecipeError as error:
    ...     print(str(error).partition(" Possible")[0])
    optimizer is 'sgdd': did you mean 'sgd'?
    """

    model: str = "lenet-300-100"
    data: str = "digits"
    method: dict[str, Any] = field(default_factory=lambda: {"name": "dense"})
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False
    lr_schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: int | float = 0
    epochs: int = 30
    batch_size: int = 64
    label_smoothing: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: str = "no"
    compile: bool = False
    augment: str | None = None
    targets: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    seed: int = 0
    threads: int | None = None
    limit: int | None = None
    validation: float | None = 0.1
    folder: str | None = None
    evaluate_every: int = 1
    checkpoint_every: int | str = 1
    trackers: tuple[str, ...] = ()
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name), hints[f.name]))
        for name, options in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in options:
                raise RecipeError(f"{name} is {value!r}: {nearest(value, options)}")
        for name, (possible, fits) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise RecipeError(f"{name} is {value!r}; possible: {possible}")
        if not isinstance(self.method.get("name", self.method.get("kind")), str):
            raise RecipeError(
                f"method is {self.method!r}; possible: {{'name': 'granet', 'sparsity': 0.9, …}}, or the words of "
                f"Method.to_dict()"
            )
        checkpoint_steps(self.checkpoint_every)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (lists for tuples) that `from_dict` turns back into an equal configuration."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Rebuild a configuration; fields left out take their default, unknown ones are refused (RecipeError).

        >>> TrainConfig.from_dict({"lr": 1}).lr
        1.0
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"a training run is described by a mapping of fields; got {data!r}")
        known = [f.name for f in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise RecipeError(f"unknown field {name!r} of a training run; {nearest(name, known)}")
        return cls(**dict(data))

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some fields changed; unknown names are refused."""
        return self.from_dict({**self.to_dict(), **changes})


def checkpoint_steps(every: int | str) -> int | None:
    """The interval in steps of ``"200 steps"``; None for an int, which counts epochs.

    >>> checkpoint_steps("200 steps"), checkpoint_steps(2)
    (200, None)
    """
    if isinstance(every, int):
        if every >= 1:
            return None
    else:
        number, _, unit = every.partition(" ")
        if number.isdigit() and int(number) >= 1 and unit in ("step", "steps"):
            return int(number)
    raise RecipeError(f"checkpoint_every is {every!r}; possible: epochs (an int ≥ 1) or steps, as in '200 steps'")


def first_change(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Where two configurations first differ, in words; empty if the same thing is computed (`FREE` fields aside).

    >>> one = TrainConfig()
    >>> first_change(one.to_dict(), one.replace(lr=0.2, threads=1).to_dict())
    'lr was 0.1, now it is 0.2'
    """
    for name in [*saved, *(key for key in given if key not in saved)]:
        before, now = saved.get(name), given.get(name)
        if name in FREE or before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            key = next(k for k in [*before, *now] if before.get(k) != now.get(k) or (k in before) != (k in now))
            name, before, now = f"{name}.{key}", before.get(key), now.get(key)
        return f"{name} was {before!r}, now it is {now!r}"
    return ""


def _number(low: float, high: float = math.inf, *, closed: str = "") -> Callable[[float], bool]:
    """Whether a number lies between two bounds; ``closed`` may hold "[" and "]"."""
    return lambda v: (low < v or ("[" in closed and v == low)) and (v < high or ("]" in closed and v == high))


def _rising(values: tuple[float, ...]) -> bool:
    return list(values) == sorted(set(values)) and all(0 < v < 1 for v in values)


def _warmup(value: float) -> bool:
    return value >= 0 and (isinstance(value, int) or value <= 1)


_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "precision": PRECISIONS,
    "augment": AUGMENTATIONS,
}
_AT_LEAST_ONE = ("an integer ≥ 1", _number(1, closed="["))
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("a number > 0", _number(0)),
    "momentum": ("a number in [0, 1)", _number(0, 1, closed="[")),
    "weight_decay": ("a number ≥ 0", _number(0, closed="[")),
    "milestones": ("rising fractions of the run in (0, 1)", _rising),
    "gamma": ("a number in (0, 1]", _number(0, 1, closed="]")),
    "warmup": ("steps (an integer ≥ 0) or a fraction of the run in [0.0, 1.0]", _warmup),
    "epochs": _AT_LEAST_ONE,
    "batch_size": _AT_LEAST_ONE,
    "label_smoothing": ("a number in [0, 1)", _number(0, 1, closed="[")),
    "clip": ("a number > 0, or none", _number(0)),
    "accumulate": _AT_LEAST_ONE,
    "ema": ("a number in (0, 1), or none", _number(0, 1)),
    "threads": ("an integer ≥ 1, or none", _number(1, closed="[")),
    "limit": ("an integer ≥ 1, or none", _number(1, closed="[")),
    "validation": ("a share in [0, 1), or none", _number(0, 1, closed="[")),
    "evaluate_every": _AT_LEAST_ONE,
}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotation wants it (floats from ints, tuples from lists), or a RecipeError."""
    union = isinstance(hint, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    for option in sorted(options, key=lambda o: o is float):  # an int that may stay one, stays one
        matched, result = _match(name, value, option)
        if matched:
            return result
    words = " or ".join("none" if o is type(None) else _WORDS.get(typing.get_origin(o) or o, str(o)) for o in options)
    raise RecipeError(f"{name} is {value!r}, which is no {words}")


_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", tuple: "list", dict: "mapping"}


def _match(name: str, value: Any, option: Any) -> tuple[bool, Any]:
    if option is type(None):
        return value is None, None
    if option is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return number, float(value) if number else value
    if option in (int, str, bool):
        return type(value) is option, value
    origin = typing.get_origin(option)
    if origin is tuple:
        inner = typing.get_args(option)[0]
        if isinstance(value, str) and inner is str:
            value = (value,)
        fits = isinstance(value, (list, tuple))
        return fits, tuple(_typed(name, item, inner) for item in value) if fits else value
    if hasattr(value, "to_dict"):  # a Method given as it is
        value = value.to_dict()
    return isinstance(value, Mapping), _plain(value) if isinstance(value, Mapping) else value
