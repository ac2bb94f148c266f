"""The words applied to modules that train: targets, sparsifier, optimizer state, statistics, rank agreement."""

from .batchnorm import recalibrate_
from .method import Method
from .oneshot import keep_zeros, prune_
from .sparsifier import Sparsifier
from .targets import Target, eligible
from .trainer import Trainer

__all__ = ["Method", "Sparsifier", "Target", "Trainer", "eligible", "keep_zeros", "prune_", "recalibrate_"]
