"""A plan: what stays of a network, as plain data; and how it is carried out, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.errors import InfeasibleBudget, SparselandError, TargetError, nearest
from ..optimizer_state import unwrap
from ..targets import plain_module
from . import surgery
from .folding import fold_
from .numbers import Place
from .surgery import Cut

if TYPE_CHECKING:
    from .graph import Graph


@dataclass(frozen=True, eq=False)
class Plan:
    """What stays of a network.

    Parameters:
        keep: {group: bool tensor}.
        cuts: the same, for each dimension of each parameter and buffer that loses something.
        attributes: integers of modules that change with it (numbers of heads, of groups of a convolution, …).
        before, after: (FLOPs, parameters).
        reach: {group: the dimensions that lose something with it}, for `explain`.
        folded: {layer: what became of the constants of removed channels}, filled by ``apply(fold=…)``.
    """

    keep: dict[str, Tensor]
    cuts: tuple[Cut, ...]
    attributes: dict[Place, int]
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    reach: dict[str, list[str]] = field(default_factory=dict, repr=False)
    folded: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def widths(self) -> dict[str, int]:
        """{group: number of units that stay}."""
        return {name: int(mask.sum()) for name, mask in self.keep.items()}

    def explain(self) -> str:
        """A table for people: what each group loses and what that saves.

        >>> import sparseland.weights.structure as structure
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = structure.trace(net, torch.zeros(1, 4))
        >>> print(graph.plan(scores=graph.random(), ratio=0.5).explain())
        FLOPs 96 -> 48 (50.0 % remain), parameters 58 -> 30 (51.7 % remain)
        0: 8 -> 4 units (removed: 4); cut: 0.weight[0], 0.bias[0], 2.weight[1]
        """
        (flops, params), (flops_left, params_left) = self.before, self.after
        lines = [
            f"FLOPs {flops:,} -> {flops_left:,} ({100 * flops_left / max(flops, 1):.1f} % remain), "
            f"parameters {params:,} -> {params_left:,} ({100 * params_left / max(params, 1):.1f} % remain)"
        ]
        for name, mask in self.keep.items():
            left = int(mask.sum())
            if left < mask.numel():
                touched = ", ".join(self.reach.get(name, ()))
                after = f"; cut: {touched}" if touched else ""
                lines.append(f"{name}: {mask.numel()} -> {left} units (removed: {mask.numel() - left}){after}")
        lines += [f"{place} becomes {value}" for place, value in self.attributes.items()]
        return "\n".join(lines)

    def mask_(self, model: nn.Module) -> nn.Module:
        """Write zeros in place of everything that `apply` would remove: the masked twin, with the same outputs.

        Also what reads the removed units is zeroed: a unit that is constant and not zero (the sigmoid of nothing)
        would still count.

        >>> import sparseland.weights.structure as structure
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
        >>> graph = structure.trace(net, torch.zeros(1, 4))
        >>> plan, x = graph.plan(scores=graph.weight_norms(), ratio=0.5), torch.randn(3, 4)
        >>> masked = plan.mask_(net)(x)
        >>> torch.allclose(masked, plan.apply(net)(x), atol=1e-6)
        True
        """
        model = plain_module(model)
        surgery.check(model, self.cuts)
        surgery.mask(model, self.cuts)
        return model

    def apply(
        self, model: nn.Module, optimizer: object = None, *, fold: bool | str = False, sample: Any = None
    ) -> nn.Module:
        """Remove what does not stay, in place; parameters stay the same objects, so that optimizers keep them.

        Parameters:
            optimizer: its state follows (momentum and moments lose the same positions).
            fold: True adds what removed channels still give when the scale of their BatchNorm is taken as zero (the
                activation of its shift) to the biases or running means of what follows, where that is exact; "interior"
                also where zero padding makes it wrong at the borders of an image. Needs ``sample`` (as in `trace`).
                Afterwards ``plan.folded`` says what was done for each layer.

        Raises:
            TargetError: the model is not the one of the plan. Nothing was changed then.

        >>> import sparseland.weights.structure as structure
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = structure.trace(net, torch.zeros(1, 4))
        >>> graph.plan(scores=graph.random(), ratio=0.25).apply(net)
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=2, bias=True)
        )
        """
        model = plain_module(model)
        owner = None if optimizer is None else unwrap(optimizer)
        surgery.check(model, self.cuts)
        if fold not in (True, False, "interior"):
            raise SparselandError(f"unknown fold {fold!r}: {nearest(fold, ['False', 'True', 'interior'])}")
        if fold:
            self.folded.clear()
            self.folded.update(fold_(model, self.cuts, sample, borders=fold == "interior"))
        surgery.cut(model, self.cuts, owner)
        for place, value in self.attributes.items():
            place.write(model, value)
        surgery.rename_sizes(model, {cut.name for cut in self.cuts})
        return model

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "format": "sparseland structure plan 1",
            "keep": {name: _packed(mask) for name, mask in self.keep.items()},
            "cuts": [{"name": c.name, "dim": c.dim, **_packed(c.left)} for c in self.cuts],
            "attributes": [
                {"module": p.path, "name": p.name, "index": p.index, "value": v} for p, v in self.attributes.items()
            ],
            "before": list(self.before),
            "after": list(self.after),
            "reach": {name: list(touched) for name, touched in self.reach.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` wrote.

        Raises:
            SparselandError: it is none.

        >>> plan = Plan({"a": torch.tensor([True, False])}, (), {})
        >>> Plan.from_dict(plan.to_dict()).keep["a"].tolist()
        [True, False]
        """
        try:
            if data["format"] != "sparseland structure plan 1":
                raise KeyError(data["format"])
            return cls(
                {str(name): _unpacked(mask) for name, mask in data["keep"].items()},
                tuple(Cut(str(c["name"]), int(c["dim"]), _unpacked(c)) for c in data["cuts"]),
                {Place(p["module"], p["name"], p["index"]): int(p["value"]) for p in data["attributes"]},
                (int(data["before"][0]), int(data["before"][1])),
                (int(data["after"][0]), int(data["after"][1])),
                {str(name): list(touched) for name, touched in data["reach"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SparselandError(f"no plan of sparseland's structure: {error!r} is missing or wrong") from error


def _packed(mask: Tensor) -> dict[str, Any]:
    """A mask as runs: [kept, removed, kept, …]."""
    values, counts = torch.unique_consecutive(mask, return_counts=True)
    runs = counts.tolist()
    return {"size": mask.numel(), "runs": runs if not mask.numel() or bool(values[0]) else [0, *runs]}


def _unpacked(data: Mapping[str, Any]) -> Tensor:
    runs = [int(n) for n in data["runs"]]
    if sum(runs) != data["size"] or min(runs, default=0) < 0:
        raise ValueError(f"runs of {sum(runs)} for {data['size']} units")
    return torch.repeat_interleave(torch.arange(len(runs)) % 2 == 0, torch.tensor(runs, dtype=torch.long))


def checked_keep(graph: Graph, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks as bool, one for every group that is named; raises where they do not fit."""
    result = {}
    for name, mask in keep.items():
        group = graph[name]
        mask = torch.as_tensor(mask).detach().cpu()
        if mask.shape != (group.size,) or (mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all())):
            raise SparselandError(
                f"group {name!r} has {group.size} units and needs as many entries, True or False; got "
                f"{tuple(mask.shape)} of {mask.dtype}"
            )
        mask = mask.bool()
        if not group.prunable and not bool(mask.all()):
            raise TargetError(f"units of {name!r} cannot go: {group.why}")
        if not bool(mask.any()):
            raise InfeasibleBudget(f"group {name!r} would lose all of its {group.size} units; keep at least one")
        result[name] = mask
    return result
