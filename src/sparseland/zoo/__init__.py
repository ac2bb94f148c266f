"""A small zoo of the nets that sparsity papers use, and a door to those of transformers."""

from sparseland.zoo.catalog import NAMES, build, logits
from sparseland.zoo.checkpoints import PRETRAINED, PRETRAINED_MEAN, PRETRAINED_STD, load_weights, pretrained
from sparseland.zoo.init import kaiming_

__all__ = [
    "NAMES", "PRETRAINED", "PRETRAINED_MEAN", "PRETRAINED_STD",
    "build", "kaiming_", "load_weights", "logits", "pretrained",
]  # fmt: skip
