"""What a feature contributes to a model's loss: first-order attribution, and how far it tells the truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import SparselandError
from .activations.gradients import activation_gradients
from .activations.hook import replaced
from .activations.inputs import call
from .activations.model import ModelActivations
from .activations.objectives import logits_of, token_losses
from .metrics import reconstruct, token_scale
from .sae.model import SparseAutoencoder


def attribute(
    sae: SparseAutoencoder, x: Tensor, g: Tensor, *, mode: str = "batch", select_by_gradient: bool = False
) -> Tensor:
    """First-order change of the loss that each active feature makes: a positive one raises it.

    a_i = f_i · d_iᵀ g  ≈  L(x) − L(x − f_i d_i)

    Parameters:
        sae: a `SparseAutoencoder`. x, g: activations and gradients [N, d]. mode: "batch" or "threshold".
        select_by_gradient: choose the codes by activation and gradient, as in training with ``select="gradient"``.

    Returns:
        [N, F], zero where a feature is not active.

    Raises:
        SparselandError: x and g differ in shape.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> x, g = torch.randn(2, 3, 4).unbind()
    >>> attribute(SparseAutoencoder(SAEConfig(4, 8, k=2)), x, g).shape
    torch.Size([3, 8])
    """
    if x.shape != g.shape:
        raise SparselandError(f"activations are {tuple(x.shape)}, gradients {tuple(g.shape)}")
    codes = reconstruct(sae, x, g if select_by_gradient else None, mode)[1]
    return codes.float() * (g.float() @ sae.W_dec.detach().float().t()) * token_scale(sae, x)


def faithfulness(
    sae: SparseAutoencoder, source: ModelActivations, *, pairs: int = 256, seed: int = 0, mode: str = "batch"
) -> dict[str, float]:
    """Rank correlation of `attribute` with the true change of the loss when the feature is taken out.

    Spearman(f_i d_iᵀ g,  L(x) − L(x − f_i d_i)) over random (token, active feature) pairs; L of the whole sequence

    Parameters:
        sae: a `SparseAutoencoder`. source: model, layer and held-out tokens. pairs: how many, >= 3.

    Returns:
        spearman, pairs (how many there were), and the mean sizes of both changes.

    Raises:
        SparselandError: fewer than 3 active features, or no labels.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (8, 6)))
    >>> -1 <= faithfulness(SparseAutoencoder(SAEConfig(4, 8, k=2)), source, pairs=20)["spearman"] <= 1
    True
    """
    if pairs < 3:
        raise SparselandError(f"a rank correlation needs at least 3 pairs; got {pairs}")
    generator = torch.Generator().manual_seed(seed)
    expected: list[Tensor] = []
    true: list[Tensor] = []
    for inputs in source.data.read(0, 0):
        if (left := pairs - sum(map(len, expected))) <= 0:
            break
        with torch.enable_grad():
            x, g = activation_gradients(source.model, source.layer, inputs, loss="next_token", at=source.at)
        kept = source.kept(inputs, x.shape[:2])
        kept[:, -1] = False  # its gradient is zero, and so is its effect
        place = kept.nonzero()
        rows = x[kept.to(x.device)].float()
        scale = token_scale(sae, rows)
        codes = reconstruct(sae, rows, None, mode)[1].float()
        entries = codes.nonzero()
        chosen = entries[torch.randperm(len(entries), generator=generator)[:left]]
        if not len(chosen):
            continue
        value = codes[chosen[:, 0], chosen[:, 1]]
        removed = (value[:, None] * sae.W_dec.detach().float()[chosen[:, 1]]) * scale[chosen[:, 0]]
        where = place[chosen[:, 0].cpu()]
        expected.append((removed * g[kept.to(g.device)].float()[chosen[:, 0]]).sum(1).cpu())
        true.append(_true_changes(source, inputs, where, removed))
    if sum(map(len, expected)) < 3:
        raise SparselandError(f"only {sum(map(len, expected))} active features were found; at least 3 are needed")
    a, b = torch.cat(expected).double(), torch.cat(true).double()
    size = {"mean_attribution": float(a.abs().mean()), "mean_effect": float(b.abs().mean())}
    return {"spearman": spearman(a, b), "pairs": len(a), **size}


def _true_changes(source: ModelActivations, inputs: Any, where: Tensor, removed: Tensor) -> Tensor:
    """L(x) − L(x − removed at that place), one a pair; every pair is a copy of its sequence."""
    found = []
    clean = _sequence_losses(source, inputs, None)
    for places, out in zip(where.split(32), removed.split(32), strict=True):
        rows = places[:, 0]
        if isinstance(inputs, Tensor):
            some: Any = inputs[rows]
        else:
            some = {name: v[rows] if isinstance(v, Tensor) else v for name, v in inputs.items()}
        found.append(clean[rows] - _sequence_losses(source, some, (places[:, 1], out)))
    return torch.cat(found).cpu()


def _sequence_losses(source: ModelActivations, inputs: Any, change: tuple[Tensor, Tensor] | None) -> Tensor:
    def take(x: Tensor) -> Tensor:
        if change is None:
            return x
        x = x.clone()
        x[torch.arange(len(x)), change[0].to(x.device)] -= change[1].to(x)
        return x

    with torch.no_grad(), replaced(source.model, source.layer, take, at=source.at):
        return token_losses(logits_of(call(source.model, inputs)), inputs)[0].double().sum(1).cpu()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors; equal values share the mean of their ranks.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    ra, rb = _ranks(a), _ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    scale = float((ra.square().sum() * rb.square().sum()).sqrt())
    return float(ra @ rb) / scale if scale > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[inverse]
    return ranks
