"""What a classifier does on a split: accuracy, loss, each class, the confusion matrix, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.data import Split, batches
from sparseland.zoo import logits

BINS = 15  # equal widths, top label (the standard of the field)
BATCH = 500


class Tally:
    """Counts that add up over batches and ranks.

    >>> tally = Tally(2)
    >>> tally.add(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    >>> tally.metrics()["accuracy"], tally.metrics()["confusion"]
    (0.5, [[1, 0], [1, 0]])
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)  # (truth, prediction)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)  # images, right ones, confidence

    @torch.no_grad()
    def add(self, output: Tensor, labels: Tensor) -> None:
        """Take in logits [b, classes] and labels int64 [b]."""
        width = self.classes
        if output.ndim != 2 or output.shape[1] != width:
            raise SparselandError(f"the data has {width} classes; the model gave logits of shape {list(output.shape)}")
        output = output.float()
        confidence, predicted = output.softmax(1).max(1)
        flat = torch.bincount(labels * width + predicted, minlength=width * width)
        self.confusion += flat.view(width, width)
        self.loss += F.cross_entropy(output, labels, reduction="sum").double()
        index = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # bin b holds (b/15, (b + 1)/15]
        for row, value in enumerate((torch.ones_like(confidence), (predicted == labels).float(), confidence)):
            self.bins[row].index_add_(0, index, value.double())

    def reduce(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """Sum over ranks."""
        self.confusion, self.loss, self.bins = (add_up(t) for t in (self.confusion, self.loss, self.bins))

    def metrics(self) -> dict[str, Any]:
        """Accuracy, ECE and MCE as fractions, mean cross-entropy in nats, accuracy per class (None: no image of it).

        "worst_class": the lowest of those. "mce": the largest |right − confidence| of a bin, each over its images.
        "bins": for each of the 15 bins of confidence, [images, right ones, sum of confidences].
        """
        per_class = self.confusion.sum(1)
        count, right = int(per_class.sum()), self.confusion.diagonal()
        shares = [hits / n if n else None for hits, n in zip(right.tolist(), per_class.tolist(), strict=True)]
        seen = self.bins[0].clamp(min=1)
        return {
            "accuracy": int(right.sum()) / count if count else 0.0,
            "loss": float(self.loss) / count if count else 0.0,
            "per_class": shares,
            "confusion": self.confusion.tolist(),
            "ece": float((self.bins[1] - self.bins[2]).abs().sum()) / count if count else 0.0,
            "mce": float(((self.bins[1] - self.bins[2]).abs() / seen).max()),
            "worst_class": min((share for share in shares if share is not None), default=None),
            "bins": [[int(seen), int(hits), sure] for seen, hits, sure in self.bins.T.tolist()],
            "images": count,
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    rank: int = 0,
    world: int = 1,
    add_up: Callable[[Tensor], Tensor] = lambda t: t,
) -> dict[str, Any]:
    """Metrics of ``model`` in evaluation mode, every image exactly once whatever the number of ranks.

    Equation: ECE = Σ_b |right_b − confidence_b| / n over 15 equal bins of the top label's probability, and
    MCE = max_b |right_b − confidence_b| / n_b.

    Parameters:
        split: the images; classes, mean, std: see `data.Dataset`.
        rank, world: this process takes every ``world``-th image; ``add_up`` sums a tensor over the ranks.

    Returns:
        {"accuracy", "loss", "per_class", "worst_class", "confusion" (rows: truth), "ece", "mce", "bins", "images"}.

    >>> from sparseland.data import load
    >>> from sparseland.zoo import build
    >>> digits = load("digits")
    >>> model = build("mlp-8", in_shape=digits.shape, classes=10, seed=0)
    >>> result = evaluate(model, digits.test, classes=10, mean=digits.mean, std=digits.std)
    >>> result["images"], sum(map(sum, result["confusion"]))
    (359, 359)
    """
    tally = Tally(classes, device)
    share = split[torch.arange(rank, len(split), world)] if world > 1 else split
    training = model.training
    model.eval()
    try:
        if len(share):
            for images, labels in batches(share, batch_size, mean=mean, std=std, shuffle=False, device=device):
                tally.add(logits(model(images)), labels)
    finally:
        model.train(training)
    tally.reduce(add_up)
    return tally.metrics()
