"""What the ten questions of the handbook train, and how their rows are put together; no number is written here.

A *run* is a TrainConfig without its seed. A *derived* run starts from the trained dense run of the same seed: it is
pruned, and perhaps trained again. Questions share runs: `rows` says which question shows which run under which name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

SYSTEM = "14 Sparseland handbook (arXiv 2302.02596)"
CLAIM = {
    "value": "Ten confusions make results on sparse networks incomparable; each one disappears when the comparison "
    "names its budget, its baseline and its cost.",
    "source": "the paper's abstract, the only part we could read; it names six of the ten topics (here 1 to 6), the "
    "other four and all numbering are ours",
}
DEFAULT = ("L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10")
LIMITS = (
    "ResNet-50 on ImageNet (the card's proof at full scale)",
    "convolutions: on an MLP the shares of weights and of FLOPs are the same number",
    "2:4 and block-sparse latency on a GPU",
    "question 10: the unlearning gap and transfer",
)
SEEDS = (0, 1, 2)
DENSITIES = ("10%", "5%", "2%")
SGD = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "lr_schedule": "cosine",
    "evaluate_every": 1,
    "threads": 1,
    "weight_decay": 5e-4,
    "batch_size": 64,
}
# The same settings as papers/11-granet: where that folder has trained an equal configuration, its run is taken.
FASHION = SGD | {"data": "fashion-mnist", "model": "lenet-300-100", "limit": 10_000, "epochs": 10, "lr": 0.05}
DIGITS = SGD | {"data": "digits", "model": "mlp-128-128", "epochs": 60, "lr": 0.1}
# Widths with as many weights as LeNet-300-100 keeps at each density (26,620, 13,310 and 5,324).
SMALL = {"10%": "mlp-33-17", "5%": "mlp-16-29", "2%": "mlp-6-39"}
LENGTHS = (1, 2, 5)

Row = tuple[str, str, str, str]  # question, setting, arm, run


def sparsity(density: str) -> float:
    """Fraction of zeros of ``"5%"``."""
    return round(1 - float(density.rstrip("%")) / 100, 4)


def methods(density: str, every: int) -> dict[str, dict[str, Any]]:
    """Arms that several questions share; mask updates every ``every`` steps, prunes end at half of the run."""
    s = sparsity(density)
    gradual = {"sparsity": s, "every": every, "end": 0.5}
    moving = {"sparsity": s, "every": every, "end": 0.75}
    return {
        "static ERK": {"name": "random", "sparsity": s, "ratios": "erk"},
        "SET": {"name": "set", **moving},
        "RigL": {"name": "rigl", **moving},
        "GMP": {"name": "gmp", **gradual},
        "GraNet dense start": {"name": "granet", "initial_sparsity": 0.0, **gradual},
        "GraNet half-sparse start": {"name": "granet", "initial_sparsity": 0.5, **gradual},
    }


def more(density: str, every: int) -> dict[str, dict[str, Any]]:
    """Arms of questions 5 to 7: uniform layer ratios, masks chosen before training, and those masks shuffled."""
    s = sparsity(density)
    moving = {"sparsity": s, "every": every, "end": 0.75, "allocation": "uniform"}
    return {
        "static uniform": {"name": "random", "sparsity": s, "ratios": "uniform"},
        "SET uniform": {"name": "set", **moving},
        "RigL uniform": {"name": "rigl", **moving},
        "SNIP": {"name": "snip", "sparsity": s},
        "GraSP": {"name": "grasp", "sparsity": s},
        "SynFlow": {"name": "synflow", "sparsity": s},
        "SNIP shuffled": {"name": "random", "sparsity": s, "ratios": "snip"},
        "GraSP shuffled": {"name": "random", "sparsity": s, "ratios": "grasp"},
    }


def runs() -> dict[str, dict[str, Any]]:
    """{name: TrainConfig without its seed} of everything that is trained from scratch."""
    table: dict[str, dict[str, Any]] = {"fashion/dense": FASHION | {"method": {"name": "dense"}}}
    for density in DENSITIES:
        arms = methods(density, 50) | (more(density, 50) if density != "5%" else {})
        table |= {f"fashion/{arm} {density}": FASHION | {"method": method} for arm, method in arms.items()}
        small = FASHION | {"method": {"name": "dense"}, "model": SMALL[density]}
        table[f"fashion/small dense {density}"] = small
    # As much training compute as gradual pruning to 5 % (0.185 of a dense run) buys the small net 37 epochs.
    table["fashion/small dense, longer 5%"] = table["fashion/small dense 5%"] | {"epochs": 37}
    table["digits/dense"] = DIGITS | {"method": {"name": "dense"}}
    for density in ("10%", "5%"):
        for arm in ("static ERK", "SET", "RigL", "GMP"):
            table[f"digits/{arm} {density}"] = DIGITS | {"method": methods(density, 20)[arm]}
    for length in LENGTHS:
        whole = FASHION | {"limit": 2_500, "epochs": 10 * length}
        table[f"fashion/2,500 images, dense {length}x"] = whole | {"method": {"name": "dense"}}
        for arm in ("RigL", "static ERK"):
            table[f"fashion/2,500 images, {arm} 20% {length}x"] = whole | {"method": methods("20%", 20)[arm]}
    del table["fashion/2,500 images, static ERK 20% 2x"]
    return table


def derived() -> dict[str, dict[str, Any]]:
    """{name: what to do with the trained dense run of the same seed}; arguments of `work.from_dense`."""
    table = {}
    for density in DENSITIES:
        whole = {"config": FASHION, "source": "fashion/dense", "sparsity": sparsity(density)}
        forms = {
            "one-shot, no retraining": {"weights": "trained", "shuffled": False, "train": False},
            "one-shot, retrained": {"weights": "trained", "shuffled": False, "train": True},
            "one-shot shuffled, retrained": {"weights": "trained", "shuffled": True, "train": True},
            "ticket": {"weights": "initial", "shuffled": False, "train": True},
            "ticket shuffled": {"weights": "initial", "shuffled": True, "train": True},
        }
        for name, form in forms.items():
            if density != "5%" or name == "one-shot, retrained":
                table[f"fashion/{name} {density}"] = whole | form
    return table


def beyond() -> tuple[str, ...]:
    """Runs whose weights question 10 measures again."""
    return ("fashion/dense", *(f"fashion/{arm} {d}" for d in DENSITIES for arm in ("static ERK", "RigL", "GMP")))


def rows() -> Iterator[Row]:
    """Every (question, setting, arm, run) of the tables."""
    whole = {
        "L1": ("small dense", "static ERK", "RigL", "GMP"),
        "L3": ("static ERK", "SET", "RigL", "GMP", "one-shot, retrained"),
        "L4": ("static ERK", "SET", "RigL", "GraNet half-sparse start", "GraNet dense start", "GMP"),
    }
    uniform = ("static uniform", "SET uniform", "RigL uniform")
    two = {
        "L5": ("static ERK", "SET", "RigL", *uniform),
        "L6": ("static ERK", "SNIP", "GraSP", "SynFlow", "RigL", "GraNet half-sparse start",
               "one-shot, no retraining", "one-shot, retrained"),
        "L7": ("static uniform", "static ERK", "SNIP", "SNIP shuffled", "GraSP", "GraSP shuffled",
               "one-shot, retrained", "one-shot shuffled, retrained", "ticket", "ticket shuffled"),
    }  # fmt: skip
    for question, arms in (whole | two).items():
        yield question, "dense", "dense", "fashion/dense"
        for density in DENSITIES if question in whole else ("10%", "2%"):
            yield from ((question, density, arm, f"fashion/{arm} {density}") for arm in arms)
        if question == "L1":
            yield question, "5%", "small dense, longer", "fashion/small dense, longer 5%"
    for length in LENGTHS:
        for arm in ("dense", "RigL 20%", "static ERK 20%"):
            if (arm, length) != ("static ERK 20%", 2):
                yield "L8", f"{length}x", arm, f"fashion/2,500 images, {arm} {length}x"
    for data in ("digits", "fashion"):
        yield "L9", data, "dense", f"{data}/dense"
        for density in ("10%", "5%"):
            for arm in ("static ERK", "SET", "RigL", "GMP"):
                yield "L9", f"{data} {density}", arm, f"{data}/{arm} {density}"
    for run in beyond():
        name = run.removeprefix("fashion/")
        arm, _, density = name.rpartition(" ") if name != "dense" else ("dense", "", "dense")
        yield "L10", density, arm, run


def _part(question: str, doc: str) -> Callable[[], dict[str, Any]]:
    def part() -> dict[str, Any]:
        made, jobs = runs(), {}
        for q, setting, arm, run in rows():
            if q == question and run in made:
                for seed in SEEDS:
                    jobs[f"{q}/{setting}/{arm}/{seed}"] = made[run] | {"seed": seed}
        return jobs

    part.__doc__ = doc
    return part


_F = "Fashion-MNIST, 10,000 training images, LeNet-300-100, 10 epochs, three seeds"
SETTING = {
    "L1": f"{_F}: sparse at 10, 5 and 2 % against dense nets with as many weights.",
    "L2": "y = W x, float32, one thread: dense, masked, CSR and row-compacted, alternating calls, medians.",
    "L3": f"{_F}: pruning (gradual; one-shot with retraining) beside sparse training (SET, RigL), with all compute.",
    "L4": f"{_F}: from a dense, a half-sparse and a sparse start to 10, 5 and 2 %.",
    "L5": f"{_F}: static, SET and RigL at equal layer ratios (ERK, uniform), 10 and 2 %.",
    "L6": f"{_F}: masks chosen before, during and after training, 10 and 2 %.",
    "L7": f"{_F}: masks against the same masks shuffled within each layer, 10 and 2 %.",
    "L8": "Fashion-MNIST, 2,500 training images, LeNet-300-100, 10 (1x), 20 (2x) and 50 (5x) epochs, three seeds: "
    "dense and at 20 %, whose 5x costs as much as dense at 1x.",
    "L9": f"{_F}; and handwritten digits 8x8, MLP 64-128-128-10, 60 epochs, three seeds.",
    "L10": f"{_F}: dense against 10, 5 and 2 % on worst class, calibration, strange inputs and corrupted ones.",
}
PARTS = {question: _part(question, doc) for question, doc in SETTING.items()}


def judge(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The folder's verdict, by the rules beside this file."""
    import rules

    return rules.judge(rules.answers(rows))
