"""What no plan of a map can cost less than: Q/3 - P/6 + V/9 calls, by a count at the corners of quadrants.

Q are the quadrants, P their edges at the border of the map, V all points that are a corner of a
quadrant. Let a, b, c be the numbers of 2x2, strips and singles.

- 4a + 2b + c = Q. The map has 2Q - P/2 inner edges, and 4a + b of them lie within a block.
- At each of the others one block is later. That is never a 2x2, and never a strip at its short end.
  So a strip is the later one at no more than 4 edges, like a single. Let s be the number of
  edges, inner or border, where a single or the long side of a strip is not the later one. Then
  2Q - P/2 - 4a - b = 4b + 4c - s, and with the first line a + b + c = Q/3 - P/6 + a + s/3.
- Share a + s/3 out among the V points: each 2x2 gives 1/9 to each of the nine points that it
  touches, each edge counted in s gives half of 1/3 to each of its two ends. A point inside the map
  that gets nothing would lie between four blocks that each end at the next one's long side, and
  each would come before the next, in a circle. A point at the border that gets nothing would
  have only short ends of strips at it, side by side, and one of these is not the later one.
- So each point gets 1/9 or more.

For a map without holes this is (4Q - P + 1)/9. On an endless plane it is four calls for nine
quadrants, which the square lattice takes.
"""

from __future__ import annotations

import numpy as np

from layer_generation.plan_cells import Cells, Indices, Mask, cells_of, islands


def fewest_calls(positions: Indices, windowed: Mask) -> int:
    """Return a number of calls that no plan of the (n, 2) sorted positions is below.

    Quadrants in no 2x2 window of the map, where `windowed` is false, can only be singles. The rest
    is bounded for each part that is joined by edges.
    """
    alone = int(np.count_nonzero(~windowed))
    if alone == len(positions):
        return alone
    cells = cells_of(positions[windowed])
    part = islands(cells, corners=False)
    eighteenths = np.bincount(part, weights=6 - 3 * _border(cells) + 2 * _corners(cells, part))
    quarters = np.bincount(part)
    least = np.maximum(np.ceil(np.round(eighteenths) / 18), np.ceil(quarters / 4))
    return alone + int(least.sum())


def _border(cells: Cells) -> Indices:
    """Return (n,) how many edges of each quadrant are at the border of the map."""
    sides = (cells.east, cells.west, cells.south, cells.north)
    edges: Indices = np.sum([side[:-1] == cells.n for side in sides], axis=0)
    return edges


def _corners(cells: Cells, part: Indices) -> Indices:
    """Return (n,) how many corners of quadrants each quadrant is the first of its part to have."""
    label = np.append(part, -1)

    def absent(*sides: Indices) -> Indices:
        missing: Indices = np.all([label[side[:-1]] != part for side in sides], axis=0).astype(np.int64)
        return missing

    corners: Indices = (
        1
        + absent(cells.west)
        + absent(cells.north, cells.northeast)
        + absent(cells.north, cells.west, cells.northwest)
    )
    return corners
