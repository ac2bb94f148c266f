"""Advice follows the tables it is given, and says where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparseland.advisor import GUARDS, Advice, Goal, advise
from sparseland.advisor.latency import crossover, measure
from sparseland.advisor.tables import Table, packaged
from sparseland.core.errors import SparselandError
from sparseland.core.pattern import pattern
from sparseland.weights import methods

ROOT = Path(__file__).resolve().parents[2]


def row(method: str, accuracy: float, cost: float, **changes: Any) -> dict[str, Any]:
    base = {"data": "fashion-mnist", "setting": "", "method": method, "options": {}, "arm": method, "sparsity": 0.9,
            "accuracy": accuracy, "std": 0.005, "seeds": 3, "dense": 0.9, "training_flops": cost}  # fmt: skip
    return {**base, **changes}


def timed(sparsity: float, stable: bool = True, **speedup: float) -> dict[str, Any]:
    return {"shape": [512, 512], "batch": 1, "sparsity": sparsity, "speedup": {"masked": 1.0, **speedup},
            "stable": stable}  # fmt: skip


def accuracy(*rows: dict[str, Any], verdict: str = "reproduces") -> Table:
    return Table("papers/99", "papers/99/result.json", "accuracy", rows, {}, verdict)


def latency(*rows: dict[str, Any], device: str = "cpu") -> Table:
    return Table("papers/98", "papers/98/result.json", "latency", rows, {"device": device})


def texts(advice: Advice) -> str:
    return "\n".join(reason.text for reason in advice.reasons)


TABLE = accuracy(row("gmp", 0.88, 0.3), row("rigl", 0.87, 0.11), row("random", 0.8, 0.1), row("synflow", 0.82, 0.1))


@pytest.mark.parametrize(("wishes", "method"), [
    ({"goal": "accuracy"}, "gmp"),
    ({"goal": "accuracy", "budget": 0.2}, "rigl"),
    ({"goal": "training"}, "synflow"),  # as cheap as random, and better
    ({"goal": "accuracy", "data": "none"}, "synflow"),
    ({"goal": "accuracy", "loss": 2.5}, "gmp"),
    ({"goal": "accuracy", "loss": 0.5}, None),
    ({"goal": "accuracy", "budget": 0.01}, None),
    ({"goal": "accuracy", "start": "frozen"}, None),
    ({"goal": "accuracy", "start": "trained"}, "gmp"),
])  # fmt: skip
def test_the_method_follows_the_numbers(wishes: dict[str, Any], method: str | None) -> None:
    advice = advise(wishes, tables=[TABLE])
    assert advice.method == method
    if method is None:
        assert advice.reasons[0].table is None and advice.reasons[0].text.startswith("not measured here")
    else:
        assert advice.reasons[0].link == "papers/99/result.json"


def test_other_numbers_give_another_answer() -> None:
    better = accuracy(row("gmp", 0.80, 0.3), row("rigl", 0.89, 0.11))
    assert advise("accuracy", tables=[better]).method == "rigl"


def test_within_the_spread_the_cheaper_one() -> None:
    close = accuracy(row("gmp", 0.880, 0.3), row("rigl", 0.877, 0.11))
    assert advise("accuracy", tables=[close]).method == "rigl"


def test_a_loss_decides_the_sparsity() -> None:
    table = accuracy(row("gmp", 0.88, 0.3), row("gmp", 0.86, 0.25, sparsity=0.95), row("rigl", 0.8, 0.1, sparsity=0.95))
    advice = advise("memory", loss=4.5, tables=[table])
    assert (advice.method, advice.sparsity) == ("gmp", 0.95)
    assert advise("memory", loss=2.5, tables=[table]).sparsity == 0.9


def test_data_and_sparsity_that_were_not_measured_are_said() -> None:
    advice = advise("accuracy", data="cifar10-jpeg", sparsity=0.99, tables=[TABLE])
    unlinked = [reason.text for reason in advice.reasons if reason.table is None]
    assert any("99 % zeros; 90 % is the nearest" in text for text in unlinked)
    assert any("'cifar10-jpeg'; fashion-mnist stands in" in text for text in unlinked)


def test_digits_come_last_and_are_called_easy() -> None:
    digits = row("granet", 0.99, 0.1, data="digits")
    assert advise("accuracy", tables=[accuracy(digits, *TABLE.rows)]).method == "gmp"
    assert "easy data" in texts(advise("accuracy", tables=[accuracy(digits)]))


def test_a_doubtful_table_is_called_so() -> None:
    doubtful = accuracy(*TABLE.rows, verdict="in part")
    assert "verdict on its paper is 'in part'" in texts(advise("accuracy", tables=[doubtful]))


def test_ratios_measured_on_data_need_data() -> None:
    table = accuracy(row("random", 0.85, 0.1, options={"ratios": "snip"}), row("random", 0.8, 0.1))
    assert advise("accuracy", data="none", tables=[table]).options == {}


@pytest.mark.parametrize(("rows", "pattern", "word"), [
    ([timed(0.9, csr=0.7, compacted=0.9)], "unstructured", "save memory, not time"),
    ([timed(0.9, csr=1.5)], "unstructured", "csr 1.5x"),
    ([timed(0.9, csr=0.7, compacted=9.0)], "row", "does not cut them out"),
    ([timed(0.9, csr=0.7, compacted=9.0, stable=False)], "unstructured", "unstable"),
    ([timed(0.5, csr=9.0), timed(0.9, csr=0.5)], "unstructured", "save memory, not time"),
    ([], "unstructured", "not measured here: speed on a CPU"),
])  # fmt: skip
def test_speed_is_what_was_timed(rows: list[dict[str, Any]], pattern: str, word: str) -> None:
    for tables, measured in (([TABLE, latency(*rows)], ()), ([TABLE], rows)):
        advice = advise("speed", shape=(512, 512), tables=tables, measured=measured)
        assert advice.pattern == pattern
        assert word in texts(advice)


def test_this_device_goes_before_the_tables() -> None:
    table = latency(timed(0.9, compacted=9.0))
    here = [timed(0.9, csr=0.5, compacted=0.8)]
    assert advise("speed", tables=[TABLE, table]).pattern == "row"
    assert advise("speed", tables=[TABLE, table], measured=here).pattern == "unstructured"


def test_a_cpu_says_nothing_about_a_gpu() -> None:
    advice = advise("speed", hardware="gpu", tables=[TABLE, latency(timed(0.9, csr=9.0))])
    assert "not measured here: speed on a GPU" in texts(advice)
    here = [{**timed(0.9, csr=9.0), "device": "cpu"}]
    assert "not measured here: speed on a GPU" in texts(advise("speed", hardware="gpu", tables=[TABLE], measured=here))
    here = [{**timed(0.9, csr=2.0), "device": "A GPU"}]
    said = texts(advise("speed", hardware="gpu", tables=[TABLE], measured=here))
    assert "csr 2x" in said and "not measured here: the 2:4 kernels" in said
    on_gpu = latency(timed(0.5, **{"2:4": 1.4}), device="A GPU")
    assert advise("speed", hardware="gpu", sparsity=0.5, tables=[TABLE, on_gpu]).pattern == "2:4"


def test_zeros_save_memory_without_a_promise_of_speed() -> None:
    advice = advise("memory", tables=[TABLE, latency(timed(0.9, csr=0.7))])
    assert advice.pattern == "unstructured" and "memory only" in texts(advice)
    assert "not measured here: bytes" in texts(advice)
    sizes = tuple(
        {"sparsity": 0.9, "pattern": p, "share": share} for p, share in (("unstructured", 0.131), ("2:4", 0.5))
    )
    files = Table("benchmarks/97", "benchmarks/97/result.json", "bytes", sizes)
    assert "packed file at 90 % zeros: 0.131 of the dense one" in texts(advise("memory", tables=[TABLE, files]))


@pytest.mark.parametrize(("wishes", "word"), [
    ({}, "'goal' is missing; possible: accuracy, speed"),
    ({"goal": "sped"}, "did you mean 'speed'"),
    ({"goal": "speed", "hardwear": "cpu"}, "did you mean 'hardware'"),
    ({"goal": "speed", "hardware": "tpu"}, "Possible: cpu, gpu"),
    ({"goal": "speed", "sparsity": 1.0}, "possible: a number in"),
    ({"goal": "speed", "sparsity": "much"}, "sparsity is 'much'"),
    ({"goal": "speed", "budget": 0}, "budget is 0"),
    ({"goal": "speed", "loss": -1}, "loss is -1"),
    ({"goal": "speed", "shape": [3]}, "two integers"),
    ({"goal": "speed", "batch": 0}, "batch is 0"),
    ({"goal": "speed", "data": 3}, "a name, or 'none'"),
])  # fmt: skip
def test_impossible_wishes(wishes: dict[str, Any], word: str) -> None:
    with pytest.raises(SparselandError, match=word):
        advise(wishes)


def test_every_answer_from_our_tables_can_be_built_and_followed() -> None:
    seen = set()
    for goal in ("accuracy", "speed", "memory", "training"):
        for start in ("scratch", "trained", "frozen"):
            for sparsity in (0.5, 0.9, 0.98):
                for data in (None, "none", "digits", "fashion-mnist"):
                    advice = advise(Goal(goal, start=start, sparsity=sparsity, data=data))
                    pattern(advice.pattern)
                    assert 0 < advice.sparsity < 1
                    for reason in advice.reasons:
                        assert (reason.link is None) == reason.text.startswith("not measured here"), reason
                        assert reason.link is None or (ROOT / reason.link).is_file()
                    if advice.method is not None:
                        seen.add(advice.method)
                        options = {k: v for k, v in advice.options.items() if k not in ("rounds", "rewind")}
                        methods.build(advice.method, sparsity=advice.sparsity, pattern="unstructured", **options)
    assert len(seen) >= 3


def test_our_tables_name_what_exists() -> None:
    kinds = {table.kind for table in packaged()}
    assert {"accuracy", "overhead"} <= kinds
    for table in packaged():
        assert (ROOT / table.link).is_file()
        for found in table.rows:
            if table.kind == "accuracy":
                assert found["method"] in methods.registry and 0 < found["sparsity"] < 1 and 0 <= found["accuracy"] <= 1


def test_the_guards_explain_themselves() -> None:
    for name, guard in GUARDS.items():
        assert guard.name == name and guard.about.startswith("Protects from") and guard.level in ("refuse", "flag")


class Watch:
    """A clock that a test sets: each form takes its own time, whatever the machine does."""

    def __init__(self, *steps: float) -> None:
        self.now, self.steps, self.calls = 0.0, steps, 0

    def __call__(self) -> float:
        self.calls += 1
        if self.calls % 2 == 0:  # the end of a call
            self.now += self.steps[(self.calls // 2) % len(self.steps)]
        return self.now


def test_an_even_clock_is_stable_and_an_odd_one_is_not() -> None:
    even = measure((8, 8), 1, (0.5,), rounds=8, clock=Watch(1.0))[0]
    assert even["stable"] and set(even["speedup"]) == {"masked", "csr", "compacted"}
    assert all(value == pytest.approx(1.0) for value in even["speedup"].values())
    odd = measure((8, 8), 1, (0.5,), rounds=9, clock=Watch(1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 9.0))[0]
    assert not odd["stable"]


def test_the_forms_compute_what_they_should() -> None:
    import torch

    from sparseland.advisor.latency import _forms

    forms = {name: call() for name, call in _forms((16, 8), 3, 0.75, torch.device("cpu"), 0).items()}
    assert torch.allclose(forms["masked"], forms["csr"], atol=1e-5)
    assert torch.allclose(forms["dense"][:4], forms["compacted"], atol=1e-5)  # a quarter of the rows
    assert not torch.allclose(forms["dense"], forms["masked"])


def test_a_crossover_needs_every_level_above_it() -> None:
    rows = [timed(0.5, csr=2.0), timed(0.8, csr=0.9), timed(0.9, csr=1.1), timed(0.99, csr=4.0)]
    assert crossover(rows, "csr") == 0.9
    assert crossover([*rows[:3], timed(0.99, csr=4.0, stable=False)], "csr") is None


@pytest.mark.parametrize(("changes", "word"), [
    ({"shape": (0, 4)}, "sizes"), ({"batch": 0}, "batch"), ({"sparsities": (1.0,)}, "in \\(0, 1\\)"),
    ({"rounds": 1}, "rounds"), ({"device": "nope"}, "possible: cpu"),
])  # fmt: skip
def test_what_cannot_be_timed(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(SparselandError, match=word):
        measure(**changes)
