"""Annealing: named curves over the steps of EM."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ...core.errors import SparselandError, nearest

Curve = float | bool | Sequence[tuple[float, float]]

# What a curve may be called, its value where it is not given, and the range of its values.
KNOWN: dict[str, tuple[float, float, float]] = {
    "T": (1.0, 1e-6, float("inf")),
    "Ncut_factor": (0.0, 0.0, 1.0),
    "anneal_prior": (0.0, 0.0, 1.0),
    "partial": (1.0, 0.0, 1.0),
    "data_noise": (0.0, 0.0, float("inf")),
    "W_noise": (0.0, 0.0, float("inf")),
    "pi_noise": (0.0, 0.0, float("inf")),
    "sigma_noise": (0.0, 0.0, float("inf")),
}


class UnknownCurve(SparselandError, KeyError):
    """A curve that no model reads: a typing error would otherwise switch the annealing off without a word."""

    def __str__(self) -> str:
        return str(self.args[0])


class Annealing:
    """Piecewise-linear curves of the temperature, the data cut and the parameter noise over the EM steps.

    Each keyword is a number (constant) or a list of (position, value). A position is a step (int), a fraction of all
    steps (float in 0 … 1) or, where negative, counted from the end; before the first and after the last position the
    value is held. Known: ``T`` > 0 (1), ``Ncut_factor`` 0 … 1 (0), ``anneal_prior`` (False), ``partial`` 0 … 1, the
    share of the data each step looks at (1), ``data_noise``, ``W_noise``, ``pi_noise``, ``sigma_noise`` ≥ 0 (0), in
    units of the data or of the parameter.

    Raises:
        UnknownCurve: a name that no model reads (it is a KeyError and a SparselandError).
        SparselandError: a value out of its range, positions that do not rise.

    >>> cool = Annealing(T=[(0.0, 5.0), (0.8, 1.0)], Ncut_factor=[(0, 0.0), (2 / 3, 1.0)])
    >>> cool.at(0, 100)["T"], cool.at(40, 100)["T"], cool.at(90, 100)["T"]
    (5.0, 3.0, 1.0)
    >>> Annealing(T=2).at(5, 10)["Ncut_factor"]
    0.0
    >>> try:
    ...     Annealing(W_niose=1.0)
    ... except KeyError as error:
    ...     print(str(error)[:72])
    Annealing knows no curve 'W_niose'; did you mean 'W_noise'? Possible: Nc

    Source: arXiv 1908.06843 and its code. Differs from it: an unknown name is an error, not 0.0; without T it is 1.
    """

    def __init__(self, **curves: Curve) -> None:
        for name, curve in curves.items():
            if name not in KNOWN:
                raise UnknownCurve(f"Annealing knows no curve {name!r}; {nearest(name, KNOWN)}")
            for _, value in _points(name, curve):
                _, low, high = KNOWN[name]
                if not low <= value <= high:
                    raise SparselandError(f"Annealing: {name} takes values {low:g} … {high:g}, not {value!r}")
        self.curves = curves

    def __repr__(self) -> str:
        return f"Annealing({', '.join(f'{name}={curve!r}' for name, curve in self.curves.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Annealing) and self.curves == other.curves

    __hash__ = None  # type: ignore[assignment]

    def at(self, step: int, steps: int) -> dict[str, float]:
        """The value of every known curve at ``step`` of ``steps`` (from 0).

        >>> Annealing(W_noise=[(0, 1.0), (-1, 0.0)]).at(9, 10)["W_noise"]
        0.0
        """
        values = {name: default for name, (default, _, _) in KNOWN.items()}
        for name, curve in self.curves.items():
            points = [(_place(position, steps), value) for position, value in _points(name, curve)]
            if any(a > b for (a, _), (b, _) in itertools.pairwise(points)):
                raise SparselandError(
                    f"Annealing: positions of {name} fall in {curve!r} over {steps} steps; let them rise"
                )
            values[name] = _between(points, step)
        return values


def _points(name: str, curve: Any) -> list[tuple[float, float]]:
    if isinstance(curve, int | float):
        return [(0, float(curve))]
    try:
        points = [(position, float(value)) for position, value in curve]
        if points and all(isinstance(position, int | float) for position, _ in points):
            return points
    except (TypeError, ValueError):
        pass
    raise SparselandError(f"Annealing: {name} is a number or a list of (position, value), not {curve!r}")


def _place(position: float, steps: int) -> int:
    place = int(position * steps) if isinstance(position, float) else position
    return place + steps if position < 0 else place


def _between(points: list[tuple[int, float]], step: int) -> float:
    if step <= points[0][0]:
        return points[0][1]
    for (a, low), (b, high) in itertools.pairwise(points):
        if a <= step < b:
            return low + (high - low) * (step - a) / (b - a)
    return points[-1][1]
