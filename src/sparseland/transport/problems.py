"""Transport problems to try solvers on: random assignment, Gaussian densities on a grid, pairs of images."""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import Problem, TransportError


def random_assignment(n: int, m: int | None = None, *, seed: int = 0) -> Problem:
    """Uniform masses and costs drawn from U[0, 1): the paper's random linear assignment (arXiv 2401.12253).

    Args:
        n, m: points; m is n where it is left out. seed: of the costs. float64.

    >>> p = random_assignment(3, seed=1)
    >>> tuple(p.M.shape), 0 <= float(p.M.min()) < float(p.M.max()) < 1, round(float(p.a.sum()), 12)
    ((3, 3), True, 1.0)
    """
    m = n if m is None else m
    if n < 1 or m < 1:
        raise TransportError(f"a problem has at least one point on each side; got {n} and {m}")
    return Problem.make(
        None, None, torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


def grid_cost(height: int, width: int, p: float = 2.0) -> Tensor:
    """Cost between the cells of a grid, scaled to [0, 1].

        C_ij = (|row_i - row_j|^p + |column_i - column_j|^p) / max;  p = 2: squared Euclidean, p = 1: L1

    Returns:
        [height width, height width] float64, cells in reading order.

    >>> grid_cost(1, 3, 1).tolist()
    [[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]]
    """
    if height < 1 or width < 1 or not p > 0:
        raise TransportError(f"a grid has at least one cell and p > 0; got {height} x {width} and p={p!r}")
    at = torch.cartesian_prod(torch.arange(height).double(), torch.arange(width).double())
    cost = (at[:, None] - at[None]).abs().pow(p).sum(-1)
    return cost / cost.max().clamp_min(1e-300)


def image_problem(first: Tensor, second: Tensor, *, p: float = 2.0, floor: float = 0.01) -> Problem:
    """Two grey images as densities over their pixels, with the cost of the grid.

        a = (1 - floor) image / sum + floor / pixels

    Args:
        first, second: [h, w] pixels >= 0 of one shape, any real dtype. p: of `grid_cost`. floor: 0 <= floor < 1, the
            share of mass that is spread evenly, so that no mass is zero (the paper adds such a floor, too).

    Raises:
        TransportError: shapes differ, pixels are negative or not finite, or an image is black.

    >>> p = image_problem(torch.eye(2), torch.ones(2, 2), floor=0.5)
    >>> p.a.tolist(), p.b.tolist()
    ([0.375, 0.125, 0.125, 0.375], [0.25, 0.25, 0.25, 0.25])
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise TransportError(f"two images of one shape [h, w]; got {tuple(first.shape)} and {tuple(second.shape)}")
    if not 0 <= floor < 1:
        raise TransportError(f"floor is a share of the mass, in [0, 1); got {floor!r}")
    densities = []
    for name, image in (("first", first), ("second", second)):
        pixels = image.double().flatten()
        if not bool(torch.isfinite(pixels).all()) or bool((pixels < 0).any()) or not float(pixels.sum()) > 0:
            raise TransportError(f"the {name} image needs finite pixels >= 0, not all 0")
        densities.append((1 - floor) * pixels / pixels.sum() + floor / pixels.numel())
    height, width = first.shape
    return Problem.make(densities[0], densities[1], grid_cost(height, width, p).to(first.device))


def gaussian_problem(side: int, *, p: float = 2.0, floor: float = 0.01, seed: int = 0) -> Problem:
    """Two mixtures of three Gaussians on a side x side grid; centres and widths are drawn.

    Args:
        side: cells along each axis. p: of `grid_cost`. floor: of `image_problem`. seed: of both mixtures.

    >>> p = gaussian_problem(6, seed=1)
    >>> p.n, bool((p.a > 0).all()), round(float(p.b.sum()), 12)
    (36, True, 1.0)
    """
    draw = torch.Generator().manual_seed(seed)
    at = torch.cartesian_prod(torch.arange(side).double(), torch.arange(side).double())

    def mixture() -> Tensor:
        centres = torch.rand(3, 2, generator=draw, dtype=torch.float64) * side
        widths = side * (0.08 + 0.1 * torch.rand(3, generator=draw, dtype=torch.float64))
        apart = (at[:, None] - centres[None]).square().sum(-1)
        return (-apart / (2 * widths.square())).exp().sum(1).reshape(side, side)

    return image_problem(mixture(), mixture(), p=p, floor=floor)
