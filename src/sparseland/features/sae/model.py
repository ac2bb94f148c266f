"""The sparse autoencoder: one encoder, one decoder, and an activation that allocates over (tokens x features)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError, nearest
from ...kernels.sparse_code import Decode, Encode
from . import choose
from .codes import Codes
from .config import SAEConfig
from .inputs import Normalised, check_gradient, check_input, geometric_median, normalise, scaled_gradient
from .losses import Jump, Step, second_chance, unexplained, variation
from .tracking import Tracked

MODES = ("batch", "threshold")


@dataclass
class Output:
    """What one pass gives.

    Parameters:
        x_hat: reconstruction, the input's shape and units. codes: `Codes` of all tokens, one after the other.
        loss: the sum of ``losses``: reconstruction (fraction of variance unexplained), and aux, sparsity, multi_topk,
        gate where the configuration asks for them, already times their coefficients.
    """

    x_hat: Tensor
    codes: Codes
    loss: Tensor
    losses: dict[str, Tensor]

    @property
    def values(self) -> Tensor:
        """(entries,) active codes, token after token."""
        return self.codes.values

    @property
    def indices(self) -> Tensor:
        """(entries,) the feature of each active code."""
        return self.codes.features


class SparseAutoencoder(Tracked):
    """x_hat = W_dec^T f + b_dec, f = S * ReLU(W_enc^T (x - b_dec) + b_enc), S chosen under a budget.

    Parameters:
        config: a `SAEConfig`.

    Weights have SAELens' names and shapes: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in) with rows of norm
    1, b_dec (d_in,). W_enc is held feature by feature in memory (its transpose is contiguous), so that the few active
    features are read and written in whole rows. Buffers are ``threshold``, ``since_fired`` (tokens), ``tokens_seen``,
    running densities and the Zipf fit. With several processes each spends k * (its own batch); budgets are not
    exchanged between ranks.

    Raises:
        SparselandError: activations of another width, a batch of one token where codes depend on the batch.

    >>> sae = SparseAutoencoder(SAEConfig(16, 64, k=4))
    >>> output = sae(torch.randn(8, 16))
    >>> output.x_hat.shape, output.codes.l0.tolist() == [4] * 8, sae.encode(torch.randn(2, 3, 16)).shape
    (torch.Size([8, 16]), True, torch.Size([2, 3, 64]))

    Source: Ayonrinde 2024 (arXiv 2411.02124), Gao et al. 2024 (2406.04093), Bussmann et al. 2024 (2412.06410),
    Rajamanoharan et al. 2024 (2404.16014, 2407.14435), Olmo et al. 2024 (2411.10397).
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        d, width, dtype = config.d_in, config.d_sae, config.torch_dtype
        generator = torch.Generator().manual_seed(config.seed)
        decoder = torch.randn(width, d, generator=generator)
        decoder /= decoder.norm(dim=1, keepdim=True)
        encoder = decoder.clone() if config.tied_init else torch.randn(width, d, generator=generator) / d**0.5
        self.W_enc = nn.Parameter(encoder.to(dtype).t())
        self.b_enc = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.W_dec = nn.Parameter(decoder.to(dtype))
        self.b_dec = nn.Parameter(torch.zeros(d, dtype=dtype))
        if config.activation == "jumprelu":
            start = torch.full((width,), config.threshold_init, dtype=dtype)
            self.log_threshold = nn.Parameter(start.log())
        if config.activation == "gated":
            self.r_mag = nn.Parameter(torch.zeros(width, dtype=dtype))
            self.b_mag = nn.Parameter(torch.zeros(width, dtype=dtype))

    # ------------------------------------------------------------------------------------------------------ in and out
    def forward(self, x: Tensor, gradient: Tensor | None = None, *, mode: str = "batch") -> Output:
        tokens = check_input(x, self.config.d_in).to(self.W_dec.dtype)
        normal = normalise(tokens, self.config.normalize, self.expected)
        if self.config.rule is None:
            codes, y, losses = self._dense_pass(normal.x)
        else:
            if gradient is None and self.config.select != "activation" and self.training:
                raise SparselandError(
                    f"select={self.config.select!r} ranks by a gradient, and none was given: hand over (x, g)"
                )
            g = self._gradient(gradient, x, normal, mode)
            codes = self._codes(normal.x, g, mode)
            y = self._decoded(codes)
            losses = {"reconstruction": unexplained(normal.x, y)}
            if self.training and self.config.multi_topk:
                wider = min(4 * self.k_now, self.config.d_sae)
                more = self._decoded(self._codes(normal.x, g, mode, k=wider))
                losses["multi_topk"] = self.config.multi_topk * unexplained(normal.x, more)
        if self.training and self.config.aux != "none":
            losses["aux"] = self._aux(normal.x, y)
        x_hat = normal.back(y).to(x.dtype).view(x.shape)
        return Output(x_hat, codes, torch.stack([*losses.values()]).sum(), losses)

    def codes(self, x: Tensor, *, mode: str = "batch", gradient: Tensor | None = None) -> Codes:
        """Active codes of activations (…, d_in), with gradient.

        Parameters:
            mode: ``batch`` spends the budget on this batch; ``threshold`` uses calibrated thresholds, so that no token
                depends on another (the same as batch for topk, groupmax, relu, jumprelu and gated).
            gradient: g, of x's shape; with select="gradient" or "self" in batch mode.
        """
        tokens = check_input(x, self.config.d_in).to(self.W_dec.dtype)
        normal = normalise(tokens, self.config.normalize, self.expected)
        if self.config.rule is None:
            return Codes.of(self._activated(self._products(normal.x)))
        return self._codes(normal.x, self._gradient(gradient, x, normal, mode), mode)

    def encode(self, x: Tensor, *, mode: str = "batch", gradient: Tensor | None = None) -> Tensor:
        """Codes as a table (…, d_sae); zero where inactive. Arguments as of `codes`."""
        return self.codes(x, mode=mode, gradient=gradient).dense().view(*x.shape[:-1], self.config.d_sae)

    def decode(self, f: Tensor | Codes) -> Tensor:
        """f W_dec + b_dec of codes (…, d_sae) or `Codes`.

        In the input's units, unless the input is normalised per token: then in normalised units (`forward` undoes it).
        """
        if isinstance(f, Codes):
            y = self._decoded(f)
        else:
            if f.shape[-1] != self.config.d_sae:
                raise SparselandError(f"codes of width {self.config.d_sae} were expected; got {tuple(f.shape)}")
            y = f.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        return y * self.expected.to(y.dtype) if self.config.normalize == "expected_l2" else y

    def pre_activations(self, x: Tensor) -> Tensor:
        """W_enc^T (x - b_dec) + b_enc of every feature, (…, d_sae): the table that selection never has to hold."""
        tokens = check_input(x, self.config.d_in).to(self.W_dec.dtype)
        found = self._products(normalise(tokens, self.config.normalize, self.expected).x)
        return found.view(*x.shape[:-1], self.config.d_sae)

    def extra_repr(self) -> str:
        """Sizes and activation."""
        c = self.config
        return f"d_in={c.d_in}, d_sae={c.d_sae}, activation={c.activation!r}, k={c.k}"

    # -------------------------------------------------------------------------------------------------------- the parts
    def _shift(self) -> Tensor:
        return self.b_dec if self.config.apply_b_dec_to_input else torch.zeros_like(self.b_dec)

    def _products(self, x: Tensor) -> Tensor:
        return (x - self._shift()) @ self.W_enc + self.b_enc

    def _decoded(self, codes: Codes) -> Tensor:
        found: Tensor = Decode.apply(codes.values, self.W_dec, codes.offsets, codes.features)
        return found + self.b_dec

    def _codes(self, x: Tensor, g: Tensor | None, mode: str, k: int | None = None) -> Codes:
        shift = self._shift()
        with torch.no_grad():
            chosen = self._chosen((x - shift).contiguous(), g, mode, k or self.k_now)
        if chosen.values.numel() == 0 and x.shape[0] > 1:
            warnings.warn(f"no feature is active for any of {x.shape[0]} tokens: all affinities are <= 0", stacklevel=3)
        if not torch.is_grad_enabled():
            return chosen
        values = Encode.apply(x, shift, self.W_enc.t(), self.b_enc, chosen.offsets, chosen.features, chosen.values)
        return Codes(chosen.offsets, chosen.features, values, chosen.width)

    def _chosen(self, x: Tensor, g: Tensor | None, mode: str, k: int) -> Codes:
        hook = None if g is None else self._hook(g)
        scores = choose.Scores(x, self.W_enc.detach().t().contiguous(), self.b_enc.detach(), hook)
        rule = self.current_rule
        if rule == "token":
            return choose.per_token(scores, k)
        if rule == "groupmax":
            return choose.per_group(scores, k)
        if mode == "threshold":
            return choose.over_threshold(scores, self.calibrated())
        self._check_batch(x.shape[0])
        if rule == "mutual":
            return choose.over_batch(scores, k * x.shape[0])
        return choose.per_feature(scores, self.counts(x.shape[0], k))

    def _hook(self, g: Tensor) -> choose.Score:
        """u = z (1 + beta |W_dec g|): what would be lost with a feature, by activation and by the loss' slope."""
        beta, decoder = self.config.beta, self.W_dec.detach()

        def score(z: Tensor, part: slice) -> Tensor:
            return torch.mm(g[part], decoder.t()).abs_().mul_(beta).add_(1).mul_(z)

        return score

    def _gradient(self, gradient: Tensor | None, x: Tensor, normal: Normalised, mode: str) -> Tensor | None:
        """g in the normalised units, where selection wants one."""
        if mode not in MODES:
            raise SparselandError(f"mode={mode!r}: {nearest(mode, MODES)}")
        if gradient is None:
            return None
        g = check_gradient(gradient, x)
        if mode == "threshold" and self.current_rule in ("mutual", "feature"):
            raise SparselandError("thresholds are compared with codes alone; give a gradient in mode='batch'")
        if not bool(g.any()):
            warnings.warn("the gradient is zero everywhere: the choice is that of select='activation'", stacklevel=4)
        if self.config.beta == 0 or self.config.select == "activation":
            return None
        return scaled_gradient(g * normal.scale, self.config.grad_norm)

    def _check_batch(self, tokens: int) -> None:
        """Mutual and feature choice need a batch."""
        if tokens == 1:
            raise SparselandError(
                f"{self.config.activation} spends a budget over a batch; one token was given. Use mode='threshold'"
            )
        if not self.training and tokens < int(self.batch_seen):
            warnings.warn(
                f"{tokens} tokens share a budget that was trained on batches of {int(self.batch_seen)}; codes depend "
                "on the batch, use mode='threshold' or batches of that size",
                stacklevel=4,
            )

    # --------------------------------------------------------------------------- activations that are not an allocation
    def _activated(self, z: Tensor) -> Tensor:
        if self.config.activation == "relu":
            return torch.relu(z)
        if self.config.activation == "jumprelu":
            found: Tensor = Jump.apply(torch.relu(z), self.log_threshold.exp(), self.config.bandwidth)
            return found
        magnitude = torch.relu((z - self.b_enc) * self.r_mag.exp() + self.b_mag)
        return magnitude * (z > 0)

    def _dense_pass(self, x: Tensor) -> tuple[Codes, Tensor, dict[str, Tensor]]:
        """Every feature decides for itself: codes, reconstruction, losses."""
        z = self._products(x)
        f = self._activated(z)
        y = f @ self.W_dec + self.b_dec
        size = (variation(x) / x.shape[0]).sqrt()
        norms = self.W_dec.norm(dim=1)
        losses = {"reconstruction": unexplained(x, y)}
        c = self.config
        if c.activation == "relu":
            losses["sparsity"] = c.l1_coefficient * (f @ norms).mean() / size
        elif c.activation == "jumprelu":
            count: Tensor = Step.apply(torch.relu(z), self.log_threshold.exp(), c.bandwidth)
            losses["sparsity"] = c.l0_coefficient * count.sum(1).mean()
        else:
            gate = torch.relu(z)
            losses["sparsity"] = c.l1_coefficient * (gate @ norms).mean() / size
            losses["gate"] = unexplained(x, gate @ self.W_dec.detach() + self.b_dec.detach())
        return Codes.of(f), y, losses

    def _aux(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of features that get a second chance; zero if there are none."""
        want = self.shortfall()
        features = want.nonzero().squeeze(1)
        if features.numel() == 0:
            return x.new_zeros(())
        k = min(self.config.aux_features, features.numel())
        rows = self.W_enc.t()
        found = second_chance(
            x - self._shift().detach(),
            (x - y).detach(),
            rows,
            self.b_enc,
            self.W_dec,
            features,
            k,
            want[features].to(x.dtype),
        )
        return self.config.aux_coefficient * min(1.0, features.numel() / self.config.aux_features) * found

    @torch.no_grad()
    def initialise_(self, x: Tensor) -> None:
        """From a sample (N, d_in): the expected norm, and b_dec at the geometric median."""
        tokens = check_input(x, self.config.d_in).to(self.W_dec.dtype)
        if self.config.normalize == "expected_l2":
            norm = tokens.norm(dim=1).mean()
            self.expected.copy_((norm / self.config.d_in**0.5).clamp(min=1e-12))
        self.b_dec.copy_(geometric_median(normalise(tokens, self.config.normalize, self.expected).x))

    @torch.no_grad()
    def unit_decoder_(self) -> None:
        """Rows of W_dec to norm 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12))

    @torch.no_grad()
    def tangent_gradient_(self) -> None:
        """Take the part along its row off W_dec's gradient: a step then keeps the norm to first order."""
        if self.W_dec.grad is not None:
            rows = self.W_dec / self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)
            self.W_dec.grad.sub_(rows * (self.W_dec.grad * rows).sum(1, keepdim=True))
