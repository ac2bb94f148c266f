"""Training N steps equals k steps, a stop, and N − k more: bit for bit, whatever the method and the options."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland.core.errors import OutputError, ResumeError, SparselandError
from sparseland.train import TrainConfig, Trainer, run

Tiny = Callable[..., TrainConfig]


class Stop(Exception):
    """Raised by a callback: training ends without a chance to save."""


def _break_at(evaluation: int) -> Callable[[dict[str, Any]], None]:
    seen: list[Any] = []

    def callback(entry: dict[str, Any]) -> None:
        seen.append(entry)
        if len(seen) == evaluation:
            raise Stop

    return callback


def _assert_equal_runs(one: Path, two: Path) -> None:
    """Best weights, log and full last state."""
    assert (one / "best.safetensors").read_bytes() == (two / "best.safetensors").read_bytes()
    assert (one / "log.jsonl").read_text() == (two / "log.jsonl").read_text()
    states = [torch.load(place / "last" / "state.pt", weights_only=True) for place in (one, two)]
    for state in states:
        state.pop("seconds"), state.pop("resumed")
    _assert_equal(*states)


def _assert_equal(one: Any, two: Any, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            _assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            _assert_equal(a, b, f"{where}[{index}]")
    else:
        assert one == two, where


CASES: dict[str, dict[str, Any]] = {
    "dense": {"method": {"name": "dense"}},
    "rigl": {},
    "granet": {"method": {"name": "granet", "sparsity": 0.9, "every": 2, "end": 0.6}},
    "gmp": {"method": {"name": "gmp", "sparsity": 0.9, "every": 2}},
    "set": {"method": {"name": "set", "sparsity": 0.8, "every": 3}},
    "movement": {"method": {"name": "movement", "sparsity": 0.8, "every": 3}, "optimizer": "adam", "lr": 0.003},
    "sr-ste": {"method": {"name": "sr-ste"}},
    "ema": {"ema": 0.99},
    "accumulation": {"accumulate": 3, "batch_size": 32, "clip": 1.0, "label_smoothing": 0.1},
    "fp16": {"precision": "fp16"},
    "adamw-warmup-step": {"optimizer": "adamw", "lr": 0.003, "warmup": 5, "lr_schedule": "step"},
    "batchnorm-augment": {"model": "resnet-8-w4", "augment": "crop+flip", "limit": 100, "batch_size": 16},
}


@pytest.mark.parametrize("every", [1, "3 steps"], ids=["epochs", "steps"])
@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_unbroken(tmp_path: Path, tiny: Tiny, comparable: Any, case: str, every: int | str) -> None:
    config = tiny(**CASES[case], checkpoint_every=every)
    unbroken = run(config, tmp_path / "whole", progress=False)
    with pytest.raises(Stop):
        run(config, tmp_path / "broken", progress=False, callback=_break_at(2))
    broken = run(config, tmp_path / "broken", progress=False, resume=True)
    assert broken["resumed"] == 1
    assert comparable(broken) == comparable(unbroken)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_resumed_again_and_again(tmp_path: Path, tiny: Tiny, comparable: Any) -> None:
    config = tiny(epochs=6, ema=0.9, checkpoint_every="2 steps")
    unbroken = run(config, tmp_path / "whole", progress=False)
    for number in range(4):
        with pytest.raises(Stop):
            run(config, tmp_path / "broken", progress=False, resume=number > 0, callback=_break_at(2))
    broken = run(config, tmp_path / "broken", progress=False, resume=True)
    assert broken["resumed"] == 4
    assert comparable(broken) == comparable(unbroken)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, tiny: Tiny, comparable: Any) -> None:
    config = tiny(checkpoint_every=100)  # only Ctrl-C and the beginning write
    unbroken = run(config, tmp_path / "whole", progress=False)
    before = signal.getsignal(signal.SIGINT)

    def press(entry: dict[str, Any]) -> None:
        if entry["step"] == 14:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 14 of 28; resume=True"):
        run(config, tmp_path / "broken", progress=False, callback=press)
    assert signal.getsignal(signal.SIGINT) is before
    told = json.loads((tmp_path / "broken" / "last" / "state.json").read_text())
    assert told["position"]["step"] == 14
    broken = run(config, tmp_path / "broken", progress=False, resume=True)
    assert comparable(broken) == comparable(unbroken)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, tiny: Tiny) -> None:
    def press_twice(entry: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still here")

    with pytest.raises(KeyboardInterrupt):
        run(tiny(), tmp_path, progress=False, callback=press_twice)


def test_a_later_best_is_taken_back(tmp_path: Path, tiny: Tiny) -> None:
    """Killed after best.safetensors was replaced and before the checkpoint: both must tell of the same moment."""
    config = tiny(checkpoint_every=2, method={"name": "dense"})
    with pytest.raises(Stop):
        run(config, tmp_path, progress=False, callback=_break_at(3))
    told = json.loads((tmp_path / "last" / "state.json").read_text())
    assert told["position"]["step"] == 14 and told["best"]["step"] == 14
    kept = (tmp_path / "last" / "best.safetensors").read_bytes()
    assert (tmp_path / "best.safetensors").read_bytes() != kept  # of step 21

    def at_once(entry: dict[str, Any]) -> None:
        raise Stop

    real = Trainer.fit

    def look(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        assert (tmp_path / "best.safetensors").read_bytes() == kept
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "fit", look)
        run(config, tmp_path, progress=False, resume=True, callback=at_once)


def test_a_finished_run_is_returned_at_once(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny(), tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "__init__", lambda *_, **__: pytest.fail("it started again"))
    assert run(tiny(), tmp_path, progress=False, resume=True) == first
    assert run(tiny(threads=2), tmp_path, progress=False, resume="auto") == first
    with pytest.raises(ResumeError, match=r"another run: lr was 0\.05, now it is 0\.1"):
        run(tiny(lr=0.1), tmp_path, progress=False, resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.1}, r"lr was 0\.05, now it is 0\.1"),
        ({"method": {"name": "set", "sparsity": 0.8, "every": 3}}, "method.name was 'rigl', now it is 'set'"),
        ({"method": {"name": "rigl", "sparsity": 0.7, "every": 3}}, r"method.sparsity was 0\.8, now it is 0\.7"),
        ({"model": "mlp-16"}, "model was 'mlp-32', now it is 'mlp-16'"),
        ({"epochs": 5}, "epochs was 4, now it is 5"),
        ({"seed": 1}, "seed was 0, now it is 1"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Stop):
        run(tiny(), tmp_path, progress=False, callback=_break_at(2))
    with pytest.raises(ResumeError, match=words):
        run(tiny(**changes), tmp_path, progress=False, resume=True)
    run(tiny(checkpoint_every=3), tmp_path, progress=False, resume=True)  # what computes the same, may differ


def test_nothing_to_resume_says_what_was_looked_for(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(ResumeError, match=r"nothing to resume in .*looked for last/state\.pt and result\.json"):
        run(tiny(), tmp_path / "never", progress=False, resume=True)
    assert not (tmp_path / "never").exists()
    assert run(tiny(epochs=1), tmp_path / "never", progress=False, resume="auto")["resumed"] == 0
    with pytest.raises(SparselandError, match="possible: True, False, 'auto'"):
        run(tiny(), tmp_path, progress=False, resume="yes")


def test_a_run_is_resumable_from_its_first_moment(tmp_path: Path, tiny: Tiny, comparable: Any) -> None:
    config = tiny(checkpoint_every=100)
    with pytest.raises(Stop):
        run(config, tmp_path / "broken", progress=False, callback=_break_at(1))
    broken = run(config, tmp_path / "broken", progress=False, resume=True)
    assert comparable(broken) == comparable(run(config, tmp_path / "whole", progress=False))


def test_damaged_files_are_named(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(Stop):
        run(tiny(), tmp_path, progress=False, callback=_break_at(2))
    state = tmp_path / "last" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResumeError, match=r"state\.pt is damaged"):
        run(tiny(), tmp_path, progress=False, resume=True)
    (tmp_path / "result.json").write_text('{"config"')
    with pytest.raises(ResumeError, match=r"result\.json is damaged"):
        run(tiny(), tmp_path, progress=False, resume=True)


def test_a_moved_folder_is_resumed(tmp_path: Path, tiny: Tiny, comparable: Any) -> None:
    with pytest.raises(Stop):
        run(tiny(), tmp_path / "a", progress=False, callback=_break_at(2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = run(tiny(), tmp_path / "b", progress=False, resume=True)
    assert comparable(moved) == comparable(run(tiny(), tmp_path / "a", progress=False, resume=True))


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    tmp_path: Path, tiny: Tiny, comparable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.fsync, []

    def fsync(handle: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)

    def fill(entry: dict[str, Any]) -> None:
        if entry["step"] == 21:
            full.append(True)

    with pytest.raises(OutputError, match="No space left on device"):
        run(tiny(), tmp_path / "broken", progress=False, callback=fill)
    assert json.loads((tmp_path / "broken" / "last" / "state.json").read_text())["position"]["step"] == 14
    assert not [name for name in os.listdir(tmp_path / "broken") if name.endswith(".tmp")]
    full.clear()
    broken = run(tiny(), tmp_path / "broken", progress=False, resume=True)
    assert comparable(broken) == comparable(run(tiny(), tmp_path / "whole", progress=False))
