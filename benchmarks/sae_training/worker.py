"""One trainer in a process of its own: it trains some steps when it is asked, and waits.

    python worker.py NAME  < requests  > answers        NAME: ours, saelens, saelens-sparse

Requests and answers are lines of JSON: {"do": "start", …}, {"do": "steps", "count": 4}, {"do": "quality"}.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ANSWERS = sys.stdout
sys.stdout = sys.stderr  # what libraries print is no answer


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """The same batches in the same order for every trainer."""
    place = 0
    while True:
        if place + size > x.shape[0]:
            place = 0
        yield x[place : place + size]
        place += size


class Ours:
    """`sparseland.features.train`, stopped in its callback between turns."""

    def __init__(self, asked: dict[str, Any], x: Tensor) -> None:
        import threading

        from sparseland.features import SAEConfig, SparseAutoencoder, train

        config = SAEConfig(x.shape[1], asked["features"], k=asked["k"], aux="aux_k", dead_window=10**9)
        self.sae, self.go, self.done = SparseAutoencoder(config), threading.Semaphore(0), threading.Semaphore(0)
        self.left = 0

        def pause(step: int, sae: Any, record: dict[str, float]) -> None:
            self.left -= 1
            if self.left == 0:
                self.done.release()
                self.go.acquire()

        def run() -> None:
            self.go.acquire()
            train(
                self.sae, batches(x, asked["batch"]), steps=asked["total"], lr=asked["lr"], warmup=asked["warmup"],
                decay=0.0, log_every=1, initialise=False, progress=False, callback=pause,
            )  # fmt: skip
            self.done.release()

        threading.Thread(target=run, daemon=True).start()

    def steps(self, count: int) -> None:
        """Train so many steps."""
        self.left = count
        self.go.release()
        self.done.acquire()

    def reconstruct(self, x: Tensor) -> Tensor:
        """x_hat."""
        return self.sae(x).x_hat


class SAELens:
    """sae_lens.training.sae_trainer.SAETrainer, one call of its `step` a step, as its `fit` does."""

    def __init__(self, asked: dict[str, Any], x: Tensor, sparse: bool) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        config = TopKTrainingSAEConfig(
            d_in=x.shape[1], d_sae=asked["features"], k=asked["k"], use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,  # with sparse codes that product does not run on CPUs
        )  # fmt: skip
        torch.manual_seed(0)
        self.sae = TopKTrainingSAE(config)
        plan = SAETrainerConfig(
            total_training_samples=asked["total"] * asked["batch"], train_batch_size_samples=asked["batch"],
            lr=asked["lr"], lr_end=asked["lr"], lr_warm_up_steps=asked["warmup"], dead_feature_window=10**6,
        )  # fmt: skip
        self.data = batches(x, asked["batch"])
        self.trainer = SAETrainer(plan, self.sae, self.data)

    def steps(self, count: int) -> None:
        """Train so many steps."""
        for _ in range(count):
            self.trainer.maybe_reset_sparsity()
            self.trainer.step(next(self.trainer.data_provider))
            self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        """x_hat."""
        return self.sae(x)


def unexplained(trainer: Any, x: Tensor) -> float:
    """Fraction of variance unexplained on tokens that were not trained on."""
    with torch.no_grad():
        found = trainer.reconstruct(x)
    return float((x - found).square().sum() / (x - x.mean(0)).square().sum())


def main() -> None:
    """Answer until the pipe closes."""
    trainer: Any = None
    held = torch.empty(0)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if asked["do"] == "start":
                torch.set_num_threads(asked["threads"])
                data = load_file(asked["data"])
                held = data["held"]
                name = sys.argv[1]
                trainer = Ours(asked, data["x"]) if name == "ours" else SAELens(asked, data["x"], "sparse" in name)
                answer = {"torch": torch.__version__, "threads": torch.get_num_threads()}
            elif asked["do"] == "steps":
                began = time.perf_counter()
                trainer.steps(asked["count"])
                answer = {"seconds": time.perf_counter() - began}
            else:
                answer = {"unexplained": unexplained(trainer, held)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()


if __name__ == "__main__":
    main()
