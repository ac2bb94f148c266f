"""Sparsity in the Trainer of Hugging Face `transformers`, as a callback. The only file here that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from sparseland.core.errors import ResumeError
from sparseland.train import checkpoint
from sparseland.train.attaching import attach, reached, read_method
from sparseland.weights import Method, Sparsifier

FILE = "sparseland.pt"


class SparsityCallback(TrainerCallback, ExportableState):
    """Attach a method when a `transformers.Trainer` begins, save it with its checkpoints, and end with plain modules.

    ``Trainer(…, callbacks=[SparsityCallback(sl.methods.GMP(0.9, end=0.5))])``. Each checkpoint folder gets a
    ``sparseland.pt`` (data only); ``train(resume_from_checkpoint=…)`` goes on from it. The logs get ``sparsity``.

    The Trainer clips gradients by the norm of all of them, dead weights included.

    Parameters:
        method: a Method, ``{"name": …}`` or its words; None: keep the zeros that the model has (fine-tuning).
        targets, ignore: as in `Method.attach`.
        data: batches to measure on, for methods that choose their first mask so (SNIP); None: the first training batch.
        loss: ``loss(model, batch)``; None: the model's own ``.loss``.
        seed: of the method. folder: the checkpoint to resume from, if it was moved out of ``output_dir``.

    Attributes:
        sparsifier: the `Sparsifier` of the running, or the last, training.

    Raises:
        ResumeError: from ``train``, when a checkpoint has no ``sparseland.pt`` or one of another method or model.
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
        folder: str | None = None,
    ) -> None:
        self.method = read_method(method)
        self.targets, self.ignore, self.data, self.loss, self.seed = targets, ignore, data, loss, seed
        self.folder = folder
        self.sparsifier: Sparsifier | None = None
        self.saved_digest = ""

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into ``trainer_state.json``; the masks themselves are in ``sparseland.pt``."""
        args: dict[str, Any] = {"method": None if self.method is None else self.method.to_dict(), "seed": self.seed}
        rules = {"targets": self.targets, "ignore": self.ignore}
        args |= {k: v for k, v in rules.items() if isinstance(v, str) or (v and all(isinstance(r, str) for r in v))}
        return {"args": args, "attributes": {"saved_digest": self.digest()}}

    def digest(self) -> str:
        """Of the masks at hand, to recognise the file that belongs to a checkpoint."""
        return "" if self.sparsifier is None else self.sparsifier.masks.digest()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach, or go on from a checkpoint."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        saved = self._saved(args, state) if state.global_step else None
        data = self.data
        if data is None and saved is None and self.method is not None and self.method.needs_data:
            data = [_first(kwargs["train_dataloader"], next(model.parameters()).device)]
        self.sparsifier = attach(
            self.method, model, optimizer, self.targets, self.ignore,
            data=data, loss=self.loss, steps=state.max_steps, seed=self.seed, state=saved,
        )  # fmt: skip
        if args.load_best_model_at_end and not reached(self.sparsifier):
            warnings.warn(
                "load_best_model_at_end compares checkpoints of every sparsity on the way: a denser one may be chosen. "
                "Set it to False, or end the schedule before the first evaluation.",
                stacklevel=2,
            )

    def _saved(self, args: Any, state: Any) -> dict[str, Any]:
        name = f"checkpoint-{state.global_step}"
        places = [Path(args.output_dir) / name]
        places += [Path(p) for p in (args.resume_from_checkpoint, self.folder) if isinstance(p, str)]
        for place in reversed(places):
            if (place / FILE).is_file():
                return self._read(place, state)
        looked = ", ".join(str(place / FILE) for place in places)
        raise ResumeError(
            f"the Trainer resumes at step {state.global_step}, but no {FILE} was found; looked for {looked}. Give "
            f"SparsityCallback(folder=…) where the checkpoint was moved; one saved without this callback has none"
        )

    def _read(self, place: Path, state: Any) -> dict[str, Any]:
        saved = checkpoint.read_state(place / FILE)
        noted = (state.stateful_callbacks or {}).get(type(self).__name__)
        notes = noted if isinstance(noted, list) else [noted] if noted else []
        digests = [note.get("attributes", {}).get("saved_digest") for note in notes]
        if digests and saved.get("digest") not in digests:
            raise ResumeError(f"{place / FILE} does not belong to the checkpoint that is resumed (its masks differ)")
        return dict(saved["sparsifier"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write ``sparseland.pt`` into the checkpoint that was just saved."""
        place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and self.sparsifier is not None and place.is_dir():
            content = {"sparsifier": self.sparsifier.state_dict(), "digest": self.digest()}
            checkpoint.write_state(place / FILE, content)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the sparsity to what is logged."""
        if logs is not None and self.sparsifier is not None:
            logs["sparsity"] = self.sparsifier.sparsity
            if state.log_history:
                state.log_history[-1].setdefault("sparsity", self.sparsifier.sparsity)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Plain modules, zeros in place; with the masks of the best checkpoint where the Trainer loaded that."""
        if self.sparsifier is None:
            return
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and (Path(best) / FILE).is_file():
            target = self.sparsifier.sparsity
            self.sparsifier.load_state_dict(checkpoint.read_state(Path(best) / FILE)["sparsifier"])
            if self.sparsifier.sparsity < target - 1e-9:
                warnings.warn(
                    f"the best checkpoint, {best}, has sparsity {self.sparsifier.sparsity:.4f}; training went on to "
                    f"{target:.4f}",
                    stacklevel=2,
                )
        self.sparsifier.finalize_()


def _first(loader: Any, device: torch.device) -> Any:
    """The first training batch, without moving the random states or the loader's own position."""
    with torch.random.fork_rng():
        batch = next(iter(getattr(loader, "base_dataloader", loader)))
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
