"""A method that nobody published: its words, changed one at a time, in Python, YAML and a comparison.

python examples/compose_a_method.py
"""

from __future__ import annotations

import sparseland as sl
from sparseland.core import ERK, Cosine, Cubic, GrowRandom, Reversed


def main() -> sl.Method:
    """Compose, print, write, read back, and swap words; returns the method."""
    method = sl.Method(
        name="gradual-set",
        allocation=ERK(),
        schedule=Cubic(0.9, initial=0.5, end=0.6, every=20),  # sparser and sparser …
        growth=GrowRandom(),
        exchange=Cosine(0.0, initial=0.3, end=0.8, every=20),  # … while connections come and go
    )
    print(method)
    text = sl.recipes.to_yaml(method)
    assert sl.recipes.from_yaml(text) == method

    blocks = method.replace(pattern="block 4x1")
    control = method.replace(criterion=Reversed(method.criterion))  # keeps the worst: a control for the criterion
    print(blocks.pattern, control.criterion)

    recipe = sl.recipes.Recipe.from_dict(
        {
            "name": "mine",
            "epochs": 5,
            "compare": {
                "methods": ["dense", {"name": "random", "sparsity": 0.9}, {"label": "mine", **method.to_dict()}],
                "seeds": [0],
            },
        }
    )
    print(recipe.to_yaml())
    return method


if __name__ == "__main__":
    main()
