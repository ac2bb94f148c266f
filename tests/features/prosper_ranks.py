"""What each process of the distributed tests runs: ``python prosper_ranks.py data.npz out``, under torchrun or not.

Every rank takes its share of the points, learns every model in turn, and writes what it ended with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 20


def learn(name: str, x: NDArray[np.float64]) -> dict[str, Any]:
    """Twenty steps with all that needs agreement: the start, noise, the cut, restarts, batches that do not divide."""
    from sparseland.features import prosper

    annealing = prosper.Annealing(
        T=[(0.0, 3.0), (0.5, 1.0)], Ncut_factor=[(0.0, 0.0), (0.5, 1.0)], W_noise=[(0.0, 0.3), (0.5, 0.0)]
    )
    made = getattr(prosper, name)(
        6, candidates=4, gamma=3, max_iter=STEPS, annealing=annealing, n_restarts=2, batch_size=23, random_state=3
    )
    made.fit(x)
    params = {key: getattr(made, key) for key in ("components_", "pi_", "log_likelihoods_", "log_likelihood_")}
    params |= {key: getattr(made, key) for key in ("sigma_", "mu_", "psi_", "noise_covariance_") if hasattr(made, key)}
    return {f"{name}.{key}": np.asarray(value) for key, value in params.items()}


def main() -> None:
    """Meet the others, learn, write ``out/rank.npz``."""
    import torch.distributed as dist

    from sparseland.features.prosper import shard

    given, out = sys.argv[1:3]
    dist.init_process_group("gloo")
    data, found = np.load(given), {}
    for name in data.files:
        found |= learn(name, shard(data[name]))
    np.savez(Path(out) / f"{dist.get_rank()}.npz", **found)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
