"""The quadrants of a map as arrays, each knowing its neighbours by number.

A map may be any set of positions, however far apart, so nothing here is a dense
grid: neighbours are found by binary search once and followed by number after that.
Number `n`, one past the last quadrant, stands for every position outside the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cells:
    """Quadrants of a map, `n` of them.

    `x` and `y` are (n,) positions. The neighbours are (n + 1,) numbers, `n` where there is
    none. `row_rank` and `column_rank` are (n,) places in row-major and column-major order.
    """

    x: Indices
    y: Indices
    east: Indices
    west: Indices
    south: Indices
    north: Indices
    southeast: Indices
    southwest: Indices
    northeast: Indices
    northwest: Indices
    row_rank: Indices
    column_rank: Indices

    @property
    def n(self) -> int:
        """How many quadrants there are."""
        return len(self.x)

    def mask(self, numbers: Indices) -> Mask:
        """Return (n + 1,) booleans, true at `numbers`."""
        found = np.zeros(self.n + 1, dtype=bool)
        found[numbers] = True
        return found

    def everywhere(self) -> Mask:
        """Return (n + 1,) booleans, true at every quadrant of the map."""
        found = np.ones(self.n + 1, dtype=bool)
        found[-1] = False
        return found

    def square(self, corners: Indices) -> tuple[Indices, Indices, Indices, Indices]:
        """Return the four quadrants of the 2x2 whose north-west quadrants are `corners`."""
        return corners, self.east[corners], self.south[corners], self.southeast[corners]

    def around_square(self, corners: Indices) -> tuple[Indices, ...]:
        """Return the eight quadrants that share an edge with each 2x2."""
        _, east, south, southeast = self.square(corners)
        return (
            self.north[corners], self.northeast[corners], self.west[corners], self.southwest[corners],
            self.east[east], self.southeast[east], self.south[south], self.south[southeast],
        )  # fmt: skip

    def ring(self) -> tuple[Indices, ...]:
        """Return the neighbours in all eight directions."""
        return (
            self.east, self.west, self.south, self.north,
            self.southeast, self.southwest, self.northeast, self.northwest,
        )  # fmt: skip

    def transposed(self) -> Cells:
        """Return the map mirrored at its main diagonal; the quadrants keep their numbers."""
        return Cells(
            x=self.y, y=self.x, east=self.south, west=self.north, south=self.east, north=self.west,
            southeast=self.southeast, southwest=self.northeast, northeast=self.southwest,
            northwest=self.northwest, row_rank=self.column_rank, column_rank=self.row_rank,
        )  # fmt: skip


def sorted_positions(positions: Indices) -> Indices:
    """Return (n, 2) positions row by row, each once."""
    ordered = positions[np.lexsort((positions[:, 0], positions[:, 1]))]
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    return ordered[new]


def cells_of(positions: Indices) -> Cells:
    """Return the map of (n, 2) positions that are sorted row by row, each once; n is at least 1."""
    x, y = positions[:, 0].copy(), positions[:, 1].copy()
    n, span = len(x), int(np.ptp(x)) + 3
    key = (y - y[0]) * span + (x - x.min())

    def neighbours(right: int, down: int) -> Indices:
        wanted = key + (down * span + right)
        place = np.minimum(np.searchsorted(key, wanted), n - 1)
        return np.append(np.where(key[place] == wanted, place, n), n)

    row_rank = np.arange(n)
    column_rank = np.empty(n, dtype=np.int64)
    column_rank[np.lexsort((y, x))] = row_rank
    return Cells(
        x=x, y=y, east=neighbours(1, 0), west=neighbours(-1, 0), south=neighbours(0, 1),
        north=neighbours(0, -1), southeast=neighbours(1, 1), southwest=neighbours(-1, 1),
        northeast=neighbours(1, -1), northwest=neighbours(-1, -1), row_rank=row_rank,
        column_rank=column_rank,
    )  # fmt: skip


def runs(cells: Cells, members: Mask) -> tuple[Indices, Indices, Indices]:
    """Cut the members of each row into unbroken runs.

    `members` is an (n + 1,) mask. Returns the members row by row, (k,), where each run
    starts among them, (r,), and how long each is, (r,).
    """
    found = np.flatnonzero(members[:-1])
    found = found[np.argsort(cells.row_rank[found], kind="stable")]
    starts = np.flatnonzero(~members[cells.west[found]])
    return found, starts, np.diff(np.append(starts, len(found)))


def islands(cells: Cells, corners: bool = True) -> Indices:
    """Return (n,) numbers of the island of each quadrant, from 0.

    Quadrants that touch by an edge are on one island; those that touch by a corner too, if `corners`.
    """
    found, starts, lengths = runs(cells, cells.everywhere())
    run_of = np.empty(cells.n, dtype=np.int64)
    run_of[found] = np.repeat(np.arange(len(starts)), lengths)
    pairs = []
    diagonals = (cells.southwest, cells.southeast) if corners else ()
    for side in (cells.south, *diagonals):
        here = np.flatnonzero(side[:-1] < cells.n)
        pairs.append(np.stack([run_of[here], run_of[side[here]]]))
    return np.unique(_joined(len(starts), *np.concatenate(pairs, axis=1)), return_inverse=True)[1][run_of]


def _joined(count: int, here: Indices, there: Indices) -> Indices:
    """Return the smallest member of each item's connected set, by hooking and pointer jumping."""
    label = np.arange(count)
    while True:
        low, high = np.minimum(label[here], label[there]), np.maximum(label[here], label[there])
        apart = low < high
        if not apart.any():
            return label
        here, there = here[apart], there[apart]
        np.minimum.at(label, high[apart], low[apart])
        while np.any(label[label] != label):
            label = label[label]
