"""Counters: exact non-zeros, floating-point operations, bytes, memory, how masks move, and what a method is."""

from .card import SparsityCard, card_of
from .clusters import Clusters, cluster_bytes
from .dynamics import check_fits, churn, dead_units, exploration, overlap, survival, with_overlap
from .flops import Cost, trace
from .memory import activation_bytes, peak, reset_peak, training_bytes
from .nonzeros import SCOPES, Counts, LayerCount, count, fitting, pattern_of
from .storage import bitmask_bytes, break_even, csr_bytes, dense_bytes, nm_bytes, smallest
from .timing import UNSTABLE, summary, take_turns
from .training import Meter, printed_agrees, route_flops, step_flops, step_parts, training_ratio

__all__ = [
    "SCOPES",
    "Clusters",
    "Cost",
    "Counts",
    "LayerCount",
    "Meter",
    "UNSTABLE",
    "SparsityCard",
    "activation_bytes",
    "bitmask_bytes",
    "break_even",
    "card_of",
    "check_fits",
    "churn",
    "cluster_bytes",
    "count",
    "csr_bytes",
    "dead_units",
    "dense_bytes",
    "exploration",
    "fitting",
    "nm_bytes",
    "overlap",
    "pattern_of",
    "peak",
    "printed_agrees",
    "reset_peak",
    "route_flops",
    "smallest",
    "step_flops",
    "step_parts",
    "summary",
    "survival",
    "take_turns",
    "trace",
    "training_bytes",
    "training_ratio",
    "with_overlap",
]
