"""Which parameters become sparse: by default the weights of linear and convolution layers, tied ones counted once."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..core.errors import TargetError, nearest
from .ranks import reshard

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.MultiheadAttention,
    nn.RNNBase,
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel")
Rule = str | type[nn.Module] | Callable[[str, nn.Module, nn.Parameter], bool]
Rules = Rule | Iterable[Rule] | None


@dataclass
class Target:
    """One parameter to sparsify. ``transposed``: stored as (in, out, …); patterns always see (out, in, …).

    ``holders``: every (name, module) that holds it, if it is shared.
    """

    name: str
    param: nn.Parameter
    module: nn.Module
    transposed: bool = False
    holders: list[tuple[str, nn.Module]] = field(default_factory=list)

    def canonical(self, tensor: Tensor) -> Tensor:
        """View a tensor of the parameter's layout as (out, in, taps …); its own inverse."""
        return tensor.transpose(0, 1) if self.transposed else tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as (out, in, taps …)."""
        return tuple(self.canonical(self.param).shape)

    @property
    def matrix(self) -> bool:
        """Whether it has two or more axes and is no bias."""
        return self.param.ndim >= 2 and "bias" not in self.name.rpartition(".")[2]


def plain_module(model: nn.Module) -> nn.Module:
    """The user's module inside DDP, weight averaging and torch.compile.

    >>> net = nn.Linear(1, 1)
    >>> plain_module(nn.DataParallel(net)) is net
    True
    """
    while True:
        if type(model).__name__ in WRAPPERS:
            model = model.module  # type: ignore[assignment]
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def parameters(model: nn.Module) -> Iterator[Target]:
    """All parameters with the modules that hold them; shared ones appear once, under their first name."""
    model = plain_module(model)
    reshard(model)
    found: dict[int, Target] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        path = path.replace("._orig_mod", "")
        transposed = isinstance(module, TRANSPOSED) or type(module).__name__ == "Conv1D"  # transformers: (in, out)
        for key, param in module.named_parameters(recurse=False):
            name = f"{path}.{key}" if path else key
            target = found.setdefault(id(param), Target(name, param, module, transposed and param.ndim >= 2))
            if name not in (known for known, _ in target.holders):
                target.holders.append((name, module))
    yield from found.values()


def eligible(model: nn.Module, targets: Rules = None, ignore: Rules = None) -> dict[str, Target]:
    """The parameters of ``model`` to sparsify, in network order.

    Args:
        targets: what to take: names or glob patterns ("layer*.weight"; a module's name takes what is in it), module
            classes, or functions (name, module, parameter) -> bool. None: weights with two or more axes of linear,
            convolution, attention and recurrent layers; not embeddings, norms or biases.
        ignore: what to leave dense, written the same way.

    Raises:
        TargetError: nothing is eligible, or a rule matches nothing; the message names what exists.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> list(eligible(net)), list(eligible(net, ignore="2"))
    (['0.weight', '2.weight'], ['0.weight'])
    """
    everything = list(parameters(model))
    if targets is None:
        found = {t.name: t for t in everything if _default(t)}
    else:
        found = {t.name: t for t in _matching(everything, targets, "targets")}
    if ignore is not None and found:
        dropped = {t.name for t in _matching(everything, ignore, "ignore", whole=True)}
        found = {n: t for n, t in found.items() if n not in dropped}
    if not found:
        kinds = sorted({type(t.module).__name__ for t in everything}) or ["none"]
        raise TargetError(
            f"{type(model).__name__} has no eligible layer: {len(everything)} parameters in {', '.join(kinds)}; "
            f"eligible by default: weights of Linear, Conv, attention and recurrent layers that are not ignored. "
            f"Name others with targets=…"
        )
    return found


def _default(target: Target) -> bool:
    """Weights of the known layers; a weight shared with something else (an embedding) is left alone."""
    layers = all(isinstance(m, LAYERS) or type(m).__name__ == "Conv1D" for _, m in target.holders)
    return layers and target.matrix


def _matching(everything: list[Target], rules: Rules, what: str, whole: bool = False) -> list[Target]:
    listed = [rules] if isinstance(rules, (str, type)) or callable(rules) else list(rules or ())
    chosen: set[str] = set()
    for rule in listed:
        hits = [t for t in everything if any(_hit(t, name, module, rule, whole) for name, module in t.holders)]
        if not hits:
            names = [name for t in everything for name, _ in t.holders]
            asked = rule if isinstance(rule, str) else getattr(rule, "__name__", rule)
            raise TargetError(f"{what}={asked!r} matches no parameter; {nearest(asked, names[:40])}")
        chosen |= {t.name for t in hits}
    return [t for t in everything if t.name in chosen]


def _hit(target: Target, name: str, module: nn.Module, rule: Rule, whole: bool) -> bool:
    """Whether a rule means this parameter; ``whole``: a module's name means everything in it (to ignore)."""
    if isinstance(rule, str):
        if name == rule or fnmatch.fnmatchcase(name, rule):
            return True
        inside = name.startswith(rule + ".")
        own = target.matrix if name.rpartition(".")[0] == rule else _default(target)
        return inside and (whole or own)
    if isinstance(rule, type):
        return isinstance(module, rule) and (whole or target.param.ndim >= 2)
    return bool(rule(name, module, target.param))
