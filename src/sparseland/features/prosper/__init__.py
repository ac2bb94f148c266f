"""Probabilistic sparse coding: six models learned by Expectation Truncation, with the manners of scikit-learn."""

from __future__ import annotations

from .annealing import Annealing, UnknownCurve
from .bars import Bars, Match, bar_components, match, sample_bars
from .bsc import BSC
from .dsc import DSC
from .estimator import SparseCoding
from .gsc import GSC
from .inference import Posterior
from .maxima import MCA, MMCA
from .parallel import shard
from .patches import GaborFit, Whitening, cut_patches, from_on_off, gabor_fit, on_off, whitening
from .tsc import TSC

__all__ = [
    "BSC",
    "DSC",
    "GSC",
    "MCA",
    "MMCA",
    "TSC",
    "Annealing",
    "Posterior",
    "SparseCoding",
    "UnknownCurve",
    "shard",
    "Bars",
    "GaborFit",
    "Match",
    "Whitening",
    "bar_components",
    "cut_patches",
    "from_on_off",
    "gabor_fit",
    "match",
    "on_off",
    "sample_bars",
    "whitening",
]
