"""A flow that only penalises: the gradient gets a pull towards zero, on dead coordinates or on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import RecipeError
from ..core.flow import Flow

NORMS = ("l1", "l2", "smooth-l1", "group")


@dataclass(frozen=True, repr=False)
class Regularised(Flow):
    """grad = g + strength r(w) P, with P = 1 - m (the dead), or P = 1 if ``everywhere``: a sub-gradient of a penalty.

    r(w) = sign(w) (l1), w (l2), w where |w| < knee and sign(w) elsewhere (smooth-l1), or √n w / ‖w_o‖₂ for each output
    channel o of n weights (group: the group lasso, arXiv 1608.03665). Nothing is zeroed: what is removed is decided
    later, by what became small. One step of SGD moves a coordinate by lr · strength, so that all of a training with
    learning rates lr_t and momentum μ can move it by strength · Σ lr_t / (1 - μ): see `reach`.

    Raises:
        RecipeError: strength ≤ 0, an unknown norm, a knee below 0.

    >>> w, g, alive = torch.tensor([2.0, -0.5]), torch.zeros(2), torch.tensor([True, False])
    >>> Regularised(0.1).grad(g, w, alive, 0).tolist()[0], round(Regularised(0.1).grad(g, w, alive, 0).tolist()[1], 3)
    (0.0, -0.1)
    >>> [round(x, 3) for x in Regularised(0.1, everywhere=True).grad(g, w, alive, 0).tolist()]
    [0.1, -0.1]
    """

    kind: ClassVar[str] = "regularised"
    zeros: ClassVar[bool] = False
    strength: float = 5e-4
    norm: str = "l1"
    everywhere: bool = False
    knee: float = 0.0

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise RecipeError(f"regularised.strength is {self.strength!r}; possible: a number > 0")
        if self.norm not in NORMS:
            raise RecipeError(f"regularised.norm is {self.norm!r}; possible: {', '.join(NORMS)}")
        if self.knee < 0:
            raise RecipeError(f"regularised.knee is {self.knee!r}; possible: a number ≥ 0")

    def pull(self, w: Tensor) -> Tensor:
        """r(w), of w's shape."""
        if self.norm == "l2":
            return w
        if self.norm == "group":
            rows = w.reshape(w.shape[0], -1)  # (out, n)
            length = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
            pulled: Tensor = rows * (rows.shape[1] ** 0.5) / length
            return pulled.view_as(w)
        return torch.where(w.abs() < self.knee, w, w.sign()) if self.norm == "smooth-l1" else w.sign()

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        pull = self.pull(w)
        return g + self.strength * (pull if self.everywhere else pull.masked_fill(mask, 0))


def reach(strength: float, rates: list[float], momentum: float = 0.0) -> float:
    """How far an L1 penalty alone can move a value: strength · Σ lr_t / (1 - momentum).

    Channels that shall vanish must start nearer to zero than that.

    >>> round(reach(0.01, [0.1] * 100, momentum=0.9), 6)  # 0.01 · 100 · 0.1 / 0.1
    1.0
    """
    return strength * sum(rates) / (1 - momentum)
