"""Which parameters become sparse: by default the weights of linear and convolution layers, tied ones counted once."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
Rule = str | type[nn.Module] | Callable[[str, nn.Module, nn.Parameter], bool]
Rules = Rule | Iterable[Rule] | None


@dataclass
class Target:
    """One parameter to sparsify. ``transposed``: stored as (in, out, …); patterns always see (out, in, …)."""

    name: str
    param: nn.Parameter
    module: nn.Module
    transposed: bool = False

    def canonical(self, tensor: Tensor) -> Tensor:
        """View a tensor of the parameter's layout as (out, in, taps …); its own inverse."""
        return tensor.transpose(0, 1) if self.transposed else tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as (out, in, taps …)."""
        return tuple(self.canonical(self.param).shape)


def plain_name(name: str) -> str:
    """A parameter name without the prefixes that DDP, averaging and torch.compile put in front.

    >>> plain_name("module._orig_mod.fc.weight")
    'fc.weight'
    """
    while True:
        for prefix in ("module.", "_orig_mod."):
            if name.startswith(prefix):
                name = name[len(prefix) :]
                break
        else:
            return name.replace("._orig_mod.", ".")


def parameters(model: nn.Module) -> Iterator[Target]:
    """All parameters with the module that holds them; shared parameters appear once, under their first name."""
    reshard(model)
    seen: set[int] = set()
    for path, module in model.named_modules():
        transposed = isinstance(module, TRANSPOSED) or type(module).__name__ == "Conv1D"  # transformers: (in, out)
        for key, param in module.named_parameters(recurse=False):
            if id(param) not in seen:
                seen.add(id(param))
                name = plain_name(f"{path}.{key}" if path else key)
                yield Target(name, param, module, transposed and param.ndim >= 2)


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
        dropped = {t.name for t in _matching(everything, ignore, "ignore")}
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
    layer = isinstance(target.module, LAYERS) or type(target.module).__name__ == "Conv1D"
    return layer and target.param.ndim >= 2 and "bias" not in target.name.rsplit(".", 1)[-1]


def _matching(everything: list[Target], rules: Rules, what: str) -> list[Target]:
    listed = [rules] if isinstance(rules, (str, type)) or callable(rules) else list(rules or ())
    chosen: dict[str, Target] = {}
    for rule in listed:
        hits = [t for t in everything if _hit(t, rule)]
        if not hits:
            names = [t.name for t in everything]
            asked = rule if isinstance(rule, str) else getattr(rule, "__name__", rule)
            raise TargetError(f"{what}={asked!r} matches no parameter; {nearest(asked, names[:40])}")
        chosen |= {t.name: t for t in hits}
    return [t for t in everything if t.name in chosen]


def _hit(target: Target, rule: Rule) -> bool:
    if isinstance(rule, str):
        if target.name == rule or fnmatch.fnmatchcase(target.name, rule):
            return True
        holder = target.name.rpartition(".")[0]
        matrix = target.param.ndim >= 2 and "bias" not in target.name.rpartition(".")[2]
        return matrix if holder == rule else target.name.startswith(rule + ".") and _default(target)
    if isinstance(rule, type):
        return isinstance(target.module, rule) and target.param.ndim >= 2
    return bool(rule(target.name, target.module, target.param))
