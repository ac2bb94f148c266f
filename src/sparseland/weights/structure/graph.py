"""The graph of a network's structure: groups of units that go together, and what the network costs without them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError, TargetError, nearest
from ..targets import plain_module
from . import rules_layers
from .axes import Axis, Cat, Dim, Prod, dims, free, kept, lock, resolve, units, width
from .numbers import Number, Place
from .plan import Plan, checked_keep
from .search import choose
from .surgery import Cut
from .tape import Product, Tape, record

INNER = "the inner part of an axis whose outer part goes (heads go, not entries of every head)"


@dataclass(frozen=True)
class Member:
    """One dimension of a parameter or buffer that loses positions with a group.

    Parameters:
        name: of the parameter or buffer.
        dim: the dimension.
        role: what it does with the units: it makes them ("out"), reads them ("in"), scales or shifts them one by one
            ("norm", "bias"), or something that no rule names ("other").
        index: (units, positions of one unit): row u lists the positions along ``dim`` that go with unit u.
    """

    name: str
    dim: int
    role: str
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Units that are removed one by one, everywhere at once.

    Parameters:
        name: of the first module that makes them; with the places there, if it makes other units too.
        size: number of units.
        kind: "channel" (a convolution makes them), "head" (attention goes over them one by one) or "hidden".
        members: every dimension of a parameter or buffer that loses something with them.
        prunable: whether units can go; ``why`` says what stands against it.
    """

    name: str
    size: int
    kind: str
    members: tuple[Member, ...]
    prunable: bool
    why: str = ""
    dim: Dim = field(default_factory=lambda: Dim(0), repr=False, compare=False)


@dataclass(frozen=True)
class Graph:
    """What `trace` found. Counts are of one forward pass on the sample, in FLOPs (2 for each multiply-add).

    Parameters:
        groups: all units, those that can go and those that cannot.
        barriers: (operation, reason) of what could not be followed.
    """

    groups: tuple[Group, ...]
    barriers: tuple[tuple[str, str], ...]
    weights: Mapping[str, list[Axis]] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    parameters: frozenset[str] = field(repr=False)
    products: tuple[Product, ...] = field(repr=False)
    stated: Mapping[Place, Axis] = field(repr=False)
    model: nn.Module = field(repr=False, compare=False)

    def __getitem__(self, name: str) -> Group:
        """The group of this name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise TargetError(f"no group {name!r}; {nearest(name, [g.name for g in self.groups])}")

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups whose units can go."""
        return tuple(group for group in self.groups if group.prunable)

    def _widths(self, widths: Mapping[str, int] | None) -> dict[Dim, int]:
        result = {}
        for name, value in (widths or {}).items():
            group = self[name]
            if not 0 <= value <= group.size:
                raise SparselandError(f"group {name!r} has {group.size} units; a width of {value} was given")
            result[group.dim] = value
        return result

    def flops(self, widths: Mapping[str, int] | None = None) -> int:
        """FLOPs of the network when groups have these widths; of the whole network without."""
        given = self._widths(widths)
        return sum(2 * p.times * math.prod(width(axis, given) for axis in p.axes) for p in self.products)

    def params(self, widths: Mapping[str, int] | None = None) -> int:
        """Number of parameters when groups have these widths."""
        given = self._widths(widths)
        total = 0
        for name in self.parameters:
            axes = self.weights.get(name)
            total += (
                math.prod(width(axis, given) for axis in axes) if axes is not None else math.prod(self.shapes[name])
            )
        return total

    def weight_norms(self, p: float = 2.0) -> dict[str, Tensor]:
        """{group: norm of the weights that make each unit}, for the groups whose units can go.

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))
        >>> trace(net, torch.zeros(1, 2)).weight_norms()["0"].tolist()
        [5.0, 1.0, 0.0]
        """
        tensors = dict(self.model.named_parameters())
        scores = {}
        for group in self.prunable:
            total = torch.zeros(group.size, dtype=torch.float64)
            for member in group.members:
                if member.role == "out" and tensors[member.name].ndim > 1:
                    rows = tensors[member.name].detach().double().abs().pow(p).transpose(0, member.dim).flatten(1)
                    total += rows.sum(1).cpu()[member.index].sum(1)
            scores[group.name] = total.pow(1 / p).float()
        return scores

    def random(self, seed: int = 0) -> dict[str, Tensor]:
        """Scores at random, uniform in [0, 1)."""
        generator = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in self.prunable}

    def plan(
        self,
        keep: Mapping[str, Tensor] | None = None,
        *,
        scores: Mapping[str, Tensor] | None = None,
        flops: float | None = None,
        params: float | None = None,
        ratio: float | None = None,
        scope: str = "global",
        round_to: int = 1,
        min_units: int = 1,
    ) -> Plan:
        """Say what stays: explicitly (``keep``), or by scores and one budget.

        Parameters:
            keep: {group: bool tensor, one entry for each unit}; groups that are not named stay whole.
            scores: {group: one number for each unit}; those with the lowest go. Groups that are not named stay whole.
            flops, params: the share of FLOPs or parameters that remains, in (0, 1]: at most that.
            ratio: the share of units that remains, in (0, 1].
            scope: "global": all units compete; "layer": every group keeps the same share.
            round_to: widths become multiples of it, where the group is that wide.
            min_units: every group keeps at least so many.

        Raises:
            InfeasibleBudget: not even the narrowest network fits; the message says what it needs.
            TargetError: an unknown group, or one whose units cannot go. ScoreError: scores that are not finite.

        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = trace(net, torch.zeros(1, 4))
        >>> plan = graph.plan(scores=graph.random(), flops=0.5)
        >>> graph.flops(), graph.flops(plan.widths)
        (96, 48)
        """
        if (keep is None) == (scores is None):
            raise SparselandError("a plan needs either keep= (what stays) or scores= with flops=, params= or ratio=")
        if keep is None:
            assert scores is not None
            keep = choose(self, scores, {"flops": flops, "params": params, "ratio": ratio}, scope, round_to, min_units)
        keep = checked_keep(self, keep)
        masks = {self[name].dim: mask for name, mask in keep.items()}
        cuts = []
        for name, axes in self.weights.items():
            for dim, axis in enumerate(axes):
                if any(d in masks for d in dims(axis)) and not bool((left := kept(axis, masks)).all()):
                    cuts.append(Cut(name, dim, left))
        widths = {dim: int(mask.sum()) for dim, mask in masks.items()}
        attributes = {place: width(axis, widths) for place, axis in self.stated.items()}
        changed = {place: value for place, value in attributes.items() if value != self.stated[place].size}
        for name, mask in keep.items():
            changed |= _head_counts(self.model, self[name], int(mask.sum()), changed)
        names = {name: int(mask.sum()) for name, mask in keep.items()}
        before, after = (self.flops(), self.params()), (self.flops(names), self.params(names))
        touched = {name: [f"{m.name}[{m.dim}]" for m in self[name].members] for name in keep}
        return Plan(dict(keep), tuple(cuts), changed, before, after, touched)


def trace(model: nn.Module, sample: Any) -> Graph:
    """Run a network once and find which of its units can be removed, and what goes with each.

    Parameters:
        model: any module; it runs in evaluation mode without gradients and is left as it was.
        sample: what it is called with: a tensor, a tuple of positional arguments, or a dict of named ones.

    Returns:
        A graph with groups, costs and barriers.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 10))
    >>> (group,) = trace(net, torch.zeros(1, 3, 4, 4)).prunable
    >>> group.name, group.size, [(member.name, member.role) for member in group.members][-1]
    ('0', 8, ('4.weight', 'in'))
    """
    model = plain_module(model)
    with torch.random.fork_rng(devices=[]):
        tape = record(model, sample, rules_layers.RULES)
    stated = _settle(tape)
    shapes = {name: tuple(t.shape) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    names = frozenset(name for name, _ in model.named_parameters())
    groups = _groups(tape, names)
    return Graph(groups, _lost(tape, groups), tape.weights, shapes, names, tuple(tape.products), stated, model)


# ------------------------------------------------------------------------------------- what the network itself requires
def _settle(tape: Tape) -> dict[Place, Axis]:
    """Lock what the code of the network would not follow; returns the attributes that are sizes of axes."""
    for _, axes, _ in tape.known.values():
        for axis in axes:
            _lock_inner(resolve(axis))
    generator = random.Random(0)
    while True:
        used = {number.source for number in tape.notes.spent}
        changed = False
        for source in used:
            if isinstance(source, Dim | Cat | Prod):
                changed |= lock(source, "its size is part of a value that the network computes")
        stated: dict[Place, Axis] = {}
        for axis, number, _ in tape.required:
            if isinstance(number, Number) and isinstance(number.source, Place):
                if number.source in used:
                    changed |= lock(axis, f"{number.source} is part of a value that the network computes")
                stated.setdefault(number.source, axis)
        for axis, place in tape.notes.compared:
            stated.setdefault(place, axis)
        for _ in range(3):
            changed |= _check(tape, stated, generator)
        if not changed:
            return {place: axis for place, axis in stated.items() if free(axis)}


def _lock_inner(axis: Axis) -> None:
    if isinstance(axis, Cat):
        for part in axis.parts:
            _lock_inner(part)
    elif isinstance(axis, Prod):
        movable = [part for part in axis.parts if free(part)]
        for part in movable[1:]:
            lock(part, INNER)
        for part in movable[:1]:
            _lock_inner(part)


def _check(tape: Tape, stated: Mapping[Place, Axis], generator: random.Random) -> bool:
    """Whether a size that the network states comes out wrong at random widths; what it depends on is locked."""
    involved = [[axis, *_terms(number, stated)] for axis, number, _ in tape.required]
    found = dict.fromkeys(d for axes in involved for axis in axes for d in dims(axis) if not d.locked)
    widths = {dim: generator.randint(1, dim.size - 1) for dim in found}
    attributes = {place: width(axis, widths) for place, axis in stated.items()}
    changed = False
    for (axis, number, node), axes in zip(tape.required, involved, strict=True):
        if not isinstance(number, Number):
            if width(axis, widths) != number:
                reason = f"the size {number} is written as a number; use -1, a shape or an attribute"
                changed |= tape.bar(axes, node, reason)
        elif number.value(widths, attributes) != width(axis, widths):
            reason = f"the size {int(number)} is computed from others that would not follow"
            changed |= tape.bar(axes, node, reason)
    return changed


def _terms(number: int, stated: Mapping[Place, Axis]) -> list[Axis]:
    """The axes on which a number depends."""
    leaves = [leaf.source for leaf in number.leaves()] if isinstance(number, Number) else []
    places = [stated[source] for source in leaves if isinstance(source, Place) and source in stated]
    return [*(source for source in leaves if isinstance(source, Dim | Cat | Prod)), *places]


def _lost(tape: Tape, groups: Iterable[Group]) -> tuple[tuple[str, str], ...]:
    """Barriers that cost a group its units, each once."""
    matter = {group.dim for group in groups}
    found = [(node, reason) for node, reason, held in tape.barriers if any(d in matter for h in held for d in dims(h))]
    return tuple(dict.fromkeys(found))


# -------------------------------------------------------------------------------------------------------------- groups
def _groups(tape: Tape, parameters: Iterable[str]) -> tuple[Group, ...]:
    names = set(parameters)
    found: dict[Dim, list[tuple[str, int, Axis]]] = {}
    for name, axes in tape.weights.items():
        for i, axis in enumerate(axes):
            for dim in dict.fromkeys(dims(axis)):
                if dim.size > 1:
                    found.setdefault(dim, []).append((name, i, axis))
    groups: list[Group] = []
    taken: set[str] = set()
    for dim, places in sorted(found.items(), key=lambda item: bool(item[0].locked)):  # free ones get their names first
        roles = {(name, i): _role(tape.roles.get((name, i), set())) for name, i, _ in places}
        makers = [p for p in places if roles[p[:2]] == "out" and len(tape.weights[p[0]]) > 1 and p[0] in names]
        if not makers or dim.locked == INNER:
            continue
        name = _name(dim, *makers[0], taken)
        members = tuple(Member(n, i, roles[n, i], _index(axis, dim)) for n, i, axis in places)
        kind = "head" if "head" in dim.tags else "channel" if "conv" in dim.tags else "hidden"
        groups.append(Group(name, dim.size, kind, members, not dim.locked, dim.locked, dim))
    order = {name: i for i, name in enumerate(tape.weights)}
    return tuple(sorted(groups, key=lambda group: order[group.members[0].name]))


def _role(roles: set[str]) -> str:
    """Of a weight that is used in several ways the first."""
    return next((role for role in ("out", "in", "norm", "bias") if role in roles), "other")


def _head_counts(model: nn.Module, group: Group, left: int, known: Mapping[Place, int]) -> dict[Place, int]:
    """Attributes that count heads and that the network does not use for shapes: they should not lie either."""
    if group.kind != "head" or left == group.size:
        return {}
    owners = {m.name.rpartition(".")[0].rpartition(".")[0] for m in group.members if m.role == "out"}
    found = {}
    for path in owners:
        for name, value in vars(model.get_submodule(path)).items():
            counts = "heads" in name or name == "all_head_size"
            if counts and type(value) is int and value > 0 and value % group.size == 0:
                place = Place(path, name)
                if place not in known:
                    found[place] = value // group.size * left
    return found


def _name(dim: Dim, name: str, i: int, axis: Axis, taken: set[str]) -> str:
    base = name.rpartition(".")[0] or name
    if len({d for d in dims(axis) if d.born}) > 1 and (len([d for d in dims(axis) if not d.locked]) != 1):
        positions = (units(axis, dim) >= 0).nonzero().flatten()
        base = f"{base}[{int(positions[0])}:{int(positions[-1]) + 1}]"
    unique, count = base, 2
    while unique in taken:
        unique, count = f"{base}#{count}", count + 1
    taken.add(unique)
    return unique


def _index(axis: Axis, dim: Dim) -> Tensor:
    owner = units(axis, dim)
    order = owner.argsort(stable=True)
    return order[int((owner < 0).sum()) :].reshape(dim.size, -1)
