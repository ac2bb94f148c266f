"""The scales γ of normalisation layers: one number a channel, and so a criterion for whole channels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..core.errors import MaskMismatch, RecipeError, SparselandError, TargetError
from ..core.mask import MaskSet
from .penalty import reach
from .targets import parameters, plain_module

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)  # InstanceNorm is a _NormBase, but no _BatchNorm
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def is_scale(name: str, module: nn.Module, param: nn.Parameter) -> bool:
    """A rule for ``targets=``: the scale of a batch, group or instance norm.

    >>> from sparseland.weights import eligible
    >>> list(eligible(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), is_scale))
    ['1.weight']
    """
    return isinstance(module, (*NORMS, *INSTANCE)) and name.rpartition(".")[2] == "weight"


def norm_scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """{parameter name: γ (channels,)} of the norms with one scale a channel, in network order.

    Raises:
        TargetError: there are none (a LayerNorm's scale is of a feature that a residual stream shares, not of a
            channel that a layer makes); a batch norm without γ, or without running statistics, that would be left out.

    >>> list(norm_scales(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))))
    ['1.weight']
    """
    model = plain_module(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not (module.affine and module.track_running_stats):
            raise TargetError(
                f"{name!r} is {module}: its channels cannot be ranked; possible: affine=True and "
                f"track_running_stats=True"
            )
    found = {t.name: t.param for t in parameters(model) if is_scale(t.name, t.module, t.param)}
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__})
        raise TargetError(
            f"{type(model).__name__} has no BatchNorm, GroupNorm or InstanceNorm with scales (its norms: "
            f"{', '.join(kinds) or 'none'}); possible: a model with them, or the method 'group-lasso'"
        )
    return found


def check_masks(masks: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> MaskSet:
    """Keep-masks of all scales as a MaskSet; zeros and ones of any dtype are taken.

    Raises:
        MaskMismatch: names or lengths differ (the difference is quoted), or values other than 0 and 1.

    >>> import torch
    >>> check_masks({"bn.weight": torch.tensor([1.0, 0.0])}, {"bn.weight": torch.ones(2)})["bn.weight"].tolist()
    [True, False]
    """
    for what, names in (("no mask for", scales.keys() - masks.keys()), ("no scale for", masks.keys() - scales.keys())):
        if names:
            raise MaskMismatch(f"{what} {', '.join(sorted(names))}; the scales are {', '.join(scales)}")
    long = [f"{n}: {len(masks[n])} for {len(s)} channels" for n, s in scales.items() if masks[n].shape != s.shape]
    if long:
        raise MaskMismatch(f"masks of another width: {'; '.join(long)}")
    for n, mask in masks.items():
        odd = mask[(mask != 0) & (mask != 1)]
        if len(odd):
            raise MaskMismatch(f"the mask {n!r} holds {float(odd[0])!r}; possible: 1 (keep) and 0 (remove)")
    return MaskSet({n: masks[n].bool() for n in scales})


def warn_if_out_of_reach(
    scales: Mapping[str, Tensor], masks: Mapping[str, Tensor], strength: float, rates: Sequence[float], momentum: float
) -> float:
    """Warn if an L1 penalty of this strength cannot bring all scales to be removed to zero; what it can move them by.

    Raises:
        RecipeError: strength ≤ 0.

    >>> import torch, warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     r = warn_if_out_of_reach({"g": torch.ones(1)}, {"g": torch.tensor([False])}, 1e-3, [0.1] * 100, 0.9)
    >>> str(caught[0].message).partition(";")[0]
    'a penalty of 0.001 moves scales by 0.1 at most in this training, but one to be removed is 1'
    """
    if not strength > 0:
        raise RecipeError(f"strength is {strength!r}; possible: a number > 0")
    far = max((float(s[~masks[n]].abs().max()) for n, s in scales.items() if not masks[n].all()), default=0.0)
    most = reach(strength, list(rates), momentum)
    if most < far:
        needed = strength * far / most * 1.5 if most else float("inf")
        warnings.warn(
            f"a penalty of {strength:g} moves scales by {most:.3g} at most in this training, but one to be removed is "
            f"{far:.3g}; strength={needed:.2g} would do, or more steps",
            UserWarning,
            stacklevel=3,
        )
    return most


def example_of(trainer: Any, example: Any = None) -> Any:
    """What the model takes, to trace it: as given, or the trainer's own."""
    found = example if example is not None else getattr(trainer, "example", None)
    if found is None:
        raise SparselandError(
            f"to remove channels the model is traced: give example=, a batch of its input ({type(trainer).__name__} "
            f"has no .example)"
        )
    return found
