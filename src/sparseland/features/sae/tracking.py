"""What an autoencoder remembers of its batches: densities, silence, thresholds, and the budgets that follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import InfeasibleBudget, SparselandError
from ...core.matching import shares
from .codes import Codes
from .config import NotCalibrated, SAEConfig
from .density import Zipf, budgets, ranks, steadied


class Tracked(nn.Module):
    """Buffers of an autoencoder, none of them trained by gradients.

    Parameters:
        config: a `SAEConfig`. ``threshold``: () or (F,), below 0 until calibrated. ``density``: (F,) running mean that
        starts at 0. ``since_fired``: (F,) tokens. ``rank``: (F,) of the Zipf budgets; ``zipf``: c, s, b, R2.
        ``share``: (F,) densities at the last fit.
        ``expected``: scale of expected_l2.

    >>> from sparseland.features import SparseAutoencoder
    >>> sae = SparseAutoencoder(SAEConfig(4, 8, k=2)); sae.observe_(sae.codes(torch.randn(6, 4)))
    >>> int(sae.tokens_seen), round(float(sae.densities.sum()), 4)
    (6, 2.0)
    """

    threshold: Tensor
    density: Tensor
    since_fired: Tensor
    rank: Tensor
    share: Tensor
    zipf: Tensor
    expected: Tensor
    tokens_seen: Tensor
    observed: Tensor
    batch_seen: Tensor
    fitted: Tensor
    feature_stage: Tensor

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        if not isinstance(config, SAEConfig):
            raise TypeError(f"config is a SAEConfig, not {type(config).__name__}")
        self.config, self.k_now, width = config, config.k, config.d_sae
        shape = (width,) if config.activation in ("feature", "mutual_then_feature") else ()
        self.register_buffer("threshold", torch.full(shape, -1.0))
        self.register_buffer("density", torch.zeros(width))
        self.register_buffer("since_fired", torch.zeros(width, dtype=torch.int64))
        self.register_buffer("rank", torch.arange(width))
        self.register_buffer("share", torch.ones(width))
        self.register_buffer("zipf", torch.tensor([0.0, *config.zipf, 0.0], dtype=torch.float64))
        self.register_buffer("expected", torch.ones(()))
        for name in ("tokens_seen", "observed", "batch_seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("feature_stage", torch.tensor(config.activation == "feature"))
        self._counts: tuple[tuple[int, int], Tensor] | None = None

    @property
    def current_rule(self) -> str | None:
        """The rule in force: that of the configuration, and ``feature`` once that stage has begun."""
        return "feature" if bool(self.feature_stage) else self.config.rule

    @property
    def densities(self) -> Tensor:
        """(F,) running share of tokens each feature is active for, without the bias of its start at zero."""
        steps = int(self.observed)
        return self.density / (1 - self.config.density_decay**steps) if steps else self.density

    @property
    def dead(self) -> Tensor:
        """(F,) bool: not fired for ``dead_window`` tokens."""
        return self.since_fired >= self.config.dead_window

    def shortfall(self) -> Tensor:
        """(F,) in [0, 1]: how much each feature deserves a second chance.

        aux_k: 1 for dead ones. aux_zipf: max(0, 1 - density / (underused * p)), p the Zipf density at its rank.
        """
        dead = self.dead.to(torch.float32)
        if self.config.aux != "aux_zipf" or not bool(self.fitted):
            return dead
        expected = Zipf(*self.zipf.tolist()).density(self.config.d_sae).to(self.density.device)
        expected = expected[ranks(self.densities)].clamp(min=1 / self.config.dead_window).float()
        short = (1 - self.densities / (self.config.underused * expected)).clamp(min=0)
        return torch.maximum(short, dead)

    def calibrated(self) -> Tensor:
        """The thresholds; features that never fired get infinity.

        Raises:
            NotCalibrated: training has not set any yet.
        """
        if not bool((self.threshold >= 0).any()):
            raise NotCalibrated(
                f"the threshold of {self.config.activation} is not calibrated (it is {float(self.threshold.max()):g}); "
                "train some steps, or call observe_ on codes of batches"
            )
        return self.threshold.masked_fill(self.threshold < 0, torch.inf)

    def counts(self, tokens: int, k: int | None = None) -> Tensor:
        """(F,) int64: tokens m_i that each feature may have in a batch of that size; they add up to k * tokens."""
        k = k or self.k_now
        if k > self.config.d_sae:
            raise InfeasibleBudget(f"k={k} codes a token were asked of {self.config.d_sae} features")
        if self._counts is None or self._counts[0] != (tokens, k):
            if self.config.budget == "density":
                found = shares(self.share, k * tokens, high=tokens)
            else:
                found = budgets(Zipf(*self.zipf.tolist()), self.rank, k, tokens)
            self._counts = ((tokens, k), found)
        return self._counts[1]

    @torch.no_grad()
    def observe_(self, codes: Codes) -> None:
        """Take note of a batch's codes: densities, tokens since each feature fired, thresholds."""
        tokens, c = codes.offsets.numel() - 1, self.config
        fired = codes.fired()
        self.tokens_seen += tokens
        self.observed += 1
        self.batch_seen.fill_(tokens)
        self.density.lerp_(fired.to(self.density.dtype) / tokens, 1 - c.density_decay)
        self.since_fired += tokens
        self.since_fired[fired > 0] = 0
        if self.current_rule == "mutual" and codes.values.numel():
            least = codes.values.detach().min().to(self.threshold.dtype).expand(self.threshold.shape)
        elif self.current_rule == "feature":
            least = torch.full_like(self.threshold, torch.inf)
            least.scatter_reduce_(0, codes.features, codes.values.detach().to(least.dtype), "amin")
        else:
            return
        moved = torch.where(self.threshold < 0, least, self.threshold.lerp(least, 1 - c.threshold_decay))
        self.threshold.copy_(torch.where(torch.isfinite(least), moved, self.threshold))

    def refit_(self) -> Zipf:
        """Fit the Zipf curve to the densities seen, and rank features by them (later: with hysteresis)."""
        seen = self.densities
        curve = Zipf.fit(seen)
        self.zipf.copy_(torch.tensor([curve.c, curve.s, curve.b, curve.r2], dtype=torch.float64))
        new = ranks(seen)
        self.rank.copy_(steadied(self.rank, new) if bool(self.feature_stage) and bool(self.fitted) else new)
        self.share.copy_(seen.clamp(min=1e-9))
        self.fitted.fill_(True)
        self._counts = None
        return curve

    def begin_feature_stage_(self) -> Zipf:
        """From mutual to feature choice: budgets from the densities seen so far; thresholds are learned anew."""
        if self.config.activation != "mutual_then_feature":
            raise SparselandError(f"only mutual_then_feature has a second stage, not {self.config.activation}")
        curve = self.refit_()
        self.feature_stage.fill_(True)
        self.threshold.fill_(-1.0)
        return curve
