"""What a sparse autoencoder is: sizes, activation, selection, losses. Plain data, checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from ...core.errors import InfeasibleBudget, SparselandError, nearest

# activation -> the rule of `core.matching.allocate` that chooses its codes; None: each code decides for itself
RULES: dict[str, str | None] = {
    "topk": "token",
    "batchtopk": "mutual",
    "feature": "feature",
    "mutual_then_feature": "mutual",
    "groupmax": "groupmax",
    "relu": None,
    "jumprelu": None,
    "gated": None,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "activation": tuple(RULES),
    "select": ("activation", "gradient", "self"),
    "grad_norm": ("none", "batch_rms", "token_l2"),
    "normalize": ("none", "layer_norm", "expected_l2", "token_rms"),
    "aux": ("none", "aux_k", "aux_zipf"),
    "budget": ("zipf", "density"),
    "dtype": ("float32", "float64", "bfloat16"),
}
ALIASES = {"mutual": "batchtopk", "mc": "batchtopk", "fc": "mutual_then_feature"}


class NotCalibrated(SparselandError, RuntimeError):
    """Thresholds were asked for before training had set them."""


@dataclass(frozen=True)
class SAEConfig:
    """Sizes and choices of a `SparseAutoencoder`.

    Parameters:
        d_in: width of an activation. d_sae: number of features F, usually 8 … 32 times d_in.
        activation: how codes are chosen. ``topk`` (k a token), ``batchtopk`` (mutual choice: k·B of the whole batch),
            ``feature`` (feature choice: m_i tokens for feature i, sum of m_i = k·B), ``mutual_then_feature`` (the
            second after the first ``stage_split`` of training), ``groupmax`` (the best of each of k groups),
            ``relu`` (+ L1), ``jumprelu`` (+ L0), ``gated``.
        k: codes a token, on average; 1 … d_sae. Not used by the last three activations.
        l1_coefficient: times mean sum(|f|) in units of the data's size (relu, gated). l0_coefficient: times mean L0
            (jumprelu). bandwidth: of the jump's pseudo-derivative, in units of the codes. threshold_init: jumps at
            the start.
        select: what is ranked. ``activation``: the code z. ``gradient`` and ``self``: z (1 + beta |W_dec g|), g the
            gradient handed to `forward` (of the loss, or of one without labels). beta >= 0; grad_norm: g as it is,
            over its batch's root mean square, or over each token's norm.
        normalize: of the input: none, per token to mean 0 and deviation 1, scaled to an expected norm of sqrt(d_in),
            per token to root mean square 1. What is reconstructed is in the input's units.
        aux: second chance for dead (aux_k) or for dead and underused features (aux_zipf).
            aux_coefficient: its weight. k_aux: features that try, None = d_in // 2. underused: a feature is, below this
            share of the density the Zipf curve expects. dead_window: tokens without firing until a feature is dead.
        multi_topk: weight of a second reconstruction with 4 k codes; 0 = none (topk and batchtopk).
        stage_split: share of the steps before feature choice begins. refit_every: steps between fits of the budgets.
        budget: of a feature under feature choice: ``zipf``, the fitted curve at its rank, or ``density``, its own
            running density (a curve's cap starves features that nearly every token needs).
        zipf: (s, b) of budgets m_r ~ (r + b)^-s for ``feature`` before the first fit.
        density_decay, threshold_decay: of the running means.
        tied_init: W_enc starts as W_dec transposed. apply_b_dec_to_input: b_dec is taken off the input first.
        unit_decoder: rows of W_dec are held at norm 1.
        dtype: "float32", "float64" or "bfloat16". seed: of the initial weights.

    Raises:
        SparselandError: an unknown choice or a number out of range. InfeasibleBudget: k outside 1 … d_sae.

    >>> SAEConfig(64, 1024, k=8).rule
    'token'
    >>> SAEConfig(4, 8, k=9)
    Traceback (most recent call last):
    sparseland.core.errors.InfeasibleBudget: k=9 codes a token were asked of d_sae=8 features; possible: 1 … 8
    """

    d_in: int
    d_sae: int
    activation: str = "topk"
    k: int = 32
    l1_coefficient: float = 0.1
    l0_coefficient: float = 1e-3
    bandwidth: float = 0.05
    threshold_init: float = 0.01
    select: str = "activation"
    beta: float = 0.0
    grad_norm: str = "none"
    normalize: str = "none"
    aux: str = "none"
    aux_coefficient: float = 1 / 32
    k_aux: int | None = None
    underused: float = 0.5
    dead_window: int = 10_000_000
    multi_topk: float = 0.0
    stage_split: float = 0.7
    refit_every: int = 1000
    budget: str = "zipf"
    zipf: tuple[float, float] = (1.0, 20.0)
    density_decay: float = 0.99
    threshold_decay: float = 0.99
    tied_init: bool = True
    apply_b_dec_to_input: bool = True
    unit_decoder: bool = True
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", ALIASES.get(self.activation, self.activation))
        object.__setattr__(self, "zipf", tuple(self.zipf))
        for name, options in CHOICES.items():
            if (value := getattr(self, name)) not in options:
                raise SparselandError(f"{name}={value!r}: {nearest(value, options)}")
        for name in ("d_in", "d_sae", "k", "dead_window", "refit_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SparselandError(f"{name} is a whole number from 1; got {value!r}")
        if self.k_aux is not None and not self.k_aux >= 1:
            raise SparselandError(f"k_aux is a whole number from 1, or None for d_in // 2; got {self.k_aux!r}")
        if self.rule is not None and self.k > self.d_sae:
            raise InfeasibleBudget(
                f"k={self.k} codes a token were asked of d_sae={self.d_sae} features; possible: 1 … {self.d_sae}"
            )
        if self.activation == "groupmax" and self.d_sae % self.k:
            raise InfeasibleBudget(f"groupmax needs d_sae divisible by k; {self.d_sae} is not divisible by {self.k}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        nonnegative = ("beta", "l1_coefficient", "l0_coefficient", "aux_coefficient", "multi_topk", "threshold_init")
        for name in nonnegative:
            if not getattr(self, name) >= 0:
                raise SparselandError(f"{name} is at least 0; got {getattr(self, name)!r}")
        for name in ("stage_split", "density_decay", "threshold_decay", "underused"):
            if not 0 <= getattr(self, name) <= 1:
                raise SparselandError(f"{name} is a number in [0, 1]; got {getattr(self, name)!r}")
        if not self.bandwidth > 0:
            raise SparselandError(f"bandwidth is above 0; got {self.bandwidth!r}")
        if self.beta and self.select == "activation":
            raise SparselandError(f"beta={self.beta} has no effect with select='activation'; use 'gradient' or 'self'")
        if self.rule is None and self.select != "activation":
            raise SparselandError(f"select={self.select!r} ranks codes, and {self.activation} does not rank any")
        if self.multi_topk and self.activation not in ("topk", "batchtopk"):
            raise SparselandError(f"multi_topk goes with topk and batchtopk, not with {self.activation}")

    @property
    def rule(self) -> str | None:
        """The rule of `core.matching.allocate`; None for relu, jumprelu and gated."""
        return RULES[self.activation]

    @property
    def aux_features(self) -> int:
        """k_aux, or d_in // 2."""
        return self.k_aux or max(self.d_in // 2, 1)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch calls it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def replace(self, **changes: Any) -> SAEConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` is the way back."""
        return dataclasses.asdict(self) | {"zipf": list(self.zipf)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SAEConfig:
        """From plain data; unknown names are refused.

        >>> SAEConfig.from_dict(SAEConfig(4, 8, k=2).to_dict()) == SAEConfig(4, 8, k=2)
        True
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(data) - known:
            raise SparselandError(f"unknown field {min(unknown)!r}: {nearest(min(unknown), known)}")
        return cls(**data)
