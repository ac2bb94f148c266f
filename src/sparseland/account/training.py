"""Floating-point operations of a whole training: what a step costs, closed forms to compare with, and a meter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.errors import InfeasibleBudget, RecipeError, nearest
from ..core.flow import Product
from ..weights import Method
from .flops import Cost, LayerCounts


def step_flops(method: Method | None, dense: int, sparse: int, *, moved: bool = False) -> int:
    """FLOPs per sample of one optimizer step: forward f, gradient of the inputs f, gradient of the weights f.

    By the word *flow* (what dead weights receive) and the word *growth* (what must be known about them), with f_D of
    the dense model and f_S at the current masks:

    - hard zeros (static masks, SET, magnitude pruning, GMP): 3 f_S; without a mask f_S = f_D, so dense is 3 f_D;
    - gradient growth (RigL, GraNet): 2 f_S + f_D in the steps in which masks move, 3 f_S in the others;
    - momentum growth (SNFS): 2 f_S + f_D in every step;
    - flows with dense values behind the mask (straight-through, SR-STE, fading, bidirectional): 2 f_S + f_D;
    - product, where dead weights receive nothing: 2 f_S + f_D in the steps in which scores move masks, 3 f_S otherwise;
    - frozen (the mask acts on the update only): 2 f_D + f_S;
    - flows whose dead weights are still non-zero (shrinking, penalised): 3 f_D.

    A measure of what sparse kernels would do (arXiv 1911.11134, appendix); masked layers on today's hardware cost f_D.

    >>> from sparseland.weights.methods import RigL
    >>> step_flops(RigL(0.8), 100, 42), step_flops(RigL(0.8), 100, 42, moved=True), step_flops(None, 100, 100)
    (126, 184, 300)
    """
    return sum(dense if part == "dense" else sparse for part in step_parts(method, moved=moved).values())


def step_parts(method: Method | None, *, moved: bool = False) -> dict[str, str]:
    """Which of the three passes of a step a sparse kernel could do on living weights only: "dense" or "sparse".

    >>> from sparseland.weights.methods import SRSTE
    >>> step_parts(SRSTE())
    {'forward': 'sparse', 'backward': 'sparse', 'update': 'dense'}
    """
    if method is None:
        return dict.fromkeys(("forward", "backward", "update"), "dense")
    flow, growth = method.flow, method.growth
    if not flow.learns and not flow.zeros:
        return {"forward": "dense", "backward": "dense", "update": "sparse"}
    if flow.latent or "momentum" in growth.needs:
        idle = isinstance(flow, Product) and not moved  # then no dead weight's gradient is read
        return {"forward": "sparse", "backward": "sparse", "update": "sparse" if idle else "dense"}
    if flow.ranks_dead:
        return dict.fromkeys(("forward", "backward", "update"), "dense")
    update = "dense" if moved and "grad" in growth.needs else "sparse"
    return {"forward": "sparse", "backward": "sparse", "update": update}


# FLOPs per sample of measuring a statistic once, in units of f_D: a gradient is a forward and a backward pass; the
# product of Hessian and gradient differentiates such a pass again.
MEASURING = {"grad": 3, "taylor": 3, "synflow": 3, "hessian_grad": 3 + 9}

ROUTES = ("dense", "static", "set", "gmp", "snfs", "rigl", "gradient mask")


def route_flops(
    route: str, dense: float, sparse: float = 0.0, *, every: int = 100, gradient: float | None = None
) -> float:
    """Mean FLOPs per sample and step in closed form, to compare a run's own count with.

    Equation: 3 f_D (dense); 3 f_S (static, set; gmp with f_S = the mean of f_D(1 − s_t) over the steps);
    2 f_S + f_D (snfs); (3 f_S ΔT + 2 f_S + f_D)/(ΔT + 1) (rigl); 2 f_S + f_W (gradient mask).

    Parameters:
        dense, sparse: f_D and f_S; every: ΔT, steps between updates; gradient: f_W, the forward FLOPs at the densities
            of the gradient's own mask (SparCL, arXiv 2209.09476).

    >>> round(route_flops("rigl", 1.0, 0.42, every=100) / route_flops("dense", 1.0), 3)  # ResNet-50, ERK, 80 %
    0.422
    """
    if dense < 0 or sparse < 0 or every < 1:
        raise InfeasibleBudget(f"f_D {dense!r}, f_S {sparse!r}, every {every!r}: FLOPs are ≥ 0, every is ≥ 1")
    match route:
        case "dense":
            return 3 * dense
        case "static" | "set" | "gmp":
            return 3 * sparse
        case "snfs":
            return 2 * sparse + dense
        case "rigl":
            return (3 * sparse * every + 2 * sparse + dense) / (every + 1)
        case "gradient mask":
            if gradient is None:
                raise RecipeError(
                    "route 'gradient mask' needs gradient=f_W, the FLOPs at the gradient mask's densities"
                )
            return 2 * sparse + gradient
    raise RecipeError(f"unknown route {route!r}: {nearest(route, ROUTES)}")


def training_ratio(route: str, inference: float, *, length: float = 1.0, every: int = 100) -> float:
    """Training FLOPs as a multiple of one dense training.

    Parameters:
        route: see `route_flops`. inference: f_S / f_D, in (0, 1]. length: steps as a multiple of the dense run's, > 0.

    >>> round(training_ratio("rigl", 0.2433, length=5), 2)  # RigL 5×, ERK, 90 %, on ResNet-50
    1.23
    """
    if not 0 < inference <= 1 or length <= 0:
        raise InfeasibleBudget(f"f_S/f_D is {inference!r} (possible: above 0, up to 1), length {length!r} (above 0)")
    return length * route_flops(route, 1.0, inference, every=every) / route_flops("dense", 1.0)


def printed_agrees(printed: str, computed: float) -> bool:
    """Whether a number in a table is ``computed`` to the digits it has (one unit of the last digit either way).

    Published cost columns are copied from table to table: RigL 5× at 90 % appears at .25 of dense training, which is
    the entry of the 1× run; five times the steps make 1.23.

    Parameters:
        printed: as it stands there, such as ".25", "1.23×" or "42%".

    >>> computed = training_ratio("rigl", 0.2433, length=5)
    >>> printed_agrees("1.23×", computed), printed_agrees("0.25×", computed)
    (True, False)
    """
    text = printed.strip().rstrip("xX×").strip()
    percent = text.endswith("%")
    try:
        value = float(text.rstrip("%"))
    except ValueError:
        raise RecipeError(f"{printed!r} is no number; possible: such as '.25', '1.23×' or '42%'") from None
    digits = len(text.rstrip("%").partition(".")[2])
    scale = 100 if percent else 1
    return abs(value - computed * scale) <= 10.0**-digits * (1 + 1e-9)


@dataclass
class Meter:
    """Adds up what a run costs, from the masks it really had, over all its fits.

    Parameters:
        cost: of one sample; training, training_dense: FLOPs so far, of this run and of a dense run of equal steps.
        phases: where ``training`` went: "dense steps", "sparse steps", "choosing masks", and what `add` named.
        rounds: what each finished fit of a procedure cost, in order.
        whole: f_D of the model as it was before units were removed from it (None: none were).

    >>> meter = Meter(Cost({"w": 1}, {"w": 100}))
    >>> meter.step(None, {"w": (10, 100)}, samples=2)
    >>> meter.training, meter.training_dense
    (1200, 1200)
    >>> meter.add(200, "teacher")
    >>> meter.training, meter.phases
    (1400, {'dense steps': 1200, 'teacher': 200})
    """

    cost: Cost
    training: int = 0
    training_dense: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)
    whole: int | None = None
    _known: tuple[Any, int] = field(default=(None, 0), repr=False, compare=False)

    def step(
        self, method: Method | None, counts: LayerCounts, *, samples: int, moved: bool = False, key: Any = None
    ) -> None:
        """Count one optimizer step on ``samples``; ``counts`` are those before it, ``key`` names them (for speed)."""
        dense = self.cost.dense()
        if key is None or self._known[0] != key:
            self._known = (key, self.cost.sparse(counts))
        flops = samples * step_flops(method, dense, self._known[1], moved=moved)
        self.add(flops, "dense steps" if flops == samples * 3 * dense else "sparse steps")
        self.training_dense += samples * 3 * (dense if self.whole is None else self.whole)

    def shrink(self, cost: Cost) -> None:
        """From now on a sample costs this: units were removed. A dense run goes on with all of them.

        >>> meter = Meter(Cost({"w": 1}, {"w": 100}))
        >>> meter.shrink(Cost({"w": 1}, {"w": 50})); meter.step(None, {}, samples=1)
        >>> meter.training, meter.training_dense
        (300, 600)
        """
        self.whole = self.cost.dense() if self.whole is None else self.whole
        self.cost, self._known = cost, (None, 0)

    def measured(self, method: Method, samples: int, *, at_start: bool = True) -> None:
        """Count the statistics from which masks were chosen (SNIP, GraSP; SynFlow needs one sample a round)."""
        rounds = getattr(method.schedule, "rounds", 1) if at_start else 1
        needs = method.requires(at_start=True) if at_start else method.requires() & {"hessian_grad", "synflow"}
        if not at_start and getattr(method.criterion, "turns", None) == "stream":
            self.add(3 * samples * self.cost.dense(), "scores on a second stream")  # at most: its forward is sparse
        for name in needs:
            images = 1 if name == "synflow" else samples
            self.add(rounds * images * MEASURING.get(name, 0) * self.cost.dense(), "choosing masks")

    def add(self, flops: int, what: str) -> None:
        """Count work that is no step: forward passes of a teacher (f_D a sample), a search, calibration.

        Raises:
            InfeasibleBudget: ``flops`` is negative.
        """
        if flops < 0:
            raise InfeasibleBudget(f"{what!r} cannot cost {flops:,} FLOPs; possible: 0 or more")
        self.training += flops
        if flops:
            self.phases[what] = self.phases.get(what, 0) + flops

    def close_round(self) -> None:
        """A fit ended: what came since the last one is its cost.

        >>> meter = Meter(Cost({}, {}))
        >>> meter.add(5, "search"); meter.close_round(); meter.add(7, "search"); meter.close_round()
        >>> meter.rounds
        [5, 7]
        """
        self.rounds.append(self.training - sum(self.rounds))

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return {
            "training": self.training,
            "training_dense": self.training_dense,
            "phases": dict(self.phases),
            "rounds": list(self.rounds),
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on from a `state_dict` (or from [training, training_dense], which earlier versions saved)."""
        if not isinstance(state, dict):
            state = {"training": state[0], "training_dense": state[1], "phases": {}, "rounds": []}
        self.training, self.training_dense = state["training"], state["training_dense"]
        self.phases, self.rounds = dict(state["phases"]), list(state["rounds"])
