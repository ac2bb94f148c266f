"""Which output rows share a list of inputs, and the block rows that the engine multiplies.

A block row holds up to G output rows and one list of input numbers; for each of these it stores G values, zeros where a
row has none. It names its rows, so any rows may share a block and nothing else in the network moves (card 07).

`group_rows` chooses groups before pruning, so that whole atoms (G rows at one input) keep as much of their score as
they can. `pack_rows` takes a weight that has its zeros and packs it, with groups of its own choice where none are
given: rows with the same zeros first, then rows that overlap most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparseland.core.errors import PatternError, nearest

Groups = Sequence[Sequence[int]]
Floats = NDArray[np.float64]
METHODS = ("identity", "sort", "kmeans", "swap")
NONE = 0xFFFFFFFF  # a block row's place without an output row


@dataclass(frozen=True)
class Packed:
    """A weight [O, K] as block rows of ``G`` output rows.

    Parameters:
        G: output rows of a block. shape: (O, K).
        bias: float32 [O].
        rows: uint32 [nb·G], the output rows of each block, `NONE` where there is none.
        counts: uint32 [nb], entries of each block.
        index: uint16 (uint32 if K > 65535) [Σ counts], the inputs, rising inside a block.
        values: float32 [Σ counts·G], for each entry its G weights.

    >>> packed = pack_rows([[0, 2], [1, 3], [0, 4]], 2, [[0, 2], [1]])
    >>> packed.rows.tolist() == [0, 2, 1, NONE], packed.index.tolist(), packed.values.tolist()
    (True, [1, 0, 1], [2.0, 4.0, 1.0, 0.0, 3.0, 0.0])
    >>> packed.dense().tolist()
    [[0.0, 2.0], [1.0, 3.0], [0.0, 4.0]]
    """

    G: int
    shape: tuple[int, int]
    bias: NDArray[np.float32]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    index: NDArray[Any]
    values: NDArray[np.float32]

    @property
    def stored(self) -> int:
        """Values that are multiplied: Σ counts · G."""
        return self.values.size

    def dense(self) -> NDArray[np.float32]:
        """The weight again, float32 [O, K]."""
        whole = np.zeros((self.shape[0] + 1, self.shape[1]), np.float32)  # the last row takes what no row has
        rows = np.minimum(self.rows.astype(np.int64), self.shape[0]).reshape(-1, self.G)
        whole[np.repeat(rows, self.counts, axis=0), self.index[:, None]] = self.values.reshape(-1, self.G)
        return whole[:-1].copy()


# ------------------------------------------------------------------------------------------------------------- packing
def pack_rows(
    weight: ArrayLike, G: int, groups: Groups | None = None, *, bias: ArrayLike | None = None, parts: int = 1
) -> Packed:
    """A weight with zeros as block rows: block b has an entry for input k where any of its rows is not zero there.

    Parameters:
        weight: finite [O, K] or [O, C, kh, kw …] (then K = C·kh·kw, in this order).
        G: output rows of a block, at least 1.
        groups: rows that share a block, each row once, at most G together; None: `similar_rows`.
        bias: [O]; None: zeros. parts: the groups of a grouped convolution; blocks stay inside one.

    Raises:
        PatternError: G, ``parts`` or ``groups`` do not fit; the message names the row or the sizes.

    >>> packed = pack_rows(np.eye(3), 1, bias=[1, 2, 3])
    >>> packed.rows.tolist(), packed.counts.tolist(), packed.index.tolist(), packed.stored
    ([0, 1, 2], [1, 1, 1], [0, 1, 2], 3)
    """
    flat = _matrix(weight, "weight").astype(np.float32, copy=False)
    outputs, inputs = flat.shape
    table = _table(flat, G, groups, parts)
    offset = np.zeros(outputs, np.float32) if bias is None else np.asarray(bias, np.float32).reshape(-1)
    if offset.size != outputs:
        raise PatternError(f"the bias has {offset.size} numbers, the weight {outputs} rows; possible: {outputs}")
    alive = flat != 0
    padded = np.concatenate([alive, np.zeros((1, inputs), bool)])  # row -1: none
    union = padded[table[:, 0]]
    for member in range(1, G):
        union |= padded[table[:, member]]
    block, where = np.nonzero(union)
    values = np.where(table[block] >= 0, flat[table[block], where[:, None]], np.float32(0))
    return Packed(
        G=G,
        shape=(outputs, inputs),
        bias=offset.copy(),
        rows=np.where(table >= 0, table, NONE).astype(np.uint32).reshape(-1),
        counts=union.sum(1).astype(np.uint32),
        index=where.astype(np.uint32 if inputs > 65535 else np.uint16),
        values=np.ascontiguousarray(values, np.float32).reshape(-1),
    )


def fill(weight: ArrayLike, G: int, groups: Groups | None = None, *, parts: int = 1) -> float:
    """Non-zeros / stored values of the block rows; 1 where there is nothing to store.

    Equation: Σ_o |S_o| / (G·Σ_b |∪_{o∈b} S_o|) with S_o the inputs of row o; places of a block without a row count.

    Parameters:
        weight, G, groups, parts: see `pack_rows`.

    Raises:
        PatternError: see `pack_rows`.

    >>> fill([[1, 1, 0], [1, 0, 0]], 2), fill([[1, 1, 0], [1, 0, 0]], 1)
    (0.75, 1.0)
    """
    flat = _matrix(weight, "weight")
    table = _table(flat, G, groups, parts)
    padded = np.concatenate([flat != 0, np.zeros((1, flat.shape[1]), bool)])
    stored = G * int(padded[table].any(1).sum())
    return float(np.count_nonzero(flat)) / stored if stored else 1.0


def similar_rows(weight: ArrayLike, G: int) -> list[list[int]]:
    """Groups of up to G rows: those with the same zeros first, then greedily those that overlap most.

    Equation: from the row with the most non-zeros on, add to a group b the row r with the largest Σ_{o∈b} |S_o ∩ S_r|.

    Parameters:
        weight: [O, K …]; what is not zero counts. G: at least 1.

    Raises:
        PatternError: G is no number of rows.

    >>> similar_rows([[1, 0, 1], [0, 1, 0], [1, 0, 2], [0, 3, 0]], 2)
    [[0, 2], [1, 3]]
    """
    alive = _matrix(weight, "weight") != 0
    _check_size(G)
    if G == 1:
        return [[row] for row in range(len(alive))]
    bits = np.packbits(alive, axis=1)
    _, kinds = np.unique(bits, axis=0, return_inverse=True)
    groups, rest = [], []
    order = np.argsort(kinds.reshape(-1), kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(kinds.reshape(-1)[order])) + 1):
        whole = len(same) // G * G
        groups += same[:whole].reshape(-1, G).tolist()
        rest += same[whole:].tolist()
    groups += _greedy(alive, np.array(sorted(rest), np.int64), G)
    return sorted(sorted(group) for group in groups)


def _greedy(alive: NDArray[np.bool_], rows: NDArray[np.int64], G: int) -> list[list[int]]:
    """Groups of the rows that have no twin."""
    if len(rows) == 0:
        return []
    support = alive[rows].astype(np.float32)
    overlap = support @ support.T
    size = support.sum(1)
    free = np.ones(len(rows), bool)
    groups = []
    for seed in np.argsort(-size, kind="stable").tolist():
        if not free[seed]:
            continue
        members, gain = [seed], overlap[seed].copy()
        free[seed] = False
        while len(members) < G and free.any():
            best = int(np.argmax(np.where(free, gain, -1.0)))
            members.append(best)
            free[best] = False
            gain += overlap[best]
        groups.append(rows[members].tolist())
    return groups


def _table(flat: NDArray[Any], G: int, groups: Groups | None, parts: int) -> NDArray[np.int64]:
    """Rows of every block, [nb, G], -1 where there is none; checked."""
    outputs = len(flat)
    _check_size(G)
    if parts < 1 or outputs % parts:
        raise PatternError(f"{outputs} rows cannot be cut into {parts} equal parts")
    share = outputs // parts
    if groups is None:
        starts = range(0, outputs, share) if share else ()
        groups = [[r + at for r in group] for at in starts for group in similar_rows(flat[at : at + share], G)]
    table = np.full((len(groups), G), -1, np.int64)
    for block, group in enumerate(groups):
        if not 0 < len(group) <= G:
            raise PatternError(f"group {block} has {len(group)} rows; possible: 1 to {G}")
        table[block, : len(group)] = group
    named = np.sort(table[table >= 0])
    if not np.array_equal(named, np.arange(outputs)) or sum(map(len, groups)) != outputs:
        raise PatternError(f"the groups hold {sum(map(len, groups))} rows; each of the {outputs} rows must be in one")
    mixed = np.flatnonzero(((table // max(share, 1) != table[:, :1] // max(share, 1)) & (table >= 0)).any(1))
    if len(mixed):
        raise PatternError(f"group {int(mixed[0])} {list(groups[int(mixed[0])])} mixes parts of {share} rows")
    return table


def _matrix(array: ArrayLike, name: str) -> NDArray[Any]:
    """[O, K] of anything with two or more axes."""
    made = np.asarray(array)
    if made.ndim < 2:
        raise PatternError(f"{name} needs the shape (outputs, inputs, …); got {made.shape}")
    if made.dtype == object or not np.isfinite(made).all():
        raise PatternError(f"{name} has entries that are no finite numbers")
    return made.reshape(made.shape[0], -1) if made.size else made.reshape(made.shape[0], 0)


def _check_size(G: int) -> None:
    if isinstance(G, bool) or not isinstance(G, int | np.integer) or G < 1:
        raise PatternError(f"G is {G!r}; possible: a number of rows, at least 1")


# ------------------------------------------------------------------------------------------- choosing before the zeros
def group_rows(
    scores: ArrayLike, G: int, method: str = "swap", seed: int = 0, *, sparsity: float = 0.5, tries: int | None = None
) -> list[list[int]]:
    """Groups of G rows whose atoms keep much of the score when a share ``sparsity`` of the atoms is pruned.

    Equation: maximise J = Σ of the round((1 - p)·nb·I) largest s(b, i) = Σ_{o∈b} scores[o, i], nb = ceil(O / G);
    the last group is smaller if G does not divide O. Never below J of consecutive rows.

    Parameters:
        scores: [O, I], at least 0 (of a convolution: the norm of each kernel).
        G: at least 1. method: identity (consecutive rows), sort (by the sum of a row), kmeans (rows near the same
            centre, G at a time), swap (pairs of rows change places while J grows).
        seed: of kmeans and swap; the same seed gives the same groups.
        sparsity: p, in [0, 1). tries: swaps that are tried; None: 20·O·ln O.

    Raises:
        PatternError: scores that are negative or not finite, a G, method or sparsity that does not exist.

    >>> scores = [[1, 0], [0, 1], [1, 0], [0, 1]]
    >>> group_rows(scores, 2), kept_score(scores, group_rows(scores, 2)), kept_score(scores, [[0, 1], [2, 3]])
    ([[0, 2], [1, 3]], 4.0, 2.0)
    """
    table = _scores(scores)
    _check_size(G)
    if method not in METHODS:
        raise PatternError(f"unknown method {method!r}: {nearest(method, METHODS)}")
    if not 0 <= sparsity < 1:
        raise PatternError(f"sparsity is {sparsity!r}; possible: from 0 to below 1")
    outputs = len(table)
    same = _cut(np.arange(outputs), G)
    if method == "identity" or G == 1 or outputs <= G:
        return same
    draw = np.random.default_rng(seed)
    if method == "sort":
        found = _cut(np.argsort(-table.sum(1), kind="stable"), G)
    elif method == "kmeans":
        found = _kmeans(table, G, draw)
    else:
        budget = int(20 * outputs * np.log(outputs)) if tries is None else tries
        found = _swap(table, G, sparsity, budget, draw)
    found = sorted(sorted(group) for group in found)
    return found if kept_score(table, found, sparsity) > kept_score(table, same, sparsity) else same


def kept_score(scores: ArrayLike, groups: Groups, sparsity: float = 0.5) -> float:
    """J of `group_rows`: the score of the atoms that stay.

    Parameters:
        scores: [O, I], at least 0. groups: rows that share atoms. sparsity: share of the atoms that go, in [0, 1).

    Raises:
        PatternError: see `group_rows`.

    >>> kept_score([[3, 1], [1, 1]], [[0], [1]]), kept_score([[3, 1], [1, 1]], [[0, 1]])
    (4.0, 4.0)
    """
    table = _scores(scores)
    atoms = np.stack([table[list(group)].sum(0) for group in groups]).reshape(-1)
    count = _kept(atoms.size, sparsity)
    return float(np.partition(atoms, atoms.size - count)[atoms.size - count :].sum()) if count else 0.0


def _scores(scores: ArrayLike) -> Floats:
    table = _matrix(scores, "scores").astype(np.float64)
    if table.size == 0 or table.min() < 0:
        raise PatternError(f"scores are at least 0, of one row and one input or more; got shape {table.shape}")
    return table


def _kept(atoms: int, sparsity: float) -> int:
    return int(np.floor((1 - sparsity) * atoms + 0.5))


def _cut(order: NDArray[Any], G: int) -> list[list[int]]:
    """Consecutive G of an order; the last group may be smaller."""
    return [order[at : at + G].tolist() for at in range(0, len(order), G)]


def _kmeans(table: Floats, G: int, draw: np.random.Generator, rounds: int = 10) -> list[list[int]]:
    """Lloyd's steps with room for G rows at each centre; rows that have most to lose choose first."""
    outputs = len(table)
    number = -(-outputs // G)
    centres = table[draw.permutation(outputs)[:number]]
    squares = (table**2).sum(1)
    home = np.full(outputs, -1)
    for _ in range(rounds):
        distance = squares[:, None] - 2 * table @ centres.T + (centres**2).sum(1)
        two = np.partition(distance, 1, axis=1)
        room = np.full(number, G)
        room[-1] = outputs - G * (number - 1)
        before, home = home, np.empty(outputs, np.int64)
        for row in np.argsort(two[:, 0] - two[:, 1], kind="stable").tolist():
            home[row] = int(np.argmin(np.where(room > 0, distance[row], np.inf)))
            room[home[row]] -= 1
        centres = np.stack([table[home == c].mean(0) for c in range(number)])
        if np.array_equal(home, before):
            break
    return [np.flatnonzero(home == c).tolist() for c in range(number)]


def _swap(table: Floats, G: int, sparsity: float, tries: int, draw: np.random.Generator) -> list[list[int]]:
    """Rows of two groups change places where that raises J at the threshold t of the present atoms.

    The sum of the k largest atoms is min over t of k·t + Σ (s - t)+: at a fixed t only the two groups' own atoms
    count, so all the groups, paired at random, try one swap at once.
    """
    outputs, inputs = table.shape
    number = -(-outputs // G)
    padded = np.concatenate([table, np.zeros((number * G - outputs, inputs))])  # rows that do not exist score nothing
    member = np.arange(number * G).reshape(number, G)
    atoms = padded[member].sum(1)
    count, half = max(_kept(atoms.size, sparsity), 1), number // 2
    best, most = member.copy(), -1.0
    turns = -(-tries // half)
    for turn in range(turns + 1):
        if turn % min(16, half) == 0 or turn == turns:  # J itself now and then, and the threshold, which moves slowly
            atoms = padded[member].sum(1)
            ranked = np.partition(atoms.reshape(-1), atoms.size - count)[atoms.size - count :]
            threshold, kept = ranked[0], float(ranked.sum())
            if kept > most:
                best, most = member.copy(), kept
        pairs = draw.permutation(number)[: 2 * half].reshape(2, half)
        place = draw.integers(0, G, (2, half))
        a, b = member[pairs[0], place[0]], member[pairs[1], place[1]]
        move = padded[b] - padded[a]
        one, two = atoms[pairs[0]], atoms[pairs[1]]
        before = np.maximum(one - threshold, 0).sum(1) + np.maximum(two - threshold, 0).sum(1)
        after = np.maximum(one + move - threshold, 0).sum(1) + np.maximum(two - move - threshold, 0).sum(1)
        good = np.flatnonzero(after > before * (1 + 1e-12))
        member[pairs[0][good], place[0][good]] = b[good]
        member[pairs[1][good], place[1][good]] = a[good]
        atoms[pairs[0][good]] += move[good]
        atoms[pairs[1][good]] -= move[good]
    groups = [[row for row in group if row < outputs] for group in best.tolist()]
    return [group for group in groups if group]
