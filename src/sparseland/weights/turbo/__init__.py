"""Bayesian compression with structured supports (arXiv 2302.10483): prior, messages, mean-field layers, inference."""

from .inference import Inference, Variational
from .layers import BayesConv1d, BayesConv2d, BayesLinear, bayesian_, layers_of, plain_
from .messages import chain_odds, em_step, grid_odds, support_odds
from .posterior import CUTS, Posterior
from .prior import Prior, Support, alternate

__all__ = [
    "CUTS",
    "BayesConv1d",
    "BayesConv2d",
    "BayesLinear",
    "Inference",
    "Posterior",
    "Prior",
    "Support",
    "Variational",
    "alternate",
    "bayesian_",
    "chain_odds",
    "em_step",
    "grid_odds",
    "layers_of",
    "plain_",
    "support_odds",
]
