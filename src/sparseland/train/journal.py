"""The folder of a run: what is written while it trains, and how to go on from it.

    best.safetensors   the weights chosen on validation, zeros in place
    last/              state.pt (everything to go on bit for bit), state.json (where it stands), best.safetensors
    fits/              for procedures of several fits: how each finished one ended
    log.jsonl          one line per evaluation
    result.json        when all is done

``last`` carries the best weights of its own time, so that both stay together whenever a process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sparseland import files
from sparseland.core.errors import OutputError, ResumeError
from sparseland.train import checkpoint
from sparseland.train.config import TrainConfig, first_change
from sparseland.train.processes import Processes

SCHEMA = 1


class Journal:
    """Keeps a run's folder; only rank 0 writes. Without a folder it only remembers the best evaluation.

    Parameters:
        folder: of the run, or None.
        config: of the run; a state saved under another one is refused.
        keep_fits: remember how each fit ended, so that a procedure of several can be taken up in the middle.
    """

    def __init__(
        self, config: TrainConfig, processes: Processes, folder: Path | None = None, *, keep_fits: bool = False
    ) -> None:
        self.config, self.processes, self.folder, self.keep_fits = config, processes, folder, keep_fits
        self.fits = 0  # how many were begun
        self.best: dict[str, Any] | None = None  # of the fit at hand
        self.last: dict[str, Any] | None = None
        self.resumed, self._seconds, self._since = 0, 0.0, time.monotonic()
        self.ended: dict[str, Tensor] | None = None  # the model's weights when the last fit ended, with ``keep_fits``
        self._saved: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Time spent on this run, sessions before this one included."""
        return self._seconds + time.monotonic() - self._since

    # --- opening ----------------------------------------------------------------------------------------------------

    def start(self, needed: int, overwrite: bool = False) -> None:
        """Open an empty folder for a new run; OutputError if it cannot be written, or holds a run already."""
        folder = self._folder()
        files.probe(folder, needed)
        found = [name for name in ("result.json", "last", "best.safetensors") if (folder / name).exists()]
        if found and not overwrite:
            raise OutputError(
                f"{folder} holds a run already ({', '.join(found)}): resume it (resume=True), train into another "
                f"folder, or give overwrite=True"
            )
        for name in ("result.json", "best.safetensors", "log.jsonl"):
            files.remove(folder / name)
        for name in ("last", "fits"):
            shutil.rmtree(folder / name, ignore_errors=True)
        files.sweep(folder)

    def found(self) -> bool:
        """Whether there is a checkpoint."""
        return (files.settle(self._folder() / "last") / "state.pt").is_file()

    def resume(self) -> None:
        """Read the last checkpoint; ResumeError if there is none, or if it belongs to another run."""
        folder = self._folder()
        place = files.settle(folder / "last") / "state.pt"
        if not place.is_file():
            raise ResumeError(
                f"nothing to resume in {folder}: looked for {place.relative_to(folder)} and result.json; "
                f"start the run without resume"
            )
        files.probe(folder)
        state = checkpoint.read_state(place)
        if state.get("schema") != SCHEMA:
            raise ResumeError(f"{place} has schema {state.get('schema')!r}; this release reads {SCHEMA}")
        if change := first_change(state["config"], self.config.to_dict()):
            raise ResumeError(f"{folder} holds another run: {change}")
        if state["world"] != self.processes.world:
            raise ResumeError(
                f"{folder} was trained by {state['world']} processes, now there are {self.processes.world}: the "
                f"batches would differ; start as many as before"
            )
        files.sweep(folder)
        self._put_back_best(folder)
        self._saved = state

    def share(self) -> None:
        """Tell the other ranks what rank 0 read (they may not see its disk)."""
        self._saved = self.processes.on_main(lambda: self._saved)
        if self._saved is not None:
            self._seconds, self.resumed = self._saved["seconds"], self._saved["resumed"] + 1

    def _put_back_best(self, folder: Path) -> None:
        """The best weights as they were at the checkpoint (a later evaluation may have replaced them)."""
        kept, here = folder / "last" / "best.safetensors", folder / "best.safetensors"
        if kept.is_file():
            files.write_file(here, lambda file: file.write(kept.read_bytes()))
        else:
            files.remove(here)

    def finished(self) -> dict[str, Any] | None:
        """The result of a run that ended here, if there is one; ResumeError if it is of another configuration."""
        place = self._folder() / "result.json"
        if not place.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            saved = result["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{place} is damaged or no result of a run: {error!r}") from error
        if change := first_change(saved, self.config.to_dict()):
            raise ResumeError(f"{place.parent} holds the result of another run: {change}")
        return result

    # --- fits -------------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Open the next fit: (how it ended, if it ended before the interruption; its saved state, if it was cut)."""
        number, saved = self.fits, self._saved
        self.fits += 1
        if saved is not None and number < saved["fit"]:
            place = self._folder() / "fits" / f"{number:03d}.pt"
            ended = self.processes.on_main(lambda: checkpoint.read_state(place))
            self.ended = ended["model"]
            return ended, None
        self._saved = None
        self.best = self.last = None
        if saved is not None:
            self.best, self.last = saved["best"], saved["last"]
            return None, saved
        if self.folder is not None and self.processes.main:
            files.remove(self.folder / "best.safetensors")
        return None, None

    def end(self, state: Callable[[], dict[str, Any]]) -> None:
        """Note how a fit ended."""
        if self.keep_fits and self.folder is not None:
            place = self.folder / "fits" / f"{self.fits - 1:03d}.pt"
            ended = state()
            self.ended = {name: value.detach().clone() for name, value in ended["model"].items()}

            def write() -> None:
                place.parent.mkdir(exist_ok=True)
                checkpoint.write_state(place, ended)

            self.processes.on_main(write)

    # --- while it trains --------------------------------------------------------------------------------------------

    def candidate(self, about: dict[str, Any], tensors: Mapping[str, Tensor], *, eligible: bool) -> None:
        """An evaluation took place; keep the weights if they are ``eligible`` and the best so far.

        Higher validation accuracy wins, then the lower loss, then the earlier. Without validation images the latest.
        """
        self.last = about
        if eligible and (self.best is None or _key(about) > _key(self.best)):
            self.best = about
            self.write_best(tensors)

    def write_best(self, tensors: Mapping[str, Tensor]) -> None:
        """Write best.safetensors."""
        if self.folder is not None:
            place = self.folder / "best.safetensors"
            self.processes.on_main(lambda: checkpoint.write_weights(place, tensors))

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint ``last``. Called by every rank, written by the first."""
        if self.folder is not None:
            state |= {
                "schema": SCHEMA,
                "config": self.config.to_dict(),
                "world": self.processes.world,
                "fit": self.fits - 1,
                "best": self.best,
                "last": self.last,
                "seconds": self.seconds,
                "resumed": self.resumed,
            }
            self.processes.on_main(lambda: self._write_last(state))

    def _write_last(self, state: dict[str, Any]) -> None:
        folder = self._folder()
        told = {k: state[k] for k in ("schema", "fit", "position", "best", "last", "resumed", "world", "config")}

        def fill(place: Path) -> None:
            checkpoint.write_state(place / "state.pt", state)
            files.write_json(place / "state.json", told)
            if self.best is not None:
                _link(folder / "best.safetensors", place / "best.safetensors")

        files.write_folder(folder / "last", fill)

    def log(self, history: list[dict[str, Any]]) -> None:
        """Write log.jsonl anew: small, and never half a line."""
        if self.folder is not None:
            lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history)
            place = self.folder / "log.jsonl"
            self.processes.on_main(lambda: files.write_file(place, lambda file: file.write(lines.encode())))

    def close(self, result: dict[str, Any]) -> None:
        """Write result.json and remove what only an interrupted run needs."""
        folder = self._folder()
        files.write_json(folder / "result.json", result)
        shutil.rmtree(folder / "fits", ignore_errors=True)

    def _folder(self) -> Path:
        if self.folder is None:
            raise OutputError("this journal has no folder")
        return self.folder


def _key(about: Mapping[str, Any]) -> tuple[float, ...]:
    if about["accuracy"] is None:
        return (float(about["step"]),)
    return (about["accuracy"], -about["loss"])


def _link(source: Path, target: Path) -> None:
    """A second name for a file (which is only ever replaced, never changed); a copy where links do not exist."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    files.write_file(target, lambda file: file.write(source.read_bytes()))
