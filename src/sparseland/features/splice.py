"""What a model loses when a layer's activations give way to their reconstructions: CE recovered, KL, faithfulness."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import SparselandError, nearest
from .activations.gradients import activation_gradients
from .activations.hook import replaced
from .activations.inputs import call
from .activations.model import ModelActivations, Reading
from .activations.objectives import logits_of, token_losses
from .metrics import Metrics, reconstruct
from .sae.model import SparseAutoencoder

SELECTS = ("activation", "self", "gradient")
SELF = "self"  # the label-free loss of select="self": cross-entropy to the model's own most likely token


@contextlib.contextmanager
def splice(
    model: nn.Module,
    layer: str,
    change: Callable[[Tensor], Tensor],
    *,
    at: str = "output",
    kept: Tensor | None = None,
) -> Iterator[nn.Module]:
    """While open, rows x [n, d] of a layer are replaced by ``change(x)``; the places outside ``kept`` stay.

    Parameters:
        change: from [n, d] to [n, d]. kept: bool [B, L]: the places to replace; None: all.

    Raises:
        TargetError: no such layer. SparselandError: ``kept`` or what ``change`` returns has another shape.

    >>> net = nn.Sequential(nn.Identity())
    >>> with splice(net, "0", lambda x: 0 * x, kept=torch.tensor([[True, False]])):
    ...     net(torch.ones(1, 2, 1)).flatten().tolist()
    [0.0, 1.0]
    """

    def exchange(x: Tensor) -> Tensor:
        places = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if kept is None else kept.to(x.device)
        if places.shape != x.shape[:-1]:
            raise SparselandError(f"kept is {tuple(places.shape)}; layer {layer!r} hands on {tuple(x.shape)}")
        rows = x[places]
        new = change(rows)
        if new.shape != rows.shape:
            raise SparselandError(f"the replacement of rows {tuple(rows.shape)} has shape {tuple(new.shape)}")
        out = x.clone()
        out[places] = new.to(out.dtype)
        return out

    with replaced(model, layer, exchange, at=at):
        yield model


@dataclass
class Spliced:
    """One way to replace the activations: nats per token, and how far from clean.

    ce: cross-entropy. delta: ce less the clean one. recovered: (CE_zero − ce) / (CE_zero − CE_clean);
    recovered_mean: the same with the mean activation instead of zero. kl: KL(clean ‖ spliced). metrics: of the codes.
    """

    ce: float
    delta: float
    recovered: float
    recovered_mean: float
    kl: float
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recovery:
    """What `recovered` found; ``arms`` holds "activation", "self" and "gradient", "zero" and "mean"."""

    ce_clean: float
    tokens: int
    arms: dict[str, Spliced]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class _Arm:
    """Sums of one way to replace."""

    def __init__(self, d_sae: int | None) -> None:
        self.ce = self.kl = 0.0
        self.metrics = None if d_sae is None else Metrics(d_sae)

    def add(self, logits: Tensor, clean: Tensor, reading: Reading) -> None:
        losses, counts = token_losses(logits, reading.inputs)
        self.ce += float(losses.double().sum())
        p, q = F.log_softmax(clean[:, :-1].float(), -1), F.log_softmax(logits[:, :-1].float(), -1)
        self.kl += float(((p.exp() * (p - q)).sum(-1) * counts).double().sum())


def recovered(
    sae: SparseAutoencoder,
    source: ModelActivations,
    *,
    selects: Sequence[str] = ("activation",),
    mode: str = "batch",
    sequences: int | None = None,
) -> Recovery:
    """How much of a language model's loss survives when a layer's activations are replaced by x̂ at every kept place.

    recovered = (CE_zero − CE_sae) / (CE_zero − CE_clean)

    Parameters:
        sae: a `SparseAutoencoder`. source: the model, its layer and held-out tokens; its places to skip (special
            tokens, ``skip_first`` for BOS) stay as they are. Its ``gradient`` is not used.
        selects: "activation" (label-free), "self" (gradient of the cross-entropy to the model's own most likely token:
            label-free), "gradient" (of the true next token: **the code then depends on the answer**).
        mode: "batch" or "threshold". sequences: stop after so many; None: all, once.

    Raises:
        SparselandError: an unknown select, no labels, a width that is not the autoencoder's.

    Differs from the paper (arXiv 2411.10397): its evaluation could not be read; all three selections are given here.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (3, 5)))
    >>> found = recovered(SparseAutoencoder(SAEConfig(4, 8, k=2)), source)
    >>> found.tokens, abs(found.arms["zero"].recovered) < 1e-6
    (12, True)
    """
    for select in selects:
        if select not in SELECTS:
            raise SparselandError(f"select={select!r}: {nearest(select, SELECTS)}")
    plain = ModelActivations(source.model, source.layer, source.data.data, at=source.at, batch=source.data.batch,
                             shuffle=False, special=source.special.tolist(), skip_first=source.skip_first)  # fmt: skip
    arms = {name: _Arm(sae.config.d_sae) for name in selects} | {"zero": _Arm(None), "mean": _Arm(None)}
    mean = mean_activation(plain, sequences)
    if len(mean) != sae.config.d_in:
        raise SparselandError(f"the activations are {len(mean)} wide; the autoencoder reads d_in={sae.config.d_in}")
    clean_ce, tokens = 0.0, 0
    for reading in limited(plain, sequences):
        clean = _logits(plain, reading, None)
        losses, counts = token_losses(clean, reading.inputs)
        clean_ce, tokens = clean_ce + float(losses.double().sum()), tokens + int(counts.sum())
        for name, arm in arms.items():
            arm.add(_logits(plain, reading, _change(sae, plain, reading, name, arm, mean, mode)), clean, reading)
    if not tokens:
        raise SparselandError("no token has a label: nothing to measure")
    return _recovery(clean_ce / tokens, tokens, arms)


def _recovery(clean: float, tokens: int, arms: dict[str, _Arm]) -> Recovery:
    zero, mean = arms["zero"].ce / tokens, arms["mean"].ce / tokens

    def share(ce: float, worst: float) -> float:
        return (worst - ce) / (worst - clean) if worst != clean else float("nan")

    found = {}
    for name, arm in arms.items():
        ce = arm.ce / tokens
        numbers = (ce, ce - clean, share(ce, zero), share(ce, mean), arm.kl / tokens)
        found[name] = Spliced(*numbers, metrics={} if arm.metrics is None else arm.metrics.result())
    return Recovery(clean, tokens, found)


def _change(
    sae: SparseAutoencoder, source: ModelActivations, reading: Reading, name: str, arm: _Arm, mean: Tensor, mode: str
) -> Callable[[Tensor], Tensor]:
    """What replaces the rows of this batch."""
    if name == "zero":
        return torch.zeros_like
    if name == "mean":
        return lambda x: mean.to(x).expand_as(x)
    g = None
    if name != "activation":
        loss = SELF if name == "self" else "next_token"
        with torch.enable_grad():
            _, whole = activation_gradients(source.model, source.layer, reading.inputs, loss=loss, at=source.at)
        g = whole[reading.kept.to(whole.device)]

    def exchange(x: Tensor) -> Tensor:
        x_hat, codes = reconstruct(sae, x.float(), None if g is None else g.float(), mode)
        if arm.metrics is not None:
            arm.metrics.update(x.float(), x_hat, codes)
        return x_hat

    return exchange


def _logits(source: ModelActivations, reading: Reading, change: Callable[[Tensor], Tensor] | None) -> Tensor:
    with torch.no_grad():
        if change is None:
            return logits_of(call(source.model, reading.inputs))
        with splice(source.model, source.layer, change, at=source.at, kept=reading.kept):
            return logits_of(call(source.model, reading.inputs))


def limited(source: ModelActivations, sequences: int | None) -> Iterator[Reading]:
    """The readings of one epoch, until so many sequences were seen."""
    seen = 0
    for reading in source.readings():
        if sequences is not None and seen >= sequences:
            return
        seen += len(reading.x)
        yield reading


def mean_activation(source: ModelActivations, sequences: int | None = None) -> Tensor:
    """Mean of the kept activations, [d].

    Raises:
        SparselandError: there are none, or the text can be read only once (it will be read again).
    """
    if not source.repeats:
        raise SparselandError("the text is read twice; give ModelActivations a tensor, or a function that makes it")
    total: Tensor | None = None
    count = 0
    for reading in limited(source, sequences):
        rows = reading.x[reading.kept.to(reading.x.device)].double()
        total = rows.sum(0) if total is None else total + rows.sum(0)
        count += len(rows)
    if total is None or not count:
        raise SparselandError("no activations are kept: every token is padding or special")
    return (total / count).float()


def output_similarity(
    sae: SparseAutoencoder,
    source: ModelActivations,
    read: Callable[[Any, Reading], Tensor],
    *,
    mode: str = "batch",
    sequences: int | None = None,
) -> dict[str, float]:
    """Faithfulness for models without a next-token loss: what the spliced model says against what the clean one says.

    cosine = mean cos(read(clean), read(spliced));  nmse = Σ‖a − b‖² / Σ‖a − mean(a)‖², a clean, b spliced

    Parameters:
        read: from the model's outputs and the reading to one vector a sequence, [B, D] (a sentence embedding, logits).

    Returns:
        cosine and nmse for "sae" and, as ``zero_…`` and ``mean_…``, for the two ablations.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (3, 5)))
    >>> found = output_similarity(SparseAutoencoder(SAEConfig(4, 8, k=2)), source, lambda y, _: y.mean(1))
    >>> sorted(found)
    ['cosine', 'mean_cosine', 'mean_nmse', 'nmse', 'zero_cosine', 'zero_nmse']
    """
    mean = mean_activation(source, sequences)
    arms: dict[str, list[Tensor]] = {"clean": [], "": [], "zero_": [], "mean_": []}
    changes = {
        "": lambda x: reconstruct(sae, x.float(), None, mode)[0],
        "zero_": torch.zeros_like,
        "mean_": lambda x: mean.to(x).expand_as(x),
    }
    for reading in limited(source, sequences):
        with torch.no_grad():
            arms["clean"].append(read(call(source.model, reading.inputs), reading).double())
            for name, change in changes.items():
                with splice(source.model, source.layer, change, at=source.at, kept=reading.kept):
                    arms[name].append(read(call(source.model, reading.inputs), reading).double())
    clean = torch.cat(arms.pop("clean"))
    spread = float((clean - clean.mean(0)).square().sum())
    found = {}
    for name, parts in arms.items():
        other = torch.cat(parts)
        found[f"{name}cosine"] = float(F.cosine_similarity(clean, other, dim=1).mean())
        error = float((clean - other).square().sum())
        found[f"{name}nmse"] = error / spread if spread else float("nan")
    return found
