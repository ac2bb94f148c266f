"""What the guards read of a run: the same facts before it is trained and after, None where nobody knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..account.card import UNTRAINED
from ..core.errors import SparselandError

FIXED_RATIOS = ("uniform", "uniform+", "er", "erk", "erk+")  # layer ratios that follow from the shapes alone
PROTECTING = ("uniform+", "erk+")  # allocations that keep a layer dense, and say so
LATENT = ("straight-through", "sr-ste", "fading", "shrinking", "penalised", "bidirectional", "frozen")


def look(data: Any, *path: str) -> Any:
    """The value at a path of keys, or None where one is missing.

    >>> look({"a": {"b": 1}}, "a", "b"), look({"a": 3}, "a", "b")
    (1, None)
    """
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None.

    >>> number(3), number(True), number("3"), number(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return float(value)


@dataclass(frozen=True)
class Facts:
    """One run. Before training ``result`` is empty and the configuration alone speaks.

    Parameters:
        label, seed: as in the comparison's table.
        config: a `TrainConfig` as plain data; {} where it is unknown.
        result: what `train.run` returned; {} before training.
        claims: what is said about the run in words, its label included.
        printed: numbers printed about it elsewhere, {"training_flops": multiple of the dense run's}.
        tuned_on: the split on which its hyperparameters were chosen, where somebody says so.
    """

    label: str
    seed: Any
    config: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    printed: Mapping[str, Any] = field(default_factory=dict)
    tuned_on: str | None = None

    @cached_property
    def words(self) -> Mapping[str, Any]:
        """The method's words as `Method.to_dict` writes them; {} where it cannot be made."""
        known = self.result.get("method")
        if isinstance(known, Mapping) and "kind" in known:
            return known
        method = self.config.get("method")
        if not isinstance(method, Mapping):
            return known if isinstance(known, Mapping) else {}
        from ..train.plans import compose

        try:
            return compose(method).method.to_dict()
        except SparselandError:
            return method

    @cached_property
    def procedure(self) -> Mapping[str, Any] | None:
        """The procedure of several trainings and its options, as {"name": "imp", "rounds": 5}."""
        if self.done:
            found = self.result.get("procedure")
            return found if isinstance(found, Mapping) else None
        method = self.config.get("method")
        if not isinstance(method, Mapping):
            return None
        from ..train.plans import compose

        try:
            plan = compose(method)
        except SparselandError:
            return None
        return None if plan.procedure is None else {"name": plan.procedure.__name__, **plan.options}

    @property
    def done(self) -> bool:
        """Whether it has been trained."""
        return bool(self.result)

    @property
    def name(self) -> str:
        """The method's name; the label where there is none."""
        return str(self.words.get("name", self.label))

    @cached_property
    def sparsity(self) -> float | None:
        """Share of zeros among the weights that may be zero: counted after training, aimed at before."""
        counted = number(self.result.get("sparsity"))
        if counted is not None:
            return counted
        if self.name == "dense":
            return 0.0
        schedule = self.words.get("schedule")
        if isinstance(schedule, Mapping):
            final = number(schedule.get("value"))
            return final if final is not None else _final(schedule)
        return number(look(self.config, "method", "sparsity"))

    @property
    def dense(self) -> bool:
        """Whether it is a dense baseline."""
        return self.name == "dense" or self.sparsity == 0.0

    @property
    def random(self) -> bool:
        """Whether its mask is drawn at random and stays as it is."""
        return not self.dense and self.moving is False and _kind(self.words.get("criterion")) == "random"

    @property
    def moving(self) -> bool | None:
        """Whether the mask changes during training; None where the words are unknown."""
        if "schedule" not in self.words:
            return None
        if self.words.get("exchange") is not None:
            return True
        schedule = self.words["schedule"]
        one_shot = schedule is None or (_kind(schedule) == "one-shot" and not schedule.get("at"))
        return not (one_shot and self.procedure is None)

    @property
    def exchanges(self) -> bool:
        """Whether weights are dropped and regrown (dynamic sparse training)."""
        return self.words.get("exchange") is not None

    @property
    def ratios(self) -> str | None:
        """The allocation's kind where the layer ratios follow from the shapes alone, else None."""
        if self.words.get("initial_allocation") is not None:
            return None
        kind = _kind(self.words.get("allocation"))
        return kind if kind in FIXED_RATIOS else None

    @property
    def when(self) -> str | None:
        """When it becomes sparse: "never", "before", "during" or "after" training."""
        stated = look(self.result, "card", "when")
        if isinstance(stated, str):
            return stated
        if self.dense:
            return "never"
        if "schedule" not in self.words:
            return None
        if self.procedure is not None:
            return "before" if self.procedure.get("name") in UNTRAINED else "after"
        schedule = self.words["schedule"]
        if isinstance(schedule, Mapping) and _kind(schedule) == "one-shot" and schedule.get("at"):
            return "after" if schedule["at"] == 1.0 else "during"
        return "during" if self.moving else "before"

    @property
    def starts_sparse(self) -> bool | None:
        """Whether it is sparse from the first step (sparse to sparse)."""
        if self.dense or "schedule" not in self.words:
            return None if not self.dense else False
        schedule = self.words["schedule"]
        if self.procedure is not None:
            return self.procedure.get("name") in UNTRAINED
        if not isinstance(schedule, Mapping):
            return False
        if _kind(schedule) == "one-shot":
            return not schedule.get("at")
        return bool(number(schedule.get("initial")) or 0.0)

    @property
    def needs_dense(self) -> tuple[str, ...]:
        """What has the dense size while it trains, as the library computes it: masks over dense tensors."""
        stated = look(self.result, "card", "needs_dense")
        if isinstance(stated, Iterable) and not isinstance(stated, str):
            return tuple(str(item) for item in stated if item != "data")
        if not self.words:
            return ()
        needs = ["weights", "optimizer"]  # masked tensors and their optimizer slots are stored whole
        if _kind(self.words.get("growth")) in ("gradient", "momentum") or _kind(self.words.get("flow")) in LATENT:
            needs.append("gradients")
        return tuple(needs)

    @property
    def kernel(self) -> str:
        """What computes its products: "none" (masks over dense kernels), csr, bsr, 2:4 or compacted."""
        stated = str(look(self.result, "card", "kernel") or "none")
        return "none" if stated.startswith("none") else stated

    @cached_property
    def passes(self) -> float | None:
        """Planned passes over the training images, those of every round of a procedure included."""
        epochs = number(self.config.get("epochs")) or number(self.result.get("epochs"))
        if epochs is None or self.procedure is None:
            return epochs
        from ..weights import methods
        from ..weights.trainer import schedules_of

        procedure = getattr(methods, str(self.procedure.get("name")), None)
        if procedure is None:
            return None
        schedules = schedules_of(procedure, self.procedure)
        return None if schedules is None else epochs * schedules

    @property
    def steps(self) -> float | None:
        """Optimizer steps made; None before training."""
        return number(self.result.get("steps"))

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, a fraction."""
        return number(look(self.result, "test", "accuracy"))

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """{layer: (kept, total)}, in the model's order; {} where unknown."""
        found = self.result.get("layers")
        rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
        return {
            str(row.get("name")): (int(row["kept"]), int(row["total"]))
            for row in rows
            if number(row.get("kept")) is not None and number(row.get("total")) is not None
        }

    def flops(self, key: str) -> float | None:
        """An entry of the result's FLOPs, as in ``flops("training")``."""
        return number(look(self.result, "flops", key))


def _kind(word: Any) -> str | None:
    if isinstance(word, Mapping):
        return str(word.get("kind")) if word.get("kind") is not None else None
    return None if word is None else str(word)


def _final(schedule: Mapping[str, Any]) -> float | None:
    from ..core.schedule import Schedule

    try:
        return Schedule.from_dict(dict(schedule)).final()
    except (SparselandError, TypeError):
        return None


def facts(runs: Iterable[Mapping[str, Any]], tuned_on: str | None = None) -> list[Facts]:
    """Facts of runs as `preflight` or `review` take them; whatever is missing is unknown, nothing is refused.

    >>> known = facts([{"label": "rigl", "seed": 0, "config": {"method": {"name": "rigl", "sparsity": 0.8}}}])[0]
    >>> known.sparsity, known.moving, known.starts_sparse, known.when, known.done
    (0.8, True, True, 'during', False)
    """
    out = []
    for run in runs:
        result = run.get("result")
        result = result if isinstance(result, Mapping) else {}
        config = run.get("config") or result.get("config")
        label = str(run.get("label", run.get("arm", look(result, "method", "name") or "run")))
        said = run.get("claims") or ()
        claims = (said,) if isinstance(said, str) else tuple(str(item) for item in said)
        printed = run.get("printed")
        split = run.get("tuned_on") or look(result, "selection", "tuned_on") or tuned_on
        out.append(
            Facts(
                label=label,
                seed=run.get("seed", result.get("seed")),
                config=config if isinstance(config, Mapping) else {},
                result=result,
                claims=(label, *claims),
                printed=printed if isinstance(printed, Mapping) else {},
                tuned_on=None if split is None else str(split),
            )
        )
    return out


def labels(runs: Iterable[Facts]) -> str:
    """The labels once each, in order, for a sentence.

    >>> labels([Facts("a", 0), Facts("b", 0), Facts("a", 1)])
    'a, b'
    """
    return ", ".join(dict.fromkeys(run.label for run in runs))


def by_label(runs: Iterable[Facts]) -> dict[str, list[Facts]]:
    """{label: its runs}, in the order of first appearance.

    >>> {k: len(v) for k, v in by_label([Facts("a", 0), Facts("b", 0), Facts("a", 1)]).items()}
    {'a': 2, 'b': 1}
    """
    out: dict[str, list[Facts]] = {}
    for run in runs:
        out.setdefault(run.label, []).append(run)
    return out
