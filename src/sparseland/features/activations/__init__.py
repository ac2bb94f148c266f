"""Activations: from any model's layer or any iterator, through a bounded shuffle buffer, as batches [B, d] or (x, g).

    source = ModelActivations(model, "transformer.h.2", token_ids)
    stream = ActivationStream(source, batch=1024, buffer=65_536)

`hook` reads and replaces what a layer hands on, `model` runs a model over batches of tokens, `source` says what else
may feed a stream, `stream` shuffles within bounds and resumes, `stored` keeps activations on disk.
"""

from __future__ import annotations

from .gradients import activation_gradients
from .hook import layer, replaced, tapped
from .model import ModelActivations
from .source import Source, as_source
from .stored import StoredActivations, store
from .stream import ActivationStream

__all__ = [
    "ActivationStream",
    "ModelActivations",
    "Source",
    "StoredActivations",
    "activation_gradients",
    "as_source",
    "layer",
    "replaced",
    "store",
    "tapped",
]
