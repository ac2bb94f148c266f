"""A small record of real runs, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RECIPE = {
    "name": "tiny <b>&</b>", "description": 'a "quoted" $description$', "model": "mlp-16", "data": "digits",
    "limit": 150,
    "epochs": 2, "evaluate_every": 1,
    "compare": {
        "sparsity": 0.75, "seeds": [0, 1],
        "methods": ["dense", {"name": "random", "label": "random <i>"}, {"name": "rigl", "every": 2}],
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison's folder."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def record(place: Path) -> dict[str, Any]:
    """What `sparseland compare` would have written, trained in this process."""
    from sparseland.cli.finish import entry, finish
    from sparseland.recipes import Recipe
    from sparseland.reports import read_record
    from sparseland.train import run

    recipe = Recipe.from_dict(RECIPE)
    runs = [
        entry(r.label, r.seed, place / r.folder, place, run(r.config, place / r.folder, progress=False))
        for r in recipe.runs()
    ]
    finish("compare", "sparseland compare <tiny>", recipe, runs, place, seconds=1.5, failed=[
        {"label": "imp", "seed": 3, "error": "<script>alert(1)</script>"},
    ])  # fmt: skip
    return read_record(place / "run.json")
