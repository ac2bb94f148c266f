"""How good sparse codes are: reconstruction, sparsity, dead and rare features; gathered batch by batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import SparselandError
from .activations.stream import ActivationStream
from .sae.density import gini
from .sae.inputs import normalise
from .sae.model import SparseAutoencoder

LOWEST = -7  # log10 of the density where the histogram begins


class Metrics:
    """Running sums over batches of activations, reconstructions and codes; `result` turns them into numbers.

    FVU = NMSE = Σ‖x − x̂‖² / Σ‖x − mean(x)‖²;  NMSE per token = mean(‖x − x̂‖² / ‖x‖²);  L0 = non-zero codes of a token

    All sums are in float64; the variance is taken around the first batch's mean, so nothing cancels.

    Parameters:
        d_sae: number of features F. expected: densities [F] a budget asked for; then "underused" is the share of
            features below a tenth of theirs.

    Raises:
        SparselandError: shapes that do not belong together.

    >>> metrics = Metrics(2)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> metrics.update(x, x / 2, torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
    >>> found = metrics.result()
    >>> found["fvu"], found["nmse_per_token"], found["l0"], found["dead"]
    (0.5, 0.25, 1.0, 0.5)
    """

    def __init__(self, d_sae: int, *, expected: Tensor | None = None) -> None:
        if expected is not None and expected.shape != (d_sae,):
            raise SparselandError(f"expected densities are one a feature, ({d_sae},); got {tuple(expected.shape)}")
        self.d_sae, self.expected = d_sae, expected
        self.tokens = 0
        self.fired = torch.zeros(d_sae, dtype=torch.float64)
        self._sums = dict.fromkeys(("error", "ratio", "cosine", "l0", "l0_squared", "value"), 0.0)
        self._shift: Tensor | None = None
        self._first: Tensor | None = None  # sum of x − shift, [d]
        self._second = 0.0  # sum of ‖x − shift‖²
        self._l0: list[Tensor] = []
        self._losses: list[Tensor] = []

    def update(self, x: Tensor, x_hat: Tensor, codes: Tensor, *, losses: Tensor | None = None) -> None:
        """Add one batch.

        Parameters:
            x, x_hat: [N, d]. codes: [N, F]. losses: the model's loss of each token [N], for the correlation with L0.
        """
        if x.ndim != 2 or x.shape != x_hat.shape or codes.shape != (len(x), self.d_sae):
            raise SparselandError(
                f"a batch is x [N, d], x_hat [N, d], codes [N, {self.d_sae}]; got {tuple(x.shape)}, "
                f"{tuple(x_hat.shape)}, {tuple(codes.shape)}"
            )
        x, x_hat = x.detach().double(), x_hat.detach().double()
        if self._shift is None:
            self._shift, self._first = x.mean(0), torch.zeros_like(x[0])
        centred = x - self._shift
        self._first += centred.sum(0)  # type: ignore[operator]
        self._second += float(centred.square().sum())
        error, norm = (x - x_hat).square().sum(1), x.square().sum(1)
        active = codes.detach() != 0
        l0 = active.sum(1).double()
        both = (norm * x_hat.square().sum(1)).sqrt().clamp_min(1e-300)
        more = {
            "error": error, "ratio": error / norm.clamp_min(1e-300), "cosine": (x * x_hat).sum(1) / both,
            "l0": l0, "l0_squared": l0.square(), "value": codes.detach().double(),
        }  # fmt: skip
        for name, value in more.items():
            self._sums[name] += float(value.sum())
        self.fired += active.sum(0).double().cpu()
        self.tokens += len(x)
        if losses is not None:
            self._l0.append(l0.cpu())
            self._losses.append(losses.detach().double().reshape(-1).cpu())

    @property
    def density(self) -> Tensor:
        """Share of the tokens for which each feature is active, [F]."""
        return self.fired / max(self.tokens, 1)

    def result(self) -> dict[str, Any]:
        """Every number, as plain data.

        Raises:
            SparselandError: no batch was added.
        """
        if not self.tokens or self._first is None:
            raise SparselandError("no activations were measured")
        n, sums, density = self.tokens, self._sums, self.density
        variance = self._second - float(self._first.square().sum()) / n
        mean = sums["l0"] / n
        found: dict[str, Any] = {
            "tokens": n,
            "fvu": sums["error"] / variance if variance > 0 else float("nan"),
            "mse": sums["error"] / n / len(self._first),
            "nmse_per_token": sums["ratio"] / n,
            "cosine": sums["cosine"] / n,
            "l0": mean,
            "l0_std": max(sums["l0_squared"] / n - mean**2, 0.0) ** 0.5,
            "mean_active": sums["value"] / max(sums["l0"], 1.0),
            "dead": float((self.fired == 0).double().mean()),
            "gini": gini(density),
            "density": density_histogram(density),
        }
        if self.expected is not None:
            found["underused"] = float((density < self.expected.double() / 10).double().mean())
        if self._losses:
            found["l0_loss_correlation"] = _correlation(torch.cat(self._l0), torch.cat(self._losses))
        return found


def density_histogram(density: Tensor, *, per_decade: int = 4) -> dict[str, Any]:
    """How many features have which density: counts in log10 bins from 1e-7 to 1, the dead ones apart.

    >>> found = density_histogram(torch.tensor([0.0, 1.0, 0.5, 1e-3]))
    >>> found["dead"], sum(found["counts"]), len(found["edges"]) - len(found["counts"])
    (1, 3, 1)
    """
    bins = -LOWEST * per_decade
    edges = torch.linspace(LOWEST, 0, bins + 1, dtype=torch.float64)
    alive = density[density > 0].double().log10().clamp(LOWEST, 0)
    place = ((alive - LOWEST) * per_decade).floor().long().clamp_max(bins - 1)
    counts = torch.bincount(place.cpu(), minlength=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "dead": int((density <= 0).sum())}


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def evaluate(
    sae: SparseAutoencoder,
    source: Any,
    *,
    mode: str = "batch",
    batch: int = 1024,
    tokens: int | None = None,
    gradient: bool = False,
    expected: Tensor | None = None,
) -> dict[str, Any]:
    """The metrics of an autoencoder on held-out activations, one pass without shuffling.

    Parameters:
        sae: a `SparseAutoencoder`. source: whatever `as_source` takes.
        mode: "batch" (budgets of a batch) or "threshold". batch: tokens at once; where codes depend on it (mutual and
            feature choice in batch mode), a short one at the end is left out.
        tokens: stop after so many; None: one epoch.
        gradient: select with the gradients that come with the activations (pairs); False selects by activation.
        expected: see `Metrics`.

    Returns:
        tokens, fvu, mse, nmse_per_token, cosine, l0, l0_std, mean_active, dead, gini, density; underused with
        ``expected``.

    Raises:
        SparselandError: no activations, another width, or gradients asked for that do not come.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> found = evaluate(SparseAutoencoder(SAEConfig(4, 16, k=2)), torch.randn(100, 4))
    >>> found["tokens"], found["l0"] <= 2, len(found["density"]["counts"])
    (100, True, 28)
    """
    stream = ActivationStream(source, batch=batch, buffer=max(batch, 8192), shuffle=False, epochs=1)
    check_width(sae, stream)
    if gradient and not stream.pairs:
        raise SparselandError("gradient=True needs pairs (x, g); give ModelActivations a gradient=")
    metrics = Metrics(sae.config.d_sae, expected=expected)
    together = mode == "batch" and sae.current_rule in ("mutual", "feature")  # codes depend on the batch's size
    for item in stream:
        x, g = item if isinstance(item, tuple) else (item, None)
        if together and len(x) < batch and metrics.tokens:
            break
        if tokens is not None:
            x, g = x[: tokens - metrics.tokens], None if g is None else g[: tokens - metrics.tokens]
        x_hat, codes = reconstruct(sae, x, g if gradient else None, mode)
        metrics.update(x, x_hat, codes)
        if tokens is not None and metrics.tokens >= tokens:
            break
    return metrics.result()


def check_width(sae: SparseAutoencoder, stream: ActivationStream) -> None:
    """Raise where the autoencoder reads another width than the stream gives."""
    if stream.d_in != sae.config.d_in:
        raise SparselandError(f"the activations are {stream.d_in} wide; the autoencoder reads d_in={sae.config.d_in}")


@torch.no_grad()
def reconstruct(
    sae: SparseAutoencoder, x: Tensor, g: Tensor | None = None, mode: str = "batch"
) -> tuple[Tensor, Tensor]:
    """x̂ [N, d] in the units of x, and codes [N, F], as in evaluation; with g the codes are chosen by it too.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> x_hat, codes = reconstruct(SparseAutoencoder(SAEConfig(4, 16, k=2)), torch.randn(3, 4))
    >>> x_hat.shape, codes.shape
    (torch.Size([3, 4]), torch.Size([3, 16]))
    """
    was_training = sae.training
    sae.eval()
    try:
        out = sae(x, g, mode=mode)
    finally:
        sae.train(was_training)
    return out.x_hat, out.codes.dense()


def token_scale(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """How long a code of 1 is in the units of x [N, d]: 1 unless the autoencoder normalises its input; [N, 1].

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> sae = SparseAutoencoder(SAEConfig(2, 4, k=1, normalize="token_rms"))
    >>> token_scale(sae, torch.tensor([[3.0, 3.0]])).tolist()
    [[3.0]]
    """
    found = normalise(x, sae.config.normalize, sae.expected).scale
    return found.expand(len(x), 1)
