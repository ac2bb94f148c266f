"""Physically removing channels, heads and hidden units: trace, plan, apply.

    graph = structure.trace(model, sample)                                  # what goes together
    plan = graph.plan(scores=graph.weight_norms(), flops=0.5)               # what stays
    print(plan.explain())
    small = plan.apply(model, optimizer)                                    # removed, in place

No rules for single architectures: the network runs once, and every operation says which axes it ties together.
"""

from __future__ import annotations

from .graph import Graph, Group, Member, trace
from .plan import Plan
from .stored import load, save

__all__ = ["Graph", "Group", "Member", "Plan", "load", "save", "trace"]
