"""Who goes where: seeded generators and class-stratified cuts."""

from __future__ import annotations

import hashlib

import torch

from sparseland.core.errors import SparselandError


def generator(*key: object) -> torch.Generator:
    """A CPU generator that is a pure function of ``key`` (the same on every machine, in every process).

    >>> one, two = (torch.rand(3, generator=generator("order", 0, epoch)) for epoch in (1, 1))
    >>> bool((one == two).all())
    True
    >>> other = torch.rand(3, generator=generator("order", 0, 2))
    >>> bool((one == other).any())
    False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes a signed 64-bit integer.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def permutation(count: int, *key: object) -> torch.Tensor:
    """A permutation of ``0 … count-1``, int64 [count], as a pure function of ``count`` and ``key``.

    >>> permutation(5, "a").sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    return torch.randperm(count, generator=generator(*key))


def stratified_cut(labels: torch.Tensor, fraction: float, *key: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a fraction of every class off, by a permutation that is a function of ``key``.

    The cut has exactly ``round(fraction * n)`` members; class c gives ``fraction * n_c`` of them up to rounding
    (largest remainders first) and always keeps at least one.

    Parameters:
        labels: int64 [n], the classes.
        fraction: share to cut off, in [0, 1).
        key: what the permutation is a function of.

    Returns:
        (rest, cut): two disjoint, ascending int64 index vectors that together are ``0 … n-1``.

    Raises:
        SparselandError: the fraction is not in [0, 1).

    >>> labels = torch.tensor([0] * 8 + [1] * 4)
    >>> rest, cut = stratified_cut(labels, 0.25, "demo")
    >>> labels[cut].tolist(), sorted(rest.tolist() + cut.tolist()) == list(range(12))
    ([0, 0, 1], True)
    """
    if not 0.0 <= fraction < 1.0:
        raise SparselandError(f"a share of the data to set apart is a number in [0, 1); got {fraction!r}")
    classes, counts = torch.unique(labels, return_counts=True)
    exact = counts.double() * fraction
    quota = exact.floor().long()
    missing = round(fraction * len(labels)) - int(quota.sum())
    # Largest remainders first; ties go to the lower class, so the quota is a function of the counts alone.
    for index in (exact - quota).argsort(descending=True, stable=True)[: max(missing, 0)]:
        quota[index] += 1
    quota = torch.minimum(quota, counts - 1)

    order = permutation(len(labels), "cut", *key)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for value, k in zip(classes.tolist(), quota.tolist(), strict=True):
        members = order[labels[order] == value]
        chosen[members[:k]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
