"""Learned-score masks: every weight has a trained score, the highest scores live, the gradient passes straight through.

The scores are float32, never share memory with the weights (unless asked to), and are trained by momentum SGD of their
own: in every step (then no weight moves), in turn with the weights, or on a second stream of batches. A step that
belongs to the scores hands the user's optimizer no gradient at all, so neither momentum nor decay moves a weight.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..core.criterion import Criterion, Stats
from ..core.errors import OwnershipError, RecipeError, ScheduleError, ScoreError, nearest
from ..core.schedule import resolve_step
from ..core.selection import check_scores, select, select_many
from . import ranks, statistics

if TYPE_CHECKING:
    from .method import Method
    from .sparsifier import Sparsifier

CHOICES = {
    "curve": ("cosine", "step", "constant"),
    "first": ("weight", "mask", "random"),
    "rank": ("raw", "abs", "square"),
    "turns": ("every", "alternate", "stream"),
    "hyper": ("none", "implicit", "code-compat"),
}
GAP = 0.01  # between the first scores of living and of dead weights


@dataclass(frozen=True, repr=False)
class Learned(Criterion):
    """Scores s trained by SGD on the straight-through gradient: s ← s − lr_t v, v ← momentum v + d + decay s.

    d is `hyper_gradient`, times sign(s) where |s| ranks.

    Parameters:
        lr, momentum, decay: of that SGD; curve: cosine (to 0 at ``end``), step (times 0.1 at half of it, 0.01 at three
            quarters) or constant.
        first: s = w ("weight"), 1 where alive and 0.99 where dead ("mask"), or uniform in ±1/√fan_in ("random").
        rank: s itself ("raw"), "abs", or "square" (its mean over a row ranks rows by their L2 norm).
        turns: scores learn in every step ("every": weights never move), in every second one ("alternate": weights,
            scores, weights, …), or after each of the optimizer's steps on the next batch of ``data`` ("stream").
        hyper, gamma: see `hyper_gradient`; gamma > 0.
        alias: train the weights themselves as scores (as the published BiP code does by accident).

    >>> Learned()(torch.tensor([3.0, -2.0]), Stats(score=torch.tensor([0.1, 0.2]))).tolist()
    [0.10000000149011612, 0.20000000298023224]
    >>> Learned(lr=0.2, end=100).rate(50)
    0.1
    """

    kind: ClassVar[str] = "learned"
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    lr: float = 0.1
    momentum: float = 0.9
    decay: float = 0.0
    curve: str = "cosine"
    end: int | float = 1.0
    first: str = "weight"
    rank: str = "raw"
    turns: str = "every"
    hyper: str = "none"
    gamma: float = 1e4
    alias: bool = False

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            if getattr(self, name) not in options:
                raise RecipeError(f"learned.{name} is {getattr(self, name)!r}: {nearest(getattr(self, name), options)}")
        if not self.gamma > 0:
            raise RecipeError(f"learned.gamma is {self.gamma!r}; the weights' regularisation is a number > 0")
        if not self.lr > 0 or not 0 <= self.momentum < 1 or not self.decay >= 0:
            raise RecipeError(
                f"learned.lr {self.lr!r} (possible: > 0), momentum {self.momentum!r} (in [0, 1)), decay {self.decay!r} "
                f"(≥ 0)"
            )
        if self.alias and (self.first != "weight" or self.turns == "every"):
            raise RecipeError(
                f"learned.alias makes the weights the scores: first is 'weight' and weights take turns; got "
                f"first={self.first!r}, turns={self.turns!r}"
            )

    def resolve(self, steps: int | None) -> Learned:
        end = resolve_step(self.end, steps, "learned.end")
        if not end:
            raise ScheduleError(f"learned.end is step {end}: nothing would be learned; possible: 1 … {steps}")
        return self.replace(end=end)

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        score = stats.score
        if score is None or self.alias:
            if self.first != "weight":
                raise ScoreError(f"{self!r} starts from a mask: give initial=…, and rank only after a step")
            score = weight.float()
        return {"raw": score, "abs": score.abs(), "square": score.square()}[self.rank]

    def rate(self, step: int) -> float:
        """The learning rate of the scores at ``step`` (from 0)."""
        done = min(step / self.end, 1.0)
        if self.curve == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr * (0.1 ** ((done >= 0.5) + (done >= 0.75)) if self.curve == "step" else 1.0)

    def __str__(self) -> str:
        return repr(self)


# ---------------------------------------------------------------------------------------------------- the mathematics
def hyper_gradient(weight: Tensor, grad: Tensor, mask: Tensor, kind: str = "none", gamma: float = 1e4) -> Tensor:
    """dl/dm of l(m θ*(m)), θ*(m) = argmin l(m θ) + (γ/2) ‖θ‖², with g = dl/dz at z = m θ.

    Equation: θ g ("none": θ taken as fixed), θ g − (1/γ) m g² ("implicit": dθ*/dm = −(1/γ) diag(g), second derivatives
    of l dropped; arXiv 2210.04092), or θ g − (1/γ) (θ g)² ("code-compat": what the authors' code adds instead).

    Parameters:
        weight, grad, mask: θ, g and m, of one shape. gamma: γ > 0.

    >>> c, gamma = torch.tensor([1.0, -2.0]), 0.5
    >>> hyper_gradient(-c / gamma, c, torch.ones(2), "implicit", gamma).tolist()  # linear loss: exactly −2 m c² / γ
    [-4.0, -16.0]
    """
    plain = weight * grad
    if kind == "none":
        return plain
    if kind == "implicit":
        return plain - mask * grad.square() / gamma
    if kind == "code-compat":
        return plain - plain.square() / gamma
    raise RecipeError(f"hyper-gradient {kind!r}: {nearest(kind, CHOICES['hyper'])}")


def straight_through(weight: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    """w m in the forward pass; backward dL/ds = (dL/dz) w, dense, as if m were s, and dL/dw = (dL/dz) m.

    For layers that hold their scores themselves (edge-popup and its like).

    >>> w, s = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 0.1], requires_grad=True)
    >>> z = straight_through(w, s, torch.tensor([True, False])); z.sum().backward()
    >>> z.tolist(), s.grad.tolist()
    ([2.0, 0.0], [2.0, 3.0])
    """
    return weight * (mask.to(weight.dtype) + (score - score.detach()).to(weight.dtype))


def top(scores: Mapping[str, Tensor], counts: int | Mapping[str, int]) -> dict[str, Tensor]:
    """Masks of the highest scores: so many in all (global ranking), or so many in each tensor; ties in index order.

    >>> s = {"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([1.0, 0.0])}
    >>> top(s, 2)["a"].tolist(), top(s, {"a": 1, "b": 1})["b"].tolist()
    ([True, True], [True, False])
    """
    if isinstance(counts, int):
        return select_many(scores, counts)
    return {n: select(check_scores(s, n), counts[n]) for n, s in scores.items()}


def first_scores(
    weight: Tensor, mask: Tensor, kind: str = "weight", generator: torch.Generator | None = None
) -> Tensor:
    """Scores to begin with, float32 and in memory of their own; see `Learned`.

    >>> first_scores(torch.ones(2, dtype=torch.bfloat16), torch.tensor([True, False]), "mask").tolist()
    [1.0, 0.9900000095367432]
    """
    if kind == "weight":
        return weight.detach().to(torch.float32, copy=True)
    if kind == "mask":
        return 1 - GAP * (~mask).float()
    bound = math.prod(mask.shape[1:]) ** -0.5
    return torch.empty(mask.shape).uniform_(-bound, bound, generator=generator).to(mask.device)


def check_apart(
    scores: Iterable[Tensor], weights: Iterable[Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Refuse scores that share memory with weights, and an optimizer of scores that holds weights too.

    Raises:
        OwnershipError: they are not apart.

    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> check_apart([w.detach().clone()], [w])
    """
    listed = list(weights)
    places = {w.data_ptr() for w in listed if w.numel()}
    for s in scores:
        if s.data_ptr() in places:
            raise OwnershipError(
                f"scores of shape {tuple(s.shape)} share memory with a weight: a step of one moves the other; "
                f"clone them (first_scores does)"
            )
    if optimizer is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        odd = [w for w in listed if id(w) in held]
        if odd:
            raise OwnershipError(
                f"{type(optimizer).__name__} trains scores and also holds {len(odd)} of {len(listed)} weights (first: "
                f"{tuple(odd[0].shape)}); a search moves no weight: give it the scores only"
            )


# -------------------------------------------------------------------------------------------------- in a Sparsifier
def turn(method: Method, step: int) -> bool:
    """Whether the optimizer's step ``step`` (from 0) belongs to the scores."""
    word = method.criterion
    return isinstance(word, Learned) and (word.turns == "every" or (word.turns == "alternate" and step % 2 == 1))


def check(method: Method, data: Any, steps: int | None) -> None:
    """What a second stream needs; it is read again from its start where it is too short, with a warning."""
    word = method.criterion
    if not isinstance(word, Learned) or word.turns != "stream":
        return
    if not isinstance(data, Sequence) or not len(data):
        raise ScoreError(
            f"{method.name}: scores learn on a stream of their own: attach(…, data=a sequence of batches that is not "
            f"empty), got {type(data).__name__}; turns='alternate' needs none"
        )
    if steps is not None and len(data) < steps:
        warnings.warn(
            f"{method.name}: the second stream has {len(data)} batches for {steps} steps; it is cycled", stacklevel=4
        )


def step_(sp: Sparsifier, name: str, grad: Tensor | None, *, streamed: bool = False) -> None:
    """One step of the scores of one target, whose parameter holds the dense weight, if it is their turn.

    The first call makes the scores, whosever turn it is: they start from the weights before any step.
    """
    word, param, store = sp.method.criterion, sp.targets[name].param, sp._stats[name]
    if not isinstance(word, Learned):
        return
    weight, mask = ranks.local(param).detach(), ~sp._dead[name]
    if "velocity" not in store:
        store["velocity"] = torch.zeros_like(param, dtype=torch.float32, memory_format=torch.preserve_format).detach()
        if not word.alias:
            store["score"] = torch.zeros_like(store["velocity"])
            drawn = first_scores(param, sp.masks[name], "random", sp.generator) if word.first == "random" else None
            own = first_scores(weight, mask, word.first) if drawn is None else ranks.shard_like(drawn, param)
            ranks.local(store["score"]).copy_(own)
            check_apart([ranks.local(store["score"])], [weight])
    if not streamed and not turn(sp.method, sp.step):
        return
    known = torch.zeros_like(weight) if grad is None else ranks.local(grad)
    learn_(word, local_scores(store), weight, known, mask, sp.step)


def local_scores(store: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's part of the scores and their momentum."""
    return {k: ranks.local(v) for k, v in store.items() if k in ("score", "velocity")}


@torch.no_grad()
def learn_(
    word: Learned, store: MutableMapping[str, Tensor], weight: Tensor, grad: Tensor, mask: Tensor, step: int
) -> None:
    """One momentum-SGD step of the scores in ``store`` ("score", "velocity"), in place.

    >>> store = {"score": torch.tensor([1.0, 0.99]), "velocity": torch.zeros(2)}
    >>> w, g = torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0])
    >>> learn_(Learned(lr=0.1, curve="constant"), store, w, g, torch.tensor([True, False]), 0)
    >>> [round(s, 4) for s in store["score"].tolist()]
    [0.8, 1.29]
    """
    score = weight if word.alias else store["score"]
    change = hyper_gradient(weight.float(), grad.float(), mask.float(), word.hyper, word.gamma)
    if word.rank != "raw":
        change = change * score.sign()
    if word.decay:
        change = change.add(score, alpha=word.decay)
    store["velocity"].mul_(word.momentum).add_(change)
    score.sub_(store["velocity"].to(score.dtype), alpha=word.rate(step))


def withhold_gradients(sp: Sparsifier) -> None:
    """In a step of the scores the optimizer gets no gradient: it moves nothing and remembers nothing."""
    if turn(sp.method, sp.step):
        for group in sp.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None


def on_stream(sp: Sparsifier) -> None:
    """After the optimizer's step: the gradient at z = m θ on the second stream's next batch, and the scores' step."""
    word = sp.method.criterion
    if not isinstance(word, Learned) or word.turns != "stream":
        return
    if sp._data is None:
        raise ScoreError(f"{sp.method.name}: a copied sparsifier has no second stream; attach(…, data=…, state=…) anew")
    batch = sp._data[(sp.step - 1) % len(sp._data)]  # type: ignore[index, arg-type]
    dense = {n: ranks.local(t.param).detach().clone() for n, t in sp.targets.items()}
    try:
        for n, t in sp.targets.items():
            ranks.local(t.param).copy_(sp.method.flow.forward(dense[n], ~sp._dead[n], sp.step))
        grads = statistics.stream_gradients(sp.model, sp.targets, batch, sp._loss)
    finally:
        for n, t in sp.targets.items():
            ranks.local(t.param).copy_(dense[n])
    for n, grad in grads.items():
        step_(sp, n, ranks.shard_like(grad, sp.targets[n].param), streamed=True)
