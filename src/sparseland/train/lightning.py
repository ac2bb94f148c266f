"""Sparsity in the Trainer of `lightning`, as a callback. The only file here that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl

from sparseland.core.errors import OwnershipError
from sparseland.train.attaching import attach, read_method
from sparseland.weights import Method, Sparsifier


class SparsityCallback(pl.Callback):
    """Attach a method when a Lightning `Trainer` begins, save it with its checkpoints, and end with plain modules.

    ``Trainer(…, callbacks=[SparsityCallback(sl.methods.RigL(0.9))])``; ``fit(…, ckpt_path=…)`` goes on from a
    checkpoint. ``sparsity`` is logged at the end of each epoch.

    Parameters:
        method: a Method, ``{"name": …}`` or its words; None: keep the zeros that the model has (fine-tuning).
        targets, ignore: as in `Method.attach`; names are those of the LightningModule.
        data: batches to measure on, for methods that choose their first mask so (SNIP).
        loss: ``loss(module, batch)``. seed: of the method. optimizer: which one, where there are several.

    Attributes:
        sparsifier: the `Sparsifier` of the running, or the last, training.
    """

    def __init__(
        self,
        method: Method | Mapping[str, Any] | None = None,
        targets: Any = None,
        ignore: Any = None,
        *,
        data: Iterable[Any] | None = None,
        loss: Callable[..., Any] | None = None,
        seed: int = 0,
        optimizer: int = 0,
    ) -> None:
        super().__init__()
        self.method = read_method(method)
        self.targets, self.ignore, self.data, self.loss, self.seed = targets, ignore, data, loss, seed
        self.optimizer = optimizer
        self.sparsifier: Sparsifier | None = None
        self._saved: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach, or go on from the checkpoint (weights and optimizer are restored by now)."""
        if not 0 <= self.optimizer < len(trainer.optimizers):
            raise OwnershipError(
                f"optimizer={self.optimizer}, but configure_optimizers gave {len(trainer.optimizers)}; possible: "
                f"0 … {len(trainer.optimizers) - 1}"
            )
        optimizer = trainer.optimizers[self.optimizer]
        steps = trainer.estimated_stepping_batches
        self.sparsifier = attach(
            self.method, pl_module, optimizer, self.targets, self.ignore, data=self.data, loss=self.loss,
            steps=None if steps == float("inf") else int(steps), seed=self.seed, state=self._saved,
        )  # fmt: skip
        self._saved = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sparsity."""
        if self.sparsifier is not None:
            pl_module.log("sparsity", self.sparsifier.sparsity)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plain modules, zeros in place."""
        if self.sparsifier is not None:
            self._saved = self.sparsifier.state_dict()  # a checkpoint may still be written after this
            self.sparsifier.finalize_()

    def state_dict(self) -> dict[str, Any]:
        """What goes into Lightning's checkpoint: plain data and tensors."""
        if self._saved is not None:
            return {"sparsifier": self._saved}
        return {} if self.sparsifier is None else {"sparsifier": self.sparsifier.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._saved = state_dict.get("sparsifier")
